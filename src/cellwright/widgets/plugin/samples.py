"""The sample images of the package as napari layers (File > Open Sample)."""

from typing import Any

from cellwright.files.images import read_image
from cellwright.files.samples import sample_path

LayerData = tuple[Any, dict[str, Any], str]  # napari: array, arguments, type of layer


def nuclei_2d() -> list[LayerData]:
    """Return fluorescent nuclei, some of them touching."""
    return sample_layers("nuclei_2d")


def tissue_rgb() -> list[LayerData]:
    """Return a stained tissue section in colour."""
    return sample_layers("tissue_rgb")


def phase_2d() -> list[LayerData]:
    """Return living cells in phase contrast."""
    return sample_layers("phase_2d")


def nuclei_3d() -> list[LayerData]:
    """Return a volume of fluorescent nuclei."""
    return sample_layers("nuclei_3d")


def nuclei_time() -> list[LayerData]:
    """Return a film of moving nuclei."""
    return sample_layers("nuclei_time")


def sample_layers(name: str) -> list[LayerData]:
    """Return a sample as one image layer with its pixel size.

    Raises
    ------
    ReadError
        There is no such sample.
    """
    image = read_image(sample_path(name))
    letters = image.axes.removesuffix("C")
    arguments: dict[str, Any] = {"name": name, "rgb": image.axes.endswith("C")}
    arguments["axis_labels"] = tuple(letters.lower())
    if image.pixel_size_um:
        sizes = image.known_sizes_um
        arguments["scale"] = tuple(sizes.get(axis, 1.0) for axis in letters)
        arguments["units"] = tuple("micrometer" if axis in sizes else "pixel" for axis in letters)
    return [(image.data, arguments, "image")]
