import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Thread, main_thread
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image as ImageLayer
from napari.layers import Labels, Points, Shapes
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer

from cellwright.core.data import Image, Result
from cellwright.core.errors import WrongLayerError
from cellwright.widgets.shared import napari_private
from cellwright.widgets.shared.coordinates import channels_of
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_factory import OUTLINE_PX, bright_colours
from cellwright.widgets.shared.layer_io import (
    bring_into_sight,
    hidden_for,
    image_of,
    place,
    prepare_layers,
    remove,
    source_of,
)
from cellwright.widgets.shared.napari_private import prepare_labels

ALL = ("Labels", "Points", "Shapes")
PLACEMENT: dict[str, Any] = {
    "scale": (0.5, 0.25),
    "translate": (10.0, -4.0),
    "rotate": 30,
    "shear": (0.2,),
    "affine": np.array([[1.1, 0.1, 3.0], [-0.1, 0.9, 5.0], [0, 0, 1]]),
    "units": ("um", "um"),
    "axis_labels": ("y", "x"),
}
ResultOf = Callable[[Image, Any], Result]


def two_cells(shape: tuple[int, ...] = (40, 60)) -> np.ndarray:
    labels = np.zeros(shape, np.int32)
    labels[..., 10:16, 20:28] = 1
    labels[..., 30:35, 50:57] = 2
    return labels


def label_at(layer: Labels, world: tuple[float, ...]) -> int | None:
    """The label at a place in the world, None beside the array."""
    index = np.rint(layer.world_to_data(world)).astype(int)
    is_inside = np.all(index >= 0) and np.all(index < layer.data.shape)
    return int(layer.data[tuple(index)]) if is_inside else None


def test_no_layer_and_other_layers_are_refused_by_name() -> None:
    with pytest.raises(WrongLayerError, match="no layer"):
        image_of(None)
    with pytest.raises(WrongLayerError, match="a Points layer named 'p1'"):
        image_of(Points(np.zeros((2, 2)), name="p1"))
    with pytest.raises(WrongLayerError, match="a Labels layer"):
        source_of(Labels(np.zeros((4, 4), int)))


def test_image_keeps_laziness_and_full_resolution() -> None:
    lazy = da.zeros((64, 80), chunks=16)
    assert image_of(ImageLayer(lazy, name="lazy")).data is lazy
    image = image_of(ImageLayer([lazy, lazy[::2, ::2]], multiscale=True))
    assert image.shape == (64, 80)
    part = source_of(ImageLayer(lazy), window=(slice(8, 40), slice(0, 80)))
    assert isinstance(part.image.data, da.Array)
    assert part.image.shape == (32, 80)


def test_colours_become_an_axis() -> None:
    image = image_of(ImageLayer(np.zeros((8, 9, 3), np.uint8), rgb=True))
    assert (image.axes, image.shape) == ("YXC", (8, 9, 3))


@pytest.mark.parametrize("window", [None, (slice(5, 38), slice(15, 60))])
def test_cells_lie_on_the_image_under_any_transform(
    viewer: ViewerModel, result_of: ResultOf, window: tuple[slice, ...] | None
) -> None:
    labels = two_cells()
    layer = viewer.add_image(labels.astype(np.float32), name="em", **PLACEMENT)
    source = source_of(layer, window=window)
    part = labels[window] if window else labels
    result = replace(result_of(source.image, part), offset=source.offset)
    shown = place(viewer, prepare_layers(result, source, ALL))
    for name in ("scale", "rotate", "shear", "units", "axis_labels"):
        for made in shown.values():
            np.testing.assert_array_equal(getattr(made, name), getattr(layer, name))
    start = np.array(source.offset)
    whole = result_of(source.image, labels).cells
    for pixel in ([10, 20], [34, 56]):
        world = layer.data_to_world(pixel)
        found = np.rint(shown["Labels"].world_to_data(world)).astype(int)
        np.testing.assert_array_equal(found, np.array(pixel) - start)
        assert label_at(shown["Labels"], world) == labels[tuple(pixel)]
    for row, point in enumerate(shown["Points"].data):
        np.testing.assert_allclose(
            shown["Points"].data_to_world(point), layer.data_to_world(whole.points[row]), rtol=1e-5
        )
    corner = shown["Shapes"].data_to_world(shown["Shapes"].data[1][0])
    np.testing.assert_allclose(corner, layer.data_to_world(whole.boxes[1, 0] - 0.5), rtol=1e-5)


