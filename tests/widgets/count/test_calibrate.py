"""Counting by density in the widget: number, calibration, comparison; the engine's arithmetic is real."""

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QFileDialog, QSpinBox

from cellwright.core.data import Cells, Image, Prediction, Provenance, Result
from cellwright.core.tasks import Progress, Task
from cellwright.files.images import describe_images
from cellwright.inference import pipeline as engine
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.fit import NOT_KNOWN
from cellwright.models.store import ModelEntry
from cellwright.ops.codecs.density import DensitySettings
from cellwright.ops.measure.cells_table import plain_count
from cellwright.ops.measure.prediction_interval import with_calibration
from cellwright.widgets.count import save
from cellwright.widgets.count.calibrate import LAYER_NAME, drawn_boxes, sum_in
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.coordinates import is_understood
from cellwright.widgets.shared.layer_io import source_of

Settled = Callable[[CountWidget], None]

NO_FIT = f"{NOT_KNOWN}: {{}} has no fit."  # which the oracle has not


def density_of(image: Image) -> Result:
    """One cell on each hundred pixels, give or take ten in a hundred."""
    density = np.full(image.shape, 0.01, np.float32)
    none = np.zeros(0, np.float32)
    table = np.zeros((0, density.ndim), np.float32)
    settings = {"density": asdict(DensitySettings()), "count_error": (0.1, 0.1, 1.0)}
    settings["engine"] = asdict(EngineSettings())
    provenance = Provenance(
        "0.1", "density", "abc", settings, image.name, image.shape, image.axes, (), "cpu", 1.8
    )
    count = float(density.sum())
    return Result(
        count,
        Cells(table, np.stack([table, table], axis=1), none, none),
        provenance,
        offset=(0,) * density.ndim,
        maps={"density": density},
        interval=(0.9 * count, 1.1 * count),
    )


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, shelved: Any, monkeypatch: pytest.MonkeyPatch) -> CountWidget:
    """A count widget with the oracle for flow, and a density model that sees the same everywhere."""
    spec = shelved.spec
    entries = [
        ModelEntry(family, None, replace(spec, family=family), {})  # type: ignore[arg-type]
        for family in ("density", "flow")
    ]
    monkeypatch.setattr(store, "models", lambda: entries)
    dense = copy.copy(shelved)
    dense.spec = entries[0].spec
    monkeypatch.setattr(store, "load", {"density": dense, "flow": shelved}.__getitem__)
    plain = engine.count_with_prediction

    def count_with_prediction(
        image: Image, models: tuple[str, ...], settings: Any, engine: Any
    ) -> Task[tuple[Result, Prediction | None]]:
        if models == ("flow",):
            return (yield from plain(image, models, settings, engine))
        yield Progress("tiles", 0, 1)
        return with_calibration(density_of(image), settings), None

    monkeypatch.setattr(engine, "count_with_prediction", count_with_prediction)
    made = CountWidget(viewer)
    qtbot.addWidget(made)
    return made


def choose(widget: CountWidget, family: str) -> None:
    box = widget.panel.model
    place = next(place for place in range(box.count()) if box.itemData(place) == family)
    box.setCurrentIndex(place)
    box.activated.emit(place)


@pytest.fixture
def counted(widget: CountWidget, viewer: ViewerModel, blobs: Any, settled: Settled) -> CountWidget:
    """The widget after a count by density of 320 cells."""
    viewer.add_image(blobs.image, name="blobs", scale=(0.5, 0.5))
    choose(widget, "density")
    widget.panel.count.click()
    settled(widget)
    return widget


def draw(viewer: ViewerModel, widget: CountWidget, *boxes: tuple[int, int, int, int]) -> None:
    """Draw boxes given by top, left, bottom and right in whole pixels, the last ones not inside."""
    for top, left, bottom, right in boxes:
        y0, x0, y1, x1 = np.array([top, left, bottom, right]) - 0.5
        viewer.layers[LAYER_NAME].add_rectangles(np.array([[y0, x0], [y0, x1], [y1, x1], [y1, x0]]))


def type_count(widget: CountWidget, row: int, count: int) -> None:
    box = widget.calibrate.form.table.cellWidget(row, 2)
    assert isinstance(box, QSpinBox)
    box.setValue(count)


def test_a_density_has_a_layer_and_a_number_with_its_error(counted: CountWidget, viewer: ViewerModel) -> None:
    panel = counted.panel
    assert panel.number.text() == "320"
    assert "288 to 352 cells (90 % interval)" in panel.details.text()
    assert panel.line.text().startswith("320 cells · density · ")
    assert panel.details.text() == "288 to 352 cells (90 % interval)\nblobs"
    assert counted.choices.layer is viewer.layers["blobs"]  # the density is none to count in
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs density"]
    shown = {output for output, box in panel.outputs.items() if not box.isHidden()}
    assert shown == {"Image"}
    assert counted.choices.outputs == ("Image",)
    assert (panel.calibrate.isHidden(), panel.ask.isHidden()) == (False, True)
    assert not panel.classes.isEnabled()


