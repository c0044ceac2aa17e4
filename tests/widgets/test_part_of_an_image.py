"""What was counted in a part of an image is taught there alone: elsewhere nothing is background."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot

from cellwright.files.dataset.folder import Dataset, Item, read_dataset
from cellwright.ops.measure.regions import inner_box
from cellwright.widgets.annotate.export import UNKNOWN
from cellwright.widgets.annotate.widget import PART_HINT, UNKNOWN_HINT, AnnotateWidget
from cellwright.widgets.compare.widget import CompareWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.layer_dataset import Pair, dataset_of

BOX = np.array([[12.0, 8.0], [12.0, 118.0], [115.0, 118.0], [115.0, 8.0]])
SMALL = np.array([[70.0, 60.0], [70.0, 150.0], [150.0, 150.0], [150.0, 60.0]])
MIDDLE = BOX * 0.8 + 12
DRAWN = {
    "rectangle": [("rectangle", BOX, "")],
    "ellipse": [("ellipse", BOX, "")],
    "two that overlap": [("rectangle", BOX, ""), ("ellipse", SMALL, "")],
    "an edge cut out": [("rectangle", BOX, ""), ("rectangle", SMALL + 40, "exclude this")],
}
Settled = Callable[[CountWidget], None]


def count_in(viewer: ViewerModel, widget: CountWidget, settled: Settled, drawn: Any, output: str) -> Layer:
    """Count inside of shapes; return the layer of the cells."""
    shapes = viewer.add_shapes(ndim=drawn[0][1].shape[1])
    for kind, corners, _ in drawn:
        shapes.add(corners, shape_type=kind)
    shapes.features = {"name": [name or f"region {at}" for at, (_, _, name) in enumerate(drawn)]}
    for one, box in widget.panel.outputs.items():
        box.setChecked(one == output)
    widget.panel.region.setCurrentIndex(widget.panel.region.findData("drawn"))
    widget.panel.count.click()
    settled(widget)
    return viewer.layers[f"blobs {output.lower()}"]


def taught(viewer: ViewerModel, image: Layer, cells: Layer) -> Item:
    (item,) = dataset_of([Pair(image, cells)], viewer.layers, is_complete=True).items
    return item


@pytest.mark.parametrize("output", ["Labels", "Points"])
@pytest.mark.parametrize("rule", ["centre", "overlap", "whole"])
@pytest.mark.parametrize("drawn", DRAWN.values(), ids=DRAWN)
def test_cells_of_regions_are_taught_within_them(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    settled: Settled,
    blobs: Any,
    drawn: Any,
    rule: str,
    output: str,
) -> None:
    """With *Correct these cells* and without: every true cell in the boxes is one of those taught."""
    image = viewer.add_image(blobs.image, name="blobs")
    widget.panel.rule.setCurrentIndex(widget.panel.rule.findData(rule))
    cells = count_in(viewer, widget, settled, drawn, output)
    direct = taught(viewer, image, cells)
    assert direct.is_complete
    assert direct.regions
    widget.panel.correct.click()
    session = annotate_widget.model.session
    assert session is not None
    assert annotate_widget.panel.message.text() == PART_HINT
    context = annotate_widget.model.context
    assert context is not None
    corrected = taught(viewer, image, context.layer.layer)
    assert corrected.regions == direct.regions
    n_true = n_missed = 0
    for (top, left), (bottom, right) in direct.regions:
        part = np.s_[top:bottom, left:right]
        true, found = blobs.labels[part] > 0, session.labels[part] > 0
        n_true += int(true.sum())
        n_missed += int((true & ~found).sum())
    assert n_true > 200
    if output == "Labels":  # points stand as discs
        assert n_missed < 0.01 * n_true
        _, labels = direct.read()
        assert (labels > 0).sum() > 0.9 * n_true


def test_where_no_box_is_complete_nothing_is_taken_for_background(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    settled: Settled,
    blobs: Any,
    tmp_path: Path,
    qtbot: QtBot,
) -> None:
    """Not in the viewer, in an exported dataset, or in an annotation that is resumed."""
    image = viewer.add_image(blobs.image, name="blobs")
    drawn = [("rectangle", BOX, ""), ("rectangle", MIDDLE, "exclude this")]  # a frame is left
    cells = count_in(viewer, widget, settled, drawn, "Labels")
    item = taught(viewer, image, cells)
    assert (item.is_complete, item.regions) == (False, ())
    widget.panel.correct.click()
    assert annotate_widget.panel.message.text() == UNKNOWN_HINT
    session = annotate_widget.model.session
    assert session is not None
    session.delete(int(session.store.numbers()[0]))
    annotate_widget.panel.exports.complete.setChecked(True)
    annotate_widget.exporter.to_dataset(tmp_path / "set")
    qtbot.waitUntil(lambda: not annotate_widget.panel.exports.job.is_busy)
    assert annotate_widget.panel.message.text().endswith(UNKNOWN)
    assert not read_dataset(tmp_path / "set").items[0].is_complete
    annotate_widget.panel.begin.click()
    viewer.layers.remove(cells)
    annotate_widget.show()
    qtbot.waitUntil(lambda: not annotate_widget.panel.offer.isHidden())
    annotate_widget.panel.resume.click()  # as after a crash
    assert annotate_widget.model.context is not None
    item = taught(viewer, image, annotate_widget.model.context.layer.layer)
    assert (item.is_complete, item.regions) == (False, ())


def test_the_whole_image_is_taught_as_ever(
    viewer: ViewerModel, widget: CountWidget, annotate_widget: AnnotateWidget, settled: Settled, blobs: Any
) -> None:
    image = viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    item = taught(viewer, image, viewer.layers["blobs labels"])
    assert (item.is_complete, item.regions) == (True, ())
    widget.panel.correct.click()
    assert annotate_widget.model.session is not None
    assert annotate_widget.model.session.metadata.regions == ()
    assert not annotate_widget.panel.message.text()


def test_models_are_compared_within_the_regions(
    viewer: ViewerModel,
    widget: CountWidget,
    settled: Settled,
    blobs: Any,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    cells = count_in(viewer, widget, settled, DRAWN["rectangle"], "Labels")
    cells.data_setitem((np.array([0, 1]), np.array([0, 0])), 999)  # is a truth now
    panel = CompareWidget(viewer)
    qtbot.addWidget(panel)
    monkeypatch.setattr(panel.choices, "_models", lambda: ("flow", "nuclei"))
    data = panel.choices.request().data
    assert isinstance(data, Dataset)
    (item,) = data.items
    assert item.regions
    image, labels = item.read()
    assert labels.shape == image.label_shape == blobs.labels.shape


def test_an_inner_box_lies_inside(rng: np.random.Generator) -> None:
    """Of a disc, a rectangle and ellipses; none of what does not hold the middle of the box around it."""
    y, x = np.mgrid[:80, :90]
    shapes = [(y - 40) ** 2 + (x - 40) ** 2 < 900, (y > 10) & (x < 60)]
    for _ in range(20):
        a, b = rng.uniform(8, 35, 2)
        shapes.append(((y - 40) / a) ** 2 + ((x - 44) / b) ** 2 < 1)
    for inside in shapes:
        box = inner_box(inside)
        assert box is not None
        assert inside[box].all()
        assert inside[box].size > 0.4 * inside.sum()
        less = inner_box(inside, (2, 2))
        assert less is not None
        assert (less[0].start, less[1].stop) == (box[0].start + 2, box[1].stop - 2)
    assert inner_box(np.zeros((5, 5), bool)) is None
    assert inner_box((y > 10) & (y < 15), (3, 3)) is None
    assert inner_box((y < 10) | (y > 60)) is None
    assert inner_box(y + x < 79) is None
    assert inner_box(y >= 0, (3, 3)) == (slice(0, 80), slice(0, 90))  # nothing lies beyond an image
    assert inner_box(x < 60, (3, 3)) == (slice(0, 80), slice(0, 57))


STACKS = {"TYX": (3,), "ZYX": (4,), "TZYX": (1, 4)}  # with a plane that shapes are drawn in
LEADS = {"TYX": (5,), "ZYX": (12,), "TZYX": (2, 12)}


@pytest.fixture
def stack(draw_blobs: Any) -> Callable[[str], Any]:
    """Function (axes) -> an image of other cells in each frame; in volumes they begin and end in slices."""

    def make(axes: str) -> Any:
        if axes == "TYX":
            return np.stack([draw_blobs().image for _ in range(5)])
        volumes = np.zeros((2, 12, 160, 200), np.float32)
        for volume in volumes:
            for first in (1, 7):
                volume[first : first + 4] = draw_blobs().image
            volume[:, 80:, 100:] = np.roll(volume[:, 80:, 100:], 2, axis=0)
        return volumes[0] if axes == "ZYX" else volumes

    return make


@pytest.mark.parametrize("rule", ["centre", "overlap", "whole"])
@pytest.mark.parametrize("drawn", ["everywhere", "in one plane", "without a box"])
@pytest.mark.parametrize("axes", STACKS)
def test_cells_of_a_part_of_a_stack_are_taught_there_alone(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    settled: Settled,
    stack: Any,
    axes: str,
    drawn: str,
    rule: str,
) -> None:
    """Every true cell in planes and boxes that are complete is taught; other planes teach none."""
    image = viewer.add_image(stack(axes), name="blobs", axis_labels=tuple(axes.lower()))
    widget.panel.rule.setCurrentIndex(widget.panel.rule.findData(rule))
    corners = BOX
    if drawn == "in one plane":
        corners = np.column_stack([np.tile(STACKS[axes], (4, 1)), BOX])
    shapes = [("rectangle", corners, "")]
    if drawn == "without a box":  # a frame is left
        shapes.append(("rectangle", MIDDLE, "exclude this"))
    cells = count_in(viewer, widget, settled, shapes, "Labels")
    direct = dataset_of([Pair(image, cells)], viewer.layers, is_complete=True).items
    is_in_one = drawn == "in one plane" and (axes == "TYX" or rule == "overlap")  # else cells reach into it
    is_known = drawn == "everywhere" or is_in_one
    assert [one.is_complete for one in direct] == [is_known]
    assert [bool(one.regions) for one in direct] == [is_known]
    lead = LEADS[axes]
    assert direct[0].image().label_shape[:-2] == ((1,) * len(lead) if is_in_one else lead)
    widget.panel.correct.click()
    assert annotate_widget.panel.message.text() == (PART_HINT if is_known else UNKNOWN_HINT)
    context = annotate_widget.model.context
    assert context is not None
    corrected = dataset_of([Pair(image, context.layer.layer)], viewer.layers, is_complete=True).items
    assert [(one.name, one.regions, one.is_complete) for one in corrected] == [
        (one.name, one.regions, one.is_complete) for one in direct
    ]
    for one in (*direct, *corrected):
        picture, labels = one.read()
        for (top, left), (bottom, right) in one.regions:
            box = np.s_[..., top:bottom, left:right]
            true, found = picture.read()[box] > 0, labels[box] > 0
            assert true.sum() > 200
            assert (true & ~found).sum() < 0.01 * true.sum()
