"""Where models live: those that travel with the package, those in the user's folder, or any folder.

A classifier is a folder like a model's, but its spec is ``classifier.json``: no list of models that count
takes it for one.

The user's own, of both kinds, can be renamed, deleted, exported as one file (a zip archive of the folder) and
imported from one, from a folder, or from the web. Imports no torch before a model is loaded.
"""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import platformdirs

from cellwright.core.errors import CheckpointError, expecting
from cellwright.files.atomic import atomic_write, move, remove_folder, writing
from cellwright.files.json_value import read_object
from cellwright.models.spec import (
    CLASSIFIER,
    SPEC,
    ClassifierSpec,
    ModelSpec,
    read_classifier_spec,
    read_spec,
)

if TYPE_CHECKING:
    from cellwright.models.classifier import Classifier
    from cellwright.models.protocol import CellModel

S = TypeVar("S")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}")
FILES = (SPEC, "weights.safetensors", "scores.json", "card.md", "curve.json", "fit.json")
NEEDED = FILES[:2]
SUFFIXES = (".json", ".safetensors")  # of the files that a loaded model rests on
ZOO_FILES = {"rdf.yaml", "bioimageio.yaml"}  # either describes a package of the BioImage Model Zoo
PREFIX = "cellwright_"  # of the files of the model folder in such a package
MOST_BYTES = 2_000_000_000  # of a model in an archive, once unpacked


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that can be chosen by name."""

    name: str
    folder: Path
    spec: ModelSpec
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ClassifierEntry:
    """A classifier that can be chosen by name."""

    name: str
    folder: Path
    spec: ClassifierSpec


def shipped_folder() -> Path:
    """Return the folder of the models that travel with the package."""
    return Path(str(files("cellwright"))) / "weights"


def user_folder() -> Path:
    """Return the folder of the user's own models (it may not exist yet).

    Trainings and journals lie beside it. Earlier versions had them among the caches, which systems and
    cleaners empty; what is there stays in use.
    """
    models = Path(platformdirs.user_data_dir("cellwright", appauthor=False)) / "models"
    earlier = Path(platformdirs.user_cache_dir("cellwright"))
    if earlier.exists() and not models.exists():
        return earlier / "models"
    return models


def models() -> list[ModelEntry]:
    """Return every complete model of the two folders; a user's model hides a shipped one of the same name."""
    found = _complete(SPEC, read_spec)
    return [ModelEntry(folder.name, folder, spec, _scores(folder)) for folder, spec in found]


def classifiers() -> list[ClassifierEntry]:
    """Return every complete classifier; a user's own hides a shipped one of the same name."""
    found = _complete(CLASSIFIER, read_classifier_spec)
    return [ClassifierEntry(folder.name, folder, spec) for folder, spec in found]


def _complete(file: str, read: Callable[[Path], S]) -> list[tuple[Path, S]]:
    """Return the complete folders with such a file, and what it tells; a user's own hide shipped ones."""
    found: dict[str, tuple[Path, S]] = {}
    for home in (shipped_folder(), user_folder()):
        for path in sorted(home.glob(f"[!.]*/{file}")):
            with suppress(CheckpointError):  # a damaged one hides no others; naming it tells what it is
                found[path.parent.name] = path.parent, read(path)
    return list(found.values())


def find(name: str | Path) -> Path:
    """Return the folder of a model given its name or its folder.

    CheckpointError where there is neither, or the folder holds a classifier.
    """
    folder = _find(name)
    if holds_classifier(folder):
        raise CheckpointError(
            f"Expected a model that counts; {folder} holds a classifier, which gives the classes of counted "
            "cells. Choose it as the classifier of a count."
        )
    return folder


def _find(name: str | Path) -> Path:
    """Return the folder of a model or of a classifier; CheckpointError where there is neither."""
    folders = _folders(name)
    if not folders:
        known = ", ".join(entry.name for entry in models()) or "none"
        raise CheckpointError(f"Model must be a folder or one of: {known}; got {str(name)!r}.")
    named = [one for one in folders if one != Path(name)]
    return next(filter(holds_model, folders), (named or folders)[0])  # one without stands in nobody's way


