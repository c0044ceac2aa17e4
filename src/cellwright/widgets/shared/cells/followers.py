"""Keeps the features of layers in line with the cells they show, whatever panel is open.

Whatever napari's table of features, the writers of files and the next look at a layer take from there is then
that of the cells that are there: new cells have rows of their own, deleted ones none, changed ones are
measured again, and all that were drawn or changed by hand are marked so. An edit starts a timer and no more;
the cells are measured beside the viewer, once the layer has come to rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet, finalize, ref

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject

from cellwright.core.errors import CellwrightError, error_line
from cellwright.core.tasks import Task
from cellwright.ops.measure.columns import MEASURED, PIXEL_COUNTS, column_of
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.shared.cells.deleted_cells import note_deleted
from cellwright.widgets.shared.cells.image_pixels import ImagePixels
from cellwright.widgets.shared.cells.measured_cells import SIZES, MeasuredCells, measure_task
from cellwright.widgets.shared.cells.snapshot import (
    channels_beside,
    image_layer_under,
    region_names,
    snapshot_of,
)
from cellwright.widgets.shared.edited_layers import (
    edited_rows,
    is_edited,
    is_our_change,
    note_written,
    our_change,
    own_features,
    repeated_rows,
)
from cellwright.widgets.shared.jobs import LayerJobs
from cellwright.widgets.shared.layer_factory import features_by_number, set_features, spread
from cellwright.widgets.shared.napari_private import slice_in_sight, unwrapped

if TYPE_CHECKING:
    import pandas

READ_MS = 250
LABELS_EVENTS = ("data", "paint", "labels_update", "set_data", "features", "visible")
PLACES = {"y", "x"}  # features of points that were told of in a table
DONE = ("added", "changed", "removed")  # what data events tell of once it has happened


class CellsNews:
    """Tells of layers whose cells have changed, once their features are those of the cells."""

    changed = Signal(object, object)  # layer, DataFrame with a row for each of its cells


cells_news = CellsNews()


class LayerRows:
    """The rows of a Points or Shapes layer: marks those that came or were moved by hand.

    napari gives a new point the features of the last one; it gets a number of its own, the regions that it
    lies in, and neither class, score nor size.
    """

    def __init__(self, layer: Points | Shapes, viewer: Any) -> None:
        self._layer, self._viewer = ref(layer), ref(viewer)
        self._take(layer)
        layer.events.data.connect(self._on_data)

    def _on_data(self, event: Any) -> None:
        layer = self._layer()
        action = str(getattr(event, "action", "changed")).rsplit(".", 1)[-1].lower()
        if layer is None or action not in DONE or "label" not in own_features(layer):
            return
        if is_our_change(layer):
            self._take(layer)
            return
        keys, features = _keys(layer), layer.features
        if len(features) != len(keys):
            return  # napari is still at it
        is_new = self._new_rows(keys) | repeated_rows(features)
        if is_new.any():
            viewer, features = self._viewer(), _marked(features, is_new, own_features(layer))
            image = None if viewer is None else image_layer_under(viewer, layer)
            names = region_names(layer, image, is_new)
            if names is not None and "regions" in features:
                given_regions = features["regions"].to_numpy(object, copy=True)
                given_regions[is_new] = names
                features["regions"] = given_regions
            with layer.events.data.blocker(self._on_data):
                layer.features = features
        cells_news.changed.emit(layer, layer.features)

    def _take(self, layer: Points | Shapes) -> None:
        """Take the rows for those that were found."""
        self._last = _keys(layer)
        self._known = set(self._last.tolist())

    def _new_rows(self, keys: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which rows came or were moved since the last edit: those of the others are marked."""
        n_both = min(len(keys), len(self._last))
        changed = np.ones(len(keys), bool)
        changed[:n_both] = keys[:n_both] != self._last[:n_both]
        changed[changed] = [key not in self._known for key in keys[changed].tolist()]
        self._last = keys
        return changed


