"""``cellwright count``: images in; a table of counts, label images and tables of cells out."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.flags import read_settings, refuse_foreign, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.core.data import Image, Result
from cellwright.core.errors import SettingsError, error_line
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry

if TYPE_CHECKING:
    from cellwright.models.protocol import CellModel

INTERRUPTED = 130  # what shells give for a program that Ctrl-C ended

SETTINGS: tuple[type[Any], ...] = (
    EngineSettings,
    *(family.settings for family in registry.FAMILIES.values()),
)


@dataclass(frozen=True, slots=True)
class Choices:
    """What is the same for every image of one run."""

    models: tuple["CellModel", ...]
    names: tuple[str, ...]
    settings: Any
    engine: EngineSettings
    axes: str | None = None
    output: Path | None = None
    classifier: str | None = None

    @property
    def title(self) -> str:
        """What to call the models in a table."""
        return " + ".join(Path(name).name for name in self.names)


@with_settings(*SETTINGS)
def count(
    images: Annotated[list[Path], typer.Argument(help="Image files or .zarr folders.", show_default=False)],
    model: Annotated[
        list[str], typer.Option(help="Name or folder of a model; give several to average them.")
    ] = [registry.DEFAULT_FAMILY],  # noqa: B006 - typer copies it
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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per image.")] = False,
    **flags: Any,
) -> None:
    """Count the cells of images and print how many there are."""
    prepare_output(images, output)
    choices = replace(make_choices(model, flags), axes=axes, output=output, classifier=classifier)
    if classifier is not None:
        check_classifier(classifier, choices)
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


def make_choices(names: list[str], flags: dict[str, Any]) -> Choices:
    """Return models and settings, checked before the first image is read.

    Raises
    ------
    CellwrightError
        A model, a device or a setting does not fit.
    """
    engine = read_settings(EngineSettings, flags)
    from cellwright.inference.context import load_models
    from cellwright.inference.device import choose

    choose(engine.device)
    models = load_models(tuple(names))
    kind = registry.get(models[0].spec.family).settings
    refuse_foreign(flags, EngineSettings, kind)
    return Choices(models, tuple(names), read_settings(kind, flags), engine)


def check_classifier(name: str, choices: Choices) -> None:
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


def count_one(path: Path, choices: Choices, table: "Table", *, label: str) -> None:
    """Count one image, write its files and print its row."""
    from cellwright.files.images import read_image
    from cellwright.inference.pipeline import count_cells

    image = read_image(path, choices.axes)
    result = run_with_bar(count_cells(image, choices.names, choices.settings, choices.engine), label)
    if choices.classifier is not None:
        from cellwright.inference.classify import classify

        result = run_with_bar(classify(result, image, choices.classifier, choices.engine), label)
    for notice in result.notices:
        typer.echo(f"note: {path}: {notice}", err=True)
    try:
        if choices.output is not None:
            write_files(choices.output, path.stem, image, result)
    finally:  # the count is known, whatever became of the files
        table.show(path, result)


def write_files(folder: Path, stem: str, image: Image, result: Result) -> None:
    """Write the labels or the density, the table and the provenance of a result.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    from cellwright.files.images import write_labels, write_map
    from cellwright.files.tables import write_provenance, write_table

    if result.cells.labels is not None:
        write_labels(folder / f"{stem}.labels.tif", result.cells.labels, image)
    for name, values in result.maps.items():
        write_map(folder / f"{stem}.{name}.tif", values, image)
    write_table(folder / f"{stem}.cells.csv", result)
    write_provenance(folder / f"{stem}.json", result)


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

    def show(self, path: Path, result: Result) -> None:
        """Print the row of an image."""
        from cellwright.files.tables import class_counts, plain_count

        n, seconds = plain_count(result.count), result.provenance.seconds
        if self._as_json:
            row: dict[str, Any] = {"image": str(path), "model": self._model, "count": n}
            if result.cells.classes is not None:
                row["classes"] = class_counts(result)
            if result.interval:
                row["interval"] = [round(end, 1) for end in result.interval]
            typer.echo(json.dumps({**row, "seconds": round(seconds, 3), "device": result.provenance.device}))
            return
        if not self._has_heading:
            self._print("image", "model", "count", "seconds")
            self._has_heading = True
        shown = str(n) if result.interval is None else interval_text(result)
        self._print(str(path), self._model, shown, f"{seconds:.2f}")
        for name, number in class_counts(result).items():
            self._print("", name, str(number), "")

    def _print(self, image: str, model: str, n: str, seconds: str) -> None:
        first, second = self._widths
        typer.echo(f"{image:<{first}}  {model:<{second}}  {n:>7}  {seconds:>7}")