def test_boxes_counted_by_hand_correct_the_density_and_undo_takes_it_back(
    counted: CountWidget, viewer: ViewerModel, settled: Settled
) -> None:
    counted.panel.calibrate.click()
    assert str(viewer.layers[LAYER_NAME].mode) == "add_rectangle"
    draw(viewer, counted, (0, 0, 20, 20), (50, 100, 90, 110))
    table = counted.calibrate.form.table
    assert [table.item(row, 1).text() for row in (0, 1)] == ["4.0", "4.0"]
    type_count(counted, 0, 9)
    type_count(counted, 1, 7)
    counted.calibrate.form.apply.click()
    settled(counted)
    result = counted.counted.result
    assert result.count == pytest.approx(640)
    assert counted.panel.number.text() == "640"
    assert "2 boxes" in counted.panel.message.text()
    np.testing.assert_allclose(viewer.layers["blobs density"].data, 0.02, rtol=1e-5)
    assert counted.panel.settings.calibration == pytest.approx(2)  # for the next image
    counted.calibrate.form.undo.click()
    settled(counted)
    assert counted.panel.number.text() == "320"
    assert counted.panel.settings == DensitySettings()
    np.testing.assert_allclose(viewer.layers["blobs density"].data, 0.01, rtol=1e-5)
    counted.calibrate.form.done.click()
    assert LAYER_NAME not in viewer.layers
    assert counted.calibrate.form.isHidden()


def test_a_second_correction_starts_from_what_the_model_found(
    counted: CountWidget, viewer: ViewerModel, settled: Settled
) -> None:
    counted.panel.calibrate.click()
    draw(viewer, counted, (0, 0, 20, 20))
    for count, number in ((8, 640), (12, 960)):
        type_count(counted, 0, count)
        counted.calibrate.form.apply.click()
        settled(counted)
        assert counted.counted.result.count == pytest.approx(number)
    draw(viewer, counted, (50, 50, 70, 70))
    assert counted.calibrate.form.counts == [12, -1]  # what was typed stays
    counted.calibrate.form.undo.click()
    assert counted.panel.number.text() == "320"


def test_what_is_missing_is_told(counted: CountWidget, viewer: ViewerModel, settled: Settled) -> None:
    counted.panel.calibrate.click()
    counted.calibrate.form.apply.click()
    assert "got none. Draw one" in counted.panel.message.text()
    draw(viewer, counted, (0, 0, 20, 20))
    counted.calibrate.form.apply.click()
    assert "got none. Draw one" in counted.panel.message.text()
    type_count(counted, 0, 0)
    counted.calibrate.form.apply.click()
    settled(counted)
    assert "must hold cells" in counted.panel.message.text()
    assert counted.panel.number.text() == "320"


def test_without_a_density_there_is_nothing_to_calibrate(widget: CountWidget) -> None:
    widget.calibrate.begin()
    assert "Count with a density model first" in widget.panel.message.text()


def test_the_next_count_of_another_image_ends_the_calibration(
    counted: CountWidget, viewer: ViewerModel, blobs: Any, settled: Settled
) -> None:
    counted.panel.calibrate.click()
    draw(viewer, counted, (0, 0, 20, 20))
    type_count(counted, 0, 8)
    counted.calibrate.form.apply.click()
    settled(counted)
    viewer.add_image(blobs.image[:100, :100], name="other")
    counted.panel.count.click()
    settled(counted)
    assert counted.counted.result.count == pytest.approx(200)  # corrected as the first image
    assert not counted.calibrate.form.isVisibleTo(counted)
    boxes = viewer.layers[LAYER_NAME]  # the user drew them
    assert len(boxes.data) == 1
    assert not counted.calibrate.form.undo.isEnabled()


def test_boxes_wait_with_their_counts_while_another_image_is_counted(
    counted: CountWidget, viewer: ViewerModel, blobs: Any, settled: Settled
) -> None:
    counted.panel.calibrate.click()
    draw(viewer, counted, (0, 0, 20, 20))
    draw(viewer, counted, (40, 40, 60, 60))
    for row, n in enumerate((8, 9)):
        type_count(counted, row, n)
    counted.calibrate.form.apply.click()
    settled(counted)
    viewer.add_image(blobs.image[:100, :100], name="other")
    counted.panel.count.click()
    settled(counted)
    viewer.layers.selection.active = viewer.layers["blobs"]
    counted.panel.count.click()
    settled(counted)
    counted.panel.calibrate.click()
    assert [layer.name for layer in viewer.layers].count(LAYER_NAME) == 1
    assert counted.calibrate.form.counts == [8, 9]
    boxes = viewer.layers[LAYER_NAME]
    boxes.selected_data = {0}
    boxes.remove_selected()
    assert counted.calibrate.form.counts == [9]  # each count goes with its box
    draw(viewer, counted, (0, 0, 20, 20))
    assert counted.calibrate.form.counts == [9, -1]


