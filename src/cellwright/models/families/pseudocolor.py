"""The ``pseudocolor`` family: volumes slice by slice, each slice coloured by its neighbours, then linked.

The small preset learns what ``flow`` learns (direction and probability), so that the weights of flow are its
start; ``plain`` is the same without colours, to show what the context is worth. The ``paper`` preset tells
foreground only, which is parted by a watershed.

Source: Wagner and Rohr, EfficientCellSeg: efficient volumetric cell segmentation using context aware
pseudocoloring, MIDL 2022, arXiv:2204.03014.
"""

from dataclasses import replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Image, Maps
from cellwright.models.families import flow
from cellwright.models.layers.blocks import PixelHead
from cellwright.models.layers.efficientnet import B5, EfficientNetTrunk
from cellwright.models.layers.trunk import FEATURES, network_of
from cellwright.models.protocol import CellModel, MapKind, known_mean, labels_in, spec_of_preset
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.codecs.pseudocolor import (
    PseudocolorSettings,
    foreground_to_cells,
    pseudocolor_frames,
    with_faint,
)
from cellwright.ops.geometry.axes import Frames

WORKING_PX = 384  # side that the paper network brings every slice to
DECODER_WIDTHS = (64, 48, 32, 16)
IMAGENET_MEAN, IMAGENET_VARIANCE = (0.485, 0.456, 0.406), (0.229**2, 0.224**2, 0.225**2)

_SMALL = replace(
    flow.SPECS["small"],
    family="pseudocolor",
    title="Cells in volumes: slices coloured by their neighbours, linked to 3D cells",
)

SPECS = {
    "small": _SMALL,
    "lite": replace(flow.SPECS["lite"], family="pseudocolor", title=_SMALL.title),
    "plain": replace(_SMALL, preset="plain", title="Cells in volumes: grey slices, linked to 3D cells"),
    "paper": ModelSpec(
        family="pseudocolor",
        preset="paper",
        title="EfficientCellSeg: EfficientNet-B5 and skip connections (architecture only)",
        in_channels=3,
        map_channels={"probability": 1},
        divisor=32,
        halo=64,  # the network squashes what it is given, so that every tile is its own context
        percentiles=(0.0, 100.0),
    ),
}


class EfficientCellSeg(nn.Module):
    """EfficientCellSeg; 6,697,824 parameters as Keras counts them.

    That count holds the running statistics of all normalisations and, for the input, ImageNet's mean and
    variance and the number of images they are of, which is not kept here.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(-1, 1, 1))
        self.register_buffer("variance", torch.tensor(IMAGENET_VARIANCE).view(-1, 1, 1))
        self.encoder = EfficientNetTrunk(B5, in_channels)
        *skips, deepest = self.encoder.widths
        inputs = (deepest, *DECODER_WIDTHS)
        self.decoder = nn.ModuleList(
            _double(below + skip, width)
            for below, skip, width in zip(inputs, (*skips[::-1], in_channels), DECODER_WIDTHS, strict=False)
        )
        self.head = nn.Conv2d(DECODER_WIDTHS[-1], 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) from 0 to 1 -> logit of the foreground (B, 1, Y, X)."""
        x = functional.interpolate(image, (WORKING_PX, WORKING_PX), mode="bilinear", align_corners=False)
        *skips, deepest = self.encoder((x - self.mean) / self.variance**0.5)
        y = deepest  # (B, 1056, 24, 24)
        for level, skip in zip(self.decoder, (*skips[::-1], x), strict=True):
            y = functional.interpolate(y, scale_factor=2.0, mode="bilinear", align_corners=False)
            y = level(torch.cat([y, skip], dim=1))
        return functional.interpolate(self.head(y), image.shape[-2:], mode="bilinear", align_corners=False)


def _double(n_in: int, n_out: int) -> nn.Sequential:
    """Return two convolutions with normalisation; their biases are the reference's."""
    return nn.Sequential(
        *(
            nn.Sequential(
                nn.Conv2d(channels, n_out, 3, padding=1), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)
            )
            for channels in (n_in, n_out)
        )
    )


class PseudocolorModel(flow.FlowModel):
    """A flow network that sees pseudo-coloured slices."""

    def frames(self, image: Image, channel: int | None) -> Frames:
        """Return the pseudo-coloured slices of a volume, in units of its percentiles.

        AxesError where the image is 2D or has one slice only.
        """
        has_context = self.spec.preset != "plain"
        return pseudocolor_frames(image, channel, self.spec.percentiles, has_context=has_context)

    def postprocess(self, maps: Maps, settings: FlowSettings) -> Cells:
        """Return the cells in the maps of one slice."""
        return with_faint(super().postprocess(maps, settings), maps["probability"][0])


class EfficientCellSegModel(CellModel):
    """A network that tells foreground in pseudo-coloured slices."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"probability": "scalar"}
    takes_volumes = True

    def frames(self, image: Image, channel: int | None) -> Frames:
        """Return the pseudo-coloured slices of a volume, each scaled by its extremes.

        AxesError where the image is 2D or has one slice only.
        """
        return pseudocolor_frames(image, channel)

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the cell mask (1, Y, X) of the masks."""
        return {"probability": (labels_in(annotation, self.spec.family) > 0)[None].astype(np.float32)}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return BCE + Dice loss of the foreground where known; both (B, 1, Y, X).

        The reference tells no loss; this one is common for what is mostly background.
        """
        known = ~targets.isnan()
        truth, probability = torch.where(known, targets, 0.0), output.sigmoid() * known
        dice = (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)
        return known_mean(functional.binary_cross_entropy_with_logits, output, targets) + 1 - dice

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the probability from the raw output; (B, 1, Y, X)."""
        return output.sigmoid()

    def postprocess(self, maps: Maps, settings: PseudocolorSettings) -> Cells:
        """Return the cells in the map of one slice."""
        return foreground_to_cells(maps["probability"][0], settings)


def build(preset: str = "small") -> PseudocolorModel | EfficientCellSegModel:
    """Return a pseudocolor model of this preset with random weights."""
    spec = spec_of_preset(SPECS, preset)
    if preset == "paper":
        return EfficientCellSegModel(spec, EfficientCellSeg(spec.in_channels))
    head = PixelHead(FEATURES, sum(spec.map_channels.values()))
    return PseudocolorModel(spec, network_of(preset, head, spec.in_channels))
