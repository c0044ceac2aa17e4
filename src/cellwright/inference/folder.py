"""Many images, one after another: what was done is not done again, what fails is told, and the rest goes on.

What is written is described in ``files.folders.results``.
"""

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cellwright.core.data import Image
from cellwright.core.errors import WriteError, error_line
from cellwright.core.tasks import Progress, Task, ahead
from cellwright.core.words import few
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.folders.results import (
    ALL_CELLS,
    SUMMARY,
    SUMMARY_XLSX,
    ImageOutcome,
    Made,
    check_there,
    clear_parts,
    forget_tables,
    join_tables,
    mark_done,
    mark_parts,
    note_report,
    only_run,
    outcomes_before,
    write_folder_report,
    write_summary,
    write_thumbnail,
)
from cellwright.files.folders.written import (
    BESIDE,
    KEPT,
    begin_image,
    begun_of,
    changed_meanwhile,
    done_file,
    facts_of,
    mark_in,
    read_mark,
    replacing,
)
from cellwright.files.images import read_images
from cellwright.files.zarr import missing_chunks
from cellwright.inference.image_count import CountChoices, summary_row
from cellwright.ops.plates import channel_names

N_READERS, N_AHEAD = 2, 2  # threads that read, and images that are read before their turn
READ_AHEAD_BYTES = 150_000_000  # a larger image is read when its turn comes
WRITE_EVERY_S = 5.0  # the summary is rewritten this often while images are counted
LOOK_EVERY = 50  # images that are looked for among those that are done, between two chances to stop
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENODEV)  # what fails once fails for all that follow


class _Opened(NamedTuple):
    """A file that is open: how it was before, and its images, the first one read."""

    made: Made
    images: Iterator[Image]


def count_folder(
    images: Sequence[ListedImage],
    output: Path,
    choices: CountChoices,
    *,
    on_outcome: Callable[[ImageOutcome], None],
    on_notice: Callable[[str], None] = lambda _: None,
) -> Task[tuple[ImageOutcome, ...]]:
    """Count images and write their files and a summary; return what became of each, in their order.

    An image is done when its files are whole and the same models and settings made them from the same file;
    then it is not counted again. The next images are read while one is counted. A file may hold several.

    WriteError where the folder cannot be written or goes away, the disk is full, or another program counts
    into the folder.

    ``on_outcome`` is told of each image as soon as it is done or has failed, of those that earlier runs have
    done first; ``on_notice`` of each sentence on what concerns no single image.
    """
    with only_run(output), replacing_tables(output, choices) as kept:
        clear_parts(output, images)
        for notice in filter(None, [*kept, told_channels([image.name for image in images])]):
            on_notice(notice)
        known = yield from _find_done(images, output, choices, on_outcome)
        left = [index for index in range(len(images)) if index not in known]
        written = time.monotonic()

        def tell(index: int, outcome: ImageOutcome) -> None:
            known.setdefault(index, []).append(outcome)
            on_outcome(outcome)

        try:
            waiting = map(images.__getitem__, left)
            with closing(ahead(partial(_open, choices=choices), waiting, N_READERS, N_AHEAD)) as opened:
                for done, index in enumerate(left):
                    yield Progress("images", done, len(left), note=images[index].name)
                    file = next(opened)
                    yield from _count_file(images[index], file, output, choices, partial(tell, index))
                    if time.monotonic() - written > WRITE_EVERY_S:
                        check_there(output)
                        _write_so_far(output, known)
                        written = time.monotonic()
        except BaseException:
            with suppress(WriteError):  # what stopped the run is the better word
                check_there(output)
                _write_so_far(output, known, xlsx=choices.xlsx)
            raise
        outcomes = _in_order(known)
        _tell_made_way(outcomes, on_notice)
        check_there(output)
        yield from write_tables(output, outcomes, choices, choices.settings_text)
        note_report(output, choices.report, choices.settings_text)
    return outcomes


def told_channels(names: Sequence[str]) -> str:
    """Return a sentence on the channels that names of images tell; '' where they tell none or one."""
    channels = channel_names(names)
    if not channels:
        return ""
    return (
        f"Names tell of several channels ({few(channels)}); each file is counted by itself. To count in one "
        f"alone, count the file names *{channels[0]}*."
    )


def replacing_tables(output: Path, choices: CountChoices) -> AbstractContextManager[list[str]]:
    """Keep what was edited of the files that tell of all images; lend the sentences that tell of it."""
    paths = [output / SUMMARY, output / ALL_CELLS]
    if choices.xlsx:
        paths.append(output / SUMMARY_XLSX)
    if choices.report is not None:
        paths.append(choices.report)
    return replacing(paths, lambda path: mark_in(output / KEPT, path, output))


def write_tables(
    output: Path, outcomes: Sequence[ImageOutcome], choices: CountChoices, settings: str
) -> Task[None]:
    """Write what tells of all images; settings is a text for the report."""
    write_summary(output, outcomes, xlsx=choices.xlsx)
    yield Progress("table of all cells", 0, 1)
    join_tables(output, outcomes)
    if choices.report is not None:
        write_folder_report(choices.report, output, outcomes, settings)


