"""The menu commands: count the active image layer, classify the cells of the active points or labels."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from napari.utils import cancelable_progress
from napari.utils.notifications import show_error, show_info, show_warning
from numpy.typing import NDArray
from qtpy.QtCore import QCoreApplication
from qtpy.QtWidgets import QInputDialog

from cellwright.core.data import Cells
from cellwright.core.errors import CellwrightError, CheckpointError, WrongLayerError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.ops.labels import label_properties, relabel, relabel_frames
from cellwright.widgets.count.model import (
    CountOutcome,
    Request,
    count_task,
    remember,
    removed_line,
    result_line,
)
from cellwright.widgets.count.view import usual_outputs
from cellwright.widgets.shared.cells.snapshot import image_layer_under
from cellwright.widgets.shared.coordinates import channels_of, full_resolution, in_pixels
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_dataset import Pair
from cellwright.widgets.shared.layer_factory import (
    class_colours,
    features_by_number,
    note_classes,
    set_features,
    spread,
)
from cellwright.widgets.shared.layer_io import image_of, place, source_of
from cellwright.widgets.shared.messages import tell_results, telling
from cellwright.widgets.shared.model_combos import classifier_choices
from cellwright.widgets.shared.napari_private import preferences, unwrapped

if TYPE_CHECKING:
    import napari.viewer

    from cellwright.inference.classify import Classes

Classed = tuple[NDArray[np.integer[Any]], "Classes"]  # the row of features of each cell, and its class


def count_active_layer(viewer: "napari.viewer.Viewer") -> Job | None:
    """Count the cells of the active image layer and show them; the number comes as a notification.

    Progress stands in napari's activity dock, and can be cancelled there. Returns the running job, or None
    where the active layer cannot be counted in, which a notification tells.
    """
    try:
        own = preferences()
        family = store.spec_of(own.model).family if own.model else DEFAULT_FAMILY
        recipe = Recipe(models=(own.model or DEFAULT_FAMILY,), engine=EngineSettings(device=own.device))
        source = source_of(viewer.layers.selection.active)
        outputs = usual_outputs(registry.get(family))
        request = Request(source, recipe, outputs, family)
    except CellwrightError as error:
        show_error(str(error))
        return None

    def on_returned(counted: CountOutcome) -> None:
        shown = place(unwrapped(viewer), counted.layers)
        remember(viewer, counted)
        tell_results(viewer, counted.result, shown.get("Labels", shown.get("Points")))
        for notice in filter(None, (*counted.result.notices, removed_line(viewer, source))):
            show_warning(notice)
        show_info(result_line(counted.result))

    what = f"Counting cells in {request.source.image.name}"
    return _run(count_task(request), on_returned, what, "Counting")


def classify_active_layer(viewer: "napari.viewer.Viewer") -> Job | None:
    """Give the cells of the active Points or Labels layer their classes, as features and as colours.

    The numbers of each class come as a notification. Returns the running job, or None where there is nothing
    to classify, or nothing to classify with, which a notification tells.
    """
    layer = viewer.layers.selection.active
    try:
        image_layer = image_of_cells(viewer, layer)
        classifier = choose_classifier()
    except CellwrightError as error:
        show_error(str(error))
        return None
    if not classifier:
        return None

    before = layer.data

    def on_returned(classed: Classed) -> None:
        rows, classes = classed
        with telling(lambda error: show_error(str(error))):
            if layer.data is not before:
                raise WrongLayerError(
                    f"{layer.name!r} was given other cells while they were being classified, or some were "
                    "added or removed. Classify them again."
                )
            show_classes(layer, rows, classes)
            show_info(" · ".join(f"{name} {n:,}" for name, n in classes.counts.items()))

    task = classes_task(layer, image_layer, classifier)
    return _run(task, on_returned, f"Classifying {layer.name}", "Classification")


def choose_classifier() -> str:
    """Return the name of the only classifier, or of the one the user chooses; empty when they do not.

    CheckpointError where there is none.
    """
    choices = dict(classifier_choices())
    if not choices:
        raise CheckpointError(
            f"Classes need a classifier; none was found in {store.shipped_folder()} and "
            f"{store.user_folder()}. Train one, or install cellwright again."
        )
    if len(choices) == 1:
        return next(iter(choices.values()))
    title, is_chosen = QInputDialog.getItem(None, "Classify", "Classes", list(choices), editable=False)
    if not is_chosen:
        return ""
    return choices[title]


def _run(task: Task[Any], on_returned: Callable[[Any], None], description: str, what: str) -> Job:
    """Run a task with a bar in napari's activity dock; ``what`` names it in messages."""
    job = Job(task, QCoreApplication.instance())
    bar = cancelable_progress(total=0, desc=description)

    def on_progressed(progress: Progress) -> None:
        bar.total, bar.n = progress.total, progress.done
        bar.refresh()
        if bar.is_canceled:
            job.cancel()

    return job.start(
        progressed=on_progressed,
        returned=on_returned,
        failed=lambda error: show_error(f"{what} failed: {error_line(error)}"),
        cancelled=lambda: show_info(f"{what} was cancelled; nothing was changed."),
        finished=bar.close,
    )


