"""The table of model families; forms, flags, tests and the README derive from it. Imports no torch."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from cellwright.errors import CheckpointError
from cellwright.ops.flow import FlowSettings
from cellwright.ops.query import QuerySettings


@dataclass(frozen=True, slots=True)
class Family:
    """One line of the table.

    ``module`` is imported on demand and gives ``build(preset) -> CellModel``; ``settings`` is the frozen
    dataclass of what a user may change after the network has run.
    """

    name: str
    title: str
    returns: tuple[str, ...]
    module: str
    settings: type[Any]

    def load(self) -> ModuleType:
        """Import the family's module (and with it torch)."""
        return import_module(self.module)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="flow",
            title="Outlines every cell by gradient tracking (MEDIAR-Former representation)",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.flow",
            settings=FlowSettings,
        ),
        Family(
            name="query",
            title="Answers for any point whether there is a cell; outlines from a lattice of questions",
            returns=("Labels", "Points", "Shapes"),
            module="cellwright.models.query",
            settings=QuerySettings,
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
