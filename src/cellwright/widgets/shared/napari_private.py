"""What napari keeps to itself: what its brush painted, colours and boxes of Labels, the camera, the canvas.

Where another version of napari has no such inner part, the callers fall back on what it offers. And what the
user has set for all sessions in napari's Preferences.
"""

import gc
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Labels, Layer
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color
from napari.utils.history import get_save_history, update_save_history
from npe2 import PluginManager
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QCoreApplication, QObject, QTimer
from qtpy.QtWidgets import QFileDialog, QWidget

from cellwright.ops.geometry.tiles import padded
from cellwright.ops.label_changes import Box, joined
from cellwright.ops.measure.filters import BorderRule

PLUGIN, PAGE = "napari-cellwright", "counting"
EDGE_ROWS = 32
LARGE_PX = 4_000_000  # of a plane, up to which napari draws labels in a few milliseconds
TOOLS_MS = 20  # between adding a layer and each of its tools; the window answers between them
FAST_THICKNESS = 2  # up to which outlines are found fast
NEIGHBOURS = ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:]))
END = object()  # of steps
NO_NAME = re.compile(r'[\\/:*?"<>|]')  # what a file's name cannot have on every system
ENDING = re.compile(r"\*(\.\w+)")  # in what a dialog calls a kind of file
_batches: set[int] = set()  # lists of layers that are changed in a batch now
# what the Preferences and the panels call devices and rules for the border
DEFAULT_MODEL = "Default"
DEVICES = {
    "Auto": "auto",
    "CPU": "cpu",
    **{f"GPU {number}": f"cuda:{number}" for number in range(8)},
    "GPU: Apple Metal": "mps",
}
BORDERS: dict[str, BorderRule] = {
    "All cells": "all",
    "None at the border": "drop",
    "Two edges only": "two-edges",
}
OF_COLOURS = "Conversion from CIE-LAB, via XYZ to sRGB color space resulted in"


def labels_layer(data: Any, **looks: Any) -> Labels:
    """Return a Labels layer, without a warning of the colours that napari draws by lot for each.

    napari silences it within a block, which a block that ends in another thread undoes; so it is for good.
    """
    warnings.filterwarnings("ignore", OF_COLOURS, UserWarning)
    return Labels(data, **looks)


def in_turns(steps: Iterator[None], wait_ms: int, owner: QObject | None = None) -> None:
    """Go on from each ``yield`` in a turn of the event loop of its own: the window answers in between.

    It ends with the owner, if there is one.
    """

    def go_on() -> None:
        is_there = owner is None or isalive(owner)
        if is_there and next(steps, END) is not END:
            QTimer.singleShot(wait_ms, go_on)

    go_on()


def add_in_turns(viewer: Any, layer: Layer) -> Layer:
    """Add a layer to a viewer and return it; the tools that napari draws on it come in turns of their own.

    Those are the polygon and the brush of Labels: all at once, the window would stand still twice as long.
    An active layer stays so, as to show the controls of another one takes time, too.
    """
    tools: list[Any] = []
    if QCoreApplication.instance() is not None:
        tools = [one for one in getattr(layer, "_overlays", {}).values() if one.visible]
    for tool in tools:
        tool.visible = False  # napari makes it once it is to be seen
    is_kept = viewer.layers.selection.active is not None and hasattr(viewer.layers, "_activate_on_insert")
    if is_kept:
        viewer.layers._activate_on_insert = False
    try:
        viewer.add_layer(layer)
    finally:
        if is_kept:
            viewer.layers._activate_on_insert = True
    in_turns(_show_tools(viewer, layer, tools), TOOLS_MS)
    # else napari draws labels that came in a 3D view under all images in 2D
    viewer.dims.events.ndisplay.connect(viewer.layers.events.reordered)
    return layer


def _show_tools(viewer: Any, layer: Layer, tools: Sequence[Any]) -> Iterator[None]:
    for tool in tools:
        yield
        if layer not in viewer.layers:
            tool.events.visible.disconnect()  # the canvas would keep the layer that was removed
        tool.visible = True


def uncover(layer: Layer, around: Callable[[Layer], AbstractContextManager[Any]] = nullcontext) -> None:
    """Show a layer, within a context; large Labels in a turn of their own, as napari looks at all pixels."""

    def show() -> None:
        with around(layer):
            layer.visible = True

    is_large = isinstance(layer, Labels) and prod(layer.data.shape[-2:]) > LARGE_PX
    if is_large and QCoreApplication.instance() is not None:
        QTimer.singleShot(TOOLS_MS, show)
    else:
        show()


def set_pixels(layer: Labels, indices: tuple[NDArray[Any], ...], value: int) -> None:
    """Write pixels as a user would, with napari's undo, also where the layer is hidden.

    napari writes into the slice that it draws, too, and has none of a layer that was hidden from the start.
    """
    if not layer.visible:
        layer.set_view_slice()
    layer.data_setitem(indices, value)


