from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from napari import Viewer
from PIL import Image as Picture
from pytestqt.qtbot import QtBot

from cellwright.widgets.plugin import demo


@pytest.mark.parametrize(
    ("environment", "has_screen"),
    [
        ({"QT_QPA_PLATFORM": "offscreen"}, False),
        ({"XAUTHORITY": "/tmp/xvfb-run.x1/Xauthority"}, False),
        ({"XAUTHORITY": "/home/me/.Xauthority"}, True),
        ({}, True),
    ],
)
def test_whether_someone_can_see_the_window(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], has_screen: bool
) -> None:
    for name in ("QT_QPA_PLATFORM", "XAUTHORITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert demo.has_screen() is has_screen


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # napari's and vispy's own
def test_the_demo_leaves_a_picture_and_a_table(
    make_napari_viewer: Callable[..., Viewer], qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = tmp_path / "screenshot.png"
    monkeypatch.setattr(demo.napari, "Viewer", lambda: make_napari_viewer(show=True))
    monkeypatch.setattr(demo.napari, "run", lambda: qtbot.waitUntil(picture.exists, timeout=60_000))
    monkeypatch.setattr(demo, "SETTLE_MS", 300)
    assert demo.main(["--screenshot", "--output", str(tmp_path)]) == 0
    assert len(pd.read_csv(tmp_path / "cells.csv")) > 50
    with Picture.open(picture) as seen:
        assert seen.width >= 1000
        assert len(seen.getcolors(maxcolors=2**24)) > 500  # not a blank window
