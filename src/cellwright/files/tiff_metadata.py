"""What a TIFF tells of its pixels, in the dialect of the program that wrote it, and of the set it is of."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray

from cellwright.core.errors import ReadError, expecting, repeated
from cellwright.files.metadata import (
    COMPANION,
    ON_ITS_SIDE,
    ORIENTATION_TAG,
    UM_PER_UNIT,
    ImageMetadata,
    color_of,
    magnitude,
    seconds_of,
    sizes_of,
    um_per,
)
from cellwright.files.tiff_checks import files_of_set, is_split_off, ome_of, refuse_false_index

LARGEST_UM = 20.0  # a plain TIFF with wider pixels states the density of a print (1200 dpi: 21 µm)
PRINT_UNITS = ("inch", "in", "cm")
UNEVEN = 0.1  # by what share of it steps of time may differ from their mean
XMP_TAG, MICROMANAGER_TAG = 700, 51123
OF_PLACE = re.compile(r"[cztCZT]:\d+/\d+")  # label of a plane that Bio-Formats has read


def opened(path: Path) -> tifffile.TiffFile:
    """Return an open TIFF, or the first of those that a companion file describes.

    OME-XML, if there is any, is believed before the shape that tifffile notes.
    """
    if path.name.lower().endswith(COMPANION):
        return _described_by(path, path)
    tiff = tifffile.TiffFile(path)
    with ExitStack() as closing:  # where its first page cannot be read, too
        closing.enter_context(tiff)
        if is_split_off(tiff):
            vars(tiff)["is_imagej"] = False
            _ = tiff.series  # made once: of the plane that is there, not of the stack that is described
            vars(tiff)["is_imagej"] = True
        if tiff.is_ome:
            vars(tiff)["is_shaped"] = False
            ome = ome_of(tiff.ome_metadata or "")
            elsewhere = ome.find("{*}BinaryOnly")
            if elsewhere is not None:
                return _described_by(path.parent / Path(elsewhere.get("MetadataFile", "")).name, path)
            names = list(files_of_set(ome))
            if len(names) == 1 and names[0] == Path(names[0]).name and not (path.parent / names[0]).is_file():
                return _renamed(ome, path)
        closing.pop_all()
    return tiff


def _renamed(ome: ElementTree.Element, path: Path) -> tifffile.TiffFile:
    """Return a TIFF that is not called as its OME-XML calls the one file of its planes."""
    for planes in ome.findall(".//{*}TiffData"):
        for place in planes.findall("{*}UUID"):
            planes.remove(place)
    return tifffile.TiffFile(path, omexml=ElementTree.tostring(ome, "unicode"), is_ome=True, is_shaped=False)


def _described_by(described: Path, path: Path) -> tifffile.TiffFile:
    """Return the first TIFF of a set, whose OME-XML it holds itself, or a companion file."""
    if not os.path.isfile(described):  # Path.is_file raises where the system refuses the name
        raise ReadError(
            f"{path} is one of a set that {described.name} describes, which does not lie beside it. Copy it "
            "there."
        )
    if not described.name.lower().endswith(COMPANION):
        return tifffile.TiffFile(described, is_shaped=False)
    what = f"OME-XML in {described}"
    with expecting(ReadError, what, "Export it again.", ElementTree.ParseError, UnicodeDecodeError):
        text = described.read_text(encoding="utf-8")
        named = files_of_set(ElementTree.fromstring(text))
    there = (described.parent / name for name in named if name == Path(name).name)
    first_there = next((file for file in there if os.path.isfile(file)), None)
    if first_there is None:
        raise ReadError(
            f"{described} describes {', '.join(named) or 'no file'}; none lies beside it. Copy them there."
        )
    return tifffile.TiffFile(first_there, omexml=text, is_ome=True, is_shaped=False)


def set_of(path: Path) -> tuple[str, ...]:
    """Return the names of the files that are read together with a file; empty where it is one alone.

    They are sets of OME, and stacks of Micro-Manager of which each file holds a part.
    """
    try:
        with opened(path) as file:
            names = set(files_of_set(ome_of(file.ome_metadata or "")))
            if file.is_micromanager:
                refuse_false_index(file, path)
                names = {
                    page.parent.filename for one in file.series for page in one.pages if page is not None
                }
    except Exception:  # noqa: BLE001 - tifffile fails in every possible way on damaged files; reading tells how
        return ()
    if len(names) < 2:
        return ()
    return tuple(sorted(names))


def series_metadata(tiff: tifffile.TiffFile, index: int) -> ImageMetadata:
    """Return sizes, names and colors of channels of a series, in the dialect of the file."""
    series = tiff.series[index]
    for dialect, reader in DIALECTS.items():
        metadata = reader(tiff, series) if getattr(tiff, dialect) else None
        if metadata is not None:
            return metadata
    return ImageMetadata(_plain_sizes(series.keyframe))


def _from_imagej(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    metadata = tiff.imagej_metadata or {}
    luts = np.asarray(metadata.get("LUTs", ()))
    if luts.ndim == 2:  # of one channel, which tifffile gives without a list around it
        luts = luts[np.newaxis]
    colors = [color_of(lut[:3, -1]) for lut in luts if lut.ndim == 2]
    interval_s = seconds_of(metadata.get("finterval"), str(metadata.get("tunit", "s")))
    sizes = _imagej_sizes(metadata, series.keyframe)
    return ImageMetadata(sizes, _imagej_names(metadata), colors, frame_interval_s=interval_s)


def _imagej_names(metadata: Mapping[str, Any]) -> list[str]:
    """Return the labels of planes where all of a channel have the same, which no other channel has."""
    labels, n = metadata.get("Labels"), metadata.get("channels", 0)
    if not isinstance(labels, list) or len(labels) != metadata.get("images"):
        return []
    titles = [str(label).partition("\n")[0].strip() for label in labels]
    names = titles[:n]
    if titles != names * (len(titles) // max(n, 1)) or repeated(names) or any(map(OF_PLACE.match, names)):
        return []
    return names


def _from_lsm(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    metadata = tiff.lsm_metadata or {}
    sizes = sizes_of({axis: metadata.get(f"VoxelSize{axis}") for axis in "XYZ"}, 1e6)
    channels = metadata.get("ChannelColors") or {}
    colors = [color_of(rgb[:3]) for rgb in channels.get("Colors", ())]
    interval_s = seconds_of(metadata.get("TimeIntervall"))  # as Zeiss spells it
    return ImageMetadata(sizes, channels.get("ColorNames", ()), colors, frame_interval_s=interval_s)


def _from_stk(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata | None:
    metadata = tiff.stk_metadata or {}
    steps = {axis: metadata.get(f"{axis}Calibration") for axis in "XY"}
    distances = np.unique(metadata.get("ZDistance", ()))
    if len(distances) == 1:  # the same between all planes
        steps["Z"] = distances[0]
    is_on = metadata.get("SpatialCalibration", True)
    known = _calibrated(steps, metadata.get("CalibrationUnits"), is_on) or _from_metaseries(tiff, series)
    created = metadata.get("DatetimeCreated")
    if created is None or "T" not in series.axes:
        return known
    interval_s, notices = _interval_of(np.diff(created) / np.timedelta64(1, "s"))
    return replace(known or ImageMetadata(), notices=notices, frame_interval_s=interval_s)


def _from_metaseries(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata | None:
    metadata = (tiff.metaseries_metadata or {}).get("PlaneInfo", {})
    steps = {axis: metadata.get(f"spatial-calibration-{axis.lower()}") for axis in "XY"}
    is_on = metadata.get("spatial-calibration-state", True)
    return _calibrated(steps, metadata.get("spatial-calibration-units"), is_on)


def _calibrated(steps: Mapping[str, Any], unit: Any, is_on: Any) -> ImageMetadata | None:
    """Return the pixel size of MetaMorph, None where it is not calibrated."""
    factor = um_per(str(unit))
    return ImageMetadata(sizes_of(steps, factor)) if factor and is_on else None


def _from_svs(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    metadata = tifffile.tifffile.svs_description_metadata(series.keyframe.description)
    return ImageMetadata(sizes_of(dict.fromkeys("XY", metadata.get("MPP"))))


def _from_scn(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    image, view, _ = scn_image(tiff, series)
    n_pixels = dict(zip(series.axes, series.shape, strict=True))
    sizes = {axis: (magnitude(view.get(f"size{axis}")) or 0.0) / n_pixels[axis] for axis in "XY"}
    channels = image.findall(".//{*}channelSettings/{*}channel")
    names, colors = ([one.get(key, "") for one in channels] for key in ("name", "rgb"))
    return ImageMetadata(sizes_of({**sizes, "Z": view.get("spacingZ")}, 1e-3), names, colors)


def scn_image(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> tuple[ElementTree.Element, dict[str, str], bool]:
    """Return what Leica tells of an image, its place on the slide, and whether it is one of the whole slide.

    Source: https://openslide.org/formats/leica
    """
    images = [
        (image, collection)
        for collection in ome_of(tiff.scn_metadata or "").findall("{*}collection")
        for image in collection.findall("{*}image")
        for pixels in image.findall("{*}pixels")
        if pixels.find("{*}dimension") is not None
    ]
    image, collection = images[tiff.series.index(series)]  # as tifffile goes through them
    found = image.find("{*}view")
    view = {} if found is None else found.attrib
    is_whole = all(collection.get(key, "") == view.get(key) for key in ("sizeX", "sizeY"))
    return image, view, is_whole


def _from_bif(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    xmp = tiff.pages.first.tags.valueof(XMP_TAG)
    found = re.search(rb'ScanRes="([0-9.]+)"', xmp if isinstance(xmp, bytes) else b"")
    return ImageMetadata(sizes_of(dict.fromkeys("XY", found and found[1])))


def _plain_sizes(page: Any) -> Mapping[str, float]:
    if page.resolutionunit != tifffile.RESUNIT.CENTIMETER:  # inches speak of print
        return {}
    sizes = _believable(_resolution(page, UM_PER_UNIT["cm"]))
    if page.tags.valueof(ORIENTATION_TAG) in ON_ITS_SIDE:  # and turned when it is read
        return {{"X": "Y", "Y": "X"}[axis]: size for axis, size in sizes.items()}
    return sizes


def _from_micromanager(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata | None:
    summary = (tiff.micromanager_metadata or {}).get("Summary")
    if series.kind != "mmstack" or not summary:
        return None
    plane = series.keyframe.tags.valueof(MICROMANAGER_TAG)
    step = magnitude(summary.get("PixelSize_um"))
    if step is None and isinstance(plane, dict):
        step = magnitude(plane.get("PixelSizeUm"))  # of version 2
    names, colors = (_as_list(summary.get(key)) for key in ("ChNames", "ChColors"))
    return ImageMetadata(
        sizes_of({"X": step, "Y": step, "Z": summary.get("z-step_um")}),
        [str(name) for name in names],
        [f"#{color & 0xFFFFFF:06x}" for color in colors if isinstance(color, int)],
        frame_interval_s=seconds_of(summary.get("Interval_ms"), "ms"),
    )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _from_qptiff(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    channels = [ome_of(page.aspage().description) for page in series.pages if page is not None]
    names = [channel.findtext("Name", "") for channel in channels]
    colors = [channel.findtext("Color", "").split(",") for channel in channels]
    known = [color_of([int(n) for n in rgb]) for rgb in colors if [n.isdigit() for n in rgb] == [True] * 3]
    return ImageMetadata(_plain_sizes(series.keyframe), names, known)


def _from_ome(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> ImageMetadata:
    every = ome_of(tiff.ome_metadata or "").findall(".//{*}Pixels")
    if not every:
        return ImageMetadata()
    pixels = every[min(tiff.series.index(series), len(every) - 1)]
    sizes = {}
    for axis in "XYZ":
        factor = um_per(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        size = magnitude(pixels.get(f"PhysicalSize{axis}"))
        if factor and size:
            sizes[axis] = size * factor
    channels = pixels.findall("{*}Channel")
    names = [channel.get("Name", "") for channel in channels]
    colors = [_ome_color(channel.get("Color", "")) for channel in channels]
    interval_s, notices = _ome_interval(pixels)
    return ImageMetadata(sizes, names, colors, notices, interval_s)


def _ome_interval(pixels: ElementTree.Element) -> tuple[float, list[str]]:
    increment_s = seconds_of(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    if increment_s:
        return increment_s, []
    times: dict[int, float] = {}
    for plane in pixels.findall("{*}Plane"):
        frame, unit = plane.get("TheT", ""), plane.get("DeltaTUnit", "s")
        if frame.isdigit() and plane.get("DeltaT") is not None:
            times.setdefault(int(frame), seconds_of(plane.get("DeltaT"), unit))
    if sorted(times) != list(range(len(times))):
        return 0.0, []
    return _interval_of(np.diff([times[frame] for frame in sorted(times)]))


def _interval_of(steps: NDArray[np.float64]) -> tuple[float, list[str]]:
    """Return the mean seconds from frame to frame, 0 where none are told, and a notice where they differ."""
    mean = float(steps.mean()) if len(steps) else 0.0
    if mean <= 0:
        return 0.0, []
    if np.abs(steps - mean).max() <= UNEVEN * mean:
        return mean, []
    return mean, [
        f"Its frames are {steps.min():.4g} to {steps.max():.4g} s apart; speeds take the mean, {mean:.4g} s."
    ]


def _ome_color(text: str) -> str:
    """Return a color of OME-XML, a signed number of red, green, blue and opacity, as ``#rrggbb``."""
    try:
        return f"#{(int(text) >> 8) & 0xFFFFFF:06x}"
    except ValueError:
        return ""


