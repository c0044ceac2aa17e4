"""``cellwright convert``: annotations of one format to another."""

from pathlib import Path
from typing import Annotated

import typer


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
