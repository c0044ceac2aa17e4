"""The results of many images in one folder: which are done and with what, the summary, all cells, a report.

::

    <output>/<name>.labels.tif, .cells.csv, .json    of each image, as of a single count
    <output>/summary.csv                             one row per image
    <output>/cells.parquet                           the cells of all images, where pyarrow is installed
    <output>/<name>.labels.counted.tif, ...          what the model had found, of an image corrected by hand
    <output>/.cellwright/<name>.json                 that an image is done: with what, and which files it has
    <output>/.cellwright/<name>.jpg                  the image with its cells, small
    <output>/.cellwright/report                      where the last run wrote its report, and its settings
    <output>/.cellwright/blocks/<name>/              a large image while it is counted block by block
"""

import csv
import errno
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from cellwright.core.data import Image, Result
from cellwright.core.errors import ReadError, SettingsError, WriteError
from cellwright.core.words import n_of
from cellwright.files.atomic import GONE, PART, atomic_write, make_folder, only_holder, write_text, writing
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.folders.image_results import blocks_folder
from cellwright.files.folders.written import (
    BESIDE,
    COUNTED,
    KEPT,
    MARK_VERSION,
    Begun,
    FileFacts,
    checksums_of,
    counted_name,
    done_file,
    facts_of,
    is_as_written,
    name_in,
    read_mark,
)
from cellwright.files.json_value import read_object
from cellwright.files.report import box_plot, figure, html_table, outlined, page
from cellwright.files.tables import AS_WRITTEN, TEXTS, write_csv, write_xlsx
from cellwright.files.zarr import open_array
from cellwright.ops.measure.cells_table import in_planes
from cellwright.ops.plates import PlateMap, plate_map, row_name

if TYPE_CHECKING:
    import pandas

