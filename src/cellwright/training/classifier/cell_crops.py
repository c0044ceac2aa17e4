"""Cells with a class, read from dataset folders and cut out: what a classifier learns from.

Only cells with a class are looked at; what nobody annotated is not taken for anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellwright.core.data import Annotation, Image
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.cells import read_cells
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.models.classifier.network import PRESETS, preset_spec
from cellwright.models.classifier.spec import ClassifierSpec
from cellwright.ops.crops import crops, extents_of, relative_sizes, typical_extent, with_channels
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import frames
from cellwright.ops.labels import annotate
from cellwright.training.settings import ClassifyTrainingSettings

MARGIN = 1.5  # crops are kept this much larger than the network's, so that they can be turned and shifted
LOW, STEP = -0.5, 2.5 / 255  # they are kept as bytes: scaled intensities run from -0.5 to 2


@dataclass(frozen=True, slots=True)
class ClassDataset:
    """A dataset with classes, and what they are called here.

    A class that is not among the ``names`` keeps its own; cells of one that is called ``""`` are left out.
    """

    dataset: Dataset  # with boxes, points, or masks beside which points or boxes tell the classes
    names: Mapping[str, str] = field(default_factory=dict)  # class of the dataset: of ours


@dataclass(frozen=True, slots=True)
class CellCrops:
    """Cells with a class, ready to be shown to a network; made by :func:`read_cell_crops`."""

    crops: Tensor  # uint8 (N, C, S, S): larger than the network's by ``MARGIN``; see :func:`intensities`
    sizes: Tensor  # float32 (N,): relative to the typical cell of their image, in octaves
    classes: Tensor  # int64 (N,)

    def __len__(self) -> int:
        return len(self.classes)


def intensities(kept: Tensor) -> Tensor:
    """Return kept crops as scaled intensities, float32."""
    return kept.float() * STEP + LOW


def spec_for(
    sources: Sequence[ClassDataset],
    settings: ClassifyTrainingSettings,
    *,
    preset: str = "small",
    title: str = "",
) -> Task[ClassifierSpec]:
    """Return the facts of a classifier for these data: its classes, and what its windows are measured in.

    Where no cell has a box or mask, windows are measured in the typical diameter that the settings state.

    Raises
    ------
    AnnotationError
        There are fewer than two classes, or points come without a diameter.
    CheckpointError
        No such preset.
    """
    names: list[str] = []
    extents = [np.zeros(0, np.float32)]
    items = [(source, item) for source in sources for item in source.dataset.select("train").items]
    for source, item in items:
        yield Progress("read", len(extents) - 1, len(items), item.name)
        _, annotation = classified(item)
        found = _names(annotation, item, source)
        names += [name for name in found if name]
        own = _extents(annotation, np.nan)[np.array([bool(name) for name in found], bool)]
        if annotation.boxes is not None:
            own = own[np.isfinite(own)]  # others are empty by mistake
        extents.append(own)
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise AnnotationError(
            f"A classifier learns from cells of at least two classes in the split 'train'; got {len(names)} "
            f"cells of {list(classes)}. Name the class of each cell when annotating, "
            "and all classes in meta.json; a folder without one (images beside masks or COCO) tells none."
        )
    spec = replace(preset_spec(preset, classes), title=title or PRESETS[preset].title)
    return _with_extents(spec, np.concatenate(extents), settings.diameter_px)


def read_cell_crops(
    sources: Sequence[ClassDataset],
    spec: ClassifierSpec,
    split: str,
    *,
    sighted: bool = True,
    bare: bool = False,
) -> Task[CellCrops]:
    """Return the cells of one split that have one of the classes of the spec.

    Each is shown as it is with its box (``sighted``), and as it is when only its place is known and it is
    taken to be as large as the typical cell (``bare``).
    """
    size = kept_px(spec)
    cut = [np.zeros((0, spec.in_channels, size, size), np.uint8)]
    sizes, classes = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    items = [(source, item) for source in sources for item in source.dataset.select(split).items]
    for source, item in items:
        yield Progress("read", len(cut) - 1, len(items), item.name)
        image, annotation = classified(item)
        found = _names(annotation, item, source)
        rows = np.array([i for i, name in enumerate(found) if name in spec.classes], int)
        if len(rows) == 0:
            continue
        parts = frames(image)  # scaled as inference does
        scaling = intensity.fit(parts.sample(), spec.percentiles)
        scaled = intensity.apply(scaling, parts.read(0, (slice(None), slice(None))))
        extents = _extents(annotation, spec.diameter_px)
        typical = typical_extent(extents)
        for taken in [extents] * sighted + [np.full_like(extents, typical)] * bare:
            sides = spec.sides(taken, typical)[rows] * np.float32(size / spec.crop_px)
            cells = crops(scaled, annotation.points[rows], sides, size, padding=spec.padding)
            levels = np.rint((with_channels(cells, spec.in_channels) - LOW) / STEP)
            cut.append(levels.clip(0, 255).astype(np.uint8))
            sizes.append(relative_sizes(taken, typical)[rows])
            classes.append(np.array([spec.classes.index(found[i]) for i in rows], np.int64))
    return CellCrops(*(torch.from_numpy(np.concatenate(parts)) for parts in (cut, sizes, classes)))


def classified(item: Item) -> tuple[Image, Annotation]:
    """Return an image and its cells with their classes, -1 where a cell has none.

    Masks take the classes of the points, or centres of boxes, that lie inside them; these stand in a file of
    the same name in points/ or boxes/.

    Raises
    ------
    ReadError
        A file is missing or damaged.
    AnnotationError
        The image is a stack.
    """
    image, truth = item.annotated()
    if isinstance(truth, Annotation):
        return image, truth
    if truth.ndim != 2:
        raise AnnotationError(
            f"Classes are learnt from 2D images; {item.name!r} has axes {image.axes!r}. Annotate slices."
        )
    annotation = annotate(truth)
    folder = item.truth_path.parent.parent
    classes = np.full(len(annotation.points), -1, np.int16)
    for path in (folder / kind / f"{item.name}.csv" for kind in ("points", "boxes")):
        if path.exists():
            marks = read_cells(path, annotation.shape, item.classes, is_complete=False)
            places = np.clip(np.rint(marks.points).astype(int), 0, np.array(truth.shape) - 1)
            hit = truth[places[:, 0], places[:, 1]]
            if marks.classes is not None:
                classes[hit[hit > 0] - 1] = marks.classes[hit > 0]
    return image, replace(annotation, classes=classes)


def kept_px(spec: ClassifierSpec) -> int:
    """Return the side of the crops that are kept, in pixels."""
    return 2 * round(spec.crop_px * MARGIN / 2)


def _with_extents(spec: ClassifierSpec, extents: NDArray[np.float32], diameter_px: float) -> ClassifierSpec:
    known = extents[np.isfinite(extents)]
    if spec.window == "pixels":
        return spec
    if len(known) < len(extents) and not diameter_px:
        raise AnnotationError(
            f"{len(extents) - len(known)} of {len(extents)} cells are points, which do not tell how large a "
            "cell is. Set diameter_px to the typical diameter of the cells, or annotate boxes or masks."
        )
    if len(known) == 0:
        return replace(spec, window="typical", diameter_px=diameter_px)
    return replace(spec, diameter_px=diameter_px or round(float(np.median(known)), 1))


def _names(annotation: Annotation, item: Item, source: ClassDataset) -> list[str]:
    """Return what each cell is called here; empty where it has no class or is left out."""
    if annotation.classes is None:
        return [""] * len(annotation.points)
    own = [item.classes[number] if number >= 0 else "" for number in annotation.classes]
    return [source.names.get(name, name) for name in own]


def _extents(annotation: Annotation, default_px: float) -> NDArray[np.float32]:
    n = len(annotation.points)
    boxes = annotation.boxes
    if boxes is None:
        boxes = np.zeros((n, 2, 2), np.float32)
    return extents_of(boxes, np.zeros(n, np.float32), default_px)
