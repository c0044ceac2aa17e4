import numpy as np
import pytest

from cellwright.annotation.session import AnnotationSession
from cellwright.annotation.setup import Columns, paste_labels
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError, WriteError
from cellwright.ops.label_changes import boxes_of

AXES = ("YX", "ZYX", "TYX", "TZYX")


def image(shape=(40, 60), axes="YX"):
    return Image(np.zeros(shape, np.uint8), axes)


@pytest.mark.no_cover  # at random through what other tests cover
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("chunk", range(3))
def test_undo_restores_every_byte_and_redo_the_end(axes, chunk, draw_session, edit_at_random, state_of):
    for seed in range(60 * chunk, 60 * chunk + 60):
        session, rng = draw_session(axes, seed), np.random.default_rng(seed)
        first = state_of(session)
        for _ in range(8):
            edit_at_random(session, rng)
        while session.redo():
            pass
        end = state_of(session)
        steps = [end]
        while session.undo():
            steps.append(state_of(session))
        assert steps[-1] == first, seed
        for expected in steps[-2::-1]:
            assert session.redo()
            assert state_of(session) == expected, seed
        assert not session.redo()


@pytest.mark.parametrize("axes", AXES)
def test_boxes_and_facts_follow_every_edit(axes, draw_session, edit_at_random):
    for seed in range(10):
        session, rng = draw_session(axes, seed), np.random.default_rng(seed + 1000)
        for _ in range(25):
            edit_at_random(session, rng)
            found = boxes_of(session.labels)
            assert {n: session.store.box_of(n) for n in session.store.numbers().tolist()} == found
            assert all(0 <= session.store.cell(n).score <= 1 for n in found)
            assert session.store.next_number > max(found, default=0)


def test_labels_of_the_right_type_are_edited_in_place(three):
    session = AnnotationSession(image(), three)
    assert session.labels is three
    session.delete(1)
    assert not (three == 1).any()
    assert AnnotationSession(image(), three.astype(np.uint16)).labels.dtype == np.int32


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (np.zeros((4, 4), np.int32), {}, "image's shape"),
        (np.zeros((40, 60)), {}, "whole numbers"),
        (np.full((40, 60), -1), {}, "between 0"),
        (np.full((40, 60), 2**40), {}, "between 0"),
        (np.full((40, 60), 2), {"scores": [0.5]}, "scores must have an entry"),
        (np.full((40, 60), 2), {"classes": [0]}, "classes must have an entry"),
    ],
)
def test_what_does_not_fit_the_image(labels, options, message):
    with pytest.raises(AnnotationError, match=message):
        AnnotationSession(image(), labels, **options)


@pytest.mark.parametrize("axes", ["XY", "YTX", "ZTYX"])
def test_axes_that_cannot_be_annotated(axes):
    with pytest.raises(AnnotationError, match="end with YX and begin with T"):
        AnnotationSession(image((4, 5, 6, 7)[: len(axes)], axes))


def test_channels_have_no_labels(three):
    assert AnnotationSession(image((3, 40, 60), "CYX"), three).labels.shape == (40, 60)
    assert AnnotationSession(image((40, 60, 3), "YXC")).labels.shape == (40, 60)


def test_numbers_are_never_used_again(session_of):
    session = session_of()
    assert session.store.next_number == 8
    assert session.add_disc((5, 50), 6) == 8
    session.undo()
    assert session.add_disc((5, 50), 6) == 9
    session.delete(9)
    assert session.split_line(1, [[15, 5], [15, 25]]) == (10,)


def test_what_changes_nothing_is_no_edit(session_of):
    session = session_of()
    session.fill(1)
    session.set_class(1, None)
    session.set_reviewed(1, False)
    assert not session.undo()
    session.set_reviewed(1)
    session.set_reviewed(1)
    assert len(session.history.done) == 1


def test_a_new_edit_forgets_what_was_undone(session_of):
    session = session_of()
    session.delete(1)
    session.undo()
    session.delete(2)
    assert not session.history.undone
    assert session.history.undo_name == "delete"
    assert session.undo()
    assert session.history.undo_name == ""
    assert session.store.numbers().tolist() == [1, 2, 7]


