"""The ``cellwright`` command."""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cellwright.cli import models
from cellwright.cli.classify import train_classifier
from cellwright.cli.compare import compare
from cellwright.cli.convert import convert
from cellwright.cli.count import count
from cellwright.cli.evaluate import evaluate
from cellwright.cli.pretrain import pretrain
from cellwright.cli.train import train
from cellwright.core.errors import CellwrightError

app = typer.Typer(
    help="Count and outline cells in microscopy images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut long flags short
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (count, train, pretrain, train_classifier, evaluate, compare, convert):
    app.command()(command)
app.add_typer(models.app, name="models")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("napari-cellwright"))
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
