import signal
import sys
import threading
from types import ModuleType

import pytest

from cellwright import __main__ as command
from cellwright.cli.output import run_with_bar
from cellwright.core.tasks import Progress
from cellwright.models import store


class Losing:
    """Is interrupted where nobody can catch what that raises."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        for _ in range(3):  # time for Python to call the handler here
            pass


def counting(steps, *, lost_after):
    for step in range(5):
        yield Progress("count", step, 5)
        steps.append(step)
        if step == lost_after:
            Losing()
    return "counted"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("lost_after", "n_steps"), [(1, 2), (4, 5)])
def test_an_interrupt_that_python_lost_ends_the_work_at_the_next_step(lost_after, n_steps):
    steps, before = [], signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_with_bar(counting(steps, lost_after=lost_after), "test")
    assert len(steps) == n_steps
    assert signal.getsignal(signal.SIGINT) is before


def test_work_that_nobody_interrupts_ends_as_it_should():
    before = signal.getsignal(signal.SIGINT)
    assert run_with_bar(counting([], lost_after=None), "test") == "counted"
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_no_signal_is_waited_for():
    found = []
    thread = threading.Thread(
        target=lambda: found.append(run_with_bar(counting([], lost_after=None), "test"))
    )
    thread.start()
    thread.join()
    assert found == ["counted"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("breaks", [False, True])
def test_an_interrupt_while_models_load_ends_with_a_word(cli, image_path, monkeypatch, breaks):
    def load(_):
        Losing()
        if breaks:
            raise ImportError("half of a module")
        return "never used"

    monkeypatch.setattr(store, "load", load)
    assert cli("count", image_path) == (130, "", "Cancelled.\n")


def test_an_interrupt_while_the_command_loads_ends_with_a_word(capsys, monkeypatch):
    class Loading(ModuleType):
        def __getattr__(self, name):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(sys.modules, "cellwright.cli.app", Loading("main"))
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert (ended.value.code, capsys.readouterr().err) == (130, "Cancelled.\n")
