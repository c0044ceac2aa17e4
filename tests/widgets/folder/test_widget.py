"""The folder panel: images counted one by one beside the viewer, resumed, leafed through, and opened."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels
from napari.qt import get_stylesheet
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPoint, Qt
from qtpy.QtGui import QFont, QHelpEvent
from qtpy.QtWidgets import QApplication, QFileDialog, QStyle, QToolTip, QWidget

from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.tasks import run as drain
from cellwright.files.folders.image_list import ListedImage
from cellwright.files.folders.results import ImageOutcome, only_run, thumbnail_of
from cellwright.files.images import write_map
from cellwright.files.tables import write_provenance, write_table
from cellwright.inference import image_count
from cellwright.inference.corrections import save_corrected
from cellwright.inference.image_count import counted_task
from cellwright.models.fit import NOT_KNOWN
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder import widget as folder_widget
from cellwright.widgets.folder.model import FolderModel, open_counted
from cellwright.widgets.folder.view import PICTURE_PX, SCROLL_BAR_PX, FolderView, Gallery, help_of
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.shared.edited_layers import mark_edited
from cellwright.widgets.shared.layer_factory import write_classes
from cellwright.widgets.shared.layer_io import source_of
from cellwright.widgets.shared.messages import news_of, tell_results
from cellwright.widgets.shared.panel_area import PanelScrollArea

LIMIT_MS = 60_000


@pytest.fixture
def plate(tmp_path: Path, blobs: Any) -> Path:
    """Two fields of well A1, one of B2 with half the cells, and a file that is no image."""
    folder = tmp_path / "plate"
    folder.mkdir()
    pixels = (blobs.image * 200).astype(np.uint8)
    half = pixels.copy()
    half[80:] = 0
    for name, data in (("A01_s1", pixels), ("A01_s2", pixels), ("B02_s1", half)):
        tifffile.imwrite(folder / f"{name}.tif", data)
    (folder / "C01_s1.png").write_bytes(b"")
    return folder


@pytest.fixture
def panel(viewer: ViewerModel, qtbot: QtBot, shelved: Any, plate: Path, tmp_path: Path) -> FolderWidget:
    widget = FolderWidget(viewer)
    qtbot.addWidget(widget)
    widget.view.folders.setText(str(plate))
    widget.view.plate_names.setText("{well}_s{site}")
    widget.view.output.setText(str(tmp_path / "out"))
    return widget


@pytest.fixture
def run(qtbot: QtBot) -> Callable[[FolderWidget], None]:
    """Function (panel) that presses the button and returns when the run has ended."""

    def press(panel: FolderWidget) -> None:
        with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
            panel.view.start.click()

    return press


def test_names_that_are_wells_propose_their_pattern(panel: FolderWidget, plate: Path) -> None:
    (plate / "notes.txt").touch()  # which is no image
    panel.view.plate_names.setText("")
    panel.view.folders.editingFinished.emit()
    assert panel.view.plate_names.text() == "{well}_s{site}"
    panel.view.plate_names.setText("{plate}")
    panel.view.folders.editingFinished.emit()
    assert panel.view.plate_names.text() == "{plate}"  # what a user wrote stays


def test_names_of_one_channel_propose_their_wells(panel: FolderWidget, plate: Path) -> None:
    for one in list(plate.glob("*.tif")):
        one.with_name(f"{one.stem}_w2.tif").write_bytes(one.read_bytes())
        one.rename(one.with_name(f"{one.stem}_w1.tif"))
    panel.view.plate_names.setText("")
    panel.view.folders.editingFinished.emit()
    assert panel.view.plate_names.text() == ""  # both channels of a well would count in it
    assert not panel.view.channels.isHidden()
    assert "several channels (_w1, _w2)" in panel.view.channels.text()
    panel.view.pattern.setText("*_w1*")  # as proposed there
    panel.view.pattern.editingFinished.emit()
    assert panel.view.plate_names.text() == "{well}_s{site}"
    assert panel.view.channels.isHidden()


def test_a_folder_for_the_results_is_proposed(panel: FolderWidget, plate: Path, tmp_path: Path) -> None:
    panel.view.folders.editingFinished.emit()
    assert panel.view.output.text() == str(tmp_path / "out")  # what a user wrote stays
    panel.view.output.setText("")
    panel.view.folders.editingFinished.emit()
    assert panel.view.output.text() == str(tmp_path / "plate results")
    panel.request()  # can be counted


def names(panel: FolderWidget) -> list[str]:
    return [one.image.name for one in panel.model.shown]


def texts(panel: FolderWidget) -> list[str]:
    rows = panel.view.gallery.outcomes
    return [rows.data(rows.index(row, 0)) for row in range(rows.rowCount())]


def test_a_folder_is_counted_and_what_fails_is_listed(
    panel: FolderWidget, run: Callable[[FolderWidget], None], tmp_path: Path, blobs: Any
) -> None:
    run(panel)
    assert {one.image.name: one.row["count"] for one in panel.model.done}["A01_s1"] == len(blobs)
    assert "3 images" in panel.view.totals.text()
    assert "1 failed" in panel.view.totals.text()
    titles = [one.text() for one in panel.view.page_bar.buttons if not one.isHidden()]
    assert titles == ["Images", "Plate", "Failed (1)"]
    panel.view.page_bar.buttons[2].click()
    assert panel.view.tabs.currentWidget() is panel.view.failed
    assert panel.view.failed.item(0).text().startswith("C01_s1\nExpected an image")
    assert "1 of the images failed" in panel.view.message.text()
    assert panel.view.message.property("info") == "false"
    assert (tmp_path / "out" / "summary.csv").exists()
    assert panel.view.start.text() == "Count images"
    assert len(texts(panel)) == 3
    assert f"{len(blobs)} cells" in texts(panel)[0]


def test_frames_that_a_count_sums_are_told(
    panel: FolderWidget, run: Callable[[FolderWidget], None], plate: Path, blobs: Any
) -> None:
    movie = np.stack([(blobs.image * 200).astype(np.uint8)] * 3)
    tifffile.imwrite(plate / "A01_s2.tif", movie, imagej=True, metadata={"axes": "TYX"})
    run(panel)
    told = dict(zip(names(panel), texts(panel), strict=True))
    assert f"\n{3 * len(blobs)} cells in 3 frames" in told["A01_s2"]
    assert "frames" not in told["A01_s1"]
    report = (panel.model.output / "report.html").read_text(encoding="utf-8")
    assert f"A01_s2: {3 * len(blobs)} cells in 3 frames" in report


def test_a_panel_that_is_closed_stops(panel: FolderWidget, qtbot: QtBot, shelved: Any) -> None:
    find, is_closed = shelved.postprocess, Event()

    def find_slowly(maps: Any, settings: Any) -> Any:
        assert is_closed.wait(LIMIT_MS / 1000)
        return find(maps, settings)

    shelved.postprocess = find_slowly
    dock = QWidget()
    qtbot.addWidget(dock)
    panel.setParent(dock)
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.start.click()
        panel.setParent(None)  # as napari does
        is_closed.set()
    assert len(panel.model.done) < 3
    assert panel.view.message.text().startswith("Stopped.")


def test_it_goes_on_where_it_stopped(
    panel: FolderWidget, run: Callable[[FolderWidget], None], shelved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_stopped, find = Event(), shelved.postprocess
    monkeypatch.setattr(folder_widget, "REDRAW_S", 0.0)

    def find_slowly(maps: Any, settings: Any) -> Any:
        if panel.model.done or panel.model.arrived:  # the first image is done
            assert is_stopped.wait(LIMIT_MS / 1000)
        return find(maps, settings)

    def stop() -> None:
        if panel.model.done and not is_stopped.is_set():
            panel.view.start.click()
            assert panel.view.start.text() == "Stopping…"
            is_stopped.set()

    shelved.postprocess = find_slowly
    panel.model.changed.connect(stop)
    run(panel)
    assert panel.view.message.text() == "Stopped. Count images continues where it stopped."
    assert panel.view.message.property("info") == "true"
    n = len(panel.model.done)
    assert 1 <= n < 3
    run(panel)
    assert sum(one.was_done for one in panel.model.done) == n
    assert len(panel.model.done) == 3


def test_images_are_sorted_by_fit_count_and_name(panel: FolderWidget) -> None:
    facts = {"a": (0.9, 1), "b": (0.2, 9), "c": (None, 7)}
    outcomes = []
    for name, (fit, count) in facts.items():
        row = {"count": count, "expectation": NOT_KNOWN} if fit is None else {"count": count, "fit": fit}
        outcomes.append(ImageOutcome(ListedImage(Path(name), name), row))
    panel.model.start(Path(), outcomes)
    assert names(panel) == ["b", "a", "c"]  # where no fit is known, last
    wanted = {"most": "bca", "fewest": "acb", "name": "abc"}
    for order, letters in wanted.items():
        panel.view.order.setCurrentIndex(panel.view.order.findData(order))
        panel.view.order.activated.emit(0)
        assert "".join(names(panel)) == letters
    assert texts(panel)[0].startswith("a\n1 cell\n")
    assert texts(panel)[1] == "b\n9 cells\ndo not trust"
    assert texts(panel)[2] == "c\n7 cells\nfit not known"


def test_a_click_on_a_well_shows_its_images(
    panel: FolderWidget, run: Callable[[FolderWidget], None], qtbot: QtBot, blobs: Any
) -> None:
    run(panel)
    view = panel.view
    assert view.tabs.isTabVisible(1)
    view.tabs.setCurrentIndex(1)
    view.plate.resize(300, 220)
    side = view.plate.side
    assert view.plate.text_of((0, 0)) == f"A01: {len(blobs)} (mean of 2 images)"
    assert view.plate.text_of((1, 0)) == "B01: no image counted"
    assert view.plate.legend == "mean of its images"
    place = QPoint(round(20 + 1.5 * side), round(20 + 1.5 * side))
    qtbot.mouseClick(view.plate, Qt.MouseButton.LeftButton, pos=place)
    assert names(panel) == ["B02_s1"]
    assert view.whole_plate.text() == "Well B02 ✕"
    assert view.tabs.currentIndex() == 0
    view.plate.event(QHelpEvent(QEvent.Type.ToolTip, place, QPoint(5, 5)))
    assert QToolTip.text().startswith("B02: ")
    assert view.plate.well_at(2, 2) is None
    picture = view.plate.grab().toImage()  # drawn: the chosen well has a frame of its colour
    assert picture.pixelColor(round(20 + side), round(20 + 1.5 * side)).red() > 200
    view.whole_plate.click()
    assert len(names(panel)) == 3


def test_the_keys_choose_a_well(
    panel: FolderWidget, run: Callable[[FolderWidget], None], qtbot: QtBot
) -> None:
    run(panel)
    view = panel.view
    view.tabs.setCurrentIndex(1)
    qtbot.keyClick(view.plate, Qt.Key.Key_Return)
    assert view.tabs.currentIndex() == 1, "no well is marked yet"
    told = []
    for key in (Qt.Key.Key_Down, Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Right, Qt.Key.Key_Right):
        qtbot.keyClick(view.plate, key)
        told.append(view.plate.accessibleDescription().partition(":")[0])
    assert told[:4] == ["A01", "A01", "B01", "B02"]
    assert len(names(panel)) == 3, "a well is chosen by Enter alone"
    while told[-1] != "B02":  # a plate may be wider than its images
        qtbot.keyClick(view.plate, Qt.Key.Key_Left)
        told.append(view.plate.accessibleDescription().partition(":")[0])
    qtbot.keyClick(view.plate, Qt.Key.Key_Return)
    assert names(panel) == ["B02_s1"]
    assert view.whole_plate.text() == "Well B02 ✕"


def test_the_heat_map_shows_any_column(panel: FolderWidget, run: Callable[[FolderWidget], None]) -> None:
    run(panel)
    view = panel.view
    view.tabs.setCurrentIndex(1)
    columns = [view.column.itemData(place) for place in range(view.column.count())]
    assert columns[0] == "count"
    assert "seconds" not in columns
    assert "model" not in columns
    view.column.setCurrentIndex(columns.index("median_diameter_px"))
    view.column.activated.emit(0)
    assert panel.model.plate_map.values[0, 0] == pytest.approx(14, abs=1.5)


def test_several_plates_are_shown_one_by_one() -> None:
    model = FolderModel()
    pairs = (("P1", 3), ("P2", 8))
    model.start(
        Path(),
        [
            ImageOutcome(ListedImage(Path(name), name, {"plate": name, "well": "A1"}), {"count": n})
            for name, n in pairs
        ],
    )
    assert model.plates == ["P1", "P2"]
    assert model.plate_map.values[0, 0] == 3
    model.show(plate="P2", well="A01")
    assert model.plate_map.values[0, 0] == 8
    assert [one.image.name for one in model.shown] == ["P2"]


def test_an_image_opens_with_its_cells(
    panel: FolderWidget,
    run: Callable[[FolderWidget], None],
    viewer: ViewerModel,
    qtbot: QtBot,
    blobs: Any,
) -> None:
    run(panel)
    gallery = panel.view.gallery
    gallery.activated.emit(gallery.outcomes.index(0, 0))
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=LIMIT_MS)
    first = names(panel)[0]
    assert [layer.name for layer in viewer.layers] == [first, f"{first} labels"]
    labels = next(layer for layer in viewer.layers if isinstance(layer, Labels))
    kept = tifffile.imread(panel.model.output / f"{first}.labels.tif")
    np.testing.assert_array_equal(labels.data, kept)
    panel.open(panel.model.shown[1])
    second = names(panel)[1]
    qtbot.waitUntil(lambda: viewer.layers[0].name == second, timeout=LIMIT_MS)
    assert len(viewer.layers) == 2
    sent = []
    news_of(panel.viewer).sent.connect(lambda title, what: sent.append((title, what.image, what.cells)))
    panel.view.correct.click()
    assert sent == [("Annotate cells", *viewer.layers)]
    viewer.layers[1].data[:5, :5] = 70  # corrected: it stays
    panel.open(panel.model.shown[2])
    qtbot.waitUntil(lambda: len(viewer.layers) == 4, timeout=LIMIT_MS)
    assert f"corrected in {second!r} stays in the viewer" in panel.view.message.text()


@pytest.fixture
def opened(
    panel: FolderWidget, run: Callable[[FolderWidget], None], viewer: ViewerModel, qtbot: QtBot
) -> Labels:
    """The labels of A01_s1, opened from the gallery."""
    run(panel)
    panel.model.show(order="name")
    return open_image(panel, viewer, qtbot, 0)


def open_image(panel: FolderWidget, viewer: ViewerModel, qtbot: QtBot, row: int) -> Labels:
    name = names(panel)[row]
    panel.open(panel.model.shown[row])
    qtbot.waitUntil(lambda: f"{name} labels" in viewer.layers, timeout=LIMIT_MS)
    return viewer.layers[f"{name} labels"]


def save(panel: FolderWidget, qtbot: QtBot) -> None:
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.save.click()


def test_corrections_are_saved_into_the_folder(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, qtbot: QtBot, blobs: Any
) -> None:
    summary = panel.model.output / "summary.csv"
    panel.view.save.click()
    assert panel.view.message.text() == "Nothing has been corrected since it was opened or saved."
    opened.data = np.where(opened.data == 3, 0, opened.data)
    second = open_image(panel, viewer, qtbot, 1)
    second.data_setitem((np.array([0, 0]), np.array([0, 1])), 90)
    save(panel, qtbot)  # both at once
    assert panel.view.message.text() == "Saved A01_s1, A01_s2; summary and report are made anew."
    found = pandas.read_csv(summary).set_index("image")
    assert found["count"].tolist()[:2] == [len(blobs) - 1, len(blobs) + 1]
    assert found["corrected"].tolist()[:2] == [1, 1]
    assert f"{len(blobs) - 1} cells\n1 corrected" in texts(panel)[0]
    assert "summary" not in [path.name for path in panel.model.output.glob("*.edited*")]
    panel.model.show(column="corrected")
    assert panel.model.plate_map.values[0, 0] == 1
    open_image(panel, viewer, qtbot, 2)  # what is saved makes way
    assert [layer.name for layer in viewer.layers] == ["B02_s1", "B02_s1 labels"]
    panel.view.save.click()
    assert panel.view.message.text() == "Nothing has been corrected since it was opened or saved."
    np.testing.assert_array_equal(open_image(panel, viewer, qtbot, 1).data > 0, second.data > 0)


def test_an_image_that_is_opened_again_shows_what_was_corrected_and_not_saved(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, qtbot: QtBot, blobs: Any
) -> None:
    image, cells = viewer.layers
    cells.data = np.where(cells.data == 3, 0, cells.data)
    second = open_image(panel, viewer, qtbot, 1)
    assert len(viewer.layers) == 4
    panel.open(panel.model.shown[0])
    assert [layer for layer in viewer.layers if layer.visible] == [image, cells]
    assert second in viewer.layers
    assert panel.view.message.text().startswith("What you corrected in 'A01_s1' stays in the viewer")
    sent = []
    news_of(panel.viewer).sent.connect(lambda _, what: sent.append((what.image, what.cells)))
    panel.view.correct.click()
    assert sent == [(image, cells)]
    save(panel, qtbot)
    assert panel.view.message.text() == "Saved A01_s1; summary and report are made anew."
    assert "A01_s1," in (summary := (panel.model.output / "summary.csv").read_text())
    assert f",{len(blobs) - 1},1," in summary  # whole numbers, though other rows have none
    panel.open(panel.model.shown[0])  # read again
    qtbot.waitUntil(lambda: image not in viewer.layers, timeout=LIMIT_MS)
    assert (len(viewer.layers), second in viewer.layers) == (2, False)


def test_what_the_annotate_panel_corrects_is_saved(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, annotate_widget: Any, qtbot: QtBot, blobs: Any
) -> None:
    panel.view.correct.click()
    session = annotate_widget.model.session
    assert panel.corrections.unsaved_images() == []  # nothing is corrected yet
    session.delete(5)
    assert panel.corrections.unsaved_images() == ["A01_s1"]
    save(panel, qtbot)
    assert pandas.read_csv(panel.model.output / "summary.csv")["count"][0] == len(blobs) - 1
    session.undo()
    save(panel, qtbot)
    row = pandas.read_csv(panel.model.output / "summary.csv").loc[0]
    assert (row["count"], row["corrected"]) == (len(blobs), 0)


def test_the_annotate_panel_saves_into_the_folder(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, annotate_widget: Any, qtbot: QtBot, blobs: Any
) -> None:
    button = annotate_widget.panel.to_folder
    panel.view.correct.click()
    assert not button.isHidden()
    annotate_widget.model.session.delete(5)
    dock = QWidget()
    qtbot.addWidget(dock)
    panel.setParent(dock)
    panel.setParent(None)  # as napari does where it is closed; another goes on with what it has opened
    again = FolderWidget(viewer)
    qtbot.addWidget(again)
    with qtbot.waitSignal(again.finished, timeout=LIMIT_MS):
        button.click()
    assert "Saved A01_s1; summary and report are made anew." in again.view.message.text()
    assert pandas.read_csv(panel.model.output / "summary.csv")["count"][0] == len(blobs) - 1
    assert annotate_widget.model.session is not None
    annotate_widget.panel.begin.click()
    assert not button.isHidden(), "it can be saved after the end, too"
    viewer.add_image(blobs.image, name="of no folder")
    assert button.isHidden()


def test_classes_set_in_the_viewer_are_saved(panel: FolderWidget, opened: Labels, qtbot: QtBot) -> None:
    features = opened.features.copy()
    features["class"] = ["", *["round"] * 4, *["long"] * (len(features) - 5)]
    opened.features = features
    opened.data = np.where(opened.data == 1, 0, opened.data)
    save(panel, qtbot)
    row = pandas.read_csv(panel.model.output / "summary.csv").loc[0]
    assert (row["count_round"], row["count_long"]) == (3, row["count"] - 3)


def test_an_image_that_has_gone_is_told(
    panel: FolderWidget, opened: Labels, plate: Path, qtbot: QtBot
) -> None:
    before = (panel.model.output / "A01_s1.labels.tif").read_bytes()
    opened.data = np.where(opened.data == 3, 0, opened.data)
    (plate / "A01_s1.tif").unlink()
    save(panel, qtbot)
    assert "there is none. Put it back." in panel.view.message.text()
    assert (panel.model.output / "A01_s1.labels.tif").read_bytes() == before
    assert list(panel.corrections.unsaved().values()) == [opened]


def test_an_image_that_cannot_be_saved_holds_up_no_other(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, plate: Path, qtbot: QtBot
) -> None:
    opened.data = np.where(opened.data == 3, 0, opened.data)
    second = open_image(panel, viewer, qtbot, 1)
    second.data = np.where(second.data == 3, 0, second.data)
    (plate / "A01_s1.tif").unlink()
    save(panel, qtbot)
    told = panel.view.message.text()
    assert told.startswith("Saved A01_s2;")
    assert "there is none. Put it back." in told
    assert pandas.read_csv(panel.model.output / "summary.csv")["corrected"].dropna().tolist() == [1]
    assert list(panel.corrections.unsaved().values()) == [opened]


def test_what_another_window_has_corrected_is_not_written_over(
    panel: FolderWidget, opened: Labels, qtbot: QtBot, blobs: Any
) -> None:
    output, machine = panel.model.output, np.array(opened.data)
    opened.data = np.where(machine == 3, 0, machine)
    save(panel, qtbot)
    opened.data = np.where(machine == 4, 0, machine)
    save(panel, qtbot)  # its own it may
    assert panel.view.message.text().startswith("Saved A01_s1;")
    theirs = np.where(np.isin(machine, (5, 6)), 0, machine)
    drain(save_corrected(output, "A01_s1", theirs))
    opened.data = np.where(machine == 7, 0, machine)
    save(panel, qtbot)
    assert "corrected elsewhere since it was opened here" in panel.view.message.text()
    assert pandas.read_csv(output / "summary.csv")["count"][0] == len(blobs) - 2
    np.testing.assert_array_equal(tifffile.imread(output / "A01_s1.labels.tif") > 0, theirs > 0)
    opened.data = theirs
    save(panel, qtbot)  # the same cells
    assert panel.view.message.text().startswith("Saved A01_s1;")


def proofread_first(annotate_widget: Any, folder: Path, qtbot: QtBot) -> None:
    """Delete a cell of the first image of a folder, and leave it once that is written."""
    reader = annotate_widget.proofreader
    with qtbot.waitSignal(reader.opened, timeout=LIMIT_MS):
        reader.open(folder)
    annotate_widget.model.session.delete(2)
    reader.leave()
    qtbot.waitUntil(lambda: not reader.keeper.is_busy, timeout=LIMIT_MS)


def test_what_was_proofread_is_taken_over(
    panel: FolderWidget,
    opened: Labels,
    run: Callable[[FolderWidget], None],
    annotate_widget: Any,
    qtbot: QtBot,
    plate: Path,
    blobs: Any,
) -> None:
    assert panel.view.take_proofread.isHidden()
    (plate / "C01_s1.png").unlink()
    proofread_first(annotate_widget, plate, qtbot)
    run(panel)  # the labels are no images
    assert names(panel) == ["A01_s1", "A01_s2", "B02_s1"]
    assert panel.view.take_proofread.text() == "Apply earlier corrections (1 image)"
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.take_proofread.click()
    row = pandas.read_csv(panel.model.output / "summary.csv").loc[0]
    assert (row["image"], row["count"], row["corrected"]) == ("A01_s1", len(blobs) - 1, 1)
    assert panel.view.take_proofread.isHidden()


def test_what_was_proofread_before_it_was_counted_is_offered_too(
    panel: FolderWidget,
    run: Callable[[FolderWidget], None],
    annotate_widget: Any,
    qtbot: QtBot,
    plate: Path,
    blobs: Any,
) -> None:
    proofread_first(annotate_widget, plate, qtbot)
    for _ in range(2):  # the second has nothing to do
        run(panel)
        assert panel.view.take_proofread.text() == "Apply earlier corrections (1 image)"
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.take_proofread.click()
    row = pandas.read_csv(panel.model.output / "summary.csv").loc[0]
    assert (row["image"], row["count"], row["corrected"]) == ("A01_s1", len(blobs) - 1, 1)
    for _ in range(2):
        assert panel.view.take_proofread.isHidden()
        run(panel)


def test_corrected_images_that_are_counted_anew_say_so_and_can_be_put_back(
    panel: FolderWidget, opened: Labels, run: Callable[[FolderWidget], None], qtbot: QtBot, blobs: Any
) -> None:
    opened.data = np.where(opened.data == 3, 0, opened.data)
    save(panel, qtbot)
    panel.view.settings.set_values({"min_area_px": 1})
    for _ in range(2):  # the second has nothing to do, and tells it, too
        run(panel)
        assert "not those corrected by hand: A01_s1." in panel.view.message.text()
        assert f"{len(blobs)} cells\ncorrected ones beside" in texts(panel)[0]
        row = pandas.read_csv(panel.model.output / "summary.csv").loc[0]
        assert (row["count"], row["corrected_beside"]) == (len(blobs), "A01_s1.labels.edited1.tif")
        assert panel.view.take_proofread.text() == "Apply earlier corrections (1 image)"
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.take_proofread.click()
    summary = pandas.read_csv(panel.model.output / "summary.csv")
    assert (summary["count"][0], summary["corrected"][0]) == (len(blobs) - 1, 1)
    assert "corrected_beside" not in summary
    assert panel.view.take_proofread.isHidden()
    assert f"{len(blobs) - 1} cells\n1 corrected" in texts(panel)[0]


@pytest.mark.parametrize("has_labels", [True, False])
def test_classes_and_points_that_made_way_are_put_back(
    panel: FolderWidget,
    run: Callable[[FolderWidget], None],
    viewer: ViewerModel,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
    *,
    has_labels: bool,
) -> None:
    """Classes set by hand are in the table, not in the labels; of points the table is all there is."""
    if not has_labels:

        def as_points(*args: Any, **choices: Any) -> Any:
            counted = yield from counted_task(*args, **choices)
            cells = replace(counted.result.cells, labels=None)
            return counted._replace(result=replace(counted.result, cells=cells))

        monkeypatch.setattr(image_count, "counted_task", as_points)
    run(panel)
    panel.model.show(order="name")
    panel.open(panel.model.shown[0])
    what = "labels" if has_labels else "points"
    qtbot.waitUntil(lambda: f"A01_s1 {what}" in viewer.layers, timeout=LIMIT_MS)
    cells = viewer.layers[f"A01_s1 {what}"]
    write_classes(cells, {3: "odd", 5: "even"})
    mark_edited(cells)
    if has_labels:
        cells.data = np.where(cells.data == 2, 0, cells.data)
    else:
        cells.selected_data = {2}
        cells.remove_selected()
    save(panel, qtbot)
    before = pandas.read_csv(panel.model.output / "A01_s1.cells.csv")
    assert sorted(before["class"].dropna()) == ["even", "odd"]
    panel.view.settings.set_values({"min_area_px": 1})
    run(panel)
    assert not panel.view.take_proofread.isHidden()
    with qtbot.waitSignal(panel.finished, timeout=LIMIT_MS):
        panel.view.take_proofread.click()
    after = pandas.read_csv(panel.model.output / "A01_s1.cells.csv")
    pandas.testing.assert_frame_equal(after[["y", "x", "class"]], before[["y", "x", "class"]])


def test_a_panel_that_opens_again_knows_what_was_saved(
    panel: FolderWidget, opened: Labels, viewer: ViewerModel, qtbot: QtBot
) -> None:
    """It saves nothing twice, and takes the layers of what was saved away."""
    opened.data = np.where(opened.data == 3, 0, opened.data)
    save(panel, qtbot)
    panel.deleteLater()
    again = FolderWidget(viewer)
    qtbot.addWidget(again)
    assert again.corrections.unsaved() == {}
    again.view.save.click()
    assert "Nothing has been corrected" in again.view.message.text()
    opened.data = np.where(opened.data == 4, 0, opened.data)
    assert list(again.corrections.unsaved().values()) == [opened]


def test_what_was_counted_block_by_block_is_not_corrected(
    panel: FolderWidget,
    run: Callable[[FolderWidget], None],
    viewer: ViewerModel,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cellwright.inference.image_count.LARGE_PIXELS", 1000)
    run(panel)
    panel.open(panel.model.shown[0])
    qtbot.waitUntil(lambda: len(viewer.layers) == 2, timeout=LIMIT_MS)
    assert panel.view.save.isHidden()
    assert "cannot be saved into the folder" in panel.view.message.text()


def test_points_and_densities_open_too(tmp_path: Path, blobs: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, (blobs.image * 200).astype(np.uint8))
    facts = Provenance("1", "m", "", {}, "a", blobs.image.shape, "YX", (), "cpu", 0.1)
    outcome = ImageOutcome(ListedImage(path, "a"), {"count": 2})
    points = np.array([[5, 6], [20, 30]], np.float32)
    ones = np.ones(2, np.float32)
    result = Result(2.0, Cells(points, np.stack([points - 2, points + 2], axis=1), ones, ones), facts)
    write_table(tmp_path / "a.cells.csv", result)
    write_provenance(tmp_path / "a.json", result)
    opened = drain(open_counted(outcome, tmp_path))
    np.testing.assert_allclose(opened.cells["Points"].data, points)
    density = np.full(blobs.image.shape, 0.5, np.float32)
    write_map(tmp_path / "a.density.tif", density, Image(blobs.image, "YX", name="a"))
    opened = drain(open_counted(outcome, tmp_path))
    np.testing.assert_array_equal(opened.cells["Image"].data, density)


def test_an_image_of_a_density_is_shown(
    panel: FolderWidget, viewer: ViewerModel, qtbot: QtBot, plate: Path, tmp_path: Path, blobs: Any
) -> None:
    outcome = ImageOutcome(ListedImage(plate / "A01_s1.tif", "A01_s1"), {"count": 2.5})
    density = np.full(blobs.image.shape, 0.5, np.float32)
    facts = Provenance("1", "m", "", {}, "A01_s1", density.shape, "YX", (), "cpu", 0.1)
    write_map(tmp_path / "out/A01_s1.density.tif", density, Image(blobs.image, "YX", name="A01_s1"))
    write_provenance(tmp_path / "out/A01_s1.json", Result(2.5, Cells.empty(2), facts))
    panel.model.start(tmp_path / "out", [outcome])
    panel.open(outcome)
    qtbot.waitUntil(lambda: "A01_s1 density" in viewer.layers, timeout=LIMIT_MS)
    assert not panel.view.correct.isVisible()


def test_earlier_results_are_shown_when_their_folder_is_chosen(
    panel: FolderWidget,
    run: Callable[[FolderWidget], None],
    qtbot: QtBot,
    viewer: ViewerModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(panel)
    later = FolderWidget(viewer)
    qtbot.addWidget(later)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(panel.model.output))
    later.view.choose_output.click()
    qtbot.waitUntil(lambda: len(later.model.done) == 3, timeout=LIMIT_MS)
    assert [one.image.name for one in later.model.failed] == ["C01_s1"]
    picture = thumbnail_of(panel.model.output, names(later)[0])
    assert picture.exists()
    icon = later.view.gallery.outcomes.data(later.view.gallery.outcomes.index(0, 0), Qt.DecorationRole)
    assert not icon.isNull()
    assert "well: A01" in help_of(later.model.shown[0]) or "well: B02" in help_of(later.model.shown[0])
    later.view.choose_folder.click()
    later.view.add_folder.click()
    assert later.view.paths == (panel.model.output, panel.model.output)


@pytest.mark.parametrize(
    ("folders", "output", "words"),
    [
        ("", "out", "Choose the folder"),
        ("plate", "", "Choose a folder for the results"),
        ("absent", "out", "there is none"),
        ("absent", "", "there is none"),
        ("long" * 80, "out", "there is none"),
        ("plate", "long" * 80, "Choose a folder that you may write to"),
        ("plate", "a file/results", "Choose a folder that you may write to"),
        ("plate", "plate/results", "must not go into"),
    ],
)
def test_what_cannot_be_counted_is_told_at_once(
    panel: FolderWidget, tmp_path: Path, qtbot: QtBot, folders: str, output: str, words: str
) -> None:
    (tmp_path / "a file").touch()
    panel.view.folders.setText(str(tmp_path / folders) if folders else "")
    panel.view.output.setText(str(tmp_path / output) if output else "")
    panel.view.propose()
    if not output:
        panel.view.output.clear()
    panel.view.start.click()
    qtbot.waitUntil(lambda: not panel.jobs.is_busy, timeout=LIMIT_MS)
    assert words in panel.view.message.text()
    assert panel.view.message.property("error") == "true"


def test_settings_of_the_last_count_are_taken_over(
    panel: FolderWidget,
    widget: CountWidget,
    viewer: ViewerModel,
    qtbot: QtBot,
    blobs: Any,
    settled: Callable[[CountWidget], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    (tmp_path / "flow").mkdir()  # a folder that is called like the model is not the model
    monkeypatch.chdir(tmp_path)
    widget.panel.thresholds.set_values({"min_score": 0.35})
    widget.panel.diameter.setValue(14)
    with qtbot.waitSignal(widget.finished, timeout=LIMIT_MS):
        widget.panel.count.click()
    settled(widget)
    recipe = panel.recipe
    assert recipe.settings.min_score == pytest.approx(0.35)
    assert recipe.engine.diameter_px == 14
    assert recipe.models == ("flow",)
    assert panel.view.message.text() == ""
    assert panel.view.taken_over.text() == "Settings of the last count; change them under More."
    engine = replace(recipe.engine, channels=("0", "1"))
    panel.take_over(replace(recipe, engine=engine))
    assert "last count, channel 0,1; change" in panel.view.taken_over.text()
    panel.take_over(replace(recipe, models=("flow", "other")))
    assert panel.recipe.models == ("flow", "other")
    assert "together with other" in panel.view.taken_over.text()
    panel.take_over(recipe)
    opened_later = FolderWidget(viewer)
    qtbot.addWidget(opened_later)
    assert opened_later.recipe == recipe


def test_what_stays_of_the_last_count_with_another_model_is_told(panel: FolderWidget) -> None:
    recipe, told = panel.recipe, panel.view.taken_over
    for engine in (replace(recipe.engine, channel=0), replace(recipe.engine, diameter_px=14.0)):
        panel.take_over(replace(recipe, engine=engine))
        panel.view.model.chosen.emit()
        assert panel.recipe.engine == engine
        assert not told.isHidden()
        assert told.text().startswith("Thresholds of the model, other settings of the last count")
        assert ("channel 0" in told.text()) == (engine.channel == 0)
    panel.take_over(recipe)
    panel.view.model.chosen.emit()
    assert told.isHidden()


def test_a_channel_that_is_changed_is_no_longer_told(panel: FolderWidget) -> None:
    panel.take_over(replace(panel.recipe, engine=replace(panel.recipe.engine, channel=0)))
    panel.view.channel.clear()
    panel.view.channel.editingFinished.emit()
    assert "channel" not in panel.view.taken_over.text()


def test_drawn_cells_have_no_settings(
    panel: FolderWidget, viewer: ViewerModel, result_of: Any, blobs: Any
) -> None:
    before = panel.recipe
    layer = viewer.add_image(blobs.image, name="blobs")
    tell_results(viewer, result_of(source_of(layer).image, blobs.labels), None)
    assert panel.recipe == before


def test_a_channel_can_be_chosen(panel: FolderWidget) -> None:
    assert panel.recipe.engine.channel is None
    panel.view.channel.setText("2")
    assert panel.recipe.engine.channel == 2
    panel.view.channel.setText("DAPI, GFP")
    engine = panel.recipe.engine
    assert (engine.channel, engine.channels) == (None, ("DAPI, GFP",))
    panel.view.channel.setText("")
    panel.view.show_engine(engine)
    assert panel.recipe.engine == engine


def test_two_runs_do_not_share_a_folder(
    panel: FolderWidget, run: Callable[[FolderWidget], None], tmp_path: Path
) -> None:
    with only_run(tmp_path / "out"):
        run(panel)
    assert "Another program is counting" in panel.view.message.text()


def style_metric(metric: QStyle.PixelMetric) -> int:
    style = QApplication.style()
    assert style is not None
    return style.pixelMetric(metric)


def test_pictures_stand_in_two_columns_in_the_narrowest_panel(qtbot: QtBot, tmp_path: Path) -> None:
    """In usual letters; they share the width, and their texts keep to it."""
    view = FolderView()
    area = PanelScrollArea(view)
    qtbot.addWidget(area)
    area.setStyleSheet(get_stylesheet("dark", extra_variables={"font_size": "9pt"}))
    area.resize(area.minimumSizeHint().width(), 735)
    view.make_room()
    row = {"count": 1_234, "fit": 0.9}
    names = ("A01_s1", "2024-03-17_HeLa_H2B-mCherry_position0002", "C", "D", "E", "F")
    view.gallery.show_outcomes([ImageOutcome(ListedImage(Path(one), one), row) for one in names], tmp_path)
    with qtbot.waitExposed(area):
        area.show()
    qtbot.wait(20)
    places = [view.gallery.visualRect(view.gallery.outcomes.index(place, 0)) for place in range(6)]
    assert [one.y() == places[0].y() for one in places] == [True, True, False, False, False, False]
    assert view.gallery.viewport().width() - places[1].right() < SCROLL_BAR_PX
    assert all(one.right() < view.gallery.viewport().width() for one in places)
    assert view.gallery.horizontalScrollBar().maximum() == 0
    lines = view.gallery.fontMetrics().lineSpacing()
    around = 2 * (style_metric(QStyle.PixelMetric.PM_FocusFrameVMargin) + 1)
    assert {one.height() - PICTURE_PX >= 4 * lines + around for one in places} == {True}  # a name takes two


def test_pictures_leave_room_for_their_text_at_any_font(qtbot: QtBot) -> None:
    gallery = Gallery()
    qtbot.addWidget(gallery)
    for size in (9, 16, 24):
        gallery.setFont(QFont(gallery.font().family(), size))
        room = gallery.gridSize().height() - gallery.iconSize().height()
        assert room >= 4 * gallery.fontMetrics().lineSpacing()
