"""The ``cellwright`` command."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cellwright.cli import models
from cellwright.cli.count import count
from cellwright.cli.evaluate import compare, evaluate
from cellwright.cli.flags import GroupedCommand
from cellwright.cli.interrupts import CANCELLED
from cellwright.cli.output import echo_note, run_with_bar
from cellwright.cli.train import pretrain, train, train_classifier
from cellwright.core.data import package_version
from cellwright.core.errors import CellwrightError


def correct(
    results: Annotated[Path, typer.Argument(help="The --output of a count of a folder.", show_default=False)],
    image: Annotated[str, typer.Argument(help="Image as summary.csv calls it.", show_default=False)],
    labels: Annotated[
        Path,
        typer.Argument(
            help="Label image of all its cells as they are right: 0 is background, each cell has a number of "
            "its own.",
            show_default=False,
        ),
    ],
) -> None:
    """Put corrected cells in the place of those counted.

    They are measured as those were; summary and report follow. What the model had found is kept beside.
    """
    from cellwright.files.images import read_image
    from cellwright.inference.corrections import save_corrected

    right = read_image(labels)
    for notice in right.notices:
        echo_note(notice)
    row = run_with_bar(save_corrected(results, image, right.read(), on_notice=echo_note), image).row
    n = row["count"]
    typer.echo(f"{image}  {n} cell{'s' * (n != 1)}, {row['corrected']} corrected by hand")


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
        Path | None, typer.Option(help="Image the cells belong to, where files do not tell its size.")
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


app = typer.Typer(
    help="Count and outline cells in microscopy images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut long flags short
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (count, correct, train, pretrain, train_classifier, evaluate, compare, convert):
    app.command(cls=GroupedCommand)(command)
app.add_typer(models.app, name="models")


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
    except SystemExit as end:
        if isinstance(getattr(end.__context__, "__cause__", None), KeyboardInterrupt):  # typer says nothing
            typer.echo(CANCELLED, err=True)
        raise
