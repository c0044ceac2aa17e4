"""Cells that have a class: how many there are of each in datasets, and what looks wrong. Imports no torch."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cellwright.core.data import Annotation, Image
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import few, n_of
from cellwright.files.dataset.folder import Dataset, Item
from cellwright.ops.labels import annotate
from cellwright.training.data.inspect import (
    Findings,
    Warning,  # noqa: A004 - as there
    about_same_images,
    checksum_of,
)

FEW_OF_CLASS = 12  # cells to learn from
HELD_EVERY = 5  # of the cells of a class, where no image is there to check with
SCARCE = "Few cells to learn from: {}. Annotate more of them."
UNTAUGHT = "Not learned, since only images to check with have such cells, which are left out: {}."
UNCHECKED = "Not checked, since no image to check with has such cells: {}."
HELD_BACK = (
    "To check with, every fifth cell of each class with {} or more is held back from the same images, which "
    "flatters. In Annotate cells, 'val: check while learning' adds images to check with."
)
NOT_HELD_BACK = "Not checked, since of so few cells none is held back: {}."
NO_VALIDATION = (
    "There are no cells with a class to check with (split 'val'), so nothing will tell how good the classes "
    "are. In Annotate cells, 'val: check while learning' adds images to check with."
)


@dataclass(frozen=True, slots=True)
class ClassDataset:
    """A dataset with classes, and what they are called here.

    A class that is not among the ``names`` keeps its own; cells of one that is called ``""`` are left out.
    """

    dataset: Dataset  # with boxes, points, or masks beside which points or boxes tell the classes
    names: Mapping[str, str] = field(default_factory=dict)  # class of the dataset: of ours


def classified(item: Item) -> tuple[Image, Annotation]:
    """Return an image and its cells with their classes, -1 where a cell has none.

    AnnotationError where the image is a stack.
    """
    image, truth = item.annotated()
    if isinstance(truth, Annotation):
        if truth.labels is None or truth.classes is not None:
            return image, truth
        truth = truth.labels  # masks that do not show every cell tell no classes either
    height, width = truth.shape[-2:]
    if truth.size > height * width:
        raise AnnotationError(
            f"Classes are learned from 2D images; {item.name!r} has axes {image.axes!r}. Annotate complete "
            "regions in some of its frames or slices, each of which is an image then."
        )
    truth = truth.reshape(height, width)  # of a single frame or slice of a stack, too
    annotation = annotate(truth)
    return image, replace(annotation, classes=item.classes_of(truth))


def names_of_cells(annotation: Annotation, item: Item, source: ClassDataset) -> list[str]:
    """Return what each cell is called here; empty where it has no class or is left out."""
    if annotation.classes is None:
        return [""] * len(annotation.points)
    own = [item.classes[number] if number >= 0 else "" for number in annotation.classes]
    return [source.names.get(name, name) for name in own]


def learned_classes(n_train: Mapping[str, int]) -> tuple[str, ...]:
    """Return the classes that a classifier learns from so many cells of each.

    AnnotationError where they are fewer than two.
    """
    classes = tuple(sorted(n_train))
    if len(classes) < 2:
        raise AnnotationError(
            f"A classifier learns from cells of at least two classes in the split 'train'; got "
            f"{sum(n_train.values())} cells of {list(classes)}. Name the class of each cell when annotating, "
            "and all classes in meta.json; a folder without one (images beside masks or COCO) tells none."
        )
    return classes


def held_classes(sources: Sequence[ClassDataset], n_train: Mapping[str, int]) -> frozenset[str]:
    """Return the classes of which every fifth training cell is held back to check with.

    Those with enough cells; none where there are images to check with.
    """
    if any(source.dataset.select("val").items for source in sources):
        return frozenset()
    return frozenset(name for name, n in n_train.items() if n >= FEW_OF_CLASS)


def names_in_part(
    names: Sequence[str], split: str, held_back: Collection[str], n_seen: Counter[str]
) -> list[str]:
    """Return names of training cells, empty where a cell is of the other part.

    Of the classes ``held_back`` every fifth cell is of the split ``val``, all others are of ``train``;
    ``n_seen`` counts the cells of each class from one image to the next.
    """
    own = list(names)
    for place, name in enumerate(names):
        n_seen[name] += 1
        is_held = name in held_back and n_seen[name] % HELD_EVERY == 0
        if is_held != (split == "val"):
            own[place] = ""
    return own


def inspect_classes(sources: Sequence[ClassDataset]) -> Task[Findings]:
    """Return which cells have a class in the splits ``train`` and ``val``, and what looks wrong with them.

    Cells that are held back count as those of ``val``.

    AnnotationError where fewer than two classes can be learned, or an image is a stack.
    """
    counts: dict[str, Counter[str]] = {"train": Counter(), "val": Counter()}
    seen: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}  # names and checksums of images
    n_unnamed = 0
    items = [
        (split, source, item)
        for split in counts
        for source in sources
        for item in source.dataset.select(split).items
    ]
    for done, (split, source, item) in enumerate(items):
        yield Progress("images", done, len(items))
        image, annotation = classified(item)
        names = names_of_cells(annotation, item, source)
        counts[split].update(filter(None, names))
        seen[split].append((item.name, checksum_of(image)))
        n_unnamed += names.count("")
    learned_classes(counts["train"])
    notices = [source.dataset.notice for source in sources if source.dataset.notice]
    if n_unnamed:
        notices.append(f"{n_of(n_unnamed, 'cell')} without a class: left out.")
    train, validation = counts.values()
    held_back = held_classes(sources, train)
    for name in held_back:
        validation[name] = train[name] // HELD_EVERY
        train[name] -= validation[name]
    return Findings(
        n_images=(len(seen["train"]), len(seen["val"])),
        n_cells=(train.total(), validation.total()),
        classes=dict(sorted(train.items())),
        sizes=(),
        n_regions=0,
        warnings=(
            *_about_classes(train, validation, held_back),
            *about_same_images({pixels for _, pixels in seen["train"]}, seen["val"]),
        ),
        notice=" ".join(notices),
        n_checked={name: validation[name] for name in sorted(train)},
    )


def _about_classes(
    train: Counter[str], validation: Counter[str], held_back: Collection[str]
) -> Iterator[Warning]:
    scarce = [
        f"{name} ({n})" for name, n in sorted(train.items()) if n < FEW_OF_CLASS and name not in held_back
    ]
    untaught = [f"{name} ({n})" for name, n in sorted(validation.items()) if name not in train]
    unchecked = [name for name in sorted(train) if not validation[name]]
    if scarce:
        yield Warning("few-of-class", SCARCE.format(few(scarce)))
    if untaught:
        yield Warning("untaught-class", UNTAUGHT.format(few(untaught)))
    if len(unchecked) == len(train):
        yield Warning("no-validation", NO_VALIDATION)
    elif unchecked and held_back:
        yield Warning("unchecked-class", NOT_HELD_BACK.format(few(unchecked)))
    elif unchecked:
        yield Warning("unchecked-class", UNCHECKED.format(few(unchecked)))
    if held_back:
        yield Warning("held-back", HELD_BACK.format(FEW_OF_CLASS))
