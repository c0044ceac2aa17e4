"""Pictures of general programs: PNG, JPEG, GIF, WebP, BMP, PPM; as light, upright, at their full depth."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.files.metadata import (
    ON_ITS_SIDE,
    ORIENTATION_TAG,
    ImageMetadata,
    Wanted,
    blank,
    describe,
    refuse_bomb,
)

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_DEEP_COLOURS = {(16, 2): 3, (16, 4): 2, (16, 6): 4}  # bits and kind of a PNG to its samples a pixel
PLAIN_MODES = ("1", "L", "I", "I;16", "I;16B", "F", "RGB")  # those of Pillow that need no conversion
KEPT_MODES = (*PLAIN_MODES, "RGBA", "LA", "P")  # those that other readers give as we do
MOVIES = ("GIF", "WEBP", "PNG")  # whose frames follow each other in time
MOST_FRAME_PIXELS = 1 << 29  # of all frames of a movie
MOST_TIMES = 4000  # how much larger than its file a picture can be; LZW and deflate reach 1000 a sample
OPAQUE = 255
DEEP_PPM = ("ppm", "ppm_plain")  # decoders of Pillow: of bytes, of digits
KEYED_MODES = ("1", "L", "P", "RGB")  # of Pillow, in which a value may stand for transparency
TRANSPARENT = (
    "{} is transparent in places; the colours stored there are counted, which programs do not show. Save it "
    "without transparency."
)


def described_picture(path: Path, start: bytes) -> Image:
    """Return a picture as :func:`read_picture` gives it, without its pixels; movies are in colour."""
    from PIL import Image as Picture

    with _opened(path) as picture:
        shape: tuple[int, ...] = (picture.height, picture.width)
        is_movie = _n_frames(picture) > 1
        is_converted = False
        if _is_deep_png(start):
            is_grey, dtype = PNG_DEEP_COLOURS[start[24], start[25]] == 2, np.dtype(np.uint16)
        else:
            sample = picture
            if picture.mode != "P":  # whose palette tells whether it is grey
                sample = Picture.new(picture.mode, (1, 1))
            light = _light(sample)
            is_grey = light.ndim == 2 and not is_movie
            dtype = np.dtype(np.uint16) if _is_deep_ppm(picture) else light.dtype
            is_converted = not is_movie and _is_converted(picture)
            if not is_movie and _orientation(picture) in ON_ITS_SIDE:
                shape = shape[::-1]
        if is_movie:
            shape = (_n_frames(picture), *shape)
    axes = "TYX"[-len(shape) :]
    if not is_grey:
        shape, axes = (*shape, 3), axes + "C"
    return replace(describe(blank(shape, dtype), axes, path.stem), is_converted=is_converted)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a picture however large it is."""
    from PIL import Image as Picture

    # for good: what a block silences, a block that ends in another thread undoes
    warnings.filterwarnings("ignore", category=Picture.DecompressionBombWarning)
    with Picture.open(path) as picture:
        yield picture


def _n_frames(picture: Any) -> int:
    if picture.format not in MOVIES:
        return 1
    return int(getattr(picture, "n_frames", 1))


def _is_deep_png(start: bytes) -> bool:
    return start.startswith(PNG_START) and tuple(start[24:26]) in PNG_DEEP_COLOURS


def _orientation(picture: Any) -> int:
    return int(picture.getexif().get(ORIENTATION_TAG, 1))


def _is_converted(picture: Any) -> bool:
    return picture.mode not in KEPT_MODES or _orientation(picture) != 1


def read_picture(path: Path, start: bytes, wanted: Wanted) -> Image:
    """Return a picture, upright and without transparency."""
    from PIL import ImageOps

    if _is_deep_png(start):
        return _read_deep_png(path, start)  # Pillow would take 8 of its 16 bits
    with _opened(path) as picture:
        n_frames = _n_frames(picture)
        n_bytes = n_frames * picture.width * picture.height * max(3, len(picture.getbands()))
        shape = (n_frames, picture.height, picture.width)
        refuse_bomb(path, shape, n_bytes, path.stat().st_size, MOST_TIMES)
        if n_frames > 1:
            return _read_movie(picture, n_frames, path)
        if _is_deep_ppm(picture):
            return _read_deep_ppm(picture, path)
        is_converted = _is_converted(picture)
        if _orientation(picture) != 1:  # else it would be copied
            picture = ImageOps.exif_transpose(picture)
        shows_labels = wanted.are_labels and picture.mode == "P" and not np.any(picture.getpalette()[:3])
        pixels = np.asarray(picture) if shows_labels and not _is_grey(picture) else _light(picture)
        image = _of_picture(path, pixels, is_seen_through=_is_seen_through(picture))
        return replace(image, is_converted=is_converted)


