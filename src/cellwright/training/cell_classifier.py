"""Training a classifier: dataset folders with classes in, a classifier folder out.

Only cells with a class are looked at; what nobody annotated is not taken for anything.
"""

import copy
import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cellwright.core.data import Annotation
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import check_writable
from cellwright.inference import device as devices
from cellwright.models.classifier import PRESETS, Classifier, of_spec, preset_spec, save_classifier
from cellwright.models.spec import ClassifierSpec
from cellwright.ops.crops import crops, extents_of, relative_sizes, typical_extent, with_channels
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import frames
from cellwright.training.data.classes import (
    ClassDataset,
    classified,
    held_classes,
    learned_classes,
    names_in_part,
    names_of_cells,
)
from cellwright.training.run_folder import forget, learned_from, only_scores
from cellwright.training.settings import ClassifyTrainingSettings
from cellwright.training.state import (
    RunState,
    check_same_run,
    first_state,
    note_epoch,
    resume_run,
    write_card,
)
from cellwright.training.trainer import cosine, epoch_report, half_precision, take_step, within_memory

SIZE_HIDDEN = 0.3  # share of crops whose relative size is not shown: it misleads where one class is alone
SIZE_NOISE = 0.15  # octaves
EMA_DECAY = 0.99
SMOOTHING = 0.05
WARMUP_STEPS = 50  # or a fifth of a short run
SCORED_AT_ONCE = 128  # crops
Rng = np.random.Generator
MARGIN = 1.5  # crops are kept this much larger than the network's, so that they can be turned and shifted
LOW, STEP = -0.5, 2.5 / 255  # they are kept as bytes: scaled intensities run from -0.5 to 2


@dataclass(frozen=True, slots=True)
class CellCrops:
    """Cells with a class, ready to be shown to a network; made by :func:`read_cell_crops`."""

    crops: Tensor  # uint8 (N, C, S, S): larger than the network's by ``MARGIN``; see :func:`intensities`
    sizes: Tensor  # float32 (N,): relative to the typical cell of their image, in octaves
    classes: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.classes)


def intensities(kept: Tensor) -> Tensor:
    """Return kept crops (N, C, S, S) as scaled intensities, float32."""
    return kept.float() * STEP + LOW


def spec_for(
    sources: Sequence[ClassDataset],
    settings: ClassifyTrainingSettings,
    *,
    preset: str = "small",
    title: str = "",
) -> Task[tuple[ClassifierSpec, frozenset[str]]]:
    """Return the facts of a classifier for these data: its classes, and what its windows are measured in.

    Where no cell has a box or mask, windows are measured in the typical diameter that the settings state.
    Beside the facts: the classes of which cells are held back (``held_classes``).

    AnnotationError where there are fewer than two classes, or points come without a diameter. CheckpointError
    where there is no such preset.
    """
    counts: Counter[str] = Counter()
    extents = [np.zeros(0, np.float32)]
    items = [(source, item) for source in sources for item in source.dataset.select("train").items]
    for source, item in items:
        yield Progress("read", len(extents) - 1, len(items), item.name)
        _, annotation = classified(item)
        found = names_of_cells(annotation, item, source)
        counts.update(filter(None, found))
        own = _extents(annotation, np.nan)[np.array([bool(name) for name in found], bool)]
        if annotation.boxes is not None:
            own = own[np.isfinite(own)]  # others are empty by mistake
        extents.append(own)
    spec = replace(preset_spec(preset, learned_classes(counts)), title=title or PRESETS[preset].title)
    spec = _with_extents(spec, np.concatenate(extents), settings.diameter_px)
    return spec, held_classes(sources, counts)


