"""EfficientNet trunks, cut in their sixth stage: V2-S for ``centroid``, B5 for ``pseudocolor``.

Source: Tan and Le, EfficientNet, ICML 2019, arXiv:1905.11946, and EfficientNetV2, ICML 2021,
arXiv:2104.00298; where they are cut: Wagner and Rohr, CellCentroidFormer, arXiv:2206.00338 (2022), and
EfficientCellSeg, arXiv:2204.03014 (2022). Strided convolutions are padded alike on both sides.
"""

from typing import Literal, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.layers.blocks import conv_norm, stochastic_depth

NORM_EPS = 1e-3
SQUEEZE = 4  # channels that enter a block, per channel of its gate
LAST_RATIO = 6  # of the expansion, which is all that is left of the first block after the cut
DROP = 0.2  # probability that the last block of the whole network would be left out


class Stage(NamedTuple):
    """One row of the table of an EfficientNet.

    ``kind`` says whether a block expands its channels by ``ratio`` in a convolution of its own ("mb") or in
    the one that looks around ("fused"); ``stride`` is that of the first of its ``depth`` blocks.
    """

    kind: Literal["mb", "fused"]
    ratio: int
    kernel: int
    stride: int
    channels: int
    depth: int


class TrunkPlan(NamedTuple):
    """Table of a trunk."""

    name: str  # of the network, as its authors call it
    stem: int  # channels of the first convolution
    stages: tuple[Stage, ...]  # the stages before the cut
    taps: tuple[int, ...]  # stages (1 is the first) whose first activation is given, beside the last
    n_blocks: int  # of the whole network, which the probability to leave out a block grows over


V2_S = TrunkPlan(
    name="EfficientNetV2-S",
    stem=24,
    stages=(
        Stage("fused", 1, 3, 1, 24, 2),
        Stage("fused", 4, 3, 2, 48, 4),
        Stage("fused", 4, 3, 2, 64, 4),
        Stage("mb", 4, 3, 2, 128, 6),
        Stage("mb", 6, 3, 1, 160, 9),
    ),
    taps=(),
    n_blocks=40,
)

B5 = TrunkPlan(
    name="EfficientNet-B5",
    stem=48,
    stages=(
        Stage("mb", 1, 3, 1, 24, 3),
        Stage("mb", 6, 3, 2, 40, 5),
        Stage("mb", 6, 5, 2, 64, 5),
        Stage("mb", 6, 3, 2, 128, 7),
        Stage("mb", 6, 5, 1, 176, 7),
    ),
    taps=(1, 3, 4),
    n_blocks=39,
)


class EfficientNetTrunk(nn.Module):
    """The first five stages of an EfficientNet and the expansion that opens the sixth, at stride 16.

    ``widths`` are the channels of each of its features.
    """

    def __init__(self, plan: TrunkPlan, in_channels: int = 3) -> None:
        super().__init__()
        self.plan = plan
        self.stem = _conv(in_channels, plan.stem, 3, 2)
        drops = iter([DROP * index / plan.n_blocks for index in range(plan.n_blocks)])
        inputs = (plan.stem, *(stage.channels for stage in plan.stages))
        self.stages = nn.ModuleList(
            _Row([Block(stage, *shape, next(drops)) for shape in _shapes(stage, n_in)])
            for stage, n_in in zip(plan.stages, inputs, strict=False)
        )
        self.last = _conv(inputs[-1], LAST_RATIO * inputs[-1])
        opened = [plan.stages[tap - 1].ratio * inputs[tap - 1] for tap in plan.taps]
        self.widths = (*opened, LAST_RATIO * inputs[-1])
        self.apply(_start)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Float (B, in_channels, Y, X) -> features at the taps, the last at stride 16; Y, X any size."""
        features = []
        x = self.stem(image)
        for number, row in enumerate(self.stages, start=1):
            opened, x = row(x)
            if number in self.plan.taps:
                features.append(opened)
        return [*features, self.last(x)]


class Block(nn.Module):
    """An inverted residual: channels are expanded, looked around in, gated and reduced.

    It opens with its first activation and closes with the rest, so that features can be taken between.
    """

    def __init__(self, stage: Stage, n_in: int, stride: int, drop: float) -> None:
        super().__init__()
        wide = stage.ratio * n_in
        is_reduced = stage.kind == "mb" or stage.ratio > 1  # else one convolution is all there is
        layers: list[nn.Module] = []
        if stage.kind == "fused":
            layers.append(_conv(n_in, wide if is_reduced else stage.channels, stage.kernel, stride))
        else:
            layers += [_conv(n_in, wide)] if stage.ratio > 1 else []
            layers += [_conv(wide, wide, stage.kernel, stride, wide), Gate(wide, n_in // SQUEEZE)]
        if is_reduced:
            layers.append(_conv(wide, stage.channels, is_linear=True))
        self.open = layers[0]
        self.rest = nn.Sequential(*layers[1:])
        self.is_carried = stride == 1 and n_in == stage.channels
        self.drop = drop

    def close(self, opened: Tensor, x: Tensor) -> Tensor:
        """Return the block's float (B, channels, Y / stride, X / stride) of ``open(x)`` and x itself."""
        y: Tensor = self.rest(opened)
        if not self.is_carried:
            return y
        return x + stochastic_depth(y, self.drop, is_training=self.training)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y / stride, X / stride)."""
        return self.close(self.open(x), x)


class Gate(nn.Module):
    """Squeeze and excitation: the mean over the image opens and closes channels.

    Source: Hu et al., Squeeze-and-excitation networks, CVPR 2018, arXiv:1709.01507.
    """

    def __init__(self, channels: int, n_squeezed: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, n_squeezed, 1)
        self.excite = nn.Conv2d(n_squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, channels, Y, X) -> the same."""
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * self.excite(functional.silu(self.squeeze(mean))).sigmoid()


class _Row(nn.Module):
    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.first = blocks[0]
        self.others = nn.Sequential(*blocks[1:])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first activation, and what the last block gives."""
        opened = self.first.open(x)
        return opened, self.others(self.first.close(opened, x))


def _shapes(stage: Stage, n_in: int) -> list[tuple[int, int]]:
    """Channels that enter, and stride, of each block."""
    return [(n_in, stage.stride), *[(stage.channels, 1)] * (stage.depth - 1)]


def _conv(
    n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, is_linear: bool = False
) -> nn.Sequential:
    """Return a convolution, batch normalisation and, unless it is linear, SiLU."""
    parts = conv_norm(n_in, n_out, kernel, stride, groups=groups, eps=NORM_EPS)
    return parts if is_linear else parts.append(nn.SiLU(inplace=True))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
