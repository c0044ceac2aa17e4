"""What is known of cells that were deleted from a Labels layer, for undo may bring them back.

A cell that comes back with the size, box and centre it had is the same one, with the score and class it had;
any other that has its number was drawn by hand.
"""

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from napari.layers import Labels, Layer
from numpy.typing import NDArray

from cellwright.widgets.shared.edited_layers import METADATA

FOUND = "found"  # key in the metadata of a layer of ours: the table of the cells that a count has put there
GIVEN = ("score", "class", "edited")  # what pixels do not tell
PLACE = ("t", "z", "y", "x", "area_px", "volume_px")  # with the box: what tells whether a cell is the same
DIGITS = 2  # that places are compared to


class _Rows(NamedTuple):
    """What is known of a layer since a count has filled it."""

    found: pd.DataFrame | None  # by that count
    last: pd.DataFrame | None  # the cells when they were measured last
    deleted: pd.DataFrame | None  # see :func:`deleted_rows`


_rows: WeakKeyDictionary[Layer, _Rows] = WeakKeyDictionary()


def deleted_rows(layer: Layer) -> pd.DataFrame | None:
    """Return a row for each cell that was deleted since the last count, the latest first; None for none."""
    return _known(layer).deleted


def note_deleted(layer: Labels, table: pd.DataFrame) -> None:
    """Keep the rows of cells that a new table of a layer lacks; its features are still the former ones."""
    found, last, deleted = _known(layer)
    if last is not None:
        gone = last[~last["label"].isin(table["label"])].assign(edited=False)
        given = layer.features.reindex(gone["label"])  # a class may have been given since
        gone = gone.assign(**{name: given[name].to_numpy() for name in GIVEN if name in given})
        if len(gone):
            deleted = gone if deleted is None else pd.concat([gone, deleted])
    _rows[layer] = _Rows(found, table, deleted)


def bring_back(table: pd.DataFrame, is_new: NDArray[np.bool_], deleted: pd.DataFrame | None) -> None:
    """Give cells that were deleted and are there again what they had.

    Parameters
    ----------
    table
        One row per cell, with size, box and centre; changed in place.
    is_new
        Which cells were not there before.
    deleted
        As :func:`deleted_rows` returns it.
    """
    if deleted is None or not is_new.any():
        return
    names = [name for name in table if name in PLACE or str(name).startswith("box_")]
    names = ["label", *(name for name in names if name in deleted)]
    before = pd.MultiIndex.from_frame(deleted[names].astype(np.float64).round(DIGITS))
    now = pd.MultiIndex.from_frame(table[names].astype(np.float64).round(DIGITS))
    is_first = ~before.duplicated()
    places = before[is_first].get_indexer(now)
    rows = np.flatnonzero(is_new & (places >= 0))
    for name in GIVEN:
        if name in table and name in deleted:
            values = table[name].to_numpy(copy=True)
            values[rows] = deleted.loc[is_first, name].to_numpy()[places[rows]]
            table[name] = values


def _known(layer: Layer) -> _Rows:
    found = layer.metadata.get(METADATA, {}).get(FOUND)
    known = _rows.get(layer)
    if known is None or known.found is not found:
        return _Rows(found, found, None)
    return known
