"""Regions to count in, from files: GeoJSON, ImageJ ROIs, or an image whose pixels are labels or a mask.

In the files a pixel covers the square from its number to the next; in regions its middle has that number.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import ArrayLike, Image
from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.lazy import LazyArray
from cellwright.files.atomic import write_text
from cellwright.files.formats.geojson import features, shapes_of
from cellwright.files.formats.imagej_roi import read_rois, rings_of, roi_plane
from cellwright.files.images import read_image, write_labels
from cellwright.files.json_value import JsonValue, read_json
from cellwright.ops.labels import as_int32, in_whole_numbers
from cellwright.ops.measure.regions import (
    EXCLUDED,
    Complement,
    MaskRegion,
    Region,
    RegionSet,
    SampledPixels,
    ShapeRegion,
    is_excluded,
)

MIDDLE = 0.5
MOST_NUMBERS = 1000  # regions of one image of them
WINDOW_PIXELS = 1 << 26  # an image of more stays on disk, and is looked through in parts of so many


def read_regions(path: Path | str, image: Image) -> tuple[Region, ...]:
    """Return the regions of a file for an image, each shape on its own, overlapping or not.

    GeoJSON (``.geojson``, ``.json``), ImageJ ROIs (``.roi``, ``.zip``), or an image of the size of the one
    that is counted in, whose pixels of one number are a region. A shape that tells its slice or frame holds
    there alone.

    ReadError where the file is missing, damaged or holds no areas, or an image has another size or thousands
    of numbers.
    """
    path = Path(path)
    if not os.path.exists(path):  # Path.exists raises where the system refuses the name
        raise ReadError(f"Expected regions at {path}; there is no such file. Check the path.")
    ending = path.suffix.lower()
    if ending in (".geojson", ".json"):
        rows = features(read_json(path))
        return tuple(_feature(row, image, number) for number, row in enumerate(rows, start=1))
    if ending in (".roi", ".zip"):
        return tuple(_roi(node, image, number) for number, node in enumerate(read_rois(path), start=1))
    pixels = _pixels(path, image, may_differ=True)
    present = [np.unique(pixels[window]) for window in _windows(pixels.shape)]
    numbers = [number for number in np.unique(np.concatenate(present)).tolist() if number != 0]
    if len(numbers) > MOST_NUMBERS:
        raise ReadError(
            f"The pixels of {path} have {len(numbers):,} different numbers, each of which would be a region; "
            f"at most {MOST_NUMBERS:,} are read. Choose a mask, not a microscope image; cells go to --nuclei."
        )
    names = [path.stem] if len(numbers) == 1 else [f"{path.stem} {number}" for number in numbers]
    return tuple(
        MaskRegion(name, _Number(pixels, number)) for name, number in zip(names, numbers, strict=True)
    )


class _Number(LazyArray):
    """Where a label image, which may be on disk, has one number: bool, made as it is read."""

    dtype = np.dtype(bool)

    def __init__(self, pixels: ArrayLike, number: float) -> None:
        self._pixels, self._number = pixels, number
        self.shape = tuple(pixels.shape)

    def __getitem__(self, place: Any) -> NDArray[np.bool_]:
        return np.asarray(np.asarray(self._pixels[place]) == self._number)


def _windows(shape: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield windows of a few planes or rows each that cover an array."""
    step = max(1, WINDOW_PIXELS // max(prod(shape[1:]), 1))
    for start in range(0, shape[0], step):
        yield (slice(start, start + step),)


class RegionFiles(NamedTuple):
    """Files that regions were written to: shapes, a mask, and whether its outside is meant."""

    regions: tuple[str, ...] = ()
    mask: str = ""
    outside: bool = False


def write_region_set(folder: Path, regions: RegionSet, image: Image) -> RegionFiles:
    """Write regions to files from which they are read alike; equal ones have equal files, by a checksum.

    SettingsError where they are of another kind than drawn shapes, what is cut out of them, and masks.
    """
    shapes = drawn_shapes(regions)
    masks = masks_of(regions)
    files = RegionFiles()
    if shapes:
        text = _geojson(shapes, image)
        path = folder / f"regions-{sha256(text.encode()).hexdigest()[:12]}.geojson"
        if not path.exists():
            write_text(path, text)
        files = files._replace(regions=(str(path),))
    if masks:
        mask = _all_of(masks)
        pixels = (np.asarray(mask.pixels) != 0).astype(np.int32)
        name = re.sub(r"[^\w -]+", "_", mask.name.removeprefix("outside "))
        checksum = sha256(pixels.tobytes() + str(pixels.shape).encode()).hexdigest()[:12]
        path = folder / f"mask-{checksum}" / f"{name}.tif"
        if not path.exists():
            axes = image.label_axes[len(image.label_axes) - pixels.ndim :]
            write_labels(path, pixels, Image(pixels, axes, name=name))
        files = files._replace(mask=str(path), outside=mask.is_inverted)
    return files


def drawn_shapes(regions: RegionSet) -> list[ShapeRegion]:
    """Return the shapes of regions, those that are cut out with names that begin with ``exclude``."""
    shapes = [one for one in regions.included if isinstance(one, ShapeRegion)]
    for one in regions.excluded:
        if isinstance(one, ShapeRegion):
            name = one.name if is_excluded(one.name) else f"{EXCLUDED} {one.name}"
            shapes.append(replace(one, name=name))
    return shapes


def masks_of(regions: RegionSet) -> list[MaskRegion]:
    """Return the masks that cells have to lie in, all of them.

    SettingsError where something else than drawn shapes and masks is cut out.
    """
    masks = [one for one in regions.included if isinstance(one, MaskRegion)]
    for one in regions.excluded:
        inner = one.regions[0] if isinstance(one, Complement) and len(one.regions) == 1 else None
        if isinstance(inner, MaskRegion):
            masks.append(inner)
        elif isinstance(one, MaskRegion):
            masks.append(replace(one, is_inverted=not one.is_inverted))
        elif not isinstance(one, ShapeRegion):
            raise SettingsError("the regions as far as they lie in those of the count")
    return masks


def _all_of(masks: Sequence[MaskRegion]) -> MaskRegion:
    """Return the pixels that lie in all of the masks."""
    if len(masks) == 1:
        return masks[0]
    inside = np.logical_and.reduce(
        np.broadcast_arrays(*((np.asarray(one.pixels) != 0) != one.is_inverted for one in masks))
    )
    return MaskRegion(masks[0].name.removeprefix("outside "), inside)


def write_regions(path: Path | str, regions: Sequence[ShapeRegion], image: Image) -> None:
    """Write regions, in pixels of their image, as GeoJSON that :func:`read_regions` and QuPath read."""
    write_text(Path(path), _geojson(regions, image))


def _geojson(shapes: Sequence[ShapeRegion], image: Image) -> str:
    features = []
    for region in shapes:
        rings = [(ring + MIDDLE)[:, ::-1].tolist() for ring in region.rings]
        geometry: dict[str, Any] = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings]}
        axes = image.label_axes[:-2].lower()
        plane = dict(zip(axes[len(axes) - len(region.index) :], region.index, strict=True))
        known = {axis: place for axis, place in plane.items() if place is not None}
        if known:
            geometry["plane"] = known
        features.append({"type": "Feature", "geometry": geometry, "properties": {"name": region.name}})
    return json.dumps({"type": "FeatureCollection", "features": features}) + "\n"


