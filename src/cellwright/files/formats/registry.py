"""All formats of other programs: from this one table come readers, writers and lists for people."""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.json_value import read_json, read_xml
from cellwright.files.zarr import is_zarr


@dataclass(frozen=True, slots=True)
class Format:
    """One format of files."""

    name: str  # for programs
    title: str  # for people
    extensions: tuple[str, ...]  # how file names end, the usual one first; empty for a folder
    kinds: tuple[str, ...]  # what it can hold of ``labels``, ``boxes``, ``points`` and ``classes``
    axes: str = "TZYX"  # the most it can hold; stacks go plane by plane into ``YX`` with ``has_many``
    has_many: bool = False  # whether it holds several images
    module: str = ""  # where it is read and written
    holds: str = ""  # a key of its JSON object, or the tag of its XML, by which its files are known
    check: str = ""  # the function that knows its files, where that does not do
    writer: str = "write"  # the function that writes

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder of files."""
        return not self.extensions

    def matches(self, path: Path) -> bool:
        """Return whether a file that is there looks like one of this format.

        ReadError where the file had to be looked into, and is damaged.
        """
        if self.extensions and not path.name.lower().endswith(self.extensions):
            return False
        if self.holds:
            return self.holds in _names_in(path)
        return not self.check or bool(self._function(self.check)(path))

    def read(self, path: Path | str, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
        """Return what a file tells of the cells of its images, or of one that is given, which it must fit.

        ReadError where the file is missing or damaged, or does not fit the image.
        """
        try:
            found: tuple[ImageAnnotation, ...] = self._function("read")(Path(path), image)
        except MemoryError as error:
            raise ReadError(f"The content of {path} does not fit into memory. Split it.") from error
        return found

    def write(self, path: Path | str, annotation: Sequence[ImageAnnotation]) -> None:
        """Write the cells of images, in one step; a file is replaced, a folder must be new.

        WriteError where it cannot be written, or the format cannot hold this.
        """
        self._function(self.writer)(Path(path), annotation)

    def _function(self, name: str) -> Callable[..., Any]:
        return getattr(import_module(f"cellwright.files.formats.{self.module}"), name)


def _names_in(path: Path) -> Collection[str]:
    """Return the keys of a JSON object, or the tag of an XML file."""
    if path.name.lower().endswith(".xml"):
        return [read_xml(path).tag]
    value = read_json(path).value
    return value if isinstance(value, dict) else ()


LABEL_IMAGES = (".png", ".npy", ".bmp", ".gif", ".zarr", ".h5", ".hdf5", ".lsm", ".stk", ".czi", ".nd2")
ALL = ("labels", "boxes", "points", "classes")
_json = partial(Format, extensions=(".json",), axes="YX")
_coco = partial(
    _json, kinds=("labels", "boxes", "classes"), has_many=True, module="coco", holds="annotations"
)
_yolo = partial(Format, extensions=(), axes="YX", has_many=True, module="yolo", check="is_yolo")
_challenge = partial(Format, extensions=(), kinds=("labels",), module="tracking_challenge")
_labelme = partial(_json, module="labelme", holds="shapes")

_TABLE = (
    Format(
        "ome-tiff",
        "Labels as OME-TIFF",
        (".ome.tif", ".ome.tiff", ".tif", ".tiff"),
        ("labels",),
        module="label_image",
    ),
    _coco("coco", "COCO, polygons", writer="write_polygons"),
    _coco("coco-rle", "COCO, run lengths", writer="write_rle"),
    _labelme("labelme", "LabelMe, polygons", kinds=ALL, writer="write_polygons"),
    _labelme("labelme-masks", "LabelMe, boxes with masks", kinds=("labels", "classes"), writer="write_masks"),
    _yolo("yolo-boxes", "YOLO, boxes", kinds=("boxes", "classes"), writer="write_boxes"),
    _yolo("yolo-segments", "YOLO, outlines", kinds=("labels", "classes"), writer="write_segments"),
    Format("imagej-roi", "ImageJ ROIs", (".zip", ".roi"), ALL, module="imagej_roi"),
    Format("geojson", "GeoJSON of QuPath", (".geojson",), ("labels", "points", "classes"), module="geojson"),
    Format("cellpose", "Cellpose", ("_seg.npy",), ("labels", "classes"), module="cellpose_seg"),
    _challenge(
        "tracking-challenge", "Cell Tracking Challenge, results", axes="TZYX", check="is_tracking_challenge"
    ),
    _challenge(
        "tracking-challenge-truth",
        "Cell Tracking Challenge, truth",
        check="is_tracking_challenge",
        writer="write_truth",
    ),
    Format("points-csv", "Points as CSV", (".csv",), ("points", "classes"), module="points_csv"),
)
FORMATS: dict[str, Format] = {one.name: one for one in _TABLE}
_markup = partial(Format, extensions=(".xml",), axes="YX", module="markup", writer="")
_READ_ONLY = (
    _markup("pascal-voc", "Pascal VOC", kinds=("labels", "boxes", "classes"), holds="annotation"),
    _markup("cvat", "CVAT for images", kinds=ALL, has_many=True, holds="annotations"),
    _markup("trackmate", "TrackMate", kinds=("labels", "points"), axes="TZYX", holds="TrackMate"),
    Format(
        "cellpose-outlines",
        "Cellpose, outlines",
        ("_cp_outlines.txt",),
        ("labels",),
        axes="YX",
        module="cellpose_seg",
    ),
    _json(
        "geojson-in-json", "GeoJSON of QuPath", kinds=ALL, axes="TZYX", module="geojson", check="is_geojson"
    ),
    Format("label-image", "Label images", LABEL_IMAGES, ("labels",), module="label_image"),
)
_VIA = Format(
    "via",
    "VGG Image Annotator",
    (".json", ".csv"),
    ALL,
    axes="YX",
    has_many=True,
    module="via",
    check="is_via",
)
# that of VIA before points, for its tables are CSV too
READERS: dict[str, Format] = {one.name: one for one in (_VIA, *_TABLE, *_READ_ONLY)}
NAMES = {"labels": "ome-tiff"}  # other names of formats


def format_of(name: str) -> Format:
    """Return the format of a name that can be written; SettingsError where there is none."""
    name = NAMES.get(name, name)
    if name not in FORMATS:
        raise SettingsError(
            f"Formats that can be written are labels, {', '.join(FORMATS)}; got {name!r}. Choose one of them."
        )
    return FORMATS[name]


def recognise(path: Path | str) -> Format:
    """Return the format of a file or folder.

    ReadError where it is missing, damaged, or of no format known.
    """
    path = Path(path)
    if not os.path.exists(path):  # Path.exists raises where the system refuses the name
        raise ReadError(f"Expected a file or folder at {path}; there is none. Check the path.")
    for one in READERS.values():
        is_kind = path.is_file() or one.is_folder or path.suffix == ".zarr"
        if is_kind and one.matches(path):
            return one
    if path.is_dir() and is_zarr(path):
        return READERS["label-image"]
    titles = ", ".join(dict.fromkeys(one.title.partition(",")[0] for one in READERS.values()))
    raise ReadError(f"Expected one of {titles}; {path} is none of them. Choose another file.")
