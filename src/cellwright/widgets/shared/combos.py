"""Boxes to choose from that fill themselves: layers, channels, models, classifiers, devices."""

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from napari.utils.notifications import show_warning
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QListWidget,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from cellwright.core.errors import CellwrightError, CheckpointError, error_line
from cellwright.core.tasks import Progress, Task
from cellwright.models import registry, store
from cellwright.models.spec import SPEC, ModelSpec, read_spec
from cellwright.widgets.shared.coordinates import FILE_PART, Channel, channels_of
from cellwright.widgets.shared.edited_layers import ACTIVE_KEPT, is_image
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_factory import bright_colours
from cellwright.widgets.shared.messages import listen
from cellwright.widgets.shared.napari_private import (
    free_in_own_context,
    preferences,
    prepare_labels,
    unwrapped,
)
from cellwright.widgets.shared.style import MessageLabel, button, fill, row

OTHER_FOLDER = ""  # data of the entry that asks for a folder
NO_LAYER = ""  # data of the entry for none
CARD_HELP = "The card of this model: what it learned from, how good it is on what, licence of its weights."
CARD_SIZE_PX = (640, 560)
LETTERS = 6  # that a box has room for in the narrowest panel


class ModelEvents:
    """Tells of changes to the folder of the user's models, to every model list of this process."""

    changed = Signal()


model_events = ModelEvents()


