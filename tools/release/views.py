"""Simulated cells of many shapes under many microscopes: phase, brightfield, DIC, stains, fluorescence.

Nothing is imitated with care. Each image is drawn with other random numbers, far wider than any one
microscope's, so that a network learns what cells have in common.

Source: Tobin et al., Domain randomization for transferring deep neural networks from simulation to the real
world, IROS 2017, doi:10.1109/IROS.2017.8202133.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.ops.simulation.light import (
    Field,
    chromatin,
    fibres,
    illumination,
    smooth_noise,
    specks,
    wide_blur,
)
from cellwright.ops.simulation.simulate import EOSIN, HEMATOXYLIN
from tools.release.bodies import Bodies, Rng, bodies_of

Picture = NDArray[np.float32]

# optical density of red, green, blue: Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291
DAB = np.array([0.27, 0.57, 0.78])
GIEMSA_PINK = np.array([0.15, 0.75, 0.55])
GIEMSA_PURPLE = np.array([0.75, 0.85, 0.30])


def phase_contrast(cells: Bodies, rng: Rng) -> Picture:
    """Return grey cells, dark or bright, with the halo of the phase ring around them.

    Source: Yin et al., Understanding the phase contrast optics, Medical Image Analysis 16 (2012),
    doi:10.1016/j.media.2011.12.006.
    """
    width = cells.width_px
    thick = np.clip(cells.depth / (width * rng.uniform(0.05, 0.5)), 0, 1) ** rng.uniform(0.5, 1.5)
    grain = rng.uniform(0.0, 0.5) * _grain(cells, rng)
    delay = thick * _each(cells, rng.uniform(0.05, 0.4), rng) * (rng.uniform(0.1, 1.0) + grain)
    delay += rng.uniform(-0.2, 0.8) * _rim(cells, rng) + rng.uniform(-0.6, 0.6) * nuclei_in(cells, rng)
    halo = wide_blur(delay.astype(np.float32), width * rng.uniform(0.1, 0.6))
    light = rng.uniform(0.3, 1.3) * halo - delay
    if rng.random() < 0.3:
        light = -light  # negative phase, or cells thick enough to turn bright
    lit = _each(cells, 1e-9, rng, chance=rng.choice([0.0, 0.15])) * thick  # round cells shine
    light = light + 1.5 * np.where(lit > 0, thick, 0)
    return _lamp(0.5 + rng.uniform(0.15, 0.5) * light, rng) + _ground(cells, rng)


def dark_bodies(cells: Bodies, rng: Rng) -> Picture:
    """Return small cells in phase contrast: evenly dark, in a wide halo that shines between them."""
    width = cells.width_px
    thick = np.clip(cells.depth / (width * rng.uniform(0.1, 0.5)), 0, 1) ** rng.uniform(0.4, 1.0)
    delay = thick * _each(cells, rng.uniform(0.02, 0.25), rng)
    delay *= 1 + rng.uniform(0, 0.3) * _grain(cells, rng)
    near = wide_blur(delay.astype(np.float32), width * rng.uniform(0.1, 0.35))
    far = wide_blur(delay.astype(np.float32), width * rng.uniform(0.5, 3.0))
    light = rng.uniform(0.0, 1.0) * near + rng.uniform(0.0, 0.9) * far - rng.uniform(0.7, 1.5) * delay
    return _lamp(0.5 + rng.uniform(0.15, 0.45) * light, rng) + rng.uniform(0, 0.5) * _ground(cells, rng)


def flat_cells(cells: Bodies, rng: Rng) -> Picture:
    """Return spread cells in phase contrast: hardly darker than the ground but for grains and the edge.

    The ground is littered with what is no cell.
    """
    shape, width = cells.labels.shape, cells.width_px
    fill = np.clip(cells.depth / (width * rng.uniform(0.03, 0.3)), 0, 1)
    body = rng.uniform(-0.15, 0.4) * _each(cells, 0.4, rng)
    delay = fill * (body + rng.uniform(0, 0.2) * _grain(cells, rng))
    nuclei = ndimage.gaussian_filter(nuclei_in(cells, rng), max(0.02 * width, 0.7))
    delay += rng.uniform(-0.3, 0.2) * nuclei + rng.uniform(0, 1.6) * nuclei * (1 - nuclei)
    delay += fill * rng.uniform(0.2, 1.3) * _organelles(cells, rng)
    patchy = np.clip(0.6 + 0.6 * smooth_noise(shape, width * rng.uniform(0.2, 0.8), rng), 0, 1.5)
    delay += rng.uniform(-0.3, 1.3) * patchy * _rim(cells, rng)
    halo = np.exp(-cells.outside / max(width * rng.uniform(0.02, 0.1), 0.8)) * (cells.labels == 0)
    shining = _each(cells, 1e-9, rng, chance=rng.choice([0.0, 0.1])) * fill
    light = rng.uniform(0.2, 1.5) * patchy * halo - delay + 1.5 * shining * (0.5 + _grain(cells, rng))
    light += rng.uniform(0.2, 1.0) * _litter(cells, rng)
    return _lamp(0.5 + rng.uniform(0.15, 0.4) * light, rng) + rng.uniform(0, 0.4) * _ground(cells, rng)


def brightfield(cells: Bodies, rng: Rng) -> Picture:
    """Return transparent cells whose edges bend light: rings on both sides, as the focus will have it."""
    width = cells.width_px
    away = np.where(cells.labels > 0, -cells.depth, cells.outside)
    period, reach = width * rng.uniform(0.12, 0.6), width * rng.uniform(0.06, 0.3)
    rings = np.cos(2 * np.pi * away / period + rng.uniform(0, 2 * np.pi)) * np.exp(-np.abs(away) / reach)
    inside = np.clip(cells.depth / (0.3 * width), 0, 1)
    grain = _grain(cells, rng)
    body = inside * (rng.uniform(-0.5, 0.5) + rng.uniform(0.0, 0.4) * grain)
    light = rings * rng.uniform(0.2, 1.0) + body + rng.uniform(-0.4, 0.4) * nuclei_in(cells, rng)
    return _lamp(0.6 + rng.uniform(0.08, 0.35) * light, rng) + _ground(cells, rng)


def interference(cells: Bodies, rng: Rng) -> Picture:
    """Return differential interference contrast: the slope of the thickness, lit from one side."""
    width = cells.width_px
    thick = np.sqrt(np.clip(cells.depth / (width * rng.uniform(0.2, 0.6)), 0, 1))
    grain = _grain(cells, rng)
    thick = thick * (1 + rng.uniform(0, 0.4) * grain) + rng.uniform(0, 0.6) * nuclei_in(cells, rng)
    thick = ndimage.gaussian_filter(thick, rng.uniform(0.6, 1.5))
    slope_y, slope_x = np.gradient(thick)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.sin(angle) * slope_y + np.cos(angle) * slope_x) * width
    return _lamp(0.5 + rng.uniform(0.03, 0.15) * slope, rng) + _ground(cells, rng)


def quantitative_phase(cells: Bodies, rng: Rng) -> Picture:
    """Return dry mass: domes that are brightest where a cell is thick."""
    u = np.clip(cells.depth / (cells.width_px * rng.uniform(0.25, 0.7)), 0, 1)
    dome = np.sqrt(u * (2 - u)) if rng.random() < 0.5 else u
    grain = _grain(cells, rng)
    light = dome * _each(cells, rng.uniform(0.1, 0.5), rng) * np.exp(rng.uniform(0.05, 0.5) * grain)
    light += rng.uniform(0, 0.5) * nuclei_in(cells, rng)
    drift = smooth_noise(cells.labels.shape, max(cells.labels.shape) / rng.uniform(2, 8), rng)
    return np.asarray(0.15 + 0.6 * light + rng.uniform(0, 0.1) * drift, np.float32)


def whole_cells(cells: Bodies, rng: Rng) -> Picture:
    """Return dyed cytoplasm or membranes; with a nucleus in a colour of its own, (Y, X, 3), or grey."""
    fill = np.clip(cells.depth / max(cells.width_px * rng.uniform(0.02, 0.4), 1), 0, 1)
    grain = np.exp(rng.uniform(0.1, 0.7) * chromatin(cells.labels.shape, max(cells.width_px * 0.1, 1.2), rng))
    body = rng.choice([0.0, 0.3, 1.0]) * fill * grain + rng.uniform(0, 1.5) * _rim(cells, rng)
    body = (body + 0.15 * fill) * _each(cells, rng.uniform(0.1, 0.8), rng)
    nuclei = nuclei_in(cells, rng) * np.exp(0.3 * chromatin(cells.labels.shape, 2.0, rng))
    haze = wide_blur(body.astype(np.float32), cells.width_px * rng.uniform(0.3, 1.0)) * rng.uniform(0, 0.5)
    if rng.random() < 0.5:
        colours = rng.permutation(np.eye(3))[:2] * 0.9 + 0.1 * rng.random((2, 3))
        light = (body + haze)[..., None] * colours[0] + (rng.uniform(0.3, 1.2) * nuclei)[..., None] * colours[
            1
        ]
    else:
        light = (body + haze) * (1 + rng.uniform(-0.9, 1.0) * np.clip(nuclei, 0, 1))
    return np.asarray(_uneven(light, rng) + rng.uniform(0.0, 0.2), np.float32)


def neurons(cells: Bodies, rng: Rng) -> Picture:
    """Return bright bodies with thin processes over an uneven, hazy background; the truth is the bodies."""
    shape, width = cells.labels.shape, cells.width_px
    body = np.clip(cells.depth / (0.25 * width), 0, 1) * _each(cells, rng.uniform(0.2, 0.8), rng)
    body *= np.exp(0.2 * chromatin(shape, max(width * 0.1, 1.2), rng)) * (
        1 - rng.uniform(0, 0.7) * nuclei_in(cells, rng)
    )
    wires = _wires(cells, rng)
    noise = np.exp(rng.uniform(0.2, 0.9) * smooth_noise(shape, max(shape) / rng.uniform(2, 10), rng))
    ghosts = specks(
        shape,
        rng.uniform(0, 1, (8, 2)) * shape,
        np.full((8, 2), width * rng.uniform(0.4, 1.2)),
        rng.uniform(0.1, 0.7, 8),
    )
    light = (
        body + rng.uniform(0.1, 0.7) * wires + rng.uniform(0.0, 0.6) * ghosts + rng.uniform(0.05, 1.0) * noise
    )
    if rng.random() < 0.4:
        light += rng.uniform(0.05, 0.4) * fibres((shape[0], shape[1]), max(width / 8, 1.2), rng)
    return _uneven(light, rng)


def immunostain(cells: Bodies, rng: Rng) -> Picture:
    """Return brown (positive) and blue nuclei in a faintly stained section, (Y, X, 3)."""
    shape = cells.labels.shape
    soft = np.clip(cells.depth / max(cells.width_px * 0.1, 1.0), 0, 1) * _each(cells, 0.3, rng)
    soft *= np.exp(rng.uniform(0.1, 0.5) * chromatin(shape, max(cells.width_px * 0.1, 1.2), rng))
    brown = _each(cells, 0.3, rng, chance=rng.uniform(0, 1))
    blue = soft * np.where(brown > 0, 0.35, 1) * rng.uniform(0.4, 1.3)
    plain = wide_blur((cells.labels > 0).astype(np.float32), cells.width_px)
    clouds = np.exp(0.4 * smooth_noise(shape, cells.width_px * rng.uniform(0.5, 3), rng))
    dab = soft * (brown > 0) * rng.uniform(0.4, 1.6) + rng.uniform(0.0, 0.25) * clouds * (0.3 + plain)
    blue += rng.uniform(0.02, 0.3) * clouds
    stains = np.stack([HEMATOXYLIN, DAB]) * np.exp(rng.normal(0, 0.2, (2, 3)))
    return _transmitted(np.stack([blue, dab], -1) @ stains, rng)


def packed_nuclei(cells: Bodies, rng: Rng) -> Picture:
    """Return dyed nuclei that lie so close that little but a faint line parts them, as in an epithelium."""
    width = cells.width_px
    fill = np.clip(cells.depth / max(width * rng.uniform(0.05, 0.3), 1), 0, 1)
    least = rng.uniform(0.0, 0.8)
    body = (least + (1 - least) * fill) * (cells.labels > 0) * _each(cells, rng.uniform(0.05, 0.4), rng)
    body *= np.exp(rng.uniform(0.05, 0.4) * _grain(cells, rng))
    haze = wide_blur(body.astype(np.float32), width * rng.uniform(0.3, 2.0)) * rng.uniform(0.0, 0.7)
    return _uneven(body + haze, rng) + np.float32(rng.uniform(0.0, 0.15))


def section(cells: Bodies, rng: Rng) -> Picture:
    """Return a section in hematoxylin and eosin, (Y, X, 3): nuclei dark or pale with a rim, in cytoplasm."""
    shape, width = (cells.labels.shape[0], cells.labels.shape[1]), cells.width_px
    soft = np.clip(cells.depth / max(width * rng.uniform(0.02, 0.15), 1.0), 0, 1)
    dome = np.clip(cells.depth / (0.4 * width), 0, 1)
    nuclei = soft * (1 - rng.uniform(0, 0.7) * dome) + rng.uniform(0, 0.8) * _rim(cells, rng)
    nuclei *= _each(cells, rng.uniform(0.1, 0.5), rng) * np.exp(rng.uniform(0.1, 0.6) * _grain(cells, rng))
    around = np.exp(-cells.outside / (width * rng.uniform(0.1, 0.8)))
    clouds = np.exp(0.5 * smooth_noise(shape, width * rng.uniform(0.5, 4), rng))
    blue = rng.uniform(0.4, 1.4) * nuclei + clouds * (rng.uniform(0, 0.2) + rng.uniform(0, 0.4) * around)
    pink = clouds * (rng.uniform(0.05, 0.5) + rng.uniform(0, 0.4) * around)
    if rng.random() < 0.5:
        pink += rng.uniform(0.1, 0.6) * fibres(shape, max(width / rng.uniform(3, 10), 1.2), rng)
    bare = smooth_noise(shape, width * rng.uniform(2, 6), rng) > rng.uniform(0.3, 2.5)
    pink *= np.where(bare & (cells.labels == 0), rng.uniform(0, 0.3), 1)
    stains = np.stack([HEMATOXYLIN, EOSIN]) * np.exp(rng.normal(0, 0.25, (2, 3)))
    return _transmitted(np.stack([blue, pink], -1) @ stains, rng)


def blood(cells: Bodies, rng: Rng) -> Picture:
    """Return a stained smear, (Y, X, 3): pale discs that darken where they overlap, some with a nucleus."""
    u = np.clip(cells.depth / (cells.width_px * 0.5), 0, 1)
    edge = np.clip(cells.depth / max(0.05 * cells.width_px, 1), 0, 1)
    pallor = rng.uniform(0, 0.9) * np.exp(-((1 - u) ** 2) / rng.uniform(0.03, 0.2))
    red = edge * (1 - pallor) * _each(cells, 0.12, rng) + 0.6 * np.clip(cells.layers - 1, 0, 2)
    red += rng.uniform(0, 0.5) * _rim(cells, rng)
    white = _each(cells, 0.1, rng, chance=rng.choice([0.0, 0.03, 0.2])) > 0
    nucleus = np.where(white, np.clip(nuclei_in(cells, rng, size=(0.5, 0.85)), 0, 1.2), 0)
    colour = GIEMSA_PINK * np.exp(rng.normal(0, 0.3, 3))
    density = (rng.uniform(0.2, 0.8) * np.where(white, 0.4 * red, red))[..., None] * colour
    density = density + (rng.uniform(0.6, 1.5) * nucleus)[..., None] * GIEMSA_PURPLE
    return _transmitted(density, rng)


def _each(cells: Bodies, spread: float, rng: Rng, *, chance: float = 1.0) -> Field:
    """Return a random factor of each cell, about 1, at its pixels; 0 outside and where it is left out."""
    n = int(cells.labels.max())
    values = np.exp(rng.normal(0, spread, n)) * (rng.random(n) < chance)
    return np.concatenate([[0.0], values]).astype(np.float32)[cells.labels]


def _grain(cells: Bodies, rng: Rng) -> Field:
    """Return what fills cells, mean about 0."""
    grain_px = max(cells.width_px * rng.uniform(0.04, 0.15), 1.0)
    return chromatin(cells.labels.shape, grain_px, rng)


def _rim(cells: Bodies, rng: Rng) -> Field:
    width = max(cells.width_px * rng.uniform(0.02, 0.12), 0.8)
    return np.asarray(np.exp(-cells.depth / width) * (cells.labels > 0), np.float32)


def nuclei_in(cells: Bodies, rng: Rng, size: tuple[float, float] = (0.35, 0.7)) -> Field:
    """Return a round nucleus at the deepest place of each cell, about 1 inside."""
    field = np.zeros(cells.labels.shape, np.float32)
    places = _deepest(cells)
    radii = cells.depth[tuple(places.T)] * rng.uniform(*size)
    for number, ((y, x), radius) in enumerate(zip(places, radii, strict=True), start=1):
        reach = int(radius + 2)
        top, left = max(y - reach, 0), max(x - reach, 0)
        box = (slice(top, y + reach + 1), slice(left, x + reach + 1))
        height, width = field[box].shape
        rows, columns = top - y + np.arange(height)[:, np.newaxis], left - x + np.arange(width)
        disc = np.clip(radius - np.hypot(rows, columns), 0, 1) * (cells.labels[box] == number)
        field[box] = np.maximum(field[box], disc)
    return field


def _deepest(cells: Bodies) -> NDArray[np.int64]:
    """Return the pixel (N, 2) of each cell that is farthest from its border."""
    numbers = np.arange(1, int(cells.labels.max()) + 1)
    places = ndimage.maximum_position(cells.depth, cells.labels, numbers)
    return np.array(places, np.int64).reshape(-1, 2)


def _wires(cells: Bodies, rng: Rng) -> Field:
    """Return thin processes that wander off from each cell."""
    field = np.zeros(cells.labels.shape, np.float32)
    height, width = cells.labels.shape
    n = int(cells.labels.max())
    if n == 0:
        return field
    middles = np.array(ndimage.center_of_mass(cells.labels > 0, cells.labels, np.arange(1, n + 1)))
    for middle in middles:
        for _ in range(rng.integers(1, 5)):
            n_steps = int(rng.uniform(1, 6) * cells.width_px)
            angles = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.12, n_steps))
            way = middle + np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1), axis=0)
            y, x = way.round().astype(int).T
            seen = (y >= 0) & (x >= 0) & (y < height) & (x < width)
            field[y[seen], x[seen]] += rng.uniform(0.5, 2.0)
    return np.asarray(
        ndimage.gaussian_filter(field, max(0.7, cells.width_px * rng.uniform(0.02, 0.06))), np.float32
    )


def _organelles(cells: Bodies, rng: Rng) -> Field:
    """Return dots around the middle of each cell, some of them light."""
    middles = _deepest(cells)
    most = int(rng.choice([4, 15, 40]))
    places = np.repeat(middles, rng.integers(0, most + 1, len(middles)), axis=0)
    places = places + rng.normal(0, cells.width_px * rng.uniform(0.08, 0.3), places.shape)
    sigma = np.maximum(cells.width_px * np.exp(rng.normal(np.log(0.025), 0.4, (len(places), 1))), 0.6)
    signs = np.where(rng.random(len(places)) < rng.uniform(0, 0.3), -1.0, 1.0)
    heights = signs * rng.uniform(0.3, 1, len(places))
    return specks(cells.labels.shape, places, np.repeat(sigma, 2, axis=1), heights)


def _litter(cells: Bodies, rng: Rng) -> Field:
    """Return crumbs in small heaps, and rings of dust that is out of focus."""
    shape, width = cells.labels.shape, cells.width_px
    heaps = np.repeat(rng.uniform(0, 1, (int(rng.choice([0, 5, 20, 50])), 2)) * shape, 4, axis=0)
    crumbs = heaps + rng.normal(0, 0.05 * width, heaps.shape)
    sigma = np.maximum(rng.uniform(0.01, 0.05, (len(crumbs), 1)) * width, 0.6)
    field = specks(shape, crumbs, np.repeat(sigma, 2, axis=1), rng.uniform(-0.8, 0.2, len(crumbs)))
    y, x = np.indices(shape)
    for _ in range(int(rng.choice([0, 0, 2, 6]))):
        row, column = rng.uniform(0, 1, 2) * shape
        away = np.hypot(y - row, x - column) - width * rng.uniform(0.05, 0.3)
        field += rng.uniform(-0.4, 0.4) * np.exp(-((away / max(0.03 * width, 0.8)) ** 2)).astype(np.float32)
    return field


def _ground(cells: Bodies, rng: Rng) -> Field:
    """Return dirt and the grain of the ground, centred on 0."""
    shape = cells.labels.shape
    grain = rng.uniform(0, 0.025) * chromatin(shape, rng.uniform(1.0, 6.0), rng)
    n = int(rng.choice([0, 0, 10, 60]))
    sigma = np.repeat(np.maximum(rng.uniform(0.02, 0.1, (n, 1)) * cells.width_px, 0.6), 2, axis=1)
    dirt = specks(shape, rng.uniform(0, 1, (n, 2)) * shape, sigma, rng.uniform(-0.4, 0.4, n))
    return np.asarray(grain + dirt, np.float32)


def _lamp(light: Field, rng: Rng) -> Field:
    return np.asarray(light * illumination(light.shape, rng.choice([0.0, 0.1, 0.4]), rng), np.float32)


def _uneven(light: Field, rng: Rng) -> Field:
    lamp = illumination(light.shape[:2], rng.choice([0.0, 0.2, 0.9]), rng)
    return np.asarray(light * (lamp if light.ndim == 2 else lamp[..., None]), np.float32)


def _transmitted(density: Field, rng: Rng) -> Picture:
    white = rng.uniform(0.8, 1.0) + rng.normal(0, 0.04, 3)
    return _uneven(np.asarray(np.exp(-np.maximum(density, 0)) * white, np.float32), rng)


LABEL_FREE = (phase_contrast, brightfield, interference)
VIEWS: Mapping[str, tuple[tuple[str, ...], tuple[Callable[[Bodies, Rng], Picture], ...], float]] = {
    "bacteria": (
        ("rods", "rods", "rods", "chains", "filaments"),
        (*LABEL_FREE, *(dark_bodies,) * 4, whole_cells),
        0.5,
    ),
    "yeast": (("yeast",), (*LABEL_FREE, brightfield, whole_cells), 1.0),
    "adherent": (("spread", "spread", "sheet"), (*LABEL_FREE, *(flat_cells,) * 4, quantitative_phase), 1.6),
    "whole": (("spread", "sheet", "yeast"), (whole_cells,), 1.6),
    "neurons": (("somas",), (neurons,), 1.0),
    "immunostain": (("yeast", "discs"), (immunostain,), 0.8),
    "packed": (("sheet", "sheet", "discs"), (packed_nuclei,), 0.7),
    "section": (("yeast", "yeast", "discs", "sheet"), (section,), 0.8),
    "blood": (("discs",), (blood,), 1.4),
}


def draw_view(kind: str, shape: tuple[int, int], rng: Rng) -> tuple[Picture, NDArray[np.int32]]:
    """Return an image of a kind of ``VIEWS``, float32 (Y, X) or (Y, X, 3) about 0 to 1, and its labels.

    Widths of cells are log-uniform about 8 to 50 pixels, times a factor of the kind; focus and light are
    bad in some images.
    """
    shapes, painters, factor = VIEWS[kind]
    width = factor * float(np.exp(rng.uniform(np.log(9), np.log(42))))
    cells = bodies_of(str(rng.choice(shapes)), shape, max(width, 5.0), rng)
    image = painters[rng.integers(len(painters))](cells, rng)
    sigma = max(0.4, min(width * float(rng.choice([0.02, 0.05, 0.12])), 3.0))
    image = ndimage.gaussian_filter(image, (sigma, sigma, 0)[: image.ndim])
    # noise is a share of what there is to see: where it hides the cells, their truth teaches to guess
    low, high = np.percentile(image, [0.2, 99.8])
    deviation = (high - low) * float(np.exp(rng.uniform(np.log(0.005), np.log(0.2))))
    shot = np.sqrt(np.clip((image - low) / max(high - low, 1e-9), 0.05, 1))
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(image + noise * deviation * shot, np.float32), cells.labels
