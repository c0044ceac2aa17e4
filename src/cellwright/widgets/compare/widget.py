"""The compare widget: two models on the same image or dataset, their counts, and where they disagree."""

from typing import TYPE_CHECKING

from napari.layers import Layer
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QTableWidgetItem, QWidget

from cellwright.core.errors import CellwrightError
from cellwright.widgets.compare.choices import CompareChoices
from cellwright.widgets.compare.disagreement import DISAGREEMENT
from cellwright.widgets.compare.model import Compared, CompareModel, compare_task, open_task, whole_progress
from cellwright.widgets.compare.view import ComparePanel
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.layer_io import Source, active_kept, remove, take_away
from cellwright.widgets.shared.messages import tell_error
from cellwright.widgets.shared.napari_private import unwrapped
from cellwright.widgets.shared.style import PanelScrollArea, stack

if TYPE_CHECKING:
    import napari.viewer

LEARNED_FROM = (
    "The folder has no images of the split val. All were compared, also those that models may have learned "
    "from."
)


class CompareWidget(QWidget):
    """Counts with two models and shows their figures, and as a layer the cells only one of them found."""

    finished = Signal()  # a comparison has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        self.panel = ComparePanel()
        self.model = CompareModel()
        self.choices = CompareChoices(self.viewer, self.panel)
        self.jobs = self.panel.jobs
        self._opened: list[Layer] = []
        stack(PanelScrollArea(self.panel), into=self)
        forget_errors(self.panel.message, self.panel)
        self.jobs.started.connect(self._on_started)
        self.jobs.failed.connect(self._on_failed)
        self.jobs.cancelled.connect(self._on_cancelled)
        self.jobs.finished.connect(self._on_finished)
        self.panel.button.clicked.connect(self._on_clicked)
        self.panel.table.itemClicked.connect(self._on_image_clicked)
        self.model.changed.connect(self._on_model_changed)

    def compare(self) -> None:
        """Count with both models; tells in the panel why it cannot."""
        try:
            request = self.choices.request()
        except CellwrightError as error:
            tell_error(self.panel.message, error, "Comparing")
            return
        self.model.show(None)
        self.jobs.start(
            whole_progress(compare_task(request)), lambda found: self._show(found, request.source)
        )

    def open(self, index: int) -> None:
        """Show an image of the dataset, and where the models disagree, in place of the last one."""
        if self.model.compared is not None:
            self.jobs.start(open_task(self.model.compared, index), self._show_opened)

    # -- a job --------------------------------------------------------------------------------------------

    def _on_started(self) -> None:
        self.panel.message.tell("")
        self.panel.button.show_running(is_running=True)

    def _on_clicked(self) -> None:
        if not self.jobs.is_busy:
            self.compare()
            return
        self.jobs.cancel()
        self.panel.button.show_stopping("Cancelling…")

    def _on_failed(self, error: Exception) -> None:
        tell_error(self.panel.message, error, "Comparing")

    def _on_cancelled(self) -> None:
        self.panel.message.tell("Cancelled; nothing was changed.")

    def _on_finished(self) -> None:
        self.panel.button.show_running(is_running=False)
        self.finished.emit()

    # -- what is shown ------------------------------------------------------------------------------------

    def _on_model_changed(self) -> None:
        self.panel.show_compared(self.model.compared)

    def _show(self, found: tuple[Compared, Layer | None], source: Source | None) -> None:
        compared, layer = found
        self.model.show(compared)
        if source is None and any(item.split == "train" for item in compared.items):
            self.panel.message.tell(LEARNED_FROM, is_warning=True)
        if source is not None:
            remove(self.viewer, {"source": source.layer_id, "output": DISAGREEMENT})
        if layer is not None:
            with active_kept(self.viewer):
                self.viewer.add_layer(layer)

    def _show_opened(self, layers: tuple[Layer, ...]) -> None:
        take_away(self.viewer, *self._opened)
        self._opened = list(layers)
        self.choices.hide(layers)
        with active_kept(self.viewer):
            for layer in layers:
                self.viewer.add_layer(layer)
        self.viewer.reset_view()

    def _on_image_clicked(self, item: QTableWidgetItem) -> None:
        self.open(getattr(item, "index", 0))
