from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.utils.key_bindings import coerce_keybinding
from pytestqt.qtbot import QtBot

from cellwright.core.data import Cells, Image
from cellwright.inference.point_prompt import PromptedCell
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.widgets.count.point_prompt import NOT_COUNTED, PointPromptTool
from cellwright.widgets.count.prompted_cells import covering, empty_result, with_prompted_cell
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.layer_io import source_of
from cellwright.widgets.shared.point_prompt import PromptContext, prompt_model
from cellwright.widgets.shared.style import bound_key

Settled = Callable[[CountWidget], None]


def prompt(viewer: ViewerModel, position: Any, *held: str, to: Any = None) -> None:
    """Do what napari does with a press and a release of the mouse, at another place where ``to`` is given."""
    event = SimpleNamespace(type="mouse_press", pos=(50, 50), position=position, modifiers=held, button=1)
    callbacks = viewer.mouse_drag_callbacks[-1:]
    drags = [
        callback(viewer, event) for callback in callbacks if isinstance(callback.__self__, PointPromptTool)
    ]
    for drag in drags:
        next(drag)
    if to is not None:
        event.type, event.pos, event.position = "mouse_move", (50, 80), to
        for drag in drags:
            next(drag)
    event.type = "mouse_release"
    for drag in drags:
        assert next(drag, "released") == "released"


def press(layer: Any, key: str) -> None:
    layer.keymap[coerce_keybinding(bound_key(key))](layer)


def click(viewer: ViewerModel, position: Any) -> None:
    """Click on a cell and keep it."""
    prompt(viewer, position)
    press(viewer.layers.selection.active, "Enter")


@pytest.fixture
def settled(settled: Settled, qtbot: QtBot) -> Settled:
    """Function (widget) that returns once what was prompted is answered and counted."""

    def wait(widget: CountWidget) -> None:
        qtbot.waitUntil(lambda: not widget.ask._waiting, timeout=60_000)
        settled(widget)

    return wait


@pytest.fixture
def asking(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> Callable[..., Iterator[None]]:
    """Function (image, **arguments of the layer) that adds an image layer and puts the button down."""

    def begin(image: Any, **arguments: Any) -> Any:
        layer = viewer.add_image(image, name="blobs", **arguments)
        widget.panel.ask.setChecked(True)
        settled(widget)
        assert "Click on a cell" in widget.panel.message.text()
        return layer

    return begin


def faint(blobs: Any, row: int) -> Any:
    """The image with one cell too faint to be counted at the highest threshold."""
    image = blobs.image.copy()
    image[blobs.labels == row + 1] = 0.53
    return image


def test_a_click_adds_a_cell_to_a_new_layer(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    layer = asking(blobs.image, scale=(0.5, 0.5), translate=(3, 4))
    for n, row in enumerate((4, 7), start=1):
        click(viewer, layer.data_to_world(blobs.points[row]))
        settled(widget)
        assert "Cell added: score 1.00" in widget.panel.message.text()
        assert widget.panel.number.text() == str(n)
    labels = viewer.layers["blobs labels"]
    np.testing.assert_array_equal(labels.data == 1, blobs.labels == 5)
    np.testing.assert_array_equal(labels.data == 2, blobs.labels == 8)
    np.testing.assert_allclose(labels.translate, (3, 4))
    assert widget.counted.result.provenance.settings["asked_cells"] == 2


def test_cells_that_are_asked_for_without_a_count_tell_their_file(viewer: ViewerModel, blobs: Any) -> None:
    found = source_of(viewer.add_image(blobs.image))
    source = replace(found, image=replace(found.image, source="blobs.tif"))
    result = empty_result(PromptContext(source, "query", EngineSettings(), ()), has_labels=True)
    assert (result.provenance.source, result.provenance.model) == ("blobs.tif", "query")


def test_a_click_adds_to_the_last_count_and_thresholds_then_keep_it(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    widget.panel.outputs["Points"].setChecked(True)
    layer = viewer.add_image(faint(blobs, 3), name="first")
    widget.panel.thresholds.container["cell_probability"].value = 0.9
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs) - 1)
    widget.panel.ask.setChecked(True)
    settled(widget)
    click(viewer, layer.data_to_world(blobs.points[3]))
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs))
    assert len(viewer.layers["first points"].data) == len(blobs)
    assert viewer.layers["first labels"].data.max() == len(blobs)
    np.testing.assert_array_equal(viewer.layers["first labels"].data > 0, blobs.labels > 0)
    widget.panel.thresholds.container["cell_probability"].value = 0.5
    settled(widget)
    assert "next count" in widget.panel.message.text()
    assert widget.panel.number.text() == str(len(blobs))


