"""The ``flow`` family: a network that gives flow and cell probability, decoded by gradient tracking.

Source: Lee et al., MEDIAR: Harmony of data-centric and model-centric for multi-modality microscopy,
arXiv:2212.03465 (2022). Its network, MEDIAR-Former, is the encoder of SegFormer, the decoder of MA-Net with
Mish, and two heads: Xie et al., SegFormer, NeurIPS 2021, arXiv:2105.15203; Fan et al., MA-Net, IEEE Access 8
(2020), doi:10.1109/ACCESS.2020.3025372. Written from the papers; no weights are used. Position attention is
normalised over the positions attended to, as the paper has it.
"""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Maps
from cellwright.models.layers.blocks import PixelHead, conv_norm, stochastic_depth
from cellwright.models.layers.trunk import FEATURES, network_of, trained_specs
from cellwright.models.protocol import CellModel, MapKind, known_mean, labels_in, spec_of_preset
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells, labels_to_flow

FLOW_SCALE = 5.0  # the network gives five times the unit flow, as in the reference
MAP_CHANNELS = {"flow": 2, "probability": 1}
NORM_EPS = 1e-6
WIDENING = 4  # of the channels between the two layers of a feed-forward
DROP = 0.1  # probability that the last block is left out in training
INNER = 256  # channels in which places are compared
SQUEEZE = 16  # channels for each that tells their weights

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


