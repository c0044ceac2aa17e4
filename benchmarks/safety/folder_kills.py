"""A folder of 200 small images whose count is killed (kill -9) 20 times at random moments, then finished.

``python -m benchmarks.safety.folder_kills [KILLS] [IMAGES] [SEED]`` compares with an undisturbed run: tables,
labels, and that no image that was done has been counted again.
"""

import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas
import tifffile

from cellwright.files.images import read_image

SAMPLE = Path(__file__).parents[2] / "sample_data" / "nuclei_2d.tif"
SIDE_PX = 96
COMMAND = (sys.executable, "-m", "cellwright", "count")


def make_images(folder: Path, n: int, rng: np.random.Generator) -> None:
    """Cut ``n`` small images out of the sample, in two folders."""
    pixels = read_image(SAMPLE).read()
    for index in range(n):
        y, x = (int(rng.integers(0, side - SIDE_PX)) for side in pixels.shape)
        path = folder / f"row {index % 2}" / f"{index:03d}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pixels[y : y + SIDE_PX, x : x + SIDE_PX])


def start(images: Path, output: Path) -> "subprocess.Popen[bytes]":
    """Start to count the images."""
    return subprocess.Popen(
        [*COMMAND, str(images), "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def marks(output: Path) -> dict[str, int]:
    """Return the time at which each image that is done was."""
    kept = output / ".cellwright"
    return {str(path.relative_to(kept)): path.stat().st_mtime_ns for path in kept.rglob("*.json")}


def results(output: Path) -> dict[str, Any]:
    """Return what must be the same in two runs: tables without times, and the content of all labels."""
    summary = pandas.read_csv(output / "summary.csv").drop(columns="seconds")
    cells = pandas.read_parquet(output / "cells.parquet")
    labels = {
        str(path.relative_to(output)): sha256(tifffile.imread(path).tobytes()).hexdigest()
        for path in sorted(output.rglob("*.labels.tif"))
    }
    return {"summary": summary.to_csv(), "cells": cells.to_csv(), "labels": labels}


class KilledRuns:
    """Counts the images of a folder and is killed on the way; notes what was done before each kill."""

    def __init__(self, images: Path, output: Path) -> None:
        self.images, self.output = images, output
        self.n_repeated = 0
        self._done: dict[str, int] = {}

    def run(self, n_wanted: int = 0, seconds: float = 0.0) -> int:
        """Let it count until so many images are done and some seconds more, then kill it; 0: until its end.

        Returns how many images are done.
        """
        process = start(self.images, self.output)
        while n_wanted and process.poll() is None and len(marks(self.output)) < n_wanted:
            time.sleep(0.01)
        if n_wanted:
            time.sleep(seconds)
            process.kill()
        process.wait()
        now = marks(self.output)
        self.n_repeated += sum(now[image] != at for image, at in self._done.items())
        self._done = now
        return len(now)


def main(n_kills: int = 20, n_images: int = 200, seed: int = 1) -> None:
    """Print how the killed runs went, and whether they gave the same."""
    rng = np.random.default_rng(seed)
    with TemporaryDirectory() as name:
        root = Path(name)
        make_images(root / "images", n_images, rng)
        began = time.monotonic()
        start(root / "images", root / "whole").wait()
        seconds = time.monotonic() - began
        times = sorted(marks(root / "whole").values())
        working = (times[-1] - times[0]) / 1e9
        print(f"undisturbed: {len(times)} images, {seconds:.1f} s, {working:.1f} s of it counting")
        killed = KilledRuns(root / "images", root / "killed")
        for number in range(n_kills):
            n_wanted, delay = (number + 1) * n_images // (n_kills + 1), rng.uniform(0.0, working / n_images)
            n_done = killed.run(n_wanted, delay)
            print(f"kill {number + 1:2d}: {n_done:3d} images done, then {delay:.2f} s", flush=True)
        print(f"then finished: {killed.run()} images done")
        whole, other = results(root / "whole"), results(root / "killed")
        for part, expected in whole.items():
            print(f"{part}: {'same' if other[part] == expected else 'DIFFERENT'}")
        names = pandas.read_csv(root / "killed" / "summary.csv")["image"]
        print(f"images that are twice in the table: {int(names.duplicated().sum())}")
        print(f"images that were done and counted again: {killed.n_repeated}")
        print(f"temporary files left: {len(list((root / 'killed').rglob('*.part')))}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
