import dataclasses
import gc
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QCoreApplication, QEvent, Qt
from qtpy.QtWidgets import QFileDialog, QWidget

from cellwright.core.errors import ImageError
from cellwright.core.tasks import Progress
from cellwright.inference.recipe import as_command, load_recipe, recipe_of
from cellwright.models import store
from cellwright.models.fit import NOT_KNOWN
from cellwright.models.store import ModelEntry
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.cells.regions import REGION_NAME
from cellwright.widgets.shared.messages import choose_layer, news_of
from cellwright.widgets.shared.model_combos import model_events

Settled = Callable[[CountWidget], None]

NO_FIT = f"{NOT_KNOWN}: flow has no fit."  # which the oracle has not


def click_count(widget: CountWidget, qtbot: QtBot) -> None:
    qtbot.mouseClick(widget.panel.count, Qt.MouseButton.LeftButton)


def count(widget: CountWidget, qtbot: QtBot, settled: Settled) -> None:
    click_count(widget, qtbot)
    settled(widget)


def slow_network(oracle: Any) -> threading.Event:
    """Make the oracle wait in its forward pass; return the event that lets it go on."""
    go_on, forward = threading.Event(), type(oracle.network).forward

    def wait_then_look(network: Any, image: Any) -> Any:
        go_on.wait(30)
        return forward(network, image)

    oracle.network.__class__ = type("Slow", (type(oracle.network),), {"forward": wait_then_look})
    return go_on


def test_one_click_shows_outlines_and_number(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == str(len(blobs))
    assert widget.panel.line.text().startswith(f"{len(blobs)} cells · flow · ")
    assert widget.panel.details.text().startswith("blobs\nmedian diameter 1")
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels"]
    np.testing.assert_array_equal(viewer.layers[1].data > 0, blobs.labels > 0)
    assert viewer.layers[1].metadata["cellwright"]["settings"]["flow"] == dataclasses.asdict(FlowSettings())


def test_the_number_is_told_under_the_name_that_its_image_has_now(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    count(widget, qtbot, settled)
    viewer.layers["blobs"].name = "control"
    assert widget.panel.details.text().startswith("control\nmedian diameter 1")
    viewer.add_image(blobs.image, name="another")
    widget.panel.image.choose(viewer.layers["another"])
    assert widget.panel.line.text().startswith("of 'control', not of the image above: ")
    viewer.layers.remove("control")
    assert "'blobs', which is closed" in widget.panel.line.text()


def test_how_well_it_went_is_told_once(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, oracle_model: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    for fit, words in (
        (0.91, "Expect about 9 of 10 right."),
        (0.1, "unlike anything this model has learned"),
    ):
        oracle_model.fit = SimpleNamespace(expected_f1=lambda facts, fit=fit: fit, closer_below=0.0)
        count(widget, qtbot, settled)
        assert widget.panel.message.text().count(words) == 1
    oracle_model.fit = None  # as of one that was taught
    count(widget, qtbot, settled)
    assert widget.panel.message.text() == NO_FIT
    assert widget.panel.message.property("info") == "true", "no warning"


def test_the_button_is_cancel_while_running(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    go_on = slow_network(shelved)
    viewer.add_image(blobs.image)
    click_count(widget, qtbot)
    assert (widget.panel.count.text(), widget.panel.preview.isEnabled()) == ("Cancel", False)
    qtbot.waitUntil(lambda: widget.panel.jobs.line.text() != "", timeout=20_000)
    click_count(widget, qtbot)
    assert (widget.panel.count.text(), widget.panel.count.isEnabled()) == ("Cancelling…", False)
    go_on.set()
    settled(widget)
    assert (widget.panel.count.text(), widget.panel.count.isEnabled()) == ("Count cells", True)
    assert "Cancelled" in widget.panel.message.text()
    assert len(viewer.layers) == 1
    assert widget.counted is None
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == str(len(blobs))
    assert widget.panel.message.text() == NO_FIT


def test_cancel_at_once(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    widget.panel.count.click()
    widget.panel.count.click()
    settled(widget)
    assert "Cancelled" in widget.panel.message.text()
    assert widget.panel.count.isEnabled()


def test_moving_a_slider_recounts_without_the_network(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    image = blobs.image.copy()
    image[:, : image.shape[1] // 2] *= 0.55  # fainter cells
    viewer.add_image(image)
    count(widget, qtbot, settled)
    everything = int(widget.panel.number.text())
    shelved.network.forward = None  # a forward pass would fail
    slider = widget.panel.thresholds.container["cell_probability"]
    for value in (0.6, 0.8, 0.95):
        slider.value = value
    settled(widget)
    strict = int(widget.panel.number.text())
    assert 0 < strict < everything
    assert viewer.layers[1].data.max() == strict
    slider.value = 0.5
    settled(widget)
    assert int(widget.panel.number.text()) == everything
    assert len(viewer.layers) == 2


def test_how_well_it_went_is_told_of_the_cells_that_a_slider_left(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, oracle_model: Any, qtbot: QtBot, settled: Settled
) -> None:
    oracle_model.fit = SimpleNamespace(expected_f1=lambda facts: 1 - facts["left_over"], closer_below=0.0)
    viewer.add_image(blobs.image)
    count(widget, qtbot, settled)
    panel, areas = widget.panel, np.sort(widget.counted.result.cells.areas)
    assert panel.message.text() == "Expect nearly all right."
    for min_area, words in (
        (int(areas[len(areas) // 2]), "right. Look at the cells"),
        (10 * int(areas[-1]), ""),  # no cell is left to judge
        (1, "Expect nearly all right."),
    ):
        panel.filters.set_values({"min_area_px": min_area})
        settled(widget)
        assert words in panel.message.text()
        assert bool(panel.message.text()) == bool(words)


def test_a_slider_moved_during_a_count_is_used_after_it(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    go_on = slow_network(shelved)
    viewer.add_image(blobs.image)
    click_count(widget, qtbot)
    widget.panel.filters.container["min_area_px"].value = 5000
    go_on.set()
    settled(widget)
    assert widget.panel.number.text() == "0"


def test_large_results_say_that_thresholds_wait_for_the_next_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from cellwright.inference import pipeline as engine

    monkeypatch.setattr(engine, "KEPT_MAPS_BYTES", 0)
    viewer.add_image(blobs.image)
    count(widget, qtbot, settled)
    widget.panel.thresholds.container["cell_probability"].value = 0.9
    settled(widget)
    assert "next count" in widget.panel.message.text()
    assert widget.panel.number.text() == str(len(blobs))


def test_ticks_show_and_hide_layers_after_a_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    count(widget, qtbot, settled)
    widget.panel.outputs["Points"].setChecked(True)
    widget.panel.outputs["Shapes"].setChecked(True)
    settled(widget)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels", "blobs points", "blobs boxes"]
    assert len(viewer.layers["blobs points"].data) == len(viewer.layers["blobs boxes"].data) == len(blobs)
    widget.panel.outputs["Labels"].setChecked(False)
    widget.panel.outputs["Shapes"].setChecked(False)
    settled(widget)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs points"]


def test_counting_twice_adds_nothing(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    for _ in range(2):
        count(widget, qtbot, settled)
    assert len(viewer.layers) == 2


def test_what_is_seen_alone_can_be_counted(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled,
    n_whole: Callable[[Any], int],
) -> None:  # fmt: skip
    layer = viewer.add_image(np.stack([blobs.image * 0, blobs.image, blobs.image, blobs.image, blobs.image]))
    viewer.dims.set_current_step(0, 3)
    layer.corner_pixels = np.array([[0, 40, 60], [0, 119, 159]])
    widget.panel.region.setCurrentIndex(1)
    count(widget, qtbot, settled)
    inside = n_whole(blobs.labels[40:120, 60:160])
    assert widget.panel.number.text() == str(inside)
    shown = viewer.layers[1]
    assert shown.data.shape == (1, 80, 100)
    np.testing.assert_allclose(shown.translate, (3, 40, 60))
    assert widget.counted.result.offset == (3, 40, 60)


def test_a_drawn_region_is_asked_for_then_counted(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, scale=(0.5, 0.5), name="blobs")
    widget.panel.region.setCurrentIndex(2)
    widget.panel.region.activated.emit(2)
    shapes = viewer.layers[REGION_NAME]
    assert str(shapes.mode) == "add_rectangle"
    count(widget, qtbot, settled)
    assert "Draw a rectangle" in widget.panel.message.text()
    shapes.add_rectangles(np.array([[40, 60], [40, 159], [119, 159], [119, 60]]))
    count(widget, qtbot, settled)
    numbers = range(1, len(blobs) + 1)
    middles = np.array([np.argwhere(blobs.labels == number).mean(axis=0) for number in numbers])
    is_inside = ((middles >= (40, 60)) & (middles < (119, 159))).all(axis=1)
    assert widget.panel.number.text() == str(is_inside.sum())
    labels = viewer.layers["blobs labels"]
    assert len(np.unique(labels.data)) == is_inside.sum() + 1
    first = np.rint(labels.translate / 0.5).astype(int)
    covered = tuple(slice(a, a + n) for a, n in zip(first, labels.data.shape, strict=True))
    np.testing.assert_array_equal(
        labels.data[labels.data > 0] > 0, blobs.labels[covered][labels.data > 0] > 0
    )


def test_a_region_is_asked_for_by_the_button_too(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    widget.panel.region.setCurrentIndex(2)
    count(widget, qtbot, settled)
    assert REGION_NAME in viewer.layers
    assert "Draw a rectangle" in widget.panel.message.text()


def test_a_preview_is_shown_beside_and_gone_after_the_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled,
    n_whole: Callable[[Any], int],
) -> None:  # fmt: skip
    layer = viewer.add_image(blobs.image, name="blobs")
    layer.corner_pixels = np.array([[40, 60], [119, 159]])
    qtbot.mouseClick(widget.panel.preview, Qt.MouseButton.LeftButton)
    settled(widget)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs preview labels"]
    assert widget.panel.number.text() == str(n_whole(blobs.labels[40:120, 60:160]))
    height, width = viewer.layers[-1].data.shape
    assert widget.panel.line.text().startswith(f"preview of {height} x {width} px in view: ")
    count(widget, qtbot, settled)
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels"]
    assert "preview" not in widget.panel.line.text()


def test_a_line_sets_the_diameter(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, draw_line: Callable[..., None]
) -> None:
    viewer.add_image(blobs.image, scale=(0.5, 0.5))
    qtbot.mouseClick(widget.panel.measure, Qt.MouseButton.LeftButton)
    draw_line(viewer.layers.selection.active, [[10, 10], [10, 24]])
    qtbot.waitUntil(lambda: widget.panel.diameter.value() > 0, timeout=5000)
    assert widget.panel.diameter.value() == pytest.approx(14.0)
    assert widget.choices.engine.diameter_px == pytest.approx(14.0)
    assert len(viewer.layers) == 1


def test_channel_and_advanced_settings_reach_the_engine(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    other = np.zeros_like(blobs.image)
    other[10:30, 10:30] = 1
    viewer.add_image(np.stack([other, blobs.image]), name="two")
    widget.panel.channel.setCurrentIndex(1)
    widget.panel.engine.container["tile_px"].value = 512
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == str(len(blobs))
    engine = widget.counted.result.provenance.settings["engine"]
    assert (engine["channel"], engine["tile_px"]) == (1, 512)
    assert viewer.layers["two labels"].ndim == 2


def test_cells_are_saved_as_csv(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert not widget.panel.save.isEnabled()
    widget.save.start(tmp_path / "early.csv")
    assert "count them first" in widget.panel.message.text()
    viewer.add_image(blobs.image, name="blobs")
    count(widget, qtbot, settled)
    names: list[str] = []

    def choose(_: object, __: str, name: str, ___: str) -> tuple[str, str]:
        names.append(name)
        return str(tmp_path / "cells.csv"), ""

    monkeypatch.setattr(QFileDialog, "getSaveFileName", choose)
    qtbot.mouseClick(widget.panel.save, Qt.MouseButton.LeftButton)
    assert [Path(name).name for name in names] == ["blobs.cells.csv"]
    widget.save.start(tmp_path / "second.csv")
    assert "still being saved" in widget.panel.message.text()
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert widget.panel.message.text() == f"Saved {tmp_path / 'cells.csv'}"
    table = pd.read_csv(tmp_path / "cells.csv")
    assert list(table["label"]) == list(range(1, len(blobs) + 1))
    np.testing.assert_allclose(table[["y", "x"]], blobs.points, atol=0.5)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: ("", ""))
    widget.save.ask()  # the dialog was closed
    assert widget.save.job is None
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]


def test_a_table_that_cannot_be_written_is_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled, tmp_path: Path
) -> None:
    viewer.add_image(blobs.image)
    count(widget, qtbot, settled)
    (tmp_path / "file").write_text("in the way")
    widget.save.start(tmp_path / "file" / "cells.csv")
    qtbot.waitUntil(lambda: widget.save.job is None)
    assert widget.panel.message.property("error") == "true"
    assert str(tmp_path) in widget.panel.message.text()


@pytest.mark.parametrize("button", ["count", "preview", "measure"])
def test_no_layer_and_a_points_layer_are_told(
    viewer: ViewerModel, widget: CountWidget, qtbot: QtBot, button: str
) -> None:
    qtbot.mouseClick(getattr(widget.panel, button), Qt.MouseButton.LeftButton)
    assert widget.panel.message.text() == "Select an Image layer to count cells in; got no layer."
    viewer.add_points(np.zeros((1, 2)), name="p1")
    qtbot.mouseClick(getattr(widget.panel, button), Qt.MouseButton.LeftButton)
    assert "a Points layer named 'p1'" in widget.panel.message.text()
    assert widget.job is None
    assert widget.panel.count.isEnabled()


def test_an_image_without_finite_pixels_is_told(
    viewer: ViewerModel, widget: CountWidget, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(np.full((64, 64), np.nan), contrast_limits=(0, 1))
    count(widget, qtbot, settled)
    assert "finite" in widget.panel.message.text()
    assert widget.panel.message.property("error") == "true"
    assert widget.panel.count.isEnabled()


@pytest.mark.parametrize("pixels", [np.zeros((64, 64)), np.full((1, 1), 3.0), np.full((64, 64), 7, np.uint8)])
def test_images_without_cells_give_zero(
    viewer: ViewerModel, widget: CountWidget, qtbot: QtBot, settled: Settled, pixels: Any
) -> None:
    viewer.add_image(pixels)
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == "0"
    assert not viewer.layers[1].data.any()


def test_a_runtime_error_in_the_worker_is_told_and_the_next_count_works(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    viewer.add_image(blobs.image)
    shelved.network.forward = fail
    count(widget, qtbot, settled)
    assert "mat1 and mat2" in widget.panel.message.text()
    assert widget.panel.count.text() == "Count cells"
    del shelved.network.forward
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == str(len(blobs))
    assert widget.panel.message.text() == NO_FIT


def test_an_error_of_ours_is_logged_with_its_kind(
    widget: CountWidget, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        widget.model.fail(KeyError("flow"))
    assert widget.panel.message.text() == "KeyError: 'flow'"
    assert caplog.records[0].exc_info[0] is KeyError


def test_an_image_removed_during_its_count_loses_nothing(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    go_on = slow_network(shelved)
    layer = viewer.add_image(blobs.image, name="blobs", translate=(5, 6))
    click_count(widget, qtbot)
    viewer.layers.remove(layer)
    go_on.set()
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs))
    assert "'blobs' was removed" in widget.panel.message.text()
    np.testing.assert_allclose(viewer.layers["blobs labels"].translate, (5, 6))
    widget.panel.filters.container["min_area_px"].value = 5000  # still live
    settled(widget)
    assert widget.panel.number.text() == "0"


def test_an_image_scaled_during_its_count_is_told_of(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    go_on = slow_network(shelved)
    layer = viewer.add_image(blobs.image, name="blobs")
    click_count(widget, qtbot)
    layer.scale = (0.5, 0.5)
    go_on.set()
    settled(widget)
    assert "'blobs' was moved or scaled" in widget.panel.message.text()
    count(widget, qtbot, settled)
    assert "moved" not in widget.panel.message.text()
    assert viewer.layers["blobs labels"].scale.tolist() == [0.5, 0.5]


def test_an_image_given_other_pixels_during_its_count_is_told_of(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, qtbot: QtBot, settled: Settled
) -> None:
    go_on = slow_network(shelved)
    layer = viewer.add_image(blobs.image, name="blobs")
    click_count(widget, qtbot)
    layer.data = np.zeros_like(blobs.image)
    go_on.set()
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs))
    assert "'blobs' was given other pixels" in widget.panel.message.text()
    assert widget.panel.line.text().startswith("of 'blobs', whose pixels have changed: ")
    count(widget, qtbot, settled)
    assert widget.panel.number.text() == "0"
    assert "pixels have changed" not in widget.panel.message.text() + widget.panel.line.text()


@pytest.mark.parametrize("is_multiscale", [False, True])
def test_a_count_whose_image_is_given_other_pixels_says_so(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled, is_multiscale: bool
) -> None:
    def pixels(image: Any) -> Any:
        return [image, image[::2, ::2]] if is_multiscale else image

    layer = viewer.add_image(pixels(blobs.image), name="blobs", multiscale=is_multiscale)
    count(widget, qtbot, settled)
    line = widget.panel.line.text()
    assert line.startswith(f"{len(blobs)} cells")
    layer.contrast_limits = (0, 0.5)
    layer.scale = (2, 2)
    viewer.add_image(blobs.image, name="another")
    viewer.layers.remove("another")
    assert widget.panel.line.text() == line
    layer.data = pixels(np.zeros_like(blobs.image))
    assert widget.panel.line.text() == f"of 'blobs', whose pixels have changed: {line}"


def test_without_a_model_the_error_says_where_they_are_looked_for(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "models", list)
    widget = CountWidget(viewer)
    qtbot.addWidget(widget)
    viewer.add_image(blobs.image)
    widget.panel.count.click()
    assert "A model is needed" in widget.panel.message.text()


def test_progress_is_told_with_the_time_left_but_not_too_often(widget: CountWidget, qtbot: QtBot) -> None:
    from cellwright.core.tasks import Eta

    runner, told = widget.jobs, list[int]()
    widget.panel.jobs.bar.valueChanged.connect(told.append)
    runner._eta, runner._stage, runner._told, runner._last = Eta(), "", 0.0, ""
    for done in range(1, 101):
        runner._on_job_progressed(Progress("tiles", done, 200))
    assert len(told) < 20
    time.sleep(0.3)
    runner._on_job_progressed(Progress("tiles", 100, 200))
    assert widget.panel.jobs.bar.value() == widget.panel.jobs.bar.maximum() // 2
    assert "Tiles: 100 of 200 · " in widget.panel.jobs.line.text()
    assert widget.panel.jobs.line.text().endswith(" left")


def test_the_widget_opens_quickly_and_without_torch() -> None:
    code = (
        "import os, sys, time\n"
        "os.environ['QT_QPA_PLATFORM'] = 'offscreen'\n"
        "from napari.components import ViewerModel\n"
        "from qtpy.QtCore import QEvent\n"
        "from qtpy.QtWidgets import QApplication\n"
        "app = QApplication([])\n"
        "viewer = ViewerModel()\n"
        "from cellwright.widgets.plugin import commands, image_reader\n"
        "from cellwright.widgets.count.widget import CountWidget\n"
        "started = time.process_time()\n"
        "widget = CountWidget(viewer)\n"
        "assert time.process_time() - started < 0.5, time.process_time() - started\n"
        "assert 'torch' not in sys.modules\n"
        "widget.deleteLater()  # before the application ends, as napari's window does\n"
        "app.sendPostedEvents(widget, QEvent.Type.DeferredDelete)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_counts_of_regions_are_remembered_without_their_pixels(
    widget: CountWidget, viewer: ViewerModel, qtbot: QtBot, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    count(widget, qtbot, settled)
    kept = weakref.ref(widget.counted.result.cells.labels)
    assert widget.model.disagreement(widget.counted) == ""
    assert kept() is not None
    widget.model.outcome = None
    viewer.layers.clear()
    gc.collect()
    assert kept() is None


def test_switches_of_model_leave_no_forms_behind(widget: CountWidget) -> None:
    def n_widgets() -> int:
        QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        return len(widget.findChildren(QWidget))

    families = ["flow", "density", "centroid", "flow"]
    for family in families:
        widget._show_family(family)
    before = n_widgets()
    for family in families * 5:
        widget._show_family(family)
    assert n_widgets() == before


def test_an_error_goes_when_an_image_comes(viewer: ViewerModel, widget: CountWidget, blobs: Any) -> None:
    widget.panel.count.click()
    assert "Select an Image layer" in widget.panel.message.text()
    viewer.add_image(blobs.image)
    assert widget.panel.message.text() == ""


def test_layers_of_an_image_that_is_gone_stay_gone(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    count(widget, qtbot, settled)
    widget.panel.outputs["Points"].setChecked(True)
    viewer.layers.clear()  # while the points are made
    settled(widget)
    assert list(viewer.layers) == []
    widget.panel.outputs["Shapes"].setChecked(True)
    settled(widget)
    assert list(viewer.layers) == []


def test_a_number_tells_of_which_image_it_is(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    first = viewer.add_image(blobs.image, name="first")
    count(widget, qtbot, settled)
    line, panel = widget.panel.line.text(), widget.panel
    assert "first" not in line
    widget.model.tell("A notice of this count.", is_warning=True)
    second = viewer.add_image(blobs.image, name="second")
    choose_layer(panel.image, second)
    assert panel.line.text() == f"of 'first', not of the image above: {line}"
    assert panel.message.text() == ""  # no notices of another image
    choose_layer(panel.image, first)
    assert panel.line.text() == line
    viewer.layers.remove(first)
    assert panel.line.text() == f"of 'first', which is closed: {line}"
    viewer.layers.clear()
    assert (panel.number.text(), panel.line.text()) == ("—", "no cells counted yet")
    assert panel.details.text() == ""
    assert (panel.save.isEnabled(), panel.correct.isEnabled()) == (False, False)


def test_each_image_has_its_count_when_it_is_chosen_again(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled
) -> None:
    panel, sent = widget.panel, []
    news_of(viewer).sent.connect(lambda _, what: sent.append(what))
    half = blobs.image.copy()
    half[:, half.shape[1] // 2 :] = half.min()
    images = [viewer.add_image(one, name=name) for one, name in ((blobs.image, "whole"), (half, "half"))]
    told = []
    for image, score in zip(images, (0.0, 0.1), strict=True):
        choose_layer(panel.image, image)
        panel.filters.set_values({"min_score": score})
        panel.thresholds.set_values({"min_score": score})
        count(widget, qtbot, settled)
        told.append((panel.number.text(), panel.line.text(), panel.settings.min_score))
    assert len({number for number, _, _ in told}) == 2
    for image, expected in zip(reversed(images), reversed(told), strict=True):
        choose_layer(panel.image, image)
        assert (panel.number.text(), panel.line.text(), panel.settings.min_score) == expected
        panel.correct.click()
        assert (sent[-1].image, sent[-1].cells.name) == (image, f"{image.name} labels")
    viewer.layers["whole labels"].data = np.zeros_like(viewer.layers["whole labels"].data)
    qtbot.waitUntil(lambda: panel.line.text().startswith("0 cells"), timeout=20_000)
    choose_layer(panel.image, images[1])
    assert panel.line.text() == told[1][1]
    choose_layer(panel.image, images[0])
    assert panel.line.text().startswith("0 cells")  # as they were changed by hand


@pytest.mark.parametrize("blending", ["translucent_no_depth", "additive"])
def test_the_image_that_is_counted_is_in_sight(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, qtbot: QtBot, settled: Settled, blending: str
) -> None:
    images = [viewer.add_image(blobs.image, name=name, blending=blending) for name in "ab"]
    beside = viewer.add_image(blobs.image, name="beside", blending=blending, translate=(0, 5000))
    is_covered = blending != "additive"
    for image, other in (images, images[::-1], images):
        choose_layer(widget.panel.image, image)
        count(widget, qtbot, settled)
        assert (image.visible, viewer.layers[f"{image.name} labels"].visible) == (True, True)
        assert beside.visible
        cells = [one for one in viewer.layers if one.name == f"{other.name} labels"]
        assert all(one.visible != is_covered for one in cells)
        assert images[1].visible == (image is images[1] or not is_covered)  # it lies on the other
        hidden = [*(["b"] if image is images[0] else []), *(one.name for one in cells)]
        told = f" Hidden now: {', '.join(hidden)}." if is_covered and hidden else ""
        assert widget.panel.message.text() == NO_FIT + told
        assert widget.panel.message.property("info") == "true"  # no warning


def test_an_error_goes_with_its_cause(viewer: ViewerModel, widget: CountWidget, blobs: Any) -> None:
    viewer.add_image(np.stack([blobs.image] * 5), axis_labels=("t", "y", "x"))
    panel = widget.panel
    changes = (
        lambda: setattr(viewer.dims, "ndisplay", 5 - viewer.dims.ndisplay),
        lambda: panel.device.activated.emit(0),
        lambda: panel.engine.changed.emit(),
        lambda: viewer.add_points(np.zeros((1, 3))),
    )
    for change in changes:
        widget.model.fail(ImageError("The image is not in view."))
        assert panel.message.text() == "The image is not in view."
        change()
        assert panel.message.text() == "", change
    widget.model.tell("Saved.")
    viewer.layers.clear()
    assert panel.message.text() == "Saved."  # no error


def test_the_diameter_is_given_in_micrometres_where_the_pixel_size_is_known(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, tmp_path: Path
) -> None:
    box = widget.panel.diameter
    bare = viewer.add_image(blobs.image, name="bare")
    assert (box.unit.isHidden(), box.suffix()) == (True, " px")
    box.setValue(20.0)
    sized = viewer.add_image(blobs.image, name="sized", scale=(0.5, 0.5), units=("um", "um"))
    assert (box.unit.isHidden(), box.value()) == (False, 20.0)
    box.unit.setCurrentIndex(box.unit.findData("µm"))
    assert (box.value(), box.value_px) == (10.0, 20.0)  # the same, in the other unit
    assert (widget.choices.engine.diameter_um, widget.choices.engine.diameter_px) == (10.0, 0.0)
    sized.scale = (0.25, 0.25)
    assert (box.value(), box.value_px) == (10.0, 40.0)  # what was given stays
    widget._on_line_measured(12.0)
    assert box.value() == 3.0

    widget.settings_file.save(tmp_path / "settings.json")
    box.setValue(0.0)
    widget.settings_file.load(tmp_path / "settings.json")
    assert widget.choices.engine.diameter_um == 3.0

    viewer.layers.selection.active = bare  # without a size there are pixels alone
    assert (box.unit.isHidden(), box.suffix(), box.value()) == (True, " px", 0.0)
    assert "no pixel size" in widget.panel.message.text()
    assert widget.choices.engine.diameter_um == 0.0


@pytest.fixture
def listed(shelved: Any, monkeypatch: pytest.MonkeyPatch) -> list[ModelEntry]:
    """Three models of one family, and one of another."""
    families = {"flow": "flow", "mine": "flow", "theirs": "flow", "centroid": "centroid"}
    entries = [
        ModelEntry(name, Path(name), replace(shelved.spec, family=family), {})
        for name, family in families.items()
    ]
    monkeypatch.setattr(store, "models", lambda: entries)
    return entries


def test_models_of_one_family_count_together(
    viewer: ViewerModel, listed: list[ModelEntry], widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    together = widget.panel.together
    titles = [together.item(place).text() for place in range(together.count())]
    assert titles == ["Nuclei and cells · mine", "Nuclei and cells · theirs"]
    together.item(1).setCheckState(Qt.CheckState.Checked)
    widget.panel.count.click()
    settled(widget)
    assert widget.counted is not None
    result = widget.counted.result
    assert (result.count, result.provenance.model) == (len(blobs), "flow + theirs")
    assert "--model flow --model theirs" in as_command(recipe_of(result, source="blobs.tif"))
    widget.panel.filters.container["min_area_px"].value = 100_000  # without the networks
    settled(widget)
    assert widget.counted.result.count == 0


def test_models_that_count_together_follow_the_list_and_the_settings(
    listed: list[ModelEntry], widget: CountWidget, tmp_path: Path
) -> None:
    panel, path = widget.panel, tmp_path / "s.json"
    panel.together.item(1).setCheckState(Qt.CheckState.Checked)
    widget.settings_file.save(path)
    assert load_recipe(path).models == ("flow", "theirs")
    panel.together.item(1).setCheckState(Qt.CheckState.Unchecked)
    widget.settings_file.load(path)
    assert panel.together.ticked == ("theirs",)
    listed.pop(2)
    model_events.changed.emit()
    assert (panel.together.ticked, panel.together.count()) == ((), 1)
    widget.settings_file.load(path)
    assert "no model theirs" in panel.message.text()
    panel.model.setCurrentIndex(panel.model.findData("centroid"))
    assert panel.together.isHidden()  # no other model of its family


def test_what_to_expect_is_told_as_information_and_notices_as_warnings(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    widget.panel.count.click()
    settled(widget)
    counted, message = widget.counted, widget.panel.message
    for notices, is_information in (((), "true"), (("Two frames are blank.",), "false")):
        widget.shown.on_counted(replace(counted, result=replace(counted.result, fit=0.9, notices=notices)))
        assert message.text() == " ".join(("Expect about 9 of 10 right.", *notices))
        assert message.property("info") == is_information
