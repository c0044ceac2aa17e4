"""Point prompts: is there a cell at this point of an image, and what is its outline.

The network runs once for a frame (once for each window around a prompt, where the frame is large); later
prompts are looked up in its maps. Around a box it runs again where the cell in it has another size than the
network knows best.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from skimage.measure import find_contours

from cellwright.core.data import Cells, Image, Maps
from cellwright.core.errors import QueryError, SettingsError
from cellwright.core.tasks import Progress, Task, run
from cellwright.inference.context import (
    BlockBatch,
    CountContext,
    ModelChoices,
    block_layout,
    load_models,
    open_context,
)
from cellwright.inference.scale import try_scales, zoom_for
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.ops.codecs.prompts import Prompts, prompted_mask
from cellwright.ops.codecs.query import check_points, points_inside
from cellwright.ops.geometry.axes import Frames
from cellwright.ops.geometry.intensity import Scaling
from cellwright.ops.geometry.tiles import Tile, grid, whole_tile
from cellwright.ops.labels import label_properties

PROBABILITIES = ("inside", "probability")  # maps that tell the chance of a pixel to be part of a cell
WHOLE_PX = 2048  # a frame up to this long is encoded at once
WINDOW_PX = 1024  # of a longer one, the part around the point, in pixels of the model
MOST_WINDOWS = 4  # kept at a time
AROUND = 0.5  # of the longer side of what is prompted, which is looked at on each side
AROUND_PX = 8
# a prompted cell is wanted however small or unsure it is
ALL_CELLS = {"min_score": 0.0, "min_area_px": 1, "exclude_border": False}


@dataclass(frozen=True, slots=True)
class PromptedCell:
    """The cell under a point."""

    point: NDArray[np.float32]  # (2,): its middle, y and x in pixels of the frame
    box: NDArray[np.intp]  # (2, 2): first and one-past-last corner of its bounding box, in pixels
    mask: NDArray[np.bool_]  # (Y, X): its pixels inside the box
    score: float  # 0 to 1, how sure the model is that this is one whole cell

    @property
    def area(self) -> int:
        """Pixels covered."""
        return int(np.count_nonzero(self.mask))

    @property
    def outlines(self) -> list[NDArray[np.float32]]:
        """Corners (N, 2) of the polygon around each part and hole, the longest first, in frame pixels."""
        contours: list[NDArray[np.float64]] = find_contours(np.pad(self.mask, 1).astype(np.float32), 0.5)
        return [np.asarray(one - 1 + self.box[0], np.float32) for one in sorted(contours, key=len)[::-1]]

    @property
    def outline(self) -> NDArray[np.float32]:
        """Corners (N, 2) of the polygon around its largest part, y and x in pixels of the frame."""
        return self.outlines[0]


@dataclass(frozen=True, slots=True)
class Window:
    """What the network gave for one part of the frame."""

    tile: Tile
    probability: NDArray[np.float32]  # (Y, X) of the model's pixels
    cells: Cells  # in pixels of the window, which is `tile.read`
    zoom: float  # model pixels per pixel of the frame

    def shows(self, span: NDArray[np.float64]) -> bool:
        """Return whether all between two corners (2, 2) lies in what was read."""
        parts = zip(self.tile.read, span[0], span[1], strict=True)
        return all(part.start - 0.5 <= low and high < part.stop - 0.5 for part, low, high in parts)

    def holds(self, point: NDArray[np.float32]) -> bool:
        """Return whether the point lies in the core of this window."""
        return all(
            core.start - 0.5 <= at < core.stop - 0.5 for core, at in zip(self.tile.core, point, strict=True)
        )

    @property
    def corner(self) -> NDArray[np.intp]:
        """First pixel of the window."""
        return np.array([part.start for part in self.tile.read])


class PointPredictor:
    """Finds the cell at any point of one 2D frame of an image.

    Of an image of any size only the windows around the points are read; ``frame`` is the index along each
    axis before YX. The model, its name or folder, or a tuple of models, is one that outlines cells (query or
    flow); limits on size, score and border in the settings of its family do not apply.

    CellwrightError where the image, the model or a setting does not fit; says what to do.
    """

    def __init__(
        self,
        image: Image,
        model: ModelChoices = "query",
        settings: Any = None,
        engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
        frame: tuple[int, ...] = (),
    ) -> None:
        self._image = image
        self._models = load_models(model)
        self._settings = settings
        self._engine = engine
        self._map = _probability_map(self._models[0].spec.map_channels, self._models[0].spec.family)
        seen = engine.seen(image)
        frames = self._models[0].frames(seen.image, seen.channel)
        self.shape = frames.shape
        self._index = _index(frame, frames.lead_shape)
        if settings is None:
            settings = registry.get(self._models[0].spec.family).settings()
        self._threshold = float(settings.cell_probability)
        self._zoom: float | None = None
        self._scaling: Scaling | None = None
        self._windows: deque[Window] = deque(maxlen=MOST_WINDOWS)
        self._around_prompts: deque[Window] = deque(maxlen=MOST_WINDOWS)

    def probability(self, points: ArrayLike) -> NDArray[np.float32]:
        """Return the probability (N,) that there is a cell at each of the points (N, 2), y and x in pixels.

        QueryError where a point lies outside the frame.
        """
        table = check_points(points, self.shape)
        found = np.zeros(len(table), np.float32)
        todo = np.arange(len(table))
        while len(todo):
            window = self._window_at(table[todo[0]])
            here = np.array([window.holds(table[index]) for index in todo])
            found[todo[here]] = _sample(window, table[todo[here]])
            todo = todo[~here]
        return found

    def cell_at(self, point: ArrayLike) -> PromptedCell | None:
        """Return the cell at a point (y and x in pixels), or None where there is none.

        QueryError where the point lies outside the frame.
        """
        (at,) = check_points(np.asarray(point)[np.newaxis], self.shape)
        window = self._window_at(at)
        labels = window.cells.labels
        assert labels is not None  # as _probability_map made sure
        number = labels[tuple(np.floor(at + 0.5).astype(int) - window.corner)]
        if not number:
            return None
        return _cell_in(window, labels, int(number))

    def segment(self, prompts: Prompts) -> PromptedCell | None:
        """Return the one cell that points and a box tell of, or None where the model sees none.

        One positive point alone gives what :meth:`cell_at` gives. With more prompts the cell holds every
        positive point and no negative one. A box limits it (a pixel or 4 % of its side may lie beyond) and
        tells its size: the network looks again at the scale that suits it. A box in which the model sees
        nothing and that has no positive point gives None.

        QueryError where a point lies outside the frame, or the positive points and the box lie beyond it.
        """
        if prompts.is_click:
            return self.cell_at(prompts.positive[0])
        window = self._window_for(prompts)
        if window is None:
            run(self.encode_for(prompts))
            window = self._window_for(prompts)
        assert window is not None
        diameter_px = self._models[0].spec.diameter_px / window.zoom
        return _prompted_cell(window, prompts, self._threshold, diameter_px)

    def encode(self, point: ArrayLike | None = None) -> Task[None]:
        """Run the network where the point is (the middle when not given), unless that was done before.

        Prompts do so by themselves; a task of its own lets a widget show progress and stay alive.
        """
        if point is None:
            point = (np.array(self.shape) - 1) / 2
        (at,) = check_points(np.asarray(point)[np.newaxis], self.shape)
        if self._known(at):
            return
        yield Progress("load", 0, 1)
        with open_context(self._image, self._models, self._settings, self._engine) as context:
            self._windows.append((yield from self._predict(context, at)))

    def encode_for(self, prompts: Prompts) -> Task[None]:
        """Run the network where :meth:`segment` needs it for these prompts, unless that was done before."""
        if self._window_for(prompts) is None and prompts.box is None:
            yield from self.encode(prompts.positive[0])
        if self._window_for(prompts) is not None:
            return
        yield Progress("load", 0, 1)
        with open_context(self._image, self._models, self._settings, self._engine) as context:
            tile, zoom = self._around(prompts)
            self._around_prompts.append((yield from self._look(context, tile, zoom)))

    def _window_for(self, prompts: Prompts) -> Window | None:
        """Return what shows all that is prompted, a box at the scale that suits it; None before that."""
        points = np.array([*prompts.positive, *prompts.negative], np.float32).reshape(-1, 2)
        checked = check_points(points, self.shape)
        if prompts.box is None:
            known = self._known(checked[0])
            if known is None or known.shows(prompts.span):
                return known
        tile, zoom = self._around(prompts)
        made = (one for one in self._around_prompts if one.tile == tile and one.zoom == zoom)
        return next(made, None)

    def _around(self, prompts: Prompts) -> tuple[Tile, float]:
        """Return the window with context around all that is prompted, and its scale."""
        shape, spec = np.array(self.shape), self._models[0].spec
        zoom = self._zoom or 1.0
        if prompts.box is not None:
            zoom = zoom_for(prod(prompts.sides) ** 0.5, spec)
        halo = ceil(max(model.spec.halo for model in self._models) / zoom)
        low, high = np.floor(prompts.span[0] + 0.5).astype(int), np.ceil(prompts.span[1] + 0.5).astype(int)
        if (low >= shape).any() or (high <= 0).any():
            raise QueryError(
                f"A box must lie in the image of {self.shape[0]} x {self.shape[1]} pixels; got "
                f"{prompts.span.tolist()}. Draw it in the image."
            )
        first, last = np.maximum(low - halo, 0), np.minimum(high + halo, shape)
        window = slice(int(first[0]), int(last[0])), slice(int(first[1]), int(last[1]))
        return Tile(window, window), zoom

    def _window_at(self, at: NDArray[np.float32]) -> Window:
        known = self._known(at)
        if known is None:
            run(self.encode(at))
            known = self._windows[-1]
        return known

    def _known(self, at: NDArray[np.float32]) -> Window | None:
        return next((window for window in self._windows if window.holds(at)), None)

    def _predict(self, context: CountContext, at: NDArray[np.float32]) -> Task[Window]:
        """Return the window around a point; the first one decides the scale and light of all."""
        if context.is_blank:
            return _empty(whole_tile(self.shape), 1.0)
        trial, first = None, self._tile_at(context, at, 1.0)
        if self._zoom is None:
            trial = yield from try_scales(self._only(context, first))
            self._zoom, self._scaling = trial.zoom, trial.scaling
        tile = self._tile_at(context, at, self._zoom)
        if trial and trial.predicted and (tile, _whole(tile)) == (first, trial.batch):
            return self._window_of(context, tile, self._zoom, trial.predicted.maps)
        return (yield from self._look(context, tile, self._zoom))

    def _look(self, context: CountContext, tile: Tile, zoom: float) -> Task[Window]:
        """Run the network on a window."""
        if context.is_blank:
            return _empty(tile, zoom)
        part, batch = self._only(context, tile), _whole(tile)
        if self._scaling is not None:
            part = replace(part, scaling=self._scaling)
        maps = yield from part.predict(batch, zoom, part.progress([batch], zoom))
        return self._window_of(context, tile, zoom, maps)

    def _window_of(self, context: CountContext, tile: Tile, zoom: float, maps: list[Maps]) -> Window:
        known = {name: value for name, value in ALL_CELLS.items() if hasattr(context.settings, name)}
        cells = context.model.decode(maps[0], _whole(tile).shape, replace(context.settings, **known))
        return Window(tile, maps[0][self._map][0], cells, zoom)

    def _tile_at(self, context: CountContext, at: NDArray[np.float32], zoom: float) -> Tile:
        """Return the window around a point, with context for the network and for a whole cell."""
        pixel = np.floor(at + 0.5)
        tiles = grid(block_layout(self.shape, context.networks, zoom, WHOLE_PX, WINDOW_PX))
        return next(
            tile
            for tile in tiles
            if all(core.start <= i < core.stop for core, i in zip(tile.core, pixel, strict=True))
        )

    def _only(self, context: CountContext, tile: Tile) -> CountContext:
        """Return the context of this window alone, as if it were an image."""
        pixels = context.frames.read(self._index, tile.read)
        shape = (pixels.shape[1], pixels.shape[2])
        return replace(context, frames=Frames(Image(pixels, "CYX"), slice(None), (), shape))


def _whole(tile: Tile) -> BlockBatch:
    """Return the only batch of a window that is taken for an image."""
    shape = tuple(part.stop - part.start for part in tile.read)
    return BlockBatch(range(1), whole_tile(shape))


def _probability_map(map_channels: dict[str, int], family: str) -> str:
    for name in PROBABILITIES:
        if name in map_channels:
            return name
    raise SettingsError(
        f"Point prompts need a model that outlines cells; got one of {family}. Choose query or flow."
    )


def _index(frame: tuple[int, ...], lead_shape: tuple[int, ...]) -> int:
    if len(frame) != len(lead_shape) or not all(0 <= i < n for i, n in zip(frame, lead_shape, strict=True)):
        raise SettingsError(
            f"frame must have an index for each axis before YX, of lengths {lead_shape}; got {frame}. Choose "
            "a frame of the image."
        )
    return int(np.ravel_multi_index(frame, lead_shape))


def _sample(window: Window, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability at points in pixels of the frame, interpolated between pixels of the model."""
    read_shape = [part.stop - part.start for part in window.tile.read]
    zooms = np.array(window.probability.shape) / read_shape
    at = (points - window.corner + 0.5) * zooms - 0.5
    values = ndimage.map_coordinates(window.probability, at.T, order=1, mode="nearest")
    return np.asarray(values, np.float32)