def holds_classifier(folder: Path) -> bool:
    """Return whether a folder has the files of a classifier, and not of a model that counts."""
    return _files_of([path.name for path in folder.iterdir()]) != FILES


def _files_of(names: Collection[str]) -> tuple[str, ...]:
    """Return what a model folder can hold, or that of a classifier where the names are those of one."""
    if CLASSIFIER in names and SPEC not in names:
        return (CLASSIFIER, *FILES[1:])
    return FILES


def spec_of(name: str | Path) -> ModelSpec:
    """Return the spec of a model given its name or its folder; CheckpointError where there is none."""
    return read_spec(find(name) / SPEC)


def find_classifier(name: str | Path) -> Path:
    """Return the folder of a classifier given its name or its folder.

    CheckpointError where there is neither, or the folder holds a model that counts.
    """
    folders = _folders(name)
    for folder in folders:
        if (folder / CLASSIFIER).exists():
            return folder
    known = ", ".join(entry.name for entry in classifiers()) or "none"
    problem = f"the folder {folders[0]}, which has no {CLASSIFIER}" if folders else repr(str(name))
    raise CheckpointError(
        f"Classifier must be a folder or one of: {known}; got {problem}. Choose one of these, or train your "
        "own; a model that counts gives no classes."
    )


def classifier_of(name: str | Path) -> ClassifierSpec:
    """Return the spec of a classifier, likewise."""
    return read_classifier_spec(find_classifier(name) / CLASSIFIER)


def _folders(name: str | Path) -> list[Path]:
    """Return the folder of this path, then those of this name, the user's own first."""
    places = [Path(name)]
    if Path(name).name == str(name):
        places += [user_folder() / name, shipped_folder() / name]
    return [place for place in places if is_folder(place)]


def is_taken(name: str) -> bool:
    """Return whether a model has this name; a new one would hide one that was shipped."""
    return any((home / name).exists() for home in (user_folder(), shipped_folder()))


def holds_model(path: Path) -> bool:
    """Return whether a folder has a file of a model, and is not one of images that has a model's name."""
    return any((path / name).exists() for name in NEEDED)


