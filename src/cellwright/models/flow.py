"""The ``flow`` family: a network that gives flow and cell probability, decoded by gradient tracking.

Source: Lee et al., MEDIAR: Harmony of data-centric and model-centric for multi-modality microscopy,
arXiv:2212.03465 (2022).
"""

import copy
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cellwright.errors import CheckpointError
from cellwright.models.decoders import GatedDecoder
from cellwright.models.encoders import ConvEncoder
from cellwright.models.manet import MANetDecoder
from cellwright.models.mix_transformer import MixTransformer
from cellwright.models.spec import ModelSpec
from cellwright.ops.flow import FlowSettings, flow_to_cells, labels_to_flow
from cellwright.types import Cells, Labels, Maps

FLOW_SCALE = 5.0  # the network gives five times the unit flow, as in the reference
MAP_CHANNELS = {"flow": 2, "probability": 1}

SPECS = {
    "small": ModelSpec(
        family="flow",
        preset="small",
        title="Nuclei and cells in 2D: outlines by gradient tracking",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=16,
        halo=160,  # receptive field 148, rounded up to the divisor
        diameter_px=26.0,
        diameter_range_px=(16.0, 36.0),
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


class SmallNetwork(nn.Module):
    """Half-resolution convolutional network; about two million parameters."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        widths = (16, 40, 80, 192)
        self.encoder = ConvEncoder(in_channels, widths, depths=(0, 1, 2, 2))
        self.decoder = GatedDecoder(widths, widths=(80, 40, 24), depths=(2, 2, 1))
        self.head = nn.Conv2d(24, 4 * sum(MAP_CHANNELS.values()), 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 3, Y, X): 5 dy, 5 dx, logit of the cell probability."""
        return functional.pixel_shuffle(self.head(self.decoder(self.encoder(image))), 2)


class PaperNetwork(nn.Module):
    """MEDIAR-Former; 121,303,587 parameters."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.encoder = MixTransformer(in_channels)
        self.decoder = MANetDecoder(MixTransformer.widths)
        self.flow_head = _paper_head(MAP_CHANNELS["flow"])
        self.cell_head = _paper_head(MAP_CHANNELS["probability"])

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 3, Y, X): 5 dy, 5 dx, logit of the cell probability."""
        x = self.decoder(self.encoder(image))
        return torch.cat([self.flow_head(x), self.cell_head(x)], dim=1)


def _paper_head(n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Mish(inplace=True),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, n_out, 3, padding=1),
    )


NETWORKS: dict[str, type[nn.Module]] = {"small": SmallNetwork, "paper": PaperNetwork}


class FlowModel:
    """A flow network with its loss and its two-way code; see ``models.contract.CellModel``."""

    def __init__(self, spec: ModelSpec, network: nn.Module, sha256: str = "") -> None:
        self.spec = spec
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sha256 = sha256

    def with_network(self, network: nn.Module, *, spec: ModelSpec | None = None, sha256: str = "") -> Self:
        """Return the same model with another network (and spec, and checksum)."""
        return type(self)(spec or self.spec, network, sha256)

    def make_targets(self, labels: Labels) -> Maps:
        """Return unit flow (2, Y, X) and cell mask (1, Y, X) of these labels."""
        return {"flow": labels_to_flow(labels), "probability": (labels > 0)[None].astype(np.float32)}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return BCE(cell logit) + 0.5 MSE(flow, 5 x unit flow); both (B, 3, Y, X)."""
        cell = functional.binary_cross_entropy_with_logits(output[:, 2], targets[:, 2])
        flow = functional.mse_loss(output[:, :2], FLOW_SCALE * targets[:, :2])
        return cell + 0.5 * flow

    def to_maps(self, output: Tensor) -> Tensor:
        """Return unit flow and probability from the raw output; (B, 3, Y, X)."""
        return torch.cat([output[:, :2] / FLOW_SCALE, output[:, 2:].sigmoid()], dim=1)

    def flip(self, output: Tensor, axis: int) -> Tensor:
        """Return the raw output for the flipped image, flipped back; ``axis`` -2 is Y, -1 is X."""
        flipped = output.flip(axis).clone()
        flipped[:, 0 if axis == -2 else 1] *= -1
        return flipped

    def postprocess(self, maps: Maps, settings: FlowSettings) -> Cells:
        """Return the cells in the maps of one frame."""
        return flow_to_cells(maps["flow"], maps["probability"][0], settings)

    def inference_network(self) -> nn.Module:
        """Return a copy of the network for inference, batch normalisation folded into the convolutions."""
        network: nn.Module = copy.deepcopy(self.network).eval()
        for module in network.modules():
            if (
                isinstance(module, nn.Sequential)
                and len(module) > 1
                and isinstance(module[0], nn.Conv2d)
                and isinstance(module[1], nn.BatchNorm2d)
            ):
                module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
        return network


def build(preset: str = "small") -> FlowModel:
    """Return a flow model of this preset with random weights.

    Raises
    ------
    CheckpointError
        No such preset.
    """
    if preset not in SPECS:
        raise CheckpointError(f"Preset of flow must be one of {sorted(SPECS)}; got {preset!r}.")
    spec = SPECS[preset]
    return FlowModel(spec, NETWORKS[preset](spec.in_channels))
