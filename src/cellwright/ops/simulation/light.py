"""Random fields, blur and the camera of the simulator; everything for 2D and 3D alike."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Field = NDArray[np.float32]
Numbers = NDArray[np.float64]
Lengths = Numbers | float  # the same along each axis, or one for each


def smooth_noise(shape: Sequence[int], scale_px: Lengths, rng: np.random.Generator) -> Field:
    """Return a random field of mean about 0 and deviation 1 that changes over ``scale_px`` pixels.

    Cubic B-spline through random numbers on a coarse grid ("value noise", Perlin 1985,
    doi:10.1145/325165.325247): far cheaper than blurring white noise by a wide kernel.
    """
    scales = np.broadcast_to(np.asarray(scale_px, float), (len(shape),))
    coarse = tuple(int(np.ceil(n / s)) + 4 for n, s in zip(shape, scales, strict=True))
    field = rng.standard_normal(coarse, dtype=np.float32)
    for axis, (n, scale) in enumerate(zip(shape, scales, strict=True)):
        field = _spline_axis(field, axis, rng.random() + np.arange(n) / scale)
    # a cubic B-spline averages its random numbers: their deviation falls to 0.69 along each axis
    return np.asarray(field / 0.69 ** len(shape), np.float32)


def chromatin(shape: Sequence[int], scale_px: Lengths, rng: np.random.Generator) -> Field:
    """Return noise of deviation about 1 from three octaves, the coarsest of ``2 * scale_px`` pixels."""
    scales = np.broadcast_to(np.asarray(scale_px, float), (len(shape),))
    field = np.zeros(tuple(shape), np.float32)
    for weight, factor in ((0.6, 2.0), (0.6, 1.0), (0.5, 0.5)):
        field += weight * smooth_noise(shape, np.maximum(scales * factor, 1.0), rng)
    return field


def fibres(shape: tuple[int, int], width_px: float, rng: np.random.Generator) -> Field:
    """Return wavy parallel strands as in connective tissue, 0 to 1, ``width_px`` pixels thick, (Y, X)."""
    angle = rng.uniform(0, np.pi)
    sway = smooth_noise(shape, width_px * rng.uniform(5, 20), rng) * width_px * rng.uniform(0.5, 3.0)
    y, x = np.ogrid[: shape[0], : shape[1]]
    across = y * np.cos(angle) - x * np.sin(angle) + sway
    along = (y * np.sin(angle) + x * np.cos(angle)) / rng.uniform(3.0, 12.0)
    coords = np.stack([across - across.min(), along - along.min()])
    size = np.ceil(coords.max((1, 2))).astype(int) + 2
    strands = chromatin((size[0], size[1]), np.array([width_px, width_px * 1.5]), rng)
    sampled = ndimage.map_coordinates(strands, coords, order=1, mode="nearest")
    return np.asarray(1.0 / (1.0 + np.exp(-1.5 * sampled)), np.float32)


def wide_blur(image: Field, sigma_px: Lengths) -> Field:
    """Return the Gaussian blur by ``sigma_px`` pixels, on a coarse grid where it is wide, edges repeated."""
    sigmas = np.broadcast_to(np.asarray(sigma_px, float), (image.ndim,))
    steps = np.maximum((sigmas / 2.0).astype(int), 1)
    pad = [(0, int(-n % s)) for n, s in zip(image.shape, steps, strict=True)]
    padded = np.pad(image, pad, mode="edge")
    for axis, step in enumerate(steps):
        shape = padded.shape
        padded = padded.reshape(*shape[:axis], shape[axis] // step, step, *shape[axis + 1 :]).mean(axis + 1)
    blurred: Field = ndimage.gaussian_filter(padded, sigmas / steps, mode="nearest", truncate=3.0)
    for axis, (n, step) in enumerate(zip(image.shape, steps, strict=True)):
        if step > 1:
            blurred = _linear_axis(blurred, axis, (np.arange(n) - (step - 1) / 2.0) / step)
    return blurred


def specks(shape: Sequence[int], points: Numbers, sigma_px: Numbers, heights: Numbers) -> Field:
    """Return the sum of Gaussian spots: ``points`` (N, D) and sigmas (N, D) in pixels, ``heights`` (N,)."""
    field = np.zeros(shape, np.float32)
    for point, sigma, height in zip(points, sigma_px, heights, strict=True):
        bounds = [
            (max(int(p - 3 * s), 0), min(int(p + 3 * s) + 2, n))
            for p, s, n in zip(point, sigma, shape, strict=True)
        ]
        if any(low >= high for low, high in bounds):
            continue
        spot = np.float32(height)
        for axis, (low, high) in enumerate(bounds):
            line = np.exp(-0.5 * ((np.arange(low, high) - point[axis]) / sigma[axis]) ** 2)
            spot = np.multiply.outer(spot, line.astype(np.float32))
        field[tuple(slice(*b) for b in bounds)] += spot
    return field


def illumination(shape: Sequence[int], unevenness: float, rng: np.random.Generator) -> Field:
    """Return the light of the lamp at each pixel, about 1: tilted, off-centre vignette and slow ripple."""
    if unevenness <= 0:
        return np.ones(tuple(shape), np.float32)
    plane = shape[-2:]
    grids = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in plane), indexing="ij")
    centre, tilt = rng.uniform(-0.5, 0.5, 2), rng.normal(0, 0.4, 2)
    far = sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True))
    field = -0.5 * far + sum(g * t for g, t in zip(grids, tilt, strict=True))
    field = field + 0.2 * smooth_noise(plane, max(plane) / 2.5, rng)
    lamp = np.exp(unevenness * (field - field.mean())).astype(np.float32)
    return np.broadcast_to(lamp, tuple(shape))


def camera(
    light: Field, rng: np.random.Generator, *, photons: float, read_noise: float, bits: int
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the digital image of ``light`` (1 = saturation): shot noise, read noise, 8 or 16 bit."""
    # the normal limit of the Poisson law: twenty times faster and the same to the eye above a few photons
    sigma = np.sqrt(np.maximum(light, 0) / photons + read_noise**2)
    noisy = light + sigma * rng.standard_normal(light.shape, dtype=np.float32)
    top = 255 if bits == 8 else 65535
    counts = np.clip(np.rint(noisy * top), 0, top)
    return counts.astype(np.uint8) if bits == 8 else counts.astype(np.uint16)


def _spline_axis(field: Field, axis: int, at: Numbers) -> Field:
    start = np.floor(at).astype(int)
    t = (at - start).astype(np.float32)
    middle = (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6
    weights = ((1 - t) ** 3 / 6, *middle, t**3 / 6)
    shape = [1] * field.ndim
    shape[axis] = len(at)
    taps = (np.take(field, start + k, axis) * w.reshape(shape) for k, w in enumerate(weights))
    return np.asarray(sum(taps), np.float32)


def _linear_axis(field: Field, axis: int, at: Numbers) -> Field:
    at = np.clip(at, 0, field.shape[axis] - 1)
    start = np.minimum(at.astype(int), max(field.shape[axis] - 2, 0))
    shape = [1] * field.ndim
    shape[axis] = len(at)
    t = (at - start).astype(np.float32).reshape(shape)
    stop = np.minimum(start + 1, field.shape[axis] - 1)
    return np.asarray(np.take(field, start, axis) * (1 - t) + np.take(field, stop, axis) * t, np.float32)