SUMMARY, SUMMARY_XLSX, ALL_CELLS = "summary.csv", "summary.xlsx", "cells.parquet"
PLACES = ("plate", "well", "site")  # what names tell of where an image lies
LOCK = "lock"  # in KEPT; held while images are counted
REPORT = "report"  # in the folder of marks
THUMBNAIL_PX = 320
JPEG_QUALITY = 88
ROWS_AT_ONCE = 200_000
MOST_PICTURES = 12  # in a report
DARK_BELOW = 0.6  # share of the range up to which numbers on a colour are white


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of one image: a row of the summary, or why there is none."""

    image: ListedImage  # which one
    row: Mapping[str, Any] = field(default_factory=dict)  # columns of the summary; empty where it failed
    error: str = ""  # what went wrong, in one line
    was_done: bool = False  # whether an earlier run had counted it


class Made(NamedTuple):
    """What the results of an image depend on: how they are made, and from which files."""

    fingerprint: str
    sources: tuple[FileFacts, ...]


def outcomes_before(
    image: ListedImage, output: Path, made_of: Callable[[ListedImage], Made]
) -> tuple[ImageOutcome, ...]:
    """Return what an earlier run found in a file, where its results are whole and would be the same.

    Of a file with several images those of all; empty where any of them is to be counted.
    """
    kept = _kept_as(image, output, made_of(image))
    if "row" in kept:
        return (ImageOutcome(image, kept["row"], was_done=True),)
    if "parts" not in kept:
        return ()
    parts = [ListedImage(image.path, name, image.plate, part) for name, part in kept["parts"].items()]
    found = [(part, _kept_as(part, output, made_of(part))) for part in parts]
    if not all("row" in one for _, one in found):
        return ()
    return tuple(ImageOutcome(part, one["row"], was_done=True) for part, one in found)


def _kept_as(image: ListedImage, output: Path, made: Made) -> Mapping[str, Any]:
    """Return the mark of an image; empty where it is not done, or done in another way."""
    kept = read_mark(done_file(image.name, output))
    sources = [list(one) for one in made.sources]
    if (kept.get("counter"), kept.get("sources")) != (made.fingerprint, sources):
        return {}
    marked_ns = facts_of(done_file(image.name, output)).changed_ns
    for name, n_bytes in kept.get("files", {}).items():
        checksum = kept.get("checksums", {}).get(name)
        if not is_as_written(output / name, n_bytes, checksum, marked_ns):
            return {}
    return kept


def whole_mark(name: str, output: Path) -> Mapping[str, Any]:
    """Return the mark of an image that can be corrected.

    ReadError where it was not counted in the folder, or it or its files are no longer what they were then.
    SettingsError where it was counted block by block, or another image has the name of what is kept of it.
    """
    kept = read_mark(done_file(name, output))
    if "row" not in kept:
        raise ReadError(
            f"There is no count of {name!r} in {output}. Name the image as summary.csv there does, or count "
            "the folder first."
        )
    if any(one.endswith(".zarr") for one in kept["files"]):
        raise SettingsError(
            f"{name} was counted block by block; its labels are too large to be corrected by hand. Count a "
            "part of it, and correct that."
        )
    aside = counted_name(Path(f"{name}.json")).as_posix().removesuffix(".json")
    if done_file(aside, output).exists():
        raise SettingsError(
            f"{name} cannot be corrected beside {aside}, whose files have the names of those that are kept. "
            "Rename that image, and count again."
        )
    sources = [Path(path) for path, *_ in kept["sources"]]
    for path in sources:
        if not path.exists():
            raise ReadError(f"Expected {path}, which {name} was counted with; there is none. Put it back.")
    if not _kept_as(listed_in(kept), output, Made(kept["counter"], tuple(map(facts_of, sources)))):
        raise ReadError(
            f"{name} or its files were changed since it was counted. Count the folder again, which keeps "
            "what was edited; then save the corrections."
        )
    return kept


def mark_done(
    image: ListedImage, output: Path, made: Made, files: Sequence[Path], row: Mapping[str, Any], before: Begun
) -> None:
    """Note that an image is done, once its files are whole; those that it had before and has no more go."""
    facts: dict[str, Any] = {
        "files": {name_in(output, path): facts_of(path).n_bytes for path in files},
        "checksums": checksums_of(files, output),
        "row": dict(row),
        "plate": dict(image.plate),
        "part": image.part,
    }
    if before.counted:
        facts[COUNTED] = before.counted
    _write_mark(image, output, made, facts)
    for name in before.files:  # those of other settings would mislead
        path = output / name
        if not any(path.is_relative_to(one) for one in files):
            _remove(path)


def mark_parts(image: ListedImage, output: Path, made: Made, parts: Sequence[ListedImage]) -> None:
    """Note which images a file holds, once all of them are done or have failed."""
    _write_mark(image, output, made, {"parts": {part.name: part.part for part in parts}})


def _write_mark(image: ListedImage, output: Path, made: Made, facts: Mapping[str, Any]) -> None:
    own = {"version": MARK_VERSION, "name": image.name, "path": str(image.path)}
    content = {**own, "counter": made.fingerprint, "sources": made.sources, **facts}
    write_text(done_file(image.name, output), json.dumps(content))


def read_outcomes(output: Path) -> tuple[ImageOutcome, ...]:
    """Return what the summary of a folder tells of, and what was done since, by name.

    Whether it is still so is not looked at. What runs before the last one counted, with other settings or
    among other images, stays in its files and is not told.
    """
    found = {}
    rows, summed_ns = _rows_of_summary(output), facts_of(output / SUMMARY).changed_ns
    for path in sorted((output / KEPT).rglob("*.json")):
        kept = read_mark(path)
        known_row = rows.get(str(kept.get("name")), {"error": "not told"} if rows else {})
        is_told = not known_row.get("error") or facts_of(path).changed_ns >= summed_ns
        if "row" in kept and is_told:
            image = listed_in(kept)
            found[image.name] = ImageOutcome(image, kept["row"], was_done=True)
    for name, row in rows.items():
        if row.get("error"):
            found.setdefault(name, _failed_in(row))
    return tuple(found[name] for name in sorted(found))


def listed_in(kept: Mapping[str, Any]) -> ListedImage:
    """Return the image that a mark is of."""
    return ListedImage(Path(kept["path"]), kept["name"], kept["plate"], kept["part"])


def summed_outcomes(output: Path, corrected: ImageOutcome) -> tuple[ImageOutcome, ...]:
    """Return what the summary of the last run is of, in its order, with an image that was corrected since."""
    known = {one.image.name: one for one in read_outcomes(output)}
    plate = {name for one in known.values() for name in one.image.plate}
    found = {}
    for name, row in _rows_of_summary(output).items():
        if row.get("error"):
            found[name] = _failed_in(row, plate)
        elif name in known:
            found[name] = known[name]
    found = found or known  # without a summary
    return tuple({**found, corrected.image.name: corrected}.values())


def _failed_in(row: Mapping[str, str], plate: Iterable[str] = ()) -> ImageOutcome:
    """Return the outcome of an image that failed by its row in the summary, with these columns of plates."""
    plate_columns = {name: row[name] for name in plate if row.get(name)}
    return ImageOutcome(ListedImage(Path(row["image"]), row["image"], plate_columns), error=row["error"])


def _rows_of_summary(output: Path) -> dict[str, dict[str, str]]:
    """Return the rows that the last run has left, by name; none where there is no summary."""
    try:
        with (output / SUMMARY).open(encoding="utf-8", newline="") as file:
            return {row["image"]: row for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def thumbnail_of(output: Path, name: str) -> Path:
    """Return where the small picture of an image is, if there is one."""
    return output / KEPT / f"{name}.jpg"


def write_thumbnail(output: Path, name: str, image: Image, result: Result) -> None:
    """Write an image with its cells, small, as JPEG."""
    labels, on_disk = output / f"{name}.labels.zarr", None
    if result.cells.labels is None and labels.exists():
        on_disk = open_array(labels)
    from PIL import Image as Picture

    picture = Picture.fromarray(outlined(image, result, THUMBNAIL_PX, on_disk))
    with atomic_write(thumbnail_of(output, name)) as part:
        picture.save(part, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def write_summary(output: Path, outcomes: Sequence[ImageOutcome], *, xlsx: bool = False) -> None:
    """Write ``summary.csv``, and as Excel file where that is wanted: a row for each image."""
    import pandas

    rows = []
    for outcome in outcomes:
        row = {"image": outcome.image.name, **outcome.image.plate, **outcome.row}
        if outcome.error:
            row["error"] = outcome.error
        rows.append(row)
    table = pandas.DataFrame(rows, dtype=object)  # whole numbers stay whole where some rows have none
    write_csv(output / SUMMARY, table, None)
    if xlsx:
        write_xlsx(output / SUMMARY_XLSX, {"summary": table})


def join_tables(output: Path, outcomes: Sequence[ImageOutcome]) -> None:
    """Write ``cells.parquet``: the tables of all images, with a column that names the image."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return
    names = [one.image.name for one in outcomes if not one.error]
    kinds: dict[str, str] = {}
    for _, rows in _parts_of_tables(output, names):
        for column, kind in rows.dtypes.items():
            kinds.setdefault(str(column), "float64")
            if str(column) in TEXTS or (len(rows) and kind.kind not in "iufb"):
                kinds[str(column)] = "string"
    if not kinds:
        return
    types = {name: pyarrow.type_for_alias(kind) for name, kind in kinds.items()}
    schema = pyarrow.schema({"image": pyarrow.string(), **types})
    with atomic_write(output / ALL_CELLS) as part, pyarrow.parquet.ParquetWriter(part, schema) as writer:
        for name, rows in _parts_of_tables(output, names):
            table = rows.reindex(columns=list(kinds)).astype(kinds)
            table.insert(0, "image", name)
            writer.write_table(pyarrow.Table.from_pandas(table, schema, preserve_index=False))


