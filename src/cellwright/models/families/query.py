"""The ``query`` family: a network that tells for any point whether it lies in a cell.

Source: the segmenter of github.com/Kit115/SegmentationBasedCellClassification (an embedding of the point, the
features around it and those of the whole image, joined in a small perceptron).
"""

from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellwright.core.data import Annotation, Cells, Maps
from cellwright.models.layers.blocks import conv_norm_relu
from cellwright.models.layers.trunk import DIVISOR, FEATURES, HeadedNetwork, network_of, trained_specs
from cellwright.models.protocol import (
    CellModel,
    MapKind,
    boxes_in,
    known_mean,
    soft_cross_entropy,
    spec_of_preset,
)
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.query import (
    QuerySettings,
    boxes_to_depth,
    check_points,
    inside_to_depth,
    labels_to_depth,
    query_to_cells,
)

MAP_CHANNELS = {"inside": 1, "depth": 1}
ANSWER = 32  # width of the perceptron that answers

VIEW = 224  # pixels along each side of what the published network sees
PLANE = 56  # along each side of its features
PATCH = 8  # of these around a point, along each side
OCTAVES = 12  # of the sines a point is told by
MOST_LATTICE = 112  # points along a side that answer for a whole image; those between are interpolated
CHUNK = 4096  # points answered at once, which bounds the memory

SPECS = {
    **trained_specs(
        "query",
        "Nuclei and cells in 2D: ask any point, outlines from a lattice of questions",
        MAP_CHANNELS,
        small_px=(16.0, 36.0),
        lite_px=(14.0, 50.0),
    ),
    "paper": ModelSpec(
        family="query",
        preset="paper",
        title="Coordinate-queried segmenter of nuclei (architecture only)",
        in_channels=3,
        map_channels={"inside": 1},
        divisor=DIVISOR,
        halo=DIVISOR,  # of no use: the network sees the whole tile, squashed
    ),
}


class QueryHead(nn.Module):
    """Tells from features whether points lie in cells: any points, or the lattice of every second pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.around = conv_norm_relu(FEATURES, ANSWER)
        self.answer = nn.Sequential(
            nn.Conv2d(ANSWER, ANSWER, 1), nn.ReLU(inplace=True), nn.Conv2d(ANSWER, 2, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, 24, Y/2, X/2) -> logits (B, 2, Y, X), interpolated between the lattice's points."""
        lattice = self.answer(self.around(features))
        return functional.interpolate(lattice, scale_factor=2.0, mode="bilinear", align_corners=False)

    def at(self, features: Tensor, points: Tensor) -> Tensor:
        """Features (1, 24, Y/2, X/2) and points (N, 2) in pixels, order y, x -> logits (N, 2)."""
        around = self.around(features)
        size = torch.tensor(around.shape[-2:], dtype=points.dtype, device=points.device)
        place = ((points + 0.5) / size - 1.0).flip(-1)[None, None]  # pixels are half a lattice step
        sampled = functional.grid_sample(
            around, place, mode="bilinear", padding_mode="border", align_corners=False
        )
        return self.answer(sampled)[0, :, 0].T