def read_cell_crops(
    sources: Sequence[ClassDataset],
    spec: ClassifierSpec,
    split: str,
    *,
    sighted: bool = True,
    bare: bool = False,
    held_back: Collection[str] = (),
) -> Task[CellCrops]:
    """Return the cells of one split that have one of the classes of the spec.

    Each is shown as it is with its box (``sighted``), and as it is when only its place is known and it is
    taken to be as large as the typical cell (``bare``). Of the classes ``held_back`` every fifth cell of
    ``train`` is one of ``val``, which then has no others.
    """
    images, n_seen = split, Counter[str]()
    if held_back:
        images = "train"
    size = kept_px(spec)
    cut = [np.zeros((0, spec.in_channels, size, size), np.uint8)]
    sizes, classes = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    items = [(source, item) for source in sources for item in source.dataset.select(images).items]
    for source, item in items:
        yield Progress("read", len(cut) - 1, len(items), item.name)
        image, annotation = classified(item)
        found = names_of_cells(annotation, item, source)
        if held_back:
            found = names_in_part(found, split, held_back, n_seen)
        rows = np.array([i for i, name in enumerate(found) if name in spec.classes], int)
        if len(rows) == 0:
            continue
        parts = frames(image)  # scaled as inference does
        scaling = intensity.fit_scaling(parts.sample(), spec.percentiles)
        scaled = intensity.apply(scaling, parts.read(0, (slice(None), slice(None))))
        extents = _extents(annotation, spec.diameter_px)
        typical = typical_extent(extents)
        ways = [extents] if sighted else []
        if bare:
            ways.append(np.full_like(extents, typical))
        for taken in ways:
            sides = spec.sides(taken, typical)[rows] * np.float32(size / spec.crop_px)
            cells = crops(scaled, annotation.points[rows], sides, size, padding=spec.padding)
            levels = np.rint((with_channels(cells, spec.in_channels) - LOW) / STEP)
            cut.append(levels.clip(0, 255).astype(np.uint8))
            sizes.append(relative_sizes(taken, typical)[rows])
            classes.append(np.array([spec.classes.index(found[i]) for i in rows], np.int64))
    return CellCrops(*(torch.from_numpy(np.concatenate(parts)) for parts in (cut, sizes, classes)))


def kept_px(spec: ClassifierSpec) -> int:
    """Return the side of the crops that are kept, in pixels."""
    return 2 * round(spec.crop_px * MARGIN / 2)


def _with_extents(spec: ClassifierSpec, extents: NDArray[np.float32], diameter_px: float) -> ClassifierSpec:
    known = extents[np.isfinite(extents)]
    if spec.window == "pixels":
        return spec
    if len(known) < len(extents) and not diameter_px:
        raise AnnotationError(
            f"{len(extents) - len(known)} of {len(extents)} cells are points, which do not show how large a "
            "cell is. Set diameter_px to the typical diameter of the cells, or annotate boxes or masks."
        )
    if len(known) == 0:
        return replace(spec, window="typical", diameter_px=diameter_px)
    return replace(spec, diameter_px=diameter_px or round(float(np.median(known)), 1))


def _extents(annotation: Annotation, default_px: float) -> NDArray[np.float32]:
    n = len(annotation.points)
    boxes = annotation.boxes
    if boxes is None:
        boxes = np.zeros((n, 2, 2), np.float32)
    return extents_of(boxes, np.zeros(n, np.float32), default_px)


