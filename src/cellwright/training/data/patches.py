"""Annotated images in memory -> random patches, turned, flipped and rescaled together with their targets.

Then they may look like those of another microscope: changes of intensity, never of shape. Source: the list of
MEDIAR (arXiv:2212.03465), with its two cell-aware augmentations, widened by what separates one microscope
from another: polarity, stain colour, illumination, focus, noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.models.protocol import MapKind
from cellwright.training.data.samples import Sample

MARGIN_PX = 1  # around what is read of an image, for the blur
KEEP_WHOLE_PX = 196  # cells smaller than this keep their boundary: there is little else of them
Rng = np.random.Generator


def augment(image: Tensor, labels: Tensor, rng: Rng) -> Tensor:
    """Return an image float32 (3, Y, X) as another microscope might have seen it."""
    image = diversify_cells(image, labels, rng)
    for chance, change in CHANGES:
        if rng.random() < chance:
            image = change(image, rng)
    return image.clamp(-0.5, 2.0)


def diversify_cells(image: Tensor, labels: Tensor, rng: Rng) -> Tensor:
    """Change the brightness of a random 40 % of the cells by one random factor."""
    n = int(labels.max())
    if n == 0:
        return image
    factor = torch.ones(n + 1)
    chosen = torch.from_numpy(rng.random(n) < 0.4)
    factor[1:][chosen] = 1.0 + float(rng.uniform(-0.5, 0.7))
    return image * factor[labels.long()]


def exclude_boundaries(labels: Tensor) -> Tensor:
    """Return labels (Y, X) without the pixels where two large cells touch."""
    number = labels.long()
    padded = functional.pad(number[None].float(), (1, 1, 1, 1), mode="replicate")[0].long()
    touching = torch.zeros_like(number, dtype=torch.bool)
    for neighbour in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        touching |= (neighbour != number) & (neighbour > 0)
    is_large = torch.bincount(number.view(-1)) >= KEEP_WHOLE_PX
    return torch.where(touching & is_large[number], 0, labels)


def _gamma(image: Tensor, rng: Rng) -> Tensor:
    return image.clamp_min(0) ** float(np.exp(rng.uniform(-0.8, 0.8)))


def _contrast(image: Tensor, rng: Rng) -> Tensor:
    return image * float(np.exp(rng.uniform(-0.6, 0.4))) + float(rng.uniform(-0.1, 0.25))


def _histogram_shift(image: Tensor, rng: Rng) -> Tensor:
    """Map intensities through a random rising curve with three inner points."""
    inner = np.sort(rng.uniform(0, 1, 3))
    xs = np.array([-0.5, 0, 0.25, 0.5, 0.75, 1, 2])
    ys = np.array([-0.5, 0, *inner, 1, 2])
    return torch.from_numpy(np.interp(image.numpy(), xs, ys).astype(np.float32))


def _noise(image: Tensor, rng: Rng) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(image.shape[1:], dtype=np.float32))
    shot = image.clamp_min(0).sqrt() * float(rng.uniform(0, 0.12))
    return image + noise * (shot + float(rng.uniform(0, 0.1)))


def _blur(image: Tensor, rng: Rng) -> Tensor:
    return _gaussian(image, float(rng.uniform(0.5, 2.0)))


def _sharpen(image: Tensor, rng: Rng) -> Tensor:
    return image + float(rng.uniform(0.5, 2.0)) * (image - _gaussian(image, 1.0))


def _illuminate(image: Tensor, rng: Rng) -> Tensor:
    """Multiply by, or add, a smooth random field."""
    field = torch.from_numpy(rng.uniform(-1, 1, (1, 1, 3, 3)).astype(np.float32))
    smooth = functional.interpolate(field, size=image.shape[1:], mode="bicubic", align_corners=True)[0]
    strength = float(rng.uniform(0.1, 0.5))
    if rng.random() < 0.5:
        return image * (1 + strength * smooth)
    return image + 0.5 * strength * (smooth + 1)


def _invert(image: Tensor, rng: Rng) -> Tensor:
    return 1.0 - image


def _grey(image: Tensor, rng: Rng) -> Tensor:
    weights = torch.from_numpy(rng.dirichlet((2.0, 2.0, 2.0)).astype(np.float32))
    return (image * weights[:, None, None]).sum(dim=0, keepdim=True).expand(3, -1, -1)


def _tint(image: Tensor, rng: Rng) -> Tensor:
    gain = torch.from_numpy(np.exp(rng.normal(0, 0.15, 3)).astype(np.float32))
    shift = torch.from_numpy(rng.normal(0, 0.05, 3).astype(np.float32))
    return image * gain[:, None, None] + shift[:, None, None]


def _haze(image: Tensor, rng: Rng) -> Tensor:
    return image + float(rng.uniform(0.1, 0.6)) * _gaussian(image, float(rng.uniform(6, 15)))


def _coarsen(image: Tensor, rng: Rng) -> Tensor:
    small = functional.interpolate(image[None], scale_factor=float(rng.uniform(0.4, 0.8)), mode="area")
    return functional.interpolate(small, size=image.shape[1:], mode="bilinear", align_corners=False)[0]


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    radius = min(max(1, int(3 * sigma)), image.shape[1] - 1, image.shape[2] - 1)  # as far as a mirror reaches
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = kernel / kernel.sum()
    planes = functional.pad(image[:, None], (radius,) * 4, mode="reflect")
    planes = functional.conv2d(planes, kernel.view(1, 1, -1, 1))
    return functional.conv2d(planes, kernel.view(1, 1, 1, -1))[:, 0]


CHANGES: tuple[tuple[float, Callable[[Tensor, Rng], Tensor]], ...] = (
    (0.15, _invert),
    (0.20, _grey),
    (0.20, _tint),
    (0.35, _gamma),
    (0.20, _histogram_shift),
    (0.15, _haze),
    (0.25, _illuminate),
    (0.30, _contrast),
    (0.20, _blur),
    (0.10, _coarsen),
    (0.15, _sharpen),
    (0.35, _noise),
)


@dataclass(frozen=True, slots=True)
class Patch:
    """A random cut: image float32 (3, P, P), targets float32 (maps, P, P), labels int32 (P, P)."""

    image: Tensor
    targets: Tensor
    labels: Tensor


def cut_patch(
    sample: Sample, size: int, diameters_px: tuple[float, float], rng: np.random.Generator
) -> Patch:
    """Return a patch of a sample under a random turn, flip and zoom.

    The zoom is log-uniform between a half and double, within what keeps the median cell diameter inside
    ``diameters_px``; outside the image its mirror image is read.
    """
    zoom = _random_zoom(sample.diameter_px, diameters_px, rng)
    turn = _random_turn(rng)
    to_source = turn / zoom
    height, width = sample.labels.shape
    centre = _random_centre(sample, size / zoom, rng)
    grid = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    dy, dx = torch.meshgrid(grid, grid, indexing="ij")
    y, sign_y = _mirror(centre[0] + to_source[0, 0] * dy + to_source[0, 1] * dx, height)
    x, sign_x = _mirror(centre[1] + to_source[1, 0] * dy + to_source[1, 1] * dx, width)
    nearest = y.round().long() * width + x.round().long()
    image, labels = _interpolate(sample.image, y, x, zoom), sample.labels.view(-1)[nearest]
    targets = sample.targets.flatten(1)[:, nearest].float()
    _follow(targets, sample.kinds, _View(zoom, turn, torch.stack([sign_y, sign_x])))
    if sample.count:
        targets[sample.count.channel] = sample.count(labels)
    return Patch(image, targets, labels)


@dataclass(frozen=True, slots=True)
class _View:
    """How a patch looks at its source; ``signs`` (2, P, P) are -1 where the source is read mirrored."""

    zoom: float
    turn: np.ndarray
    signs: Tensor


def _follow(targets: Tensor, kinds: tuple[MapKind, ...], view: _View) -> None:
    """Change targets read from the source into those of the patch, in place."""
    channels = {kind: [i for i, one in enumerate(kinds) if one == kind] for kind in set(kinds)}
    back = torch.from_numpy(np.linalg.inv(view.turn)).float()
    for pair in _pairs(channels.get("direction", [])):
        vectors = torch.einsum("ij,jyx->iyx", back, targets[pair] * view.signs)
        targets[pair] = vectors / torch.hypot(*vectors).clamp_min(1e-6)
    if "density" in channels:
        targets[channels["density"]] /= view.zoom**2
    upright = channels.get("upright", []) + channels.get("size", [])
    if not upright:
        return
    unknown = torch.ones_like(view.signs[0], dtype=torch.bool)
    if np.isclose(np.abs(view.turn).max(), 1.0):  # a quarter turn
        unknown = (view.signs < 0).any(dim=0)
    targets[upright] = torch.where(unknown, torch.nan, targets[upright])
    for pair in _pairs(channels.get("size", [])):
        read = pair[::-1] if abs(view.turn[0, 0]) < 0.5 else pair  # height and width are swapped
        targets[pair] = view.zoom * targets[read]


def _pairs(channels: list[int]) -> list[list[int]]:
    """Return the channels of maps that come in two, each two together."""
    return [channels[i : i + 2] for i in range(0, len(channels), 2)]


def _random_zoom(diameter: float, allowed: tuple[float, float], rng: np.random.Generator) -> float:
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    if not diameter > 0:
        return zoom
    low, high = allowed
    return float(np.clip(zoom, min(low / diameter, 1.0), max(high / diameter, 1.0)))


def _random_turn(rng: np.random.Generator) -> np.ndarray:
    is_free = rng.random() < 0.5
    angle = rng.uniform(0, 2 * pi) if is_free else rng.integers(4) * pi / 2
    flip = rng.choice((-1.0, 1.0))
    return np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) @ np.diag([flip, 1.0])


def _random_centre(sample: Sample, reach: float, rng: np.random.Generator) -> tuple[float, float]:
    """Four times of five near a cell; a patch ``reach`` pixels wide stays inside if it can."""
    height, width = sample.labels.shape
    y, x = float(rng.uniform(0, height)), float(rng.uniform(0, width))
    if rng.random() < 0.8 and len(sample.points):
        near = sample.points[rng.integers(len(sample.points))]
        y, x = near[0] + float(rng.normal(0, 40)), near[1] + float(rng.normal(0, 40))
    return _inside(y, reach, height), _inside(x, reach, width)


def _inside(position: float, reach: float, length: int) -> float:
    if reach >= length:
        return length / 2
    return float(np.clip(position, reach / 2, length - reach / 2))


def _mirror(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Positions folded back into 0..length - 1, and the direction in which they run there (1 or -1)."""
    if length == 1:
        return torch.zeros_like(position), torch.ones_like(position)
    period = 2.0 * (length - 1)
    folded = torch.remainder(position, period)
    back = folded > length - 1
    return torch.where(back, period - folded, folded), torch.where(back, -1.0, 1.0)


def _interpolate(image: Tensor, y: Tensor, x: Tensor, zoom: float) -> Tensor:
    """Bilinear values (3, P, P) of an image, blurred first where it is made smaller."""
    top, left = (max(int(at.min()) - MARGIN_PX, 0) for at in (y, x))
    bottom, right = (int(at.max()) + MARGIN_PX + 2 for at in (y, x))
    image, y, x = image[:, top:bottom, left:right], y - top, x - left
    if zoom < 0.75:
        image = functional.avg_pool2d(image[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    height, width = image.shape[1:]
    grid = torch.stack([x / max(width - 1, 1), y / max(height - 1, 1)], dim=-1) * 2 - 1
    values = functional.grid_sample(image[None], grid[None], mode="bilinear", align_corners=True)[0]
    if values.shape[0] == 1:
        return values.expand(3, -1, -1).clone()
    return values