def _keys(layer: Points | Shapes) -> NDArray[Any]:
    """Return what tells each row from others by its place."""
    if isinstance(layer, Points):
        places = np.ascontiguousarray(layer.data, np.float64)
        return places.view(np.dtype((np.bytes_, places.itemsize * layer.ndim))).ravel()
    return np.array([np.ascontiguousarray(one, np.float64).tobytes() for one in layer.data], object)


def _marked(features: "pandas.DataFrame", is_new: Any, ours: set[str]) -> "pandas.DataFrame":
    """Return features whose new rows are marked, with numbers of their own and nothing that we measured."""
    features = features.copy()
    labels, again = features["label"].to_numpy(np.float64, copy=True), repeated_rows(features)
    first = int(np.nanmax(labels, initial=0)) + 1
    labels[again] = np.arange(first, first + again.sum())
    features["label"] = labels.astype(np.int64)
    if "class" in features:
        features["class"] = features["class"].astype(object).mask(again, "")
    for name in ours:
        if name in ("score", *SIZES) or column_of(name).group in MEASURED:
            values = features[name].to_numpy(np.float64, copy=True)
            values[is_new] = np.nan
            features[name] = values
    if "edited" in ours or "edited" not in features:
        features["edited"] = edited_rows(features) | is_new
    return features


