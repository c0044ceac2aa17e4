"""Annotated images in memory -> random patches, turned, flipped and rescaled together with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, sin
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from cellwright.io.dataset import Dataset
from cellwright.io.dataset_meta import Region
from cellwright.models.contract import CellModel, MapKind
from cellwright.ops import normalize
from cellwright.ops.labels import annotate, equivalent_diameters, relabel
from cellwright.ops.resample import resize, resize_annotation, zoomed
from cellwright.tasks import Progress, Task
from cellwright.types import Annotation, Image, Labels

MAX_FRAMES = 12  # frames taken from one stack
SLICE_PIXELS = 8_000_000  # of one volume that is learned as such: all slices of a small one
RIM_PX = (
    3  # around masks of which it is not known whether they are all: background, beyond it nothing is known
)
SLIVER_PX = 12  # of a cell that a patch cuts off, less is not counted
FARTHEST_ZOOM = 2.0  # images whose cells are this many times beyond the model's range are resized once


class Scale(NamedTuple):
    """The cells' diameter, taken from the annotation where it is None, and when to bring them to the model's.

    That is where they are ``farthest`` times beyond the model's range.
    """

    diameter_px: float | None = None
    farthest: float = FARTHEST_ZOOM


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated image, ready to be cut into patches.

    Parameters
    ----------
    image : float32 (1 or 3, Y, X), percentile-scaled
    targets : float16 (maps, Y, X)
        What the model should give, in map units; not a number where nothing is known.
    kinds
        How each channel of the targets follows the image.
    labels : int32 (Y, X)
        Zero where the annotation has no masks.
    points : float32 (N, 2)
        Centres, in pixels.
    diameter_px
        Median cell diameter; NaN when there is no cell or nothing tells it.
    zoom
        Pixels of the sample per pixel of the image it was made from.
    count
        What makes the targets of a count anew for each patch; None where none is learned.
    """

    name: str
    group: str
    image: Tensor
    targets: Tensor
    kinds: tuple[MapKind, ...]
    labels: Tensor
    points: np.ndarray
    diameter_px: float
    zoom: float = 1.0
    count: "Recount | None" = None


@dataclass(frozen=True, slots=True)
class Recount:
    """Makes the targets of a count from the labels (Y, X) of a patch; ``channels`` are theirs.

    What is seen of a cell at the edge of an image counts as one cell, and so it has to at that of a patch.
    """

    model: CellModel
    channels: slice

    def __call__(self, labels: Tensor) -> Tensor:
        """Return float (maps, Y, X); slivers of cells are not counted."""
        seen = labels.numpy()
        slivers = np.bincount(seen.ravel()) < SLIVER_PX
        maps = self.model.make_targets(annotate(relabel(np.where(slivers[seen], 0, seen))))
        return torch.from_numpy(np.concatenate([maps[name] for name in self.model.spec.map_channels]))


def load_samples(
    dataset: Dataset, model: CellModel, *, farthest: float = FARTHEST_ZOOM
) -> Task[list[Sample]]:
    """Read every item of a dataset; a stack gives one sample for each of its frames that has a cell.

    Images whose cells are ``farthest`` times beyond the model's range are resized to its diameter.
    """
    samples: list[Sample] = []
    for done, item in enumerate(dataset.items):
        yield Progress("read", done, len(dataset), item.name)
        image, truth = item.annotated()
        if model.needs_volumes:
            samples += volume_samples(item.name, item.group, (image, truth), model)
            continue
        planes = _planes(image, truth)
        diameter = diameter_of([annotation for _, annotation in planes])
        for index, (plane, annotation) in enumerate(planes):
            name, scale = f"{item.name}:{index}", Scale(diameter, farthest)
            sample = make_sample(name, item.group, plane, annotation, model, scale=scale)
            samples.append(within(sample, item.regions, annotation.shape))
    return samples


