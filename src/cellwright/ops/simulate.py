"""Draws microscopy images of cells with exact truth, for samples, tests and training.

The parts: ``simulate_style`` (the knobs), ``simulate_shapes`` (outlines to labels), ``simulate_looks``
(labels to image), ``simulate_light`` (noise, blur, camera).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import SettingsError
from cellwright.ops.simulate_looks import PAINTERS, Picture
from cellwright.ops.simulate_shapes import Scene, draw_outlines, stamp, with_daughters
from cellwright.ops.simulate_style import Style, draw_style

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
    """Image of cells of ``shape`` pixels with its labels, the same for the same state of ``rng``.

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
    if style is None:
        style = draw_style(look, rng, diameter_px=diameter_px)
    elif diameter_px is not None:
        style = replace(style, diameter_px=float(diameter_px))
    n_wanted = _expected_count(shape, style) if n_cells is None else n_cells
    outlines = draw_outlines(n_wanted, shape, style, rng)
    outlines = with_daughters(outlines, look in CONDENSED, rng)
    scene = stamp(outlines, shape, style.z_step, style.overlap)
    image = PAINTERS[look](scene, style, rng)
    return Simulation(image, scene.labels, _centroids(scene), scene.outlines.dividing.astype(np.int16), style)


def _checked(look: str, shape: Sequence[int], n_cells: int | None) -> tuple[int, ...]:
    shape = tuple(int(n) for n in shape)
    if look not in PAINTERS:
        raise SettingsError(f"look must be one of {', '.join(LOOKS)}; got {look!r}.")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise SettingsError(f"shape must be (Y, X) or (Z, Y, X) with positive lengths; got {shape}.")
    if len(shape) == 3 and look != "fluorescence":
        raise SettingsError(f"Only fluorescence is drawn in 3D; got {look!r} with shape {shape}. Give (Y, X).")
    if n_cells is not None and n_cells < 0:
        raise SettingsError(f"n_cells must be 0 or more; got {n_cells}.")
    return shape


def _expected_count(shape: tuple[int, ...], style: Style) -> int:
    radius = style.diameter_px / 2
    one = np.pi * radius**2 if len(shape) == 2 else 4 / 3 * np.pi * radius**3 / style.z_step
    return int(np.ceil(style.coverage * np.prod(shape) / one))


def _centroids(scene: Scene) -> NDArray[np.float32]:
    flat = scene.labels.ravel()
    n = len(scene.outlines)
    areas = np.bincount(flat, minlength=n + 1)[1:]
    grids = np.indices(scene.labels.shape, sparse=True)
    sums = [np.bincount(flat, np.broadcast_to(g, scene.labels.shape).ravel(), n + 1)[1:] for g in grids]
    return np.stack([s / np.maximum(areas, 1) for s in sums], 1).astype(np.float32)
