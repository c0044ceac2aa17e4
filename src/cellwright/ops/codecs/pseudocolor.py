"""Context-aware pseudo-colouring: a slice of a volume as a picture whose colours tell of its neighbours.

And back: the foreground that a network tells of a slice -> its cells, which are then linked in the volume.

::

       previous z-1       current z        following z+1
            |                 |                  |
      equalise (CLAHE)        |          equalise (CLAHE)
            |                 |                  |
      scale to 0..1     scale to 0..1      scale to 0..1
            |                 |                  |
        box blur              |              box blur
            |                 |                  |
      adaptive mask P         |          adaptive mask N
            |                 |                  |
      red = G + P * G     green = G       blue = G + N * G      each scaled to 0..1

.. image:: ../../../docs/pseudocolor.png
   :alt: three neighbouring slices of simulated nuclei and the pseudo-coloured middle one

So what is bright in the slice before looks red, what is bright in the slice after looks blue, and what goes
on through all three looks white. The picture is drawn by ``python -m benchmarks.accuracy.volumes picture``.

Source: Wagner and Rohr, EfficientCellSeg: efficient volumetric cell segmentation using context aware
pseudocoloring, MIDL 2022, arXiv:2204.03014.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Cells, Image
from cellwright.core.errors import AxesError
from cellwright.ops.codecs.flow import FlowSettings, MinScore, finite, wanted_cells
from cellwright.ops.geometry.axes import Frames, Window, frames
from cellwright.ops.geometry.intensity import Scaling, Slice, apply, equalised, fit_scaling, unit_range
from cellwright.ops.labels import label_properties
from cellwright.ops.link import LinkSettings, MaxGap, MinSlices, Waist

# how slices are coloured, as in the reference
CLIP_LIMIT = 10.0  # most pixels of one grey level, in units of an even histogram
N_TILES = 16  # along each axis, that are equalised on their own
BLUR_PX = 8  # side of the square that neighbours are averaged over
FIRST_THRESHOLD, THRESHOLD_STEP, MOST_THRESHOLDS = 0.2, 0.01, 30  # for the neighbours
MOST_BRIGHT = 0.03  # share of a neighbour that is taken to be cells
KEPT_SLICES = 3  # one coloured, and what the next one needs
FAINT = 0.2  # probability above which a cell found in the next slice goes on
PEAK_WINDOW = 12  # side of the square in which only the highest distance is a cell, in pixels


def coloured(
    masks: Sequence[NDArray[np.bool_] | None], current: NDArray[Any], scaling: Scaling | None
) -> NDArray[np.float32]:
    """Return a slice with its context as float32 (3, Y, X) in red, green, blue, each from 0 to 1.

    The masks (Y, X) are where the slices before and after are :func:`bright`; None where the volume ends.
    Scaled the same for all slices of a volume, dim slices stay dim, and the colours reach above 1; without a
    scaling each is scaled by its extremes, as the reference does. A constant slice is 0 everywhere.
    """
    green = _scaled(current, scaling)
    colours = np.stack([green, green, green])
    for channel, mask in zip((0, 2), masks, strict=True):
        if mask is not None:
            colours[channel] += mask * green
    if scaling is not None:
        return colours
    return np.stack([unit_range(one) for one in colours])


def _scaled(pixels: NDArray[Any], scaling: Scaling | None) -> Slice:
    if scaling is None:
        return unit_range(pixels)
    return apply(scaling, pixels)


def bright(neighbour: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where a neighbouring slice (Y, X) is bright once it is equalised and blurred.

    The slice is in any unit; values that are not finite count as the lowest, and in a constant one nothing is
    bright. The threshold rises step by step until few enough pixels, but some, lie above it; else the last
    one holds. The reference equalises 16-bit slices at 65536 levels, with the same limit relative to an even
    histogram; tiles of some hundred pixels do not tell those from 256 levels.
    """
    grey = unit_range(neighbour)
    if not grey.any():
        return np.zeros(grey.shape, bool)
    even = unit_range(equalised(grey, CLIP_LIMIT, N_TILES))
    blurred = ndimage.uniform_filter(even, BLUR_PX, mode="mirror")
    thresholds = FIRST_THRESHOLD + THRESHOLD_STEP * np.arange(MOST_THRESHOLDS, dtype=np.float32)
    ordered = np.sort(blurred, axis=None)
    above = 1 - np.searchsorted(ordered, thresholds, side="right") / ordered.size
    fits = np.flatnonzero((above > 0) & (above <= MOST_BRIGHT))
    threshold = thresholds[fits[0]] if len(fits) else thresholds[-1]
    return np.asarray(blurred > threshold)