def read_mask(path: Path | str, image: Image, *, is_inverted: bool = False) -> MaskRegion:
    """Return the pixels of an image file that are not 0 as a region; with ``is_inverted`` those that are 0.

    One of other pixels is taken where both files tell the pixel size and show the same field.

    ReadError where the file is missing or damaged, or shows another field than the image.
    """
    path = Path(path)
    name = f"outside {path.stem}" if is_inverted else path.stem
    return MaskRegion(name, _pixels(path, image, may_differ=True), is_inverted=is_inverted)


def read_label_image(path: Path | str, image: Image) -> ArrayLike:
    """Return the labels of an image file in the shape of the image without its channels; large ones on disk.

    ReadError where the file is missing or damaged, holds no whole numbers, or has another size than the
    image.
    """
    pixels = _pixels(Path(path), image)
    if isinstance(pixels, np.ndarray):
        pixels = in_whole_numbers(pixels)
    are_labels = pixels.shape == image.label_shape and pixels.dtype.kind in "iub"
    if not are_labels or any(pixels[window].min(initial=0) < 0 for window in _windows(pixels.shape)):
        raise ReadError(
            f"Expected labels (whole numbers from 0) of {image.label_shape} pixels in {path}; got "
            f"{pixels.dtype} of {pixels.shape}. Choose the labels of this image."
        )
    if isinstance(pixels, np.ndarray):
        return as_int32(pixels)
    return pixels