def test_what_was_changed_by_hand_is_added_to(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled, qtbot: QtBot
) -> None:
    layer = viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    labels = viewer.layers["blobs labels"]
    gone, cut = (int(labels.data[tuple(blobs.points[row].astype(int))]) for row in (4, 7))
    labels.data = np.where(np.isin(labels.data, (gone, cut)), 0, labels.data)
    widget.panel.ask.setChecked(True)
    settled(widget)
    click(viewer, layer.data_to_world(blobs.points[4]))
    settled(widget)
    assert "Cell added" in widget.panel.message.text()
    assert [one.name for one in viewer.layers if one.name.startswith("blobs labels")] == ["blobs labels"]
    assert len(np.unique(labels.data)) == len(blobs)  # the background, and all cells but one
    np.testing.assert_array_equal(labels.data == labels.data.max(), blobs.labels == 5)
    qtbot.waitUntil(lambda: widget.panel.number.text() == str(len(blobs) - 1))
    labels.undo()
    assert len(np.unique(labels.data)) == len(blobs) - 1


def test_a_click_in_another_image_tells_the_number_of_that_one(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="first")
    widget.panel.count.click()
    settled(widget)
    viewer.layers["first labels"].data_setitem((np.array([0]), np.array([0])), 99)
    qtbot.waitUntil(lambda: "by hand" in widget.panel.line.text())
    layer = asking(blobs.image)
    click(viewer, layer.data_to_world(blobs.points[4]))
    settled(widget)
    assert (widget.panel.number.text(), "by hand" in widget.panel.line.text()) == ("1", False)


def test_points_that_were_changed_by_hand_are_added_to(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled, qtbot: QtBot
) -> None:
    layer = viewer.add_image(blobs.image, name="blobs")
    widget.panel.outputs["Points"].setChecked(True)
    widget.panel.outputs["Labels"].setChecked(False)
    widget.panel.count.click()
    settled(widget)
    points = viewer.layers["blobs points"]
    near = int(((points.data - blobs.points[4]) ** 2).sum(axis=1).argmin())
    points.data = np.delete(points.data, near, axis=0)
    widget.panel.ask.setChecked(True)
    settled(widget)
    for told in ("Cell added", "already"):
        click(viewer, layer.data_to_world(blobs.points[4]))
        settled(widget)
        assert told in widget.panel.message.text()
    assert [one.name for one in viewer.layers if one.name.startswith("blobs p")] == ["blobs points"]
    np.testing.assert_allclose(points.data[-1], blobs.points[4], atol=1)
    qtbot.waitUntil(lambda: widget.panel.number.text() == str(len(blobs)))


@pytest.mark.parametrize("edited", [("Labels", "Points"), ("Points", "Shapes")])
def test_a_cell_goes_into_every_layer_that_lacks_it(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
    tmp_path: Path,
    edited: tuple[str, ...],
) -> None:
    layer = viewer.add_image(faint(blobs, 7), name="blobs")
    widget.panel.thresholds.container["cell_probability"].value = 0.9
    for box in ("Points", "Shapes"):
        widget.panel.outputs[box].setChecked(True)
    widget.panel.count.click()
    settled(widget)
    labels, points, boxes = (viewer.layers[f"blobs {one}"] for one in ("labels", "points", "boxes"))
    if "Labels" in edited:
        labels.data_setitem(np.nonzero(labels.data == labels.data[tuple(np.int_(blobs.points[4]))]), 0)
    for one, places in ((points, points.data), (boxes, [box.mean(axis=0) for box in boxes.data])):
        if type(one).__name__ in edited:
            one.selected_data = {int(((np.array(places) - blobs.points[4]) ** 2).sum(axis=1).argmin())}
            one.remove_selected()
    widget.panel.ask.setChecked(True)
    settled(widget)
    for row, told in ((4, "Cell added"), (7, "Cell added"), (4, "already"), (7, "already")):
        click(viewer, layer.data_to_world(blobs.points[row]))
        settled(widget)
        assert told in widget.panel.message.text()
    qtbot.waitUntil(lambda: not followers.follow(viewer).is_busy)
    boxes = viewer.layers["blobs boxes"]  # redrawn where they are as found
    assert len(np.unique(labels.data)) - 1 == len(points.data) == len(boxes.data) == len(blobs)
    assert len(viewer.layers) == 5  # the prompts, too
    assert widget.panel.number.text() == str(len(blobs))
    widget.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert len(pd.read_csv(tmp_path / "cells.csv")) == len(blobs)


