"""One image counted, classified and measured as asked for, and written; of a folder each in the same way."""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np

from cellwright.core.data import ArrayLike, Image, Result, package_version
from cellwright.core.errors import SettingsError, repeated
from cellwright.core.tasks import Task
from cellwright.files.atomic import check_writable, plain_name
from cellwright.files.folders.image_list import short_name
from cellwright.files.folders.image_results import blocks_folder, take_blocks
from cellwright.files.folders.written import Begun, begin_image, mark_in, mark_written, replacing
from cellwright.files.images import write_labels, write_map
from cellwright.files.report import PICTURE_PX, ReportExtras, write_density_report, write_report
from cellwright.files.tables import (
    settings_table,
    write_csv,
    write_parquet,
    write_provenance,
    write_table,
    write_xlsx,
)
from cellwright.files.zarr import open_array, small_level
from cellwright.inference.recipe import Recipe, read_inputs, texts_to_repeat
from cellwright.inference.settings import LARGE_PIXELS, StreamSettings
from cellwright.models import store
from cellwright.models.fit import fit_columns
from cellwright.ops.geometry.axes import channel_numbers
from cellwright.ops.measure.analysis import Analysis, Counted, analysis_task
from cellwright.ops.measure.blocks import n_channels
from cellwright.ops.measure.cells_table import cells_table, class_counts, counted_planes, plain_count

if TYPE_CHECKING:
    from cellwright.models.protocol import CellModel

PLACES = ("t", "z", "y", "x", "orientation_deg")  # whose mean tells nothing: -89° and 89° are nearly one
SIZES = ("diameter_px", "diameter_um")  # whose median the summary tells
FOLDER = "cellwright results"  # beside a large image, where no other folder is named


@dataclass(frozen=True, slots=True)
class CountChoices:
    """What is the same for every image of one run, and which files are written of each."""

    models: tuple["CellModel", ...]
    recipe: Recipe
    output: Path | None = None  # folder; None writes only what is named here, into the current folder
    report: Path | None = None  # HTML file of the report: of a folder, or with the name of each of several
    xlsx: bool = False  # whether to write ``<image>.xlsx`` and ``<image>.cells.parquet``
    parquet: bool = False
    n_images: int = 1

    def __post_init__(self) -> None:
        if self.report is not None and self.report.is_dir():
            raise SettingsError(f"A report is one HTML file; {self.report} is a folder. Name a file in it.")
        if self.report is not None and self.report.suffix.lower() not in ("", ".html", ".htm"):
            raise SettingsError(f"A report is an HTML file; got {self.report}. Give it a name with .html.")

    @property
    def title(self) -> str:
        """What to call the models in a table."""
        return " + ".join(Path(name).name for name in self.recipe.models)

    @property
    def has_tables(self) -> bool:
        """Whether anything is to be written that needs an analysis."""
        return self.report is not None or self.xlsx or self.parquet

    @property
    def is_analysed(self) -> bool:
        """Whether more is asked for than a count."""
        return self.recipe.is_analysed or self.has_tables

    @property
    def has_files(self) -> bool:
        """Whether anything is to be written of an image that is counted in one piece."""
        return self.output is not None or self.has_tables

    def report_of(self, stem: str) -> Path | None:
        """Return where the report of one of several images goes."""
        if self.report is None or self.n_images == 1:
            return self.report
        return self.report.with_name(f"{self.report.stem}.{stem}{self.report.suffix}")

    def apart(self, stem: str) -> list[Path]:
        """Return the files of an image that do not lie in the folder of the results."""
        files = [self.report_of(stem)]
        if self.output is None and self.xlsx:
            files.append(Path(f"{stem}.xlsx"))
        if self.output is None and self.parquet:
            files.append(Path(f"{stem}.cells.parquet"))
        return [path for path in files if path is not None]

    def streams(self, image: Image) -> bool:
        """Return whether an image is counted block by block.

        SettingsError where that was asked for together with what needs the whole image.
        """
        if self.recipe.stream == StreamSettings():
            return prod(image.label_shape) > LARGE_PIXELS and not self.recipe.window
        if self.recipe.window:
            raise SettingsError(
                "A part given by --window is read and counted in one piece. Leave --stream and its settings "
                "out, or leave the window out and count in --regions."
            )
        return True

    @property
    def fingerprint(self) -> str:
        """What has to be the same for an image of a folder not to be counted again."""
        values = {**asdict(self.recipe), "engine": self.recipe.engine.facts}
        del values["stream"], values["each_channel"]  # which are for named files
        classifier = ""
        if self.recipe.classifier:
            classifier = store.classifier_of(self.recipe.classifier).weights_sha256
        facts = {
            "version": package_version(),
            "models": [model.sha256 for model in self.models],
            "classifier": classifier,
            "recipe": values,
            "tables": [self.xlsx, self.parquet],
        }
        return json.dumps(facts, sort_keys=True, default=str)

    @property
    def settings_text(self) -> str:
        """A text for the report of a folder that tells how images are counted."""
        models = {model.spec.title: model.sha256 for model in self.models}
        return json.dumps({"models": models, **asdict(self.recipe)}, indent=1, default=str)

    def count(self, image: Image, name: str) -> Task[Counted]:
        """Return what an image of a folder holds, and what was measured of it; a large one block by block."""
        image, each = self.recipe.joined(image), replace(self, report=None)  # that is of the folder
        if self.output is None or not each.streams(image):
            return counted_task(image, each)
        recipe = replace(self.recipe, files=self.recipe.files.of_image(image.name))
        each = replace(each, recipe=recipe, output=blocks_folder(self.output, name))
        return streamed_task(Path(), replace(image, name=Path(name).name), each, is_summed=True)

    def write(self, folder: Path, name: str, image: Image, counted: Counted) -> Sequence[Path]:
        """Write the files of an image of a folder; return them. Those of a large one are there already."""
        if counted.folder is not None:
            return take_blocks(counted.folder, folder / name)
        return write_counted(replace(self, output=folder, report=None), name, image, counted)


