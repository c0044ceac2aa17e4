"""The ``density`` family: a map whose integral is the count, for cells that nothing can separate.

Source: the targets and the loss of github.com/Sallamsaka/cellcounter, which the paper preset keeps. The small
one learns narrower targets and the counts of squares of several sizes: a squared error leaves no bias. It
tells single cells, too, as the ``flow`` family does: what can be told apart is counted in two ways, whose
errors are not the same, and the foreground says how large the cells are.
"""

from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Maps
from cellwright.models.families.flow import flow_loss, flow_maps
from cellwright.models.layers.blocks import PixelHead
from cellwright.models.layers.trunk import FEATURES, Heads, broad_head, network_of, trained_specs
from cellwright.models.protocol import POINT_DIAMETER_PX, CellModel, MapKind, Stitcher, spec_of_preset
from cellwright.models.spec import LEARNED_FACTOR, ModelSpec
from cellwright.models.stitching import DensityBlock, DensityStitcher
from cellwright.ops.codecs.density import FOREGROUND, VARIANCE, cells_to_density, resize_density
from cellwright.ops.codecs.flow import FlowSettings, flow_to_cells, labels_to_flow
from cellwright.ops.geometry.resample import Grid, resize_window

MAP_CHANNELS = {"density": 1, "cell_flow": 2, "foreground": 1}
UNIT = 100.0  # the network gives cells per 100 pixels
LOG_SCALE = 10_000.0  # densities this many times smaller than 1 count as much as their size
POOLS = ((4, 0.20), (8, 0.35), (16, 0.45))  # side of a square in pixels, weight of the shape of the density
COUNT_WEIGHT = 0.25
SQUARES = ((16, 4.0), (32, 1.0), (64, 0.3))  # side in pixels, weight of the squared error of its count
WHOLE_WEIGHT = 0.12  # of the squared error of a patch's count
GROWTH = 0.5  # of the unit of squared errors, with each cell
PIXEL_WEIGHT = 0.1
FLOW_WEIGHT = 0.25
MIN_SCORE = 0.15  # of single cells that are counted beside the density, for models that name none