def is_folder(path: Path) -> bool:
    """Return whether there is a folder; there is none of a name that no folder can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def load(name: str | Path) -> "CellModel":
    """Return a model by name or folder; read from disk only when its files have changed.

    CheckpointError as ``models.checkpoint.load_checkpoint``.
    """
    found = find(name)
    folder = found.resolve()
    try:
        return _load(folder, file_stamp(folder))
    except CheckpointError as error:
        if found.parent != user_folder() or not is_folder(shipped_folder() / found.name):
            raise
        raise CheckpointError(
            f"{error} It stands in the way of the model {found.name!r} that travels with the package: rename "
            f"or delete the folder {found} to count with that one."
        ) from error


def load_classifier(name: str | Path) -> "Classifier":
    """Return a classifier by name or folder; read from disk only when its files have changed.

    CheckpointError where there is none of this name, or a file of it is missing or damaged.
    """
    folder = find_classifier(name).resolve()
    return _load_classifier(folder, file_stamp(folder))


def rename(name: str, new: str) -> Path:
    """Give one of the user's models another name and return its folder.

    CheckpointError where it is not one of the user's, or the new name cannot be a name or is taken.
    """
    source, target = _own(name), _free(new)
    with writing(target):
        move(source, target)
    return target


def delete(name: str) -> None:
    """Delete one of the user's models.

    CheckpointError where it is not one of the user's.
    """
    folder = _own(name)
    with writing(folder):
        remove_folder(folder)


def export_model(name: str | Path, path: Path) -> Path:
    """Write a model or classifier as one file, a zip archive, and return its path; it appears whole or not.

    For a package of the BioImage Model Zoo see ``models.zoo.export_package``.

    CheckpointError where there is no such model, or it is damaged.
    """
    folder = _find(name)
    _check_loads(folder)
    with atomic_write(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in _files_of([path.name for path in folder.iterdir()]):
            if (folder / file).exists():
                archive.write(folder / file, file)
    return path


def import_model(source: str | Path, name: str = "") -> Path:
    """Put a model, or a classifier, among the user's own, and return its folder.

    Nothing is written where the source holds no model that this version can load; no code in it is run.

    The source is an exported model, a package of the BioImage Model Zoo that cellwright wrote, a model
    folder, or the http address of one of the first two. Without a name the model has that of the file.

    CheckpointError where the source is none of these, is damaged, or holds other files or paths; or the name
    is taken.
    """
    address = str(source)
    is_remote = address.startswith(("http://", "https://"))
    stem = Path(unquote(urlsplit(address).path)).stem if is_remote else Path(address).stem
    target = _free(name or stem)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=target.parent) as temporary:
            folder = Path(temporary) / target.name
            folder.mkdir()
            path = _downloaded(address, Path(temporary)) if is_remote else Path(source)
            _copy_model(path, folder, address)
            try:
                _check_loads(folder)
            except CheckpointError as error:  # which names a folder that is gone by now
                raise CheckpointError(str(error).replace(str(folder), address)) from error
            move(folder, target)
    return target


def _check_loads(folder: Path) -> None:
    """Raise CheckpointError where the model, or the classifier, in a folder cannot be loaded."""
    if holds_classifier(folder):
        from cellwright.models.classifier import read_classifier

        read_classifier(folder)
    else:
        from cellwright.models.checkpoint import load_checkpoint

        load_checkpoint(folder)


def _downloaded(address: str, folder: Path) -> Path:
    import pooch

    try:
        return Path(pooch.retrieve(address, None, "download", folder))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Cannot download {address}; got: {error}. Check the address and the network."
        ) from error


def _copy_model(source: Path, part: Path, title: str) -> None:
    """Copy the files of a model, whose names are known beforehand, into a folder."""
    if source.is_dir():
        _copy_folder(source, part, title)
        return
    if not source.is_file():
        raise CheckpointError(f"There is no file {title}. Choose an exported model.")
    what = f"an exported model, a zip archive, in {title}"
    damaged = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError)
    with (
        expecting(CheckpointError, what, "Get the file again.", *damaged),
        zipfile.ZipFile(source) as archive,
    ):
        for name, member in _members(archive, title).items():
            with archive.open(member) as packed, (part / name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)


def _copy_folder(source: Path, part: Path, title: str) -> None:
    wanted = _files_of([path.name for path in source.iterdir()])
    missing = [file for file in wanted[:2] if not (source / file).is_file()]
    if missing:
        raise CheckpointError(
            f"A model folder holds {' and '.join(wanted[:2])}; {title} lacks {', '.join(missing)}. Choose "
            "that of a model, or an exported model."
        )
    for file in wanted:
        if (source / file).is_file():
            shutil.copyfile(source / file, part / file)


def _members(archive: zipfile.ZipFile, title: str) -> dict[str, zipfile.ZipInfo]:
    """Return what an archive holds of a model, by the names of the files in its folder."""
    members = {member.filename: member for member in archive.infolist()}
    if ZOO_FILES & set(members):
        found = _zoo_members(members, title)
    else:
        found = members
        _check_exported(archive.namelist(), title)
    if sum(member.file_size for member in found.values()) > MOST_BYTES:
        raise CheckpointError(f"{title} unpacks to more than {MOST_BYTES:,} bytes. Nothing was written.")
    return found


def _check_exported(names: Sequence[str], title: str) -> None:
    wanted = _files_of(names)
    foreign = sorted(set(names) - set(wanted))
    missing = [name for name in wanted[:2] if name not in names]
    if foreign or missing or len(names) > len(set(names)):
        raise CheckpointError(
            f"An exported model holds {', '.join(wanted)} and nothing else; {title} lacks {missing}, and has "
            f"{foreign[:3]} besides. Nothing was written. Get the file again."
        )


def _zoo_members(members: Mapping[str, zipfile.ZipInfo], title: str) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a model folder in a package; the network that others run is left out."""
    hostile = [
        name for name in members if set("\\:") & set(name) or name.startswith("/") or ".." in name.split("/")
    ]
    if hostile:  # none is ever used, but nobody means well by them
        raise CheckpointError(
            f"Paths in a package must stay inside it; {title} holds {hostile[:3]}. Nothing was written. "
            "Get it from a source you trust."
        )
    missing = [PREFIX + file for file in NEEDED if PREFIX + file not in members]
    if missing:
        raise CheckpointError(
            f"Only packages that cellwright wrote can be imported; {title} is one of another program: it "
            f"lacks {', '.join(missing)}. Run it with bioimageio.core, and import the cells that it finds."
        )
    return {file: members[PREFIX + file] for file in FILES if PREFIX + file in members}


