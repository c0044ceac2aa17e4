"""The sample images of the package as napari layers (File > Open Sample)."""

from dataclasses import replace

from cellwright.files.images import read_image
from cellwright.files.samples import sample_path
from cellwright.widgets.plugin.image_reader import LayerData, layers_of


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
    return layers_of(replace(read_image(sample_path(name)), name=name))
