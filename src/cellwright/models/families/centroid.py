"""The ``centroid`` family: a heatmap of cell centres, with height and width read at each centre.

Heights and widths are in pixels, not relative to the image as in the reference: a tile's share of a cell
depends on how the image is cut into tiles, the cell's pixels do not. They are learned as logarithms.

Source: Wagner and Rohr, CellCentroidFormer, arXiv:2206.00338 (2022).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Maps
from cellwright.models.layers.blocks import MobileViTBlock
from cellwright.models.layers.efficientnet import V2_S, EfficientNetTrunk
from cellwright.models.layers.trunk import deep_head, network_of, trained_specs
from cellwright.models.protocol import (
    CellModel,
    MapKind,
    boxes_in,
    known_mean,
    soft_cross_entropy,
    spec_of_preset,
)
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.heatmap import CentroidSettings, boxes_to_heatmap, boxes_to_sizes, heatmap_to_cells

MAP_CHANNELS = {"heatmap": 1, "size": 2}
NECK = (128, 64)  # channels of the paper preset's attention; the publication names none
HEADS = (64, 48, 32)  # channels of its heads after each upsampling
LAST = 32  # channels that a head's maps are read from
NORM_EPS = 1e-3
LARGEST_LOG = 4.0  # sizes stay within exp(4) times the model's diameter, and its inverse

SPECS = {
    **trained_specs(
        "centroid",
        "Nuclei and cells in 2D: centres and boxes",
        MAP_CHANNELS,
        small_px=(10.0, 60.0),  # larger ones are measured, then shrunk
        lite_px=(10.0, 60.0),
    ),
    "paper": ModelSpec(
        family="centroid",
        preset="paper",
        title="CellCentroidFormer: EfficientNetV2-S with MobileViT blocks (architecture only)",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=16,
        halo=128,  # a third of the reference's tile; attention sees the whole tile
        percentiles=(0.0, 100.0),
    ),
}


class CellCentroidFormer(nn.Module):
    """CellCentroidFormer; 10,589,595 numbers, of which the statistics of batch normalisation are not trained.

    The reference leaves its widths open; these are the smallest it was tried with. Memory and time of its
    attention grow with the square of a tile's area: 384 pixels a side are 2,304 tokens.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.encoder = EfficientNetTrunk(V2_S, in_channels)
        self.neck = nn.Sequential(
            MobileViTBlock(self.encoder.widths[-1], NECK[0]),
            *_neck_convolutions(NECK[0], NECK[0]),
            _Double(),
            MobileViTBlock(NECK[0], NECK[1]),
            *_neck_convolutions(NECK[1], 2 * NECK[1]),
        )
        self.heatmap_head = _paper_head(2 * NECK[1], MAP_CHANNELS["heatmap"])
        self.size_head = _paper_head(2 * NECK[1], MAP_CHANNELS["size"])

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 3, Y, X): logit of the heatmap, log height, log width."""
        x = self.neck(self.encoder(image)[-1])  # (B, 128, Y/8, X/8)
        return torch.cat([self.heatmap_head(x), self.size_head(x)], dim=1)


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> (B, C, 2 Y, 2 X)."""
        return functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class _ChannelNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        """Normalise the channels of each pixel; float (B, C, Y, X)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _neck_convolutions(n_in: int, n_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.ReLU(inplace=True),
        _ChannelNorm(n_out, eps=NORM_EPS),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.ReLU(inplace=True),
        _ChannelNorm(n_out, eps=NORM_EPS),
    ]


def _paper_head(n_in: int, n_out: int) -> nn.Sequential:
    """Return three upsamplings, each with two convolutions that are normalised after their activation."""
    layers: list[nn.Module] = []
    for n_before, n_after in zip((n_in, *HEADS[:-1]), HEADS, strict=True):
        layers.append(_Double())
        for n_now in (n_before, n_after):
            layers += [nn.Conv2d(n_now, n_after, 3, padding=1), nn.ReLU(inplace=True)]
            layers.append(nn.BatchNorm2d(n_after, eps=NORM_EPS, momentum=0.01))
    layers += [nn.Conv2d(HEADS[-1], LAST, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(LAST, n_out, 3, padding=1))


class CentroidModel(CellModel):
    """A centroid network with its loss and its two-way code."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"heatmap": "upright", "size": "size"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return heatmap (1, Y, X) and size (2, Y, X) in pixels; the size is unknown between the cells."""
        boxes = boxes_in(annotation)
        heatmap = boxes_to_heatmap(boxes, annotation.shape)
        size = boxes_to_sizes(boxes, annotation.shape)
        if annotation.boxes is None:
            size[:] = 0  # points do not tell it
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

    def postprocess(self, maps: Maps, settings: CentroidSettings) -> Cells:
        """Return the cells in the maps of one frame: points and boxes, without labels."""
        return heatmap_to_cells(maps["heatmap"], maps["size"], settings)


def build(preset: str = "small") -> CentroidModel:
    """Return a centroid model of this preset with random weights."""
    spec = spec_of_preset(SPECS, preset)
    if preset == "paper":
        return CentroidModel(spec, CellCentroidFormer(spec.in_channels))
    return CentroidModel(spec, network_of(preset, deep_head(sum(MAP_CHANNELS.values())), spec.in_channels))
