"""The files of a folder that is proofread: its images, its counts, and labels on their way to disk."""

import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QObject

from cellwright.core.data import Image, Labels
from cellwright.core.errors import ReadError, WriteError
from cellwright.core.tasks import run
from cellwright.files import atomic
from cellwright.files.images import read_image, write_labels
from cellwright.widgets.annotate import proofread
from cellwright.widgets.annotate.proofread import (
    COUNTS,
    Keeper,
    Tally,
    images_of,
    labels_path,
    read_tallies,
    read_task,
    write_tallies,
)
from cellwright.widgets.shared.journals.journal_files import fresh_journal
from cellwright.widgets.shared.layer_io import layer_arguments

LIMIT_MS = 60_000
QUIT = """
import sys, time
from pathlib import Path
import numpy as np
from napari.qt.threading import WorkerBase
from qtpy.QtWidgets import QApplication
from cellwright.core.data import Image
from cellwright.widgets.annotate import proofread

def slow(*arguments, write=proofread.write_labels):
    time.sleep(0.3)
    write(*arguments)

app = QApplication([])
proofread.write_labels = slow
labels = np.arange(60, dtype=np.int32).reshape(6, 10)
proofread.Keeper(app).keep(Path(sys.argv[1]), labels, Image(labels, "YX"))
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


def test_what_cannot_be_written_keeps_nothing_from_being_written(tmp_path: Path, qtbot: QtBot) -> None:
    (tmp_path / "file").touch()
    owner = QObject()
    keeper = Keeper(owner)
    keeper.keep(tmp_path / "file" / "a.tif", *labels_of(1))
    keeper.keep(tmp_path / "b.tif", *labels_of(2))
    qtbot.waitUntil(lambda: not keeper.is_busy, timeout=LIMIT_MS)
    assert [(path.name, type(error)) for path, error in keeper.errors.items()] == [("a.tif", WriteError)]
    assert (tmp_path / "b.tif").exists()


def test_a_closed_viewer_does_not_stop_it(
    tmp_path: Path, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, has_begun = Event(), Event()

    def slow(*arguments: Any) -> None:
        has_begun.set()
        assert go_on.wait(LIMIT_MS / 1000)
        write_labels(*arguments)

    monkeypatch.setattr(proofread, "write_labels", slow)
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


def test_counts_are_read_as_they_were_written(tmp_path: Path) -> None:
    tallies = {"a": Tally(5, 4, 2), "b": Tally(-1, 0, 0)}
    write_tallies(tmp_path / "x" / COUNTS, [Path("a.png"), Path("b.png"), Path("c.png")], tallies)
    assert read_tallies(tmp_path / "x" / COUNTS) == tallies
    assert read_tallies(tmp_path / "none.csv") == {}
    (tmp_path / "bad.csv").write_text("name,found\na,x\n")
    with pytest.raises(ReadError, match="Remove it"):
        read_tallies(tmp_path / "bad.csv")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="nowhere"):
        images_of(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ReadError, match="found none"):
        images_of(tmp_path)


def test_images_of_a_dataset_have_their_labels_beside_them(tmp_path: Path) -> None:
    for name in ("images/b.png", "images/a.TIF", "images/.hidden.png", "masks/b.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = images_of(tmp_path)
    assert [path.name for path in images] == ["a.TIF", "b.png"]
    assert [labels_path(path) for path in images] == [None, tmp_path / "masks" / "b.tif"]


def test_labels_that_a_palette_colours_are_begun_with(tmp_path: Path) -> None:
    labels = np.zeros((30, 40), np.uint8)
    labels[2:8, 2:8], labels[12:20, 12:20] = 1, 2
    coloured = Picture.fromarray(labels, mode="P")
    coloured.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    (tmp_path / "masks").mkdir()
    coloured.save(tmp_path / "masks" / "a.png")
    Picture.fromarray(100 * labels).save(tmp_path / "a.png")
    found = run(read_task(tmp_path / "a.png", tmp_path / "journals", counts=False))
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize("name", ["b.tif", "B.tif"])
def test_images_whose_labels_would_lie_in_one_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(atomic, "_tells_capitals", lambda _: False)  # as on Windows and macOS
    for each in ("b.png", "a.tif", name):
        (tmp_path / each).touch()
    with pytest.raises(ReadError, match=r"\w\.(png|tif) and \w\.(png|tif) would have the same"):
        images_of(tmp_path)


def test_every_earlier_journal_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    for text in ("first", "second", "third"):
        path.write_text(text)
        fresh_journal(path)
    kept = [one.read_text() for one in tmp_path.iterdir() if ".old" in one.name]
    assert sorted(kept) == ["first", "second", "third"]


def test_a_layer_keeps_pixel_size_and_colours() -> None:
    image = Image(np.zeros((3, 8, 9, 3)), "TYXC", (0.5, 0.25), "film")
    arguments = layer_arguments(image)
    assert arguments["rgb"]
    assert arguments["axis_labels"] == ("t", "y", "x")
    assert arguments["scale"] == (1.0, 0.5, 0.25)
    assert arguments["units"] == ("pixel", "micrometer", "micrometer")
