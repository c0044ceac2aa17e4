"""Fine-tuning: a model and a few annotated images in, a model that counts these better out, or the same one.

It is meant to be unable to ruin a model: only the last layers learn at first, statistics of normalisations
stay, part of every batch asks for what the model gave before, and of all weights on the way, and between
those before and after, the ones that score best on validation images are kept. These may be the first. Of
weights that score alike, within the standard error of the best, the ones nearest to the first are taken: few
cells tell little, and the less a model changes the less it forgets.

Where a part of each image tells how well the rest was learned, it holds too few cells to score by. There the
loss on patches of that part has to fall, and the score must not, by more than the standard error; at least
half of the way is gone then, and no more where the score asks for none. (Single images of stained tissue were
taught to a model new to it: half of the way made it better on others alike in 6 cases of 8, the whole in 5,
and where the loss did not fall the whole way made it worse.) The trunk rests there for a whole epoch.

Source of the rule of the standard error: Breiman et al., Classification and regression trees (1984), section
3.4.3.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cellwright.core.data import Image, Result
from cellwright.core.errors import CheckpointError
from cellwright.core.tasks import Progress, T, Task, map_progress
from cellwright.files.atomic import check_writable
from cellwright.files.dataset.folder import Dataset
from cellwright.inference import device as devices
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.training.data.split import split_dataset
from cellwright.training.evaluation.evaluate import Report, evaluate
from cellwright.training.finetune.replay import (
    SampleSets,
    Teacher,
    batches,
    fixed_patches,
    interpolate_weights,
    read_sample_sets,
    retention_score,
    retention_set,
    set_training_mode,
)
from cellwright.training.pretrain import start_from
from cellwright.training.run_folder import forget, learned_from, only_scores, selection_score, verdict
from cellwright.training.settings import FinetuneSettings
from cellwright.training.state import (
    RunState,
    check_same_run,
    first_state,
    keep_epoch,
    names_in_words,
    resume_run,
    write_card,
)
from cellwright.training.trainer import (
    Data,
    EpochReport,
    cosine,
    forward,
    in_words,
    take_step,
    warm_up,
    within_memory,
)

TUNED = " (fine-tuned)"
SHARES = (0.25, 0.5, 0.75)  # shares of the way from the first to the best weights that are tried as well
FAR_SHARES = (0.5, 0.75)  # of these, what is tried where cells are too few to tell nearer ones apart
FORGETTING = 1.0  # a point lost of what it knew weighs as much as one won
LEAST_GAIN = 1e-3
MOST_FIT_ERROR = 0.2  # of the F1 that the fit of the model it began with lets expect, so that it is kept


@dataclass(frozen=True)
class FinetuneReport(EpochReport):
    """One epoch, and what the model now finds in the first validation image (None when that is not known)."""

    preview: Result | None = None
    preview_name: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What fine-tuning came to."""

    folder: Path  # of the model; the one it began with unless ``is_better``
    before: Mapping[str, float]  # scores of validation, and under ``memory`` of kinds it knew
    after: Mapping[str, float]  # what training gave, even where it is not kept
    is_better: bool  # whether training made it better
    notices: tuple[str, ...] = ()  # sentences the user should read


