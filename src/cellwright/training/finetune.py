"""Fine-tuning: a model and a few annotated images in, a model that counts these better out, or the same one.

It is meant to be unable to ruin a model: only the last layers learn at first, statistics of normalisations
stay, part of every batch asks for what the model gave before, and of all weights on the way, and between
those before and after, the ones that score best on validation images are kept. These may be the first. Of
weights that score alike, within the standard error of the best, the ones nearest to the first are taken: few
cells tell little, and the less a model changes the less it forgets.

Where a part of each image tells how well the rest was learned, it tells little of other images: what the
trunk learns from a single image of stained tissue makes a model worse on others, even while that image is
counted better, and what the last layers alone learn does not. There, the trunk rests for a whole epoch, and
what it learns after that has to be better by more than the standard error.

Source of that rule: Breiman et al., Classification and regression trees (1984), section 3.4.3.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellwright.errors import CheckpointError
from cellwright.inference import device as devices
from cellwright.inference.settings import EngineSettings
from cellwright.io.dataset import Dataset
from cellwright.models import shelf
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.contract import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.tasks import Progress, Task
from cellwright.training.augment import augment
from cellwright.training.evaluate import Report, evaluate
from cellwright.training.finetune_card import write_card
from cellwright.training.finetune_settings import FinetuneSettings
from cellwright.training.loop import Data, EpochReport, average, learn, set_rate
from cellwright.training.patches import Sample, cut_patch, load_samples
from cellwright.training.pool import simulated_samples
from cellwright.training.replay import Teacher, between, memory, prepare, remembered
from cellwright.training.split import Split, split
from cellwright.training.state import CURVE, STATE, RunState, forget, keep, make_folder, new_state, resume
from cellwright.types import Image, Result

MIXES = (0.25, 0.5, 0.75)  # shares of the way from the first to the best weights that are tried as well
SPREAD = 1.33  # patches show cells up to this many times larger or smaller than they are
FORGETTING = 1.0  # a point lost of what it knew weighs as much as one won
LEAST_GAIN = 1e-3
NOT_SHOWN = ("step", "loss", "rate", "merit", "error")
TUNED = " (fine-tuned)"


@dataclass(frozen=True)
class FinetuneReport(EpochReport):
    """One epoch, and what the model now finds in the first validation image (None when that is not known)."""

    preview: Result | None = None
    preview_name: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What fine-tuning came to.

    Parameters
    ----------
    folder
        Of the model; the one it began with unless ``is_better``.
    before, after
        Scores on the validation images, and under ``memory`` on images of kinds the model knew. ``after`` is
        what training gave, even where it is not kept.
    is_better
        Whether training made it better.
    notices
        Sentences the user should read.
    """

    folder: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    is_better: bool
    notices: tuple[str, ...] = ()


def finetune(
    data: Data,
    start: CellModel | str | Path,
    output: Path,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008 - frozen
    *,
    device: str = "auto",
) -> Task[Outcome]:
    """Teach a model the training images of a dataset, and keep it in ``output`` if it became better.

    Yields a :class:`FinetuneReport` after each epoch. Closing the generator keeps the best so far. A run that
    was stopped or killed goes on where its last epoch ended when it is started again with the same output
    folder, and ends with the same weights. Without validation images part of what is annotated takes their
    place, see ``training.split``.

    Parameters
    ----------
    data
        ``target`` may be annotated in regions only; ``extra`` is replayed with its annotation.
    start
        Name or folder of a model, or the model.
    output
        Must not hold the model to start from.

    Raises
    ------
    ReadError
        No image has the split ``train``.
    AnnotationError
        The family cannot learn from such annotation.
    CheckpointError
        There is no such model, it lies in ``output``, or the run there is damaged or of another network.
    WriteError
        The output folder cannot be written.
    """
    model = _loaded(start, output)
    parts = split(data.target, most=settings.n_validation)
    is_careful = _judge_themselves(parts)
    if is_careful:
        settings = replace(settings, frozen_steps=max(settings.frozen_steps, settings.steps_per_epoch))
    make_folder(output)
    place = devices.choose(device)
    pools = yield from _read(Data(parts.train, data.extra), model, settings)
    _check_same_run(output, settings)
    run = _Run(
        start=model,
        tuned=replace(
            model.spec,
            title=model.spec.title.removesuffix(TUNED) + TUNED,
            tuned_diameter_px=pools.diameter_px,
            count_error=(),  # of other images
        ),
        state=new_state(_copy(model), settings, place),
        teacher=Teacher(model, place),
        validation=parts.validation,
        remembered=remembered(),
        output=output,
        settings=settings,
        is_careful=is_careful,
        device=device,
    )
    resume(run.state, output)
    if not run.state.history:
        yield (yield from run.look(model))
    while not run.is_over():
        yield from run.epoch(pools, place)
        yield (yield from run.look(run.present()))
    outcome = run.outcome((yield from run.mix()), parts.notice)
    scores = (outcome.before, outcome.after)
    write_card(
        output, run.tuned.title, (parts.train, parts.validation), scores, run.state.history, outcome.notices
    )
    forget(output)
    return outcome