def test_boxes_go_around_the_pixels(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    source = source_of(layer)
    box = prepare_layers(result_of(source.image, two_cells()), source, ("Shapes",))["Shapes"].data[0]
    np.testing.assert_allclose(box, [[9.5, 19.5], [9.5, 27.5], [15.5, 27.5], [15.5, 19.5]])


def test_frames_of_a_stack_keep_their_place(viewer: ViewerModel, result_of: ResultOf) -> None:
    labels = np.zeros((6, 40, 60), np.int32)
    labels[4, 10:16, 20:28] = 1
    layer = viewer.add_image(np.zeros(labels.shape), scale=(3, 1, 1))
    window = (slice(4, 5), slice(0, 40), slice(10, 60))
    source = source_of(layer, window=window)
    shown = place(viewer, prepare_layers(result_of(source.image, labels[window]), source, ALL))
    world = layer.data_to_world([4, 12, 24])
    assert label_at(shown["Labels"], world) == 1
    assert shown["Points"].data_to_world(shown["Points"].data[0])[0] == 12
    assert shown["Shapes"].data_to_world(shown["Shapes"].data[0][2])[0] == 12


def test_a_leading_channel_axis_is_no_axis_of_the_cells(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((2, 40, 60)), scale=(1, 0.5, 0.25), translate=(0, 7, 8))
    source = source_of(layer, channels_of(layer)[1])
    shown = place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ALL))
    assert {made.ndim for made in shown.values()} == {2}
    np.testing.assert_allclose(shown["Labels"].translate, (7, 8))


def test_cells_of_an_inner_channel_axis_lie_on_their_channel(
    viewer: ViewerModel, result_of: ResultOf
) -> None:
    layer = viewer.add_image(np.zeros((5, 3, 40, 60)), axis_labels=("z", "c", "y", "x"))
    source = source_of(layer, channels_of(layer)[2])
    labels = two_cells((5, 40, 60))
    shown = place(viewer, prepare_layers(result_of(source.image, labels), source, ALL))
    assert shown["Labels"].data.shape == (5, 1, 40, 60)
    assert label_at(shown["Labels"], (1, 2, 12, 24)) == 1
    assert label_at(shown["Labels"], (1, 0, 12, 24)) is None
    assert shown["Points"].data_to_world(shown["Points"].data[0])[1] == 2


def test_features_names_and_provenance(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((40, 60)), scale=(0.5, 0.5), units=("um", "um"), name="nuclei")
    source = source_of(layer)
    shown = place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ALL))
    assert [made.name for made in shown.values()] == ["nuclei labels", "nuclei points", "nuclei boxes"]
    names = ["label", "score", "area_px", "diameter_px", "area_um2", "diameter_um"]
    for output in ("Points", "Shapes"):
        features = shown[output].features
        assert list(features) == names
        assert list(features["label"]) == [1, 2]
        assert list(features["area_px"]) == [48, 35]
        np.testing.assert_allclose(features["area_um2"], [12, 8.75])
    by_label = shown["Labels"].features  # napari: row k is label k
    assert by_label["area_px"][1] == 48
    assert by_label["label"].tolist() == [0, 1, 2]
    assert np.isnan(by_label["score"][0])
    own = shown["Labels"].metadata["cellwright"]
    assert (own["model"], own["image_name"], own["checkpoint_sha256"]) == ("flow", "nuclei", "abc")