class Attention(nn.Module):
    """Self-attention whose keys and values are taken on a grid coarser by ``reduction``."""

    def __init__(self, channels: int, n_heads: int, reduction: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.project = nn.Linear(channels, channels)
        self.reduce: nn.Conv2d | None = None
        if reduction > 1:
            self.reduce = nn.Conv2d(channels, channels, reduction, reduction)
            self.reduce_norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        source = tokens
        if self.reduce is not None:
            source = _to_tokens(self.reduce(_to_image(tokens, height, width)))
            source = self.reduce_norm(source)
        query = self._heads(self.query(tokens))
        key, value = (self._heads(part) for part in self.key_value(source).chunk(2, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, Y * X, C / heads)
        return self.project(mixed.transpose(1, 2).flatten(2))

    def _heads(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(*tokens.shape[:-1], self.n_heads, -1).transpose(1, 2)


class MixFeedForward(nn.Module):
    """Two linear layers with a 3 x 3 depthwise convolution between them, which tells tokens their place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = WIDENING * channels
        self.expand = nn.Linear(channels, wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.project = nn.Linear(wide, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        spread = self.depthwise(_to_image(self.expand(tokens), height, width))
        return self.project(functional.gelu(_to_tokens(spread)))


class TransformerBlock(nn.Module):
    """Attention, then feed-forward, each normalised before, carried around and left out at random."""

    def __init__(self, channels: int, n_heads: int, reduction: int, drop: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.attention = Attention(channels, n_heads, reduction)
        self.feed_norm = nn.LayerNorm(channels, eps=NORM_EPS)
        self.feed = MixFeedForward(channels)
        self.drop = drop

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Float (B, Y * X, C) -> the same."""
        tokens = tokens + self._maybe(self.attention(self.attention_norm(tokens), height, width))
        return tokens + self._maybe(self.feed(self.feed_norm(tokens), height, width))

    def _maybe(self, branch: Tensor) -> Tensor:
        return stochastic_depth(branch, self.drop, is_training=self.training)


class TransformerStage(nn.Module):
    """An overlapping patch embedding and the blocks that follow it."""

    def __init__(
        self, n_in: int, channels: int, kernel: int, stride: int, blocks: Sequence[TransformerBlock]
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(n_in, channels, kernel, stride, kernel // 2)
        self.embed_norm = nn.LayerNorm(channels)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y / stride, X / stride)."""
        embedded = self.embed(image)
        height, width = embedded.shape[-2:]
        tokens = self.embed_norm(_to_tokens(embedded))
        for block in self.blocks:
            tokens = block(tokens, height, width)
        return _to_image(self.norm(tokens), height, width)


class MixTransformer(nn.Module):
    """Mix Transformer: features at stride 4, 8, 16 and 32; b5 unless told otherwise.

    ``depths`` are the blocks at each stride, ``widths`` the channels, multiples of 1, 2, 5 and 8.
    """

    def __init__(
        self,
        in_channels: int = 3,
        depths: Sequence[int] = (3, 6, 40, 3),
        widths: Sequence[int] = (64, 128, 320, 512),
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        drops = iter(torch.linspace(0, DROP, sum(depths)).tolist())
        shapes = zip(
            (in_channels, *self.widths[:-1]),
            self.widths,
            depths,
            (1, 2, 5, 8),
            (8, 4, 2, 1),
            (7, 3, 3, 3),
            (4, 2, 2, 2),
            strict=True,
        )
        self.stages = nn.ModuleList(
            TransformerStage(
                n_in,
                width,
                kernel,
                stride,
                [TransformerBlock(width, heads, reduction, next(drops)) for _ in range(depth)],
            )
            for n_in, width, depth, heads, reduction, kernel, stride in shapes
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Float (B, in_channels, Y, X) -> features at stride 4, 8, 16, 32."""
        features, x = [], image
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def conv_norm_mish(n_in: int, n_out: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution that keeps the size, batch normalisation and Mish."""
    return conv_norm(n_in, n_out, kernel).append(nn.Mish(inplace=True))


class PositionAttention(nn.Module):
    """Adds to each place what all places say, weighted by likeness."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.top = nn.Conv2d(channels, INNER, 1)
        self.centre = nn.Conv2d(channels, INNER, 1)
        self.bottom = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> the same."""
        query, key, value = (
            conv(x).flatten(2).transpose(1, 2) for conv in (self.centre, self.top, self.bottom)
        )
        mixed = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value  # (B, Y * X, C)
        return self.out(x + mixed.transpose(1, 2).reshape(x.shape))


class ChannelGate(nn.Module):
    """Weight of each channel from its mean over the tile (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        n_inner = max(1, channels // SQUEEZE)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, n_inner, 1),
            nn.Mish(inplace=True),
            nn.Conv2d(n_inner, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> (B, C, 1, 1)."""
        return self.layers(x)


class FusionAttention(nn.Module):
    """Multi-scale fusion attention block: upsamples, gates channels by both scales, joins the skip."""

    def __init__(self, n_in: int, n_skip: int, n_out: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(conv_norm_mish(n_in, n_in), conv_norm_mish(n_in, n_skip, kernel=1))
        self.coarse_gate, self.skip_gate = ChannelGate(n_skip), ChannelGate(n_skip)
        self.mix = nn.Sequential(conv_norm_mish(2 * n_skip, n_out), conv_norm_mish(n_out, n_out))

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Float (B, n_in, Y/2, X/2), (B, n_skip, Y, X) -> (B, n_out, Y, X)."""
        up = functional.interpolate(self.reduce(coarse), scale_factor=2.0, mode="nearest")
        gated = up * (self.coarse_gate(up) + self.skip_gate(skip))
        return self.mix(torch.cat([gated, skip], dim=1))


class MANetDecoder(nn.Module):
    """From features at stride 4, 8, 16, 32 to 64 channels at full resolution."""

    def __init__(
        self, encoder_widths: Sequence[int], widths: Sequence[int] = (1024, 512, 256, 128, 64)
    ) -> None:
        super().__init__()
        deepest, *skips = reversed(encoder_widths)
        self.attention = PositionAttention(deepest)
        inputs = (deepest, *widths)
        self.fusions = nn.ModuleList(
            FusionAttention(*shape) for shape in zip(inputs, skips, widths, strict=False)
        )
        rest = range(len(skips), len(widths))
        self.plain = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2.0, mode="nearest"),
                conv_norm_mish(inputs[i], widths[i]),
                conv_norm_mish(widths[i], widths[i]),
            )
            for i in rest
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features at stride 4, 8, 16, 32 -> float (B, widths[-1], Y, X)."""
        x: Tensor = self.attention(features[-1])
        for fusion, skip in zip(self.fusions, features[-2::-1], strict=True):
            x = fusion(x, skip)
        for block in self.plain:
            x = block(x)
        return x


class MediarFormer(nn.Module):
    """MEDIAR-Former; 121,303,587 parameters."""

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.encoder = MixTransformer(in_channels)
        self.decoder = MANetDecoder(self.encoder.widths)
        self.flow_head = _head(2)
        self.cell_head = _head(1)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 3, Y, X): 5 dy, 5 dx, logit of the cell probability."""
        x = self.decoder(self.encoder(image))
        return torch.cat([self.flow_head(x), self.cell_head(x)], dim=1)


def _head(n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(64, 32, 3, padding=1),
        nn.Mish(inplace=True),
        nn.BatchNorm2d(32),
        nn.Conv2d(32, n_out, 3, padding=1),
    )


def _to_tokens(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)


def _to_image(tokens: Tensor, height: int, width: int) -> Tensor:
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def flow_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Return BCE(cell logit) + 0.5 MSE(flow, 5 x unit flow) where known; both (B, 3, Y, X)."""
    cell = known_mean(functional.binary_cross_entropy_with_logits, output[:, 2], targets[:, 2])
    flow = known_mean(functional.mse_loss, output[:, :2], FLOW_SCALE * targets[:, :2])
    return cell + 0.5 * flow


def flow_maps(output: Tensor) -> Tensor:
    """Return unit flow and probability from the raw output; (B, 3, Y, X)."""
    maps = output.clone()  # changed in place: several arrays of this size would be the peak of a count
    maps[:, :2] /= FLOW_SCALE
    maps[:, 2:].sigmoid_()
    return maps


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
    spec = spec_of_preset(SPECS, preset)
    if preset == "paper":
        return FlowModel(spec, MediarFormer(spec.in_channels))
    head = PixelHead(FEATURES, sum(MAP_CHANNELS.values()))
    return FlowModel(spec, network_of(preset, head, spec.in_channels))
