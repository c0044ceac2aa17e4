"""What every model family offers, with what all do alike; so inference, training and tests are shared."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import fields
from math import prod
from typing import Any, ClassVar, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Image, Labels, Maps
from cellwright.core.errors import AnnotationError, AxesError, CheckpointError
from cellwright.core.tasks import Task
from cellwright.models import registry
from cellwright.models.fit import FitCalibration
from cellwright.models.layers.blocks import folded
from cellwright.models.spec import ModelSpec
from cellwright.models.stitching import CellStitcher, Stitched
from cellwright.ops.geometry.axes import Frames, frames
from cellwright.ops.geometry.resample import Grid, resize_cells, resize_window
from cellwright.ops.geometry.tiles import Tile
from cellwright.ops.link import LinkSettings

POINT_DIAMETER_PX = 20.0  # taken for cells of which only the centre is known

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


class CellModel:
    """A network and the two-way code between cells and its maps.

    Counting goes ``frames`` (image to network input), ``network``, ``to_maps``, ``decode`` (maps of a block
    to its cells or density), ``stitcher`` (blocks to image) and, for volumes, ``linking``. A family adds
    ``make_targets``, ``loss``, ``to_maps`` and ``postprocess``, or ``decode`` and ``stitcher``.

    The network takes float (B, in_channels, Y, X) to float (B, sum of map_channels, Y, X), the channels in
    the order of ``spec.map_channels``. ``sha256`` is the checksum of the weights, empty when they are random.
    """

    map_kinds: ClassVar[Mapping[str, MapKind]]  # for each map, how it follows the image
    takes_volumes: ClassVar[bool] = False  # slice by slice, to be linked
    fit: FitCalibration | None = None  # how well it does on which images; None where nobody found out

    def __init__(self, spec: ModelSpec, network: nn.Module, sha256: str = "") -> None:
        self.spec = spec
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.sha256 = sha256

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the maps a perfect network would give (map units); not a number where nothing is known.

        AnnotationError where the family needs masks and there are none.
        """
        raise NotImplementedError

    def make_density(self, annotation: Annotation) -> NDArray[np.float32]:
        """Return the density (1, Y, X) in cells per pixel, of a family that gives one."""
        raise NotImplementedError

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar training loss; both are (B, sum of map_channels, Y, X).

        ``output`` is raw, ``targets`` are in map units and not a number where nothing is known.
        """
        raise NotImplementedError

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the network output in map units (probabilities, pixels); the same shape."""
        raise NotImplementedError

    def to_summands(self, output: Tensor) -> Tensor:
        """Return raw output (B, maps, Y, X) in the units of which means are taken, as it is by default.

        Means are over mirrored images, several networks, and windows that overlap.
        """
        return output

    def mean_to_maps(self, mean: Tensor) -> Tensor:
        """Return a mean of what :meth:`to_summands` gives, (B, maps, Y, X), in map units."""
        return self.to_maps(mean)

    def postprocess(self, maps: Maps, settings: Any) -> Cells:
        """Return the cells in the maps of one frame, in pixels of the maps."""
        raise NotImplementedError

    def with_network(
        self,
        network: nn.Module,
        *,
        spec: ModelSpec | None = None,
        sha256: str = "",
        fit: FitCalibration | None = None,
    ) -> Self:
        """Return the same model with another network (and spec, checksum and fit)."""
        model = type(self)(spec or self.spec, network, sha256)
        model.fit = fit
        return model

    def inference_network(self) -> nn.Module:
        """Return a copy of the network for inference, batch normalisation folded into the convolutions."""
        return folded(self.network)

    @property
    def needs_volumes(self) -> bool:
        """Whether the family looks at slices in their volume and so knows nothing of 2D images."""
        return registry.get(self.spec.family).needs_volumes

    def frames(self, image: Image, channel: int | None) -> Frames:
        """Return what of an image the network sees, one 2D frame after the other.

        AxesError where the image is a volume and the family does not take volumes.
        """
        if "Z" in image.axes and not self.takes_volumes:
            raise AxesError(
                f"{self.spec.family} counts in 2D images and in time series of them; got axes {image.axes!r} "
                f"with shape {image.shape}. Choose pseudocolor or flow, which link slices, or a single slice."
            )
        return frames(image, channel)

    def decode(self, maps: Maps, shape: tuple[int, int], settings: Any, grid: Grid | None = None) -> Any:
        """Return the cells in the maps of one block, in pixels of ``shape`` (Y, X), its size in the image.

        A ``DensityBlock`` for families that give a density. ``grid`` tells how a block that was resized as a
        part of its image became the maps; without it the whole became the whole.

        Maps of a block that was shrunk are enlarged first, so that outlines are smooth. Those of a block that
        was enlarged are decoded as they are, for the sake of small cells, and the labels shrunk.
        """
        map_shape = next(iter(maps.values())).shape[-2:]
        grid = grid or Grid.of(shape, map_shape)
        if grid == grid.back:
            return self.postprocess(maps, settings)
        zoom = (prod(grid.other_whole) / prod(grid.whole)) ** 0.5
        if zoom < 1:
            enlarged = {name: resize_window(one, grid.back) for name, one in maps.items()}
            for name, kind in self.map_kinds.items():
                if kind == "size":
                    enlarged[name] = enlarged[name] / np.float32(zoom)
            return self.postprocess(enlarged, settings)
        cells = self.postprocess(maps, in_model_pixels(settings, zoom))
        return resize_cells(cells, grid.back)

    def stitcher(self, lead_shape: tuple[int, ...], shape: tuple[int, int]) -> Stitcher:
        """Return an empty stitcher for frames of (Y, X) pixels; ``lead_shape`` are the axes before them."""
        has_labels = "Labels" in registry.get(self.spec.family).returns
        return CellStitcher(lead_shape, shape, has_labels=has_labels)

    def linking(self, settings: Any) -> LinkSettings:
        """Return how the cells of slices become cells of volumes: as the settings say, or the usual way."""
        return settings.linking() if hasattr(settings, "linking") else LinkSettings()

    def flip(self, output: Tensor, axis: int) -> Tensor:
        """Return the raw output (B, maps, Y, X) of a flipped image, flipped back; ``axis`` -2 is Y, -1 is X.

        Directions (y, x) along the flipped axis change their sign.
        """
        flipped = output.flip(axis).clone()
        start = 0
        for name, n in self.spec.map_channels.items():
            if self.map_kinds[name] == "direction":
                flipped[:, start if axis == -2 else start + 1] *= -1
            start += n
        return flipped


