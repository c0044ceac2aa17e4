"""Which images, or which parts of an image, teach, and which tell how well it was learned."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.errors import ReadError
from cellwright.core.words import n_of
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.files.dataset.meta import Region
from cellwright.ops.labels import label_properties, relabel

FEW = 4  # images; of fewer each is divided, so that all of them teach
HELD_OUT = 4  # one of so many images validates
STRIP = 0.3  # share of an image's area that validates
AROUND_PX = 128  # seen around what validates, so that its cells are not cut


@dataclass(frozen=True, slots=True)
class Part(Item):
    """A rectangle of an annotated image, to be used as an image of its own."""

    whole: Item | None = None
    window: Region = ((0, 0), (0, 0))

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return this part of the image and what is known of its cells."""
        assert self.whole is not None
        image, truth = self.whole.annotated()
        part = crop_image(image, self.window)
        if isinstance(truth, Annotation):
            return part, crop_annotation(truth, self.window)
        return part, relabel(_cut(truth, self.window))


def part_of(item: Item, window: Region) -> Part:
    """Return a rectangle of an item; of its regions what lies inside."""
    first, start = window[0]
    regions = tuple(
        ((top - first, left - start), (bottom - first, right - start))
        for (top, left), (bottom, right) in _shared(item.regions, window)
    )
    facts = {field.name: getattr(item, field.name) for field in fields(Item)}
    return Part(**{**facts, "regions": regions}, whole=item, window=window)


def crop_image(image: Image, window: Region) -> Image:
    """Return a rectangle of an image, in all its slices, frames and channels."""
    rows, columns = _slices(window)
    spans = {"Y": rows, "X": columns}
    data = image.data[tuple(spans.get(axis, slice(None)) for axis in image.axes)]
    return replace(image, data=data)


def crop_annotation(truth: Annotation, window: Region) -> Annotation:
    """Return what is known of the cells whose middle lies in a rectangle."""
    corner, end = np.array(window, np.float32)
    end = np.minimum(end, truth.shape)
    inside = ((truth.points >= corner - 0.5) & (truth.points < end - 0.5)).all(axis=1)
    labels = None
    if truth.labels is not None:
        labels = _cut(truth.labels, window)
        left = np.bincount(labels.ravel(), minlength=len(inside) + 1)[1:] > 0
        table = np.zeros(len(inside) + 1, np.int32)
        table[1:][left] = np.arange(1, left.sum() + 1)
        labels, inside = table[labels], left
    boxes = classes = None
    if truth.boxes is not None:
        boxes = (truth.boxes[inside] - corner).clip(0, end - corner)
    if truth.classes is not None:
        classes = truth.classes[inside]
    height, width = (end - corner).astype(int).tolist()
    points = (truth.points[inside] - corner).clip(0, end - corner - 1)
    return Annotation((height, width), points, boxes, labels, classes, truth.is_complete)


class Split(NamedTuple):
    """What teaches, what validates, and a sentence on how that came about where the user did not say."""

    train: Dataset
    validation: Dataset
    notice: str

    @property
    def is_shared(self) -> bool:
        """Whether images that teach also validate, with another part of them or whole."""
        taught = {item.name for item in self.train.items}
        return any(item.name in taught for item in self.validation.items)


def split_dataset(dataset: Dataset, *, most: int | None = None) -> Split:
    """Return the training and the validation part of a dataset, made where there is no validation split.

    Of ``FEW`` images and more every fourth validates. Of fewer a strip along one side of each validates (the
    side where the share of the cells is nearest to that of the area); the rest teaches. At most ``most``
    images validate, evenly chosen.

    ReadError where no image has the split ``train``.
    """
    train, validation = dataset.select("train"), dataset.select("val")
    if not len(train):
        raise ReadError(f"Training needs images to learn from, split 'train'; {dataset.folder} has none.")
    notice = ""
    if not len(validation):
        divide = _divided if len(train) < FEW else _held_out
        train, validation, notice = divide(train)
    parts = [part for item in validation.items for part in _region_parts(item)]
    if most is not None and len(parts) > most:
        parts = [parts[i] for i in np.linspace(0, len(parts) - 1, most).round().astype(int)]
    return Split(train, replace(validation, items=tuple(parts)), notice)


