"""Images in napari as the command line knows them: axes, pixel size, channels and scenes as the file tells.

A channel is a layer, and so is a scene; labels inside an OME-Zarr image are Labels layers. What lies on disk
stays there until it is looked at; pyramids are multiscale layers, of which the full resolution is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_warning

from cellwright.core.data import Image, known_sizes
from cellwright.core.errors import ReadError
from cellwright.files.images import read_images
from cellwright.files.metadata import FilePart, blank
from cellwright.files.zarr import address_of, is_zarr
from cellwright.widgets.shared.coordinates import FILE_PART
from cellwright.widgets.shared.layer_io import units_of

LayerData = tuple[Any, dict[str, Any], str]  # napari: array, arguments, type of layer
LABELS = ("_labels", ".labels", "_cp_masks")  # how names of label images end, which the other reader opens
COLOUR_SAMPLES = 3
MOST_IMAGES = 64  # of one file that become layers at once


def get_reader(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Return what reads images into layers; None for several files, label images and plain folders."""
    if not isinstance(path, str):
        return None
    file = Path(path)
    is_labels = file.name.removesuffix(".gz").removesuffix(file.suffix).removesuffix(".ome").endswith(LABELS)
    is_folder = file.is_dir() and not is_zarr(file)
    if not address_of(path) and (is_labels or is_folder):
        return None
    return read_layers


def read_layers(path: str) -> list[LayerData]:
    """Return all images of a file or store as layers.

    Raises
    ------
    ReadError
        It is damaged or no image, or a package is missing.
    """
    layers: list[LayerData] = []
    notices: dict[str, None] = {}
    for number, image in enumerate(read_images(path, has_levels=True)):
        if number == MOST_IMAGES:
            notices[f"Only the first {MOST_IMAGES} images of {Path(path).name} were opened."] = None
            break
        notices.update(dict.fromkeys(image.notices))
        layers += layers_of(image)
    layers += _labels_inside(path)
    for notice in notices:
        show_warning(notice)
    return layers


def layers_of(image: Image) -> list[LayerData]:
    """Return an image as a layer, or as one for each of its channels where these are no colours."""
    known = replace(image, data=blank(image.shape, image.data.dtype), levels=())
    arguments = {
        "name": image.name,
        **placement_of(image.label_axes, image.pixel_size_um),
        "metadata": {FILE_PART: FilePart(known, is_ours=True)},
    }
    levels = [_lazy(level) for level in (image.data, *image.levels)]
    if "C" not in image.axes:
        return [(*_scaled(levels, arguments), "image")]
    at = image.axes.index("C")
    if image.axes.endswith("C") and image.shape[at] == COLOUR_SAMPLES:
        return [(*_scaled(levels, {**arguments, "rgb": True}), "image")]
    layers: list[LayerData] = []
    for channel in range(image.shape[at]):
        own = {**arguments, "metadata": {FILE_PART: FilePart(known, channel, is_ours=True)}}
        if image.shape[at] > 1:
            called = image.channel_names[channel] if image.channel_names else ""
            own["name"] = f"{image.name} {called or f'channel {channel}'}"
            own["blending"] = "additive"
        if image.channel_colors:
            own["colormap"] = image.channel_colors[channel]
        index = (slice(None),) * at + (channel,)
        layers.append((*_scaled([level[index] for level in levels], own), "image"))
    return layers


def _scaled(levels: list[Any], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what napari shows: one array, or those of a pyramid."""
    if len(levels) == 1:
        return levels[0], arguments
    return levels, {**arguments, "multiscale": True}


def placement_of(axes: str, pixel_size_um: Sequence[float]) -> dict[str, Any]:
    """Return axis labels, and scale and units where the pixel size is known."""
    placement: dict[str, Any] = {"axis_labels": tuple(axes.lower())}
    sizes = known_sizes(axes, pixel_size_um)
    if sizes:
        placement["scale"] = tuple(sizes.get(axis, 1.0) for axis in axes)
        placement["units"] = units_of(axes, sizes)
    return placement


def _lazy(data: Any) -> Any:
    """Return an array that napari slices without loading it."""
    if isinstance(data, np.ndarray):
        return data
    import dask.array

    if isinstance(data, dask.array.Array):
        return data
    lazy: Any = dask.array.from_array(data, chunks=getattr(data, "chunks", "auto"))  # type: ignore[no-untyped-call]
    return lazy


def _labels_inside(path: str) -> list[LayerData]:
    """Return the labels that an OME-Zarr image holds."""
    inside = Path(path) / "labels"
    if address_of(path) or not is_zarr(inside):
        return []
    layers: list[LayerData] = []
    try:
        for image in read_images(inside):
            arguments = {
                "name": f"{Path(path).stem} {image.name}",
                **placement_of(image.axes, image.pixel_size_um),
            }
            if np.dtype(image.data.dtype).kind in "iu" and "C" not in image.axes:
                layers.append((_lazy(image.data), arguments, "labels"))
    except ReadError as error:
        show_warning(str(error))
    return layers
