"""What holds of the settings of every part, as forms and flags are made from their declarations."""

from dataclasses import fields
from math import inf, nan, nextafter
from typing import get_type_hints

import pytest

from cellwright.core.errors import SettingsError
from cellwright.inference.settings import EngineSettings, FolderSettings, InputFiles, StreamSettings
from cellwright.models import registry
from cellwright.ops.link import LinkSettings
from cellwright.ops.measure.settings import AnalysisSettings, MeasureSettings, TrackSettings
from cellwright.training.settings import (
    ClassifyTrainingSettings,
    FinetuneSettings,
    PretrainSettings,
    TrainingSettings,
)

SETTINGS = (
    EngineSettings,
    InputFiles,
    FolderSettings,
    StreamSettings,
    AnalysisSettings,
    MeasureSettings,
    TrackSettings,
    LinkSettings,
    TrainingSettings,
    FinetuneSettings,
    PretrainSettings,
    ClassifyTrainingSettings,
    *(family.settings for family in registry.FAMILIES.values()),
)
of_every_part = pytest.mark.parametrize("kind", SETTINGS, ids=lambda kind: kind.__name__)


def declared(kind):
    """Each field of the settings with what its declaration tells of it."""
    hints = get_type_hints(kind, include_extras=True)
    return [(item, hints[item.name].__metadata__[0]) for item in fields(kind)]


@of_every_part
def test_each_explains_itself(kind):
    for item, facts in declared(kind):
        assert facts["tooltip"].endswith("."), item.name


@of_every_part
def test_each_has_one_type(kind):
    for item in fields(kind):
        wrong = [{}, [None], "yes"]
        if isinstance(item.default, str | tuple):
            wrong = [{}, [None], 3]
        for value in wrong:
            with pytest.raises(SettingsError, match=f"^{item.name} must be"):
                kind(**{item.name: value})


@of_every_part
def test_the_ends_of_its_range_are_taken_and_nothing_beyond(kind):
    for item, facts in declared(kind):
        for end, away in (("min", -inf), ("max", inf)):
            if end not in facts:
                continue
            wrong = [facts[end] + (1 if away > 0 else -1)]
            if isinstance(item.default, float):
                wrong = [nextafter(facts[end], away), away, nan]
            for value in wrong:
                with pytest.raises(SettingsError, match=f"^{item.name} must .* got {value}"):
                    kind(**{item.name: value})
            if item.name != "largest_diameter_px":  # it is above the smallest one, too
                assert getattr(kind(**{item.name: facts[end]}), item.name) == facts[end]
