"""Draw the sample images of the package again, and the labels that are the truth about them.

python -m tools.release.draw_samples --output FOLDER
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Picture

import cellwright
from cellwright.core.data import Image, Labels
from cellwright.files.atomic import atomic_write
from cellwright.files.images import write_labels
from cellwright.ops.simulation.shapes import draw_outlines, stamp, with_daughters
from cellwright.ops.simulation.simulate import fluorescence, n_covering, simulate
from cellwright.ops.simulation.style import Style
from tools.command_line import command_line

FOLDER = Path(cellwright.__file__).parent / "sample_data"

NUCLEI_2D = Style(
    diameter_px=27, coverage=0.28, clustering=0.55, spacing=0.8, patchiness=0.6, elongation=1.35,
    roughness=0.03, notches=0.15, dividing=0.06, brightness_spread=0.35, texture=0.22, texture_px=3.5,
    holes=1.5, rim=0.1, dome=0.45, haze=0.12, background=0.06, debris=0.15, ghosts=0.05, unevenness=0.3,
    photons=500, bits=16, gain=0.03, offset=0.002, read_noise=0.015,
)  # fmt: skip
TISSUE = Style(
    diameter_px=22, coverage=0.24, clustering=0.5, spacing=0.82, patchiness=0.8, overlap=True,
    elongation=1.6, alignment=0.6, roughness=0.04, dividing=0.02, brightness_spread=0.3, texture=0.35,
    texture_px=2.2, holes=0.6, rim=0.5, dome=0.2, body=0.1, haze=0.08, background=0.35, unevenness=0.1,
    blur_px=0.9, photons=6000, read_noise=0.004, variant="stroma",
)  # fmt: skip
PHASE = Style(
    diameter_px=46, coverage=0.3, clustering=0.3, spacing=0.95, size_spread=0.2, elongation=1.9,
    roughness=0.09, notches=0.2, spikes=2.0, dividing=0.08, brightness_spread=0.2, texture=0.5,
    texture_px=3, holes=3, spots=3, rim=0.7, haze=0.9, background=0.45, debris=0.3, unevenness=0.3,
    blur_px=0.9, photons=4000, read_noise=0.004, gain=0.8, variant="spread",
)  # fmt: skip
NUCLEI_3D = Style(
    diameter_px=26, coverage=0.22, clustering=0.6, spacing=0.85, patchiness=0.5, elongation=1.3,
    notches=0.1, roughness=0.03, dividing=0.03, brightness_spread=0.3, texture=0.25, texture_px=4,
    holes=1, dome=0.4, haze=0.15, background=0.05, debris=0.05, ghosts=0.02, blur_px=1.1, z_step=3,
    z_blur=0.9, photons=250, gain=0.35,
)  # fmt: skip
NUCLEI_TIME = Style(
    diameter_px=22, coverage=0.22, clustering=0.4, spacing=0.9, patchiness=0.3, elongation=1.3,
    roughness=0.03, dividing=0.03, brightness_spread=0.35, texture=0.12, texture_px=5, holes=0.5,
    dome=0.5, haze=0.1, debris=0.05, blur_px=1.2, photons=300, gain=0.3,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SampleImage:
    """A sample image that comes with the package."""

    file: str  # its name in the folder of samples
    title: str  # what it shows, for menus
    axes: str
    pixel_size_um: tuple[float, ...]  # of the spatial axes
    draw: Callable[[], tuple[NDArray[Any], Labels]]  # the image and its labels, the same each time


def draw_samples(folder: Path | str = FOLDER) -> tuple[Path, ...]:
    """Draw all sample images and their labels again into ``folder`` and return the paths.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    paths = []
    for name, sample in SAMPLES.items():
        pixels, labels = sample.draw()
        image = Image(pixels, sample.axes, sample.pixel_size_um, name)
        paths += [Path(folder) / sample.file, Path(folder) / f"{name}_labels.tif"]
        _write_image(paths[-2], image)
        write_labels(paths[-1], labels, image)
    return tuple(paths)


def _write_image(path: Path, image: Image) -> None:
    with atomic_write(path) as part:
        if path.suffix == ".png":
            Picture.fromarray(np.asarray(image.data)).save(part, format="PNG", optimize=True)
            return
        metadata: dict[str, Any] = {"axes": image.axes}
        spatial = [axis for axis in image.axes if axis != "T"]
        for axis, size in zip(spatial, image.pixel_size_um, strict=True):
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
        tifffile.imwrite(
            part, image.data, ome=True, photometric="minisblack", compression="zlib", predictor=True,
            compressionargs={"level": 9}, metadata=metadata,
        )  # fmt: skip


def _still(look: str, shape: tuple[int, ...], seed: int, style: Style) -> tuple[NDArray[Any], Labels]:
    drawn = simulate(look, shape, np.random.default_rng(seed), style=style)
    return drawn.image, drawn.labels


def _movie(shape: tuple[int, ...], seed: int, style: Style) -> tuple[NDArray[Any], Labels]:
    """Draw frames (T, Y, X) in which label ``i`` is always the same cell.

    Cells drift on straight, slightly shaky ways; one that leaves the image or is hidden in any frame is in
    none.
    """
    n_frames, *plane = shape
    rng = np.random.default_rng(seed)
    outlines = draw_outlines(n_covering(plane, style), plane, style, rng)
    outlines = with_daughters(outlines, rng, condensed=True)
    step = style.diameter_px * rng.normal(0, 0.08, outlines.centres.shape)
    shaky = style.diameter_px * rng.normal(0, 0.03, (n_frames, *outlines.centres.shape))
    ways = [outlines.centres + step * t + shaky[t] for t in range(n_frames)]
    frames = [replace(outlines, centres=centres) for centres in ways]
    always = reduce(np.intersect1d, [stamp(frame, plane, style).rows for frame in frames])
    scenes = [stamp(frame.take(always), plane, style) for frame in frames]
    # the same chance for each frame: texture, dirt and illumination stand still while the cells move
    seed = int(rng.integers(2**32))
    images = [fluorescence(scene, style, np.random.default_rng(seed)) for scene in scenes]
    return np.stack(images), np.stack([scene.labels for scene in scenes])


SAMPLES: Mapping[str, SampleImage] = {
    "nuclei_2d": SampleImage(
        "nuclei_2d.tif", "Fluorescent nuclei", "YX", (0.5, 0.5),
        lambda: _still("fluorescence", (512, 512), 3, NUCLEI_2D),
    ),
    "tissue_rgb": SampleImage(
        "tissue_rgb.png", "Stained tissue", "YXC", (), lambda: _still("tissue", (384, 384), 4, TISSUE)
    ),
    "phase_2d": SampleImage(
        "phase_2d.tif", "Phase contrast", "YX", (0.65, 0.65), lambda: _still("phase", (512, 512), 3, PHASE)
    ),
    "nuclei_3d": SampleImage(
        "nuclei_3d.tif", "Nuclei in 3D", "ZYX", (1.2, 0.4, 0.4),
        lambda: _still("fluorescence", (24, 192, 192), 2, NUCLEI_3D),
    ),
    "nuclei_time": SampleImage(
        "nuclei_time.tif", "Moving nuclei", "TYX", (0.5, 0.5), lambda: _movie((6, 256, 256), 0, NUCLEI_TIME)
    ),
}  # fmt: skip


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER, help="where to write; the package's samples")
    for path in draw_samples(parser.parse_args().output):
        print(path)


if __name__ == "__main__":
    main()
