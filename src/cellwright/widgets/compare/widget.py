"""The compare widget: two models on the same image or dataset, their counts, and where they disagree."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from qtpy.compat import isalive
from qtpy.QtCore import Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QTableWidgetItem, QVBoxLayout, QWidget

from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError, SettingsError
from cellwright.core.tasks import Eta, Progress, Task
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.compare.outcome import DISAGREEMENT, Compared, compare_task, open_task
from cellwright.widgets.compare.view import ComparePanel
from cellwright.widgets.shared.combos import fill, model_title
from cellwright.widgets.shared.coordinates import MOST_CHANNELS, Channel, channels_of
from cellwright.widgets.shared.job_runner import REDRAW_S
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import METADATA, Source, image_layer, remove, source_of
from cellwright.widgets.shared.messages import tell_error
from cellwright.widgets.shared.model_events import shelf_news
from cellwright.widgets.train.layer_dataset import LayerItem, Pair, dataset_of, pairs
from cellwright.widgets.train.widget import duration

if TYPE_CHECKING:
    import napari.viewer

FOLDER = ""
NO_TRUTH = ""
USUAL = DEFAULT_FAMILY
ANY_CHANNELS = (  # of a folder, whose images are not read before they are counted
    Channel("Colours, else the first"),
    *(Channel(f"Channel {index}", index) for index in range(MOST_CHANNELS)),
)
LOADING, OPENING = "Loading the models", "Opening the image"
FINE = 1000  # steps of one image, for the time left


class CompareWidget(QWidget):
    """Counts with two models and shows their figures, and as a layer the cells only one of them found.

    Parameters
    ----------
    napari_viewer
        The viewer it is docked in.
    """

    finished = Signal()  # a comparison has ended, well or not

    def __init__(self, napari_viewer: "napari.viewer.Viewer") -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.panel = ComparePanel()
        self.job: Job | None = None
        self.folder: Path | None = None
        self.compared: Compared | None = None
        self._opened: list[Layer] = []
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.panel)
        self._refresh_models()
        self._refresh_data()
        self.panel.button.clicked.connect(self._on_clicked)
        self.panel.data.activated.connect(self._on_data_chosen)
        self.panel.table.itemClicked.connect(self._on_image_clicked)
        shelf_news.changed.connect(self._refresh_models)
        events = self.viewer.layers.events
        for emitter in (events.inserted, events.removed, events.renamed):
            emitter.connect(self._refresh_data)

    def compare(self) -> None:
        """Count with both models; tells in the panel why it cannot."""
        try:
            models, (data, source) = self._models(), self._data()
        except CellwrightError as error:
            tell_error(self.panel, error, "Comparing")
            return
        self.compared = None
        self.panel.show_compared(None)
        channel = self.channel
        engine = EngineSettings(channel=channel.index if channel else None)
        task = compare_task(models, data, source, engine)
        self._start(task, self._show if source is None else lambda found: self._show_in(found, source))

    def open(self, index: int) -> None:
        """Show an image of the dataset, and where the models disagree, in place of the last one."""
        if self.compared is not None:
            self._start(open_task(self.compared, index), self._show_opened, OPENING)

    def choose_folder(self, folder: Path | None) -> None:
        """Choose a dataset folder; None leaves what was chosen."""
        self.folder = folder or self.folder
        self._refresh_data()
        if folder is not None:
            self.panel.data.setCurrentIndex(self.panel.data.findData(str(folder)))
        self._refresh_channels_and_truth()

    # -- what is chosen -----------------------------------------------------------------------------------

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        channel: Channel | None = self.panel.channel.currentData()
        return channel

    @property
    def _is_folder(self) -> bool:
        return self.folder is not None and self.panel.data.currentData() == str(self.folder)

    def _models(self) -> tuple[str, str]:
        first, second = self.panel.first.currentData(), self.panel.second.currentData()
        if first is None or first == second:
            raise SettingsError(
                f"Comparing needs two models; got {'none' if first is None else f'{first!r} twice'}. Choose "
                "another one, or train your own."
            )
        return str(first), str(second)

    def _data(self) -> tuple[Dataset | Image, Source | None]:
        """Return an image, with its annotation where there is one, or the validation images of a folder."""
        if self._is_folder:
            assert self.folder is not None
            dataset = read_dataset(self.folder)
            return dataset.select("val") if len(dataset.select("val")) else dataset, None
        layer = self._layer(self.panel.data.currentData())
        source = source_of(image_layer(layer), self.channel)
        truth = self._layer(self.panel.truth.currentData())
        if truth is None:
            return source.image, source
        assert isinstance(layer, ImageLayer)
        dataset = dataset_of([Pair(layer, truth)], self.viewer.layers, is_complete=True)
        (item,) = dataset.items
        assert isinstance(item, LayerItem)
        picture = replace(source.image, name=item.name)  # with the axes of the chosen channel
        return replace(dataset, items=(replace(item, picture=picture),)), source

    def _layer(self, chosen: Any) -> Layer | None:
        return next((one for one in self.viewer.layers if str(one.unique_id) == chosen), None)

    def _on_data_chosen(self, index: int) -> None:
        if self.panel.data.itemData(index) == FOLDER:
            folder = QFileDialog.getExistingDirectory(self, "Dataset folder")
            self.choose_folder(Path(folder) if folder else None)
        self._refresh_channels_and_truth()

    def _refresh_data(self, _: Any = None) -> None:
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        layers = [one for one in reversed(self.viewer.layers) if isinstance(one, ImageLayer)]
        layers = [one for one in layers if METADATA not in one.metadata and one not in self._opened]
        entries = [(one.name, str(one.unique_id)) for one in layers]
        entries += [] if self.folder is None else [(f"Folder · {self.folder.name}", str(self.folder))]
        box = self.panel.data
        fill(box, [*entries, ("Choose a folder…", FOLDER)], box.currentData() or None)
        self._refresh_channels_and_truth()

    def _refresh_channels_and_truth(self) -> None:
        layer = self._layer(self.panel.data.currentData())
        choices = ANY_CHANNELS if self._is_folder else ()
        if isinstance(layer, ImageLayer):
            choices = channels_of(layer)
        entries = [(choice.title, choice) for choice in choices]
        fill(self.panel.channel, entries, self.channel, otherwise="none")
        self.panel.channel.setEnabled(len(choices) > 1)
        self._refresh_truth()

    def _refresh_truth(self) -> None:
        """Offer the annotations of the viewer; begin with the one that belongs to the image."""
        box = self.panel.truth
        box.setEnabled(not self._is_folder)
        if self._is_folder:
            fill(box, [("of the folder", NO_TRUTH)])
            return
        layers = [one for one in reversed(self.viewer.layers) if isinstance(one, LabelsLayer | Points)]
        layers = [one for one in layers if not one.metadata.get("preview")]
        own = [one for one in pairs(reversed(self.viewer.layers)) if not one.is_as_counted]
        fitting = [one.annotation for one in own if str(one.image.unique_id) == self.panel.data.currentData()]
        wanted = str(fitting[0].unique_id) if fitting else NO_TRUTH
        fill(box, [("none", NO_TRUTH), *((one.name, str(one.unique_id)) for one in layers)], wanted)

    def _refresh_models(self) -> None:
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        known = [one for one in store.models() if one.spec.family in registry.FAMILIES]
        entries = [(model_title(one.name, one.spec.family), one.name) for one in known]
        families = {one.name: one.spec.family for one in known}
        usual = USUAL if USUAL in families else next(iter(families), None)
        alike = [name for name in families if name != usual and families[name] == families.get(usual or "")]
        other = next((name for name in [*alike, *families] if name != usual), None)
        for box, wanted in ((self.panel.first, usual), (self.panel.second, other)):
            fill(box, entries, box.currentData() or wanted, otherwise="none")

    # -- a job --------------------------------------------------------------------------------------------

    def _start(self, task: Task[Any], on_returned: Callable[[Any], None], line: str = LOADING) -> None:
        if self.job is not None:
            task.close()
            return
        self.panel.show_message("")
        self.panel.show_running(is_running=True)
        self.panel.show_progress(0.0, line)
        self._eta, self._told = Eta(), 0.0
        self._whole = Progress("compare", 0, 1)
        self.job = job = Job(task, self)
        job.progressed.connect(self._on_progressed)
        job.returned.connect(on_returned)
        job.failed.connect(lambda error: tell_error(self.panel, error, "Comparing"))
        job.cancelled.connect(lambda: self.panel.show_message("Cancelled; nothing was changed."))
        job.finished.connect(self._on_finished)
        job.start()

    def _on_clicked(self) -> None:
        if self.job is None:
            self.compare()
            return
        self.job.cancel()
        self.panel.button.setText("Cancelling…")
        self.panel.button.setEnabled(False)

    def _on_progressed(self, progress: Progress) -> None:
        if progress.stage == "compare":
            self._whole = progress
        whole = self._whole
        if not whole.note:
            return  # nothing is counted yet
        part = progress.fraction if progress.stage == "tiles" else 0.0
        fine = replace(whole, done=round(FINE * (whole.done + part)), total=FINE * whole.total)
        left = self._eta.seconds_left(fine)
        now = time.monotonic()
        if now - self._told < REDRAW_S and progress.stage != "compare":
            return
        self._told = now
        self.panel.show_progress(fine.fraction, progress_line(whole, left))

    def _on_finished(self) -> None:
        self.job = None
        self.panel.show_running(is_running=False)
        self.finished.emit()

    # -- what is shown ------------------------------------------------------------------------------------

    def _show(self, compared: Compared) -> None:
        self.compared = compared
        self.panel.show_compared(compared)

    def _show_in(self, compared: Compared, source: Source) -> None:
        self._show(compared)
        remove(self.viewer, {"source": source.layer_id, "output": DISAGREEMENT})
        if compared.layer is not None:
            self._add(compared.layer)

    def _show_opened(self, layers: tuple[Layer, ...]) -> None:
        for layer in self._opened:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._opened = list(layers)
        for layer in layers:
            self._add(layer)
        self.viewer.reset_view()

    def _add(self, layer: Layer) -> None:
        active = self.viewer.layers.selection.active
        self.viewer.add_layer(layer)
        if active is not None and active in self.viewer.layers:
            self.viewer.layers.selection.active = active

    def _on_image_clicked(self, item: QTableWidgetItem) -> None:
        self.open(getattr(item, "place", 0))


def progress_line(whole: Progress, seconds_left: float | None) -> str:
    """Return which model counts in which image, and how long it all still takes.

    Examples
    --------
    ``set03: flow · image 3 of 37 · 2 min left``
    """
    parts = [whole.note]
    if whole.total > 2:
        parts.append(f"image {whole.done // 2 + 1} of {whole.total // 2}")
    if seconds_left is not None:
        parts.append(f"{duration(seconds_left)} left")
    return " · ".join(parts)
