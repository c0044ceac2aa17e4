"""From the diameter of cells to the scale a model sees them at, and from its maps back to image pixels."""

from collections.abc import Sequence
from copy import copy
from dataclasses import fields
from math import prod
from typing import Any

import numpy as np

from cellwright.core.data import Cells, Maps
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.ops.geometry.resample import resize, resize_cells
from cellwright.ops.labels import equivalent_diameters

FEWEST_CELLS = 5  # needed for their diameter to be believed
MANY_CELLS = 40  # of which half being small means more than a few pieces of larger ones
SMALL = 1.25  # cells less than this many times above the smallest diameter are found better when enlarged
ZOOM_RANGE = (1 / 32, 6.0)
CLOSE = 1.2  # zooms that differ by less find the same


def zoom_for(diameter_px: float, spec: ModelSpec) -> float:
    """Return model pixels per image pixel for cells of this diameter: 1 when it is 0 or suits the model."""
    low, high = spec.diameter_range_px
    if diameter_px == 0 or low <= diameter_px <= high:
        return 1.0
    return _zoom_to(diameter_px, spec)


def _zoom_to(diameter_px: float, spec: ModelSpec) -> float:
    return float(np.clip(spec.diameter_px / diameter_px, *ZOOM_RANGE))


def _diameter(area: float) -> float:
    return float(equivalent_diameters(np.asarray(area)))


def zoom_of(cells: Sequence[Cells], spec: ModelSpec) -> float:
    """Return model pixels per image pixel for cells that were found; 1 when they are too few to tell.

    The diameter is that below which half of the area lies: where cells fell to pieces, the whole ones tell.
    """
    areas = np.sort(np.concatenate([one.areas for one in cells]))
    if len(areas) < FEWEST_CELLS:
        return 1.0
    covered = np.cumsum(areas)
    return zoom_for(_diameter(areas[np.searchsorted(covered, covered[-1] / 2)]), spec)


def zoom_of_small(cells: Sequence[Cells], spec: ModelSpec) -> float:
    """Return the same where half of many outlined cells are small; 1 elsewhere.

    Larger ones among them, which suit the model, may be small ones that were merged.
    """
    areas = np.sort(np.concatenate([one.areas for one in cells]))
    if len(areas) < MANY_CELLS or any(one.labels is None for one in cells):
        return 1.0
    middle = _diameter(areas[len(areas) // 2])
    return _zoom_to(middle, spec) if middle < SMALL * spec.diameter_range_px[0] else 1.0


def is_close(zoom: float, tried: Sequence[float]) -> bool:
    """Return whether a zoom is too near to one already tried to change what is found."""
    return any(1 / CLOSE <= zoom / one <= CLOSE for one in tried)


def mean_confidence(cells: Sequence[Cells]) -> float:
    """Return the mean score of the cells, weighted by their area: how well the model knows what it sees."""
    areas = np.concatenate([one.areas for one in cells])
    scores = np.concatenate([one.scores for one in cells])
    return float((scores * areas).sum() / max(areas.sum(), 1.0))


def zoom_notice(zoom: float, diameter_px: float) -> str:
    """Return a sentence for the user when the image was rescaled without their word, else ``""``."""
    if zoom == 1.0 or diameter_px:
        return ""
    size, change = ("small", f"enlarged {zoom:.2g}") if zoom > 1 else ("large", f"shrunk {1 / zoom:.2g}")
    return (
        f"The cells looked too {size} for the model, so the image was {change} times; set the diameter to "
        "decide yourself."
    )


def cells_in(maps: Maps, shape: tuple[int, int], model: CellModel, settings: Any) -> Cells:
    """Return the cells in the maps of one frame, in pixels of ``shape`` (Y, X), the frame before rescaling.

    Maps of a frame that was shrunk are enlarged first, so that outlines are smooth. Those of a frame that was
    enlarged are decoded as they are, for the sake of small cells, and the labels shrunk.
    """
    map_shape = next(iter(maps.values())).shape[-2:]
    if map_shape == shape:
        return model.postprocess(maps, settings)
    zoom = (prod(map_shape) / prod(shape)) ** 0.5
    if zoom < 1:
        return model.postprocess(_enlarged(maps, shape, model, zoom), settings)
    cells = model.postprocess(maps, _in_model_pixels(settings, zoom))
    return resize_cells(cells, map_shape, shape)


def _enlarged(maps: Maps, shape: tuple[int, int], model: CellModel, zoom: float) -> Maps:
    """Return maps in the size of the frame before it was shrunk; lengths in pixels grow with it."""
    lengths = [name for name, kind in model.map_kinds.items() if kind == "size"]
    return {
        name: resize(one, shape) / np.float32(zoom) if name in lengths else resize(one, shape)
        for name, one in maps.items()
    }


def _in_model_pixels(settings: Any, zoom: float) -> Any:
    """Return settings told in image pixels (in names that end with _px) for maps ``zoom`` times larger.

    Their bounds are told in image pixels, too, so that what was scaled is not checked again.
    """
    scaled = copy(settings)
    for item in fields(settings):
        if item.name.endswith("_px"):
            value = getattr(settings, item.name)
            factor = zoom**2 if item.name.endswith("area_px") else zoom
            value = max(1, round(value * factor)) if isinstance(value, int) else value * factor
            object.__setattr__(scaled, item.name, value)  # of a frozen copy
    return scaled
