"""Scenes of files of vendors, which are read where they are looked at."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from itertools import islice, product
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import AXES, ArrayLike, Image
from cellwright.core.errors import CellwrightError, ReadError, needed
from cellwright.core.lazy import index_of_each_axis
from cellwright.files.metadata import LAZY_BYTES, FileArray, ImageMetadata, describe, stamp_of
from cellwright.ops.geometry.tiles import pieces

RGBA_SAMPLES = 4
MOST_TIMES_STORED = 4000  # how much larger than what is stored pixels can be
MOST_SIDE_PX = 4096  # of a plane, of what is read at once


def package_for(path: Path, name: str) -> Any:
    """Return the package that reads a file; ReadError where it is not installed."""
    with needed(ReadError, f"Reading {path}", "vendor", name):
        return import_module(name)


class StoredScene(NamedTuple):
    """An image in a file; ``load`` reads a window of one plane of it, given by a slice for each axis.

    ``axes`` are letters of ``TCZYX``, or ones we do not know, and c for samples of colour.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    told: ImageMetadata
    load: Callable[[Sequence[slice]], NDArray[Any]]


class SceneFormat(NamedTuple):
    """What opens a file, and what tells the scenes of an open one."""

    opened: Callable[[Path], Any]
    scenes_of: Callable[[Any, Path], Iterator[StoredScene]]

    def read(self, path: Path) -> Iterator[Image]:
        """Yield the scenes of a file; those of a large file, and large ones, stay on disk."""
        file, n_stored = OpenFile(self, path), path.stat().st_size
        for number, scene in enumerate(file.scenes):
            index, axes = squeezed(scene.shape, scene.axes)
            n_bytes = prod(scene.shape) * scene.dtype.itemsize
            data: ArrayLike = LazyScene(self, path, number, index, file.stamp, (file, scene))
            if max(n_bytes, n_stored) <= LAZY_BYTES:
                data = data[...]
            yield describe(data, axes, scene.name, scene.told)


class OpenFile:
    """An open file and its scenes, for one thread at a time; it closes when nobody holds it any more."""

    def __init__(self, kind: SceneFormat, path: Path) -> None:
        self.stamp, self.lock = stamp_of(path), Lock()
        file = kind.opened(path)
        finalize(self, file.close)
        self.scenes = kind.scenes_of(file, path)


class LazyScene(FileArray):
    """A scene that is read where it is looked at, plane by plane.

    Its file stays open as long as the array is there: a slider asks for one plane after the other, and to
    learn where all lie takes longer than to read one (half a second to a millisecond, of 3,000 in a CZI).

    ``index`` chooses what is seen of the axes that the file has; ``stamp`` is that of the file as told.
    """

    def __init__(
        self,
        kind: SceneFormat,
        path: Path,
        number: int,
        index: tuple[int | slice, ...],
        stamp: tuple[str, int, int] | None,
        opened: tuple[OpenFile, StoredScene] | None = None,
    ) -> None:
        self._place = (kind, path, number, index, stamp)
        if opened is None:  # in another process
            file = OpenFile(kind, path)
            opened = file, next(islice(file.scenes, number, None))
        self._file, self._scene = opened
        self._places = [range(n)[part] for n, part in zip(self._scene.shape, index, strict=True)]
        seen = [
            (len(places), axis)
            for places, axis in zip(self._places, self._scene.axes, strict=True)
            if isinstance(places, range)
        ]
        self.shape, self.ndim, self.dtype = tuple(n for n, _ in seen), len(seen), self._scene.dtype
        self.chunks = tuple(min(n, _most_at_once(axis)) for n, axis in seen)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        path, stamp = self._place[1], self._place[4]
        if stamp_of(path) != stamp:
            raise ReadError(f"{path} has changed or is gone since it was opened. Open it again.")
        asked = iter(index_of_each_axis(index, self.ndim))
        wanted = [one[next(asked)] if isinstance(one, range) else one for one in self._places]
        try:
            with self._file.lock:
                return self._loaded(wanted)
        except (CellwrightError, MemoryError):
            raise
        except Exception as error:  # packages fail in every possible way on damaged files
            raise ReadError(f"{path} is damaged: {error}. Copy or export it again.") from error

    def _loaded(self, wanted: Sequence[int | range]) -> NDArray[Any]:
        """Return the pixels at these places of each axis of the file, without axes of which one is wanted."""
        ranges = [one if isinstance(one, range) else range(one, one + 1) for one in wanted]
        pixels = np.zeros([len(one) for one in ranges], self.dtype)
        steps = [
            max(1, _most_at_once(axis) // abs(one.step))
            for axis, one in zip(self._scene.axes, ranges, strict=True)
        ]
        spans = [pieces(len(one), step) for one, step in zip(ranges, steps, strict=True)]
        for target in product(*spans):
            places = [one[piece] for one, piece in zip(ranges, target, strict=True)]
            ends = [sorted((one[0], one[-1])) for one in places]
            window = self._scene.load([slice(low, high + 1) for low, high in ends])
            pixels[target] = window[tuple(slice(None, None, one.step) for one in places)]
        return pixels.reshape([len(one) for one in wanted if isinstance(one, range)])


def _most_at_once(axis: str) -> int:
    return MOST_SIDE_PX if axis in "YXc" else 1


def squeezed(shape: Sequence[int], axes: str) -> tuple[tuple[int | slice, ...], str]:
    """Return the index of what is seen of an array, and its axes: none of length one but Y and X, no opacity.

    ReadError where there are axes that we do not know.
    """
    kept = [n > 1 or axis in "YX" for axis, n in zip(axes, shape, strict=True)]
    index: tuple[int | slice, ...] = tuple(slice(None) if keep else 0 for keep in kept)
    letters = "".join(axis for axis, keep in zip(axes, kept, strict=True) if keep)
    if letters.endswith("c") and shape[-1] == RGBA_SAMPLES:
        index = (*index[:-1], slice(0, 3))
    if "C" not in letters:
        letters = letters.replace("c", "C")
    unknown = "".join(sorted(set(letters) - set(AXES)))
    if unknown:
        raise ReadError(
            f"Expected axes of {AXES} only; got {letters}. Export the part of {unknown} that you need as "
            "OME-TIFF."
        )
    return index, letters
