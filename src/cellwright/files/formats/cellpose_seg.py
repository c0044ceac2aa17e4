"""Cellpose ``_seg.npy``: a pickled dictionary of labels, outlines and what its window needs.

Stringer et al. 2021, doi 10.1038/s41592-020-01018-x; fields as Cellpose 2 to 4 load them. A pickle can run
programs, so only plain values and numpy arrays are taken out of it; everything else is refused.
"""

import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cellwright.core.data import SPATIAL, Image
from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    chosen,
    labels_of,
    needing_masks,
    only_one,
)
from cellwright.files.json_value import JsonValue

ENDING = "_seg.npy"
PATHS = ("PosixPath", "WindowsPath", "Path")  # the file name, where scripts gave it so
MODULES = ("numpy.core", "numpy._core")
HARMLESS = {
    **{f"{module}.multiarray": ("_reconstruct", "scalar") for module in MODULES},
    **{f"{module}.numeric": ("_frombuffer",) for module in MODULES},
    "numpy": ("ndarray", "dtype"),
    "_codecs": ("encode",),
    "pathlib": PATHS,
    "pathlib._local": PATHS,
}


class _ArrayType:
    """Stands for the class of arrays, which a pickle names; if called it would make one of any size."""


def _reconstruct(_kind: Any, _shape: Any, _dtype: Any) -> NDArray[Any]:
    """Return an array of nothing, as a pickle begins one; shape and values follow, and must fit."""
    return np.zeros(0, np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes that older pickles hold as text; other encodings would make them grow."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text as {encoding!r} is no part of a Cellpose file")
    return text.encode(encoding)


def _path(*parts: str) -> str:
    return "/".join(map(str, parts))


STAND_INS: dict[str, Any] = {
    "ndarray": _ArrayType,
    "_reconstruct": _reconstruct,
    "encode": _encode,
    **dict.fromkeys(PATHS, _path),
}


class _Unpickler(pickle.Unpickler):
    """Takes numpy arrays and plain values, and no other class or function."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what builds arrays; refuse everything else."""
        is_dtype = module == "numpy.dtypes" and name.endswith("DType")
        if name not in HARMLESS.get(module, ()) and not is_dtype:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a Cellpose file")
        if name in STAND_INS:
            return STAND_INS[name]
        return super().find_class(module, name)


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return the labels of a file of Cellpose, numbered without gaps.

    Raises
    ------
    ReadError
        The file is damaged, holds anything but plain values and arrays, or does not fit the image.
    """
    content = JsonValue(_content(path), path)
    masks = content.at("masks")
    values = masks.value
    if not isinstance(values, np.ndarray) or values.ndim not in (2, 3, 4):
        raise JsonValue(type(values).__name__, path, "masks").refuse("labels of 2 to 4 axes")
    axes = {2: "YX", 3: "ZYX", 4: "TZYX"}[values.ndim]
    if image is not None and values.ndim == len(image.label_axes):
        axes = image.label_axes
    if values.size and values.dtype.kind == "i" and values.min() == -1:
        values = values + 1  # as the first versions wrote them
    annotation = labels_of(path, "masks", values, axes, path.name.removesuffix(ENDING))
    return chosen(path, [_described(annotation, content)], image)


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
    try:
        with path.open("rb") as file:
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read_header(file)
            if shape != () or dtype != np.dtype(object):
                raise ReadError(
                    f"Expected a file of Cellpose at {path}; got an array of {shape}. Open it as an image."
                )
            loaded = _Unpickler(io.BytesIO(file.read())).load()
        return loaded.item() if isinstance(loaded, np.ndarray) and loaded.shape == () else loaded
    except ReadError:
        raise
    except Exception as error:  # damaged pickles fail in every possible way
        raise ReadError(
            f"Expected a whole {ENDING} of Cellpose at {path}; got: {error}. It is damaged, cut short or "
            "holds more than a Cellpose file does; save it again."
        ) from error


def write(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write the labels of one image as Cellpose does."""
    one = only_one(annotation, "Cellpose")
    labels = needing_masks(one, "Cellpose")
    n = len(one)
    masks = labels.astype(np.uint16 if n < 2**16 - 1 else np.uint32)
    content: dict[str, Any] = {
        "outlines": masks * _edges(labels),
        "masks": masks,
        "chan_choose": [0, 0],
        "ismanual": np.ones(n, bool),
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
        content |= {"classes": one.classes.tolist(), "class_names": list(one.class_names)}
    with atomic_write(path) as part, part.open("wb") as file:
        np.save(file, np.array(content, dtype=object), allow_pickle=True)


def _edges(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the pixels of cells that touch another cell or background in their plane."""
    edges = np.zeros(labels.shape, bool)
    for axis in (-2, -1):
        along, marked = np.moveaxis(labels, axis, 0), np.moveaxis(edges, axis, 0)
        differs = along[1:] != along[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    return edges & (labels > 0)
