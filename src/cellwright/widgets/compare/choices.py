"""What is to be compared, as the form says it: which two models, on which images, against which truth."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels as LabelsLayer
from napari.layers import Layer, Points
from qtpy.compat import isalive
from qtpy.QtCore import QObject

from cellwright.core.errors import SettingsError
from cellwright.files.dataset.folder import read_dataset
from cellwright.widgets.compare.model import CompareRequest
from cellwright.widgets.compare.view import NO_TRUTH, ComparePanel
from cellwright.widgets.shared.coordinates import MOST_CHANNELS, Channel
from cellwright.widgets.shared.edited_layers import is_image
from cellwright.widgets.shared.layer_dataset import LayerItem, Pair, dataset_of, pairs
from cellwright.widgets.shared.layer_io import image_layer, source_of

FOLDERS_TRUTH = "of the folder"
ANY_CHANNELS = (  # of a folder, whose images are not read before they are counted
    Channel("Colours, else the first"),
    *(Channel(f"Channel {index}", index) for index in range(MOST_CHANNELS)),
)


class CompareChoices(QObject):
    """Reads the boxes of the panel, which follow the layers of a viewer."""

    def __init__(self, viewer: Any, panel: ComparePanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        self._hidden: list[Layer] = []
        panel.data.accepts = lambda layer: is_image(layer) and layer not in self._hidden
        panel.truth.accepts, panel.truth.usual = self._is_truth, self._usual_truth
        panel.data.chosen.connect(self._on_data_chosen)
        panel.data.follow(viewer)
        panel.truth.follow(viewer)
        for emitter in (viewer.layers.events.inserted, viewer.layers.events.removed):
            emitter.connect(self._on_layers_changed)
        self._on_data_chosen()

    def request(self) -> CompareRequest:
        """Return what is to be compared.

        Raises
        ------
        CellwrightError
            There are no two models, no image layer is chosen, or the folder is no dataset.
        """
        models, channel = self._models(), self._panel.channel.channel
        index = None
        if channel is not None:
            index = channel.index
        if self._panel.data.folder is not None:
            dataset = read_dataset(self._panel.data.folder)
            validation = dataset.select("val")
            if len(validation):
                dataset = validation
            return CompareRequest(models, dataset, channel=index)
        layer, truth = self._panel.data.layer, self._panel.truth.layer
        source = source_of(image_layer(layer), channel)
        if truth is None:
            return CompareRequest(models, source.image, source, index)
        assert isinstance(layer, ImageLayer)
        dataset = dataset_of([Pair(layer, truth)], self._viewer.layers, is_complete=True)
        (item,) = dataset.items
        assert isinstance(item, LayerItem)
        picture = replace(source.image, name=item.name)  # with the axes of the chosen channel
        dataset = replace(dataset, items=(replace(item, picture=picture),))
        return CompareRequest(models, dataset, source, index)

    def hide(self, layers: Iterable[Layer]) -> None:
        """Leave these layers out of the images that can be chosen, no longer those of before."""
        self._hidden = list(layers)

    def _models(self) -> tuple[str, str]:
        first, second = self._panel.first.currentData(), self._panel.second.currentData()
        got = f"{first!r} twice"
        if first is None:
            got = "none"
        elif first != second:
            return str(first), str(second)
        raise SettingsError(f"Comparing needs two models; got {got}. Choose another one, or train your own.")

    def _on_data_chosen(self) -> None:
        panel = self._panel
        is_folder = panel.data.folder is not None
        if is_folder:
            panel.channel.list_channels(ANY_CHANNELS)
        else:
            panel.channel.list_channels_of(panel.data.layer)
        panel.truth.setEnabled(not is_folder)
        panel.truth.none = FOLDERS_TRUTH if is_folder else NO_TRUTH
        panel.truth.choose(self._usual_truth())

    def _on_layers_changed(self, _: Any = None) -> None:
        if isalive(self) and not self._panel.truth.is_by_user:  # type: ignore[no-untyped-call]
            self._panel.truth.choose(self._usual_truth())

    def _is_truth(self, layer: Layer) -> bool:
        is_known = isinstance(layer, LabelsLayer | Points) and not layer.metadata.get("preview")
        return is_known and self._panel.data.folder is None

    def _usual_truth(self) -> Layer | None:
        """Return the annotation that belongs to the image, if there is one."""
        image = self._panel.data.layer
        found = [pair for pair in pairs(reversed(self._viewer.layers)) if not pair.is_as_counted]
        return next((pair.annotation for pair in found if pair.image is image), None)
