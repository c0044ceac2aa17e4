"""The shape of cells: outline, convexity and the ellipse of the same moments."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops

from cellwright.ops.measure.blocks import Block
from cellwright.ops.measure.crofton import boundary_sizes

Values = dict[str, NDArray[np.float64]]
BOUNDARIES = {"perimeter", "surface", "circularity", "sphericity"}
ELLIPSES = {"eccentricity", "orientation", "axis_major", "axis_minor"}


def measure_shape(block: Block, keys: Sequence[str], spacing: tuple[float, ...]) -> Values:
    """Return these columns of the group ``shape`` for the cells of a block, one number for each cell.

    Lengths are in the unit of ``spacing``, the sides of a pixel.
    """
    found: Values = {}
    wanted = set(keys)
    if wanted & BOUNDARIES:
        found |= _boundaries(block, spacing)
    if wanted & ELLIPSES or "solidity" in wanted:
        found |= _from_regions(block, wanted, spacing)
    return {key: found[key] for key in keys}


def _boundaries(block: Block, spacing: tuple[float, ...]) -> Values:
    n = len(block)
    sizes = boundary_sizes(block.own, n, spacing)
    areas = np.bincount(block.own.ravel(), minlength=n + 1)[1:] * np.prod(spacing)
    if len(spacing) == 2:
        return {"perimeter": sizes, "circularity": 4 * np.pi * areas / sizes**2}
    return {"surface": sizes, "sphericity": np.cbrt(36 * np.pi * areas**2) / sizes}


def _from_regions(block: Block, wanted: set[str], spacing: tuple[float, ...]) -> Values:
    """Return what scikit-image's ``regionprops`` tells."""
    rows: list[dict[str, float]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convex hulls of lines, whose solidity is then 0 or infinite
        for region in regionprops(block.own, spacing=spacing):  # type: ignore[no-untyped-call]
            row = _ellipse(region) if wanted & ELLIPSES else {}
            if "solidity" in wanted:
                row["solidity"] = _solidity(region)
            rows.append(row)
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def _solidity(region: Any) -> float:
    convex = region.area_convex
    if not convex:  # a line or a plane has no hull
        return 1.0
    return float(region.area / convex)


def _ellipse(region: Any) -> dict[str, float]:
    if region.image.ndim == 2:
        return {
            "eccentricity": region.eccentricity,
            "orientation": np.degrees(region.orientation),
            "axis_major": region.axis_major_length,
            "axis_minor": region.axis_minor_length,
        }
    values, vectors = np.linalg.eigh(_covariance(region))
    lengths = 2 * np.sqrt(5 * np.maximum(values, 0))  # a full ellipsoid of half axis a has variance a^2 / 5
    ratio = lengths[0] / lengths[-1] if lengths[-1] else 1.0
    _, y, x = vectors[:, -1]
    return {
        "eccentricity": float(np.sqrt(1 - ratio**2)),
        "orientation": _folded(float(np.degrees(np.arctan2(x, y)))),
        "axis_major": float(lengths[-1]),
        "axis_minor": float(lengths[0]),
    }


def _covariance(region: Any) -> NDArray[np.float64]:
    """Return the variances and covariances of the voxels of a region along z, y and x."""
    inertia = np.asarray(region.inertia_tensor)
    return np.asarray(np.eye(3) * np.trace(inertia) / 2 - inertia)


def _folded(angle: float) -> float:
    """Return the angle of a line, -90 to 90."""
    return (angle + 90) % 180 - 90
