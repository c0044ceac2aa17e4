"""Which images a list of files and folders holds, and what their names tell of plates."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path, PurePosixPath

from cellwright.core.data import Image
from cellwright.core.errors import ReadError, SettingsError, repeated
from cellwright.files.atomic import as_stored, plain_name, refuse_no_text
from cellwright.files.dataset.folder import ENDINGS, IMAGE_FOLDERS, MASK_FOLDERS
from cellwright.files.zarr import images_inside, is_zarr

SUFFIXES = (
    *(".tif", ".tiff", ".lsm", ".stk", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy"),
    *(".svs", ".qptiff", ".ndpi", ".scn", ".bif"),
    *(".czi", ".nd2", ".lif", ".oif", ".oib"),
)
OME_SUFFIXES = (".ome.tif", ".ome.tiff")
MICROMANAGER = "_MMStack"  # in the names of files that are parts of one stack
OURS = re.compile(r"\.(labels|density)(\.edited\d+|\.counted)?\.(tif|zarr)$")  # a count has written it
PROOFREAD, COUNTS = "cellwright", "counts.csv"  # folder of labels that were proofread, and its table
PARTS_OF_FILES = ".oif.files"  # a folder whose files are read by way of another file
WELL = r"(?:[A-P]|A[A-F])[_/]?[0-9]{1,2}"  # up to 1536 wells
PART = "#"  # between the name of a file and that of one of its images
LONGEST_NAME = 150  # bytes of a name; file systems end at 255, and endings are added
FIELD = re.compile(r"\{(\w+)\}")
TAKEN = (
    *("image", "model", "count", "corrected", "corrected_beside", "low", "high", "fit", "expectation"),
    *("frames", "slices", "seconds", "notices", "error"),
)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image of a list."""

    path: Path  # the file or .zarr folder, which may hold several images
    name: str  # what its results are called: its path in the folder that was searched, without suffix
    plate: Mapping[str, str] = field(default_factory=dict)  # ``well``, ``site`` and what else is told
    part: str = ""  # name of the image in its file, where that holds several; empty for the only one

    @property
    def name_in_paths(self) -> str:
        """What ``{name}`` stands for: the image's own name, as its reader gives it."""
        if self.part:
            return self.part
        if self.path.is_dir():
            return self.path.name.removesuffix(".zarr")
        return self.path.stem

    def image(self, image: Image) -> "ListedImage":
        """Return what to call one of the images of this file: the file's name where it is the only one.

        Examples
        --------
        ``slides/exp1#Position_3`` of ``slides/exp1.lif``
        """
        stem = self.path.name.rstrip("/")
        if image.name in (self.path.stem, stem, _stem(stem)):
            return self
        own = image.name
        for start in (self.path.stem, _stem(stem)):
            own = own.removeprefix(f"{start}_")
        return replace(self, name=short_name(f"{self.name}{PART}{plain_name(own)}"), part=image.name)


def list_images(
    paths: Sequence[Path],
    pattern: str = "*",
    plate_pattern: str = "",
    output: Path | None = None,
    *,
    is_deep: bool = True,
) -> tuple[ListedImage, ...]:
    """Return the images among files and, recursively, in folders, in the order of their names.

    Each field of an OME-Zarr plate is an image, with its well and site. Whether any other file holds several
    is seen when it is read. In folders, and in folders in them where ``is_deep``, file names must match a
    pattern such as ``*_DAPI.tif``; labels and masks beside their image, ``a_labels.tif`` beside ``a.tif`` or
    ``masks/a.tif`` beside ``images/a.tif``, are not images.

    The pattern of a plate, such as ``Plate1/{well}_s{site}_w{channel}``, tells what names look like:
    ``{well}`` is a letter and a number, ``{site}`` a number, any other name in braces a word. What stands
    around them is taken as it is.

    ReadError where a path is missing, or a folder holds no image. SettingsError where two images would have
    results of the same name in ``output``, or the plate's pattern is none.
    """
    parse = _parser(plate_pattern)
    listed = []
    for path in paths:
        if not os.path.exists(path):  # Path.exists raises where the system refuses the name
            raise ReadError(f"Expected an image or a folder at {path}; there is none. Check the path.")
        found = [(path, _stem(path.name))]
        if path.is_dir() and not is_zarr(path):
            inside = _in_folder(path, is_deep=is_deep)
            found = _without_labels(_sets_once([one for one in inside if fnmatch(one[0].name, pattern)]))
        if not found:
            raise ReadError(f"Expected images that match {pattern!r} in {path}; there are none.")
        for image, name in found:
            listed += _images_of(image, name, parse)
    if output is not None:
        _refuse_twins(listed, output)
    return tuple(listed)


def _refuse_twins(listed: Sequence[ListedImage], output: Path) -> None:
    """Raise SettingsError where two images would have results of one name in a folder."""
    stored = [as_stored(image.name, output) for image in listed]
    again = repeated(stored)
    twice = sorted({image.name for image, name in zip(listed, stored, strict=True) if name in again})
    if twice:
        raise SettingsError(
            f"Images of one run must differ in name; {', '.join(twice[:3])} occurs more than once. Count the "
            "folder above them, or those of one ending by --pattern, or count them in separate runs."
        )


