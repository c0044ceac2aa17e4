"""Nuclei and membranes in two channels: whole cells found in one channel, and in both together.

    python -m benchmarks.accuracy.channels --model flow --images 8

The cells are simulated: sheets, spread and round cells about 30 pixels across, their nuclei in one channel
and membranes with a little cytoplasm in the other, which is some ten times dimmer, with photon noise in
both. The table has the F1 at an IoU of 0.5 with the true whole cells, all images together.
"""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
from tools.release.bodies import Bodies, bodies_of
from tools.release.views import nuclei_in

from cellwright import EngineSettings, count
from cellwright.core.data import Image
from cellwright.ops.matching import Match, match_labels

SHAPES = ("sheet", "spread", "discs")
SIDE_PX, WIDTH_PX = 256, 30
WAYS: Mapping[str, dict[str, Any]] = {
    "nuclei alone": {"channel": 0},
    "membranes alone": {"channel": 1},
    "maximum": {"channels": (0, 1), "combine": "maximum"},
    "mean": {"channels": (0, 1), "combine": "mean"},
    "colours, nuclei red": {"channels": (0, 1), "combine": "colours"},
    "colours, membranes red": {"channels": (1, 0), "combine": "colours"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="flow")
    parser.add_argument("--images", type=int, default=8, help="of each shape")
    arguments = parser.parse_args()
    print("| way | " + " | ".join(SHAPES) + " | all |")
    print("|---" * (len(SHAPES) + 2) + "|")
    drawn = {shape: [stained(shape, seed) for seed in range(arguments.images)] for shape in SHAPES}
    for way, channels in WAYS.items():
        engine = EngineSettings(device="cpu", **channels)
        scores, every = [], []
        for shape in SHAPES:
            matches = [
                match_labels(count(image, arguments.model, engine=engine).cells.labels, truth)
                for image, truth in drawn[shape]
            ]
            every += matches
            scores.append(f1_of(matches))
        row = " | ".join(f"{score:.3f}" for score in [*scores, f1_of(every)])
        print(f"| {way} | {row} |", flush=True)


def f1_of(matches: list[Match]) -> float:
    """Return 2 TP / (2 TP + FP + FN) of all images together."""
    found = sum(one.true_positives for one in matches)
    return 2 * found / max(sum(one.n_predicted + one.n_true for one in matches), 1)


def stained(shape: str, seed: int) -> tuple[Image, Any]:
    """Return an image (C, Y, X) of nuclei and membranes, and the labels of its whole cells."""
    rng = np.random.default_rng(seed)
    cells: Bodies = bodies_of(shape, (SIDE_PX, SIDE_PX), WIDTH_PX, rng)
    inside = cells.labels > 0
    nuclei = nuclei_in(cells, rng)
    membrane = np.exp(-cells.depth / rng.uniform(1.0, 2.5)) * inside + rng.uniform(0.0, 0.3) * inside
    light = np.stack([nuclei * 400, membrane * 20 * rng.uniform(1, 3)]) + np.array([20, 2])[:, None, None]
    return Image(rng.poisson(light).astype(np.uint16), "CYX", name=f"{shape} {seed}"), cells.labels


if __name__ == "__main__":
    main()
