"""Regions of an image: drawn shapes, holes, masks; which cells lie in them, and how large they are.

Coordinates are those of napari: the middle of the first pixel is 0. A pixel belongs to a shape that has the
pixel's middle inside; rings in rings are holes (even-odd rule). A shape that was drawn in one slice or frame
holds there alone, one without that axis in all of them. A region whose name begins with ``exclude`` is cut
out of the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import ArrayLike, Cells
from cellwright.core.errors import SettingsError
from cellwright.core.lazy import LazyArray, index_of_each_axis
from cellwright.ops.geometry.tiles import Window, window_between
from cellwright.ops.outlines import ellipse_ring, pixels_in_rings, points_in_ring

RegionRule = Literal["centre", "overlap", "whole"]
ALL_REGIONS = "all regions"  # name of their union in tables
EXCLUDED = "exclude"  # how names of regions begin that are cut out

Mask = NDArray[np.bool_]
Place = tuple[int, int]  # y and x of a pixel


class Region(Protocol):
    """A part of an image, in some or all of its frames."""

    @property
    def name(self) -> str:
        """What to call it in tables."""
        ...

    def contains(self, points: NDArray[np.floating]) -> Mask:
        """Return which points (N, D), in pixels and the axes of the labels, lie inside."""
        ...

    def mask(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Mask:
        """Return which pixels (Y, X) of a window of a plane lie inside.

        ``index`` are those of the axes before YX, ``start`` is the first pixel of the window.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ShapeRegion:
    """A drawn shape."""

    name: str  # what to call it in tables
    rings: tuple[NDArray[np.float64], ...]  # corners (N, 2), y and x; the last is joined to the first
    index: tuple[int | None, ...] = ()  # where it is drawn on each axis before YX; None and missing: all

    def contains(self, points: NDArray[np.floating]) -> Mask:
        """Return which points (N, D) lie inside."""
        places = np.asarray(points, np.float64)
        inside = np.zeros(len(places), bool)
        for ring in self.rings:
            inside ^= points_in_ring(places[:, -2:], ring)
        lead = np.rint(places[:, :-2])
        for at, place in enumerate(self._places(lead.shape[1])):
            if place is not None:
                inside &= lead[:, at] == place
        return inside

    def mask(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Mask:
        """Return which pixels (Y, X) of a window of a plane lie inside."""
        inside = np.zeros(shape, bool)
        window, part = self.part(index, shape, start)
        inside[window] = part
        return inside

    def part(
        self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)
    ) -> tuple[Window, Mask]:
        """Return the box of a window of a plane around the shape, and which of its pixels lie inside."""
        corners = np.concatenate(self.rings)
        low = np.clip(np.floor(corners.min(axis=0)).astype(int) - start, 0, shape)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 1 - start, 0, shape)
        places = zip(self._places(len(index)), index, strict=True)
        if any(place is not None and place != at for place, at in places):
            high = low
        rows, columns = (np.arange(low[axis], high[axis]) + float(start[axis]) for axis in (0, 1))
        return window_between(low, high), pixels_in_rings(rows, columns, self.rings)

    def _places(self, n_lead: int) -> tuple[int | None, ...]:
        if not n_lead:
            return ()
        missing = (None,) * (n_lead - len(self.index))
        return (*missing, *self.index)[-n_lead:]


