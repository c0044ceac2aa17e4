"""What a dataset holds and what looks wrong with it, before anything is trained. Imports no torch."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import find_boundaries

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import few, n_of
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.files.formats.image_annotation import NO_CLASS
from cellwright.models import registry
from cellwright.models.spec import ModelSpec
from cellwright.ops.geometry.axes import WHOLE, Frames, frames
from cellwright.ops.labels import each_frame, equivalent_diameters, keep_labels, label_properties
from cellwright.training.data.split import is_inside

TELLS = {"masks": 2, "boxes": 1, "points": 0, "counts": -1}  # the more, the more an annotation tells
FAR = 2.0  # times beyond the diameters a model was made for
PIECES = 4  # connected pieces of the only label of an image that make it a mask
FEW_CELLS = 12
MOST_TOLD = 3  # kinds of sentences on how cells were read
SEVERAL_CHANNELS = (
    "Of {} with several channels ({}) the first is learned from; others teach nothing. Save the channel to "
    "learn from alone."
)
CONSTANT = (
    "{} of one value everywhere ({}), in which no cell can be seen. Export them again, or take them out."
)
TURNED = (
    "The masks of {} lie on the edges in the image if they are {}: {}. Turn them, or check that these are "
    "the images they were drawn in."
)
TURNS: dict[str, Callable[[NDArray[np.bool_]], NDArray[np.bool_]]] = {
    "flipped upside down": np.flipud,
    "mirrored left to right": np.fliplr,
    "turned by 180°": lambda mask: mask[::-1, ::-1],
    "turned by 90° to the left": np.rot90,
    "turned by 90° to the right": lambda mask: np.rot90(mask, -1),
    "transposed (rows as columns)": np.transpose,
    "transposed and turned by 180°": lambda mask: mask[::-1, ::-1].T,
}
CLEARLY = 1.2  # times as strong as elsewhere, or as otherwise; right masks had 0.84 at most when turned
FEWEST_TO_TELL = 4  # cells in a plane
EDGE_PX = 1.5
CLASSES = (
    "Not learned, as a model learns where cells are: {} ({}). `cellwright train-classifier` teaches classes, "
    "and so does 'Classes of cells' in the panel Train a model."
)


@dataclass(frozen=True, slots=True)
class Warning:  # noqa: A001 - nothing here raises or filters the built-in
    """Something that looks wrong; ``code`` is for programs, ``text`` for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What a dataset holds."""

    n_images: tuple[int, int]  # of the split that teaches, and of the one that validates
    n_cells: tuple[int, int]  # likewise
    classes: dict[str, int]  # how many cells of each class
    sizes: tuple[float, ...]  # median, tenth and ninetieth percentile of the diameters in px; or empty
    n_regions: int  # boxes in which alone the annotation is complete
    warnings: tuple[Warning, ...]  # what looks wrong
    notice: str = ""  # how images were found and divided where the folder itself does not say
    n_checked: Mapping[str, int] = field(default_factory=dict)  # cells of each class to check with, if known

    @property
    def is_held_back(self) -> bool:
        """Whether the cells to check with are of the images that teach."""
        return not self.n_images[1] and self.n_cells[1] > 0

    def summary(self) -> str:
        """Return the findings as one sentence, and the notice."""
        train, validation = (
            f"{n_of(n_images, 'image')} with {n_of(n_cells, 'cell')}"
            for n_images, n_cells in zip(self.n_images, self.n_cells, strict=True)
        )
        parts = [f"{train} to learn from"]
        if self.n_images[1]:
            parts.append(f"{validation} to check with")
        elif self.is_held_back:
            parts.append(f"{n_of(self.n_cells[1], 'cell')} of the same held back to check with")
        if self.sizes:
            parts.append("diameter {:.0f} px ({:.0f} to {:.0f})".format(*self.sizes))
        if self.n_regions:
            parts.append(n_of(self.n_regions, "region"))
        for name, n in self.classes.items():
            parts.append(f"{name}: {n:,}")
            if self.n_checked.get(name):
                parts[-1] += f" and {self.n_checked[name]:,} to check with"
        return " ".join(["; ".join(parts) + ".", self.notice]).rstrip()


@dataclass(slots=True)
class _Seen:
    names: list[str] = field(default_factory=list)
    pixels: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    diameters: list[NDArray[np.float32]] = field(default_factory=list)
    n_cells: int = 0
    n_regions: int = 0
    unfit: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    several_channels: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    turned: dict[str, list[str]] = field(default_factory=dict)  # names of images, by what undoes it
    told: dict[str, list[str]] = field(default_factory=dict)  # how cells were read, by kinds of sentences


def inspect(dataset: Dataset, spec: ModelSpec) -> Task[Findings]:
    """Return what a dataset holds and what looks wrong when a model of this spec is to learn from it.

    It yields before each image is read, so that the look at a large folder can be watched and cancelled.
    """
    train, validation = _Seen(), _Seen()
    items = [(train, item) for item in dataset.select("train").items]
    items += [(validation, item) for item in dataset.select("val").items]
    for done, (seen, item) in enumerate(items):
        yield Progress("images", done, len(items))
        _read(seen, item)
    return _findings(train, validation, dataset, spec)


def _findings(train: _Seen, validation: _Seen, dataset: Dataset, spec: ModelSpec) -> Findings:
    diameters = np.concatenate([np.zeros(0, np.float32), *train.diameters])
    sizes: tuple[float, ...] = ()
    if len(diameters):
        sizes = tuple(np.percentile(diameters, (50, 10, 90)).tolist())
    warnings = [
        *_about_labels(train, validation, dataset),
        *_about_validation(train, validation),
        *_about_model(train, sizes, spec),
    ]
    several = train.several_channels + validation.several_channels
    constant = train.constant + validation.constant
    classes = sorted({name for item in dataset.items for name in item.classes} - {NO_CLASS})
    for code, names, thing, text in (
        ("channels", several, "image", SEVERAL_CHANNELS),
        ("constant", constant, "image", CONSTANT),
        ("classes", classes, "class", CLASSES),
    ):
        if names:
            warnings.append(Warning(code, text.format(n_of(len(names), thing), few(names, 3))))
    for turn in {**train.turned, **validation.turned}:
        names = train.turned.get(turn, []) + validation.turned.get(turn, [])
        warnings.append(Warning("turned", TURNED.format(n_of(len(names), "image"), turn, few(names, 3))))
    return Findings(
        n_images=(len(train.names), len(validation.names)),
        n_cells=(train.n_cells, validation.n_cells),
        classes=dict(sorted(train.classes.items())),
        sizes=sizes,
        n_regions=train.n_regions + validation.n_regions,
        warnings=tuple(warnings),
        notice=dataset.notice,
    )


def _read(seen: _Seen, item: Item) -> None:
    try:
        image, truth, notices = item.explained()
        planes = frames(image)
    except CellwrightError as error:
        seen.unfit.append(f"{item.name}: {error}")
        return
    for text in notices:
        kind = re.sub(r"\d[\d.,]*", "#", text.replace(item.truth_path.name, "").replace(repr(item.name), ""))
        seen.told.setdefault(kind, []).append(text)
    seen.names.append(item.name)
    seen.pixels.append(checksum_of(image))
    seen.n_regions += len(item.regions)
    if planes.notice:
        seen.several_channels.append(item.name)
    if np.min(image.data) == np.max(image.data):
        seen.constant.append(item.name)
    n, kind = _add_cells(seen, item, truth, planes)
    seen.n_cells += n
    seen.kinds[kind] += 1
    if n == 0:
        seen.empty.append(item.name)
    if isinstance(truth, Annotation) and truth.classes is not None:
        seen.classes.update(dict.fromkeys(item.classes, 0))
        seen.classes.update(item.classes[number] for number in truth.classes if number >= 0)


def _seems_turned(planes: Frames, labels: Labels) -> str:
    """Return how masks have to be turned to lie on edges of the image; empty where they do as they are.

    What is compared is the mean strength of edges under the outlines, in the plane with most cell pixels.
    """
    flat = labels.reshape(-1, *labels.shape[-2:])
    fullest = int(np.argmax(np.count_nonzero(flat, axis=(1, 2))))
    if len(np.unique(flat[fullest])) <= FEWEST_TO_TELL:
        return ""
    outlines = find_boundaries(flat[fullest], mode="inner")
    plane = np.nan_to_num(planes.read(fullest, WHOLE).astype(np.float32).mean(axis=0))
    edges = ndimage.gaussian_gradient_magnitude(plane, EDGE_PX)
    edges = np.minimum(edges, np.percentile(edges, 99))
    turned = {how: turn(outlines) for how, turn in TURNS.items()}
    strengths = {how: edges[one].mean() for how, one in turned.items() if one.shape == edges.shape}
    best = max(strengths, key=strengths.__getitem__)
    if strengths[best] > CLEARLY * max(edges.mean(), edges[outlines].mean()):
        return best
    return ""


def _add_cells(seen: _Seen, item: Item, truth: Annotation | Labels, planes: Frames) -> tuple[int, str]:
    """Note the diameters of the cells of an image; return how many there are, and what they are told by."""
    labels = truth.labels if isinstance(truth, Annotation) else truth
    if labels is not None:
        turn = _seems_turned(planes, labels)
        if turn:
            seen.turned.setdefault(turn, []).append(item.name)
        return _add_labels(seen, item, labels, planes.image.label_axes), "masks"
    assert isinstance(truth, Annotation)
    inside = is_inside(truth.points, item.regions)
    if truth.boxes is None:
        return int(inside.sum()), "points"
    boxes = truth.boxes[inside]
    seen.diameters.append(np.sqrt((boxes[:, 1] - boxes[:, 0]).prod(axis=1)))
    return len(boxes), "boxes"


def _add_labels(seen: _Seen, item: Item, labels: Labels, axes: str) -> int:
    """Note the diameters of the cells and whether they look like a mask; return how many there are.

    The diameters are those in each plane, by which a model brings images to its own.
    """
    areas, points, _ = label_properties(labels)
    inside = (areas > 0) & is_inside(points[:, -2:], item.regions)
    for plane in keep_labels(labels, inside).reshape(-1, *labels.shape[-2:]):
        in_plane = np.bincount(plane.ravel())[1:].astype(np.float32)
        seen.diameters.append(equivalent_diameters(in_plane[in_plane > 0]))
    if _is_mask(each_frame(labels, axes)):
        seen.masks.append(item.name)
    return int(inside.sum())


def _is_mask(frames: NDArray[np.integer]) -> bool:
    """Return whether no frame has more than one label, and one has it in several places."""
    filled = [frame for frame in frames if frame.any()]
    if any(frame.max() != frame[frame > 0].min() for frame in filled):
        return False
    return any(ndimage.label(frame)[1] >= PIECES for frame in filled)


def _about_labels(train: _Seen, validation: _Seen, dataset: Dataset) -> Iterator[Warning]:
    for text in (*train.unfit, *validation.unfit):
        yield Warning("unfit", f"The annotation cannot be used; fix it or remove it: {text}")
    if not train.n_cells:
        yield Warning(
            "no-labels", f"No cell is annotated in the training images of {dataset.folder}. Annotate some."
        )
        return
    yield from _about_reading(train, validation)
    for name in (*train.masks, *validation.masks):
        yield Warning(
            "one-label",
            f"All cells of {name!r} have the same label, as in a mask. Each cell needs a number of its own.",
        )
    if train.empty:
        yield Warning(
            "empty",
            f"{n_of(len(train.empty), 'training image')} without a cell ({few(train.empty, 3)}): "
            "all of it is treated as background.",
        )


def _about_reading(train: _Seen, validation: _Seen) -> Iterator[Warning]:
    """Yield how cells were read, once for all images of which the same is told."""
    sentences = [
        train.told.get(kind, []) + validation.told.get(kind, []) for kind in {**train.told, **validation.told}
    ]
    for first, *others in sentences[:MOST_TOLD]:
        text = first
        if others:
            text += f" The same holds for {n_of(len(others), 'more image')}."
        yield Warning("read", text)
    n_more = sum(map(len, sentences[MOST_TOLD:]))
    if n_more:
        yield Warning("read", f"The cells of {n_of(n_more, 'more image')} were read with other notices.")


def _about_validation(train: _Seen, validation: _Seen) -> Iterator[Warning]:
    if len(train.names) == 1:
        yield Warning(
            "one-image",
            "There is one image to learn from. What is learned may not hold for others; annotate a second.",
        )
    elif 0 < train.n_cells < FEW_CELLS:
        yield Warning("few-cells", f"To learn from: only {n_of(train.n_cells, 'cell')}. Annotate more.")
    if not validation.names and len(train.names) != 1:  # of one image, one warning is enough
        yield Warning(
            "no-validation",
            "There are no images to check the model with. Part of what is annotated is set aside for it.",
        )
    elif validation.names and validation.n_cells == 0:
        yield Warning(
            "empty-validation",
            "No cell is annotated in the images to check the model with, so no score can improve. "
            "Annotate some.",
        )
    yield from about_same_images(set(train.pixels), zip(validation.names, validation.pixels, strict=True))


def about_same_images(known: Collection[str], to_check: Iterable[tuple[str, str]]) -> Iterator[Warning]:
    """Yield which images to check with, by name and checksum of their pixels, are learned from, too."""
    same = [name for name, pixels in to_check if pixels in known]
    if same:
        verb = "is" if len(same) == 1 else "are"
        yield Warning(
            "same-images",
            f"{n_of(len(same), 'image')} to check with {verb} among those to learn from "
            f"({few(same, 3)}): the scores will be too good. Check with others.",
        )


def checksum_of(image: Image) -> str:
    """Return a text that other pixels do not have."""
    return hashlib.sha256(np.ascontiguousarray(image.data).tobytes()).hexdigest()


def _about_model(train: _Seen, sizes: tuple[float, ...], spec: ModelSpec) -> Iterator[Warning]:
    low, high = spec.diameter_range_px
    if sizes and not low / FAR <= sizes[0] <= high * FAR:
        how = "larger" if sizes[0] > high else "smaller"
        yield Warning(
            "sizes",
            f"Half of the cells are {how} than {sizes[0]:.0f} px; the model is made for {low:.0f} to "
            f"{high:.0f} px. Images will be rescaled; state the diameter when you count.",
        )
    needed = min(registry.get(spec.family).learns_from, key=TELLS.__getitem__)
    lacking = [kind for kind in train.kinds if TELLS[kind] < TELLS[needed]]
    if lacking:
        n, verb, others = train.kinds[lacking[0]], "have", "centroid, query or density"
        if n == 1:
            verb = "has"
        if "points" in lacking:
            others = "density"
        yield Warning(
            "annotation",
            f"{spec.family} learns from {needed}; {n_of(n, 'image')} {verb} {lacking[0]}. "
            f"Choose {others}, or annotate more.",
        )
