"""Images larger than memory: what is seen is counted at once, the whole in the background, into files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer

from cellwright.core.errors import OutOfMemoryError
from cellwright.core.memory import free_memory
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import n_of
from cellwright.files.atomic import plain_name
from cellwright.files.zarr import open_levels
from cellwright.inference.settings import LARGE_PIXELS
from cellwright.models.fit import expectation_of
from cellwright.ops.measure.cells_table import counted_planes, in_planes
from cellwright.widgets.count.model import (
    FILES,
    CountModel,
    Request,
    WholeCount,
    count_task,
    guess_line,
    joined_by_dots,
    remember,
)
from cellwright.widgets.shared.layer_factory import DENSITY_COLOURMAP, OUTLINE_PX, bright_colours
from cellwright.widgets.shared.layer_io import TITLES, Source, remove, take_away
from cellwright.widgets.shared.napari_private import (
    add_in_turns,
    draw_outlines_fast,
    in_turns,
    labels_layer,
    spare_collector,
    without_collection,
)

BYTES_PER_PIXEL = 10  # that an image takes which is counted in memory
TURN_MS = 40  # between taking layers out, adding one and drawing it; the window answers between them


class BackgroundTool:
    """Counts the view, then the whole image, and shows the cells from their files."""

    def __init__(self, model: CountModel) -> None:
        self.model = model
        self._waiting: Request | None = None
        self._view: Source | None = None
        self._is_whole = False  # whether the whole image is being counted

    def takes(self, request: Request) -> bool:
        """Return whether an image is so large that it is counted block by block.

        OutOfMemoryError where it is, but in regions, and so in memory, which it would fill.
        """
        n_px = prod(request.source.image.label_shape)
        if n_px <= LARGE_PIXELS or request.regions is None:
            return n_px > LARGE_PIXELS
        wanted, free = n_px * BYTES_PER_PIXEL, free_memory()
        if wanted > free:
            raise OutOfMemoryError(
                f"Regions that reach over {n_px:,} pixels take {wanted / 1e9:.0f} GB to be counted in here; "
                f"{free / 1e9:.0f} GB are free. Draw smaller ones, or count in them with cellwright count "
                "--regions, --exclude or --mask, which goes block by block."
            )
        return False

    def start(self, request: Request, view: Source) -> None:
        """Count what is seen; the whole follows."""
        self._waiting, self._view = request, view
        self.model.run(count_task(replace(request, source=view)), self.model.outcome_wanted.emit)

    def go_on(self) -> None:
        """Begin with the whole image, where it waits; called when a job has ended."""
        if self._waiting is not None:
            request, self._waiting, self._is_whole = self._waiting, None, True
            self.model.run(whole_task(request), self._on_whole_counted)

    def forget(self, _: object = None) -> None:
        """Leave the whole image out: the count of the view, or its own, failed or was cancelled."""
        self._waiting, self._is_whole = None, False

    def on_cancelled(self) -> None:
        """Tell what is left of a count that was cancelled."""
        text = "Cancelled; nothing was changed."
        if self._is_whole:
            text = "Cancelled; the next count of this image continues where it stopped."
        self.forget()
        self.model.tell(text)

    def _on_whole_counted(self, whole: WholeCount) -> None:
        viewer, self._is_whole = self.model.viewer, False
        layer = None if whole.build is None else whole.build()
        with without_collection(viewer):
            if self._view is not None:
                remove(viewer, self._view.key)
            if layer is not None:
                key = layer.metadata[FILES]
                take_away(viewer, *(one for one in viewer.layers if one.metadata.get(FILES) == key))
        if layer is not None:
            in_turns(adding(viewer, layer), TURN_MS)
        self.model.outcome = None  # that of the view is no longer what is shown
        remember(viewer, whole)
        self.model.whole_counted.emit(whole)


def _labels_from(levels: list[Any], looks: Mapping[str, Any]) -> Labels:
    layer = labels_layer(levels, opacity=0.9, colormap=bright_colours(), **looks)
    draw_outlines_fast(layer)
    layer.contour = OUTLINE_PX  # of what is in sight, which is never larger than the canvas
    return layer


def adding(viewer: Any, layer: Layer) -> Iterator[None]:
    """Add a layer of what is read from a file on sight, step by step; see ``in_turns``."""
    yield
    add_in_turns(viewer, layer)
    yield
    layer.visible = True  # its pixels are read now
    spare_collector(viewer)  # taking the view out has ended it, and the labels are moved about next


def whole_task(request: Request) -> Task[WholeCount]:
    """Count an image block by block into a folder; a count that was cancelled goes on where it was."""
    yield Progress("load", 0, 1)
    from cellwright.inference.image_count import folder_beside
    from cellwright.inference.streaming.plan import StreamJob, sampled_checksum
    from cellwright.inference.streaming.run import count_streamed

    source = request.source
    image = replace(source.image, name=plain_name(source.image.name))
    if not image.source:  # all such images share a folder, and layers may be called as others were before
        image = replace(image, name=f"{image.name}~{sampled_checksum(image):08x}")
    folder = folder_beside(image)
    found = yield from count_streamed(StreamJob(image, folder, request.recipe))
    build = layer_of(found.labels, source) if found.labels is not None else None
    count, provenance = found.result.count, found.result.provenance
    first = f"{n_of(count, 'cell', ',.0f')}{in_planes(counted_planes(found.result))}"
    line = joined_by_dots(first, provenance.model, f"{provenance.seconds:.0f} s", guess_line(found.result))
    expected = expectation_of(found.result, found.notices)
    return WholeCount(request, count, line, folder, expected, found.notices, str(found.labels or ""), build)


def layer_of(path: Path, source: Source) -> Callable[[], Layer]:
    """Return what builds the multiscale layer that reads labels or a density from their file on sight."""
    levels: list[Any] = open_levels(path)
    if source.channel_axis is not None:
        levels = [level[(slice(None),) * source.channel_axis + (None,)] for level in levels]
    output = "Labels" if levels[0].dtype.kind == "i" else "Image"
    looks = {
        "name": f"{source.image.name} {TITLES[output]}",
        "multiscale": True,
        "metadata": {FILES: str(path)},
        "visible": False,
        **source.placement,
    }
    if output == "Labels":
        return partial(_labels_from, levels, looks)
    highest = float(levels[-1].max().compute())
    return partial(
        ImageLayer,
        levels,
        colormap=DENSITY_COLOURMAP,
        blending="additive",
        contrast_limits=(0.0, highest or 1.0),
        **looks,
    )
