"""What a count has written, told by checksums: what a user has changed since is kept beside the new files."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from cellwright.core.errors import ReadError
from cellwright.files.atomic import atomic_write, is_of_system, move, write_text, writing
from cellwright.files.json_value import read_object

KEPT = ".cellwright"
MARK_VERSION = 2
COUNTED = "counted"  # key in the mark of an image that was corrected: files of what the model had found
BESIDE = "corrected_beside"  # column of the summary: file of corrected cells that no longer count
MADE_WAY = "corrected ones beside"  # what is told of such an image in a few words
NEVER = -1  # no checksum
TABLES = ("cells.csv", "counts.csv", "markers.csv", "lineages.csv", "cells.parquet")
OURS = ("json", "labels.tif", "labels.zarr", "density.tif", "density.zarr", *TABLES)  # what counts write


class FileFacts(NamedTuple):
    """By what a file or a Zarr folder is known again."""

    path: str
    n_bytes: int
    changed_ns: int


def facts_of(path: Path) -> FileFacts:
    """Return path, size and time of the last change; of a folder of all in it, of nothing -1 bytes."""
    try:
        facts = path.stat()
        n_bytes, changed = facts.st_size, facts.st_mtime_ns
        if path.is_dir():
            inside = [file.stat() for file in _files_in(path)]
            n_bytes = sum(one.st_size for one in inside)
            changed = max([one.st_mtime_ns for one in inside], default=changed)
    except OSError:  # reading it tells what is wrong
        return FileFacts(str(path), -1, 0)
    return FileFacts(str(path.resolve()), n_bytes, changed)


def is_as_written(path: Path, n_bytes: int, checksum: int | None, marked_ns: int) -> bool:
    """Return whether a file is still what a count wrote; it is read only where it changed after the mark."""
    facts = facts_of(path)
    if facts.n_bytes != n_bytes:
        return False
    return facts.changed_ns <= marked_ns or checksum is None or _checksum(path) == checksum


def changed_meanwhile(source: Path | str) -> ReadError:
    """Return the error of an image that is no longer what it was when its count began."""
    return ReadError(f"{source} was changed while it was counted. Count it again.")


class Begun(NamedTuple):
    """What there was before an image is counted again: files of the last count, what the user must know."""

    files: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()  # of those what the model had found, where the new ones are corrected
    beside: str = ""  # file of cells corrected by hand that make way


def begin_image(
    name: str, output: Path, only: Sequence[Path] = (), *, begun: Path | None = None, xlsx: bool = False
) -> Begun:
    """Take back that an image is done, before its files are rewritten; what was edited by hand is kept.

    Where ``only`` some of them are rewritten for now, the others are still known as they were written.
    Files that no count is known to have written are kept, unless ``begun`` is there: a file to be removed
    once all are written, which tells a run that comes after one that was killed that they are ours.
    """
    mark = done_file(name, output)
    kept = read_mark(mark)
    notices: list[str] = []
    others = {}
    with writing(mark):
        beside = _beside(name, output, kept, begun)
        if begun is None or not begun.exists():
            notices += _set_unknown_aside(name, output, kept, (*OURS, "xlsx") if xlsx else OURS)
        if begun is not None:
            write_text(begun, beside)
        for one, checksum in {**read_object(_record(name, output)), **kept}.get("checksums", {}).items():
            if COUNTED in kept:  # corrected by hand, whatever was written then
                checksum = NEVER
            if only and output / one not in only:
                others[one] = checksum
            else:
                notices += _set_aside(output / one, checksum)
        mark.unlink(missing_ok=True)
    if only:
        _note(name, output, others)
    return Begun((*kept.get("files", ()), *kept.get(COUNTED, ())), tuple(notices), beside=beside)


def _beside(name: str, output: Path, kept: Mapping[str, Any], begun: Path | None) -> str:
    """Return what corrected cells of an image are called once they make way or made it; '' for none."""
    sentence = ""
    with suppress(OSError):  # a run that was killed may have renamed them
        sentence = "" if begun is None else begun.read_text(encoding="utf-8")
    if COUNTED in kept and not sentence:
        labels = output / f"{name}.labels.tif"
        return name_in(output, _free_name(labels if labels.exists() else output / f"{name}.cells.csv"))
    sentence = sentence or kept.get("row", {}).get(BESIDE, "")
    return sentence if (output / sentence).is_file() or COUNTED in kept else ""


def mark_written(name: str, output: Path, files: Sequence[Path]) -> None:
    """Note in the record of an image what was written, so that changes are seen; none before it is."""
    _note(name, output, checksums_of([path for path in files if path != _record(name, output)], output))


def counted_name(path: Path) -> Path:
    """Return what a file of a count is called once there is a corrected one in its place."""
    return path.with_name(f"{path.stem}.counted{path.suffix}")


def _note(name: str, output: Path, checksums: Mapping[str, int]) -> None:
    values = read_object(_record(name, output))
    if values and values.get("checksums", {}) != checksums:
        write_text(_record(name, output), json.dumps({**values, "checksums": checksums}, indent=2) + "\n")


@contextmanager
def replacing(paths: Sequence[Path], mark_at: Callable[[Path], Path]) -> Iterator[list[str]]:
    """Keep what was edited of files that the block rewrites; lend the sentences that tell of it.

    Files that the block does not write stay as they are; ``mark_at`` tells where the checksum of one is kept.
    """
    notices = []
    for path in paths:
        mark = mark_at(path)
        with writing(path), suppress(FileNotFoundError, ValueError):
            notices += _set_aside(path, int(mark.read_text(encoding="utf-8")))
        with suppress(OSError):
            mark.unlink()
    try:
        yield notices
    finally:
        for path in paths:
            with suppress(OSError):  # what was counted is worth more than the mark
                write_text(mark_at(path), str(_checksum(path)))


def mark_in(folder: Path, path: Path, output: Path | None = None) -> Path:
    """Return where in a folder of marks that of a file is; in ``output`` it is found where that was moved."""
    place = path.resolve()
    if output is not None and place.is_relative_to(output.resolve()):
        place = place.relative_to(output.resolve())
    return folder / sha256(place.as_posix().encode()).hexdigest()[:24]


def checksums_of(files: Sequence[Path], output: Path) -> dict[str, int]:
    """Return the checksums of files and Zarr folders by their names in a folder."""
    return {name_in(output, path): _checksum(path) for path in files if path.is_relative_to(output)}


def name_in(output: Path, path: Path) -> str:
    """Return what a file is called in a folder, the same on every system."""
    return path.relative_to(output).as_posix()


def begun_of(name: str, output: Path) -> Path:
    """Return the file that is there while those of an image of a folder are written."""
    return output / KEPT / f"{name}.begun"


def done_file(name: str, output: Path) -> Path:
    """Return the file that tells that an image of a folder is done."""
    return output / KEPT / f"{name}.json"


def read_mark(path: Path) -> Mapping[str, Any]:
    """Return what a mark tells; nothing where there is none, or it is of another version."""
    kept = read_object(path)
    if kept.get("version") == MARK_VERSION:
        return kept
    return {}


def _record(name: str, output: Path) -> Path:
    return output / f"{name}.json"


def _set_unknown_aside(
    name: str, output: Path, kept: Mapping[str, Any], endings: Sequence[str]
) -> Iterator[str]:
    """Give files of an image that nothing tells a count to have written other names; yield what tells so."""
    record = read_object(_record(name, output))
    known = {*record.get("checksums", {}), *kept.get("checksums", {}), *kept.get("files", ())}
    if "model" in record:
        known.add(f"{name}.json")
    for path in (output / f"{name}.{ending}" for ending in endings):
        if name_in(output, path) not in known:
            yield from _set_aside(path, NEVER, "was not written by a count that is known")


def _set_aside(path: Path, checksum: int, why: str = "was changed since it was counted") -> list[str]:
    """Give a file that was changed another name; return the sentence that tells so."""
    if not path.exists() or _checksum(path) == checksum:
        return []
    aside = _free_name(path)
    move(path, aside)
    return [f"{path.name} {why}; it is kept as {aside.name}."]


def keep_copies(name: str, output: Path, files: Sequence[str]) -> str:
    """Copy the files of an image; return the sentence that tells so."""
    asides = []
    for path in (output / one for one in files):
        asides.append(_free_name(path))
        with atomic_write(asides[-1]) as part:
            shutil.copyfile(path, part)
    return f"What was corrected before in {name} is kept as {', '.join(path.name for path in asides)}."


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.edited{number}{path.suffix}") for number in count(1))
    return next(name for name in names if not name.exists())


def _checksum(path: Path) -> int:
    """Return the checksum of a file, or of all files of a folder and their names."""
    if not path.is_dir():
        return _added(0, path)
    checksum = 0
    for file in sorted(_files_in(path)):
        checksum = _added(crc32(name_in(path, file).encode(), checksum), file)
    return checksum


def _files_in(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and not is_of_system(file))


def _added(checksum: int, path: Path) -> int:
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            checksum = crc32(content, checksum)
    return checksum
