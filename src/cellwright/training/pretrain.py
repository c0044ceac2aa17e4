"""Pretraining without annotation: images alone in, an encoder out that a training starts from.

Two tasks that need no annotation. ``simclr`` has the encoder tell two views of one place from all others.
``colorize`` has encoder and decoder colour an image of which pieces are missing.

Sources: Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020,
arXiv:2002.05709; Wagner et al., Self-supervised pseudo-colorizing of masked cells, PLoS ONE 18(8) e0290561,
2023, doi:10.1371/journal.pone.0290561.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Image
from cellwright.core.errors import CellwrightError, CheckpointError, ReadError, expecting
from cellwright.core.memory import free_memory
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import check_writable
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.images import read_images
from cellwright.files.json_value import NO_JSON
from cellwright.inference import device as devices
from cellwright.models.checkpoint import load_weights, write_model
from cellwright.models.layers.blocks import PixelHead, match_channels
from cellwright.models.layers.efficientnet_lite import EfficientNetLite, load_imagenet
from cellwright.models.layers.trunk import HeadedNetwork
from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.axes import WHOLE, frames, in_lit_colour, middle_window
from cellwright.training.data.patches import augment, cut_patch
from cellwright.training.data.sampler import one_ahead
from cellwright.training.data.samples import MAX_FRAMES, Sample, scaled_channels
from cellwright.training.run_folder import forget, learned_from
from cellwright.training.settings import PretrainMethod, PretrainSettings
from cellwright.training.state import RunState, check_same_run, first_state, note_epoch, resume_run
from cellwright.training.trainer import epoch_report, half_precision, take_step, warm_cosine, within_memory

PRETRAINED = "pretrained.json"
PLACE = 1.5  # side of the place that two views are cut from, in sides of a view
PROJECTION = (256, 128, 64)  # widths of the layers that SimCLR compares through and that are thrown away
HIDDEN_PX = 12  # side of a hidden piece
HIDDEN_GAP_PX = 6  # between two pieces, and at the edge
HIDDEN_SHARE = 0.5  # of the pieces
MOST_SIDE_PX, LEAST_SIDE_PX = 2048, 128  # of one image that is kept in memory, the least where there are many
MEMORY_SHARE = 0.25  # of what is free, that all images may take
ANY_DIAMETER_PX = (0.0, np.inf)
NIPY_SPECTRAL = (  # red, green and blue at 0, 0.05, ... 1 of the colour map of that name
    (0, 7 / 15, 8 / 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11 / 15, 14 / 15, 1, 1, 1, 13 / 15, 0.8, 0.8),
    (0, 0, 0, 0, 0, 0.4, 0.6, 2 / 3, 2 / 3, 0.6, 11 / 15, 13 / 15, 1, 1, 14 / 15, 0.8, 0.6, 0, 0, 0, 0.8),
    (0, 8 / 15, 0.6, 2 / 3, 13 / 15, 13 / 15, 13 / 15, 2 / 3, 8 / 15, *[0] * 11, 0.8),
)

Plane = TypeVar("Plane", NDArray[Any], Tensor)


class SimClr(nn.Module):
    """An encoder with what compares its coarsest features."""

    def __init__(self, network: HeadedNetwork, in_channels: int, settings: PretrainSettings) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": network.encoder})
        self.in_channels, self.temperature = in_channels, settings.temperature
        with torch.inference_mode():
            n = network.encoder.eval()(torch.zeros(1, in_channels, 64, 64))[-1].shape[1]
        wide, middle, narrow = PROJECTION
        self.projection = nn.Sequential(
            nn.Linear(n, wide), nn.ReLU(), nn.Linear(wide, middle), nn.ReLU(), nn.Linear(middle, narrow)
        )

    def forward(self, views: Tensor) -> Tensor:
        """Return the loss of two views of each place, float (2, B, 3, P, P)."""
        images = match_channels(views.flatten(0, 1), self.in_channels)
        features = self.parts["encoder"](images.to(memory_format=torch.channels_last))[-1]
        projected = self.projection(features.float().mean(dim=(2, 3)))
        first, second = projected.chunk(2)
        return contrastive_loss(first, second, self.temperature)


class Colorize(nn.Module):
    """Encoder and decoder with a head that gives colours."""

    def __init__(self, network: HeadedNetwork, in_channels: int, settings: PretrainSettings) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"encoder": network.encoder, "decoder": network.decoder})
        self.in_channels, self.seed = in_channels, settings.seed
        n = int(network.decoder(network.encoder(torch.zeros(1, in_channels, 64, 64))).shape[1])
        self.head = PixelHead(n, 3)

    def forward(self, views: Tensor) -> Tensor:
        """Return the loss of images, the first of two views, float (2, B, 3, P, P)."""
        images = views[0]
        seen = match_channels(images * visible(images).to(images), self.in_channels)
        features = self.parts["encoder"](seen.to(memory_format=torch.channels_last))
        coloured = self.head(self.parts["decoder"](features))
        return functional.mse_loss(coloured.float(), pseudo_coloured(images))


METHODS: dict[PretrainMethod, type[SimClr] | type[Colorize]] = {"simclr": SimClr, "colorize": Colorize}


def contrastive_loss(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Return the normalised temperature-scaled cross entropy (NT-Xent) of two views, each float (B, n).

    Source: equation 1 of arXiv:2002.05709.
    """
    both = functional.normalize(torch.cat([first, second]), dim=1)
    alike = both @ both.T / temperature
    alike.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(both), device=both.device).roll(len(first))
    return functional.cross_entropy(alike, partner)


