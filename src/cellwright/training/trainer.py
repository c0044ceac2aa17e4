"""Training from a folder of images and labels to a checkpoint folder; the whole recipe on one screen."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.errors import OutOfMemoryError, ReadError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import check_writable
from cellwright.files.dataset.folder import Dataset
from cellwright.inference import device as devices
from cellwright.inference.settings import EngineSettings
from cellwright.models.layers.blocks import match_channels
from cellwright.models.protocol import CellModel
from cellwright.training.data.sampler import (
    WeightedSamples,
    appearance,
    cluster_images,
    embedding,
    make_batch,
    one_ahead,
    sampling_weights,
    simulated_samples,
)
from cellwright.training.data.samples import Sample, load_samples
from cellwright.training.evaluation.evaluate import evaluate
from cellwright.training.run_folder import epochs_in, forget, learned_from, only_scores, selection_score
from cellwright.training.settings import TrainingSettings
from cellwright.training.state import (
    RunState,
    check_same_run,
    first_state,
    keep_epoch,
    names_in_words,
    resume_run,
    write_card,
)

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
    """The same, read into memory."""

    target: tuple[Sample, ...]
    extra: tuple[Sample, ...]
    validation: Dataset


def train(
    data: Data, model: CellModel, output: Path, settings: TrainingSettings, *, device: str = "auto"
) -> Task[Path]:
    """Train a model and return the folder of its best checkpoint (``output``).

    Yields an :class:`EpochReport` after each epoch. A run that was killed resumes after its last epoch
    when it is started again with the same output folder. The best checkpoint is chosen by the mean AP at
    IoU 0.5 of the validation images; without any the last one is kept.

    ReadError where no image has the split ``train``. CheckpointError where the run in the output folder is
    damaged, of another network, or began with other settings.
    """
    check_writable(output)
    material = yield from read_material(data, model, settings)
    folder = yield from fit(material, model, output, settings, device=device)
    _write_card(data, material, model, folder)
    return folder


def _write_card(data: Data, material: Material, model: CellModel, folder: Path) -> None:
    """Write what the finished model of a run learned from, and the epoch that is kept."""
    epochs = epochs_in(folder)
    learned = data.target.select("train").items
    sentences = [f"Trained on images of `{data.target.folder.name}`: {names_in_words(learned)}."]
    sentences += [f"Its first phase saw `{other.folder.name}` too." for other in data.extra]
    checked = "Validated with no images: the last weights are kept, and how good they are is not known."
    if len(material.validation):
        checked = f"Validated with: {names_in_words(material.validation.items)}. The best epoch is kept."
    best = max(reversed(epochs), key=lambda epoch: selection_score(epoch, epoch["step"]))
    write_card(folder, model.spec.title, [*sentences, checked], {"value": only_scores(best)}, epochs)


def read_material(data: Data, model: CellModel, settings: TrainingSettings) -> Task[Material]:
    """Read the training images of a run and draw the simulated ones.

    ReadError where there is no image to train on, or one cannot be read.
    """
    target = yield from load_samples(data.target.select("train"), model)
    if not target:
        raise ReadError(f"Training needs images to learn from, split 'train'; {data.target.folder} has none.")
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
    torch_device = devices.choose_device(device)
    everything = (*material.target, *material.extra)
    kinds = cluster_images(
        [appearance(sample) for sample in everything], settings.n_modalities, settings.seed
    )
    first, second = WeightedSamples(everything, sampling_weights(kinds)), None
    state = first_state(model.network, torch_device, settings.weight_decay)
    state.facts = learned_from(
        images=[[sample.name for sample in samples] for samples in (material.target, material.extra)],
        checked=[item.name for item in material.validation.items],
    )
    check_same_run(output, settings, state.facts)
    resume_run(state, output, settings)
    while state.step < settings.n_steps:
        if state.step >= settings.pretrain_steps and second is None:
            second = _tuning_samples(material, state, settings)
        yield from within_memory(_epoch(state, first, second, model, settings, torch_device))
        scores = {}
        if len(material.validation):
            averaged = model.with_network(copy.deepcopy(state.average))
            engine = EngineSettings(device=device)
            scores = (yield from evaluate(material.validation, averaged, engine=engine)).summary()
        keep_epoch(state, scores, model, output, settings)
        yield epoch_report(state, settings.n_steps)
    forget(output)
    return output


def _tuning_samples(material: Material, state: RunState, settings: TrainingSettings) -> WeightedSamples:
    """Cluster the target's images by what the pretrained encoder sees in them (once in a run)."""
    if state.sampling_weights is None or len(state.sampling_weights) != len(material.target):
        encoder = getattr(state.average, "encoder", None)
        if encoder is None:  # a network without one cannot tell what it sees
            features = [appearance(sample) for sample in material.target]
        else:
            features = [embedding(sample, encoder.eval()) for sample in material.target]
        kinds = cluster_images(features, settings.n_modalities, settings.seed)
        state.sampling_weights = sampling_weights(kinds).tolist()
    return WeightedSamples(material.target, np.asarray(state.sampling_weights))


