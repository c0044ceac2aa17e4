"""An image of a counted folder corrected by hand: its files, its row and all that tells of the folder follow.

What the model had found is kept beside, as ``<image>.labels.counted.tif`` and so on. A count with other
settings keeps the corrected files under another name, as it does with all that was edited.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from cellwright.core.data import Cells, Image, Labels, Result
from cellwright.core.errors import WriteError
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import n_of
from cellwright.files.atomic import move, remove_folder, writing
from cellwright.files.folders.image_results import read_found, read_listed, read_result, take_blocks
from cellwright.files.folders.results import (
    ImageOutcome,
    Made,
    listed_in,
    mark_done,
    only_run,
    reported_in,
    summed_outcomes,
    whole_mark,
    write_thumbnail,
)
from cellwright.files.folders.written import (
    COUNTED,
    KEPT,
    Begun,
    FileFacts,
    counted_name,
    done_file,
    facts_of,
    keep_copies,
    name_in,
)
from cellwright.files.tables import write_table
from cellwright.inference.folder import replacing_tables, write_tables
from cellwright.inference.image_count import CountChoices, measured_task, summary_row, write_counted
from cellwright.inference.recipe import recipe_of
from cellwright.inference.settings import InputFiles
from cellwright.models.fit import CORRECTED
from cellwright.ops.labels import in_whole_numbers, pieces_notice
from cellwright.ops.matching import overlaps
from cellwright.ops.measure.analysis import Counted
from cellwright.ops.measure.blocks import misfit
from cellwright.ops.measure.cells_table import class_names, plain_count
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.settings import AnalysisSettings

SAME_PX = 1.0  # from centre to centre of a point that was not moved


def save_corrected(
    output: Path,
    name: str,
    cells: Result | Labels | str,
    *,
    opened_ns: int | None = None,
    on_notice: Callable[[str], None] = lambda _: None,
) -> Task[ImageOutcome]:
    """Put corrected cells in the place of those counted in an image of a folder; return what becomes of it.

    They are measured as the count did, and ``summary.csv`` and all that tells of the folder follow. Whatever
    stops it leaves whole files; what was corrected and is not in the summary yet, the next count keeps.

    ReadError where the image was not counted in this folder, or it or its files are no longer as they were
    then. SettingsError where it was counted block by block, or another image is called as what is kept of it.
    WriteError where the folder cannot be written, another program counts into it, or others have corrected
    the image.

    Parameters
    ----------
    name
        Of the image in ``summary.csv``.
    cells
        All cells that are right: labels of the pixels of the image, or a result with their classes. Cells
        that are as the model had found them keep their score, those in labels their class, too. Or the name
        of the file of those that made way for a count, as ``corrected_beside`` tells it.
    opened_ns
        When the mark of the image had changed last as these cells were opened: what others have corrected
        since is not written over. None overwrites it, and keeps a copy under another name.
    on_notice
        Given each sentence on what seems odd in the cells, or concerns no single image.
    """
    yield Progress("save", 0, 1)
    whole_mark(name, output)  # before anything is made in a folder that is another
    with only_run(output):
        kept = whole_mark(name, output)
        listed = listed_in(kept)
        image, choices = read_listed(listed, output), _choices_of(kept, output)
        part = choices.recipe.part_of(image)
        machine = read_result(output, name, part, as_counted=COUNTED in kept)
        if isinstance(cells, str):
            cells = read_result(output, name, part, beside=cells)
        given = _as_result(cells, part, machine)
        for notice in given.notices[len(machine.notices) :]:
            on_notice(notice)
        is_known = opened_ns == facts_of(done_file(name, output)).changed_ns
        if COUNTED in kept and not is_known and _differ(given, read_result(output, name, part)):
            if opened_ns is not None:
                raise WriteError(
                    f"{name} was corrected elsewhere since it was opened here. Remove its layers, open it "
                    "again, and correct that."
                )
            if kept["row"].get("corrected"):
                on_notice(keep_copies(name, output, kept["files"]))
        corrected = _compared(given, machine)
        counted = yield from measured_task(corrected.result, image, choices)
        counted, columns = _marked(counted, corrected, machine)
        yield Progress("write", 0, 1)
        row = summary_row(counted)
        n_corrected = counted.result.provenance.settings[CORRECTED]
        row = {"model": row["model"], "count": row["count"], "corrected": n_corrected, **row}
        _write(kept, image, counted, columns, row, choices)
        outcome = ImageOutcome(listed, row)
        yield from _sum_up(output, outcome, choices, on_notice)
    return outcome


def _differ(given: Result, there: Result) -> bool:
    """Return whether cells that were corrected before are not those that are given."""
    differs = _compared(given, there)
    return bool(differs.is_changed.any() or differs.n_removed)


def _choices_of(kept: Mapping[str, Any], output: Path) -> CountChoices:
    """Return how an image was counted and what was written of it, by its mark."""
    kept_choices = json.loads(kept["counter"])
    recipe, (xlsx, parquet) = kept_choices["recipe"], kept_choices["tables"]
    repeated = recipe_of(
        read_found(output / f"{kept['name']}.json"),
        analysis=AnalysisSettings(**recipe["analysis"]),
        files=InputFiles(**recipe["files"]),
        source=kept["path"],
        window=tuple((int(start), int(end)) for start, end in recipe["window"]),
    )
    return CountChoices((), repeated, output, xlsx=xlsx, parquet=parquet)


class _Corrected(NamedTuple):
    """Corrected cells beside those that the model had found."""

    result: Result
    is_drawn: NDArray[np.bool_]  # (N,): not as the model had found it
    is_changed: NDArray[np.bool_]  # (N,): that, or of another class
    n_removed: int


def _as_result(cells: Result | Labels, image: Image, machine: Result) -> Result:
    """Return corrected cells as a result that tells how they were found."""
    settings = dict(machine.provenance.settings)
    if isinstance(cells, Result):
        found = cells.cells
        if found.labels is not None and found.labels.shape != image.label_shape:
            raise misfit(image, found.labels.shape)
        if class_names(cells):
            settings["classes"] = class_names(cells)
        else:
            found = replace(found, classes=None)
    else:
        if np.shape(cells) != image.label_shape:
            raise misfit(image, np.shape(cells))
        cells = in_whole_numbers(np.asarray(cells))
        found = result_of_labels(cells, image, is_volume=machine.provenance.is_linked).result.cells
        notice = pieces_notice(cells, "the corrected labels")
        if notice:
            machine = replace(machine, notices=(*machine.notices, notice))
    provenance = replace(machine.provenance, settings=settings)
    return replace(machine, count=float(len(found)), cells=found, maps={}, provenance=provenance)


def _compared(found: Result, machine: Result) -> _Corrected:
    """Return which cells were corrected; those that were not have the score they had, and a class."""
    rows, n_removed = _rows_before(found.cells, machine.cells)
    is_drawn = rows < 0
    known = machine.cells
    cells = replace(found.cells, scores=np.append(known.scores, np.float32(1))[rows])  # -1 is the last
    if cells.labels is None:  # sizes of points are those that the model told
        is_known = rows >= 0
        areas, boxes = np.full(len(cells), np.nan, np.float32), cells.boxes.copy()
        areas[is_known], boxes[is_known] = known.areas[rows[is_known]], known.boxes[rows[is_known]]
        cells = replace(cells, areas=areas, boxes=boxes)
    if cells.classes is None and known.classes is not None:
        cells = replace(cells, classes=np.append(known.classes, np.int16(-1))[rows])
    found = replace(found, cells=cells)
    is_changed = is_drawn | (_class_of_each(found) != np.append(_class_of_each(machine), "")[rows])
    return _Corrected(found, is_drawn, is_changed, n_removed)


def _rows_before(cells: Cells, before: Cells) -> tuple[NDArray[np.intp], int]:
    """Return the row of the same cell before, (N,), -1 where there was none; and how many are gone."""
    rows = np.full(len(cells), -1, np.intp)
    if cells.labels is not None and before.labels is not None:
        iou = overlaps(cells.labels, before.labels).tocoo()
        is_same = iou.data == 1.0
        rows[iou.coords[0][is_same]] = iou.coords[1][is_same]
        return rows, len(before) - len(np.unique(iou.coords[1]))  # what others lie upon was changed
    if len(before) and len(cells):
        distances, nearest = KDTree(before.points).query(cells.points)
        rows = np.where(distances < SAME_PX, nearest, -1)
    return rows, max(0, len(before) - len(cells))  # a point that was moved is not gone


def _class_of_each(result: Result) -> NDArray[np.object_]:
    """Return the name of the class of each cell, (N,); empty where it has none."""
    numbers = result.cells.classes
    if numbers is None:
        numbers = np.full(len(result.cells), -1, np.int16)
    return np.array([*class_names(result), ""], object)[numbers]


def _marked(
    counted: Counted, corrected: _Corrected, machine: Result
) -> tuple[Counted, dict[str, NDArray[Any]]]:
    """Return what was measured, telling what was corrected, and the columns of the table that tell it."""
    result, analysis = counted.result, counted.analysis
    rows: Any = slice(None)
    if analysis is not None:
        rows = analysis.rows
    is_drawn, is_changed = corrected.is_drawn[rows], corrected.is_changed[rows]
    n = int(is_changed.sum()) + corrected.n_removed
    notice = f"{n_of(n, 'cell', 'd')} corrected by hand; the model had found {plain_count(machine.count)}."
    provenance = result.provenance.noting(**{CORRECTED: n})
    fit = None if n else machine.provenance.settings.get("expected_f1")  # of cells of the model alone
    result = replace(result, notices=(*result.notices, notice), provenance=provenance, fit=fit)
    columns = {"score": np.where(is_drawn, np.nan, result.cells.scores), "edited": is_changed}
    if analysis is not None:
        analysis = replace(analysis, result=result, table=analysis.table.assign(**columns))
    return Counted(result, analysis), columns


def _write(
    kept: Mapping[str, Any],
    image: Image,
    counted: Counted,
    columns: Mapping[str, NDArray[Any]],
    row: Mapping[str, Any],
    choices: CountChoices,
) -> None:
    """Put the files of an image in the place of those that were counted, which are kept, and mark it."""
    listed, output = listed_in(kept), choices.output
    assert output is not None
    place = output / listed.name
    with writing(place), TemporaryDirectory(prefix=".", suffix=".part", dir=output / KEPT) as folder:
        made = Path(folder) / "files"
        write_counted(replace(choices, output=made), place.name, image, counted)
        if counted.analysis is None:
            write_table(made / f"{place.name}.cells.csv", counted.result, columns)
        aside = kept.get(COUNTED) or _set_aside(output, kept["files"])
        files = take_blocks(made, place)
        write_thumbnail(output, listed.name, image, counted.result)
    sources = tuple(FileFacts(*one) for one in kept["sources"])
    before = Begun(tuple(kept["files"]), counted=tuple(aside))
    mark_done(listed, output, Made(kept["counter"], sources), files, row, before)


def _set_aside(output: Path, names: Iterable[str]) -> list[str]:
    """Rename the files of a count, which make way for corrected ones; return their new names."""
    renamed: list[tuple[Path, Path]] = []
    try:
        for path in (output / name for name in names):
            aside = counted_name(path)
            if aside.is_dir():  # of an earlier count
                remove_folder(aside)
            move(path, aside)
            renamed.append((path, aside))
    except OSError:  # a table is open in another program, say
        for path, aside in renamed:
            move(aside, path)
        raise
    return [name_in(output, aside) for _, aside in renamed]


def _sum_up(
    output: Path, outcome: ImageOutcome, choices: CountChoices, on_notice: Callable[[str], None]
) -> Task[None]:
    """Have all that tells of the folder follow what became of an image."""
    report, settings = reported_in(output)
    choices = replace(choices, report=report)
    try:
        with replacing_tables(output, choices) as notices:
            for notice in notices:
                on_notice(notice)
            yield from write_tables(output, summed_outcomes(output, outcome), choices, settings)
    except WriteError as error:
        raise WriteError(
            f"The cells of {outcome.image.name} are saved; summary and report of the folder are not: {error} "
            "Then save them again."
        ) from error
