"""What the files of other programs tell of the cells of one image, in one shape for all of them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image, Labels
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.json_value import JsonValue
from cellwright.ops import labels as label_images
from cellwright.ops.labels import label_properties

NO_CLASS = "cell"  # what a cell without a class is called where a file must name one
NOT_CELL = "no class"  # and where one of the classes is called ``cell``
MOST_PIXELS = 1 << 30  # of the labels of one file; more is a mistake in it
MARGIN_PX = 1.0  # how far outlines may reach beyond the image, as drawing programs let them


@dataclass(frozen=True, slots=True, eq=False)
class ImageAnnotation:
    """The annotated cells of one image, in pixels of that image."""

    name: str
    shape: tuple[int, ...]  # of the image without its channels
    axes: str = "YX"
    labels: Labels | None = None  # int32: cell ``i`` is label ``i + 1``
    boxes: NDArray[np.float32] | None = None  # (N, 2, D): first, one-past-last corner; labels go first
    points: NDArray[np.float32] | None = None  # (N, D): centres, the middle of the first pixel being 0
    classes: NDArray[np.int16] | None = None  # (N,): index into ``class_names``; -1 is none
    class_names: tuple[str, ...] = ()
    pixel_size_um: tuple[float, ...] = ()  # of the spatial axes; empty when unknown
    image: Image | None = None  # the pixels, where a file holds them
    parents: NDArray[np.int32] | None = None  # (N,): label each descends from; 0 is none
    numbers: NDArray[np.int32] | None = None  # (N,): that of each cell where it comes from; None is 1..N
    notices: tuple[str, ...] = ()  # what could not be taken over as it is in the file

    @property
    def kind(self) -> str:
        """The most that is known of the cells: ``labels``, ``boxes`` or ``points``."""
        return next((kind for kind in ("labels", "boxes") if getattr(self, kind) is not None), "points")

    def __len__(self) -> int:
        if self.labels is not None:
            return int(self.labels.max(initial=0))
        return len(self.corners)

    @property
    def corners(self) -> NDArray[np.float32]:
        """Boxes (N, 2, D), or points (N, 1, D) where there are no boxes."""
        if self.boxes is not None:
            return self.boxes
        if self.points is not None:
            return self.points[:, np.newaxis]
        return np.zeros((0, 1, len(self.shape)), np.float32)

    def with_boxes(self) -> "ImageAnnotation":
        """Return the same with boxes and points where they follow from what is known."""
        if self.labels is not None:
            _, points, boxes = label_properties(self.labels)
            return replace(self, points=points, boxes=boxes)
        if self.boxes is not None and self.points is None:
            return replace(self, points=self.boxes.mean(axis=1) - np.float32(0.5))
        return self

    @property
    def no_class(self) -> str:
        """What :meth:`class_of` calls cells without a class."""
        return no_class(self.class_names)

    def class_of(self, row: int) -> str:
        """Return the name of the class of a cell, :attr:`no_class` where it has none."""
        if self.classes is None:
            return self.no_class
        number = int(self.classes[row])
        if not 0 <= number < len(self.class_names):
            return self.no_class
        return self.class_names[number]

    def number_of(self, row: int) -> int:
        """Return the number of a cell where it comes from, as tables of its cells have it."""
        return row + 1 if self.numbers is None else int(self.numbers[row])

    def numbered_labels(self) -> Labels | None:
        """Return the labels with the numbers that cells have where they come from, None without labels."""
        if self.labels is None or self.numbers is None:
            return self.labels
        return np.concatenate([np.zeros(1, np.int32), self.numbers])[self.labels]

    def planes(self) -> "tuple[ImageAnnotation, ...]":
        """Return one 2D image for each frame and slice, named after its place; one that is 2D as it is."""
        if len(self.shape) == 2:
            return (self,)
        return tuple(self._plane(index) for index in np.ndindex(self.shape[:-2]))

    def _plane(self, index: tuple[int, ...]) -> "ImageAnnotation":
        places = (f"_{axis.lower()}{at:03d}" for axis, at in zip(self.axes, index, strict=False))
        name, sizes = self.name + "".join(places), self.pixel_size_um[-2:]
        plane = ImageAnnotation(name, self.shape[-2:], class_names=self.class_names, pixel_size_um=sizes)
        if self.labels is not None:
            numbers, inverse = np.unique(self.labels[index], return_inverse=True)
            rows = numbers[numbers > 0] - 1
            first = 0 if numbers[0] == 0 else 1  # of the new numbers: 0 is the background
            labels: Labels = (inverse.reshape(plane.shape) + first).astype(np.int32)
            numbers = np.array([self.number_of(row) for row in rows], np.int32)
            return replace(plane, labels=labels, classes=_rows(self.classes, rows), numbers=numbers)
        if self.boxes is not None:
            low, high = np.floor(self.boxes[:, 0, :-2]), np.ceil(self.boxes[:, 1, :-2])
            rows = np.flatnonzero(((low <= index) & (index < np.maximum(high, low + 1))).all(axis=1))
            return replace(plane, boxes=self.boxes[rows][..., -2:], classes=_rows(self.classes, rows))
        points = self.corners[:, 0]
        rows = np.flatnonzero((np.rint(points[:, :-2]) == index).all(axis=1))
        return replace(plane, points=points[rows][:, -2:], classes=_rows(self.classes, rows))


def _rows(column: NDArray[np.int16] | None, rows: NDArray[np.integer]) -> NDArray[np.int16] | None:
    return None if column is None else column[rows]


def no_class(class_names: Collection[str]) -> str:
    """Return what cells without a class are called beside these classes.

    Examples
    --------
    >>> no_class(["WBC"]), no_class(["cell", "debris"])
    ('cell', 'no class')
    """
    return NOT_CELL if NO_CLASS in class_names else NO_CLASS


def classes_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the classes in what a file names: all but what stands for none, see :func:`no_class`."""
    names = tuple(names)
    none = NOT_CELL if NOT_CELL in names else NO_CLASS
    return tuple(name for name in names if name != none)