SPECS = {
    **trained_specs(
        "density",
        "Cells that cannot be separated in 2D: their density and number",
        MAP_CHANNELS,
        small_px=(12.0, 46.0),
        lite_px=(12.0, 50.0),
        options={"density_variance": 0.02, "min_cell_score": 0.25},
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


class CellcounterNetwork(nn.Module):
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
        return self.head(x)


def _double_conv(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(*_conv_norm_relu(n_in, n_out), *_conv_norm_relu(n_out, n_out))


def _conv_norm_relu(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return convolution, nn.GroupNorm(8, n_out), nn.ReLU(inplace=True)


class DensityModel(CellModel):
    """A density network with its loss and its targets."""

    map_kinds: ClassVar[dict[str, MapKind]] = {
        "density": "density",
        "cell_flow": "direction",
        "foreground": "scalar",
    }

    @property
    def variance(self) -> float:
        """Variance of a cell's Gaussian, in areas of the cell."""
        return self.spec.options.get("density_variance", VARIANCE)

    @property
    def min_score(self) -> float:
        """Least score of single cells that are counted beside the density."""
        return self.spec.options.get("min_cell_score", MIN_SCORE)

    @property
    def factor(self) -> float:
        """True cells for each that the network gives, as learned from counts; else 1."""
        return self.spec.options.get(LEARNED_FACTOR, 1.0)

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return density (1, Y, X) in cells per pixel, unit flow (2, Y, X) and cell mask (1, Y, X).

        Flow and mask are unknown where there are no masks, the density where the annotation is not complete.
        """
        channels, shape = self.spec.map_channels, annotation.shape
        maps = {name: np.full((n, *shape), np.nan, np.float32) for name, n in channels.items()}
        if annotation.is_complete:
            maps["density"] = self.make_density(annotation)
        if annotation.labels is not None:
            maps["cell_flow"] = labels_to_flow(annotation.labels)
            maps["foreground"] = (annotation.labels > 0)[np.newaxis].astype(np.float32)
        return maps

    def make_density(self, annotation: Annotation) -> NDArray[np.float32]:
        """Return the density (1, Y, X) of all annotated cells, in cells per pixel."""
        return cells_to_density(annotation.points, _areas(annotation), annotation.shape, self.variance)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of counts, a tenth of that of pixels and a quarter of that of single cells.

        Both arguments (B, 4, Y, X).
        """
        cells = FLOW_WEIGHT * flow_loss(output[:, 1:], targets[:, 1:])
        known = _known(targets)
        if not known.any():
            return cells
        found, true = _density(output[known]), targets[known, :1]
        return _count_loss(found, true) + PIXEL_WEIGHT * _pixel_loss(found, true) + cells

    def to_maps(self, output: Tensor) -> Tensor:
        """Return cells per pixel, unit flow and the probability of foreground; (B, 4, Y, X)."""
        return self.mean_to_maps(self.to_summands(output))

    def to_summands(self, output: Tensor) -> Tensor:
        """Return raw output with the density in cells per pixel (B, 4, Y, X).

        The softplus of a mean is less than the mean of softplus: averaged raw, peaks that are a pixel apart
        would lose cells.
        """
        return torch.cat([_density(output), output[:, 1:]], dim=1)

    def mean_to_maps(self, mean: Tensor) -> Tensor:
        """Return cells per pixel, unit flow and the probability of foreground; (B, 4, Y, X)."""
        return torch.cat([mean[:, :1], flow_maps(mean[:, 1:])], dim=1)

    def decode(
        self, maps: Maps, shape: tuple[int, int], settings: Any, grid: Grid | None = None
    ) -> DensityBlock:
        """Return the density of one block in pixels of ``shape`` (Y, X), its size in the image.

        Resizing keeps the sum. Single cells and foreground come with it where the network gives them.
        """
        back = (grid or Grid.of(shape, maps["density"].shape[-2:])).back
        density = resize_density(maps["density"][0], back)
        if "foreground" not in maps:
            return DensityBlock(density, self.variance)
        sure = FlowSettings(min_score=self.min_score)
        found = flow_to_cells(maps["cell_flow"], maps["foreground"][0], sure)
        map_shape = (maps["foreground"].shape[-2], maps["foreground"].shape[-1])
        cells = cells_to_density(found.points, found.areas, map_shape, self.variance)[0]
        return DensityBlock(
            density=density,
            variance=self.variance,
            foreground=resize_window(maps["foreground"], back)[0] > FOREGROUND,
            cells=resize_density(cells, back),
        )

    def stitcher(self, lead_shape: tuple[int, ...], shape: tuple[int, int]) -> Stitcher:
        """Return what puts the blocks of an image together into one density."""
        has_cells = "foreground" in self.spec.map_channels
        return DensityStitcher(
            lead_shape, shape, count_error=self.spec.count_error, has_cells=has_cells, factor=self.factor
        )


class CellcounterModel(DensityModel):
    """The same with the loss of the reference, and the density alone."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"density": "density"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the density (1, Y, X) in cells per pixel; unknown where the annotation is not complete."""
        if not annotation.is_complete:
            return {"density": np.full((1, *annotation.shape), np.nan, np.float32)}
        return {"density": self.make_density(annotation)}

    def to_summands(self, output: Tensor) -> Tensor:
        """Return cells per pixel from the raw output; (B, 1, Y, X)."""
        return _density(output)

    def mean_to_maps(self, mean: Tensor) -> Tensor:
        """Return the mean as it is: cells per pixel; (B, 1, Y, X)."""
        return mean

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of pixels + of shape + a quarter of that of the count; both (B, 1, Y, X)."""
        known = _known(targets)
        if not known.any():
            return 0.0 * output.sum()
        found, true = self.to_maps(output)[known], targets[known]
        count = functional.smooth_l1_loss(found.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3)))
        return _pixel_loss(found, true) + _shape_loss(found, true) + COUNT_WEIGHT * count


def _density(output: Tensor) -> Tensor:
    """Return cells per pixel (B, 1, Y, X) from the raw output."""
    return functional.softplus(output[:, :1]) / UNIT


def _known(targets: Tensor) -> Tensor:
    """Return of which patches (B,) the density is known."""
    return ~targets[:, :1].flatten(1).isnan().any(dim=1)


def _areas(annotation: Annotation) -> NDArray[np.float32]:
    if annotation.labels is not None:
        n = len(annotation.points)
        return np.bincount(annotation.labels.ravel(), minlength=n + 1)[1 : n + 1].astype(np.float32)
    if annotation.boxes is not None:
        sides = annotation.boxes[:, 1] - annotation.boxes[:, 0]
        return np.float32(np.pi / 4) * sides.prod(axis=1)
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
    """How far off the counts of overlapping squares of several sides are, and those of the whole.

    Squared errors are taken in units that grow with what was found, or crowded images would drown all others;
    units of the truth would favour few cells where the image leaves it open.
    """
    counts = [(found.sum(dim=(1, 2, 3)), true.sum(dim=(1, 2, 3)), WHOLE_WEIGHT)]
    for side, weight in SQUARES:
        side = min(side, *found.shape[-2:])
        pooled = [functional.avg_pool2d(one, side, max(side // 2, 1)) * side**2 for one in (found, true)]
        counts.append((pooled[0], pooled[1], weight))
    total = found.new_zeros(())
    for counted, cells, weight in counts:
        total = total + weight * ((counted - cells).square() / (1 + GROWTH * counted.detach())).mean()
    return total


def build(preset: str = "small") -> DensityModel:
    """Return a density model of this preset with random weights."""
    spec = spec_of_preset(SPECS, preset)
    if preset == "paper":
        network = CellcounterNetwork(spec.in_channels)
        _expect_few_cells(network.head)
        return CellcounterModel(spec, network)
    head = broad_head(MAP_CHANNELS["density"])
    _expect_few_cells(head)
    cells = PixelHead(FEATURES, MAP_CHANNELS["cell_flow"] + MAP_CHANNELS["foreground"])
    return DensityModel(spec, network_of(preset, Heads({"density": head, "cells": cells}), spec.in_channels))


def _expect_few_cells(head: nn.Sequential) -> None:
    """Set a head of the density to begin with few cells, as in most images."""
    last = head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    nn.init.constant_(last.bias, -3.0)
