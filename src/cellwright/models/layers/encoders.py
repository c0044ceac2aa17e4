"""Encoders: image -> features at falling resolution."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.layers.blocks import Residual, conv_norm_relu


class ConvEncoder(nn.Module):
    """Residual encoder whose first convolution already works at half resolution.

    Pixels of 2 x 2 squares become channels, so nothing is computed (or kept in memory) at full resolution:
    on a CPU that is where the time of a U-Net goes. Its receptive field is finite, which is what lets tiles
    agree to rounding.
    ``widths`` are the channels at stride 2, 4, 8, ..., ``depths`` the residual blocks there.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        self.stem = conv_norm_relu(4 * in_channels, widths[0])
        self.stages = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            down = [conv_norm_relu(widths[level - 1], width, stride=2)] if level else []
            self.stages.append(nn.Sequential(*down, *(Residual(width) for _ in range(depth))))

    def forward(self, image: Tensor) -> list[Tensor]:
        """Float (B, in_channels, Y, X) -> features at stride 2, 4, 8, ..."""
        x = self.stem(functional.pixel_unshuffle(image, 2))  # (B, widths[0], Y/2, X/2)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
