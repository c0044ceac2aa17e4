"""Counting the images of folders: each once, also those that come while it watches."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cellwright.cli.count_table import Table
from cellwright.cli.progress import INTERRUPTED, run_with_bar
from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.folders.image_list import ListedImage, list_images
from cellwright.files.folders.results import FileFacts, check_output, facts_of
from cellwright.files.zarr import images_inside, is_zarr
from cellwright.inference.image_count import CountChoices, RecipeCounter
from cellwright.inference.settings import FolderSettings, StreamSettings

if TYPE_CHECKING:
    from cellwright.files.folders.results import ImageOutcome

LOOK_EVERY_S = 2.0  # for new images; one whose file still changes waits


def has_folders(paths: Sequence[Path]) -> bool:
    """Return whether there is a folder of images among the paths, or a plate."""
    return any(path.is_dir() and not (is_zarr(path) and not images_inside(path)) for path in paths)


def count_in_folders(
    paths: Sequence[Path], choices: CountChoices, settings: FolderSettings, table: Table
) -> None:
    """Count the images of folders; those that earlier runs have counted are told without counting again."""
    _refuse_single(choices)
    output = choices.tables.output
    if output is None:
        raise SettingsError("Counting a folder writes its results to another; name it with --output.")
    check_output(output, paths)
    outcomes = _Outcomes(table)
    facts: dict[Path, FileFacts] = {}
    try:
        while True:
            images = _images(paths, settings)
            if settings.watch:
                images, facts = _at_rest(images, facts)
            outcomes.count(images, output, choices)
            if not settings.watch:
                break
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        typer.echo("Stopped; the same command goes on where it was.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if outcomes.n_failed:
        typer.echo(f"{outcomes.n_failed} of the images failed.", err=True)
        raise typer.Exit(1)


def _refuse_single(choices: CountChoices) -> None:
    """Raise SettingsError where something is chosen that is for images named by themselves."""
    if choices.recipe.each_channel:
        raise SettingsError("In folders one channel is counted after the other. Name each by --channel.")
    if choices.recipe.stream != StreamSettings():
        raise SettingsError(
            "Of folders only large images are counted block by block, as they come. Leave --stream, "
            "--memory, --workers and --scheduler out, or count large images by their own names."
        )


class _Outcomes:
    """Tells of each image once, however often the folder is looked at."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._told: set[str] = set()
        self.n_failed = 0

    def count(self, images: Sequence[ListedImage], output: Path, choices: CountChoices) -> None:
        from cellwright.inference.folder import count_folder

        if all(image.name in self._told for image in images):
            return
        of_each = replace(choices, tables=replace(choices.tables, report=None))
        counter = RecipeCounter(of_each, choices.tables.report)  # one report, of them all
        task = count_folder(images, output, counter, on_outcome=self._tell)
        run_with_bar(task, f"{len(images)} images", stages=("earlier results", "images"))

    def _tell(self, outcome: "ImageOutcome") -> None:
        if outcome.image.name not in self._told:
            self._told.add(outcome.image.name)
            self.n_failed += bool(outcome.error)
            self._table.show_outcome(outcome)


def _images(paths: Sequence[Path], settings: FolderSettings) -> tuple[ListedImage, ...]:
    try:
        return list_images(paths, settings.pattern, settings.plate)
    except ReadError:
        if not settings.watch:
            raise
    return ()  # nothing has come yet


def _at_rest(
    images: Sequence[ListedImage], before: dict[Path, FileFacts]
) -> tuple[tuple[ListedImage, ...], dict[Path, FileFacts]]:
    """Return the images whose files are what they were at the last look, and what these are now."""
    now = {image.path: facts_of(image.path) for image in images}
    return tuple(image for image in images if before.get(image.path) == now[image.path]), now