class Followers(QObject):
    """Follows the layers of cells in a viewer; tables measure their own themselves. See :func:`follow`."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(QCoreApplication.instance())
        self._viewer = ref(viewer)
        self._tables: WeakSet[Any] = WeakSet()
        self._rows: WeakKeyDictionary[Layer, LayerRows] = WeakKeyDictionary()
        self._is_writing = False
        self._steps: WeakKeyDictionary[Layer, tuple[int, ...]] = WeakKeyDictionary()  # of what is followed
        self._jobs = LayerJobs(self, READ_MS, self._task_of, returned=self._on_measured, failed=_warn)
        self.pixels = ImagePixels(self, viewer)
        self.pixels.changed.connect(self._on_pixels_changed)
        for layer in viewer.layers:
            self._follow(layer)
        viewer.layers.events.inserted.connect(self._on_inserted)
        finalize(viewer, _forget, self).atexit = False

    @property
    def is_busy(self) -> bool:
        """Whether a layer is being measured, or is to be."""
        return self._jobs.is_busy or self.pixels.is_busy

    def leave_to(self, table: Any) -> None:
        """Leave the ``layer`` of a table, while it has one, to its ``read_soon``."""
        self._tables.add(table)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write into layers without having them measured for that."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False

    def _tables_of(self, layer: Layer) -> list[Any]:
        return [table for table in self._tables if table.layer is layer]

    def _on_inserted(self, event: Any) -> None:
        if isalive(self):
            self._follow(event.value)
            if is_edited(event.value):
                self.look_at(event.value)  # a copy, made while its features were behind

    def _follow(self, layer: Layer) -> None:
        viewer = self._viewer()
        if viewer is None or layer in self._steps:
            return
        self._steps[layer] = slice_in_sight(viewer)
        if isinstance(layer, Points | Shapes):
            self._rows[layer] = LayerRows(layer, viewer)  # napari keeps no callback alive
            layer.events.data.connect(self._on_changed)
            layer.events.features.connect(self._on_changed)
        elif isinstance(layer, Labels):
            for name in LABELS_EVENTS:
                getattr(layer.events, name).connect(self._on_changed)

    def look_at(self, layer: Layer) -> None:
        """Measure a layer soon, if its features tell of what is measured."""
        names = own_features(layer)
        is_measured = isinstance(layer, Labels) and names & {*PIXEL_COUNTS}
        if isalive(self) and (is_measured or (isinstance(layer, Points) and names >= PLACES)):
            self._jobs.add(layer)

    def _on_changed(self, event: Any) -> None:
        layer, viewer = event.source, self._viewer()
        if self._is_writing or viewer is None or not isalive(self):
            return
        if event.type == "set_data":  # the same where another slice is shown
            step = slice_in_sight(viewer)
            if self._steps[layer] != step:
                self._steps[layer] = step
                return
        tables = self._tables_of(layer)
        for table in tables:
            table.read_soon()
        is_told = tables or is_our_change(layer)  # which comes with features of its own
        is_old = layer is self._jobs.current  # what is being measured are the cells of before
        if is_old or (not is_told and (event.type != "features" or isinstance(layer, Labels))):
            self.look_at(layer)

    def _on_pixels_changed(self, image: Layer) -> None:
        """Measure the intensities of cells in an image again."""
        viewer = self._viewer()
        for layer in () if viewer is None else viewer.layers:
            is_intense = isinstance(layer, Labels) and "intensity" in _groups(layer)
            if is_intense and not self._tables_of(layer) and image_layer_under(viewer, layer) is image:
                self.look_at(layer)

    def _task_of(self, layer: Layer) -> Task[MeasuredCells] | None:
        """Return what measures a layer that is still there; None without an image, which the panel tells."""
        viewer = self._viewer()
        with suppress(CellwrightError):
            if viewer is not None and layer in viewer.layers:
                return _task(layer, viewer)
        return None

    def _on_measured(self, layer: Layer, measured: MeasuredCells) -> None:
        if layer in self._jobs.waiting or self._tables_of(layer):
            return
        with self.writing():
            write_features(layer, measured)


def _warn(layer: Layer, error: Exception) -> None:
    sentence = f"The features of {layer.name!r} are not those of its cells as they are now."
    show_warning(f"{sentence} {error_line(error)}")


def _task(layer: Layer, viewer: Any) -> Task[MeasuredCells]:
    groups, image = _groups(layer), image_layer_under(viewer, layer)
    wanted = MeasureSettings(tuple(name for name in MEASURED if name in groups))
    return measure_task(snapshot_of(layer, image, channels_beside(viewer, image)), wanted)


def _groups(layer: Layer) -> set[str]:
    """Return the groups of what the features of a layer tell."""
    return {column_of(name).group for name in own_features(layer)}


def write_features(layer: Layer, measured: MeasuredCells) -> None:
    """Let the features of a layer tell what was measured; what was measured before that is taken away.

    Columns that somebody else has written stay as they are.
    """
    import pandas

    table = measured.table
    if measured.counted_in is not None:
        table = table.assign(regions=measured.counted_in)
    others, ours = features_by_number(layer), own_features(layer)
    theirs = set(others) - ours
    names = [str(name) for name in table if not str(name).startswith(("box_", "positive_"))]
    names = [name for name in names if name not in theirs]
    kept = [name for name in others if name in theirs or not (name in names or _is_measured(str(name)))]
    others = others[kept]
    note_written(layer, names)
    if isinstance(layer, Points):
        if len(layer.data) != len(table):
            return
        new = {name: table[name].to_numpy() for name in names}
        with our_change(layer):
            layer.features = others.assign(**new)
        cells_news.changed.emit(layer, table)
        return
    note_deleted(layer, table)
    numbers = measured.numbers
    rows = table[names].assign(label=numbers).drop_duplicates("label").set_index("label", drop=False)
    rows = spread(rows)
    rows["label"] = rows.index
    rows["edited"] = edited_rows(rows)
    rows = rows.drop(columns=[name for name in rows if name in theirs])
    rows = pandas.concat([rows, others.reindex(rows.index)], axis=1)
    with our_change(layer):
        set_features(layer, rows)
    cells_news.changed.emit(layer, table)


def _is_measured(name: str) -> bool:
    return column_of(name).group in (*MEASURED, "tracks") or name in SIZES


_of_viewers: WeakKeyDictionary[Any, Followers] = WeakKeyDictionary()


def follow(viewer: Any) -> Followers:
    """Keep the features of the layers of a viewer in line from now on; return what does. Cheap to repeat."""
    viewer = unwrapped(viewer)
    found = _of_viewers.get(viewer)
    if found is None or not isalive(found):
        found = _of_viewers[viewer] = Followers(viewer)
    return found


def _forget(followers: Followers) -> None:
    """Let go of what followed a viewer that is gone; Qt deletes it in its own thread."""
    if isalive(followers):
        followers.deleteLater()
