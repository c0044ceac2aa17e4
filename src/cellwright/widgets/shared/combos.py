"""Boxes to choose from that fill themselves; those of layers, their channels, and where cells count."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Shapes
from qtpy.compat import isalive
from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtCore import Signal as QtSignal
from qtpy.QtGui import QPaintEvent
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QLineEdit,
    QListWidget,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)

from cellwright.core.data import Image
from cellwright.ops.measure.regions import Region, RegionSet, ShapeRegion
from cellwright.widgets.shared.cells.regions import RegionLayers
from cellwright.widgets.shared.coordinates import FILE_PART, Channel, channels_of
from cellwright.widgets.shared.edited_layers import ACTIVE_KEPT, is_image, is_shapes
from cellwright.widgets.shared.flow import WrappedButton
from cellwright.widgets.shared.messages import listen, news_of
from cellwright.widgets.shared.napari_private import free_in_own_context, unwrapped
from cellwright.widgets.shared.style import MessageLabel

OTHER_FOLDER = "*"  # data of the entry that asks for a folder; no name or path
NO_LAYER = ""  # data of the entry for none
AXES_EVENTS = ("axis_labels", "data")  # of a layer whose axes may be others now
LETTERS = 6  # that a box has room for in the narrowest panel
LEADS = {"T": "frame", "Z": "slice"}  # axes that shapes may be drawn in
LEAVE_OUT = "Left out in {} alone: leave out in {}"
RULES = {"Centre inside": "centre", "Any overlap": "overlap", "Wholly inside": "whole"}
SIDES = {"Inside": False, "Outside": True}


class PanelComboBox(QComboBox):
    """A box that shrinks with its panel, and keeps what is chosen when its entries change.

    ``folders`` is the title of the dialog in which a folder can be chosen too; empty for none.
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
            self.choose_data(wanted)
        self._on_index_changed()

    def place_of(self, data: Any) -> int:
        """Return where an entry stands, 0 where there is none of this data."""
        places = (place for place in range(self.count()) if self.itemData(place) == data)
        return next(places, 0)

    def choose_data(self, data: Any) -> None:
        """Choose the entry of this data, the first where there is none."""
        self.setCurrentIndex(self.place_of(data))

    def add_folder(self, folder: Path) -> None:
        """List a folder, and choose it."""
        self._add_folder(folder, f"Folder · {folder.name}", str(folder))

    def _add_folder(self, folder: Path, title: str, help_text: str) -> None:
        if folder not in self._folders:
            self._folders[folder] = title
            place = self.count()
            if self._dialog_title:
                place -= 1
            self.insertItem(place, title, str(folder))
            self.setItemData(place, help_text, Qt.ItemDataRole.ToolTipRole)
        self.choose_data(str(folder))

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
        self.choose_data(self._last)
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

    Listed are those that it ``accepts``, below an entry for no layer where ``none`` is its title;
    ``otherwise`` is shown where there is nothing to choose. Where it ``follows_active`` a layer that becomes
    the active one is chosen, as long as the box is enabled.
    """

    def __init__(
        self,
        accepts: Callable[[Layer], bool] = is_image,
        help_text: str = "",
        *,
        none: str = "",
        otherwise: str = "no image",
        follows_active: bool = False,
        folders: str = "",
    ) -> None:
        super().__init__(help_text, folders=folders)
        self.accepts, self.none = accepts, none
        self.follows: Callable[[Layer], bool] = lambda _: True  # whether one is chosen as it becomes active
        self.usual: Callable[[], Layer | None] = self._latest  # what to choose where the chosen one is gone
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

    def choose_active(self, event: Any = None) -> None:
        """Choose the active layer where it is listed and the box is enabled.

        Without the event of a layer that becomes active, what was counted since is chosen before it.
        """
        if self.isEnabled() and not ACTIVE_KEPT.get():
            active = self._latest() if event is None else self._active()
            if self._viewer.layers.selection.active not in (None, self._added):  # None comes between two
                self._added = None
            if active is not None and self.follows(active):
                self.choose(active)

    def _on_inserted(self, event: Any) -> None:
        self._added = unwrapped(event.value)

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

    def _latest(self) -> Layer | None:
        """Return what was counted, or its cells, where no layer was chosen since; else the active layer."""
        counted: list[Layer] = []
        if self._viewer is not None:
            counted = news_of(self._viewer).counted_layers(self._layers)
        return next((one for one in counted if one in self.listed), None) or self._active()

    def _active(self) -> Layer | None:
        """Return the active layer; the first channel of its file where napari made it so, not the user."""
        if self._viewer is None:
            return None
        active = next((one for one in self.listed if one is self._viewer.layers.selection.active), None)
        if active is None or active is not self._added or FILE_PART not in active.metadata:
            return active
        image = active.metadata[FILE_PART].image
        parts = [(one, one.metadata.get(FILE_PART)) for one in reversed(self.listed)]
        return next(one for one, part in parts if part is not None and part.image is image)

    @property
    def _layers(self) -> list[Layer]:
        return [] if self._viewer is None else list(self._viewer.layers)


def _key(layer: Layer | None) -> str | None:
    return None if layer is None else str(layer.unique_id)


class ChannelComboBox(PanelComboBox):
    """The channels of an image layer."""

    def __init__(self, help_text: str = "Channel in which cells are counted.") -> None:
        super().__init__(help_text)
        self._followed: Layer | None = None
        self.list_channels(())

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        return self.currentData()

    def choose_number(self, number: int | None) -> None:
        """Choose the channel of this number, None for colours together; nothing where there is none."""
        for place in range(self.count()):
            channel = self.itemData(place)
            if channel is not None and channel.index == number:
                self.setCurrentIndex(place)

    def list_channels_of(self, layer: Layer | None) -> None:
        """List the channels that a layer has from now on; the chosen one stays so where it has the same."""
        for name in AXES_EVENTS:
            if self._followed is not None:
                getattr(self._followed.events, name).disconnect(self._relist)
            if layer is not None:
                getattr(layer.events, name).connect(self._relist)
        self._followed = layer
        self._relist()

    def _relist(self, _: Any = None) -> None:
        if isalive(self):
            layer = self._followed
            self.list_channels(channels_of(layer) if isinstance(layer, ImageLayer) else ())

    def list_channels(self, channels: Iterable[Channel]) -> None:
        """List channels; the chosen one stays so while it is there."""
        entries = [(channel.title, channel) for channel in channels]
        self.fill(entries, self.channel, otherwise="none")
        self.setEnabled(len(entries) > 1)


class EverywhereButton(WrappedButton):
    """Offers shapes that were drawn in one slice or frame for all of them; out of sight where they are."""

    def __init__(self, words: str = "In {} alone: use in {}") -> None:
        super().__init__()
        self._words = words
        self.setToolTip("Copy the shapes to a layer without slices and frames, which holds in all of them.")
        self.hide()

    def show_for(self, layer: Layer | None, regions: Iterable[Region], image: Image) -> None:
        """Tell the one slice or frame of several that all shapes of a layer hold in; without one, nothing."""
        shapes = [one for one in regions if isinstance(one, ShapeRegion) and layer is not None]
        lead = list(zip(image.axes.replace("C", ""), image.label_shape, strict=True))[:-2]
        places = {((None,) * len(lead) + one.index)[-len(lead) :] for one in shapes if lead}
        drawn, every = [], []
        if len(places) == 1:
            for (axis, n), at in zip(lead, places.pop(), strict=True):
                if at is not None and n > 1:
                    drawn.append(f"{LEADS.get(axis, axis)} {at}")
                    every.append(f"all {LEADS.get(axis, axis)}s")
        self.setText(self._words.format(", ".join(drawn), " and ".join(every)))
        self.setVisible(bool(drawn))


class RegionPanel(QWidget):
    """A panel with boxes that tell where cells count: shapes left out, a mask, which cells at an edge."""

    def __init__(self) -> None:
        super().__init__()
        self.exclude = LayerComboBox(
            is_shapes, "A Shapes layer: cells in its shapes are not counted.", none="Nothing"
        )
        self.mask_layer = LayerComboBox(
            self.can_mask, "A Labels layer: count only where its labels are, or where none are.", none="None"
        )
        self.mask_side = PanelComboBox("Count inside the labels of the mask, or outside.")
        self.mask_side.fill(SIDES.items())
        self.rule = PanelComboBox("Which cells at the edge of a region are counted.")
        self.rule.fill(RULES.items())
        self.everywhere, self.out_everywhere = EverywhereButton(), EverywhereButton(LEAVE_OUT)

    def add_mask_rows(self, form: QFormLayout) -> None:
        """Add the mask, and below it, where there is one, which side of it counts."""
        form.addRow("Mask", self.mask_layer)
        form.addRow("", self.mask_side)  # below: both would be wider than a narrow panel

        def show_side() -> None:
            form.setRowVisible(self.mask_side, self.mask_layer.layer is not None)

        self.mask_layer.chosen.connect(show_side)
        show_side()

    def can_mask(self, layer: Layer) -> bool:
        """Return whether a layer is listed as a mask."""
        return isinstance(layer, Labels)

    def region_layers(self, shapes: Shapes | None = None) -> RegionLayers:
        """Return the layers that the boxes tell, with those shapes to count in."""
        mask, is_outside = self.mask_layer.layer, self.mask_side.currentData()
        return RegionLayers(shapes, self.exclude.layer, mask, is_outside=is_outside)

    def choose_region_layers(self, layers: RegionLayers) -> None:
        """Choose the shapes left out and the mask of some layers, those of them that are there."""
        self.exclude.choose(layers.excluded)
        self.mask_layer.choose(layers.mask)
        self.mask_side.choose_data(layers.is_outside)

    def offer_everywhere(self, shapes: Layer | None, regions: RegionSet, image: Image) -> None:
        """Offer shapes that hold in one slice or frame for all of them."""
        self.everywhere.show_for(shapes, regions.included, image)
        self.out_everywhere.show_for(self.exclude.layer, regions.excluded, image)