def _pixels(path: Path, image: Image, *, may_differ: bool = False) -> ArrayLike:
    """Return an image file whose axes are those of the labels, or the last of them; a large one on disk.

    With ``may_differ`` it may have other pixels of the same field, which are sampled.
    """
    found = read_image(path, are_labels=True)
    pixels = found.data
    if prod(found.shape) <= WINDOW_PIXELS or 1 in found.shape[:-2]:
        pixels = found.read()
    while len(pixels.shape) > 2 and pixels.shape[0] == 1:
        pixels = pixels[0]
    n_missing = len(image.label_shape) - len(pixels.shape)
    wanted = image.label_shape[max(n_missing, 0) :]
    if tuple(pixels.shape) == wanted:
        return pixels
    if may_differ and n_missing >= 0:
        lengths = zip(image.label_axes[n_missing:], pixels.shape, wanted, strict=True)
        factors = [1.0 if n == whole else _factor(found, n, image, whole, axis) for axis, n, whole in lengths]
        if all(factors):
            return SampledPixels(pixels, wanted, factors)
    wanted_text, got = f"{image.label_shape} pixels, as {image.name!r} has", f"{pixels.shape}"
    if may_differ:
        wanted_text += ", or give a pixel size by which it shows the same field"
        got += f" of {_size_text(found)}, for {_size_text(image)}"
    raise ReadError(f"The image in {path} must have {wanted_text}; got {got}. Choose the mask of this image.")


def _factor(mask: Image, n: int, image: Image, whole: int, axis: str) -> float:
    """Return the pixels of an image in one of a mask; 0 where they are not known to be equally long."""
    size, other = mask.known_sizes_um.get(axis, 0.0), image.known_sizes_um.get(axis, 0.0)
    if not size or not other or abs(n * size - whole * other) > max(size, other):
        return 0.0
    return size / other


def _size_text(image: Image) -> str:
    sizes = image.known_sizes_um
    if not sizes:
        return "pixels of unknown size"
    return " x ".join(f"{size:.3g}" for size in sizes.values()) + " µm a pixel"


def _feature(row: JsonValue, image: Image, number: int) -> ShapeRegion:
    geometry = row.at("geometry")
    shapes = shapes_of(geometry)
    if not shapes or any(shape.kind != "area" for shape in shapes):
        raise geometry.at("type").refuse("'Polygon' or 'MultiPolygon': an area")
    rings = tuple(ring - MIDDLE for shape in shapes for ring in shape.rings)
    return ShapeRegion(_feature_name(row) or f"region {number}", rings, _plane(row, image))


def _feature_name(row: JsonValue) -> str:
    """Return the name a region has, or that of its class, as QuPath keeps them."""
    properties = row.find("properties")
    if properties is None:
        return ""
    classification = properties.find("classification")
    name = properties.find("name") or (classification and classification.find("name"))
    return "" if name is None else name.text()


def _plane(row: JsonValue, image: Image) -> tuple[int | None, ...]:
    """Return frame and slice of a region; QuPath writes no plane where there is but one."""
    plane = row.at("geometry").find("plane")
    found = [plane and plane.find(axis) for axis in image.label_axes[:-2].lower()]
    return tuple(None if place is None else place.whole() for place in found)


def _roi(node: JsonValue, image: Image, number: int) -> ShapeRegion:
    roi = node.value
    if roi.roitype.name == "POINT":
        raise JsonValue("POINT", node.path, node.where).refuse("an area")
    rings = tuple(ring - MIDDLE for ring in rings_of(node))
    return ShapeRegion(roi.name or f"region {number}", rings, roi_plane(node, image.label_axes))
