"""One cell from prompts: points in it, points beside it, a box around it, and what a model sees there.

What the model takes for cells is kept as far as the prompts allow: positive points join cells, or widen one
to where they lie; negative points remove cells, or part one from what it has swallowed; a box cuts off what
lies beyond it, and the outline becomes wider or narrower until it fills the box.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import Labels
from cellwright.core.errors import QueryError
from cellwright.ops.geometry.boxes import box_around
from cellwright.ops.label_changes import Mask, nearer_part

MARGIN = 0.04  # of the sides of a box, by which a cell may reach beyond it
LEAST_MARGIN_PX = 1.0
SURE = 1.0  # log odds that a point is given at least
LEAST_REACH_PX = 4.0  # of a point of the cell that corrects the model
REACH = 0.3  # the same, of the diameter of the cell
NEGATIVE_REACH = 0.25  # of the way from a negative point to the nearest positive one
USUAL_PX = 26.0  # diameter of a cell of which nothing is known
MOST_ODDS = 6.0  # log odds of a pixel that the model is sure of
SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0, 1.5, -1.5, 2.0, -2.0, 3.0, -3.0)  # of log odds that are tried in a box
ROUND = 2.0  # log odds of the middle of a box, which fall to 0 at the ellipse in it and below beyond
FARTHEST = 4.0  # squared distance, in radii of that ellipse, from which the rest is alike
BETTER = 0.02  # of the overlap with the box, from which another shift or a further piece is taken

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is told of one cell, y and x in pixels; the centre of the first pixel is 0, 0.

    QueryError where there is neither a positive point nor a box, a point is both positive and negative, a
    positive one lies beyond the box, the box has no pixel, or what is told is no point.
    """

    positive: tuple[Point, ...] = ()  # points that lie in the cell
    negative: tuple[Point, ...] = ()  # points that do not
    box: tuple[Point, Point] | None = None  # two opposite corners of the box that the cell fills

    def __post_init__(self) -> None:
        for name in ("positive", "negative"):
            object.__setattr__(self, name, _points(getattr(self, name)))
        if self.box is not None:
            box = _points(self.box)
            if len(box) != 2:
                raise QueryError(f"A box is given by two opposite corners; got {len(box)}.")
            object.__setattr__(self, "box", box)
        if not self.positive and self.box is None:
            raise QueryError("A cell needs a positive point or a box; got neither. Click in the cell.")
        both = set(map(_pixel, self.positive)) & set(map(_pixel, self.negative))
        if both:
            raise QueryError(
                f"A point is positive or negative; y, x {both.pop()} is both. Remove one of them."
            )
        if self.box is not None and min(self.sides) < 1:
            raise QueryError(f"A box must be a pixel wide at least; got {self.box}. Draw it around the cell.")
        beyond = [point for point in self.positive if self.box is not None and not self._holds(point)]
        if beyond:
            y, x = beyond[0]
            raise QueryError(
                f"Positive points must lie in the box; y {y:g}, x {x:g} does not. Draw another box."
            )

    def _holds(self, point: Point) -> bool:
        low, high = self.limits
        return bool((low <= point).all() and (point <= high).all())

    @property
    def limits(self) -> NDArray[np.float64]:
        """First and last corner (2, 2) of the box with the margin that a cell may take beyond it."""
        margin = np.maximum(MARGIN * np.array(self.sides), LEAST_MARGIN_PX)
        return self.corners + np.stack([-margin, margin])

    @property
    def is_click(self) -> bool:
        """Whether there is one positive point and nothing else."""
        return len(self.positive) == 1 and not self.negative and self.box is None

    @property
    def corners(self) -> NDArray[np.float64]:
        """First and last corner (2, 2) of the box."""
        return box_around(np.array(self.box, float))

    @property
    def sides(self) -> tuple[float, float]:
        """Height and width of the box."""
        first, last = self.corners
        return float(last[0] - first[0]), float(last[1] - first[1])

    def from_middle(self, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float64]:
        """Return the squared distance of pixels from the middle of the box, 1 on the ellipse in it."""
        middle, half = self.corners.mean(axis=0), np.array(self.sides) / 2
        return np.asarray(((rows - middle[0]) / half[0]) ** 2 + ((columns - middle[1]) / half[1]) ** 2)

    @property
    def span(self) -> NDArray[np.float64]:
        """First and last corner (2, 2) of what holds the positive points and the box."""
        points = np.array([*self.positive, *(self.box or ())], float)
        return box_around(points)

    def moved(self, origin: NDArray[np.intp]) -> "Prompts":
        """Return the same prompts in pixels of a part that begins at ``origin``."""
        y, x = origin.tolist()

        def move(points: tuple[Point, ...]) -> tuple[Point, ...]:
            return tuple((point[0] - y, point[1] - x) for point in points)

        box = None
        if self.box is not None:
            first, last = move(self.box)
            box = first, last
        return replace(self, positive=move(self.positive), negative=move(self.negative), box=box)


