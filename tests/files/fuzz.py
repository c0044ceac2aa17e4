"""Damaged files for every reader: what is read is an answer, or an error of ours, soon and in little memory.

``python tests/files/fuzz.py SECONDS [SEED]`` looks for others for so long and keeps what it finds in
``fuzz_findings``.
"""

import io
import json
import logging
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from PIL import Image as Picture

from cellwright.core.errors import CellwrightError
from cellwright.files.formats.image_annotation import ImageAnnotation
from cellwright.files.formats.registry import FORMATS, recognise
from cellwright.files.images import read_images

MOST_SECONDS = 20.0
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
]
Rng = np.random.Generator


def write_corpus(folder: Path) -> list[Path]:
    """Write a small whole file of every kind and return their paths."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (24, 30)).astype(np.uint8)
    rgb = rng.integers(0, 255, (24, 30, 3)).astype(np.uint8)
    tiffs: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain.tif": (grey, {}),
        "zlib.tif": (grey, {"compression": "zlib", "predictor": True}),
        "lzw.tif": (grey, {"compression": "lzw", "metadata": None}),
        "jpeg.tif": (rgb, {"compression": "jpeg", "photometric": "rgb"}),
        "tiles.tif": (grey, {"tile": (16, 16), "bigtiff": True}),
        "planar.tif": (np.moveaxis(rgb, -1, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        "imagej.tif": (np.stack([grey] * 4), {"imagej": True, "metadata": {"axes": "ZYX", "unit": "um"}}),
        "ome.ome.tif": (
            np.stack([grey] * 4),
            {"ome": True, "metadata": {"axes": "CYX", "PhysicalSizeX": 0.5}},
        ),
        "palette.tif": (
            grey,
            {"photometric": "palette", "colormap": rng.integers(0, 65535, (3, 256)).astype(np.uint16)},
        ),
    }
    for name, (data, options) in tiffs.items():
        tifffile.imwrite(folder / name, data, **options)
    for name in ("a.png", "a.jpg", "a.bmp"):
        Picture.fromarray(rgb).save(folder / name)
    frames = [Picture.fromarray(grey), Picture.fromarray(grey[::-1])]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    np.save(folder / "a.npy", grey)
    _write_stores(folder, grey)
    labels = np.zeros((24, 30), np.int32)
    labels[2:9, 3:9], labels[10:20, 12:25] = 1, 2
    labels[12:14, 15:17] = 0
    drawn = ImageAnnotation("a", labels.shape, labels=labels, classes=np.array([0, 1], np.int16),
                            class_names=("x", "y"), pixel_size_um=(0.5, 0.5))  # fmt: skip
    for name, one in FORMATS.items():
        if one.is_folder or name == "ome-tiff":
            continue
        one.write(folder / f"{name}{one.extensions[0]}", [drawn])
    (folder / "voc.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>30</width><height>24</height></size><object><name>x"
        "</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
    )
    mask = '<mask label="x" rle="1,5" left="2" top="2" width="3" height="2"/>'
    (folder / "cvat.xml").write_text(
        '<annotations><image id="0" name="a.png" width="30" height="24">'
        f'<polygon label="x" points="1,1;9,1;9,9"/>{mask}</image></annotations>'
    )
    region = {
        "shape_attributes": {"name": "circle", "cx": 9, "cy": 9, "r": 4},
        "region_attributes": {"k": "x"},
    }
    (folder / "via.json").write_text(json.dumps({"a": {"filename": "a.png", "regions": [region]}}))
    return sorted(folder.iterdir())


def _write_stores(folder: Path, grey: Any) -> None:
    for version in (2, 3):
        group = zarr.open_group(folder / f"v{version}.zarr", mode="w", zarr_format=version)
        group.create_array("0", data=grey, chunks=(12, 15))
        axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
        steps = [{"type": "scale", "scale": [0.5, 0.5]}]
        told = {
            "multiscales": [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
        }
        group.attrs.update(told if version == 2 else {"ome": {"version": "0.5", **told}})


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


def read_all(path: Path) -> None:
    """Read a file as an image and as annotations, pixels and all."""
    readers: tuple[Callable[[], Any], ...] = (
        lambda: [image.read() for image in read_images(path)],
        lambda: recognise(path).read(path),
    )
    for read in readers:
        try:
            read()
        except CellwrightError:
            continue


def damaged(source: Path, target: Path, rng: Rng) -> None:
    """Write a damaged copy of a file, or of a store in which one file is damaged."""
    if source.is_file():
        target.write_bytes(mutated(source.read_bytes(), rng))
        return
    shutil.copytree(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    one = files[int(rng.integers(0, len(files)))]
    one.write_bytes(mutated(one.read_bytes(), rng))


def search(paths: list[Path], rounds: Iterator[int], *, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Return how many files of each kind were tried, and what went wrong."""
    tried: Counter[str] = Counter()
    wrong: list[str] = []
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in rounds:
            source = paths[number % len(paths)]
            target = Path(folder) / f"{number}{source.name}"
            damaged(source, target, np.random.default_rng([seed, number]))
            start = time.monotonic()
            signal.alarm(int(MOST_SECONDS))  # then the stack is shown
            try:
                read_all(target)
            except MemoryError:
                wrong.append(f"{source.name} seed {seed} round {number}: memory")
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                place = traceback.extract_tb(error.__traceback__)[-1]
                wrong.append(
                    f"{source.name} seed {seed} round {number}: {error!r} in {place.filename}:{place.lineno}"
                )
            signal.alarm(0)
            if time.monotonic() - start > MOST_SECONDS:
                wrong.append(
                    f"{source.name} seed {seed} round {number}: took {time.monotonic() - start:.0f} s"
                )
            tried[source.name] += 1
            shutil.rmtree(target, ignore_errors=True)
            target.unlink(missing_ok=True)
    logging.disable(logging.NOTSET)
    return tried, wrong


def _until(end: float) -> Iterator[int]:
    number = 0
    while time.monotonic() < end:
        yield number
        number += 1


def main() -> None:
    """Search for as many seconds as asked."""
    import faulthandler
    import resource

    faulthandler.register(signal.SIGALRM, all_threads=False, chain=False)
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    seconds, seed = float(sys.argv[1]), int((*sys.argv[2:], "0")[0])
    with tempfile.TemporaryDirectory() as folder:
        paths = write_corpus(Path(folder))
        tried, wrong = search(paths, _until(time.monotonic() + seconds), seed=seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    report = io.StringIO()
    print(
        f"{sum(tried.values())} files of {len(tried)} kinds, {len(wrong)} faults, peak {peak} MiB",
        file=report,
    )
    for line in wrong:
        print(line, file=report)
    sys.stdout.write(report.getvalue())
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
