"""Cells that the user or another program marked in a Points or Labels layer: read them, give them classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from napari.utils.colormaps import DirectLabelColormap
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image
from cellwright.core.errors import WrongLayerError
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.ops.labels import measure, relabel
from cellwright.widgets.shared.coordinates import channels_of
from cellwright.widgets.shared.layer_factory import class_colour
from cellwright.widgets.shared.layer_io import METADATA, image_of


@dataclass(frozen=True, slots=True)
class Marked:
    """The cells of a layer, in pixels of an image.

    Made by :func:`marked_cells`; used by :func:`classes_task`.

    Parameters
    ----------
    cells
        One row for each point or label; bare points have boxes and areas of 0.
    image
        Where the cells are.
    labels : int (N,)
        Value of each cell in the layer; empty for points.
    """

    cells: Cells
    image: Image
    labels: NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Classed:
    """The classes of marked cells. Made by :func:`classes_task`; used by :func:`show_classes`."""

    marked: Marked
    names: tuple[str, ...]
    numbers: NDArray[np.int16]
    probabilities: NDArray[np.float32]

    @property
    def line(self) -> str:
        """How many cells are of each class, for people."""
        counts = np.bincount(self.numbers, minlength=len(self.names))
        return " · ".join(f"{name} {n:,}" for name, n in zip(self.names, counts, strict=True))


def marked_cells(viewer: Any, layer: Layer | None) -> Marked:
    """Return the cells of a Points or Labels layer, and the image they are in.

    That is the image they were counted in, else the topmost Image layer that no count has made.

    Raises
    ------
    WrongLayerError
        The layer is of another type, holds no cells, or there is no image.
    """
    if not isinstance(layer, Points | Labels):
        got = "no layer" if layer is None else f"{type(layer).__name__} layer {layer.name!r}"
        raise WrongLayerError(f"Select a Points or Labels layer whose cells are to get classes; got {got}.")
    image_layer = _image_under(viewer, layer)
    points, boxes, areas, numbers = _read_points(layer) if isinstance(layer, Points) else _read_labels(layer)
    if not len(points):
        raise WrongLayerError(f"Layer {layer.name!r} holds no cells. Count or mark some first.")
    points = _in_pixels(points, layer, image_layer)
    corners = _in_pixels(boxes.reshape(-1, layer.ndim), layer, image_layer)
    sizes = np.abs(np.diff(corners.reshape(len(points), 2, -1), axis=1))
    boxes = np.concatenate([points[:, np.newaxis] - sizes / 2, points[:, np.newaxis] + sizes / 2], axis=1)
    ones = np.ones(len(points), np.float32)
    cells = Cells(points.astype(np.float32), boxes.astype(np.float32), ones, areas.astype(np.float32))
    return Marked(cells, image_of(image_layer), numbers)


def classes_task(marked: Marked, classifier: str) -> Task[Classed]:
    """Return the classes of marked cells; imports torch in the thread that runs it."""
    yield Progress("classes", 0, 1)
    from cellwright.inference.classify import predict_classes

    classes = yield from predict_classes(marked.cells, marked.image, classifier, EngineSettings())
    return Classed(marked, classes.names, classes.numbers, classes.probabilities.max(axis=1))


def show_classes(layer: Layer, classed: Classed) -> None:
    """Write classes into the features of a layer and colour its cells by them. Call it in the GUI thread."""
    names = np.array(classed.names, object)[classed.numbers]
    colours = [class_colour(int(number)) for number in classed.numbers]
    if isinstance(layer, Points):
        if len(layer.data) != len(names):
            raise WrongLayerError(
                f"Points of {layer.name!r} came or went while they were classified. Repeat it."
            )
        layer.features = layer.features.assign(**{"class": names, "probability": classed.probabilities})
        layer.face_color = colours
        return
    labels = classed.marked.labels
    rows = pd.DataFrame({"class": names, "probability": classed.probabilities}, index=labels)
    rows = rows.reindex(range(int(labels.max()) + 1))  # napari takes row k for label k
    old = layer.features.reindex(rows.index)
    layer.features = old.assign(**{str(name): rows[name] for name in rows})
    fixed: dict[int | None, Any] = {None: "transparent", 0: "transparent"}
    layer.colormap = DirectLabelColormap(
        color_dict=fixed | {int(label): colour for label, colour in zip(labels, colours, strict=True)}
    )


def _image_under(viewer: Any, layer: Layer) -> ImageLayer:
    images = [one for one in viewer.layers if isinstance(one, ImageLayer) and METADATA not in one.metadata]
    counted_in = layer.metadata.get(METADATA, {}).get("source")
    found = [one for one in images if str(one.unique_id) == counted_in] or images
    if not found:
        raise WrongLayerError(
            f"The cells of {layer.name!r} are looked at in an Image layer; there is none. Open the image too."
        )
    return found[-1]


def _read_points(layer: Points) -> tuple[Any, Any, Any, NDArray[np.integer[Any]]]:
    points = np.asarray(layer.data, float)
    return points, np.stack([points, points], axis=1), np.zeros(len(points)), np.zeros(0, int)


def _read_labels(layer: Labels) -> tuple[Any, Any, Any, NDArray[np.integer[Any]]]:
    data = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    numbers = np.unique(data)
    numbers = numbers[numbers > 0]
    areas, points, boxes = measure(relabel(np.where(data > 0, data, 0)))
    return points, boxes, areas, numbers


def _in_pixels(coordinates: NDArray[Any], layer: Layer, image: ImageLayer) -> NDArray[np.float64]:
    """Coordinates (N, axes) of a layer in pixels of an image, without its axis of channels."""
    world = np.array([layer.data_to_world(one) for one in coordinates]).reshape(len(coordinates), layer.ndim)
    missing = max(image.ndim - layer.ndim, 0)
    world = np.pad(world, [(0, 0), (missing, 0)])[:, -image.ndim :]
    pixels = np.array([image.world_to_data(one) for one in world]).reshape(len(world), image.ndim)
    axis = channels_of(image)[0].axis
    return pixels if axis is None else np.delete(pixels, axis, axis=1)