def test_without_a_unit_there_are_no_physical_features(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60)), scale=(0.5, 0.5)))
    made = prepare_layers(result_of(source.image, two_cells()), source, ("Points",))["Points"]
    assert list(made.features) == ["label", "score", "area_px", "diameter_px"]


def test_a_second_run_updates_the_layers_of_the_first(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    source = source_of(layer)
    first = place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ALL))
    first["Labels"].opacity, first["Labels"].name, first["Shapes"].name = 0.3, "mine", "my boxes"
    window = (slice(20, 40), slice(30, 60))
    part = source_of(layer, window=window)
    labels = (two_cells()[window] > 0).astype(np.int32)
    second = place(viewer, prepare_layers(result_of(part.image, labels), part, ALL))
    assert len(viewer.layers) == 4
    assert second["Labels"] is first["Labels"]
    assert second["Points"] is first["Points"]
    assert (second["Labels"].opacity, second["Labels"].name) == (0.3, "mine")
    assert second["Shapes"].name == "my boxes"
    assert len(second["Shapes"].data) == len(second["Points"].data) == 1
    assert len(second["Labels"].features) == 2
    assert label_at(second["Labels"], (32, 52)) == 1
    np.testing.assert_allclose(second["Labels"].translate, (20, 30))


def test_a_copy_of_the_image_gets_layers_of_its_own(viewer: ViewerModel, result_of: ResultOf) -> None:
    for _ in range(2):
        source = source_of(viewer.add_image(np.zeros((40, 60)), name="nuclei"))
        place(viewer, prepare_layers(result_of(source.image, two_cells()), source))
    assert len(viewer.layers) == 4


def test_no_cells_still_update_every_layer(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ALL))
    shown = place(viewer, prepare_layers(result_of(source.image, np.zeros((40, 60), np.int32)), source, ALL))
    assert len(viewer.layers) == 4
    assert len(shown["Points"].data) == len(shown["Shapes"].data) == 0
    assert not shown["Labels"].data.any()


def test_cells_without_labels_show_as_points_only(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    result = result_of(source.image, two_cells())
    result = replace(result, cells=replace(result.cells, labels=None))
    assert list(prepare_layers(result, source, ALL)) == ["Points", "Shapes"]


def test_labels_are_built_in_the_gui_thread_and_once(
    viewer: ViewerModel, result_of: ResultOf, builders: list[Thread]
) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    result = result_of(source.image, two_cells())
    with ThreadPoolExecutor() as pool:
        prepared = pool.submit(prepare_layers, result, source, ALL).result()
    assert builders == []  # napari silences a warning there for all threads
    shown = place(viewer, prepared)["Labels"]
    assert prepared["Labels"] is shown
    assert builders == [main_thread()]
    assert shown.visible


def test_a_change_of_axes_replaces_the_layer(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((3, 40, 60)))
    channel, *_, slices = channels_of(layer)
    source = source_of(layer, channel)
    place(viewer, prepare_layers(result_of(source.image, two_cells()), source))
    source = source_of(layer, slices)
    shown = place(viewer, prepare_layers(result_of(source.image, two_cells((3, 40, 60))), source))
    assert len(viewer.layers) == 2
    assert shown["Labels"].ndim == 3


def test_the_selection_stays(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((40, 60)))
    source = source_of(layer)
    place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ALL))
    assert viewer.layers.selection.active is layer


def test_previews_are_kept_apart_and_removed_alone(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60)), name="nuclei"))
    preview = replace(source, is_preview=True)
    result = result_of(source.image, two_cells())
    place(viewer, prepare_layers(result, source))
    shown = place(viewer, prepare_layers(result, preview))
    assert shown["Labels"].name == "nuclei preview labels"
    remove(viewer, preview.key)
    assert [made.name for made in viewer.layers] == ["nuclei", "nuclei labels"]


