import threading

from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.widgets.shared.jobs import LiveUpdater


def answer(value: int) -> Task[int]:
    yield Progress("retune", 0, 1)
    return value


def wait(qtbot: QtBot, updater: LiveUpdater) -> None:
    qtbot.waitUntil(lambda: not updater.is_busy, timeout=20_000)


def test_requests_in_quick_order_become_one(qtbot: QtBot) -> None:
    owner = QObject()
    updater = LiveUpdater(owner)
    answers, started = [], []
    updater.updated.connect(answers.append)
    for value in range(5):
        updater.request(lambda value=value: started.append(value) or answer(value))
    wait(qtbot, updater)
    assert (answers, started) == ([4], [4])


def test_what_is_asked_while_one_runs_is_done_after_it_latest_wins(qtbot: QtBot) -> None:
    owner = QObject()
    updater = LiveUpdater(owner)
    answers: list[int] = []
    updater.updated.connect(answers.append)
    may_end = threading.Event()

    def slow() -> Task[int]:
        yield Progress("retune", 0, 1)
        may_end.wait(20)
        return 0

    updater.request(slow)
    qtbot.waitUntil(lambda: updater._job is not None, timeout=20_000)
    updater.request(lambda: answer(1))
    updater.request(lambda: answer(2))
    qtbot.wait(150)
    may_end.set()
    wait(qtbot, updater)
    assert answers == [0, 2]


def test_forget_drops_waiting_and_running(qtbot: QtBot) -> None:
    owner = QObject()
    updater = LiveUpdater(owner)
    answers: list[int] = []
    updater.updated.connect(answers.append)
    updater.request(lambda: answer(1))
    updater.forget()
    assert not updater.is_busy
    may_end = threading.Event()

    def slow() -> Task[int]:
        yield Progress("retune", 0, 1)
        may_end.wait(20)
        return 2

    updater.request(slow)
    qtbot.waitUntil(lambda: updater._job is not None, timeout=20_000)
    updater.forget()
    may_end.set()
    wait(qtbot, updater)
    assert answers == []


def test_failures_are_told_and_do_not_stop_the_next(qtbot: QtBot) -> None:
    owner = QObject()
    updater = LiveUpdater(owner)
    answers: list[int] = []
    errors: list[Exception] = []
    updater.updated.connect(answers.append)
    updater.failed.connect(errors.append)

    def fail() -> Task[int]:
        yield Progress("retune", 0, 1)
        raise SettingsError("no maps")

    updater.request(fail)
    wait(qtbot, updater)
    updater.request(lambda: answer(3))
    wait(qtbot, updater)
    assert [str(error) for error in errors] == ["no maps"]
    assert answers == [3]