def channels_to_count(image: Image, choices: CountChoices) -> list[tuple[Image, CountChoices]]:
    """Return the image, or where channels are counted one by one, once for each with the choices for it.

    SettingsError where it does not have the channels, or has none.
    """
    if not choices.recipe.each_channel:
        return [(image, choices)]
    engine = choices.recipe.engine
    if engine.channel is not None:
        raise SettingsError(
            f"Channels are counted one by one, or channel {engine.channel} alone. Leave --channel or "
            "--each-channel out; --channels names those that are counted one by one."
        )
    found = []
    names = _channel_file_names(image, n_channels(image))
    for number in channel_numbers(image, engine.channels or range(len(names))):
        called = names[number]
        recipe = replace(choices.recipe, engine=replace(engine, channel=number, channels=()))
        recipe = replace(recipe, files=recipe.files.of_image(image.name), each_channel=False)
        own = replace(choices, recipe=recipe, n_images=choices.n_images + 1)  # each report has its own name
        found.append((replace(image, name=f"{image.name}_{called}"), own))
    return found


def _channel_file_names(image: Image, n_channels: int) -> list[str]:
    """Return what the files of each channel are called after; no two are the same on any system."""
    numbered = [f"ch{number}" for number in range(n_channels)]
    if not image.channel_names:
        return numbered
    names = []
    for given, number in zip(image.channel_names, numbered, strict=True):
        plain = number
        if re.search(r"[^\W_]", given):  # else nothing is left of it in the name of a file
            plain = plain_name(given)
        names.append(plain)
    twice = repeated(name.casefold() for name in names)
    return [
        f"{name}_{number}" if name.casefold() in twice else name
        for name, number in zip(names, numbered, strict=True)
    ]


def counted_task(image: Image, choices: CountChoices) -> Task[Counted]:
    """Count, classify and measure an image as far as it was asked for."""
    from cellwright.inference.classify import classify  # both load torch
    from cellwright.inference.pipeline import count_cells

    recipe = choices.recipe
    image = recipe.image_of(image)
    part = recipe.part_of(image)
    result = yield from count_cells(part, recipe.models, recipe.settings, recipe.engine)
    if recipe.classifier:
        result = yield from classify(result, part, recipe.classifier, recipe.engine)
    if recipe.window:
        result = replace(result, offset=recipe.offset)
    return (yield from measured_task(result, image, choices))


def measured_task(result: Result, image: Image, choices: CountChoices) -> Task[Counted]:
    """Measure the cells of an image as far as it was asked for."""
    recipe = choices.recipe
    needs_cells = recipe.is_analysed or choices.xlsx or choices.parquet  # a report tells of a density, too
    if not choices.is_analysed or (result.gives == "density" and not needs_cells):
        return Counted(result, None)
    if result.gives == "density" and choices.parquet:
        raise SettingsError("A density has no single cells to tabulate. Leave --parquet out.")
    inputs = read_inputs(recipe.files, image, recipe.analysis.region_rule)
    analysis = yield from analysis_task(result, image, recipe.analysis, inputs)
    return Counted(analysis.result, analysis)


