"""The sample images of the package as napari layers (File > Open Sample)."""

from dataclasses import replace
from functools import partial
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
