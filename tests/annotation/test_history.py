import numpy as np
import pytest

from cellwright.annotation.history import EditHistory
from cellwright.annotation.label_store import LabelStore
from cellwright.core.data import Image
from cellwright.core.errors import WriteError
from cellwright.ops import label_editing


@pytest.fixture
def store(three):
    return LabelStore(Image(np.zeros(three.shape, np.uint8), "YX"), three)


def deleted(store, number):
    return "delete", store.changes(number, label_editing.erase)


def test_an_edit_is_done_and_undone_with_its_metadata(store):
    before = store.labels.copy()
    changes = tuple(store.changes(7, label_editing.grow, 2))
    assert np.array_equal(store.labels, before)  # nothing is written by making them
    history = EditHistory(store)
    history.do("grow", changes, {7: store.cell(7)._replace(is_reviewed=True)})
    assert (store.labels == 7).sum() > (before == 7).sum()
    assert store.cell(7).is_reviewed
    assert history.undo()
    assert np.array_equal(store.labels, before)
    assert not store.cell(7).is_reviewed


def test_everything_that_is_done_is_recorded_first(store):
    history, recorded = EditHistory(store), []
    history.record = recorded.append
    history.do(*deleted(store, 1))
    history.do("fill holes")  # changes nothing: no edit
    history.undo()
    history.redo()
    assert [getattr(one, "name", one) for one in recorded] == ["delete", "undo", "redo"]


def test_what_cannot_be_recorded_is_not_done(store):
    def fail(_):
        raise WriteError("full")

    history = EditHistory(store)
    history.do(*deleted(store, 1))
    history.record = fail
    for step in (lambda: history.do(*deleted(store, 2)), history.undo):
        with pytest.raises(WriteError):
            step()
        assert (store.numbers().tolist(), len(history.done)) == ([2, 7], 1)


def test_a_copy_of_a_store_is_edited_by_itself(store):
    other = store.copy()
    EditHistory(other).do(*deleted(other, 1))
    assert 1 in store
    assert store.box_of(1) == (slice(10, 20), slice(10, 20))
    assert 1 not in other
