"""How results look as napari layers: outlines, points, boxes and densities, and the colours of classes."""

import colorsys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html import escape
from itertools import zip_longest
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Layer, Points, Shapes
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap
from numpy.typing import NDArray

from cellwright.core.data import Result
from cellwright.ops.geometry.boxes import corners_of
from cellwright.ops.measure.cells_table import cells_table
from cellwright.widgets.shared.coordinates import expanded, with_axis
from cellwright.widgets.shared.edited_layers import metadata_of
from cellwright.widgets.shared.napari_private import draw_outlines_fast, labels_layer

if TYPE_CHECKING:
    import pandas

FEATURES = (
    "label", "class", "score", "area_px", "diameter_px", "volume_px", "area_um2", "diameter_um", "volume_um3"
)  # fmt: skip
OUTLINE_PX = 2
LARGEST_OUTLINED_PX = 11_000_000  # of a frame, as of the largest cameras: 30 ms in the GUI thread
N_COLOURS = 49
POINT_SHARE = 0.18  # of the middle side of the boxes
BOX_EDGE_SHARE = 0.025
LONE_DIAMETER_PX = 10.0  # taken where there are no cells to tell
CLASSES = "class_names"  # key in the metadata of a layer of ours: its classes as they were ordered by hand
COLOUR = "#3fd0c9"
CLASS_COLOURS = ("#ff9f1c", "#4cc9f0", "#f72585", "#b5e48c", "#9d6bff", "#ffe066", "#2ec4b6", "#ff6b6b")
NO_CLASS_COLOUR = "#b0b4bb"
DENSITY_COLOURMAP = "inferno"
DENSITY_OPACITY = 0.85
MOST_ROWS, MOST_TIMES = 1_000_000, 10  # of features of Labels, one for each number, unless most are of cells
DENSITY_GAMMA = 0.6  # a large cell spreads its one over many pixels; it is to be seen beside small ones


def make_layer(
    output: str, result: Result, placement: Mapping[str, Any], channel_axis: int | None = None
) -> Layer | Callable[[], Layer] | None:
    """Return the layer that shows one output of a result, or None where the result lacks it.

    Of Labels, a function that builds the layer, hidden: to be called in the GUI thread. ``Shapes`` are
    bounding boxes, ``Image`` is a density. The placement are arguments of napari's layers that put the
    counted part where it belongs; at the axis of channels, if any, the layer has one of length one.
    """
    makers: dict[str, Callable[..., Layer | Callable[[], Layer] | None]] = {
        "Labels": _labels_layer,
        "Points": _points_layer,
        "Shapes": _shapes_layer,
        "Image": _density_layer,
    }
    return makers[output](result, placement, channel_axis)


def class_colour(index: int) -> str:
    """Return the colour of a class; grey for a negative one, which means that it is not known."""
    if index < 0:
        return NO_CLASS_COLOUR
    return CLASS_COLOURS[index % len(CLASS_COLOURS)]


def legend(names: Iterable[str], counts: Iterable[int] = ()) -> str:
    """Return names, and numbers of cells, ``RBC 312 · WBC 4``, after bullets of their colours; rich text."""
    entries = []
    for index, (name, count) in enumerate(zip_longest(names, counts)):
        entries.append(f'<span style="color:{class_colour(index)}">●</span>&nbsp;{escape(name)}')
        if count is not None:
            entries[-1] += f"&nbsp;{count:,}"
    return " · ".join(entries)


def _features(result: Result) -> "pandas.DataFrame":
    table = cells_table(result)
    return table[[name for name in FEATURES if name in table]]


def _labels_layer(
    result: Result, placement: Mapping[str, Any], channel_axis: int | None
) -> Callable[[], Labels] | None:
    labels = result.cells.labels
    if labels is None:
        return None
    labels = expanded(labels, channel_axis).copy()  # the brush paints into the layer, not into the result
    features = _features(result)
    # napari takes row k of the features for label k, the background included
    table = features.reindex(range(-1, len(features))).reset_index(drop=True)
    table["label"] = np.arange(len(table))
    colours: CyclicLabelColormap | DirectLabelColormap = bright_colours()
    if result.cells.classes is not None:
        classes = enumerate(result.cells.classes, start=1)
        by_row = {row: class_colour(int(one)) for row, one in classes}
        colours = colours_by_label(by_row, NO_CLASS_COLOUR)  # in which cells drawn since are seen
    looks = {"features": table, "colormap": colours, **placement}
    return partial(_hidden_labels, labels, looks)