def test_cells_are_rows_in_the_order_of_their_numbers(session_of):
    session = session_of(class_names=("a",))
    session.set_class(7, 0)
    cells = session.store.to_cells()
    assert session.store.numbers().tolist() == [1, 2, 7]
    assert np.array_equal(np.unique(cells.labels), range(4))
    assert cells.classes.tolist() == [-1, -1, 0]
    assert np.allclose(cells.scores, [0.1, 0.2, 0.7])
    assert cells.areas.tolist() == [100, 100, 60]
    assert np.allclose(cells.points[2], session.store.centre_of(7))
    assert len(AnnotationSession(image()).store.to_cells()) == 0


def test_number_at_a_point(session_of):
    session = session_of()
    points = [(10, 10), (9.6, 19.6), (0, 0), (-5, 3), (39, 60)]
    assert [session.store.number_at(p) for p in points] == [1, 2, 0, 0, 0]


def test_regions_are_cut_to_the_image(session_of):
    session = session_of()
    session.add_region((slice(-100, 20), slice(None, 500)))
    assert session.metadata.regions in (((slice(0, 20), slice(0, 60)),),)
    with pytest.raises(AnnotationError, match="part of the image"):
        session.add_region((slice(50, 60), slice(0, 10)))
    with pytest.raises(AnnotationError, match="2 sides"):
        session.add_region((slice(0, 5),))
    with pytest.raises(AnnotationError, match="Region 1"):
        session.remove_region(1)
    with pytest.raises(AnnotationError, match="Region 1"):
        session.move_region(1, (slice(0, 5), slice(0, 5)))
    session.move_region(0, (slice(5, 9), slice(5, 500)))
    assert session.metadata.regions == ((slice(5, 9), slice(5, 60)),)
    session.remove_region(0)
    assert session.metadata.regions == ()


def test_a_class_must_have_a_name(session_of):
    session = session_of(class_names=("a",))
    with pytest.raises(AnnotationError, match="between 0 and 0"):
        session.set_class(1, 1)
    session.set_class_names(["a", "b"])
    session.set_class(1, 1)
    assert session.store.cell(1).category == 1


def test_a_class_that_is_added_has_no_cells_of_one_that_was_removed(session_of):
    session = session_of(class_names=("a", "b"))
    session.set_class(1, 0)
    session.set_class(2, 1)
    assert session.set_class_names(["a"]) == {"b": 1}
    assert session.set_class_names(["a", "c"]) == {}
    assert [session.store.cell(number).category for number in (1, 2)] == [0, None]
    session.undo()
    session.undo()
    assert [session.store.cell(number).category for number in (1, 2)] == [0, 1]


def test_classes_without_a_name_take_that_of_their_place(session_of):
    session = session_of()
    session.set_class(1, 0)
    session.set_class(2, 1)
    assert session.set_class_names(["a"]) == {}
    assert session.set_class_names(["a", "b"]) == {}
    assert [session.store.cell(number).category for number in (1, 2)] == [0, 1]


def test_cells_keep_their_class_where_its_name_moves(session_of):
    session = session_of(class_names=("a", "b"))
    session.set_class(1, 0)
    session.set_class(2, 1)
    for names, classes in (
        (["c", "a", "b"], [1, 2]),
        (["a", "b"], [0, 1]),
        (["b"], [None, 0]),
        (["x"], [None, 0]),
    ):
        session.set_class_names(names)
        assert [session.store.cell(number).category for number in (1, 2)] == classes
    for _ in range(4):
        session.undo()
    assert [session.store.cell(number).category for number in (1, 2)] == [0, 1]


