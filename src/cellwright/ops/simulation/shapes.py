"""Outlines of simulated cells, drawn at random and put beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage import measure

from cellwright.ops.geometry.tiles import window_between
from cellwright.ops.simulation.light import smooth_noise
from cellwright.ops.simulation.style import Style

Rows = NDArray[np.float64]
N_TRIES = 8
MIN_PART = 0.15  # a cell of which less than this part can be seen is dropped
MIN_PIXELS = 6


@dataclass(frozen=True, slots=True)
class CellOutlines:
    """Star-shaped cells, row ``i`` of every column is one cell; lengths in pixels of y and x.

    The radius in any direction is ``radii * (1 + waves + bumps)`` before stretching: low-order waves make
    an outline uneven, high bumps are protrusions, negative ones the notches of kidney and two-lobed shapes.
    """

    centres: Rows  # (N, D)
    radii: Rows  # (N,)
    stretch: Rows  # (N, D): semi-axes over radius; their product is 1
    axes: Rows  # (N, D, D): rows are the directions of the semi-axes
    waves: Rows  # (N, K, D + 2): direction, amplitude and phase of each wave
    bumps: Rows  # (N, J, D + 2): direction, height and sharpness of each bump
    brightness: Rows  # (N,): relative to an ordinary cell
    dividing: NDArray[np.bool_]  # bool (N,)

    def __len__(self) -> int:
        return len(self.radii)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "CellOutlines":
        """Return the cells of these rows."""
        return CellOutlines(*(getattr(self, name)[rows] for name in CellOutlines.__slots__))

    def reach(self) -> Rows:
        """Return the distance in pixels from each centre that no point of the cell passes, (N,)."""
        waves = np.abs(self.waves[..., -2]).sum(1)
        bumps = np.maximum(self.bumps[..., -2], 0).max(1, initial=0.0)
        return np.asarray(self.radii * self.stretch.max(1) * (1.0 + waves + 1.2 * bumps))

    def depth(self, row: int, grid: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return pixels from the points of ``grid`` (D, ...) to the outline along the ray, above 0 inside."""
        ndim = len(grid)
        offset = grid.reshape(ndim, -1) - self.centres[row].astype(np.float32)[:, None] + np.float32(1e-3)
        frame = (self.axes[row] / self.stretch[row][:, None]).astype(np.float32)
        local = frame @ offset
        norm = np.sqrt((local**2).sum(0))
        unit = local / norm
        waves = self.waves[row].astype(np.float32)
        radius = 1.0 + waves[:, -2] @ np.sin(3.0 * (waves[:, :ndim] @ unit) + waves[:, -1:])
        bumps = self.bumps[row][self.bumps[row, :, -2] != 0].astype(np.float32)
        if len(bumps):
            radius += bumps[:, -2] @ np.exp(bumps[:, -1:] * (bumps[:, :ndim] @ unit - 1.0))
        ray = np.sqrt((offset**2).sum(0))
        inside = np.float32(self.radii[row]) * np.maximum(radius, 0.25) / norm - 1.0
        return np.asarray((ray * inside).reshape(grid.shape[1:]), np.float32)


def draw_outlines(n_cells: int, shape: Sequence[int], style: Style, rng: np.random.Generator) -> CellOutlines:
    """Return up to ``n_cells`` random outlines (2D or 3D), fewer where no more fit into ``shape``."""
    ndim = len(shape)
    extent = np.array(shape, float)
    extent[: ndim - 2] *= style.z_step
    radii = style.diameter_px / 2 * np.exp(rng.normal(0, style.size_spread, n_cells))
    centres, placed = _place(radii, extent, style, rng)
    radii = radii[placed]
    n = len(radii)
    elongation = 1.0 + (style.elongation - 1.0) * np.exp(rng.normal(0, 0.4, n))
    return CellOutlines(
        centres=centres,
        radii=radii,
        stretch=_stretch(np.minimum(elongation, 5.0), ndim),
        axes=_orientations(centres, extent, style, rng),
        waves=_waves(n, ndim, style, rng),
        bumps=_bumps(n, ndim, style, rng),
        brightness=_brightness(n, style, rng),
        dividing=rng.random(n) < style.dividing,
    )