def _hidden_labels(labels: NDArray[np.int32], looks: Mapping[str, Any]) -> Labels:
    layer = labels_layer(labels, visible=False, **looks)  # hidden, napari colours no pixel
    show_outlines(layer, labels.shape)
    return layer


def show_outlines(layer: Labels, shape: tuple[int, ...]) -> None:
    """Draw labels as outlines; where a frame has too many pixels for that, filled and see-through."""
    layer.contour, layer.opacity = 0, 0.5
    if shape[-1] * shape[-2] <= LARGEST_OUTLINED_PX:
        draw_outlines_fast(layer)
        layer.contour, layer.opacity = OUTLINE_PX, 0.9


def colours_by_label(colours: Mapping[int, str], others: str = "transparent") -> DirectLabelColormap:
    """Return a colormap with a colour for each label, and one for all others but the background."""
    by_label: dict[int | None, Any] = {None: others}
    by_label.update(colours.items())
    by_label[0] = "transparent"
    return DirectLabelColormap(color_dict=by_label)


def features_by_number(layer: Layer) -> "pandas.DataFrame":
    """Return the features of a layer by the number of the label, or the place of the point or shape.

    napari takes the numbers of labels from a column ``index``; without one row ``k`` is label ``k``.
    """
    features: pandas.DataFrame = layer.features
    if isinstance(layer, Labels):
        return rows_by_number(features)
    return features


def rows_by_number(features: "pandas.DataFrame") -> "pandas.DataFrame":
    """Return features of labels by the number that each row is of; the last where several are of one."""
    import pandas  # slow to import

    if "index" not in features:
        return features
    numbers = pandas.to_numeric(features["index"], errors="coerce")
    is_known = np.isfinite(numbers) & ~numbers.duplicated(keep="last")
    return features.drop(columns="index")[is_known].set_index(numbers[is_known].astype(np.int64))


def spread(rows: "pandas.DataFrame") -> "pandas.DataFrame":
    """Return rows by label with one for each number up to the highest, unless those would be too many."""
    highest = int(rows.index.max()) if len(rows) else 0
    if highest < MOST_ROWS or highest < MOST_TIMES * len(rows):
        return rows.reindex(range(highest + 1))
    return rows.sort_index()


def set_features(layer: Labels | Points, rows: "pandas.DataFrame") -> None:
    """Give a layer the features that :func:`spread`, or :func:`features_by_number`, has returned."""
    if len(rows) and rows.index[-1] != len(rows) - 1:
        rows = rows.assign(index=rows.index)
    layer.features = rows.reset_index(drop=True)


def write_classes(layer: Labels | Points, names: Mapping[int, str]) -> None:
    """Write classes of some cells, by label or by point, into the features of a layer; '' is no class."""
    rows = features_by_number(layer)
    numbers = np.fromiter(names, np.int64, len(names))
    rows = rows.reindex(np.union1d(rows.index.to_numpy(np.int64), numbers))
    if isinstance(layer, Labels):
        rows = spread(rows)
    values = np.full(len(rows), "", object)
    if "class" in rows:
        values[:] = texts_of(rows["class"])
    values[np.searchsorted(rows.index, numbers)] = list(names.values())
    set_features(layer, rows.assign(**{"class": values}))


def class_order(layer: Layer) -> tuple[str, ...]:
    """Return the classes of a layer in the order of their colours and keys, those without a cell among them.

    That is the order of the annotation or of the classifier, then the others by name.
    """
    own = metadata_of(layer)
    known = own.get(CLASSES) or own.get("settings", {}).get("classes", ())
    given = texts_of(layer.features["class"]) if "class" in layer.features else ()
    return (*known, *sorted({*given} - {*known, ""}))


