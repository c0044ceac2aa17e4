import numpy as np
import pytest

from cellwright.annotation.review_queue import ReviewQueue
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image


def field(ndim=2, dtype=np.int32):
    """Twelve equal blocks that do not touch, numbered 1..12."""
    labels = np.zeros((60, 80), dtype)
    for number in range(12):
        y, x = 5 + 18 * (number // 4), 5 + 18 * (number % 4)
        labels[y : y + 9, x : x + 9] = number + 1
    return labels if ndim == 2 else np.repeat(labels[np.newaxis], 4, axis=0)


def queue_of(labels, scores=None):
    image = Image(np.zeros(labels.shape, np.uint8), "ZYX"[-labels.ndim :])
    session = AnnotationSession(image, labels, scores=scores)
    return session, ReviewQueue(session)


def scores(**changed):
    found = np.full(12, 0.9)
    for number, score in changed.items():
        found[int(number[1:]) - 1] = score
    return found


def test_a_low_score_comes_first():
    _, queue = queue_of(field(), scores(_5=0.2, _9=0.4))
    assert queue.order()[:3] == (5, 9, 1)
    assert 1 > queue.chance(5) > queue.chance(9) > queue.chance(1) > 0


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("odd", ["small", "large", "notched", "touching"])
def test_what_is_odd_comes_first(odd, ndim):
    labels = field(ndim)
    if odd == "small":
        labels[..., 27:32, 44:50] = 0  # of cell 7
    elif odd == "large":
        labels[..., 21:34, 39:52] = 7
    elif odd == "notched":
        labels[..., 26:29, 41:48] = 0
    else:
        labels[..., 23:32, 41:50] = 7
        labels[..., 23:32, 50:59] = 8
        labels[..., 23:32, 59:68] = 0
    _, queue = queue_of(labels)
    assert queue.order()[0] in ((7, 8) if odd == "touching" else (7,))


def test_a_cell_cut_by_the_edge_is_not_odd_for_that():
    labels = field()
    labels[0:9, 60:69] = 0
    labels[0:9, 20:29], labels[0:4, 40:49] = 20, 21
    assert queue_of(labels)[1].chance(20) > 0
    inner, edge = np.zeros((60, 80), np.int32), np.zeros((60, 80), np.int32)
    inner[20:29, 20:29], edge[20:29, 0:9] = 1, 1
    assert queue_of(edge)[1].chance(1) < queue_of(inner)[1].chance(1)


def test_disagreement_counts_where_it_is_known():
    _, queue = queue_of(field())
    queue.set_disagreement({4: 0.8})
    assert queue.order()[0] == 4


def test_disagreement_may_become_known_later():
    _, queue = queue_of(field(), scores(_5=0.2))
    assert queue.next() == 5
    queue.set_disagreement({4: 1.0, 99: 1.0})
    assert set(queue.order()[:2]) == {4, 5}
    assert queue.chance(4) > queue.chance(1)
    assert queue.current == 5
    queue.set_disagreement({})
    assert queue.chance(4) == queue.chance(1)


def test_shapes_of_any_size_can_be_judged():
    labels = np.zeros((3, 30, 30), np.int32)
    labels[1, 5, 5], labels[1, 8, 3:20], labels[:, 20, 20], labels[2, 25:28, 2:9] = 1, 2, 3, 4
    _, queue = queue_of(labels)
    assert sorted(queue.order()) == [1, 2, 3, 4]
    assert all(0 < queue.chance(number) < 1 for number in range(1, 5))


def test_next_passes_all_that_is_not_reviewed():
    session, queue = queue_of(field(), np.linspace(0.9, 0.1, 12))
    assert queue.current is None
    seen = []
    while (number := queue.next()) is not None:
        assert queue.current == number
        session.set_reviewed(number)
        seen.append(number)
    assert seen == list(range(12, 0, -1))
    assert queue.current is None


def test_what_was_passed_over_comes_again():
    session, queue = queue_of(field(), np.linspace(0.9, 0.1, 12))
    first = queue.next()
    assert queue.next() == 11
    for number in range(1, 12):
        session.set_reviewed(number)
    assert queue.next() == first == 12


def test_previous_goes_back_to_reviewed_cells_too():
    session, queue = queue_of(field(), np.linspace(0.9, 0.1, 12))
    assert queue.previous() is None
    session.set_reviewed(queue.next())
    assert queue.next() == 11
    assert queue.previous() == 12
    assert queue.previous() is None
    assert queue.current == 12


def test_the_queue_goes_on_where_a_cell_is_deleted():
    session, queue = queue_of(field(), np.linspace(0.9, 0.1, 12))
    assert queue.next() == 12
    session.reject(12)
    assert queue.current is None
    assert queue.next() == 11
    session.undo()
    assert 12 in queue.order()


def test_the_queue_follows_edits():
    session, queue = queue_of(field(), scores(_3=0.1))
    assert queue.next() == 3
    (part,) = session.split_line(3, [[9, 30], [9, 60]])
    assert set(queue.order()) == set(session.store.numbers().tolist())
    assert queue.current == 3
    assert session.store.is_reviewed(part)
    assert queue.next() not in (3, part)
    session.replace_labels(np.where(field() == 1, 1, 0))
    assert queue.order() == (1,)
    session.delete(1)
    assert queue.order() == ()
    assert queue.next() is None


def test_a_closed_queue_no_longer_listens():
    session, queue = queue_of(field())
    queue.order()
    queue.close()
    session.delete(1)
    assert 1 in queue.order()


def test_a_time_series_is_judged_by_its_frames():
    labels = np.stack([field(), np.zeros((60, 80), np.int32)])
    labels[1] = np.where(field() > 0, field() + 12, 0)
    labels[1, 26:29, 41:48] = 0
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), "TYX"), labels)
    assert ReviewQueue(session).order()[0] == 19
