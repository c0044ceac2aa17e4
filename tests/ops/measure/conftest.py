"""Cells of known shape and brightness, in pixels of any size."""

from typing import NamedTuple

import numpy as np
import pandas
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.special import ellipe

from cellwright.core.data import Image
from cellwright.ops.measure.measurement import measure


class Drawn(NamedTuple):
    """Ellipses (2D) or ellipsoids (3D) in an image of two channels, and the truth in micrometres."""

    labels: NDArray[np.int32]
    image: Image
    half_axes: NDArray[np.float64]  # (N, D), longest first
    angles: NDArray[np.float64]  # of the longest to the y axis, in degrees (2D)
    centres: NDArray[np.float64]  # (N, D) in pixels

    def perimeters(self) -> NDArray[np.float64]:
        long, short = self.half_axes.T
        return np.asarray(4 * long * ellipe(1 - (short / long) ** 2))

    def surfaces(self) -> NDArray[np.float64]:
        """Of ellipsoids whose two shorter axes are equal."""
        long, short = self.half_axes[:, 0], self.half_axes[:, 1]
        e = np.sqrt(1 - (short / long) ** 2)
        return np.asarray(2 * np.pi * short**2 * (1 + long / (short * e) * np.arcsin(e)))


def draw(spacing: tuple[float, ...], seed: int = 0) -> Drawn:
    rng = np.random.default_rng(seed)
    ndim = len(spacing)
    pitch, radius = (72.0, 20.0) if ndim == 2 else (36.0, 10.0)
    grid = (3, 4) if ndim == 2 else (2, 2, 2)
    shape = tuple(int(pitch * n / side) for n, side in zip(grid, spacing, strict=True))
    labels = np.zeros(shape, np.int32)
    places = np.stack(
        np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"), -1
    )
    half_axes, angles, centres = [], [], []
    for number, cell in enumerate(np.ndindex(grid), start=1):
        centre = (np.array(cell) + 0.5) * pitch + rng.uniform(-0.5, 0.5, ndim)
        stretch = rng.uniform(1.1, 1.6)
        own = radius * np.array([stretch, *[stretch ** (-1 / (ndim - 1))] * (ndim - 1)])
        if ndim == 2:
            angle = rng.uniform(-np.pi / 2, np.pi / 2)
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            angles.append(np.degrees(angle))
        else:
            turn = Rotation.random(random_state=number).as_matrix()
        inside = (((places - centre) @ turn / own) ** 2).sum(axis=-1) <= 1
        labels[inside] = number
        half_axes.append(own)
        centres.append(centre / np.array(spacing))
    pixels = np.stack([labels * 10 + rng.integers(0, 10, shape), 2 + (labels > 0) * 100 * labels]).astype(
        np.uint16
    )
    axes = "CZYX"[:1] + "ZYX"[-ndim:]
    image = Image(pixels, axes, spacing)
    return Drawn(labels, image, np.array(half_axes), np.array(angles), np.array(centres))


SPACINGS = [(1.0, 1.0), (0.5, 0.5), (0.5, 1.0), (1.0, 1.0, 1.0), (2.0, 0.5, 0.5)]


@pytest.fixture(scope="module", params=SPACINGS, ids=str)
def drawn(request) -> Drawn:
    return draw(request.param)


@pytest.fixture(scope="module")
def shapes(drawn) -> pandas.DataFrame:
    """What is measured of the shapes of the cells drawn."""
    return measure(drawn.labels, drawn.image, ("shape",))


@pytest.fixture
def draw_cells():
    return draw
