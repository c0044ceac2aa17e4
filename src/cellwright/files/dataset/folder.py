"""The training folder: images, masks and meta.json with splits and groups.

::

    <folder>/meta.json          {"split": {"train": [name, ...], "val": [...]},
                                 "items": {name: {"group": "fluo", ...}}, "axes": "YX or YXC", ...}
    <folder>/images/<name>.png  any image `io.images` reads
    <folder>/masks/<name>.tif   labels, 0 = background
    <folder>/boxes/<name>.csv   where there are no masks: xmin, ymin, xmax, ymax, class
    <folder>/points/<name>.csv  where there are not even boxes: y, x, class

Of boxes and points it is not known whether every cell has one, unless meta.json says ``"complete": true``.
Masks are complete unless it says ``"complete": false``. What holds for one image alone stands under its name
in ``items``: ``"complete"``, and ``"regions": [[[top, left], [bottom, right]], ...]``, the boxes (in pixels;
first corner, one past the last) outside of which nothing is known.

``"pixel_size_um": [1.75, 0.8, 0.8]``, for all images or under the name of one, tells the spatial axes of
images whose files do not.

Cells with masks have their classes in points/<name>.csv, one row for each that has one, at a pixel of it.

A folder without meta.json is read, too, where images and masks can be told apart: see
``files.dataset.pairs``.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cellwright.core.data import SPATIAL, Annotation, Image, Labels
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.atomic import finish_change
from cellwright.files.dataset.cells import read_cells
from cellwright.files.dataset.meta import Region, checked_pixel_size, checked_regions, listed, read_meta
from cellwright.files.dataset.pairs import find_pairs, has_masks, read_truth
from cellwright.files.images import read_image
from cellwright.ops.labels import annotate, relabel


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated image of a dataset, not yet read; ``truth_path`` holds masks, boxes or points.

    ``is_complete`` says whether every cell is annotated: inside of ``regions``, if there are any. The
    ``pixel_size_um`` of its spatial axes holds where the image's file tells none.
    """

    name: str
    split: str
    group: str
    image_path: Path
    truth_path: Path
    classes: tuple[str, ...] = ()
    is_complete: bool = True
    regions: tuple[Region, ...] = ()
    pixel_size_um: tuple[float, ...] = ()

    @property
    def has_masks(self) -> bool:
        """Whether the cells come with masks."""
        return self.truth_path.parent.name == "masks"

    def image(self) -> Image:
        """Return the image alone."""
        image = read_image(self.image_path)
        fits = len(self.pixel_size_um) == sum(axis in SPATIAL for axis in image.axes)
        told = self.pixel_size_um if fits else ()  # a dataset may hold images and volumes
        return replace(image, name=self.name, pixel_size_um=image.pixel_size_um or told)

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N; ReadError where there are no masks."""
        if not self.has_masks:
            raise ReadError(
                f"Expected masks of {self.name!r}; got only {self.truth_path.parent.name}. Choose a dataset "
                "with masks, or a family that needs none (centroid, query or density)."
            )
        image = self.image()
        labels = read_image(self.truth_path).read()
        expected = image.label_shape
        if labels.shape != expected:
            raise ReadError(
                f"Labels must have the image's shape {expected}; got {labels.shape} in {self.truth_path}. "
                "Export the pair again."
            )
        return image, relabel(labels)

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image with all that is known of its cells: labels, or an annotation.

        The annotation has masks where these do not show every cell of a 2D image. Of what lies outside of
        ``regions`` it may say anything.
        """
        if self.has_masks:
            image, labels = self.read()
            if self.is_complete or labels.ndim != 2:
                return image, labels
            return image, replace(annotate(labels), is_complete=False)
        image = self.image()
        shape = image.label_shape
        if len(shape) != 2:
            raise ReadError(
                f"Boxes and points belong to 2D images; {self.name!r} has axes {image.axes!r}. Annotate "
                "volumes with masks."
            )
        plane = (shape[0], shape[1])
        return image, read_cells(self.truth_path, plane, self.classes, is_complete=self.is_complete)