def volume_samples(
    name: str, group: str, volume: tuple[Image, Annotation | Labels], model: CellModel
) -> list[Sample]:
    """Return slices of a volume and its labels as the model sees them; empty ones teach where cells end.

    Raises
    ------
    AxesError
        The image is no volume.
    """
    image, truth = volume
    slices = model.frames(image, None)
    assert not isinstance(truth, Annotation)  # volumes are annotated with masks alone
    labels = truth.reshape(-1, *truth.shape[-2:])
    diameter = diameter_of([annotate(relabel(one)) for one in labels])
    n = min(len(labels), max(MAX_FRAMES, SLICE_PIXELS // labels[0].size))
    scaling = normalize.fit(slices.sample(), model.spec.percentiles)
    samples = []
    for index in np.linspace(0, len(labels) - 1, n).round().astype(int):
        scaled = normalize.apply(scaling, slices.read(int(index), (slice(None), slice(None))))
        annotation = annotate(relabel(labels[index]))
        samples.append(_sample(f"{name}:{index}", group, scaled, annotation, model, Scale(diameter)))
    return samples


def _planes(image: Image, truth: Annotation | Labels) -> list[tuple[np.ndarray, Annotation]]:
    """(C, Y, X) planes with their annotation, thinned out: neighbouring frames are nearly the same image."""
    data = np.asarray(image.data)
    has_channels = "C" in image.axes
    data = np.moveaxis(data, image.axes.index("C"), -3) if has_channels else data[..., None, :, :]
    planes = data.reshape(-1, *data.shape[-3:])
    if isinstance(truth, Annotation):
        return [(planes[0], truth)]
    frames = truth.reshape(-1, *truth.shape[-2:])
    filled = [index for index, frame in enumerate(frames) if frame.any()] or [0]
    chosen = np.unique(np.linspace(0, len(filled) - 1, MAX_FRAMES).round().astype(int))
    return [(planes[filled[i]], annotate(relabel(frames[filled[i]]))) for i in chosen]


def make_sample(
    name: str,
    group: str,
    image: np.ndarray,
    annotation: Annotation,
    model: CellModel,
    *,
    scale: Scale = Scale(),  # noqa: B008 - frozen
) -> Sample:
    """Return the sample of one image (C, Y, X) and its annotation, for the targets of a model.

    An image whose cells are far from the model's diameter is brought to it, as it will be when counted.
    """
    channels = image[:3] if image.shape[0] >= 3 else image[:1]
    scaled = normalize.apply(normalize.fit(channels, model.spec.percentiles), channels)
    if scale.diameter_px is None:
        scale = Scale(diameter_of([annotation]), scale.farthest)
    return _sample(name, group, scaled, annotation, model, scale)


def _sample(
    name: str, group: str, scaled: np.ndarray, annotation: Annotation, model: CellModel, scale: Scale
) -> Sample:
    low, high = model.spec.diameter_range_px
    diameter = float("nan") if scale.diameter_px is None else scale.diameter_px
    zoom = 1.0
    if diameter > 0 and not low / scale.farthest <= diameter <= high * scale.farthest:
        zoom = model.spec.diameter_px / diameter
        shape = zoomed(annotation.shape, zoom)
        scaled, annotation = resize(scaled, shape), resize_annotation(annotation, shape)
        diameter *= zoom
    targets = model.make_targets(annotation)
    kinds = [model.map_kinds[name] for name, n in model.spec.map_channels.items() for _ in range(n)]
    labels = np.zeros(annotation.shape, np.int32) if annotation.labels is None else annotation.labels
    values = np.concatenate([targets[name] for name in model.spec.map_channels])
    if annotation.labels is not None and not annotation.is_complete:
        values[:, ndimage.distance_transform_edt(labels == 0) > RIM_PX] = np.nan
    return Sample(
        name=name,
        group=group,
        image=torch.from_numpy(np.ascontiguousarray(scaled)),
        targets=torch.from_numpy(values).half(),
        kinds=tuple(kinds),
        labels=torch.from_numpy(labels.astype(np.int32)),
        points=annotation.points,
        diameter_px=diameter,
        zoom=zoom,
        count=_recount(model) if annotation.labels is not None and annotation.is_complete else None,
    )


def _recount(model: CellModel) -> Recount | None:
    """Return what makes the targets of a count; None where the model, or each part of it, learns none."""
    start = 0
    for part in getattr(model, "models", (model,)):
        end = start + sum(part.spec.map_channels.values())
        if "density" in part.map_kinds.values():
            return Recount(part, slice(start, end))
        start = end
    return None


def within(sample: Sample, regions: Sequence[Region], shape: tuple[int, int]) -> Sample:
    """Return a sample of which nothing is known outside of these regions of its image of ``shape`` pixels."""
    if not regions:
        return sample
    known = np.zeros(sample.labels.shape, np.bool_)
    zoom = np.array(known.shape) / np.array(shape)
    for corners in regions:
        (top, left), (bottom, right) = (np.array(corners) * zoom).round().astype(int)
        known[top:bottom, left:right] = True
    outside = torch.from_numpy(~known)
    rows = sample.points.round().astype(int).clip(0, np.array(known.shape) - 1)
    return replace(
        sample,
        targets=sample.targets.masked_fill(outside, torch.nan),
        labels=sample.labels.masked_fill(outside, 0),
        count=None,
        points=sample.points[known[tuple(rows.T)]],
    )


def diameter_of(annotations: Sequence[Annotation]) -> float:
    """Return the median diameter of all cells, in pixels; NaN when there is none or nothing tells it."""
    areas = np.concatenate([_areas(annotation) for annotation in annotations])
    return float(np.median(equivalent_diameters(areas))) if len(areas) else float("nan")


def _areas(annotation: Annotation) -> np.ndarray:
    if annotation.labels is not None:
        areas = np.bincount(annotation.labels.ravel())[1:].astype(np.float32)
        return areas[areas > 0]
    if annotation.boxes is not None:
        return np.asarray(pi / 4 * np.prod(annotation.boxes[:, 1] - annotation.boxes[:, 0], axis=1))
    return np.zeros(0, np.float32)


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
        targets[sample.count.channels] = sample.count(labels)
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
    is_quarter_turn = np.isclose(np.abs(view.turn).max(), 1.0)
    unknown = (
        (view.signs < 0).any(dim=0) if is_quarter_turn else torch.ones_like(view.signs[0], dtype=torch.bool)
    )
    targets[upright] = torch.where(unknown, torch.nan, targets[upright])
    for height, width in zip(*[iter(channels.get("size", []))] * 2, strict=True):
        is_swapped = abs(view.turn[0, 0]) < 0.5
        read = [width, height] if is_swapped else [height, width]
        targets[[height, width]] = view.zoom * targets[read]


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
    """Four times of five near a cell; a patch ``reach`` pixels wide stays inside if it can."""
    height, width = sample.labels.shape
    y, x = float(rng.uniform(0, height)), float(rng.uniform(0, width))
    if rng.random() < 0.8 and len(sample.points):
        near = sample.points[rng.integers(len(sample.points))]
        y, x = near[0] + float(rng.normal(0, 40)), near[1] + float(rng.normal(0, 40))
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
