"""Checking an annotation by flips: what the model now sees otherwise comes first."""

from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.widgets.annotate.widget import AnnotateWidget

LIMIT_MS = 60_000


@pytest.fixture
def widget(viewer: ViewerModel, shelved: Any, annotate_widget: AnnotateWidget, blobs: Any) -> AnnotateWidget:
    """The blobs as the model sees them, but for one that is none: the number after the last."""
    labels = blobs.labels.copy()
    background = np.argwhere(labels == 0)
    far = background[np.argmax([np.abs(blobs.points - at).sum(axis=1).min() for at in background])]
    labels[tuple(slice(max(at - 3, 0), at + 4) for at in far)] = len(blobs) + 1
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(labels)
    annotate_widget.panel.begin.click()
    return annotate_widget


def wait(widget: AnnotateWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not widget.panel.check_job.is_busy, timeout=LIMIT_MS)


def test_what_the_model_sees_otherwise_comes_first(widget: AnnotateWidget, blobs: Any, qtbot: QtBot) -> None:
    context = widget.model.context
    assert context is not None
    odd = len(blobs) + 1
    context.review.act("next")
    current = context.review.current
    before = context.review.queue.chance(odd)
    widget.panel.check.click()
    assert not widget.panel.check.isEnabled()
    context.session.delete(2)  # the viewer stays usable
    wait(widget, qtbot)
    assert context.review.queue.chance(odd) > before
    assert context.review.queue.order()[0] == odd
    assert context.review.current == current
    assert "1 of 64 cells differently" in widget.panel.hint.text()
    assert widget.panel.check.isEnabled()


def test_a_check_can_be_cancelled(widget: AnnotateWidget, blobs: Any, qtbot: QtBot) -> None:
    context = widget.model.context
    assert context is not None
    order = context.review.queue.order()
    widget.panel.check.click()
    widget.panel.check_job.stop.click()
    wait(widget, qtbot)
    assert context.review.queue.order() == order
    assert "cancelled" in widget.panel.hint.text()


def test_a_finished_annotation_takes_its_check_along(widget: AnnotateWidget, qtbot: QtBot) -> None:
    widget.panel.check.click()
    widget.model.finish()
    widget.panel.check.click()
    wait(widget, qtbot)
    assert widget.panel.check.isEnabled()
    assert widget.model.session is None


def test_what_goes_wrong_is_told(
    widget: AnnotateWidget, qtbot: QtBot, shelved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(shelved.network, "forward", fail)
    widget.panel.check.click()
    wait(widget, qtbot)
    assert "no such kernel" in widget.panel.message.text()
    assert widget.panel.check.isEnabled()
