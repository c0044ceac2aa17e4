"""What families share besides their base class, ``models.protocol.CellModel``."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cellwright.core.data import Annotation, Labels
from cellwright.core.errors import AnnotationError, CheckpointError
from cellwright.models.spec import ModelSpec

POINT_DIAMETER_PX = 20.0  # taken for cells of which only the centre is known


def spec_of(specs: Mapping[str, ModelSpec], preset: str) -> ModelSpec:
    """Return the spec of a preset.

    Raises
    ------
    CheckpointError
        No such preset.
    """
    try:
        return specs[preset]
    except KeyError:
        family = next(iter(specs.values())).family
        raise CheckpointError(f"Preset of {family} must be one of {sorted(specs)}; got {preset!r}.") from None


def labels_in(annotation: Annotation, family: str) -> Labels:
    """Return the masks of an annotation.

    Raises
    ------
    AnnotationError
        It has none.
    """
    if annotation.labels is None:
        given = "points" if annotation.boxes is None else "boxes"
        raise AnnotationError(
            f"{family} learns from masks; got {len(annotation.points)} {given} without masks. Choose "
            "centroid or query, which learn from boxes, or annotate with Labels."
        )
    return annotation.labels


def boxes_in(annotation: Annotation) -> NDArray[np.float32]:
    """Return the boxes of an annotation; of points alone, squares as wide as a common nucleus."""
    if annotation.boxes is not None:
        return annotation.boxes
    middles = annotation.points + np.float32(0.5)
    half = np.float32(POINT_DIAMETER_PX / 2)
    return np.stack([middles - half, middles + half], axis=1)


def known_mean(loss: Callable[..., Tensor], output: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of an elementwise loss over the targets that are numbers; 0 when none is."""
    known = ~targets.isnan()
    losses = loss(output, torch.where(known, targets, 0.0), reduction="none")
    total: Tensor = (losses * known).sum() / known.sum().clamp_min(1)
    return total


def soft_cross_entropy(output: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    """Return the binary cross-entropy of logits less that of a perfect answer: 0 at targets from 0 to 1."""
    floor = functional.binary_cross_entropy(targets, targets, reduction="none")
    excess = functional.binary_cross_entropy_with_logits(output, targets, reduction="none") - floor
    return excess if reduction == "none" else excess.mean()
