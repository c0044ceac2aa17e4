"""The images that the default model learns from, kind by kind, and those that are kept apart.

Nothing of a dataset's own ``val`` is ever learned from, nor any image of bbbc039. Where a dataset has no
``val``, whole images, or the lowest third of each image, are kept apart here. Of yeast, one colony in one
chamber, nothing is: cells fill the upper half of the images, and the lower one tells of chambers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from cellwright.core.data import Annotation
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, Item, read_dataset
from cellwright.models.protocol import CellModel
from cellwright.training.data.samples import Sample, Scale, diameter_of, load_samples, make_sample
from tools.release.blood_masks import from_boxes, from_points, is_ground
from tools.release.train_shipped import EMBRYOS, held_out_names

UPPER = 0.7  # of the height of an image is learned from where images are too few to keep whole ones apart
CLEAR_PX = 6  # background of a blood smear is this far from any mask
OTHER_EMBRYOS = tuple(f"train_Emb{number:02d}_t{time}" for number in range(8, 12) for time in (201, 451))
CHOOSING = {  # images of training splits that choose thresholds and epochs
    "usiigaci_phase": ("set30", "set31"),
    "polyp_nuclei": ("polyp12_12699_39273_12",),
    "bccd": ("BloodImage_00001", "BloodImage_00003", "BloodImage_00004"),
}
REPORTED = {"usiigaci_phase": ("set32", "set33", "set34", "set35", "set36", "set37")}
HALVED = ("bacteria_phase", "qpi_cells", "c2c12_timelapse")


@dataclass(frozen=True)
class Kind:
    """Images of one kind and the share of patches that is cut from them.

    ``scales`` are the factors by which cells may lie beyond the model's range before an image is brought to
    it; an image taken at two of them is seen both as it is and as it is counted.
    """

    dataset: str
    share: float
    group: str | None = None
    names: tuple[str, ...] | None = None
    scales: tuple[float, ...] = (2.0,)


KINDS = (
    Kind("dsb2018_train", 0.21, group="fluo"),
    Kind("dsb2018_train", 0.13, group="histology"),
    Kind("dsb2018_train", 0.04, group="brightfield"),
    Kind("polyp_nuclei", 0.11, scales=(2.0, 1.0)),
    Kind("usiigaci_phase", 0.13, scales=(4.0, 1.0)),
    Kind("bacteria_phase", 0.09, scales=(4.0, 1.0)),
    Kind("yeast_phase", 0.04, scales=(4.0, 1.0)),
    Kind("qpi_cells", 0.05, scales=(4.0, 1.0)),
    Kind("c2c12_timelapse", 0.04, scales=(4.0, 1.0)),
    Kind("bbbc050", 0.05, names=EMBRYOS),
    Kind("stardist_examples", 0.02, names=("nuclei2d",)),
    Kind("hgsc_he_silver", 0.03),
    Kind("bccd", 0.05, scales=(4.0, 1.0, 1.0, 1.0)),
    Kind("blood_boxes", 0.02, scales=(4.0, 1.0)),
    Kind("chula_rbc12", 0.02, scales=(4.0, 1.0)),
)


def learned(kind: Kind, folder: Path) -> Dataset:
    """Return the images of a kind that weights may be fitted to."""
    dataset = read_dataset(folder / kind.dataset)
    apart = {item.name for item in chosen_by(kind.dataset, folder).items}
    apart |= set(REPORTED.get(kind.dataset, ()))
    items = [
        item
        for item in dataset.select("train", kind.group, kind.names).items
        if kind.dataset in HALVED or item.name not in apart
    ]
    if kind.dataset in HALVED:
        items = [_part(item, 0.0, UPPER) for item in items]
    return replace(dataset, items=tuple(items))


def chosen_by(name: str, folder: Path) -> Dataset:
    """Return the images of a dataset that choose epochs and thresholds; none of them is learned from."""
    dataset = read_dataset(folder / name)
    if name == "dsb2018_train":
        return dataset.select(names=held_out_names(dataset))
    return dataset.select(names=CHOOSING.get(name, ()))


def reported(name: str, folder: Path) -> Dataset:
    """Return the images of a dataset whose scores are told."""
    dataset = read_dataset(folder / name)
    if name == "bbbc039":
        return dataset
    if name == "bbbc050":
        return dataset.select(names=OTHER_EMBRYOS)
    if name in REPORTED:
        return dataset.select(names=REPORTED[name])
    if name in HALVED:
        items = [_part(item, UPPER, 1.0) for item in dataset.select("train").items]
        return replace(dataset, items=(*items, *dataset.select("val").items))
    return dataset.select("val")


def thinned(dataset: Dataset, most: int) -> Dataset:
    """Return at most so many images of a dataset, evenly spread."""
    return replace(dataset, items=dataset.items[:: max(1, -(-len(dataset) // most))])


def _part(item: Item, top: float, bottom: float) -> Item:
    """Return an item of which nothing is known above and below these shares of its height."""
    height, width = (n for n, axis in zip(item.image().shape, item.image().axes, strict=True) if axis in "YX")
    return replace(item, regions=(((round(top * height), 0), (round(bottom * height), width)),))


def samples_of(kind: Kind, folder: Path, model: CellModel) -> list[Sample]:
    """Return the images of a kind in memory, with the targets of a model."""
    dataset = learned(kind, folder)
    if dataset.items[0].has_masks:
        return [
            sample
            for scale in kind.scales
            for sample in run(load_samples(dataset, model, farthest=scale))
            if len(sample.points)
        ]
    return list(_blood(dataset, kind, model))


def _blood(dataset: Dataset, kind: Kind, model: CellModel) -> Iterator[Sample]:
    """Yield smears with rough outlines, each at one scale, and their background."""
    for index, item in enumerate(dataset.items):
        image, truth = item.annotated()
        assert isinstance(truth, Annotation)
        pixels = np.moveaxis(np.asarray(image.data), -1, 0)[:3]
        if len(truth.points) == 0:
            continue
        masks = from_boxes(truth) if truth.boxes is not None else from_points(truth, pixels)
        if len(masks.points) == 0:
            continue
        scale = Scale(diameter_of([masks]), kind.scales[index % len(kind.scales)])
        sample = make_sample(item.name, item.group, pixels, masks, model, scale=scale)
        yield _with_background(sample, pixels, model)


def _with_background(sample: Sample, pixels: np.ndarray, model: CellModel) -> Sample:
    """Return a sample in which background far from all masks is known to be that."""
    clear = is_ground(pixels)
    if sample.zoom != 1:
        clear = ndimage.zoom(clear, np.array(sample.labels.shape) / clear.shape, order=0)
    far = ndimage.distance_transform_edt(sample.labels.numpy() == 0) > CLEAR_PX
    known = clear & far
    targets = sample.targets.clone()
    start = 0
    for name, n in model.spec.map_channels.items():
        if name in ("flow", "probability", "cell_flow", "foreground", "inside", "depth", "heatmap"):
            targets[start : start + n, known] = 0
        start += n
    return replace(sample, targets=targets)