def _points(given: Iterable[Iterable[float]]) -> tuple[Point, ...]:
    """Return points as pairs of numbers, those of an array, too."""
    try:
        points = np.array([list(one) for one in given], float).reshape(-1, 2)
        is_whole = len(points) == len(list(given)) and bool(np.isfinite(points).all())
    except (TypeError, ValueError):
        is_whole = False
    if not is_whole:
        raise QueryError(
            f"A point is two numbers, y and x in pixels; got {given}. Give one pair for each point."
        )
    return tuple((y, x) for y, x in points.tolist())


def prompted_mask(
    inside: NDArray[np.float32],
    labels: Labels,
    prompts: Prompts,
    threshold: float,
    diameter_px: float = USUAL_PX,
) -> Mask:
    """Return the pixels (Y, X) of the cell that is meant; none where the model sees nothing in the box.

    Every positive point is in it and no negative one; with a box, nothing that lies further than a small
    margin beyond it, and positive points.

    ``inside``, float32 (Y, X), is the chance of each pixel to be part of a cell, which the model takes it for
    from the threshold on; ``labels``, int32 (Y, X), are what it takes for cells. The diameter is that of a
    cell that it knows, for one of which it sees nothing.
    """
    ours, theirs = (_pixels_in(points, labels.shape) for points in (prompts.positive, prompts.negative))
    chosen = set(labels[tuple(ours.T)].tolist()) - {0}
    dropped = set(labels[tuple(theirs.T)].tolist()) - {0}
    allowed = np.ones(labels.shape, bool)
    if prompts.box is not None:
        allowed = _within(prompts, labels.shape)
        chosen |= _filling(labels, prompts, chosen, dropped)
    if not len(ours) and not chosen:
        return np.zeros(labels.shape, bool)
    own = np.isin(labels, list(chosen - dropped))
    for number in chosen & dropped:
        cell = labels == number
        inside_it = [points[cell[tuple(points.T)]].tolist() for points in (ours, theirs)]
        own |= nearer_part(cell, *inside_it)
    if own.any():
        diameter_px = 2 * np.sqrt(own.sum() / np.pi)
    reach_px = max(REACH * diameter_px, LEAST_REACH_PX)
    ground = own | ((labels == 0) & allowed)

    def grown(odds: NDArray[np.float64]) -> Mask:
        return _grown(own, ground & allowed & (odds > 0), ours, theirs)

    odds = _log_odds(inside, threshold)
    if prompts.box is None:
        return grown(_corrected(odds, own, ours, theirs, reach_px))
    odds = _corrected(odds + _roundness(prompts, labels.shape), own, ours, theirs, reach_px)
    return _best_in_box([grown(odds + shift) for shift in SHIFTS], prompts)


def _best_in_box(found: list[Mask], prompts: Prompts) -> Mask:
    """Return the mask that fills the box best; of much the same ones the first."""
    fits = [_overlap(mask, prompts) for mask in found]
    best = 0
    for index, fit in enumerate(fits):
        if fit > fits[best] + BETTER:
            best = index
    return found[best]


def _grown(own: Mask, mask: Mask, ours: NDArray[np.intp], theirs: NDArray[np.intp]) -> Mask:
    """Return the parts of a mask that our points lie in, without points the largest; holes are filled."""
    mask[tuple(theirs.T)] = False
    mask[tuple(ours.T)] = True
    pieces, _ = ndimage.label(mask)
    wanted = np.unique(pieces[tuple(ours.T)])
    if not len(ours):
        sizes = np.bincount(pieces[own & mask], minlength=2)
        sizes[0] = 0
        wanted = np.array([sizes.argmax()])
    mask = np.isin(pieces, wanted[wanted > 0])
    holes, _ = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    kept = np.unique(holes[tuple(theirs.T)])  # those in which a negative point lies
    return mask | ((holes > 0) & ~np.isin(holes, kept))