def forget_tables(output: Path, report: Path | None) -> None:
    """Remove what tells of all images but the summary: a run that is stopped would leave it as it was."""
    for path in filter(None, (output / ALL_CELLS, report)):
        _remove(path)


def _parts_of_tables(output: Path, names: Sequence[str]) -> Iterator[tuple[str, "pandas.DataFrame"]]:
    """Yield the tables of cells that are there with their names, a part at a time, for some are long."""
    import pandas

    for name in names:
        path = output / f"{name}.cells.csv"
        if path.exists():
            with pandas.read_csv(path, **AS_WRITTEN, low_memory=False, chunksize=ROWS_AT_ONCE) as parts:
                for rows in parts:
                    yield name, rows


def write_folder_report(path: Path, output: Path, outcomes: Sequence[ImageOutcome], settings: str) -> None:
    """Write the report of a folder as one HTML file; settings is a text of how they were counted."""
    done = [one for one in outcomes if not one.error]
    failed = [(one.image.name, one.error) for one in outcomes if one.error]
    n_cells = sum(float(one.row["count"]) for one in done)
    title = f"{output.name}: {n_cells:,.0f} cells in {len(done):,} images"
    number = f'<p><span class="number">{n_cells:,.0f}</span> <span class="unit">cells in {len(done):,} images'
    parts = [f"<h1>{escape(output.name)}</h1>", number + "</span></p>", _facts(done, len(failed))]
    if failed:
        parts += [f"<h2>Failed ({len(failed)})</h2>", html_table(("image", "why"), failed)]
    for name, plate in _plates(done).items():
        parts += [f"<h2>{escape(f'Plate {name}'.strip())}: cells per image</h2>", _plate_table(plate)]
    parts += [*_conditions(done), *_pictures(output, done)]
    parts.append(f"<h2>Settings</h2><pre>{escape(settings)}</pre>")
    write_text(path, page(title, parts))