def test_no_cell_and_a_known_cell_are_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    layer = asking(blobs.image)
    click(viewer, layer.data_to_world((0, 0)))
    assert widget.panel.message.text() == "No cell here: probability 0.00."
    assert viewer.status == widget.panel.message.text()
    assert widget.counted is None
    for _ in range(2):
        click(viewer, layer.data_to_world(blobs.points[4]))
        settled(widget)
    assert "This is already cell 1" in widget.panel.message.text()
    assert widget.panel.number.text() == "1"


def test_the_mouse_is_free_to_correct(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    asking(blobs.image)
    widget.panel.count.click()
    settled(widget)
    prompt(viewer, blobs.points[0])
    widget.panel.correct.click()
    assert not widget.panel.ask.isChecked()
    assert "prompts" not in viewer.layers


def test_prompts_are_shown_taken_back_and_kept(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    layer = asking(np.stack([blobs.image] * 3, axis=-1), scale=(0.5, 0.5), translate=(3, 4))
    assert layer.rgb
    first, second = (layer.data_to_world(blobs.points[row]) for row in (0, 1))
    prompt(viewer, first)
    assert not widget.panel.keep_cell.isHidden()
    shapes = viewer.layers["prompts"]
    assert shapes.shape_type == ["path", "ellipse"]
    np.testing.assert_allclose(shapes.data_to_world(shapes.data[1].mean(axis=0)), first)
    prompt(viewer, second, "Shift")
    assert len(shapes.data) == 3
    assert not np.array_equal(shapes.edge_color[1], shapes.edge_color[2])
    press(layer, "Control-Z")
    assert len(shapes.data) == 2
    prompt(viewer, second)
    assert widget.counted is None
    for words in ("One cell in 2 separate pieces", "Shift+click leaves a piece out"):
        assert words in widget.panel.message.text()
    assert widget.panel.message.property("info") == "false"
    press(layer, "Enter")
    settled(widget)
    np.testing.assert_array_equal(viewer.layers["blobs labels"].data > 0, np.isin(blobs.labels, (1, 2)))
    assert widget.panel.number.text() == "1"
    assert widget.panel.keep_cell.isHidden()
    prompt(viewer, first)
    assert "This is already cell 1" in widget.panel.message.text()
    prompt(viewer, layer.data_to_world(blobs.points[3]))
    prompt(viewer, layer.data_to_world(blobs.points[4]), "Control")  # keeps the one before
    widget.panel.drop_cell.click()
    settled(widget)
    assert widget.panel.number.text() == "2"
    assert len(shapes.data) == 0


def test_a_drag_is_a_box_and_a_raised_button_asks_nothing(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    layer = asking(blobs.image)
    assert not layer.mouse_pan
    places = np.argwhere(blobs.labels == 5)
    prompt(viewer, places.min(axis=0) - 0.5, to=places.max(axis=0) + 0.5)
    settled(widget)
    assert viewer.layers["prompts"].shape_type == ["path", "rectangle"]
    widget.panel.keep_cell.click()
    settled(widget)
    found, truth = viewer.layers["blobs labels"].data > 0, blobs.labels == 5
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    hold = widget.ask._hold(layer)
    next(hold)
    assert widget.ask._on_mouse_drag(viewer, SimpleNamespace(button=1)) is None  # the mouse moves the image
    next(hold, None)
    assert not layer.mouse_pan
    prompt(viewer, places.mean(axis=0), "Shift")
    assert "needs a positive point" in widget.panel.message.text()
    widget.panel.ask.setChecked(False)
    assert layer.mouse_pan
    assert "prompts" not in viewer.layers
    assert coerce_keybinding("Enter") not in layer.keymap
    assert widget.ask._on_mouse_drag not in viewer.mouse_drag_callbacks


def test_prompts_in_a_channel_are_shown_in_it(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    layer = asking(np.stack([blobs.image, blobs.image]), axis_labels=("c", "y", "x"), scale=(1, 0.5, 0.5))
    viewer.dims.set_point(0, 1)
    prompt(viewer, layer.data_to_world((1, *blobs.points[4])))
    settled(widget)
    (_, point) = viewer.layers["prompts"].data
    np.testing.assert_allclose(point.mean(axis=0), (1, *blobs.points[4]), atol=1e-4)


def test_the_chosen_model_is_asked_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [replace(store.models()[0], name=name, spec=SimpleNamespace(family=family))
               for name, family in (("query", "query"), ("mine", "flow"), ("his", "query"))]  # fmt: skip
    monkeypatch.setattr(store, "models", lambda: entries)
    for family, axes, asked in (
        ("flow", "YX", "chosen"),
        ("query", "YX", "chosen"),
        ("centroid", "YX", "query"),
        ("query", "ZYX", "mine"),
    ):
        image = Image(np.zeros((2,) * len(axes)), axes)
        assert prompt_model(image, "chosen", family) == asked


def test_another_model_than_the_chosen_one_is_named(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, inputs = viewer.add_image(blobs.image), widget.model.inputs
    other = replace(inputs(), recipe=replace(inputs().recipe, models=("dots",)), family="centroid")
    monkeypatch.setattr(widget.model, "inputs", lambda: replace(other, layer=inputs().layer))
    widget.panel.ask.setChecked(True)
    settled(widget)
    assert "flow outlines it; dots cannot outline a cell by click" in widget.panel.message.text()
    prompt(viewer, layer.data_to_world(blobs.points[4]))
    assert "A cell by flow, score 1.00" in widget.panel.message.text()


def test_a_box_without_a_cell_is_told(
    viewer: ViewerModel, widget: CountWidget, asking: Any, settled: Settled
) -> None:
    asking(np.zeros((50, 60), np.uint8))
    prompt(viewer, (10, 10), to=(30, 30))
    settled(widget)
    assert widget.panel.message.text() == "The model sees no cell in this box."
    assert widget.ask.draft.prompts is None
    assert widget.counted is None


def test_a_click_beside_the_image_is_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    asking(blobs.image)
    click(viewer, (-40, -40))
    settled(widget)
    assert widget.panel.message.property("error") == "true"
    assert widget.panel.message.text() == NOT_COUNTED


def test_two_quick_clicks_both_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    asking(blobs.image)
    for row in (1, 2, 5):
        click(viewer, blobs.points[row])
    settled(widget)
    assert widget.panel.number.text() == "3"


def test_another_frame_is_looked_at_anew(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, settled: Settled
) -> None:
    film = np.stack([blobs.image, np.roll(blobs.image, 11, axis=1), *[blobs.image] * 4])
    asking(film, axis_labels=("t", "y", "x"))
    click(viewer, (1, blobs.points[4][0], blobs.points[4][1] + 11))
    settled(widget)
    cells = widget.counted.result.cells
    np.testing.assert_allclose(cells.points, [[1, blobs.points[4][0], blobs.points[4][1] + 11]], atol=0.01)
    assert cells.boxes[0, :, 0].tolist() == [1, 2]
    assert set(np.unique(np.nonzero(viewer.layers["blobs labels"].data)[0])) == {1}


def test_without_an_image_the_button_comes_up_again(widget: CountWidget) -> None:
    widget.panel.ask.setChecked(True)
    assert not widget.panel.ask.isChecked()
    assert "got no layer" in widget.panel.message.text()


def test_a_failing_model_is_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, settled: Settled, qtbot: QtBot
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no kernel image")

    shelved.network.forward = fail
    viewer.add_image(blobs.image)
    widget.panel.ask.setChecked(True)
    settled(widget)
    assert "no kernel image" in widget.panel.message.text()


def asked_cell() -> Any:
    mask = np.ones((3, 4), bool)
    return PromptedCell(np.array([6, 11.5], np.float32), np.array([[5, 10], [8, 14]]), mask, 0.7)


def counted_cells(labels: Any) -> Cells:
    one = np.ones(1, np.float32)
    return Cells(
        np.array([[6, 9]], np.float32), np.array([[[5, 8], [8, 11]]], np.float32), one, 9 * one, labels
    )


def test_pixels_of_other_cells_stay_with_them() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:8, 8:11] = 1
    cells = with_prompted_cell(counted_cells(labels), (), asked_cell())
    assert (labels == 2).sum() == 0  # what was counted is left as it is
    assert (cells.labels == 1).sum() == 9
    assert (cells.labels == 2).sum() == 9
    assert cells.boxes[1].tolist() == [[5, 11], [8, 14]]
    assert (cells.areas[1], cells.points[1].tolist()) == (9, [6, 12])
    assert len(cells) == len(cells.scores) == len(cells.areas) == 2


def test_cells_without_labels_and_with_classes_take_one_more() -> None:
    classed = replace(counted_cells(None), classes=np.zeros(1, np.int16))
    cells = with_prompted_cell(classed, (), asked_cell())
    assert cells.labels is None
    assert cells.classes.tolist() == [0, -1]


@pytest.mark.parametrize(("width", "number"), [(2, 0), (3, 1)])
def test_a_cell_is_known_when_most_of_it_is(width: int, number: int) -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:8, 10 : 10 + width] = 1
    assert covering(counted_cells(labels), (), asked_cell()) == number


def test_without_labels_a_cell_is_known_by_its_middle() -> None:
    cells = counted_cells(None)
    assert covering(cells, (), asked_cell()) == 0
    wider = replace(cells, boxes=cells.boxes + np.array([0, 3], np.float32))
    assert covering(wider, (), asked_cell()) == 1


def test_clicks_while_the_model_looks_at_the_image_are_answered_afterwards(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot
) -> None:
    layer = viewer.add_image(blobs.image, name="blobs")
    widget.panel.ask.setChecked(True)
    for row in (4, 7, 9):
        click(viewer, layer.data_to_world(blobs.points[row]))
    qtbot.waitUntil(lambda: widget.panel.number.text() == "3", timeout=20_000)
    assert viewer.layers["blobs labels"].data.max() == 3


def test_a_button_that_is_raised_while_the_model_looks_asks_for_no_clicks(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.ask.setChecked(True)
    widget.panel.ask.setChecked(False)
    settled(widget)
    assert widget.panel.message.text() == ""


def test_a_click_shows_what_is_ticked_now(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    n = widget.counted.result.count
    widget.panel.outputs["Points"].blockSignals(True)  # as another family ticks it
    widget.panel.outputs["Points"].setChecked(True)
    tool = widget.ask
    tool._context = tool._context_at(viewer.layers["blobs"], ())
    cell = SimpleNamespace(
        point=np.array([1.0, 1.0], np.float32),
        box=np.array([[0, 0], [2, 2]]),
        mask=np.ones((2, 2), bool),
        score=0.5,
        area=4,
    )
    tool._pending = [((), cell)]
    tool._add_pending()
    settled(widget)
    assert widget.counted.result.count == n + 1
    assert len(viewer.layers["blobs points"].data) == n + 1


def test_another_diameter_that_is_set_while_the_model_looks_has_it_look_again(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, asking: Any, qtbot: QtBot
) -> None:
    layer = asking(np.stack([blobs.image] * 2), axis_labels=("t", "y", "x"))
    prompt(viewer, layer.data_to_world((1, *blobs.points[4])))  # another frame, which is looked at now
    widget.panel.diameter.show_px(float(2 * np.sqrt((blobs.labels == 5).sum() / np.pi)))
    qtbot.waitUntil(lambda: "A cell by" in widget.panel.message.text())
    assert len(widget.ask._predictors) == 3  # of the frame in sight, of this one, and of it with the diameter


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_click_is_answered_from_the_pixels_that_the_image_has_now(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    asking: Any,
    settled: Settled,
    *,
    is_counted: bool,
) -> None:
    layer = asking(np.zeros_like(blobs.image))
    prompt(viewer, blobs.points[4])
    settled(widget)
    assert "No cell here" in widget.panel.message.text()
    if is_counted:
        widget.panel.count.click()
        settled(widget)
    layer.data = faint(blobs, 4)
    if is_counted:
        prompt(viewer, blobs.points[4])
        settled(widget)
        assert "Count again" in widget.panel.message.text()
        widget.panel.thresholds.container["cell_probability"].value = 0.9
        widget.panel.count.click()
        settled(widget)
    prompt(viewer, blobs.points[4])
    settled(widget)
    assert "A cell by" in widget.panel.message.text()


def test_an_image_that_became_a_plane_since_its_count_is_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    layer = viewer.add_image(np.stack([blobs.image] * 5), name="blobs", axis_labels=("t", "y", "x"))
    widget.panel.count.click()
    settled(widget)
    layer.data = blobs.image
    widget.panel.ask.setChecked(True)
    assert "Count again" in widget.panel.message.text()
    assert not widget.panel.ask.isChecked()
