"""One image on the command line: counted, classified and measured as asked for, and written."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cellwright.cli.analysis import TableFiles, recipe_texts, write_analysis
from cellwright.core.data import Image, Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.inference.settings import EngineSettings, StreamSettings

if TYPE_CHECKING:
    from cellwright.inference.recipe import Recipe
    from cellwright.models.protocol import CellModel
    from cellwright.ops.measure.analysis import Analysis

LARGE_PIXELS = 150_000_000  # labels of more are written block by block, where there is a folder for them


@dataclass(frozen=True, slots=True)
class CountChoices:
    """What is the same for every image of one run."""

    models: tuple["CellModel", ...]
    recipe: "Recipe"
    tables: TableFiles = field(default_factory=TableFiles)
    n_images: int = 1
    stream: StreamSettings = StreamSettings()  # noqa: RUF009 - frozen

    @property
    def title(self) -> str:
        """What to call the models in a table."""
        return " + ".join(Path(name).name for name in self.recipe.models)

    @property
    def settings(self) -> Any:
        """Settings of the models' family."""
        return self.recipe.settings

    @property
    def engine(self) -> EngineSettings:
        """How the network runs."""
        return self.recipe.engine

    @property
    def is_analysed(self) -> bool:
        """Whether more is asked for than a count."""
        return self.recipe.is_analysed or self.tables.is_wanted

    def streams(self, image: Image) -> bool:
        """Return whether an image is counted block by block.

        Raises
        ------
        SettingsError
            That was asked for together with what needs the whole image.
        """
        is_alone = not self.is_analysed and not self.recipe.classifier
        if self.stream == StreamSettings():
            return prod(image.label_shape) > LARGE_PIXELS and self.tables.output is not None and is_alone
        if self.tables.output is None:
            raise SettingsError("Counting block by block writes to a folder; name it with --output.")
        if not is_alone:
            raise SettingsError(
                "Counting block by block does not measure or classify cells yet. Leave out --measure and the "
                "like, or count a part of the image."
            )
        return True


class Counted(NamedTuple):
    """What an image holds, and what was measured of it, if anything."""

    result: Result
    analysis: "Analysis | None"

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences that the user should read."""
        if self.analysis is None:
            return self.result.notices
        return (*self.result.notices, *self.analysis.notices)


def counted_task(image: Image, choices: CountChoices) -> Task[Counted]:
    """Count, classify and measure an image as far as it was asked for."""
    from cellwright.inference.pipeline import count_cells

    recipe = choices.recipe
    result = yield from count_cells(image, recipe.models, recipe.settings, recipe.engine)
    if recipe.classifier:
        from cellwright.inference.classify import classify

        result = yield from classify(result, image, recipe.classifier, recipe.engine)
    if not choices.is_analysed:
        return Counted(result, None)
    from cellwright.inference.recipe import read_inputs
    from cellwright.ops.measure.analysis import analysis_task

    inputs = read_inputs(recipe.files, image, recipe.analysis.region_rule)
    analysis = yield from analysis_task(result, image, recipe.analysis, inputs)
    return Counted(analysis.result, analysis)


def streamed_task(path: Path, image: Image, choices: CountChoices) -> Task[Result]:
    """Count an image block by block; the result has its count and its notices, its cells are in files."""
    from cellwright.core.data import Cells
    from cellwright.inference.streaming import StreamJob, count_streamed

    recipe, output = choices.recipe, choices.tables.output
    assert output is not None
    source: Image | Path = image
    if image.name == path.stem:
        source = path  # which other processes can read, too
    job = StreamJob(source, output, recipe.models, recipe.settings, recipe.engine, recipe.axes or None)
    streamed = yield from count_streamed(job, choices.stream)
    none = Cells.empty(len(image.label_axes))
    return Result(float(streamed.count), none, streamed.provenance, notices=streamed.notices)


def write_counted(
    tables: TableFiles, name: str, image: Image, counted: Counted, choices: CountChoices
) -> list[Path]:
    """Write all files of an image that were asked for; return those that tell whether it is done.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    written: list[Path] = []
    if tables.output is not None:
        written += write_files(tables.output, name, image, counted.result)
    if counted.analysis is not None:
        recipe = replace(choices.recipe, image=image.source)
        written += write_analysis(tables, name, image, counted.analysis, recipe)
        report = tables.report_of(name, choices.n_images)
        if report is not None:
            from cellwright.files.report import write_report

            write_report(report, image, counted.analysis, recipe_texts(recipe))
    return written


def write_files(folder: Path, name: str, image: Image, result: Result) -> Sequence[Path]:
    """Write the labels or the density, the table and the provenance of a result; return their paths.

    Raises
    ------
    WriteError
        A file cannot be written.
    """
    from cellwright.files.images import write_labels, write_map
    from cellwright.files.tables import write_provenance, write_table

    written = []
    if result.cells.labels is not None:
        written.append(folder / f"{name}.labels.tif")
        write_labels(written[-1], result.cells.labels, image)
    for kind, values in result.maps.items():
        written.append(folder / f"{name}.{kind}.tif")
        write_map(written[-1], values, image)
    write_table(folder / f"{name}.cells.csv", result)
    write_provenance(folder / f"{name}.json", result)
    return [*written, folder / f"{name}.cells.csv", folder / f"{name}.json"]
