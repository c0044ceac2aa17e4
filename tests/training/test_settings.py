import pytest

from cellwright.core.errors import SettingsError
from cellwright.training.settings import TrainingSettings


def test_the_steps_add_up():
    assert TrainingSettings(pretrain_steps=3, finetune_steps=4).n_steps == 7


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pretrain_steps": 0, "finetune_steps": 0}, "at least one step"),
        ({"patch_px": 50}, "multiple of 16"),
        ({"smallest_diameter_px": 80.0}, "below largest_diameter_px"),
        ({"smallest_diameter_px": 20.0, "largest_diameter_px": 20.0}, "below largest_diameter_px"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, words):
    with pytest.raises(SettingsError, match=words):
        TrainingSettings(**values)


@pytest.mark.parametrize("phase", ["pretrain_steps", "finetune_steps"])
def test_one_phase_is_enough(phase):
    other = {"pretrain_steps": "finetune_steps", "finetune_steps": "pretrain_steps"}[phase]
    assert TrainingSettings(**{phase: 0, other: 5}).n_steps == 5
