"""The table of model families; forms, flags, training and tests derive from it. Imports no torch.

To add a family, write ``models/families/<name>.py`` and add one line here.
"""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

from cellwright.core.errors import CheckpointError
from cellwright.ops.codecs.density import DensitySettings
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.codecs.heatmap import CentroidSettings
from cellwright.ops.codecs.pseudocolor import PseudocolorSettings
from cellwright.ops.codecs.query import QuerySettings

DEFAULT_FAMILY = "flow"

AnnotationKind = Literal["masks", "boxes", "points", "counts"]
Output = Literal["Labels", "Points", "Shapes", "Image"]


@dataclass(frozen=True, slots=True)
class Family:
    """One line of the table."""

    name: str  # what flags, folders and ``spec.json`` call it
    title: str  # what a biologist calls it
    description: str  # how it works, in one sentence
    learns_from: tuple[AnnotationKind, ...]  # the one that teaches it most first
    gives: Literal["instances", "density"]  # cells one by one, or only how many
    returns: tuple[Output, ...]  # the napari layers a result can be shown as
    module: str  # imported on demand; has ``SPECS`` (preset to ``ModelSpec``) and ``build(preset) -> Model``
    settings: type[Any]  # frozen dataclass of what a user may change after the network has run
    needs_volumes: bool = False  # whether a 2D image is not enough
    options: tuple[str, ...] = ()  # numbers in ``spec.json`` that only models of this family have

    def load(self) -> ModuleType:
        """Import the family's module (and with it torch)."""
        return import_module(self.module)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="flow",
            title="Nuclei and cells",
            description="Outlines every cell by gradient tracking (MEDIAR-Former representation)",
            learns_from=("masks",),
            gives="instances",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.flow",
            settings=FlowSettings,
        ),
        Family(
            name="centroid",
            title="Centres and boxes",
            description="Finds every cell's centre and box (CellCentroidFormer representation)",
            learns_from=("boxes", "masks", "points"),
            gives="instances",
            returns=("Points", "Shapes"),
            module="cellwright.models.families.centroid",
            settings=CentroidSettings,
        ),
        Family(
            name="query",
            title="Point query",
            description="Tells for any point whether it lies in a cell; outlines from a lattice of points",
            learns_from=("masks", "boxes", "points"),
            gives="instances",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.query",
            settings=QuerySettings,
        ),
        Family(
            name="pseudocolor",
            title="3D nuclei",
            description="Outlines cells in volumes: slices coloured by their neighbours, linked to 3D cells",
            learns_from=("masks",),
            gives="instances",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.families.pseudocolor",
            settings=PseudocolorSettings,
            needs_volumes=True,
        ),
        Family(
            name="density",
            title="Density count",
            description="Counts cells that cannot be separated: a density map with its sum and an error bar",
            learns_from=("masks", "boxes", "points"),
            gives="density",
            returns=("Image",),
            module="cellwright.models.families.density",
            settings=DensitySettings,
            options=("density_variance", "min_cell_score", "learned_factor"),
        ),
    )
}


def get(name: str) -> Family:
    """Return the family called ``name``.

    CheckpointError where there is no such family.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise CheckpointError(
            f"Model family must be one of {', '.join(sorted(FAMILIES))}; got {name!r}."
        ) from None
