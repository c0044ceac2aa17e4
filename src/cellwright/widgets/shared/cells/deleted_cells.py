"""What is known of cells that were deleted from a Labels layer or changed, for undo may bring them back.

A cell that has the size, box and centre it had is the same one, with the score and class it had; any other
that has its number was drawn by hand.
"""

from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Labels, Layer
from numpy.typing import NDArray

from cellwright.ops.measure.columns import PIXEL_COUNTS
from cellwright.widgets.shared.edited_layers import metadata_of
from cellwright.widgets.shared.layer_factory import features_by_number

if TYPE_CHECKING:
    import pandas

FOUND = "found"  # key in the metadata of a layer of ours: the table of the cells that a count has put there
GIVEN = ("score", "class", "edited")  # what pixels do not tell
PLACE = ("t", "z", "y", "x", *PIXEL_COUNTS)  # with the box: what tells whether a cell is the same
DIGITS = 2  # that places are compared to


class _Rows(NamedTuple):
    """What is known of a layer since a count has filled it."""

    found: "pandas.DataFrame | None"  # by that count
    last: "pandas.DataFrame | None"  # the cells when they were measured last
    deleted: "pandas.DataFrame | None"  # see :func:`deleted_rows`


_rows: WeakKeyDictionary[Layer, _Rows] = WeakKeyDictionary()


def deleted_rows(layer: Layer) -> "pandas.DataFrame | None":
    """Return a row for each cell as it was before an edit since the last count, the latest first."""
    return _known(layer).deleted


def note_deleted(layer: Labels, table: "pandas.DataFrame") -> None:
    """Keep the rows of cells that a new table of a layer lacks or has otherwise, with its former features."""
    import pandas

    found, last, deleted = _known(layer)
    if last is not None:
        names = _place(table, last)
        earlier = pandas.Index(_keys(last[names]))  # whose isin takes an eighth of the time of numpy's
        gone = last[~earlier.isin(_keys(table[names]))].assign(edited=False)
        given = features_by_number(layer).reindex(gone["label"])  # a class may have been given since
        gone = gone.assign(**{name: given[name].to_numpy() for name in GIVEN if name in given})
        if len(gone):
            deleted = gone if deleted is None else pandas.concat([gone, deleted])
    _rows[layer] = _Rows(found, table, deleted)


def bring_back(
    table: "pandas.DataFrame", is_other: NDArray[np.bool_], deleted: "pandas.DataFrame | None"
) -> None:
    """Give cells that are again as they were what they had, in a table of all cells, in place.

    ``is_other`` tells which were not there before, or were otherwise; ``deleted`` is that of
    :func:`deleted_rows`.
    """
    if deleted is None or not is_other.any():
        return
    names, rows = _place(table, deleted), np.flatnonzero(is_other)
    before = deleted.assign(key=_keys(deleted[names])).drop_duplicates("key").set_index("key")
    keys = _keys(table.iloc[rows][names])
    is_back = np.isin(keys, before.index)
    for name in GIVEN:
        if name in table and name in deleted:
            values = table[name].to_numpy(copy=True)
            back, given = rows[is_back], before.loc[keys[is_back], name].to_numpy()
            if name == "class":  # one that an annotation, say, has brought back itself stays
                given = np.where(values[back] == "", given, values[back])
            values[back] = given
            table[name] = values


def _place(table: "pandas.DataFrame", other: "pandas.DataFrame") -> list[str]:
    """Return the columns of both that tell whether a cell is the same."""
    names = [str(name) for name in table if name in other]
    return ["label", *(name for name in names if name in PLACE or name.startswith("box_"))]


def _keys(places: "pandas.DataFrame") -> NDArray[np.uint64]:
    """Return a number for each row that only the same places have."""
    import pandas

    rounded = places.astype(np.float64).round(DIGITS) + 0.0  # -0.0 is 0.0
    return np.asarray(pandas.util.hash_pandas_object(rounded, index=False), np.uint64)


def _known(layer: Layer) -> _Rows:
    found = metadata_of(layer).get(FOUND)
    known = _rows.get(layer)
    if known is None or known.found is not found:
        return _Rows(found, found, None)
    return known