def image_of_cells(viewer: Any, layer: Layer | None) -> ImageLayer:
    """Return the image that the cells of a Points or Labels layer are in.

    That is the image they were counted in, else the topmost one that has as many pixels.

    WrongLayerError where the layer is of another type, or there is no image.
    """
    if not isinstance(layer, Points | Labels):
        got = "no layer" if layer is None else f"{type(layer).__name__} layer {layer.name!r}"
        raise WrongLayerError(f"Select a Points or Labels layer whose cells are to be classified; got {got}.")
    image_layer = image_layer_under(viewer, layer)
    if image_layer is None:
        raise WrongLayerError(
            f"Classifying the cells of {layer.name!r} needs an Image layer; there is none. Open the image."
        )
    return image_layer


def marked_cells(layer: Points | Labels, image_layer: ImageLayer) -> tuple[Cells, NDArray[np.integer[Any]]]:
    """Return the cells of a layer in pixels of an image, and the row of features of each (N,).

    Bare points have boxes and areas of 0. A label of a time series is a cell in each of its frames, with the
    same row. Slow for many pixels.

    WrongLayerError where the layer holds no cells.
    """
    points: Any
    areas: Any
    if isinstance(layer, Points):
        points = np.asarray(layer.data, float)
        rows, areas, boxes = np.arange(len(points)), np.zeros(len(points)), np.stack([points, points], axis=1)
    else:
        data = np.maximum(np.asarray(full_resolution(layer)), 0)
        axes = image_of(image_layer).label_axes
        labels = relabel_frames(data, axes) if data.ndim == len(axes) else relabel(data)
        numbers, first = np.unique(labels, return_index=True)
        rows = data.ravel()[first[numbers > 0]]
        areas, points, boxes = label_properties(labels)
    if not len(points):
        raise WrongLayerError(f"Layer {layer.name!r} holds no cells. Count or mark some first.")
    axis = channels_of(image_layer)[0].axis
    points = in_pixels(points, layer, image_layer, axis)
    corners = in_pixels(boxes.reshape(-1, layer.ndim), layer, image_layer, axis)
    sizes = np.abs(np.diff(corners.reshape(len(points), 2, -1), axis=1))
    boxes = np.concatenate([points[:, np.newaxis] - sizes / 2, points[:, np.newaxis] + sizes / 2], axis=1)
    ones = np.ones(len(points), np.float32)
    return Cells(points.astype(np.float32), boxes.astype(np.float32), ones, areas.astype(np.float32)), rows


def classes_task(layer: Points | Labels, image_layer: ImageLayer, classifier: str) -> Task[Classed]:
    """Return the classes of the cells of a layer; imports torch in the thread that runs it.

    They are looked at in the channel that they were counted in. A cell of several frames has the class that
    is likeliest in all of them.
    """
    yield Progress("cells", 0, 1)
    cells, rows = marked_cells(layer, image_layer)
    yield Progress("classes", 0, 1)
    from cellwright.inference.classify import predict_classes

    engine = EngineSettings(channel=Pair(image_layer, layer).channel, device=preferences().device)
    classes = yield from predict_classes(cells, image_of(image_layer), classifier, engine)
    own, place, n_frames = np.unique(rows, return_inverse=True, return_counts=True)
    probabilities = np.zeros((len(own), len(classes.names)), np.float32)
    np.add.at(probabilities, place, classes.probabilities)
    return own, replace(classes, probabilities=probabilities / n_frames[:, np.newaxis])


def show_classes(layer: Layer, rows: NDArray[np.integer[Any]], classes: "Classes") -> None:
    """Write classes into the features of a layer and colour its cells by them. Call it in the GUI thread."""
    import pandas

    if isinstance(layer, Points) and len(layer.data) != len(rows):
        raise WrongLayerError(
            f"Points of {layer.name!r} were added or removed while they were being classified. Classify them "
            "again."
        )
    names = np.array(classes.names, object)[classes.numbers]
    found = pandas.DataFrame({"class": names, "probability": classes.probabilities.max(axis=1)}, index=rows)
    found = spread(found)
    old = features_by_number(layer).reindex(found.index)
    note_classes(layer, classes.names)
    set_features(layer, old.assign(**{str(name): found[name] for name in found}))
    colours = class_colours(layer)
    if isinstance(layer, Points):
        layer.face_color = colours
    else:
        layer.colormap = colours
