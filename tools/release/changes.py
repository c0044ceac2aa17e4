"""What befalls images in real laboratories, by name: each makes a harder image of one with known cells.

Pixels (Y, X) or (Y, X, 3) come as float32, 0 and 1 being their percentiles 0.5 and 99.8, see
``on_even_scale``.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from cellwright.core.data import Image, Labels
from cellwright.ops.labels import equivalent_diameters

Pixels = NDArray[Any]
DARK_GROUND = 0.3  # median intensity below which an image is one of light on a dark ground
RED, GREEN, BLUE = np.eye(3, dtype=np.float32)
MAGENTA, CYAN = RED + BLUE, GREEN + BLUE
MOST_PX = 1024  # longest side of an enlarged image
LEAST_EMPTY_PX = 64  # side of a square that is called a field without cells


class Known(NamedTuple):
    """An image and its cells."""

    pixels: Pixels
    labels: Labels


Change = Callable[[Known, np.random.Generator], Known | None]  # None where it makes no sense


def on_even_scale(pixels: Pixels) -> Pixels:
    """Return pixels as float32 whose percentiles 0.5 and 99.8 are 0 and 1."""
    low, high = np.percentile(pixels, (0.5, 99.8))
    return (np.asarray(pixels, np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-6))


def known_of(image: Image, labels: Labels) -> Known:
    """Return an image (YX or YXC) and its cells on an even scale, grey where its colours are alike."""
    pixels = np.asarray(image.data)
    if pixels.ndim == 3:
        pixels = pixels[..., :3]
        if np.ptp(pixels, axis=-1).max() == 0:
            pixels = pixels[..., 0]
    return Known(on_even_scale(pixels), labels)


def _of_pixels(change: Callable[[Pixels, np.random.Generator], Pixels]) -> Change:
    return lambda known, rng: known._replace(pixels=change(known.pixels, rng))


def _blur(sigma: float) -> Change:
    return _of_pixels(lambda pixels, _: ndimage.gaussian_filter(pixels, (sigma, sigma, 0)[: pixels.ndim]))


def _noise(level: float) -> Change:
    return _of_pixels(lambda pixels, rng: pixels + _normal(rng, level, pixels.shape))


def _normal(rng: np.random.Generator, level: float, shape: tuple[int, ...]) -> Pixels:
    return level * rng.standard_normal(shape, np.float32)


def _bytes(pixels: Pixels, low: float = 20, high: float = 235) -> NDArray[np.uint8]:
    """Return 8 bits whose levels ``low`` and ``high`` are 0 and 1."""
    return (low + (high - low) * pixels).round().clip(0, 255).astype(np.uint8)


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    file = BytesIO()
    Picture.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Picture.open(file))


def _compressed(quality: int) -> Change:
    return _of_pixels(lambda pixels, _: _jpeg(_bytes(pixels), quality))


def _gamma(power: float) -> Change:
    return _of_pixels(lambda pixels, _: pixels.clip(0, 1) ** power)


def _saturated_spot(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    rows, columns = np.indices(pixels.shape[:2])
    row, column = (rng.integers(n) for n in pixels.shape[:2])
    spot = (rows - row) ** 2 + (columns - column) ** 2 < (0.05 * min(pixels.shape[:2])) ** 2
    return np.where(spot.reshape(*spot.shape, *[1] * (pixels.ndim - 2)), np.float32(10), pixels)


def _ramp(pixels: Pixels) -> Pixels:
    """Return 0 to 1 across the image."""
    ramp = np.linspace(0, 1, pixels.shape[1], dtype=np.float32)
    return ramp.reshape((1, -1, 1)[: pixels.ndim])


def resized(zoom_y: float, zoom_x: float) -> Change:
    """Return what brings pixels and labels to another size, cut to ``MOST_PX`` a side."""

    def change(known: Known, rng: np.random.Generator) -> Known:
        del rng
        pixels, zooms = known.pixels, (zoom_y, zoom_x, 1)
        sigmas = [max(0.0, 0.4 * (1 / zoom - 1)) for zoom in zooms][: pixels.ndim]
        smooth = ndimage.gaussian_filter(pixels, sigmas)
        pixels = ndimage.zoom(smooth, zooms[: pixels.ndim], order=1)[:MOST_PX, :MOST_PX]
        return Known(pixels, ndimage.zoom(known.labels, zooms[:2], order=0)[:MOST_PX, :MOST_PX])

    return change


def _with_diameter(diameter_px: float) -> Change:
    def change(known: Known, rng: np.random.Generator) -> Known:
        areas = np.bincount(known.labels.ravel())[1:]
        zoom = diameter_px / float(np.median(equivalent_diameters(areas[areas > 0])))
        return resized(zoom, zoom)(known, rng)

    return change


def _uneven(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return pixels under light that grows across the image, or from its middle to the edge."""
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in pixels.shape[:2])
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 2.5)
    light = np.cos(angle) * x + np.sin(angle) * y[:, np.newaxis]
    if rng.random() < 0.3:
        light = 2 * (x**2 + y[:, np.newaxis] ** 2)
    return pixels + np.float32(strength) * light.reshape(*light.shape, *[1] * (pixels.ndim - 2))


