"""What a user made by hand survives sliders, counts, regions and deletions, whatever comes after what."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from napari.layers import Labels, Layer, Points, Shapes
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image, Result
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.edited_layers import ASKED, is_edited
from cellwright.widgets.shared.layer_io import Source, hidden_for, place, prepare_layers, remove, source_of

ALL = ("Labels", "Points", "Shapes")
N_SEQUENCES, N_STEPS = 6, 14
Settled = Callable[[CountWidget], None]
ResultOf = Callable[[Image, Any], Result]


def slider(widget: CountWidget, value: float, settled: Settled) -> None:
    widget.panel.thresholds.container["cell_probability"].value = value
    settled(widget)


def counted(viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled) -> Labels:
    image = blobs.image.copy()
    image[:, : image.shape[1] // 2] *= 0.55  # fainter cells
    viewer.add_image(image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    return viewer.layers["blobs labels"]


def test_painted_pixels_survive_sliders_and_counts(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    labels.selected_label = 500
    labels.paint((5, 5), 500)
    painted = labels.data.copy()
    slider(widget, 0.9, settled)
    widget.panel.count.click()
    settled(widget)
    slider(widget, 0.6, settled)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels", "blobs labels [1]"]
    np.testing.assert_array_equal(labels.data, painted)
    labels.undo()
    assert 500 not in labels.data
    labels.redo()
    np.testing.assert_array_equal(labels.data, painted)


def test_a_slider_tells_what_was_kept_beside_its_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    message = widget.panel.message
    slider(widget, 0.9, settled)
    assert "are kept in" not in message.text()
    labels.paint((5, 5), 500)
    slider(widget, 0.6, settled)
    assert "Your changes are kept in blobs labels; this count is shown beside them." in message.text()
    assert message.property("info") == "false"  # a warning: the number is that of other cells


def test_a_stroke_that_was_undone_can_be_done_again_after_a_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    labels.paint((5, 5), 500)
    painted = labels.data.copy()
    labels.undo()
    slider(widget, 0.9, settled)
    labels.redo()
    np.testing.assert_array_equal(labels.data, painted)


def test_renamed_layers_are_known_and_unticked_edits_stay(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    labels.name = "mine"
    slider(widget, 0.9, settled)
    assert [layer.name for layer in viewer.layers] == ["blobs", "mine"]
    labels.fill((5, 5), 7)
    widget.panel.outputs["Labels"].setChecked(False)
    settled(widget)
    assert labels in viewer.layers


def move_point(layer: Points) -> None:
    layer.data = np.add(layer.data, (1, 0))


def add_point(layer: Points) -> None:
    layer.add((3.0, 4.0))


def delete_point(layer: Points) -> None:
    layer.selected_data = {0}
    layer.remove_selected()


def move_box(layer: Shapes) -> None:
    layer.data = [layer.data[0] + 1, *layer.data[1:]]


def add_box(layer: Shapes) -> None:
    layer.add_rectangles(np.array([[1, 1], [1, 5], [5, 5], [5, 1]]))


def delete_box(layer: Shapes) -> None:
    layer.selected_data = {0}
    layer.remove_selected()


def paint(layer: Labels) -> None:
    layer.paint((2, 2), 40)


def write(layer: Labels) -> None:
    layer.data[:3, :3] = 41
    layer.refresh()


def set_class(layer: Layer) -> None:
    features = layer.features.copy()
    features["score"] = 0.125
    layer.features = features


EDITS: dict[str, list[Callable[[Any], None]]] = {
    "Labels": [paint, write, set_class],
    "Points": [move_point, add_point, delete_point, set_class],
    "Shapes": [move_box, add_box, delete_box, set_class],
}


@pytest.mark.parametrize(("output", "edit"), [(kind, edit) for kind, all_ in EDITS.items() for edit in all_])
def test_every_kind_of_edit_is_seen(
    viewer: ViewerModel, result_of: ResultOf, output: str, edit: Callable[[Any], None]
) -> None:
    source, result = pictured(viewer, result_of, n_cells=3)
    layer = place(viewer, prepare_layers(result, source, [output]))[output]
    assert not is_edited(layer)
    layer.features = layer.features.assign(mean_intensity=1.0)  # a column more is no edit
    assert not is_edited(layer)
    edit(layer)
    assert is_edited(layer)
    beside = place(viewer, prepare_layers(result, source, [output]))[output]
    assert beside is not layer
    assert place(viewer, prepare_layers(result, source, [output]))[output].name == beside.name
    assert len(viewer.layers) == 3


def test_a_copy_belongs_to_the_user(viewer: ViewerModel, result_of: ResultOf) -> None:
    source, result = pictured(viewer, result_of, n_cells=3)
    labels = place(viewer, prepare_layers(result, source))["Labels"]
    copy = Labels(labels.data.copy(), name="copy", metadata=dict(labels.metadata))
    viewer.add_layer(copy)
    viewer.layers.remove(labels)
    place(viewer, prepare_layers(result, source))
    remove(viewer, source.key)
    assert [layer.name for layer in viewer.layers] == ["image", "copy"]


def pictured(viewer: ViewerModel, result_of: ResultOf, n_cells: int) -> tuple[Source, Result]:
    if "image" not in viewer.layers:
        viewer.add_image(np.zeros((24, 60)), name="image")
    source = source_of(viewer.layers["image"])
    return source, result_of(source.image, cells(n_cells))


def cells(n_cells: int) -> np.ndarray:
    labels = np.zeros((24, 60), np.int32)
    for number in range(n_cells):
        labels[8:14, 2 + 8 * number : 7 + 8 * number] = number + 1
    return labels


def content(layer: Layer) -> list[Any]:
    if isinstance(layer, Shapes):
        return [np.array(one) for one in layer.data]
    return [np.array(layer.data)]


class World:
    """A viewer in which a user and the count panel take turns.

    ``made`` is what the user put into layers, ``found`` what the last count put into those it has filled.
    """

    def __init__(self, seed: int, result_of: ResultOf) -> None:
        self.rng = np.random.default_rng(seed)
        self.result_of = result_of
        self.viewer = ViewerModel()
        self.source, _ = pictured(self.viewer, result_of, n_cells=3)
        self.made: dict[Layer, list[Any]] = {}
        self.found: dict[Layer, list[Any]] = {}

    def step(self) -> str:
        """Do one thing and return which."""
        steps = (self.count, self.preview, self.region, self.untick, self.edit, self.delete, self.rename)
        steps = (*steps, self.copy, self.undo, self.redo, self.stroke)
        step = steps[self.rng.integers(len(steps))]
        step()
        return step.__name__

    def count(self) -> None:
        self._place(self.source)
        remove(self.viewer, {**self.source.key, "is_preview": True})

    def preview(self) -> None:
        self._place(replace(self.source, is_preview=True))

    def _place(self, source: Source) -> None:
        n_cells = int(self.rng.integers(0, 4))
        labels = cells(n_cells)[:, : source.image.shape[-1]].copy()
        outputs = [name for name in ALL if self.rng.random() < 0.7]
        shown = place(self.viewer, prepare_layers(self.result_of(source.image, labels), source, outputs))
        self.found |= {layer: content(layer) for layer in shown.values()}

    def region(self) -> None:
        window = (slice(0, 24), slice(0, int(self.rng.integers(30, 60))))
        self.source = source_of(self.viewer.layers["image"], None, window)
        self._place(self.source)

    def untick(self) -> None:
        remove(self.viewer, {**self.source.key, "output": self.rng.choice(ALL)})

    def _any(self) -> Layer | None:
        layers = [layer for layer in self.viewer.layers if layer.name != "image"]
        return layers[self.rng.integers(len(layers))] if layers else None

    def edit(self) -> None:
        layer = self._any()
        if layer is not None and len(layer.data):
            edits = EDITS[type(layer).__name__]
            edits[self.rng.integers(len(edits))](layer)
            self.made[layer] = content(layer)

    def undo(self) -> None:
        self._go_through_history("undo")

    def redo(self) -> None:
        self._go_through_history("redo")

    def _go_through_history(self, way: str) -> None:
        """Press the key in any layer: in one that a count has filled it is to do nothing."""
        layer = self._any()
        if isinstance(layer, Labels):
            getattr(layer, way)()
            if layer in self.made:
                self.made[layer] = content(layer)

    def stroke(self) -> None:
        """Paint while a count ends, and take the stroke back."""
        layer = self._any()
        if isinstance(layer, Labels):
            before, number = content(layer), int(layer.data.max()) + 1
            with layer.block_history():
                layer.paint((2, 2), number)
                self._place(self.source)
                layer.paint((2, 6), number)
            self.made[layer] = content(layer)
            layer.undo()
            np.testing.assert_array_equal(layer.data, *before)
            layer.redo()

    def delete(self) -> None:
        layer = self._any()
        if layer is not None:
            self.found.pop(layer, None)
            self.viewer.layers.remove(layer)
            self.made.pop(layer, None)

    def rename(self) -> None:
        layer = self._any()
        if layer is not None:
            layer.name = f"mine {self.rng.integers(9)}"

    def copy(self) -> None:
        layer = self._any()
        if layer is not None:
            data, state, kind = layer.as_layer_data_tuple()
            copy = self.viewer.add_layer(Layer.create(deepcopy(data), state, kind))
            self.made[copy] = content(copy)


@pytest.mark.no_cover  # at random through what other tests cover
def test_nothing_that_the_user_made_is_lost_in_any_order(result_of: ResultOf) -> None:
    for seed in range(N_SEQUENCES):
        world = World(seed, result_of)
        for _ in range(N_STEPS):
            step = world.step()
            for layer, kept in world.made.items():
                assert layer in world.viewer.layers, (seed, step)
                for before, after in zip(kept, content(layer), strict=True):
                    np.testing.assert_array_equal(before, after, err_msg=f"{seed} {step}")
            for layer in world.found.keys() - world.made.keys():  # undo brings nothing back into it
                for before, after in zip(world.found[layer], content(layer), strict=True):
                    np.testing.assert_array_equal(before, after, err_msg=f"{seed} {step}")


def test_ticks_show_no_second_layer_of_edited_cells(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    labels.paint((5, 5), 500)
    assert 500 not in widget.counted.result.cells.labels
    widget.panel.outputs["Points"].setChecked(True)
    settled(widget)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels", "blobs points"]


def test_what_another_family_found_is_kept_out_of_sight(viewer: ViewerModel, result_of: ResultOf) -> None:
    source = source_of(viewer.add_image(np.zeros((40, 60)), name="a"))

    def found_by(family: str, n: int) -> Layer:
        result = result_of(source.image, numbered(n))
        own = replace(result.provenance, model=family, settings={family: {}})
        return place(viewer, prepare_layers(replace(result, provenance=own), source))["Labels"]

    flow, query = found_by("flow", 2), found_by("query", 3)
    assert (flow.visible, query.visible, flow.data.max(), query.data.max()) == (False, True, 2, 3)
    assert hidden_for(viewer, {"Labels": query}) == [flow.name]
    query.visible = False  # by the user, which a slider respects
    assert found_by("query", 3) is query
    assert (flow.visible, query.visible) == (False, False)
    assert found_by("flow", 4) is flow
    assert (flow.visible, query.visible, flow.data.max(), query.data.max()) == (True, False, 4, 3)
    assert len(viewer.layers) == 3


def numbered(n: int) -> Any:
    labels = np.zeros((40, 60), np.int32)
    for number in range(n):
        labels[2:9, 2 + 10 * number : 9 + 10 * number] = number + 1
    return labels


def test_what_was_asked_for_comes_no_more_once_its_image_is_gone(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    counted(viewer, widget, blobs, settled)
    widget.panel.thresholds.container["cell_probability"].value = 0.9
    viewer.layers.clear()
    settled(widget)
    assert len(viewer.layers) == 0


def test_cells_added_by_click_stay_when_the_next_count_comes(
    viewer: ViewerModel, result_of: ResultOf
) -> None:
    source, result = pictured(viewer, result_of, n_cells=3)
    place(viewer, prepare_layers(result, source))
    settings = {**result.provenance.settings, ASKED: 1}
    more = result_of(source.image, cells(4))
    more = replace(more, provenance=replace(result.provenance, settings=settings))
    clicked = place(viewer, prepare_layers(more, source))["Labels"]
    assert [layer.name for layer in viewer.layers] == [
        "image",
        "image labels",
    ]  # the same count with one more
    again = result_of(source.image, cells(2))
    beside = place(
        viewer, prepare_layers(replace(again, provenance=replace(again.provenance, seconds=9.0)), source)
    )["Labels"]
    assert beside is not clicked
    assert clicked.data.max() == 4
    remove(viewer, source.key)
    assert clicked in viewer.layers


def test_the_saved_table_is_that_of_the_cells_as_they_are_now(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled, qtbot: QtBot, tmp_path: Path
) -> None:
    labels = counted(viewer, widget, blobs, settled)
    n = int(labels.data.max())
    labels.data_setitem(tuple(np.nonzero(labels.data == 1)), 0)
    labels.data_setitem((np.array([0, 0]), np.array([0, 1])), n + 1)
    widget.save.start(tmp_path / "cells.csv")
    qtbot.waitUntil(lambda: widget.save.job is None)
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table["label"].tolist() == list(range(2, n + 2))
    assert table["area_px"].iloc[-1] == 2
    assert table["edited"].tolist() == [False] * (n - 1) + [True]
    assert table["score"].isna().tolist() == table["edited"].tolist()
    widget.panel.count.click()  # stands beside it, and is what is saved then
    settled(widget)
    widget.save.start(tmp_path / "again.csv")
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert pd.read_csv(tmp_path / "again.csv")["label"].tolist() == list(range(1, n + 1))
