import time
from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QTimer

from cellwright.widgets.count.widget import CountWidget

TICK_MS = 5
LONGEST_MS = 100.0


def test_the_event_loop_goes_on_during_a_count(
    viewer: ViewerModel, widget: CountWidget, draw_blobs: Callable[..., Any], qtbot: QtBot,
    settled: Callable[[CountWidget], None],
) -> None:  # fmt: skip
    """Gaps between ticks of a timer; what a busy machine adds is measured beside it and taken off."""
    blobs = draw_blobs((1024, 1024), diameter=20.0)
    viewer.add_image(blobs.image)
    settled_widths = []
    for _ in range(2):  # the first count compiles napari's colours and imports torch
        gaps = ticks(qtbot, lambda: (widget.panel.count.click(), settled(widget)))
        settled_widths.append(float(np.percentile(gaps, 99)))
    idle = float(np.percentile(ticks(qtbot, lambda: qtbot.wait(1000)), 99))
    assert widget.panel.number.text() == str(len(blobs))
    assert settled_widths[-1] < LONGEST_MS + idle


def ticks(qtbot: QtBot, act: Callable[[], Any]) -> list[float]:
    """Milliseconds between the ticks of a timer while something happens."""
    gaps, last = [], time.perf_counter()

    def tick() -> None:
        nonlocal last
        now = time.perf_counter()
        gaps.append(1000 * (now - last))
        last = now

    timer = QTimer()
    timer.timeout.connect(tick)
    timer.start(TICK_MS)
    act()
    timer.stop()
    tick()
    return gaps
