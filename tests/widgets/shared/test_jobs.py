import threading
from typing import Any

import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from cellwright.core.errors import ImageError, JobError
from cellwright.core.tasks import Progress, Task
from cellwright.widgets.shared.jobs import Job


class Heard:
    """Notes what a job told, in order, and in which thread."""

    def __init__(self, job: Job) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        job.progressed.connect(lambda value: self._note("progressed", value.done))
        job.returned.connect(lambda value: self._note("returned", value))
        job.failed.connect(lambda error: self._note("failed", error))
        job.cancelled.connect(lambda: self._note("cancelled", None))
        job.finished.connect(lambda: self._note("finished", None))

    def _note(self, name: str, value: Any) -> None:
        self.told.append((name, value))
        self.threads.add(threading.get_ident())

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]


def run(qtbot: QtBot, job: Job) -> Heard:
    heard = Heard(job)
    with qtbot.waitSignal(job.finished, timeout=20_000):
        job.start()
    return heard


def test_steps_and_result_arrive_in_the_gui_thread(qtbot: QtBot) -> None:
    seen = []

    def task() -> Task[str]:
        seen.append(threading.get_ident())
        yield Progress("a", 1, 2)
        yield Progress("a", 2, 2)
        return "done"

    heard = run(qtbot, Job(task()))
    assert heard.told == [("progressed", 1), ("progressed", 2), ("returned", "done"), ("finished", None)]
    assert heard.threads == {threading.get_ident()}
    assert seen != [threading.get_ident()]


@pytest.mark.parametrize("first_step", [True, False])
def test_a_runtime_error_is_told_under_our_name(qtbot: QtBot, first_step: bool) -> None:
    def task() -> Task[None]:
        if not first_step:
            yield Progress("a", 1, 2)
        raise RuntimeError("CUDA out of memory")
        yield

    heard = run(qtbot, Job(task()))
    name, error = heard.told[-2]
    assert name == "failed"
    assert isinstance(error, JobError)
    assert "CUDA out of memory" in str(error)
    assert heard.names[-1] == "finished"


def test_other_errors_are_told_as_they_are(qtbot: QtBot) -> None:
    def task() -> Task[None]:
        yield Progress("a", 1, 2)
        raise ImageError("all NaN")

    heard = run(qtbot, Job(task()))
    assert isinstance(dict(heard.told)["failed"], ImageError)
    assert heard.names == ["progressed", "failed", "finished"]


def test_cancel_closes_the_task_before_it_is_told(qtbot: QtBot) -> None:
    closed = []

    def task() -> Task[None]:
        try:
            for index in range(100_000):
                yield Progress("a", index, 100_000)
        finally:
            closed.append(threading.get_ident())

    job = Job(task())
    heard = Heard(job)
    job.progressed.connect(lambda _: job.cancel())
    was_closed = []
    job.cancelled.connect(lambda: was_closed.extend(closed))
    with qtbot.waitSignal(job.finished, timeout=20_000):
        job.start()
    assert heard.names == ["progressed", "cancelled", "finished"]
    assert len(was_closed) == 1
    assert was_closed[0] != threading.get_ident()


def test_cancel_before_the_first_step(qtbot: QtBot) -> None:
    steps = []

    def task() -> Task[None]:
        steps.append(1)
        yield Progress("a", 1, 1)

    job = Job(task())
    job.cancel()
    assert run(qtbot, job).names == ["cancelled", "finished"]
    assert steps == []


def test_cancel_after_the_last_step_withholds_the_result(qtbot: QtBot) -> None:
    may_return = threading.Event()

    def task() -> Task[str]:
        yield Progress("a", 1, 1)
        may_return.wait(20)
        return "too late"

    job = Job(task())

    def cancel_then_let_go(_: Progress) -> None:
        job.cancel()
        may_return.set()

    heard = Heard(job)
    job.progressed.connect(cancel_then_let_go)
    with qtbot.waitSignal(job.finished, timeout=20_000):
        job.start()
    assert heard.names == ["progressed", "cancelled", "finished"]


def test_a_task_stops_when_its_owner_goes(qtbot: QtBot) -> None:
    closed = threading.Event()

    def task() -> Task[None]:
        try:
            while True:
                yield Progress("a", 1, 2)
        finally:
            closed.set()

    owner = QObject()
    Job(task(), owner).start()
    assert not closed.wait(0.1)
    owner.deleteLater()
    qtbot.waitUntil(closed.is_set, timeout=5000)