def _imagej_sizes(metadata: Mapping[str, Any], page: Any) -> Mapping[str, float]:
    unit = str(metadata.get("unit", ""))
    sizes: dict[str, float] = {}
    for axis, step in {**_resolution(page, 1.0), "Z": metadata.get("spacing")}.items():
        factor = um_per(str(metadata.get(f"{axis.lower()}unit", unit)))  # told where it is another one
        sizes |= sizes_of({axis: step}, factor or 0.0)
    if unit in PRINT_UNITS and not _believable({axis: sizes[axis] for axis in sizes if axis != "Z"}):
        return {}
    return {axis: size for axis, size in sizes.items() if size}


def _believable(sizes: dict[str, float]) -> dict[str, float]:
    """Return sizes that a microscope can have: 72 dots per inch is what programs write that know none."""
    if any(size > LARGEST_UM for size in sizes.values()):
        return {}
    return sizes


def _resolution(page: Any, unit_um: float) -> dict[str, float]:
    sizes = {}
    for axis in "XY":
        tag = page.tags.get(f"{axis}Resolution")
        if tag is not None and tag.value[0] and tag.value[1]:
            sizes[axis] = unit_um * tag.value[1] / tag.value[0]
    return sizes


Dialect = Callable[[tifffile.TiffFile, tifffile.TiffPageSeries], ImageMetadata | None]
DIALECTS: dict[str, Dialect] = {  # by what tifffile calls a file; the first that applies and tells
    "is_ome": _from_ome,
    "is_micromanager": _from_micromanager,
    "is_qpi": _from_qptiff,
    "is_imagej": _from_imagej,
    "is_lsm": _from_lsm,
    "is_stk": _from_stk,
    "is_metaseries": _from_metaseries,
    "is_svs": _from_svs,
    "is_scn": _from_scn,
    "is_bif": _from_bif,
}