@dataclass(frozen=True, slots=True)
class Scores:
    """How a classifier did on cells whose class is known; rows of ``confusion`` are the true classes."""

    classes: tuple[str, ...]
    confusion: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of the cells whose class is right; not a number without cells."""
        total = int(self.confusion.sum())
        return float(np.trace(self.confusion)) / total if total else math.nan

    def summary(self) -> dict[str, float]:
        """Return accuracy, mean recall over the classes that occur, and the recall of each of these."""
        n_true = self.confusion.sum(axis=1)
        present = np.flatnonzero(n_true)
        if len(present) == 0:
            return {}
        recalls = {self.classes[i]: float(self.confusion[i, i] / n_true[i]) for i in present}
        mean = sum(recalls.values()) / len(recalls)
        named = {f"recall_{name}": value for name, value in recalls.items()}
        return {"accuracy": self.accuracy, "mean_recall": mean, **named}


def train_classifier(
    sources: Sequence[ClassDataset],
    output: Path,
    settings: ClassifyTrainingSettings = ClassifyTrainingSettings(),  # noqa: B008 - frozen
    *,
    preset: str = "small",
    title: str = "",
    device: str = "auto",
) -> Task[Path]:
    """Train a classifier on the split ``train`` of some datasets and return its folder (``output``).

    Yields an ``EpochReport`` with the scores of the split ``val`` after each epoch; without one, of the cells
    that are held back (empty where there are too few cells for that).
    A run that was stopped or killed resumes after its last epoch. What is kept is the running average of the
    weights at the end: the validation cells choose nothing.

    AnnotationError where there are fewer than two classes, or points come without a diameter. CheckpointError
    where the run in the output folder is damaged, of another network, or began with other settings.
    """
    check_writable(output)
    spec, held_back = yield from spec_for(sources, settings, preset=preset, title=title)
    is_bare = spec.window == "own"
    training = yield from read_cell_crops(sources, spec, "train", bare=is_bare, held_back=held_back)
    validation = yield from read_cell_crops(sources, spec, "val", held_back=held_back)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        classifier = of_spec(spec)
    torch_device = devices.choose_device(device)
    state = first_state(classifier.network, torch_device, settings.weight_decay)
    images = [f"{one.dataset.folder.name}/{item.name}" for one in sources for item in one.dataset.items]
    facts: dict[str, object] = {"classes": spec.classes, "preset": preset, "images": images}
    checked = f"Validated with {len(validation)} cells; without any, nothing tells how good it is."
    if held_back:  # a resumed run must hold back the same cells, or it would be checked with what it learned
        facts["levels"] = [part.crops.sum(dim=(1, 2, 3)).tolist() for part in (training, validation)]
        checked = f"Validated with {len(validation)} cells held back from the same images, which flatters."
    state.facts = learned_from(**facts)
    check_same_run(output, settings, state.facts)
    resume_run(state, output, settings)
    while state.step < settings.steps:
        yield from within_memory(_epoch(state, training, spec.crop_px, settings, torch_device))
        scores = (yield from score_classifier(_trained(spec, state), validation)).summary()
        note_epoch(state, output, settings, scores)
        yield epoch_report(state, settings.steps)
    scores = only_scores(state.history[-1])
    save_classifier(output, _trained(spec, state), scores)
    sentences = [f"Trained on the classes of images of `{source.dataset.folder.name}`." for source in sources]
    write_card(output, spec.title, [*sentences, checked], {"value": scores}, state.history)
    forget(output)
    return output


def _trained(spec: ClassifierSpec, state: RunState) -> Classifier:
    return Classifier(spec, copy.deepcopy(state.average).eval().cpu())


def score_classifier(classifier: Classifier, data: CellCrops) -> Task[Scores]:
    """Return how a classifier does on cells whose class is known, cut out as they are annotated."""
    n = len(classifier.spec.classes)
    confusion = np.zeros((n, n), np.int64)
    network, size = classifier.inference_network(), classifier.spec.crop_px
    first = (data.crops.shape[-1] - size) // 2
    middles = data.crops[..., first : first + size, first : first + size]
    for start in range(0, len(data), SCORED_AT_ONCE):
        yield Progress("evaluate", start, len(data))
        rows = slice(start, start + SCORED_AT_ONCE)
        with torch.inference_mode():
            logits = network(intensities(middles[rows]), data.sizes[rows])
        np.add.at(confusion, (data.classes[rows].numpy(), logits.argmax(1).numpy()), 1)
    return Scores(classifier.spec.classes, confusion)


def _epoch(
    state: RunState,
    training: CellCrops,
    crop_px: int,
    settings: ClassifyTrainingSettings,
    torch_device: torch.device,
) -> Task[None]:
    weights = balanced_weights(training.classes.numpy(), settings.balance)
    state.network.train()
    state.losses.clear()
    torch.manual_seed(settings.seed + state.step)  # a resumed run drops out the same
    for _ in range(min(settings.steps_per_epoch, settings.steps - state.step)):
        rng = np.random.default_rng((settings.seed, state.step))
        rows = torch.from_numpy(rng.choice(len(training), settings.batch_size, p=weights))
        cells, sizes = augmented(training, rows, crop_px, settings, rng)
        with half_precision(torch_device):
            seen = cells.to(torch_device, memory_format=torch.channels_last)
            logits = state.network(seen, sizes.to(torch_device))
        true = training.classes[rows].to(torch_device)
        loss = functional.cross_entropy(logits.float(), true, label_smoothing=SMOOTHING)
        rise = min(1.0, (state.step + 1) / min(WARMUP_STEPS, settings.steps / 5))
        rate = settings.rate * rise * cosine(state.step, settings.steps)
        take_step(state, loss, rate, EMA_DECAY)
        yield Progress("train", state.step, settings.steps, f"loss {state.losses[-1]:.3f}")


def balanced_weights(classes: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Return the chance of each cell to be shown: 0 leaves classes as they occur, 1 makes them equal."""
    n_of = np.bincount(classes).astype(np.float64)
    weights: NDArray[np.float64] = n_of[classes] ** -balance
    weights /= weights.sum()
    return weights


