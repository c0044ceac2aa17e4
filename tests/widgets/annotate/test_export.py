"""Export from the widget: into a dataset, into files of other programs, and what goes wrong."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.core.data import Annotation
from cellwright.files.dataset import append
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats.registry import FORMATS
from cellwright.widgets.annotate.export import proposed
from cellwright.widgets.annotate.session_setup import start_session
from cellwright.widgets.annotate.widget import AnnotateWidget

LIMIT_MS = 60_000


@pytest.fixture
def widget(viewer: ViewerModel, annotate_widget: AnnotateWidget, blobs: Any) -> AnnotateWidget:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels.copy())
    annotate_widget.panel.begin.click()
    return annotate_widget


def export(widget: AnnotateWidget, path: Path, qtbot: QtBot, *, is_file: bool = False) -> None:
    (widget.exporter.to_file if is_file else widget.exporter.to_dataset)(path)
    qtbot.waitUntil(lambda: not widget.panel.exports.job.is_busy, timeout=LIMIT_MS)


def test_an_annotation_becomes_part_of_a_dataset(
    widget: AnnotateWidget, tmp_path: Path, blobs: Any, qtbot: QtBot
) -> None:
    widget.panel.exports.complete.setChecked(True)
    widget.panel.exports.split.setCurrentIndex(1)
    export(widget, tmp_path / "set", qtbot)
    assert "blobs" in widget.panel.message.text()
    (item,) = read_dataset(tmp_path / "set").select("val").items
    np.testing.assert_array_equal(item.read()[1], blobs.labels)
    export(widget, tmp_path / "set", qtbot)
    assert widget.panel.message.property("error") == "true"  # it is there already
    widget.panel.exports.replaces.setChecked(True)
    export(widget, tmp_path / "set", qtbot)
    assert widget.panel.message.property("error") == "false"


def test_another_image_of_the_same_name_is_not_replaced(
    widget: AnnotateWidget, viewer: ViewerModel, tmp_path: Path, blobs: Any, qtbot: QtBot
) -> None:
    export(widget, tmp_path / "set", qtbot)
    widget.panel.begin.click()  # Finish
    viewer.layers.clear()
    other = viewer.add_image(blobs.image[::-1].copy(), name="blobs")
    widget.model.open(start_session(other, None, None, journal=None))
    widget.panel.exports.replaces.setChecked(True)
    export(widget, tmp_path / "set", qtbot)
    assert "another one" in widget.panel.message.text()
    (item,) = read_dataset(tmp_path / "set").items
    np.testing.assert_array_equal(item.read()[1], blobs.labels)


@pytest.mark.parametrize("lead", [(), (2,)])
@pytest.mark.parametrize("number", [0, 1])
def test_a_dataset_has_the_channel_that_was_annotated(
    annotate_widget: AnnotateWidget, tmp_path: Path, qtbot: QtBot, lead: tuple[int, ...], number: int
) -> None:
    data = np.zeros((*lead, 2, 30, 40), np.uint8)
    data[..., 1, :, :] = 1
    annotate_widget.viewer.add_image(data, name="two", axis_labels=("t", "c", "y", "x")[-data.ndim :])
    annotate_widget.panel.channel.setCurrentIndex(number)
    annotate_widget.panel.begin.click()
    assert annotate_widget.model.session is not None
    annotate_widget.model.session.labels[..., 5:15, 5:15] = 1
    export(annotate_widget, tmp_path / "set", qtbot)
    (item,) = read_dataset(tmp_path / "set").items
    image, _ = item.annotated()
    assert image.axes == "TYX"[-len(image.axes) :]
    np.testing.assert_array_equal(image.data, data[..., number, :, :])
    assert annotate_widget.model.session.image.shape == data.shape  # which is edited on


def test_a_file_of_another_program_is_written(
    widget: AnnotateWidget, tmp_path: Path, blobs: Any, qtbot: QtBot
) -> None:
    widget.panel.exports.format.setCurrentIndex(widget.panel.exports.format.findData("ome-tiff"))
    assert widget.model.session is not None
    name = proposed(FORMATS["ome-tiff"], widget.model.session)
    assert name == "blobs_labels.ome.tif"  # opens as labels
    export(widget, tmp_path / name, qtbot, is_file=True)
    (marks,) = FORMATS["ome-tiff"].read(tmp_path / name)
    np.testing.assert_array_equal(marks.labels, blobs.labels)
    (tmp_path / "file").touch()
    export(widget, tmp_path / "file" / name, qtbot, is_file=True)
    assert widget.panel.message.property("error") == "true"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """The next image that is exported waits for this."""
    go_on = Event()
    write_image = append.write_image

    def write(*args: Any) -> None:
        go_on.wait(LIMIT_MS / 1000)
        write_image(*args)

    monkeypatch.setattr(append, "write_image", write)
    yield go_on
    go_on.set()


def test_edits_go_on_while_an_export_runs(
    widget: AnnotateWidget, tmp_path: Path, blobs: Any, qtbot: QtBot, held: Event
) -> None:
    panel = widget.panel
    assert widget.model.session is not None
    widget.exporter.to_dataset(tmp_path / "set")
    qtbot.waitUntil(lambda: panel.exports.job.line.text() == "Writing image 1 of 1", timeout=LIMIT_MS)
    assert not panel.exports.to_dataset.isEnabled()
    widget.model.session.delete(1)
    panel.buttons["undo"].click()
    widget.model.session.delete(2)
    assert panel.count.text() == str(len(blobs) - 1)
    widget.exporter.to_dataset(tmp_path / "other")  # one at a time
    held.set()
    qtbot.waitUntil(lambda: not panel.exports.job.is_busy, timeout=LIMIT_MS)
    np.testing.assert_array_equal(read_dataset(tmp_path / "set").items[0].read()[1], blobs.labels)
    assert not (tmp_path / "other").exists()
    assert panel.exports.to_dataset.isEnabled()


def test_a_cancelled_export_leaves_nothing(
    widget: AnnotateWidget, tmp_path: Path, qtbot: QtBot, held: Event
) -> None:
    export_job = widget.panel.exports.job
    assert widget.model.session is not None
    for z in (5, 50):
        widget.model.session.add_region((slice(z, z + 40), slice(5, 30)))
    widget.exporter.to_dataset(tmp_path / "set")
    qtbot.waitUntil(lambda: "Writing" in export_job.line.text(), timeout=LIMIT_MS)
    export_job.stop.click()
    held.set()
    qtbot.waitUntil(lambda: not export_job.is_busy, timeout=LIMIT_MS)
    assert widget.panel.message.text() == "Cancelled; nothing was exported."
    assert not (tmp_path / "set" / "meta.json").exists()
    widget.exporter.to_dataset(tmp_path / "set")
    widget.model.finish()  # what is exported is a copy
    qtbot.waitUntil(lambda: not export_job.is_busy, timeout=LIMIT_MS)
    assert len(read_dataset(tmp_path / "set")) == 1


def test_points_and_their_classes_make_the_round_trip(
    widget: AnnotateWidget, tmp_path: Path, blobs: Any, qtbot: QtBot
) -> None:
    widget.model.finish()
    points = np.rint(blobs.points[:4])
    widget.viewer.add_points(points, features={"class": ["RBC", "WBC", "", "RBC"]})
    widget.panel.begin.click()
    assert widget.model.session is not None
    widget.model.session.set_class(3, 1)
    export(widget, tmp_path / "set", qtbot)
    (item,) = read_dataset(tmp_path / "set").items
    truth = item.annotated()[1]
    assert isinstance(truth, Annotation)
    assert truth.classes is not None
    assert [item.classes[one] for one in truth.classes] == ["RBC", "WBC", "WBC", "RBC"]
    np.testing.assert_allclose(truth.points, points)


def test_without_an_annotation_there_is_nothing_to_export(widget: AnnotateWidget, tmp_path: Path) -> None:
    widget.model.finish()
    widget.exporter.to_dataset(tmp_path / "set")
    assert "Start" in widget.panel.message.text()
    assert not (tmp_path / "set").exists()
