"""A sixth family, as somebody else would add it: one file, and one line in the table of families."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Maps
from cellwright.core.settings import BoundedSettings, about
from cellwright.models import registry
from cellwright.models.protocol import CellModel, MapKind, known_mean, labels_in, spec_of_preset
from cellwright.models.spec import ModelSpec
from cellwright.ops.labels import keep_labels, label_properties


@dataclass(frozen=True, slots=True)
class ToySettings(BoundedSettings):
    """What can be changed after the network has run."""

    brightness: Annotated[float, about("Lowest probability of a cell's pixel.", 0.0, 1.0, step=0.01)] = 0.5
    min_area_px: Annotated[int, about("Smallest area of a cell.", 1, 100_000)] = 9


SPECS = {
    "small": ModelSpec(
        family="toy",
        preset="small",
        title="Bright blobs in 2D",
        in_channels=1,
        map_channels={"bright": 1},
        divisor=2,
        halo=2,
    )
}


class ToyNetwork(nn.Module):
    """The logit grows with brightness; two weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)
        nn.init.constant_(self.layer.weight, 20.0)
        assert self.layer.bias is not None
        nn.init.constant_(self.layer.bias, -10.0)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layer(image)
        return logits


class ToyModel(CellModel):
    """Takes what is bright for cells."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"bright": "scalar"}

    def make_targets(self, annotation: Annotation) -> Maps:
        return {"bright": (labels_in(annotation, self.spec.family) > 0)[np.newaxis].astype(np.float32)}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return known_mean(functional.binary_cross_entropy_with_logits, output, targets)

    def to_maps(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def postprocess(self, maps: Maps, settings: ToySettings) -> Cells:
        labels = ndimage.label(maps["bright"][0] > settings.brightness)[0].astype(np.int32)
        labels = keep_labels(labels, np.bincount(labels.ravel())[1:] >= settings.min_area_px)
        areas, points, boxes = label_properties(labels)
        return Cells(points, boxes, np.ones(len(areas), np.float32), areas, labels)


def build(preset: str = "small") -> ToyModel:
    return ToyModel(spec_of_preset(SPECS, preset), ToyNetwork())


FAMILY = registry.Family(
    name="toy",
    title="Bright blobs",
    description="Takes what is bright for cells",
    learns_from=("masks",),
    gives="instances",
    returns=("Labels", "Points"),
    module=__name__,
    settings=ToySettings,
)
