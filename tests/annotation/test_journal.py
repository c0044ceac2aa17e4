import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cellwright.annotation import journal as journals
from cellwright.annotation.journal import is_open, read_journal
from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import AnnotationError, ReadError, WriteError

AXES = ("YX", "ZYX", "TYX", "TZYX")

EDIT_UNTIL_KILLED = """
import sys
import numpy as np
from pathlib import Path
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image

labels = np.zeros((200, 200), np.int32)
session = AnnotationSession(Image(labels.astype(np.uint8), "YX"), labels, journal=Path(sys.argv[1]))
rng = np.random.default_rng(int(sys.argv[2]))
print("begun", flush=True)
for n_done in range(1, 100_000):
    ids = session.store.numbers()
    if len(ids) > 20:
        session.delete(int(rng.choice(ids)))
    else:
        y, x = rng.integers(0, 200, 2)
        session.add_disc((y, x), 5) if not labels[y, x] else session.grow(int(labels[y, x]), 1)
    print(len(session.history.done), flush=True)
"""


@pytest.mark.parametrize("axes", AXES)
def test_what_is_read_back_is_what_was_done(axes, draw_session, edit_at_random, state_of, tmp_path):
    for seed in range(12):
        path = tmp_path / f"{seed}.journal"
        session, rng = draw_session(axes, seed, path), np.random.default_rng(seed)
        for _ in range(15):
            edit_at_random(session, rng)
        session.close()
        again = AnnotationSession.open_journal(path, session.image)
        assert state_of(again) == state_of(session)
        for step in ("undo", "redo"):
            while getattr(session, step)():
                assert getattr(again, step)()
                assert state_of(again) == state_of(session)
            assert not getattr(again, step)()
        edit_at_random(again, rng)
        again.close()
        third = AnnotationSession.open_journal(path)
        assert state_of(third) == state_of(again)
        third.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_journal_cut_anywhere_gives_the_edits_before(seed, draw_session, state_of, journal):
    session = draw_session("YX", seed, journal)
    ends, states = [journal.stat().st_size], [state_of(session)]
    for number in session.store.numbers().tolist()[:5]:
        session.set_reviewed(number) if number % 2 else session.delete(number)
        ends.append(journal.stat().st_size)
        states.append(state_of(session))
    session.close()
    whole = journal.read_bytes()
    for length in sorted({*random.Random(seed).sample(range(ends[0], len(whole)), 20), *ends}):
        journal.write_bytes(whole[:length])
        assert read_journal(journal).n_bytes == max(end for end in ends if end <= length)
        again = AnnotationSession.open_journal(journal)
        assert state_of(again) == states[sum(end <= length for end in ends) - 1]
        again.add_disc((20, 24), 200)
        again.close()
        third = AnnotationSession.open_journal(journal)
        assert state_of(third) == state_of(again)
        third.close()


def test_a_damaged_record_ends_the_journal(draw_session, state_of, journal):
    session = draw_session("YX", 1, journal)
    first, *others = session.store.numbers().tolist()
    session.delete(first)
    expected, length = state_of(session), journal.stat().st_size
    session.delete(others[0])
    session.close()
    data = bytearray(journal.read_bytes())
    data[length + 20] ^= 0xFF
    journal.write_bytes(data)
    assert state_of(AnnotationSession.open_journal(journal)) == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PNG" + data,
        lambda data: data[: len(journals.MAGIC)],
        lambda data: data[: len(journals.MAGIC) + 40],
        lambda data: data[:60] + b"\0" + data[61:],
    ],
)
def test_a_journal_without_a_beginning(damage, draw_session, journal):
    draw_session("YX", 1, journal).close()
    journal.write_bytes(damage(journal.read_bytes()))
    before = journal.read_bytes()
    with pytest.raises(ReadError, match=r"Expected a (whole )?journal"):
        AnnotationSession.open_journal(journal)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("shape", [(24, -1), (0, 30), (7, 9), (24,)])
def test_an_image_of_another_shape_than_its_labels(shape, draw_session, journal):
    draw_session("YX", 1, journal).close()
    start = read_journal(journal).start
    wrong = journals.pack_start(replace(start, image=replace(start.image, shape=shape)))
    journal.write_bytes(journals.MAGIC + journals._record(wrong))
    with pytest.raises(ReadError, match="damaged"):
        AnnotationSession.open_journal(journal)


def test_labels_without_pixels(draw_session, journal):
    draw_session("YX", 1, journal).close()
    start = read_journal(journal).start
    wrong = journals.pack_start(replace(start, labels=start.labels[:, :0]))
    journal.write_bytes(journals.MAGIC + journals._record(wrong))
    with pytest.raises(ReadError, match="damaged"):
        AnnotationSession.open_journal(journal)


