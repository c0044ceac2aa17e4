"""The table of model families; forms, flags, tests and the README derive from it. Imports no torch."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from cellwright.core.errors import CheckpointError
from cellwright.ops.codecs.density import DensitySettings
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.codecs.heatmap import CentroidSettings
from cellwright.ops.codecs.query import QuerySettings
from cellwright.ops.volumes.foreground import PseudocolorSettings


@dataclass(frozen=True, slots=True)
class Family:
    """One line of the table.

    ``wanted`` is what a user who chooses it wants back, in a word or three. ``kind`` tells what its models
    find: cells one by one, or only their density; ``needs_volumes`` that a 2D image is not enough. ``module``
    is imported on demand and gives ``build(preset) -> Model``; ``settings`` is the frozen dataclass of what a
    user may change after the network has run.
    """

    name: str
    wanted: str
    title: str
    returns: tuple[str, ...]
    module: str
    settings: type[Any]
    kind: Literal["cells", "density"] = "cells"
    needs_volumes: bool = False

    def load(self) -> ModuleType:
        """Import the family's module (and with it torch)."""
        return import_module(self.module)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="flow",
            wanted="Outlines",
            title="Outlines every cell by gradient tracking (MEDIAR-Former representation)",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.flow",
            settings=FlowSettings,
        ),
        Family(
            name="centroid",
            wanted="Boxes",
            title="Finds every cell's centre and box (CellCentroidFormer representation)",
            returns=("Points", "Shapes"),
            module="cellwright.models.families.centroid",
            settings=CentroidSettings,
        ),
        Family(
            name="query",
            wanted="Ask any point",
            title="Answers for any point whether there is a cell; outlines from a lattice of questions",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.query",
            settings=QuerySettings,
        ),
        Family(
            name="pseudocolor",
            wanted="Volumes",
            title="Outlines cells in volumes: slices coloured by their neighbours, linked to 3D cells",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.pseudocolor",
            settings=PseudocolorSettings,
            needs_volumes=True,
        ),
        Family(
            name="density",
            wanted="Density",
            title="Counts what cannot be separated: a density that sums to the count, with an error bar",
            returns=("Image",),
            module="cellwright.models.families.density",
            settings=DensitySettings,
            kind="density",
        ),
    )
}


def get(name: str) -> Family:
    """Return the family called ``name``.

    Raises
    ------
    CheckpointError
        No such family.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise CheckpointError(f"Model family must be one of {sorted(FAMILIES)}; got {name!r}.") from None
