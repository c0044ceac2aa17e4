"""What napari opens images with; importing it takes no time."""

from collections.abc import Callable, Sequence
from typing import Any

from cellwright.widgets.plugin.meanwhile import beside_window


def get_reader(path: str | Sequence[str]) -> Callable[[Any], Any] | None:
    """Return what reads images into layers; None for label images and folders without an image."""
    return beside_window(_reader_of, path)


def _reader_of(path: str | Sequence[str]) -> Callable[[Any], Any] | None:
    from cellwright.widgets.plugin import image_reader  # which takes a moment: not in the window's own turn

    return image_reader.get_reader(path)