class _Dividing(NamedTuple):
    """What dividing cells look like: ranges to draw from, and a factor of the waves of their outlines."""

    elongation: tuple[float, float]
    shrink: tuple[float, float]
    gap: tuple[float, float]
    waves: float


PLATE = _Dividing((1.6, 3.2), (0.5, 0.7), (1.1, 2.2), 3.0)
BALL = _Dividing((1.0, 1.15), (0.6, 0.85), (0.92, 1.0), 0.5)


def with_daughters(outlines: CellOutlines, rng: np.random.Generator, *, condensed: bool) -> CellOutlines:
    """Return the outlines with dividing cells as plates (``condensed``) or balls, half of them in two."""
    rows = np.flatnonzero(outlines.dividing)
    if not len(rows):
        return outlines
    n, split = len(rows), rng.random(len(rows)) < 0.5
    kind = PLATE if condensed else BALL
    elongation, shrink = rng.uniform(*kind.elongation, n), rng.uniform(*kind.shrink, n)
    stretch = _stretch(elongation, outlines.centres.shape[1])
    radii = outlines.radii[rows] * shrink * np.where(split, 0.8, 1.0)
    gap = rng.uniform(*kind.gap, n)
    step = outlines.axes[rows, 1] * (radii * stretch[:, 1] * gap * split)[:, None]
    waves = outlines.waves[rows].copy()
    waves[..., -2] *= kind.waves
    first = replace(
        outlines.take(rows),
        centres=outlines.centres[rows] + step,
        radii=radii,
        stretch=stretch,
        waves=waves,
        bumps=np.zeros_like(outlines.bumps[rows]),
    )
    second = replace(first, centres=outlines.centres[rows] - step, waves=waves[::-1]).take(split)
    return _join([outlines.take(~outlines.dividing), first, second])


def _place(
    radii: Rows, extent: Rows, style: Style, rng: np.random.Generator
) -> tuple[Rows, NDArray[np.intp]]:
    centres = np.empty((len(radii), len(extent)))
    placed: list[int] = []
    density = _density(extent, style, rng)
    for row, radius in enumerate(radii):
        n = len(placed)
        tries = rng.uniform(-0.3 * radius, extent + 0.3 * radius, (N_TRIES, len(extent)))
        if n and rng.random() < style.clustering:
            friends = rng.integers(0, n, N_TRIES)
            apart = style.spacing + rng.uniform(0, 0.25, (N_TRIES, 1))
            apart = apart * (radius + radii[placed][friends])[:, None]
            tries = centres[:n][friends] + apart * _directions(N_TRIES, len(extent), rng)
        inside = ((tries > -0.3 * radius) & (tries < extent + 0.3 * radius)).all(1)
        cell = (np.clip(tries / extent, 0, 0.999) * density.shape).astype(int)
        likely = rng.random(N_TRIES) < density[tuple(cell.T)]
        gaps = np.sqrt(((tries[:, None] - centres[None, :n]) ** 2).sum(-1))
        free = (gaps >= style.spacing * (radius + radii[placed])[None]).all(1)
        good = np.flatnonzero(inside & likely & free)
        if len(good):
            centres[n] = tries[good[0]]
            placed.append(row)
    return centres[: len(placed)], np.array(placed, np.intp)


