"""Images with their masks in a folder that has no meta.json: which belong together, and their cells.

::

    a.tif with a_mask.tif           or _masks, _label, _labels, _seg, _cp_masks; any kind of image file
    images/a.tif with masks/a.tif   or labels/; the ending may be there, too
    a.tif with a_seg.npy            of Cellpose
    a.tif, b.tif with cells.json    of COCO, the images beside it or in images/

Any of these may stand in folders ``train`` and ``val`` (or ``test``). Else one image of five validates, drawn
with a fixed seed from the sorted names, where there are five and more.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cellwright.core.data import Annotation, Image, Labels
from cellwright.core.errors import ReadError
from cellwright.files.formats.coco import is_coco
from cellwright.files.formats.image_annotation import ImageAnnotation, chosen
from cellwright.files.formats.registry import recognise

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")
ENDINGS = ("_cp_masks", "_masks", "_mask", "_labels", "_label", "_seg")
IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs"), ("masks", "labels", "mask", "label")
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
SEED = 0
ONE_OF = 5  # images validates
NAMED = 5  # names that a sentence tells


class FilePair(NamedTuple):
    """An image and the file that tells its cells."""

    name: str
    split: str
    image: Path
    truth: Path


def find_pairs(folder: Path) -> tuple[list[FilePair], str]:
    """Return the images of a folder with their masks, split in two, and a sentence on how that was done.

    Raises
    ------
    ReadError
        There is no folder or no pair, an image has no mask or a mask no image, or two images one name.
    """
    if not folder.is_dir():
        raise ReadError(
            f"Expected a dataset folder, of images and masks with or without meta.json, at {folder}; there "
            "is none. Check the path."
        )
    given = {name: folder / name for name in SPLITS if (folder / name).is_dir()}
    if given:
        pairs = [
            FilePair(image.stem, SPLITS[name], image, truth)
            for name, part in given.items()
            for image, truth in _in_folder(part)
        ]
        how = f"The folders {', '.join(given)} tell which of them teach and validate"
    else:
        pairs, how = _divided(
            [FilePair(image.stem, "train", image, truth) for image, truth in _in_folder(folder)]
        )
    names = [pair.name for pair in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReadError(f"Images must have names of their own; {_some(twice)} occur twice. Rename them.")
    first = pairs[0]
    example = f"{first.image.name} with {first.truth.name}"
    return pairs, f"Without meta.json, {len(pairs)} images were found ({example}). {how}."


def _divided(pairs: list[FilePair]) -> tuple[list[FilePair], str]:
    """Return pairs with those that validate marked, and a sentence without its full stop."""
    n = len(pairs) // ONE_OF
    if n == 0:
        return pairs, "They are too few to set one aside"
    drawn = set(np.random.default_rng(SEED).choice(len(pairs), n, replace=False).tolist())
    names = [pair.name for index, pair in enumerate(pairs) if index in drawn]
    marked = [pair._replace(split="val") if index in drawn else pair for index, pair in enumerate(pairs)]
    return marked, f"One of {ONE_OF} validates, drawn with seed {SEED}: {_some(names)}"


def _in_folder(folder: Path) -> list[tuple[Path, Path]]:
    """Return the pairs of one folder, by the name of the image."""
    inner, masks = (_first(folder, names) for names in (IMAGE_FOLDERS, MASK_FOLDERS))
    files = _images(folder) if inner is None else _images(inner)
    listed = _coco_file(folder)
    if listed is not None:
        told = {annotation.name for annotation in _annotations(listed, listed.stat().st_mtime_ns)}
        files = [file for file in files if not _is_truth(file)]
        _refuse_missing([file for file in files if file.stem not in told], listed.name)
        pairs = dict.fromkeys(files, listed)
    else:
        truths = files if masks is None else [*_images(masks), *sorted(masks.glob("*_seg.npy"))]
        pairs = _matched(files, truths, is_apart=masks is not None)
    if not pairs:
        raise ReadError(
            f"Expected images with their masks in {folder}: a.tif with a_mask.tif, images/ with masks/, "
            "a_seg.npy of Cellpose, a COCO JSON, or a training folder with meta.json. There are none. "
            "Export a dataset with masks."
        )
    return sorted(pairs.items(), key=lambda pair: pair[0].stem)


def _matched(files: Sequence[Path], truths: Sequence[Path], *, is_apart: bool) -> dict[Path, Path]:
    """Return the truth of each image; a folder of masks ``is_apart`` may give them the images' names."""
    by_name: dict[str, Path] = {}
    for file in truths:
        if is_apart or _is_truth(file):
            by_name[_plain(file)] = file
            if is_apart:
                by_name.setdefault(file.stem, file)
    images = [file for file in files if is_apart or not _is_truth(file)]
    pairs = {image: by_name[image.stem] for image in images if image.stem in by_name}
    if pairs:
        _refuse_missing([image for image in images if image not in pairs], "a mask")
        astray = sorted({file.name for file in by_name.values()} - {file.name for file in pairs.values()})
        if astray:
            raise ReadError(f"Every mask needs its image; {_some(astray)} have none. Add or remove them.")
    return pairs


def _refuse_missing(images: Sequence[Path], what: str) -> None:
    if images:
        names = _some([image.name for image in images])
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
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _coco_file(folder: Path) -> Path | None:
    files = [*sorted(folder.glob("*.json")), *sorted(folder.glob("annotations/*.json"))]
    found = [file for file in files if is_coco(file)]
    if len(found) > 1:
        raise ReadError(
            f"Expected one COCO file in {folder}; got {_some([file.name for file in found])}. Keep one, or "
            "put each with its images into folders train and val."
        )
    return found[0] if found else None


@lru_cache(maxsize=2)
def _annotations(path: Path, stamp: int) -> tuple[ImageAnnotation, ...]:
    """Return what a file with many images holds, which is asked for image by image."""
    return recognise(path).read(path)


def read_truth(path: Path, image: Image) -> Annotation | Labels:
    """Return the cells of an image: labels, boxes or points.

    A mask of one value is taken apart into the pieces that do not touch.

    Raises
    ------
    ReadError
        The file is damaged, of another size than the image, or holds no cell.
    """
    if path.suffix == ".json":
        (found,) = chosen(path, _annotations(path, path.stat().st_mtime_ns), image)
    else:
        (found,) = recognise(path).read(path, image)
    if not len(found):
        raise ReadError(
            f"{path.name} holds no cell of {image.name!r}. Draw its cells, or move the image out of "
            "the folder."
        )
    if found.labels is not None:
        if len(found) == 1:
            return np.asarray(ndimage.label(found.labels)[0], np.int32)
        return found.labels
    found = found.with_boxes()
    height, width = image.label_shape[-2:]
    assert found.points is not None
    return Annotation((height, width), found.points, found.boxes, is_complete=False)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def has_masks(pair: FilePair) -> bool:
    """Return whether the truth of a pair are masks; COCO files may hold boxes."""
    if pair.truth.suffix != ".json":
        return True
    known = _annotations(pair.truth, pair.truth.stat().st_mtime_ns)
    return next(one.labels is not None for one in known if one.name == pair.name)
