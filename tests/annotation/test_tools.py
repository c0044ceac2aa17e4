import numpy as np
import pytest

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError


def test_facts_go_with_their_cells(session_of):
    session = session_of(class_names=("a", "b"))
    session.set_class(1, 1)
    (part,) = session.split_seeds(1, (12, 15), (18, 15))
    assert session.store.cell(part).category == 1
    assert session.store.cell(part).score == session.store.cell(1).score == pytest.approx(0.1)
    assert session.store.is_reviewed(1)
    assert session.store.is_reviewed(part)
    session.merge(2, 1)
    assert 1 not in session.store
    assert session.store.cell(2).category is None
    assert session.store.cell(2).score == pytest.approx(0.2)
    with pytest.raises(AnnotationError, match="Cell 1"):
        session.store.cell(1)
    while session.undo():
        pass
    assert session.store.cell(1).category is None
    assert not session.store.is_reviewed(1)


def test_a_rejected_cell_is_gone_and_reviewed(session_of):
    session = session_of()
    session.reject(2)
    assert 2 not in session.store
    assert session.store.is_reviewed(2)
    session.delete(1)
    assert not session.store.is_reviewed(1)
    session.undo()
    session.undo()
    assert 2 in session.store
    assert not session.store.is_reviewed(2)


def test_time_points_are_edited_one_by_one(three):
    labels = np.stack([three] * 3)
    session = AnnotationSession(Image(np.zeros((3, 40, 60), np.uint8), "TYX"), labels)
    (part,) = session.split_line(1, [[1, 15, 5], [1, 15, 25]])
    assert [bool((frame == part).any()) for frame in labels] == [False, True, False]
    session.grow(7, 2)
    areas = [(frame == 7).sum() for frame in labels]
    assert areas[0] == areas[1] == areas[2] > 60
    number = session.add_disc((2, 5, 50), 6)
    assert session.store.box_of(number)[0] == slice(2, 3)
    with pytest.raises(AnnotationError, match="one time point"):
        session.split_seeds(2, (0, 12, 25), (1, 18, 25))
    with pytest.raises(AnnotationError, match="3 coordinates"):
        session.split_seeds(2, (12, 25), (18, 25))


def test_a_mask_of_one_slice_is_added_to_a_volume():
    session = AnnotationSession(Image(np.zeros((3, 40, 60), np.uint8), "ZYX"))
    number = session.add(np.ones((4, 5), bool), (1, 10, 20), score=0.4)
    assert session.store.box_of(number) == (slice(1, 2), slice(10, 14), slice(20, 25))
    assert session.store.cell(number).score == pytest.approx(0.4)


def test_painting_by_other_means_is_recorded(three, session_of):
    session = session_of()
    box = (slice(5, 15), slice(5, 25))
    before = session.labels[box].copy()
    session.labels[8:12, 8:22] = 30
    session.record_paint(box, before, session.labels[box].copy())
    assert session.store.next_number == 31
    assert session.store.is_reviewed(30)
    assert session.undo()
    assert np.array_equal(session.labels, three)
    with pytest.raises(AnnotationError, match="shape"):
        session.record_paint(box, before[1:], before)


def test_a_model_may_be_asked_again(three, session_of):
    session = session_of()
    session.set_reviewed(1)
    new = np.where(three == 7, 1, 0)
    session.replace_labels(new)
    assert session.store.numbers().tolist() == [1]
    assert session.store.cell(1).score == 1
    assert not session.store.is_reviewed(1)
    session.undo()
    assert np.array_equal(session.labels, three)
    assert session.store.is_reviewed(1)
    assert session.store.cell(1).score == pytest.approx(0.1)
