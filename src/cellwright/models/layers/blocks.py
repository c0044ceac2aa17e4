"""Pieces that networks share."""

import copy

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cellwright.core.errors import AxesError


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


class PixelHead(nn.Conv2d):
    """A 3 x 3 convolution whose channels become the pixels of 2 x 2 squares: half resolution -> full."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, 4 * n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y/2, X/2) -> (B, n_out, Y, X)."""
        return functional.pixel_shuffle(super().forward(x), 2)


def match_channels(images: Tensor, n_channels: int) -> Tensor:
    """Return images (B, C, Y, X) with as many channels as a network takes: grey repeated, or their mean.

    Raises
    ------
    AxesError
        There are other numbers of channels than 1 on either side.
    """
    given = images.shape[1]
    if given == n_channels:
        return images
    if n_channels == 1:
        return images.mean(dim=1, keepdim=True)
    if given == 1:
        return images.expand(-1, n_channels, -1, -1)
    raise AxesError(
        f"The model takes {n_channels} channels; got an image of {given}. Set channel to count in one."
    )


def folded(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch normalisations are folded into the convolutions before."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if (
            isinstance(module, nn.Sequential)
            and len(module) > 1
            and isinstance(module[0], nn.Conv2d)
            and isinstance(module[1], nn.BatchNorm2d)
        ):
            module[0], module[1] = fuse_conv_bn_eval(module[0], module[1]), nn.Identity()
    return network
