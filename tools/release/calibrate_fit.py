"""Find out how well a model can tell how well it does, and write that beside its weights as fit.json.

    python -m tools.release.calibrate_fit --data FOLDER --model flow

Images that promise little are tried enlarged where --closer-below says so. What they promise is known once
there is a fit.json for these weights: run it twice after new weights.

What is told is the F1 (of points a hit is one in a cell); of a density how near the count is, the smaller of
the true and the counted number over the larger. The regression is fitted to images that are not reported:
those learned from or chosen by, as they are and spoilt (each in one of the ways of ``tools.release.changes``)
and the pictures of ``tools.release.pictures``. Reported are the images of ``kinds.reported``, those that are
spoilt, and the pictures: once as the written file tells, and once with their kind left out of the fit.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cellwright.core.data import Image, Labels, Result
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item
from cellwright.inference.pipeline import count_cells
from cellwright.models import store
from cellwright.models.fit import FACTS, FitCalibration, write_fit
from cellwright.models.protocol import CellModel
from cellwright.ops.labels import relabel
from cellwright.ops.matching import match_labels, points_in_cells, ranking_quality
from tools.command_line import command_line
from tools.release.changes import CHANGES, known_of
from tools.release.kinds import KINDS, Kind, chosen_by, learned, reported
from tools.release.pictures import pictures

DOUBTED = (("score_low", "confidence"), ("score_low",))  # facts to leave out: of some models they mislead
SEED = 11
MOST = 8  # images of a kind in each part
PLANES = 2  # of a stack
CROP_PX = 384
RIDGE = 3.0
SPOILT_WEIGHT = 0.5
PICTURES_WEIGHT = 0.15  # of all pictures, those of cells weigh 1
NO_CELLS = "no cells: "  # begins the kind of a picture


class Example(NamedTuple):
    """A counted image of which the truth is known."""

    kind: str
    facts: Mapping[str, float]
    f1: float  # of a density how near the count is
    is_spoilt: bool


@dataclass(slots=True)
class Recorder:
    """Stands in for a calibration, answers like the former, and keeps the facts it is given last."""

    former: FitCalibration | None
    seen: Mapping[str, float] | None = None

    def expected_f1(self, facts: Mapping[str, float]) -> float:
        """Keep the facts."""
        self.seen = facts
        return self.former.expected_f1(facts) if self.former else 1.0

    @property
    def closer_below(self) -> float:
        """As it was before."""
        return self.former.closer_below if self.former else 0.0


def main() -> None:
    """Calibrate a model, print how well it tells, and write the file."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="flow", help="name or folder")
    parser.add_argument(
        "--closer-below", type=float, default=0.0, help="expected F1 below which images are tried enlarged"
    )
    parser.add_argument("--most", type=int, default=MOST, help="images of a kind in each part")
    options = parser.parse_args()
    folder = store.find(options.model)
    model = store.load(folder)
    if model.fit is not None:
        model.fit = replace(model.fit, closer_below=options.closer_below)
    rng = np.random.default_rng(SEED)
    shown = list(_shown(model))
    fitted, judged, spoilt = shown[:], [], []
    for kind in KINDS:
        items = spread(learned(kind, options.data).items, options.most)
        if items[0].has_masks:
            fitted += [*_counted(model, kind, items), *_counted(model, kind, items, rng)]
            print(kind.dataset, kind.group or "", len(fitted), flush=True)
    for kind in _reported_kinds(options.data):
        chosen, told = (
            spread(select(kind.dataset, options.data).select(group=kind.group).items, options.most)
            for select in (chosen_by, reported)
        )
        fitted += [*_counted(model, kind, chosen), *_counted(model, kind, chosen, rng)]
        judged += _counted(model, kind, told)
        spoilt += _counted(model, kind, told, rng)
    facts = telling_facts(fitted)
    figures = {
        "reported": _figures(judged, fitted, facts),
        "with_pictures": _figures([*judged, *shown], fitted, facts),
        "with_spoilt": _figures([*judged, *shown, *spoilt], fitted, facts),
    }
    print(json.dumps(figures, indent=1))
    fit = replace(calibrated(fitted, facts), closer_below=options.closer_below)
    write_fit(folder, fit, model.sha256, scores=figures, n_images=len(fitted))


