"""The compare widget: two models on the same image or dataset, their counts, and where they disagree."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import SettingsError, WrongLayerError
from cellwright.files.dataset.folder import read_dataset
from cellwright.widgets.compare.model import (
    DISAGREEMENT,
    Compared,
    CompareRequest,
    compare_task,
    open_compared,
    whole_progress,
)
from cellwright.widgets.compare.view import NO_TRUTH, ComparePanel
from cellwright.widgets.shared.combos import forget_errors
from cellwright.widgets.shared.coordinates import MOST_CHANNELS, Channel
from cellwright.widgets.shared.edited_layers import is_image
from cellwright.widgets.shared.layer_dataset import LayerItem, Pair, dataset_of, is_annotation, pairs
from cellwright.widgets.shared.layer_io import (
    Source,
    active_kept,
    image_layer,
    image_of,
    remove,
    source_of,
    take_away,
)
from cellwright.widgets.shared.messages import listen, telling
from cellwright.widgets.shared.napari_private import unwrapped
from cellwright.widgets.shared.panel_area import PanelScrollArea
from cellwright.widgets.shared.style import stack

LEARNED_FROM = (
    "The folder has no images of the split val. All were compared, also those that models may have learned "
    "from."
)
FOLDERS_TRUTH = "of the folder"
ANY_CHANNELS = (  # of a folder, whose images are not read before they are counted
    Channel("Colours, else the first"),
    *(Channel(f"Channel {index}", index) for index in range(MOST_CHANNELS)),
)


class CompareWidget(QWidget):
    """Counts with two models and shows their figures, and as a layer the cells only one of them found."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        self.panel = ComparePanel()
        self.compared: Compared | None = None
        self.choices = CompareChoices(self.viewer, self.panel)
        self.jobs = self.panel.jobs
        self._opened: list[Layer] = []
        stack(PanelScrollArea(self.panel, self.panel.button, self.viewer), into=self)
        forget_errors(self.panel.message, self.panel)
        self.jobs.started.connect(lambda: self.panel.message.tell(""))
        for part in (self.jobs, self.panel.first):
            part.failed.connect(self.panel.message.fail)
        self.jobs.cancelled.connect(lambda: self.panel.message.tell("Cancelled; nothing was changed."))
        self.panel.button.started.connect(self.compare)
        self.panel.table.itemClicked.connect(lambda item: self.open(getattr(item, "index", 0)))

    def compare(self) -> None:
        """Count with both models; tells in the panel why it cannot."""
        with telling(self.panel.message.fail):
            self._keep(None)  # what is refused has no figures, and those before are not its own
            request = self.choices.request()
            task = whole_progress(compare_task(request))
            self.jobs.start(task, lambda found: self._show(found, request.source))

    def open(self, index: int) -> None:
        """Show an image of the dataset, and where the models disagree, in place of the last one."""
        if self.compared is not None:
            self.jobs.start(open_compared(self.compared, index), self._show_opened)

    def _keep(self, compared: Compared | None) -> None:
        """Keep other figures and show them; None for none."""
        self.compared = compared
        self.panel.show_compared(compared)

    def _show(self, found: tuple[Compared, Layer | None], source: Source | None) -> None:
        compared, layer = found
        self._keep(compared)
        if source is None and any(item.split == "train" for item in compared.items):
            self.panel.message.tell(LEARNED_FROM, is_warning=True)
        if source is not None:
            remove(self.viewer, {"source": source.layer_id, "output": DISAGREEMENT})
        if layer is not None:
            with active_kept(self.viewer):
                self.viewer.add_layer(layer)

    def _show_opened(self, layers: tuple[Layer, ...]) -> None:
        take_away(self.viewer, *self._opened)
        self._opened = list(layers)
        self.choices.hide(layers)
        with active_kept(self.viewer):
            for layer in layers:
                self.viewer.add_layer(layer)
        self.viewer.reset_view()


class CompareChoices(QObject):
    """What is to be compared, as the boxes of the panel say it; they follow the layers of a viewer."""

    def __init__(self, viewer: Any, panel: ComparePanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        self._hidden: list[Layer] = []
        panel.data.accepts = lambda layer: is_image(layer) and layer not in self._hidden
        panel.truth.accepts, panel.truth.usual = self._is_truth, self._usual_truth
        self._active_image, panel.data.usual = panel.data.usual, self._usual_image
        panel.data.chosen.connect(self._on_data_chosen)
        panel.data.follow(viewer)
        panel.truth.follow(viewer)
        for emitter in (viewer.layers.events.inserted, viewer.layers.events.removed):
            listen(emitter, self._on_layers_changed, self)
        self._on_data_chosen()

    def request(self) -> CompareRequest:
        """Return what is to be compared.

        CellwrightError where there are no two models, no image layer is chosen, or the folder is no dataset.
        """
        models, channel = self._models(), self._panel.channel.channel
        index = channel.index if channel is not None else None
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
        item = dataset.items[0]
        assert isinstance(item, LayerItem)
        if item.picture.label_shape != image_of(layer).label_shape:
            raise WrongLayerError(
                f"To compare models in {layer.name!r}, its cells must be known in all slices and frames; by "
                "its regions they are in some. Draw these in all, or choose a dataset folder with its parts."
            )
        picture = replace(source.image, name=item.name)  # with the axes of the chosen channel
        dataset = replace(dataset, items=(replace(item, picture=picture),))
        return CompareRequest(models, dataset, source, index, truth.name)

    def hide(self, layers: Iterable[Layer]) -> None:
        """Leave these layers out of the images that can be chosen, no longer those of before."""
        self._hidden = list(layers)

    def _models(self) -> tuple[str, str]:
        first, second = self._panel.first.currentData(), self._panel.second.currentData()
        if first is not None and first != second:
            return str(first), str(second)
        got = "none" if first is None else f"{first!r} twice"
        raise SettingsError(f"Comparing needs two models; got {got}. Choose another one, or train your own.")

    def _on_data_chosen(self) -> None:
        panel = self._panel
        is_folder = panel.data.folder is not None
        panel.channel.list_channels_of(panel.data.layer)
        if is_folder:
            panel.channel.list_channels(ANY_CHANNELS)
        panel.truth.setEnabled(not is_folder)
        panel.truth.none = FOLDERS_TRUTH if is_folder else NO_TRUTH
        panel.truth.choose(self._usual_truth())

    def _on_layers_changed(self, _: Any = None) -> None:
        if not self._panel.truth.is_by_user:
            self._panel.truth.choose(self._usual_truth())

    def _is_truth(self, layer: Layer) -> bool:
        return is_annotation(layer) and self._panel.data.folder is None

    def _usual_image(self) -> Layer | None:
        """Return the active image; where only others have cells, that of those that came last."""
        active = self._active_image()
        images: list[Layer | None] = [pair.image for pair in pairs(self._viewer.layers)]
        return active if active in images or not images else images[0]

    def _usual_truth(self) -> Layer | None:
        image = self._panel.data.layer
        found = [pair for pair in pairs(self._viewer.layers) if not pair.is_as_counted]
        return next((pair.annotation for pair in found if pair.image is image), None)
