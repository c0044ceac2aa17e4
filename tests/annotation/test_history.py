import numpy as np
import pytest

from cellwright.annotation import tools
from cellwright.annotation.history import EditHistory
from cellwright.annotation.label_store import LabelStore
from cellwright.core.data import Image
from cellwright.core.errors import WriteError


@pytest.fixture
def store(three):
    return LabelStore(Image(np.zeros(three.shape, np.uint8), "YX"), three)


def test_a_tool_returns_an_edit_and_writes_nothing(store):
    before = store.labels.copy()
    edit = tools.grow(store, 7, 2)
    assert np.array_equal(store.labels, before)
    assert (edit.name, len(edit.changes), list(edit.cells)) == ("grow", 1, [7])
    history = EditHistory(store)
    history.do(edit)
    assert (store.labels == 7).sum() > (before == 7).sum()
    assert store.cell(7).is_reviewed
    assert history.undo()
    assert np.array_equal(store.labels, before)
    assert not store.cell(7).is_reviewed


def test_everything_that_is_done_is_recorded_first(store):
    history, recorded = EditHistory(store), []
    history.record = recorded.append
    history.do(tools.delete(store, 1))
    history.do(tools.fill(store, 2))  # has no holes: no edit
    history.undo()
    history.redo()
    assert [getattr(one, "name", one) for one in recorded] == ["delete", "undo", "redo"]


def test_what_cannot_be_recorded_is_not_done(store):
    def fail(_):
        raise WriteError("full")

    history = EditHistory(store)
    history.do(tools.delete(store, 1))
    history.record = fail
    for step in (lambda: history.do(tools.delete(store, 2)), history.undo):
        with pytest.raises(WriteError):
            step()
        assert (store.numbers().tolist(), len(history.done)) == ([2, 7], 1)


def test_a_copy_of_a_store_is_edited_by_itself(store):
    other = store.copy()
    EditHistory(other).do(tools.delete(other, 1))
    assert 1 in store
    assert store.box_of(1) == (slice(10, 20), slice(10, 20))
    assert 1 not in other
