"""The compare widget: two models on the same image or dataset, their counts, and where they disagree."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from napari.utils.colormaps import DirectLabelColormap
from qtpy.compat import isalive
from qtpy.QtCore import Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from cellwright.errors import CellwrightError, SettingsError
from cellwright.io.dataset import Dataset, read_dataset
from cellwright.models import registry, shelf
from cellwright.tasks import Eta, Progress
from cellwright.types import Image
from cellwright.widgets.choices import fill, model_title
from cellwright.widgets.compared import COLOURS, Compared, compare_task, points_of, table_of
from cellwright.widgets.counting import progress_line
from cellwright.widgets.job import Job
from cellwright.widgets.layers import METADATA, Source, image_layer, source_of
from cellwright.widgets.shelf_news import shelf_news
from cellwright.widgets.style import STYLE, set_state
from cellwright.widgets.train_layers import Pair, dataset_of, pairs

if TYPE_CHECKING:
    import napari.viewer

FOLDER = ""
NO_TRUTH = ""
DISAGREEMENT = "disagreement"
USUAL = "flow"


class CompareWidget(QWidget):
    """Counts with two models and shows their figures, and as a layer the cells only one of them found.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.job: Job | None = None
        self.folder: Path | None = None
        self._eta = Eta()
        self.setStyleSheet(STYLE)
        self.data, self.truth, self.first, self.second = (QComboBox() for _ in range(4))
        self.button, self.bar = QPushButton("Compare"), QProgressBar()
        self.status, self.message, self.table = QLabel(), QLabel(), QLabel()
        self._lay_out()
        self._refresh_models()
        self._refresh_data()
        self.button.clicked.connect(self._on_clicked)
        self.data.activated.connect(self._on_data_chosen)
        shelf_news.changed.connect(self._refresh_models)
        events = self.viewer.layers.events
        for emitter in (events.inserted, events.removed, events.renamed):
            emitter.connect(self._refresh_data)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        titles = ("Images", "Truth", "Model 1", "Model 2")
        for title, box in zip(titles, (self.data, self.truth, self.first, self.second), strict=True):
            form.addRow(title, box)
        self.truth.setToolTip("What is known of the cells: F1 is measured against it.")
        self.button.setObjectName("count")
        self.bar.setTextVisible(False)
        self.status.setObjectName("status")
        self.message.setObjectName("message")
        self.table.setTextFormat(Qt.TextFormat.RichText)
        for label in (self.status, self.message, self.table):
            label.setWordWrap(True)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for widget in (self.button, self.bar, self.status, self.message, self.table):
            layout.addWidget(widget)
        for widget in (self.bar, self.status, self.message, self.table):
            widget.setVisible(False)
        layout.addStretch(1)

    def compare(self) -> None:
        """Count with both models; tells in the panel why it cannot."""
        if self.job is not None:
            return
        try:
            models, (data, source) = self._models(), self._data()
        except CellwrightError as error:
            self._tell(str(error), is_error=True)
            return
        self._tell("")
        self._show_running(is_running=True)
        self._eta = Eta()
        self.job = job = Job(compare_task(models, data), self)
        job.progressed.connect(self._on_progressed)
        job.returned.connect(lambda compared: self._show(compared, source))
        job.failed.connect(lambda error: self._tell(_words(error), is_error=True))
        job.cancelled.connect(lambda: self._tell("Cancelled; nothing was changed."))
        job.finished.connect(self._on_finished)
        job.start()

    def choose_folder(self, folder: Path | None) -> None:
        """Choose a dataset folder; None leaves what was chosen."""
        self.folder = folder or self.folder
        self._refresh_data()
        if folder is not None:
            self.data.setCurrentIndex(self.data.findData(str(folder)))
        self._refresh_truth()

    # -- what is chosen -----------------------------------------------------------------------------------

    def _models(self) -> tuple[str, str]:
        first, second = self.first.currentData(), self.second.currentData()
        if first is None or first == second:
            raise SettingsError(
                f"Comparing needs two models; got {'none' if first is None else f'{first!r} twice'}. Choose "
                "another one, or train your own."
            )
        return str(first), str(second)

    def _data(self) -> tuple[Dataset | Image, Source | None]:
        """Return an image, with its annotation where there is one, or the validation images of a folder."""
        chosen = self.data.currentData()
        if self.folder is not None and chosen == str(self.folder):
            dataset = read_dataset(self.folder)
            return dataset.select("val") if len(dataset.select("val")) else dataset, None
        layer = self._layer(chosen)
        source = source_of(image_layer(layer))
        truth = self._layer(self.truth.currentData())
        if truth is None:
            return source.image, source
        assert isinstance(layer, ImageLayer)
        return dataset_of([Pair(layer, truth)], self.viewer.layers, is_complete=True), source

    def _layer(self, chosen: Any) -> Layer | None:
        return next((one for one in self.viewer.layers if str(one.unique_id) == chosen), None)

    def _on_clicked(self) -> None:
        if self.job is not None:
            self.job.cancel()
        else:
            self.compare()

    def _on_data_chosen(self, index: int) -> None:
        if self.data.itemData(index) == FOLDER:
            folder = QFileDialog.getExistingDirectory(self, "Dataset folder")
            self.choose_folder(Path(folder) if folder else None)
        self._refresh_truth()

    def _refresh_data(self, _: Any = None) -> None:
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        layers = [one for one in reversed(self.viewer.layers) if isinstance(one, ImageLayer)]
        entries = [(one.name, str(one.unique_id)) for one in layers if METADATA not in one.metadata]
        entries += [] if self.folder is None else [(f"Folder · {self.folder.name}", str(self.folder))]
        fill(self.data, [*entries, ("Choose a folder…", FOLDER)], self.data.currentData() or None)
        self._refresh_truth()

    def _refresh_truth(self) -> None:
        """Offer the annotations of the viewer; begin with the one that belongs to the image."""
        is_folder = self.folder is not None and self.data.currentData() == str(self.folder)
        self.truth.setEnabled(not is_folder)
        if is_folder:
            fill(self.truth, [("of the folder", NO_TRUTH)])
            return
        layers = [one for one in reversed(self.viewer.layers) if isinstance(one, LabelsLayer | Points)]
        layers = [one for one in layers if DISAGREEMENT not in one.metadata]
        own = [one for one in pairs(layers + list(self.viewer.layers)) if not one.is_as_counted]
        own = [one for one in own if one.annotation in layers]
        fitting = [one.annotation for one in own if str(one.image.unique_id) == self.data.currentData()]
        wanted = str(fitting[0].unique_id) if fitting else NO_TRUTH
        entries = [("none", NO_TRUTH), *((one.name, str(one.unique_id)) for one in layers)]
        fill(self.truth, entries, wanted)

    def _refresh_models(self) -> None:
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        known = [one for one in shelf.models() if one.spec.family in registry.FAMILIES]
        entries = [(model_title(one.name, one.spec.family), one.name) for one in known]
        names = [one.name for one in known]
        usual = USUAL if USUAL in names else next(iter(names), None)
        other = next((name for name in names if name != usual), None)
        fill(self.first, entries, self.first.currentData() or usual, otherwise="none")
        fill(self.second, entries, self.second.currentData() or other, otherwise="none")

    # -- what is told -------------------------------------------------------------------------------------

    def _show(self, compared: Compared, source: Source | None) -> None:
        self.table.setText(table_of(compared))
        self.table.setVisible(True)
        if source is None:
            return
        name = f"{source.image.name} {DISAGREEMENT}"
        if name in self.viewer.layers:
            self.viewer.layers.remove(name)
        own = {METADATA: {"source": source.layer_id, "output": DISAGREEMENT, "is_preview": True}}
        facts = {"name": name, "metadata": {**own, DISAGREEMENT: True, "preview": True}, **source.placement}
        axis = source.channel_axis
        if compared.labels is not None:
            shown = compared.labels if axis is None else np.expand_dims(compared.labels, axis)
            colours = {None: "transparent", 0: "transparent", 1: COLOURS[0], 2: COLOURS[1]}
            layer = self.viewer.add_labels(shown, colormap=DirectLabelColormap(color_dict=colours), **facts)
            layer.opacity = 0.6
        elif compared.only is not None:
            self.viewer.add_points(**points_of(compared, axis), border_color="black", **facts)

    def _on_progressed(self, progress: Progress) -> None:
        left = self._eta.seconds_left(progress)
        if progress.stage == "compare":
            self.bar.setValue(round(100 * progress.fraction))
            self.status.setText(f"{progress.note} · {progress_line(_bare(progress), left)}")

    def _on_finished(self) -> None:
        self.job = None
        self._show_running(is_running=False)
        self.finished.emit()

    def _show_running(self, *, is_running: bool) -> None:
        self.bar.setValue(0)
        self.status.setText("Loading the models")
        for widget in (self.bar, self.status):
            widget.setVisible(is_running)
        self.button.setText("Cancel" if is_running else "Compare")
        set_state(self.button, "running", on=is_running)

    def _tell(self, text: str, *, is_error: bool = False) -> None:
        self.message.setText(text)
        self.message.setVisible(bool(text))
        set_state(self.message, "error", on=is_error)


def _bare(progress: Progress) -> Progress:
    return Progress("images", progress.done, progress.total)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, CellwrightError) else f"{type(error).__name__}: {error}"
