import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image as Picture

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


def test_the_demo_leaves_a_picture_and_a_table(tmp_path: Path) -> None:
    import subprocess

    command = [sys.executable, "-W", "ignore", "-m", "cellwright.widgets.plugin.demo", "--screenshot"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "cells.csv")) > 50
    with Picture.open(tmp_path / "screenshot.png") as picture:
        assert picture.width >= 1000
        assert len(picture.getcolors(maxcolors=2**24)) > 500  # not a blank window