@dataclass(frozen=True, slots=True)
class PairedItem(Item):
    """An image and its cells in a file of another program, in a folder without meta.json."""

    @property
    def has_masks(self) -> bool:
        """Whether the cells come with masks; boxes and points are not known to be all."""
        return self.is_complete

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N; ReadError where there are no masks."""
        image, truth = self.annotated()
        if isinstance(truth, Annotation):
            raise ReadError(
                f"Expected masks of {self.name!r}; {self.truth_path} holds boxes or points. Choose a family "
                "that needs no masks (centroid, query or density)."
            )
        return image, truth

    def annotated(self) -> tuple[Image, Annotation | Labels]:
        """Return the image with all that is known of its cells: labels, or an annotation."""
        image = self.image()
        return image, read_truth(self.truth_path, image)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training folder. Made by :func:`read_dataset`; used by training and evaluation.

    ``notice`` tells how images were found and divided where the folder itself does not say.
    """

    folder: Path
    items: tuple[Item, ...]
    notice: str = ""

    def select(
        self, split: str | None = None, group: str | None = None, names: Collection[str] | None = None
    ) -> "Dataset":
        """Return the part of the dataset that has this split, group and one of these names (None = all)."""
        chosen = tuple(
            item
            for item in self.items
            if split in (None, item.split)
            and group in (None, item.group)
            and (names is None or item.name in names)
        )
        return replace(self, items=chosen)

    def __len__(self) -> int:
        return len(self.items)


def read_dataset(folder: Path | str) -> Dataset:
    """Return the items of a training folder that have both an image and masks, boxes or points.

    Raises
    ------
    ReadError
        The folder is missing, its meta.json is damaged, or it holds no labelled image.
    """
    folder = Path(folder)
    _finish_change(folder)
    if not (folder / "meta.json").exists():
        pairs, notice = find_pairs(folder)
        paired = (
            PairedItem(pair.name, pair.split, "", pair.image, pair.truth, is_complete=has_masks(pair))
            for pair in pairs
        )
        return Dataset(folder, tuple(paired), notice)
    meta = read_meta(folder)
    images = {path.stem: path for path in sorted((folder / "images").glob("*"))}
    classes = tuple(map(str, meta.get("classes") or ()))
    items = []
    for split, name in listed(meta, folder):
        truth_path = _truth_path(folder, name)
        if name in images and truth_path is not None:
            _refuse_links((images[name], truth_path), folder)
            facts = meta["items"].get(name, {})
            is_mask = truth_path.parent.name == "masks"
            is_complete = facts.get("complete", meta.get("complete", is_mask)) is True
            group = str(facts.get("group", ""))
            regions = checked_regions(facts.get("regions", ()), name, folder)
            sizes = checked_pixel_size(facts.get("pixel_size_um") or meta.get("pixel_size_um"), folder)
            items.append(
                Item(name, split, group, images[name], truth_path, classes, is_complete, regions, sizes)
            )
    if not items:
        raise ReadError(
            f"Expected images with labels in {folder}; found {len(images)} images and none of them listed in "
            "meta.json with a file of the same name in masks/. Export a dataset with labels."
        )
    return Dataset(folder, tuple(items))


def _finish_change(folder: Path) -> None:
    try:
        finish_change(folder)
    except WriteError as error:
        raise ReadError(
            f"The last export into {folder} was interrupted and must be finished first. {error}"
        ) from error


def _refuse_links(paths: Sequence[Path], folder: Path) -> None:
    """Raise ReadError where a file of a dataset is a link to one outside of it."""
    for path in paths:
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise ReadError(
                f"{path} must lie in the dataset; it is a link to {path.resolve()}. Copy the file there."
            )


def _truth_path(folder: Path, name: str) -> Path | None:
    candidates = [folder / "masks" / f"{name}.tif"]
    candidates += [folder / kind / f"{name}.csv" for kind in ("boxes", "points")]
    return next((path for path in candidates if path.exists()), None)
