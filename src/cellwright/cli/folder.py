"""Folders on the command line: each image counted once, those that come later too, and a summary of all."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cellwright.cli.one_image import CountChoices, Counted, counted_task, write_counted
from cellwright.cli.progress import run_with_bar
from cellwright.core.data import Image, Result
from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.tasks import Task
from cellwright.files.image_list import ListedImage, list_images
from cellwright.files.zarr import is_zarr
from cellwright.inference.settings import FolderSettings

if TYPE_CHECKING:
    from cellwright.inference.folder import ImageOutcome

LOOK_EVERY_S = 2.0  # for new images; one whose size still changes waits


@dataclass(frozen=True, slots=True)
class RecipeCounter:
    """Counts, measures and writes every image of a folder in the same way."""

    choices: CountChoices

    @property
    def fingerprint(self) -> str:
        """What has to be the same for an image not to be counted again."""
        from importlib.metadata import version

        recipe = self.choices.recipe
        facts = {
            "version": version("napari-cellwright"),
            "models": [model.sha256 for model in self.choices.models],
            "recipe": asdict(replace(recipe, engine=replace(recipe.engine, device="auto"))),
            "tables": [self.choices.tables.xlsx, self.choices.tables.parquet],
        }
        return json.dumps(facts, sort_keys=True, default=str)

    def count(self, image: Image) -> Task[Counted]:
        """Return what an image holds, and what was measured of it."""
        return counted_task(image, self.choices)

    def write(self, folder: Path, name: str, image: Image, counted: Counted) -> Sequence[Path]:
        """Write the files of an image and return them."""
        tables = replace(self.choices.tables, output=folder)
        return write_counted(tables, name, image, counted, self.choices)

    def result(self, counted: Counted) -> Result:
        """Return what the summary tells of."""
        return replace(counted.result, notices=counted.notices)


def has_folders(paths: Sequence[Path]) -> bool:
    """Return whether there is a folder of images among the paths."""
    return any(path.is_dir() and not is_zarr(path) for path in paths)


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
        task = count_folder(images, output, RecipeCounter(choices), on_outcome=self._tell)
        run_with_bar(task, f"{len(images)} images")

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
    inside = [path for path in paths if output.resolve().is_relative_to(path.resolve())]
    if inside:
        raise SettingsError(f"Results must not go into {inside[0]}, which is counted. Name another folder.")
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
