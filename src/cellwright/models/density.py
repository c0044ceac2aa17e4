"""The ``density`` family: a map whose integral is the count, for cells that nothing can separate.

Source: the targets and the loss of github.com/Sallamsaka/cellcounter, which the paper preset keeps. The small
one learns narrower targets and the counts of squares of several sizes: a squared error leaves no bias. It
tells the foreground, too: with the count, its area says how large the cells are.
"""

from dataclasses import replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.models.base import POINT_DIAMETER_PX, ModelBase, known_mean, spec_of
from cellwright.models.contract import MapKind
from cellwright.models.spec import ModelSpec
from cellwright.models.trunk import DIVISOR, HALO, TrunkNetwork, broad_head
from cellwright.ops.count_error import fit_interval
from cellwright.ops.density import cells_to_density
from cellwright.types import Annotation, Maps

MAP_CHANNELS = {"density": 1, "foreground": 1}
UNIT = 100.0  # the network gives cells per 100 pixels
LOG_SCALE = 10_000.0  # densities this many times smaller than 1 count as much as their size
POOLS = ((4, 0.20), (8, 0.35), (16, 0.45))  # side of a square in pixels, weight of the shape of the density
COUNT_WEIGHT = 0.25
SQUARES = ((16, 4.0), (32, 1.0), (64, 0.3))  # side in pixels, weight of the squared error of its count
WHOLE_WEIGHT = 0.03  # of the squared error of a patch's count
PIXEL_WEIGHT = 0.1
FOREGROUND_WEIGHT = 0.5

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
        diameter_range_px=(12.0, 46.0),
        density_variance=0.02,
    ),
    "paper": ModelSpec(
        family="density",
        preset="paper",
        title="Cellcounter: U-Net for the density of cells (architecture only)",
        in_channels=1,
        map_channels={"density": 1},
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

    map_kinds: ClassVar[dict[str, MapKind]] = {"density": "density", "foreground": "scalar"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the density in cells per pixel and, small preset only, the foreground; both (1, Y, X).

        They are unknown where the annotation is not complete, the foreground also where there are no masks.
        """
        maps = {name: np.full((1, *annotation.shape), np.nan, np.float32) for name in self.spec.map_channels}
        if not annotation.is_complete:
            return maps
        areas, variance = _areas(annotation), self.spec.density_variance
        maps["density"] = cells_to_density(annotation.points, areas, annotation.shape, variance)
        if "foreground" in maps and annotation.labels is not None:
            maps["foreground"] = (annotation.labels > 0)[np.newaxis].astype(np.float32)
        return maps

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of counts, a tenth of that of pixels and half of that of the foreground.

        Both arguments (B, 2, Y, X).
        """
        foreground = known_mean(functional.binary_cross_entropy_with_logits, output[:, 1:], targets[:, 1:])
        known = _known(targets)
        if not known.any():
            return FOREGROUND_WEIGHT * foreground
        found, true = self.to_maps(output)[known, :1], targets[known, :1]
        counts = _count_loss(found, true) + PIXEL_WEIGHT * _pixel_loss(found, true)
        return counts + FOREGROUND_WEIGHT * foreground

    def to_maps(self, output: Tensor) -> Tensor:
        """Return cells per pixel, and the probability of foreground, from the raw output; (B, maps, Y, X)."""
        return torch.cat([functional.softplus(output[:, :1]) / UNIT, output[:, 1:].sigmoid()], dim=1)

    def with_interval(self, counts: ArrayLike, truths: ArrayLike) -> Self:
        """Return the same model that knows its error, from counts (N,) of images it has not learned from."""
        spec = replace(self.spec, count_error=fit_interval(counts, truths))
        return self.with_network(self.network, spec=spec, sha256=self.sha256)


class PaperModel(DensityModel):
    """The same with the loss of the reference, and the density alone."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"density": "density"}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of pixels + of shape + a quarter of that of the count; both (B, 1, Y, X)."""
        known = _known(targets)
        if not known.any():
            return 0.0 * output.sum()
        found, true = self.to_maps(output)[known], targets[known]
        count = functional.smooth_l1_loss(found.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3)))
        return _pixel_loss(found, true) + _shape_loss(found, true) + COUNT_WEIGHT * count


def _known(targets: Tensor) -> Tensor:
    """Return of which patches (B,) the density is known."""
    return ~targets[:, :1].flatten(1).isnan().any(dim=1)


def _areas(annotation: Annotation) -> NDArray[np.float32]:
    if annotation.labels is not None:
        n = len(annotation.points)
        return np.bincount(annotation.labels.ravel(), minlength=n + 1)[1 : n + 1].astype(np.float32)
    if annotation.boxes is not None:
        sides = annotation.boxes[:, 1] - annotation.boxes[:, 0]
        areas: NDArray[np.float32] = np.float32(np.pi / 4) * sides.prod(axis=1)
        return areas
    return np.full(len(annotation.points), np.pi / 4 * POINT_DIAMETER_PX**2, np.float32)


def _pixel_loss(found: Tensor, true: Tensor) -> Tensor:
    """How far off the logarithms of the two densities are."""
    return ((1 + LOG_SCALE * found).log() - (1 + LOG_SCALE * true).log()).abs().mean()


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
    if preset == "paper":
        network = PaperNetwork(spec.in_channels)
        _expect_few_cells(network.head, 1)
        return PaperModel(spec, network)
    head = broad_head(sum(MAP_CHANNELS.values()))
    _expect_few_cells(head, n_density=4)  # pixels of a square
    return DensityModel(spec, TrunkNetwork(head, spec.in_channels))


def _expect_few_cells(head: nn.Sequential, n_density: int) -> None:
    """Set the first channels of a head, the density, to begin with few cells, as in most images."""
    last = head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias[:n_density], -3.0)
