"""The menu commands: count the active image layer, classify the active points or labels; tell the numbers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from napari.utils import cancelable_progress
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication
from qtpy.QtWidgets import QInputDialog

from cellwright.core.errors import CellwrightError, CheckpointError
from cellwright.core.tasks import Progress, Task
from cellwright.models import store
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.count.count_request import CountOutcome, Request, count_task, result_line
from cellwright.widgets.plugin.layer_cells import Classed, classes_task, marked_cells, show_classes
from cellwright.widgets.shared.classes import classifiers
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import place, source_of

if TYPE_CHECKING:
    import napari.viewer

DEFAULT_MODEL = DEFAULT_FAMILY


def count_active_layer(viewer: "napari.viewer.Viewer") -> Job | None:
    """Count the cells of the active image layer and show them; the number comes as a notification.

    Progress stands in napari's activity dock, and can be cancelled there. Returns the running job, or None
    where the active layer cannot be counted in, which a notification tells.
    """
    try:
        request = Request(source_of(viewer.layers.selection.active), DEFAULT_MODEL)
    except CellwrightError as error:
        show_error(str(error))
        return None

    def on_returned(counted: CountOutcome) -> None:
        place(viewer, counted.layers)
        for notice in counted.result.notices:
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
        marked = marked_cells(viewer, layer)
        classifier = choose_classifier()
    except CellwrightError as error:
        show_error(str(error))
        return None
    if not classifier:
        return None

    def on_returned(classed: Classed) -> None:
        try:
            show_classes(layer, classed)
        except CellwrightError as error:
            show_error(str(error))
        else:
            show_info(classed.line)

    return _run(classes_task(marked, classifier), on_returned, f"Classifying {layer.name}", "Classification")


def choose_classifier() -> str:
    """Return the name of the only classifier, or of the one the user chooses; empty when they do not.

    Raises
    ------
    CheckpointError
        There is none.
    """
    choices = dict(classifiers())
    if not choices:
        raise CheckpointError(
            f"Classes need a classifier; none was found in {store.shipped_folder()} and "
            f"{store.user_folder()}. Train one, or install cellwright again."
        )
    if len(choices) == 1:
        return next(iter(choices.values()))
    title, is_chosen = QInputDialog.getItem(None, "Classify", "Classes", list(choices), editable=False)
    return choices[title] if is_chosen else ""


def _run(task: Task[Any], on_returned: Callable[[Any], None], description: str, what: str) -> Job:
    """Run a task with a bar in napari's activity dock; ``what`` names it in messages."""
    job = Job(task, QCoreApplication.instance())
    bar = cancelable_progress(total=0, desc=description)

    def on_progressed(progress: Progress) -> None:
        bar.total, bar.n = progress.total, progress.done
        bar.refresh()
        if bar.is_canceled:
            job.cancel()

    job.progressed.connect(on_progressed)
    job.returned.connect(on_returned)
    job.failed.connect(lambda error: show_error(f"{what} failed: {error}"))
    job.cancelled.connect(lambda: show_info(f"{what} was cancelled; nothing was changed."))
    job.finished.connect(bar.close)
    job.start()
    return job
