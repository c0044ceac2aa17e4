import subprocess
import sys
from dataclasses import FrozenInstanceError, fields

import pytest

from cellwright.core.errors import CheckpointError
from cellwright.models import registry


@pytest.mark.parametrize("name", sorted(registry.FAMILIES))
def test_every_family_can_be_built(name):
    family = registry.get(name)
    module = family.load()
    assert family.name == name
    assert set(family.returns) <= {"Labels", "Points", "Shapes", "Image"}
    assert {spec.family for spec in module.SPECS.values()} == {name}
    assert all(preset == spec.preset for preset, spec in module.SPECS.items())
    assert module.build().spec in module.SPECS.values()


@pytest.mark.parametrize("name", sorted(registry.FAMILIES))
def test_the_settings_of_every_family_are_frozen(name):
    settings = registry.get(name).settings()
    first = fields(settings)[0].name
    with pytest.raises(FrozenInstanceError):
        setattr(settings, first, getattr(settings, first))


def test_an_unknown_family_is_refused():
    with pytest.raises(CheckpointError, match=r"one of \[.*'flow'.*\]; got 'flaw'"):
        registry.get("flaw")


def test_the_table_needs_no_torch():
    code = "import sys, cellwright.models.registry, cellwright.models.store; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "False"
