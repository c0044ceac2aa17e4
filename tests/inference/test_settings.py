from dataclasses import FrozenInstanceError, fields
from typing import get_type_hints

import pytest

from cellwright.core.errors import SettingsError
from cellwright.inference.settings import EngineSettings, FolderSettings, InputFiles, StreamSettings
from cellwright.models import registry
from cellwright.ops.measure.settings import AnalysisSettings, MeasureSettings, TrackSettings

SETTINGS = (
    EngineSettings,
    InputFiles,
    FolderSettings,
    StreamSettings,
    AnalysisSettings,
    MeasureSettings,
    TrackSettings,
    *(family.settings for family in registry.FAMILIES.values()),
)


def test_every_setting_explains_itself():
    hints = get_type_hints(EngineSettings, include_extras=True)
    for item in fields(EngineSettings):
        assert hints[item.name].__metadata__[0]["tooltip"].endswith(".")


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


@pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)
def test_each_setting_has_one_type(kind):
    for item in fields(kind):
        wrong = [{}, [None], "yes"]
        if isinstance(item.default, str | tuple):
            wrong = [{}, [None], 3]
        for value in wrong:
            with pytest.raises(SettingsError, match=f"^{item.name} must be"):
                kind(**{item.name: value})
