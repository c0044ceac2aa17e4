"""The sample images of the package as napari layers (File > Open Sample)."""

from dataclasses import replace
from pathlib import Path

from cellwright.core.errors import ReadError
from cellwright.files.images import read_image
from cellwright.widgets.plugin.image_reader import LayerData, layers_of

FOLDER = Path(__file__).parents[2] / "sample_data"
FILES = {
    "nuclei_2d": "nuclei_2d.tif",
    "tissue_rgb": "tissue_rgb.png",
    "phase_2d": "phase_2d.tif",
    "nuclei_3d": "nuclei_3d.tif",
    "nuclei_time": "nuclei_time.tif",
}


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
        There is no such sample, or the package was installed without its samples.
    """
    if name not in FILES:
        raise ReadError(f"The samples are {', '.join(FILES)}; got {name!r}. Choose one of them.")
    path = FOLDER / FILES[name]
    if not path.is_file():
        raise ReadError(f"Expected a sample at {path}; there is none. Install the package again.")
    return layers_of(replace(read_image(path), name=name))
