"""How the readers of other programs understand files: pixels, or how many objects and where."""

import base64
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an annotation file tells: how many objects, and their area, or their places."""

    n: int
    area: NDArray[np.bool_] | None = None
    places: Any = None


def picture(path: Path) -> list[NDArray[Any]]:
    """Return all frames of a picture: TIFF, GIF, BMP as Pillow reads them, others as imagecodecs does."""
    import imagecodecs
    from PIL import Image as Picture
    from PIL import ImageOps

    with Picture.open(path) as opened:
        n_frames, mode, is_turned = getattr(opened, "n_frames", 1), opened.mode, 274 in opened.getexif()
        decode = {".png": imagecodecs.png_decode, ".jpg": imagecodecs.jpeg8_decode}.get(path.suffix.lower())
        if decode and n_frames == 1 and not is_turned and mode in ("L", "RGB", "RGBA", "I;16"):
            pixels = decode(path.read_bytes())
            if pixels.ndim == 3:  # without transparency
                pixels = pixels[..., 0] if pixels.shape[-1] == 2 else pixels[..., :3]
            return [pixels]
        frames = []
        for number in range(n_frames):
            opened.seek(number)
            frame = ImageOps.exif_transpose(opened)
            if frame.mode not in PLAIN_MODES:
                frame = frame.convert("RGB")
            frames.append(np.asarray(frame))
    return frames


def npy(path: Path) -> list[NDArray[Any]]:
    """Return an array as numpy saved it."""
    return [np.load(path, allow_pickle=False)]


def any_file(path: Path) -> Any:
    """Return the pixels of a picture or the only dataset of HDF5, or the ROIs of ImageJ."""
    if path.suffix in (".roi", ".zip"):
        return imagej_roi(path)
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path) as file:
            return [dataset[()] for dataset in file.values()]
    return picture(path)


def oib(path: Path) -> list[NDArray[Any]]:
    """Return the pixels as oiffile reads them."""
    import oiffile

    return [oiffile.imread(path)]


def nd2(path: Path) -> list[NDArray[Any]]:
    """Return the pixels as nd2 reads them."""
    import nd2

    return [nd2.imread(path)]


def czi(path: Path) -> list[NDArray[Any]]:
    """Return the pixels as libCZI reads them, one image for each scene."""
    from pylibCZIrw import czi as libczi

    with libczi.open_czi(str(path)) as file:
        box = file.total_bounding_box
        scenes = sorted(file.scenes_bounding_rectangle) or [None]
        images = []
        for scene in scenes:
            planes = [
                file.read(plane={"C": c, "Z": z}, scene=scene)
                for c in range(*box.get("C", (0, 1)))
                for z in range(*box.get("Z", (0, 1)))
            ]
            images.append(np.squeeze(np.stack(planes)))
    return images


def first_array(path: Path) -> list[NDArray[Any]]:
    """Return the array "0" of a Zarr group."""
    import zarr

    return [np.asarray(zarr.open_group(path, mode="r")["0"])]


def tiff(path: Path) -> list[NDArray[Any]]:
    """Return the pixels of all series as tifffile reads them."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        return [series.asarray() for series in file.series]


def labels(path: Path) -> Drawn:
    """Return the cells of a label image as Pillow reads it."""
    from PIL import Image as Picture

    with Picture.open(path) as opened:
        frames = []
        for number in range(getattr(opened, "n_frames", 1)):
            opened.seek(number)
            frames.append(np.asarray(opened))
    pixels = np.squeeze(np.stack(frames))
    return Drawn(len(np.unique(pixels[pixels > 0])), pixels > 0)


