"""One HTML file that tells a result: picture, number, plots, tables, settings; it needs no other file."""

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import CHANNEL, ArrayLike, Image, Result
from cellwright.core.errors import SettingsError
from cellwright.core.words import n_of
from cellwright.files.atomic import write_text
from cellwright.ops.geometry.axes import channel_numbers
from cellwright.ops.measure.analysis import PlaneCounts, groups_of, per_plane
from cellwright.ops.measure.blocks import cropped
from cellwright.ops.measure.cells_table import (
    cells_checksum,
    class_counts,
    counted_planes,
    in_planes,
    label_axes,
    plain_count,
)
from cellwright.ops.measure.columns import heading_of
from cellwright.ops.measure.filters import copositive_table

if TYPE_CHECKING:
    import pandas

    from cellwright.ops.measure.analysis import Analysis

PICTURE_PX = 1000  # longest side
PLOT_WIDTH, PLOT_HEIGHT, PLOT_MARGIN = 320, 160, 34
PLOT_BASE = PLOT_HEIGHT - PLOT_MARGIN + 8  # where zero is
BAR_COLOUR = "#3b75af"
PLANES = {"t": "frames", "z": "slices"}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of a box plot
MOST_PLOTS = 12
MOST_BOXES = 4  # columns, for each way of grouping
MOST_ROWS = 200
PLOTTED = (
    *("area", "volume", "diameter", "perimeter", "circularity"),
    *("score", "intensity_mean", "nearest_distance"),
)
OUTLINE = (255, 214, 10)
OUTLINE_ON_LIGHT = (0, 170, 60)
MIDDLE_GREY = 128
DENSE = (255, 60, 30)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.number { font-size: 3em; font-weight: 600; line-height: 1.1; } .unit { color: #555; }
img { max-width: 100%; } figure { margin: 0 0 1em; display: inline-block; vertical-align: top; }
figcaption { color: #555; font-size: .9em; }
table { border-collapse: collapse; font-size: .85em; } th, td { padding: .2em .7em; text-align: right;
border-bottom: 1px solid #ddd; } th:first-child, td:first-child { text-align: left; }
pre { background: #f4f4f4; padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8em; }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True, slots=True, eq=False)
class ReportExtras:
    """What a report tells besides an analysis."""

    pictures: Mapping[str, bytes] = field(default_factory=dict)  # PNG of plots, by caption
    totals: "pandas.DataFrame | None" = None  # one row for each image of the session
    others: Sequence[tuple[Image, Result]] = ()  # further images of the session with their cells
    labels: ArrayLike | None = None  # of the cells, where they are on disk
    legends: Mapping[str, str] = field(default_factory=dict)  # HTML of the colours in a plot, by caption


def write_report(
    path: Path | str,
    image: Image,
    analysis: "Analysis",
    recipes: Mapping[str, str] | None = None,
    extras: ReportExtras = ReportExtras(),
) -> None:
    """Write the report of an analysis as one HTML file; recipes are texts that repeat it, by title."""
    result = analysis.result
    parts = [
        *_head(result, analysis.notices),
        _picture(image, result, extras.labels),
        *_tables(analysis),
        *_session(extras),
        *_pictures(extras),
        *_over_planes(per_plane(result)),
        "<h2>Distributions</h2>",
        *(
            _histogram(heading_of(name, analysis.names), analysis.table[name].to_numpy(np.float64))
            for name in _plotted(analysis.table)[:MOST_PLOTS]
        ),
        *_boxes(analysis),
        *_foot(result, image, recipes),
    ]
    write_text(Path(path), page(_title(result), parts))


def write_density_report(
    path: Path | str,
    image: Image,
    result: Result,
    recipes: Mapping[str, str] | None = None,
    smaller: tuple[ArrayLike, int] | None = None,
    counts: "pandas.DataFrame | None" = None,
) -> None:
    """Write the report of a count by density, which has no single cells, as one HTML file.

    ``counts`` are those of regions, where it was counted in some. Where the map is on disk and the
    result has sums alone, the picture is of a ``smaller`` copy of it, given with how many times.
    """
    density = result.maps["density"]
    over_planes = None
    if density.ndim > 2:
        sums = density.sum(axis=tuple(range(1, density.ndim)))
        first = int((result.offset or (0,))[0])
        over_planes = PlaneCounts(label_axes(result)[0].lower(), np.rint(sums).astype(np.intp), first)
    parts = [
        *_head(result),
        _density_picture(image, result, smaller or (density, 1)),
        *_over_planes(over_planes),
    ]
    if counts is not None:
        rows = counts.head(MOST_ROWS).to_numpy(object).tolist()
        parts += ["<h2>Counts</h2>", html_table([heading_of(str(name), {}) for name in counts], rows)]
    parts += _foot(result, image, recipes)
    write_text(Path(path), page(_title(result), parts))


def _title(result: Result) -> str:
    return f"{result.provenance.image_name}: {n_of(plain_count(result.count), 'cell', '')}"


def _head(result: Result, notices: Sequence[str] = ()) -> list[str]:
    return [
        f"<h1>{escape(result.provenance.image_name)}</h1>",
        _number(result),
        *(f"<p>{escape(notice)}</p>" for notice in (*result.notices, *notices)),
    ]


def _foot(result: Result, image: Image, recipes: Mapping[str, str] | None) -> list[str]:
    settings = json.dumps(asdict(result.provenance)["settings"], indent=1, default=str)
    return [
        "<h2>How it was found</h2>",
        _facts(result, image),
        *(f"<h2>{escape(title)}</h2><pre>{escape(text)}</pre>" for title, text in (recipes or {}).items()),
        f"<h2>Settings</h2><pre>{escape(settings)}</pre>",
    ]


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole page of HTML in the style of the reports."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _session(extras: ReportExtras) -> list[str]:
    if extras.totals is None or len(extras.totals) < 2:
        return []
    rows = extras.totals.to_numpy(object).tolist()
    table = html_table([str(name) for name in extras.totals], rows)
    return ["<h2>Images of the session</h2>", table, *(_picture(*one) for one in extras.others)]


def _pictures(extras: ReportExtras) -> list[str]:
    found = ["<h2>Plots</h2>"] if extras.pictures else []
    for caption, content in extras.pictures.items():
        found.append(figure(content, "png", caption, extras.legends.get(caption, "")))
    return found


def _number(result: Result) -> str:
    unit = f"cells{in_planes(counted_planes(result))}"
    text = f'<p><span class="number">{plain_count(result.count)}</span> <span class="unit">{unit}</span>'
    if result.interval:
        low, high = result.interval
        text += f' <span class="unit">90 % interval {low:.0f} to {high:.0f}</span>'
    return text + "</p>"


def _picture(image: Image, result: Result, labels: ArrayLike | None = None) -> str:
    """Return the plane with the most cells as a figure, outlines drawn in."""
    colours = outlined(image, result, PICTURE_PX, labels)
    return _plane_figure(colours, image, result, _fullest_plane(result), "with the outlines of the cells")


def _density_picture(image: Image, result: Result, values: tuple[ArrayLike, int]) -> str:
    """Return the plane with the most cells as a figure, redder where cells are denser."""
    density, times = values
    shape = density.shape[:-2]
    sums = np.array([np.asarray(density[place]).sum() for place in np.ndindex(shape)]).reshape(shape)
    index = tuple(int(place) for place in np.unravel_index(sums.argmax(), shape))
    step = max(1, -(-max(density.shape[-2:]) // PICTURE_PX))
    if times == 1:
        image = cropped(image, result.offset, density.shape)
    colours = _seen(image, result, index, step * times)
    plane = np.clip(np.asarray(density[index])[::step, ::step], 0, None)
    share = np.sqrt(plane / max(float(plane.max()), 1e-12))  # that weak places are seen, too
    mixed = colours + (np.array(DENSE) - colours) * share[..., np.newaxis]
    return _plane_figure(mixed.astype(np.uint8), image, result, index, "redder where cells are denser")


def _plane_figure(
    colours: NDArray[np.uint8], image: Image, result: Result, index: tuple[int, ...], caption: str
) -> str:
    from PIL import Image as Picture

    content = io.BytesIO()
    Picture.fromarray(colours).save(content, "PNG", optimize=True)
    places = ", ".join(f"{axis.lower()} {at}" for axis, at in zip(label_axes(result), index, strict=False))
    where = f" at {places}" if places else ""
    return figure(content.getvalue(), "png", f"{image.name}{where} {caption}")


def figure(content: bytes, kind: str, caption: str, legend: str = "") -> str:
    """Return a picture of a kind (``png`` or ``jpeg``) as a figure of HTML; a legend is HTML, too."""
    encoded = base64.b64encode(content).decode("ascii")
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{f'{text} {legend}'.rstrip()}</figcaption></figure>"
    )


def outlined(
    image: Image, result: Result, most_px: int, labels: ArrayLike | None = None
) -> NDArray[np.uint8]:
    """Return the plane (Y, X, 3) with the most cells, outlines or centres drawn in.

    Of several channels those are seen that were counted in, the brightest of them at each pixel. Of a plane
    with a side longer than ``most_px`` only every so many rows and columns are read. ``labels`` are those of
    the cells where the result has none because they are on disk.
    """
    index = _fullest_plane(result)
    if labels is None:
        labels = result.cells.labels
    if labels is not None:
        image = cropped(image, result.offset, labels.shape)
    sides = image.spatial_shape[-2:]
    step = max(1, -(-max(sides) // most_px))
    colours = _seen(image, result, index, step)
    outline = OUTLINE if colours.mean() < MIDDLE_GREY else OUTLINE_ON_LIGHT
    if labels is not None and tuple(labels.shape[-2:]) == sides:
        place: Any = (*index, slice(None, None, step), slice(None, None, step))
        small = np.asarray(labels[place])
        from skimage.segmentation import find_boundaries  # slow to import

        edges = find_boundaries(small, mode="inner")
        colours[edges] = outline
    elif labels is None and len(result.cells):
        points = np.rint(result.cells.points)
        centres = points[(points[:, :-2] == index).all(axis=1), -2:].astype(int) // step
        rows, columns = np.clip(centres, 0, np.array(colours.shape[:2]) - 1).T
        colours[rows, columns] = outline
    return colours


def _seen(image: Image, result: Result, index: tuple[int, ...], step: int) -> NDArray[np.uint8]:
    """Return a plane (Y, X, 3): the brightest at each pixel of the channels that were counted in."""
    planes = [_plane(image, index, step, channel) for channel in _counted_channels(image, result)]
    seen = np.max(planes, axis=0)
    return seen if seen.ndim == 3 else np.repeat(seen[..., np.newaxis], 3, axis=2)


def _fullest_plane(result: Result) -> tuple[int, ...]:
    lead = np.rint(result.cells.points[:, :-2]).astype(int)
    if not len(lead):
        return (0,) * int(lead.shape[1])
    places, counts = np.unique(lead, axis=0, return_counts=True)
    return tuple(places[int(counts.argmax())].tolist())


def _counted_channels(image: Image, result: Result) -> tuple[int | None, ...]:
    """Return the numbers of the channels that were counted in; None for colours, or without channels."""
    if CHANNEL not in image.axes:
        return (None,)
    first = None if image.axes.endswith(CHANNEL) and image.shape[-1] in (3, 4) else 0
    engine = result.provenance.settings.get("engine", {})
    chosen = engine.get("channels") or (engine.get("channel"),)
    if None in chosen:
        return (first,)
    try:
        return channel_numbers(image, chosen)
    except SettingsError:  # the image is another than the one that was counted
        return (first,)


def _plane(image: Image, index: tuple[int, ...], step: int, channel: int | None) -> NDArray[np.uint8]:
    """Return every so many rows and columns of a plane of a channel as 8 bit; of colours (Y, X, 3) for None.

    Its 1 and 99.8 percentiles become 0 and 255, those of all colours together.
    """
    n_spare = len(image.label_axes) - 2 - len(index)
    lead = dict(zip(image.label_axes, (0,) * n_spare + index, strict=False))
    other = slice(0, 3) if channel is None else channel
    place = tuple(
        other if axis == CHANNEL else lead.get(axis, slice(None, None, step)) for axis in image.axes
    )
    plane = np.asarray(image.data[place], np.float32)
    low, high = np.percentile(np.nan_to_num(plane[:: max(1, plane.shape[0] // 500)]), (1, 99.8))
    scaled = (np.nan_to_num(plane) - low) / max(float(high - low), 1e-12)
    return np.asarray(np.clip(scaled * 255, 0, 255), np.uint8)


def _tables(analysis: "Analysis") -> list[str]:
    parts = []
    classes = class_counts(analysis.result)
    if classes:
        parts.append("<h2>Classes</h2>" + html_table(list(classes), [list(classes.values())]))
    tables = {"Counts": analysis.counts, "Tracks": analysis.lineages, "Cells": _summary(analysis)}
    if analysis.copositive is not None:
        markers = copositive_table(analysis.table, tuple(analysis.thresholds), analysis.names)
        tables = {"Counts": analysis.counts, "Markers": markers, **tables}
    for title, table in tables.items():
        if table is not None and len(table):
            rows = table.head(MOST_ROWS).to_numpy(object).tolist()
            parts.append(f"<h2>{title}</h2>")
            if title == "Tracks" and analysis.tracks is not None:
                parts.append(f"<p>{escape(analysis.tracks.summary(table))}</p>")
            headings = [heading_of(str(name), analysis.names) for name in table]
            parts.append(html_table(headings, rows))
            if len(table) > MOST_ROWS:
                parts.append(f"<p>{len(table) - MOST_ROWS} more rows in the table.</p>")
    return parts


def _summary(analysis: "Analysis") -> "pandas.DataFrame":
    """Return mean, standard deviation and quartiles of each measured column; of angles these tell nothing."""
    import pandas

    table = analysis.table
    skipped = ("label", "track", "parent_track", "t", "z", "y", "x", "orientation_deg")
    names = [
        str(name)
        for name in table
        if table[name].dtype.kind in "if" and name not in skipped and not str(name).startswith("box_")
    ]
    if not names:  # a table without rows has columns of no kind
        return pandas.DataFrame()
    summary = table[names].describe().T[["count", "mean", "std", "25%", "50%", "75%"]]
    titles = [heading_of(name, analysis.names) for name in names]
    return pandas.concat([pandas.Series(titles, name="column", index=names), summary], axis=1)


def html_table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of HTML."""
    heading = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_shown(value))}</td>" for value in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{heading}</tr>{body}</table>"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.5g}"
    return str(value)


def _over_planes(found: PlaneCounts | None) -> list[str]:
    """Return the cells of each frame or slice as bars; nothing for a single plane."""
    if found is None:
        return []
    axis, counts, first = found
    title = f"Cells over {PLANES[axis]}"
    width = PLOT_WIDTH - PLOT_MARGIN - 8
    edges = PLOT_MARGIN + np.linspace(0, width, len(counts) + 1)
    ends = ((edges[0], first, "start"), (edges[-1], first + len(counts) - 1, "end"))
    drawing = _bars(edges, counts) + _ticks(ends)
    return ["<h2>Counts over " + PLANES[axis] + "</h2>", _drawn(drawing, title, f"{title}, from {first}")]


def _boxes(analysis: "Analysis") -> list[str]:
    """Return box plots of what was measured for each region, class and marker, where there are several."""
    drawn = []
    for by, groups in groups_of(analysis).items():
        if len(groups) < 2:
            continue
        for name in _plotted(analysis.table)[:MOST_BOXES]:
            values = analysis.table[name].to_numpy(np.float64)
            parts = {one: values[rows & np.isfinite(values)] for one, rows in groups.items()}
            heading = heading_of(name, analysis.names)
            drawn.append(box_plot(heading, by, {one: part for one, part in parts.items() if len(part)}))
    return ["<h2>By group</h2>", *filter(None, drawn)] if any(drawn) else []


def box_plot(heading: str, by: str, groups: Mapping[str, NDArray[np.float64]], of: str = "cells") -> str:
    """Return median, quartiles, and 5 to 95 % of a column for each group as SVG; empty without any.

    ``of`` is what each value is of.
    """
    if not groups:
        return ""
    boxes = np.array([np.quantile(values, QUANTILES) for values in groups.values()])
    low, high = boxes.min(), max(boxes.max(), np.nextafter(boxes.min(), np.inf))
    y = PLOT_BASE - (boxes - low) / (high - low) * (PLOT_BASE - 8)
    step = (PLOT_WIDTH - PLOT_MARGIN - 8) / len(groups)
    middles = PLOT_MARGIN + step * (np.arange(len(groups)) + 0.5)
    half = min(step * 0.3, 24)
    drawing = f'<g fill="{BAR_COLOUR}55" stroke="{BAR_COLOUR}" stroke-width="1.5">' + "".join(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{tops[0]:.1f}" y2="{tops[4]:.1f}"/>'
        f'<rect x="{x - half:.1f}" y="{tops[3]:.1f}" width="{2 * half:.1f}" '
        f'height="{tops[1] - tops[3]:.1f}"/>'
        f'<line x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{tops[2]:.1f}" y2="{tops[2]:.1f}"/>'
        for x, tops in zip(middles, y, strict=True)
    )
    scale = (f"{low:.4g}", PLOT_BASE), (f"{high:.4g}", 17)
    drawing += "</g>" + "".join(_left_text(text, at) for text, at in scale)
    drawing += _ticks([(x, place, "middle") for place, x in enumerate(middles, 1)])
    numbers = ", ".join(
        f"{place} {one} ({len(values)} {of})" for place, (one, values) in enumerate(groups.items(), 1)
    )
    caption = f"{heading} by {by.lower()}, median, quartiles, 5 to 95 %: {numbers}"
    return _drawn(drawing, f"Boxes of {heading} by {by.lower()}", caption)


def _plotted(table: "pandas.DataFrame") -> list[str]:
    """Return the columns that are drawn, each once where it is there in pixels and in micrometres."""
    chosen = [str(name) for name in table if str(name).startswith(PLOTTED) and table[name].dtype.kind in "if"]
    in_um = {name.rpartition("_um")[0] for name in chosen if "_um" in name}
    return [name for name in chosen if name.removesuffix("_px") == name or name[:-3] not in in_um]


def _bars(edges: NDArray[np.float64], counts: NDArray[np.integer]) -> str:
    """Return bars between edges (pixels of the drawing) as high as counts, and the highest count."""
    most = max(int(counts.max(initial=0)), 1)
    y = (PLOT_BASE - 8) * (1 - counts / most) + 8
    bars = "".join(
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left - 0.5, 0.5):.1f}" '
        f'height="{PLOT_BASE - top:.1f}"/>'
        for left, right, top in zip(edges[:-1], edges[1:], y, strict=True)
    )
    return f'<g fill="{BAR_COLOUR}">{bars}</g>{_left_text(str(most), 17)}'


def _ticks(ticks: Iterable[tuple[float, float, str]]) -> str:
    """Return the base line with numbers under it, each with its place and anchor."""
    texts = "".join(
        f'<text x="{at:.0f}" y="{PLOT_BASE + 14}" font-size="11" text-anchor="{anchor}">{value:.4g}</text>'
        for at, value, anchor in ticks
    )
    x2 = PLOT_WIDTH - 8
    return f'<line x1="{PLOT_MARGIN}" x2="{x2}" y1="{PLOT_BASE}" y2="{PLOT_BASE}" stroke="#555"/>{texts}'


def _left_text(text: str, y: float) -> str:
    return f'<text x="{PLOT_MARGIN - 4}" y="{y:.0f}" font-size="11" text-anchor="end">{text}</text>'


def _drawn(drawing: str, label: str, caption: str) -> str:
    return (
        f'<figure><svg role="img" aria-label="{escape(label)}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}">'
        f"{drawing}</svg><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _histogram(heading: str, values: NDArray[np.float64]) -> str:
    values = values[np.isfinite(values)]
    if not len(values):
        return ""
    counts, edges = np.histogram(values, bins=min(40, max(5, round(len(values) ** 0.5))))
    width = PLOT_WIDTH - PLOT_MARGIN - 8
    x = PLOT_MARGIN + (edges - edges[0]) / (edges[-1] - edges[0]) * width
    drawing = _bars(x, counts) + _ticks([(x[0], edges[0], "start"), (x[-1], edges[-1], "end")])
    return _drawn(drawing, f"Histogram of {heading}", f"{heading} of {len(values)} cells")


def _facts(result: Result, image: Image) -> str:
    found_by = result.provenance
    facts = {
        "Image": found_by.source or found_by.image_name,
        "SHA-256 of the file": _file_checksum(image.source),
        "Axes and shape": f"{found_by.axes} {found_by.image_shape}",
        "Pixel size": " x ".join(f"{size:g} µm" for size in found_by.pixel_size_um if size) or "not known",
        "napari-cellwright": found_by.package_version,
        "Model": found_by.model,
        "SHA-256 of the model": found_by.checkpoint_sha256,
        "SHA-256 of the cells": cells_checksum(result) if result.gives == "instances" else "",
        "Device": found_by.device,
        "Seconds": f"{found_by.seconds:.2f}",
    }
    return html_table(("", ""), [(name, value) for name, value in facts.items() if value])


def _file_checksum(source: str) -> str:
    if not source or not Path(source).is_file():
        return ""
    with Path(source).open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
