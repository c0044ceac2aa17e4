"""Nuclei and cytoplasm of cells: which nucleus lies in which cell, and what is measured in either part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image, Labels, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.ops.labels import pieces_notice
from cellwright.ops.measure.blocks import cropped
from cellwright.ops.measure.cells_table import cell_ndim, is_volumetric, label_axes
from cellwright.ops.measure.columns import COLUMNS, keys_of
from cellwright.ops.measure.features import CORRECTED, rings
from cellwright.ops.measure.measurement import measure_labels, pixel_sizes, result_of_labels, zero_padded


@dataclass(frozen=True, slots=True, eq=False)
class NucleiInCells:
    """What two label images of the same pixels tell of each other."""

    nuclei_per_cell: NDArray[np.int64]  # (n_cells,): nuclei of which the cell covers half or more
    nuclear_pixels: NDArray[np.int64]  # (n_cells,): pixels of the cell that are nucleus
    cell_of: NDArray[np.int32]  # (n_nuclei,): the cell each nucleus lies in; 0 is none
    cytoplasm: Labels  # labels of the cells without their nuclei
    nuclear: Labels  # labels of the nuclear part of the cells
    n_outside: int  # number of nuclei in no cell


@dataclass(frozen=True, slots=True, eq=False)
class Compartments:
    """What a table of cells tells of nuclei and cytoplasm."""

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # row by row
    nuclei: NucleiInCells | None = None  # how nuclei lie in cells, where they were given
    notice: str = ""  # what is odd about them


def nuclei_in_cells(nuclei: Labels, cells: Labels) -> NucleiInCells:
    """Return which nucleus lies in which cell: the one that covers most of it, if that is half of it or more.

    Both are int and of one shape, 0 is background.
    """
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
        nuclear=np.where(nuclei > 0, cells, 0).astype(np.int32),
        n_outside=int((cell_of[present] == 0).sum()),
    )


def compartments_task(
    result: Result,
    image: Image,
    measure: Sequence[str],
    nuclei: Labels | None,
    cytoplasm_px: float = 0.0,
    others: Mapping[str, Image] | None = None,
) -> Task[Compartments]:
    """Return nuclei of each cell, and the intensities in the nuclear part and in the cytoplasm.

    ``nuclei`` are labels of the pixels of the image, in a time series numbered in each frame by itself or
    throughout. Without them ``cytoplasm_px`` is the width of the ring around each cell, which is a nucleus,
    taken for its cytoplasm. Of what is to be measured only intensities matter here.

    SettingsError where the cells have no outlines, or the nuclei are not of the same pixels.
    """
    labels = result.cells.labels
    if nuclei is None and not cytoplasm_px:
        return Compartments()
    if labels is None:
        raise SettingsError(
            "Nuclei and cytoplasm need outlines; this model gives none. Choose another model."
        )
    ndim = cell_ndim(result)
    sizes, n = pixel_sizes(result, ndim), len(result.cells)
    columns: dict[str, NDArray[Any]] = {}
    found, notice = None, ""
    if nuclei is None:
        around = np.zeros_like(labels)
        for index in np.ndindex(labels.shape[: labels.ndim - ndim]):
            around[index] = rings(labels[index], labels[index], 0.0, cytoplasm_px, sizes)
        parts = {"cytoplasm": around}
    else:
        own = _own_numbers(nuclei, result)
        found, notice = nuclei_in_cells(own, labels), pieces_notice(own, "the nuclei")
        parts = {"nucleus": found.nuclear, "cytoplasm": found.cytoplasm}
        columns["nuclei"] = zero_padded(found.nuclei_per_cell, n)
        name = f"nuclei_area_um{ndim}" if sizes else "nuclei_area_px"
        columns[name] = zero_padded(found.nuclear_pixels, n) * float(np.prod(sizes or 1.0))
    keys = [key for key in keys_of(measure, ndim) if COLUMNS[key].group == "intensity" and key != CORRECTED]
    for part, within in parts.items():
        if keys:
            measured = yield from measure_labels(within, result, image, keys, others or {})
            columns |= {f"{part}_{name}": values for name, values in measured.items()}
    return Compartments(columns, found, notice)


def _own_numbers(nuclei: Labels, result: Result) -> Labels:
    """Return the part of the nuclei that was counted in, numbered 1..N over all frames."""
    assert result.cells.labels is not None
    axes, shape = label_axes(result), result.cells.labels.shape
    part = np.asarray(cropped(Image(nuclei, axes), result.offset, shape).data)
    alone = result_of_labels(part, Image(part, axes), is_volume=is_volumetric(result))
    rows = alone.result.cells.labels
    assert rows is not None
    return rows
