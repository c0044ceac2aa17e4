"""Micrometres per pixel, from what TIFF files say in three dialects."""

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import tifffile

# OME-XML model 2016-06, UnitsLength, and the spellings ImageJ writes
UM_PER_UNIT = {
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "dm": 1e5,
    "m": 1e6,
    "meter": 1e6,
    "inch": 25_400.0,
    "in": 25_400.0,
}
LARGEST_UM = 20.0  # a plain TIFF with wider pixels states the density of a print (1200 dpi: 21 µm)


def um_per(unit: str) -> float | None:
    """Return the micrometres in a unit of length, None when it is none (pixels, say)."""
    plain = unit.strip().lower().replace("\\u00b5", "µ").replace("μ", "µ")
    return UM_PER_UNIT.get(plain)


def tiff_pixel_sizes(tiff: tifffile.TiffFile) -> Mapping[str, float]:
    """Return the micrometres per pixel of each axis (X, Y, Z) that the file tells."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_sizes(tiff.ome_metadata)
    if tiff.imagej_metadata:
        return _imagej_sizes(tiff.imagej_metadata, tiff.pages.first)
    sizes = _resolution(tiff.pages.first, _tag_unit(tiff.pages.first))
    return sizes if all(size <= LARGEST_UM for size in sizes.values()) else {}


def _ome_sizes(xml: str) -> Mapping[str, float]:
    try:
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return {}
    if pixels is None:
        return {}
    sizes = {}
    for axis in "XYZ":
        factor = um_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = _positive(pixels.get(f"PhysicalSize{axis}"))
        if factor and size:
            sizes[axis] = size * factor
    return sizes


def _imagej_sizes(metadata: Mapping[str, Any], page: Any) -> Mapping[str, float]:
    factor = um_per(str(metadata.get("unit", "")))
    if factor is None:
        return {}
    sizes = dict(_resolution(page, factor))
    depth = _positive(metadata.get("spacing"))
    if depth:
        sizes["Z"] = depth * factor
    return sizes


def _tag_unit(page: Any) -> float | None:
    """Micrometres of the unit of the resolution tags; inches are left out, as they speak of print."""
    return UM_PER_UNIT["cm"] if page.resolutionunit == tifffile.RESUNIT.CENTIMETER else None


def _resolution(page: Any, unit_um: float | None) -> Mapping[str, float]:
    if unit_um is None:
        return {}
    sizes = {}
    for axis in "XY":
        tag = page.tags.get(f"{axis}Resolution")
        parts = tag.value if tag is not None else (0, 1)
        if parts[0] and parts[1]:
            sizes[axis] = unit_um * parts[1] / parts[0]
    return sizes


def _positive(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < float("inf") else None
