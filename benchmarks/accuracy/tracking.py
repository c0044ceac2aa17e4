"""How well cells are linked over time, given true masks: F1 of the links, divisions among them.

    python -m benchmarks.accuracy.tracking --data FOLDER

FOLDER has usiigaci_timelapse. One JSON object is printed for each data set. A link is a step of a track from
one frame in which it is seen to the next, or from a mother to a daughter.
"""

import argparse
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.files.images import read_image
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.settings import TrackSettings
from cellwright.ops.measure.tracks import Tracks, track_cells

Links = set[tuple[int, int]]


def links_of(frames: NDArray[np.int64], numbers: NDArray[np.integer], parents: Mapping[int, int]) -> Links:
    """Return all links as pairs of rows."""
    rows: dict[int, list[int]] = {}
    for row in np.lexsort((frames, numbers)).tolist():
        rows.setdefault(int(numbers[row]), []).append(row)
    found = {pair for own in rows.values() for pair in pairwise(own)}
    return found | {(rows[parent][-1], rows[track][0]) for track, parent in parents.items() if parent}


def score(
    labels: NDArray[np.int32], parents: Mapping[int, int], settings: TrackSettings
) -> tuple[float, Tracks]:
    """Return the F1 of the links in labels whose number is that of the true track."""
    result, numbers = result_of_labels(labels, Image(labels, "TYX"))
    tracks = track_cells(result.cells, "TYX", settings)
    truth = links_of(tracks.frames, numbers, parents)
    found = links_of(tracks.frames, tracks.numbers, dict(enumerate(tracks.parents.tolist(), start=1)))
    return 2 * len(truth & found) / (len(truth) + len(found)), tracks


def disc(frame: NDArray[np.int32], centre: NDArray[np.float64], radius: float, number: int) -> None:
    y, x = np.ogrid[: frame.shape[0], : frame.shape[1]]
    frame[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = number


def simulate(rng: np.random.Generator, n_frames: int = 20, n_cells: int = 60, n_dividing: int = 20):
    """Return labels of cells that wander and divide, and the parent of each track."""
    side = 620
    labels = np.zeros((n_frames, side, side), np.int32)
    parents: dict[int, int] = {}
    waiting = []
    for number in range(1, n_cells + 1):
        row, column = divmod(number - 1, 8)
        place = np.array([row, column]) * 76.0 + 40 + rng.uniform(-16, 16, 2)
        waiting.append((number, 0, place, 10.0, number <= n_dividing))
        parents[number] = 0
    following = n_cells + 1
    while waiting:
        number, first, place, radius, divides = waiting.pop()
        last = int(rng.integers(first + 4, n_frames - 4)) if divides else n_frames
        drift = rng.normal(0, 1.2, 2)
        for frame in range(first, last):
            disc(labels[frame], place, radius, number)
            place = place + drift + rng.normal(0, 0.8, 2)
        if divides:
            angle = rng.uniform(0, np.pi)
            axis = np.array([np.sin(angle), np.cos(angle)]) * 8
            for sign in (-1, 1):
                parents[following] = number
                waiting.append((following, last, place + sign * axis, 7.0, False))
                following += 1
    seen = set(np.unique(labels).tolist())
    return labels, {track: parent for track, parent in parents.items() if track in seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="Folder with usiigaci_timelapse; without it only simulations."
    )
    parser.add_argument("--movies", type=int, default=10, help="Simulated movies.")
    data = parser.parse_args()
    settings = TrackSettings()
    if data.data is not None:
        files = sorted((data.data / "usiigaci_timelapse" / "masks").glob("*.tif"))
        labels = np.stack([np.asarray(read_image(file).data, np.int32) for file in files])
        f1, tracks = score(labels, {}, settings)
        print(json.dumps({"data": "usiigaci_timelapse", "link_f1": round(f1, 4), "tracks": tracks.count}))
    scores, n_divisions = [], 0
    for seed in range(data.movies):
        labels, parents = simulate(np.random.default_rng(seed))
        f1, tracks = score(labels, parents, settings)
        scores.append(f1)
        n_divisions += tracks.n_divisions
    print(
        json.dumps(
            {
                "data": f"{data.movies} simulated movies, 20 divisions each",
                "link_f1": round(float(np.mean(scores)), 4),
                "least": round(min(scores), 4),
                "divisions": n_divisions,
            }
        )
    )


if __name__ == "__main__":
    main()
