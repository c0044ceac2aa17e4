"""Labels on their way to disk: in order, beside the viewer, and whatever happens before the program ends."""

import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from cellwright.core.data import Image, Labels
from cellwright.core.errors import WriteError
from cellwright.files.images import read_image, write_labels
from cellwright.widgets.annotate.proofread import results
from cellwright.widgets.annotate.proofread.results import Keeper, Writes

LIMIT_MS = 60_000
QUIT = """
import sys
from pathlib import Path
import numpy as np
from napari.qt.threading import WorkerBase
from qtpy.QtCore import QObject, QThreadPool
from qtpy.QtWidgets import QApplication
from cellwright.core.data import Image
from cellwright.widgets.annotate.proofread.results import Keeper

app = QApplication([])
QThreadPool.globalInstance().setMaxThreadCount(1)
QThreadPool.globalInstance().start(lambda: __import__("time").sleep(0.3))  # a job that is in the way
labels = np.arange(60, dtype=np.int32).reshape(6, 10)
Keeper(app).keep(Path(sys.argv[1]), labels, Image(labels, "YX"))
app.aboutToQuit.connect(WorkerBase.await_workers)  # as napari does
app.quit()
WorkerBase.await_workers()
print("written" if Path(sys.argv[1]).exists() else "waiting")
"""


def labels_of(number: int) -> tuple[Labels, Image]:
    labels = np.full((6, 10), number, np.int32)
    return labels, Image(labels, "YX")


def test_the_last_labels_of_an_image_win(tmp_path: Path, qtbot: QtBot) -> None:
    owner = QObject()
    keeper = Keeper(owner)
    for number in (1, 2, 3):
        keeper.keep(tmp_path / "a.tif", *labels_of(number))
    keeper.keep(tmp_path / "b.tif", *labels_of(4))
    qtbot.waitUntil(lambda: not keeper.is_busy, timeout=LIMIT_MS)
    assert [int(np.max(read_image(tmp_path / name).data)) for name in ("a.tif", "b.tif")] == [3, 4]
    assert keeper.errors == {}


def test_what_cannot_be_written_keeps_nothing_from_being_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writes = Writes()
    writes.add(tmp_path / "file" / "a.tif", *labels_of(1))
    writes.add(tmp_path / "b.tif", *labels_of(2))
    writes.drain()
    assert [(path.name, type(error)) for path, error in writes.errors.items()] == [("a.tif", WriteError)]
    assert (tmp_path / "b.tif").exists()


def test_a_closed_viewer_does_not_stop_it(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, has_begun = Event(), Event()

    def slow(*arguments: Any) -> None:
        has_begun.set()
        assert go_on.wait(LIMIT_MS / 1000)
        write_labels(*arguments)

    monkeypatch.setattr(results, "write_labels", slow)
    owner = QObject()
    Keeper(owner).keep(tmp_path / "a.tif", *labels_of(1))
    assert has_begun.wait(LIMIT_MS / 1000)
    with qtbot.waitSignal(owner.destroyed, timeout=LIMIT_MS):
        owner.deleteLater()
    go_on.set()
    qtbot.waitUntil(lambda: (tmp_path / "a.tif").exists(), timeout=LIMIT_MS)


def test_the_program_does_not_end_before(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    command = [sys.executable, "-c", QUIT, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "waiting"), done.stderr
    np.testing.assert_array_equal(read_image(path).data, np.arange(60).reshape(6, 10))
