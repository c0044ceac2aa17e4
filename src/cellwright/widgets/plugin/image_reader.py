"""Images in napari as the command line knows them: axes, pixel size, channels and scenes as the file tells.

A channel is a layer, and so is a scene, and each image of a folder; files that are opened as a stack are one
image. Labels inside an OME-Zarr image are Labels layers. What lies on disk stays there until it is looked at;
pyramids are multiscale layers, of which the full resolution is counted.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pint
from magicgui.widgets import request_values
from napari.utils.notifications import show_warning
from numpy.typing import NDArray
from qtpy.QtWidgets import QApplication

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import CellwrightError, ReadError
from cellwright.files.folders.image_list import ListedImage, list_images
from cellwright.files.formats.tracking_challenge import is_tracking_challenge
from cellwright.files.images import describe_images, image_names, read_image, read_images
from cellwright.files.metadata import FilePart, blank, guess_notice
from cellwright.files.zarr import address_of, is_zarr, missing_chunks
from cellwright.widgets.plugin.meanwhile import NO_LAYERS, beside_window, unless_closed
from cellwright.widgets.shared.coordinates import FILE_PART, lazy
from cellwright.widgets.shared.layer_io import axes_arguments
from cellwright.widgets.shared.style import with_own_keys

LayerData = tuple[Any, dict[str, Any], str]  # napari: array, arguments, type of layer
LABELS = ("_labels", ".labels", "_cp_masks")  # how names of label images end, which the other reader opens
COLOUR_SAMPLES = 3
CHANNEL_COLOURS = ("cyan", "magenta", "yellow", "green", "red", "blue")  # where the file names none
MOST_IMAGES = 64  # of one file that become layers unasked
FOLDER = Path(__file__).parents[2] / "sample_data"
FILES = {
    "nuclei_2d": "nuclei_2d.tif",
    "tissue_rgb": "tissue_rgb.png",
    "phase_2d": "phase_2d.tif",
    "nuclei_3d": "nuclei_3d.tif",
    "nuclei_time": "nuclei_time.tif",
}


@unless_closed(lambda _: NO_LAYERS)
def get_image_reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]] | None:
    """Return what reads images, and labels in a store, into layers; None where there are none.

    Label images of one file are read by the other reader.
    """
    if not isinstance(path, str):
        return None if any(_is_labels(Path(one)) for one in path) else read_stack
    if address_of(path):
        return read_images_of_file
    file = Path(path)
    if file.is_dir() and not is_zarr(file):
        has_images = not is_tracking_challenge(file) and beside_window(_images_in, file)
        return read_images_of_folder if has_images else None
    return None if _is_labels(file) and not file.is_dir() else read_images_of_file


def _is_labels(file: Path) -> bool:
    return file.name.removesuffix(".gz").removesuffix(file.suffix).removesuffix(".ome").endswith(LABELS)


def _images_in(folder: Path) -> list[ListedImage]:
    """Return the images of a folder; those of folders in it, and label images, are left out."""
    try:
        listed = list_images([folder], is_deep=False)
    except ReadError:  # it has none
        return []
    return [one for one in listed if not _is_labels(one.path)]


@unless_closed(NO_LAYERS)
def read_images_of_file(path: str) -> list[LayerData]:
    """Return all images of a file or store as layers.

    ReadError where it is damaged or no image, or a package is missing.
    """
    notices: dict[str, None] = {}
    layers = _layers_in(path, notices)
    _tell(notices)
    return layers or NO_LAYERS


def _tell(notices: Iterable[str]) -> None:
    for notice in notices:
        show_warning(notice)


def _layers_in(path: str, notices: dict[str, None]) -> list[LayerData]:
    images = read_images(path, has_levels=True)
    found = beside_window(lambda: list(islice(images, MOST_IMAGES + 1)))
    if len(found) > MOST_IMAGES:
        wanted = _wanted(Path(path).name, beside_window(image_names, path), notices)
        if not wanted:
            return []
        rest = islice(chain(found, images), max(wanted) + 1)
        found = beside_window(lambda: [one for number, one in enumerate(rest) if number in wanted])
    return beside_window(_as_layers, path, found, notices)


def _as_layers(path: str, images: Sequence[Image], notices: dict[str, None]) -> list[LayerData]:
    layers: list[LayerData] = []
    for image in images:
        if _is_labels(Path(path)):
            layers += _labels_of(image)  # where no cell lies, no chunk is written
            continue
        sentences = filter(None, (*image.notices, missing_chunks(image.data)))  # which a layer does not tell
        notices.update(dict.fromkeys(sentences))
        layers += layers_of(image)
    layers += _labels_inside(path, notices)
    if any(not isinstance(image.data, np.ndarray) for image in images):
        lazy(np.zeros(1)).compute()  # the first makes dask load its schedulers: not in a turn of the window
    units: Any = pint.get_application_registry()
    units.pixel  # noqa: B018 - likewise: napari's first layer makes pint read its list of units
    return layers


@unless_closed(NO_LAYERS)
def read_images_of_folder(path: str) -> list[LayerData]:
    """Return the images of a folder as layers; what cannot be read is told and left out."""
    notices: dict[str, None] = {}
    listed = beside_window(_images_in, Path(path))
    layers: list[LayerData] = []
    for number in _wanted(Path(path).name, [one.name for one in listed], notices):
        try:
            layers += _layers_in(str(listed[number].path), notices)
        except CellwrightError as error:
            notices[str(error)] = None
    _tell(notices)
    return layers or NO_LAYERS


@unless_closed(NO_LAYERS)
def read_stack(paths: Sequence[str]) -> list[LayerData]:
    """Return files as one image along a new axis, slices or else time; they stay on disk.

    ReadError where one cannot be read, they are not alike, or have slices and time already.
    """
    layers, notices = beside_window(_stacked, paths)
    _tell(notices)
    return layers


def _stacked(paths: Sequence[str]) -> tuple[list[LayerData], tuple[str, ...]]:
    import dask.array  # napari brings it

    first = read_image(paths[0])
    new = next((axis for axis in "ZT" if axis not in first.axes), "")
    if not new:
        raise ReadError(
            f"A stack of files with the axes {first.axes} has no room for another. Open them one by one."
        )
    for path in paths:
        known = describe_images(path)[:1] or [read_image(path)]  # it raises where the file is damaged
        _refuse_other(known[0], first, path)
    pages: Any = [
        dask.array.from_delayed(dask.delayed(_page)(path, first), first.shape, first.data.dtype)  # type: ignore[attr-defined]
        for path in paths
    ]
    data, sizes = dask.array.stack(pages), first.pixel_size_um
    axes = new + first.axes
    if sizes and new == "Z":
        sizes = (0.0, *sizes)
    whole = replace(first, data=data, axes=axes, pixel_size_um=sizes, axes_are_guessed=True, source="")
    return layers_of(whole), (*first.notices, guess_notice(axes, data.shape))


def _page(path: str, first: Image) -> NDArray[Any]:
    image = read_image(path)
    _refuse_other(image, first, path)
    return image.read()


def _refuse_other(image: Image, first: Image, path: str) -> None:
    """Raise ReadError where an image of a stack is not like its first."""
    own, theirs = ((one.axes, one.shape, np.dtype(one.data.dtype).name) for one in (image, first))
    if own != theirs:
        raise ReadError(
            f"Files of a stack must be of the same axes, size and type, {theirs} here; {path} has {own}. "
            "Open them without stacking."
        )


def _wanted(file: str, names: Sequence[str], notices: dict[str, None]) -> list[int]:
    """Return the numbers of the images that become layers: all, or those that the user chooses of many."""
    if len(names) <= MOST_IMAGES:
        return list(range(len(names)))
    wanted = choose_images(file, names)
    if wanted is None:
        notices[f"Only the first {MOST_IMAGES} images of {file} were opened."] = None
        return list(range(MOST_IMAGES))
    return wanted


def choose_images(file: str, names: Sequence[str]) -> list[int] | None:
    """Ask the user which images of a file, given by their names, become layers; return their numbers from 0.

    None where there is no window to ask in, an empty list where the user leaves.
    """
    window = next((one for one in QApplication.topLevelWidgets() if one.isVisible()), None)
    if window is None:
        return None
    chosen = request_values(
        title=f"{file} holds {len(names)} images. Each one opened becomes one or more layers.",
        parent=window,
        images={
            "widget_type": "Select",
            "label": "Open",
            "value": list(range(MOST_IMAGES)),
            "options": {
                "choices": [(name, number) for number, name in enumerate(names)],
                "tooltip": with_own_keys("Ctrl and Shift choose several, Ctrl+A all."),
            },
        },
    )
    return [] if chosen is None else sorted(chosen["images"])


def layers_of(image: Image) -> list[LayerData]:
    """Return an image as a layer, or as one for each of its channels where these are not colours."""
    known = replace(image, data=blank(image.shape, image.data.dtype), levels=())
    arguments = {
        "name": image.name,
        **axes_arguments(image.label_axes, image.pixel_size_um),
        "metadata": {FILE_PART: FilePart(known, is_ours=True)},
    }
    levels = [_sliceable(level) for level in (image.data, *image.levels)]
    if "C" not in image.axes:
        return [(*_scaled(levels, arguments), "image")]
    at = image.axes.index("C")
    if image.axes.endswith("C") and image.shape[at] == COLOUR_SAMPLES:
        return [(*_scaled(levels, {**arguments, "rgb": True}), "image")]
    layers: list[LayerData] = []
    colours = image.channel_colors
    if not colours and image.shape[at] > 1:
        colours = tuple(islice(cycle(CHANNEL_COLOURS), image.shape[at]))
    for channel in range(image.shape[at]):
        own = {**arguments, "metadata": {FILE_PART: FilePart(known, channel, is_ours=True)}}
        if image.shape[at] > 1:
            called = image.channel_names[channel] if image.channel_names else ""
            own["name"] = f"{image.name} {called or f'channel {channel}'}"
            own["blending"] = "additive"
        if colours:
            own["colormap"] = colours[channel]
        index = (slice(None),) * at + (channel,)
        layers.append((*_scaled([level[index] for level in levels], own), "image"))
    return layers


def _labels_of(image: Image) -> list[LayerData]:
    """Return labels that a count block by block has written as a layer that reads them on sight."""
    arguments = {"name": image.name, **axes_arguments(image.label_axes, image.pixel_size_um)}
    levels = [_sliceable(level) for level in (image.data, *image.levels)]
    return [(*_scaled(levels, arguments), "labels")]


def _sliceable(data: Any) -> Any:
    """Return an array that napari slices without loading it."""
    return data if isinstance(data, np.ndarray) else lazy(data)


def _scaled(levels: list[Any], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what napari shows: one array, or those of a pyramid."""
    if len(levels) == 1:
        return levels[0], arguments
    return levels, {**arguments, "multiscale": True}