def streamed_task(
    path: Path, image: Image, choices: CountChoices, *, is_summed: bool = False
) -> Task[Counted]:
    """Count an image block by block and write its files; its cells are in these alone.

    Without a folder for them they go beside the image, and a notice says so. The table of what was measured
    has all columns where it ``is_summed``.
    """
    from cellwright.inference.streaming.plan import StreamJob
    from cellwright.inference.streaming.run import count_streamed

    recipe, output = choices.recipe, choices.output
    notices = []
    if output is None:
        output = folder_beside(image)
        notices = [f"The image was counted block by block, so its cells were written to {output}."]
    source: Image | Path = image
    if image.name == path.stem and not image.source_files:
        source = path  # which other processes can read, too
    whole_table = choices.has_tables or (is_summed and choices.is_analysed)
    job = StreamJob(source, output, recipe, whole_table)
    if job.family.gives == "density":  # its report needs no cells
        if recipe.is_analysed:
            raise SettingsError(
                "A density is counted in regions in one piece, and this image is counted block by block. "
                "Leave --stream out, or count a part of a large image by --window."
            )
        job = replace(job, whole_table=choices.xlsx or choices.parquet)
    streamed = yield from count_streamed(
        job, partial(_write_streamed, replace(choices, output=output), image)
    )
    if not choices.is_analysed:
        streamed = streamed._replace(analysis=None)
    return streamed.with_notices(notices)._replace(folder=output)


def folder_beside(image: Image) -> Path:
    """Return the folder of the results of a large image: beside its file, else among the temporary files."""
    if image.source and Path(image.source).exists():
        folder = Path(image.source).absolute().parent / FOLDER
        try:
            check_writable(folder)
        except Exception:  # noqa: BLE001 - wherever that is, there is another place
            return Path(gettempdir()) / FOLDER
        return folder
    return Path(gettempdir()) / FOLDER


def _write_streamed(choices: CountChoices, image: Image, streamed: Counted) -> tuple[list[Path], list[str]]:
    """Write what a count block by block does not write itself: the tables of an analysis, and the report.

    Returns the files in the folder, and what the user should know.
    """
    analysis = streamed.analysis
    if streamed.labels is None or not choices.is_analysed:
        return [], []
    image = choices.recipe.image_of(image)
    written, labels = [], open_array(streamed.labels)
    if analysis is not None:
        written = write_analysis(choices, image.name, image, analysis, labels)
    report, texts = choices.report_of(image.name), recipe_texts(choices.recipe, image)
    with replacing(choices.apart(image.name), _mark_apart) as kept:
        if report is not None and analysis is not None:
            write_report(report, image, analysis, texts, ReportExtras(labels=labels))
        elif report is not None:
            smaller = small_level(streamed.labels, PICTURE_PX)
            write_density_report(report, image, streamed.result, texts, smaller)
    return written, kept


def _mark_apart(path: Path) -> Path:
    """Return where it is kept what was written into a file that lies in no folder of results."""
    return mark_in(store.user_folder().parent / "written", path)


def write_counted(choices: CountChoices, name: str, image: Image, counted: Counted) -> list[Path]:
    """Write all files of an image that were asked for; return those that tell whether it is done."""
    written: list[Path] = []
    image = choices.recipe.image_of(image)
    if choices.output is not None:
        written += write_files(choices.output, name, choices.recipe.part_of(image), counted.result)
    if counted.analysis is not None:
        written += write_analysis(choices, name, image, counted.analysis)
    report = choices.report_of(name)
    if report is not None:
        texts = recipe_texts(choices.recipe, image)
        if counted.result.gives == "density":
            counts = None if counted.analysis is None else counted.analysis.counts
            write_density_report(report, image, counted.result, texts, counts=counts)
        elif counted.analysis is not None:
            write_report(report, image, counted.analysis, texts)
    return written


def write_alone(image: Image, counted: Counted, choices: CountChoices) -> tuple[str, ...]:
    """Write all files of an image that is none of a folder; return what the user should know of them.

    Files that were changed by hand since they were written are kept under another name.
    """
    output, name, before = choices.output, short_name(image.name), Begun()
    with replacing(choices.apart(name), _mark_apart) as kept:
        if output is not None:
            before = begin_image(name, output, xlsx=choices.xlsx)
        written = write_counted(choices, name, image, counted)
    if output is not None:
        mark_written(name, output, written)
        return (*before.notices, *kept)
    if written:
        kept.append(f"Written into {Path.cwd()}: {', '.join(map(str, written))}.")
    return tuple(kept)


def write_files(folder: Path, name: str, image: Image, result: Result) -> Sequence[Path]:
    """Write the labels or the density, the table and the provenance of a result; return their paths."""
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