def augmented(
    training: CellCrops, rows: Tensor, size: int, settings: ClassifyTrainingSettings, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Return crops (B, C, size, size) and relative sizes (B,) as another image might have shown them."""
    cells = _turned(intensities(training.crops[rows]), size, settings.jitter, rng)
    noise = rng.normal(0, SIZE_NOISE, len(rows)).astype(np.float32)
    shown = (rng.random(len(rows)) >= SIZE_HIDDEN).astype(np.float32)
    sizes = (training.sizes[rows] + torch.from_numpy(noise)) * torch.from_numpy(shown)
    return _recoloured(cells, settings.colour, rng), sizes


def _turned(cells: Tensor, size: int, jitter: float, rng: Rng) -> Tensor:
    """Turn, mirror, zoom and shift each crop, and leave its middle of ``size`` pixels."""
    n, share = len(cells), size / cells.shape[-1]
    angle = rng.uniform(0, 2 * np.pi, n)
    zoom = share * np.exp(rng.normal(0, jitter, n).clip(-2 * jitter, 2 * jitter))
    mirror = rng.choice([-1.0, 1.0], n)
    shift = rng.uniform(-jitter, jitter, (n, 2)) * share
    along, across = zoom * np.cos(angle), zoom * np.sin(angle)
    matrix = np.stack([along * mirror, -across, shift[:, 0], across * mirror, along, shift[:, 1]], axis=1)
    theta = torch.from_numpy(matrix.reshape(n, 2, 3).astype(np.float32))
    grid = functional.affine_grid(theta, [n, cells.shape[1], size, size], align_corners=False)
    return functional.grid_sample(cells, grid, padding_mode="border", align_corners=False)


def _recoloured(cells: Tensor, amount: float, rng: Rng) -> Tensor:
    """Mix the channels a little, change brightness, contrast and gamma, blur some crops, add noise."""
    n, n_channels = cells.shape[:2]

    def normal(*shape: int, spread: float) -> Tensor:
        return torch.from_numpy(rng.normal(0, amount * spread, shape).astype(np.float32))

    def some(chance: float) -> Tensor:
        return torch.from_numpy(rng.random((n, 1, 1, 1)) < amount * chance)

    mixing = torch.eye(n_channels) + normal(n, n_channels, n_channels, spread=0.15)
    cells = torch.einsum("ncij,nkc->nkij", cells, mixing)
    cells = torch.where(some(0.3), cells.mean(dim=1, keepdim=True), cells)
    cells = cells * normal(n, 1, 1, 1, spread=0.4).exp() + normal(n, n_channels, 1, 1, spread=0.2)
    cells = cells.clamp_min(0) ** normal(n, 1, 1, 1, spread=0.5).exp()
    cells = torch.where(some(0.5), functional.avg_pool2d(cells, 3, 1, 1, count_include_pad=False), cells)
    strength = torch.from_numpy(rng.uniform(0, 0.1 * amount, (n, 1, 1, 1)).astype(np.float32))
    noise = torch.from_numpy(rng.standard_normal(cells.shape, dtype=np.float32))
    return (cells + strength * noise).clamp(-0.5, 2.0)