def stroke_of(labels: NDArray[Any], atoms: Iterable[Any]) -> tuple[Box, NDArray[Any], NDArray[Any]]:
    """Return the box of a stroke of napari's brush, and what it held before and after.

    napari tells of a stroke once it is painted, but of a fill or a polygon just before. The atoms are the
    value of the layer's ``paint`` event: for each dab its box, mask and old values (napari 0.9), or its
    indices, old and new values (earlier ones, and ``data_setitem``).
    """
    atoms = list(atoms)
    box = _box_of(atoms[0])
    for atom in atoms[1:]:
        box = joined(box, _box_of(atom))
    before = labels[box].copy()
    for atom in reversed(atoms):
        _put(before, box, atom, is_new=False)
    after = before.copy()
    for atom in atoms:
        _put(after, box, atom, is_new=True)
    return box, before, after


def draw_outlines_fast(layer: Labels) -> None:
    """Have the outlines of a layer found several times as fast as by napari, which finds them at each move.

    They are the same, pixel by pixel; wide ones are left to napari.
    """
    slow = getattr(layer, "_calculate_contour", None)
    if slow is None or "_calculate_contour" in vars(layer):
        return

    def fast(labels: NDArray[Any], place: Sequence[slice]) -> NDArray[Any] | None:
        thickness = int(layer.contour)
        if not 1 <= thickness <= FAST_THICKNESS or labels.ndim != 2:
            return slow(labels, place)
        spans = [span.indices(n)[:2] for span, n in zip(place, labels.shape, strict=True)]
        wide = [(max(a - thickness, 0), b + thickness) for a, b in spans]
        outlines = edges_of(labels[tuple(slice(*span) for span in wide)], thickness)
        rows, columns = (slice(a - low, b - low) for (a, b), (low, _) in zip(spans, wide, strict=True))
        return outlines[rows, columns]

    layer._calculate_contour = fast


def edges_of(labels: NDArray[Any], thickness: int) -> NDArray[Any]:
    """Return labels (Y, X) with 0 inside cells: what lies farther than 1 or 2 pixels from their edge.

    A few rows at a time, which stay in the cache of the processor.
    """
    edges = np.empty_like(labels)
    for top in range(0, len(labels), EDGE_ROWS):
        first = max(top - thickness, 0)
        found = _edges_of(labels[first : top + EDGE_ROWS + thickness], thickness)
        edges[top : top + EDGE_ROWS] = found[top - first :][:EDGE_ROWS]
    return edges


def _edges_of(labels: NDArray[Any], thickness: int) -> NDArray[Any]:
    differs, is_higher = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)  # than a neighbour
    for first, second in NEIGHBOURS:
        less, more = labels[first] < labels[second], labels[first] > labels[second]
        is_higher[first] |= more
        is_higher[second] |= less
        for place in (first, second):
            differs[place] |= less | more
    if thickness == FAST_THICKNESS:
        for first, second in NEIGHBOURS:
            differs[first] |= is_higher[second]
            differs[second] |= is_higher[first]
    return labels * differs


def prepare_labels(*colormaps: CyclicLabelColormap | DirectLabelColormap) -> None:
    """Load and compile what napari draws labels with, which takes its first layer of each kind 0.3 s.

    Those are colours, the table of features, and patterns of dashes for the lines of its polygon and brush,
    which vispy keeps.
    """
    import_module("pandas")
    import_module("skimage.color").lab2rgb(np.zeros((1, 3)))
    import_module("vispy.visuals.line.dash_atlas").DashAtlas()
    for colormap in colormaps:
        compiled = getattr(colormap, "_data_to_texture", None)
        if compiled is not None:
            compiled(np.zeros(0, np.int32))  # a new layer asks with no pixels which type its colours have
            compiled(np.zeros((8, 8), np.int32))


def forget_history(layer: Labels) -> None:
    """Let napari's own undo of a Labels layer do nothing, where another history has taken its edits over.

    It puts back pixels as they were, whatever was done to them since.
    """
    for name in ("_undo_history", "_redo_history"):
        history = getattr(layer, name, None)
        if history is not None:
            history.clear()


def _put(values: NDArray[Any], box: Box, atom: Any, *, is_new: bool) -> None:
    """Write one dab into the values of a box, or what was there before it."""
    if hasattr(atom, "slice_key"):
        pairs = zip(atom.slice_key, box, strict=True)
        part = values[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in pairs)]
        mask = ... if atom.mask is None else atom.mask
        part[mask] = atom.new_value if is_new else atom.old_values
    else:
        indices = tuple(np.asarray(index) - side.start for index, side in zip(atom[0], box, strict=True))
        values[indices] = atom[2] if is_new else atom[1]


