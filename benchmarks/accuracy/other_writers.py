"""Files that other programs write here, each from the same drawn cells or a ramp of pixels."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import other_readers


class Written(NamedTuple):
    """Files of one program and how a reader other than ours understands them."""

    program: str
    paths: list[Path]
    peer: Callable[[Path], Any]


def ramp(*shape: int, dtype: str = "uint16") -> NDArray[Any]:
    """Return pixels that all differ, as far as the type allows."""
    return (np.arange(np.prod(shape)) % 251).reshape(shape).astype(dtype)


def cells() -> NDArray[np.uint16]:
    """Return labels (96, 128) of twelve ellipses, some with a hole."""
    labels = np.zeros((96, 128), np.uint16)
    y, x = np.indices(labels.shape)
    for number in range(12):
        cy, cx = 16 + 32 * (number // 4), 16 + 32 * (number % 4)
        inside = ((y - cy) / 11) ** 2 + ((x - cx) / (8 + number % 3)) ** 2 < 1
        labels[inside] = number + 1
    return labels


def rings() -> list[NDArray[np.float64]]:
    """Return the outlines (N, 2) of :func:`cells` in x, y, from corner to corner of pixels."""
    from skimage.measure import find_contours

    labels = cells()
    found = []
    for number in range(1, 13):
        (ring,) = find_contours(np.pad(labels == number, 1), 0.5)
        found.append(ring[:-1, ::-1] - 0.5)
    return found


def by_imageio(folder: Path) -> Written:
    """Write pictures of all kinds."""
    import imageio.v3 as imageio

    paths = [folder / f"imageio.{ending}" for ending in ("png", "tif", "bmp", "gif", "webp")]
    for path in paths:
        kwargs = {"lossless": True} if path.suffix == ".webp" else {}
        imageio.imwrite(path, ramp(40, 50, 3, dtype="uint8") // 51 * 51, **kwargs)
    imageio.imwrite(folder / "imageio16.png", ramp(40, 50))
    return Written("imageio", [*paths, folder / "imageio16.png"], other_readers.picture)


def by_tifffile(folder: Path) -> Written:
    """Write TIFF of ImageJ, of OME and plain ones."""
    import tifffile

    stack, paths = ramp(3, 2, 40, 50), []
    for name, options in {
        "imagej.tif": {
            "imagej": True,
            "resolution": (4, 4),
            "metadata": {"axes": "ZCYX", "unit": "um", "spacing": 2},
        },
        "ome.ome.tif": {"metadata": {"axes": "ZCYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}},
        "shaped.tif": {"metadata": {"axes": "ZCYX"}},
        "tiles.tif": {"tile": (16, 16), "compression": "zlib", "bigtiff": True, "metadata": {"axes": "ZCYX"}},
    }.items():
        tifffile.imwrite(folder / name, stack, photometric="minisblack", **options)
        paths.append(folder / name)
    return Written("tifffile", paths, other_readers.tiff)


def by_opencv(folder: Path) -> Written:
    """Write pictures as OpenCV does."""
    import cv2

    paths = [folder / f"cv2.{ending}" for ending in ("png", "tiff", "bmp", "jpg")]
    for path in paths:
        cv2.imwrite(str(path), ramp(40, 50, 3, dtype="uint8"))
    return Written("opencv", paths, other_readers.picture)


def by_ome_zarr(folder: Path) -> Written:
    """Write an image of each version of OME-Zarr."""
    import zarr
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    paths = []
    for form, zarr_format in ((FormatV04(), 2), (FormatV05(), 3)):
        path = folder / f"ome_zarr_{form.version}.zarr"
        write_image(
            ramp(2, 3, 40, 50),
            zarr.open_group(path, mode="w", zarr_format=zarr_format),
            axes="czyx",
            fmt=form,
        )
        paths.append(path)
    return Written("ome-zarr", paths, _level("s0", "0"))


def by_ngff_zarr(folder: Path) -> Written:
    """Write an image of OME-Zarr 0.4 and 0.5."""
    import ngff_zarr

    image = ngff_zarr.to_ngff_image(
        ramp(3, 40, 50), ["z", "y", "x"], {"z": 2.0, "y": 0.5, "x": 0.5},
        axes_units={"z": "micrometer", "y": "micrometer", "x": "micrometer"},
    )  # fmt: skip
    paths = []
    for version in ("0.4", "0.5"):
        paths.append(folder / f"ngff_zarr_{version}.zarr")
        ngff_zarr.to_ngff_zarr(
            str(paths[-1]), ngff_zarr.to_multiscales(image, scale_factors=[]), version=version
        )
    return Written("ngff-zarr", paths, _level("scale0/image", "0"))


def _level(*names: str) -> Callable[[Path], Any]:
    def read(path: Path) -> list[NDArray[Any]]:
        import zarr

        group = zarr.open_group(path, mode="r")
        return [np.asarray(next(group[name] for name in names if name in group))]

    return read


def by_libczi(folder: Path) -> Written:
    """Write CZI: one plane, a stack of channels, two scenes."""
    from pylibCZIrw import czi

    paths = [folder / name for name in ("plane.czi", "stack.czi", "scenes.czi")]
    with czi.create_czi(str(paths[0])) as file:
        file.write(data=ramp(40, 50, 1))
        file.write_metadata("plane", channel_names={0: "DAPI"}, scale_x=5e-7, scale_y=5e-7)
    with czi.create_czi(str(paths[1])) as file:
        for c, z in np.ndindex(2, 3):
            file.write(data=ramp(40, 50, 1) + 10 * c + z, plane={"C": c, "Z": z})
        file.write_metadata(
            "stack", channel_names={0: "DAPI", 1: "GFP"}, scale_x=1e-7, scale_y=1e-7, scale_z=2e-6
        )
    with czi.create_czi(str(paths[2])) as file:
        for scene in range(2):
            file.write(data=ramp(40, 50, 1) + scene, location=(100 * scene, 0), scene=scene)
    return Written("pylibCZIrw", paths, other_readers.czi)


def by_roifile(folder: Path) -> Written:
    """Write a set of ROIs, and one alone."""
    import roifile

    rois = [roifile.ImagejRoi.frompoints(ring, name=f"cell {n}") for n, ring in enumerate(rings())]
    roifile.roiwrite(folder / "RoiSet.zip", rois)
    rois[0].tofile(folder / "one.roi")
    return Written("roifile", [folder / "RoiSet.zip", folder / "one.roi"], other_readers.imagej_roi)


def by_stardist(folder: Path) -> Written:
    """Write the outlines of a prediction as StarDist exports them to ImageJ."""
    from stardist import export_imagej_rois

    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    centres = [(16 + 32 * row, 16 + 32 * column) for row in range(3) for column in range(4)]
    polygons = [np.stack([cy + 11 * np.sin(angles), cx + 9 * np.cos(angles)]) for cy, cx in centres]
    export_imagej_rois(str(folder / "stardist"), np.array(polygons))
    return Written("stardist", [folder / "stardist.zip"], other_readers.imagej_roi)


def by_pycocotools(folder: Path) -> Written:
    """Write run lengths and polygons of COCO."""
    from pycocotools import mask

    labels, paths = cells(), []
    for kind in ("rle", "polygons"):
        rows = []
        for number, ring in enumerate(rings(), 1):
            coded = mask.encode(np.asfortranarray(labels == number))
            segmentation: Any = [ring.ravel().tolist()]
            if kind == "rle":
                segmentation = {"size": coded["size"], "counts": coded["counts"].decode()}
            rows.append({"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0,
                         "segmentation": segmentation,
                         "bbox": mask.toBbox(coded).tolist(), "area": int(mask.area(coded))})  # fmt: skip
        told = {"images": [{"id": 1, "file_name": "a.png", "width": 128, "height": 96}], "annotations": rows,
                "categories": [{"id": 1, "name": "nucleus"}]}  # fmt: skip
        paths.append(folder / f"coco_{kind}.json")
        paths[-1].write_text(json.dumps(told))
    return Written("pycocotools", paths, other_readers.coco)


def by_shapely(folder: Path) -> Written:
    """Write GeoJSON as QuPath lays it out, with a hole and with a cell of two parts."""
    from shapely.geometry import MultiPolygon, Polygon, mapping

    outlines = [Polygon(ring) for ring in rings()]
    outlines[0] = outlines[0].difference(outlines[0].centroid.buffer(3))
    shapes: list[Any] = [*outlines[:-2], MultiPolygon(outlines[-2:])]
    features = [
        {"type": "Feature", "id": str(n), "geometry": mapping(one),
         "properties": {"objectType": "detection", "classification": {"name": "Tumor", "color": [200, 0, 0]}}}
        for n, one in enumerate(shapes)
    ]  # fmt: skip
    (folder / "qupath.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return Written("shapely", [folder / "qupath.geojson"], other_readers.geojson)


def by_numpy(folder: Path) -> Written:
    """Write what Cellpose saves: a dictionary in an .npy file."""
    labels = cells()
    told = {"outlines": labels * 0, "masks": labels, "filename": "a.png", "flows": [], "est_diam": 20.0,
            "chan_choose": [0, 0], "ismanual": np.zeros(12, bool),
            "colors": np.zeros((12, 3), np.uint8)}  # fmt: skip
    np.save(folder / "a_seg.npy", told)  # type: ignore[arg-type]
    return Written("as Cellpose 3", [folder / "a_seg.npy"], other_readers.seg)


def by_scikit_image(folder: Path) -> Written:
    """Write label images."""
    from skimage import io

    paths = [folder / "a_cp_masks.png", folder / "a_labels.tif"]
    for path in paths:
        io.imsave(path, cells(), check_contrast=False)
    return Written("scikit-image", paths, other_readers.labels)


WRITERS = (
    by_imageio, by_tifffile, by_opencv, by_ome_zarr, by_ngff_zarr, by_libczi, by_roifile, by_stardist,
    by_pycocotools, by_shapely, by_numpy, by_scikit_image,
)  # fmt: skip
