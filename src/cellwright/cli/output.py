"""What commands show: a progress bar on stderr where that is a terminal, and the rows of a count.

Ctrl-C is heeded at each step.
"""

import gc
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cellwright.cli.interrupts import heeded_interrupts
from cellwright.core.data import Result
from cellwright.core.tasks import Progress, T, Task, ignore, run
from cellwright.core.words import shell_line
from cellwright.files.folders.written import BESIDE, MADE_WAY
from cellwright.files.zarr import address_of
from cellwright.models.fit import fit_columns, in_short_of
from cellwright.ops.measure.cells_table import class_counts, counted_planes, in_planes, plain_count

if TYPE_CHECKING:
    from cellwright.files.dataset.folder import Dataset
    from cellwright.files.folders.results import ImageOutcome
    from cellwright.ops.measure.analysis import Analysis


@contextmanager
def quick_loading() -> Iterator[None]:
    """Collect no garbage while modules and networks load, and take what is there then for no garbage ever.

    torch brings 200,000 objects, which Python would look through again and again, and once more at its end.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run_with_bar(
    task: Task[T],
    label: str,
    *,
    stages: tuple[str, ...] = (),
    on_progress: Callable[[Progress], None] = ignore,
) -> T:
    """Return the result of a task while a bar shows its steps; an interrupt frees what the task holds.

    The bar stands after the label, and moves in these stages alone, in all when there are none.
    """
    bar = _bar(label, stages) if sys.stderr.isatty() else nullcontext(ignore)
    with closing(task), heeded_interrupts() as check, bar as show:

        def tell(progress: Progress) -> None:
            check(progress)
            show(progress)
            on_progress(progress)

        return run(task, tell)


@contextmanager
def _bar(label: str, stages: tuple[str, ...]) -> Iterator[Callable[[Progress], None]]:
    """Lend a function that moves a bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    # stdout may be a pipe: rich would turn what is printed there to stderr
    with Bars(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bars:
        bar = bars.add_task(label, total=None, note="")
        stage = ""

        def show(progress: Progress) -> None:
            nonlocal stage
            if stages and progress.stage not in stages:
                return
            if progress.stage != stage:  # another stage has another pace
                stage = progress.stage
                bars.reset(bar)
            text = f"{label} · {stage}"
            bars.update(
                bar, description=text, completed=progress.done, total=progress.total, note=progress.note
            )

        yield show


def as_given(path: Path) -> str:
    """Return a path, or the address that it was made of, as the user wrote it."""
    return address_of(path) or str(path)


class Table:
    """Prints one row per image as soon as it is known, aligned for people or as JSON for programs."""

    def __init__(self, images: list[Path], model: str, *, as_json: bool) -> None:
        self._model = model
        self._as_json = as_json
        self._widths = (max(5, *(len(as_given(path)) for path in images)), max(5, len(model)))
        self._has_heading = as_json

    def show(self, path: Path, result: Result, analysis: "Analysis | None" = None) -> None:
        """Print the row of an image."""
        if self._as_json:
            typer.echo(_json_line(self._json_row(path, result, analysis)))
            return
        self._show_heading(as_given(path))
        shown = str(plain_count(result.count))
        if result.interval is not None:
            low, high = result.interval
            shown = f"{result.count:.1f} ({low:.0f}-{high:.0f})"
        how_well = in_short_of({**fit_columns(result), "notices": " ".join(result.notices)})
        remark = _remark(counted_planes(result), how_well)
        self._print(as_given(path), self._model, shown, f"{result.provenance.seconds:.2f}", remark)
        for name, number in class_counts(result).items():
            self._print("", name, str(number), "")
        if analysis is not None:
            for name, value in analysis_lines(analysis):
                self._print("", name, str(value), "")

    def _json_row(self, path: Path, result: Result, analysis: "Analysis | None") -> dict[str, Any]:
        row: dict[str, Any] = {
            "image": as_given(path),
            "model": self._model,
            "count": plain_count(result.count),
        }
        if result.cells.classes is not None:
            row["classes"] = class_counts(result)
        if result.interval:
            row["interval"] = [round(end, 1) for end in result.interval]
        row |= counted_planes(result)
        row |= fit_columns(result)
        if analysis is not None:
            row |= analysis_row(analysis)
        seconds = round(result.provenance.seconds, 3)
        return {**row, "seconds": seconds, "device": result.provenance.device}

    def show_outcome(self, outcome: "ImageOutcome") -> None:
        """Print the row of an image of a folder, or what went wrong with it."""
        image, row = outcome.image, outcome.row
        path = as_given(image.path.with_name(image.part) if image.part else image.path)
        if outcome.error:
            typer.echo(f"error: {path}: {outcome.error}", err=True)
            return
        if row.get("notices") and not outcome.was_done:
            echo_note(f"{path}: {row['notices']}")
        if self._as_json:
            line = {"image": path, **outcome.image.plate, **row, "counted_before": outcome.was_done}
            typer.echo(_json_line(line))
            return
        self._show_heading(path)
        seconds = "earlier" if outcome.was_done else f"{row['seconds']:.2f}"
        remark = in_short_of(row)
        if "corrected" in row:
            remark = f"{row['corrected']} corrected by hand"
        elif BESIDE in row:
            remark = MADE_WAY
        self._print(path, self._model, str(row["count"]), seconds, _remark(row, remark))

    def _show_heading(self, image: str) -> None:
        """Print the heading above the first row, which tells how long the names in a folder are."""
        if not self._has_heading:
            self._widths = (max(self._widths[0], len(image)), self._widths[1])
            self._print("image", "model", "count", "seconds")
            self._has_heading = True

    def _print(self, image: str, model: str, n: str, seconds: str, remark: str = "") -> None:
        first, second = self._widths
        typer.echo(f"{image:<{first}}  {model:<{second}}  {n:>7}  {seconds:>7}  {remark}".rstrip())


def _remark(planes: Mapping[str, Any], remark: str) -> str:
    """Return what stands behind a count: the frames or slices that it is the sum over, and the remark."""
    return " · ".join(filter(None, (in_planes(planes).strip(), remark)))


def _json_line(row: dict[str, Any]) -> str:
    """Return a row as JSON, which has no NaN: what is not known is null."""
    return json.dumps(json.loads(json.dumps(row), parse_constant=lambda _: None))


def analysis_row(analysis: "Analysis") -> dict[str, Any]:
    """Return what an analysis adds to the JSON object of an image."""
    row: dict[str, Any] = {}
    if "regions" in analysis.table:
        row["regions"] = analysis.counts.to_dict("records")
    if analysis.copositive is not None:
        row["thresholds"] = dict(analysis.thresholds)
        row["markers"] = dict(
            zip(analysis.copositive["markers"], map(int, analysis.copositive["count"]), strict=True)
        )
    if analysis.n_nuclei_outside is not None:
        row["cells_without_nucleus"] = int((analysis.table["nuclei"] == 0).sum())
        row["nuclei_in_no_cell"] = analysis.n_nuclei_outside
    if analysis.tracks is not None:
        row["tracks"], row["divisions"] = analysis.tracks.count, analysis.tracks.n_divisions
    return row


def analysis_lines(analysis: "Analysis") -> list[tuple[str, float]]:
    """Return the lines that an analysis adds to the printed table, each a name and a number."""
    lines: list[tuple[str, float]] = []
    if "regions" in analysis.table:
        for row in analysis.counts.to_dict("records"):
            place = "".join(f" {axis}={row[axis]}" for axis in "tz" if axis in row)
            lines.append((f"{row['region']}{place}", plain_count(row["count"])))
    for name, value in analysis_row(analysis).items():
        if isinstance(value, int):
            lines.append((name.replace("_", " "), value))
        elif name == "markers":
            lines += list(value.items())
    return lines


def read_folder(folder: Path) -> "Dataset":
    """Return a dataset, and print how its images were found where the folder itself does not say."""
    from cellwright.files.dataset.folder import read_dataset

    dataset = read_dataset(folder)
    if dataset.notice:
        echo_notices(folder, (dataset.notice,))
    return dataset


def echo_made(what: str, place: Path, *words: str) -> None:
    """Print where something that was made is, and the command that takes it."""
    typer.echo(f"The {what} is in {place}. Use it with: {shell_line(('cellwright', *words))}")


def echo_note(notice: str) -> None:
    """Print what the user should know."""
    typer.echo(f"note: {notice}", err=True)


def echo_notices(path: Path, notices: tuple[str, ...]) -> None:
    """Print what the user should know about an image."""
    for notice in notices:
        echo_note(f"{as_given(path)}: {notice}")
