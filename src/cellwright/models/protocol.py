"""What every model family offers; written once so that inference, training and tests are shared."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, Self

from torch import Tensor, nn

from cellwright.core.data import Annotation, Image, Maps
from cellwright.core.tasks import Task
from cellwright.models.spec import ModelSpec
from cellwright.models.stitching import Stitched
from cellwright.ops.geometry.axes import Frames
from cellwright.ops.geometry.tiles import Tile
from cellwright.ops.volumes.link import LinkSettings

MapKind = Literal["scalar", "direction", "density", "upright", "size"]
"""How a map follows its image when that is turned or rescaled.

``scalar`` keeps its values, the unit vectors (y, x) of ``direction`` turn too, ``density`` keeps its
integral. ``upright`` keeps its values and ``size`` (height, width) counts in pixels, but both belong to boxes
and are known only after quarter turns.
"""


class Stitcher(Protocol):
    """Puts the decoded blocks of an image together."""

    def add(self, frame: int, block: Tile, decoded: Any) -> None:
        """Add what :meth:`CellModel.decode` gave for one block of a frame."""
        ...

    def finish(self, settings: Any) -> Task[Stitched]:
        """Return the whole image under these settings of the family."""
        ...


class CellModel(Protocol):
    """A network and the two-way code between cells and its maps.

    Counting goes ``frames`` (image to network input), ``network``, ``to_maps``, ``decode`` (maps of a block
    to its cells or density), ``stitcher`` (blocks to image) and, for volumes, ``linking``.

    Attributes
    ----------
    spec
        The facts of the model.
    network
        float (B, in_channels, Y, X) -> float (B, sum of map_channels, Y, X); the channels follow the
        order of ``spec.map_channels``.
    sha256
        Checksum of the weights, empty when they are random.
    map_kinds
        For each map, how it follows the image; what training needs to cut patches from targets.
    """

    spec: ModelSpec
    network: nn.Module
    sha256: str

    @property
    def needs_volumes(self) -> bool:
        """Whether the family looks at slices in their volume and so knows nothing of 2D images."""
        ...

    @property
    def map_kinds(self) -> Mapping[str, MapKind]:
        """The kind of each map in ``spec.map_channels``."""
        ...

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the maps a perfect network would give (map units); not a number where nothing is known.

        Raises
        ------
        AnnotationError
            The family needs masks and there are none.
        """
        ...

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar training loss; both are (B, sum of map_channels, Y, X).

        ``output`` is raw, ``targets`` are in map units and not a number where nothing is known.
        """
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

    def frames(self, image: Image, channel: int | None) -> Frames:
        """Return what of an image the network sees, one 2D frame after the other.

        Raises
        ------
        AxesError
            The family does not take such images.
        """
        ...

    def decode(self, maps: Maps, shape: tuple[int, int], settings: Any) -> Any:
        """Return what the maps of one block hold, in pixels of ``shape`` (Y, X), its size in the image.

        ``Cells``, or a ``DensityBlock`` for families that give a density.
        """
        ...

    def stitcher(self, lead_shape: tuple[int, ...], shape: tuple[int, int]) -> Stitcher:
        """Return an empty stitcher for frames of (Y, X) pixels; ``lead_shape`` are the axes before them."""
        ...

    def linking(self, settings: Any) -> LinkSettings:
        """Return how the cells of slices become cells of volumes under these settings."""
        ...