def _judge_themselves(parts: Split) -> bool:
    """Whether images that teach also validate."""
    names = {item.name for item in parts.train.items}
    return any(item.name in names for item in parts.validation.items)


def _loaded(start: CellModel | str | Path, output: Path) -> CellModel:
    if not isinstance(start, (str, Path)):
        return start
    if shelf.find(start).resolve() == output.resolve():
        raise CheckpointError(
            f"A fine-tuned model needs a folder of its own; got {output}, which holds the one to start from. "
            "Choose another."
        )
    return shelf.load(start)


def _check_same_run(output: Path, settings: FinetuneSettings) -> None:
    if not (output / STATE).exists():
        return
    began = json.loads((output / CURVE).read_text(encoding="utf-8")).get("settings")
    if began != asdict(settings):
        raise CheckpointError(
            f"The run in {output} began with other settings. Go on with these, delete {STATE} there to begin "
            "anew, or choose another folder."
        )


def _copy(model: CellModel) -> CellModel:
    return model.with_network(copy.deepcopy(model.network))


@dataclass(frozen=True, slots=True)
class _Pools:
    """What patches are cut from: the images to learn, and those to replay, drawn and annotated ones.

    ``diameter_px`` is that of the cells as they are in the images, 0 where it suits the model.
    """

    target: tuple[Sample, ...]
    replay: tuple[Sample, ...]
    extra: tuple[Sample, ...]
    diameter_px: float


def _read(data: Data, model: CellModel, settings: FinetuneSettings) -> Task[_Pools]:
    """Read the images, resized where their cells do not suit the model, and draw those to replay."""
    target = yield from load_samples(data.target, model, farthest=1.0)
    extra: list[Sample] = []
    for dataset in data.extra:
        extra += yield from load_samples(dataset.select("train"), model)
    n_simulated = settings.n_replay if settings.n_replayed else 0
    simulated = yield from simulated_samples(n_simulated, settings.seed, model)
    return _Pools(tuple(target), tuple(simulated), tuple(extra), _unsuited(target))


def _unsuited(samples: Sequence[Sample]) -> float:
    """Return the median diameter of cells, in the images, if most had to be resized; else 0."""
    resized = [sample.diameter_px / sample.zoom for sample in samples if sample.zoom != 1]
    return round(float(np.median(resized)), 1) if 2 * len(resized) > len(samples) else 0.0


