"""What is to be compared, as the form says it: which two models, on which images, against which truth."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from qtpy.compat import isalive
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QFileDialog

from cellwright.core.errors import SettingsError
from cellwright.files.dataset.folder import read_dataset
from cellwright.models import registry, store
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.widgets.compare.model import CompareModel, CompareRequest
from cellwright.widgets.compare.view import ComparePanel
from cellwright.widgets.shared.combos import fill, model_events, model_title
from cellwright.widgets.shared.coordinates import MOST_CHANNELS, Channel, channels_of
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_dataset import LayerItem, Pair, dataset_of, pairs
from cellwright.widgets.shared.layer_io import image_layer, source_of

CHOOSE_FOLDER = ""
NO_TRUTH = ""
ANY_CHANNELS = (  # of a folder, whose images are not read before they are counted
    Channel("Colours, else the first"),
    *(Channel(f"Channel {index}", index) for index in range(MOST_CHANNELS)),
)


class CompareChoices(QObject):
    """Fills the boxes of the panel and reads them.

    Parameters
    ----------
    viewer
        A napari viewer; the boxes follow its layers.
    panel
        Whose boxes are filled.
    model
        Knows the folder.
    """

    def __init__(self, viewer: Any, panel: ComparePanel, model: CompareModel) -> None:
        super().__init__(panel)
        self._viewer, self._panel, self._model = viewer, panel, model
        self._hidden: list[Layer] = []
        self.refresh_models()
        self.refresh_data()
        panel.data.activated.connect(self._on_data_chosen)
        model_events.changed.connect(self.refresh_models)
        events = viewer.layers.events
        for emitter in (events.inserted, events.removed, events.renamed):
            emitter.connect(self.refresh_data)

    def request(self) -> CompareRequest:
        """Return what is to be compared.

        Raises
        ------
        CellwrightError
            There are no two models, no image layer is chosen, or the folder is no dataset.
        """
        models, channel = self._models(), self.channel
        index = None
        if channel is not None:
            index = channel.index
        if self._model.folder is not None and self._is_folder:
            dataset = read_dataset(self._model.folder)
            validation = dataset.select("val")
            if len(validation):
                dataset = validation
            return CompareRequest(models, dataset, channel=index)
        layer = self._layer(self._panel.data.currentData())
        source = source_of(image_layer(layer), channel)
        truth = self._layer(self._panel.truth.currentData())
        if truth is None:
            return CompareRequest(models, source.image, source, index)
        assert isinstance(layer, ImageLayer)
        dataset = dataset_of([Pair(layer, truth)], self._viewer.layers, is_complete=True)
        (item,) = dataset.items
        assert isinstance(item, LayerItem)
        picture = replace(source.image, name=item.name)  # with the axes of the chosen channel
        dataset = replace(dataset, items=(replace(item, picture=picture),))
        return CompareRequest(models, dataset, source, index)

    @property
    def channel(self) -> Channel | None:
        """The chosen channel."""
        channel: Channel | None = self._panel.channel.currentData()
        return channel

    def choose_folder(self, folder: Path) -> None:
        """Choose a dataset folder."""
        self._model.choose_folder(folder)
        self.refresh_data()
        self._panel.data.setCurrentIndex(self._panel.data.findData(str(folder)))
        self._refresh_channels_and_truth()

    def hide(self, layers: Iterable[Layer]) -> None:
        """Leave these layers out of the images that can be chosen, no longer those of before."""
        self._hidden = list(layers)

    def refresh_data(self, _: Any = None) -> None:
        """List the images of the viewer and the folder."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        layers = [one for one in reversed(self._viewer.layers) if isinstance(one, ImageLayer)]
        layers = [one for one in layers if METADATA not in one.metadata and one not in self._hidden]
        entries = [(one.name, str(one.unique_id)) for one in layers]
        folder = self._model.folder
        if folder is not None:
            entries.append((f"Folder · {folder.name}", str(folder)))
        box = self._panel.data
        fill(box, [*entries, ("Choose a folder…", CHOOSE_FOLDER)], box.currentData() or None)
        self._refresh_channels_and_truth()

    def refresh_models(self) -> None:
        """List the models; begin with the usual one and another, of the same family if there is one."""
        if not isalive(self):  # type: ignore[no-untyped-call]
            return
        known = [one for one in store.models() if one.spec.family in registry.FAMILIES]
        entries = [(model_title(one.name, one.spec.family), one.name) for one in known]
        first, second = usual_pair({one.name: one.spec.family for one in known})
        for box, wanted in ((self._panel.first, first), (self._panel.second, second)):
            fill(box, entries, box.currentData() or wanted, otherwise="none")

    @property
    def _is_folder(self) -> bool:
        return self._model.folder is not None and self._panel.data.currentData() == str(self._model.folder)

    def _models(self) -> tuple[str, str]:
        first, second = self._panel.first.currentData(), self._panel.second.currentData()
        got = f"{first!r} twice"
        if first is None:
            got = "none"
        elif first != second:
            return str(first), str(second)
        raise SettingsError(f"Comparing needs two models; got {got}. Choose another one, or train your own.")

    def _layer(self, chosen: Any) -> Layer | None:
        return next((one for one in self._viewer.layers if str(one.unique_id) == chosen), None)

    def _on_data_chosen(self, index: int) -> None:
        if self._panel.data.itemData(index) != CHOOSE_FOLDER:
            self._refresh_channels_and_truth()
            return
        folder = QFileDialog.getExistingDirectory(self._panel, "Dataset folder")
        if folder:
            self.choose_folder(Path(folder))
        else:
            self.refresh_data()

    def _refresh_channels_and_truth(self) -> None:
        layer = self._layer(self._panel.data.currentData())
        choices: tuple[Channel, ...] = ()
        if self._is_folder:
            choices = ANY_CHANNELS
        elif isinstance(layer, ImageLayer):
            choices = tuple(channels_of(layer))
        entries = [(choice.title, choice) for choice in choices]
        fill(self._panel.channel, entries, self.channel, otherwise="none")
        self._panel.channel.setEnabled(len(choices) > 1)
        self._refresh_truth()

    def _refresh_truth(self) -> None:
        """Offer the annotations of the viewer; begin with the one that belongs to the image."""
        box = self._panel.truth
        box.setEnabled(not self._is_folder)
        if self._is_folder:
            fill(box, [("of the folder", NO_TRUTH)])
            return
        image, wanted = self._panel.data.currentData(), NO_TRUTH
        for pair in pairs(reversed(self._viewer.layers)):
            if not pair.is_as_counted and str(pair.image.unique_id) == image:
                wanted = str(pair.annotation.unique_id)
                break
        layers = [one for one in reversed(self._viewer.layers) if isinstance(one, LabelsLayer | Points)]
        entries = [(one.name, str(one.unique_id)) for one in layers if not one.metadata.get("preview")]
        fill(box, [("none", NO_TRUTH), *entries], wanted)


def usual_pair(families: dict[str, str]) -> tuple[str | None, str | None]:
    """Return the names of the two models to begin with, given the family of each; None for want of one."""
    first = DEFAULT_FAMILY
    if first not in families:
        first = next(iter(families), "")
    others = [name for name in families if name != first]
    alike = [name for name in others if families[name] == families[first]]
    return first or None, next(iter([*alike, *others]), None)
