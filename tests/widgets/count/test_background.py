"""Images larger than memory: the view at once, the whole into files, shown from there."""

import gc
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot

from cellwright.core.data import Image
from cellwright.core.errors import ImageError
from cellwright.core.tasks import Progress
from cellwright.files import zarr as zarr_files
from cellwright.inference import image_count
from cellwright.widgets.count import background
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.shared.layer_io import Source
from cellwright.widgets.shared.napari_private import draw_outlines_fast


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the results; every image counts as large."""
    monkeypatch.setattr(background, "LARGE_PIXELS", 1000)
    monkeypatch.setattr(zarr_files, "SMALLEST_LEVEL_PX", 64)
    monkeypatch.setattr(image_count, "gettempdir", lambda: str(tmp_path))
    return tmp_path / image_count.FOLDER


@pytest.mark.usefixtures("sparing")
def test_the_view_comes_first_then_the_whole_from_its_files(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    in_files: Path,
    qtbot: QtBot,
    builders: list[threading.Thread],
) -> None:
    viewer.add_image([blobs.image, blobs.image[::2, ::2]], multiscale=True, name="blobs", scale=(2.0, 2.0))
    seen = []
    viewer.layers.events.inserted.connect(lambda event: seen.append(event.value.name))
    frozen: list[int] = []
    viewer.layers.events.removed.connect(lambda _: frozen.append(gc.get_freeze_count()))
    in_that_turn: list[Any] = []  # labels that are there when those of the view have been taken out
    widget.model.whole_counted.connect(
        lambda _: in_that_turn.extend(one for one in viewer.layers if isinstance(one, Labels))
    )
    for _ in range(2):  # the second count takes the place of the first
        told: list[Any] = []
        widget.model.whole_counted.connect(told.append)
        widget.panel.count.click()
        qtbot.waitUntil(lambda told=told: bool(told) and not widget.jobs.is_busy, timeout=60_000)
        qtbot.waitUntil(lambda: viewer.layers[-1].name == "blobs labels", timeout=5000)
    assert set(builders) == {threading.main_thread()}  # napari silences a warning there for all threads
    assert not in_that_turn  # napari is busy enough with taking layers out
    labels = [layer for layer in viewer.layers if isinstance(layer, Labels)]
    assert seen[:2] == ["blobs preview labels", "blobs labels"]
    assert [layer.name for layer in labels] == ["blobs labels"]
    assert labels[0].multiscale
    qtbot.waitUntil(lambda: labels[0].visible, timeout=5000)  # read in a turn of its own
    assert min(frozen) > 0  # napari's collection at each removal has nothing to do
    assert gc.get_freeze_count() > 0  # nor has Python's while the labels are moved about
    assert labels[0].contour > 0
    assert labels[0].scale.tolist() == [2.0, 2.0]
    np.testing.assert_array_equal(np.asarray(labels[0].data[0]) > 0, blobs.labels > 0)
    assert widget.panel.number.text() == str(len(blobs))
    assert str(in_files) in widget.panel.details.text().replace("\u200b", "")
    assert not widget.panel.save.isEnabled()
    assert not widget.panel.correct.isEnabled()
    (table,) = in_files.glob("blobs~*.cells.csv")  # of no file, it is told from others that are called so
    assert len(pd.read_csv(table)) == len(blobs)


@pytest.mark.usefixtures("sparing")
def test_another_image_that_is_called_the_same_leaves_the_cells_of_the_first(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, in_files: Path, qtbot: QtBot
) -> None:
    told: list[Any] = []
    widget.model.whole_counted.connect(told.append)
    for n, pixels in enumerate((blobs.image, blobs.image[::-1].copy()), start=1):
        layer = viewer.add_image(pixels, name="field")
        viewer.layers.selection.active = layer
        widget.panel.count.click()
        qtbot.waitUntil(lambda n=n: len(told) == n and not widget.jobs.is_busy, timeout=60_000)
        qtbot.waitUntil(lambda: isinstance(viewer.layers[-1], Labels), timeout=5000)
        layer.name = f"before {n}"
    first, second = (layer for layer in viewer.layers if isinstance(layer, Labels))
    np.testing.assert_array_equal(np.asarray(first.data[0]) > 0, blobs.labels > 0)
    np.testing.assert_array_equal(np.asarray(second.data[0]) > 0, blobs.labels[::-1] > 0)


def test_a_number_from_several_frames_says_so_and_what_was_guessed(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, in_files: Path, qtbot: QtBot
) -> None:
    movie = np.stack([blobs.image] * 3)
    viewer.add_image(movie, name="movie", axis_labels=("t", "y", "x"))
    told: list[Any] = []
    widget.model.whole_counted.connect(told.append)
    for name, line in (("movie", "cells in 3 frames · "), ("guessed", "axes guessed: ")):
        if name not in viewer.layers:
            viewer.layers.selection.active = viewer.add_image(movie, name=name)
        widget.panel.count.click()
        qtbot.waitUntil(lambda: bool(told) and not widget.jobs.is_busy, timeout=60_000)
        assert line in widget.panel.line.text()
        told.clear()


def test_a_whole_count_that_is_cancelled_says_that_it_goes_on(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, in_files: Path, qtbot: QtBot, monkeypatch: Any
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    begun: list[bool] = []

    def endless(request: Any) -> Any:
        while True:
            begun.append(True)
            yield Progress("blocks", 0, 1)

    monkeypatch.setattr(background, "whole_task", endless)
    widget.panel.count.click()
    qtbot.waitUntil(lambda: bool(begun), timeout=60_000)
    widget.panel.count.click()
    qtbot.waitUntil(lambda: not widget.jobs.is_busy, timeout=60_000)
    assert (
        widget.panel.message.text() == "Cancelled; the next count of this image continues where it stopped."
    )


@pytest.mark.parametrize("thickness", [1, 2, 3])
def test_outlines_are_those_of_napari(thickness: int, rng: np.random.Generator) -> None:
    labels = np.kron(rng.integers(0, 4, (32, 14)), np.ones((5, 4), int)).astype(np.int32)
    labels[20:40, 10:30] = 9
    plain, fast = (Labels(labels, name=name) for name in ("plain", "fast"))
    draw_outlines_fast(fast)
    for place in (np.s_[0:160, 0:56], np.s_[3:150, 7:41], np.s_[0:20, 30:56]):
        for layer in (plain, fast):
            layer.contour = thickness
        found, expected = (layer._calculate_contour(labels, place) for layer in (fast, plain))
        np.testing.assert_array_equal(found, expected)
    fast.contour = 0
    assert fast._calculate_contour(labels, np.s_[0:9, 0:9]) is None


def test_no_more_is_drawn_than_is_in_sight_and_a_little_around_it(in_files: Path) -> None:
    image = Image(np.zeros((2, 1200, 1100), np.uint8), "TYX", name="blobs")
    zarr_files.create_array(in_files, image)
    zarr_files.finish_array(in_files, image)
    build = background.layer_of(in_files, Source(image, "", (0, 0, 0), {}))
    layer = build()
    layer.visible = True
    assert [level.shape[-1] for level in layer.data] == [1100, 550, 275, 138, 69, 35]
    layer._update_draw(1.0, np.array([[300.0, 300.0], [600.0, 500.0]]), np.array([300, 200]))
    assert layer._slice.image.raw.shape == (512, 256)


def test_a_view_that_fails_ends_the_count(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, in_files: Path, settled: Any, monkeypatch: Any
) -> None:
    viewer.add_image(blobs.image, name="blobs")

    def fails(request: Any) -> Any:
        yield from ()
        raise ImageError("No.")

    monkeypatch.setattr(background, "count_task", fails)
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.message.text() == "No."
    assert not in_files.exists()


def test_regions_that_would_fill_memory_are_refused(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, in_files: Path, settled: Any, monkeypatch: Any
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_shapes([[[0, 0], [0, 200], [160, 200], [160, 0]]], name="everything")
    widget.panel.region.choose_data("drawn")
    monkeypatch.setattr(background, "free_memory", lambda: 1e5)
    widget.panel.count.click()
    settled(widget)
    assert "Draw smaller ones, or count in them with cellwright count" in widget.panel.message.text()
    monkeypatch.setattr(background, "free_memory", lambda: 1e9)
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.number.text() == str(len(blobs))


def test_results_lie_beside_the_image_where_they_can(in_files: Path, tmp_path: Path) -> None:
    path = tmp_path / "images" / "slide.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    beside = Image(np.zeros((8, 8)), "YX", source=str(path))
    assert image_count.folder_beside(beside) == path.parent / image_count.FOLDER
    (path.parent / image_count.FOLDER).rmdir()
    (path.parent / image_count.FOLDER).write_text("in the way")
    assert image_count.folder_beside(beside) == in_files
    assert image_count.folder_beside(Image(np.zeros((8, 8)), "YX")) == in_files
