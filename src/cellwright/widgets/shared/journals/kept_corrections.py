"""Copies of counted cells that are corrected in napari itself, for a program that is killed loses its layers.

``<image>.corrected`` lies beside the journals of annotations, in their format: the labels that were corrected
last, written once they have come to rest. So do ``.corrected_points`` and ``.corrected_boxes``, in pixels of
the image, without its axis of channels, with features and colours. Those of an earlier program become
``.corrected.old``, and so on.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref
from zipfile import BadZipFile

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.compat import isalive
from qtpy.QtCore import QObject

from cellwright.annotation.journal import is_open
from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import AnnotationError, ReadError, WrongLayerError, error_line, expecting
from cellwright.core.tasks import Task, once
from cellwright.files.atomic import make_folder, move, writing
from cellwright.files.tables import plain
from cellwright.widgets.shared.cells.followers import cells_news, follow
from cellwright.widgets.shared.cells.regions import PART, counted_boxes
from cellwright.widgets.shared.coordinates import Channel, axis_of, channels_of, in_pixels, with_axis
from cellwright.widgets.shared.edited_layers import (
    EDITED,
    JOURNAL,
    METADATA,
    WRITTEN,
    engine_of,
    is_marked,
    metadata_of,
    own_features,
)
from cellwright.widgets.shared.jobs import LayerJobs
from cellwright.widgets.shared.journals.journal_files import found_by, journal_path, store_of
from cellwright.widgets.shared.layer_factory import texts_of
from cellwright.widgets.shared.layer_io import image_of, layer_of_id, source_of
from cellwright.widgets.shared.messages import listen
from cellwright.widgets.shared.napari_private import unwrapped

KEPT_AS: dict[type[Layer], str] = {
    Labels: ".corrected",
    Points: ".corrected_points",
    Shapes: ".corrected_boxes",
}
KEPT = KEPT_AS[Labels]
KEEP_MS = 2000  # after the last edit
FEATURE = "feature: "  # how the names of arrays begin that are columns of the features
FOLDER: Path | None = None  # of the copies; None for that of all journals

_one_at_a_time = Lock()  # two viewers may show one image
written_here: set[Path] = set()  # copies of this program, whose layers are there


class CorrectionKeeper(QObject):
    """Keeps the cells of a viewer that are corrected where no annotation takes the edits."""

    def __init__(self, viewer: Any) -> None:
        super().__init__(follow(viewer))
        self._viewer = ref(viewer)
        self._jobs = LayerJobs(self, KEEP_MS, self._task, failed=_tell)
        listen(cells_news.changed, self._on_changed, self)

    @property
    def is_busy(self) -> bool:
        """Whether a copy is being written, or is to be."""
        return self._jobs.is_busy

    def _on_changed(self, layer: Layer, _: Any) -> None:
        own, viewer = metadata_of(layer), self._viewer()
        is_counted = type(layer) in KEPT_AS and ("model" in own or PART in own)
        is_here = viewer is not None and layer in viewer.layers  # all viewers are told of
        if is_counted and is_here and (JOURNAL not in own or not is_open(Path(own[JOURNAL]))):
            self._jobs.add(layer)

    def _task(self, layer: Layer) -> Task[None] | None:
        viewer = self._viewer()
        if viewer is None or layer not in viewer.layers or not is_marked(layer):
            return None
        image = layer_of_id(viewer, str(metadata_of(layer).get("source")))
        return once("keep", _keeping(image, layer)) if isinstance(image, ImageLayer) else None


def _keeping(image_layer: ImageLayer, layer: Layer) -> Callable[[], None]:
    """Return what writes the copy of a layer beside the viewer; call it in the GUI thread."""
    index = engine_of(metadata_of(layer)).get("channel")
    channel = next((one for one in channels_of(image_layer) if one.index == index), None)
    image = image_of(image_layer, channel)
    if isinstance(layer, Points | Shapes):
        arrays = _arrays_of(layer, image_layer, channel)

    def write(part: Path) -> None:
        if isinstance(layer, Points | Shapes):
            with part.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        elif isinstance(layer, Labels):
            AnnotationSession(image, store_of(image, image_layer, channel, layer), journal=part).close()

    def keep() -> None:
        path = journal_path(image, FOLDER, channel).with_suffix(KEPT_AS[type(layer)])
        make_folder(path.parent)
        part = path.with_suffix(f"{path.suffix}.new")
        with suppress(AnnotationError, WrongLayerError), _one_at_a_time, writing(path):
            part.unlink(missing_ok=True)
            write(part)  # but labels that no annotation could begin with
            if path not in written_here and path.exists():
                move(path, path.with_suffix(f"{path.suffix}.old"))
            move(part, path)
            written_here.add(path)

    return keep


def _tell(_: Layer, error: Exception) -> None:
    show_warning(f"Corrections by hand would be lost in a crash: {error_line(error)}")


_keepers: WeakKeyDictionary[Any, CorrectionKeeper] = WeakKeyDictionary()


def keep_corrections(viewer: Any) -> CorrectionKeeper:
    """Keep what is corrected in a viewer from now on; return what does. Cheap to repeat."""
    viewer = unwrapped(viewer)
    found = _keepers.get(viewer)
    if found is None or not isalive(found):
        found = _keepers[viewer] = CorrectionKeeper(viewer)
    return found


def _arrays_of(
    layer: Points | Shapes, image_layer: ImageLayer, channel: Channel | None
) -> dict[str, NDArray[Any]]:
    """Return copies of all that is kept of a layer; call it in the GUI thread."""
    own: dict[str, Any] = {**found_by(layer), "output": type(layer).__name__}
    if counted_boxes(layer, image_of(image_layer, channel)) is not None:
        own[PART] = True
    parts = [np.asarray(one) for one in layer.data] if isinstance(layer, Shapes) else [layer.data]
    facts = {"name": layer.name, "own": own, "written": sorted(own_features(layer))}
    vertices = np.concatenate(parts) if parts else np.zeros((0, layer.ndim))
    arrays = {
        "vertices": in_pixels(vertices, layer, image_layer, axis_of(channel)),
        "told": np.array(json.dumps(facts, default=plain)),
    }
    if isinstance(layer, Shapes):
        arrays |= {
            "lengths": np.array([len(one) for one in parts], np.int64),
            "shape_type": np.array(layer.shape_type, str),
            "edge_color": np.array(layer.edge_color),
            "edge_width": np.array(layer.edge_width, float),
        }
    else:
        arrays |= {"size": np.array(layer.size), "face_color": np.array(layer.face_color)}
    for name, column in layer.features.items():
        values = column.to_numpy()
        if values.dtype.kind not in "iufb":
            values = np.array(texts_of(column), str)
        arrays[f"{FEATURE}{name}"] = values
    return arrays


def kept_layer(path: Path, image_layer: ImageLayer, channel: Channel | None) -> Points | Shapes:
    """Return the layer in a file, upon its image, marked as changed by hand.

    ReadError where the file is missing or damaged.
    """
    source = source_of(image_layer, channel)
    what = f"points or boxes of cells at {path}"
    with expecting(ReadError, what, "Count again.", OSError, ValueError, KeyError, BadZipFile):
        with np.load(path) as file:
            arrays = dict(file)
        facts = json.loads(str(arrays.pop("told")))
        vertices = with_axis(arrays.pop("vertices"), source.channel_axis)
        features = {name: arrays.pop(name) for name in list(arrays) if name.startswith(FEATURE)}
        features = {name.removeprefix(FEATURE): values for name, values in features.items()}
        own = {**facts["own"], "source": source.layer_id, EDITED: True}
        looks: dict[str, Any] = {
            "name": facts["name"],
            "metadata": {METADATA: own, WRITTEN: facts.get("written", list(features))},
            "features": features,
            "ndim": vertices.shape[1],
            **source.placement,
        }
        if "lengths" not in arrays:
            return Points(vertices, border_color="black", **arrays, **looks)
        ends = np.cumsum(arrays.pop("lengths"))
        shapes = np.split(vertices, ends[:-1]) if len(ends) else None
        kinds, widths = (arrays.pop(name).tolist() for name in ("shape_type", "edge_width"))
        looks |= {"shape_type": kinds, "edge_width": widths, "face_color": "transparent"}
        return Shapes(shapes, **arrays, **looks)