def _facts(done: Sequence[ImageOutcome], n_failed: int) -> str:
    fits = [float(one.row["fit"]) for one in done if "fit" in one.row]
    counts = [float(one.row["count"]) for one in done]
    facts: dict[str, Any] = {"images counted": len(done), "images that failed": n_failed}
    n_corrected = sum("corrected" in one.row for one in done)
    if n_corrected:
        facts["images corrected by hand"] = n_corrected
    n_beside = sum(BESIDE in one.row for one in done)
    if n_beside:
        facts["images whose corrected cells do not count, but are kept beside"] = n_beside
    if counts:
        facts |= {"cells per image, median": median(counts), "fewest": min(counts), "most": max(counts)}
    if fits:
        facts |= {"fit (expected F1), median": median(fits), "lowest fit": min(fits)}
    n_unknown = sum("fit" not in one.row and "expectation" in one.row for one in done)
    if n_unknown:
        facts["images whose fit is not known"] = n_unknown
    return html_table(("", ""), list(facts.items()))


def _conditions(done: Sequence[ImageOutcome]) -> list[str]:
    """Return the cells per image by what names tell besides plate, well and site: a treatment, say.

    Images of one well are one value, their mean, for they are not repetitions of an experiment.
    """
    import pandas

    names = dict.fromkeys(name for one in done for name in one.image.plate if name not in PLACES)
    of = "wells" if any("well" in one.image.plate for one in done) else "images"
    parts = []
    for name in names:
        rows = []
        for one in done:
            plate = one.image.plate
            if name in plate:
                unit = one.image.name
                if "well" in plate:
                    unit = f"{plate.get('plate', '')}/{plate['well']}"
                rows.append((plate[name], unit, float(one.row["count"])))
        counts = pandas.DataFrame(rows, columns=["condition", "unit", "count"])
        units = counts.groupby(["condition", "unit"])["count"].mean().groupby("condition")
        if len(units) > 1:
            headings = (name, of, "cells per image, mean", "standard deviation")
            table = html_table(headings, units.agg(["size", "mean", "std"]).reset_index().to_numpy().tolist())
            values = {str(condition): means.to_numpy() for condition, means in units}
            title = f"Cells per image by {name}"
            parts += [f"<h2>{escape(title)}</h2>", table, box_plot("Cells per image", name, values, of)]
    return parts


def _plates(done: Sequence[ImageOutcome]) -> dict[str, PlateMap]:
    wells: dict[str, list[tuple[str, float]]] = {}
    for one in done:
        plate = one.image.plate
        counted = (str(plate.get("well", "")), float(one.row["count"]))
        wells.setdefault(str(plate.get("plate", "")), []).append(counted)
    maps = {name: plate_map(counts) for name, counts in wells.items()}
    return {name: found for name, found in maps.items() if found is not None}