class PanelComboBox(QComboBox):
    """A box that shrinks with its panel, and keeps what is chosen when its entries change.

    Parameters
    ----------
    folders
        Title of the dialog in which a folder can be chosen too; empty for none.
    """

    chosen = QtSignal()  # something else is chosen, by the user or because the entries changed

    def __init__(self, help_text: str = "", *, folders: str = "") -> None:
        super().__init__()
        self.setToolTip(help_text)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(LETTERS)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._folders: dict[Path, str] = {}  # title of each that was chosen by hand
        self._dialog_title = folders
        self._last: Any = None
        self.is_by_user = False  # whether somebody chose what is chosen
        self.currentIndexChanged.connect(self._on_index_changed)
        self.activated.connect(self._on_activated)

    @property
    def folder(self) -> Path | None:
        """The chosen folder, None where something else is chosen."""
        return next((one for one in self._folders if str(one) == self.currentData()), None)

    def fill(self, entries: Iterable[tuple[str, Any]], wanted: Any = None, otherwise: str = "") -> None:
        """List titles and their data; choose ``wanted`` where it is among them, else the first."""
        listed = [*entries, *((title, str(one)) for one, title in self._folders.items())]
        if not listed and otherwise:
            listed = [(otherwise, None)]
        if self._dialog_title:
            listed.append(("Choose a folder…", OTHER_FOLDER))
        with QSignalBlocker(self):
            self.clear()
            for place, (title, data) in enumerate(listed):
                self.addItem(title, data)
                self.setItemData(place, title, Qt.ItemDataRole.ToolTipRole)
            self.setCurrentIndex(self.place_of(wanted))
        self._on_index_changed()

    def place_of(self, data: Any) -> int:
        """Return where an entry stands, 0 where there is none of this data."""
        places = (place for place in range(self.count()) if self.itemData(place) == data)
        return next(places, 0)

    def add_folder(self, folder: Path) -> None:
        """List a folder, and choose it."""
        self._add_folder(folder, f"Folder · {folder.name}", str(folder))

    def _add_folder(self, folder: Path, title: str, help_text: str) -> None:
        if folder not in self._folders:
            self._folders[folder] = title
            place = self.count() - 1
            self.insertItem(place, title, str(folder))
            self.setItemData(place, help_text, Qt.ItemDataRole.ToolTipRole)
        self.setCurrentIndex(self.place_of(str(folder)))

    def paintEvent(self, _: QPaintEvent | None) -> None:
        """Draw the box, its text shortened where there is no room; called by Qt."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        style, part = QStyle.ComplexControl.CC_ComboBox, QStyle.SubControl.SC_ComboBoxEditField
        own = self.style()
        assert own is not None
        room = own.subControlRect(style, option, part, self).width()
        option.currentText = self.shortened(self.currentText(), room)
        painter.drawComplexControl(style, option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def shortened(self, text: str, room_px: int) -> str:
        """Return a text that fits, without its middle: layers differ at the end of their names."""
        return self.fontMetrics().elidedText(text, Qt.TextElideMode.ElideMiddle, room_px)

    def _on_index_changed(self, _: int = 0) -> None:
        data = self.currentData()
        if data != self._last and not (self._dialog_title and data == OTHER_FOLDER):
            self._last = data
            self.chosen.emit()

    def _on_activated(self, index: int) -> None:
        self.is_by_user = True
        if not self._dialog_title or self.itemData(index) != OTHER_FOLDER:
            return
        self.setCurrentIndex(self.place_of(self._last))
        folder = QFileDialog.getExistingDirectory(self, self._dialog_title)
        if folder:
            self.add_folder(Path(folder))


def forget_errors(message: MessageLabel, panel: QWidget) -> None:
    """Take an error away once something is chosen, typed or ticked in a panel: its cause may be gone."""
    for box in panel.findChildren(PanelComboBox):
        box.chosen.connect(message.forget_error)
    for line in panel.findChildren(QLineEdit):
        line.textEdited.connect(message.forget_error)
    for tick in panel.findChildren(QCheckBox):
        tick.clicked.connect(message.forget_error)
    for entries in panel.findChildren(QListWidget):
        entries.itemChanged.connect(message.forget_error)


class LayerComboBox(PanelComboBox):
    """The layers of a viewer of one kind, the topmost first; those of renamed and moved layers stay chosen.

    Parameters
    ----------
    accepts
        Tells whether a layer is listed.
    none
        Title of a first entry, for no layer; empty for none.
    otherwise
        Shown where there is nothing to choose.
    follows_active
        Whether a layer that becomes the active one is chosen, as long as the box is enabled.
    folders
        Title of the dialog in which a folder can be chosen too; empty for none.
    """

    def __init__(
        self,
        accepts: Callable[[Layer], bool] = is_image,
        help_text: str = "",
        *,
        none: str = "",
        otherwise: str = "no image layer",
        follows_active: bool = False,
        folders: str = "",
    ) -> None:
        super().__init__(help_text, folders=folders)
        self.accepts, self.none = accepts, none
        self.follows: Callable[[Layer], bool] = lambda _: True  # whether one is chosen as it becomes active
        self.usual: Callable[[], Layer | None] = self._active  # what to choose where the chosen one is gone
        if none:
            self.usual = lambda: None
        self._otherwise, self._follows_active = otherwise, follows_active
        self._viewer: Any = None
        self._added: Any = None  # the layer that napari made active as it was added, until another one is

    def follow(self, viewer: Any) -> None:
        """List the layers of a viewer from now on."""
        self._viewer = unwrapped(viewer)
        self._added = next(reversed(self._layers), None)
        free_in_own_context(self._viewer)
        events = self._viewer.layers.events
        listen(events.inserted, self._on_inserted, self)
        for emitter in (events.inserted, events.removed, events.renamed, events.reordered):
            listen(emitter, self.refresh, self)
        if self._follows_active:
            listen(self._viewer.layers.selection.events.active, self.choose_active, self)
        self.refresh()

    @property
    def layer(self) -> Layer | None:
        """The chosen layer."""
        data = self.currentData()
        return next((one for one in self._layers if _key(one) == data), None)

    @property
    def listed(self) -> list[Layer]:
        """The layers that can be chosen, the topmost first."""
        return [one for one in reversed(self._layers) if self.accepts(one)]

    def choose(self, layer: Layer | None) -> None:
        """List the layers and choose one; None for the first entry."""
        self.is_by_user = False
        self._list(_key(layer))

    def choose_active(self, _: Any = None) -> None:
        """Choose the active layer where it is listed and the box is enabled."""
        if self.isEnabled() and not ACTIVE_KEPT.get():
            active = self._active()
            if self._viewer.layers.selection.active not in (None, self._added):  # None comes between two
                self._added = None
            if active is not None and self.follows(active):
                self.choose(active)

    def _on_inserted(self, event: Any) -> None:
        self._added = unwrapped(event.value)

    def _first_channel(self, layer: Layer) -> Layer:
        """Return the first channel of the file that a layer is a channel of, which is counted by default."""
        part = layer.metadata.get(FILE_PART)
        for one in self._layers:
            other = one.metadata.get(FILE_PART)
            if part is not None and other is not None and other.image is part.image and self.accepts(one):
                return one
        return layer

    def refresh(self, _: Any = None) -> None:
        """List the layers; the chosen one stays so while it is there."""
        data = self.currentData()
        is_kept = self.folder is not None or (self.is_by_user and data == NO_LAYER)
        if not is_kept and data not in map(_key, self.listed):
            data = _key(self.usual())
        self._list(data)

    def _list(self, data: Any) -> None:
        entries: list[tuple[str, Any]] = [(one.name, _key(one)) for one in self.listed]
        if self.none:
            entries.insert(0, (self.none, NO_LAYER))
        self.fill(entries, data, self._otherwise)

    def _active(self) -> Layer | None:
        if self._viewer is None:
            return None
        active = next((one for one in self.listed if one is self._viewer.layers.selection.active), None)
        if active is not None and active is self._added:  # by napari, not by the user
            return self._first_channel(active)
        return active

    @property
    def _layers(self) -> list[Layer]:
        return [] if self._viewer is None else list(self._viewer.layers)


def _key(layer: Layer | None) -> str | None:
    return None if layer is None else str(layer.unique_id)


class ChannelComboBox(PanelComboBox):
    """The channels of an image layer."""

    def __init__(self, help_text: str = "Channel in which cells are counted.") -> None:
        super().__init__(help_text)
        self.list_channels(())

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        channel: Channel | None = self.currentData()
        return channel

    def list_channels_of(self, layer: Layer | None) -> None:
        """List the channels of a layer; the chosen one stays so where it has the same."""
        self.list_channels(channels_of(layer) if isinstance(layer, ImageLayer) else ())

    def list_channels(self, channels: Iterable[Channel]) -> None:
        """List channels; the chosen one stays so while it is there."""
        entries = [(channel.title, channel) for channel in channels]
        self.fill(entries, self.channel, otherwise="none")
        self.setEnabled(len(entries) > 1)


class ModelComboBox(PanelComboBox):
    """The models that travel with the package and the user's own, by what they give back.

    Parameters
    ----------
    accepts
        Tells whether a model is listed.
    after
        Further entries, titles and data.
    usual
        Gives the name to choose where the chosen one is gone, from the family of each; else it is the first.
    otherwise
        Shown where there is no model.
    folders
        Title of the dialog in which a model folder can be chosen too; empty for none.
    """

    failed = QtSignal(object)  # CellwrightError: the chosen folder holds no model

    def __init__(
        self,
        help_text: str = "What finds the cells.",
        *,
        accepts: Callable[[store.ModelEntry], bool] = lambda _: True,
        after: Iterable[tuple[str, Any]] = (),
        usual: Callable[[Mapping[str, str]], str | None] = lambda _: None,
        otherwise: str = "none",
        folders: str = "",
    ) -> None:
        super().__init__(help_text, folders=folders)
        self._accepts, self._after, self._usual, self._otherwise = accepts, tuple(after), usual, otherwise
        self._families: dict[str, str] = {}
        listen(model_events.changed, self.refresh, self)
        self.refresh()

    def shortened(self, text: str, room_px: int) -> str:
        """Return a title that fits; the name of the model, at its end, is kept for the longest."""
        name, short = text.rpartition(" · ")[2], super().shortened(text, room_px)
        if short.endswith(name):
            return short
        return super().shortened(name, room_px)

    @property
    def model_name(self) -> str:
        """Name or folder of the chosen model.

        CheckpointError where there is none.
        """
        model = self.currentData()
        if not model:
            raise CheckpointError(
                f"A model is needed to count; none was found in {store.shipped_folder()} and "
                f"{store.user_folder()}. Choose a model folder, or install cellwright again."
            )
        return str(model)

    @property
    def families(self) -> Mapping[str, str]:
        """Family of each listed model, by its name or folder."""
        return self._families

    @property
    def family(self) -> str:
        """Family of the chosen model; the first one when there is no model."""
        return self._families.get(str(self.currentData()), registry.DEFAULT_FAMILY)

    @property
    def siblings(self) -> list[tuple[str, str]]:
        """Title and name or folder of the other models of the family of the chosen one."""
        entries = [(self.itemText(place), self.itemData(place)) for place in range(self.count())]
        chosen, family = self.currentData(), self._families.get(str(self.currentData()))
        return [
            (title, str(data))
            for title, data in entries
            if data != chosen and family is not None and self._families.get(str(data)) == family
        ]

    def refresh(self, wanted: str = "") -> None:
        """List the models and choose one; the chosen one stays so while it is there."""
        order = list(registry.FAMILIES)
        entries = [one for one in store.models() if one.spec.family in order and self._accepts(one)]
        entries.sort(key=lambda entry: order.index(entry.spec.family))
        self._folders = {one: title for one, title in self._folders.items() if (one / SPEC).exists()}
        chosen = {str(one): self._families[str(one)] for one in self._folders}
        self._families = {one.name: one.spec.family for one in entries} | chosen
        data = wanted or self.currentData()
        if data not in self._families and data not in (one for _, one in self._after):
            data = self._usual(self._families)
        titles = [(model_title(one.name, one.spec.family), one.name) for one in entries]
        self.fill([*titles, *self._after], data, self._otherwise)
        for place, entry in enumerate(entries):
            self.setItemData(place, model_help(entry.spec), Qt.ItemDataRole.ToolTipRole)

    def choose_preferred(self) -> None:
        """Choose the model of the Preferences where it is listed, or is a folder that could be."""
        own = preferences().model
        place = self.findData(own)
        if own and place >= 0:
            self.setCurrentIndex(place)
        if not own or place >= 0:
            return
        try:
            folder = store.find(own)
            if self._accepts(store.ModelEntry(folder.name, folder, read_spec(folder / SPEC), {})):
                self.add_folder(folder)
        except CellwrightError as error:
            told = CheckpointError(f"The model set in the Preferences is not used. {error_line(error)}")
            QTimer.singleShot(0, lambda: self._tell(told))  # once it is listened to

    def _tell(self, error: CellwrightError) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self.failed.emit(error)

    def with_card(self) -> QHBoxLayout:
        """Return the box with the button beside it that shows the card of the chosen model."""
        card = button("Card", CARD_HELP)
        card.clicked.connect(self.show_card)

        def follow() -> None:
            card.setEnabled(str(self.currentData()) in self._families)

        self.chosen.connect(follow)
        follow()
        return row(self, card)

    def show_card(self) -> None:
        """Show the card of the chosen model, or why there is none, in a window of its own."""
        try:
            text = store.card_text(self.model_name)
        except CellwrightError as error:
            text = error_line(error)
        ModelCard(self.currentText(), text, self).show()

    def add_folder(self, folder: Path) -> None:
        """List a model folder and choose it; tell by ``failed`` when it is none."""
        try:
            spec = read_spec(folder / SPEC)
            registry.get(spec.family)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        self._families[str(folder)] = spec.family
        self._add_folder(folder, model_title(folder.name, spec.family), model_help(spec))


class ModelCard(QDialog):
    """A window with the card of a model, in markdown, which stays beside the viewer until it is closed."""

    def __init__(self, title: str, text: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(title)
        self.resize(*CARD_SIZE_PX)
        self.browser = QTextBrowser()
        self.browser.setOpenExternalLinks(True)
        self.browser.setMarkdown(text)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Close)
        buttons.rejected.connect(self.reject)
        fill(QVBoxLayout(self), self.browser, buttons)


class ClassifierComboBox(PanelComboBox):
    """The classifiers that give cells their classes, and none."""

    def __init__(self) -> None:
        super().__init__("Classify the cells after counting.")
        self.fill([("None", ""), *classifiers()])

    @property
    def classifier(self) -> str:
        """Name of the chosen classifier; empty for none, and where the box is disabled."""
        return str(self.currentData()) if self.isEnabled() else ""


class DeviceComboBox(PanelComboBox):
    """The devices of this machine; begins with that of the Preferences, be it there or not."""

    def __init__(self) -> None:
        super().__init__("Where the network runs; Auto takes the fastest.")
        self._job: Job | None = None
        own = preferences().device
        self._preferred = [(own, own)] * (own != "auto")
        self.fill([("Auto", "auto"), *self._preferred], own)

    @property
    def device(self) -> str:
        """Name of the chosen device."""
        return str(self.currentData())

    def find_devices(self) -> None:
        """Name the devices, once; found beside the viewer since torch takes a second to import."""
        if self._job is None:
            self._job = Job(device_task(), self)
            self._job.returned.connect(self._on_found)
            self._job.failed.connect(self._on_failed)
            self._job.start()

    def _on_found(self, found: tuple[tuple[str, str], ...]) -> None:
        entries = [(f"Auto · {found[0][1]}", "auto"), *((title, name) for name, title in found)]
        names = [name for _, name in entries]
        entries += [
            one for one in self._preferred if one[1] not in names
        ]  # a count tells that it is not there
        self.fill(entries, self.device)

    def _on_failed(self, error: Exception) -> None:
        self._job = None  # looked for again when the panel is shown the next time
        show_warning(f"The devices of this machine could not be listed: {error_line(error)}")


def classifiers() -> list[tuple[str, str]]:
    """Return title and name of every classifier: ``[("blood: RBC, WBC, Platelet", "blood")]``."""
    entries = store.classifiers()
    return [(f"{entry.name}: {', '.join(entry.spec.classes)}", entry.name) for entry in entries]


def model_title(name: str, family: str) -> str:
    """Return what a model finds, then its name: ``Nuclei and cells, outlines · flow``."""
    return f"{registry.get(family).title} · {name}"


def model_help(spec: ModelSpec) -> str:
    """Return what a model is good for, and how its family works."""
    return f"{spec.title}.\n{registry.get(spec.family).description}."


def device_task() -> Task[tuple[tuple[str, str], ...]]:
    """Return name and title of this machine's devices, having loaded what the first count will need."""
    yield Progress("devices", 0, 1)
    prepare_labels(bright_colours())
    from cellwright.inference.device import devices

    import_module("cellwright.inference.pipeline")  # while it is loaded the viewer waits: not during a count
    return tuple(devices())
