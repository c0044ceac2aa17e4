"""A long job of one part of a panel: what its bar shows, how it is cancelled."""

from threading import Event
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication

from cellwright.core.errors import ReadError
from cellwright.core.tasks import Progress, Task
from cellwright.widgets.shared.jobs import JobBar, RunButton

LIMIT_MS = 60_000


@pytest.fixture
def side(qtbot: QtBot) -> JobBar:
    side = JobBar()
    qtbot.addWidget(side)
    return side


def steps(go_on: Event, log: list[str]) -> Task[str]:
    try:
        yield Progress("tiles", 1, 4)
        go_on.wait(LIMIT_MS / 1000)
        yield Progress("save", 3, 4)
        log.append("saved")
        return "all"
    finally:
        log.append("closed")


def test_a_job_is_seen_while_it_runs(side: JobBar, qtbot: QtBot) -> None:
    go_on, log, found = Event(), list[str](), list[Any]()
    side.start(steps(go_on, log), found.append, last="save")
    qtbot.waitUntil(lambda: side.line.text().startswith("Tiles: 1 of 4"), timeout=LIMIT_MS)
    assert not side.isHidden()
    assert side.bar.value() == side.bar.maximum() // 4
    assert side.stop.isEnabled()
    side.start(steps(go_on, log), found.append)  # one at a time
    go_on.set()
    qtbot.waitUntil(lambda: not side.is_busy, timeout=LIMIT_MS)
    assert found == ["all"]
    assert side.isHidden()
    assert not side.stop.isEnabled()  # it had come to where it can no longer be cancelled


def test_a_double_click_starts_a_job_and_does_not_stop_it(qtbot: QtBot) -> None:
    told: list[str] = []
    button = RunButton(("Count", ""), ("Cancel", ""), "Cancelling…")
    qtbot.addWidget(button)
    button.started.connect(lambda: told.append("started"))
    button.started.connect(lambda: button.show_running(is_running=True))
    button.stopped.connect(lambda: told.append("stopped"))
    place, left, none = QPointF(3, 3), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    down, up, twice = (
        QEvent.Type.MouseButtonPress,
        QEvent.Type.MouseButtonRelease,
        QEvent.Type.MouseButtonDblClick,
    )
    for kind in (down, up, twice, up):
        QApplication.sendEvent(button, QMouseEvent(kind, place, place, left, left, none))
    assert told == ["started"]
    button.click()
    assert told == ["started", "stopped"]


def test_a_cancelled_job_tells_so(side: JobBar, qtbot: QtBot) -> None:
    go_on, log, told = Event(), list[str](), list[str]()
    side.cancelled.connect(lambda: told.append("cancelled"))
    side.cancel()
    side.start(steps(go_on, log), told.append)
    qtbot.waitUntil(lambda: side.line.text() != "", timeout=LIMIT_MS)
    side.stop.click()
    assert side.line.text() == "Cancelling…"
    go_on.set()
    qtbot.waitUntil(lambda: not side.is_busy, timeout=LIMIT_MS)
    assert (told, log) == (["cancelled"], ["closed"])


def test_a_failed_job_hands_on_its_error(side: JobBar, qtbot: QtBot) -> None:
    def fail() -> Task[None]:
        yield Progress("load", 0, 1)
        raise ReadError("no file")

    told = list[Exception]()
    side.failed.connect(told.append)
    side.start(fail(), told.append)
    qtbot.waitUntil(lambda: not side.is_busy, timeout=LIMIT_MS)
    assert [str(error) for error in told] == ["no file"]


def test_of_fast_steps_a_few_are_drawn(side: JobBar, qtbot: QtBot) -> None:
    def fast() -> Task[None]:
        for done in range(500):
            yield Progress("tiles", done, 500)

    drawn = list[int]()
    side.bar.valueChanged.connect(drawn.append)
    side.start(fast(), lambda _: None)
    qtbot.waitUntil(lambda: not side.is_busy, timeout=LIMIT_MS)
    assert len(drawn) < 100
