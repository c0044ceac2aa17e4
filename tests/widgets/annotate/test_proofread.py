"""Proofreading a folder: each image's state is kept, counts follow the edits."""

import csv
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from PIL import Image as Picture
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image
from cellwright.core.errors import WriteError
from cellwright.files.folders.image_list import COUNTS, PROOFREAD
from cellwright.files.images import read_image, write_labels
from cellwright.widgets.annotate import proofread
from cellwright.widgets.annotate.session_setup import start_session
from cellwright.widgets.annotate.widget import AnnotateWidget

LIMIT_MS = 60_000


@pytest.fixture
def folder(tmp_path: Path, draw_blobs: Callable[..., Any]) -> Path:
    """Three images; the first has labels beside it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("a", "b", "c"):
        blobs = draw_blobs((60, 80))
        Picture.fromarray((blobs.image * 255).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
        if name == "a":
            write_labels(tmp_path / "masks" / "a.tif", blobs.labels, Image(blobs.image, "YX"))
    return tmp_path


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, shelved: Any) -> AnnotateWidget:
    widget = AnnotateWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def go(widget: AnnotateWidget, qtbot: QtBot, act: Callable[[], None]) -> None:
    with qtbot.waitSignal(widget.proofreader.opened, timeout=LIMIT_MS):
        act()
    qtbot.waitUntil(lambda: widget.proofreader.job is None, timeout=LIMIT_MS)


def kept(widget: AnnotateWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not widget.proofreader.keeper.is_busy, timeout=LIMIT_MS)


def test_each_image_is_found_as_it_was_left(widget: AnnotateWidget, qtbot: QtBot, folder: Path) -> None:
    reader = widget.proofreader
    go(widget, qtbot, lambda: reader.open(folder))
    assert widget.model.session is not None
    n_found = len(widget.model.session.store)
    widget.model.session.delete(1)
    widget.model.session.set_reviewed(2)
    edited = widget.model.session.labels.copy()
    go(widget, qtbot, lambda: widget.panel.batch.next_image.click())
    assert widget.model.session is not None
    assert widget.model.session.image.name == "b"
    assert len(widget.model.session.store) > 0  # the model was asked
    assert [layer.name for layer in widget.viewer.layers] == ["b", "b annotation"]
    kept(widget, qtbot)
    saved = read_image(folder / PROOFREAD / "a.tif").data
    np.testing.assert_array_equal(saved, edited)
    go(widget, qtbot, lambda: widget.panel.batch.previous_image.click())
    assert widget.model.session is not None
    np.testing.assert_array_equal(widget.model.session.labels, edited)
    assert len(widget.model.session.history.done) == 2
    with (folder / PROOFREAD / COUNTS).open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert (rows["a"]["found"], rows["a"]["cells"]) == (str(n_found), str(n_found - 1))
    assert rows["a"]["reviewed"] == "1"
    assert "c" not in rows
    reader.leave()
    assert not len(widget.viewer.layers)


def test_the_list_follows_the_edits_and_begins_where_work_is_left(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path
) -> None:
    reader, files = widget.proofreader, widget.panel.batch.files
    go(widget, qtbot, lambda: reader.open(folder))
    assert widget.model.session is not None
    n_found = len(widget.model.session.store)
    for number in widget.model.session.store.numbers().tolist():
        widget.model.session.set_reviewed(number)
    wanted = f"a\n{n_found} cells · {n_found} reviewed"
    qtbot.waitUntil(lambda: files.item(0).text() == wanted, timeout=LIMIT_MS)
    widget.model.session.delete(1)
    wanted = f"a\n{n_found - 1} cells (was {n_found}) · {n_found - 1} reviewed"
    qtbot.waitUntil(lambda: files.item(0).text() == wanted, timeout=LIMIT_MS)
    assert widget.panel.batch.total.text().startswith("1 of 3 images done")
    reader.leave()
    go(widget, qtbot, lambda: reader.open(folder))
    assert reader.index == 1


def test_images_without_labels_need_not_be_counted(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path
) -> None:
    widget.panel.batch.counts_first.setChecked(False)
    (folder / "masks" / "a.tif").unlink()
    go(widget, qtbot, lambda: widget.proofreader.open(folder))
    assert widget.model.session is not None
    assert len(widget.model.session.store) == 0


def test_an_annotation_that_was_finished_is_written_and_another_is_not_counted(
    widget: AnnotateWidget, viewer: ViewerModel, qtbot: QtBot, folder: Path
) -> None:
    reader = widget.proofreader
    go(widget, qtbot, lambda: reader.open(folder))
    session = widget.model.session
    assert session is not None
    session.delete(1)
    widget.panel.begin.click()  # Finish
    other = viewer.add_image(np.zeros((30, 40)), name="other")
    widget.model.open(start_session(other, None, None, journal=None))
    assert widget.model.session is not None
    widget.model.session.add(np.ones((5, 5), bool), (3, 3))
    reader._on_follow()
    assert reader.tallies["a"].cells == len(session.store) > 1
    go(widget, qtbot, lambda: reader.step(1))
    kept(widget, qtbot)
    np.testing.assert_array_equal(read_image(folder / PROOFREAD / "a.tif").data, session.labels)
    assert other in viewer.layers


def test_an_image_whose_counts_cannot_be_written_stays_open(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = widget.proofreader
    go(widget, qtbot, lambda: reader.open(folder))
    session = widget.model.session

    def full(*_: Any) -> None:
        raise WriteError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(proofread, "write_tallies", full)
        reader.step(1)
    assert (reader.index, reader.job, widget.model.session) == (0, None, session)
    assert "full" in widget.panel.message.text()
    go(widget, qtbot, lambda: reader.step(1))


def test_a_damaged_image_is_told_and_can_be_passed(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path
) -> None:
    (folder / "images" / "a.png").write_bytes(b"broken")
    widget.proofreader.open(folder)
    qtbot.waitUntil(lambda: widget.proofreader.job is None, timeout=LIMIT_MS)
    assert "a.png" in widget.panel.message.text()
    go(widget, qtbot, lambda: widget.panel.batch.next_image.click())
    assert widget.model.session is not None


def test_a_folder_without_images_is_refused(widget: AnnotateWidget, tmp_path: Path) -> None:
    widget.proofreader.open(tmp_path)
    assert "images" in widget.panel.message.text()


def test_the_next_image_opens_while_labels_are_being_written(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()

    def slow(*arguments: Any) -> None:
        assert go_on.wait(LIMIT_MS / 1000)
        write_labels(*arguments)

    monkeypatch.setattr(proofread, "write_labels", slow)
    go(widget, qtbot, lambda: widget.proofreader.open(folder))
    assert widget.model.session is not None
    widget.model.session.delete(1)
    edited = widget.model.session.labels.copy()
    go(widget, qtbot, lambda: widget.panel.batch.next_image.click())
    assert widget.model.session.image.name == "b"
    assert not (folder / PROOFREAD / "a.tif").exists()
    assert "writing labels" in widget.panel.batch.total.text()
    go_on.set()
    kept(widget, qtbot)
    np.testing.assert_array_equal(read_image(folder / PROOFREAD / "a.tif").data, edited)
    assert "writing labels" not in widget.panel.batch.total.text()


def test_labels_that_cannot_be_written_are_told_and_written_later(
    widget: AnnotateWidget, qtbot: QtBot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise WriteError(f"Expected to write {path}; got: the disk is full. Make room.")

    monkeypatch.setattr(proofread, "write_labels", full)
    go(widget, qtbot, lambda: widget.proofreader.open(folder))
    assert widget.model.session is not None
    widget.model.session.delete(1)
    edited = widget.model.session.labels.copy()
    go(widget, qtbot, lambda: widget.panel.batch.next_image.click())
    kept(widget, qtbot)
    assert "the disk is full" in widget.panel.message.text()
    assert widget.panel.message.property("error") == "true"
    assert "not written" in widget.panel.batch.files.item(0).text()
    monkeypatch.setattr(proofread, "write_labels", write_labels)
    go(widget, qtbot, lambda: widget.panel.batch.previous_image.click())
    np.testing.assert_array_equal(widget.model.session.labels, edited)
    widget.proofreader.leave()
    kept(widget, qtbot)
    np.testing.assert_array_equal(read_image(folder / PROOFREAD / "a.tif").data, edited)
    assert "not written" not in widget.panel.batch.files.item(0).text()