def test_a_place_outlives_its_image_layer(viewer: ViewerModel, result_of: ResultOf) -> None:
    layer = viewer.add_image(np.zeros((40, 60)), **PLACEMENT)
    source = source_of(layer)
    viewer.layers.remove(layer)
    place(viewer, prepare_layers(result_of(source.image, two_cells()), source))
    np.testing.assert_allclose(viewer.layers[0].translate, PLACEMENT["translate"])


def test_outlines_for_frames_of_cameras_and_see_through_cells_in_larger_ones(
    viewer: ViewerModel, result_of: ResultOf
) -> None:
    for shape, outline, opacity in (
        ((40, 60), OUTLINE_PX, 0.9),
        ((2048, 2048), OUTLINE_PX, 0.9),
        ((3400, 3400), 0, 0.5),  # the cells could not be seen below opaque ones
    ):
        source = source_of(viewer.add_image(np.zeros(shape, np.uint8)))
        made = prepare_layers(result_of(source.image, np.zeros(shape, np.int32)), source)["Labels"]
        assert (made.contour, made.opacity) == (outline, opacity)


def test_tools_that_napari_draws_on_labels_come_in_turns_of_their_own(
    viewer: ViewerModel, result_of: ResultOf, qtbot: QtBot
) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    made: list[str] = []

    def note(_: bool) -> None:
        made.append("tool")
        QTimer.singleShot(0, lambda: made.append("turn"))

    def add() -> list[Any]:
        layer = place(viewer, prepare_layers(result_of(source.image, two_cells()), source))["Labels"]
        tools = [layer._overlays[name] for name in ("polygon", "brush_stroke") if name in layer._overlays]
        for tool in tools:
            tool.events.visible.connect(note)
        return tools

    tools = add()
    assert tools
    assert not any(tool.visible for tool in tools)  # napari makes no more than what is seen
    qtbot.waitUntil(lambda: made.count("turn") == len(tools), timeout=5000)
    assert all(tool.visible for tool in tools)
    assert made == ["tool", "turn"] * len(tools)
    viewer.layers.remove("Image labels")
    made.clear()
    tools = add()
    viewer.layers.remove("Image labels")
    qtbot.waitUntil(lambda: all(tool.visible for tool in tools), timeout=5000)
    assert not made  # nobody draws them where there is no layer


def test_an_active_layer_stays_so_all_the_time(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    chosen: list[Any] = []  # napari builds the controls of each
    viewer.layers.selection.events.active.connect(lambda event: chosen.append(event.value))
    made = place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ("Labels",)))
    assert made["Labels"] in viewer.layers
    assert not chosen
    viewer.layers.selection.active = None
    viewer.layers.remove(made["Labels"])
    made = place(viewer, prepare_layers(result_of(source.image, two_cells()), source, ("Labels",)))
    assert viewer.layers.selection.active is made["Labels"]  # else there would be none


def test_what_the_first_lines_of_labels_need_is_made_before() -> None:
    from vispy.visuals.line import dash_atlas

    dash_atlas._make_pattern.cache_clear()
    prepare_labels(bright_colours())
    missed = dash_atlas._make_pattern.cache_info().misses
    dash_atlas.DashAtlas()  # as each line of napari's polygon and brush does
    assert dash_atlas._make_pattern.cache_info().misses == missed > 0


COMPILED = """
import sys
import numpy as np
from napari.layers import Labels
from napari.utils.colormaps import _accelerated_cmap as accelerated
from cellwright.widgets.shared.layer_factory import bright_colours, colours_by_label
from cellwright.widgets.shared.napari_private import prepare_labels

def compiled():
    return [len(getattr(one, "signatures", ())) for one in vars(accelerated).values()]

prepare_labels(bright_colours(), colours_by_label({1: "red"}))
before, loaded = compiled(), {*sys.modules}
for colours in (bright_colours(), colours_by_label({1: "red", 2: "lime"})):
    Labels(np.ones((9, 9), np.int32), colormap=colours)
assert compiled() == before and sum(before) >= 4, (before, compiled())
late = {name.partition(".")[0] for name in sys.modules if name not in loaded}
assert late <= {"napari", "napari_resources"}, late
"""