def _held_out(train: Dataset) -> Split:
    """Let every fourth image validate."""
    held = train.items[HELD_OUT // 2 :: HELD_OUT]
    rest = tuple(item for item in train.items if item not in held)
    were, them = ("was", "it") if len(held) == 1 else ("were", "them")
    notice = (
        f"{len(held)} of {len(train)} images {were} set aside: the model is checked with {them} and does "
        f"not learn from {them}."
    )
    return Split(replace(train, items=rest), replace(train, items=held), notice)


def _divided(train: Dataset) -> Split:
    """Let a strip of each image validate."""
    pairs = [_halves(item) for item in train.items]
    rest, strips = (tuple(pair[i] for pair in pairs) for i in (0, 1))
    if rest != strips:
        how = f"{STRIP:.0%} of the area, along one side, was set aside for it"
    else:
        how = "it is also checked with what it learns from, so the scores say little"
    images = n_of(len(train), "annotated image")
    notice = (
        f"With {images} none can be spared to check the model with: {how}. Annotate more images for scores "
        "to be trusted."
    )
    return Split(replace(train, items=rest), replace(train, items=strips), notice)


def _halves(item: Item) -> tuple[Item, Item]:
    """Return the part of an image that teaches, and it with the region that validates.

    Twice the whole where there is too little.
    """
    image, truth = item.annotated()
    height, width = (image.shape[image.axes.index(axis)] for axis in "YX")
    points = truth.points if isinstance(truth, Annotation) else label_properties(truth).points[:, -2:]
    points = points[np.isfinite(points).all(axis=1)]
    row, column = round(height * STRIP), round(width * STRIP)
    whole = ((0, 0), (height, width))
    sides = (
        (((0, 0), (row, width)), ((row, 0), (height, width))),
        (((height - row, 0), (height, width)), ((0, 0), (height - row, width))),
        (((0, 0), (height, column)), ((0, column), (height, width))),
        (((0, width - column), (height, width)), ((0, 0), (height, width - column))),
    )
    known = points[is_inside(points, item.regions or (whole,))]
    if not len(known):
        return item, item
    shares = [float(is_inside(known, (strip,)).mean()) for strip, _ in sides]
    best = int(np.argmin([abs(share - STRIP) for share in shares]))
    if not 0 < shares[best] < 1:
        return item, item
    strip, rest = sides[best]
    return part_of(item, rest), replace(item, regions=_shared(item.regions or (whole,), strip))


def _region_parts(item: Item) -> tuple[Item, ...]:
    """Return each region of an item with its surroundings: only in regions a model can be judged.

    The surroundings let whole cells be judged, those whose middle lies inside.
    """
    if not item.regions:
        return (item,)
    parts = []
    for (top, left), (bottom, right) in item.regions:
        alone = replace(item, regions=(((top, left), (bottom, right)),))
        first = (max(top - AROUND_PX, 0), max(left - AROUND_PX, 0))  # the end may lie beyond the image
        parts.append(part_of(alone, (first, (bottom + AROUND_PX, right + AROUND_PX))))
    return tuple(parts)


def is_inside(points: NDArray[np.float32], regions: Sequence[Region]) -> NDArray[np.bool_]:
    """Return which points (N, 2), in pixels, lie in at least one region; all where there are none."""
    inside = np.full(len(points), not regions)
    for corner, end in regions:
        inside |= ((points >= np.array(corner) - 0.5) & (points < np.array(end) - 0.5)).all(axis=1)
    return inside


def _shared(regions: Sequence[Region], window: Region) -> tuple[Region, ...]:
    """Return what of regions lies inside a window, in the same pixels."""
    (first, start), (last, end) = window
    shared = (
        ((max(top, first), max(left, start)), (min(bottom, last), min(right, end)))
        for (top, left), (bottom, right) in regions
    )
    return tuple(one for one in shared if one[0][0] < one[1][0] and one[0][1] < one[1][1])


def _cut(labels: Labels, window: Region) -> Labels:
    return labels[(..., *_slices(window))]


def _slices(window: Region) -> tuple[slice, slice]:
    (top, left), (bottom, right) = window
    return slice(top, bottom), slice(left, right)
