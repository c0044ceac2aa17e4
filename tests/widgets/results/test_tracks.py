"""Cells linked over time in the panel: tracks, their layer and table follow edits, and go to files."""

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pandas as pd
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import stop_point
from cellwright.files.formats.tracking_challenge import read
from cellwright.files.metadata import FilePart
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.results import export, page_tools
from cellwright.widgets.results.plots import Strip
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells import measured_cells
from cellwright.widgets.shared.coordinates import FILE_PART
from cellwright.widgets.shared.jobs import JobBar

Read = Callable[[ResultsWidget], None]
LIMIT_MS = 30_000


def movie() -> np.ndarray:
    """Labels (4, 40, 60): cell 1 drifts 3 pixels a frame, cell 2 divides into 3 and 4 after two frames."""
    labels = np.zeros((4, 40, 60), np.int32)
    for frame in range(4):
        labels[frame, 4:12, 4 + 3 * frame : 12 + 3 * frame] = 1
        if frame < 2:
            labels[frame, 24:32, 30:40] = 2
        else:
            labels[frame, 24:32, 28:34], labels[frame, 24:32, 37:43] = 3, 4
    return labels


@pytest.fixture
def tracked(viewer: ViewerModel, qtbot: QtBot, read: Read) -> ResultsWidget:
    """A panel in which the cells of the movie were tracked; 30 seconds and half a micrometre."""
    labels = movie()
    look = {"scale": (30, 0.5, 0.5), "units": ("s", "um", "um"), "axis_labels": ("t", "y", "x")}
    viewer.add_image(labels * 2.0, name="movie", **look)
    viewer.add_labels(labels, name="cells", **look)
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.tracks.track.click()
    settle(panel, qtbot)
    return panel


def settle(panel: ResultsWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not (panel.measurer.is_busy or panel.tracks.is_busy), timeout=LIMIT_MS)


def test_tracks_are_those_of_the_same_analysis(tracked: ResultsWidget) -> None:
    expected = analyse(
        movie(),
        Image(movie(), "TYX", (0.5, 0.5)),
        AnalysisSettings(track=True, frame_interval_s=30.0),
    )
    assert tracked.model.settings.track
    pd.testing.assert_frame_equal(tracked.model.lineages(), expected.lineages)
    columns = ["track", "parent_track", "step_um"]
    pd.testing.assert_frame_equal(tracked.model.table[columns], expected.table[columns])
    text = tracked.view.tracks.summary.text()
    assert text == "Tracks 4 · lineages 2 · divisions 1 · median speed 0 µm per min"
    speeds = tracked.model.lineages()["speed_um_per_min"]
    assert speeds[0] == pytest.approx(3.0)  # 1.5 micrometres in half a minute


