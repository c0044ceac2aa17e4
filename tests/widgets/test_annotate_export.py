"""Export from the widget: into a dataset, into files of other programs, and what goes wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.io.dataset import read_dataset
from cellwright.io.formats.registry import FORMATS
from cellwright.widgets.annotate import AnnotateWidget
from cellwright.widgets.annotate_export import proposed


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, tmp_path: Path, blobs: Any) -> AnnotateWidget:
    widget = AnnotateWidget(viewer)
    widget.journals = tmp_path / "journals"
    qtbot.addWidget(widget)
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels.copy())
    widget.panel.begin.click()
    return widget


def test_an_annotation_becomes_part_of_a_dataset(widget: AnnotateWidget, tmp_path: Path, blobs: Any) -> None:
    widget.panel.complete.setChecked(True)
    widget.panel.split.setCurrentText("val")
    widget.exporter.to_dataset(tmp_path / "set")
    assert "blobs" in widget.panel.message.text()
    (item,) = read_dataset(tmp_path / "set").select("val").items
    np.testing.assert_array_equal(item.read()[1], blobs.labels)
    widget.exporter.to_dataset(tmp_path / "set")
    assert widget.panel.message.property("error") == "true"  # it is there already
    widget.panel.replaces.setChecked(True)
    widget.exporter.to_dataset(tmp_path / "set")
    assert widget.panel.message.property("error") == "false"


def test_a_file_of_another_program_is_written(widget: AnnotateWidget, tmp_path: Path, blobs: Any) -> None:
    widget.panel.format.setCurrentIndex(widget.panel.format.findData("ome-tiff"))
    assert widget.session is not None
    name = proposed(FORMATS["ome-tiff"], widget.session)
    assert name == "blobs.ome.tif"
    widget.exporter.to_file(tmp_path / name)
    (marks,) = FORMATS["ome-tiff"].read(tmp_path / name)
    np.testing.assert_array_equal(marks.labels, blobs.labels)
    (tmp_path / "file").touch()
    widget.exporter.to_file(tmp_path / "file" / name)
    assert widget.panel.message.property("error") == "true"


def test_without_an_annotation_there_is_nothing_to_export(widget: AnnotateWidget, tmp_path: Path) -> None:
    widget.finish()
    widget.exporter.to_dataset(tmp_path / "set")
    assert "Start" in widget.panel.message.text()
    assert not (tmp_path / "set").exists()
