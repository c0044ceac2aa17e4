"""The trunk that the small presets of all families share, so that what one learns serves the others."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cellwright.models.layers.blocks import PixelHead, conv_norm_relu
from cellwright.models.layers.decoders import GatedDecoder
from cellwright.models.layers.encoders import ConvEncoder

ENCODER_WIDTHS = (16, 40, 80, 192)
FEATURES = 24  # channels the trunk ends with, at half resolution
DIVISOR = 16
HALO = 160  # receptive field 148, rounded up to the divisor


class HeadedNetwork(nn.Module):
    """Half-resolution convolutional network with a head.

    Parameters
    ----------
    encoder
        Image (B, in_channels, Y, X) -> features at strides 2, 4, 8, ...
    decoder
        These features -> (B, 24, Y/2, X/2).
    head
        Features (B, 24, Y/2, X/2) -> maps (B, n, Y, X).
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
    """The one that learns from scratch; about two million parameters.

    Parameters
    ----------
    head
        Features (B, 24, Y/2, X/2) -> maps (B, n, Y, X).
    in_channels
        Channels of the image.
    """

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
