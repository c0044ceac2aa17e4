"""Draws microscopy images of cells with exact truth, for samples, tests and training.

The parts: ``style`` (the knobs), ``shapes`` (outlines, and these to labels), here labels to image
for each look (fluorescence, phase contrast, stained tissue, bright field), ``light`` (noise, blur, camera).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.errors import SettingsError
from cellwright.ops.labels import label_properties
from cellwright.ops.simulation.light import (
    Field,
    Numbers,
    camera,
    chromatin,
    fibres,
    illumination,
    smooth_noise,
    specks,
    wide_blur,
)
from cellwright.ops.simulation.shapes import CellOutlines, Scene, draw_outlines, stamp, with_daughters
from cellwright.ops.simulation.style import Style, draw_style

CONDENSED = ("fluorescence", "tissue")
Picture = NDArray[np.uint8] | NDArray[np.uint16]
# optical density of red, green, blue: Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291
HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
BLOOD = np.array([0.15, 0.75, 0.65])


def fluorescence(scene: Scene, style: Style, rng: np.random.Generator) -> Picture:
    """Return bright nuclei on a dark background, (Y, X) or (Z, Y, X)."""
    cells = interior(scene, style, rng)
    covered = _rows(scene.outlines.brightness)[scene.covered].astype(np.float32)
    light = brightness(scene) * cells + np.float32(0.7) * covered
    if style.body > 0:
        light += style.body * bodies(scene, style, rng)
    light += clutter(light.shape, len(scene.outlines), style, rng)
    if style.haze > 0:
        sigma = _voxels(light.ndim, style, style.diameter_px * rng.uniform(0.5, 1.5))
        light = (1 - style.haze / 2) * light + style.haze * wide_blur(light, sigma)
    drift = smooth_noise(light.shape, _voxels(light.ndim, style, max(light.shape) / 3), rng)
    light += style.background * np.exp(0.4 * drift)
    if style.variant == "fibres" and light.ndim == 2:
        light += rng.uniform(0.03, 0.25) * fibres(light.shape, max(style.diameter_px / 12, 1.0), rng) ** 2
    light *= illumination(light.shape, style.unevenness, rng)
    return _photograph(light, style, rng)


def phase(scene: Scene, style: Style, rng: np.random.Generator) -> Picture:
    """Return a phase contrast image: grey, granular cells with a bright halo, (Y, X).

    The halo is what the phase ring cannot tell from background: retardation minus its own wide blur
    (Yin et al. 2012, "Understanding the phase contrast optics to restore artifact-free microscopy images
    for segmentation", doi:10.1016/j.media.2011.12.006).
    """
    shape = scene.labels.shape
    dividing = _rows(scene.outlines.dividing)[scene.labels]
    thick = np.clip(scene.depth / (style.diameter_px * rng.uniform(0.08, 0.3)), 0, 1)
    retard = np.where(dividing, 2.5 * np.sqrt(thick), _retardation(scene, thick, style, rng))
    retard = retard + clutter(shape, len(scene.outlines), style, rng) * rng.choice([-1.0, 1.0])
    halo = wide_blur(retard.astype(np.float32), style.diameter_px * rng.uniform(0.12, 0.4))
    contrast = rng.uniform(0.15, 0.4)
    light = style.background + contrast * (style.haze * halo - retard)
    # a thick, rounded cell retards by more than half a wave and turns from dark to bright
    light += np.where(dividing, contrast * 3.5 * thick * retard / 2.5, 0)
    light += rng.uniform(0.0, 0.02) * smooth_noise(shape, rng.uniform(1.5, 5.0), rng)
    return _photograph(light * illumination(shape, style.unevenness, rng), style, rng)


def tissue(scene: Scene, style: Style, rng: np.random.Generator) -> Picture:
    """Return a section stained with hematoxylin and eosin: purple nuclei in pink, uint8 (Y, X, 3).

    Stains absorb by the Beer-Lambert law; their colours vary from laboratory to laboratory.
    """
    shape = scene.labels.shape
    blue = rng.uniform(0.5, 1.3) * brightness(scene) * interior(scene, style, rng)
    blue += 0.3 * (scene.covered > 0) + clutter(shape, len(scene.outlines), style, rng)
    pink = _ground(scene, style, rng)
    if style.body > 0:
        pink += style.body * bodies(scene, style, rng)
    blue += style.haze * wide_blur(blue, style.diameter_px * 0.6)
    blue += style.background * rng.uniform(0.0, 0.5) * pink
    pink *= 1.0 - 0.5 * np.clip(blue, 0, 1)
    density = np.stack([blue, pink], -1) @ _stains(rng).astype(np.float32)
    return _photograph_rgb(density, rng.uniform(0.85, 1.0) + rng.normal(0, 0.03, 3), style, rng)


def brightfield(scene: Scene, style: Style, rng: np.random.Generator) -> Picture:
    """Return a transmitted light image: stained or refractile cells (Y, X), or blood, uint8 (Y, X, 3)."""
    shape = scene.labels.shape
    cells = interior(scene, style, rng) * brightness(scene)
    dirt = clutter(shape, len(scene.outlines), style, rng)
    if style.variant == "blood":
        pale = rng.uniform(0.2, 0.9) * np.exp(-((1 - _ball(scene, 0.9)) ** 2) / 0.1)
        red = cells * (1.0 - pale) * rng.uniform(0.3, 0.8) + dirt
        colour = BLOOD * np.exp(rng.normal(0, 0.25, 3)) if rng.random() < 0.7 else _stains(rng)[0]
        white = rng.uniform(0.7, 1.0) + rng.normal(0, 0.05, 3)
        return _photograph_rgb(red[..., None] * colour.astype(np.float32), white, style, rng)
    if style.variant == "stained":
        density = rng.uniform(0.6, 1.8) * cells + style.body * bodies(scene, style, rng) + dirt
        light = style.background * np.exp(-density)
    else:
        light = style.background * (1.0 + _refraction(scene, style, rng) - 0.4 * dirt)
        light += 0.15 * (cells - 0.5) * (scene.labels > 0) * rng.uniform(-1, 1)
    light = light * (1.0 + rng.uniform(0.0, 0.03) * smooth_noise(shape, rng.uniform(1.5, 6.0), rng))
    return _photograph(light * illumination(shape, style.unevenness, rng), style, rng)


def interior(scene: Scene, style: Style, rng: np.random.Generator) -> Field:
    """Return the stain within each cell, about 1: shape, envelope, chromatin, nucleoli, spots; 0 outside."""
    shape, ndim = scene.labels.shape, scene.labels.ndim
    dividing = _rows(scene.outlines.dividing)[scene.labels]
    soft = np.clip(scene.depth, 0, 1)
    rim = np.exp(-np.maximum(scene.depth, 0) / max(style.diameter_px * 0.07, 0.7))
    profile = soft * (1 - style.dome + style.dome * np.sqrt(_ball(scene, 1.0))) * (1 + style.rim * rim)
    noise = chromatin(shape, _voxels(ndim, style, style.texture_px), rng)
    stain = profile * np.exp(style.texture * noise - style.texture**2 / 2)
    stain *= 1.0 - np.clip(dots(scene, style, rng, holes=True), 0, 0.9)
    stain += dots(scene, style, rng, holes=False) * soft
    plate = soft * rng.uniform(1.4, 3.5) * np.exp(rng.uniform(0.05, 0.5) * noise)
    return np.asarray(np.where(dividing, plate, stain), np.float32)


def dots(scene: Scene, style: Style, rng: np.random.Generator, *, holes: bool) -> Field:
    """Return nucleoli (``holes``) or bright spots of all cells, heights about 0.6."""
    outlines, ndim = scene.outlines, scene.labels.ndim
    mean, low, high = style.spots, 0.04, 0.14
    if holes:
        mean, low, high = style.holes, 0.08, 0.25
    many = rng.poisson(mean, len(outlines))
    rows = np.repeat(np.arange(len(outlines)), many)
    step = rng.standard_normal((len(rows), ndim))
    step *= (rng.random(len(rows)) ** (1 / ndim) * 0.75 / np.linalg.norm(step, axis=1))[:, None]
    radii = outlines.radii[rows]
    step = np.einsum("nd,nde->ne", step * outlines.stretch[rows], outlines.axes[rows]) * radii[:, None]
    sigma = np.maximum(radii * rng.uniform(low, high, len(rows)), 0.7)
    scale = _voxels(ndim, style, 1.0)
    points = (outlines.centres[rows] + step) * scale
    return specks(scene.labels.shape, points, sigma[:, None] * scale, rng.uniform(0.2, 1.0, len(rows)))


def brightness(scene: Scene) -> Field:
    """Return the brightness of the cell at each pixel, about 1; 0 in the background."""
    return np.asarray(_rows(scene.outlines.brightness)[scene.labels], np.float32)


def bodies(scene: Scene, style: Style, rng: np.random.Generator) -> Field:
    """Return cytoplasm around the nuclei of a scene, about 1 inside, with soft or sharp borders."""
    shape = scene.labels.shape
    around = stamp(_grown(scene.outlines, rng), shape, replace(style, overlap=False, seam=1.0))
    noise = chromatin(shape, _voxels(len(shape), style, style.diameter_px / 4), rng)
    fade = max(style.diameter_px * rng.uniform(0.02, 0.5), 1.0)
    return np.asarray(
        brightness(around) * np.clip(around.depth / fade, 0, 1) * np.exp(0.25 * noise), np.float32
    )


def clutter(shape: tuple[int, ...], n_cells: int, style: Style, rng: np.random.Generator) -> Field:
    """Return small bright debris and large out-of-focus ghosts: light that belongs to no cell."""
    ndim, scale = len(shape), _voxels(len(shape), style, 1.0)
    n_debris, n_ghosts = rng.poisson((n_cells + 5) * np.array([style.debris, style.ghosts]))
    small = rng.uniform(0.02, 0.08, n_debris) * style.diameter_px
    # dying cells leave several crumbs in one place
    crumbs = rng.random(n_debris) < 0.4
    large = rng.uniform(0.4, 1.2, n_ghosts) * style.diameter_px
    sigma = np.maximum(np.concatenate([small, large]), 0.5)[:, None] * scale
    heights = np.concatenate([rng.uniform(0.15, 2.0, n_debris), rng.uniform(0.05, 0.35, n_ghosts)])
    points = rng.uniform(0, 1, (n_debris + n_ghosts, ndim)) * shape
    origin = np.maximum.accumulate(np.where(crumbs, 0, np.arange(n_debris)))
    spread = rng.normal(0, 0.25 * style.diameter_px, (n_debris, ndim)) * scale
    points[:n_debris] = points[origin] + spread * crumbs[:, None]
    return specks(shape, points, sigma, heights)


def _retardation(scene: Scene, thick: Field, style: Style, rng: np.random.Generator) -> Field:
    """Return by how much cells that lie flat hold back the light: membrane, granules, nucleus."""
    inside = scene.labels > 0
    grain = style.texture * chromatin(inside.shape, style.texture_px, rng)
    retard = brightness(scene) * thick * (rng.uniform(0.25, 0.7) + 0.5 * grain)
    retard += style.rim * np.exp(-np.maximum(scene.depth, 0) / max(style.diameter_px * 0.04, 0.8)) * inside
    retard += dots(scene, style, rng, holes=False) * inside - 0.5 * dots(scene, style, rng, holes=True)
    retard += rng.uniform(-0.3, 0.4) * np.clip(6.0 * _ball(scene, 1.0) - 4.0, 0, 1)
    return np.asarray(retard, np.float32)


def _grown(outlines: CellOutlines, rng: np.random.Generator) -> CellOutlines:
    """Return outlines of whole cells for the nuclei given: larger, off centre, more uneven."""
    n, ndim = outlines.centres.shape
    uneven = np.r_[np.ones(ndim), 1.6, 1.0]
    return replace(
        outlines,
        centres=outlines.centres + rng.normal(0, 0.2, (n, ndim)) * outlines.radii[:, None],
        radii=outlines.radii * rng.uniform(1.5, 2.6) * np.exp(rng.normal(0, 0.15, n)),
        waves=np.roll(outlines.waves, 1, axis=0) * uneven,
        brightness=outlines.brightness * np.exp(rng.normal(0, 0.2, n)),
        bumps=outlines.bumps * np.r_[np.ones(ndim), 0.5, 1.0],
    )


def _ball(scene: Scene, thickness: float) -> Field:
    """Return the height of a dome over each cell, 0 at its border, 1 where ``thickness`` radii deep."""
    radii = scene.outlines.radii * scene.outlines.stretch.min(1) * thickness
    u = np.clip(scene.depth / _rows(radii, 1.0)[scene.labels], 0, 1)
    return np.asarray(u * (2 - u), np.float32)


def _ground(scene: Scene, style: Style, rng: np.random.Generator) -> Field:
    """Return the eosin of what lies between the nuclei: fibres, clouds, empty gaps."""
    plane = (scene.labels.shape[0], scene.labels.shape[1])
    if style.variant == "smear":
        smear = 0.03 + 0.05 * np.exp(smooth_noise(plane, style.diameter_px, rng))
        return np.asarray(smear, np.float32)
    strands = fibres(plane, max(style.diameter_px * rng.uniform(0.06, 0.25), 1.2), rng)
    clouds = np.exp(0.35 * smooth_noise(plane, style.diameter_px * rng.uniform(0.5, 3.0), rng))
    share = rng.uniform(0.1, 0.9)
    ground = rng.uniform(0.15, 0.6) * clouds * (1 - share + share * strands)
    gaps = smooth_noise(plane, style.diameter_px * rng.uniform(1.5, 5.0), rng) > rng.uniform(0.8, 2.5)
    # no nucleus floats in an empty gap
    gaps &= wide_blur((scene.labels > 0).astype(np.float32), style.diameter_px * 0.4) < 0.02
    return np.where(gaps, 0.03, ground).astype(np.float32)


def _stains(rng: np.random.Generator) -> Numbers:
    vectors = np.stack([HEMATOXYLIN, EOSIN]) * np.exp(rng.normal(0, 0.2, (2, 3)))
    mixed = vectors[1] + rng.uniform(0.0, 0.8) * vectors[0]
    return np.stack([vectors[0] * rng.uniform(0.8, 1.6), mixed * rng.uniform(0.4, 0.9)])


def _refraction(scene: Scene, style: Style, rng: np.random.Generator) -> Field:
    """Return dark and bright rings at the border of unstained cells, as focus is above or below them."""
    sign = rng.choice([-1.0, 1.0])
    width = max(style.diameter_px * rng.uniform(0.03, 0.1), 0.8)
    ring = np.exp(-((np.maximum(scene.depth, 0) / width) ** 2)) * (scene.labels > 0)
    core = _ball(scene, 0.8) * rng.uniform(0.1, 0.6) * rng.choice([-1.0, 1.0])
    halo = wide_blur(ring.astype(np.float32), width * rng.uniform(1.0, 3.0))
    return np.asarray(sign * (style.rim * (0.8 * halo - 0.6 * ring) + 0.5 * core), np.float32)


def _rows(column: NDArray[Any], background: float = 0.0) -> NDArray[Any]:
    """Return a column of the cells with a first row for the background, to be indexed by label."""
    return np.concatenate([np.asarray([background], column.dtype), column])


def _voxels(ndim: int, style: Style, pixels: float) -> Numbers:
    """Return a length in pixels of y and x along each axis, in voxels."""
    return np.asarray([pixels / style.z_step] * (ndim - 2) + [pixels] * 2)


def _photograph(light: NDArray[np.floating], style: Style, rng: np.random.Generator) -> Picture:
    sigma = [style.z_blur] * (light.ndim - 2) + [style.blur_px] * 2
    blurred = ndimage.gaussian_filter(np.asarray(light, np.float32), sigma, truncate=3.0)
    exposure = style.gain / rng.uniform(0.9, 1.1)
    return camera(
        blurred * exposure + style.offset,
        rng,
        photons=style.photons / exposure,
        read_noise=style.read_noise * exposure,
        bits=style.bits,
    )


def _photograph_rgb(density: Field, white: Numbers, style: Style, rng: np.random.Generator) -> Picture:
    blurred = ndimage.gaussian_filter(density, [style.blur_px, style.blur_px, 0], truncate=3.0)
    light = np.exp(-blurred) * white.astype(np.float32)
    light *= illumination(density.shape[:2], style.unevenness, rng)[..., None]
    return camera(light, rng, photons=style.photons, read_noise=style.read_noise, bits=8)


PAINTERS: Mapping[str, Callable[[Scene, Style, np.random.Generator], Picture]] = {
    "fluorescence": fluorescence,
    "phase": phase,
    "tissue": tissue,
    "brightfield": brightfield,
}
LOOKS = tuple(PAINTERS)


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated image and the truth about it."""

    image: Picture  # uint8 or uint16: (Y, X), (Z, Y, X) or, stained, (Y, X, 3)
    labels: NDArray[np.int32]  # int32 (Y, X) or (Z, Y, X): 1 to N without gaps, 0 is background
    points: NDArray[np.float32]  # float32 (N, D): centroids of the labels in pixels (planes along z)
    classes: NDArray[np.int16]  # int16 (N,): 1 of cells that divide, else 0; row ``i`` is label ``i + 1``
    style: Style  # the knobs it was drawn with


def simulate(
    look: str,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    diameter_px: float | None = None,
    n_cells: int | None = None,
    style: Style | None = None,
) -> Simulation:
    """Return an image of cells of ``shape`` pixels with its labels, the same for the same state of ``rng``.

    SettingsError where look, shape or a number is out of range.

    Parameters
    ----------
    look
        "fluorescence", "phase", "tissue" (RGB) or "brightfield".
    shape
        (Y, X), or (Z, Y, X) for fluorescence.
    rng
        Source of all chance.
    diameter_px
        Mean diameter in pixels of y and x; None leaves it to ``style``.
    n_cells
        How many cells to put down; fewer fit in a crowd, some more come from divisions. None: from the
        coverage of ``style``.
    style
        All other knobs; None draws them at random with ``draw_style``.

    Notes
    -----
    In the line of SIMCEP (Lehmussola et al. 2007, doi:10.1109/TMI.2007.896925) and CytoPacq (Wiesner et
    al. 2019, doi:10.1093/bioinformatics/btz417): objects with random outline and texture, then optics,
    then detector.
    """
    shape = _checked(look, shape, n_cells)
    if style is None:
        style = draw_style(look, rng, diameter_px=diameter_px)
    elif diameter_px is not None:
        style = replace(style, diameter_px=float(diameter_px))
    if n_cells is None:
        n_cells = n_covering(shape, style)
    outlines = draw_outlines(n_cells, shape, style, rng)
    scene = stamp(with_daughters(outlines, rng, condensed=look in CONDENSED), shape, style)
    image = PAINTERS[look](scene, style, rng)
    classes = scene.outlines.dividing.astype(np.int16)
    return Simulation(image, scene.labels, label_properties(scene.labels).points, classes, style)


def _checked(look: str, shape: Sequence[int], n_cells: int | None) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    if look not in PAINTERS:
        raise SettingsError(f"look must be one of {', '.join(LOOKS)}; got {look!r}.")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise SettingsError(f"shape must be (Y, X) or (Z, Y, X) with positive lengths; got {shape}.")
    if len(shape) == 3 and look != "fluorescence":
        raise SettingsError(f"Only fluorescence is drawn in 3D; got {look!r} with {shape}. Give (Y, X).")
    if n_cells is not None and n_cells < 0:
        raise SettingsError(f"n_cells must be 0 or more; got {n_cells}.")
    return shape


def n_covering(shape: Sequence[int], style: Style) -> int:
    """Return the number of cells that gives the coverage of a style."""
    radius = style.diameter_px / 2
    one = np.pi * radius**2
    if len(shape) == 3:
        one = 4 / 3 * np.pi * radius**3 / style.z_step
    return int(np.ceil(style.coverage * np.prod(shape) / one))
