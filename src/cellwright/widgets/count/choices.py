"""What a user can choose to count with: layers, channels, models, devices, kept up to date in the panel."""

from pathlib import Path
from typing import Any, TypeVar

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Qt, Signal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QComboBox, QFileDialog

from cellwright.core.errors import CellwrightError, CheckpointError
from cellwright.models import registry, store
from cellwright.models.spec import read_spec
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.classes import classifiers
from cellwright.widgets.shared.combos import SPECS, device_task, fill, model_events, model_help, model_title
from cellwright.widgets.shared.coordinates import NO_CHANNELS, Channel, channels_of, is_understood
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.preferences import preferences
from cellwright.widgets.shared.regions import RegionLayers, shapes_layers

AnyLayer = TypeVar("AnyLayer", bound=Layer)
OTHER_FOLDER = ""  # data of the entry that asks for a model folder


class Choices(QObject):
    """Fills the boxes of a panel and reads them.

    Parameters
    ----------
    viewer
        A napari viewer; the image box follows its layers.
    panel
        Whose boxes are filled.
    """

    family_changed = Signal(str)  # family of the chosen model
    layers_listed = Signal()
    scene_changed = Signal()  # layers came or went, or the view turned to 3D or back
    image_changed = Signal()  # another image was chosen as layers came or went
    failed = Signal(object)  # CellwrightError

    def __init__(self, viewer: Any, panel: CountPanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        own = preferences()
        fill(panel.device, [("Auto", "auto"), (own.device, own.device)][: 1 + (own.device != "auto")])
        self._choose(panel.device, own.device)
        self._fill_models(own.default_model)
        if own.model and panel.model.currentData() != own.model and (Path(own.model) / SPECS).exists():
            self.add_model(Path(own.model))
        fill(panel.classes, [("None", ""), *classifiers()])
        self.refresh_layers()
        panel.image.currentIndexChanged.connect(self.refresh_channels)
        panel.model.activated.connect(self._on_model_chosen)
        layers = viewer.layers
        events = (layers.events.inserted, layers.events.removed, layers.events.renamed)
        for emitter in (*events, layers.selection.events.active):
            emitter.connect(self.refresh_layers)
        for emitter in (layers.events.inserted, layers.events.removed, viewer.dims.events.ndisplay):
            emitter.connect(self._on_scene_changed)
        model_events.changed.connect(self.refresh_models)

    @staticmethod
    def _choose(box: QComboBox, data: str) -> None:
        """Choose an entry, where there is such a one."""
        box.setCurrentIndex(max(box.findData(data), 0))

    @property
    def layer(self) -> Layer | None:
        """The chosen image layer; without any, what is active, for an error to tell."""
        chosen = self._panel.image.currentData()
        found = (layer for layer in self._viewer.layers if str(layer.unique_id) == chosen)
        return next(found, self._viewer.layers.selection.active)

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        channel: Channel | None = self._panel.channel.currentData()
        return channel

    @property
    def device(self) -> str:
        """Name of the chosen device."""
        return str(self._panel.device.currentData())

    @property
    def classifier(self) -> str:
        """Name of the chosen classifier; empty for none, and for families that do not give cells."""
        return str(self._panel.classes.currentData() or "") if self._panel.classes.isEnabled() else ""

    @property
    def model(self) -> str:
        """Name or folder of the chosen model.

        Raises
        ------
        CheckpointError
            There is none.
        """
        model = self._panel.model.currentData()
        if not model:
            raise CheckpointError(
                f"A model is needed to count; none was found in {store.shipped_folder()} and "
                f"{store.user_folder()}. Choose a model folder, or install cellwright again."
            )
        return str(model)

    @property
    def family(self) -> str:
        """Family of the chosen model; the first one when there is no model."""
        return str(self._families.get(self._panel.model.currentData(), registry.DEFAULT_FAMILY))

    @property
    def region_layers(self) -> RegionLayers:
        """The layers of what is left out and of the mask."""
        return RegionLayers(
            excluded=self._layer_of(self._panel.exclude, Shapes),
            mask=self._layer_of(self._panel.mask_layer, Labels),
            is_outside=self._panel.mask_side.currentData(),
        )

    def _layer_of(self, box: QComboBox, kind: type[AnyLayer]) -> AnyLayer | None:
        chosen = box.currentData()
        found = (one for one in self._viewer.layers if str(one.unique_id) == chosen)
        return next((one for one in found if isinstance(one, kind)), None)

    def _list_region_layers(self) -> None:
        """List what can be left out, and the masks; what is chosen stays so while it is there."""
        masks = [one for one in self._viewer.layers if isinstance(one, Labels)]
        for box, none, layers in (
            (self._panel.exclude, "Nothing", shapes_layers(self._viewer)),
            (self._panel.mask_layer, "None", masks),
        ):
            entries = [(one.name, str(one.unique_id)) for one in reversed(layers)]
            fill(box, [(none, ""), *entries], box.currentData())
            box.setEnabled(bool(entries))
        self._panel.mask_side.setEnabled(bool(masks))

    def refresh_layers(self, _: Any = None) -> None:
        """List the image layers; the active one, if it is an image, becomes the chosen one."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return  # napari holds this callback by a weak reference, which may outlive the widget
        images = [
            layer
            for layer in self._viewer.layers
            if isinstance(layer, ImageLayer) and METADATA not in layer.metadata  # no density of ours
        ]
        entries = [(layer.name, str(layer.unique_id)) for layer in reversed(images)]
        active = self._viewer.layers.selection.active
        before = self._panel.image.currentData()
        wanted = str(active.unique_id) if active in images else self._panel.image.currentData()
        fill(self._panel.image, entries, wanted, otherwise="no image layer")
        self.refresh_channels()
        self._list_region_layers()
        self.layers_listed.emit()
        if self._panel.image.currentData() != before:
            self.image_changed.emit()

    def _on_scene_changed(self, _: Any = None) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self.scene_changed.emit()

    def refresh_models(self) -> None:
        """List the models anew; the chosen one stays so while it is there."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        family, chosen, others = self.family, self._panel.model.currentData(), self._families
        self._fill_models(chosen)
        for folder in reversed([name for name in others if name not in self._families]):
            if (Path(folder) / SPECS).exists():  # one that was chosen by hand
                self.add_model(Path(folder))
        place = self._panel.model.findData(chosen)
        self._panel.model.setCurrentIndex(max(place, 0))
        self._last_model = self._panel.model.currentIndex()
        if self.family != family:
            self.family_changed.emit(self.family)

    def find_devices(self) -> None:
        """Name the devices of this machine, found beside the viewer since torch takes a second to import."""
        job = Job(device_task(), self)
        job.returned.connect(self._on_devices_found)
        job.start()

    def refresh_channels(self, _: int = 0) -> None:
        """List the channels of the chosen image, as far as its axes are known."""
        layer = self.layer
        choices: tuple[Channel, ...] = ()
        if isinstance(layer, ImageLayer) and is_understood(layer):
            choices = tuple(one for one in channels_of(layer) if one.title != NO_CHANNELS)
        entries = [(choice.title, choice) for choice in choices]
        fill(self._panel.channel, entries, self.channel, otherwise="none")
        self._panel.channel.setEnabled(len(choices) > 1)

    def _fill_models(self, wanted: str | None = None) -> None:
        order = list(registry.FAMILIES)
        known = [entry for entry in store.models() if entry.spec.family in order]
        entries = sorted(known, key=lambda entry: order.index(entry.spec.family))
        self._families = {entry.name: entry.spec.family for entry in entries}
        names = [(model_title(entry.name, entry.spec.family), entry.name) for entry in entries]
        fill(self._panel.model, [*names, ("Choose a folder…", OTHER_FOLDER)], wanted)
        for place, entry in enumerate(entries):
            self._panel.model.setItemData(place, model_help(entry.spec), Qt.ItemDataRole.ToolTipRole)
        self._last_model = self._panel.model.currentIndex()

    def _on_model_chosen(self, index: int) -> None:
        box = self._panel.model
        if box.itemData(index) == OTHER_FOLDER:
            box.setCurrentIndex(self._last_model)
            folder = QFileDialog.getExistingDirectory(self._panel, "Model folder")
            if folder:
                self.add_model(Path(folder))
        self._last_model = box.currentIndex()
        self.family_changed.emit(self.family)

    def choose_model(self, name: str) -> None:
        """Choose a model by its name or folder.

        Raises
        ------
        CheckpointError
            There is no such model.
        """
        box = self._panel.model
        if box.findData(name) < 0 and (Path(name) / SPECS).exists():
            self.add_model(Path(name))
        place = box.findData(name)
        if place < 0 or not name:
            raise CheckpointError(f"There is no model {name!r} here. Import it, or choose another one.")
        box.setCurrentIndex(place)
        self._last_model = place
        self.family_changed.emit(self.family)

    def add_model(self, folder: Path) -> None:
        """List a model folder and choose it; tell by ``failed`` when it is none."""
        try:
            spec = read_spec(folder / SPECS)
            registry.get(spec.family)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        self._families[str(folder)] = spec.family
        self._panel.model.insertItem(0, model_title(folder.name, spec.family), str(folder))
        self._panel.model.setItemData(0, model_help(spec), Qt.ItemDataRole.ToolTipRole)
        self._panel.model.setCurrentIndex(0)

    def _on_devices_found(self, found: tuple[tuple[str, str], ...]) -> None:
        entries = [(f"Auto · {found[0][1]}", "auto"), *((title, name) for name, title in found)]
        fill(self._panel.device, entries, self.device)