def _box_of(atom: Any) -> Box:
    if hasattr(atom, "slice_key"):
        return tuple(slice(int(part.start), int(part.stop)) for part in atom.slice_key)
    return tuple(slice(int(np.min(index)), int(np.max(index)) + 1) for index in atom[0])


def recolour(layer: Labels, colours: Mapping[int, str]) -> bool:
    """Give some labels of a layer other colours of its colormap, to be drawn later; return whether it could.

    A new colormap would make napari look at every pixel. Its tables are changed in place where they are as
    expected and know the colours already.
    """
    try:
        colormap = layer.colormap
        places, known = colormap._label_mapping_and_color_dict
        by_colour = {tuple(np.round(colour, 4)): place for place, colour in known.items()}
        found = {number: transform_color(colour)[0] for number, colour in colours.items()}
        wanted = {number: by_colour[tuple(np.round(colour, 4))] for number, colour in found.items()}
        typed = colormap._cache_other.get(f"_{layer.data.dtype}_typed_dict")
        for number, place in wanted.items():
            places[number], colormap.color_dict[number] = place, found[number]
            if typed is not None:  # numba's dictionary, which takes values of its own types alone
                kept_as = np.dtype(str(typed._dict_type.value_type))
                typed[layer.data.dtype.type(number)] = kept_as.type(place)
        colormap.__dict__.pop("_array_map", None)
    except (AttributeError, KeyError, TypeError):  # a colour that is new to it, or another version of napari
        return False
    return True


def redraw_box(layer: Labels, box: Box) -> bool:
    """Draw one box of a layer again; return whether that was possible.

    napari does this for its own brush and offers it to nobody else, so its inner parts are used where they
    are as expected.
    """
    try:
        image, sliced = layer._slice.image, layer._slice_input
        if not layer.loaded or not np.shares_memory(image.raw, layer.data):
            return False
        hidden = layer._get_pt_not_disp()
        if not all(box[axis].start <= int(place) < box[axis].stop for axis, place in hidden.items()):
            return True  # out of sight
        parts = padded(tuple(box[axis] for axis in sliced.displayed), layer.contour, image.raw.shape)
        colours = layer._raw_to_displayed(image.raw, parts)
        image.view[parts] = colours
        layer.events.labels_update(data=colours, offset=[part.start for part in parts])
    except (AttributeError, TypeError):  # another version of napari
        return False
    return True


def unwrapped(viewer: Any) -> Any:
    """Return the viewer behind the proxy that napari hands to plugins; its layers are new objects each time.

    What is there without a proxy is returned as it is.
    """
    return getattr(viewer, "__wrapped__", viewer)


def has_window(viewer: Any) -> bool:
    """Return whether a viewer has a window that is not closed; napari takes that of Qt away then."""
    main = getattr(getattr(viewer, "window", None), "_qt_window", None)
    return main is not None and bool(isalive(main))


def free_in_own_context(viewer: Any) -> None:
    """Have what was drawn of a layer freed in the OpenGL context of its canvas, once the layer is removed.

    napari 0.9 frees it in whatever context is current, mostly that in which Qt puts the window together; the
    canvas may then crash when it draws the next layers. Cheap to repeat.
    """
    try:
        scene = viewer.window._qt_viewer.canvas._scene_canvas
    except AttributeError:  # no window, or another version of napari
        return
    viewer.layers.events.removing.connect(scene.set_current)


@contextmanager
def in_one_batch(viewer: Any) -> Iterator[None]:
    """Have napari 0.9 collect all garbage once for layers removed together: each time takes it 0.3 s.

    A batch within another is part of it.
    """
    layers = unwrapped(viewer).layers
    key, batched = id(layers), getattr(layers, "batched_update", nullcontext)
    if key in _batches:
        yield
        return
    _batches.add(key)
    try:
        with batched():
            yield
    finally:
        _batches.discard(key)


@contextmanager
def without_collection(viewer: Any) -> Iterator[None]:
    """Spare napari 0.9 collecting all garbage for each layer removed, 0.3 s in which the window stands still.

    Python collects it when it sees fit, as for all else.
    """
    gc.freeze()
    try:
        with viewer.layers.events.removing.blocker(end_sparing):
            yield
    finally:
        end_sparing()


def spare_collector(viewer: Any) -> None:
    """Have Python's collector pass over all that is there now, until a layer is removed.

    napari and PyTorch are so many objects that to look at them all takes 0.2 s, in which the window stands
    still. A layer that is removed is collected as ever, and what else is garbage by then. What has come since
    is passed over, too, once further modules were loaded: not at each count, which leaves garbage.
    """
    if _Spared.n_modules != len(sys.modules):
        gc.freeze()
        _Spared.n_modules = len(sys.modules)
    viewer.layers.events.removing.connect(end_sparing)


