"""Nuclei with their cells: which nucleus lies in which cell, and the cytoplasm that is left of the cell."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Labels
from cellwright.core.errors import SettingsError


@dataclass(frozen=True, slots=True, eq=False)
class NucleiInCells:
    """What two label images of the same pixels tell of each other.

    Parameters
    ----------
    nuclei_per_cell : (n_cells,)
        Nuclei of which the cell covers half or more.
    nuclear_pixels : (n_cells,)
        Pixels of the cell that are nucleus.
    cell_of : (n_nuclei,)
        The cell each nucleus lies in; 0 is none.
    cytoplasm
        Labels of the cells without their nuclei.
    """

    nuclei_per_cell: NDArray[np.int64]
    nuclear_pixels: NDArray[np.int64]
    cell_of: NDArray[np.int32]
    cytoplasm: Labels

    @property
    def n_without_nucleus(self) -> int:
        """Number of cells without a nucleus."""
        return int((self.nuclei_per_cell == 0).sum())

    @property
    def n_outside(self) -> int:
        """Number of nuclei in no cell."""
        return int((self.cell_of == 0).sum())


def nuclei_in_cells(nuclei: Labels, cells: Labels) -> NucleiInCells:
    """Return which nucleus lies in which cell: the one that covers most of it, if that is half of it or more.

    Parameters
    ----------
    nuclei, cells : int, of one shape
        0 is background; numbers from 1 on.

    Raises
    ------
    SettingsError
        The shapes differ.
    """
    if nuclei.shape != cells.shape:
        raise SettingsError(
            f"Nuclei and cells must be labels of one shape; got {nuclei.shape} and {cells.shape}. Choose the "
            "labels of the same image."
        )
    n_nuclei, n_cells = int(nuclei.max(initial=0)), int(cells.max(initial=0))
    areas = np.bincount(nuclei.ravel(), minlength=n_nuclei + 1)
    both = (nuclei > 0) & (cells > 0)
    pairs = nuclei[both].astype(np.int64) * (n_cells + 1) + cells[both]
    keys, shared = np.unique(pairs, return_counts=True)
    nucleus, cell = np.divmod(keys, n_cells + 1)
    cell_of = np.zeros(n_nuclei + 1, np.int32)
    order = np.argsort(shared, kind="stable")  # the largest share is written last
    is_half = 2 * shared[order] >= areas[nucleus[order]]
    cell_of[nucleus[order][is_half]] = cell[order][is_half]
    present = np.flatnonzero(areas[1:]) + 1
    return NucleiInCells(
        nuclei_per_cell=np.bincount(cell_of[present], minlength=n_cells + 1)[1:],
        nuclear_pixels=np.bincount(cell, weights=shared, minlength=n_cells + 1)[1:].astype(np.int64),
        cell_of=cell_of[1:],
        cytoplasm=np.where(nuclei > 0, 0, cells).astype(np.int32),
    )
