"""The ``cellwright`` command."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cellwright.cli import models
from cellwright.cli.correct import correct
from cellwright.cli.count import count
from cellwright.cli.evaluate import compare, evaluate
from cellwright.cli.flags import GroupedCommand
from cellwright.cli.interrupts import CANCELLED
from cellwright.cli.train import pretrain, train, train_classifier
from cellwright.core.data import package_version
from cellwright.core.errors import CellwrightError


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
                typer.echo(f"note: {notice}", err=True)
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
