from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils import progress
from pytestqt.qtbot import QtBot

from cellwright.widgets.plugin import commands
from cellwright.widgets.plugin.commands import count_active_layer
from cellwright.widgets.shared.messages import news_of


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The notifications napari would have shown."""
    heard: list[tuple[str, str]] = []
    for name in ("info", "warning", "error"):
        monkeypatch.setattr(commands, f"show_{name}", lambda text, name=name: heard.append((name, text)))
    return heard


def bars() -> list[Any]:
    return [bar for bar in progress._all_instances if "Counting" in bar.desc]


def test_the_active_layer_is_counted_and_the_number_told(
    viewer: ViewerModel, blobs: Any, shelved: Any, qtbot: QtBot, told: list[tuple[str, str]]
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    job = count_active_layer(viewer)
    assert len(bars()) == 1
    with qtbot.waitSignal(job.finished, timeout=60_000):
        pass
    assert [layer.name for layer in viewer.layers] == ["blobs", "blobs labels"]
    (kind, text), *others = told
    assert (kind, others) == ("info", [])
    assert text.startswith(f"{len(blobs)} cells · flow · ")
    told_of = news_of(viewer).last  # for Results
    assert told_of is not None
    assert (told_of.count, told_of.layer_id) == (len(blobs), str(viewer.layers["blobs labels"].unique_id))
    assert bars() == []


def test_notices_are_told_too(
    viewer: ViewerModel, blobs: Any, shelved: Any, qtbot: QtBot, told: list[tuple[str, str]]
) -> None:
    viewer.add_image(np.stack([blobs.image, blobs.image]))  # which channel was taken
    job = count_active_layer(viewer)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        pass
    assert [kind for kind, _ in told] == ["warning", "warning", "info"]
    assert "CYX was guessed" in told[0][1]
    assert "channel 0" in told[1][1]


def test_no_layer_and_a_points_layer_are_told(viewer: ViewerModel, told: list[tuple[str, str]]) -> None:
    assert count_active_layer(viewer) is None
    viewer.add_points(np.zeros((1, 2)), name="p1")
    assert count_active_layer(viewer) is None
    assert [kind for kind, _ in told] == ["error", "error"]
    assert "no layer" in told[0][1]
    assert "a Points layer named 'p1'" in told[1][1]


def test_failures_are_told(
    viewer: ViewerModel, blobs: Any, shelved: Any, qtbot: QtBot, told: list[tuple[str, str]]
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no kernel image")

    shelved.network.forward = fail
    viewer.add_image(blobs.image)
    job = count_active_layer(viewer)
    with qtbot.waitSignal(job.finished, timeout=60_000):
        pass
    assert told == [("error", "Counting failed: RuntimeError: no kernel image")]
    assert len(viewer.layers) == 1


def test_the_progress_bar_cancels(
    viewer: ViewerModel, blobs: Any, shelved: Any, qtbot: QtBot, told: list[tuple[str, str]]
) -> None:
    viewer.add_image(blobs.image)
    job = count_active_layer(viewer)
    bars()[0].cancel()
    with qtbot.waitSignal(job.finished, timeout=60_000):
        pass
    assert told == [("info", "Counting was cancelled; nothing was changed.")]
    assert len(viewer.layers) == 1
    assert bars() == []
