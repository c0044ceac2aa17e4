"""The ``flow`` family: a network that gives flow and cell probability, decoded by gradient tracking.

Source: Lee et al., MEDIAR: Harmony of data-centric and model-centric for multi-modality microscopy,
arXiv:2212.03465 (2022).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Maps
from cellwright.models.layers.blocks import PixelHead
from cellwright.models.layers.trunk import FEATURES, network_of, trained_specs
from cellwright.models.protocol import CellModel, MapKind, known_mean, labels_in, spec_of
from cellwright.models.reference.mediar import MediarFormer
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells, labels_to_flow

FLOW_SCALE = 5.0  # the network gives five times the unit flow, as in the reference
MAP_CHANNELS = {"flow": 2, "probability": 1}

SPECS = {
    **trained_specs(
        "flow",
        "Nuclei and cells in 2D: outlines by gradient tracking",
        MAP_CHANNELS,
        small_px=(16.0, 36.0),
        lite_px=(14.0, 50.0),
    ),
    "paper": ModelSpec(
        family="flow",
        preset="paper",
        title="MEDIAR-Former: Mix Transformer b5 and MA-Net (architecture only)",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=32,
        halo=128,  # the overlap of the reference; attention sees the whole tile
        percentiles=(0.0, 99.5),
    ),
}


def flow_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Return BCE(cell logit) + 0.5 MSE(flow, 5 x unit flow) where known; both (B, 3, Y, X)."""
    cell = known_mean(functional.binary_cross_entropy_with_logits, output[:, 2], targets[:, 2])
    flow = known_mean(functional.mse_loss, output[:, :2], FLOW_SCALE * targets[:, :2])
    return cell + 0.5 * flow


def flow_maps(output: Tensor) -> Tensor:
    """Return unit flow and probability from the raw output; (B, 3, Y, X)."""
    return torch.cat([output[:, :2] / FLOW_SCALE, output[:, 2:].sigmoid()], dim=1)


class FlowModel(CellModel):
    """A flow network with its loss and its two-way code."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"flow": "direction", "probability": "scalar"}
    takes_volumes = True

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return unit flow (2, Y, X) and cell mask (1, Y, X) of the masks."""
        labels = labels_in(annotation, self.spec.family)
        return {"flow": labels_to_flow(labels), "probability": (labels > 0)[None].astype(np.float32)}

    loss = staticmethod(flow_loss)
    to_maps = staticmethod(flow_maps)

    def postprocess(self, maps: Maps, settings: FlowSettings) -> Cells:
        """Return the cells in the maps of one frame."""
        return flow_to_cells(maps["flow"], maps["probability"][0], settings)


def build(preset: str = "small") -> FlowModel:
    """Return a flow model of this preset with random weights."""
    spec = spec_of(SPECS, preset)
    if preset == "paper":
        return FlowModel(spec, MediarFormer(spec.in_channels))
    head = PixelHead(FEATURES, sum(MAP_CHANNELS.values()))
    return FlowModel(spec, network_of(preset, head, spec.in_channels))
