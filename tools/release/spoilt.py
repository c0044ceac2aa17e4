"""Patches that nobody has photographed: fields without cells, composites of several colours, poorer images,
cells that are drawn out.

A model that has never seen an empty field finds cells in its noise, and one that has seen grey images alone
takes the colour of a neighbour for a cell. One that has seen nuclei in one colour of several leaves out those
in the others, and one that has seen round cells alone finds none that are eight times as long as wide.
"""

from io import BytesIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.intensity import HIGHEST, LOWEST
from cellwright.ops.labels import annotate, relabel
from cellwright.training.data.samples import Sample, Scale, make_sample
from tools.release.changes import Known, on_even_scale, poorer, resized

EMPTY_SHARE, TWO_COLOURS_SHARE, BODIES_SHARE = 0.025, 0.065, 0.05  # of the patches
DARK = 0.35  # median intensity below which a grey patch may be one channel of a composite
COLOURS = ((2,), (2,), (0,), (1,), (1, 2), (0, 2))  # channels in which the nuclei are, blue most often
RATIOS = (2.0, 10.0)  # of length to width of cells that are drawn out
WIDTHS_PX = (7.0, 20.0)
DRAWN_OUT_PX = 384  # side of the image of such cells
WIDE = Scale(farthest=3.0)
COARSE_SIDE = 24  # of the mottles of a cell body, in pixels of which a patch has as many on a side