def _pixel(point: Point) -> tuple[int, int]:
    y, x = (int(np.floor(value + 0.5)) for value in point)
    return y, x


def _pixels_in(points: tuple[Point, ...], shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the pixels (N, 2) of those points that lie in the part."""
    pixels = np.array([_pixel(point) for point in points], np.intp).reshape(-1, 2)
    return pixels[((pixels >= 0) & (pixels < shape)).all(axis=1)]


def _log_odds(inside: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """Return the log odds of each pixel, 0 at the threshold."""
    chance = np.clip(np.nan_to_num(inside.astype(np.float64)), 1e-4, 1 - 1e-4)
    edge = np.clip(threshold, 1e-3, 1 - 1e-3)
    odds = np.log(chance / (1 - chance)) - np.log(edge / (1 - edge))
    return np.clip(odds, -MOST_ODDS, MOST_ODDS)


def _within(prompts: Prompts, shape: tuple[int, ...]) -> Mask:
    low, high = prompts.limits
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows >= low[0]) & (rows <= high[0]) & (columns >= low[1]) & (columns <= high[1])


def _roundness(prompts: Prompts, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return what is added to log odds in a box: cells fill rather the ellipse in it than its corners."""
    distance = prompts.from_middle(*np.ogrid[: shape[0], : shape[1]])
    return np.asarray(ROUND * (1 - np.minimum(distance, FARTHEST)))


def _filling(labels: Labels, prompts: Prompts, chosen: set[int], dropped: set[int]) -> set[int]:
    """Return the pieces that together fill the box best, those that are chosen already among them."""
    within = _within(prompts, labels.shape)
    sizes = np.bincount(labels.ravel())
    shares = np.bincount(labels[within], minlength=len(sizes)) / np.maximum(sizes, 1)
    held = [number for number in np.flatnonzero(shares > 0.5).tolist() if number]
    left = [number for number in held if number not in chosen | dropped]
    taken = set(chosen)
    fit = _overlap(np.isin(labels, list(taken)) & within, prompts)
    while left:
        fits = [_overlap(np.isin(labels, [*taken, number]) & within, prompts) for number in left]
        best = int(np.argmax(fits))
        if fits[best] <= fit + BETTER:
            break
        fit = fits[best]
        taken.add(left.pop(best))
    if taken or chosen:
        return taken
    inside = np.bincount(labels[within], minlength=2)  # the box lies in a larger piece
    inside[[0, *dropped]] = 0
    if not inside.any():
        return set()
    return {int(inside.argmax())}


def _overlap(mask: Mask, prompts: Prompts) -> float:
    places = ndimage.find_objects(mask.astype(np.int8))
    if not places:
        return 0.0
    found = np.array([[part.start - 0.5, part.stop - 0.5] for part in places[0]]).T
    drawn = prompts.corners
    shared = np.clip(np.minimum(found[1], drawn[1]) - np.maximum(found[0], drawn[0]), 0, None).prod()
    return float(shared / (np.diff(found, axis=0).prod() + np.diff(drawn, axis=0).prod() - shared))


def _corrected(
    odds: NDArray[np.float64], own: Mask, ours: NDArray[np.intp], theirs: NDArray[np.intp], reach_px: float
) -> NDArray[np.float64]:
    """Return log odds that agree with the points: raised around ours, lowered around theirs, where needed.

    A point of ours reaches as far as the cell is away; one of theirs part of the way to the nearest of ours.
    """
    corrected = odds.copy()
    away = ndimage.distance_transform_edt(~own) if own.any() else np.zeros(odds.shape)
    for pixel in ours:
        missing = SURE - corrected[tuple(pixel)]
        if missing > 0:
            corrected += missing * _bump(odds.shape, pixel, max(away[tuple(pixel)], reach_px))
    for pixel in theirs:
        extra = SURE + corrected[tuple(pixel)]
        if extra > 0 and len(ours):
            distance = np.sqrt(((ours - pixel) ** 2).sum(axis=1).min())
            corrected -= extra * _bump(odds.shape, pixel, max(NEGATIVE_REACH * distance, 1.0))
    return corrected


def _bump(shape: tuple[int, ...], pixel: NDArray[np.intp], reach: float) -> NDArray[np.float64]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.exp(-((rows - pixel[0]) ** 2 + (columns - pixel[1]) ** 2) / (2 * reach**2))