def visible(images: Tensor) -> Tensor:
    """Return where images (B, C, Y, X) may be seen, bool (B, 1, Y, X): half of the squares are hidden."""
    n, _, height, width = images.shape
    period = HIDDEN_PX + HIDDEN_GAP_PX
    places = (n, 1, -(-height // period), -(-width // period))
    is_hidden = torch.rand(places, device=images.device) < HIDDEN_SHARE
    square = torch.zeros(period, device=images.device, dtype=torch.bool)
    square[HIDDEN_GAP_PX:] = True
    pieces = torch.kron(is_hidden, square[:, None] & square)
    return ~pieces[..., :height, :width]


def pseudo_coloured(images: Tensor) -> Tensor:
    """Return grey values of images (B, C, Y, X) as colours of nipy_spectral, float (B, 3, Y, X) in 0..1."""
    table = torch.tensor(NIPY_SPECTRAL, device=images.device)
    place = images.float().mean(dim=1).clamp(0, 1) * (table.shape[1] - 1)
    below = place.long().clamp(max=table.shape[1] - 2)
    return torch.lerp(table[:, below], table[:, below + 1], place - below).movedim(0, 1)


def pretrain(
    images: Sequence[ListedImage],
    model: CellModel,
    output: Path,
    settings: PretrainSettings,
    *,
    device: str = "auto",
) -> Task[Path]:
    """Train the encoder of a model on images without annotation, and return the folder with its weights.

    Yields an ``EpochReport`` after each epoch. A run that was stopped resumes after its last epoch. The
    result counts nothing: it is what :func:`start_from` gives to a model that is then trained.

    CheckpointError where the network has no encoder and decoder to speak of, or the run in ``output`` is of
    another one, or began with other settings or images. ReadError where no image can be learned from.
    """
    check_writable(output)
    facts = learned_from(
        images=[listed.name for listed in images], preset=[model.spec.family, model.spec.preset]
    )
    check_same_run(output, settings, facts)
    network = _with_trunk(model)
    samples, left_out = yield from read_unannotated(images, model)
    aside = f" · images that cannot be read or show nothing: {left_out}" if left_out else ""
    torch_device = devices.choose_device(device)
    torch.manual_seed(settings.seed)
    task = METHODS[settings.method](network, model.spec.in_channels, settings)
    state = first_state(task, torch_device, settings.weight_decay)
    state.facts = facts
    resume_run(state, output, settings)
    while state.step < settings.steps:
        yield from within_memory(_epoch(state, samples, settings, torch_device))
        note_epoch(state, output, settings)
        yield epoch_report(state, settings.steps, aside)
    parts = state.average.get_submodule("parts")
    told = {
        "preset": model.spec.preset,
        "parts": sorted(name for name, _ in parts.named_children()),
        "n_images": len(images) - left_out,
        "n_left_out": left_out,
        "settings": asdict(settings),
        "history": state.history,
    }
    write_model(output, parts, PRETRAINED, told, None)
    forget(output)
    return output


def start_from(folder: Path, model: CellModel) -> None:
    """Put the weights of a pretrained encoder, and decoder where there is one, into a model.

    CheckpointError where the folder holds none, or one of another network.
    """
    network = _with_trunk(model)
    what = f"{PRETRAINED} of `cellwright pretrain` in {folder}"
    damaged = (OSError, *NO_JSON, KeyError, TypeError, AttributeError)
    with expecting(CheckpointError, what, "Choose its folder.", *damaged):
        facts = json.loads((folder / PRETRAINED).read_text(encoding="utf-8"))
        preset, names = str(facts["preset"]), [str(name) for name in facts["parts"]]
        parts = nn.ModuleDict({name: network.get_submodule(name) for name in names})
    load_weights(folder, parts, f"the {model.spec.preset} preset (they were trained for {preset})")


def start_from_imagenet(model: CellModel) -> None:
    """Fill the encoder of a ``lite`` or ``deep`` preset with ImageNet weights.

    CheckpointError where the preset has another encoder, or the extra ``pretrain`` is not installed.
    """
    encoder = _with_trunk(model).encoder
    if not isinstance(encoder, EfficientNetLite):
        raise CheckpointError(
            f"ImageNet weights are for the presets lite and deep; got {model.spec.preset}. Choose one."
        )
    load_imagenet(encoder)


def _with_trunk(model: CellModel) -> HeadedNetwork:
    if isinstance(model.network, HeadedNetwork):
        return model.network
    raise CheckpointError(
        f"Pretraining needs a network of encoder, decoder and head; the {model.spec.preset} preset of "
        f"{model.spec.family} is none. Choose the preset small or lite."
    )


def read_unannotated(images: Sequence[ListedImage], model: CellModel) -> Task[tuple[tuple[Sample, ...], int]]:
    """Read images, at most a dozen planes of each, as samples without targets; return how many were left out.

    Those are what cannot be read, and images of one intensity, which teach nothing. Of large images the
    middle is kept, a smaller one where there are too many for the memory.

    CellwrightError where no image can be read, the error is that of the first; or all are of one intensity.
    """
    samples: list[Sample] = []
    left_out = 0
    first_error: CellwrightError | None = None
    side, n_bytes, most_bytes = MOST_SIDE_PX, 0, MEMORY_SHARE * free_memory()
    for done, listed in enumerate(images):
        yield Progress("read", done, len(images), f"reading {listed.name}")
        n_before = len(samples)
        try:
            for image in read_images(listed.path):
                planes = _samples_of(image, model, side)
                samples += [one for one in planes if one.image.amin() < one.image.amax()]
                n_bytes += sum(one.image.nbytes for one in planes)
                while n_bytes > most_bytes and side > LEAST_SIDE_PX:
                    side //= 2
                    samples = [_unlabelled(one.name, _middle(one.image, side).clone()) for one in samples]
                    n_bytes = sum(one.image.nbytes for one in samples)
        except CellwrightError as error:
            first_error = first_error or error
        left_out += len(samples) == n_before
    if samples:
        return tuple(samples), left_out
    if first_error is None and images:
        raise ReadError(
            f"Pretraining needs images with something to see; the {len(images)} that were read have one "
            "intensity throughout. Choose others."
        )
    raise first_error or ReadError("Pretraining needs images; got none. Choose another folder.")


def _samples_of(image: Image, model: CellModel, side: int) -> list[Sample]:
    planes = in_lit_colour(frames(image))
    chosen = np.unique(np.linspace(0, len(planes) - 1, MAX_FRAMES).round().astype(int)).tolist()
    return [_sample(f"{image.name}:{n}", _middle(planes.read(n, WHOLE), side), model) for n in chosen]


def _middle(plane: Plane, side: int) -> Plane:
    """Return the middle of an image (C, Y, X), ``side`` pixels long at most."""
    return plane[(slice(None), *middle_window(plane.shape[1:], side))]


def _sample(name: str, plane: NDArray[Any], model: CellModel) -> Sample:
    return _unlabelled(name, torch.from_numpy(np.ascontiguousarray(scaled_channels(plane, model))))


def _unlabelled(name: str, image: Tensor) -> Sample:
    return Sample(
        name=name,
        group="",
        image=image,
        targets=torch.zeros(0, *image.shape[1:], dtype=torch.half),
        kinds=(),
        labels=torch.zeros(image.shape[1:], dtype=torch.int32),
        points=np.zeros((0, 2), np.float32),
        diameter_px=float("nan"),
    )


def make_views(samples: Sequence[Sample], step: int, settings: PretrainSettings) -> Tensor:
    """Return two views of each of a batch of places, float (2, B, 3, P, P); the same for the same step."""
    rng = np.random.default_rng((settings.seed, step))
    views: list[list[Tensor]] = [[], []]
    for index in rng.integers(len(samples), size=settings.batch_size):
        place = cut_patch(samples[index], round(PLACE * settings.patch_px), ANY_DIAMETER_PX, rng)
        at_place = _unlabelled("", place.image)
        for view in views:
            patch = cut_patch(at_place, settings.patch_px, ANY_DIAMETER_PX, rng)
            view.append(augment(patch.image, patch.labels, rng))
    return torch.stack([torch.stack(view) for view in views])


def _epoch(
    state: RunState, samples: Sequence[Sample], settings: PretrainSettings, torch_device: torch.device
) -> Task[None]:
    end = min(state.step + settings.steps_per_epoch, settings.steps)
    state.losses.clear()
    state.network.train()
    torch.manual_seed(settings.seed + state.step)  # a resumed run hides the same pieces
    for views in one_ahead(lambda step: make_views(samples, step, settings), range(state.step, end)):
        with half_precision(torch_device):
            loss = state.network(views.to(torch_device))
        share = warm_cosine(state.step, settings.steps, settings.warmup_steps)
        take_step(state, loss, settings.rate * share, settings.ema_decay)
        yield Progress("pretrain", state.step, settings.steps, f"loss {state.losses[-1]:.3f}")
