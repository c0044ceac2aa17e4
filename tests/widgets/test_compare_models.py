from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot

from cellwright.io.dataset import Entry, append
from cellwright.models import shelf
from cellwright.models.shelf import ShelfEntry
from cellwright.ops.flow import FlowSettings
from cellwright.ops.labels import keep, measure
from cellwright.types import Cells, Image
from cellwright.widgets.compare_models import CompareWidget
from cellwright.widgets.shelf_news import shelf_news

LIMIT_MS = 60_000


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, shelved: Any) -> Any:
    """The oracle under two names."""
    entries = [
        ShelfEntry(name, one.folder, one.spec, {}) for one in shelf.models() for name in ("flow", "own")
    ]
    monkeypatch.setattr(shelf, "models", lambda: entries)
    return shelved


@pytest.fixture
def comparer(viewer: ViewerModel, qtbot: QtBot, two: Any) -> CompareWidget:
    widget = CompareWidget(viewer)
    qtbot.addWidget(widget)
    return widget


def compare(widget: CompareWidget, qtbot: QtBot) -> None:
    widget.button.click()
    qtbot.waitUntil(lambda: widget.job is None, timeout=LIMIT_MS)


def test_counts_scores_and_disagreement_are_shown(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    compare(comparer, qtbot)
    text = comparer.table.text()
    assert text.count(f">&nbsp;&nbsp;{len(blobs)}<") == 2
    assert text.count("1.000") == 2
    assert not viewer.layers["blobs disagreement"].data.any()
    compare(comparer, qtbot)
    assert len(viewer.layers) == 3


def test_without_truth_there_is_no_f1(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs", scale=(2, 2))
    compare(comparer, qtbot)
    assert "F1" not in comparer.table.text()
    np.testing.assert_array_equal(viewer.layers["blobs disagreement"].scale, (2, 2))


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch, two: Any) -> Callable[..., None]:
    """Function (has_outlines) after which the second model finds but every other cell."""

    def make(*, has_outlines: bool) -> None:
        model = type(two)(two.network, family="flow" if has_outlines else "centroid")

        def every_other(maps: Any, settings: Any) -> Cells:
            labels = two.postprocess(maps, FlowSettings()).labels
            labels = keep(labels, np.arange(labels.max()) % 2 == 0)
            areas, points, boxes = measure(labels)
            scores = np.ones(len(points), np.float32)
            return Cells(points, boxes, scores, areas, labels if has_outlines else None)

        model.postprocess = every_other
        monkeypatch.setattr(shelf, "load", lambda name: {"flow": two, "own": model}[name])

    return make


def test_what_only_one_model_outlines_has_its_colour(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, picky: Callable[..., None]
) -> None:
    picky(has_outlines=True)
    viewer.add_image(blobs.image, name="blobs")
    compare(comparer, qtbot)
    drawn = viewer.layers["blobs disagreement"].data
    assert set(np.unique(drawn)) == {0, 1}
    assert len(np.unique(blobs.labels[drawn == 1])) == len(blobs) // 2
    assert f">&nbsp;&nbsp;{len(blobs) // 2}<" in comparer.table.text()


def test_without_outlines_points_tell_whose_cells_they_are(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, picky: Callable[..., None]
) -> None:
    picky(has_outlines=False)
    viewer.add_image(blobs.image, name="blobs")
    compare(comparer, qtbot)
    assert not comparer.message.text()
    points = viewer.layers["blobs disagreement"]
    assert len(points.data) == len(blobs) // 2
    assert set(points.features["only"]) == {"flow"}


def test_a_folder_is_compared_on_its_validation_images(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        append(tmp_path / "set", Entry(Image(blobs.image, "YX", name=name), blobs.labels, split="val"))
    comparer.choose_folder(tmp_path / "set")
    assert not comparer.truth.isEnabled()
    compare(comparer, qtbot)
    text = comparer.table.text()
    assert text.count(f">&nbsp;&nbsp;{len(blobs)}<") == 6
    assert (text.count("1.000"), "mean count" in text, len(viewer.layers)) == (2, True, 0)


def test_truth_is_chosen_by_hand_too(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    assert comparer.truth.currentText() == "blobs labels"
    comparer.truth.setCurrentIndex(comparer.truth.findText("none"))
    compare(comparer, qtbot)
    assert "F1" not in comparer.table.text()


def test_bad_input_is_told_and_changes_nothing(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, tmp_path: Path
) -> None:
    compare(comparer, qtbot)
    assert "Image layer" in comparer.message.text()
    viewer.add_image(blobs.image, name="blobs")
    comparer.second.setCurrentIndex(comparer.first.currentIndex())
    compare(comparer, qtbot)
    assert "two models; got 'flow' twice" in comparer.message.text()
    comparer.second.setCurrentIndex(1)
    viewer.add_labels(blobs.labels[:50], name="other")
    comparer.truth.setCurrentIndex(comparer.truth.findText("other"))
    compare(comparer, qtbot)
    assert "Labels must have the image's shape" in comparer.message.text()
    comparer.choose_folder(tmp_path)
    compare(comparer, qtbot)
    assert "meta.json" in comparer.message.text()
    assert len(viewer.layers) == 2
    assert not comparer.table.isVisibleTo(comparer)


def test_it_can_be_cancelled(comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot) -> None:
    viewer.add_image(np.tile(blobs.image, (4, 4)), name="blobs")
    comparer.button.click()
    assert comparer.button.text() == "Cancel"
    comparer.button.click()
    qtbot.waitUntil(lambda: comparer.job is None, timeout=LIMIT_MS)
    assert comparer.message.text() == "Cancelled; nothing was changed."
    assert (comparer.button.text(), len(viewer.layers)) == ("Compare", 1)


def test_new_models_join_the_lists(
    comparer: CompareWidget, monkeypatch: pytest.MonkeyPatch, two: Any
) -> None:
    entries = [*shelf.models(), ShelfEntry("better", Path("better"), two.spec, {})]
    monkeypatch.setattr(shelf, "models", lambda: entries)
    shelf_news.changed.emit()
    assert comparer.second.findData("better") == 2
    assert comparer.second.currentData() == "own"
