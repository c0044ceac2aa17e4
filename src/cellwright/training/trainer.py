"""Training from a folder of images and labels to a checkpoint folder; the whole recipe on one screen."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.errors import ReadError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import check_writable
from cellwright.files.dataset.folder import Dataset
from cellwright.inference import device as devices
from cellwright.inference.settings import EngineSettings
from cellwright.models.layers.blocks import match_channels
from cellwright.models.protocol import CellModel
from cellwright.training.data.modality import amplified, appearance, cluster, embedding
from cellwright.training.data.sampler import Pool, make_batch, one_ahead, simulated_samples
from cellwright.training.data.samples import Sample, load_samples
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.evaluation.report import Report
from cellwright.training.run_folder import forget
from cellwright.training.settings import TrainingSettings
from cellwright.training.state import RunState, keep, new_state, resume

GRADIENT_LIMIT = 5.0


@dataclass(frozen=True)
class EpochReport(Progress):
    """One epoch: mean loss, learning rate and the validation scores (empty without validation images)."""

    loss: float = 0.0
    rate: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """What a run trains on: the dataset itself, and folders that only the first phase sees."""

    target: Dataset
    extra: tuple[Dataset, ...] = ()


@dataclass(frozen=True, slots=True)
class Material:
    """The same, read into memory; made by :func:`read_material`, used by :func:`fit`."""

    target: tuple[Sample, ...]
    extra: tuple[Sample, ...]
    validation: Dataset


def train(
    data: Data, model: CellModel, output: Path, settings: TrainingSettings, *, device: str = "auto"
) -> Task[Path]:
    """Train a model and return the folder of its best checkpoint (``output``).

    Yields an :class:`EpochReport` after each epoch. A run that was killed goes on where its last epoch ended
    when it is started again with the same output folder. The best checkpoint is chosen by the mean AP at
    IoU 0.5 of the validation images; without any the last one is kept.

    Raises
    ------
    ReadError
        No image has the split ``train``.
    WriteError
        The output folder cannot be written.
    CheckpointError
        The run in the output folder is damaged or of another network.
    """
    check_writable(output)
    material = yield from read_material(data, model, settings)
    folder = yield from fit(material, model, output, settings, device=device)
    return folder


def read_material(data: Data, model: CellModel, settings: TrainingSettings) -> Task[Material]:
    """Read the training images of a run and draw the simulated ones."""
    target = yield from load_samples(data.target.select("train"), model)
    if not target:
        raise ReadError(f"Training needs images with the split 'train'; {data.target.folder} has none.")
    extra: list[Sample] = []
    for dataset in data.extra:
        extra += yield from load_samples(dataset.select("train"), model)
    if settings.pretrain_steps:
        extra += yield from simulated_samples(settings.n_simulated, settings.seed, model)
    return Material(tuple(target), tuple(extra), data.target.select("val"))


def fit(
    material: Material, model: CellModel, output: Path, settings: TrainingSettings, *, device: str = "auto"
) -> Task[Path]:
    """Train a model on images in memory; see :func:`train`."""
    check_writable(output)
    place = devices.choose(device)
    pools = _Pools(_pretraining_pool(material, settings))
    state = new_state(model, settings, place)
    resume(state, output)
    while state.step < settings.n_steps:
        if state.step >= settings.pretrain_steps and pools.tune is None:
            pools = replace(pools, tune=_tuning_pool(material, state, settings))
        yield from _epoch(state, pools, model, settings, place)
        report = yield from _look(state, material.validation, model, device)
        keep(state, report.summary() if report else {}, model, output, settings)
        yield _epoch_report(state, settings)
    forget(output)
    return output


@dataclass(frozen=True, slots=True)
class _Pools:
    pretrain: Pool
    tune: Pool | None = None


def _pretraining_pool(material: Material, settings: TrainingSettings) -> Pool:
    """Everything, clustered by simple statistics: there is no trained encoder yet."""
    everything = (*material.target, *material.extra)
    kinds = cluster([appearance(sample) for sample in everything], settings.n_modalities, settings.seed)
    return Pool(everything, amplified(kinds))


def _tuning_pool(material: Material, state: RunState, settings: TrainingSettings) -> Pool:
    """Cluster the target's images by what the pre-trained encoder sees in them (once in a run)."""
    if state.chances is None or len(state.chances) != len(material.target):
        encoder = getattr(state.average, "encoder", None)
        if encoder is None:  # a network without one cannot tell what it sees
            features = [appearance(sample) for sample in material.target]
        else:
            features = [embedding(sample, encoder.eval()) for sample in material.target]
        state.chances = amplified(cluster(features, settings.n_modalities, settings.seed)).tolist()
    return Pool(material.target, np.asarray(state.chances))


