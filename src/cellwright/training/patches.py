"""Annotated images in memory -> random patches, turned, flipped and rescaled together with their flow."""

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.io.dataset import Dataset
from cellwright.ops import normalize
from cellwright.ops.flow import labels_to_flow
from cellwright.ops.labels import equivalent_diameters, measure
from cellwright.tasks import Progress, Task
from cellwright.types import Image, Labels

MAX_FRAMES = 12  # frames taken from one stack


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated image, ready to be cut into patches.

    Parameters
    ----------
    image : float32 (1 or 3, Y, X), percentile-scaled
    flow : float16 (2, Y, X), unit flow
    labels : int32 (Y, X)
    diameter_px
        Median cell diameter; NaN when there is no cell.
    """

    name: str
    group: str
    image: Tensor
    flow: Tensor
    labels: Tensor
    diameter_px: float


def load_samples(dataset: Dataset, percentiles: tuple[float, float]) -> Task[list[Sample]]:
    """Read every item of a dataset; a stack gives one sample for each of its frames that has a cell."""
    samples: list[Sample] = []
    for done, item in enumerate(dataset.items):
        yield Progress("read", done, len(dataset), item.name)
        image, labels = item.read()
        for index, (plane, truth) in enumerate(_planes(image, labels)):
            samples.append(make_sample(f"{item.name}:{index}", item.group, plane, truth, percentiles))
    return samples


def _planes(image: Image, labels: Labels) -> list[tuple[np.ndarray, Labels]]:
    """(C, Y, X) planes with their labels, thinned out: neighbouring frames are nearly the same image."""
    data = np.asarray(image.data)
    has_channels = "C" in image.axes
    data = np.moveaxis(data, image.axes.index("C"), -3) if has_channels else data[..., None, :, :]
    planes = data.reshape(-1, *data.shape[-3:])
    frames = labels.reshape(-1, *labels.shape[-2:])
    filled = [index for index, frame in enumerate(frames) if frame.any()] or [0]
    chosen = np.unique(np.linspace(0, len(filled) - 1, MAX_FRAMES).round().astype(int))
    return [(planes[filled[i]], frames[filled[i]]) for i in chosen]


def make_sample(
    name: str, group: str, image: np.ndarray, labels: Labels, percentiles: tuple[float, float]
) -> Sample:
    """Return the sample of one image (C, Y, X) and its labels (Y, X)."""
    channels = image[:3] if image.shape[0] >= 3 else image[:1]
    scaled = normalize.apply(normalize.fit(channels, percentiles), channels)
    areas = measure(labels).areas
    areas = areas[areas > 0]
    return Sample(
        name=name,
        group=group,
        image=torch.from_numpy(np.ascontiguousarray(scaled)),
        flow=torch.from_numpy(labels_to_flow(labels)).half(),
        labels=torch.from_numpy(labels.astype(np.int32)),
        diameter_px=float(np.median(equivalent_diameters(areas))) if len(areas) else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class Patch:
    """A random cut: image float32 (3, P, P), unit flow float32 (2, P, P), labels int32 (P, P)."""

    image: Tensor
    flow: Tensor
    labels: Tensor


def cut_patch(
    sample: Sample, size: int, diameters_px: tuple[float, float], rng: np.random.Generator
) -> Patch:
    """Return a patch of a sample under a random turn, flip and zoom.

    The zoom is log-uniform between a half and double, within what keeps the median cell diameter inside
    ``diameters_px``; outside the image its mirror image is read.
    """
    zoom = _random_zoom(sample.diameter_px, diameters_px, rng)
    to_source = _random_turn(rng) / zoom
    height, width = sample.labels.shape
    centre = _random_centre(sample, size / zoom, rng)
    grid = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
    dy, dx = torch.meshgrid(grid, grid, indexing="ij")
    y, sign_y = _mirror(centre[0] + to_source[0, 0] * dy + to_source[0, 1] * dx, height)
    x, sign_x = _mirror(centre[1] + to_source[1, 0] * dy + to_source[1, 1] * dx, width)
    nearest = y.round().long() * width + x.round().long()
    source_flow = sample.flow.view(2, -1)[:, nearest].float() * torch.stack([sign_y, sign_x])
    to_patch = torch.from_numpy(np.linalg.inv(to_source)).float()
    flow = torch.einsum("ij,jyx->iyx", to_patch, source_flow)
    flow = flow / flow.norm(dim=0, keepdim=True).clamp_min(1e-6)
    return Patch(_interpolate(sample.image, y, x, zoom), flow, sample.labels.view(-1)[nearest])


def _random_zoom(diameter: float, allowed: tuple[float, float], rng: np.random.Generator) -> float:
    zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0))))
    if not diameter > 0:
        return zoom
    low, high = allowed
    return float(np.clip(zoom, min(low / diameter, 1.0), max(high / diameter, 1.0)))


def _random_turn(rng: np.random.Generator) -> np.ndarray:
    angle = rng.uniform(0, 2 * pi) if rng.random() < 0.5 else rng.integers(4) * pi / 2
    flip = rng.choice((-1.0, 1.0))
    return np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]]) @ np.diag([flip, 1.0])


def _random_centre(sample: Sample, reach: float, rng: np.random.Generator) -> tuple[float, float]:
    """Four times of five near a labelled pixel; a patch ``reach`` pixels wide stays inside if it can."""
    height, width = sample.labels.shape
    y, x = float(rng.uniform(0, height)), float(rng.uniform(0, width))
    if rng.random() < 0.8:
        for _ in range(20):
            near_y, near_x = int(rng.integers(height)), int(rng.integers(width))
            if sample.labels[near_y, near_x]:
                y, x = near_y + float(rng.normal(0, 40)), near_x + float(rng.normal(0, 40))
                break
    return _inside(y, reach, height), _inside(x, reach, width)


def _inside(position: float, reach: float, length: int) -> float:
    return length / 2 if reach >= length else float(np.clip(position, reach / 2, length - reach / 2))


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
    if zoom < 0.75:
        image = functional.avg_pool2d(image[None], 3, stride=1, padding=1, count_include_pad=False)[0]
    height, width = image.shape[1:]
    grid = torch.stack([x / max(width - 1, 1), y / max(height - 1, 1)], dim=-1) * 2 - 1
    values = functional.grid_sample(image[None], grid[None], mode="bilinear", align_corners=True)[0]
    return values.expand(3, -1, -1).clone() if values.shape[0] == 1 else values
