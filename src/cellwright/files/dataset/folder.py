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

A folder without meta.json is read, too, where images and masks can be told apart::

    a.tif with a_mask.tif           or _masks, _label, _labels, _seg, _cp_masks; any kind of image file
    img_1.tif with mask_1.tif       or image, raw or nothing with mask, label, seg, where no name ends so
    images/a.tif with masks/a.tif   or labels/; the ending may be there, too
    a.tif with a_seg.npy            of Cellpose
    a.tif, b.tif with cells.json    of COCO, the images beside it or in images/

Any of these may stand in folders ``train`` and ``val`` (or ``test``). Else one image of five validates, drawn
with a fixed seed from the sorted names, where there are five and more.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.core.data import SPATIAL, Annotation, Image, Labels
from cellwright.core.errors import ReadError, WriteError, repeated
from cellwright.core.words import few, n_of
from cellwright.files.atomic import finish_change
from cellwright.files.dataset.cells import read_cells
from cellwright.files.dataset.meta import Region, checked_pixel_size, checked_regions, listed, read_meta
from cellwright.files.formats.image_annotation import ImageAnnotation, chosen, labels_of
from cellwright.files.formats.registry import FORMATS, recognise
from cellwright.files.images import read_image
from cellwright.ops.labels import annotate, each_frame, relabel_frames

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")
LOSSY = (".jpg", ".jpeg")
ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
TRUTH_BEGINNING = re.compile(r"(?:masks?|labels?|seg)(?:[_\- ]|(?=\d))(?P<rest>.+)", re.IGNORECASE)
IMAGE_BEGINNING = re.compile(r"(?:images?|imgs?|im|raw)(?:[_\- ]|(?=\d))(?P<rest>.+)", re.IGNORECASE)
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs"), ("masks", "labels", "mask", "label")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SEED = 0
ONE_OF = 5  # images validates


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated image of a dataset, not yet read; ``truth_path`` holds masks, boxes or points.

    ``is_complete`` says whether every cell is annotated: inside ``regions``, if there are any. The
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
        sizes_um = self.pixel_size_um if fits else ()  # a dataset may hold images and volumes
        return replace(image, name=self.name, pixel_size_um=image.pixel_size_um or sizes_um)

    def read(self) -> tuple[Image, Labels]:
        """Return the image and its labels, numbered 1..N; ReadError where there are no masks."""
        if not self.has_masks:
            raise ReadError(
                f"Expected masks of {self.name!r}; got only {self.truth_path.parent.name}. Choose a dataset "
                "with masks, or a family that needs none (centroid, query or density)."
            )
        image = self.image()
        labels = read_image(self.truth_path, are_labels=True).read()
        expected = image.label_shape
        if labels.shape != expected:
            raise ReadError(
                f"Labels must have the image's shape {expected}; got {labels.shape} in {self.truth_path}. "
                "Export the pair again."
            )
        found = labels_of(self.truth_path, "The pixels", labels, image.label_axes, self.name)
        assert found.labels is not None
        return image, relabel_frames(found.labels, image.label_axes)

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

    def explained(self) -> tuple[Image, Annotation | Labels, tuple[str, ...]]:
        """Return what :meth:`annotated` does, and what the user should know of how the cells were read."""
        return *self.annotated(), ()

    def classes_of(self, labels: Labels) -> NDArray[np.int16]:
        """Return the class of each cell of a plane of masks (Y, X), numbered 1..N; -1 where it has none.

        Points, or centres of boxes, that lie inside cells tell it: a file of the same name beside the masks.
        """
        classes = np.full(int(labels.max(initial=0)), -1, np.int16)
        folder = self.truth_path.parent.parent
        for path in (folder / kind / f"{self.name}.csv" for kind in ("points", "boxes")):
            if path.exists():
                marks = read_cells(path, labels.shape[:2], self.classes, is_complete=False)
                places = np.clip(np.rint(marks.points).astype(int), 0, np.array(labels.shape) - 1)
                hit = labels[places[:, 0], places[:, 1]]
                if marks.classes is not None:
                    is_told = (hit > 0) & (marks.classes >= 0)
                    classes[hit[is_told] - 1] = marks.classes[is_told]
        return classes


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
        """Return the image with all that is known of its cells: labels, boxes or points.

        A mask of one value is taken apart into the pieces that do not touch.
        """
        image, truth, _ = self.explained()
        return image, truth

    def explained(self) -> tuple[Image, Annotation | Labels, tuple[str, ...]]:
        """Return what :meth:`annotated` does, and what the user should know of how the cells were read."""
        image = self.image()
        found = self._truth(image)
        if not len(found):
            raise ReadError(
                f"{self.truth_path.name} holds no cell of {image.name!r}. Draw its cells, or move the image "
                "out of the folder."
            )
        if found.labels is not None:
            return image, relabel_frames(found.labels, image.label_axes), found.notices
        found = found.with_boxes()
        height, width = image.label_shape[-2:]
        assert found.points is not None
        known = Annotation((height, width), found.points, found.boxes, is_complete=False)
        return image, known, found.notices

    def _truth(self, image: Image) -> ImageAnnotation:
        """Return the cells of the image as its file tells, those of a mask of one value apart."""
        path = self.truth_path
        if path.suffix.lower() in LOSSY:
            raise ReadError(
                f"The cells of {image.name!r} must be numbered exactly; {path.name} is a JPEG, which changes "
                "values. Save it as PNG or TIFF from what it was made of."
            )
        if path.suffix == ".json":
            (found,) = chosen(path, _annotations(path), image)
        else:
            (found,) = recognise(path).read(path, image)
        if found.labels is None or len(found) != 1:
            return found
        pieces = [ndimage.label(frame)[0] for frame in each_frame(found.labels, image.label_axes)]
        if max(int(frame.max()) for frame in pieces) == 1:
            return found
        told = (
            f"{path.name} is a mask of one value: each piece of it is taken as a cell, and pieces that "
            "touch as one. Number the cells one by one if some do."
        )
        return replace(found, labels=np.stack(pieces).reshape(found.labels.shape), notices=(told,))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A training folder.

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

    ReadError where the folder is missing, its meta.json is damaged, or it holds no labelled image.
    """
    folder = Path(folder)
    _finish_change(folder)
    if not os.path.exists(folder / "meta.json"):  # Path.exists raises where the system refuses the name
        return _paired(folder)
    meta = read_meta(folder)
    found = sorted((folder / "images").glob("*"))
    images = {path.stem: path for path in found}
    classes = tuple(map(str, meta.get("classes") or ()))
    items, lacking = [], []
    for split, name in listed(meta, folder):
        candidates = [folder / "masks" / f"{name}.tif"]
        candidates += [folder / kind / f"{name}.csv" for kind in ("boxes", "points")]
        truth_path = next((path for path in candidates if os.path.exists(path)), None)
        if name not in images or truth_path is None:
            lacking.append(name)
        else:
            _refuse_twins([path.stem for path in found if path.stem == name])
            for path in (images[name], truth_path):
                if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                    raise ReadError(
                        f"{path} must lie in the dataset; it is a link to {path.resolve()}. Copy the file "
                        "there."
                    )
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
            "meta.json with a NAME.tif in masks/, or a NAME.csv in boxes/ or points/. Export one with labels."
        )
    notice = ""
    if lacking:
        notice = f"Listed in meta.json, but without an image or without its cells: {few(lacking)}."
    return Dataset(folder, tuple(items), notice)


def _finish_change(folder: Path) -> None:
    try:
        finish_change(folder)
    except WriteError as error:
        raise ReadError(
            f"The last export into {folder} was interrupted and must be finished first. {error}"
        ) from error


def _refuse_twins(names: Sequence[str]) -> None:
    """Raise ReadError where two images have one name, so that none can be told by it."""
    twice = repeated(names)
    if twice:
        raise ReadError(f"Images must differ in name; {few(twice)} occur twice. Rename them.")


def _paired(folder: Path) -> Dataset:
    """Return the images of a folder without meta.json with their masks, split in two."""
    if not os.path.isdir(folder):
        raise ReadError(
            f"Expected a dataset folder, of images and masks with or without meta.json, at {folder}; there "
            "is none. Check the path."
        )
    given = {name: inside for name in SPLITS if (inside := _first(folder, (name,))) is not None}
    lacking: list[str] = []
    if given:
        items = [item for name, part in given.items() for item in _in_folder(part, SPLITS[name], lacking)]
        how = f"The folders {', '.join(given)} tell which of them teach and validate"
    else:
        items, how = _divided(_in_folder(folder, "train", lacking))
    _refuse_twins([item.name for item in items])
    image, truth = (
        path.relative_to(folder).as_posix() for path in (items[0].image_path, items[0].truth_path)
    )
    notice = f"Without meta.json, {n_of(len(items), 'image')} found: {image} with {truth}. {how}."
    if lacking:
        notice += f" Listed in COCO, but without an image: {few(lacking)}."
    return Dataset(folder, tuple(items), notice)


def _divided(items: list[PairedItem]) -> tuple[list[PairedItem], str]:
    """Return items with those that validate marked, and a sentence without its full stop."""
    n = len(items) // ONE_OF
    if n == 0:
        return items, "They are too few to set one aside"
    drawn = np.sort(np.random.default_rng(SEED).choice(len(items), n, replace=False)).tolist()
    for index in drawn:
        items[index] = replace(items[index], split="val")
    names = [items[index].name for index in drawn]
    return items, f"One of {ONE_OF} validates, drawn with seed {SEED}: {few(names)}"


def _in_folder(folder: Path, split: str, lacking: list[str]) -> list[PairedItem]:
    """Return the images of one folder with their masks, by name; ``lacking`` takes up those not there."""
    inner, masks = (_first(folder, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS))
    files = _images(inner or folder)
    coco, has_masks = _coco_file(folder), {}
    if coco is not None:
        has_masks = {one.name: one.labels is not None for one in reversed(_annotations(coco))}
        files = [file for file in files if not _is_truth(file)]
        _refuse_missing([file for file in files if file.stem not in has_masks], coco.name)
        pairs = dict.fromkeys(files, coco)
        lacking += sorted(has_masks.keys() - {file.stem for file in files})
    else:
        truths = files
        if masks is not None:
            truths = [*_images(masks), *sorted(masks.glob("[!.]*_seg.npy"))]
        pairs = _matched(files, truths, is_apart=masks is not None)
    if not pairs:
        advice = "Export a dataset with masks."
        if next(folder.glob("*.csv"), None) is not None:
            advice += " Counts alone are for the command `cellwright train TABLE.csv --from density`."
        raise ReadError(
            f"Expected images with their masks in {folder}: a.tif with a_mask.tif, img_1.tif with "
            "mask_1.tif, images/ with masks/, a_seg.npy of Cellpose, a COCO JSON, or a training folder with "
            f"meta.json. There are none. {advice}"
        )
    return [
        PairedItem(image.stem, split, "", image, truth, is_complete=has_masks.get(image.stem, True))
        for image, truth in sorted(pairs.items(), key=lambda pair: pair[0].stem)
    ]


def _matched(files: Sequence[Path], truths: Sequence[Path], *, is_apart: bool) -> dict[Path, Path]:
    """Return the truth of each image; a folder of masks ``is_apart`` may give them the images' names."""
    by_name = _by_name(truths, is_apart=is_apart)
    images = [(file.stem, file) for file in files if is_apart or not _is_truth(file)]
    if not any(name in by_name for name, _ in images):
        begins = TRUTH_BEGINNING.fullmatch
        by_name = _by_rest([file for file in truths if begins(file.stem)], TRUTH_BEGINNING)
        others = [file for file in files if is_apart or not begins(file.stem)]
        images = list(_by_rest(others, IMAGE_BEGINNING).items())
    pairs = {image: by_name[name] for name, image in images if name in by_name}
    if pairs:
        _refuse_missing([image for _, image in images if image not in pairs], "a mask")
        astray = sorted({file.name for file in by_name.values()} - {file.name for file in pairs.values()})
        if astray:
            raise ReadError(f"Every mask needs its image; {few(astray)} have none. Add or remove them.")
    return pairs