def test_a_record_that_is_no_edit(draw_session, journal):
    draw_session("YX", 1, journal).close()
    with journal.open("ab") as file:
        file.write(journals._record(b"\2\0\0\0{}"))
    with pytest.raises(ReadError, match="damaged"):
        AnnotationSession.open_journal(journal)


def test_a_journal_is_not_overwritten(draw_session, journal, tmp_path):
    draw_session("YX", 1, journal).close()
    with pytest.raises(WriteError, match="is there"):
        draw_session("YX", 1, journal)
    with pytest.raises(ReadError, match="No such file"):
        AnnotationSession.open_journal(tmp_path / "none")


def test_a_journal_belongs_to_its_image(draw_session, journal):
    session = draw_session("YX", 1, journal)
    session.close()
    image = session.image
    renamed = replace(image, name="moved elsewhere")
    AnnotationSession.open_journal(journal, renamed).close()
    for other in (replace(image, data=image.data + 1), replace(image, data=image.data[1:])):
        with pytest.raises(AnnotationError, match="belongs to image 'drawn'"):
            AnnotationSession.open_journal(journal, other)
    without = AnnotationSession.open_journal(journal)
    assert (without.image.name, without.image.axes, without.image.shape) == ("drawn", "YX", image.shape)


def test_opening_leaves_out_what_no_redo_can_reach(draw_session, state_of, journal):
    session = draw_session("YX", 1, journal)
    numbers = session.store.numbers().tolist()
    for _ in range(20):
        session.delete(numbers[0])
        session.undo()
    for number in numbers[1:4]:
        session.delete(number)
    session.undo()
    session.close()
    long = journal.stat().st_size
    again = AnnotationSession.open_journal(journal)
    assert journal.stat().st_size < long / 2
    assert again.redo()
    assert len(again.history.done) == 3
    again.close()
    assert state_of(AnnotationSession.open_journal(journal)) == state_of(again)


HOLD = """
import sys, time
from pathlib import Path
from cellwright.annotation.session import AnnotationSession

session = AnnotationSession.open_journal(Path(sys.argv[1]))
session.delete(int(session.store.numbers()[0]))
print("open", flush=True)
time.sleep(600)
"""


def test_a_journal_is_open_once(draw_session, state_of, journal):
    session = draw_session("YX", 1, journal)
    session.delete(int(session.store.numbers()[0]))
    before = journal.read_bytes()
    assert is_open(journal)
    with pytest.raises(WriteError, match=r"another window or program has it.*duplicate the image's layer"):
        AnnotationSession.open_journal(journal)
    assert journal.read_bytes() == before
    session.delete(int(session.store.numbers()[0]))
    expected = state_of(session)
    session.close()
    assert not is_open(journal)
    again = AnnotationSession.open_journal(journal)
    assert state_of(again) == expected
    again.close()


def test_what_cannot_be_opened_is_not_locked(draw_session, journal):
    draw_session("YX", 1, journal).close()
    with pytest.raises(AnnotationError, match="belongs to image"):
        AnnotationSession.open_journal(journal, draw_session("ZYX").image)
    with pytest.raises(WriteError, match="is there"):
        draw_session("YX", 1, journal)
    AnnotationSession.open_journal(journal).close()


def test_a_program_holds_its_journal_until_it_is_killed(draw_session, journal):
    session = draw_session("YX", 1, journal)
    n_cells = len(session.store)
    session.close()
    with subprocess.Popen([sys.executable, "-c", HOLD, str(journal)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        assert is_open(journal)
        with pytest.raises(WriteError, match="another window or program has it"):
            AnnotationSession.open_journal(journal)
        holder.kill()
    assert not is_open(journal)
    again = AnnotationSession.open_journal(journal)
    assert len(again.store) == n_cells - 1
    again.close()


def test_a_killed_program_loses_no_finished_edit(tmp_path: Path):
    for seed in range(2):  # and many more in test_kill.py
        path = tmp_path / f"{seed}.journal"
        command = [sys.executable, "-c", EDIT_UNTIL_KILLED, str(path), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(random.Random(seed).uniform(0, 0.3))
            process.kill()
            n_told = int((["0", *process.stdout.read().split("\n")[:-1]])[-1])
        session = AnnotationSession.open_journal(path)
        assert n_told <= len(session.history.done) <= n_told + 1
        assert session.undo() or n_told == 0
        session.close()