def _of_picture(path: Path, pixels: NDArray[Any], *, is_seen_through: bool) -> Image:
    """Return an image of the light of a picture."""
    metadata = ImageMetadata(notices=[TRANSPARENT.format(path.name)] * is_seen_through)
    return describe(pixels, "YXC"[: pixels.ndim], path.stem, metadata)


def _is_seen_through(picture: Any) -> bool:
    if "A" not in picture.getbands():
        if "transparency" not in picture.info or picture.mode not in KEYED_MODES:
            return False
        picture = picture.convert("RGBA")  # a value or a colour of the palette stands for it
    return bool(picture.getchannel("A").getextrema()[0] < OPAQUE)


def _read_movie(picture: Any, n_frames: int, path: Path) -> Image:
    """Return the frames of a picture that moves, up to the first that is damaged."""
    if n_frames * picture.width * picture.height > MOST_FRAME_PIXELS:
        raise ReadError(f"The {n_frames} frames of {path} are too large together. Split it.")
    size, n_read, is_grey = picture.size, 0, True
    stack = np.empty((n_frames, picture.height, picture.width, 3), np.uint8)
    try:
        for index in range(n_frames):
            picture.seek(index)
            if picture.size != size:  # it is not unpacked, for it may be gigabytes
                break
            stack[index] = picture.convert("RGB")
            n_read += 1
            is_grey = is_grey and bool((stack[index] == stack[index, ..., :1]).all())
    except (OSError, SyntaxError, EOFError):  # what comes before it is whole
        if not n_read:
            raise
    if picture.size != size:
        raise ReadError(f"The frames of {path} must have one size; they differ. Save them one by one.")
    notices = [f"The movie is damaged: {n_read} of its {n_frames} frames were read."] * (n_read < n_frames)
    pixels, axes = stack[:n_read], "TYXC"
    if is_grey:
        pixels, axes = pixels[..., 0], "TYX"
    return describe(pixels, axes, path.stem, ImageMetadata(notices=notices))


def _light(picture: Any) -> NDArray[Any]:
    if picture.mode in PLAIN_MODES:
        return np.asarray(picture)
    if picture.mode == "LA":
        return np.asarray(picture.convert("L"))
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    seen = picture.convert("RGB") if picture.mode != "RGBA" else picture
    for channel in range(3):  # one by one, for several copies of a large picture would fill memory
        rgb[..., channel] = seen.getchannel(channel)
    if picture.mode == "P" and _is_grey(picture):
        return rgb[..., 0]
    return rgb


def _is_grey(picture: Any) -> bool:
    """Return whether all colours of a palette that more than one entry has are grey."""
    table = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
    return len(table) > 1 and bool((table == table[:, :1]).all())


def _read_deep_png(path: Path, start: bytes) -> Image:
    import imagecodecs
    from PIL import Image as Picture

    width, height = (int.from_bytes(start[at : at + 4], "big") for at in (16, 20))
    if width * height > 2 * (Picture.MAX_IMAGE_PIXELS or MOST_FRAME_PIXELS):  # as Pillow has it
        raise ReadError(
            f"{path} claims {width} x {height} pixels, which is too large for a PNG. Save a TIFF."
        )
    pixels: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    if pixels.ndim == 2:
        return _of_picture(path, pixels, is_seen_through=False)
    n = pixels.shape[-1]
    is_seen_through = n % 2 == 0 and bool(pixels[..., -1].min() < np.iinfo(pixels.dtype).max)
    light = pixels[..., 0] if n == 2 else pixels[..., :3]
    return _of_picture(path, light, is_seen_through=is_seen_through)


def _is_deep_ppm(picture: Any) -> bool:
    """Return whether a picture that is not loaded yet is a PPM, or PGM, whose samples have 9 to 16 bits."""
    tiles = picture.tile if picture.format == "PPM" and picture.mode in ("RGB", "I") else []
    return any(one.codec_name in DEEP_PPM and one.args[-1] > OPAQUE for one in tiles)


def _read_deep_ppm(picture: Any, path: Path) -> Image:
    """Return the samples of a PPM as they are, of which Pillow takes 8 bits, or stretches them to 16."""
    (tile,) = picture.tile
    content = path.read_bytes()[tile.offset :]
    is_binary = tile.codec_name == DEEP_PPM[0]
    samples = np.frombuffer(content, ">u2") if is_binary else np.array(content.split(), np.uint16)
    shape = (picture.height, picture.width, 3)[: 2 + (picture.mode == "RGB")]
    return _of_picture(path, samples[: prod(shape)].reshape(shape).astype(np.uint16), is_seen_through=False)