def make_patches(
    samples: tuple[Sample, ...], n: int, settings: FinetuneSettings, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Return ``n`` patches (3, P, P) and their targets (maps, P, P), cells about as large as they are."""
    patches = []
    for index in rng.integers(len(samples), size=n):
        sample = samples[index]
        diameters = (sample.diameter_px / SPREAD, sample.diameter_px * SPREAD)
        patch = cut_patch(sample, settings.patch_px, diameters, rng)
        changed = rng.random() < settings.augmentation
        patches.append((augment(patch.image, patch.labels, rng) if changed else patch.image, patch.targets))
    return patches


@dataclass(slots=True)
class _Run:
    """A run of fine-tuning."""

    start: CellModel
    tuned: ModelSpec
    state: RunState
    teacher: Teacher
    validation: Dataset
    remembered: Dataset
    output: Path
    settings: FinetuneSettings
    is_careful: bool
    device: str
    preview: Result | None = field(default=None)

    def epoch(self, pools: _Pools, place: torch.device) -> Task[None]:
        """Train until the next look at the validation images; batches are made one ahead in a thread."""
        state, settings = self.state, self.settings
        stop = (state.step // settings.steps_per_epoch + 1) * settings.steps_per_epoch
        state.losses.clear()
        for images, targets, n_asked in _batches(
            range(state.step, min(stop, settings.steps)), pools, settings
        ):
            prepare(state.network, is_frozen=state.step < settings.frozen_steps)
            set_rate(state.optimizer, learning_rate(state.step, settings))
            images, targets = images.to(place), targets.to(place)
            if n_asked:
                targets[-n_asked:] = self.teacher.targets(images[-n_asked:])
            state.losses.append(learn(state, self.start, images, targets))
            state.step += 1
            average(state, settings.ema_decay)
            yield Progress("fine-tune", state.step, settings.steps, f"loss {state.losses[-1]:.3f}")

    def present(self) -> CellModel:
        """Return the model with the weights of now, averaged over the last steps."""
        return self._with(self.state.average.state_dict())

    def look(self, model: CellModel) -> Task[FinetuneReport]:
        """Score a model, keep it if it is the best so far (at first the one it begins with), and report."""
        scores = yield from self._scores(model)
        keep(self.state, scores, model, self.output, self.settings, margin=self._margin())
        latest, shown = self.state.history[-1], _only_scores(scores)
        loss = latest.get("loss", math.nan)
        words = "before" if self.state.step == 0 else f"loss {loss:.3f}"
        return FinetuneReport(
            "epoch",
            self.state.step,
            self.settings.steps,
            f"{words} · {_in_words(shown)}",
            loss,
            latest["rate"],
            shown,
            self.preview,
            self.validation.items[0].name,
        )

    def is_over(self) -> bool:
        """Whether all steps are done, or it has not become better for long."""
        state, settings = self.state, self.settings
        if state.step >= settings.steps:
            return True
        merits = [epoch["merit"] for epoch in state.history[1:]]
        if state.step < settings.steps // 2 or not merits:
            return False
        return len(merits) - 1 - int(np.argmax(merits)) >= settings.patience

    def mix(self) -> Task[dict[str, float]]:
        """Keep the weights nearest to the first that score like the best; return what training gave."""
        before, *epochs = self.state.history
        best = max(epochs, key=_merit)
        kept = self.state.kept if self.state.best > before["merit"] else None
        if self.is_careful and not kept:
            return _only_scores(best)
        final = kept or self.state.average.state_dict()
        tried = [_Candidate(1.0, self._best(), self._with(final))] if kept else []
        for share in MIXES:
            mixed = self._with(between(self.start.network.state_dict(), final, share))
            tried.append(_Candidate(share, (yield from self._scores(mixed)), mixed))
        top = max(tried, key=lambda one: one.merit)
        if top.merit <= before["merit"]:
            return _only_scores(max(best, top.scores, key=_merit))
        limit = max(top.merit - top.scores["error"], before["merit"] + LEAST_GAIN)
        chosen = min((one for one in tried if one.merit >= limit), key=lambda one: one.share, default=top)
        if self.tuned.tuned_diameter_px:
            plain = chosen.model.with_network(
                chosen.model.network, spec=replace(self.tuned, tuned_diameter_px=0.0)
            )
            scores = yield from self._scores(plain)
            chosen = _Candidate(chosen.share, scores, plain) if scores["merit"] >= limit else chosen
        self.state.best = chosen.merit
        save_checkpoint(self.output, chosen.model, _only_scores(chosen.scores))
        return _only_scores(chosen.scores)

    def outcome(self, after: dict[str, float], notice: str) -> Outcome:
        """Return what the run came to."""
        first = self.state.history[0]
        is_better = self.state.best > first["merit"]
        how = "better than chance explains" if after["score"] > first["score"] else "better"
        kept = f"Training made the model no {how} on the validation images, so it is kept as it was."
        notices = tuple(one for one in (notice, "" if is_better else kept) if one)
        return Outcome(self.output, _only_scores(first), after, is_better, notices)

    def _best(self) -> Mapping[str, float]:
        """Return the epoch whose weights are kept."""
        return next(epoch for epoch in self.state.history if epoch["merit"] == self.state.best)

    def _margin(self) -> float:
        """Return by how much weights have to be better than the best so far."""
        if not self.is_careful or self.state.step <= self.settings.frozen_steps:
            return 0.0
        return self._best()["error"]

    def _with(self, weights: Mapping[str, Tensor]) -> CellModel:
        network = copy.deepcopy(self.start.network)
        network.load_state_dict(weights)
        return self.start.with_network(network.eval(), spec=self.tuned)

    def _scores(self, model: CellModel) -> Task[dict[str, float]]:
        self.preview = None

        def watch(result: Result, image: Image) -> Task[Result]:
            """Keep the first result: evaluation hands each on to be classified."""
            self.preview = self.preview or result
            return result
            yield  # a task like others

        report = yield from evaluate(
            self.validation, model, engine=EngineSettings(device=self.device), classify=watch
        )
        known = yield from memory(model, self.remembered, self.device)
        scores = {**report.summary(), "memory": known, "error": standard_error(report)}
        before = self.state.history[0]["memory"] if self.state.history else known
        return {**scores, "merit": scores["score"] - FORGETTING * max(0.0, before - known)}


def _batches(steps: range, pools: _Pools, settings: FinetuneSettings) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Yield batches that depend on the step's number alone, and how many at their end the teacher answers."""

    def batch(step: int) -> tuple[Tensor, Tensor, int]:
        rng = np.random.default_rng((settings.seed, step))
        n_asked = settings.n_replayed if pools.replay else 0
        n_extra = n_asked // 2 if pools.extra else 0
        patches = []
        for samples, n in (
            (pools.target, settings.batch_size - n_asked),
            (pools.extra, n_extra),
            (pools.replay, n_asked - n_extra),
        ):
            patches += make_patches(samples, n, settings, rng) if n else []
        images, targets = zip(*patches, strict=True)
        return torch.stack(images), torch.stack(targets), n_asked - n_extra

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(batch, steps.start)
        for step in steps:
            ready = ahead.result()
            if step + 1 < steps.stop:
                ahead = pool.submit(batch, step + 1)
            yield ready


def learning_rate(step: int, settings: FinetuneSettings) -> float:
    """Return the rate of a step: warm-up for the last layers, again for the whole, a cosine down to 1 %."""
    since = step if step < settings.frozen_steps else step - settings.frozen_steps
    warm_up = min(1.0, (since + 1) / (settings.warmup_steps + 1))
    return settings.rate * warm_up * (0.505 + 0.495 * math.cos(math.pi * step / settings.steps))


class _Candidate(NamedTuple):
    """A model some share of the way from the first weights to the best, and its scores."""

    share: float
    scores: Mapping[str, float]
    model: CellModel

    @property
    def merit(self) -> float:
        return self.scores["merit"]


def standard_error(report: Report) -> float:
    """Return how far the score may be off by chance, given how many cells it rests on."""
    n_cells = sum(image.n_true for image in report.images)
    score = min(max(report.summary()["score"], 0.0), 1.0)
    return math.sqrt(score * (1 - score) / max(n_cells, 1))


def _merit(epoch: Mapping[str, float]) -> float:
    """Return the score of an epoch less what was forgotten by then."""
    return epoch["merit"]


def _in_words(scores: Mapping[str, float]) -> str:
    return " · ".join(f"{name} {value:.3f}" for name, value in scores.items())


def _only_scores(epoch: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name not in NOT_SHOWN}
