"""A program killed while it edits or exports: the script that does so 200 times, here ten times."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "kill_session.py"


def test_a_kill_loses_nothing_that_was_done() -> None:
    command = [sys.executable, str(SCRIPT), "--times", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("killed 10 times") == 2
    assert done.stdout.count("wrong: nothing") == 2
