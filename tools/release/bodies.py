"""Shapes of simulated cells that are no blobs: rods, chains, filaments, yeast, spread cells, sheets, discs.

A cell is a union of round cones: capsules whose radius changes along their length. That draws a bacterium, a
bud and the processes of a fibroblast alike.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.measure import label as connected

from cellwright.ops.simulation.light import Field, smooth_noise

Rng = np.random.Generator
Points = NDArray[np.float64]
Cone = tuple[Points, Points, float, float]  # both ends (y, x) and the radii there, in pixels
Cell = Sequence[Cone]
FEWEST_PX = 12  # of a cell that is seen
LEAST_SEEN = 0.35  # of a cell under others that still counts


@dataclass(frozen=True, slots=True)
class Bodies:
    """Cells put into an image."""

    labels: NDArray[np.int32]  # (Y, X): 1 to N without gaps, 0 is background
    depth: Field  # (Y, X): pixels to the border of the own cell, also where it touches another; 0 outside
    outside: Field  # (Y, X): pixels to the nearest cell; 0 inside
    layers: Field  # (Y, X): how many cells lie above one another
    width_px: float  # typical width of a cell, across


def bodies_of(shape_name: str, shape: tuple[int, int], width_px: float, rng: Rng) -> Bodies:
    """Return cells (one of ``SHAPES``, or "sheet") about ``width_px`` across; ``shape`` is (Y, X)."""
    if shape_name == "sheet":
        labels = _sheet(shape, width_px, rng)
        return _finished(labels, (labels > 0).astype(np.float32), width_px)
    cells = SHAPES[shape_name](shape, width_px, rng)
    labels, layers = _stamped(cells, shape, hides=shape_name == "discs")
    return _finished(labels, layers, width_px)


def _stamped(
    cells: Sequence[Cell], shape: tuple[int, int], *, hides: bool
) -> tuple[NDArray[np.int32], Field]:
    """Return labels and layers; where cells meet they share a border, unless later ones hide earlier ones."""
    owner, best = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    layers = np.zeros(shape, np.float32)
    whole = np.zeros(len(cells) + 1)
    for number, cell in enumerate(cells, start=1):
        box, depth = _depth(cell, shape)
        if depth is None:
            continue
        inside = depth > 0
        whole[number] = inside.sum()
        wins = inside if hides else depth > best[box]
        owner[box] = np.where(wins, number, owner[box])
        best[box] = np.where(wins, depth, best[box])
        layers[box] += inside
    seen = np.bincount(owner.ravel(), minlength=len(cells) + 1)
    owner[np.isin(owner, np.flatnonzero(seen < LEAST_SEEN * whole))] = 0
    return owner, layers


def _depth(cell: Cell, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Field | None]:
    """Return where a cell lies and how deep its pixels are in it."""
    ends = np.array([end for cone in cell for end in cone[:2]])
    reach = max(max(cone[2:]) for cone in cell) + 1
    low = np.maximum(np.floor(ends.min(axis=0) - reach), 0).astype(int)
    high = np.minimum(np.ceil(ends.max(axis=0) + reach) + 1, shape).astype(int)
    box = (slice(low[0], high[0]), slice(low[1], high[1]))
    if (low >= high).any():
        return box, None
    y, x = np.ogrid[box]
    deepest = np.full((high[0] - low[0], high[1] - low[1]), -np.inf, np.float32)
    for start, stop, first, last in cell:
        way = stop - start
        along = ((y - start[0]) * way[0] + (x - start[1]) * way[1]) / max(way @ way, 1e-9)
        along = np.clip(along, 0, 1)
        away = np.hypot(y - start[0] - along * way[0], x - start[1] - along * way[1])
        np.maximum(deepest, first + (last - first) * along - away, out=deepest)
    return box, deepest


def _finished(labels: NDArray[np.int32], layers: Field, width_px: float) -> Bodies:
    """Return the cells, numbered without gaps, largest parts only."""
    parts: NDArray[np.int64] = connected(labels, connectivity=1)  # type: ignore[no-untyped-call]
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    owner = np.zeros(len(sizes), np.int64)
    owner[parts.ravel()] = labels.ravel()
    largest: dict[int, int] = {}
    for part in np.argsort(sizes):
        if sizes[part] >= FEWEST_PX and owner[part]:
            largest[int(owner[part])] = int(part)
    number = np.zeros(len(sizes), np.int32)
    number[list(largest.values())] = np.arange(1, len(largest) + 1)
    clean = number[parts]
    padded = np.pad(clean, 1, mode="edge")
    same = np.ones(clean.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        same &= padded[dy : dy + clean.shape[0], dx : dx + clean.shape[1]] == clean
    depth = ndimage.distance_transform_edt((clean > 0) & same).astype(np.float32) + 0.5
    outside = ndimage.distance_transform_edt(clean == 0) if (clean > 0).any() else np.full(clean.shape, 1e3)
    return Bodies(clean, np.where(clean > 0, depth, 0), outside.astype(np.float32), layers, width_px)


def _spine(start: Points, angle: float, length: float, bend: float, rng: Rng) -> Points:
    """Return points (K, 2) a few pixels apart on a way that turns at random."""
    n = max(2, int(np.ceil(length / 6)) + 1)
    angles = angle + np.cumsum(rng.normal(0, bend, n - 1)) + rng.normal(0, bend) * np.arange(n - 1)
    steps = length / (n - 1) * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    points: Points = start + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    return points


def _tube(points: Points, radius: float) -> Cell:
    return [(a, b, radius, radius) for a, b in pairwise(points)]


def _rods(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Colonies of rods that lie side by side and end to end, as after divisions."""
    ratio, bend = rng.uniform(1.6, 6.0), rng.choice([0.0, 0.02, 0.08])
    gap = rng.choice([1.0, 1.0, rng.uniform(0.95, 1.25)])
    turn = rng.uniform(0.03, 0.2)
    cells: list[Cell] = []
    for _ in range(rng.integers(1, 9)):
        queue = [(rng.uniform(0, 1, 2) * shape, rng.uniform(0, np.pi))]
        placed: list[Points] = []
        for _ in range(int(rng.choice([1, 3, 12, 50, 150]))):
            if not queue:
                break
            middle, angle = queue.pop(rng.integers(len(queue)))
            length = width * max(ratio * np.exp(rng.normal(0, 0.25)) - 1, 0.3)
            heading = np.array([np.sin(angle), np.cos(angle)])
            points = _spine(middle - heading * length / 2, angle, length, bend, rng)
            dense = np.concatenate([points, (points[1:] + points[:-1]) / 2])
            near = cKDTree(np.concatenate(placed)).query(dense)[0].min() if placed else np.inf
            if near < 0.85 * width:
                continue
            placed.append(dense)
            cells.append(_tube(points, width / 2 * rng.uniform(0.9, 1.1)))
            across = np.array([heading[1], -heading[0]])
            along = heading * (length + width)
            for step in (across * width * gap, -across * width * gap, along * gap, -along * gap):
                slip = heading * rng.normal(0, 0.3) * length
                queue.append((middle + step + slip, angle + rng.normal(0, turn)))
    return cells