def test_listeners_are_told_what_changed(session_of):
    session = session_of(class_names=("a",))
    told = []
    for name in ("changed", "reviewed", "classes", "regions"):
        session.history.events[name].connect(lambda value, name=name: told.append((name, value)))
    session.history.events.history.connect(lambda: told.append(("history", None)))
    session.delete(2)
    assert [name for name, _ in told] == ["changed", "history"]
    edited = told[0][1]
    assert (edited.name, edited.numbers) == ("delete", (2,))
    assert edited.boxes == ((slice(10, 20), slice(20, 30)),)
    told.clear()
    session.set_class(1, 0)
    session.set_reviewed(1)
    session.add_region((slice(0, 5), slice(0, 5)))
    session.undo()
    kinds = [(name, value) for name, value in told if name != "history"]
    region = (slice(0, 5), slice(0, 5))
    assert kinds == [("classes", (1,)), ("reviewed", (1,)), ("regions", (region,)), ("regions", ())]


def test_labels_of_a_part_lie_where_it_does(three):
    whole = np.zeros_like(three)
    paste_labels(whole, three[8:22, 8:32], (8, 8))
    assert np.array_equal(whole, np.where(three == 7, 0, three))
    with pytest.raises(AnnotationError, match="inside the image"):
        paste_labels(whole, three[8:22, 8:32], (30, 8))


def test_discs_of_points_come_back(journal):
    columns = Columns(scores=[0.5, 0.25], class_names=("a",))
    session = AnnotationSession.from_points([[9, 9], [20, 30]], image(), 6, columns, journal=journal)
    assert session.store.cell(2).score == 0.25
    session.close()
    again = AnnotationSession.open_journal(journal)
    assert np.array_equal(again.labels, session.labels)
    assert not again.metadata.has_masks
    assert again.metadata.class_names == ("a",)


@pytest.mark.parametrize("axes", AXES)
def test_every_point_has_a_disc_of_its_own(axes, rng):
    shape = (3, 4, 40, 50)[4 - len(axes) :] if axes != "TYX" else (3, 40, 50)
    places = np.unique(np.stack([rng.integers(0, n, 60) for n in shape], axis=1), axis=0)
    session = AnnotationSession.from_points(places, Image(np.zeros(shape, np.uint8), axes), 9)
    assert len(session.store) == len(places)
    assert [session.store.number_at(place) for place in places] == list(range(1, len(places) + 1))
    if "T" in axes:
        assert all(
            session.store.box_of(n)[0].stop - session.store.box_of(n)[0].start == 1
            for n in session.store.numbers().tolist()
        )


@pytest.mark.parametrize("points", [[[5, 60]], [[-1, 0]], [[np.nan, 1]], [[3, 3], [3.2, 3]]])
def test_points_that_make_no_cells(points):
    with pytest.raises(AnnotationError, match="Points must"):
        AnnotationSession.from_points(points, image(), 8)
    assert len(AnnotationSession.from_points([], image(), 8).store) == 0


def test_a_journal_that_cannot_be_written_undoes_the_edit(journal, monkeypatch, state_of, session_of):
    session = session_of(journal=journal)
    before = state_of(session)
    monkeypatch.setattr(
        type(session._journal), "_write", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    box = (slice(5, 15), slice(5, 25))
    old = session.labels[box].copy()
    session.labels[box] = 30
    for edit in (lambda: session.record_paint(box, old, session.labels[box]), lambda: session.delete(2)):
        with pytest.raises(WriteError, match=r"full.*Make room"):
            edit()
        assert state_of(session) == before
    monkeypatch.undo()
    session.delete(1)
    session.close()
    assert np.array_equal(AnnotationSession.open_journal(journal).labels, session.labels)


@pytest.mark.parametrize("axes", AXES)
def test_a_copy_lives_by_itself(axes, draw_session, edit_at_random, state_of, journal):
    session, rng = draw_session(axes, 3, journal), np.random.default_rng(3)
    for _ in range(10):
        edit_at_random(session, rng)
    copied, before, length = session.copy(), state_of(session), journal.stat().st_size
    assert state_of(copied) == before
    told = []
    session.history.events.history.connect(lambda: told.append("told"))
    for _ in range(10):
        edit_at_random(copied, rng)
    while copied.undo():
        pass
    assert (state_of(session), journal.stat().st_size, told) == (before, length, [])
    copied.close()
    while session.undo():
        pass
    assert state_of(copied) == state_of(session)
    session.close()