@dataclass(slots=True)
class Run:
    """A run of fine-tuning; ``fixed`` patches and their targets judge it where there are few cells."""

    start: CellModel
    tuned: ModelSpec
    state: RunState
    teacher: Teacher
    validation: Dataset
    retention_set: Dataset
    output: Path
    settings: FinetuneSettings
    fixed: tuple[Tensor, Tensor] | None
    device: str
    told: list[str]  # of the card: what it learns from
    preview: Result | None = None

    def epoch(self, sets: SampleSets, torch_device: torch.device) -> Task[None]:
        """Train until the next look at the validation images; batches are made one ahead in a thread."""
        state, settings = self.state, self.settings
        stop = (state.step // settings.steps_per_epoch + 1) * settings.steps_per_epoch
        state.losses.clear()
        torch.manual_seed(settings.seed + state.step)  # a resumed run drops out the same
        for images, targets, n_asked in batches(range(state.step, min(stop, settings.steps)), sets, settings):
            set_training_mode(state.network, is_frozen=state.step < settings.frozen_steps)
            images, targets = images.to(torch_device), targets.to(torch_device)
            if n_asked:
                targets[-n_asked:] = self.teacher.targets(images[-n_asked:])
            loss = self.start.loss(forward(state.network, self.start, images), targets)
            take_step(state, loss, finetuning_rate(state.step, settings), settings.ema_decay)
            yield Progress("fine-tune", state.step, settings.steps, f"loss {state.losses[-1]:.3f}")

    def present(self) -> CellModel:
        """Return the model with the weights of now, averaged over the last steps."""
        return self._with(self.state.average.state_dict())

    def validate(self, model: CellModel) -> Task[FinetuneReport]:
        """Score a model, keep it if it is the best so far (at first the one it begins with), and report."""
        scores = yield from self._scores(model)
        keep_epoch(self.state, scores, _as_told(model, scores), self.output, self.settings)
        self._write_card()
        latest, shown = self.state.history[-1], only_scores(scores)
        loss = latest.get("loss", math.nan)
        words = "before" if self.state.step == 0 else f"loss {loss:.3f}"
        return FinetuneReport(
            "epoch",
            self.state.step,
            self.settings.steps,
            f"{words} · {in_words(shown)}",
            loss,
            latest["rate"],
            shown,
            self.preview,
            self.validation.items[0].name,
        )

    def _write_card(self) -> None:
        """Write the card of the best so far, which a run that is stopped leaves."""
        history = self.state.history
        best = max(history, key=selection_score)
        scores = {"before": only_scores(history[0]), "after": only_scores(best)}
        write_card(self.output, self.tuned.title, self.told, scores, history)

    def is_over(self) -> bool:
        """Whether all steps are done, or it has not become better for long."""
        state, settings = self.state, self.settings
        if state.step >= settings.steps:
            return True
        merits = [epoch["merit"] for epoch in state.history[1:]]
        if state.step < settings.steps // 2 or not merits:
            return False
        return len(merits) - 1 - int(np.argmax(merits)) >= settings.patience

    def interpolate(self) -> Task[dict[str, float]]:
        """Keep the weights nearest to the first that score like the best; return what training gave."""
        before, *epochs = self.state.history
        best = max(epochs, key=selection_score)
        shares = FAR_SHARES if self.fixed else SHARES
        tried: list[_Candidate] = []
        final: Mapping[str, Tensor] = self.state.average.state_dict()
        if self.state.kept and self.state.best > before["merit"]:
            final = self.state.kept
            tried.append(_Candidate(1.0, self._best(), self._with(final)))
        elif self.fixed:
            return only_scores(best)
        for share in shares:
            mixed = self._with(interpolate_weights(self.start.network.state_dict(), final, share))
            tried.append(_Candidate(share, (yield from self._scores(mixed)), mixed))
        top = max(tried, key=lambda one: one.merit)
        if top.merit <= before["merit"]:
            return only_scores(max(best, top.scores, key=selection_score))
        chosen = self._nearest(tried, before["merit"] + LEAST_GAIN) or top
        if self.tuned.tuned_diameter_px:
            spec = replace(self.tuned, tuned_diameter_px=0.0)
            plain = chosen.model.with_network(chosen.model.network, spec=spec, fit=self.start.fit)
            trial = _Candidate(chosen.share, (yield from self._scores(plain)), plain)
            if self._nearest([trial, top], before["merit"] + LEAST_GAIN) is trial:
                chosen = trial
        self.state.best = chosen.merit
        save_checkpoint(self.output, _as_told(chosen.model, chosen.scores), only_scores(chosen.scores))
        return only_scores(chosen.scores)

    def finish(self, after: dict[str, float], notice: str) -> Outcome:
        """Return what the run came to, once the card of the model tells it; nothing is left to resume."""
        history = self.state.history
        before, is_better = only_scores(history[0]), self.state.best > history[0]["merit"]
        title = self.tuned.title if is_better else self.start.spec.title
        notices = (notice,) if notice else ()
        sentences = [*self.told, f"Outcome: {verdict(before, after, is_better=is_better)}.", *notices]
        write_card(self.output, title, sentences, {"before": before, "after": after}, history)
        forget(self.output)
        return Outcome(self.output, before, after, is_better, notices)

    def _nearest(self, tried: Sequence["_Candidate"], least: float) -> "_Candidate | None":
        """Return the one nearest to the first weights of those that score like the best, by chance or not.

        None where none has a merit of at least ``least``.
        """
        better = [one for one in tried if one.merit >= least]
        measure = "score" if self.fixed else "merit"
        limit = max((one.scores[measure] - one.scores["error"] for one in better), default=0.0)
        return min(
            (one for one in better if one.scores[measure] >= limit), key=lambda one: one.share, default=None
        )

    def _best(self) -> Mapping[str, float]:
        return next(epoch for epoch in self.state.history if epoch["merit"] == self.state.best)

    def _with(self, weights: Mapping[str, Tensor]) -> CellModel:
        network = copy.deepcopy(self.start.network)
        network.load_state_dict(weights)
        return self.start.with_network(network.eval(), spec=self.tuned, fit=self.start.fit)

    def _scores(self, model: CellModel) -> Task[dict[str, float]]:
        self.preview = None

        def watch(result: Result, image: Image) -> Task[Result]:
            """Keep the first result: evaluation hands each on to be classified."""
            self.preview = self.preview or result
            return result
            yield  # a task like others

        n, n_known = len(self.validation), len(self.retention_set)
        judge = evaluate(self.validation, model, engine=EngineSettings(device=self.device), classify=watch)
        report = yield from _check(judge, 0, n + n_known)
        known = yield from _check(retention_score(model, self.retention_set, self.device), n, n + n_known)
        scores = {**report.summary(), "memory": known, "error": standard_error(report)}
        off_by = [
            abs(one.fit - one.means.get("f1", one.score))
            for one in report.images
            if one.fit is not None and one.is_complete and one.n_true
        ]
        if off_by:
            scores["fit_error"] = float(np.mean(off_by))
        if self.fixed:
            scores["validation_loss"] = self._loss(model, *self.fixed)
        first = self.state.history[0] if self.state.history else scores
        return {**scores, "merit": _gain(scores, first) - FORGETTING * max(0.0, first["memory"] - known)}

    @torch.no_grad()
    def _loss(self, model: CellModel, images: Tensor, targets: Tensor) -> float:
        network = model.inference_network()
        device, n = next(network.parameters()).device, self.settings.batch_size
        parts = zip(torch.split(images.to(device), n), torch.split(targets.to(device), n), strict=True)
        losses = [float(model.loss(forward(network, model, seen), true)) * len(seen) for seen, true in parts]
        return sum(losses) / len(images)


def _gain(scores: Mapping[str, float], first: Mapping[str, float]) -> float:
    """Return the score; where patches judge, the share by which their loss fell, if the score did not.

    A model that finds no cell is no gain, however far its loss fell.
    """
    if "validation_loss" not in scores:
        return scores["score"]
    fall = 1 - scores["validation_loss"] / max(first["validation_loss"], 1e-9)
    if scores["score"] <= 0 or scores["score"] < first["score"] - first["error"]:
        return min(fall, 0.0)
    return fall


def _check(task: Task[T], n_before: int, n: int) -> Task[T]:
    """Return the same evaluation, whose images are told as those of ``n`` that come after ``n_before``."""
    done = n_before

    def tell(progress: Progress) -> Progress:
        nonlocal done
        if progress.stage == "evaluate":
            done = n_before + progress.done
        return Progress("check", done, n)

    return map_progress(task, tell)


def finetuning_rate(step: int, settings: FinetuneSettings) -> float:
    """Return the rate of a step: warm-up for the last layers, again for the whole, a cosine down to 1 %."""
    since = step if step < settings.frozen_steps else step - settings.frozen_steps
    return settings.rate * warm_up(since, settings.warmup_steps) * cosine(step, settings.steps)


def _as_told(model: CellModel, scores: Mapping[str, float]) -> CellModel:
    """Return a model, without its fit where that is far from what validation images scored."""
    if scores.get("fit_error", 0.0) <= MOST_FIT_ERROR:
        return model
    return model.with_network(model.network, spec=model.spec)


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


def finetune(
    data: Data,
    start: CellModel | str | Path,
    output: Path,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008 - frozen
    *,
    device: str = "auto",
    pretrained: Path | None = None,
) -> Task[Outcome]:
    """Teach a model the training images of a dataset, and keep it in ``output`` if it became better.

    Yields a :class:`FinetuneReport` after each epoch. Closing the generator keeps the best so far. A run that
    was stopped or killed resumes after its last epoch when it is started again with the same output
    folder, and ends with the same weights. Without validation images part of what is annotated takes their
    place, see ``training.data.split``.

    The target of ``data`` may be annotated in regions only; what is extra is replayed with its annotation.
    ``pretrained`` is a folder of ``training.pretrain``, whose encoder the model learns with. What it is
    compared with, and what it repeats, is the model as it was.

    ReadError where no image has the split ``train``. AnnotationError where the family cannot learn from such
    annotation. CheckpointError where there is no such model, it lies in ``output``, or the run there is
    damaged or of another network.
    """
    model = start_model(start, output)
    begin = model
    if pretrained is not None:
        begin = model.with_network(copy.deepcopy(model.network))
        start_from(pretrained, begin)
    parts = split_dataset(data.target, most=settings.n_validation)
    if parts.is_shared:
        settings = replace(settings, frozen_steps=max(settings.frozen_steps, settings.steps_per_epoch))
    check_writable(output)
    torch_device = devices.choose_device(device)
    sets = yield from read_sample_sets(Data(parts.train, data.extra), model, settings)
    state = first_state(begin.network, torch_device, settings.weight_decay)
    state.facts = learned_from(
        images=[
            [f"{one.folder.name}/{item.name}" for item in one.items]
            for one in (parts.train, parts.validation, *data.extra)
        ],
        start=model.sha256,
    )
    check_same_run(output, settings, state.facts)
    fixed = None
    if parts.is_shared:
        fixed = yield from fixed_patches(parts.validation, model, settings)
    title = tuned_title(model.spec)
    run = Run(
        start=model,
        tuned=replace(model.spec.without_counts(), title=title, tuned_diameter_px=sets.diameter_px),
        state=state,
        teacher=Teacher(model, torch_device),
        validation=parts.validation,
        retention_set=retention_set(of_volumes=model.needs_volumes),
        output=output,
        settings=settings,
        fixed=fixed,
        device=device,
        told=_learned_from(start, parts.train, parts.validation),
    )
    resume_run(state, output, settings)
    if not state.history:
        yield (yield from run.validate(model))
    while not run.is_over():
        yield from within_memory(run.epoch(sets, torch_device))
        yield (yield from run.validate(run.present()))
    after = yield from run.interpolate()
    return run.finish(after, parts.notice)


def start_model(start: CellModel | str | Path, output: Path) -> CellModel:
    """Return the model to start from; CheckpointError where there is none, or it lies in ``output``."""
    if not isinstance(start, (str, Path)):
        return start
    if store.find(start).resolve() == output.resolve():
        raise CheckpointError(
            f"A fine-tuned model needs a folder of its own; got {output}, which holds the one to start from. "
            "Choose another."
        )
    return store.load(start)


def _learned_from(start: CellModel | str | Path, taught: Dataset, validation: Dataset) -> list[str]:
    """Return the sentences of the card that hold from the beginning of a run on."""
    sentences = [
        f"Fine-tuned on images: {names_in_words(taught.items)}.",
        f"Validated with: {names_in_words(validation.items)}.",
        "*Retention* is the score on simulated images, of kinds that the model knew before.",
    ]
    if isinstance(start, (str, Path)):
        sentences += [f"It began with the weights of `{Path(start).name}`, whose card states their licence."]
    return sentences


def tuned_title(spec: ModelSpec) -> str:
    """Return the title of a model that was fine-tuned."""
    return spec.title.removesuffix(TUNED) + TUNED
