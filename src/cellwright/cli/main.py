"""The ``cellwright`` command."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cellwright.cli.count import count
from cellwright.cli.evaluate import compare, evaluate
from cellwright.cli.flags import GroupedCommand, refuse_idle
from cellwright.cli.interrupts import CANCELLED
from cellwright.cli.output import echo_note, run_with_bar
from cellwright.cli.train import pretrain, train, train_classifier
from cellwright.core.data import package_version
from cellwright.core.errors import CellwrightError
from cellwright.core.words import n_of
from cellwright.inference.settings import FlagRule
from cellwright.models import registry, store

ANOTHER = "another command"  # of those on models
MODELS_RULES = (
    FlagRule(("as_table",), without=("as_json", ANOTHER)),
    FlagRule(("as_json",), without=(ANOTHER,)),
    FlagRule(("author", "licence"), needs=("zoo",)),
    FlagRule(("zoo",), without=("as_onnx",)),
)
models_app = typer.Typer(invoke_without_command=True)


def correct(
    results: Annotated[Path, typer.Argument(help="The --output of a count of a folder.", show_default=False)],
    image: Annotated[str, typer.Argument(help="Image, as named in summary.csv.", show_default=False)],
    labels: Annotated[
        Path,
        typer.Argument(
            help="Label image of all its cells, corrected: 0 is background, and each cell has its own "
            "number.",
            show_default=False,
        ),
    ],
) -> None:
    """Put corrected cells in the place of those counted.

    They are measured as those were; summary and report follow. What the model had found is kept beside.
    """
    from cellwright.files.images import read_image
    from cellwright.inference.corrections import save_corrected

    right = read_image(labels, are_labels=True)
    for notice in right.notices:
        echo_note(notice)
    row = run_with_bar(save_corrected(results, image, right.read(), on_notice=echo_note), image).row
    typer.echo(f"{image}  {n_of(row['count'], 'cell', '')}, {row['corrected']} corrected by hand")


def convert(
    sources: Annotated[
        list[Path], typer.Argument(help="Files or folders of annotations.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(help="Format to write: labels, coco, labelme, yolo-segments, imagej-roi, geojson ..."),
    ],
    output: Annotated[Path, typer.Option(help="File to write; a folder where there are several.")],
    image: Annotated[
        Path | None, typer.Option(help="Image the cells belong to, where files do not give its size.")
    ] = None,
) -> None:
    """Convert annotated cells from one format to another."""
    from cellwright.files.convert import convert as convert_files

    for path, annotations in convert_files(sources, to, output, image).items():
        for annotation in annotations:
            for notice in annotation.notices:
                echo_note(notice)
        n_cells = sum(map(len, annotations))
        typer.echo(f"{path}  {n_cells} cells")


@models_app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the families and what each gives, as Markdown.")
    ] = False,
) -> None:
    """List, export or import models."""
    is_alone = context.invoked_subcommand is None
    refuse_idle(context, MODELS_RULES, [] if is_alone else [ANOTHER])
    if not is_alone:
        return
    if as_table:
        typer.echo(families_table())
    elif as_json:
        for entry in store.models():
            values = {"model": entry.name, "folder": str(entry.folder), **entry.spec.to_json()}
            typer.echo(json.dumps({**values, "scores": dict(entry.scores)}))
    else:
        _print_models()


@models_app.command("export")
def export_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or folder of a model.")],
    folder: Annotated[Path, typer.Argument(help="Folder for NAME.zip, or NAME-zoo.zip; made where missing.")],
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Write a package of the BioImage Model Zoo, which needs --author.")
    ] = False,
    as_onnx: Annotated[bool, typer.Option("--onnx", help="Write the network alone, as NAME.onnx.")] = False,
    author: Annotated[list[str], typer.Option(help="Who made the model, for --zoo; may be repeated.")] = [],  # noqa: B006 - typer copies it
    licence: Annotated[
        str, typer.Option(help="SPDX identifier of the licence of the weights, for --zoo.")
    ] = "BSD-3-Clause",
) -> None:
    """Write a model as one file.

    It is for cellwright on another machine, or for programs that run models of the BioImage Model Zoo.
    """
    refuse_idle(context, MODELS_RULES)
    if as_onnx:
        from cellwright.models.zoo import export_onnx

        path = export_onnx(name, folder / f"{Path(name).name}.onnx")
        typer.echo(f"The network is in {path}: image in, maps out, for any program that runs ONNX.")
        return
    path = folder / f"{Path(name).name}{'-zoo' if zoo else ''}.zip"  # neither takes the place of the other
    if zoo:
        from cellwright.models.zoo import export_package

        export_package(name, path, authors=tuple(author), licence=licence)
    else:
        store.export_model(name, path)
    typer.echo(f"The model is in {path}. Import it elsewhere with: cellwright models import {path}")


@models_app.command("import")
def import_model(
    source: Annotated[
        str, typer.Argument(help="Exported model, zoo package of cellwright, folder, or http address.")
    ],
    name: Annotated[str, typer.Option(help="Name for the model; that of the file when left out.")] = "",
) -> None:
    """Add a model to those chosen by name."""
    folder = store.import_model(source, name)
    typer.echo(f"The model is in {folder}. Use it with: cellwright count IMAGE --model {folder.name!r}")


def _print_models() -> None:
    for entry in store.models():
        low, high = entry.spec.diameter_range_px
        typer.echo(f"{entry.name}  ({entry.spec.family}, {entry.spec.preset})")
        typer.echo(f"    {entry.spec.title}")
        typer.echo(f"    cells of {low:g} to {high:g} px in diameter; others are rescaled")
        for score_name, score in entry.scores.items():
            typer.echo(f"    {score_name}: {score:.3f}")
        typer.echo(f"    {entry.folder}")
    for classifier in store.classifiers():
        typer.echo(f"{classifier.name}  (classifier: {', '.join(classifier.spec.classes)})")
        typer.echo(f"    {classifier.spec.title}")
        typer.echo(f"    {classifier.folder}")


def families_table() -> str:
    """Return the families of the registry, what each finds and the layers it gives, as a Markdown table."""
    rows = ["| family | finds | how | layers |", "|---|---|---|---|"]
    rows += [
        f"| `{family.name}` | {family.title} | {family.description} | {', '.join(family.returns)} |"
        for family in registry.FAMILIES.values()
    ]
    return "\n".join(rows)


app = typer.Typer(
    help="Count and outline cells in microscopy images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut long flags short
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (count, correct, train, pretrain, train_classifier, evaluate, compare, convert):
    app.command(cls=GroupedCommand)(command)
app.add_typer(models_app, name="models")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(package_version())
        raise typer.Exit


@app.callback()
def _base(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (``sys.argv`` when not given) and exit; errors a user can mend are one line."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its complaints come as ReadError
    try:
        app(args=arguments)
    except CellwrightError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a name that the system refuses, say, or a disk
        where = f" at {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror or error}{where}. Choose another file or folder.", err=True)
        sys.exit(1)
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer says nothing
            typer.echo(CANCELLED, err=True)
        raise