def in_model_pixels(settings: Any, zoom: float) -> Any:
    """Return settings told in image pixels (in names that end with _px) for maps ``zoom`` times larger.

    Their bounds are told in image pixels, too, so that what was scaled is not checked again.
    """
    scaled = copy(settings)
    for item in fields(settings):
        if not item.name.endswith("_px"):
            continue
        value, factor = getattr(settings, item.name), zoom
        if item.name.endswith("area_px"):
            factor = zoom**2
        resized = value * factor
        if isinstance(value, int):
            resized = max(1, round(resized))
        object.__setattr__(scaled, item.name, resized)  # of a frozen copy
    return scaled


def spec_of_preset(specs: Mapping[str, ModelSpec], preset: str) -> ModelSpec:
    """Return the spec of a preset.

    CheckpointError where there is no such preset.
    """
    try:
        return specs[preset]
    except KeyError:
        family = next(iter(specs.values())).family
        raise CheckpointError(
            f"Preset of {family} must be one of {', '.join(sorted(specs))}; got {preset!r}."
        ) from None


def labels_in(annotation: Annotation, family: str) -> Labels:
    """Return the masks of an annotation.

    AnnotationError where it has none.
    """
    if annotation.labels is None:
        given = "points" if annotation.boxes is None else "boxes"
        raise AnnotationError(
            f"{family} learns from masks; got {len(annotation.points)} {given} without masks. Choose "
            "centroid or query, which learn from boxes, or annotate with Labels."
        )
    return annotation.labels


def boxes_in(annotation: Annotation) -> NDArray[np.float32]:
    """Return the boxes (N, 2, 2) of an annotation; of points alone, squares as wide as a common nucleus."""
    if annotation.boxes is not None:
        return annotation.boxes
    middles = annotation.points + np.float32(0.5)
    half = np.float32(POINT_DIAMETER_PX / 2)
    return np.stack([middles - half, middles + half], axis=1)


def known_mean(loss: Callable[..., Tensor], output: Tensor, targets: Tensor) -> Tensor:
    """Return the mean (scalar) of an elementwise loss over the targets that are numbers; 0 when none is."""
    known = ~targets.isnan()
    losses = loss(output, torch.where(known, targets, 0.0), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def soft_cross_entropy(output: Tensor, targets: Tensor, *, reduction: str) -> Tensor:
    """Return the binary cross-entropy of logits less that of a perfect answer: 0 at targets from 0 to 1."""
    floor = functional.binary_cross_entropy(targets, targets, reduction=reduction)
    return functional.binary_cross_entropy_with_logits(output, targets, reduction=reduction) - floor
