"""From the objects of a file to the cells of an image: what is odd is mended, cut or left out, and counted.

One odd object never costs a file. What cannot be an area, a box or a point is left out; an outline that
crosses itself is filled as drawing programs fill it (even-odd); what lies over the edge is cut there.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.core.memory import free_memory
from cellwright.files.formats.image_annotation import (
    MARGIN_PX,
    ImageAnnotation,
    canvas,
    chosen,
    with_classes,
)
from cellwright.files.json_value import JsonValue
from cellwright.ops.geometry.boxes import corners_of
from cellwright.ops.outlines import (
    MaskPart,
    Ring,
    clipped,
    crosses_itself,
    ellipse_ring,
    filled,
    painted,
)

MOST_NUMBER = int(np.iinfo(np.int32).max)  # of a cell
MOST_CORNERS = 1_000_000  # of one outline
OVAL_CORNERS = 90  # of the polygon of an ellipse
MOST_FILLED_PX = 1 << 28  # of all outlines and masks of a file, and of its image, where that is not known
MOST_TOLD_PX = 450_000_000  # of labels, 1.8 GB, where only the file tells their size
LABEL_BYTES = 4  # of a pixel
FREE_SHARE = 0.5  # of the memory that is free may go to the labels of one of the images of a file
PIECE_PX = 1 << 19  # of labels, 2 MB, in which memory is given
MOST_TIMES_FILLED = 4  # how often they may cover an image that is
MOST_STEPS = 1 << 23  # pixels that the outlines of one cell go along
MOST_CROSSED = 2000  # corners of an outline that is looked at for crossings, which takes their square
FARTHEST = 1e12  # coordinate that makes sense, of whatever image
FARTHEST_PX = float(1 << 20)  # from the first pixel, where the size of the image is not known

Fill = Callable[[Sequence[Ring]], MaskPart]


class Shape(NamedTuple):
    """A part of an object: rings that enclose an area, the two corners of a box, points, or a mask."""

    kind: Literal["area", "box", "point", "mask"]
    rings: Sequence[Ring] = ()
    mask: MaskPart | None = None


@dataclass(frozen=True, slots=True)
class FileObject:
    """One object of a file, as it is told there."""

    node: JsonValue  # where it stands
    shapes: Sequence[Shape]  # corners (y, x) of the plane, the first pixel reaching from 0 to 1
    name: str = ""  # of its class; empty for none
    lead: tuple[float, ...] = ()  # frame and slice it lies in, as far as the image has such axes
    group: Hashable | None = None  # objects of one group are one cell; None is a group of its own


@dataclass(slots=True)
class ReadingNotes:
    """What was mended, cut or left out while a file was read."""

    path: Path
    n_objects: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[ReadError] = field(default_factory=list)
    image: Image | None = None
    n_filled_px: int = 0
    least_shape: tuple[int, ...] = ()  # of the image, where nothing tells its size

    def read(
        self, rows: Iterable[JsonValue], read_object: Callable[[JsonValue], FileObject | None]
    ) -> list[FileObject]:
        """Return the objects of these rows that make sense; ReadError where none does."""
        found = []
        for row in rows:
            self.n_objects += 1
            try:
                one = read_object(row)
            except ReadError as error:
                self.faults.append(error)
                continue
            if one is not None:
                found.append(one)
                self.fill(sum(part.mask.mask.size for part in one.shapes if part.mask is not None))
        if self.faults and len(self.faults) == self.n_objects:
            raise self.faults[0]
        return found

    def fill(self, n_px: int) -> None:
        """Count pixels that outlines and masks take up in memory; ReadError where they are too many."""
        most = MOST_FILLED_PX
        if self.image is not None:
            most = max(most, MOST_TIMES_FILLED * prod(self.image.label_shape))
        self.n_filled_px += n_px
        if self.n_filled_px > most:
            raise ReadError(
                f"The outlines of {self.path} must cover {most} pixels at most; they cover more. Name their "
                "image, or remove outlines around others."
            )

    def note(self, what: str, n: int = 1) -> None:
        """Count something that the user should know of."""
        if n:
            self.counts[what] += n

    def notices(self) -> tuple[str, ...]:
        """Return all of it as one sentence, or nothing; another where the size of the image is a guess."""
        notices = []
        sentences = [f"{n} {what}" for what, n in self.counts.items()]
        if self.faults:
            sentences.append(f"{len(self.faults)} made no sense and were left out, first: {self.faults[0]}")
        if sentences:
            text = "; ".join(sentences).removesuffix(".")
            notices.append(f"Of {self.n_objects} objects in {self.path.name} {text}.")
        if self.least_shape:
            notices.append(
                f"{self.path.name} does not give the size of its image: {self.least_shape} is the least that "
                "holds its cells. Name the image to have its own."
            )
        return tuple(notices)


def makes_sense(places: NDArray[np.float64]) -> bool:
    """Return whether coordinates are numbers that an image can have."""
    return bool((np.abs(places) <= FARTHEST).all())


def area_of(node: JsonValue, *rings: Ring) -> Shape:
    """Return the area inside rings (even-odd) of 3 corners and more, without repeated ones at their ends."""
    checked = []
    for ring in rings:
        if len(ring) > 1 and (ring[0] == ring[-1]).all():
            ring = ring[:-1]
        if not 3 <= len(ring) <= MOST_CORNERS or not makes_sense(ring):
            raise node.refuse(f"an outline of 3 to {MOST_CORNERS} corners")
        checked.append(ring)
    return Shape("area", checked)


def oval_of(
    node: JsonValue, middle: NDArray[np.float64], radii: NDArray[np.float64], turn: float = 0.0
) -> Shape:
    """Return the area in an ellipse of radii (y, x), turned by so many radians, as a polygon."""
    turned = np.array([(np.cos(turn), -np.sin(turn)), (np.sin(turn), np.cos(turn))])
    corners = middle + radii * [(-1, -1), (-1, 1), (1, 1), (1, -1)] @ turned
    return area_of(node, ellipse_ring(corners, OVAL_CORNERS))


def box_of(node: JsonValue, corners: NDArray[np.float64]) -> Shape:
    """Return a box of two corners in any order; ReadError where they are not two, or lie on one line."""
    if corners.shape != (2, 2) or not makes_sense(corners) or not np.ptp(corners, axis=0).all():
        raise node.refuse("two corners of a box with a width and a height")
    return Shape("box", [np.sort(corners, axis=0)])


def points_of(node: JsonValue, places: NDArray[np.float64]) -> Shape:
    """Return points (N, 2); ReadError where there are none, or coordinates that are not numbers."""
    if not len(places) or not makes_sense(places):
        raise node.refuse("points in the image")
    return Shape("point", [places])


def assemble(
    annotation: ImageAnnotation,
    objects: Sequence[FileObject],
    notes: ReadingNotes,
    image: Image | None,
    fill: Fill = filled,
) -> ImageAnnotation:
    """Return an annotation with the cells that objects tell of: points or boxes where all are, else labels.

    A shape of () is unknown: then it is that of ``image``, or as small as may be. ``fill`` makes pixels of
    outlines, where a format has a way of its own.

    ReadError where most of them lie outside the image, or labels would be too large of a size that is
    guessed, or told by the file alone, or for the memory that images before have left, or the image has
    other axes.
    """
    if image is not None and len(image.label_axes) != len(annotation.axes):
        raise ReadError(
            f"The image of {notes.path} must have the axes {annotation.axes}; {image.name!r} has "
            f"{image.label_axes}. Choose the file of this image."
        )
    objects = _of_one_kind(objects, notes)
    is_told = bool(annotation.shape)
    most = MOST_TOLD_PX if is_told else MOST_FILLED_PX
    shape = annotation.shape or _extent(annotation, objects, notes, image)
    annotation = replace(annotation, shape=shape)
    cut = [_cut(one, shape, notes) for one in objects]
    inside = [one for one in cut if one is not None]
    notes.note("lie outside the image and were left out", len(cut) - len(inside))
    if 2 * len(inside) < len(cut):
        first = next(one.node for one, left in zip(objects, cut, strict=True) if left is None)
        raise ReadError(
            f"{first.where or 'An object'} of {notes.path} and others must lie inside the image of "
            f"{shape} pixels; most do not. Choose the file of this image."
        )
    kinds = {part.kind for one in inside for part in one.shapes}
    if kinds == {"point"}:
        return _points(annotation, inside, notes)
    if image is None and not is_told and inside:
        notes.least_shape = shape
    groups = [one.group for one in inside if one.group is not None]
    if kinds == {"box"} and len(shape) == 2 and len(groups) == len(set(groups)):
        boxes = np.array([one.shapes[0].rings[0] for one in inside], np.float32)
        names = [one.name for one in inside]
        return with_classes(annotation, names, boxes=boxes, notices=notes.notices())
    is_known = notes.image is not None and notes.image.label_shape == shape
    n_px = min(prod(shape), _touched_px(inside, shape[-1]))
    if not is_known and n_px > most:
        raise ReadError(
            f"The outlines of {notes.path} must lie within {most} pixels where their image is not named; "
            f"they reach over {shape}. Name their image, or split the file."
        )
    if not is_known and LABEL_BYTES * n_px > FREE_SHARE * free_memory():  # beside those of images before
        raise ReadError(
            f"The cells of {notes.path} must fit into memory, those of all its images together; they do not. "
            "Name one of its images, or split the file."
        )
    return _labels(annotation, inside, notes, fill)


def _touched_px(objects: Sequence[FileObject], width: int) -> int:
    """Return how many pixels of labels come into memory with objects: whole pieces of rows."""
    n_pixels = 0
    for part in (shape for one in objects for shape in one.shapes):
        if part.mask is not None:
            height = part.mask.mask.shape[-2]
        else:
            height = int(np.ptp(np.concatenate(part.rings)[:, 0]))
        n_pixels += (height + 1) * width + PIECE_PX
    return n_pixels


def _of_one_kind(objects: Sequence[FileObject], notes: ReadingNotes) -> Sequence[FileObject]:
    """Return objects without points, where there are others too: those say more."""
    others = [one for one in objects if all(part.kind != "point" for part in one.shapes)]
    if not others:
        return objects
    notes.note("are points among outlines and were left out", len(objects) - len(others))
    return others


def _extent(
    annotation: ImageAnnotation, objects: Sequence[FileObject], notes: ReadingNotes, image: Image | None
) -> tuple[int, ...]:
    """Return the shape of the image, or of the smallest that holds all objects."""
    ends = []
    for one in objects:
        for part in one.shapes:
            corners = np.concatenate(part.rings)
            if np.abs(corners).max() <= FARTHEST_PX:
                shift = 0.5 * (part.kind == "point")
                ends.append([*(n + 1 for n in one.lead), *(corners.max(axis=0) + shift)])
    return canvas(notes.path, image, np.array(ends, float).reshape(-1, len(annotation.axes)))


def _cut(one: FileObject, shape: tuple[int, ...], notes: ReadingNotes) -> FileObject | None:
    """Return what of an object lies inside the image, None where nothing does."""
    if any(not -0.5 <= at < n for at, n in zip(one.lead, shape[:-2], strict=True)):
        return None
    size = (shape[-2], shape[-1])
    kept, is_over = [], False
    for part in one.shapes:
        corners = np.concatenate(part.rings) if part.rings else np.zeros((1, 2))
        beyond = max(float(-corners.min()), float((corners - size).max()))
        is_over |= beyond > MARGIN_PX
        if beyond > 0 and part.kind != "mask":
            part = Shape(part.kind, _rings_inside(part, size))
        if part.rings or part.kind == "mask":
            kept.append(part)
    if not kept:
        return None
    notes.note("were cut at the edge of the image", int(is_over))
    return replace(one, shapes=kept)


def _rings_inside(part: Shape, size: tuple[int, int]) -> list[Ring]:
    """Return what of the points, corners or outlines of a part lies in a plane of this size."""
    if part.kind == "point":
        end = np.array(size) + MARGIN_PX
        return [ring for ring in part.rings if ring.min() >= -MARGIN_PX and (ring <= end).all()]
    if part.kind == "box":
        box = part.rings[0].clip(0, size)
        return [box] if np.ptp(box, axis=0).all() else []
    return [ring for ring in (clipped(ring, size) for ring in part.rings) if len(ring) > 2]


def _points(
    annotation: ImageAnnotation, objects: Sequence[FileObject], notes: ReadingNotes
) -> ImageAnnotation:
    places: list[list[float]] = []
    names: list[str] = []
    for one in objects:
        for part in one.shapes:
            for point in np.concatenate(part.rings) - 0.5:
                places.append([*one.lead, *point])
                names.append(one.name)
    points = np.array(places, np.float32).reshape(-1, len(annotation.axes))
    return with_classes(annotation, names, points=points, notices=notes.notices())


def _labels(
    annotation: ImageAnnotation, objects: Sequence[FileObject], notes: ReadingNotes, fill: Fill
) -> ImageAnnotation:
    cells: dict[tuple[str, Any], list[MaskPart]] = {}
    names: dict[tuple[str, Any], str] = {}
    for index, one in enumerate(objects):
        key = ("alone", index) if one.group is None else ("group", one.group)
        names.setdefault(key, one.name)
        n_crossed = 0
        for part in one.shapes:
            if _n_steps(part) > MOST_STEPS:
                notes.note("have outlines of too many turns and were left out")
                continue
            if part.mask is None:
                notes.fill(int(prod(np.ptp(np.concatenate(part.rings), axis=0) + 1)))
            looked_at = [ring for ring in part.rings if part.kind == "area" and len(ring) <= MOST_CROSSED]
            n_crossed += any(map(crosses_itself, looked_at))
            lead = tuple(round(at) for at in one.lead)
            cells.setdefault(key, []).append(_mask_of(part, fill).at(lead))
        notes.note("cross themselves and were filled as drawn", int(n_crossed > 0))
    labels, left, counts = painted(list(cells.values()), annotation.shape)
    for what, n in counts.items():
        notes.note(what, n)
    called, numbers = list(names.values()), _numbers_in_file([list(cells)[i] for i in left])
    return with_classes(
        annotation, [called[i] for i in left], labels=labels, numbers=numbers, notices=notes.notices()
    )


def _numbers_in_file(keys: Sequence[tuple[str, Any]]) -> NDArray[np.int32] | None:
    """Return the number that the file gives each cell, None where it does not give one to all of them."""
    numbers = [group for kind, group in keys if kind == "group" and isinstance(group, int)]
    if len(numbers) < len(keys) or not all(0 < number <= MOST_NUMBER for number in numbers):
        return None
    return np.array(numbers, np.int32)


def _n_steps(part: Shape) -> float:
    """Return how many pixels the outlines of an area go along, which is what to fill them takes."""
    if part.kind != "area":
        return 0.0
    sides = (np.diff(ring, axis=0, append=ring[:1]) for ring in part.rings)
    return sum(float(np.abs(side).max(axis=1).sum()) for side in sides)


def _mask_of(part: Shape, fill: Fill) -> MaskPart:
    if part.mask is not None:
        return part.mask
    if part.kind == "box":
        return filled([corners_of(part.rings[0])])
    return fill(part.rings)


def without_copies(objects: Sequence[FileObject]) -> list[FileObject]:
    """Return objects of which one that has the group of another in its slice is a cell of its own: a copy."""
    seen, found = set(), []
    for one in objects:
        place = (one.group, one.lead)
        found.append(replace(one, group=None) if one.group is not None and place in seen else one)
        seen.add(place)
    return found


def finished(
    annotation: ImageAnnotation, objects: Sequence[FileObject], notes: ReadingNotes, image: Image | None
) -> tuple[ImageAnnotation, ...]:
    """Return the cells of the one image of a file, which must fit ``image``; see :func:`assemble`."""
    if annotation.shape:
        chosen(notes.path, [annotation], image)
    return chosen(notes.path, [assemble(annotation, objects, notes, image)], image)
