"""A run of fine-tuning: its epochs, what is thought of the weights on the way, and which of them are kept."""

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
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset
from cellwright.inference.settings import EngineSettings
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.evaluation.report import Report
from cellwright.training.finetune.batches import SampleSets, batches
from cellwright.training.finetune.retention import Teacher, interpolate_weights, prepare, retention_score
from cellwright.training.run_folder import only_scores, selection_score
from cellwright.training.settings import FinetuneSettings
from cellwright.training.state import RunState, keep, write_card
from cellwright.training.trainer import (
    EpochReport,
    average,
    cosine,
    forward,
    in_words,
    take_step,
    warm_up,
)

SHARES = (0.25, 0.5, 0.75)  # shares of the way from the first to the best weights that are tried as well
FAR_SHARES = (0.5, 0.75)  # of these, what is tried where cells are too few to tell nearer ones apart
FORGETTING = 1.0  # a point lost of what it knew weighs as much as one won
LEAST_GAIN = 1e-3


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
            prepare(state.network, is_frozen=state.step < settings.frozen_steps)
            images, targets = images.to(torch_device), targets.to(torch_device)
            if n_asked:
                targets[-n_asked:] = self.teacher.targets(images[-n_asked:])
            loss = self.start.loss(forward(state.network, self.start, images), targets)
            take_step(state, loss, learning_rate(state.step, settings))
            average(state.average, state.network, state.step, settings.ema_decay)
            yield Progress("fine-tune", state.step, settings.steps, f"loss {state.losses[-1]:.3f}")

    def present(self) -> CellModel:
        """Return the model with the weights of now, averaged over the last steps."""
        return self._with(self.state.average.state_dict())

    def validate(self, model: CellModel) -> Task[FinetuneReport]:
        """Score a model, keep it if it is the best so far (at first the one it begins with), and report."""
        scores = yield from self._scores(model)
        keep(self.state, scores, model, self.output, self.settings)
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
            plain = chosen.model.with_network(
                chosen.model.network, spec=replace(self.tuned, tuned_diameter_px=0.0)
            )
            trial = _Candidate(chosen.share, (yield from self._scores(plain)), plain)
            if self._nearest([trial, top], before["merit"] + LEAST_GAIN) is trial:
                chosen = trial
        self.state.best = chosen.merit
        save_checkpoint(self.output, chosen.model, only_scores(chosen.scores))
        return only_scores(chosen.scores)

    def outcome(self, after: dict[str, float], notice: str) -> Outcome:
        """Return what the run came to."""
        first = self.state.history[0]
        is_better = self.state.best > first["merit"]
        notices = (notice,) if notice else ()
        return Outcome(self.output, only_scores(first), after, is_better, notices)

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
        """Return the epoch whose weights are kept."""
        return next(epoch for epoch in self.state.history if epoch["merit"] == self.state.best)

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
        known = yield from retention_score(model, self.retention_set, self.device)
        scores = {**report.summary(), "memory": known, "error": standard_error(report)}
        if self.fixed:
            scores["validation_loss"] = self._loss(model, *self.fixed)
        first = self.state.history[0] if self.state.history else scores
        return {**scores, "merit": _gain(scores, first) - FORGETTING * max(0.0, first["memory"] - known)}

    @torch.no_grad()
    def _loss(self, model: CellModel, images: Tensor, targets: Tensor) -> float:
        """Return the mean loss of a model on patches."""
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


def learning_rate(step: int, settings: FinetuneSettings) -> float:
    """Return the rate of a step: warm-up for the last layers, again for the whole, a cosine down to 1 %."""
    since = step if step < settings.frozen_steps else step - settings.frozen_steps
    return settings.rate * warm_up(since, settings.warmup_steps) * cosine(step, settings.steps)


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
