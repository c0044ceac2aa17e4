"""Panels listen to each other until Qt deletes them, however long Python keeps them."""

import gc

import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QWidget

from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared import messages
from cellwright.widgets.shared.cells.followers import cells_news
from cellwright.widgets.shared.messages import count_news, hand_overs
from cellwright.widgets.train.widget import TrainWidget

SIGNALS = (cells_news.changed, count_news.counted, hand_overs.sent)


@pytest.mark.parametrize("panel", [AnnotateWidget, CountWidget, FolderWidget, ResultsWidget, TrainWidget])
def test_a_panel_that_is_gone_listens_no_longer(
    panel: type[QWidget], viewer: ViewerModel, qtbot: QtBot
) -> None:
    gc.collect()  # panels of other tests
    before, n_kept = [len(signal) for signal in SIGNALS], len(messages._kept)
    widget = panel(viewer)
    assert sum(map(len, SIGNALS)) > sum(before)
    assert len(messages._kept) > n_kept  # nothing that Qt will call is left to the collector
    with qtbot.waitSignal(widget.destroyed):
        widget.deleteLater()
    assert [len(signal) for signal in SIGNALS] == before
    assert len(messages._kept) == n_kept
