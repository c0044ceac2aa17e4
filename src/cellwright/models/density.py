"""The ``density`` family: a map whose integral is the count, for cells that nothing can separate.

Source: the targets and the loss of github.com/Sallamsaka/cellcounter, which the paper preset keeps. The small
one learns narrower targets and the counts of squares of several sizes: a squared error leaves no bias.
"""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.base import POINT_DIAMETER_PX, ModelBase, spec_of
from cellwright.models.contract import MapKind
from cellwright.models.spec import ModelSpec
from cellwright.models.trunk import DIVISOR, HALO, TrunkNetwork, deep_head
from cellwright.ops.density import cells_to_density, fit_interval
from cellwright.types import Annotation, Maps

MAP_CHANNELS = {"density": 1}
UNIT = 100.0  # the network gives cells per 100 pixels
LOG_SCALE = 10_000.0  # densities this many times smaller than 1 count as much as their size
POOLS = ((4, 0.20), (8, 0.35), (16, 0.45))  # side of a square in pixels, weight of the shape of the density
COUNT_WEIGHT = 0.25
SQUARES = ((16, 4.0), (32, 1.0), (64, 0.3))  # side in pixels, weight of the squared error of its count
WHOLE_WEIGHT = 0.03  # of the squared error of a patch's count
PIXEL_WEIGHT = 0.1

SPECS = {
    "small": ModelSpec(
        family="density",
        preset="small",
        title="Cells that cannot be separated in 2D: their density and number",
        in_channels=3,
        map_channels=MAP_CHANNELS,
        divisor=DIVISOR,
        halo=HALO,
        diameter_px=26.0,
        diameter_range_px=(16.0, 40.0),
        density_variance=0.02,
    ),
    "paper": ModelSpec(
        family="density",
        preset="paper",
        title="Cellcounter: U-Net for the density of cells (architecture only)",
        in_channels=1,
        map_channels=MAP_CHANNELS,
        divisor=16,
        halo=128,  # convolutions see 122 pixels; group normalisation sees the whole tile
    ),
}


class PaperNetwork(nn.Module):
    """The U-Net of Cellcounter; 1,811,489 parameters.

    It ends with the softplus that the reference offers beside its ReLU, which gets stuck at zero everywhere.
    """

    widths = (16, 32, 64, 128, 256)

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.first = _double_conv(in_channels, self.widths[0])
        pairs = list(pairwise(self.widths))
        self.downs = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), _double_conv(*pair)) for pair in pairs)
        self.reduces = nn.ModuleList(nn.Conv2d(deep, fine, 1, bias=False) for fine, deep in pairs[::-1])
        self.mixes = nn.ModuleList(_double_conv(2 * fine, fine) for fine, _ in pairs[::-1])
        self.head = nn.Sequential(nn.Conv2d(self.widths[0], 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 1, Y, X)."""
        skips = [self.first(image)]
        for down in self.downs:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for reduce, mix in zip(self.reduces, self.mixes, strict=True):
            doubled = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = mix(torch.cat([skips.pop(), reduce(doubled)], dim=1))
        density: Tensor = self.head(x)
        return density


def _double_conv(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*_conv_norm_relu(n_in, n_out), *_conv_norm_relu(n_out, n_out))


def _conv_norm_relu(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return convolution, nn.GroupNorm(8, n_out), nn.ReLU(inplace=True)


class DensityModel(ModelBase):
    """A density network with its loss and its targets; see ``models.contract.CellModel``."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"density": "density"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the density (1, Y, X) in cells per pixel; unknown where the annotation is not complete."""
        if not annotation.is_complete:
            return {"density": np.full((1, *annotation.shape), np.nan, np.float32)}
        areas, variance = _areas(annotation), self.spec.density_variance
        return {"density": cells_to_density(annotation.points, areas, annotation.shape, variance)}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of pixels and of counts; both (B, 1, Y, X).

        For the paper preset that of pixels + of shape + a quarter of that of the count, else a tenth of that
        of pixels + that of the counts of squares.
        """
        known = ~targets.flatten(1).isnan().any(dim=1)
        if not known.any():
            return 0.0 * output.sum()
        found, true = self.to_maps(output[known]), targets[known]
        pixels = ((1 + LOG_SCALE * found).log() - (1 + LOG_SCALE * true).log()).abs().mean()
        if self.spec.preset != "paper":
            return PIXEL_WEIGHT * pixels + _count_loss(found, true)
        count = functional.smooth_l1_loss(found.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3)))
        return pixels + _shape_loss(found, true) + COUNT_WEIGHT * count

    def to_maps(self, output: Tensor) -> Tensor:
        """Return cells per pixel from the raw output; (B, 1, Y, X)."""
        return functional.softplus(output) / UNIT

    def with_interval(self, counts: ArrayLike, truths: ArrayLike) -> Self:
        """Return the same model that knows its error, from counts (N,) of images it has not learned from."""
        spec = replace(self.spec, count_error=fit_interval(counts, truths))
        return self.with_network(self.network, spec=spec, sha256=self.sha256)


def _areas(annotation: Annotation) -> NDArray[np.float32]:
    if annotation.labels is not None:
        n = len(annotation.points)
        return np.bincount(annotation.labels.ravel(), minlength=n + 1)[1 : n + 1].astype(np.float32)
    if annotation.boxes is not None:
        sides = annotation.boxes[:, 1] - annotation.boxes[:, 0]
        areas: NDArray[np.float32] = np.float32(np.pi / 4) * sides.prod(axis=1)
        return areas
    return np.full(len(annotation.points), np.pi / 4 * POINT_DIAMETER_PX**2, np.float32)


def _shape_loss(found: Tensor, true: Tensor) -> Tensor:
    """How differently the two densities are spread, whatever their sums, at three scales."""
    filled = true.sum(dim=(1, 2, 3)) > 1e-6
    if not filled.any():
        return 0.0 * found.sum()
    total = found.new_zeros(())
    for side, weight in POOLS:
        spreads = []
        for density in (found[filled], true[filled]):
            pooled = functional.avg_pool2d(density, side).flatten(1)
            spreads.append(pooled / pooled.sum(dim=1, keepdim=True).clamp_min(1e-12))
        total = total + weight * (spreads[0] - spreads[1]).abs().sum(dim=1).mean()
    return total


def _count_loss(found: Tensor, true: Tensor) -> Tensor:
    """How far off the counts of overlapping squares of several sides are, and those of the whole."""
    off = found - true
    total = WHOLE_WEIGHT * off.sum(dim=(1, 2, 3)).square().mean()
    for side, weight in SQUARES:
        side = min(side, *off.shape[-2:])
        counts = functional.avg_pool2d(off, side, max(side // 2, 1)) * side**2
        total = total + weight * counts.square().mean()
    return total


def build(preset: str = "small") -> DensityModel:
    """Return a density model of this preset with random weights.

    Raises
    ------
    CheckpointError
        No such preset.
    """
    spec = spec_of(SPECS, preset)
    is_paper = preset == "paper"
    network = PaperNetwork(spec.in_channels) if is_paper else TrunkNetwork(deep_head(1), spec.in_channels)
    model = DensityModel(spec, network)
    nn.init.constant_(model.network.head[-1].bias, -3.0)  # few cells, as in most images
    return model