def end_sparing(_: Any = None) -> None:
    """Have Python's collector look at everything again; called when a layer is removed."""
    gc.unfreeze()
    _Spared.n_modules = 0


class _Spared:
    n_modules = 0  # that were there; 0 while nothing is passed over


def slice_in_sight(viewer: Any) -> tuple[int, ...]:
    """Return where a viewer stands along the axes that it does not display; nothing for a flat view."""
    steps = viewer.dims.current_step
    return tuple(int(steps[axis]) for axis in viewer.dims.not_displayed)


def camera_of(viewer: Any) -> Any:
    """Return the camera of a viewer; napari 0.9 moved it."""
    if hasattr(viewer, "scene"):
        return viewer.scene.camera
    return viewer.camera


def look_at(viewer: Any, world: NDArray[np.float64]) -> None:
    """Move slice and camera of a viewer to a place of the world, which has its last axes."""
    dims, n_before = viewer.dims, viewer.dims.ndim - len(world)
    hidden = [axis for axis in dims.not_displayed if axis >= n_before]
    if hidden:
        dims.set_point(hidden, [float(world[axis - n_before]) for axis in hidden])
    camera, shown = camera_of(viewer), [float(world[axis - n_before]) for axis in dims.displayed]
    centre = (0.0, *shown)[-3:]
    if not np.array_equal(centre, camera.center):
        camera.center = centre


@dataclass(frozen=True, slots=True)
class Preferences:
    """Where panels begin; ``configurations`` in the manifest has the words that a user chooses from."""

    model: str = ""  # name or folder; empty takes the default of the package
    device: str = "auto"  # where the network runs
    border: BorderRule = "all"  # which cells at the border count
    unit: str = "auto"  # ``auto`` tells micrometres where the pixel size is known, ``px`` pixels alone
    output_folder: str = ""  # where files are saved; empty is that in which one was saved last

    def path_for(self, name: str) -> str:
        """Return where a file of this name is proposed to be saved."""
        if not self.output_folder:
            return name
        return str(Path(self.output_folder).expanduser() / name)


def ask_to_save(parent: QWidget, title: str, name: str, formats: str = "", **options: Any) -> Path | None:
    """Return the file that the user chooses to save, None where none.

    The dialog proposes ``name`` in the output folder of the Preferences, else where napari saved last. A name
    without ending gets that of the kind chosen among ``formats``; so does one with the ending of another,
    where a kind was chosen that the dialog does not begin with.
    """
    name = NO_NAME.sub("_", name)  # of a layer, say
    proposed = preferences().path_for(name)
    if proposed == name:
        proposed = str(Path(get_save_history()[0]) / name)
    path, chosen = QFileDialog.getSaveFileName(parent, title, proposed, formats, **options)
    if not path:
        return None
    update_save_history(path)
    target, endings = Path(path), ENDING.findall(formats)
    ending = next(iter(ENDING.findall(chosen) or endings), "")
    if not target.suffix:
        return target.with_name(target.name + ending)
    if ending in endings[1:] and target.suffix in endings:
        return target.with_suffix(ending)
    return target


def end_polygon(layer: Labels, *, is_kept: bool) -> bool:
    """Paint the polygon that napari's own tool is drawing, or drop it; return whether there is one."""
    polygon = getattr(layer, "_overlays", {}).get("polygon")
    if polygon is None or not polygon.points:
        return False
    if is_kept:
        polygon.add_polygon_to_labels(layer)
    polygon.points = []
    return True


def ask_to_open(parent: QWidget, title: str, formats: str) -> Path | None:
    """Return the file that the user chooses to read, None where none; looked for where files are saved."""
    path, _ = QFileDialog.getOpenFileName(parent, title, preferences().path_for(""), formats)
    return Path(path) if path else None


@contextmanager
def _manifests_as_known() -> Iterator[None]:
    """Spare napari reading the manifests of all plugins again, 0.1 s in which the window stands still."""
    manager = PluginManager.instance()
    if any(one.name == PLUGIN for one in manager.iter_manifests()):
        vars(manager)["discover"] = lambda *_, **__: 0
    try:
        yield
    finally:
        vars(manager).pop("discover", None)


def preferences() -> Preferences:
    """Return what is set now; the defaults where napari knows no settings of plugins."""
    try:
        from napari.settings import get_plugin_settings

        with _manifests_as_known():
            page = getattr(get_plugin_settings(PLUGIN), PAGE)
    except (ImportError, KeyError, AttributeError):  # napari before 0.9, or a plugin that is not installed
        return Preferences()
    model = "" if page.model == DEFAULT_MODEL else page.model.rpartition(" · ")[2]
    return Preferences(
        page.own_model or model,
        DEVICES[page.device],
        BORDERS[page.border],
        page.unit.lower(),
        page.output_folder,
    )