def with_cell(names: Collection[str], known: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Return the classes known, and ``cell`` where it is among names in which no class is an empty one.

    Examples
    --------
    >>> with_cell(["", "cell"], ("WBC",))
    ('WBC', 'cell')
    """
    if NO_CLASS in names and NO_CLASS not in known:
        return (*known, NO_CLASS)
    return known


def class_numbers(
    names: Iterable[str], known: Sequence[str] = ()
) -> tuple[NDArray[np.int16] | None, tuple[str, ...]]:
    """Return a class number for each name, and the classes: those known, then the others by name.

    An empty name and :func:`no_class` are none; where no cell has a class and none is known, there are no
    numbers.
    """
    names = list(names)
    others = sorted({*names} - {*known, "", no_class(known)})
    classes = (*known, *others)
    if not classes:
        return None, ()
    order = {name: number for number, name in enumerate(classes)}
    return np.array([order.get(name, -1) for name in names], np.int16), classes


def chosen(path: Path, found: Sequence[ImageAnnotation], image: Image | None) -> tuple[ImageAnnotation, ...]:
    """Return all images of a file, or the one that belongs to ``image``, which it must fit.

    ReadError where of several images none has the name of this one, or the size is another.
    """
    if image is None:
        return tuple(found)
    own = found
    if len(found) > 1:
        own = [annotation for annotation in found if annotation.name == image.name]
    if len(own) != 1:
        raise ReadError(
            f"Expected the cells of image {image.name!r} in {path}; got "
            f"{', '.join(one.name for one in found[:5]) or 'none'}. Rename the image, or choose its file."
        )
    annotation, shape = own[0], image.label_shape
    if annotation.shape != shape:
        raise ReadError(
            f"The image size in {path} must be {shape}, that of {image.name!r}; got {annotation.shape}. "
            "Choose the file of this image."
        )
    sizes = annotation.pixel_size_um or image.pixel_size_um
    return (replace(annotation, axes=image.label_axes, name=image.name, pixel_size_um=sizes),)


def is_other(name: str, image: Image | None, n_images: int) -> bool:
    """Return whether cells of a file with several images are of another one than that which is asked for."""
    return image is not None and n_images > 1 and name != image.name


def checked_shape(path: Path, where: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the size of an image as a file tells it; ReadError where it is empty or too large."""
    sizes = tuple(int(n) for n in shape)
    if min(sizes, default=0) < 1 or prod(sizes) > MOST_PIXELS:
        raise ReadError(f"{where} of {path} must give the size of an image; got {sizes}. Export it again.")
    return sizes


def shape_at(node: JsonValue, *keys: str) -> tuple[int, ...]:
    """Return the size of an image under these keys; () where one is missing, or 0, which is not known.

    ReadError where it is told and makes no sense.
    """
    found = [node.find(key) for key in keys]
    known = [one for one in found if one is not None and one.value != 0]
    if len(known) < len(keys):
        return ()
    where = " and ".join(one.where for one in known)
    return checked_shape(node.path, where, [one.whole(1) for one in known])


def canvas(path: Path, image: Image | None, ends: NDArray[np.floating]) -> tuple[int, ...]:
    """Return the shape of the image, or without one that of the smallest image which holds all ``ends``.

    ``ends`` (N, D) are one-past-last corners.
    """
    if image is not None:
        return image.label_shape
    return checked_shape(path, "The extent", [max(1, int(np.ceil(n))) for n in ends.max(axis=0, initial=1)])


def only_one(annotation: Sequence[ImageAnnotation], title: str) -> ImageAnnotation:
    """Return the one image a file of this format can hold; WriteError where there are several, or none."""
    if len(annotation) != 1:
        raise WriteError(
            f"A {title} file holds one image; got {len(annotation)}. Write each to a file of its own."
        )
    return annotation[0]


def needing_masks(annotation: ImageAnnotation, title: str) -> Labels:
    """Return the labels; WriteError where there are boxes or points alone."""
    if annotation.labels is None:
        raise too_little_known(f"{title} holds outlines", annotation)
    return annotation.labels


def too_little_known(holds: str, annotation: ImageAnnotation) -> WriteError:
    """Return the error that what a format holds, as a sentence, is more than is known of the cells."""
    return WriteError(f"{holds}; of {annotation.name!r} only {annotation.kind} are known. Choose CSV.")


def labels_of(path: Path, where: str, values: NDArray[Any], axes: str, name: str) -> ImageAnnotation:
    """Return the annotation of labels, renumbered 1..N in their order; ReadError where they are none.

    Their numbers are kept where 32 bits hold them. Floating-point numbers are labels where all are whole, as
    scripts save them.
    """
    checked_shape(path, where, values.shape)
    values = label_images.in_whole_numbers(values)
    if values.dtype.kind not in "iub" or (values.dtype.kind == "i" and values.min() < 0):
        raise ReadError(
            f"{where} of {path} must be labels (whole numbers from 0 on); got {values.dtype} from "
            f"{values.min()}. Choose a label image."
        )
    return with_numbers(ImageAnnotation(name, values.shape, axes), values)


def with_numbers(annotation: ImageAnnotation, labels: NDArray[np.integer]) -> ImageAnnotation:
    """Return an annotation with labels of any numbers, which are kept where 32 bits hold them."""
    numbers, cells = label_images.numbered(labels)
    own = None
    if len(numbers) < numbers.max(initial=0) <= np.iinfo(np.int32).max:
        own = numbers.astype(np.int32)
    return replace(annotation, labels=cells, numbers=own)


def planes_and_classes(annotation: Sequence[ImageAnnotation]) -> tuple[list[ImageAnnotation], list[str]]:
    """Return the 2D images of annotations, and the names of their classes, those of cells without one too.

    One that is called ``cell`` always has the other beside it, by which readers know it from none.
    """
    planes = [plane for one in annotation for plane in one.planes()]
    names = list(dict.fromkeys(name for plane in planes for name in plane.class_names))
    is_used = any(plane.class_of(row) == plane.no_class for plane in planes for row in range(len(plane)))
    if not names or is_used or NO_CLASS in names:
        names.append(no_class(names))
    return planes, names


def place_of(plane: ImageAnnotation, row: int, names: Sequence[str]) -> int:
    """Return where the class of a cell stands among those of :func:`planes_and_classes`."""
    name = plane.class_of(row)
    if name == plane.no_class:
        return len(names) - 1
    return names.index(name)


def with_classes(annotation: ImageAnnotation, names: Sequence[str], **told: Any) -> ImageAnnotation:
    """Return an annotation with what is told: cells, of which each has a class by name, and notices."""
    classes, class_names = class_numbers(names, annotation.class_names)
    return replace(annotation, classes=classes, class_names=class_names, **told)


def as_bytes(image: Image) -> list[NDArray[np.uint8]]:
    """Return each plane (Y, X) or (Y, X, 3) with 8 bits, stretched over the whole image where it has more.

    Of channels other than red, green and blue the first is taken.
    """
    pixels: NDArray[Any] = np.asarray(image.data)
    if "C" in image.axes:
        pixels = np.moveaxis(pixels, image.axes.index("C"), -1)
        pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., 0]
    n_plane = 2 + (pixels.ndim > len(image.label_axes))
    if pixels.dtype != np.uint8:
        values = np.nan_to_num(pixels.astype(np.float64))
        low, high = float(values.min()), float(values.max())
        pixels = np.rint((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return list(pixels.reshape(-1, *pixels.shape[pixels.ndim - n_plane :]))
