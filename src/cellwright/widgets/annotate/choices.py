"""What can be annotated: image, channel, cells to begin with, and what was begun before."""

from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.session_setup import journal_path, unfinished
from cellwright.widgets.annotate.view import AnnotatePanel
from cellwright.widgets.shared.combos import fill
from cellwright.widgets.shared.coordinates import Channel, channels_of
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_io import image_of


class AnnotateChoices(QObject):
    """Fills the boxes at the top of the panel and reads them.

    Parameters
    ----------
    model
        Has the viewer, and tells whether something is open already.
    panel
        Whose boxes are filled.
    """

    def __init__(self, model: AnnotateModel, panel: AnnotatePanel) -> None:
        super().__init__(panel)
        self._model, self._viewer, self._panel = model, model.viewer, panel
        self.offered: Path | None = None  # journal of what can be resumed
        self._panel.image.currentIndexChanged.connect(self._on_image_chosen)

    @property
    def image(self) -> ImageLayer | None:
        """The chosen image layer."""
        found = self._chosen(self._panel.image.currentData())
        if isinstance(found, ImageLayer):
            return found
        return None

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        channel: Channel | None = self._panel.channel.currentData()
        return channel

    @property
    def start(self) -> Layer | None:
        """The layer to begin with, None for nothing."""
        return self._chosen(self._panel.start.currentData())

    def _chosen(self, unique_id: Any) -> Layer | None:
        return next((layer for layer in self._viewer.layers if str(layer.unique_id) == unique_id), None)

    def refresh(self) -> None:
        """List the layers; the active image, and labels of it that a count left, become the chosen ones."""
        images = [
            layer for layer in self._viewer.layers
            if isinstance(layer, ImageLayer) and METADATA not in layer.metadata
        ]  # fmt: skip
        active = self._viewer.layers.selection.active
        before = wanted = self._panel.image.currentData()
        if active in images:
            wanted = str(active.unique_id)
        fill(self._panel.image, _entries(images), wanted, otherwise="no image layer")
        if self._panel.image.currentData() != before:
            self._on_image_chosen()
        starts = [layer for layer in self._viewer.layers if isinstance(layer, Labels | Points)]
        kept = self._panel.start.currentData()
        known = [str(layer.unique_id) for layer in starts]
        if active in starts:
            kept = str(active.unique_id)
        elif kept not in known:
            kept = self._best(starts)
        fill(self._panel.start, [*_entries(starts), ("Nothing: an empty image", None)], kept)
        self._panel.begin.setEnabled(bool(images))

    def _best(self, starts: list[Any]) -> str | None:
        """Return the labels that the last count of the chosen image left, else the topmost."""
        image = self._panel.image.currentData()
        own = [one for one in starts if one.metadata.get(METADATA, {}).get("source") == image]
        found = [one for one in own or starts if isinstance(one, Labels)]
        if not found:
            return None
        return str(found[-1].unique_id)

    def _on_image_chosen(self, _: int = 0) -> None:
        layer = self.image
        entries = []
        if layer is not None:
            entries = [(channel.title, channel) for channel in channels_of(layer)]
        fill(self._panel.channel, entries, self.channel, otherwise="none")
        if self._panel.isVisible():
            self.offer()

    def offer(self) -> None:
        """Offer to resume an annotation of the chosen image, if one was begun."""
        self.offered = None
        self._panel.show_offer("")
        if self._model.session is not None or self.image is None:
            return
        try:
            found = unfinished(journal_path(image_of(self.image, self.channel), self._model.journals))
        except CellwrightError:
            return  # an image that cannot be annotated; Start tells why
        if found is not None:
            self.offered = found.path
            self._panel.show_offer(found.line)


def _entries(layers: list[Any]) -> list[tuple[str, str]]:
    return [(layer.name, str(layer.unique_id)) for layer in reversed(layers)]
