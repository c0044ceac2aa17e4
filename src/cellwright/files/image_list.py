"""Which images a list of files and folders holds, and what their names tell of plates."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.zarr import is_zarr

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy")
OURS = (".labels.tif", ".density.tif", ".labels.zarr")  # what a count writes is not counted
WELL = r"[A-P][_/]?[0-9]{1,2}"
FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One image of a list.

    Parameters
    ----------
    path
        The file or .zarr folder, which may hold several images.
    name
        What its results are called: the path from the folder that was searched, without the suffix.
    plate
        What its name tells: ``well``, ``site`` and whatever else the pattern names.
    """

    path: Path
    name: str
    plate: Mapping[str, str] = field(default_factory=dict)


def list_images(
    paths: Sequence[Path], pattern: str = "*", plate_pattern: str = ""
) -> tuple[ListedImage, ...]:
    """Return the images among files and, recursively, in folders, in the order of their names.

    Parameters
    ----------
    paths
        Files, .zarr folders and folders of these.
    pattern
        File names in folders must match it, e.g. ``*_DAPI.tif``.
    plate_pattern
        What names look like: ``{well}`` is a letter and a number, ``{site}`` a number, any other name in
        braces a word, e.g. ``Plate1/{well}_s{site}_w{channel}``. What stands around them is taken as it is.

    Raises
    ------
    ReadError
        A path is missing, or a folder holds no image.
    SettingsError
        Two images would have results of the same name, or the plate's pattern is none.
    """
    parse = _parser(plate_pattern)
    listed = []
    for path in paths:
        if not path.exists():
            raise ReadError(f"Expected an image or a folder at {path}; there is none. Check the path.")
        found = [(path, _stem(path.name))]
        if path.is_dir() and not is_zarr(path):
            found = [one for one in _in_folder(path) if fnmatch(one[0].name, pattern)]
        if not found:
            raise ReadError(f"Expected images that match {pattern!r} in {path}; there are none.")
        listed += [ListedImage(image, name, parse(name)) for image, name in found]
    names = [image.name for image in listed]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f"Images of one run must differ in name; {', '.join(twice[:3])} occurs more than once. Count the "
            "folder above them, or count them in separate runs."
        )
    return tuple(listed)


def _in_folder(folder: Path) -> Iterator[tuple[Path, str]]:
    """Give path and name of each image in a folder and the folders in it."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(OURS):
            continue
        if path.is_dir() and not is_zarr(path):
            for inside, name in _in_folder(path):
                yield inside, f"{path.name}/{name}"
        elif path.is_dir() or path.suffix.lower() in SUFFIXES:
            yield path, _stem(path.name)


def _parser(pattern: str) -> Callable[[str], dict[str, str]]:
    """Return a function from a name to what it tells of a plate; nothing where it does not match."""
    if not pattern:
        return lambda name: {}
    names = FIELD.findall(pattern)
    if not names or len(names) != len(set(names)):
        raise SettingsError(
            f"A pattern of plates names each part once, in braces, e.g. {{well}}_s{{site}}; got {pattern!r}."
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
    for suffix in (".ome.tif", ".ome.tiff", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem
