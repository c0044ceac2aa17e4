"""Foreground of single slices -> their cells, which are then linked into those of the volume."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells
from cellwright.ops.codecs.flow import FlowSettings, MinScore, finite
from cellwright.ops.labels import measure, touches_border
from cellwright.ops.volumes.link import LinkSettings, MaxGap, MinSlices, Overlap, Waist

PEAK_WINDOW = 12  # side of the square in which only the highest distance is a cell, in pixels


@dataclass(frozen=True, slots=True)
class PseudocolorSettings(FlowSettings):
    """What can be changed after the network has run: outlines in slices, and how they are linked."""

    min_score: MinScore = 0.15
    overlap: Overlap = 0.5
    max_gap: MaxGap = 1
    waist: Waist = 0.65
    min_slices: MinSlices = 3

    def linking(self) -> LinkSettings:
        """Return the part of the settings that links slices."""
        return LinkSettings(self.overlap, self.max_gap, self.waist, self.min_slices)


def foreground_to_cells(probability: NDArray[np.float32], settings: FlowSettings) -> Cells:
    """Return the cells of one slice: what is foreground, parted where it is narrow.

    The distance of each foreground pixel from the background is flooded from its peaks.

    ``probability``, float32 (Y, X), is the chance of each pixel to be part of a cell; not finite counts as 0.
    """
    from skimage.segmentation import watershed  # slow to import, and seldom needed

    probability = finite(probability)
    mask = probability > settings.cell_probability
    distance = ndimage.distance_transform_edt(mask)
    is_peak = mask & (distance == ndimage.maximum_filter(distance, PEAK_WINDOW))
    peaks, _ = ndimage.label(is_peak, np.ones((3, 3), int))
    labels = watershed(-distance, peaks, mask=mask).astype(np.int32)  # type: ignore[no-untyped-call]
    areas, points, boxes = measure(labels)
    scores = ndimage.mean(probability, labels, np.arange(1, len(areas) + 1)).astype(np.float32)
    wanted = (areas >= settings.min_area_px) & (scores >= settings.min_score)
    if settings.exclude_border:
        wanted &= ~touches_border(boxes, labels.shape)
    return Cells(points, boxes, scores, areas, labels).take(wanted)