class PointCode(nn.Module):
    """A place in the image as 256 numbers: sines and cosines of twelve octaves, then two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4 * OCTAVES, 256), nn.GELU(approximate="tanh"), nn.Linear(256, 256)
        )

    def forward(self, place: Tensor) -> Tensor:
        """Places (..., 2), x and y from 0 to 1 -> (..., 256)."""
        angles = [place * 2.0**octave for octave in range(OCTAVES)]
        waves = [wave for angle in angles for wave in (angle.sin(), angle.cos())]
        return self.layers(torch.cat(waves, dim=-1))


class PointSegmenter(nn.Module):
    """The published segmenter; 405,229 parameters.

    It has a fixed view of 224 x 224 pixels, into which an image of any size and shape is squashed. From it
    come a plane of features (4, 56, 56) and 64 numbers about the whole image; a point is answered from
    these numbers, the 8 x 8 features around the point, and the point's place, 0 to 1 along each axis.

    The map of an image comes from a lattice of questions, one for every second pixel along each side and
    112 at most, interpolated in between. The published system asks for all 224 x 224 pixels of the view; four
    times fewer questions tell the same, as no feature is finer than four pixels of the view.
    """

    patch: Tensor  # where the features around a point lie, x and y in half sides of the view

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.local = nn.Sequential(*_steps((in_channels, 16, 32), stride=2), *_steps((32, 4), stride=1))
        self.whole = nn.Sequential(*_steps((in_channels, 4, 8, 16, 32, 64), stride=2))
        self.point = PointCode()
        self.head = nn.Sequential(
            nn.Linear(256 + 4 * PATCH**2 + 64, 512), nn.GELU(approximate="tanh"), nn.Linear(512, 1)
        )
        around = (torch.arange(PATCH) - (PATCH - 1) / 2) * 2 / (PLANE - 1)
        patch = torch.stack([around.expand(PATCH, PATCH), around[:, None].expand(PATCH, PATCH)], dim=-1)
        self.register_buffer("patch", patch.reshape(1, -1, 2), persistent=False)

    def features(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> (B, 4 * 56 * 56 + 64): the plane, then the whole image."""
        view = functional.interpolate(
            image, (VIEW, VIEW), mode="bilinear", align_corners=False, antialias=True
        )
        return torch.cat([self.local(view).flatten(1), self.whole(view).mean(dim=(2, 3))], dim=1)

    def forward(self, image: Tensor) -> Tensor:
        """Float (B, in_channels, Y, X) -> logits (B, 1, Y, X)."""
        height, width = (min(MOST_LATTICE, -(-size // 2)) for size in image.shape[2:])
        rows, columns = ((torch.arange(n, device=image.device) + 0.5) / n for n in (height, width))
        places = torch.cartesian_prod(rows, columns).flip(-1)
        answers = self.answers(self.features(image), places).reshape(-1, 1, height, width)
        return functional.interpolate(answers, image.shape[2:], mode="bilinear", align_corners=False)

    def at(self, features: Tensor, points: Tensor, shape: tuple[int, int]) -> Tensor:
        """Return logits (N, 1) at points (N, 2), y and x in pixels of one image of this shape (Y, X)."""
        size = torch.tensor(shape, dtype=points.dtype, device=points.device)
        return self.answers(features, ((points + 0.5) / size).flip(-1))[0, :, np.newaxis]

    def answers(self, features: Tensor, places: Tensor) -> Tensor:
        """Return logits (B, N) at places (N, 2), x and y from 0 to 1, asking some thousand at once."""
        return torch.cat([self._answer(features, part) for part in torch.split(places, CHUNK)], dim=1)

    def _answer(self, features: Tensor, places: Tensor) -> Tensor:
        n_images, n = len(features), len(places)
        plane = features[:, :-64].reshape(n_images, 4, PLANE, PLANE)
        grid = (2 * places[:, None] - 1 + self.patch).expand(n_images, -1, -1, -1)  # (B, N, 64, 2)
        around = functional.grid_sample(plane, grid.to(plane.dtype), align_corners=True)  # (B, 4, N, 64)
        around = around.transpose(1, 2).flatten(2)
        code = self.point(places).expand(n_images, -1, -1)
        whole = features[:, np.newaxis, -64:].expand(-1, n, -1)
        return self.head(torch.cat([code, around, whole], dim=-1))[..., 0]


def _steps(widths: tuple[int, ...], stride: int) -> list[nn.Module]:
    steps: list[nn.Module] = []
    for n_in, n_out in pairwise(widths):
        steps += [nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.GELU(approximate="tanh")]
    return steps


class QueryModel(CellModel):
    """A query network with its loss and its two-way code."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"inside": "scalar", "depth": "scalar"}

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return inside (1, Y, X) and depth (1, Y, X); of boxes and points only the middles are known."""
        if annotation.labels is not None:
            depth = labels_to_depth(annotation.labels)
            inside = (annotation.labels > 0)[np.newaxis].astype(np.float32)
        else:
            depth = boxes_to_depth(boxes_in(annotation), annotation.shape)
            inside = np.where(np.isnan(depth), depth, np.float32(1))
        maps = {"inside": inside, "depth": depth}
        return {name: maps[name] for name in self.spec.map_channels}

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of the cross-entropies of the answers; both (B, maps, Y, X)."""
        losses = [
            known_mean(soft_cross_entropy, *pair)
            for pair in zip(torch.split(output, 1, 1), torch.split(targets, 1, 1), strict=True)
        ]
        return torch.stack(losses).sum()

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the answers as probabilities; (B, maps, Y, X)."""
        return output.sigmoid()

    def postprocess(self, maps: Maps, settings: QuerySettings) -> Cells:
        """Return the cells in the maps of one frame.

        The published network answers no more than "inside": the depth is then the distance to the rim of the
        region above the threshold. (The published system returns points alone, the local maxima of that map
        cut off below 0.95, smoothed by 2 pixels of the view, at least 12 pixels apart.)
        """
        inside = maps["inside"]
        depth = maps.get("depth")
        if depth is None:
            depth = inside_to_depth(inside, settings.cell_probability)
        return query_to_cells(inside, depth, settings)

    def query(self, image: NDArray[np.float32], points: ArrayLike) -> NDArray[np.float32]:
        """Return the probability (N,) that there is a cell at each of the points.

        For many prompts of one image see ``inference.point_prompt``, which runs the network once.

        ``image``, float32 (C, Y, X), has scaled intensities, one channel is repeated; ``points`` (N, 2) are y
        and x in pixels, the centre of the first pixel being 0, 0.

        QueryError where a point lies outside the image.
        """
        shape = (image.shape[1], image.shape[2])
        device = next(self.network.parameters()).device
        prompts = torch.from_numpy(check_points(points, shape)).to(device)
        if not len(prompts):
            return np.zeros(0, np.float32)
        fill = [(0, 0), *((0, -size % self.spec.divisor) for size in shape)]
        padded = torch.from_numpy(np.pad(image, fill, mode="reflect")).to(device)[np.newaxis]
        was_training = self.network.training
        try:
            self.network.eval()
            with torch.inference_mode():
                answers = self._at(padded.expand(1, self.spec.in_channels, -1, -1), prompts)
                found: NDArray[np.float32] = self.to_maps(answers)[:, 0].cpu().numpy()
        finally:
            self.network.train(was_training)
        return found

    def _at(self, image: Tensor, points: Tensor) -> Tensor:
        """Image (1, in_channels, Y, X) and points (N, 2) -> logits (N, maps)."""
        network = self.network
        if isinstance(network, PointSegmenter):
            return network.at(network.features(image), points, (image.shape[2], image.shape[3]))
        if isinstance(network, HeadedNetwork) and isinstance(network.head, QueryHead):
            return network.head.at(network.features(image), points)
        raise TypeError(f"Only the networks of this family answer points; got {type(network).__name__}.")


class PaperQueryModel(QueryModel):
    """The published network, which answers no more than "inside"."""

    map_kinds: ClassVar[dict[str, MapKind]] = {"inside": "scalar"}


def build(preset: str = "small") -> QueryModel:
    """Return a query model of this preset with random weights."""
    spec = spec_of_preset(SPECS, preset)
    if preset == "paper":
        return PaperQueryModel(spec, PointSegmenter(spec.in_channels))
    return QueryModel(spec, network_of(preset, QueryHead(), spec.in_channels))
