import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from napari.utils.colormaps import DirectLabelColormap
from napari.utils.colormaps.standardize_color import transform_color

from cellwright.core.data import Image, Result
from cellwright.ops.measure.cells_table import class_counts
from cellwright.widgets.shared.layer_factory import (
    BOX_EDGE_SHARE,
    COLOUR,
    class_colour,
    legend,
    make_layer,
)
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of
from cellwright.widgets.shared.napari_private import OF_COLOURS, labels_layer

ALL = ("Labels", "Points", "Shapes")
ResultOf = Callable[[Image, Any], Result]


@pytest.fixture
def labels() -> Any:
    drawn = np.zeros((40, 60), np.int32)
    for number, left in enumerate((5, 25, 45), start=1):
        drawn[10:20, left : left + 10] = number
    return drawn


@pytest.fixture
def classed(result_of: ResultOf, labels: Any) -> Result:
    """Three cells of classes 1, 0 and unknown."""
    result = result_of(Image(labels, "YX"), labels)
    return replace(
        result,
        cells=replace(result.cells, classes=np.array([1, 0, -1], np.int16)),
        provenance=replace(result.provenance, settings={"classes": ("RBC", "W<C", "Platelet")}),
    )


def colours_of(*classes: int) -> Any:
    return np.concatenate([transform_color(class_colour(one)) for one in classes])


def test_each_class_has_its_colour_in_every_layer(classed: Result) -> None:
    made = {output: make_layer(output, classed, {}) for output in ALL}
    made["Labels"] = made["Labels"]()
    expected = colours_of(1, 0, -1)
    np.testing.assert_allclose(made["Points"].face_color, expected, atol=1e-6)
    np.testing.assert_allclose(made["Shapes"].edge_color, expected, atol=1e-6)
    colormap = made["Labels"].colormap
    assert isinstance(colormap, DirectLabelColormap)
    np.testing.assert_allclose(colormap.map(np.array([1, 2, 3])), expected, atol=1 / 255)
    assert colormap.map(np.array([0, 9]))[:, 3].tolist() == [0, 1], "a cell that is drawn must be seen"
    assert list(made["Points"].features["class"]) == ["W<C", "RBC", ""]
    assert list(made["Labels"].features["class"])[1:] == ["W<C", "RBC", ""]


def test_the_legend_counts_each_class(classed: Result) -> None:
    counts = class_counts(classed)
    shown = legend(counts, counts.values())
    assert [part.split("&nbsp;", 1)[1] for part in shown.split(" · ")] == [
        "RBC&nbsp;1",
        "W&lt;C&nbsp;1",
        "Platelet&nbsp;0",
    ]
    assert class_colour(1) in shown
    assert legend({}) == ""


def test_classes_come_to_layers_and_go(viewer: ViewerModel, classed: Result, labels: Any) -> None:
    source = source_of(viewer.add_image(labels.astype(float)))
    plain = replace(classed, cells=replace(classed.cells, classes=None))
    for result in (plain, classed, plain):
        shown = place(viewer, prepare_layers(result, source, ALL))
        has_classes = result is classed
        assert isinstance(shown["Labels"].colormap, DirectLabelColormap) == has_classes
        wanted = colours_of(1, 0, -1) if has_classes else transform_color([COLOUR] * 3)
        np.testing.assert_allclose(shown["Points"].face_color, wanted, atol=1e-6)
        np.testing.assert_allclose(shown["Shapes"].edge_color, wanted, atol=1e-6)
    assert len(viewer.layers) == 4


def test_no_cells_of_any_class(result_of: ResultOf, labels: Any) -> None:
    result = result_of(Image(labels, "YX"), labels * 0)
    none = replace(result, cells=replace(result.cells, classes=np.zeros(0, np.int16)))
    for output in ALL:
        assert make_layer(output, none, {}) is not None


def test_edges_of_boxes_follow_the_cells(result_of: ResultOf, labels: Any) -> None:
    large = labels.repeat(10, axis=0).repeat(10, axis=1)
    thin, thick = (make_layer("Shapes", result_of(Image(one, "YX"), one), {}) for one in (labels, large))
    assert set(thin.edge_width) == {1.0}
    assert set(thick.edge_width) == {100 * BOX_EDGE_SHARE}


def test_the_box_of_a_linked_cell_is_drawn_in_its_middle_slice(result_of: ResultOf) -> None:
    labels = np.zeros((9, 40, 60), np.int32)
    labels[2:7, 10:20, 5:15] = 1
    layer = make_layer("Shapes", result_of(Image(labels, "ZYX"), labels), {})
    np.testing.assert_array_equal(layer.data[0][:, 0], [4, 4, 4, 4])


def test_a_density_glows_over_the_image(viewer: ViewerModel, result_of: ResultOf, labels: Any) -> None:
    source = source_of(viewer.add_image(labels.astype(float), scale=(0.5, 0.5)))
    density = (labels > 0).astype(np.float32) / 100
    result = replace(result_of(source.image, labels * 0), maps={"density": density}, interval=(2.0, 4.0))
    layer = place(viewer, prepare_layers(result, source, ("Image",)))["Image"]
    assert (layer.blending, layer.colormap.name) == ("additive", "inferno")
    assert layer.contrast_limits == pytest.approx([0, 0.01])
    np.testing.assert_array_equal(layer.scale, (0.5, 0.5))
    again = replace(result, maps={"density": 3 * density})
    shown = place(viewer, prepare_layers(again, source, ("Image",)))["Image"]
    assert len(viewer.layers) == 2
    assert shown.contrast_limits == pytest.approx([0, 0.03])
    assert make_layer("Image", result_of(source.image, labels), {}) is None


def test_an_empty_density_can_be_shown(result_of: ResultOf, labels: Any) -> None:
    image = Image(labels, "YX")
    result = replace(result_of(image, labels * 0), maps={"density": np.zeros((40, 60), np.float32)})
    assert make_layer("Image", result, {}).contrast_limits[1] > 0


def test_napari_warns_of_no_colours_where_another_thread_lets_warnings_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import skimage.color

    pixels, to_rgb = np.eye(3, dtype=np.int32), skimage.color.lab2rgb
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")

        def interrupted(lab: Any) -> Any:
            warnings.filters[:] = before  # as a block that ends in another thread does
            warnings.warn(f"{OF_COLOURS} 3 negative Z values", UserWarning, stacklevel=1)
            return to_rgb(lab)

        monkeypatch.setattr(skimage.color, "lab2rgb", interrupted)
        before = list(warnings.filters)
        Labels(pixels)
        assert told
        labels_layer(pixels)  # of a first layer, say
        before = list(warnings.filters)
        told.clear()
        labels_layer(pixels)
        assert not told
