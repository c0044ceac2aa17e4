"""The colours that the ``pseudocolor`` family sees a volume in, as a layer; slices are coloured on sight."""

from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.utils.notifications import show_error
from numpy.typing import NDArray

from cellwright.core.errors import CellwrightError
from cellwright.inference.settings import EngineSettings
from cellwright.ops.codecs.pseudocolor import PseudocolorFrames, pseudocolor_frames
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_io import Source, place, source_of

if TYPE_CHECKING:
    import napari.viewer

OUTPUT = "colours"


def show_active_colours(viewer: "napari.viewer.Viewer") -> None:
    """Add the pseudo-colours of the active image layer; a notification tells why not."""
    try:
        show_colours(viewer, source_of(viewer.layers.selection.active))
    except CellwrightError as error:
        show_error(str(error))


def show_colours(
    viewer: Any,
    source: Source,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> ImageLayer:
    """Add the pseudo-colours of a volume as an RGB layer and return it.

    A slice is coloured when it is looked at, so a volume of any size takes no time. The engine tells the
    channels.

    AxesError where the image is no volume, or has one slice only.
    """
    seen = engine.seen(source.image)
    colours = lazy_colours(pseudocolor_frames(seen.image, seen.channel))
    if source.channel_axis is not None:
        colours = np.expand_dims(colours, source.channel_axis)
    made = ImageLayer(colours, rgb=True, name=f"{source.image.name} colours", **source.placement)
    made.metadata = {METADATA: {**source.key, "output": OUTPUT}}
    shown: ImageLayer = place(viewer, {OUTPUT: made})[OUTPUT]
    return shown


def lazy_colours(frames: PseudocolorFrames) -> Any:
    """Return the coloured slices (..., Y, X, 3) as a dask array, one chunk for each slice."""
    from dask.array import map_blocks  # napari brings dask

    lead, shape = frames.lead_shape, frames.shape
    lock = Lock()  # the frames keep neighbours, and slices are read from several threads

    def read(block_info: Any = None) -> NDArray[np.float32]:
        location = block_info[None]["chunk-location"][: len(lead)]
        with lock:
            colours = frames.read(int(np.ravel_multi_index(location, lead)), (slice(None), slice(None)))
        return np.moveaxis(colours, 0, -1)[(np.newaxis,) * len(lead)]

    chunks = (*((1,) * n for n in lead), (shape[0],), (shape[1],), (3,))
    return map_blocks(  # type: ignore[no-untyped-call]
        read, chunks=chunks, dtype=np.float32, meta=np.empty((0,) * len(chunks), np.float32)
    )
