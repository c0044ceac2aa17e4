"""Cell Tracking Challenge: one mask file for each frame and a table of tracks.

::

    <folder>/mask000.tif ... and res_track.txt          results
    <folder>/man_track000.tif ... and man_track.txt     truth (its TRA folder)

A line of the table is label, first frame, last frame, label of the parent or 0. Ulman et al. 2017, doi
10.1038/nmeth.4473. A cell that is away for some frames goes on as a child of itself; read back it is one.

Each mask file that is written has a seal in its description, the SHA-256 of its pixels and of the table: a
folder with all seals whole is as it was written, and may be rewritten.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image, Labels
from cellwright.core.errors import ReadError, WriteError
from cellwright.files.atomic import atomic_folder, is_of_system
from cellwright.files.formats.image_annotation import (
    ImageAnnotation,
    checked_shape,
    chosen,
    needing_masks,
    only_one,
)
from cellwright.files.images import read_image
from cellwright.files.json_value import JsonValue, read_lines

SEAL = "cellwright "
TABLES = {"res_track.txt": "mask", "man_track.txt": "man_track"}
MOST_LABELS = 2**16 - 1


class Track(NamedTuple):
    """A cell from its first to its last frame, each of which has it; ``parent`` 0 is none."""

    label: int
    first: int
    last: int
    parent: int


def is_tracking_challenge(path: Path) -> bool:
    """Return whether a path is a folder of the challenge, or the table in it."""
    folder = path if path.is_dir() else path.parent
    return any((folder / name).is_file() for name in TABLES) and (path.is_dir() or path.name in TABLES)


def read(path: Path, image: Image | None = None) -> tuple[ImageAnnotation, ...]:
    """Return labels (T, Y, X) or (T, Z, Y, X) and whom each cell descends from."""
    folder = path if path.is_dir() else path.parent
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if table is None:
        raise ReadError(f"Expected {' or '.join(TABLES)} in {folder}; there is none. Choose another folder.")
    stack = _stack(folder, TABLES[table.name])
    tracks = [_track(line) for line in read_lines(table)]
    _check(table, tracks, stack)
    present = set(np.unique(stack).tolist()) - {0}
    gone = [track.label for track in tracks if track.label not in present]
    labels, parents, numbers = _joined(stack, [_without(gone, one) for one in tracks if one.label in present])
    axes = "TYX" if labels.ndim == 3 else "TZYX"
    name = folder.name.removesuffix("_RES")
    found = ImageAnnotation(name, labels.shape, axes, labels, parents=parents, numbers=numbers)
    if gone:
        text = f"{len(gone)} tracks of {table.name} have no pixel in the masks and were left out"
        found = replace(found, notices=(f"{text}, first: {gone[0]}.",))
    return chosen(path, [found], image)


def _without(gone: Sequence[int], track: Track) -> Track:
    """Return a track that descends from none of those that are gone."""
    return track._replace(parent=0) if track.parent in gone else track


def _stack(folder: Path, start: str) -> NDArray[np.integer]:
    files: dict[int, Path] = {}
    for file in folder.glob(f"{start}*.tif"):
        match = re.fullmatch(start + r"(\d{3,})\.tif", file.name)
        if match:
            files[int(match[1])] = file
    if sorted(files) != list(range(len(files))) or not files:
        raise ReadError(
            f"Expected {start}000.tif and on, none missing, in {folder}; got frames {sorted(files)[:20]}. "
            "Copy the folder again."
        )
    frames: list[NDArray[np.integer]] = []
    for number in range(len(files)):
        frame = read_image(files[number], are_labels=True).read()
        if frame.dtype.kind not in "iu" or frame.ndim not in (2, 3) or frame.min(initial=0) < 0:
            raise ReadError(
                f"{files[number]} must hold labels of 2 or 3 axes; got {frame.dtype} in {frame.shape}."
            )
        if frames and frame.shape != frames[0].shape:
            raise ReadError(
                f"The size of {files[number]} must be {frames[0].shape}, as before; got {frame.shape}."
            )
        frames.append(frame)
    checked_shape(folder, "The masks", (len(frames), *frames[0].shape))
    return np.stack(frames)


def _track(line: JsonValue) -> Track:
    words = line.text().split()
    if len(words) != 4 or not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise line.refuse("four whole numbers: label, first frame, last frame, parent")
    return Track(*map(int, words))


def _check(table: Path, tracks: Sequence[Track], stack: NDArray[np.integer]) -> None:
    """Raise ReadError where the table does not fit the masks or itself."""
    known = {track.label: track for track in tracks}
    present = set(np.unique(stack).tolist()) - {0}
    fault = ""
    if len(known) < len(tracks) or 0 in known:
        fault = "each label once"
    elif present - set(known):
        fault = f"label {min(present - set(known))} of the masks"
    for track in tracks:
        parent = known.get(track.parent)
        if not track.first <= track.last < len(stack):
            fault = f"frames from 0 to {len(stack) - 1} for label {track.label}"
        elif track.parent and (parent is None or parent.last >= track.first):
            fault = f"a parent of label {track.label} that ends before frame {track.first}"
    if fault:
        raise ReadError(f"The tracks of {table} must have {fault}; they do not. Export the folder again.")


def _joined(
    stack: NDArray[np.integer], tracks: Sequence[Track]
) -> tuple[Labels, NDArray[np.int32], NDArray[np.int32]]:
    """Return labels 1..N in which a cell that was away is one, and parent and number of each."""
    children: dict[int, list[Track]] = {}
    for track in tracks:
        children.setdefault(track.parent, []).append(track)
    last = {track.label: track.last for track in tracks}
    same = {
        track.label: track.parent
        for track in tracks
        if track.parent and len(children[track.parent]) == 1 and track.first > last[track.parent] + 1
    }

    def root(label: int) -> int:
        while label in same:
            label = same[label]
        return label

    kept = sorted(track.label for track in tracks if track.label not in same)
    number = {label: place for place, label in enumerate(kept, start=1)}
    table = np.zeros(max([0, *(track.label for track in tracks)]) + 1, np.int32)
    for track in tracks:
        table[track.label] = number[root(track.label)]
    parents = np.zeros(len(kept), np.int32)
    for track in tracks:
        if track.label not in same and track.parent:
            parents[number[track.label] - 1] = number[root(track.parent)]
    return table[stack], parents, np.array(kept, np.int32)


def holds_own_results(folder: Path) -> bool:
    """Return whether a folder holds what ``write`` left there and nothing else."""
    table = folder / "res_track.txt"
    if not table.is_file():
        return False
    text = table.read_text(encoding="ascii", errors="replace")
    others = (path for path in folder.iterdir() if path != table and not is_of_system(path))
    return all(_has_seal(path, text) for path in others)


def _has_seal(path: Path, table: str) -> bool:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return file.pages.first.description == _seal(file.asarray(), table)
    except Exception:  # noqa: BLE001 - damaged files fail in every possible way
        return False


def _seal(frame: NDArray[np.integer], table: str) -> str:
    return SEAL + sha256(np.ascontiguousarray(frame, "<u2").tobytes() + table.encode()).hexdigest()


def _write(
    path: Path, annotation: Sequence[ImageAnnotation], table: str, *, may_replace: bool = False
) -> None:
    """Write a time series into a new folder: mask files and a table, of results or of truth."""
    import tifffile

    one = only_one(annotation, "Cell Tracking Challenge")
    labels = needing_masks(one, "The Cell Tracking Challenge")
    if not one.axes.startswith("T"):
        raise WriteError(f"The Cell Tracking Challenge needs a time axis; {one.name!r} has {one.axes!r}.")
    stack, tracks = _numbered(one, *_parted(labels, one.parents))
    if len(tracks) > MOST_LABELS:
        raise WriteError(f"The Cell Tracking Challenge allows {MOST_LABELS} tracks; got {len(tracks)}.")
    digits = max(3, len(str(len(stack) - 1)))
    text = "".join(f"{t.label} {t.first} {t.last} {t.parent}\n" for t in tracks)
    with atomic_folder(path, may_replace=may_replace) as folder:
        for number, one_frame in enumerate(stack):
            frame = one_frame.astype(np.uint16)
            tifffile.imwrite(
                folder / f"{TABLES[table]}{number:0{digits}d}.tif",
                frame,
                compression="zlib",
                photometric="minisblack",
                description=_seal(frame, text),
                metadata=None,  # tifffile would write a description of its own
            )
        (folder / table).write_bytes(text.encode("ascii"))


write = partial(_write, table="res_track.txt")
write_truth = partial(_write, table="man_track.txt")


def replace_results(path: Path, annotation: Sequence[ImageAnnotation]) -> None:
    """Write results; a folder that was written so and that nobody has changed since is replaced."""
    write(path, annotation, may_replace=holds_own_results(path))


def _numbered(one: ImageAnnotation, stack: Labels, tracks: list[Track]) -> tuple[Labels, list[Track]]:
    """Return tracks with the numbers that cells have where they come from, if the format can hold these."""
    n = len(one)
    numbers = [one.number_of(row) for row in range(n)]
    following = max(numbers, default=0) + 1  # of further parts of cells
    own = np.array([0, *numbers, *range(following, following + len(tracks) - n)])
    if own.max() > MOST_LABELS:
        return stack, tracks
    renamed = [track._replace(label=int(own[track.label]), parent=int(own[track.parent])) for track in tracks]
    return own[stack], sorted(renamed)


def _parted(labels: Labels, parents: NDArray[np.int32] | None) -> tuple[Labels, list[Track]]:
    """Return labels in which no track has a gap, and the tracks; further parts of a cell get new numbers."""
    n = int(labels.max(initial=0))
    present = np.stack([np.bincount(frame.ravel(), minlength=n + 1)[1:] > 0 for frame in labels], axis=1)
    stack, tracks, last_part = labels.copy(), [], np.arange(n + 1)
    following = n + 1
    for row in range(n):
        frames = np.flatnonzero(present[row])
        runs = np.split(frames, np.flatnonzero(np.diff(frames) > 1) + 1)
        for place, run in enumerate(runs):
            label, parent = row + 1, 0 if parents is None else int(parents[row])
            if place:
                label, parent, following = following, int(last_part[row + 1]), following + 1
                for frame in run:
                    stack[frame][labels[frame] == row + 1] = label
            tracks.append(Track(label, int(run[0]), int(run[-1]), parent))
            last_part[row + 1] = label
    own = {track.label for track in tracks if track.label <= n}
    for number, track in enumerate(tracks):
        if track.label in own and track.parent:
            tracks[number] = track._replace(parent=int(last_part[track.parent]))
    return stack, sorted(tracks)