def _epoch(
    state: RunState, pools: _Pools, model: CellModel, settings: TrainingSettings, place: torch.device
) -> Task[None]:
    """Train until the next look at the validation images; batches are made one ahead in a thread."""
    end = min(_next_stop(state.step, settings), settings.n_steps)
    state.losses.clear()
    for images, targets in _batches(range(state.step, end), pools, settings):
        _prepare(state.network, is_frozen=state.step < settings.frozen_steps)
        set_rate(state.optimizer, learning_rate(state.step, settings))
        state.losses.append(learn(state, model, images.to(place), targets.to(place)))
        state.step += 1
        average(state, settings.ema_decay)
        stage = "fine-tune" if state.step > settings.pretrain_steps else "pre-train"
        yield Progress(stage, state.step, settings.n_steps, f"loss {state.losses[-1]:.3f}")


def _prepare(network: nn.Module, *, is_frozen: bool) -> None:
    """Set a network up to learn; a frozen trunk keeps its statistics, too."""
    network.train()
    for part in trunk_of(network):
        part.train(not is_frozen).requires_grad_(not is_frozen)


def trunk_of(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that come before its last layers: encoder and decoder, if it has them."""
    parts = [getattr(network, name, None) for name in ("encoder", "decoder")]
    return [part for part in parts if isinstance(part, nn.Module)]


def _next_stop(step: int, settings: TrainingSettings) -> int:
    stop = (step // settings.steps_per_epoch + 1) * settings.steps_per_epoch
    return min(stop, settings.pretrain_steps) if step < settings.pretrain_steps else stop


def _batches(steps: range, pools: _Pools, settings: TrainingSettings) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches that depend on the step's number alone: a resumed run sees what it would have seen."""

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((settings.seed, step))
        if step < settings.pretrain_steps or pools.tune is None:
            return make_batch([(pools.pretrain, settings.batch_size)], settings, rng, exclude=True)
        has_more = len(pools.pretrain.samples) > len(pools.tune.samples)
        n_replay = int(rng.binomial(settings.batch_size, settings.replay)) if has_more else 0
        parts = [(pools.tune, settings.batch_size - n_replay), (pools.pretrain, n_replay)]
        return make_batch(parts, settings, rng, exclude=False)

    return one_ahead(batch, steps)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of a step: warm-up, then a cosine down to a hundredth, once in each phase."""
    if step < settings.pretrain_steps:
        highest, done, total = settings.pretrain_rate, step, settings.pretrain_steps
    else:
        highest, done, total = settings.finetune_rate, step - settings.pretrain_steps, settings.finetune_steps
    warm_up = min(1.0, (done + 1) / (settings.warmup_steps + 1))
    return highest * warm_up * (0.505 + 0.495 * math.cos(math.pi * done / max(total, 1)))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learn(state: RunState, model: CellModel, images: Tensor, targets: Tensor) -> float:
    """Take one step and return its loss."""
    images = images.to(memory_format=torch.channels_last)
    is_half = devices.choose_dtype(images.device) != torch.float32
    with torch.autocast(images.device.type, torch.bfloat16, enabled=is_half):
        output = state.network(match_channels(images, model.spec.in_channels))
    loss = model.loss(output.float(), targets)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), GRADIENT_LIMIT)
    state.optimizer.step()
    return float(loss.detach())


@torch.no_grad()
def average(state: RunState, decay: float) -> None:
    """Move the average weights towards the present ones, faster at the start."""
    rate = 1 - min(decay, state.step / (state.step + 10))
    present = state.network.state_dict()
    for name, value in state.average.state_dict().items():
        if value.dtype.is_floating_point:
            value.lerp_(present[name], rate)
        else:
            value.copy_(present[name])


def _look(state: RunState, validation: Dataset, model: CellModel, device: str) -> Task[Report | None]:
    if not len(validation):
        return None
    judged = model.with_network(copy.deepcopy(state.average))
    report = yield from evaluate(validation, judged, engine=EngineSettings(device=device))
    return report


def _epoch_report(state: RunState, settings: TrainingSettings) -> EpochReport:
    latest = state.history[-1]
    scores = {name: value for name, value in latest.items() if name not in ("step", "loss", "rate")}
    note = " · ".join(
        [f"loss {latest['loss']:.3f}", *(f"{name} {value:.3f}" for name, value in scores.items())]
    )
    return EpochReport("epoch", state.step, settings.n_steps, note, latest["loss"], latest["rate"], scores)