def _chains(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Filaments cut into cells by septa."""
    cells: list[Cell] = []
    ratio = rng.uniform(0.6, 3.0)
    for _ in range(rng.integers(2, 14)):
        start, length = rng.uniform(0, 1, 2) * shape, width * rng.uniform(4, 25)
        points = _spine(start, rng.uniform(0, 2 * np.pi), length, 0.06, rng)
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        at = 0.0
        while at < along[-1] - 0.3 * width:
            length = width * ratio * np.exp(rng.normal(0, 0.2))
            inset = width * 0.45
            first, last = at + min(inset, length / 2), at + max(length - inset, length / 2)
            places = np.linspace(first, last, 4).clip(0, along[-1])
            inner = np.stack([np.interp(places, along, points[:, i]) for i in (0, 1)], axis=1)
            cells.append(_tube(inner, width / 2))
            at += length
    return cells


def _filaments(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Long undivided cells among short ones."""
    cells = []
    for _ in range(rng.integers(3, 30)):
        length = width * float(np.exp(rng.uniform(np.log(1.5), np.log(40))))
        start, angle = rng.uniform(0, 1, 2) * shape, rng.uniform(0, 2 * np.pi)
        points = _spine(start, angle, length, rng.uniform(0.0, 0.1), rng)
        cells.append(_tube(points, width / 2))
    return cells


def _yeast(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Ovals in clumps, some with a bud that is a cell of its own."""
    cells: list[Cell] = []
    middles: list[Points] = []
    radii: list[float] = []
    spread = rng.uniform(0.05, 0.25)
    for _ in range(int(rng.choice([5, 20, 60, 150]))):
        radius = width / 2 * float(np.exp(rng.normal(0, spread)))
        if rng.random() < 0.25:
            radius *= rng.uniform(0.45, 0.7)
        middle = rng.uniform(0, 1, 2) * shape
        if middles and rng.random() < 0.85:
            other = int(rng.integers(len(middles)))
            angle = rng.uniform(0, 2 * np.pi)
            middle = middles[other] + (radius + radii[other]) * np.array([np.sin(angle), np.cos(angle)])
        apart = [np.linalg.norm(middle - m) / (radius + r) for m, r in zip(middles, radii, strict=True)]
        if apart and min(apart) < 0.9:
            continue
        middles.append(middle)
        radii.append(radius)
        turn, long = rng.uniform(0, np.pi), radius * rng.uniform(0.0, 0.5)
        half = long / 2 * np.array([np.sin(turn), np.cos(turn)])
        cells.append([(middle - half, middle + half, radius, radius * rng.uniform(0.9, 1.0))])
    return cells


def _spread(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Adherent cells: a body with tapering processes, two opposite ones for spindles."""
    area = shape[0] * shape[1]
    n = max(2, int(area / width**2 * rng.uniform(0.05, 0.55)))
    spindle, slender = rng.random() < 0.5, rng.uniform(0.35, 1.0)
    cells: list[Cell] = []
    middles: list[Points] = []
    flow = rng.uniform(0, np.pi)
    for _ in range(n):
        middle = rng.uniform(-0.05, 1.05, 2) * shape
        if middles and min(np.linalg.norm(middle - m) for m in middles) < 0.75 * width:
            continue
        middles.append(middle)
        size = width * float(np.exp(rng.normal(0, 0.25)))
        radius = size / 2 * slender
        first = flow + rng.normal(0, 0.4) if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
        turns = [0.0, np.pi] if spindle else sorted(rng.uniform(0, 2 * np.pi, rng.integers(2, 6)))
        cell: list[Cone] = [(middle, middle + 0.1, radius, radius)]
        if rng.random() < 0.12:  # rounded up
            cells.append([(middle, middle + 0.1, size * 0.35, size * 0.35)])
            continue
        for turn in turns:
            length = size * rng.uniform(0.4, 1.5 if spindle else 0.9)
            points = _spine(middle, first + turn + rng.normal(0, 0.25), length, 0.08, rng)
            taper = radius * np.linspace(1, rng.uniform(0.02, 0.5), len(points)) ** rng.uniform(0.7, 1.6)
            cell += [
                (points[i], points[i + 1], float(taper[i]), float(taper[i + 1]))
                for i in range(len(points) - 1)
            ]
        cells.append(cell)
    return cells


def _discs(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Red cells that lie over one another, nearly of one size, some oval."""
    n = int(shape[0] * shape[1] / width**2 * rng.uniform(0.2, 1.2))
    spread = rng.uniform(0.03, 0.15)
    cells: list[Cell] = []
    middles: list[Points] = []
    closest = rng.uniform(0.45, 1.0)
    for _ in range(n):
        middle = rng.uniform(-0.05, 1.05, 2) * shape
        if middles and min(np.linalg.norm(middle - m) for m in middles) < closest * width:
            continue
        middles.append(middle)
        radius = width / 2 * float(np.exp(rng.normal(0, spread)))
        turn, long = rng.uniform(0, np.pi), radius * abs(rng.normal(0, 0.25))
        half = long / 2 * np.array([np.sin(turn), np.cos(turn)])
        cells.append([(middle - half, middle + half, radius, radius)])
    return cells


def _somas(shape: tuple[int, int], width: float, rng: Rng) -> list[Cell]:
    """Bodies of neurons: round or pear-shaped, far apart."""
    cells: list[Cell] = []
    for _ in range(rng.integers(2, max(4, int(shape[0] * shape[1] / width**2 * 0.15)))):
        middle = rng.uniform(0, 1, 2) * shape
        radius = width / 2 * float(np.exp(rng.normal(0, 0.2)))
        turn = rng.uniform(0, 2 * np.pi)
        tip = middle + radius * rng.uniform(0.1, 1.3) * np.array([np.sin(turn), np.cos(turn)])
        cells.append([(middle, tip, radius, radius * rng.uniform(0.3, 0.9))])
    return cells


def _sheet(shape: tuple[int, int], width: float, rng: Rng) -> NDArray[np.int32]:
    """Return a confluent layer, with holes: the cells nearest to random middles, borders wavy."""
    n = max(3, int(shape[0] * shape[1] / width**2 * 1.3))
    seeds = rng.uniform(-0.1, 1.1, (n, 2)) * shape
    for _ in range(int(rng.integers(0, 3))):  # evens out their distances
        near = cKDTree(seeds).query(seeds, k=min(7, n))[1]
        seeds += 0.3 * (seeds - seeds[near[:, 1:]].mean(axis=1))
    y, x = np.indices(shape).astype(np.float64)
    sway = rng.uniform(0.0, 0.12) * width
    stretch = rng.uniform(1.0, 1.8)
    where = np.stack([at + sway * smooth_noise(shape, width / 3, rng) for at in (y, x)], -1)
    scale = np.array([1.0, stretch])
    nearest = cKDTree(seeds * scale).query(where.reshape(-1, 2) * scale)[1]
    labels: NDArray[np.int32] = np.asarray(nearest.reshape(shape) + 1, np.int32)
    if rng.random() < 0.7:
        labels[smooth_noise(shape, width * rng.uniform(1.5, 4), rng) > rng.uniform(0.2, 1.5)] = 0
    if rng.random() < 0.3:  # cells that are missing
        labels[np.isin(labels, rng.permutation(n)[: int(n * rng.uniform(0.05, 0.4))] + 1)] = 0
    return labels


SHAPES: Mapping[str, Callable[[tuple[int, int], float, Rng], list[Cell]]] = {
    "rods": _rods,
    "chains": _chains,
    "filaments": _filaments,
    "yeast": _yeast,
    "spread": _spread,
    "discs": _discs,
    "somas": _somas,
}