def labelme(path: Path) -> Drawn:
    """Return the shapes of LabelMe, drawn by Pillow; those of one group are one, lines are none."""
    from PIL import Image as Picture
    from PIL import ImageDraw

    told = json.loads(path.read_text())
    shapes = [
        one for one in told["shapes"] if one["shape_type"] in ("polygon", "rectangle", "circle", "mask")
    ]
    groups = [one.get("group_id") for one in shapes]
    n = sum(group is None for group in groups) + len({group for group in groups if group is not None})
    if not shapes:
        points = [one for one in told["shapes"] if one["shape_type"] == "point"]
        return Drawn(len(points))
    if {one["shape_type"] for one in shapes} == {"rectangle"} and n == len(shapes):
        return Drawn(n, places=[np.sort(np.array(one["points"])[:, ::-1], axis=0) for one in shapes])
    size = (told["imageWidth"], told["imageHeight"])
    area = np.zeros(size[::-1], bool)
    for one in shapes:
        canvas = Picture.new("1", size)
        corners = [tuple(point) for point in one["points"]]
        if one["shape_type"] == "mask":
            drawn = Picture.open(io.BytesIO(base64.b64decode(one["mask"])))
            canvas.paste(Picture.fromarray(np.asarray(drawn) > 0), tuple(int(n) for n in corners[0]))
        elif one["shape_type"] == "polygon":
            ImageDraw.Draw(canvas).polygon(corners, fill=1)
        elif one["shape_type"] == "circle":
            (x, y), (x1, y1) = corners
            radius = float(np.hypot(x1 - x, y1 - y))
            ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        else:
            (x0, y0), (x1, y1) = corners
            ImageDraw.Draw(canvas).rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=1)
        area |= np.asarray(canvas)
    return Drawn(n, area)


def voc(path: Path) -> Drawn:
    """Return the boxes of Pascal VOC."""
    root = ElementTree.parse(path).getroot()
    boxes = []
    for box in root.iter("bndbox"):
        x0, y0, x1, y1 = (float(box.findtext(name, "0")) for name in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append([[y0 - 1, x0 - 1], [y1, x1]])
    return Drawn(len(boxes), places=boxes)


def coco(path: Path) -> list[Drawn]:
    """Return for each image of a COCO file the number of annotations and their area, by pycocotools."""
    with redirect_stdout(None):
        from pycocotools.coco import COCO

        told = COCO(str(path))
    found = []
    for image in told.dataset["images"]:
        rows = told.loadAnns(told.getAnnIds(imgIds=[image["id"]]))
        area = np.zeros((image["height"], image["width"]), bool)
        for row in rows:
            area |= told.annToMask(row) > 0
        found.append(Drawn(len(rows), area))
    return found


def imagej_roi(path: Path) -> Drawn:
    """Return the areas of ROIs of ImageJ that roifile reads, filled by scikit-image."""
    import roifile
    from skimage.draw import polygon2mask

    read = roifile.roiread(path)
    rois = read if isinstance(read, list) else [read]
    shape = [
        int(max(max(roi.bottom, 0) for roi in rois)) + 2,
        int(max(max(roi.right, 0) for roi in rois)) + 2,
    ]
    area = np.zeros(shape, bool)
    if all(roi.roitype == roifile.ROI_TYPE.POINT for roi in rois):
        return Drawn(sum(len(roi.coordinates()) for roi in rois))
    for roi in rois:
        ring = np.asarray(roi.coordinates(), float)[:, ::-1]
        area |= polygon2mask(shape, ring - 0.5)
    return Drawn(len(rois), area)


def trackmate(path: Path) -> Drawn:
    """Return the number of spots of TrackMate that are visible."""
    spots = [
        spot for spot in ElementTree.parse(path).getroot().iter("Spot") if spot.get("VISIBILITY", "1") != "0"
    ]
    return Drawn(len(spots))


def geojson(path: Path) -> Drawn:
    """Return the polygons of a GeoJSON file by shapely, with their holes."""
    from shapely.geometry import shape
    from skimage.draw import polygon2mask

    features = json.loads(path.read_text())["features"]
    polygons = [part for one in features for part in _parts(shape(one["geometry"]))]
    size = [int(max(one.bounds[3] for one in polygons)) + 1, int(max(one.bounds[2] for one in polygons)) + 1]
    area = np.zeros(size, bool)
    for one in polygons:
        mask = polygon2mask(size, np.array(one.exterior.coords)[:, ::-1] - 0.5)
        for hole in one.interiors:
            mask &= ~polygon2mask(size, np.array(hole.coords)[:, ::-1] - 0.5)
        area |= mask
    return Drawn(len(features), area)


def _parts(geometry: Any) -> list[Any]:
    return list(getattr(geometry, "geoms", [geometry]))


def seg(path: Path) -> Drawn:
    """Return the masks of a file of Cellpose."""
    masks = np.load(path, allow_pickle=True).item()["masks"]
    return Drawn(len(np.unique(masks[masks > 0])), masks > 0)
