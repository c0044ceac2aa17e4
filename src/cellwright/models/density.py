"""The ``density`` family: a map whose integral is the count, for cells that nothing can separate.

Source: the targets and the loss of github.com/Sallamsaka/cellcounter.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.models.base import ModelBase, spec_of
from cellwright.models.contract import MapKind
from cellwright.models.spec import ModelSpec
from cellwright.models.trunk import DIVISOR, HALO, TrunkNetwork, deep_head
from cellwright.ops.density import cells_to_density
from cellwright.types import Annotation, Maps

MAP_CHANNELS = {"density": 1}
UNIT = 100.0  # the network gives cells per 100 pixels
LOG_SCALE = 10_000.0  # densities this many times smaller than 1 count as much as their size
POOLS = ((4, 0.20), (8, 0.35), (16, 0.45))  # side of a square in pixels, weight of the shape of the density
COUNT_WEIGHT = 0.25

SPECS = {
    "small": ModelSpec(
        family="density",
        preset="small",
        title="Cells that cannot be separated in 2D: their density and number",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=DIVISOR,
        halo=HALO,
        diameter_px=26.0,
        diameter_range_px=(16.0, 36.0),
    ),
}


class DensityModel(ModelBase):
    """A density network with its loss and its targets; see ``models.contract.CellModel``."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"density": "density"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the density (1, Y, X) in cells per pixel; unknown where the annotation is not complete."""
        if not annotation.is_complete:
            return {"density": np.full((1, *annotation.shape), np.nan, np.float32)}
        return {"density": cells_to_density(annotation.points, _areas(annotation), annotation.shape)}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of pixels + of shape + a quarter of that of the count; both (B, 1, Y, X)."""
        known = ~targets.flatten(1).isnan().any(dim=1)
        if not known.any():
            return 0.0 * output.sum()
        found, true = self.to_maps(output[known]), targets[known]
        pixels = ((1 + LOG_SCALE * found).log() - (1 + LOG_SCALE * true).log()).abs().mean()
        count = functional.smooth_l1_loss(found.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3)))
        return pixels + _shape_loss(found, true) + COUNT_WEIGHT * count

    def to_maps(self, output: Tensor) -> Tensor:
        """Return cells per pixel from the raw output; (B, 1, Y, X)."""
        return functional.softplus(output) / UNIT


def _areas(annotation: Annotation) -> np.ndarray:
    if annotation.labels is not None:
        n = len(annotation.points)
        return np.bincount(annotation.labels.ravel(), minlength=n + 1)[1 : n + 1].astype(np.float32)
    if annotation.boxes is not None:
        return np.pi / 4 * np.prod(annotation.boxes[:, 1] - annotation.boxes[:, 0], axis=1)
    return np.full(len(annotation.points), np.pi / 4 * POINT_DIAMETER_PX**2, np.float32)


POINT_DIAMETER_PX = 20.0  # taken for cells of which only the centre is known


def _shape_loss(found: Tensor, true: Tensor) -> Tensor:
    """How differently the two densities are spread, whatever their sums, at three scales."""
    filled = true.sum(dim=(1, 2, 3)) > 1e-6
    if not filled.any():
        return 0.0 * found.sum()
    total = found.new_zeros(())
    for side, weight in POOLS:
        spreads = []
        for density in (found[filled], true[filled]):
            pooled = functional.avg_pool2d(density, side).flatten(1)
            spreads.append(pooled / pooled.sum(dim=1, keepdim=True).clamp_min(1e-12))
        total = total + weight * (spreads[0] - spreads[1]).abs().sum(dim=1).mean()
    return total


def build(preset: str = "small") -> DensityModel:
    """Return a density model of this preset with random weights.

    Raises
    ------
    CheckpointError
        No such preset.
    """
    spec = spec_of(SPECS, preset)
    model = DensityModel(spec, TrunkNetwork(deep_head(1), spec.in_channels))
    torch.nn.init.constant_(model.network.head[-1].bias, -3.0)  # few cells, as in most images
    return model