def write_analysis(
    choices: CountChoices, stem: str, image: Image, analysis: Analysis, streamed: ArrayLike | None = None
) -> list[Path]:
    """Write the tables of an analysis, and the tracks of a time series; return the files of the tables.

    Of cells that were counted block by block the labels, ``streamed``, and their tables are there already.
    """
    tables, written = tables_of(analysis), []
    folder = choices.output or Path()
    if choices.output is not None:
        for name, table in tables.items():
            if streamed is None or name != "cells":
                written.append(folder / f"{stem}.{name}.csv")
                write_csv(written[-1], table)
        if write_tracks(folder / f"{stem}_RES", image, analysis, streamed):
            written.append(folder / f"{stem}_RES")
    if choices.xlsx:
        settings = settings_table(analysis.result, recipe_texts(choices.recipe, image))
        written.append(folder / f"{stem}.xlsx")
        write_xlsx(written[-1], {**tables, "settings": settings})
    if choices.parquet and streamed is None:
        written.append(folder / f"{stem}.cells.parquet")
        write_parquet(written[-1], analysis.table)
    return written


def recipe_texts(recipe: Recipe, image: Image) -> dict[str, str]:
    """Return the texts that repeat the result of an image; none where it has no file of its own."""
    if not image.source:
        return {}
    return texts_to_repeat(lambda: replace(recipe, image=image.source))


def tables_of(analysis: Analysis) -> dict[str, Any]:
    """Return the tables of an analysis by the name of their file or sheet."""
    tables = {"cells": analysis.table, "counts": analysis.counts}
    if analysis.result.gives == "density":
        del tables["cells"]
    if analysis.copositive is not None:
        tables["markers"] = analysis.copositive
    if analysis.lineages is not None:
        tables["lineages"] = analysis.lineages
    return tables


def write_tracks(folder: Path, image: Image, analysis: Analysis, streamed: ArrayLike | None = None) -> bool:
    """Write tracks as a folder of the Cell Tracking Challenge, in place of those of an earlier count.

    Returns whether there are any; labels on disk that are too large to be taken together have none.

    WriteError where the folder is there already with something else in it, or cannot be written.
    """
    labels = analysis.result.cells.labels
    if analysis.tracks is None or (labels is None and streamed is None):
        return False
    from cellwright.files.formats.image_annotation import ImageAnnotation
    from cellwright.files.formats.tracking_challenge import replace_results

    if labels is not None:
        numbered = analysis.tracks.relabelled(labels)
    elif streamed is None or prod(streamed.shape) > LARGE_PIXELS:
        return False
    else:
        rows = np.argsort(analysis.table["label"].to_numpy())
        known = np.concatenate([[0], analysis.table["label"].to_numpy()[rows]])
        tracks = np.concatenate([[0], analysis.tracks.numbers[rows]]).astype(np.int32)
        numbered = tracks[np.searchsorted(known, streamed[...])]
    annotation = ImageAnnotation(
        image.name, numbered.shape, image.label_axes, numbered, parents=analysis.tracks.parents
    )
    replace_results(folder, [annotation])
    return True


def summary_row(counted: Counted) -> dict[str, Any]:
    """Return the columns of an image in the summary of its folder.

    Model, count, interval, frames or slices that are counted, fit, classes, the means of what was measured,
    seconds and notices.
    """
    result = counted.result
    row: dict[str, Any] = {"model": result.provenance.model, "count": plain_count(result.count)}
    if result.interval:
        row["low"], row["high"] = (round(end, 1) for end in result.interval)
    row |= counted_planes(result)
    row |= fit_columns(result)
    row |= {f"count_{name}": n for name, n in class_counts(result).items()}
    if counted.analysis is not None:
        row |= _analysis_columns(counted.analysis, row)
    elif result.gives != "density":
        table = cells_table(result)
        row |= {f"median_{name}": round(float(table[name].median()), 3) for name in SIZES if name in table}
    row["seconds"] = round(result.provenance.seconds, 3)
    row["notices"] = " ".join(counted.notices)
    return row


def _analysis_columns(analysis: Analysis, taken: Collection[str]) -> dict[str, Any]:
    """Return counts of regions and markers, tracks, and the mean of each measured column.

    The count of a region whose column is ``taken``, by the class of that name, is ``count_in_<region>``.
    """
    columns: dict[str, Any] = {}
    if "regions" in analysis.table:
        counts = analysis.counts.groupby("region", sort=False)["count"].sum()
        if len(counts) > 1:  # that of a single one is the count
            for name, n in counts.items():
                column = f"count_{name}"
                if column in taken:
                    column = f"count_in_{name}"
                columns[column] = plain_count(n)
    if analysis.copositive is not None:
        rows = zip(analysis.copositive["markers"], analysis.copositive["count"], strict=True)
        columns |= {f"count_{markers}": int(n) for markers, n in rows}
    if analysis.tracks is not None:
        columns |= {"tracks": analysis.tracks.count, "divisions": analysis.tracks.n_divisions}
    table = analysis.table
    numbers = [name for name in table if table[name].dtype.kind == "f" and name not in PLACES]
    return columns | {f"mean_{name}": float(f"{table[name].mean():.6g}") for name in numbers}
