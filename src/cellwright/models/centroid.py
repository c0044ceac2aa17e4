"""The ``centroid`` family: a heatmap of cell centres, with height and width read at each centre.

Source: Wagner and Rohr, CellCentroidFormer, arXiv:2206.00338 (2022).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.errors import AnnotationError
from cellwright.models.base import ModelBase, known_mean, soft_cross_entropy, spec_of
from cellwright.models.contract import MapKind
from cellwright.models.spec import ModelSpec
from cellwright.models.trunk import DIVISOR, HALO, TrunkNetwork, deep_head
from cellwright.ops.heatmap import boxes_to_heatmap, boxes_to_sizes
from cellwright.types import Annotation, Maps

MAP_CHANNELS = {"heatmap": 1, "size": 2}
LARGEST_LOG = 4.0  # sizes stay within exp(4) times the model's diameter, and its inverse

SPECS = {
    "small": ModelSpec(
        family="centroid",
        preset="small",
        title="Nuclei and cells in 2D: centres and boxes",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=DIVISOR,
        halo=HALO,
        diameter_px=26.0,
        diameter_range_px=(16.0, 36.0),
    ),
}


class CentroidModel(ModelBase):
    """A centroid network with its loss and its two-way code; see ``models.contract.CellModel``."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"heatmap": "upright", "size": "size"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return heatmap (1, Y, X) and size (2, Y, X) in pixels; the size is unknown between the cells."""
        if annotation.boxes is None:
            raise AnnotationError(
                f"{self.spec.family} learns from boxes or masks; got {len(annotation.points)} points. Choose "
                "density, or annotate with Shapes or Labels."
            )
        heatmap = boxes_to_heatmap(annotation.boxes, annotation.shape)
        size = boxes_to_sizes(annotation.boxes, annotation.shape)
        if not annotation.is_complete:
            heatmap[heatmap == 0] = np.nan
        return {"heatmap": heatmap, "size": np.where(size > 0, size, np.float32(np.nan))}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return cross-entropy(heatmap) + Huber(log size); both (B, 3, Y, X)."""
        heatmap = known_mean(soft_cross_entropy, output[:, :1], targets[:, :1])
        size = known_mean(
            functional.huber_loss, output[:, 1:], (targets[:, 1:] / self.spec.diameter_px).log()
        )
        return heatmap + size

    def to_maps(self, output: Tensor) -> Tensor:
        """Return heatmap (0 to 1) and size (pixels) from the raw output; (B, 3, Y, X)."""
        size = self.spec.diameter_px * output[:, 1:].clamp(-LARGEST_LOG, LARGEST_LOG).exp()
        return torch.cat([output[:, :1].sigmoid(), size], dim=1)


def build(preset: str = "small") -> CentroidModel:
    """Return a centroid model of this preset with random weights.

    Raises
    ------
    CheckpointError
        No such preset.
    """
    spec = spec_of(SPECS, preset)
    return CentroidModel(spec, TrunkNetwork(deep_head(sum(MAP_CHANNELS.values())), spec.in_channels))
