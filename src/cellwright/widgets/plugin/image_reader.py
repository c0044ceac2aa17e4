"""Images in napari as the command line knows them: axes, pixel size, channels and scenes as the file tells.

A channel is a layer, and so is a scene; labels inside an OME-Zarr image are Labels layers. What lies on disk
stays there until it is looked at; pyramids are multiscale layers, of which the full resolution is counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from napari.utils.notifications import show_warning
from qtpy.QtWidgets import QApplication, QDialog, QDialogButtonBox, QListWidget, QVBoxLayout, QWidget

from cellwright.core.data import CHANNEL, Image
from cellwright.core.errors import ReadError
from cellwright.files.images import image_names, read_image, read_images
from cellwright.files.metadata import FilePart, blank
from cellwright.files.zarr import address_of, is_zarr
from cellwright.widgets.shared.coordinates import FILE_PART, lazy
from cellwright.widgets.shared.layer_io import axes_arguments
from cellwright.widgets.shared.style import fill, wrapped_label

LayerData = tuple[Any, dict[str, Any], str]  # napari: array, arguments, type of layer
LABELS = ("_labels", ".labels", "_cp_masks")  # how names of label images end, which the other reader opens
COLOUR_SAMPLES = 3
CHANNEL_COLOURS = ("cyan", "magenta", "yellow", "green", "red", "blue")  # where the file names none
MOST_IMAGES = 64  # of one file that become layers unasked
NO_LAYERS: list[Any] = [(None,)]  # how napari is told that nothing is to be opened
FOLDER = Path(__file__).parents[2] / "sample_data"
FILES = {
    "nuclei_2d": "nuclei_2d.tif",
    "tissue_rgb": "tissue_rgb.png",
    "phase_2d": "phase_2d.tif",
    "nuclei_3d": "nuclei_3d.tif",
    "nuclei_time": "nuclei_time.tif",
}


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

    ReadError where it is damaged or no image, or a package is missing.
    """
    notices: dict[str, None] = {}
    images = read_images(path, has_levels=True)
    found = list(islice(images, MOST_IMAGES))
    further = next(images, None)
    if further is not None:
        wanted = choose_images(Path(path).name, image_names(path))
        if wanted is None:
            notices[f"Only the first {MOST_IMAGES} images of {Path(path).name} were opened."] = None
        elif not wanted:
            return NO_LAYERS
        else:
            every = islice(chain(found, (further,), images), max(wanted) + 1)
            found = [image for number, image in enumerate(every) if number in wanted]
    layers: list[LayerData] = []
    for image in found:
        notices.update(dict.fromkeys(image.notices))
        layers += layers_of(image)
    layers += _labels_inside(path)
    for notice in notices:
        show_warning(notice)
    return layers


def choose_images(file: str, names: Sequence[str]) -> list[int] | None:
    """Ask the user which images of a file, given by their names, become layers.

    Returns
    -------
    list[int] or None
        Their numbers from 0, none where the user leaves; None where there is no window to ask in.
    """
    window = next((one for one in QApplication.topLevelWidgets() if one.isVisible()), None)
    if window is None:
        return None
    dialog = ImagesDialog(file, names, window)
    is_wanted = dialog.exec() == QDialog.DialogCode.Accepted
    chosen = dialog.chosen if is_wanted else []
    dialog.deleteLater()
    return chosen


class ImagesDialog(QDialog):
    """Lists the images of a file; the first ones are chosen to begin with."""

    def __init__(self, file: str, names: Sequence[str], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open images")
        text = wrapped_label(
            f"{file} holds {len(names)} images. Each one that is opened becomes a layer or several."
        )
        self._list = QListWidget()
        self._list.setSelectionMode(QListWidget.SelectionMode.ExtendedSelection)
        self._list.setToolTip("Ctrl and Shift choose several, Ctrl+A all.")
        self._list.addItems(list(names))
        for place in range(min(MOST_IMAGES, len(names))):
            item = self._list.item(place)
            if item is not None:
                item.setSelected(True)
        self._buttons = QDialogButtonBox(
            QDialogButtonBox.StandardButton.Open | QDialogButtonBox.StandardButton.Cancel
        )
        self._buttons.accepted.connect(self.accept)
        self._buttons.rejected.connect(self.reject)
        self._list.itemSelectionChanged.connect(self._on_chosen)
        fill(QVBoxLayout(self), text, self._list, self._buttons)

    @property
    def chosen(self) -> list[int]:
        """Numbers of the chosen images, from 0."""
        return sorted(index.row() for index in self._list.selectedIndexes())

    def _on_chosen(self) -> None:
        open_button = self._buttons.button(QDialogButtonBox.StandardButton.Open)
        if open_button is not None:
            open_button.setEnabled(bool(self.chosen))


def layers_of(image: Image) -> list[LayerData]:
    """Return an image as a layer, or as one for each of its channels where these are no colours."""
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


def _sliceable(data: Any) -> Any:
    """Return an array that napari slices without loading it."""
    return data if isinstance(data, np.ndarray) else lazy(data)


def _scaled(levels: list[Any], arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what napari shows: one array, or those of a pyramid."""
    if len(levels) == 1:
        return levels[0], arguments
    return levels, {**arguments, "multiscale": True}


def _labels_inside(path: str) -> list[LayerData]:
    inside = Path(path) / "labels"
    if address_of(path) or not is_zarr(inside):
        return []
    layers: list[LayerData] = []
    try:
        for image in read_images(inside):
            if np.dtype(image.data.dtype).kind not in "iu":
                continue
            arguments = {
                "name": f"{Path(path).stem} {image.name}",
                **axes_arguments(image.label_axes, image.pixel_size_um),
            }
            parts, at = [_sliceable(image.data)], image.axes.find(CHANNEL)
            if at >= 0:
                parts = [parts[0][(slice(None),) * at + (number,)] for number in range(image.shape[at])]
            layers += [(part, arguments, "labels") for part in parts]
    except ReadError as error:
        show_warning(str(error))
    return layers


def sample_layers(name: str) -> list[LayerData]:
    """Return a sample as one image layer with its pixel size.

    ReadError where there is no such sample, or the package was installed without its samples.
    """
    if name not in FILES:
        raise ReadError(f"The samples are {', '.join(FILES)}; got {name!r}. Choose one of them.")
    path = FOLDER / FILES[name]
    if not path.is_file():
        raise ReadError(f"Expected a sample at {path}; there is none. Install the package again.")
    return layers_of(replace(read_image(path), name=name))


nuclei_2d = partial(sample_layers, "nuclei_2d")


tissue_rgb = partial(sample_layers, "tissue_rgb")


phase_2d = partial(sample_layers, "phase_2d")


nuclei_3d = partial(sample_layers, "nuclei_3d")


nuclei_time = partial(sample_layers, "nuclei_time")
