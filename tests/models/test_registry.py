import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest

from cellwright.core.errors import AnnotationError, CheckpointError
from cellwright.models import registry
from cellwright.ops.labels import annotate


@pytest.mark.parametrize("name", sorted(registry.FAMILIES))
def test_every_family_can_be_built(name):
    family = registry.get(name)
    module = family.load()
    assert family.name == name
    assert set(family.returns) <= {"Labels", "Points", "Shapes", "Image"}
    assert (family.gives == "density") == ("Image" in family.returns)
    assert set(family.learns_from) <= {"masks", "boxes", "points", "counts"}
    assert {spec.family for spec in module.SPECS.values()} == {name}
    assert all(preset == spec.preset for preset, spec in module.SPECS.items())
    assert module.build().spec in module.SPECS.values()


@pytest.mark.parametrize("name", sorted(registry.FAMILIES))
def test_the_settings_of_every_family_are_frozen(name):
    settings = registry.get(name).settings()
    first = fields(settings)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(settings, first, getattr(settings, first))


@pytest.mark.parametrize("name", sorted(registry.FAMILIES))
def test_a_family_learns_from_the_annotations_that_the_table_names(name):
    family = registry.get(name)
    model = family.load().build()
    labels = np.zeros((32, 32), np.int32)
    labels[8:20, 9:23] = 1
    masks = annotate(labels)
    given = {"masks": masks, "boxes": replace(masks, labels=None)}
    given["points"] = replace(given["boxes"], boxes=None)
    for kind, annotation in given.items():
        if kind in family.learns_from:
            targets = model.make_targets(annotation)
            assert any(np.isfinite(one).any() for one in targets.values())
        else:
            with pytest.raises(AnnotationError, match="learns from masks"):
                model.make_targets(annotation)


def test_the_default_is_in_the_table():
    assert registry.DEFAULT_FAMILY in registry.FAMILIES


def test_an_unknown_family_is_refused():
    with pytest.raises(CheckpointError, match=r"one of .*flow.*; got 'flaw'"):
        registry.get("flaw")


def test_the_table_needs_no_torch():
    code = "import sys, cellwright.models.registry, cellwright.models.store; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "False"
