"""Pictures without cells, photographed and drawn, of which a model should promise nothing."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from scipy import ndimage
from skimage.transform import resize

SIDE_PX = 320
SEED = 5
PHOTOGRAPHS = (
    *("camera", "astronaut", "brick", "grass", "gravel", "moon", "clock"),
    *("hubble_deep_field", "coffee", "chelsea", "rocket"),
)
PAGES = ("page", "text")
ZOOMS = (1.0, 0.5, 2.0)
WORDS = (
    *("a", "well", "kept", "page", "of", "words", "in", "rows", "is", "nothing", "that", "anybody", "would"),
    *("take", "for", "tissue", "under", "lens", "though", "each", "letter", "small", "dark", "and", "round"),
)
Pixels = NDArray[np.uint8]
Random = np.random.Generator


class Shown(NamedTuple):
    """A picture (Y, X) or (Y, X, 3) and what it shows, in one word."""

    what: str
    pixels: Pixels


def pictures() -> Iterator[Shown]:
    """Yield all pictures, always the same ones."""
    rng = np.random.default_rng(SEED)
    for what, names in (("photographs", PHOTOGRAPHS), ("text", PAGES)):
        for name in names:
            yield from (Shown(what, one) for one in _at_sizes(getattr(skimage.data, name)()))
    for draw in (
        _checkerboards,
        _grids,
        _stripes,
        _gradients,
        _noise,
        _text,
        _charts,
        _maps,
        _walls,
        _shapes,
    ):
        yield from (Shown(draw.__name__[1:], pixels) for pixels in draw(rng))


def _at_sizes(pixels: Pixels) -> Iterator[Pixels]:
    """Yield the middle of a photograph at several sizes."""
    for zoom in ZOOMS:
        shape = [round(n * zoom) for n in pixels.shape[:2]]
        scaled = resize(pixels, (*shape, *pixels.shape[2:]), anti_aliasing=True)
        corner = [max(0, n - SIDE_PX) // 2 for n in shape]
        yield _bytes(scaled[corner[0] : corner[0] + SIDE_PX, corner[1] : corner[1] + SIDE_PX])


def _bytes(pixels: NDArray[np.floating]) -> Pixels:
    return (255 * pixels).round().clip(0, 255).astype(np.uint8)


def _places() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    rows, columns = np.indices((SIDE_PX, SIDE_PX))
    return rows, columns


def _checkerboards(rng: Random) -> Iterator[Pixels]:
    rows, columns = _places()
    for side in (6, 10, 16, 25, 40, 64):
        yield _bytes((rows // side + columns // side) % 2)
    soft = ndimage.gaussian_filter(0.2 + 0.5 * ((rows // 20 + columns // 20) % 2), 2)
    yield _bytes(soft + 0.03 * rng.standard_normal(soft.shape))
    turned = (0.8 * rows + 0.6 * columns) // 18 + (0.8 * columns - 0.6 * rows) // 18
    yield _bytes(ndimage.gaussian_filter(turned % 2, 1))


def _grids(_: Random) -> Iterator[Pixels]:
    rows, columns = _places()
    for gap, width in ((12, 1), (24, 2), (40, 4), (64, 3)):
        lines = ((rows % gap < width) | (columns % gap < width)).astype(float)
        yield _bytes(lines)
        yield _bytes(1 - 0.8 * lines)


def _stripes(_: Random) -> Iterator[Pixels]:
    rows, columns = _places()
    for period in (6, 14, 30, 60):
        yield _bytes(0.5 + 0.5 * np.sin(2 * np.pi * columns / period))
        yield _bytes((columns + rows // 2) % period < period / 2)


def _gradients(rng: Random) -> Iterator[Pixels]:
    rows, columns = _places()
    distance = np.hypot(rows / SIDE_PX - 0.5, columns / SIDE_PX - 0.5)
    yield _bytes(columns / SIDE_PX)
    yield _bytes(1.4 * distance)
    yield _bytes(0.9 - distance**2 + 0.02 * rng.standard_normal(distance.shape))


def _noise(rng: Random) -> Iterator[Pixels]:
    for sigma in (0, 1, 2, 4, 8, 16):
        grain = ndimage.gaussian_filter(rng.standard_normal((SIDE_PX, SIDE_PX)), sigma)
        yield _bytes(0.5 + 0.18 * grain / grain.std())
    yield rng.poisson(3, (SIDE_PX, SIDE_PX)).astype(np.uint8)


def _page(ground: int | tuple[int, int, int] = 255) -> tuple[Picture.Image, ImageDraw.ImageDraw]:
    page = Picture.new("RGB", (SIDE_PX, SIDE_PX), ground if isinstance(ground, tuple) else (ground,) * 3)
    return page, ImageDraw.Draw(page)


def _colour(rng: Random) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 255, 3).tolist()
    return red, green, blue


def _text(rng: Random) -> Iterator[Pixels]:
    for size, ink, ground in (
        (10, 0, 255),
        (14, 0, 255),
        (20, 0, 255),
        (32, 20, 240),
        (16, 255, 0),
        (26, 255, 30),
    ):
        page, pen = _page(ground)
        for top in range(6, SIDE_PX, int(1.5 * size)):
            pen.text((8, top), " ".join(rng.choice(WORDS, 14)), (ink,) * 3, ImageFont.load_default(size))
        yield np.asarray(page.convert("L"))
    page, pen = _page()
    for top in range(20, SIDE_PX, 24):
        pen.line((0, top - 5, SIDE_PX, top - 5), (200, 200, 200))
        for left in range(10, SIDE_PX, 60):
            pen.text((left, top), str(rng.integers(0, 9999)), (0, 0, 120), ImageFont.load_default(13))
    yield np.asarray(page)


def _charts(rng: Random) -> Iterator[Pixels]:
    bars, lines, pie, heat = (_page() for _ in range(4))
    for index, height in enumerate(rng.integers(30, 250, 9).tolist()):
        left = 42 + 30 * index
        bars[1].rectangle((left, 300 - height, left + 22, 300), _colour(rng))
    for colour in ("red", "blue", "green"):
        heights = 160 + np.cumsum(rng.normal(0, 8, 55))
        lines[1].line([(36 + 5 * step, y) for step, y in enumerate(heights.tolist())], colour, 2)
    for angle in range(0, 360, 45):
        pie[1].pieslice((60, 60, 260, 260), angle, angle + int(rng.integers(25, 45)), _colour(rng))
    for row, column in np.ndindex(7, 7):
        left, top, heat_there = 35 + 38 * column, 22 + 38 * row, int(rng.integers(0, 255))
        heat[1].rectangle((left, top, left + 36, top + 36), (heat_there, 80, 255 - heat_there))
        heat[1].text((left + 6, top + 12), f"{heat_there / 255:.2f}", "white", ImageFont.load_default(11))
    for page, pen in (bars, lines, pie, heat):
        pen.line([(30, 10), (30, 302), (310, 302)], "black", 2)
        for tick in range(5):
            pen.text((5, 290 - 65 * tick), str(20 * tick), "black", ImageFont.load_default(12))
            pen.text((55 + 55 * tick, 304), "abcde"[tick], "black", ImageFont.load_default(13))
        yield np.asarray(page)


def _maps(rng: Random) -> Iterator[Pixels]:
    grounds = ((180, 210, 160), (170, 200, 230), (240, 235, 220), (215, 205, 190))
    for step in (30, 48, 64):
        page, pen = _page((235, 230, 215))
        for top, left in np.ndindex(SIDE_PX // step + 1, SIDE_PX // step + 1):
            x, y = step * left + int(rng.integers(2, 8)), step * top + int(rng.integers(2, 8))
            pen.rectangle((x, y, x + step - 8, y + step - 8), grounds[rng.integers(4)], (120, 120, 120))
        for start in rng.integers(0, SIDE_PX, 6):
            heights = start + np.cumsum(rng.normal(0, 25, 8))
            pen.line(list(zip(np.linspace(0, SIDE_PX, 8), heights, strict=True)), (250, 200, 90), 5)
        yield np.asarray(page)


def _walls(rng: Random) -> Iterator[Pixels]:
    rows, columns = _places()
    mortar = np.minimum(rows % 24 / 3, 1) * np.minimum((columns + 24 * (rows // 24 % 2)) % 48 / 3, 1)
    yield _bytes(0.2 + 0.6 * mortar + 0.05 * rng.standard_normal(mortar.shape))
    bent = (
        columns + 12 * np.sin(rows / 40) + 90 * ndimage.gaussian_filter(rng.standard_normal(rows.shape), 12)
    )
    yield _bytes(0.5 + 0.25 * np.sin(2 * np.pi * bent / 16))
    points = rng.integers(0, SIDE_PX, (60, 2))
    distances = np.hypot(rows[..., np.newaxis] - points[:, 0], columns[..., np.newaxis] - points[:, 1])
    nearest, second = np.moveaxis(np.partition(distances, 1)[..., :2], -1, 0)
    yield _bytes((second - nearest) / 6)


def _shapes(rng: Random) -> Iterator[Pixels]:
    for kind, largest in (("box", 120), ("box", 40), ("triangle", 60), ("line", 60)):
        page, pen = _page(_colour(rng))
        for _ in range(40):
            left, top, width, height = (
                *rng.integers(0, SIDE_PX, 2).tolist(),
                *rng.integers(10, largest, 2).tolist(),
            )
            if kind == "box":
                pen.rectangle((left, top, left + width, top + height), _colour(rng))
            elif kind == "triangle":
                pen.polygon(
                    [(left, top), (left + width, top), (left + width / 2, top + height)], _colour(rng)
                )
            else:
                pen.line(
                    (left, top, *rng.integers(0, SIDE_PX, 2).tolist()), _colour(rng), int(rng.integers(1, 8))
                )
        yield np.asarray(page)