def _sets_once(found: Sequence[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return paths and names with only the first file of each set, for each is read as the whole set."""
    known: set[tuple[Path, tuple[str, ...]]] = set()
    kept = []
    for path, name in found:
        if path.name.lower().endswith(OME_SUFFIXES) or MICROMANAGER in path.name:
            from cellwright.files.tiff_metadata import set_of  # loads tifffile

            others = set_of(path)
            if path.name in others and (path.parent, others) in known:
                continue
            known.add((path.parent, others))
        kept.append((path, name))
    return kept


def _without_labels(found: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Return paths and names without labels and masks beside their image.

    ``a_labels`` beside ``a``, ``masks/a`` beside ``images/a``.
    """
    names = {name for _, name in found}
    theirs = {f"{name}{ending}" for name in names for ending in ENDINGS}
    for name in map(PurePosixPath, names):
        if name.parent.name in IMAGE_FOLDERS:
            theirs |= {str(name.parent.with_name(masks) / name.name) for masks in MASK_FOLDERS}
    return [(path, name) for path, name in found if name not in theirs]


def _images_of(path: Path, name: str, parse: Callable[[str], dict[str, str]]) -> list[ListedImage]:
    """Return a file, or each image of a Zarr folder that holds several."""
    inside = images_inside(path)
    if not inside:
        return [ListedImage(path, short_name(name), parse(name))]
    own = {place: f"{name}{PART}{place.replace('/', '_')}" for place in inside}
    return [
        ListedImage(path / place, short_name(own[place]), {**parse(own[place]), **facts})
        for place, facts in inside.items()
    ]


def _in_folder(
    folder: Path, above: frozenset[Path] = frozenset(), *, is_deep: bool = True
) -> Iterator[tuple[Path, str]]:
    """Give path and name of each image in a folder and the folders in it; of links in a circle each once."""
    above = above | {folder.resolve()}
    try:
        paths = sorted(folder.iterdir())
    except OSError:  # reading it tells why
        yield folder, folder.name
        return
    for path in paths:
        is_ours = OURS.search(path.name) or (path.name == PROOFREAD and (path / COUNTS).exists())
        if is_ours or path.name.startswith(".") or path.name.endswith(PARTS_OF_FILES):
            continue
        if path.is_dir() and not is_zarr(path):
            if is_deep and path.resolve() not in above:
                for inside, name in _in_folder(path, above):
                    yield inside, f"{path.name}/{name}"
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            yield path, _stem(path.name)


def proofread_labels(image: Path) -> Path | None:
    """Return the labels of an image as they were last left in *Proofread a folder*; None without any."""
    folders = [image.parent]
    if image.parent.name == "images":  # of a dataset
        folders.append(image.parent.parent)
    paths = [folder / PROOFREAD / f"{image.stem}.tif" for folder in folders]
    found = [path for path in paths if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def short_name(name: str) -> str:
    """Return a name whose every part a file system takes, told apart by a checksum where it is cut.

    ReadError where it is no text.
    """
    refuse_no_text(name)
    parts = []
    for part in name.split("/"):
        content = part.encode()
        if len(content) > LONGEST_NAME:
            start = content[: LONGEST_NAME - 9].decode(errors="ignore")
            part = f"{start}~{sha256(content).hexdigest()[:8]}"
        parts.append(part)
    return "/".join(parts)


def _parser(pattern: str) -> Callable[[str], dict[str, str]]:
    """Return a function from a name to what it tells of a plate; nothing where it does not match."""
    if not pattern:
        return lambda name: {}
    names = FIELD.findall(pattern)
    if not names or len(names) != len(set(names)):
        raise SettingsError(
            f"A pattern of plates names each part once, in braces, e.g. {{well}}_s{{site}}; got {pattern!r}."
        )
    wrong = [name for name in names if not name.isidentifier() or name in TAKEN]
    if wrong:
        raise SettingsError(
            f"The pattern of plates has a part {{{wrong[0]}}}, which begins with a digit or is the name of a "
            "column of the summary. Rename it."
        )
    expression = ""
    for index, piece in enumerate(FIELD.split(pattern)):
        known = {"well": WELL, "site": "[0-9]+"}.get(piece, r"[^_/\\ ]+?")
        expression += re.escape(piece) if index % 2 == 0 else f"(?P<{piece}>{known})"
    compiled = re.compile(rf"{expression}(?![0-9])")

    def parse(name: str) -> dict[str, str]:
        match = compiled.search(name)
        if match is None:
            return {}
        found = match.groupdict()
        if "well" in found:
            found["well"] = re.sub("[_/]", "", found["well"])
        return found

    return parse


def _stem(name: str) -> str:
    for suffix in (*OME_SUFFIXES, ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem
