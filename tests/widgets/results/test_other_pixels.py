"""An image whose pixels are changed after a count: the number says so, and intensities are those of now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Image, Labels
from pytestqt.qtbot import QtBot

from cellwright.core.tasks import Progress
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells.followers import follow
from cellwright.widgets.shared.cells.image_pixels import mark_of_pixels

COUNTED = "counted in pixels that have changed since"
LIMIT_MS = 30_000


def write_pixels(layer: Image) -> None:
    layer.data[...] = 7
    layer.refresh()


def write_and_keep_quiet(layer: Image) -> None:
    layer.data[...] = 7


def replace_data(layer: Image) -> None:
    layer.data = np.full_like(layer.data, 7)


def replace_lazily(layer: Image) -> None:
    layer.data = da.full(layer.data.shape, 7, dtype=layer.data.dtype)


@pytest.fixture
def rested(viewer: ViewerModel, qtbot: QtBot) -> Callable[[ResultsWidget], None]:
    """Function (panel) that returns once neither pixels nor cells are looked at."""

    def wait(panel: ResultsWidget) -> None:
        for _ in range(2):  # what was found starts the next
            qtbot.waitUntil(lambda: not (panel.measurer.is_busy or follow(viewer).is_busy), timeout=LIMIT_MS)
            qtbot.wait(20)

    return wait


@pytest.fixture
def counted(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    qtbot: QtBot,
    settled: Callable[[CountWidget], None],
    rested: Callable[[ResultsWidget], None],
) -> ResultsWidget:
    """A results panel with the intensities of cells that were counted."""
    viewer.add_image(blobs.image.copy(), name="blobs")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    widget.panel.count.click()
    settled(widget)
    rested(panel)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    rested(panel)
    return panel


def means(table: Any) -> list[float]:
    return sorted({float(one) for one in table["intensity_mean_ch0"].dropna()})


@pytest.mark.parametrize("change", [write_pixels, replace_data, replace_lazily])
def test_other_pixels_are_told_and_measured(
    viewer: ViewerModel,
    widget: CountWidget,
    counted: ResultsWidget,
    rested: Callable[[ResultsWidget], None],
    change: Callable[[Image], None],
) -> None:
    assert COUNTED not in counted.view.line.text()
    assert 7.0 not in means(counted.model.table)
    change(viewer.layers["blobs"])
    rested(counted)
    assert means(counted.model.table) == means(viewer.layers["blobs labels"].features) == [7.0]
    assert COUNTED in counted.view.line.text()
    assert "whose pixels have changed" in widget.panel.line.text()
    assert any("pixels that have changed" in one for one in counted.model.analysis().notices)
    assert any("pixels of the image changed" in one for one in counted.export.unrepeatable)


def test_pixels_that_are_as_they_were_are_no_other_ones(
    viewer: ViewerModel, widget: CountWidget, counted: ResultsWidget, rested: Callable[[ResultsWidget], None]
) -> None:
    layer = viewer.layers["blobs"]
    layer.refresh()
    layer.visible = False
    layer.visible = True
    rested(counted)
    assert COUNTED not in counted.view.line.text()
    before = layer.data.copy()
    write_pixels(layer)
    rested(counted)
    layer.data[...] = before
    layer.refresh()
    rested(counted)
    assert COUNTED not in counted.view.line.text()
    assert "pixels have changed" not in widget.panel.line.text()
    assert 7.0 not in means(counted.model.table)


def test_the_next_count_is_of_the_pixels_of_now(
    viewer: ViewerModel,
    widget: CountWidget,
    counted: ResultsWidget,
    settled: Callable[[CountWidget], None],
    rested: Callable[[ResultsWidget], None],
) -> None:
    layer = viewer.layers["blobs"]
    layer.data[: layer.data.shape[0] // 2] = 0
    layer.refresh()
    rested(counted)
    assert COUNTED in counted.view.line.text()
    widget.panel.count.click()
    settled(widget)
    rested(counted)
    assert COUNTED not in counted.view.line.text()
    assert "pixels have changed" not in widget.panel.line.text()


def test_pixels_that_change_without_a_word_are_seen_by_the_next_measurement(
    viewer: ViewerModel, counted: ResultsWidget, rested: Callable[[ResultsWidget], None]
) -> None:
    write_and_keep_quiet(viewer.layers["blobs"])
    counted.view.measure.click()
    rested(counted)
    assert means(counted.model.table) == [7.0]
    assert COUNTED in counted.view.line.text()


@pytest.mark.parametrize("save", ["save_table", "save_counts", "save_report"])
def test_nothing_is_saved_of_pixels_that_changed_without_a_word(
    viewer: ViewerModel,
    counted: ResultsWidget,
    rested: Callable[[ResultsWidget], None],
    tmp_path: Path,
    save: str,
) -> None:
    path = tmp_path / ("saved.html" if save == "save_report" else "saved.csv")
    write_and_keep_quiet(viewer.layers["blobs"])
    getattr(counted.export, save)(path)
    rested(counted)
    assert not path.exists()
    assert "pixels of the image have changed" in counted.view.message.text()
    assert means(counted.model.table) == [7.0]
    assert COUNTED in counted.view.line.text()
    getattr(counted.export, save)(path)
    rested(counted)
    assert path.exists()


def test_nothing_is_saved_of_other_pixels_of_an_image_that_was_not_counted(
    viewer: ViewerModel, qtbot: QtBot, blobs: Any, rested: Callable[[ResultsWidget], None], tmp_path: Path
) -> None:
    image = viewer.add_image(blobs.image.copy(), name="blobs")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.show_layer(viewer.add_labels(blobs.labels, name="blobs labels"))
    qtbot.waitUntil(lambda: panel.is_filled, timeout=LIMIT_MS)
    rested(panel)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    rested(panel)
    write_and_keep_quiet(image)
    panel.export.save_table(tmp_path / "saved.csv")
    rested(panel)
    assert not (tmp_path / "saved.csv").exists()
    assert means(panel.model.table) == [7.0]


def test_pixels_that_change_while_they_are_counted_are_told(
    viewer: ViewerModel,
    widget: CountWidget,
    counted: ResultsWidget,
    settled: Callable[[CountWidget], None],
    rested: Callable[[ResultsWidget], None],
) -> None:
    def write_once_read(progress: Progress) -> None:
        if progress.stage == "tiles" and progress.done:
            write_and_keep_quiet(viewer.layers["blobs"])

    widget.panel.count.click()
    widget.job.progressed.connect(write_once_read)
    settled(widget)
    rested(counted)
    assert "whose pixels have changed" in widget.panel.line.text()


def test_features_follow_where_no_table_tells_of_the_layer(
    viewer: ViewerModel, counted: ResultsWidget, rested: Callable[[ResultsWidget], None]
) -> None:
    labels = viewer.layers["blobs labels"]
    counted.show_layer(viewer.add_labels(np.ones((8, 8), int), name="others"))
    rested(counted)
    write_pixels(viewer.layers["blobs"])
    rested(counted)
    assert isinstance(labels, Labels)
    assert means(labels.features) == [7.0]


def test_a_pyramid_in_memory_is_known_by_its_pixels() -> None:
    layer = Image([np.ones((64, 64)), np.ones((32, 32))], multiscale=True)
    before = mark_of_pixels(layer.data)
    assert mark_of_pixels(layer.data) == before
    layer.data[0][3, 4] = 7
    assert mark_of_pixels(layer.data) != before
