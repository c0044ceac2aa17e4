"""Pieces that networks share."""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cellwright.core.errors import AxesError
from cellwright.ops.geometry.tiles import padded, pieces

N_HEADS, N_LAYERS = 2, 2  # of attention
NORM_EPS = 1e-6
DROP = 0.1
RELUS = {nn.ReLU: None, nn.ReLU6: 6.0}  # and the most that each lets through


def conv_norm(
    n_in: int, n_out: int, kernel: int = 3, stride: int = 1, *, groups: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """Return a convolution that keeps the size (divided by the stride), with batch normalisation."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out, eps=eps))


def conv_norm_relu(n_in: int, n_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution, batch normalisation and ReLU."""
    return conv_norm(n_in, n_out, kernel, stride).append(nn.ReLU(inplace=True))


def silence(layers: nn.Module) -> None:
    """Have a convolution with its normalisation, see :func:`conv_norm`, give 0 until it has learned."""
    assert isinstance(layers, nn.Sequential)
    assert isinstance(layers[1], nn.BatchNorm2d)
    nn.init.zeros_(layers[1].weight)


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
        return self.activation(x + self.second(self.first(x)))


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


def is_banded(module: nn.Module, n_rows: int, in_band: int) -> bool:
    """Return whether rows are worked out in bands: not in training, nor where the network is traced."""
    is_traced = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    return not (module.training or is_traced) and n_rows > in_band


def bands(n_rows: int, in_band: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """Yield the rows that each band of rows looks at, and its own among these."""
    for own in pieces(n_rows, in_band):
        (seen,) = padded((own,), margin, (n_rows,))
        yield seen, slice(own.start - seen.start, own.stop - seen.start)


def put_in(whole: Tensor | None, band: Tensor, start: int, n_rows: int) -> Tensor:
    """Return all rows (B, C, n_rows, X) with those of a band put in; they are made for the first one.

    To join bands at the end would keep them, scattered over the memory, beside all rows.
    """
    if whole is None:
        shape = (*band.shape[:2], n_rows, band.shape[3])
        whole = torch.empty(shape, dtype=band.dtype, device=band.device, memory_format=torch.channels_last)
    whole[..., start : start + band.shape[2], :] = band
    return whole


class PixelHead(nn.Conv2d):
    """A 3 x 3 convolution whose channels become the pixels of 2 x 2 squares: half resolution -> full."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, 4 * n_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y/2, X/2) -> (B, n_out, Y, X)."""
        return functional.pixel_shuffle(super().forward(x), 2)


def match_channels(images: Tensor, n_channels: int) -> Tensor:
    """Return images (B, C, Y, X) with as many channels as a network takes: grey repeated, or their mean.

    AxesError where there are other numbers of channels than 1 on either side.
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


class ActivatedConv2d(nn.Module):
    """A convolution and the ReLU after it in one step of oneDNN; in float32 the same but for rounding."""

    def __init__(self, conv: nn.Conv2d, most: float | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = conv.weight.detach().to(dtype)
        self.bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self._shape = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._activation = ("relu", []) if most is None else ("hardtanh", [0.0, most])

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> (B, channels, Y / stride, X / stride), 0 or more."""
        one_step = torch.ops.mkldnn._convolution_pointwise
        x = x.to(self.weight.dtype)
        return one_step(x, self.weight, self.bias, *self._shape, *self._activation, None)


def fused(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a folded network, changed, whose convolutions apply the ReLU after them on an x86 processor.

    A ReLU by itself carries numbers to the memory and back: in bfloat16 that takes as long as to convolve.
    """
    is_x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    if not is_x86 or not _is_one_step(dtype):
        return network
    for layers in [one for one in network.modules() if isinstance(one, nn.Sequential)]:
        parts = list(layers)
        for index, (conv, norm, last) in enumerate(zip(parts, parts[1:], parts[2:], strict=False)):
            if not isinstance(conv, nn.Conv2d) or conv.padding_mode != "zeros":
                continue
            if isinstance(norm, nn.Identity) and type(last) in RELUS:
                layers[index] = ActivatedConv2d(conv, RELUS[type(last)], dtype)
                layers[index + 2] = nn.Identity()
    return network


def _is_one_step(dtype: torch.dtype) -> bool:
    """Whether this PyTorch does both in one step, by an operation that it does not promise to keep."""
    with torch.random.fork_rng(devices=[]):  # for it draws random weights
        conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    try:
        y: Tensor = ActivatedConv2d(conv, 6.0, dtype)(torch.tensor([[[[-1.0, 1.0, 9.0]]]]))
    except (AttributeError, RuntimeError, TypeError):  # missing, or with other arguments
        return False
    return bool(y.flatten().tolist() == [0, 1, 6])


class GlobalAttention(nn.Module):
    """Self-attention with two heads, each as wide as the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(channels, 3 * N_HEADS * channels)
        self.project = nn.Linear(N_HEADS * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Float (B, n, C) -> the same."""
        parts = self.query_key_value(tokens).unflatten(-1, (3, N_HEADS, -1))  # (B, n, 3, heads, C)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        drop = DROP if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=drop)
        return self.project(mixed.transpose(1, 2).flatten(2))


class TransformerLayer(nn.Module):
    """Attention, then a perceptron, each normalised before and carried around."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(channels, eps=NORM_EPS), GlobalAttention(channels))
        self.feed = nn.Sequential(
            nn.LayerNorm(channels, eps=NORM_EPS),
            nn.Linear(channels, 2 * channels),
            nn.SiLU(),
            nn.Dropout(DROP),
            nn.Linear(2 * channels, channels),
            nn.SiLU(),
            nn.Dropout(DROP),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Float (B, n, C) -> the same."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.feed(tokens)


class MobileViTBlock(nn.Module):
    """Convolutions, attention over all pixels, and a convolution that joins the result with the input."""

    def __init__(self, n_in: int, channels: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(n_in, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 1), nn.SiLU()
        )
        self.layers = nn.Sequential(*(TransformerLayer(channels) for _ in range(N_LAYERS)))
        self.leave = nn.Sequential(nn.Conv2d(channels, n_in, 1), nn.SiLU())
        self.join = nn.Sequential(nn.Conv2d(2 * n_in, channels, 3, padding=1), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y, X)."""
        entered = self.enter(x)
        tokens = self.layers(entered.flatten(2).transpose(1, 2))  # (B, Y * X, C)
        seen = tokens.transpose(1, 2).unflatten(2, entered.shape[2:])
        return self.join(torch.cat([x, self.leave(seen)], dim=1))


def stochastic_depth(branch: Tensor, drop: float, *, is_training: bool) -> Tensor:
    """Return float (B, ...), in training each example left out with a chance of ``drop``.

    Source: Huang et al. 2016, arXiv:1603.09382.
    """
    if not is_training or drop == 0:
        return branch
    kept = torch.rand(len(branch), *(1,) * (branch.ndim - 1), device=branch.device) >= drop
    return branch * kept / (1 - drop)
