"""Damaged files for every reader: what is read is an answer, or an error of ours, soon and in little memory.

``python tests/files/fuzz.py SECONDS [--seed N] [--readers NAME ...] [--files PATH ...]`` looks for others for
so many seconds of the processor, damages whole files of yours too (those of vendors, say), prints one line
for each kind of file, and keeps what it finds in ``fuzz_findings``. A reader is a reading function of ours
(``tiff``, ``zarr``, ``coco`` ...); several kinds of file meet the same one.

With ``--ledger FILE`` the reader with the fewest seconds since a fault has all the seconds, under a new seed,
and a JSON object there adds up for each: seconds, those since the last fault, files, faults and which.
"""

import argparse
import gc
import json
import logging
import os
import re
import shutil
import signal
import struct
import sys
import tempfile
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image as Picture

from cellwright.annotation.journal import HEAD, MAGIC, read_journal
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError
from cellwright.files.atomic import atomic_write
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS, recognise
from cellwright.files.images import describe_images, read_images
from cellwright.files.regions import read_label_image, read_mask, read_regions

sys.path.append(str(Path(__file__).resolve().parents[2]))  # where it is run as a script
from tests.files import drawn, drawn_vendors

MOST_SECONDS = 20.0
MOST_MIB = 2048
FINDINGS = Path("fuzz_findings")
WORDS = [
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"4294967295",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
    b"null",
    b"../",
    b"\0",
    b"<",
    b"&",
    b"[" * 3000,
]
WIDE = (".lif", ".oib")  # what tells of its pixels in UTF-16
LIF_HEAD = struct.Struct("<IIBI")
Rng = np.random.Generator
Damage = Callable[[bytes, Rng], bytes]
Ledger = dict[str, dict[str, Any]]
READERS_OF_IMAGES = {
    **dict.fromkeys((".tif", ".lsm", ".stk", ".svs", ".scn", ".ndpi", ".bif", ".qptiff"), "tiff"),
    **dict.fromkeys((".oib", ".oif"), "oif"),
    **dict.fromkeys((".h5", ".hdf5"), "hdf5"),
    **{ending: ending[1:] for ending in (".npy", ".zarr", ".czi", ".lif", ".nd2")},
}
VOC = (
    "<annotation><filename>a.png</filename><size><width>30</width><height>24</height></size><object><name>x"
    "</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
CVAT = (
    '<annotations><image id="0" name="a.png" width="30" height="24"><polygon label="x" points="1,1;9,1;9,9"/>'
    '<box label="y" xtl="3" ytl="3" xbr="9" ybr="8"/><ellipse label="y" cx="9" cy="9" rx="3" ry="2"/>'
    '<mask label="x" rle="1,5" left="2" top="2" width="3" height="2"/></image></annotations>'
)
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels '
    'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="30" SizeY="24" SizeC="1" SizeZ="2" SizeT="1">'
    '<Channel ID="Channel:0" SamplesPerPixel="1"/>{}</Pixels></Image></OME>'
)
VIA_3 = {
    "project": {}, "config": {}, "view": {"1": {"fid_list": ["1"]}}, "file": {"1": {"fname": "a.png"}},
    "attribute": {"1": {"options": {"0": "x"}}},
    "metadata": {"1_a": {"vid": "1", "xy": [7, 1, 1, 9, 1, 9, 9], "av": {"1": "0"}},
                 "1_b": {"vid": "1", "xy": [2, 1, 1, 9, 5], "av": {}}},
}  # fmt: skip
TRACKMATE = (
    '<TrackMate version="7.1"><Model spatialunits="micron"><AllSpots nspots="1"><SpotsInFrame frame="0">'
    '<Spot ID="1" FRAME="0" POSITION_X="5.0" POSITION_Y="2.5" POSITION_Z="0.0" ROI_N_POINTS="4">-1 -1 1 -1 '
    '1 1 -1 1</Spot></SpotsInFrame></AllSpots></Model><Settings><ImageData filename="m.tif" width="30" '
    'height="24" nslices="1" nframes="2" pixelwidth="0.5" pixelheight="0.5" voxeldepth="1.0"/></Settings>'
    "</TrackMate>"
)