def test_no_first_layer_of_labels_waits_for_a_compiler_or_a_library() -> None:
    subprocess.run(
        [sys.executable, "-c", COMPILED], check=True
    )  # a fresh process, where no test has drawn labels yet


def test_outlines_of_cells_that_were_found_are_found_fast(
    viewer: ViewerModel, result_of: ResultOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlined: list[tuple[int, ...]] = []
    edges_of = napari_private.edges_of

    def counted(labels: Any, thickness: int) -> Any:
        outlined.append(labels.shape)
        return edges_of(labels, thickness)

    monkeypatch.setattr(napari_private, "edges_of", counted)
    source = source_of(viewer.add_image(np.zeros((40, 60))))
    place(viewer, prepare_layers(result_of(source.image, two_cells()), source))
    assert outlined == [(40, 60)]  # and once


def test_shapes_keep_their_place_in_the_list(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60)), name="nuclei"))
    result = result_of(source.image, two_cells())
    place(viewer, prepare_layers(result, source, ("Shapes", "Labels")))
    before = [made.name for made in viewer.layers]
    replaced = place(viewer, prepare_layers(result, source, ("Shapes",)))["Shapes"]
    assert [made.name for made in viewer.layers] == before
    assert isinstance(replaced, Shapes)


def test_what_another_family_found_makes_way_whatever_layers_it_has(
    viewer: ViewerModel, blobs: Any, result_of: Callable[..., Any]
) -> None:
    source = source_of(viewer.add_image(blobs.image, name="blobs"))
    drawn = viewer.add_shapes([np.eye(2)], metadata={METADATA: {**source.key, "output": "calibration"}})
    result = result_of(source.image, blobs.labels)

    def show(family: str, *outputs: str) -> list[str]:
        found = replace(result, provenance=result.provenance.noting(**{family: {}}))
        prepared = prepare_layers(found, source, outputs)
        place(viewer, prepared)
        assert drawn.visible  # no cells of a count
        assert set(hidden_for(viewer, prepared)).isdisjoint(one.name for one in viewer.layers if one.visible)
        return [one.name for one in viewer.layers[2:] if one.visible]

    assert show("flow", "Labels") == ["blobs labels"]
    assert show("centroid", "Points", "Shapes") == ["blobs points", "blobs boxes"]
    assert show("flow", "Labels") == ["blobs labels"]
    assert show("flow", "Labels", "Points") == ["blobs labels", "blobs points [1]"]


@pytest.mark.parametrize("blending", ["translucent_no_depth", "additive"])
def test_cells_under_their_own_image_come_to_lie_on_it(viewer: ViewerModel, blending: str) -> None:
    cells = viewer.add_labels(np.eye(9, dtype=int))
    image = viewer.add_image(np.zeros((9, 9)), blending=blending)
    assert bring_into_sight(viewer, image, [cells]) == []
    assert (viewer.layers[-1] is cells) == (blending != "additive")


def test_cells_counted_in_a_3d_view_lie_on_images_in_2d(make_napari_viewer: Callable[..., Any]) -> None:
    viewer = make_napari_viewer(show=True)
    for _ in range(2):
        viewer.add_image(np.zeros((3, 9, 9)))
    viewer.dims.ndisplay = 3
    napari_private.add_in_turns(viewer, Labels(np.ones((3, 9, 9), int)))
    viewer.dims.ndisplay = 2
    visuals = viewer.window._qt_viewer.canvas.layer_to_visual
    assert [visuals[layer].node.order for layer in viewer.layers] == [0, 1, 2]
