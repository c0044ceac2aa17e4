"""The tools: keys and mouse on a viewer without a window."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from app_model.types import KeyBinding, KeyCode, KeyMod, OperatingSystem
from napari.components import ViewerModel
from napari.utils.key_bindings import coerce_keybinding
from pytestqt.qtbot import QtBot

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.widgets.annotate.adder import median_diameter
from cellwright.widgets.annotate.keys import BY_NAME, HINTS, TOOLS, cheat_sheet
from cellwright.widgets.annotate.layer import AnnotationLayer
from cellwright.widgets.annotate.overlays import Regions
from cellwright.widgets.annotate.tools import CELL, InputHandler, ToolBox
from cellwright.widgets.shared import style
from cellwright.widgets.shared.cells.regions import pixel_box
from cellwright.widgets.shared.style import bound_key

Pointed = Callable[..., None]


@pytest.fixture
def tools(viewer: ViewerModel, qtbot: QtBot) -> ToolBox:
    """Two squares that touch (3 is a bar of two squares), in a volume of five slices."""
    labels = np.zeros((5, 40, 60), np.int32)
    labels[1:4, 10:20, 10:20] = 1
    labels[1:4, 10:20, 20:30] = 2
    labels[2:4, 28:36, 10:22] = 3
    labels[2:4, 28:36, 24:36] = 3
    labels[2:4, 31:33, 22:24] = 3
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), "ZYX"), labels)
    layer = viewer.add_labels(session.labels)
    viewer.dims.set_point(0, 2)
    box = ToolBox(AnnotationLayer(viewer, layer, session))
    box.input = InputHandler(box)  # type: ignore[attr-defined]
    box.told = told = []  # type: ignore[attr-defined]
    box.done.connect(told.append)
    box.failed.connect(lambda error: told.append(error))
    viewer.layers.selection.active = layer
    return box


def press(tools: ToolBox, key: str, at: tuple[float, ...] | None = None) -> None:
    if at is not None:
        tools.view.viewer.cursor.position = at
    tools.view.layer.keymap[coerce_keybinding(bound_key(key))](tools.view.layer)


def is_ours(callback: Callable[..., Any]) -> bool:
    return isinstance(callback.__self__, InputHandler)


def drag(tools: ToolBox, *points: tuple[float, ...], modifiers: tuple[str, ...] = ()) -> None:
    """Press at the first point, move through the others, release at the last."""
    layer = tools.view.layer
    event = SimpleNamespace(button=1, view_direction=None, modifiers=modifiers)

    def go(kind: str, point: tuple[float, ...]) -> None:
        event.type, event.position, event.pos = kind, point, np.array(point[-2:]) * 10

    go("mouse_press", points[0])
    found = [callback(layer, event) for callback in layer.mouse_drag_callbacks if is_ours(callback)]
    running = [one for one in found if one is not None and next(one, "ended") != "ended"]
    for point in points[1:]:
        go("mouse_move", point)
        for one in running:
            next(one)
    go("mouse_release", points[-1])
    for one in running:
        assert next(one, "ended") == "ended"


def test_every_tool_has_a_key_of_its_own_a_button_and_a_line_of_help() -> None:
    assert len({tool.key for tool in TOOLS}) == len(TOOLS)
    assert len(BY_NAME) == len(TOOLS)
    assert not {tool.name for tool in TOOLS if tool.kind not in ("once",)} - set(HINTS)
    sheet = cheat_sheet()
    assert all(tool.help.replace("'", "&#x27;") in sheet for tool in TOOLS)


def test_on_a_mac_command_undoes_what_was_annotated(tools: ToolBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """There napari calls it Meta; by Control alone its own undo of Labels would answer to Command and Z."""
    layer, undo = tools.view.layer, KeyMod.CtrlCmd | KeyCode.KeyZ
    assert KeyBinding.from_int(undo) in layer.keymap
    tools.input.close()  # type: ignore[attr-defined]
    monkeypatch.setattr("app_model.types._constants._CURRENT", OperatingSystem.MACOS)
    monkeypatch.setattr(style, "ON_MAC", True)
    handler = InputHandler(tools)
    press(tools, "D", (2, 12, 12))
    layer.keymap[KeyBinding.from_int(undo)](layer)
    assert len(tools.session.history.done) == 0
    assert "&nbsp;Cmd+Shift+Z&nbsp;" in cheat_sheet()
    assert "Ctrl" not in cheat_sheet()
    handler.close()
    assert not layer.keymap


def test_keys_mean_the_cell_that_is_prompted_for_as_long_as_there_is_one(tools: ToolBox) -> None:
    taken: list[str] = []
    tools.takes = lambda name: bool(taken.append(name) or name != "next")
    tools.choose("add")
    for key in ("Enter", "A", "X", "Control-Z", "Escape", "N"):
        press(tools, key)
    assert taken == ["accept", "accept", "reject", "undo", "cancel", "next"]
    assert tools.name == "add"
    assert tools.told == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "name", "told"),
    [
        ("D", "delete", "Deleted cell 1."),
        ("G", "grow", "Widened cell 1."),
        ("H", "shrink", "Narrowed cell 1."),
        ("R", "smooth", "Smoothed cell 1."),
    ],
)
def test_a_key_acts_on_the_cell_under_the_cursor(tools: ToolBox, key: str, name: str, told: str) -> None:
    press(tools, key, (2, 12, 12))
    assert tools.told == [told]  # type: ignore[attr-defined]
    assert tools.session.history.undo_name == name
    assert len(tools.session.history.done) == 1
    press(tools, "Control-Z")
    assert len(tools.session.history.done) == 0
    press(tools, "Control-Shift-Z")
    assert tools.session.history.undo_name == name


def test_a_key_beside_cells_takes_the_one_in_review_or_none(tools: ToolBox) -> None:
    press(tools, "D", (2, 2, 50))
    assert len(tools.session.history.done) == 0
    tools.fallback = lambda: 3
    press(tools, "D", (2, 2, 50))
    assert 3 not in tools.session.store


def test_a_button_makes_clicks_act(tools: ToolBox) -> None:
    tools.choose("delete")
    drag(tools, (2, 12, 12))
    assert 1 not in tools.session.store
    drag(tools, (2, 12, 22), (2, 17, 22))  # a drag moves the image
    assert 2 in tools.session.store


def test_merging_drags_from_one_cell_to_another(tools: ToolBox) -> None:
    press(tools, "M")
    drag(tools, (2, 12, 12), (2, 12, 18), (2, 12, 22))
    assert 2 not in tools.session.store
    assert tools.session.store.box_of(1)[2] == slice(10, 30)
    assert tools.view.layer.mouse_pan
    drag(tools, (2, 5, 5), (2, 12, 12))  # begins beside cells: the image moves
    assert len(tools.session.history.done) == 1


def test_a_line_cuts_the_cell_it_crosses_most(tools: ToolBox) -> None:
    press(tools, "S")
    assert not tools.view.layer.mouse_pan
    drag(tools, (2, 25, 23), (2, 32, 23), (2, 38, 23))
    assert len(tools.session.store) == 4
    assert {tools.session.store.number_at((2, 32, x)) for x in (12, 34)} == {3, 4}
    assert tools.overlay.layer is not None
    assert not tools.overlay.layer.data
    drag(tools, (2, 2, 50), (2, 4, 50))
    assert len(tools.session.store) == 4
    press(tools, "Escape")
    assert tools.view.layer.mouse_pan


def test_a_cell_of_a_very_high_number_is_cut(tools: ToolBox) -> None:
    labels = tools.session.labels.copy()
    labels[labels == tools.session.store.number_at((2, 32, 23))] = 2_000_000_000
    tools.session.replace_labels(labels)
    press(tools, "S")
    drag(tools, (2, 25, 23), (2, 32, 23), (2, 38, 23))
    parts = {tools.session.store.number_at((2, 32, x)) for x in (12, 34)}
    assert parts == {2_000_000_000, 2_000_000_001}


def test_naparis_own_polygon_is_ended_by_its_keys(tools: ToolBox) -> None:
    layer, corners = tools.view.layer, [(2, 2, 45), (2, 2, 53), (2, 8, 53), (2, 8, 45)]
    before = len(tools.session.store)
    layer.selected_label = 90
    layer.mode = "polygon"
    polygon = layer._overlays["polygon"]
    polygon.points = corners
    press(tools, "Escape")
    assert (polygon.points, str(layer.mode)) == ([], "polygon")
    polygon.points = corners
    press(tools, "Enter")
    assert polygon.points == []
    assert tools.session.store.number_at((2, 5, 49)) == 90
    assert len(tools.session.store) == before + 1
    press(tools, "Control-Z")
    assert len(tools.session.store) == before
    press(tools, "Escape")
    assert layer.mouse_pan


def test_two_clicks_split_also_across_slices(tools: ToolBox) -> None:
    press(tools, "T")
    drag(tools, (2, 32, 12))
    assert len(tools.overlay.layer.data) == 1  # type: ignore[union-attr]
    tools.view.viewer.dims.set_point(0, 3)
    drag(tools, (3, 32, 34))
    assert tools.session.store.number_at((2, 32, 12)) == 3
    assert tools.session.store.number_at((2, 32, 34)) == 4
    drag(tools, (3, 32, 12))
    press(tools, "Escape")  # forgets the click, keeps the tool
    assert tools.name == "split"
    drag(tools, (3, 2, 2))
    assert len(tools.session.store) == 4


def test_painting_goes_on_with_a_cell_or_begins_one(tools: ToolBox) -> None:
    layer = tools.view.layer
    press(tools, "P", (2, 12, 12))
    assert (str(layer.mode), layer.selected_label, layer.preserve_labels) == ("paint", 1, True)
    press(tools, "P", (2, 2, 50))
    assert layer.selected_label == tools.session.store.next_number
    press(tools, "E")
    assert (str(layer.mode), layer.preserve_labels) == ("erase", False)
    press(tools, "F")
    assert str(layer.mode) == "fill"
    press(tools, "Z")
    assert (str(layer.mode), tools.name) == ("pan_zoom", "")
    layer.mode = "paint"  # by napari's own button
    assert tools.name == "paint"


def test_a_polygon_goes_on_with_a_cell_or_begins_one(tools: ToolBox) -> None:
    layer, session = tools.view.layer, tools.session
    press(tools, "L", (2, 12, 12))
    assert (str(layer.mode), layer.selected_label, tools.name) == ("polygon", 1, "polygon")
    press(tools, "L", (2, 2, 50))
    number, before = session.store.next_number, session.labels.copy()
    assert layer.selected_label == number
    polygon = layer._overlays["polygon"]
    polygon.points = [[2, 3, 45], [2, 3, 55], [2, 9, 50]]
    press(tools, "Escape")
    assert (tools.name, polygon.points) == ("polygon", [])
    np.testing.assert_array_equal(session.labels, before)
    polygon.points = [[2, 3, 45], [2, 3, 55], [2, 9, 50]]
    press(tools, "Enter")
    assert number in session.store
    assert len(session.history.done) == 1
    press(tools, "Escape")
    assert (str(layer.mode), tools.name) == ("pan_zoom", "")


@pytest.mark.parametrize(("axes", "told"), [("ZYX", 1), ("TYX", 0)])
def test_a_stroke_that_leaves_a_cell_in_pieces_is_told(viewer: ViewerModel, axes: str, told: int) -> None:
    labels = np.zeros((2, 20, 20), np.int32)
    labels[0, 2:5, 2:5] = 1
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), axes), labels)
    layer = viewer.add_labels(session.labels)
    tools = ToolBox(AnnotationLayer(viewer, layer, session))
    said: list[str] = []
    tools.done.connect(said.append)
    layer.brush_size = 1
    layer.mode = "paint"
    layer.paint((0, 5, 3), 1)
    assert said == []
    layer.paint((1, 9, 9), 1)  # another slice, or the same cell in the next frame
    assert len(said) == told
    layer.paint((1, 15, 15), 1)
    assert f"Cell 1 is in {2 + told} separate pieces" in said[-1]


def test_no_edit_comes_between_a_stroke_and_its_record(tools: ToolBox) -> None:
    press(tools, "G", (2, 12, 12))
    layer = tools.view.layer
    with layer.block_history():
        layer.paint((2, 5, 50), 9)
        press(tools, "Control-Z")
        press(tools, "D", (2, 12, 12))
        assert len(tools.session.history.done) == 1
    assert len(tools.session.history.done) == 2


def test_interpolation_fills_the_slices_between(tools: ToolBox) -> None:
    session = tools.session
    box = (slice(3, 4), slice(10, 20), slice(10, 20))
    middle = (slice(2, 3), *box[1:])
    session.record_paint(middle, session.labels[middle].copy(), np.zeros((1, 10, 10), np.int32))
    press(tools, "I", (1, 12, 12))
    assert session.store.number_at((2, 12, 12)) == 1


def test_holes_are_filled(tools: ToolBox) -> None:
    hole = (slice(1, 4), slice(14, 16), slice(14, 16))
    tools.session.record_paint(hole, tools.session.labels[hole].copy(), np.zeros((3, 2, 2), np.int32))
    press(tools, "O", (2, 12, 12))
    assert tools.session.history.undo_name == "fill holes"


def test_classes_by_key_and_by_click(tools: ToolBox) -> None:
    tools.session.set_class_names(["a", "b"])
    press(tools, "2", (2, 12, 12))
    assert tools.session.store.cell(1).category == 1
    press(tools, "0", (2, 12, 12))
    assert tools.session.store.cell(1).category is None
    press(tools, "9", (2, 12, 12))
    assert "class" in str(tools.told[-1])  # type: ignore[attr-defined]
    tools.category = 0
    tools.choose(CELL)
    drag(tools, (2, 12, 22))
    assert tools.session.store.cell(2).category == 0


def test_others_are_asked_for_what_a_tool_box_cannot_do(tools: ToolBox) -> None:
    asked: list[Any] = []
    tools.asked.connect(lambda points, said: asked.append((points.tolist(), said)))
    tools.pressed.connect(asked.append)
    press(tools, "C")
    drag(tools, (2, 5, 50))
    drag(tools, (2, 5, 50), modifiers=("Shift",))
    drag(tools, (2, 5, 50), (2, 15, 58))
    for key in ("A", "X", "N", "B", "Y", "F1"):
        press(tools, key)
    assert asked[:2] == [([[2, 5, 50]], "positive"), ([[2, 5, 50]], "negative")]
    assert asked[2] == ([[2, 5, 50], [2, 15, 58]], "positive")
    assert asked[3:] == ["accept", "reject", "next", "back", "hide", "help"]


def test_space_lets_the_mouse_move_the_image(tools: ToolBox) -> None:
    press(tools, "K")
    layer = tools.view.layer
    hold = layer.keymap[coerce_keybinding("Space")](layer)
    next(hold)
    assert layer.mouse_pan
    drag(tools, (2, 1, 1), (2, 9, 9))
    assert not tools.session.metadata.regions
    assert next(hold, "ended") == "ended"
    assert not layer.mouse_pan
    assert tools.name == "region"


def test_regions_are_drawn_deleted_and_undone(tools: ToolBox) -> None:
    regions = Regions(tools.view)
    press(tools, "K")
    drag(tools, (2, 1, 1), (2, 5, 5), (2, 9, 9))
    assert tools.session.metadata.regions == (pixel_box(np.array([[2, 1, 1], [2, 9, 9.0]]), (5, 40, 60)),)
    tools.goes_through_slices = True
    drag(tools, (2, 11, 11), (2, 19, 19))
    assert tools.session.metadata.regions[1] == (slice(0, 5), slice(11, 20), slice(11, 20))
    layer = regions.layer
    assert layer is not None
    assert len(layer.data) == 1 + 5
    layer.selected_data = {0}
    layer.remove_selected()
    assert len(tools.session.metadata.regions) == 1
    layer.add_rectangles(np.array([[3, 2, 2], [3, 2, 9], [3, 9, 9], [3, 9, 2]], float))
    assert tools.session.metadata.regions[1] == (slice(3, 4), slice(2, 10), slice(2, 10))
    for n in (1, 2, 1, 0):
        tools.session.undo()
        assert len(tools.session.metadata.regions) == n
        assert len(layer.data) == sum(
            region[0].stop - region[0].start for region in tools.session.metadata.regions
        )


def test_regions_of_a_plane_are_drawn_in_a_3d_view(viewer: ViewerModel) -> None:
    session = AnnotationSession(Image(np.zeros((40, 60), np.uint8), "YX"))
    session.add_region((slice(0, 20), slice(0, 30)))
    layer = viewer.add_labels(session.labels)
    viewer.dims.ndisplay = 3
    regions = Regions(AnnotationLayer(viewer, layer, session))
    session.add_region((slice(20, 40), slice(0, 30)))
    assert regions.layer is not None
    assert len(regions.layer.data) == 2


@pytest.mark.parametrize(("axes", "text"), [("TYX", " in all its 3 frames."), ("ZYX", ".")])
def test_what_changes_a_cell_in_other_frames_says_so(
    viewer: ViewerModel, qtbot: QtBot, axes: str, text: str
) -> None:
    labels = np.zeros((5, 40, 60), np.int32)
    labels[[0, 1, 3], 10:20, 10:20] = 1
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), axes), labels)
    tools = ToolBox(AnnotationLayer(viewer, viewer.add_labels(session.labels), session))
    told: list[str] = []
    tools.done.connect(told.append)
    tools.change("delete", 1)
    assert told == [f"Deleted cell 1{text}"]


def test_a_disc_in_a_series_is_as_large_as_its_cells_not_as_their_way() -> None:
    labels = np.zeros((10, 100, 100), np.int32)
    for frame in range(10):
        labels[frame, 8 * frame : 8 * frame + 8, 8 * frame : 8 * frame + 8] = 1
    for axes, sides in (("TYX", 8), ("ZYX", 80)):
        session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), axes), labels.copy())
        assert median_diameter(session) == sides


def test_a_region_that_is_pasted_is_one_more(tools: ToolBox) -> None:
    regions, first = Regions(tools.view), (slice(2, 3), slice(2, 10), slice(2, 10))
    tools.session.add_region(first)
    layer = regions.layer
    assert layer is not None
    layer.selected_data = {0}
    layer._copy_data()
    tools.view.viewer.dims.set_current_step(0, 4)
    layer._paste_data()
    assert tools.session.metadata.regions == (first, (slice(4, 5), *first[1:]))
    layer.data = [layer.data[0], layer.data[1] + np.array([0, 20, 20])]
    assert tools.session.metadata.regions == (first, (slice(4, 5), slice(22, 30), slice(22, 30)))
    tools.session.undo()
    tools.session.undo()
    assert tools.session.metadata.regions == (first,)
    assert len(layer.data) == 1


def test_naparis_own_buttons_spare_the_neighbours_as_the_tools_do(tools: ToolBox) -> None:
    layer = tools.view.layer
    tools.choose("erase")
    assert not layer.preserve_labels
    for mode, is_sparing in (("paint", True), ("fill", False), ("polygon", True), ("erase", False)):
        layer.mode = mode
        assert layer.preserve_labels == is_sparing, mode
    tools.choose("")
    assert layer.preserve_labels


def test_a_closed_tool_box_frees_mouse_and_keys(tools: ToolBox) -> None:
    tools.choose("merge")
    tools.close()
    tools.input.close()  # type: ignore[attr-defined]
    layer = tools.view.layer
    assert not layer.keymap
    assert str(layer.mode) == "pan_zoom"
    assert not any(map(is_ours, layer.mouse_drag_callbacks))


def test_a_class_that_is_given_is_told(tools: ToolBox, viewer: ViewerModel) -> None:
    told: list[str] = []
    tools.done.connect(told.append)
    viewer.cursor.position = (2, 12, 12)
    tools.class_target(1)
    tools.session.set_class_names(["live", "dead"])
    tools.class_target(0)
    tools.class_target(None)
    tools.change(CELL, 2)
    viewer.cursor.position = (2, 38, 58)
    tools.class_target(1)
    assert told == [
        "Cell 1: class '2'.",
        "Cell 1: class 'live'.",
        "Cell 1: no class.",
        "Cell 2: class 'live'.",
        "There is no cell here.",
    ]
