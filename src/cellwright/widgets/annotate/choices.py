"""What can be annotated: image, channel, cells to begin with, and what was begun before."""

from pathlib import Path

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError
from cellwright.widgets.annotate.model import AnnotateModel
from cellwright.widgets.annotate.session_setup import journal_path, unfinished
from cellwright.widgets.annotate.view import AnnotatePanel
from cellwright.widgets.shared.coordinates import Channel
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_io import image_of


class AnnotateChoices(QObject):
    """Reads the boxes at the top of the panel, which follow the layers of the viewer.

    Parameters
    ----------
    model
        Has the viewer, and tells whether something is open already.
    panel
        Whose boxes are read.
    """

    def __init__(self, model: AnnotateModel, panel: AnnotatePanel) -> None:
        super().__init__(panel)
        self._model, self._panel = model, panel
        self.offered: Path | None = None  # journal of what can be resumed
        panel.image.chosen.connect(self._on_image_chosen)
        panel.start.usual = self._usual_start
        panel.image.follow(model.viewer)
        panel.start.follow(model.viewer)
        self._on_image_chosen()

    @property
    def image(self) -> ImageLayer | None:
        """The chosen image layer."""
        layer: ImageLayer | None = self._panel.image.layer
        return layer

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        return self._panel.channel.channel

    @property
    def start(self) -> Layer | None:
        """The layer to begin with, None for nothing."""
        return self._panel.start.layer

    def refresh(self) -> None:
        """Choose the active image, and labels of it that a count left."""
        for box in (self._panel.image, self._panel.start):
            box.refresh()
            box.choose_active()

    def _usual_start(self) -> Layer | None:
        """Return the labels that the last count of the chosen image left, else the topmost."""
        image = self._panel.image.currentData()
        found = [one for one in self._panel.start.listed if isinstance(one, Labels)]
        own = [one for one in found if one.metadata.get(METADATA, {}).get("source") == image]
        return next(iter(own or found), None)

    def _on_image_chosen(self) -> None:
        self._panel.begin.setEnabled(self.image is not None)
        self._panel.channel.list_channels_of(self.image)
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
