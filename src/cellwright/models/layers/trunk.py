"""The networks of the presets trained here, whose trunks all families share, so that one serves the others.

``small`` learns from scratch; ``lite`` has an encoder that starts from ImageNet, and a light decoder;
``deep`` is ``lite`` with blocks added at strides 4 to 16, which change nothing until they have learned, so
that it may go on from what ``lite`` knows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.layers.blocks import (
    ConvEncoder,
    PixelHead,
    Residual,
    bands,
    conv_norm_relu,
    is_banded,
    put_in,
    silence,
)
from cellwright.models.layers.efficientnet_lite import LITE0, EfficientNetLite, deepened
from cellwright.models.spec import ModelSpec

ENCODER_WIDTHS = (16, 40, 80, 192)
FEATURES = 24  # channels the trunk ends with, at half resolution
DIVISOR = 16
HALO = 160  # receptive field 148, rounded up to the divisor
LITE, DEEP = "lite", "deep"  # names of presets
LITE_DIVISOR = 32
LITE_HALO = 256  # farther pixels change the maps by less than 0.01; the receptive field is 480
DECODER_WIDTHS = (96, 64, 40, FEATURES)  # at strides 16, 8, 4 and 2
BAND_ROWS = 64  # of the coarse features of a fusion that are worked out at once


class GatedFusion(nn.Module):
    """Joins coarse features with a skip whose channels the coarse features open and close.

    The multi-scale fusion attention of MA-Net, with its gate computed at each place instead of from the
    whole tile, so that the result does not depend on how the image was cut.

    Source: Fan et al., MA-Net, IEEE Access 8 (2020), doi:10.1109/ACCESS.2020.3025372.
    """

    def __init__(self, n_coarse: int, n_skip: int, n_out: int, depth: int, *, is_deep: bool = False) -> None:
        super().__init__()
        self.margin = depth + 2 * int(is_deep)  # coarse rows beyond a band, more than its convolutions reach
        self.reduce = conv_norm_relu(n_coarse, n_out, kernel=1)
        self.gate = nn.Conv2d(n_coarse, n_skip, 1)
        self.mix = nn.Sequential(
            conv_norm_relu(n_out + n_skip, n_out), *(conv_norm_relu(n_out, n_out) for _ in range(depth - 1))
        )
        if is_deep:
            added = Residual(n_out)
            silence(added.second)
            self.mix.append(added)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Float (B, n_coarse, Y/2, X/2), (B, n_skip, Y, X) -> (B, n_out, Y, X)."""
        n_rows = coarse.shape[-2]
        if not is_banded(self, n_rows, BAND_ROWS):
            return self._fused(coarse, skip)
        whole = None
        for seen, own in bands(n_rows, BAND_ROWS, self.margin):  # all at once takes most memory of a count
            fused = self._fused(coarse[..., seen, :], skip[..., _twice(seen), :])
            start = 2 * (seen.start + own.start)
            whole = put_in(whole, fused[..., _twice(own), :], start, 2 * n_rows)
        assert whole is not None  # there is at least one band
        return whole

    def _fused(self, coarse: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat(
            [_double(self.reduce(coarse)), skip * _double(torch.sigmoid(self.gate(coarse)))], dim=1
        )
        return self.mix(joined)


def _twice(rows: slice) -> slice:
    """Return the rows of twice as fine features."""
    return slice(2 * rows.start, 2 * rows.stop)


def _double(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class GatedDecoder(nn.Module):
    """Chain of :class:`GatedFusion` from the coarsest to the finest features; deep ones but for the last."""

    def __init__(
        self,
        encoder_widths: Sequence[int],
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        is_deep: bool = False,
    ) -> None:
        super().__init__()
        inputs = [encoder_widths[-1], *widths[:-1]]
        skips = list(encoder_widths[-2::-1])
        self.fusions = nn.ModuleList(
            GatedFusion(n_coarse, n_skip, n_out, depth, is_deep=is_deep and n_out != widths[-1])
            for n_coarse, n_skip, n_out, depth in zip(inputs, skips, widths, depths, strict=True)
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
        return self.decoder(self.encoder(image))

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, n, Y, X)."""
        return self.head(self.features(image))


class TrunkNetwork(HeadedNetwork):
    """The one that learns from scratch; about two million parameters."""

    def __init__(self, head: nn.Module, in_channels: int = 3) -> None:
        encoder = ConvEncoder(in_channels, ENCODER_WIDTHS, depths=(0, 1, 2, 2))
        super().__init__(encoder, GatedDecoder(ENCODER_WIDTHS, (80, 40, FEATURES), depths=(2, 2, 1)), head)


class LiteNetwork(HeadedNetwork):
    """EfficientNet-lite0 to stride 32 with a gated decoder to half resolution; 2.8 million parameters.

    With the blocks of ``deep`` 3.4 million.
    """

    encoder: EfficientNetLite

    def __init__(self, head: nn.Module, in_channels: int = 3, *, is_deep: bool = False) -> None:
        encoder = EfficientNetLite(deepened(LITE0) if is_deep else LITE0, in_channels)
        decoder = GatedDecoder(encoder.widths, DECODER_WIDTHS, depths=(2, 2, 2, 1), is_deep=is_deep)
        super().__init__(encoder, decoder, head)


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


def trained_specs(
    family: str,
    title: str,
    map_channels: dict[str, int],
    *,
    small_px: tuple[float, float],
    lite_px: tuple[float, float],
    options: Mapping[str, float] | None = None,
) -> dict[str, ModelSpec]:
    """Return the specs of a family's presets that are trained here: ``small``, ``lite`` and ``deep``.

    ``small_px`` and ``lite_px`` are the diameters of cells that each takes without rescaling; ``deep`` takes
    those of ``lite``.
    """
    small = ModelSpec(
        family=family,
        preset="small",
        title=title,
        in_channels=3,
        map_channels=map_channels,
        divisor=DIVISOR,
        halo=HALO,
        diameter_px=26.0,
        diameter_range_px=small_px,
        options=options or {},
    )
    lite = replace(small, preset=LITE, divisor=LITE_DIVISOR, halo=LITE_HALO, diameter_range_px=lite_px)
    return {"small": small, LITE: lite, DEEP: replace(lite, preset=DEEP)}


def network_of(preset: str, head: nn.Module, in_channels: int) -> HeadedNetwork:
    """Return the network of a preset, ``lite``, ``deep`` or one that learns from scratch, with a head."""
    if preset in (LITE, DEEP):
        return LiteNetwork(head, in_channels, is_deep=preset == DEEP)
    return TrunkNetwork(head, in_channels)
