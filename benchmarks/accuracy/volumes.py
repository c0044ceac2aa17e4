"""Cells in volumes: choose how slices are linked, measure models in 3D, draw what pseudocolor sees.

    python -m benchmarks.accuracy.volumes choose MODEL --data FOLDER
    python -m benchmarks.accuracy.volumes measure MODEL [MODEL ...] --data FOLDER
    python -m benchmarks.accuracy.volumes picture docs/pseudocolor.png

FOLDER holds the training folder bbbc050. Embryos 1 to 7 decide how slices are linked; they are those that
``tools.release.train_pseudocolor`` trains on. Embryos 8 to 11 are only measured.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from tools.command_line import command_line
from tools.release.draw_samples import NUCLEI_3D
from tools.release.kinds import reported
from tools.release.train_shipped import EMBRYOS

from benchmarks.measure import print_table
from cellwright.core.data import Cells, Labels
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.ops.codecs.pseudocolor import bright, coloured
from cellwright.ops.geometry.intensity import unit_range
from cellwright.ops.link import LinkSettings, link_cells
from cellwright.ops.matching import Match, continuity, match_labels, seg_scores
from cellwright.ops.simulation.simulate import simulate


class VolumeCount(NamedTuple):
    """A volume counted slice by slice, and the truth about it."""

    name: str
    cells: Cells
    truth: Labels
    pixel_size_um: tuple[float, ...]


def count_slices(dataset: Dataset, model: CellModel, settings: Any, device: str) -> list[VolumeCount]:
    """Return the outlines in every slice of every volume, not linked yet."""
    engine = EngineSettings(device=device, link=False)
    counted = []
    for item in dataset.items:
        image, truth = item.read()
        cells = run(count_cells(image, model, settings, engine)).cells
        counted.append(VolumeCount(item.name, cells, truth, image.pixel_size_um))
    return counted


@dataclass(frozen=True)
class Scores:
    """How well volumes were counted; ``f1`` and ``seg`` are means over volumes, pooled ones over cells."""

    matches: Sequence[Match]
    seg_of_cells: Sequence[NDArray[np.float64]]
    held: int  # steps to the next slice in which a true cell keeps the id it is covered by
    steps: int

    @property
    def row(self) -> list[float]:
        """F1, SEG, F1 and SEG of all cells together, share of steps that keep their id."""
        found = sum(match.true_positives for match in self.matches)
        total = sum(match.n_true + match.n_predicted for match in self.matches)
        f1 = float(np.mean([match.f1 for match in self.matches]))
        seg = float(np.mean([cells.mean() for cells in self.seg_of_cells]))
        pooled = float(np.concatenate(self.seg_of_cells).mean())
        return [f1, seg, 2 * found / total, pooled, self.held / max(self.steps, 1)]


HEAD = ["F1", "SEG", "F1 of all cells", "SEG of all cells", "ids that go on"]


def score(counted: Iterable[VolumeCount], settings: LinkSettings) -> Scores:
    """Return how well the linked outlines match the truth at 3D IoU 0.5."""
    matches, seg, held, steps = [], [], 0, 0
    for _, cells, truth, pixel_size_um in counted:
        labels = link_cells(cells, "ZYX", settings, pixel_size_um).labels
        matches.append(match_labels(labels, truth, 0.5))
        seg.append(seg_scores(labels, truth))
        kept, all_steps = continuity(labels, truth)
        held, steps = held + kept, steps + all_steps
    return Scores(matches, seg, held, steps)


def choose(options: argparse.Namespace) -> None:
    """Print the scores of many settings on the embryos that were trained on, best first."""
    model = load_checkpoint(options.model)
    kind = registry.get(model.spec.family).settings
    rows = []
    target = read_dataset(options.data / "bbbc050").select("train", names=EMBRYOS)
    for probability in (0.3, 0.4, 0.5, 0.6):
        counted = count_slices(target, model, kind(cell_probability=probability), options.device)
        for max_gap, waist, min_slices in product((1, 2), (0.8, 0.87, 0.9), (2, 3)):
            settings = LinkSettings(max_gap, waist, min_slices)
            rows.append([probability, max_gap, waist, min_slices, *score(counted, settings).row])
    rows.sort(key=lambda row: -(row[6] + row[7]))
    print_table(["probability", "gap", "waist", "slices", *HEAD], rows[:20])


def measure(options: argparse.Namespace) -> None:
    """Print the scores of each model on the embryos that were never trained on."""
    rows, volumes = [], []
    for folder in options.models:
        model = load_checkpoint(folder)
        settings = registry.get(model.spec.family).settings()
        counted = count_slices(reported("bbbc050", options.data), model, settings, options.device)
        scores = score(counted, model.linking(settings))
        rows.append([folder.name, *scores.row])
        for one, match, seg in zip(counted, scores.matches, scores.seg_of_cells, strict=True):
            row = [folder.name, one.name, match.n_true, match.n_predicted, match.f1, float(seg.mean())]
            volumes.append(row)
    print_table(["model", *HEAD], rows)
    print()
    print_table(["model", "volume", "true", "found", "F1", "SEG"], volumes)


def draw(options: argparse.Namespace) -> None:
    """Draw three slices, where the neighbours are bright, and the coloured middle one."""
    style = replace(NUCLEI_3D, z_step=6.0)
    drawn = simulate("fluorescence", (9, 160, 160), np.random.default_rng(4), style=style)
    before, middle, after = drawn.image[3:6]
    black = np.zeros((160, 160), np.float32)
    panels = [np.stack([unit_range(one)] * 3) for one in (before, middle, after)]
    panels.append(np.stack([bright(before), black, bright(after)]).astype(np.float32))
    panels.append(coloured([bright(before), bright(after)], middle, None))
    framed = [np.pad(panel, ((0, 0), (4, 4), (4, 4)), constant_values=1.0) for panel in panels]
    pixels = (255 * np.concatenate(framed, axis=2).transpose(1, 2, 0)).round().astype(np.uint8)
    Picture.fromarray(pixels).save(options.file, optimize=True)


def main() -> None:
    """Do what the command line asks."""
    parser = command_line(__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("choose")
    one.add_argument("model", type=Path)
    one.set_defaults(do=choose)
    one = commands.add_parser("measure")
    one.add_argument("models", type=Path, nargs="+")
    one.set_defaults(do=measure)
    for one in commands.choices.values():
        one.add_argument("--data", type=Path, required=True)
        one.add_argument("--device", default="auto")
    one = commands.add_parser("picture")
    one.add_argument("file", type=Path)
    one.set_defaults(do=draw)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