def test_another_kind_of_model_puts_the_table_away_and_the_boxes_wait(
    counted: CountWidget, viewer: ViewerModel
) -> None:
    counted.panel.calibrate.click()
    draw(viewer, counted, (0, 0, 10, 10))
    type_count(counted, 0, 3)
    choose(counted, "flow")
    assert counted.calibrate.form.isHidden()
    choose(counted, "density")
    assert counted.calibrate.form.isHidden()
    counted.panel.calibrate.click()
    assert counted.calibrate.form.counts == [3]
    viewer.layers[LAYER_NAME].data = []
    choose(counted, "flow")
    assert LAYER_NAME not in viewer.layers


def test_a_correction_typed_in_the_form_is_shown_at_once(counted: CountWidget, settled: Settled) -> None:
    counted.panel.filters.container["calibration"].value = 0.5
    settled(counted)
    assert counted.counted.result.count == pytest.approx(160)
    assert counted.panel.message.text() == NO_FIT.format("density")


def test_cells_and_density_that_disagree_are_told(
    counted: CountWidget, viewer: ViewerModel, blobs: Any, settled: Settled
) -> None:
    assert counted.panel.message.text() == NO_FIT.format("density")
    choose(counted, "flow")
    assert counted.panel.number.text() == "320"  # until something is counted
    counted.panel.count.click()
    settled(counted)
    assert counted.panel.number.text() == str(len(blobs))
    assert "Count with the density model again and calibrate it" in counted.panel.message.text()
    assert f"there are {len(blobs)}, fewer than the density's 320" in counted.panel.message.text()
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs density", "blobs labels"]
    viewer.add_image(blobs.image, name="another")
    counted.panel.count.click()
    settled(counted)
    told = f"{NO_FIT.format('flow')} Hidden now: blobs labels."  # no word of a density
    assert counted.panel.message.text() == told


def test_cells_are_compared_with_the_density_as_it_was_corrected(
    counted: CountWidget, blobs: Any, settled: Settled
) -> None:
    counted.panel.filters.container["calibration"].value = len(blobs) / 320
    settled(counted)
    choose(counted, "flow")
    counted.panel.count.click()
    settled(counted)
    assert counted.panel.number.text() == str(len(blobs))
    assert "Cell by cell" not in counted.panel.message.text()


def test_boxes_are_those_of_the_pixels(viewer: ViewerModel, counted: CountWidget) -> None:
    counted.panel.calibrate.click()
    draw(viewer, counted, (3, 4, 10, 12))
    source = counted.counted.request.source
    (box,) = drawn_boxes(viewer.layers[LAYER_NAME], source)
    assert box.tolist() == [[3, 4], [10, 12]]
    density = np.zeros((20, 20), np.float32)
    density[3:10, 4:12] = 1
    assert sum_in(density, box) == 56
    assert sum_in(density, box - 100) == 0


def test_boxes_of_a_frame_are_of_that_frame_alone(viewer: ViewerModel, counted: CountWidget) -> None:
    from napari.layers import Shapes

    source = source_of(viewer.add_image(np.zeros((5, 20, 20)), axis_labels=("t", "y", "x")))
    drawn = Shapes([[[3, 1.5, 1.5], [3, 1.5, 5.5], [3, 6.5, 5.5], [3, 6.5, 1.5]]])
    assert drawn_boxes(drawn, source).tolist() == [[[3, 2, 2], [4, 7, 6]]]


@pytest.mark.parametrize("way", ["file", "array", "regions"])
def test_a_density_is_saved_as_a_report(
    widget: CountWidget,
    viewer: ViewerModel,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    pixels = (blobs.image * 200).astype(np.uint8)
    layer = viewer.add_image(pixels, name="blobs")
    if way == "file":
        tifffile.imwrite(tmp_path / "blobs.tif", pixels)
        layer._source = layer.source.model_copy(update={"path": str(tmp_path / "blobs.tif")})
        qtbot.waitUntil(lambda: is_understood(layer) or bool(describe_images(tmp_path / "blobs.tif")))
    if way == "regions":
        viewer.add_shapes(np.array([[0.0, 0.0], [0.0, 60.0], [60.0, 60.0]]), shape_type="polygon")
        widget.panel.region.setCurrentIndex(widget.panel.region.place_of("drawn"))
    choose(widget, "density")
    widget.panel.count.click()
    settled(widget)
    asked: list[str] = []

    def ask(_: Any, __: str, proposed: str, formats: str) -> tuple[str, str]:
        asked.append(formats)
        return str(tmp_path / Path(proposed).name), save.REPORT

    monkeypatch.setattr(QFileDialog, "getSaveFileName", ask)
    widget.save.ask()
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert asked == ["Table (*.csv);;Report (*.html)"]
    (path,) = tmp_path.glob("*.html")
    text = unescape(path.read_text(encoding="utf-8"))
    assert f"<title>blobs: {plain_count(widget.counted.result.count)} cells" in text
    assert "redder where cells are denser" in text
    told = {
        "file": f"cellwright count {tmp_path / 'blobs.tif'}",
        "array": "file these cells come from is not known",
        "regions": "regions that are in no file",
    }
    assert {one: told[one] in text for one in told} == {one: one == way for one in told}
    assert save.OTHER_PIXELS not in text
    layer.data[...] = 0  # without a word
    widget.save.ask()
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert save.OTHER_PIXELS in path.read_text(encoding="utf-8")
