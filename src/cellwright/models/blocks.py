"""Pieces that networks share."""

from torch import Tensor, nn


def conv_norm(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution that keeps the size (divided by the stride), with batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(n_out),
    )


def conv_norm_relu(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalisation and ReLU."""
    return conv_norm(n_in, n_out, kernel, stride).append(nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two 3 x 3 convolutions around which the input is carried.

    Source: He et al., Deep residual learning, CVPR 2016, doi:10.1109/CVPR.2016.90.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv_norm_relu(channels, channels)
        self.second = conv_norm(channels, channels)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> the same."""
        y: Tensor = self.activation(x + self.second(self.first(x)))
        return y