def _epoch(
    state: RunState,
    first: WeightedSamples,
    second: WeightedSamples | None,
    model: CellModel,
    settings: TrainingSettings,
    torch_device: torch.device,
) -> Task[None]:
    """Train until the next look at the validation images; batches are made one ahead in a thread."""
    end = (state.step // settings.steps_per_epoch + 1) * settings.steps_per_epoch
    if state.step < settings.pretrain_steps:
        end = min(end, settings.pretrain_steps)
    end = min(end, settings.n_steps)
    state.losses.clear()
    torch.manual_seed(settings.seed + state.step)  # a resumed run drops out the same
    for images, targets in _batches(range(state.step, end), first, second, settings):
        state.network.train()
        is_frozen = state.step < settings.frozen_steps
        for part in trunk_of(state.network):  # a frozen trunk keeps its statistics, too
            part.train(not is_frozen).requires_grad_(not is_frozen)
        output = forward(state.network, model, images.to(torch_device))
        loss = model.loss(output, targets.to(torch_device))
        take_step(state, loss, learning_rate(state.step, settings), settings.ema_decay)
        stage = "fine-tune" if state.step > settings.pretrain_steps else "pretrain"
        yield Progress(stage, state.step, settings.n_steps, f"loss {state.losses[-1]:.3f}")


def trunk_of(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a network that come before its last layers: encoder and decoder, if it has them."""
    parts = [getattr(network, name, None) for name in ("encoder", "decoder")]
    return [part for part in parts if isinstance(part, nn.Module)]


def _batches(
    steps: range, first: WeightedSamples, second: WeightedSamples | None, settings: TrainingSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return batches of samples of the first phase, then of the second mixed with some of the first.

    They depend on the number of the step alone: a resumed run sees what it would have seen.
    """

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((settings.seed, step))
        if step < settings.pretrain_steps or second is None:
            return make_batch([(first, settings.batch_size)], settings, rng, exclude=True)
        n_replay = 0
        if len(first.samples) > len(second.samples):
            n_replay = int(rng.binomial(settings.batch_size, settings.replay))
        parts = [(second, settings.batch_size - n_replay), (first, n_replay)]
        return make_batch(parts, settings, rng, exclude=False)

    return one_ahead(batch, steps)


def learning_rate(step: int, settings: TrainingSettings) -> float:
    """Return the rate of a step: warm-up, then a cosine down to a hundredth, once in each phase."""
    if step < settings.pretrain_steps:
        highest, done, total = settings.pretrain_rate, step, settings.pretrain_steps
    else:
        highest, done, total = settings.finetune_rate, step - settings.pretrain_steps, settings.finetune_steps
    return highest * warm_cosine(done, total, settings.warmup_steps)


def warm_cosine(done: int, total: int, warmup_steps: int) -> float:
    """Return the share of the highest learning rate: warm-up, then a cosine down to a hundredth."""
    return warm_up(done, warmup_steps) * cosine(done, total)


def warm_up(done: int, warmup_steps: int) -> float:
    """Return the share of the learning rate after so many steps of a rise."""
    return min(1.0, (done + 1) / (warmup_steps + 1))


def cosine(done: float, total: float) -> float:
    """Return the share of the learning rate on its way down to a hundredth."""
    return 0.505 + 0.495 * math.cos(math.pi * done / max(total, 1))


def forward(network: nn.Module, model: CellModel, images: Tensor) -> Tensor:
    """Return the raw output (B, maps, P, P) for patches (B, 3, P, P), in bfloat16 where that is faster."""
    images = match_channels(images.to(memory_format=torch.channels_last), model.spec.in_channels)
    with half_precision(images.device):
        output: Tensor = network(images)
    return output.float()


def half_precision(device: torch.device) -> torch.autocast:
    """Return the context in which a network learns: in bfloat16 where the device is faster so."""
    is_faster = devices.choose_dtype(device) != torch.float32
    if device.type == "cuda":  # cards that count in float16 may only imitate bfloat16
        is_faster = torch.cuda.is_bf16_supported(including_emulation=False)
    return devices.autocast(device, torch.bfloat16 if is_faster else torch.float32)


def take_step(state: RunState, loss: Tensor, rate: float, decay: float) -> None:
    """Change the weights of a run by one step along the gradient of a loss, and their moving average.

    The learning rate is ``rate`` times what the groups of the optimizer have as ``highest``, 1 without. The
    average forgets faster than by its ``decay`` in the first steps, as in TensorFlow's
    ExponentialMovingAverage: by the number of steps that were taken, this one included.

    SettingsError where the loss is no number: from here on no weight would be one either.
    """
    value = float(loss.detach())
    if not math.isfinite(value):
        raise SettingsError(
            f"The loss must be a finite number; got {value} at step {state.step + 1}. Train with a lower "
            "learning rate, in another folder."
        )
    for group in state.optimizer.param_groups:
        group["lr"] = group.get("highest", 1.0) * rate
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.network.parameters(), GRADIENT_LIMIT)
    state.optimizer.step()
    state.losses.append(value)
    state.step += 1
    share, present = 1 - min(decay, state.step / (state.step + 10)), state.network.state_dict()
    with torch.no_grad():
        for name, averaged in state.average.state_dict().items():
            if averaged.dtype.is_floating_point:
                averaged.lerp_(present[name], share)
            else:
                averaged.copy_(present[name])


def within_memory(epoch: Task[None]) -> Task[None]:
    """Train for an epoch; OutOfMemoryError where memory runs out says what to choose."""
    try:
        yield from epoch
    except (MemoryError, RuntimeError) as error:
        if not devices.is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "The network must fit into memory with a batch that it learns from; they do not. Train with a "
            "smaller batch or patch, a smaller preset or on another device, in another folder."
        ) from error


def epoch_report(state: RunState, total: int, aside: str = "") -> EpochReport:
    """Return the report of the epoch that was noted last, of ``total`` steps in all."""
    epoch = state.history[-1]
    loss, scores = epoch["loss"], only_scores(epoch)
    note = in_words({"loss": loss, **scores}) + aside
    return EpochReport("epoch", state.step, total, note, loss, epoch["rate"], scores)


def in_words(figures: Mapping[str, float]) -> str:
    """Return figures as a line: ``loss 0.123 · score 0.456``."""
    return " · ".join(f"{name} {value:.3f}" for name, value in figures.items())
