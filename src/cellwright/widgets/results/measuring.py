"""Keeps the table in line with the layer: what is painted, split, deleted or moved is soon remeasured."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from cellwright.core.data import Image
from cellwright.core.tasks import detached
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.cells.followers import follow
from cellwright.widgets.shared.cells.image_pixels import mark_of
from cellwright.widgets.shared.cells.measured_cells import MeasuredCells, measure_task
from cellwright.widgets.shared.cells.regions import RegionLayers, name_regions
from cellwright.widgets.shared.cells.snapshot import channels_beside, snapshot_of
from cellwright.widgets.shared.coordinates import image_in
from cellwright.widgets.shared.jobs import Job, JobBar, debouncer
from cellwright.widgets.shared.messages import telling

READ_MS = 250
MASK_EVENTS, SHAPES_EVENTS = ("data", "paint", "labels_update"), ("data", "features")


class Measurer(QObject):
    """Measures the cells of one layer whenever it changes, one job at a time, the latest state last."""

    failed = Signal(object)  # Exception

    def __init__(self, parent: QObject, model: ResultsModel, link: ViewerLink, bar: JobBar) -> None:
        super().__init__(parent)
        self._model, self._link, self._bar = model, link, bar
        self.others: list[ImageLayer] = []
        self.regions = RegionLayers()
        self.nuclei: Labels | None = None
        self._job: Job | None = None
        self.is_stale = False  # whether it measures again once its job has ended
        self._is_waiting = self._is_reread = False
        self._is_held = True  # until the panel is there: a thread that measures would take turns with it
        self._soon = debouncer(self, READ_MS, self.read)
        bar.failed.connect(self.failed)  # of a file that is written
        bar.finished.connect(self._on_finished)
        followers = follow(link.viewer)
        followers.leave_to(self)
        self.pixels = followers.pixels
        self.pixels.changed.connect(self._on_pixels_changed)

    @property
    def layer(self) -> Layer | None:
        """What is measured."""
        return self._link.layer

    @property
    def is_busy(self) -> bool:
        """Whether cells are being measured, or are to be."""
        return self._job is not None or self._bar.is_busy or self.is_stale or self._is_waiting

    @property
    def _further_images(self) -> tuple[ImageLayer, ...]:
        """The other channels of the file of the image, and what was chosen beside it."""
        return (*channels_beside(self._link.viewer, self._link.image_layer), *self.others)

    def set_layer(self, layer: Layer | None, image_layer: ImageLayer | None) -> None:
        """Tell of another layer from now on."""
        if self.layer is not layer:
            self._model.choose(-1)
            self._model.set_measured(None)
        self._link.layer, self._link.image_layer = layer, image_layer
        self.read()

    def set_regions(self, layers: RegionLayers) -> None:
        """Take the regions from other layers."""
        old = self.regions
        if (*old.chosen, old.is_outside) != (*layers.chosen, layers.is_outside):
            self.regions = layers
            self._follow(old.chosen, layers.chosen)

    def set_nuclei(self, layer: Labels | None) -> None:
        """Take the nuclei of the cells from another layer, or from none."""
        old = self.nuclei
        if layer is not old:
            self.nuclei = layer
            self._follow((old,), (layer,))

    def _follow(self, old: Sequence[Layer | None], new: Sequence[Layer | None]) -> None:
        """Measure again, now and whenever these layers of regions or nuclei change, not the earlier ones."""
        for emitter in _emitters(old):
            emitter.disconnect(self._on_regions_changed)
        self._on_regions_changed()
        for emitter in _emitters(new):
            emitter.connect(self._on_regions_changed)

    def reread(self) -> None:
        """Measure all cells, whatever is known of them: pixels may have changed without a word."""
        for one in filter(mark_of, self._image_layers):
            self.pixels.look_at(one)
        self._is_reread = True
        self.read()

    def pixels_now(self) -> list[tuple[Any, int | None]]:
        """Return the pixels that are measured, each with the mark of those that were looked at last."""
        return [(one.data, mark_of(one)) for one in self._image_layers]

    def images_now(self) -> list[Image]:
        """Return the images that are measured, with the pixels that their layers have now."""
        return [image_in(one) for one in self._image_layers]

    @property
    def _image_layers(self) -> list[ImageLayer]:
        return [*filter(None, (self._link.image_layer, *self._further_images))]

    def begin(self) -> None:
        """Measure what was chosen while the panel was being built, and from now on at once."""
        self._is_held = False
        if self.is_stale:
            self.read()

    def read_soon(self) -> None:
        """Measure the layer once it has come to rest."""
        self._is_waiting = True
        self._soon.throttle()

    def read(self) -> None:
        """Measure the layer as it is now, beside the viewer."""
        self._is_waiting = False
        if self._is_held or self._job is not None or self._bar.is_busy:
            self.is_stale = True
            return
        self.is_stale = False
        if self.layer is not None:
            with telling(self._on_failed):
                self._measure(self.layer)

    def _measure(self, layer: Layer) -> None:
        nuclei = self.nuclei if self.nuclei is not layer else None
        image, others = self._link.image_layer, self._further_images
        for one in filter(None, (image, *others)):
            self.pixels.watch(one)
            if mark_of(one) is None:
                self.pixels.look_at(one)
        snapshot = snapshot_of(layer, image, others, self.regions, self._model.region_rule, nuclei)
        before, on_returned = self._model.measured, partial(self._on_measured, layer)
        is_reread, self._is_reread = self._is_reread, False
        if before is not None and is_reread:
            before = replace(before, measured=())
        settings = self._model.measuring
        task = measure_task(snapshot, settings, before, self._model.cytoplasm_px)
        if before is None or is_reread or before.settings != settings:
            self._bar.start(detached("read", task), on_returned, on_failed=self._on_failed)
            return
        self._job = Job(task, self).start(
            returned=on_returned, failed=self._on_failed, finished=self._on_job_finished
        )

    def _on_measured(self, layer: Layer, measured: MeasuredCells) -> None:
        if layer is not self.layer:  # another one was chosen meanwhile
            self.is_stale = True
            return
        self._model.set_measured(measured)
        if not (self.is_stale or self._is_waiting):  # else the user has changed it since: a class, say
            self._link.write_features()

    def _on_failed(self, error: Exception) -> None:
        self._model.set_measured(None)
        self.failed.emit(error)

    def _on_job_finished(self) -> None:
        self._job = None
        self._on_finished()

    def _on_finished(self) -> None:
        if self.is_stale:
            self.read()

    def _on_pixels_changed(self, image: ImageLayer) -> None:
        if image is self._link.image_layer or image in self._further_images:
            self.read_soon()

    def _on_regions_changed(self, _: Any = None) -> None:
        if isalive(self):  # napari's weak reference may outlive it
            if self.regions.shapes is not None:
                name_regions(self.regions.shapes)
            self.read_soon()


def _emitters(layers: Sequence[Layer | None]) -> Iterator[Any]:
    """Yield what layers of regions or nuclei tell their changes by."""
    for layer in layers:
        if layer is not None:
            for name in MASK_EVENTS if isinstance(layer, Labels) else SHAPES_EVENTS:
                yield getattr(layer.events, name)