def note_classes(layer: Layer, names: Iterable[str]) -> None:
    """Note the order of the classes of a layer; of one that is not ours nothing is noted."""
    metadata_of(layer)[CLASSES] = tuple(names)


def class_colours(layer: Labels | Points) -> Any:
    """Return the colours of all cells by the classes in the features, as the layer takes them."""
    rows, order = features_by_number(layer), class_order(layer)
    places = {name: place for place, name in enumerate(order)}
    colours = [class_colour(places.get(name, -1)) for name in texts_of(rows["class"])]
    if isinstance(layer, Points):
        return colours
    return colours_by_label(dict(zip(rows.index.tolist(), colours, strict=True)), NO_CLASS_COLOUR)


def texts_of(column: "pandas.Series") -> list[str]:
    """Return the texts of a column, numbers as text, '' where there is none."""
    texts = []
    for one in column.tolist():
        is_number = isinstance(one, int | float) and not isinstance(one, bool) and isfinite(one)
        text = ""
        if is_number:
            text = f"{one:.15g}"
        elif isinstance(one, str):
            text = one
        texts.append(text)
    return texts


def bright_colours() -> CyclicLabelColormap:
    """Colours for outlines that stand out on dark and bright images, unlike for neighbours in number."""
    colours = [(*_bright_rgb(place), 1.0) for place in range(N_COLOURS)]
    return CyclicLabelColormap(colors=np.array([(0.0, 0.0, 0.0, 0.0), *colours]))


def bright_colour(number: int) -> str:
    """Return the colour of a cell whose colour has no meaning."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in _bright_rgb(number % N_COLOURS))


def _bright_rgb(place: int) -> tuple[float, float, float]:
    return colorsys.hsv_to_rgb(place * 0.618 % 1.0, 0.5 + 0.25 * (place % 2), 1.0)  # golden ratio: far apart


def _points_layer(result: Result, placement: Mapping[str, Any], channel_axis: int | None) -> Points:
    points = with_axis(result.cells.points.copy(), channel_axis)
    return Points(
        points,
        ndim=points.shape[-1],
        features=_features(result),
        size=max(POINT_SHARE * _typical_diameter(result), 1.0),
        face_color=_cell_colours(result),
        border_color="black",
        **placement,
    )


def _shapes_layer(result: Result, placement: Mapping[str, Any], channel_axis: int | None) -> Shapes:
    boxes = with_axis(result.cells.boxes.copy(), channel_axis)
    if result.cells.points.shape[1] > 2:  # a box of a linked cell is drawn in its middle slice
        boxes[:, :, :-2] = np.rint(with_axis(result.cells.points, channel_axis))[:, np.newaxis, :-2]
    boxes[:, :, -2:] -= 0.5  # napari draws a pixel around its index
    return Shapes(
        list(corners_of(boxes)) or None,
        ndim=boxes.shape[-1],
        features=_features(result),
        face_color="transparent",
        edge_color=_cell_colours(result),
        edge_width=max(BOX_EDGE_SHARE * _typical_diameter(result), 1.0),
        **placement,
    )


def _density_layer(
    result: Result, placement: Mapping[str, Any], channel_axis: int | None
) -> ImageLayer | None:
    density = result.maps.get("density")
    if density is None:
        return None
    density = expanded(density, channel_axis)
    highest = max(float(np.quantile(density, 0.999)), float(np.finfo(np.float32).tiny))
    return ImageLayer(
        density,
        colormap=DENSITY_COLOURMAP,
        blending="additive",
        opacity=DENSITY_OPACITY,
        gamma=DENSITY_GAMMA,
        contrast_limits=(0.0, highest),
        **placement,
    )


def _cell_colours(result: Result) -> Any:
    classes = result.cells.classes
    if classes is None or not len(classes):
        return COLOUR
    return [class_colour(int(one)) for one in classes]


def _typical_diameter(result: Result) -> float:
    boxes = result.cells.boxes
    if not len(boxes):
        return LONE_DIAMETER_PX
    return float(np.median(boxes[:, 1, -2:] - boxes[:, 0, -2:]))
