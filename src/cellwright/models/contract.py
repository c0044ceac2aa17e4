"""What every model family offers; written once so that inference, training and tests are shared."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Tensor, nn

from cellwright.models.spec import ModelSpec
from cellwright.types import Cells, Labels, Maps

TensorMaps = Mapping[str, Tensor]


class CellModel(Protocol):
    """A network and the two-way code between cells and its maps.

    Attributes
    ----------
    spec
        The facts of the model.
    network
        float (B, in_channels, Y, X) -> float (B, sum of map_channels, Y, X); the channels follow the
        order of ``spec.map_channels``.
    sha256
        Checksum of the weights, empty when they are random.
    """

    spec: ModelSpec
    network: nn.Module
    sha256: str

    def make_targets(self, labels: Labels) -> Maps:
        """Return the maps a perfect network would give for these labels (training units)."""
        ...

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar training loss; both are (B, sum of map_channels, Y, X)."""
        ...

    def with_network(self, network: nn.Module, *, spec: ModelSpec | None = None, sha256: str = "") -> Self:
        """Return the same model with another network (and spec, and checksum)."""
        ...

    def inference_network(self) -> nn.Module:
        """Return a copy of the network made fast for inference, in evaluation mode."""
        ...

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the network output in map units (probabilities, pixels); the same shape."""
        ...

    def flip(self, output: Tensor, axis: int) -> Tensor:
        """Return the raw output for the flipped image, flipped back; ``axis`` -2 is Y, -1 is X."""
        ...

    def postprocess(self, maps: Maps, settings: Any) -> Cells:
        """Return the cells in the maps of one 2D frame, in pixels of the maps."""
        ...
