from dataclasses import FrozenInstanceError

import pytest

from cellwright.core.errors import SettingsError
from cellwright.inference.settings import EngineSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("channel", -1),
        ("diameter_px", -1.0),
        ("diameter_px", 1e9),
        ("diameter_px", float("nan")),
        ("tile_px", 0),
        ("tile_px", 10**6),
        ("batch_size", -1),
        ("batch_size", 1000),
        ("precision", "float8"),
    ],
)
def test_a_value_out_of_range_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"{name} must .* got {value}|{name} must .* got '{value}'"):
        EngineSettings(**{name: value})


def test_settings_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        EngineSettings().flips = True


def test_a_run_goes_on_with_the_same_settings_on_whatever_device():
    settings = EngineSettings(diameter_um=9.0)
    assert settings.facts == EngineSettings(diameter_um=9.0, device="cpu").facts
    assert settings.facts != EngineSettings(diameter_px=9.0).facts