def test_the_file_tells_the_time_between_frames(
    viewer: ViewerModel, qtbot: QtBot, read: Read, tmp_path: Path
) -> None:
    labels = movie()
    seconds = 299.87654
    image = Image(labels * 2.0, "TYX", frame_interval_s=seconds)
    viewer.add_image(image.data, name="movie", metadata={FILE_PART: FilePart(image)})
    viewer.add_labels(labels, name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    analysis = analyse(labels, image, AnalysisSettings(track=True))
    expected = analysis.lineages
    assert "speed_px_per_min" in expected
    pd.testing.assert_frame_equal(panel.model.counts(), analysis.counts)
    assert panel.view.tracks.interval.value() == pytest.approx(seconds, abs=1e-3)
    panel.view.tracks.track.click()
    settle(panel, qtbot)
    pd.testing.assert_frame_equal(panel.model.lineages(), expected)
    panel.export.save_settings(tmp_path / "study.json")
    qtbot.waitUntil(lambda: not panel.view.job_bar.is_busy)
    assert load_recipe(tmp_path / "study.json").analysis.frame_interval_s == 0.0  # for any image
    panel.view.tracks.interval.setValue(60.0)
    panel.view.tracks.track.click()
    settle(panel, qtbot)
    assert panel.model.settings.frame_interval_s == 60.0
    assert panel.model.counts()["time_min"].tolist() == panel.model.counts()["t"].tolist()
    strip = Strip()
    qtbot.addWidget(strip)
    strip.set_counts(np.arange(4))
    assert [strip.set_interval(each) for each in (0.0, 20.0, 299.9, 3600.0)] == ["", "s", "min", "h"]
    assert strip.getAxis("bottom").scale == 1.0


def test_the_headings_of_tracks_are_words(tracked: ResultsWidget) -> None:
    frame = tracked.view.tracks.frame
    headings = []
    for interval_s in (0.0, 60.0):
        frame.set_frame(tracked.model.tracks.lineage_table(interval_s))
        titles = [frame.headerData(place, Qt.Orientation.Horizontal) for place in range(len(frame.names))]
        headings.append(titles)
    assert headings[0][:4] == ["Track", "Parent", "Root", "Generation"]
    assert headings[0][4:8] == ["First frame", "Last frame", "Frames", "Divides"]
    assert headings[0][8:] == ["Path [µm]", "Displacement [µm]", "Speed [µm/frame]"]
    assert headings[1][10] == "Speed [µm/min]"


def test_a_layer_shows_tracks_and_divisions(tracked: ResultsWidget) -> None:
    layer = tracked.viewer.layers["cells tracks"]
    own = layer.data[layer.data[:, 0] == 1]
    assert own[:, 1:].tolist() == [[t, 7.5, 7.5 + 3 * t] for t in range(4)]
    assert layer.scale.tolist() == [30, 0.5, 0.5]
    mother = int(tracked.model.table.query("label == 2")["track"].iloc[0])
    assert sorted(layer.graph.values()) == [[mother], [mother]]
    assert "track" in tracked.viewer.layers["cells"].features


def test_a_chosen_track_is_gone_to(tracked: ResultsWidget) -> None:
    table = tracked.view.tracks.table
    daughter = int(tracked.model.lineages().query("first == 2")["track"].iloc[0])
    table.selectRow(daughter - 1)
    assert tracked.viewer.dims.current_step[0] == 2
    assert tracked.model.table["track"].iloc[tracked.model.chosen] == daughter


def test_tracks_follow_edits_and_filters(tracked: ResultsWidget, qtbot: QtBot) -> None:
    layer = tracked.viewer.layers["cells"]
    indices = np.nonzero(np.asarray(layer.data) == 4)
    layer.data_setitem(indices, 0)  # one daughter is gone
    settle(tracked, qtbot)
    assert tracked.model.tracks.n_divisions == 0
    assert len(tracked.model.lineages()) == 2
    assert len(np.unique(tracked.viewer.layers["cells tracks"].data[:, 0])) == 2
    tracked.model.set_conditions("y < 20")
    assert "track" not in tracked.model.table  # no number of cells that no longer count
    settle(tracked, qtbot)
    assert tracked.model.tracks.count == 1
    tracked.model.set_conditions("y < 0")
    settle(tracked, qtbot)
    assert tracked.model.tracks.count == 0
    assert "cells tracks" not in tracked.viewer.layers
    tracked.model.set_conditions("y < 20")
    settle(tracked, qtbot)
    assert "cells tracks" in tracked.viewer.layers
    with pytest.raises(SettingsError, match="track"):
        tracked.model.set_conditions("track = 1")


def test_a_deleted_layer_of_tracks_does_not_come_back(tracked: ResultsWidget, qtbot: QtBot) -> None:
    del tracked.viewer.layers["cells tracks"]
    tracked.model.set_conditions("y < 20")
    settle(tracked, qtbot)
    assert "cells tracks" not in tracked.viewer.layers
    assert tracked.view.tracks.summary.text() == "The cells that count have changed. Press Track again."
    assert tracked.model.lineages() is None
    assert "track" not in tracked.viewer.layers["cells"].features
    assert tracked.view.tracks.frame.rowCount() == 0


def test_tracks_go_to_files(tracked: ResultsWidget, qtbot: QtBot, tmp_path: Path) -> None:
    def saved(save: Any, name: str) -> Path:
        save(tmp_path / name)
        qtbot.waitUntil(lambda: not tracked.view.job_bar.is_busy, timeout=LIMIT_MS)
        assert tracked.view.message.text() == f"Saved {tmp_path / name}"
        return tmp_path / name

    lineages = pd.read_csv(saved(tracked.export.save_lineages, "lineages.csv"))
    assert lineages["divides"].sum() == 1
    (back,) = read(saved(tracked.export.save_tracks, "movie_RES"))
    assert (np.asarray(back.labels) > 0).tolist() == (movie() > 0).tolist()
    assert sorted(back.parents.tolist()) == sorted(tracked.model.tracks.parents.tolist())
    saved(tracked.export.save_tracks, "movie_RES")  # our own is replaced


def test_settings_of_a_file_track_again(tracked: ResultsWidget, qtbot: QtBot, tmp_path: Path) -> None:
    tracked.view.tracks.divisions.setChecked(False)
    tracked.view.tracks.track.click()
    settle(tracked, qtbot)
    tracked.export.save_settings(tmp_path / "s.json")
    qtbot.waitUntil(lambda: not tracked.view.job_bar.is_busy, timeout=LIMIT_MS)
    del tracked.viewer.layers["cells tracks"]
    tracked.view.tracks.divisions.setChecked(True)
    tracked.export.load_settings(tmp_path / "s.json")
    settle(tracked, qtbot)
    assert not tracked.view.tracks.divisions.isChecked()
    assert tracked.model.tracks.n_divisions == 0
    assert "cells tracks" in tracked.viewer.layers


def test_points_without_a_size_ask_for_the_farthest_way(
    viewer: ViewerModel, qtbot: QtBot, read: Read
) -> None:
    viewer.add_image(movie() * 2.0, name="movie", axis_labels=("t", "y", "x"))
    viewer.add_points([[t, 8, 8 + 3 * t] for t in range(4)], name="centres")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    page = panel.view.tracks
    page.track.click()
    settle(panel, qtbot)
    assert "Set the largest distance" in page.summary.text()
    page.distance.setValue(5)
    page.track.click()
    settle(panel, qtbot)
    assert panel.model.tracks.count == 1
    panel.export.save_tracks(Path("none_RES"))
    assert "no masks" in panel.view.message.text()


def test_volumes_over_time_are_tracked(viewer: ViewerModel, qtbot: QtBot, read: Read) -> None:
    labels = np.repeat(movie()[:, np.newaxis], 3, axis=1)
    viewer.add_image(labels * 2.0, name="movie", axis_labels=("t", "z", "y", "x"))
    viewer.add_labels(labels, name="cells")
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.tracks.track.click()
    settle(panel, qtbot)
    assert (panel.model.tracks.count, panel.model.tracks.n_divisions) == (4, 1)
    assert viewer.layers["cells tracks"].data.shape[1] == 5
    assert panel.view.tracks.summary.text().endswith("px per frame")


def test_a_single_plane_has_no_tracks(panel: ResultsWidget) -> None:
    assert not panel.view.tracks.track.isEnabled()
    titles = [panel.view.tabs.tabText(at) for at in range(panel.view.tabs.count())]
    assert not panel.view.tabs.isTabVisible(titles.index("Tracks"))
    assert "time series" in panel.view.tracks.summary.text()
    panel.view.tracks.save_lineages.click()
    assert "no tracks yet" in panel.view.message.text()


class Endless:
    """A call that goes on until the task it is made by is closed."""

    def __init__(self) -> None:
        self.begun, self.ended = Event(), Event()

    def __call__(self, *_: Any, **__: Any) -> None:
        self.begun.set()
        try:
            while True:
                stop_point()
                time.sleep(0.01)
        finally:
            self.ended.set()


def cancel(bar: JobBar, endless: Endless, qtbot: QtBot) -> None:
    """Cancel what goes on for ever, and assert that the bar is free within a second and the call ends."""
    qtbot.waitUntil(endless.begun.is_set, timeout=LIMIT_MS)
    started = time.monotonic()
    bar.cancel()
    qtbot.waitUntil(lambda: not bar.is_busy, timeout=LIMIT_MS)
    assert time.monotonic() - started < 1.0
    assert endless.ended.wait(10)


def test_cancel_stops_a_measurement_within_a_second(
    tracked: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, table = Endless(), tracked.model.table
    monkeypatch.setattr(measured_cells, "result_of_labels", endless)
    tracked.view.measure.click()
    cancel(tracked.view.job_bar, endless, qtbot)
    assert tracked.view.message.text() == "Measuring was cancelled; the table is as it was."
    assert tracked.model.table is table


@pytest.mark.parametrize("what", ["tracks", "table"])
def test_cancel_stops_within_a_second_and_leaves_all_as_it_was(
    tracked: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    endless, before = Endless(), tracked.model.tracks
    if what == "tracks":
        monkeypatch.setattr(page_tools, "tracks_of", endless)
        tracked.view.tracks.track.click()
        bar = tracked.view.tracks.job_bar
    else:
        monkeypatch.setattr(export, "write_csv", endless)
        (tmp_path / "t.csv").write_text("before")
        tracked.export.save_table(tmp_path / "t.csv")
        bar = tracked.view.job_bar
    cancel(bar, endless, qtbot)
    if what == "tracks":
        assert tracked.view.tracks.summary.text() == "Cancelled."
        assert tracked.model.tracks is before
    else:
        assert tracked.view.message.text() == f"Saving {tmp_path / 't.csv'} was cancelled."
        assert (tmp_path / "t.csv").read_text() == "before"
        tracked.view.measure.click()
        settle(tracked, qtbot)
        assert "cancelled" not in tracked.view.message.text()


def test_filters_of_settings_whose_measurement_was_cancelled_do_not_come_later(
    tracked: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They would take the place of those that were typed since."""
    recipe = Recipe(analysis=AnalysisSettings(measure=("shape",), keep=("area_px >= 5",)))
    save_recipe(tmp_path / "settings.json", recipe)
    endless = Endless()
    with monkeypatch.context() as patch:
        patch.setattr(measured_cells, "result_of_labels", endless)
        tracked.export.load_settings(tmp_path / "settings.json")
        cancel(tracked.view.job_bar, endless, qtbot)
    assert tracked.view.message.text() == "Measuring was cancelled; the table is as it was."
    tracked.model.set_conditions("area_px >= 2")
    tracked.view.measure.click()
    settle(tracked, qtbot)
    assert tracked.model.conditions_text == "area_px >= 2"


def test_a_file_that_could_not_be_saved_is_not_told_of_again(
    tracked: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    tracked.export.save_table(tmp_path / "file" / "t.csv")
    settle(tracked, qtbot)
    assert "Expected to write" in tracked.view.message.text()
    endless = Endless()
    monkeypatch.setattr(measured_cells, "result_of_labels", endless)
    tracked.view.measure.click()
    cancel(tracked.view.job_bar, endless, qtbot)
    assert tracked.view.message.text() == "Measuring was cancelled; the table is as it was."


def test_what_is_asked_while_a_measurement_is_cancelled_is_measured_and_told(
    tracked: ResultsWidget, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    with monkeypatch.context() as patch:
        patch.setattr(measured_cells, "result_of_labels", endless)
        tracked.view.measure.click()
        qtbot.waitUntil(endless.begun.is_set, timeout=LIMIT_MS)
        tracked.view.groups["shape"].setChecked(True)
        tracked.view.measure.click()
        tracked.view.job_bar.cancel()
    settle(tracked, qtbot)
    assert "circularity" in tracked.model.table
    assert tracked.view.message.text().startswith("Measured")


def test_a_file_that_was_written_before_cancel_is_saved(
    tracked: ResultsWidget, qtbot: QtBot, tmp_path: Path
) -> None:
    tracked.export.save_table(tmp_path / "t.csv")
    deadline = time.monotonic() + 30
    while not tracked.export._is_written and time.monotonic() < deadline:
        time.sleep(0.001)
    tracked.view.job_bar.cancel()
    settle(tracked, qtbot)
    assert tracked.view.message.text() == f"Saved {tmp_path / 't.csv'}"
