"""Panels listen to each other until Qt deletes them, however long Python keeps them."""

import gc
from typing import Any
from weakref import ref

import pytest
from napari.components import ViewerModel
from psygnal import EmitLoopError, Signal
from pytestqt.qtbot import QtBot
from qtpy.QtCore import QCoreApplication, QEvent
from qtpy.QtWidgets import QWidget

from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared import messages
from cellwright.widgets.shared.cells.followers import cells_news, follow
from cellwright.widgets.shared.journals.kept_corrections import keep_corrections
from cellwright.widgets.shared.messages import listen, news_of
from cellwright.widgets.shared.model_combos import model_events
from cellwright.widgets.train.widget import TrainWidget


class Listener:
    """Something that hears a signal, and that the collector of garbage alone can take away."""

    changed = Signal(object)

    def __init__(self) -> None:
        self.itself = self
        self.heard: list[object] = []

    def hear(self, what: object) -> None:
        self.heard.append(what)


def test_a_signal_emitted_while_a_listener_is_taken_away_fails_nowhere(qtbot: QtBot) -> None:
    source, owner, listener, outcome = Listener(), QWidget(), Listener(), list[object]()
    qtbot.addWidget(owner)
    listen(source.changed, listener.hear, owner)
    source.changed.emit(1)
    assert listener.heard == [1]

    def emit(_: object) -> None:  # the listener can no longer be reached, which its signal does not know yet
        try:
            source.changed.emit(2)
            outcome.append("emitted")
        except EmitLoopError as error:
            outcome.append(error)

    watcher = ref(listener, emit)
    del listener
    gc.collect()
    assert watcher() is None
    assert outcome == ["emitted"]


@pytest.mark.parametrize("panel", [AnnotateWidget, CountWidget, FolderWidget, ResultsWidget, TrainWidget])
def test_a_panel_that_is_gone_listens_no_longer(
    panel: type[QWidget], viewer: ViewerModel, qtbot: QtBot
) -> None:
    gc.collect()  # panels of other tests
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    follow(viewer)  # which outlives panels, as what keeps corrections does
    keep_corrections(viewer)
    news = news_of(viewer)
    layers, dims = viewer.layers.events, viewer.dims.events
    told = (cells_news.changed, model_events.changed, news.counted, news.sent)
    events = (layers.inserted, layers.removed, viewer.events.theme, dims.point, dims.ndisplay)
    before = [len(one) for one in told] + [len(one.callbacks) for one in events]
    kept = set(messages._kept)
    widget = panel(viewer)
    qtbot.waitUntil(lambda: getattr(widget, "is_filled", True))
    assert sum(map(len, told)) + sum(len(one.callbacks) for one in events) > sum(before)
    assert messages._kept - kept  # nothing that Qt will call is left to the collector
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    assert [len(one) for one in told] + [len(one.callbacks) for one in events] == before
    assert not messages._kept - kept


@pytest.mark.parametrize("is_closed", [True, False])
def test_results_of_a_viewer_that_was_closed_meanwhile_are_not_opened(
    make_napari_viewer: Any, monkeypatch: pytest.MonkeyPatch, is_closed: bool
) -> None:
    """As the demo closes it; any other error of loading is told."""
    viewer = make_napari_viewer()

    def load(title: str) -> None:
        if is_closed:
            viewer.close()
        raise RuntimeError(f"Failed to import {title}.")

    monkeypatch.setattr(messages, "load_panel", load)
    steps = messages._open_results(viewer, None)
    next(steps)
    with pytest.raises(StopIteration if is_closed else RuntimeError):
        next(steps)
