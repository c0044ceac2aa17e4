"""What the same cells could look like under another microscope: changes of intensity, never of shape.

Source: the list of MEDIAR (arXiv:2212.03465), with its two cell-aware augmentations, widened by what
separates one microscope from another: polarity, stain colour, illumination, focus, noise.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

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
    return image * (1 + strength * smooth) if rng.random() < 0.5 else image + 0.5 * strength * (smooth + 1)


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
    """Light of planes out of focus."""
    return image + float(rng.uniform(0.1, 0.6)) * _gaussian(image, float(rng.uniform(6, 15)))


def _coarsen(image: Tensor, rng: Rng) -> Tensor:
    """Detail lost to a lower resolution."""
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
