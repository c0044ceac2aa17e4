"""Annotated images in memory, with what a model is to learn from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import pi
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.errors import ReadError
from cellwright.core.memory import free_memory
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.folder import Dataset
from cellwright.files.dataset.meta import Region
from cellwright.models import registry
from cellwright.models.protocol import CellModel, MapKind
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import WHOLE, frames, in_lit_colour
from cellwright.ops.geometry.resample import resize, resize_annotation, zoomed
from cellwright.ops.labels import annotate, equivalent_diameters, relabel

MAX_FRAMES = 12  # frames taken from one stack
SLICE_PIXELS = 8_000_000  # of one volume that is learned as such: all slices of a small one
RIM_PX = 3  # of background around masks that may not be all; beyond it nothing is known
SLIVER_PX = 12  # of a cell that a patch cuts off, less is not counted
MEMORY_SHARE = 0.9  # of what is free, that the images of a dataset may take
FARTHEST_ZOOM = 2.0  # images whose cells are this many times beyond the model's range are resized once


class Scale(NamedTuple):
    """The cells' diameter, taken from the annotation where it is None, and when to bring them to the model's.

    That is where they are ``farthest`` times beyond the model's range.
    """

    diameter_px: float | None = None
    farthest: float = FARTHEST_ZOOM


@dataclass(frozen=True, slots=True)
class Sample:
    """An annotated image, ready to be cut into patches."""

    name: str
    group: str
    image: Tensor  # float32 (1 or 3, Y, X), percentile-scaled
    targets: Tensor  # float16 (maps, Y, X), in map units; NaN where nothing is known
    kinds: tuple[MapKind, ...]  # how each channel of the targets follows the image
    labels: Tensor  # int32 (Y, X); 0 where the annotation has no masks
    points: np.ndarray  # float32 (N, 2): centres, in pixels
    diameter_px: float  # median cell diameter; NaN when there is no cell or nothing tells it
    zoom: float = 1.0  # pixels of the sample per pixel of the image it was made from
    count: "Recount | None" = None  # makes the targets of a count again for each patch; None: not learned

    @property
    def n_bytes(self) -> int:
        """Memory that its pixels take."""
        return self.image.nbytes + self.targets.nbytes + self.labels.nbytes


@dataclass(frozen=True, slots=True)
class Recount:
    """Makes the density of a patch from its labels (Y, X); ``channel`` is its place among the targets.

    What is seen of a cell at the edge of an image counts as one cell, and so it has to at that of a patch.
    """

    model: CellModel  # of a family that gives a density
    channel: int

    def __call__(self, labels: Tensor) -> Tensor:
        """Return float (Y, X); slivers of cells are not counted."""
        seen = labels.numpy()
        slivers = np.bincount(seen.ravel()) < SLIVER_PX
        density = self.model.make_density(annotate(relabel(np.where(slivers[seen], 0, seen))))
        return torch.from_numpy(density[0])


def load_samples(
    dataset: Dataset, model: CellModel, *, farthest: float = FARTHEST_ZOOM
) -> Task[list[Sample]]:
    """Read every item of a dataset; a stack gives one sample for each of its frames that has a cell.

    Images whose cells are ``farthest`` times beyond the model's range are resized to its diameter.

    ReadError where they do not fit into the memory that is free.
    """
    samples: list[Sample] = []
    n_counted, left = 0, MEMORY_SHARE * free_memory()
    for done, item in enumerate(dataset.items):
        yield Progress("read", done, len(dataset), f"reading {item.name}")
        left -= sum(sample.n_bytes for sample in samples[n_counted:])
        n_counted = len(samples)
        if left < 0:
            raise ReadError(
                f"The {len(dataset)} images of {dataset.folder} must fit into memory to be learned from; "
                f"{done} of them fill it. Learn from fewer or smaller ones, or close other programs."
            )
        image, truth = item.annotated()
        if model.needs_volumes:
            found = volume_samples(item.name, item.group, (image, truth), model, is_complete=item.is_complete)
            shape = (image.label_shape[-2], image.label_shape[-1])
            samples += [within(sample, item.regions, shape) for sample in found]
            continue
        planes = _planes(image, truth, is_complete=item.is_complete)
        diameter = diameter_of([annotation for _, annotation in planes])
        for index, (plane, annotation) in enumerate(planes):
            name, scale = f"{item.name}:{index}", Scale(diameter, farthest)
            sample = make_sample(name, item.group, plane, annotation, model, scale=scale)
            samples.append(within(sample, item.regions, annotation.shape))
    return samples


def volume_samples(
    name: str,
    group: str,
    volume: tuple[Image, Annotation | Labels],
    model: CellModel,
    *,
    is_complete: bool = True,
) -> list[Sample]:
    """Return slices of a volume and its labels as the model sees them; empty ones teach where cells end.

    Unless every cell of it is annotated, what has no label is not known, and empty slices teach nothing.

    AxesError where the image is not a volume.
    """
    image, truth = volume
    slices = model.frames(image, None)
    assert not isinstance(truth, Annotation)  # volumes are annotated with masks alone
    labels = truth.reshape(-1, *truth.shape[-2:])
    diameter = diameter_of([annotate(relabel(one)) for one in labels])
    n = min(len(labels), max(MAX_FRAMES, SLICE_PIXELS // labels[0].size))
    scaling = intensity.fit_scaling(slices.sample(), model.spec.percentiles)
    samples = []
    for index in np.linspace(0, len(labels) - 1, n).round().astype(int):
        if not is_complete and not labels[index].any():
            continue
        scaled = intensity.apply(scaling, slices.read(int(index), WHOLE))
        annotation = replace(annotate(relabel(labels[index])), is_complete=is_complete)
        samples.append(_sample(f"{name}:{index}", group, scaled, annotation, model, Scale(diameter)))
    return samples


def _planes(
    image: Image, truth: Annotation | Labels, *, is_complete: bool
) -> list[tuple[np.ndarray, Annotation]]:
    """(C, Y, X) planes with their annotation, thinned out: neighbouring frames are nearly the same image.

    Of several channels it is those that are counted in when nothing else is asked for.
    """
    planes = in_lit_colour(frames(image))
    if isinstance(truth, Annotation):
        return [(planes.read(0, WHOLE), truth)]
    annotated = truth.reshape(-1, *truth.shape[-2:])
    filled = [index for index, frame in enumerate(annotated) if frame.any()] or [0]
    chosen = np.unique(np.linspace(0, len(filled) - 1, MAX_FRAMES).round().astype(int))
    found = []
    for frame in (filled[at] for at in chosen):
        annotation = replace(annotate(relabel(annotated[frame])), is_complete=is_complete)
        found.append((planes.read(frame, WHOLE), annotation))
    return found


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
    scaled = scaled_channels(image, model)
    if scale.diameter_px is None:
        scale = Scale(diameter_of([annotation]), scale.farthest)
    return _sample(name, group, scaled, annotation, model, scale)


def scaled_channels(image: np.ndarray, model: CellModel) -> np.ndarray:
    """Return the three colours of an image (C, Y, X), or its first channel, scaled for the model."""
    channels = image[:3]
    if len(channels) < 3:
        channels = image[:1]
    return intensity.apply(intensity.fit_scaling(channels, model.spec.percentiles), channels)


def _sample(
    name: str, group: str, scaled: np.ndarray, annotation: Annotation, model: CellModel, scale: Scale
) -> Sample:
    low, high = model.spec.diameter_range_px
    diameter, zoom = np.nan, 1.0
    if scale.diameter_px is not None:
        diameter = scale.diameter_px
    if diameter > 0 and not low / scale.farthest <= diameter <= high * scale.farthest:
        zoom = model.spec.diameter_px / diameter
        shape = zoomed(annotation.shape, zoom)
        scaled, annotation = resize(scaled, shape), resize_annotation(annotation, shape)
        diameter *= zoom
    targets = model.make_targets(annotation)
    kinds = [model.map_kinds[name] for name, n in model.spec.map_channels.items() for _ in range(n)]
    labels, count = np.zeros(annotation.shape, np.int32), None
    values = np.concatenate([targets[name] for name in model.spec.map_channels])
    if annotation.labels is not None:
        labels = annotation.labels
        if annotation.is_complete:
            count = _recount(model)
        else:
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
        count=count,
    )


def _recount(model: CellModel) -> Recount | None:
    """Return what makes the targets of a count; None where the model, or each part of it, learns none."""
    start = 0
    for part in getattr(model, "models", (model,)):
        if registry.get(part.spec.family).gives == "density":
            return Recount(part, start)  # the density is the first of its maps
        start += sum(part.spec.map_channels.values())
    return None


def within(sample: Sample, regions: Sequence[Region], shape: tuple[int, int]) -> Sample:
    """Return a sample of which nothing is known outside these regions of its image of ``shape`` pixels."""
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
    if not len(areas):
        return float("nan")
    return float(np.median(equivalent_diameters(areas)))


def _areas(annotation: Annotation) -> np.ndarray:
    if annotation.labels is not None:
        areas = np.bincount(annotation.labels.ravel())[1:].astype(np.float32)
        return areas[areas > 0]
    if annotation.boxes is not None:
        return np.asarray(pi / 4 * np.prod(annotation.boxes[:, 1] - annotation.boxes[:, 0], axis=1))
    return np.zeros(0, np.float32)