def _by_name(truths: Sequence[Path], *, is_apart: bool) -> dict[str, Path]:
    """Return the files of cells by the names of their images, as their endings tell."""
    by_name: dict[str, Path] = {}
    for file in truths:
        if is_apart or _is_truth(file):
            other = by_name.setdefault(_plain(file), file)
            if other.stem.endswith("_cp_masks") and file.name.endswith("_seg.npy"):
                by_name[_plain(file)] = file  # Cellpose saves both; this one is what was corrected
            elif other != file:
                raise ReadError(
                    f"Every image needs one file of cells; {_plain(file)} has {other.name} and {file.name}. "
                    "Keep one."
                )
    if is_apart:
        by_name.update({file.stem: by_name.get(file.stem, file) for file in truths})
    return by_name


def _by_rest(files: Sequence[Path], beginning: re.Pattern[str]) -> dict[str, Path]:
    """Return files by what is left of their names, without ``img_`` or ``mask_`` say.

    ReadError where two have the same left.
    """
    found: dict[str, Path] = {}
    for file in files:
        known = beginning.fullmatch(file.stem)
        rest = file.stem if known is None else known["rest"]
        other = found.setdefault(rest, file)
        if other != file:
            raise ReadError(
                f"Images and masks are told apart by how their names go on; {other.name} and {file.name} go "
                "on alike. Keep one."
            )
    return found


