from typing import get_type_hints

import pytest

from cellwright.core.errors import SettingsError
from cellwright.training.settings import TrainingSettings

BOUNDS = {
    name: hint.__metadata__[0] for name, hint in get_type_hints(TrainingSettings, include_extras=True).items()
}


def test_every_setting_has_a_tooltip_and_the_steps_add_up():
    assert all(facts["tooltip"].endswith(".") for facts in BOUNDS.values())
    settings = TrainingSettings(pretrain_steps=3, finetune_steps=4)
    assert settings.n_steps == 7


@pytest.mark.parametrize("name", [name for name, facts in BOUNDS.items() if "min" in facts])
def test_a_value_below_its_range_is_refused(name):
    with pytest.raises(SettingsError, match=name):
        TrainingSettings(**{name: BOUNDS[name]["min"] - 1})


@pytest.mark.parametrize("name", [name for name, facts in BOUNDS.items() if "max" in facts])
def test_a_value_above_its_range_is_refused(name):
    with pytest.raises(SettingsError, match=name):
        TrainingSettings(**{name: BOUNDS[name]["max"] + 0.01})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pretrain_steps": 0, "finetune_steps": 0}, "at least one step"),
        ({"patch_px": 50}, "multiple of 16"),
        ({"smallest_diameter_px": 80.0}, "below largest_diameter_px"),
        ({"smallest_diameter_px": 20.0, "largest_diameter_px": 20.0}, "below largest_diameter_px"),
        ({"ema_decay": float("nan")}, "ema_decay"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, words):
    with pytest.raises(SettingsError, match=words):
        TrainingSettings(**values)


@pytest.mark.parametrize("phase", ["pretrain_steps", "finetune_steps"])
def test_one_phase_is_enough(phase):
    other = {"pretrain_steps": "finetune_steps", "finetune_steps": "pretrain_steps"}[phase]
    assert TrainingSettings(**{phase: 0, other: 5}).n_steps == 5
