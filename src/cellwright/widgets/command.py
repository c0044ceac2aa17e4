"""The menu command: counts the active image layer with the default model, and tells the number."""

from typing import TYPE_CHECKING

from napari.utils import cancelable_progress
from napari.utils.notifications import show_error, show_info, show_warning
from qtpy.QtCore import QCoreApplication

from cellwright.errors import CellwrightError
from cellwright.tasks import Progress
from cellwright.widgets.counting import Counted, Request, count_task, result_line
from cellwright.widgets.job import Job
from cellwright.widgets.layers import place, source_of

if TYPE_CHECKING:
    import napari.viewer

DEFAULT_MODEL = "flow"


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
    job = Job(count_task(request), QCoreApplication.instance())
    bar = cancelable_progress(total=0, desc=f"Counting cells in {request.source.image.name}")

    def on_progressed(progress: Progress) -> None:
        bar.total, bar.n = progress.total, progress.done
        bar.refresh()
        if bar.is_canceled:
            job.cancel()

    def on_returned(counted: Counted) -> None:
        place(viewer, counted.layers)
        for notice in counted.result.notices:
            show_warning(notice)
        show_info(result_line(counted.result))

    def on_finished() -> None:
        bar.close()
        job.deleteLater()

    job.progressed.connect(on_progressed)
    job.returned.connect(on_returned)
    job.failed.connect(lambda error: show_error(f"Counting failed: {error}"))
    job.cancelled.connect(lambda: show_info("Counting was cancelled; nothing was changed."))
    job.finished.connect(on_finished)
    job.start()
    return job
