import time
from threading import Event

import pytest

from cellwright.core.tasks import Eta, Progress, ahead, beside, detached, run, stop_point


def counting(n, log):
    try:
        for done in range(n):
            yield Progress("count", done, n)
        return n * 10
    finally:
        log.append("closed")


def test_run_returns_the_result_and_shows_every_step():
    steps, log = [], []
    assert run(counting(3, log), steps.append) == 30
    assert [step.done for step in steps] == [0, 1, 2]
    assert log == ["closed"]


def test_run_needs_no_listener_and_no_steps():
    assert run(counting(0, [])) == 0


def test_an_error_in_the_task_comes_through():
    def failing():
        yield Progress("fail", 0, 1)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        run(failing())


def test_a_listener_that_fails_ends_the_task():
    log = []

    def refuse(progress):
        raise KeyboardInterrupt

    task = counting(3, log)
    with pytest.raises(KeyboardInterrupt):
        run(task, refuse)
    task.close()
    assert log == ["closed"]


def test_closing_frees_what_a_task_holds():
    log = []
    task = counting(3, log)
    next(task)
    task.close()
    assert log == ["closed"]


@pytest.mark.parametrize(("done", "total", "fraction"), [(0, 4, 0.0), (1, 4, 0.25), (4, 4, 1.0), (0, 0, 0.0)])
def test_fraction(done, total, fraction):
    assert Progress("any", done, total).fraction == fraction


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_the_time_left_follows_the_pace_of_the_stage():
    clock = Clock()
    eta = Eta(clock)
    assert eta.seconds_left(Progress("tiles", 2, 10)) is None
    clock.now += 4
    assert eta.seconds_left(Progress("tiles", 4, 10)) == pytest.approx(12)
    clock.now += 10
    assert eta.seconds_left(Progress("tiles", 9, 10)) == pytest.approx(2)
    assert eta.seconds_left(Progress("tiles", 10, 10)) == 0


def test_a_new_stage_begins_a_new_pace():
    clock = Clock()
    eta = Eta(clock)
    eta.seconds_left(Progress("read", 0, 2))
    clock.now += 60
    assert eta.seconds_left(Progress("tiles", 0, 10)) is None
    clock.now += 1
    assert eta.seconds_left(Progress("tiles", 1, 10)) == pytest.approx(9)


def test_a_stage_that_goes_on_keeps_its_pace():
    clock = Clock()
    eta = Eta(clock)
    for done in range(5):
        eta.seconds_left(Progress("fine-tune", done, 100))
        clock.now += 1
    eta.seconds_left(Progress("evaluate", 0, 3))
    clock.now += 600
    assert eta.seconds_left(Progress("fine-tune", 5, 100)) == pytest.approx(95)
    clock.now += 6  # one slow step says little
    assert eta.seconds_left(Progress("fine-tune", 6, 100)) == pytest.approx(2 * 94)


def test_no_progress_tells_no_time():
    clock = Clock()
    eta = Eta(clock)
    for _ in range(3):
        assert eta.seconds_left(Progress("tiles", 5, 10)) is None
        clock.now += 1


def test_a_total_that_shrank_leaves_no_negative_time():
    clock = Clock()
    eta = Eta(clock)
    eta.seconds_left(Progress("tiles", 0, 10))
    clock.now += 1
    assert eta.seconds_left(Progress("tiles", 9, 8)) == 0


def test_the_clock_of_the_machine_is_used_by_default():
    eta = Eta()
    eta.seconds_left(Progress("tiles", 0, 2))
    assert 0 <= eta.seconds_left(Progress("tiles", 1, 2)) < 60


def test_a_long_call_gives_what_it_returns_and_yields_meanwhile():
    go_on = Event()
    task = beside("wait", lambda: go_on.wait() and 7)
    assert [next(task).stage for _ in range(3)] == ["wait"] * 3
    go_on.set()
    assert run(task) == 7


def test_an_error_of_a_long_call_comes_through():
    with pytest.raises(ZeroDivisionError):
        run(beside("divide", lambda: 1 / 0))


def test_a_long_call_ends_at_its_next_stop_point_when_its_task_is_closed():
    reached, go_on, ended = [], Event(), Event()

    def act():
        try:
            stop_point()
            reached.append("first")
            go_on.wait()
            stop_point()
            reached.append("second")
        finally:
            ended.set()

    task = beside("act", act)
    next(task)
    started = time.monotonic()
    task.close()
    assert time.monotonic() - started < 1.0
    go_on.set()
    assert ended.wait(10)
    assert reached == ["first"]
    stop_point()  # of no task: goes on


def test_a_detached_task_tells_its_steps_and_gives_what_it_returns():
    log, seen = [], []
    assert run(detached("begin", counting(3, log)), seen.append) == 30
    assert {one.stage for one in seen} <= {"begin", "count"}
    assert log == ["closed"]


def test_a_detached_task_ends_at_once_and_the_other_at_its_next_step():
    go_on, ended = Event(), Event()

    def slow():
        try:
            go_on.wait()
            yield Progress("slow", 0, 2)
            raise AssertionError("went on")
        finally:
            ended.set()

    task = detached("begin", slow())
    assert next(task) == Progress("begin", 0, 1)
    started = time.monotonic()
    task.close()
    assert time.monotonic() - started < 1.0
    go_on.set()
    assert ended.wait(10)


def test_what_is_made_ahead_comes_in_order_and_is_begun_no_earlier_than_said():
    begun = []

    def doubled(n):
        begun.append(n)
        return 2 * n

    made = ahead(doubled, range(6), n_ahead=2)
    assert next(made).result() == 0
    time.sleep(0.05)
    assert begun == [0, 1, 2]
    assert [one.result() for one in made] == [2, 4, 6, 8, 10]


def test_what_fails_ahead_fails_where_it_is_wanted():
    made = ahead(lambda n: 1 // n, [2, 0])
    assert next(made).result() == 0
    with pytest.raises(ZeroDivisionError):
        next(made).result()


def test_nothing_more_is_made_ahead_once_it_is_closed():
    begun, go_on = [], Event()

    def slow(n):
        begun.append(n)
        go_on.wait(5)

    made = ahead(slow, range(9), n_ahead=3)
    next(made)
    made.close()
    go_on.set()
    time.sleep(0.05)
    assert begun == [0]
