"""Does the fit of a model that was taught tell how well it counts, images it was not taught included?

    python -m benchmarks.accuracy.taught_fit --data FOLDER --output FOLDER [--start flow]

Teaches five images of each of three looks, made of images of BBBC039 and of phase contrast: cells that are
told by their texture alone, edges in place of brightness, and strong blur under noise. Each model then counts
other images of all three looks and of phase contrast as it is, and what its fit lets expect is compared with
the F1 at an IoU of 0.5: Spearman's correlation, the area under the curve with which an F1 below 0.5 is told
from the rest, the mean error, and how often 0.7 and more was expected of such an image. Models that are in
the output folder are not taught again.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.io import imsave
from tools.command_line import command_line

from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Item, read_dataset
from cellwright.inference.pipeline import count_cells
from cellwright.models import store
from cellwright.ops.labels import relabel
from cellwright.ops.matching import match_labels, ranking_quality
from cellwright.training.finetune.finetune import finetune
from cellwright.training.settings import PRESETS
from cellwright.training.trainer import Data

N_STEPS = 420
N_IMAGES, N_TAUGHT = 17, 5
SEED = 3
HATCH_PX = 7.0
TRUSTED = 0.7  # expected F1 from which on nobody is warned

Plane = NDArray[np.float64]
Look = Callable[[Plane, NDArray[np.int32], np.random.Generator], Plane]


def hatched(grey: Plane, labels: NDArray[np.int32], rng: np.random.Generator) -> Plane:
    """Return cells of stripes, each in its own direction, as bright on average as what is around them."""
    y, x = np.indices(labels.shape)
    angle = rng.uniform(0, np.pi, labels.max() + 1)[labels]
    stripes = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / HATCH_PX)
    ground = ndimage.gaussian_filter(rng.normal(size=labels.shape), 1.2)
    return 0.45 + 0.06 * ground / ground.std() + np.where(labels > 0, 0.22 * stripes, 0)


def edges(grey: Plane, labels: NDArray[np.int32], rng: np.random.Generator) -> Plane:
    """Return dark edges on grey."""
    slope = ndimage.gaussian_gradient_magnitude(grey, 2.0)
    return 0.7 - 0.5 * slope / np.percentile(slope, 99.5) + 0.06 * rng.normal(size=grey.shape)


def blurred(grey: Plane, labels: NDArray[np.int32], rng: np.random.Generator) -> Plane:
    """Return the image far out of focus, under noise."""
    return 0.35 + 0.3 * ndimage.gaussian_filter(grey, 5.0) + 0.05 * rng.normal(size=grey.shape)


def as_it_is(grey: Plane, labels: NDArray[np.int32], rng: np.random.Generator) -> Plane:
    """Return the image."""
    return grey


LOOKS: dict[str, tuple[Look, str, int]] = {  # what is done to the middle of which images, pixels a side
    "hatched": (hatched, "bbbc039", 384),
    "edges": (edges, "bbbc039", 384),
    "blurred": (blurred, "usiigaci_phase", 640),
    "phase contrast": (as_it_is, "usiigaci_phase", 640),
}


def main() -> None:
    """Teach, count and print a line for each model and look, then one for each model and all."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", default="flow", help="name or folder")
    options = parser.parse_args()
    for look in LOOKS:
        draw(look, options.data, options.output / "images" / look)
    counted: dict[str, list[tuple[float, float]]] = {}
    for model in (options.start, *(look for look in LOOKS if LOOKS[look][0] is not as_it_is)):
        folder = store.find(options.start)
        if model != options.start:
            folder = options.output / model
            teach(options.output / "images" / model / "taught", options.start, folder)
        counted[model] = expected_and_found(folder, options.output / "images", model)
    before = counted.pop(options.start)
    show("before", before)
    show("all that were taught", [pair for pairs in counted.values() for pair in pairs])


def draw(look: str, data: Path, folder: Path) -> None:
    """Write the images of a look, five to be taught and the others, each beside its mask."""
    change, dataset, side = LOOKS[look]
    items = read_dataset(data / dataset).items
    rng = np.random.default_rng(SEED)
    for number, item in enumerate(items[:: len(items) // N_IMAGES][:N_IMAGES]):
        grey, labels = middle(item, side)
        part = "taught" if number % 3 == 1 and number // 3 < N_TAUGHT else "others"
        (folder / part).mkdir(parents=True, exist_ok=True)
        pixels = (255 * change(grey, labels, rng).clip(0, 1)).astype(np.uint8)
        imsave(folder / part / f"{item.name}.tif", pixels, check_contrast=False)
        imsave(folder / part / f"{item.name}_mask.tif", labels.astype(np.uint16), check_contrast=False)


def middle(item: Item, side: int) -> tuple[Plane, NDArray[np.int32]]:
    """Return the middle of an image in grey from 0 to 1, and of its labels."""
    image, truth = item.annotated()
    grey = np.asarray(image.data, np.float64)
    if grey.ndim > 2:
        grey = grey.mean(axis=image.axes.index("C"))
    low, high = np.percentile(grey, (1, 99.8))
    part = tuple(slice(max((n - side) // 2, 0), max((n - side) // 2, 0) + side) for n in grey.shape)
    return ((grey - low) / (high - low)).clip(0, 1)[part], relabel(np.asarray(truth)[part])


def teach(images: Path, start: str, folder: Path) -> None:
    """Teach a model the images of a folder, unless that was done."""
    if not (folder / "card.md").exists() or (folder / "training.pt").exists():
        settings = replace(PRESETS["quick"], steps=N_STEPS)
        run(finetune(Data(read_dataset(images)), start, folder, settings, device="cpu"))


def expected_and_found(folder: Path, images: Path, title: str) -> list[tuple[float, float]]:
    """Return the F1 to expect of each image that was not taught, and the F1 it has."""
    model, pairs = store.load(folder), []
    for look in LOOKS:
        found = []
        for item in read_dataset(images / look / "others").items:
            image, truth = item.annotated()
            result = run(count_cells(image, model))
            if result.fit is not None:
                assert result.cells is not None
                found.append((result.fit, match_labels(relabel(result.cells.labels), np.asarray(truth)).f1))
        told = f"{title} on {look}: {len(found)} images with a fit"
        if found:
            fit, f1 = np.mean(found, axis=0)
            told += f", F1 {f1:.3f}, expected {fit:.3f}"
        print(told, flush=True)
        pairs += found
    return pairs


def show(title: str, pairs: list[tuple[float, float]]) -> None:
    """Print how well what was expected tells what was found."""
    fit, f1 = np.array(pairs).T
    is_bad = f1 < 0.5
    correlation, area = spearmanr(fit, f1).statistic, ranking_quality(-fit, is_bad)
    n_trusted = int((is_bad & (fit >= TRUSTED)).sum())
    print(
        f"{title}, {len(pairs)} images: Spearman {correlation:.2f}, area under the curve {area:.2f}, mean "
        f"error {np.abs(fit - f1).mean():.2f}; {n_trusted} of {is_bad.sum()} below 0.5 were trusted",
        flush=True,
    )


if __name__ == "__main__":
    main()