def _labels_inside(path: str, notices: dict[str, None]) -> list[LayerData]:
    inside = Path(path) / "labels"
    if address_of(path) or not is_zarr(inside):
        return []
    layers: list[LayerData] = []
    try:
        for image in read_images(inside):
            if np.dtype(image.data.dtype).kind not in "iu":
                continue
            axes = axes_arguments(image.label_axes, image.pixel_size_um)
            arguments = {"name": f"{Path(path).stem} {image.name}", **axes}
            parts, at = [_sliceable(image.data)], image.axes.find(CHANNEL)
            if at >= 0:
                parts = [parts[0][(slice(None),) * at + (number,)] for number in range(image.shape[at])]
            layers += [(part, arguments, "labels") for part in parts]
    except ReadError as error:
        notices[str(error)] = None
    return layers


@unless_closed(NO_LAYERS)
def sample_layers(name: str) -> list[LayerData]:
    """Return a sample as one image layer with its pixel size.

    ReadError where there is no such sample, or the package was installed without its samples.
    """
    if name not in FILES:
        raise ReadError(f"The samples are {', '.join(FILES)}; got {name!r}. Choose one of them.")
    path = FOLDER / FILES[name]
    if not path.is_file():
        raise ReadError(f"Expected a sample at {path}; there is none. Install the package again.")
    return beside_window(lambda: layers_of(replace(read_image(path), name=name)))
