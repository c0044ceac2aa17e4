"""The trunk that the small presets of all families share, so that what one learns serves the others."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.layers.blocks import PixelHead, conv_norm_relu
from cellwright.models.layers.encoders import ConvEncoder

ENCODER_WIDTHS = (16, 40, 80, 192)
FEATURES = 24  # channels the trunk ends with, at half resolution
DIVISOR = 16
HALO = 160  # receptive field 148, rounded up to the divisor


class GatedFusion(nn.Module):
    """Joins coarse features with a skip whose channels the coarse features open and close.

    The multi-scale fusion attention of MA-Net, with its gate computed at each place instead of from the
    whole tile, so that the result does not depend on how the image was cut.

    Source: Fan et al., MA-Net, IEEE Access 8 (2020), doi:10.1109/ACCESS.2020.3025372.
    """

    def __init__(self, n_coarse: int, n_skip: int, n_out: int, depth: int) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(n_coarse, n_out, kernel=1)
        self.gate = nn.Conv2d(n_coarse, n_skip, 1)
        self.mix = nn.Sequential(
            conv_norm_relu(n_out + n_skip, n_out), *(conv_norm_relu(n_out, n_out) for _ in range(depth - 1))
        )

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Float (B, n_coarse, Y/2, X/2), (B, n_skip, Y, X) -> (B, n_out, Y, X)."""
        joined = torch.cat(
            [_double(self.reduce(coarse)), skip * _double(torch.sigmoid(self.gate(coarse)))], dim=1
        )
        mixed: Tensor = self.mix(joined)
        return mixed


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class GatedDecoder(nn.Module):
    """Chain of :class:`GatedFusion` from the coarsest to the finest features."""

    def __init__(self, encoder_widths: Sequence[int], widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        inputs = [encoder_widths[-1], *widths[:-1]]
        skips = list(encoder_widths[-2::-1])
        self.fusions = nn.ModuleList(
            GatedFusion(*shape) for shape in zip(inputs, skips, widths, depths, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features at stride 2, 4, 8, ... -> (B, widths[-1], Y/2, X/2)."""
        x = features[-1]
        for fusion, skip in zip(self.fusions, features[-2::-1], strict=True):
            x = fusion(x, skip)
        return x


class HeadedNetwork(nn.Module):
    """Half-resolution convolutional network with a head.

    The encoder turns an image (B, in_channels, Y, X) into features at strides 2, 4, 8, ..., the decoder these
    into (B, 24, Y/2, X/2), and the head those into maps (B, n, Y, X).
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def features(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 24, Y/2, X/2)."""
        decoded: Tensor = self.decoder(self.encoder(image))
        return decoded

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, n, Y, X)."""
        maps: Tensor = self.head(self.features(image))
        return maps


class TrunkNetwork(HeadedNetwork):
    """The one that learns from scratch; about two million parameters."""

    def __init__(self, head: nn.Module, in_channels: int = 3) -> None:
        encoder = ConvEncoder(in_channels, ENCODER_WIDTHS, depths=(0, 1, 2, 2))
        super().__init__(encoder, GatedDecoder(ENCODER_WIDTHS, (80, 40, FEATURES), depths=(2, 2, 1)), head)


class Heads(nn.Module):
    """Heads side by side on the same features; their maps in the order of the heads."""

    def __init__(self, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(heads)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 24, Y/2, X/2) -> the maps of all heads (B, n, Y, X)."""
        return torch.cat([head(features) for head in self.heads.values()], dim=1)


def deep_head(n_out: int) -> nn.Sequential:
    """Return a head of two convolutions."""
    return conv_norm_relu(FEATURES, FEATURES).append(PixelHead(FEATURES, n_out))


def broad_head(n_out: int) -> nn.Sequential:
    """Return a head of four convolutions, for what a trunk that rests says only between the lines."""
    return nn.Sequential(
        conv_norm_relu(FEATURES, 2 * FEATURES),
        conv_norm_relu(2 * FEATURES, 2 * FEATURES),
        conv_norm_relu(2 * FEATURES, FEATURES),
        PixelHead(FEATURES, n_out),
    )