def mutated(content: bytes, rng: Rng) -> bytes:
    """Return content with some of its bytes changed, cut, doubled or replaced by telling words."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(0, max(1, len(data))))
        near = at if rng.random() < 0.5 else int(rng.integers(0, max(1, min(len(data), 200))))
        kind = int(rng.integers(0, 6))
        if kind == 0 and data:
            data[near] = int(rng.integers(0, 256))
        elif kind == 1:
            data[near : near + 4] = rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF]).astype("<u4").tobytes()
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data[near:near] = data[at : at + int(rng.integers(1, 64))]
        elif kind == 4:
            del data[near : near + int(rng.integers(1, 16))]
        else:
            data[near : near + int(rng.integers(0, 4))] = WORDS[int(rng.integers(0, len(WORDS)))]
    return bytes(data)


def mutated_wide(content: bytes, rng: Rng) -> bytes:
    """Return content with its text in UTF-16 damaged, half of the time: in a frame that is whole."""
    if rng.random() < 0.5:
        return mutated(content, rng)
    if content.startswith(b"\xff\xfe"):
        return mutated(content.decode("utf-16").encode(), rng).decode(errors="replace").encode("utf-16")
    magic, _, mark, n = LIF_HEAD.unpack_from(content)
    if magic == 0x70:
        end = LIF_HEAD.size + 2 * n
        told = content[LIF_HEAD.size : end].decode("utf-16-le").encode()
        text = mutated(told, rng).decode(errors="replace").encode("utf-16-le")
        return LIF_HEAD.pack(magic, len(text) + 5, mark, len(text) // 2) + text + content[end:]
    numbers = [found.span() for found in re.finditer(rb"(?:[0-9]\0)+", content)]
    data = bytearray(content)
    for start, end in (numbers[i] for i in rng.integers(0, len(numbers), 2)):
        data[start:end:2] = (
            rng.integers(ord("0"), ord("9") + 1, (end - start) // 2).astype(np.uint8).tobytes()
        )
    return bytes(data)


def mutated_records(content: bytes, rng: Rng) -> bytes:
    """Return a journal with a damaged record whose checksum is right, half of the time."""
    if rng.random() < 0.5:
        return mutated(content, rng)
    at, records = len(MAGIC), []
    while at < len(content):
        length, _ = HEAD.unpack_from(content, at)
        records.append(content[at + HEAD.size : at + HEAD.size + length])
        at += HEAD.size + length
    one = int(rng.integers(0, len(records)))
    records[one] = mutated(records[one], rng)
    return MAGIC + b"".join(HEAD.pack(len(record), zlib.crc32(record)) + record for record in records)


def read_all(path: Path) -> int:
    """Read a file as an image and as annotations, pixels and all."""
    describe_images(path)
    return _try(
        lambda: [image.read() for image in read_images(path)],
        lambda: recognise(path).read(path),
    )


def read_parts(pattern: str, folder: Path) -> int:
    """Read the images of a file of this name that has its parts in a folder with it."""
    return _try(lambda: [image.read() for image in read_images(next(folder.glob(pattern)))])


def read_as_cells(path: Path) -> int:
    """Read a file as annotations, of an image and without one."""
    image = Image(np.zeros((24, 30), np.uint8), "YX", (), "a")
    return _try(lambda: recognise(path).read(path), lambda: recognise(path).read(path, image))


def _try(*readers: Callable[[], Any]) -> int:
    """Return how many readers gave an answer."""
    n_read = 0
    for read in readers:
        with suppress(CellwrightError):
            read()
            n_read += 1
    return n_read


def read_as_region(path: Path) -> int:
    """Read a file as regions, as a mask and as labels of an image."""
    image = Image(np.zeros((24, 30), np.uint8), "YX", (), "a")
    return _try(
        lambda: read_regions(path, image),
        lambda: read_mask(path, image),
        lambda: read_label_image(path, image),
    )


def read_as_settings(path: Path) -> int:
    """Read a file as the settings of a count."""
    from cellwright.inference.recipe import load_recipe

    return _try(lambda: load_recipe(path))


def read_as_model(folder: Path) -> int:
    """Read a folder as a model and as a classifier."""
    from cellwright.models.checkpoint import load_checkpoint
    from cellwright.models.store import load_classifier

    return _try(lambda: load_checkpoint(folder), lambda: load_classifier(folder))


def read_as_dataset(folder: Path) -> int:
    """Read a folder as a dataset, every image and its cells."""
    return _try(lambda: [item.annotated() for item in read_dataset(folder).items])


def read_as_journal(path: Path) -> int:
    """Read a file as a journal and go on with it."""
    return _try(lambda: read_journal(path), lambda: AnnotationSession.open_journal(path).close())


@dataclass(frozen=True, slots=True)
class Sample:
    """A whole file or folder of a kind, its reader, how it is read, and how its files are damaged."""

    path: Path
    reader: str
    read: Callable[[Path], int] = read_all
    damage: Damage = mutated

    @property
    def name(self) -> str:
        """What its kind is called in reports."""
        return self.path.name


@dataclass(slots=True)
class Tally:
    """What became of the damaged files of one sample."""

    n_files: int = 0
    n_faults: int = 0
    most_seconds: float = 0.0
    most_mib: int = 0


def write_corpus(folder: Path) -> list[Sample]:
    """Write a small whole file of every kind."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (24, 30)).astype(np.uint8)
    labels = np.zeros((24, 30), np.int32)
    labels[2:9, 3:9], labels[10:20, 12:25] = 1, 2
    labels[12:14, 15:17] = 0
    _write_tiffs(folder, grey)
    _write_pictures(folder, grey)
    np.save(folder / "a.npy", grey)
    _write_stores(folder, grey)
    _write_vendors(folder)
    samples = [image_sample(path) for path in sorted(folder.iterdir())]
    samples.append(_write_companion(folder / "companion", grey))
    samples += _write_annotations(folder / "cells", labels)
    return samples + _write_own(folder / "own", folder / "cells", grey, labels)