def _own(name: str) -> Path:
    folder = user_folder() / name
    if Path(name).name != name or not NAME.fullmatch(name) or not folder.is_dir():
        own = sorted(path.parent.name for path in user_folder().glob(f"[!.]*/{SPEC}"))
        raise CheckpointError(
            f"Only your own models can be changed: {', '.join(own) or 'none yet'}; got {name!r}."
        )
    return folder


def check_name(name: str) -> None:
    """Raise where a model cannot have this name.

    CheckpointError where it has other characters, or too many.
    """
    if not NAME.fullmatch(name) or name != name.strip(" ."):
        raise CheckpointError(
            "A model's name has up to 64 letters, digits, spaces, dots, dashes and underscores, and begins "
            f"with a letter or digit; got {name!r}. Choose another name."
        )


def _free(name: str) -> Path:
    check_name(name)
    if is_taken(name):
        raise CheckpointError(f"There is already a model {name!r}. Choose another name.")
    return user_folder() / name


def file_stamp(folder: Path) -> tuple[object, ...]:
    """Return what changes when a file of a model is replaced: names, times and sizes of the files."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in SUFFIXES and path.exists()]
    return tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[object, ...]) -> "CellModel":
    from cellwright.models.checkpoint import load_checkpoint

    return load_checkpoint(folder)


@lru_cache(maxsize=4)
def _load_classifier(folder: Path, stamp: tuple[object, ...]) -> "Classifier":
    from cellwright.models.classifier import read_classifier

    return read_classifier(folder)


def card_text(name: str | Path) -> str:
    """Return what a model learned from, how good it is and its licence, as markdown.

    It is the file ``card.md`` of its folder; without one, the facts that its other files tell.

    CheckpointError where there is no such model, or its facts cannot be read.
    """
    folder = _find(name)
    try:
        return (folder / "card.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        pass  # the facts are there without it
    scores = _scores(folder)
    if holds_classifier(folder):
        own = read_classifier_spec(folder / CLASSIFIER)
        title = own.title
        facts = f"Preset `{own.preset}` of the classifiers. It tells apart: {', '.join(own.classes)}."
    else:
        spec = read_spec(folder / SPEC)
        (low, high), title = spec.diameter_range_px, spec.title
        facts = (
            f"Preset `{spec.preset}` of the `{spec.family}` family; cells of {low:g} to {high:g} pixels in "
            f"diameter. It finds: {', '.join(spec.classes) or 'cells, without classes'}."
        )
    lines = [
        f"# {title}",
        facts,
        f"The folder has no card ({folder / 'card.md'}), so the training data and the licence of the "
        "weights are not known. Ask whoever made the model.",
        "## Scores",
    ]
    if scores:
        rows = "\n".join(f"| {kind} | {score} |" for kind, score in scores.items())
        lines.append(f"| score | value |\n| --- | --- |\n{rows}")
    else:
        lines.append("None are given.")
    return "\n\n".join(lines)


def _scores(folder: Path) -> dict[str, float]:
    return read_object(folder / "scores.json")
