"""Annotated images in memory -> random patches, turned, flipped and rescaled together with their targets."""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.models.protocol import MapKind
from cellwright.training.data.samples import Sample

MARGIN_PX = 1  # around what is read of an image, for the blur


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
    for direction in zip(*[iter(channels.get("direction", []))] * 2, strict=True):
        pair = list(direction)
        vectors = torch.einsum(
            "ij,jyx->iyx", torch.from_numpy(np.linalg.inv(view.turn)).float(), targets[pair] * view.signs
        )
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
    for height, width in zip(*[iter(channels.get("size", []))] * 2, strict=True):
        read = [height, width]
        if abs(view.turn[0, 0]) < 0.5:  # they are swapped
            read = [width, height]
        targets[[height, width]] = view.zoom * targets[read]


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