def image_sample(path: Path) -> Sample:
    """Return an image with its reader; a folder that holds an OIF is that."""
    if path.is_dir() and path.suffix != ".zarr":
        return Sample(path, "oif", partial(read_parts, "*.oif"), mutated_wide)
    damage = mutated_wide if path.suffix in WIDE else mutated
    return Sample(path, READERS_OF_IMAGES.get(path.suffix, "picture"), damage=damage)


def _write_tiffs(folder: Path, grey: Any) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 255, (24, 30, 3)).astype(np.uint8)
    stack = np.stack([grey] * 4)
    colormap = rng.integers(0, 65535, (3, 256)).astype(np.uint16)
    tiffs: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain.tif": (grey, {}),
        "zlib.tif": (grey, {"compression": "zlib", "predictor": True}),
        "lzw.tif": (grey, {"compression": "lzw", "metadata": None}),
        "jpeg.tif": (rgb, {"compression": "jpeg", "photometric": "rgb"}),
        "tiles.tif": (grey, {"tile": (16, 16), "bigtiff": True}),
        "planar.tif": (np.moveaxis(rgb, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        "imagej.tif": (stack, {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um"}}),
        "ome.ome.tif": (stack, {"ome": True, "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5}}),
        "palette.tif": (grey, {"photometric": "palette", "colormap": colormap}),
    }
    for name, (data, options) in tiffs.items():
        tifffile.imwrite(folder / name, data, **options)
    for name, draw in drawn.OF_INSTRUMENTS.items():
        draw(folder / name)


def _write_pictures(folder: Path, grey: Any) -> None:
    rgb = np.stack([grey, grey[::-1], grey], axis=-1)
    for name in ("a.png", "a.jpg", "a.bmp", "a.webp"):
        Picture.fromarray(rgb).save(folder / name)
    Picture.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    frames = [Picture.fromarray(grey), Picture.fromarray(grey[::-1])]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])


def _write_stores(folder: Path, grey: Any) -> None:
    for version in (2, 3):
        group = zarr.open_group(folder / f"v{version}.zarr", mode="w", zarr_format=version)
        group.create_array("0", data=grey, chunks=(12, 15))
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        steps = [{"type": "scale", "scale": [0.5, 0.5]}]
        scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
        told = {"multiscales": scales}
        group.attrs.update(told if version == 2 else {"ome": {"version": "0.5", **told}})
    system = {"name": "own", "axes": axes}
    step = {"type": "sequence", "transformations": steps, "output": {"name": "own"}}
    scales = [
        {"coordinateSystems": [system], "datasets": [{"path": "0", "coordinateTransformations": [step]}]}
    ]
    group = zarr.open_group(folder / "v06.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=grey, chunks=(12, 15))
    group.attrs["ome"] = {"version": "0.6", "multiscales": scales}
    plate = zarr.open_group(folder / "plate.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}]}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}]}
    well.create_group("0").attrs.update(told)
    well["0"].create_array("0", data=grey)


def _write_vendors(folder: Path) -> None:
    """Write files of vendors whose packages are installed."""
    for name, (package, draw) in drawn_vendors.OF_VENDORS.items():
        if find_spec(package) is not None:
            (folder / name).parent.mkdir(exist_ok=True)
            draw(folder / name)


def _write_companion(folder: Path, grey: Any) -> Sample:
    folder.mkdir()
    blocks = ""
    for z in range(2):
        tifffile.imwrite(folder / f"{z}.tif", grey, metadata=None)
        blocks += f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="{z}.tif">urn:uuid:{z}</UUID></TiffData>'
    xml = OME.format(blocks)
    (folder / "a.companion.ome").write_text(xml)
    own = xml.replace("<OME ", '<OME UUID="urn:uuid:0" ')
    tifffile.imwrite(folder / "0.tif", grey, description=own, metadata=None)
    return Sample(folder, "companion", partial(read_parts, "*.companion.ome"))


def _write_annotations(folder: Path, labels: Any) -> list[Sample]:
    folder.mkdir()
    drawn = ImageAnnotation("a", labels.shape, labels=labels, classes=np.array([0, 1], np.int16),
                            class_names=("x", "y"), pixel_size_um=(0.5, 0.5))  # fmt: skip
    moving = ImageAnnotation("a", (2, *labels.shape), "TYX", labels=np.stack([labels, labels[::-1]]))
    samples = []
    for name, one in FORMATS.items():
        cells = drawn
        if name.startswith("tracking"):
            cells = moving
        path = folder / f"{name}{(*one.extensions, '')[0]}"
        one.write(path, [cells])
        samples.append(Sample(path, one.module, read_all if name == "ome-tiff" else read_as_cells))
    with zipfile.ZipFile(folder / "imagej-roi.zip") as archive:  # its entries, whose checksums guard them
        for number, entry in enumerate(archive.namelist()):
            path = folder / f"{number}.roi"
            path.write_bytes(archive.read(entry))
            samples.append(Sample(path, "imagej_roi", read_as_cells))
    for name, text in {"voc": VOC, "cvat": CVAT, "trackmate": TRACKMATE}.items():
        (folder / f"{name}.xml").write_text(text)
        samples.append(Sample(folder / f"{name}.xml", name, read_as_cells))
    region = {
        "shape_attributes": {"name": "circle", "cx": 9, "cy": 9, "r": 4},
        "region_attributes": {"k": "x"},
    }
    (folder / "via.json").write_text(json.dumps({"a": {"filename": "a.png", "regions": [region]}}))
    (folder / "via 3.json").write_text(json.dumps(VIA_3))
    samples += _write_variants(folder, region, labels)
    overlay = {"Overlays": [(folder / "0.roi").read_bytes()]}
    tifffile.imwrite(folder / "overlay.tif", labels.astype(np.uint8), imagej=True, metadata=overlay)
    return [*samples, Sample(folder / "overlay.tif", "imagej_roi", read_as_cells)]


def _write_variants(folder: Path, region: dict[str, Any], labels: Any) -> list[Sample]:
    """Write annotations as programs write them beside the usual files of their format."""
    line = (json.dumps(region[key]).replace('"', '""') for key in region)
    (folder / "via.csv").write_text(
        '#filename,region_shape_attributes,region_attributes\na.png,"{}","{}"\n'.format(*line)
    )
    samples = [Sample(folder / name, "via", read_as_cells) for name in ("via.json", "via 3.json", "via.csv")]
    (folder / "a_cp_outlines.txt").write_text("2,3,12,3,12,13,2,13\n20,20,25,20,25,25\n")
    samples.append(Sample(folder / "a_cp_outlines.txt", "cellpose_seg", read_as_cells))
    (folder / "utf16.xml").write_text(VOC, encoding="utf-16")
    samples.append(Sample(folder / "utf16.xml", "voc", read_as_cells))
    shown = Picture.fromarray(labels.astype(np.uint8), "P")
    shown.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    shown.save(folder / "palette.png")
    samples.append(Sample(folder / "palette.png", "label_image", read_as_cells))
    return samples


def _write_own(folder: Path, cells: Path, grey: Any, labels: Any) -> list[Sample]:
    """Write what cellwright itself reads again: regions, settings, journals, models, datasets."""
    from cellwright.inference.recipe import Recipe, save_recipe
    from cellwright.models import store

    folder.mkdir()
    for name in ("imagej-roi.zip", "geojson.geojson", "ome-tiff.ome.tif"):
        shutil.copyfile(cells / name, folder / f"region {name}")
    samples = [Sample(path, "regions", read_as_region) for path in sorted(folder.iterdir())]
    save_recipe(folder / "settings.json", Recipe(models=("density",)))
    samples.append(Sample(folder / "settings.json", "settings", read_as_settings))
    session = AnnotationSession(Image(grey, "YX"), labels, journal=folder / "a.journal")
    session.delete(1)
    session.set_reviewed(2)
    session.close()
    samples.append(Sample(folder / "a.journal", "journal", read_as_journal, mutated_records))
    for kind, name in (("model", "density"), ("classifier", "blood")):
        shutil.copytree(store.shipped_folder() / name, folder / kind)
        for file in (folder / kind).glob("*.json"):  # no checksum, so that damage goes deep
            values = json.loads(file.read_text())
            if "weights_sha256" in values and file.name != "fit.json":
                file.write_text(json.dumps({**values, "weights_sha256": ""}))
        samples.append(Sample(folder / kind, kind, read_as_model))
    return [*samples, *_write_datasets(folder, grey, labels)]


def _write_datasets(folder: Path, grey: Any, labels: Any) -> list[Sample]:
    for name in ("images", "masks"):
        (folder / "dataset" / name).mkdir(parents=True)
    for name in "ab":
        tifffile.imwrite(folder / "dataset" / "images" / f"{name}.tif", grey)
        tifffile.imwrite(folder / "dataset" / "masks" / f"{name}.tif", labels)
    shutil.copytree(folder / "dataset", folder / "pairs")
    item = {"group": "x", "regions": [[[0, 0], [24, 30]]], "pixel_size_um": [0.5, 0.5]}
    meta = {"split": {"train": ["a"], "val": ["b"]}, "classes": ["x"], "items": {"a": item}}
    (folder / "dataset" / "meta.json").write_text(json.dumps(meta))
    (folder / "boxes" / "boxes").mkdir(parents=True)
    shutil.copytree(folder / "dataset" / "images", folder / "boxes" / "images")
    (folder / "boxes" / "meta.json").write_text(json.dumps({"split": {"train": ["a"]}}))
    (folder / "boxes" / "boxes" / "a.csv").write_text("xmin,ymin,xmax,ymax,class\n1,1,9,9,x\n")
    return [Sample(folder / name, "dataset", read_as_dataset) for name in ("dataset", "pairs", "boxes")]


def damaged(sample: Sample, target: Path, rng: Rng) -> None:
    """Write a damaged copy of a file, or of a folder in which one file is damaged."""
    if sample.path.is_file():
        target.write_bytes(sample.damage(sample.path.read_bytes(), rng))
        return
    shutil.copytree(sample.path, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    one = files[int(rng.integers(0, len(files)))]
    one.write_bytes(sample.damage(one.read_bytes(), rng))


@dataclass(slots=True)
class Search:
    """Reads damaged files, one after the other, and remembers what went wrong."""

    samples: Sequence[Sample]
    seed: int = 0
    keep_in: Path | None = None
    tallies: dict[str, Tally] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def run(self, rounds: Iterator[int]) -> None:
        """Damage and read one file for each number."""
        logging.disable(logging.CRITICAL)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number in rounds:
                sample = self.samples[number % len(self.samples)]
                target = Path(folder) / f"{number}{sample.path.name}"
                damaged(sample, target, np.random.default_rng([self.seed, number]))
                fault = self._read(sample, target)
                if fault:
                    self.wrong.append(f"{sample.name} seed {self.seed} round {number}: {fault}")
                    self._keep(target)
                shutil.rmtree(target, ignore_errors=True)
                target.unlink(missing_ok=True)
            gc.collect()  # what tifffile leaves open of a damaged set, while nobody is warned
        logging.disable(logging.NOTSET)

    def run_for(self, seconds: float) -> float:
        """Damage and read files, one at least, for so many processor seconds; return how many it took."""
        start = seconds_taken()
        with suppress(KeyboardInterrupt):
            self.run(takewhile(lambda n: n == 0 or seconds_taken() < start + seconds, count()))
        return seconds_taken() - start

    def lines(self) -> list[str]:
        """Return what was found, a line for each kind of file, and all in one line."""
        lines = [*self.wrong, f"{'kind':32} {'files':>7} {'faults':>6} {'most s':>7} {'MiB':>5}"]
        for name, one in self.tallies.items():
            lines.append(
                f"{name:32} {one.n_files:7} {one.n_faults:6} {one.most_seconds:7.2f} {one.most_mib:5}"
            )
        n_files = sum(one.n_files for one in self.tallies.values())
        readers = ", ".join(dict.fromkeys(one.reader for one in self.samples))
        what = f"{n_files} files for {readers} under seed {self.seed}"
        return [*lines, f"{what}, {len(self.wrong)} faults"]

    def _read(self, sample: Sample, target: Path) -> str:
        """Return what goes wrong with one file, if anything does."""
        tally = self.tallies.setdefault(sample.name, Tally())
        fault = ""
        forget_peak()
        start, of_others = seconds_taken(), peak_mib_of_others()
        signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)  # then the stack is shown
        try:
            sample.read(target)
        except MemoryError:
            fault = "memory"
        except KeyboardInterrupt:
            if seconds_taken() - start < MOST_SECONDS:
                raise
            fault = "stopped"
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            fault = f"{str(error)[:200]!r} ({type(error).__name__}) in {place.filename}:{place.lineno}"
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seconds, mib = seconds_taken() - start, peak_mib()
        if peak_mib_of_others() > of_others:
            mib = max(mib, peak_mib_of_others())
        if seconds > MOST_SECONDS or mib > MOST_MIB:
            fault += f" took {seconds:.0f} s and {mib} MiB"
        tally.n_files += 1
        tally.n_faults += bool(fault)
        tally.most_seconds = max(tally.most_seconds, seconds)
        tally.most_mib = max(tally.most_mib, mib)
        return fault

    def _keep(self, target: Path) -> None:
        if self.keep_in is None:
            return
        self.keep_in.mkdir(exist_ok=True)
        kept = self.keep_in / f"{self.seed}_{target.name}"
        if target.is_dir():
            shutil.copytree(target, kept, dirs_exist_ok=True)
        else:
            shutil.copyfile(target, kept)


def seconds_taken() -> float:
    """Return the seconds of the processor that this program and those it has run took."""
    return sum(os.times()[:4])


def peak_mib_of_others() -> int:
    """Return the most memory that a program had which this one has run."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10


def forget_peak() -> None:
    """Let the peak of memory begin anew, where the system can."""
    if sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return


def peak_mib() -> int:
    """Return the most memory this program has had, since it was forgotten."""
    if sys.platform != "linux":
        return 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) >> 10
    return 0


def search_in_want(samples: Sequence[Sample], seconds: float, seed: int | None, path: Path) -> Search:
    """Search the reader that a ledger has the fewest seconds of since its last fault, and note that there."""
    ledger: Ledger = {}
    if path.exists():
        ledger = json.loads(path.read_text())
    reader = min((one.reader for one in samples), key=partial(_clean_seconds, ledger))
    before = ledger.get(reader, {})
    if seed is None:
        seed = before.get("searches", 0)
    search = Search([one for one in samples if one.reader == reader], seed, FINDINGS)
    taken = search.run_for(seconds)
    tallies = search.tallies.values()
    ledger[reader] = {
        "seconds": round(before.get("seconds", 0) + taken, 3),
        "seconds_since_fault": round(_clean_seconds(ledger, reader) + taken, 3) * (not search.wrong),
        "files": before.get("files", 0) + sum(tally.n_files for tally in tallies),
        "faults": before.get("faults", 0) + len(search.wrong),
        "searches": before.get("searches", 0) + 1,
        "most_seconds": max([before.get("most_seconds", 0), *(round(t.most_seconds, 2) for t in tallies)]),
        "most_mib": max([before.get("most_mib", 0), *(tally.most_mib for tally in tallies)]),
        "found": [*before.get("found", ()), *search.wrong],
    }
    with atomic_write(path) as part:
        part.write_text(json.dumps(ledger, indent=1))
    return search


def _clean_seconds(ledger: Ledger, reader: str) -> float:
    return float(ledger.get(reader, {}).get("seconds_since_fault", 0))


def main() -> None:
    """Search for as many seconds as asked."""
    import faulthandler
    import resource

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--readers", nargs="*", default=(), help="all without it")
    parser.add_argument("--files", nargs="*", type=Path, default=(), help="whole files to damage besides")
    parser.add_argument("--ledger", type=Path, help="JSON of what every reader was searched for")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was searched before a limit counts
    faulthandler.register(signal.SIGVTALRM, all_threads=False, chain=False)
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    with tempfile.TemporaryDirectory() as folder:
        samples = [*write_corpus(Path(folder)), *map(image_sample, asked.files)]
        samples = [one for one in samples if not asked.readers or one.reader in asked.readers]
        if asked.ledger:
            search = search_in_want(samples, asked.seconds, asked.seed, asked.ledger)
        else:
            search = Search(samples, asked.seed or 0, FINDINGS)
            search.run_for(asked.seconds)
    sys.stdout.write("\n".join(search.lines()) + "\n")
    sys.exit(bool(search.wrong))


if __name__ == "__main__":
    main()
