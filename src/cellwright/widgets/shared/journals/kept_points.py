"""Points and boxes of cells as a file beside the journals, and back as a layer.

They are kept in pixels of the image, without its axis of channels, with features and colours.
"""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Points, Shapes
from numpy.typing import NDArray

from cellwright.core.errors import ReadError, expecting
from cellwright.files.tables import plain
from cellwright.widgets.shared.cells.regions import PART, counted_boxes
from cellwright.widgets.shared.coordinates import Channel, axis_of, in_pixels, with_axis
from cellwright.widgets.shared.edited_layers import EDITED, METADATA
from cellwright.widgets.shared.journals.journal_files import found_by
from cellwright.widgets.shared.layer_factory import texts_of
from cellwright.widgets.shared.layer_io import image_of, source_of

FEATURE = "feature: "  # how the names of arrays begin that are columns of the features


def arrays_of(
    layer: Points | Shapes, image_layer: ImageLayer, channel: Channel | None
) -> dict[str, NDArray[Any]]:
    """Return copies of all that is kept of a layer; call it in the GUI thread."""
    own: dict[str, Any] = {**found_by(layer), "output": type(layer).__name__}
    if counted_boxes(layer, image_of(image_layer, channel)) is not None:
        own[PART] = True
    parts = [np.asarray(one) for one in layer.data] if isinstance(layer, Shapes) else [layer.data]
    vertices = np.concatenate(parts) if parts else np.zeros((0, layer.ndim))
    arrays = {
        "vertices": in_pixels(vertices, layer, image_layer, axis_of(channel)),
        "told": np.array(json.dumps({"name": layer.name, "own": own}, default=plain)),
    }
    if isinstance(layer, Shapes):
        arrays |= {
            "lengths": np.array([len(one) for one in parts], np.int64),
            "shape_type": np.array(layer.shape_type, str),
            "edge_color": np.array(layer.edge_color),
            "edge_width": np.array(layer.edge_width, float),
        }
    else:
        arrays |= {"size": np.array(layer.size), "face_color": np.array(layer.face_color)}
    for name, column in layer.features.items():
        values = column.to_numpy()
        if values.dtype.kind not in "iufb":
            values = np.array(texts_of(column), str)
        arrays[f"{FEATURE}{name}"] = values
    return arrays


def kept_layer(path: Path, image_layer: ImageLayer, channel: Channel | None) -> Points | Shapes:
    """Return the layer in a file, upon its image, marked as changed by hand.

    ReadError where the file is missing or damaged.
    """
    source = source_of(image_layer, channel)
    what = f"points or boxes of cells at {path}"
    with expecting(ReadError, what, "Count again.", OSError, ValueError, KeyError, BadZipFile):
        with np.load(path) as file:
            arrays = dict(file)
        told = json.loads(str(arrays.pop("told")))
        vertices = with_axis(arrays.pop("vertices"), source.channel_axis)
        features = {name: arrays.pop(name) for name in list(arrays) if name.startswith(FEATURE)}
        looks: dict[str, Any] = {
            "name": told["name"],
            "metadata": {METADATA: {**told["own"], "source": source.layer_id, EDITED: True}},
            "features": {name.removeprefix(FEATURE): values for name, values in features.items()},
            "ndim": vertices.shape[1],
            **source.placement,
        }
        if "lengths" not in arrays:
            return Points(vertices, border_color="black", **arrays, **looks)
        ends = np.cumsum(arrays.pop("lengths"))
        shapes = np.split(vertices, ends[:-1]) if len(ends) else None
        kinds, widths = (arrays.pop(name).tolist() for name in ("shape_type", "edge_width"))
        looks |= {"shape_type": kinds, "edge_width": widths, "face_color": "transparent"}
        return Shapes(shapes, **arrays, **looks)
