"""``cellwright count``: images in; a table of counts, label images and tables of cells out.

In a folder each image is counted once, those that come later too.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.analysis import analysis_lines, analysis_row, echo_notices, with_saved
from cellwright.cli.flags import read_settings, refuse_foreign, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.core.data import Image, Result
from cellwright.core.errors import ReadError, SettingsError, error_line
from cellwright.files.folders.image_list import ListedImage, list_images
from cellwright.files.folders.results import check_output
from cellwright.files.zarr import images_inside, is_zarr
from cellwright.inference.image_count import (
    CountChoices,
    RecipeCounter,
    TableFiles,
    counted_task,
    streamed_task,
    write_alone,
)
from cellwright.inference.settings import EngineSettings, FolderSettings, InputFiles, StreamSettings
from cellwright.models import registry
from cellwright.ops.measure.settings import AnalysisSettings

if TYPE_CHECKING:
    from cellwright.files.folders.results import ImageOutcome
    from cellwright.ops.measure.analysis import Analysis

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended
LOOK_EVERY_S = 2.0  # for new images in a folder; one whose size still changes waits

SETTINGS: tuple[type[Any], ...] = (
    EngineSettings,
    *(family.settings for family in registry.FAMILIES.values()),
    AnalysisSettings,
    InputFiles,
    FolderSettings,
    StreamSettings,
)


@with_settings(*SETTINGS)
def count(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, .zarr folders, folders of these, or addresses of Zarr stores (https, s3).",
            show_default=False,
        ),
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="Name or folder of a model; give several to average them.  "
            f"[default: {registry.DEFAULT_FAMILY}]",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - typer copies it
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for <image>.labels.tif (or .density.tif), <image>.cells.csv and <image>.json."
        ),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Axes of the images, as letters of TCZYX; read from the file or guessed."),
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="Name or folder of a classifier that gives each cell its class.")
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            help="Part to count: first and end pixel of each axis, such as 0:3,10:200,30:400 of ZYX."
        ),
    ] = None,
    pixel_size: Annotated[
        str | None,
        typer.Option(help="Micrometres per pixel of ZYX, such as 2,0.5,0.5; read from the file."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="HTML file for a report: picture, number, plots, settings.")
    ] = None,
    xlsx: Annotated[bool, typer.Option("--xlsx", help="Write <image>.xlsx, too.")] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Write <image>.cells.parquet, too.")] = False,
    saved: Annotated[
        Path | None,
        typer.Option("--settings", help="File of settings to begin with; flags that are given go before it."),
    ] = None,
    save_settings: Annotated[
        Path | None, typer.Option(help="File to save all settings to, for --settings.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    **flags: Any,
) -> None:
    """Count the cells of images, or of the images in folders, and print how many there are."""
    folders = read_settings(FolderSettings, flags)
    in_folders = folders != FolderSettings() or (output is not None and has_folders(images))
    if not in_folders:
        prepare_output(images, output)
    named: dict[str, Any] = {"models": model, "axes": axes, "classifier": classifier}
    flags = with_saved(saved, flags, named | place_of(window, pixel_size))
    names = flags.pop("models") or [registry.DEFAULT_FAMILY]
    named = {name: flags.pop(name) or "" for name in ("axes", "classifier")}
    named |= {"window": tuple(map(tuple, flags.pop("window") or ()))}
    named |= {"pixel_size_um": tuple(flags.pop("pixel_size_um") or ())}
    choices = make_choices(names, flags)
    recipe = replace(choices.recipe, **named)
    tables, stream = TableFiles(output, report, xlsx, parquet), read_settings(StreamSettings, flags)
    choices = replace(choices, recipe=recipe, tables=tables, n_images=len(images), stream=stream)
    if recipe.classifier:
        check_classifier(recipe.classifier, choices)
    if save_settings is not None:
        from cellwright.inference.recipe import save_recipe

        save_recipe(save_settings, recipe)
    if in_folders:
        count_in_folders(images, choices, folders, as_json=as_json)
    else:
        count_all(images, choices, as_json=as_json)


def place_of(window: str | None, pixel_size: str | None) -> dict[str, Any]:
    """Return the part of the image and its pixel size as flags tell them, None where they do not.

    Raises
    ------
    SettingsError
        A flag is of another form.
    """
    found: dict[str, Any] = {"window": None, "pixel_size_um": None}
    if window is None and pixel_size is None:
        return found
    from cellwright.inference.recipe import parse_pixel_size, parse_window

    if window is not None:
        found["window"] = parse_window(window)
    if pixel_size is not None:
        found["pixel_size_um"] = parse_pixel_size(pixel_size)
    return found


def count_in_folders(
    images: list[Path], choices: CountChoices, folders: FolderSettings, *, as_json: bool
) -> None:
    """Count the images of folders; those that earlier runs have counted are told without counting again."""
    if choices.stream != StreamSettings():
        raise SettingsError(
            "The images of folders are counted in one piece each. Leave --stream, --memory, --workers and "
            "--scheduler out, or count large images by their own names."
        )
    table = Table(images, choices.title, as_json=as_json)
    try:
        n_failed = count_folders(images, choices, folders, table.show_outcome)
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on where it was.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if n_failed:
        typer.echo(f"{n_failed} of the images failed.", err=True)
        raise typer.Exit(1)


def count_all(images: list[Path], choices: CountChoices, *, as_json: bool) -> None:
    """Count image after image; one that fails is named, the others are still counted."""
    table = Table(images, choices.title, as_json=as_json)
    n_failed = 0
    for done, path in enumerate(images):
        try:
            count_one(path, choices, table, label=f"[{done + 1}/{len(images)}] {path.name}")
        except KeyboardInterrupt:
            typer.echo(f"Cancelled; {done - n_failed} of {len(images)} images were counted.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:  # noqa: BLE001 - whatever ails one image, the others are still counted
            n_failed += 1
            typer.echo(f"error: {path}: {error_line(error)}", err=True)
    if n_failed:
        typer.echo(f"{n_failed} of {len(images)} images failed.", err=True)
        raise typer.Exit(1)


def make_choices(names: list[str], flags: dict[str, Any]) -> CountChoices:
    """Return models and settings, checked before the first image is read.

    Raises
    ------
    CellwrightError
        A model, a device or a setting does not fit.
    """
    engine = read_settings(EngineSettings, flags)
    from cellwright.inference.context import load_models
    from cellwright.inference.device import choose
    from cellwright.inference.recipe import Recipe

    choose(engine.device)
    models = load_models(tuple(names))
    kind = registry.get(models[0].spec.family).settings
    refuse_foreign(flags, EngineSettings, kind, AnalysisSettings, InputFiles, FolderSettings, StreamSettings)
    settings, analysis = read_settings(kind, flags), read_settings(AnalysisSettings, flags)
    files = read_settings(InputFiles, flags)
    recipe = Recipe("", tuple(names), settings, engine, analysis=analysis, files=files)
    family = registry.get(models[0].spec.family)
    if recipe.is_analysed and family.gives != "instances":
        raise SettingsError(
            f"Single cells are measured; {family.name} gives only their {family.gives}. Choose another "
            "model, or leave the measurements out."
        )
    return CountChoices(models, recipe)


def check_classifier(name: str, choices: CountChoices) -> None:
    """Raise before the first image is read where classes cannot be given.

    Raises
    ------
    CheckpointError
        There is no such classifier.
    SettingsError
        The model finds no single cells.
    """
    from cellwright.models.classifier.spec import find_classifier

    find_classifier(name)
    family = registry.get(choices.models[0].spec.family)
    if family.gives != "instances":
        raise SettingsError(
            f"Classes belong to single cells; {family.name} gives only their {family.gives}. Choose another "
            "model, or leave the classifier out."
        )


def prepare_output(images: list[Path], output: Path | None) -> None:
    """Make the output folder, so that a place that cannot be written stops the run before it starts.

    Raises
    ------
    WriteError
        The folder cannot be made or written.
    SettingsError
        Two images would write the same files.
    """
    if output is None:
        return
    from cellwright.files.atomic import check_writable

    twice = [stem for stem, n in Counter(path.stem for path in images).items() if n > 1]
    if twice:
        raise SettingsError(
            f"Images that go to one output folder must differ in name; {', '.join(twice)} occurs more than "
            "once. Count them in separate runs."
        )
    check_writable(output)


def count_one(path: Path, choices: CountChoices, table: "Table", *, label: str) -> None:
    """Count the images in one file, write the files of each and print its row."""
    from cellwright.files.images import read_images

    for image in read_images(path, choices.recipe.axes or None):
        count_image(path, image, choices, table, label=label)


def count_image(path: Path, image: Image, choices: CountChoices, table: "Table", *, label: str) -> None:
    """Count an image, the only one of its file or one of several that have names of their own."""
    shown = path
    if image.name != path.stem:
        shown = path.with_name(image.name)
    if choices.streams(image):
        streamed = run_with_bar(streamed_task(path, image, choices), label)
        echo_notices(shown, streamed.notices)
        table.show(shown, streamed)
        return
    counted = run_with_bar(counted_task(image, choices), label)
    echo_notices(shown, counted.notices)
    try:
        echo_notices(shown, write_alone(path, image, counted, choices))
    finally:  # the count is known, whatever became of the files
        table.show(shown, counted.result, counted.analysis)


def interval_text(result: Result) -> str:
    """Return a count with its interval.

    Examples
    --------
    ``412.3 (390-436)``
    """
    low, high = result.interval or (result.count, result.count)
    return f"{result.count:.1f} ({low:.0f}-{high:.0f})"


class Table:
    """Prints one row per image as soon as it is known, aligned for people or as JSON for programs."""

    def __init__(self, images: list[Path], model: str, *, as_json: bool) -> None:
        self._model = model
        self._as_json = as_json
        self._widths = (max(5, *(len(str(path)) for path in images)), max(5, len(model)))
        self._has_heading = as_json

    def show(self, path: Path, result: Result, analysis: "Analysis | None" = None) -> None:
        """Print the row of an image."""
        from cellwright.files.tables import class_counts, plain_count
        from cellwright.inference.fit import in_short

        if self._as_json:
            typer.echo(json.dumps(self._json_row(path, result, analysis)))
            return
        self._show_heading()
        shown = str(plain_count(result.count))
        if result.interval is not None:
            shown = interval_text(result)
        self._print(str(path), self._model, shown, f"{result.provenance.seconds:.2f}", in_short(result.fit))
        for name, number in class_counts(result).items():
            self._print("", name, str(number), "")
        if analysis is not None:
            for name, number in analysis_lines(analysis):
                self._print("", name, str(number), "")

    def _json_row(self, path: Path, result: Result, analysis: "Analysis | None") -> dict[str, Any]:
        from cellwright.files.tables import class_counts, plain_count
        from cellwright.inference.fit import expectation

        row: dict[str, Any] = {"image": str(path), "model": self._model, "count": plain_count(result.count)}
        if result.cells.classes is not None:
            row["classes"] = class_counts(result)
        if result.interval:
            row["interval"] = [round(end, 1) for end in result.interval]
        if result.fit is not None:
            row |= {"fit": round(result.fit, 3), "expectation": expectation(result.fit)}
        if analysis is not None:
            row |= analysis_row(analysis)
        seconds = round(result.provenance.seconds, 3)
        return {**row, "seconds": seconds, "device": result.provenance.device}

    def show_outcome(self, outcome: "ImageOutcome") -> None:
        """Print the row of an image of a folder, or what went wrong with it."""
        from cellwright.inference.fit import in_short

        path, row = outcome.image.path, outcome.row
        if outcome.error:
            typer.echo(f"error: {path}: {outcome.error}", err=True)
            return
        if row.get("notices") and not outcome.was_done:
            typer.echo(f"note: {path}: {row['notices']}", err=True)
        if self._as_json:
            line = {"image": str(path), **outcome.image.plate, **row, "counted_before": outcome.was_done}
            typer.echo(json.dumps(line))
            return
        self._show_heading()
        seconds = f"{row['seconds']:.2f}"
        if outcome.was_done:
            seconds = "earlier"
        self._print(str(path), self._model, str(row["count"]), seconds, in_short(row.get("fit")))

    def _show_heading(self) -> None:
        """Print what the columns are, once."""
        if not self._has_heading:
            self._print("image", "model", "count", "seconds")
            self._has_heading = True

    def _print(self, image: str, model: str, n: str, seconds: str, remark: str = "") -> None:
        first, second = self._widths
        typer.echo(f"{image:<{first}}  {model:<{second}}  {n:>7}  {seconds:>7}  {remark}".rstrip())


def without_report(choices: CountChoices) -> CountChoices:
    """Return the choices for each image of a folder, whose report is one of them all."""
    return replace(choices, tables=replace(choices.tables, report=None))


def has_folders(paths: Sequence[Path]) -> bool:
    """Return whether there is a folder of images among the paths, or a plate."""
    return any(path.is_dir() and not (is_zarr(path) and not images_inside(path)) for path in paths)


Show = Callable[["ImageOutcome"], None]


def count_folders(paths: Sequence[Path], choices: CountChoices, settings: FolderSettings, show: Show) -> int:
    """Count the images of folders and tell of each as soon as it is done; return how many failed.

    Raises
    ------
    CellwrightError
        There is no image, no folder for the results, or it cannot be written.
    """
    output = _output(paths, choices)
    outcomes = _Outcomes(show)
    sizes: dict[Path, int] = {}
    while True:
        images = _images(paths, settings)
        if settings.watch:
            images, sizes = _at_rest(images, sizes)
        outcomes.count(images, output, choices)
        if not settings.watch:
            return outcomes.n_failed
        time.sleep(LOOK_EVERY_S)


class _Outcomes:
    """Tells of each image once, however often the folder is looked at."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._told: set[str] = set()
        self.n_failed = 0

    def count(self, images: Sequence[ListedImage], output: Path, choices: CountChoices) -> None:
        from cellwright.inference.folder import count_folder

        if all(image.name in self._told for image in images):
            return
        counter = RecipeCounter(without_report(choices), choices.tables.report)
        task = count_folder(images, output, counter, on_outcome=self._tell)
        run_with_bar(task, f"{len(images)} images", stages=("earlier results", "images"))

    def _tell(self, outcome: "ImageOutcome") -> None:
        if outcome.image.name not in self._told:
            self._told.add(outcome.image.name)
            self.n_failed += bool(outcome.error)
            self._show(outcome)


def _output(paths: Sequence[Path], choices: CountChoices) -> Path:
    """Return the folder of the results, which is none of those that are counted."""
    output = choices.tables.output
    if output is None:
        raise SettingsError("Counting a folder writes its results to another; name it with --output.")
    check_output(output, paths)
    return output


def _images(paths: Sequence[Path], settings: FolderSettings) -> tuple[ListedImage, ...]:
    try:
        return list_images(paths, settings.pattern, settings.plate)
    except ReadError:
        if not settings.watch:
            raise
    return ()  # nothing has come yet


def _at_rest(
    images: Sequence[ListedImage], before: dict[Path, int]
) -> tuple[tuple[ListedImage, ...], dict[Path, int]]:
    """Return the images whose size is what it was at the last look, and the sizes of now."""
    sizes: dict[Path, int] = {}
    for image in images:
        with suppress(OSError):
            sizes[image.path] = _size(image.path)
    at_rest = tuple(
        image for image in images if image.path in before and before[image.path] == sizes.get(image.path)
    )
    return at_rest, sizes


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size
