"""Draws microscopy images of cells with exact truth, for samples, tests and training.

The parts: ``simulate_style`` (the knobs), ``simulate_shapes`` (outlines), ``simulate_scene`` (outlines
to labels), ``simulate_looks`` (labels to image), ``simulate_light`` (noise, blur, camera).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import SettingsError
from cellwright.ops.labels import measure
from cellwright.ops.simulation.looks import PAINTERS, Picture
from cellwright.ops.simulation.scene import Scene, stamp
from cellwright.ops.simulation.shapes import draw_outlines, with_daughters
from cellwright.ops.simulation.style import Style, draw_style

LOOKS = tuple(PAINTERS)
CLASSES = ("resting", "dividing")
CONDENSED = ("fluorescence", "tissue")


@dataclass(frozen=True, slots=True)
class Simulation:
    """A simulated image and the truth about it.

    Parameters
    ----------
    image : uint8 or uint16
        (Y, X), (Z, Y, X) or, stained, (Y, X, 3).
    labels : int32 (Y, X) or (Z, Y, X)
        1 to N without gaps, 0 is background.
    points : float32 (N, D)
        Centroids of the labels in pixels (planes along z).
    classes : int16 (N,)
        Index into ``CLASSES``; row ``i`` is label ``i + 1``.
    style : Style
        The knobs it was drawn with.
    """

    image: Picture
    labels: NDArray[np.int32]
    points: NDArray[np.float32]
    classes: NDArray[np.int16]
    style: Style


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

    Raises
    ------
    SettingsError
        When look, shape or a number is out of range.

    Notes
    -----
    In the line of SIMCEP (Lehmussola et al. 2007, doi:10.1109/TMI.2007.896925) and CytoPacq (Wiesner et
    al. 2019, doi:10.1093/bioinformatics/btz417): objects with random outline and texture, then optics,
    then detector.
    """
    shape = _checked(look, shape, n_cells)
    style = _style(look, rng, diameter_px, style)
    n_wanted = _expected_count(shape, style) if n_cells is None else n_cells
    outlines = draw_outlines(n_wanted, shape, style, rng)
    outlines = with_daughters(outlines, rng, condensed=look in CONDENSED)
    return _painted(look, stamp(outlines, shape, style), style, rng)


def simulate_movie(
    look: str,
    shape: Sequence[int],
    rng: np.random.Generator,
    *,
    diameter_px: float | None = None,
    n_cells: int | None = None,
    style: Style | None = None,
) -> tuple[Simulation, ...]:
    """Return the frames of a movie of ``shape`` (T, Y, X) in which label ``i`` is always the same cell.

    Cells drift on straight, slightly shaky ways; one that leaves the image or is hidden in any frame is in
    none. Parameters as for ``simulate``.
    """
    n_frames, *plane = _checked("fluorescence", shape, n_cells)
    _checked(look, plane, n_cells)
    style = _style(look, rng, diameter_px, style)
    n_wanted = _expected_count(tuple(plane), style) if n_cells is None else n_cells
    outlines = with_daughters(draw_outlines(n_wanted, plane, style, rng), rng, condensed=look in CONDENSED)
    step = style.diameter_px * rng.normal(0, 0.08, outlines.centres.shape)
    shaky = style.diameter_px * rng.normal(0, 0.03, (n_frames, *outlines.centres.shape))
    ways = [outlines.centres + step * t + shaky[t] for t in range(n_frames)]
    frames = [replace(outlines, centres=centres) for centres in ways]
    seen = [stamp(frame, plane, style).rows for frame in frames]
    always = reduce(np.intersect1d, seen)
    scenes = [stamp(frame.take(always), plane, style) for frame in frames]
    # the same chance for each frame: texture, dirt and illumination stand still while the cells move
    seed = int(rng.integers(2**32))
    return tuple(_painted(look, scene, style, np.random.default_rng(seed)) for scene in scenes)


def _style(look: str, rng: np.random.Generator, diameter_px: float | None, style: Style | None) -> Style:
    if style is None:
        return draw_style(look, rng, diameter_px=diameter_px)
    return style if diameter_px is None else replace(style, diameter_px=float(diameter_px))


def _painted(look: str, scene: Scene, style: Style, rng: np.random.Generator) -> Simulation:
    image = PAINTERS[look](scene, style, rng)
    classes = scene.outlines.dividing.astype(np.int16)
    return Simulation(image, scene.labels, measure(scene.labels).points, classes, style)


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


def _expected_count(shape: tuple[int, ...], style: Style) -> int:
    radius = style.diameter_px / 2
    one = np.pi * radius**2 if len(shape) == 2 else 4 / 3 * np.pi * radius**3 / style.z_step
    return int(np.ceil(style.coverage * np.prod(shape) / one))