def with_spoilt(
    images: Tensor, targets: Tensor, of_nothing: Tensor, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return patches (B, 3, Y, X) and their targets (B, C, Y, X), some of them changed in place.

    The first targets are those of ``flow``; ``of_nothing`` (C, 1, 1) are those of a field without cells.
    """
    for number in range(len(images)):
        draw = rng.random()
        if draw < EMPTY_SHARE:
            empty = np.stack([empty_field(rng, images.shape[-1])] * 3)
            images[number] = torch.from_numpy(empty).to(images.dtype)
            targets[number] = of_nothing
            continue
        patch = images[number].float()
        if not _is_grey_on_dark(patch):
            continue
        cells = (targets[number, 2].nan_to_num() > 0.5).float()
        if draw < EMPTY_SHARE + TWO_COLOURS_SHARE:
            images[number] = two_coloured(patch[0], cells, rng).to(images.dtype)
        elif draw < EMPTY_SHARE + TWO_COLOURS_SHARE + BODIES_SHARE:
            images[number] = with_bodies(patch[0], cells, rng).to(images.dtype)
    return images, targets


def with_poorer(images: Tensor, share: float, rng: np.random.Generator) -> Tensor:
    """Return patches (B, 3, Y, X) of which a share is changed in place, see ``changes.poorer``."""
    for number in range(len(images)):
        if rng.random() < share:
            patch = images[number].float()
            seen = patch[0] if _is_grey(patch) else patch.movedim(0, -1)
            no_labels = np.zeros(seen.shape[:2], np.int32)
            changed = poorer(rng)(Known(seen.numpy(), no_labels), rng)
            assert changed is not None
            pixels = torch.from_numpy(on_even_scale(changed.pixels)).clamp(LOWEST, HIGHEST)
            images[number] = pixels if pixels.ndim == 2 else pixels.movedim(-1, 0)
    return images


def drawn_out(sample: Sample, model: CellModel, rng: np.random.Generator) -> Sample | None:
    """Return a piece of a sample in which cells are long and narrow; None where it is not all annotated."""
    ratio, width_px = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (RATIOS, WIDTHS_PX))
    zooms = np.array([width_px, width_px * ratio]) / sample.diameter_px
    size = np.array(sample.labels.shape)
    piece = np.minimum(size, DRAWN_OUT_PX / zooms).astype(int)
    top, left = rng.integers(0, size - piece + 1)
    cut = (slice(top, top + piece[0]), slice(left, left + piece[1]))
    labels = sample.labels[cut].numpy()
    if not labels.any() or sample.targets[:, *cut].isnan().all(dim=0).any():
        return None
    pixels = sample.image[:, *cut].movedim(0, -1).numpy()
    changed = resized(*zooms)(Known(pixels, labels), rng)
    image, turned = np.moveaxis(changed.pixels, -1, 0), relabel(changed.labels)
    if rng.random() < 0.5:
        image, turned = image.swapaxes(1, 2), turned.T
    name = f"{sample.name}, {ratio:.1f} times as long"
    annotation = annotate(np.ascontiguousarray(turned))
    return make_sample(name, sample.group, np.ascontiguousarray(image), annotation, model, scale=WIDE)


def _is_grey_on_dark(patch: Tensor) -> bool:
    """Whether a patch (3, Y, X) may be one channel of a composite."""
    return _is_grey(patch) and float(patch[0].median()) < DARK


def _is_grey(patch: Tensor) -> bool:
    return bool((patch.amax(dim=0) - patch.amin(dim=0)).max() < 1e-3)


def empty_field(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Return a field (side, side) without cells, 0 to 1: noise, uneven light, blur and blocks of JPEG."""
    kind = rng.integers(4)
    field = rng.normal(0, 1, (side, side)).astype(np.float32)
    if kind == 1:
        field = rng.poisson(rng.uniform(0.3, 8), (side, side)).astype(np.float32)
    if rng.random() < 0.4:
        field = ndimage.gaussian_filter(field, rng.uniform(0.4, 3))
        field /= field.std() + 1e-6
    y, x = np.mgrid[:side, :side] / side - 0.5
    field = field + rng.normal(0, 1.5) * y + rng.normal(0, 1.5) * x + rng.normal(0, 2) * (y**2 + x**2)
    if kind >= 2:
        level, strength = rng.uniform(5, 200), rng.uniform(0.7, 8)
        bytes_ = np.clip(level + strength * field, 0, 255).astype(np.uint8)
        packed = BytesIO()
        Picture.fromarray(bytes_).save(packed, "JPEG", quality=int(rng.integers(8, 90)))
        field = np.asarray(Picture.open(packed), np.float32)
    low, high = np.percentile(field, [1, 99.8])
    field = np.clip((field - low) / max(high - low, 1e-6), 0, 1)
    if rng.random() < 0.15:
        field = 1 - field
    return field.astype(np.float32)


def two_coloured(nuclei: Tensor, cells: Tensor, rng: np.random.Generator) -> Tensor:
    """Return an RGB patch (3, Y, X): each of the nuclei (Y, X) in one of two colours, or in both."""
    labels, n_nuclei = ndimage.label(cells.numpy())
    if n_nuclei == 0:
        return nuclei.expand(3, -1, -1)
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    owner = labels[tuple(nearest)] - 1
    bleeding = rng.uniform(0, 0.25) if rng.random() < 0.4 else 0.0
    is_first = rng.random(n_nuclei) < rng.uniform(0.1, 0.9)
    strengths = np.stack([np.where(is_first, 1, bleeding), np.where(is_first, bleeding, 1)])
    is_in_both = rng.random(n_nuclei) < rng.choice([0, 0, 0.25])
    strengths[:, is_in_both] = rng.uniform(0.4, 1, (2, int(is_in_both.sum())))
    first, second, rest = rng.permutation(3) if rng.random() < 0.5 else (*rng.permutation(2), 2)
    patch = torch.zeros((3, *nuclei.shape))
    for channel, strength in zip((first, second), strengths, strict=True):
        shown = torch.from_numpy(strength[owner]).float()
        patch[int(channel)] = nuclei * shown * float(rng.uniform(0.6, 1))
    if rng.random() < 0.3:
        patch[int(rest)] = nuclei * float(rng.uniform(0, 1))
    return patch


def with_bodies(nuclei: Tensor, cells: Tensor, rng: np.random.Generator) -> Tensor:
    """Return an RGB patch (3, Y, X): nuclei (Y, X) in one colour, bodies around them in others."""
    bodies = _bodies(cells, rng)
    own = COLOURS[rng.integers(len(COLOURS))]
    rest = [channel for channel in range(3) if channel not in own]
    theirs = [channel for channel in rest if rng.random() < 0.7] or rest[:1]
    patch = torch.zeros((3, *nuclei.shape))
    patch[list(own)] = nuclei
    patch[theirs] = bodies
    return patch


def _bodies(cells: Tensor, rng: np.random.Generator) -> Tensor:
    """Return cell bodies, 0 to 1: what is near a nucleus, mottled, some hollow."""
    around, soft = int(rng.integers(3, 16)), int(rng.integers(1, 5))
    bodies = functional.max_pool2d(cells[None, None], 2 * around + 1, 1, around)
    bodies = functional.avg_pool2d(bodies, 2 * soft + 1, 1, soft)[0, 0]
    coarse = torch.from_numpy(rng.normal(0, 1, (1, 1, COARSE_SIDE, COARSE_SIDE)).astype(np.float32))
    mottles = functional.interpolate(coarse, size=cells.shape, mode="bicubic")[0, 0]
    fine = torch.from_numpy(rng.normal(0, 1, tuple(cells.shape)).astype(np.float32))
    bodies = bodies * float(rng.uniform(0.2, 1)) * (1 + float(rng.uniform(0, 0.5)) * mottles) + 0.03 * fine
    bodies = bodies.clamp(0, 1)
    if rng.random() < 0.25:
        bodies = bodies * (1 - cells)
    return bodies
