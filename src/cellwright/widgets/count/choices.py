"""What a user can choose to count with, as the boxes of the panel tell it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.core.errors import CheckpointError
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.combos import SPECS
from cellwright.widgets.shared.coordinates import NO_CHANNELS, Channel, channels_of, is_understood
from cellwright.widgets.shared.napari_private import preferences
from cellwright.widgets.shared.regions import RegionLayers


class Choices(QObject):
    """Reads the boxes of a panel, which follow the layers of a viewer.

    Parameters
    ----------
    viewer
        A napari viewer.
    panel
        Whose boxes are read.
    """

    scene_changed = Signal()  # layers came or went, or the view turned to 3D or back

    def __init__(self, viewer: Any, panel: CountPanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        panel.image.chosen.connect(self.refresh_channels)
        for box in (panel.image, panel.exclude, panel.mask_layer):
            box.follow(viewer)
        own = preferences()
        if own.device != "auto":
            panel.device.fill([("Auto", "auto"), (own.device, own.device)], own.device)
        if own.model:
            with suppress(CheckpointError):  # one that is gone
                self.choose_model(own.model)
        layers = viewer.layers
        for emitter in (layers.events.inserted, layers.events.removed, viewer.dims.events.ndisplay):
            emitter.connect(self._on_scene_changed)

    @property
    def layer(self) -> Layer | None:
        """The chosen image layer; without any, what is active, for an error to tell."""
        layer: Layer | None = self._panel.image.layer or self._viewer.layers.selection.active
        return layer

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        return self._panel.channel.channel

    @property
    def device(self) -> str:
        """Name of the chosen device."""
        return self._panel.device.device

    @property
    def classifier(self) -> str:
        """Name of the chosen classifier; empty for none, and for families that do not give cells."""
        return self._panel.classes.classifier

    @property
    def model(self) -> str:
        """Name or folder of the chosen model; raises CheckpointError where there is none."""
        return self._panel.model.model_name

    @property
    def family(self) -> str:
        """Family of the chosen model; the first one when there is no model."""
        return self._panel.model.family

    @property
    def region_layers(self) -> RegionLayers:
        """The layers of what is left out and of the mask."""
        panel = self._panel
        return RegionLayers(
            excluded=panel.exclude.layer,
            mask=panel.mask_layer.layer,
            is_outside=panel.mask_side.currentData(),
        )

    def choose_model(self, name: str) -> None:
        """Choose a model by its name or folder.

        Raises
        ------
        CheckpointError
            There is no such model.
        """
        box = self._panel.model
        if box.findData(name) < 0 and (Path(name) / SPECS).exists():
            box.add_folder(Path(name))
        if not name or box.findData(name) < 0:
            raise CheckpointError(f"There is no model {name!r} here. Import it, or choose another one.")
        box.setCurrentIndex(box.findData(name))

    def _on_scene_changed(self, _: Any = None) -> None:
        if isalive(self):  # type: ignore[no-untyped-call]
            self.scene_changed.emit()

    def refresh_channels(self) -> None:
        """List the channels of the chosen image, as far as its axes are known."""
        layer = self._panel.image.layer
        channels: tuple[Channel, ...] = ()
        if isinstance(layer, ImageLayer) and is_understood(layer):
            channels = tuple(one for one in channels_of(layer) if one.title != NO_CHANNELS)
        self._panel.channel.list_channels(channels)