def _debris(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return pixels with specks of 1 to 3 pixels, as bright as what is brightest."""
    specks = (rng.random(pixels.shape[:2]) < 1 / 1500).astype(np.float32)
    specks = 8 * ndimage.gaussian_filter(specks, 1.0)
    return _lit(pixels, specks)


def _fibres(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return pixels with a dozen bent lines across."""
    shape = pixels.shape[:2]
    lines, along = np.zeros(shape, np.float32), np.linspace(-1, 1, 2000)
    for _ in range(12):
        angle, bend, shift = rng.uniform(0, np.pi), rng.normal(0, 0.3), rng.uniform(-0.7, 0.7)
        across = shift + bend * along**2
        rows = (along * np.sin(angle) + across * np.cos(angle) + 1) / 2 * shape[0]
        columns = (along * np.cos(angle) - across * np.sin(angle) + 1) / 2 * shape[1]
        inside = (rows >= 0) & (rows < shape[0]) & (columns >= 0) & (columns < shape[1])
        lines[rows[inside].astype(int), columns[inside].astype(int)] = 1
    return _lit(pixels, ndimage.gaussian_filter(lines, 1.2) * 3)


def _lit(pixels: Pixels, light: Pixels) -> Pixels:
    """Return pixels with light laid over a dark ground, or taken from a bright one."""
    sign = 1 if np.median(pixels) < 0.5 else -1
    return pixels + sign * light.reshape(*light.shape, *[1] * (pixels.ndim - 2))


def _cytoplasm(labels: Labels, rng: np.random.Generator) -> Pixels:
    """Return cell bodies, 0 to 1: what is near a nucleus, mottled, brighter towards it."""
    reach = float(np.sqrt((labels > 0).sum() / max(len(np.unique(labels)) - 1, 1)))
    distance = ndimage.distance_transform_edt(labels == 0)
    mottled = ndimage.gaussian_filter(_normal(rng, 1, labels.shape), 2.5)
    body = np.exp(-distance / reach) * (distance < 1.2 * reach) * (labels == 0) + 0.25 * (labels > 0)
    return ndimage.gaussian_filter(body * (1 + 2 * mottled), 0.7).clip(0, 1).astype(np.float32)


def _threads(labels: Labels, rng: np.random.Generator) -> Pixels:
    """Return a network of filaments over the image, 0 to 1."""
    field = ndimage.gaussian_filter(_normal(rng, 1, labels.shape), 6)
    return np.asarray(np.exp(-np.abs(field / field.std()) * 5), np.float32)


def _colours(
    nuclei: Pixels, *others: tuple[Pixels, Callable[[Labels, np.random.Generator], Pixels]]
) -> Change:
    """Return the change to a composite: the nuclei in one colour, other structures in others."""

    def change(known: Known, rng: np.random.Generator) -> Known | None:
        if known.pixels.ndim > 2 or np.median(known.pixels) > DARK_GROUND:
            return None
        composite = known.pixels[..., np.newaxis] * nuclei
        for colour, draw in others:
            composite = composite + draw(known.labels, rng)[..., np.newaxis] * colour
        return known._replace(pixels=_bytes(composite, 5))

    return change


def _of_two_colours(known: Known, rng: np.random.Generator) -> Known | None:
    """Return nuclei of which half are red and half are green."""
    if known.pixels.ndim > 2 or np.median(known.pixels) > DARK_GROUND:
        return None
    _, (rows, columns) = ndimage.distance_transform_edt(known.labels == 0, return_indices=True)
    is_red = rng.random(int(known.labels.max()) + 1) < 0.5
    red = is_red[known.labels[rows, columns]][..., np.newaxis]
    return known._replace(pixels=_bytes(known.pixels[..., np.newaxis] * np.where(red, RED, GREEN), 5))


def _emptied(change: Callable[[Pixels, np.random.Generator], Pixels]) -> Change:
    """Return the change to a field without cells: its ground of one intensity, changed, 0 to 1."""

    def emptied(known: Known, rng: np.random.Generator) -> Known:
        ground = np.median(known.pixels[known.labels == 0], axis=0).astype(np.float32)
        ground = np.broadcast_to(ground, known.pixels.shape)
        return Known(change(ground, rng), np.zeros_like(known.labels))

    return emptied


def _real_ground(known: Known, rng: np.random.Generator) -> Known | None:
    """Return the largest square that is far from all cells."""
    del rng
    distance = ndimage.distance_transform_cdt(np.pad(known.labels == 0, 1), "chessboard")[1:-1, 1:-1]
    reach = int(0.75 * distance.max())  # what is near cells has their light
    if reach < LEAST_EMPTY_PX // 2:
        return None
    row, column = np.unravel_index(distance.argmax(), distance.shape)
    square = (slice(row - reach, row + reach), slice(column - reach, column + reach))
    return Known(known.pixels[square], np.zeros_like(known.labels[square]))


def _then(first: Change, second: Change) -> Change:
    def both(known: Known, rng: np.random.Generator) -> Known | None:
        changed = first(known, rng)
        return changed and second(changed, rng)

    return both


CHANGES: Mapping[str, Change] = {
    "as it is": lambda known, _: known,
    "blur 2": _blur(2),
    "blur 4": _blur(4),
    "noise 0.2": _noise(0.2),
    "noise 0.5": _noise(0.5),
    "JPEG 30": _compressed(30),
    "JPEG 10": _compressed(10),
    "gamma 0.4": _gamma(0.4),
    "gamma 2.5": _gamma(2.5),
    "12 grey levels": _of_pixels(lambda pixels, _: _bytes(pixels, 3, 15)),
    "saturated spot": _of_pixels(_saturated_spot),
    "uneven": _of_pixels(lambda pixels, _: pixels + 2 * _ramp(pixels)),
    "vignette": _of_pixels(lambda pixels, _: pixels * (0.15 + _ramp(pixels))),
    "inverted": _of_pixels(lambda pixels, _: 1 - pixels),
    "cells of 6 px": _with_diameter(6),
    "cells of 9 px": _with_diameter(9),
    "large": resized(3, 3),
    "elongated 1:3": resized(0.6, 1.8),
    "elongated 1:8": resized(0.35, 2.8),
    "debris": _of_pixels(_debris),
    "fibres": _of_pixels(_fibres),
    "blue alone": _colours(BLUE),
    "blue, green cells": _colours(BLUE, (GREEN, _cytoplasm)),
    "red, green cells": _colours(RED, (GREEN, _cytoplasm)),
    "green, red threads": _colours(GREEN, (RED, _threads)),
    "magenta, cyan cells": _colours(MAGENTA, (CYAN, _cytoplasm)),
    "blue, green cells, red threads": _colours(BLUE, (GREEN, _cytoplasm), (RED, _threads)),
    "red nuclei, green nuclei": _of_two_colours,
    "empty, noise of 16 bits": _emptied(
        lambda ground, rng: 1e4 + 1e3 * ground + _normal(rng, 30, ground.shape)
    ),
    "empty, noise of 8 bits": _emptied(lambda ground, rng: _bytes(ground + _normal(rng, 0.02, ground.shape))),
    "empty, JPEG 75": _emptied(
        lambda ground, rng: _jpeg(_bytes(ground + _normal(rng, 0.02, ground.shape)), 75)
    ),
    "empty, JPEG 30": _emptied(
        lambda ground, rng: _jpeg(_bytes(ground + _normal(rng, 0.04, ground.shape)), 30)
    ),
    "empty, JPEG 10": _emptied(
        lambda ground, rng: _jpeg(_bytes(ground + _normal(rng, 0.08, ground.shape)), 10)
    ),
    "empty, uneven": _emptied(
        lambda ground, rng: _bytes(ground + 0.1 * _ramp(ground) + _normal(rng, 0.02, ground.shape))
    ),
    "empty, real": _real_ground,
    "empty, real, JPEG 10": _then(_real_ground, _compressed(10)),
}


def poorer(rng: np.random.Generator) -> Change:
    """Return a change of random strength that shows the same cells worse, where they are."""
    kind = rng.choice(6, p=(0.3, 0.2, 0.2, 0.12, 0.1, 0.08))
    if kind == 0:
        return _blur(rng.uniform(1.5, 4.0))
    if kind == 1:
        return _noise(rng.uniform(0.1, 0.6))
    if kind == 2:
        return _of_pixels(_uneven)
    if kind == 3:
        return _compressed(int(rng.integers(6, 40)))
    return _of_pixels(_fibres if kind == 4 else _debris)
