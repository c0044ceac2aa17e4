"""Cellpose ``_seg.npy``: a pickled dictionary of labels, outlines and what its window needs.

``_cp_outlines.txt`` of it is read, too: a line for each cell, of the pixels along the inside of its edge.

Stringer et al. 2021, doi 10.1038/s41592-020-01018-x; fields as Cellpose 2 to 4 load them. A pickle can run
programs, so only plain values and numpy arrays are taken out of it; everything else is refused.
"""

import io
import pickle
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL, Image
from cellwright.core.errors import ReadError, expecting
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.assembly import MOST_FILLED_PX, FileObject, ReadingNotes, Shape, finished
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    chosen,
    labels_of,
    needing_masks,
    only_one,
)
from cellwright.files.json_value import JsonValue, read_lines
from cellwright.ops.outlines import MaskPart, filled

ENDING, OUTLINES = "_seg.npy", "_cp_outlines.txt"
MOST_OF_CELL_PX = 1 << 24  # of the box around one outline, which is filled
PATHS = ("PosixPath", "WindowsPath", "Path")  # the file name, where scripts gave it so
KEPT = ("masks", "classes", "class_names", "pixel_size_um")
PLAIN_DTYPE = re.compile("[biufcOSU][0-9]{0,6}")


class _Dtype:
    """Stands for a dtype, which a pickle makes and then fills as it likes: one of plain values."""

    def __init__(self, name: str, *_options: Any) -> None:
        if not PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"values of type {name!r} do not belong in a Cellpose file")
        self._name, self._order = name, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *parts = state[:5]
        if any(part is not None for part in parts):
            raise pickle.UnpicklingError("values of several parts do not belong in a Cellpose file")
        self._order = order

    def filled(self, content: Any, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> NDArray[Any]:
        """Return an array of these values from bytes, or from a list of objects."""
        dtype = np.dtype(self._order + self._name)
        if dtype.hasobject:
            values = np.fromiter(content, object, len(content))
        else:
            values = np.frombuffer(content, dtype)
        return values.reshape(shape, order=order)


class _ArrayType:
    """Stands for the class of arrays, which a pickle names; if called it would make one of any size."""


class _Array:
    """Stands for an array that a pickle begins empty and fills afterwards."""

    def __init__(self, *_kind_and_shape: Any) -> None:
        self.values: NDArray[Any] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, Any]) -> None:
        _version, shape, dtype, is_fortran, content = state
        self.values = dtype.filled(content, shape, "F" if is_fortran else "C")


def _scalar(dtype: _Dtype, content: bytes) -> Any:
    return dtype.filled(content, ()).item()


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> _Array:
    array = _Array()
    array.values = dtype.filled(content, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that older pickles hold as text; other encodings would make them grow."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text as {encoding!r} does not belong in a Cellpose file")
    return text.encode(encoding)


def _path(*parts: str) -> str:
    return "/".join(map(str, parts))


MODULES = ("numpy.core", "numpy._core")
STAND_INS: dict[tuple[str, str], Any] = {
    **{(f"{module}.multiarray", "_reconstruct"): _Array for module in MODULES},
    **{(f"{module}.multiarray", "scalar"): _scalar for module in MODULES},
    **{(f"{module}.numeric", "_frombuffer"): _frombuffer for module in MODULES},
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(module, name): _path for module in ("pathlib", "pathlib._local") for name in PATHS},
}


