"""MA-Net decoder with Mish, as in MEDIAR-Former.

Source: Fan et al., MA-Net, IEEE Access 8 (2020), doi:10.1109/ACCESS.2020.3025372; Lee et al., MEDIAR,
arXiv:2212.03465. Position attention is normalised over the positions attended to, as the paper has it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_norm_mish(n_in: int, n_out: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution that keeps the size, batch normalisation and Mish."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
        nn.Mish(inplace=True),
    )


class PositionAttention(nn.Module):
    """Adds to each place what all places say, weighted by likeness."""

    def __init__(self, channels: int, n_inner: int = 256) -> None:
        super().__init__()
        self.top = nn.Conv2d(channels, n_inner, 1)
        self.centre = nn.Conv2d(channels, n_inner, 1)
        self.bottom = nn.Conv2d(channels, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> the same."""
        query, key, value = (
            conv(x).flatten(2).transpose(1, 2) for conv in (self.centre, self.top, self.bottom)
        )
        mixed = torch.softmax(query @ key.transpose(1, 2), dim=-1) @ value  # (B, Y * X, C)
        out: Tensor = self.out(x + mixed.transpose(1, 2).reshape(x.shape))
        return out


class ChannelGate(nn.Module):
    """Weight of each channel from its mean over the tile (squeeze and excitation)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        n_inner = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, n_inner, 1),
            nn.Mish(inplace=True),
            nn.Conv2d(n_inner, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> (B, C, 1, 1)."""
        weights: Tensor = self.layers(x)
        return weights


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
        mixed: Tensor = self.mix(torch.cat([gated, skip], dim=1))
        return mixed


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