def _refuse_missing(images: Sequence[Path], what: str) -> None:
    if images:
        names = few([image.name for image in images])
        raise ReadError(
            f"Every image needs its cells; {names} are without {what}. Add what is missing, or move the "
            "images out of the folder."
        )


def _is_truth(file: Path) -> bool:
    return file.stem.lower().endswith(ENDINGS)


def _plain(file: Path) -> str:
    """Return the name of a truth's image."""
    for ending in ENDINGS:
        if file.stem.lower().endswith(ending):
            return file.stem[: -len(ending)]
    return file.stem


def _images(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("[!.]*") if file.suffix.lower() in SUFFIXES)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of these folders that is there, whatever its capitals."""
    there = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    return next((there[name] for name in names if name in there), None)


def _coco_file(folder: Path) -> Path | None:
    files = [*sorted(folder.glob("[!.]*.json")), *sorted(folder.glob("annotations/[!.]*.json"))]
    found = [file for file in files if FORMATS["coco"].matches(file)]
    if len(found) > 1:
        raise ReadError(
            f"Expected one COCO file in {folder}; got {few([file.name for file in found])}. Keep one, or "
            "put each with its images into folders train and val."
        )
    return found[0] if found else None


def _annotations(path: Path) -> tuple[ImageAnnotation, ...]:
    """Return what a file with many images holds, which is asked for image by image."""
    return _read_annotations(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_annotations(path: Path, _: int) -> tuple[ImageAnnotation, ...]:
    return recognise(path).read(path)