def _plate_table(plate: PlateMap) -> str:
    """Return a plate as a table in the colours of its numbers, which are the means of the wells' images."""
    n_rows, n_columns = plate.values.shape
    low, high = plate.limits
    head = "".join(f"<th>{column + 1}</th>" for column in range(n_columns))
    rows = [f"<tr><th></th>{head}</tr>"]
    for row in range(n_rows):
        cells = [f"<th>{row_name(row)}</th>"]
        for column in range(n_columns):
            value = float(plate.values[row, column])
            if math.isnan(value):
                cells.append("<td></td>")
                continue
            is_dark = value - low <= DARK_BELOW * (high - low)
            ink = "#fff" if is_dark else "#000"
            style = f"background:{plate.colour(row, column)};color:{ink}"
            cells.append(f'<td style="{style}">{value:.4g}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _pictures(output: Path, done: Sequence[ImageOutcome]) -> list[str]:
    """Return the images with the worst fit, or else with the fewest cells, as small pictures."""
    known, column = [one for one in done if "fit" in one.row], "fit"
    title = "The images with the lowest fit"
    if not known:
        known, column, title = list(done), "count", "The images with the fewest cells"
    figures = []
    for one in sorted(known, key=lambda one: float(one.row[column]))[:MOST_PICTURES]:
        picture = thumbnail_of(output, one.image.name)
        caption = f"{one.image.name}: {n_of(one.row['count'], 'cell', '')}{in_planes(one.row)}"
        if "fit" in one.row:
            caption += f", fit {one.row['fit']:.2f}"
        if picture.exists():
            figures.append(figure(picture.read_bytes(), "jpeg", caption))
    if not figures:
        return []
    return [f"<h2>{title}</h2><p>Look at their outlines first.</p>", *figures]


def check_output(output: Path, paths: Sequence[Path]) -> None:
    """Raise WriteError where results would lie among the images that are counted, or the name is refused."""
    with writing(output), suppress(FileNotFoundError):
        output.stat()
    inside = [path for path in paths if output.resolve().is_relative_to(path.resolve())]
    if inside:
        raise WriteError(f"Results must not go into {inside[0]}, which is counted. Name another folder.")


def note_report(output: Path, path: Path | None, settings: str) -> None:
    """Note where the report of a folder is, so that it follows corrections; None where there is none."""
    place = ""
    if path is not None:
        place = str(path.resolve())
        if path.resolve().is_relative_to(output.resolve()):
            place = path.resolve().relative_to(output.resolve()).as_posix()
    write_text(output / KEPT / REPORT, json.dumps({"path": place, "settings": settings}))


def reported_in(output: Path) -> tuple[Path | None, str]:
    """Return where the last run wrote the report of a folder, and the text of its settings."""
    known = read_object(output / KEPT / REPORT)
    if not known.get("path"):
        return None, ""
    return output / known["path"], known["settings"]


def clear_parts(output: Path, images: Sequence[ListedImage]) -> None:
    """Remove the temporary files that a killed run has left; call it where no other one can write."""
    folders = {Path(), *(Path(one.name).parent for one in images)}
    for root in (output, output / KEPT, blocks_folder(output)):
        for path in (path for folder in folders for path in (root / folder).glob(".*")):
            if path.suffix in (PART, GONE):
                _remove(path)


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as that can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep other programs from counting into the folder while the block lasts.

    WriteError where another one does, or the folder cannot be written.
    """
    make_folder(output / KEPT)
    wrong = f"Another program is counting into {output}. Wait for it, or choose another folder."
    with only_holder(output / KEPT / LOCK, wrong):
        yield


def check_there(output: Path) -> None:
    """Raise WriteError where the folder that a run counts into went away, as a disk that is unplugged does.

    Another folder may be in its place, such as that which the disk had been mounted on.
    """
    if not (output / KEPT / LOCK).exists():
        wrong = f"{output} went away while images were counted into it. Bring it back and count again: what "
        wrong += "was done by then will not be done again."
        raise WriteError(wrong) from OSError(errno.ENODEV, wrong)