@dataclass(frozen=True, slots=True)
class PseudocolorFrames(Frames):
    """The slices of a volume or of a series of volumes, pseudo-coloured as they are read.

    Colours of the image are averaged first. Only a slice and its two neighbours are read at a time; the last
    few stay in memory, each with where it is bright.
    """

    has_context: bool = True  # whether the neighbours colour a slice; else it stays grey, scaled the same
    scaling: Scaling | None = None  # of all slices; None scales each by its extremes
    _seen: OrderedDict[tuple[int, ...], tuple[NDArray[Any], NDArray[np.bool_]]] = field(
        default_factory=OrderedDict, repr=False
    )
    _last: dict[int, Slice] = field(default_factory=dict, repr=False)

    def read(self, index: int, window: Window) -> Slice:
        """Return one window (rows, columns) of slice ``index``: (3, Y, X), or (1, Y, X) without context."""
        if index not in self._last:
            colours = self._colour(tuple(int(i) for i in np.unravel_index(index, self.lead_shape)))
            self._last.clear()
            self._last[index] = colours
        return self._last[index][:, *window]

    def sample(self) -> Slice:
        """Return about a million pixels at most of the plain volume, scaled as a whole.

        All of it is 0 only where the volume is constant; else the percentiles of the colouring (or the
        extremes) are 0 and 1, as they are in the slices that are read.
        """
        return _scaled(Frames.sample(self), self.scaling)

    def _colour(self, place: tuple[int, ...]) -> Slice:
        if not self.has_context:
            return _scaled(self._grey(place), self.scaling)[np.newaxis]
        masks = [None if one is None else self._slice(one)[1] for one in self._around(place)]
        return coloured(masks, self._slice(place)[0], self.scaling)

    def _around(self, place: tuple[int, ...]) -> list[tuple[int, ...] | None]:
        """Return the places of the slices before and after, of the same time point."""
        axis = self.image.label_axes.index("Z")
        before, z, after = place[:axis], place[axis], place[axis + 1 :]
        near = [(*before, other, *after) for other in (z - 1, z + 1)]
        return [one if 0 <= one[axis] < self.lead_shape[axis] else None for one in near]

    def _slice(self, place: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return a slice as it is, and where it is bright."""
        if place not in self._seen:
            grey = self._grey(place)
            self._seen[place] = (grey, bright(grey))
        self._seen.move_to_end(place)
        while len(self._seen) > KEPT_SLICES:
            self._seen.popitem(last=False)
        return self._seen[place]

    def _grey(self, place: tuple[int, ...]) -> NDArray[Any]:
        whole = self._take((*place, slice(None), slice(None)))
        if len(whole) == 1:
            return np.asarray(whole[0])
        return np.asarray(whole.mean(axis=0, dtype=np.float32))


def pseudocolor_frames(
    image: Image,
    channel: int | None = None,
    percentiles: tuple[float, float] | None = None,
    *,
    has_context: bool = True,
) -> PseudocolorFrames:
    """Return the slices of a volume (ZYX, TZYX, with or without channels), pseudo-coloured when read.

    ``percentiles`` of all slices become 0 and 1; without them the extremes of each slice do. Without context
    slices stay grey.

    AxesError where the image is not a volume or has one slice only, which has no context. ImageError and
    SettingsError as for ``ops.geometry.axes.frames``.
    """
    n_slices = image.lengths.get("Z", 0)
    if n_slices < 2:
        raise AxesError(
            "pseudocolor looks at the slices around each one, so it counts in volumes of at least two slices "
            f"(ZYX, TZYX, CZYX); got axes {image.axes!r} with shape {image.shape}. Choose flow or centroid "
            "for 2D images and single slices, or name the axis of the slices Z."
        )
    plain = frames(image, channel)
    scaling, notice = None, plain.notice
    if percentiles is not None:
        scaling = fit_scaling(plain.sample(), percentiles)
        notice = f"{notice} {scaling.notice}".strip()
    return PseudocolorFrames(
        plain.image,
        plain.channel,
        plain.lead_shape,
        plain.shape,
        notice,
        has_context=has_context,
        scaling=scaling,
    )


@dataclass(frozen=True, slots=True)
class PseudocolorSettings(FlowSettings):
    """What can be changed after the network has run: outlines in slices, and how they are linked."""

    min_score: MinScore = 0.15
    max_gap: MaxGap = 2
    waist: Waist = 0.87
    min_slices: MinSlices = 3

    def linking(self) -> LinkSettings:
        """Return the part of the settings that links slices."""
        return LinkSettings(self.max_gap, self.waist, self.min_slices)


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
    labels = watershed(-distance, peaks, mask=mask).astype(np.int32)
    areas, points, boxes = label_properties(labels)
    scores = ndimage.mean(probability, labels, np.arange(1, len(areas) + 1)).astype(np.float32)
    return with_faint(wanted_cells(Cells(points, boxes, scores, areas, labels), settings), probability)


def with_faint(cells: Cells, probability: NDArray[np.float32]) -> Cells:
    """Return the cells of one slice with where those of the next slices may go on."""
    return replace(cells, faint=probability > FAINT)
