"""``cellwright correct``: cells of a counted image, corrected by hand, take the place of those counted."""

from pathlib import Path
from typing import Annotated

import typer

from cellwright.cli.output import run_with_bar


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

    def note(text: str) -> None:
        typer.echo(f"note: {text}", err=True)

    right = read_image(labels)
    for notice in right.notices:
        note(notice)
    row = run_with_bar(save_corrected(results, image, right.read(), on_notice=note), image).row
    n = row["count"]
    typer.echo(f"{image}  {n} cell{'s' * (n != 1)}, {row['corrected']} corrected by hand")
