"""Decoders: features at falling resolution -> features at the finest one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.layers.blocks import conv_norm_relu


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
