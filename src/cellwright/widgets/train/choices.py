"""What is to be trained, as the form says it: on which images, from which model, under which name."""

from pathlib import Path
from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QFileDialog, QListWidgetItem

from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models import registry, store
from cellwright.training.run_folder import SCRATCH, Plan, check_name, data_folder, free_name
from cellwright.training.settings import preset
from cellwright.widgets.shared.combos import device_task, fill, model_events, model_title
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_dataset import Pair, dataset_of, pairs
from cellwright.widgets.train.view import TrainPanel

LAYERS, OTHER_FOLDER = "layers", ""


class TrainChoices(QObject):
    """Fills the boxes of the panel and reads them.

    Parameters
    ----------
    viewer
        A napari viewer; the list of pairs follows its layers.
    panel
        Whose boxes are filled.
    """

    changed = Signal()  # other data, or another model to begin with

    def __init__(self, viewer: Any, panel: TrainPanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        self._has_own_name = False
        self._last_data = 0
        self._pairs: list[Pair] = []
        fill(panel.device, [("Auto", "auto")])
        fill(panel.data, [("Annotated layers", LAYERS), ("Choose a folder…", OTHER_FOLDER)])
        self.refresh_models()
        self._on_preset_chosen()
        self._connect()

    # -- what the form says -------------------------------------------------------------------------------

    @property
    def start(self) -> str:
        """Name or folder of the model to begin with, or ``new:`` and a family."""
        return str(self._panel.start.currentData())

    @property
    def chosen(self) -> list[Pair]:
        """The ticked pairs of image and annotation."""
        items = [self._panel.pairs.item(place) for place in range(self._panel.pairs.count())]
        return [
            pair
            for item, pair in zip(items, self._pairs, strict=True)
            if item is not None and item.checkState() == Qt.CheckState.Checked
        ]

    @property
    def is_layers(self) -> bool:
        """Whether it is the layers of the viewer that are learned from, not a folder."""
        return bool(self._panel.data.currentData() == LAYERS)

    def source(self) -> Dataset | Path:
        """Return what is to be learned from: the layers as a dataset, or a folder that was not read yet.

        Raises
        ------
        WrongLayerError
            No layer is chosen.
        """
        if not self.is_layers:
            return Path(self._panel.data.currentData())
        return dataset_of(self.chosen, self._viewer.layers, is_complete=self._panel.complete.isChecked())

    def plan(self) -> tuple[Plan, Dataset | None]:
        """Return what is to be trained, and the layers to keep for it where it learns from these.

        Raises
        ------
        CellwrightError
            The name cannot be used, no layer is chosen, or the folder is no dataset.
        """
        name, source = check_name(self._panel.name.text()), self.source()
        layers = source if isinstance(source, Dataset) else None
        if isinstance(source, Path):
            read_dataset(source)  # an error is told before anything begins
        data = data_folder(name) if isinstance(source, Dataset) else source.resolve()
        device = str(self._panel.device.currentData())
        return Plan(name, self.start, str(data), self._panel.settings, device), layers

    # -- what is put into it ------------------------------------------------------------------------------

    def choose_folder(self, folder: Path) -> None:
        """Choose a dataset folder."""
        box = self._panel.data
        with QSignalBlocker(box):
            place = box.findData(str(folder))
            if place < 0:
                place = 1
                box.insertItem(place, f"Folder · {folder.name}", str(folder))
                box.setItemData(place, str(folder), Qt.ItemDataRole.ToolTipRole)
            box.setCurrentIndex(place)
        self._on_data_changed()

    def name_anew(self) -> None:
        """Suggest a name for the next model; the one that the user gave was for the last."""
        self._has_own_name = False
        self.suggest_name()

    def suggest_name(self) -> None:
        """Give the next model a name that is free, unless the user gave one."""
        if not self._has_own_name:
            self._panel.name.setText(free_name(self.start))

    def refresh_models(self) -> None:
        """List the models of the shelf, and the families to begin anew with."""
        order = list(registry.FAMILIES)
        known = [entry for entry in store.models() if entry.spec.family in order]
        known.sort(key=lambda entry: order.index(entry.spec.family))
        entries = [(model_title(entry.name, entry.spec.family), entry.name) for entry in known]
        entries += [(f"From scratch · {family}", SCRATCH + family) for family in order]
        fill(self._panel.start, entries, self._panel.start.currentData())
        self.suggest_name()

    def refresh_pairs(self, _: Any = None) -> None:
        """List the annotated images among the layers; what was ticked stays so."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        was = {id(pair.annotation): pair in self.chosen for pair in self._pairs}
        box = self._panel.pairs
        self._pairs = pairs(reversed(self._viewer.layers))
        with QSignalBlocker(box):
            box.clear()
            for pair in self._pairs:
                item = QListWidgetItem(pair.title + (" (as counted)" if pair.is_as_counted else ""))
                is_on = was.get(id(pair.annotation), not pair.is_as_counted)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
                item.setCheckState(Qt.CheckState.Checked if is_on else Qt.CheckState.Unchecked)
                box.addItem(item)
        self._show_pairs()
        self.changed.emit()

    def find_devices(self) -> None:
        """Name the devices of this machine, found beside the viewer since torch takes a second to import."""
        job = Job(device_task(), self)
        job.returned.connect(self._on_devices_found)
        job.start()

    # -- events -------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        panel = self._panel
        panel.preset.currentIndexChanged.connect(self._on_preset_chosen)
        panel.data.activated.connect(self._on_data_chosen)
        panel.start.currentIndexChanged.connect(self._on_start_chosen)
        panel.name.textEdited.connect(self._on_name_edited)
        panel.pairs.itemChanged.connect(self.changed)
        panel.complete.toggled.connect(self.changed)
        model_events.changed.connect(self._on_news)
        layers = self._viewer.layers.events
        for emitter in (layers.inserted, layers.removed, layers.renamed):
            emitter.connect(self.refresh_pairs)

    def _on_devices_found(self, found: tuple[tuple[str, str], ...]) -> None:
        entries = [(f"Auto · {found[0][1]}", "auto"), *((title, name) for name, title in found)]
        fill(self._panel.device, entries, self._panel.device.currentData())

    def _on_preset_chosen(self, _: int = 0) -> None:
        self._panel.show_settings(preset(str(self._panel.preset.currentData())))

    def _on_data_chosen(self, index: int) -> None:
        box = self._panel.data
        if box.itemData(index) == OTHER_FOLDER:
            box.setCurrentIndex(self._last_data)
            folder = QFileDialog.getExistingDirectory(self._panel, "Dataset folder")
            if folder:
                self.choose_folder(Path(folder))
            return
        self._on_data_changed()

    def _on_data_changed(self) -> None:
        self._last_data = self._panel.data.currentIndex()
        self._show_pairs()
        self.changed.emit()

    def _show_pairs(self) -> None:
        """Show the list where there is something in it."""
        has_pairs = self.is_layers and bool(self._pairs)
        self._panel.pairs.setVisible(has_pairs)
        self._panel.complete.setVisible(has_pairs)

    def _on_start_chosen(self, _: int = 0) -> None:
        self.suggest_name()
        self.changed.emit()

    def _on_name_edited(self, text: str) -> None:
        self._has_own_name = bool(text)

    def _on_news(self) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self.refresh_models()
