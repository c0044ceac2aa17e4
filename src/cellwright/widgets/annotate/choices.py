"""What can be annotated: image, channel, cells to begin with, and what was begun before."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.start import journal_path, unfinished
from cellwright.widgets.shared.combos import fill
from cellwright.widgets.shared.coordinates import Channel, channels_of
from cellwright.widgets.shared.layer_io import METADATA, image_of

if TYPE_CHECKING:
    from cellwright.widgets.annotate.widget import AnnotateWidget


class AnnotateChoices(QObject):
    """Fills the boxes at the top of the panel and reads them.

    Parameters
    ----------
    widget
        Whose panel it is, and whose viewer has the layers.
    """

    def __init__(self, widget: "AnnotateWidget") -> None:
        super().__init__(widget)
        self._widget, self._viewer, self._panel = widget, widget.viewer, widget.panel
        self.offered: Path | None = None  # journal of what can be gone on with
        self._panel.image.currentIndexChanged.connect(self._on_image_chosen)

    @property
    def image(self) -> ImageLayer | None:
        """The chosen image layer."""
        found = self._chosen(self._panel.image.currentData())
        return found if isinstance(found, ImageLayer) else None

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
        wanted = str(active.unique_id) if active in images else self._panel.image.currentData()
        before = self._panel.image.currentData()
        fill(self._panel.image, _entries(images), wanted, otherwise="no image layer")
        if self._panel.image.currentData() != before:
            self._on_image_chosen()
        starts = [layer for layer in self._viewer.layers if isinstance(layer, Labels | Points)]
        kept = self._panel.start.currentData()
        known = [str(layer.unique_id) for layer in starts]
        preferred = kept if kept in known else self._best(starts)
        if active in starts:
            preferred = str(active.unique_id)
        fill(self._panel.start, [*_entries(starts), ("Nothing: an empty image", None)], preferred)
        self._panel.begin.setEnabled(bool(images))

    def _best(self, starts: list[Any]) -> str | None:
        """Return the labels that the last count of the chosen image left, else the topmost."""
        image = self._panel.image.currentData()
        own = [one for one in starts if one.metadata.get(METADATA, {}).get("source") == image]
        found = [one for one in own or starts if isinstance(one, Labels)]
        return str(found[-1].unique_id) if found else None

    def _on_image_chosen(self, _: int = 0) -> None:
        layer = self.image
        choices = channels_of(layer) if layer is not None else ()
        entries = [(choice.title, choice) for choice in choices]
        fill(self._panel.channel, entries, self.channel, otherwise="none")
        if self._widget.isVisible():
            self.offer()

    def offer(self) -> None:
        """Offer to go on with an annotation of the chosen image, if one was begun."""
        self.offered = None
        if self._widget.session is None and self.image is not None:
            try:
                found = unfinished(journal_path(image_of(self.image, self.channel), self._widget.journals))
            except CellwrightError:
                found = None  # an image that cannot be annotated; Start tells why
            if found is not None:
                self.offered = found.path
                self._panel.show_offer(found.line)
        if self.offered is None:
            self._panel.show_offer("")


def _entries(layers: list[Any]) -> list[tuple[str, str]]:
    return [(layer.name, str(layer.unique_id)) for layer in reversed(layers)]