def _write_so_far(output: Path, known: dict[int, list[ImageOutcome]], *, xlsx: bool = False) -> None:
    """Write the summary of what is done by now; not where somebody looks at it in Excel, for more follows."""
    with suppress(WriteError):
        write_summary(output, _in_order(known), xlsx=xlsx)


def _in_order(known: dict[int, list[ImageOutcome]]) -> tuple[ImageOutcome, ...]:
    return tuple(outcome for index in sorted(known) for outcome in known[index])


def _tell_made_way(outcomes: Sequence[ImageOutcome], on_notice: Callable[[str], None]) -> None:
    """Tell of which images the cells of a model count, though others were corrected by hand."""
    names = [one.image.name for one in outcomes if BESIDE in one.row]
    if names:
        on_notice(
            f"Counted again with other settings: the cells of the model count, not those corrected by hand: "
            f"{few(names)}. The corrected ones are kept too, as the column {BESIDE} says; "
            "'Apply earlier corrections' in Count a folder or 'cellwright correct' puts them back."
        )


def _find_done(
    images: Sequence[ListedImage],
    output: Path,
    choices: CountChoices,
    on_outcome: Callable[[ImageOutcome], None],
) -> Task[dict[int, list[ImageOutcome]]]:
    """Return the outcomes of the images that need not be counted, by their place in the list.

    Where others were counted in another way, the tables that tell of that are removed.
    """
    known = {}
    for index, image in enumerate(images):
        if index % LOOK_EVERY == 0:
            yield Progress("earlier results", index, len(images))
        found = outcomes_before(image, output, partial(_made, choices=choices))
        if found:
            known[index] = list(found)
        for outcome in found:
            on_outcome(outcome)
    left = [image for index, image in enumerate(images) if index not in known]
    if any(read_mark(done_file(image.name, output)) for image in left):
        forget_tables(output, choices.report)
    return known


def _made(image: ListedImage, choices: CountChoices) -> Made:
    inputs = choices.recipe.input_paths(image.name_in_paths)
    return Made(choices.fingerprint, tuple(map(facts_of, (image.path, *inputs))))


def _open(file: ListedImage, choices: CountChoices) -> _Opened:
    made = _made(file, choices)
    images = read_images(file.path, choices.recipe.axes or None)
    first = next(images)
    n_bytes = int(np.prod(first.shape)) * np.dtype(first.data.dtype).itemsize
    if n_bytes <= READ_AHEAD_BYTES:
        notices = filter(None, [missing_chunks(first.data)])  # of which pixels in memory tell no more
        first = replace(first, data=first.read(), notices=(*first.notices, *notices))
    return _Opened(made, chain([first], images))


def _count_file(
    file: ListedImage,
    opening: "Future[_Opened]",
    output: Path,
    choices: CountChoices,
    tell: Callable[[ImageOutcome], None],
) -> Task[None]:
    """Count the images of a file; tell what became of each."""
    parts: list[ListedImage] = []
    try:
        opened = opening.result()
        for image in opened.images:
            part = file.image(image)
            parts.append(part)
            made = _made(part, choices)
            made = made._replace(sources=(opened.made.sources[0], *made.sources[1:]))  # as it was before
            before: tuple[ImageOutcome, ...] = ()
            if part.part:  # else it is known that it is to be counted
                before = outcomes_before(part, output, lambda _, made=made: made)  # type: ignore[misc]
            if before:
                tell(before[0])
            else:
                tell((yield from _count_image(part, image, made, output, choices)))
    except Exception as error:  # noqa: BLE001 - whatever ails one file, the others are counted
        tell(_failed(file, error))
        return
    if parts[0].part:
        mark_parts(file, output, opened.made, parts)


def _count_image(
    image: ListedImage, pixels: Image, made: Made, output: Path, choices: CountChoices
) -> Task[ImageOutcome]:
    try:
        counted = yield from choices.count(pixels, image.name)
        if _made(image, choices).sources != made.sources:
            raise changed_meanwhile(image.path)
        check_there(output)
        begun = begun_of(image.name, output)
        before = begin_image(image.name, output, begun=begun, xlsx=choices.xlsx)
        files = choices.write(output, image.name, pixels, counted)
        row = summary_row(counted)
        row["notices"] = " ".join(filter(None, [row["notices"], *before.notices]))
        if before.beside:
            row[BESIDE] = before.beside
        write_thumbnail(output, image.name, pixels, counted.result)
        mark_done(image, output, made, files, row, before)
        begun.unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001
        return _failed(image, error)
    return ImageOutcome(image, row)


def _failed(image: ListedImage, error: Exception) -> ImageOutcome:
    """Return what is told of an image that failed; raise where all that follow would fail, too."""
    cause = error.__cause__
    if isinstance(error, WriteError) and isinstance(cause, OSError) and cause.errno in NO_ROOM:
        raise error
    if isinstance(error, MemoryError):
        return ImageOutcome(image, error="It does not fit into memory. Convert it to a .zarr folder.")
    return ImageOutcome(image, error=error_line(error))