def telling_facts(examples: Sequence[Example]) -> tuple[str, ...]:
    """Return those facts of the counts that tell most of kinds that are left out."""
    choices = [
        tuple(name for name in FACTS if name in examples[0].facts and name not in doubted)
        for doubted in DOUBTED
    ]
    true = np.array([one.f1 for one in examples])
    return min(choices, key=lambda facts: np.abs(true - _left_out(examples, examples, facts)).mean())


def calibrated(examples: Sequence[Example], facts: Sequence[str]) -> FitCalibration:
    """Return the regression of the F1 of some images on facts of their counts."""
    table = np.array([[one.facts[name] for name in facts] for one in examples])
    limits = np.quantile(table, (0.02, 0.98), axis=0).T
    table = table.clip(*limits.T)
    centre, scale = table.mean(axis=0), table.std(axis=0) + 1e-9
    f1 = np.array([one.f1 for one in examples])
    weights, bias = logistic((table - centre) / scale, f1, _kind_weights(examples))
    return FitCalibration(tuple(facts), centre, weights / scale, bias, limits)


def logistic(
    table: NDArray[np.float64], share: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Return the weights and the bias of a ridge logistic regression of shares on facts, by Newton steps."""
    design = np.c_[table, np.ones(len(table))]
    penalty = np.diag([RIDGE] * table.shape[1] + [1e-6])
    found = np.zeros(design.shape[1])
    for _ in range(50):
        expected = 1 / (1 + np.exp(-design @ found))
        slope = design.T @ (weights * (expected - share)) + penalty @ found
        curvature = (design * (weights * expected * (1 - expected))[:, np.newaxis]).T @ design + penalty
        found -= np.linalg.solve(curvature, slope)
    return found[:-1], float(found[-1])


def _kind_weights(examples: Sequence[Example]) -> NDArray[np.float64]:
    """Return weights of mean 1: a kind weighs as the root of its images; spoilt ones and pictures less."""
    kinds = [one.kind for one in examples]
    weights = np.array([kinds.count(kind) ** -0.5 for kind in kinds])
    weights *= np.where([one.is_spoilt for one in examples], SPOILT_WEIGHT, 1.0)
    is_picture = np.array([kind.startswith(NO_CELLS) for kind in kinds])
    if is_picture.any():
        weights[is_picture] *= PICTURES_WEIGHT * weights[~is_picture].sum() / weights[is_picture].sum()
    return weights / weights.mean()


def _left_out(judged: Sequence[Example], fitted: Sequence[Example], facts: Sequence[str]) -> list[float]:
    """Return what is expected of each image by a regression that saw no image of its kind."""
    fits = {
        kind: calibrated([one for one in fitted if one.kind != kind], facts)
        for kind in sorted({one.kind for one in judged})
    }
    return [fits[one.kind].expected_f1(one.facts) for one in judged]


def _figures(judged: Sequence[Example], fitted: Sequence[Example], facts: Sequence[str]) -> dict[str, Any]:
    """Return how well the expected F1 tells the true one, over all images and, as a mean, by kind."""
    fit = calibrated(fitted, facts)
    true = np.array([one.f1 for one in judged])
    told = {
        "as_shipped": np.array([fit.expected_f1(one.facts) for one in judged]),
        "kind_left_out": np.array(_left_out(judged, fitted, facts)),
    }
    kinds = np.array([one.kind for one in judged])
    figures: dict[str, Any] = {"n": len(judged), "n_below_half": int((true < 0.5).sum())}
    for name, values in told.items():
        figures[name] = {
            "spearman": round(float(spearmanr(true, values).statistic), 3),
            "auroc_below_half": round(ranking_quality(-values, true < 0.5), 3),
            "mean_error": round(float(np.abs(true - values).mean()), 3),
        }
    figures["kinds"] = {
        kind: {
            "n": int((kinds == kind).sum()),
            "true": round(float(true[kinds == kind].mean()), 3),
            **{name: round(float(values[kinds == kind].mean()), 3) for name, values in told.items()},
        }
        for kind in sorted(set(kinds.tolist()))
    }
    return figures


def _shown(model: CellModel) -> Iterator[Example]:
    for what, pixels in pictures():
        nothing = np.zeros(pixels.shape[:2], np.int32)
        found = _example(model, NO_CELLS + what, Image(pixels, "YXC"[: pixels.ndim]), nothing)
        if found is not None:
            yield found


def _counted(
    model: CellModel, kind: Kind, items: Sequence[Item], rng: np.random.Generator | None = None
) -> Iterator[Example]:
    """Yield the planes of some images as they are or, with a generator, spoilt."""
    name = " ".join(filter(None, (kind.dataset, kind.group)))
    for item in items:
        for image, labels in planes(item):
            if rng is not None:
                changed = CHANGES[rng.choice(list(CHANGES)[1:])](known_of(image, labels), rng)
                if changed is None:
                    continue
                image, labels = Image(changed.pixels, "YXC"[: changed.pixels.ndim]), changed.labels
            found = _example(model, name, image, labels)
            if found is not None:
                yield found._replace(is_spoilt=rng is not None)


def _example(model: CellModel, kind: str, image: Image, labels: Labels) -> Example | None:
    """Return a counted image; None where nothing was found, which tells nothing."""
    recorder = Recorder(model.fit)
    model.fit = recorder  # type: ignore[assignment]
    result = run(count_cells(image, model))
    model.fit = recorder.former
    if recorder.seen is None or result.fit is None:
        return None
    return Example(kind, recorder.seen, share_right(result, relabel(labels)), is_spoilt=False)


def share_right(result: Result, truth: Labels) -> float:
    """Return the F1 of cells against the labels 1..M; of a density how near the count is, 0 to 1."""
    cells, n_true = result.cells, int(truth.max())
    if result.gives == "density":
        return min(result.count, n_true) / max(result.count, n_true, 1e-9)
    if cells.labels is not None:
        return match_labels(cells.labels, truth).f1
    if not len(cells) + n_true:
        return 1.0
    return 2 * len(points_in_cells(cells.points, cells.scores, truth)) / (len(cells) + n_true)


def planes(item: Item, crop_px: int = CROP_PX, most: int = PLANES) -> Iterator[tuple[Image, Labels]]:
    """Yield the middle of an image, or of some planes of a stack, with the labels."""
    image, labels = item.read()
    data = np.asarray(image.data)
    if labels.ndim == 2:
        pairs = [(Image(data, image.axes), labels)]
    else:
        filled = [index for index in range(len(labels)) if labels[index].any()]
        places = np.linspace(0, len(filled) - 1, most + 2)[1:-1].round().astype(int)
        pairs = [(Image(data[filled[i]], image.axes[1:]), labels[filled[i]]) for i in places]
    for plane, known in pairs:
        window = _window(item, known.shape, crop_px)
        if known[window].any():
            yield replace(plane, data=np.asarray(plane.data)[window]), known[window]


def _window(item: Item, shape: tuple[int, ...], crop_px: int) -> tuple[slice, slice]:
    """Return the middle of what is known of an image."""
    (top, left), (bottom, right) = item.regions[0] if item.regions else ((0, 0), shape)
    spans = []
    for first, last in ((top, bottom), (left, right)):
        start = first + max(0, (last - first - crop_px) // 2)
        spans.append(slice(start, min(last, start + crop_px)))
    return spans[0], spans[1]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most so many of some images, from the first to the last."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _reported_kinds(folder: Path) -> list[Kind]:
    """Return the kinds that have images to report: the datasets, one of them group by group."""
    names = dict.fromkeys([*(kind.dataset for kind in KINDS), "bbbc039"])
    told = [name for name in names if (items := reported(name, folder).items) and items[0].has_masks]
    groups = [kind.group for kind in KINDS if kind.dataset == "dsb2018_train"]
    return [
        Kind(name, 0, group=group)
        for name in told
        for group in (groups if name == "dsb2018_train" else [None])
    ]


if __name__ == "__main__":
    main()