class _Unpickler(pickle._Unpickler):
    """Takes arrays and plain values, and no other class or function.

    Numpy's own are not called either: they believe what a pickle says, and crash on a damaged one. Nor is the
    unpickler written in C, which takes gigabytes where a number in a pickle says so.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a class or function of numpy; refuse everything else."""
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a Cellpose file")
        return STAND_INS[module, name]


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the labels of a file of Cellpose.

    ReadError where the file is damaged, holds anything but plain values and arrays, or does not fit the
    image.
    """
    if path.name.endswith(OUTLINES):
        return _read_outlines(path, image)
    content = JsonValue(_content(path), path)
    masks = content.at("masks")
    values = masks.value
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3, 4):
        raise JsonValue(type(values).__name__, path, "masks").refuse("labels of 2 to 4 axes")
    axes = {2: "YX", 3: "ZYX", 4: "TZYX"}[values.ndim]
    if image is not None and values.ndim == len(image.label_axes):
        axes = image.label_axes
    if values.size and values.dtype.kind in "if" and values.min() == -1:
        values = values + 1  # as the first versions wrote them
    annotation = labels_of(path, "masks", values, axes, path.name.removesuffix(ENDING))
    return chosen(path, [_described(annotation, content)], image)


def _read_outlines(path: Path, image: Image | None) -> tuple[ImageAnnotation, ...]:
    notes = ReadingNotes(path, image=image)
    objects = notes.read(read_lines(path), _outlined)
    return finished(ImageAnnotation(path.name.removesuffix(OUTLINES), ()), objects, notes, image)


def _outlined(row: JsonValue) -> FileObject:
    """Return a cell from ``x,y,x,y``, the pixels that lie along its edge and are its own."""
    numbers = row.split(",")
    if len(numbers) % 2 or not (np.abs(numbers) < MOST_FILLED_PX).all():
        raise row.refuse("pixels as x,y,x,y")
    pixels = numbers.reshape(-1, 2)[:, ::-1].astype(int)
    first, stop = pixels.min(axis=0), pixels.max(axis=0) + 1
    if np.prod(stop - first) > MOST_OF_CELL_PX:
        raise row.refuse(f"pixels of a cell of at most {MOST_OF_CELL_PX}")
    inside = filled([pixels - first + 0.5]).mask
    inside[tuple((pixels - first).T)] = True
    part = MaskPart((int(first[0]), int(first[1])), inside)
    return FileObject(row, [Shape("mask", [np.array([first, stop], float)], part)])


def _described(annotation: ImageAnnotation, content: JsonValue) -> ImageAnnotation:
    n_spatial = sum(axis in SPATIAL for axis in annotation.axes)
    annotation = replace(annotation, pixel_size_um=content.sizes_at("pixel_size_um", n_spatial))
    class_names, classes = content.texts_at("class_names"), content.find("classes")
    if not class_names or classes is None:
        return annotation
    numbers = classes.numbers(len(annotation))
    if not ((numbers >= -1) & (numbers < len(class_names))).all():
        raise classes.refuse("a class of class_names for each cell")
    return replace(annotation, class_names=class_names, classes=numbers.astype(np.int16))


def _content(path: Path) -> Any:
    advice = "It is damaged, cut short or holds more than a Cellpose file does; save it again."
    # damaged pickles fail in every possible way
    with expecting(ReadError, f"a whole {ENDING} of Cellpose at {path}", advice, Exception):
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
            if shape != () or dtype != np.dtype(object):
                raise ReadError(
                    f"Expected a file of Cellpose at {path}; got an array of {shape}. Open it as an image."
                )
            loaded = _Unpickler(io.BytesIO(file.read())).load()
        if isinstance(loaded, _Array):
            loaded = loaded.values.item()
        return {name: _plain(loaded[name]) for name in KEPT if name in loaded}


def _plain(value: Any) -> Any:
    """Return an array, or a value or list of values that hold no others."""
    if isinstance(value, _Array):
        return value.values
    if isinstance(value, list | tuple):
        return [one if isinstance(one, int | float | str) else None for one in value]
    if isinstance(value, int | float | str):
        return value
    return None


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the labels of one image as Cellpose does."""
    from skimage.segmentation import find_boundaries  # slow to import

    one = only_one(annotation, "Cellpose")
    needing_masks(one, "Cellpose")
    labels = one.numbered_labels()
    assert labels is not None
    masks = labels.astype(np.uint16 if labels.max(initial=0) < 2**16 - 1 else np.uint32)
    planes = labels.reshape(-1, *labels.shape[-2:])
    edges = [find_boundaries(plane, mode="inner") for plane in planes]
    content: dict[str, Any] = {
        "outlines": masks * np.reshape(edges, labels.shape),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.ones(len(one), bool),
        "filename": f"{one.name}.tif",
        "flows": [[], [], [], [], [[]]],
        "est_diam": 0.0,
        "diameter": np.nan,
    }
    if one.image is not None:
        content["img"] = np.asarray(one.image.data)
    if one.pixel_size_um:
        content["pixel_size_um"] = [float(size) for size in one.pixel_size_um]
    if one.classes is not None:
        order = np.argsort([one.number_of(row) for row in range(len(one))])  # in which labels are read again
        content |= {"classes": one.classes[order].tolist(), "class_names": list(one.class_names)}
    with atomic_write(path) as part, part.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)