def _cell_in(window: Window, labels: NDArray[np.int32], number: int) -> PromptedCell:
    cells, row = window.cells, number - 1
    box = cells.boxes[row].astype(np.intp)
    mask = labels[box[0, 0] : box[1, 0], box[0, 1] : box[1, 1]] == number
    return PromptedCell(
        point=(cells.points[row] + window.corner).astype(np.float32),
        box=box + window.corner,
        mask=mask,
        score=float(cells.scores[row]),
    )


def _prompted_cell(
    window: Window, prompts: Prompts, threshold: float, diameter_px: float
) -> PromptedCell | None:
    labels = window.cells.labels
    assert labels is not None  # as _probability_map made sure
    first, last = _part_around(window, labels, prompts.moved(window.corner))
    part = labels[first[0] : last[0], first[1] : last[1]]
    corner = window.corner + first
    rows, columns = np.mgrid[: part.shape[0], : part.shape[1]]
    points = np.stack([rows.ravel(), columns.ravel()], axis=1) + corner
    inside = _sample(window, points.astype(np.float32)).reshape(part.shape)
    mask = prompted_mask(inside, part, prompts.moved(corner), threshold, diameter_px)
    if not mask.any():
        return None
    found = mask.astype(np.int32)
    _, points, boxes = label_properties(found)
    box = boxes[0].astype(np.intp)
    return PromptedCell(
        point=(points_inside(found, points)[0] + corner).astype(np.float32),
        box=box + corner,
        mask=mask[box[0, 0] : box[1, 0], box[0, 1] : box[1, 1]],
        score=float(inside[mask].mean()),
    )


def _part_around(
    window: Window, labels: NDArray[np.int32], prompts: Prompts
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first and one-past-last pixel of the prompts, the cells at them, and what is around."""
    shape = np.array(labels.shape)
    corners = [prompts.span[0], prompts.span[1] + 1]
    pixels = np.clip(np.floor(np.array(prompts.positive).reshape(-1, 2) + 0.5).astype(int), 0, shape - 1)
    for number in set(labels[tuple(pixels.T)].tolist()) - {0}:
        corners += list(window.cells.boxes[number - 1])
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    around = ceil(AROUND * (high - low).max()) + AROUND_PX
    first = np.clip(np.floor(low).astype(np.intp) - around, 0, shape)
    last = np.clip(np.ceil(high).astype(np.intp) + around, 0, shape)
    return first, last


def _empty(tile: Tile, zoom: float) -> Window:
    shape = _whole(tile).shape
    cells = Cells.empty(2, np.zeros(shape, np.int32))
    return Window(tile, np.zeros(shape, np.float32), cells, zoom)