def _density(extent: Rows, style: Style, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the chance 0 to 1 that a cell may be anywhere, on a coarse grid over the image."""
    shape = tuple(np.clip(extent / style.diameter_px, 2, 64).astype(int))
    noise = smooth_noise(shape, max(max(shape) / rng.uniform(2.0, 4.0), 1.0), rng)
    if style.variant == "epithelium":
        chance, strength = np.exp(-((noise / 0.25) ** 2)), 0.97
    elif style.variant == "colonies":
        chance, strength = (noise > 0.2).astype(np.float32), 0.97
    else:
        chance, strength = 1.0 / (1.0 + np.exp(-6.0 * noise)), style.patchiness
    return np.asarray(1.0 - strength + strength * chance, np.float32)


def _directions(n: int, ndim: int, rng: np.random.Generator) -> Rows:
    vectors = rng.standard_normal((n, ndim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _stretch(elongation: Rows, ndim: int) -> Rows:
    short = elongation ** (-1.0 / ndim)
    return np.stack([short * elongation, *[short] * (ndim - 1)], 1)


def _orientations(centres: Rows, extent: Rows, style: Style, rng: np.random.Generator) -> Rows:
    n, ndim = centres.shape
    if ndim == 3:
        return np.asarray(np.linalg.qr(rng.standard_normal((n, 3, 3)))[0])
    field = smooth_noise((32, 32), 16.0, rng)
    cell = (np.clip(centres / extent, 0, 0.999) * 32).astype(int)
    angle = rng.uniform(0, np.pi) + 0.6 * field[tuple(cell.T)]
    angle = angle + (1.0 - style.alignment * 0.9) * rng.uniform(-np.pi / 2, np.pi / 2, n)
    sin, cos = np.sin(angle), np.cos(angle)
    return np.stack([np.stack([sin, cos], 1), np.stack([cos, -sin], 1)], 1)


def _brightness(n: int, style: Style, rng: np.random.Generator) -> Rows:
    # no darker than a fifth: what is lost in the noise must not be in the truth
    logs = np.clip(rng.normal(0, style.brightness_spread, n), np.log(0.2), np.log(4.0))
    return np.exp(logs)


def _waves(n: int, ndim: int, style: Style, rng: np.random.Generator) -> Rows:
    n_waves = 4
    directions = _directions(n * n_waves, ndim, rng).reshape(n, n_waves, ndim)
    # directions longer than one make waves of higher order, which must be lower to stay smooth
    order = np.array([0.7, 1.0, 1.6, 2.4])
    amplitude = rng.normal(0, style.roughness, (n, n_waves)) / order
    phase = rng.uniform(0, 2 * np.pi, (n, n_waves))
    return np.concatenate([directions * order[:, None], amplitude[..., None], phase[..., None]], -1)


def _bumps(n: int, ndim: int, style: Style, rng: np.random.Generator) -> Rows:
    n_spikes = int(np.ceil(style.spikes * 1.5))
    bumps = np.zeros((n, 2 + n_spikes, ndim + 2))
    bumps[..., :ndim] = _directions(n * (2 + n_spikes), ndim, rng).reshape(n, 2 + n_spikes, ndim)
    notched = rng.random(n) < style.notches
    two_lobed = notched & (rng.random(n) < 0.4)
    # a notch is on the long flank: across the first axis of the cell's own frame
    bumps[:, :2, 0] *= 0.3
    bumps[:, :2, :ndim] /= np.linalg.norm(bumps[:, :2, :ndim], axis=-1, keepdims=True)
    bumps[:, 1, :ndim] = -bumps[:, 0, :ndim]
    bumps[:, 0, ndim] = -1.0 * notched * rng.uniform(0.15, 0.6, n)
    bumps[:, 1, ndim] = -1.0 * two_lobed * rng.uniform(0.15, 0.5, n)
    bumps[:, :2, ndim + 1] = rng.uniform(2.0, 8.0, (n, 2))
    grows = rng.random((n, n_spikes)) < style.spikes / max(n_spikes, 1)
    bumps[:, 2:, ndim] = grows * rng.gamma(2.0, 0.35, (n, n_spikes))
    bumps[:, 2:, ndim + 1] = rng.uniform(6.0, 40.0, (n, n_spikes))
    return bumps


def _join(parts: Sequence[CellOutlines]) -> CellOutlines:
    return CellOutlines(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in CellOutlines.__slots__)
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """Cells put into an image."""

    labels: NDArray[np.int32]  # row ``i`` of ``outlines`` is label ``i + 1``; 0 is background
    depth: NDArray[np.float32]  # pixels to the border of the own cell, touching or not; negative outside
    covered: NDArray[np.int32]  # the cell under the labelled one, where cells overlap; else 0
    rows: NDArray[np.intp]  # (N,): the rows of the outlines given of which something can be seen
    outlines: CellOutlines  # these rows


def stamp(outlines: CellOutlines, shape: Sequence[int], style: Style) -> Scene:
    """Return the labels of the outlines in an image of ``shape``; each cell is worked out within its own box.

    With ``style.overlap`` later cells cover earlier ones; without it touching cells share a straight
    border, halfway between them, as the nuclei of a crowded layer do.
    """
    scale = np.array([style.z_step] * (len(shape) - 2) + [1.0, 1.0])
    owner = np.zeros(shape, np.int32)
    covered = np.zeros(shape, np.int32)
    best = np.full(shape, -1e3, np.float32)
    second = np.full(shape, -1e3, np.float32)
    full = np.zeros(len(outlines) + 1, np.int64)
    reach = outlines.reach()
    for row in range(len(outlines)):
        box = _box(outlines.centres[row] / scale, reach[row] / scale + 1.0, shape)
        if box is None:
            continue
        depth = outlines.depth(row, _grid(box, scale))
        full[row + 1] = np.count_nonzero(depth > 0)
        before = best[box]
        if style.overlap:
            wins = (depth > 0) | (depth > before)
            covered[box] = np.where(wins & (before > 0), owner[box], covered[box])
        else:
            wins = depth > before
            second[box] = np.maximum(second[box], np.minimum(before, depth))
        owner[box] = np.where(wins, row + 1, owner[box])
        best[box] = np.where(wins, depth, before)
    if not style.overlap:
        contact = (best - second) / 2
        best = np.minimum(best, style.seam * contact + (1 - style.seam) * np.maximum(best, contact))
    return _whole_cells(owner, best, covered, outlines, full)


def _box(centre: Rows, reach: Rows, shape: Sequence[int]) -> tuple[slice, ...] | None:
    low = np.maximum(np.floor(centre - reach), 0).astype(int)
    high = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    if (low >= high).any():
        return None
    return window_between(low, high)


def _grid(box: tuple[slice, ...], scale: Rows) -> NDArray[np.float32]:
    lines = [np.arange(s.start, s.stop, dtype=np.float32) * k for s, k in zip(box, scale, strict=True)]
    return np.stack(np.meshgrid(*lines, indexing="ij")).astype(np.float32)


def _whole_cells(
    owner: NDArray[np.int32],
    depth: NDArray[np.float32],
    covered: NDArray[np.int32],
    outlines: CellOutlines,
    full: NDArray[np.int64],
) -> Scene:
    """Keep the largest connected part of each cell, drop slivers, number the rest without gaps."""
    labels = np.where(depth > 0, owner, 0)
    parts = measure.label(labels, connectivity=1)
    areas = np.bincount(parts.ravel())
    cell_of_part = np.zeros(len(areas), np.int64)
    cell_of_part[parts.ravel()] = labels.ravel()
    largest = np.zeros(len(outlines) + 1, np.int64)
    by_area = np.argsort(areas, kind="stable")
    largest[cell_of_part[by_area]] = by_area
    seen = np.where(cell_of_part[largest] == np.arange(len(largest)), areas[largest], 0)
    keep = (seen >= MIN_PIXELS) & (seen >= MIN_PART * full)
    keep[0] = False
    number = np.zeros(len(outlines) + 1, np.int32)
    number[keep] = np.arange(1, keep.sum() + 1)
    wanted = np.zeros(len(areas), bool)
    wanted[largest[keep]] = True
    cleaned = np.where(wanted[parts], number[labels], 0).astype(np.int32)
    rows = np.flatnonzero(keep[1:])
    inside = np.where(cleaned > 0, depth, -1.0).astype(np.float32)
    return Scene(cleaned, inside, number[covered], rows, outlines.take(rows))