@dataclass(frozen=True, slots=True, eq=False)
class MaskRegion:
    """The pixels of a mask image that are not 0, or with ``is_inverted`` those that are.

    ``pixels`` has the axes of the labels, or lacks leading ones and then holds for all of their frames. Of an
    array on disk only what is looked at is read.
    """

    name: str
    pixels: ArrayLike
    is_inverted: bool = False

    def contains(self, points: NDArray[np.floating]) -> Mask:
        """Return which points (N, D) lie inside; beside the mask is outside."""
        ndim = len(self.pixels.shape)
        places = np.rint(points[:, -ndim:]).astype(np.intp)
        inside = np.asarray(((places >= 0) & (places < self.pixels.shape)).all(axis=1))
        within = places[inside]
        if not len(within):
            return inside
        low, high = within.min(axis=0), within.max(axis=0) + 1
        part = np.asarray(self.pixels[window_between(low, high)])
        inside[inside] = (part[tuple((within - low).T)] != 0) != self.is_inverted
        return inside

    def mask(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Mask:
        """Return which pixels (Y, X) of a window of a plane lie inside."""
        n_lead = len(self.pixels.shape) - 2
        window = tuple(slice(first, first + n) for first, n in zip(start, shape, strict=True))
        part = np.asarray(self.pixels[(*index[len(index) - n_lead :], *window)])
        if part.shape != shape:
            raise self._misfit(shape)
        return np.asarray((part != 0) != self.is_inverted)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise where the mask is not one of labels of this shape.

        SettingsError where it is larger or smaller.
        """
        if tuple(self.pixels.shape) != shape[max(len(shape) - len(self.pixels.shape), 0) :]:
            raise self._misfit(shape)

    def _misfit(self, shape: tuple[int, ...]) -> SettingsError:
        return SettingsError(
            f"The mask {self.name!r} must have the size of the image, {shape}; got {self.pixels.shape}. "
            "Choose the mask of this image."
        )


class SampledPixels(LazyArray):
    """A mask of the same field with other pixels, each with the value at its middle; read as it is looked at.

    The first corner of the mask is that of the field; ``shape`` is the wanted length of each axis, and
    ``factors`` are the wanted pixels in one of the mask.
    """

    def __init__(self, pixels: ArrayLike, shape: Sequence[int], factors: Sequence[float]) -> None:
        self._pixels, self.shape, self.dtype = pixels, tuple(shape), pixels.dtype
        middles = ((np.arange(n) + 0.5) / factor for n, factor in zip(shape, factors, strict=True))
        self._places = [
            at.astype(np.intp).clip(0, n - 1) for at, n in zip(middles, pixels.shape, strict=True)
        ]

    def __getitem__(self, place: Any) -> NDArray[Any]:
        parts = index_of_each_axis(place, len(self.shape))
        found = [np.atleast_1d(at[part]) for at, part in zip(self._places, parts, strict=True)]
        if not all(map(len, found)):
            return np.zeros([len(at) for at in found], self.dtype)
        window = tuple(slice(int(at[0]), int(at[-1]) + 1) for at in found)
        read = np.asarray(self._pixels[window])[np.ix_(*(at - at[0] for at in found))]
        return np.asarray(read[tuple(0 if isinstance(part, int) else slice(None) for part in parts)])


def inner_box(inside: Mask, margins: Sequence[int] = ()) -> tuple[slice, ...] | None:
    """Return the box of pixels that are all inside; None where there are no such.

    They lie about the middle of what is inside, in the proportions of the box around it. On each axis they
    are less a margin where there is something beyond: at the sides of the array there is not.
    """
    if not inside.any():
        return None
    axes = range(inside.ndim)
    others = [tuple(other for other in axes if other != axis) for axis in axes]
    places = [np.flatnonzero(inside.any(axis=along)) for along in others]
    low, high = np.array([at[0] for at in places]), np.array([at[-1] + 1 for at in places])
    for share in np.linspace(0.0, 0.45, 46):
        step = np.ceil(share * (high - low)).astype(int)
        first, last = low + step, high - step
        if not inside[window_between(first, last)].all():
            continue
        first += np.where(first > 0, margins or 0, 0)
        last -= np.where(last < inside.shape, margins or 0, 0)
        return window_between(first, last) if (first < last).all() else None
    return None


@dataclass(frozen=True, slots=True)
class RegionSet:
    """Regions to count in, and others that are cut out of all of them."""

    included: tuple[Region, ...] = ()  # may overlap; none stands for the whole image
    excluded: tuple[Region, ...] = ()  # cut out of each of them
    rule: RegionRule = "centre"  # cells in are those with their centre, any pixel, or all pixels inside

    def __post_init__(self) -> None:
        if self.rule not in get_args(RegionRule):
            raise SettingsError(
                f"The rule for regions must be one of {', '.join(get_args(RegionRule))}; got {self.rule!r}."
            )

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise where a mask is not one of labels of this shape.

        SettingsError where it is larger or smaller.
        """
        for region in (*self.included, *self.excluded):
            for one in region.regions if isinstance(region, Complement) else (region,):
                if isinstance(one, MaskRegion):
                    one.check(shape)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the regions, numbered where they occur twice."""
        if not self.included:
            return ("image",)
        names: list[str] = []
        for region in self.included:
            n_before = sum(other.name == region.name for other in self.included[: len(names)])
            name = region.name
            if n_before:
                name = f"{name} ({n_before + 1})"
            names.append(name)
        return tuple(names)

    @property
    def names_and_union(self) -> tuple[str, ...]:
        """Names of the regions, and where there are several that of their union, which is the last."""
        names = self.names
        if len(names) == 1:
            return names
        return (*names, ALL_REGIONS)

    def joined_names(self, membership: Mask) -> NDArray[np.str_]:
        """Return the names of the regions that each cell lies in, joined by '; '."""
        names = self.names
        texts = [
            "; ".join(name for name, is_in in zip(names, row, strict=True) if is_in) for row in membership
        ]
        return np.array(texts, str)

    def split_names(self, texts: Sequence[str]) -> Mask:
        """Return which cell lies in which region, (N, regions), by what :meth:`joined_names` told of each.

        SettingsError where a text tells something else.
        """
        parts = [text.split("; ") for text in texts]
        found = np.array([[name in part for name in self.names] for part in parts], bool)
        found = found.reshape(len(texts), len(self.names))
        if self.joined_names(found).tolist() != list(texts):
            raise SettingsError(
                f"The regions are {', '.join(self.names)}; the cells are said to lie in others. Count again."
            )
        return found

    def with_union(self, membership: Mask) -> Mask:
        """Return which cell lies in which region, and where there are several in any of them, the last."""
        if membership.shape[1] == 1:
            return membership
        return np.column_stack([membership, membership.any(axis=1)])

    def masks(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Iterator[Mask]:
        """Yield which pixels (Y, X) of a window belong to each region, what is excluded cut out.

        Parameters are those of :meth:`Region.mask`.
        """
        free = np.ones(shape, bool)
        for region in self.excluded:
            free &= ~region.mask(index, shape, start)
        if not self.included:
            yield free
        for region in self.included:
            yield region.mask(index, shape, start) & free

    def union(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Mask:
        """Return which pixels (Y, X) of a window belong to any region, what is excluded cut out."""
        found = np.zeros(shape, bool)
        for inside in self.masks(index, shape, start):
            found |= inside
        return found

    def contain(self, points: NDArray[np.floating]) -> Mask:
        """Return which of points (N, D), in pixels and the axes of the labels, lies where, (N, regions)."""
        free = ~np.any([region.contains(points) for region in self.excluded], axis=0)
        inside = [region.contains(points) for region in self.included] or [np.ones(len(points), bool)]
        return np.asarray(np.stack(inside, axis=1) & np.broadcast_to(free, len(points))[:, np.newaxis])

    def membership(self, cells: Cells, offset: Sequence[int] = ()) -> Mask:
        """Return which cell lies in which region, (N, regions).

        Rules other than ``centre`` need labels; ``offset`` is their place in the image that the regions are
        drawn on.

        SettingsError where the rule needs outlines and there are none.
        """
        if self.rule == "centre":
            return self.contain(cells.points + np.asarray(offset or (0,) * cells.points.shape[1], np.float32))
        shares = self._shares(cells, offset)
        if self.rule == "overlap":
            return shares > 0
        return np.asarray(shares == cells.areas[:, np.newaxis])

    def _shares(self, cells: Cells, offset: Sequence[int]) -> NDArray[np.float64]:
        labels = cells.labels
        if labels is None:
            raise SettingsError(
                f"The rule {self.rule!r} needs outlines, and these cells are points alone. Choose the rule "
                "'centre', or cells with outlines."
            )
        start = tuple(offset or (0,) * labels.ndim)
        shape, corner = (labels.shape[-2], labels.shape[-1]), (start[-2], start[-1])
        shares = np.zeros((len(cells), len(self.names)))
        for index in np.ndindex(labels.shape[:-2]):
            plane = labels[index]
            place = tuple(i + o for i, o in zip(index, start, strict=False))
            for number, inside in enumerate(self.masks(place, shape, corner)):
                shares[:, number] += np.bincount(plane[inside], minlength=len(cells) + 1)[1:]
        return shares

    def sizes(
        self, lead_shape: tuple[int, ...], shape: tuple[int, int], offset: Sequence[int] = ()
    ) -> NDArray[np.int64]:
        """Return the pixels of each region in each plane, (regions, *lead_shape); of several the union last.

        ``lead_shape`` and ``shape`` are those of what was counted, ``offset`` its place in the image that the
        regions are drawn on.
        """
        start = tuple(offset or (0,) * (len(lead_shape) + 2))
        sizes = np.zeros((len(self.names_and_union), prod(lead_shape)), np.int64)
        for plane, index in enumerate(np.ndindex(lead_shape)):
            place = tuple(at + first for at, first in zip(index, start, strict=False))
            union = np.zeros(shape, bool)
            for number, inside in enumerate(self.masks(place, shape, (start[-2], start[-1]))):
                sizes[number, plane] = inside.sum()
                union |= inside
            sizes[-1, plane] = union.sum()
        return sizes.reshape(-1, *lead_shape)


def inner_boxes(
    regions: RegionSet, shape: tuple[int, ...], n_spatial: int, margins: Sequence[int]
) -> tuple[tuple[slice, ...], ...]:
    """Return boxes within regions of labels of this shape, as large as :func:`inner_box` finds them.

    Planes and volumes, which the last ``n_spatial`` axes are, have boxes of their own, unless the regions are
    the same in all of them. Regions that hold none have none.
    """
    lead, plane = shape[:-2], (shape[-2], shape[-1])
    if all(map(_is_in_all_planes, (*regions.included, *regions.excluded))):
        whole = tuple(slice(0, n) for n in lead)
        found = (inner_box(inside, margins[-2:]) for inside in regions.masks((0,) * len(lead), plane))
        return tuple((*whole, *box) for box in found if box is not None)
    boxes = []
    for index in np.ndindex(shape[: len(shape) - n_spatial]):
        deeper = list(np.ndindex(shape[len(index) : -2]))
        planes = [list(regions.masks((*index, *place), plane)) for place in deeper]
        for one in zip(*planes, strict=True):
            box = inner_box(np.reshape(one, shape[len(index) :]), margins)
            if box is not None:
                boxes.append((*(slice(at, at + 1) for at in index), *box))
    return tuple(boxes)


def _is_in_all_planes(region: Region) -> bool:
    """Return whether a region is the same in each slice and frame."""
    if isinstance(region, Complement):
        return all(map(_is_in_all_planes, region.regions))
    if isinstance(region, ShapeRegion):
        return all(place is None for place in region.index)
    return isinstance(region, MaskRegion) and len(region.pixels.shape) == 2


def region_set(
    drawn: Sequence[Region],
    excluded: Sequence[Region] = (),
    mask: Region | None = None,
    rule: RegionRule = "centre",
) -> RegionSet:
    """Return regions to count in.

    Cells are counted in what is ``drawn``; what is ``excluded``, or drawn under a name that begins with
    ``exclude``, is cut out. Where there is a ``mask``, nothing outside it counts.

    Examples
    --------
    >>> square = shape_region("exclude the fold", "polygon", np.array([[0, 0], [0, 9], [9, 9], [9, 0]]))
    >>> region_set([square]).names, len(region_set([square]).excluded)
    (('image',), 1)
    """
    included = tuple(region for region in drawn if not is_excluded(region.name))
    cut = (*(region for region in drawn if is_excluded(region.name)), *excluded)
    if mask is not None and included:
        cut = (*cut, Complement((mask,)))
    elif mask is not None:
        included = (mask,)
    return RegionSet(included, cut, rule)


def is_excluded(name: str) -> bool:
    """Return whether a region of this name is cut out of the others."""
    return name.strip().lower().startswith(EXCLUDED)


@dataclass(frozen=True, slots=True)
class Complement:
    """All that lies outside some regions."""

    regions: tuple[Region, ...]

    @property
    def name(self) -> str:
        """What to call it in tables."""
        return f"outside {' and '.join(region.name for region in self.regions)}"

    def contains(self, points: NDArray[np.floating]) -> Mask:
        """Return which points (N, D) lie inside."""
        return np.asarray(~np.any([region.contains(points) for region in self.regions], axis=0))

    def mask(self, index: tuple[int, ...], shape: tuple[int, int], start: Place = (0, 0)) -> Mask:
        """Return which pixels (Y, X) of a window of a plane lie inside."""
        return np.asarray(~np.any([region.mask(index, shape, start) for region in self.regions], axis=0))


def shape_region(
    name: str, kind: str, vertices: NDArray[np.floating], index: tuple[int | None, ...] = ()
) -> ShapeRegion:
    """Return the region of one shape of a napari Shapes layer, by its vertices (N, 2) in pixels of the image.

    It is a ``rectangle`` or ``ellipse`` (both by four corners, turned or not), a ``polygon`` or a ``path``,
    which is closed.

    SettingsError where it has no inside (a line, or less than three corners).
    """
    ring = np.asarray(vertices, np.float64)
    if kind == "line" or len(ring) < 3:
        raise SettingsError(
            f"A region needs an inside; {name!r} is a {kind} of {len(ring)} corners. Draw a polygon, an "
            "ellipse or a rectangle."
        )
    if kind == "ellipse":
        ring = ellipse_ring(ring)
    return ShapeRegion(name, (ring,), index)
