import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtCore import Qt

from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import AxesError
from cellwright.core.tasks import Progress, Task
from cellwright.files.dataset.append import Entry, append
from cellwright.models import store
from cellwright.models.store import ModelEntry
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.labels import keep_labels, label_properties
from cellwright.widgets.compare.model import RingPixels, whole_progress
from cellwright.widgets.compare.view import compare_line
from cellwright.widgets.compare.widget import CompareWidget
from cellwright.widgets.shared.flow import BREAK
from cellwright.widgets.shared.layer_dataset import pairs
from cellwright.widgets.shared.layer_io import REGIONS_NAME, place, prepare_layers, source_of
from cellwright.widgets.shared.model_combos import model_events

LIMIT_MS = 60_000
LAYER = "blobs disagreement"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch, shelved: Any) -> Any:
    """The oracle under two names."""
    entries = [
        ModelEntry(name, one.folder, one.spec, {}) for one in store.models() for name in ("flow", "own")
    ]
    monkeypatch.setattr(store, "models", lambda: entries)
    return shelved


@pytest.fixture
def comparer(viewer: ViewerModel, qtbot: QtBot, two: Any) -> CompareWidget:
    widget = CompareWidget(viewer)
    qtbot.addWidget(widget)
    return widget


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch, two: Any) -> Callable[..., None]:
    """Function (has_outlines) after which the second model finds but every other cell."""

    def make(*, has_outlines: bool) -> None:
        model = type(two)(two.network, family="flow" if has_outlines else "centroid")

        def every_other(maps: Any, settings: Any) -> Cells:
            labels = two.postprocess(maps, FlowSettings()).labels
            labels = keep_labels(labels, np.arange(labels.max()) % 2 == 0)
            areas, points, boxes = label_properties(labels)
            scores = np.ones(len(points), np.float32)
            return Cells(points, boxes, scores, areas, labels if has_outlines else None)

        model.postprocess = every_other
        monkeypatch.setattr(store, "load", lambda name: {"flow": two, "own": model}[name])

    return make


@pytest.fixture
def folder(tmp_path: Path, draw_blobs: Callable[..., Any]) -> Path:
    """A dataset of three validation images, with more cells from one to the next, and one to learn from."""
    for name, width in (("a", 140), ("b", 180), ("c", 200), ("t", 60)):
        blobs = draw_blobs((160, width))
        split = "train" if name == "t" else "val"
        append(tmp_path / "set", Entry(Image(blobs.image, "YX", name=name), blobs.labels, split=split))
    return tmp_path / "set"


def done(widget: CompareWidget, qtbot: QtBot) -> None:
    qtbot.waitUntil(lambda: not widget.jobs.is_busy, timeout=LIMIT_MS)


def compare(widget: CompareWidget, qtbot: QtBot) -> None:
    widget.panel.button.click()
    done(widget, qtbot)


def column(widget: CompareWidget, place: int) -> list[str]:
    items = [widget.panel.table.item(row, place) for row in range(widget.panel.table.rowCount())]
    return [item.text() for item in items if item is not None]


def test_counts_scores_and_disagreement_are_shown(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    compare(comparer, qtbot)
    text = comparer.panel.summary.text()
    assert text.count(f">{len(blobs)}<") == 4  # both counts, and twice the truth
    assert text.count("1.000") == 2
    assert ">truth: blobs labels<" in text.replace(BREAK, "")
    assert not viewer.layers[LAYER].data.any()
    assert viewer.layers.selection.active.name == "blobs labels"
    compare(comparer, qtbot)
    assert len(viewer.layers) == 3
    assert LAYER not in [pair.annotation.name for pair in pairs(viewer.layers)]


def test_a_mask_of_one_value_and_labels_that_lie_elsewhere_are_told(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs", scale=(0.5, 0.5))
    truth = viewer.add_labels((blobs.labels > 0).astype(np.int32), name="truth")  # of a file without a scale
    compare(comparer, qtbot)
    assert "The numbers of the true cells of 'blobs' lie in" in comparer.panel.notices.text()
    for truth.translate, truth.rotate in (((0, 20), 0), ((0, 0), 90)):
        compare(comparer, qtbot)
        assert "'truth' does not lie where 'blobs' does" in comparer.panel.message.text()


def test_it_begins_with_the_channel_that_was_counted(
    viewer: ViewerModel, blobs: Any, two: Any, qtbot: QtBot, result_of: Callable[..., Any]
) -> None:
    viewer.add_image(np.zeros_like(blobs.image), name="GFP")
    counted = viewer.add_image(blobs.image, name="DAPI")
    source = source_of(counted)
    place(viewer, prepare_layers(result_of(source.image, blobs.labels), source))
    viewer.layers.selection.active = viewer.layers["GFP"]
    widget = CompareWidget(viewer)
    qtbot.addWidget(widget)
    assert widget.panel.data.layer is counted
    viewer.layers.selection.active = counted
    viewer.layers.remove(counted)
    assert widget.panel.data.layer is viewer.layers["GFP"]


def test_without_truth_there_is_no_f1(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs", scale=(2, 2))
    compare(comparer, qtbot)
    assert "F1" not in comparer.panel.summary.text()
    assert "truth" not in comparer.panel.summary.text()
    np.testing.assert_array_equal(viewer.layers[LAYER].scale, (2, 2))


def test_what_only_one_model_outlines_has_its_colour_and_name(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, picky: Callable[..., None]
) -> None:
    picky(has_outlines=True)
    viewer.add_image(blobs.image, name="blobs")
    compare(comparer, qtbot)
    layer = viewer.layers[LAYER]
    n_only = len(blobs) // 2
    assert layer.data.max() == n_only
    drawn = layer.data > 0
    assert len(np.unique(blobs.labels[drawn])) == n_only
    assert drawn.sum() < (blobs.labels[np.isin(blobs.labels, blobs.labels[drawn])] > 0).sum()  # rings
    assert set(layer.features["only"][1:]) == {"flow"}
    np.testing.assert_allclose(layer.get_color(1), (1, 159 / 255, 28 / 255, 1), atol=0.01)
    assert f">{n_only}<" in comparer.panel.summary.text()
    comparer.panel.first.setCurrentIndex(1)
    comparer.panel.second.setCurrentIndex(0)
    compare(comparer, qtbot)
    np.testing.assert_allclose(
        viewer.layers[LAYER].get_color(1), (63 / 255, 208 / 255, 201 / 255, 1), atol=0.01
    )


def test_without_outlines_points_tell_whose_cells_they_are(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, picky: Callable[..., None]
) -> None:
    picky(has_outlines=False)
    viewer.add_image(np.stack([blobs.image, blobs.image]), name="blobs", axis_labels=("c", "y", "x"))
    compare(comparer, qtbot)
    assert not comparer.panel.message.text()
    points = viewer.layers[LAYER]
    assert points.data.shape == (len(blobs) // 2, 2)
    assert set(points.features["only"]) == {"flow"}


def test_a_folder_is_compared_on_its_validation_images(
    comparer: CompareWidget, viewer: ViewerModel, qtbot: QtBot, folder: Path, picky: Callable[..., None]
) -> None:
    picky(has_outlines=True)
    comparer.panel.data.add_folder(folder)
    assert not comparer.panel.truth.isEnabled()
    compare(comparer, qtbot)
    counts = [int(text) for text in column(comparer, 1)]
    assert column(comparer, 0) == ["a", "b", "c"]
    assert [int(text) for text in column(comparer, 2)] == [(n + 1) // 2 for n in counts]
    assert column(comparer, 3) == ["1.00"] * 3
    assert f"{np.mean(counts):.1f}" in comparer.panel.summary.text()
    comparer.panel.table.sortItems(1, Qt.SortOrder.DescendingOrder)
    assert column(comparer, 0) == ["c", "b", "a"]
    assert len(viewer.layers) == 0


def test_a_folder_without_validation_images_is_told_of(
    comparer: CompareWidget, tmp_path: Path, blobs: Any, qtbot: QtBot
) -> None:
    append(tmp_path / "set", Entry(Image(blobs.image, "YX", name="t"), blobs.labels, split="train"))
    comparer.panel.data.add_folder(tmp_path / "set")
    compare(comparer, qtbot)
    assert "no images of the split val" in comparer.panel.message.text()


def test_no_labels_and_maps_of_seen_images_are_kept(
    comparer: CompareWidget, viewer: ViewerModel, qtbot: QtBot, folder: Path, picky: Callable[..., None]
) -> None:
    def results() -> list[Result]:
        gc.collect()
        return [one for one in gc.get_objects() if type(one) is Result]

    before = results()
    picky(has_outlines=True)
    comparer.panel.data.add_folder(folder)
    compare(comparer, qtbot)
    assert all(any(one is old for old in before) for one in results())
    assert comparer.compared is not None
    found = comparer.compared.disagreements
    assert len(found) == 3
    for one in found:
        assert one is not None
        assert isinstance(one.drawn, RingPixels)
        assert len(one.drawn.pixels) < np.prod(one.drawn.shape) / 4
        assert one.drawn.labels().max() == sum(one.n_unique)
    comparer.panel.table.itemClicked.emit(comparer.panel.table.item(0, 0))
    done(comparer, qtbot)
    assert all(any(one is old for old in before) for one in results())


def test_a_click_shows_an_image_of_the_folder_in_place_of_the_last(
    comparer: CompareWidget, viewer: ViewerModel, qtbot: QtBot, folder: Path, picky: Callable[..., None]
) -> None:
    picky(has_outlines=True)
    comparer.panel.data.add_folder(folder)
    compare(comparer, qtbot)
    comparer.panel.table.sortItems(1, Qt.SortOrder.DescendingOrder)
    for row, name in ((0, "c"), (2, "a")):
        comparer.panel.table.itemClicked.emit(comparer.panel.table.item(row, 2))
        done(comparer, qtbot)
        assert [layer.name for layer in viewer.layers] == [name, f"{name} disagreement"]
        assert viewer.layers[1].data.max() == int(column(comparer, 5)[row])
    assert comparer.panel.data.currentData() == str(folder)


def test_truth_is_chosen_by_hand_too(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    viewer.add_points(blobs.points[:-7], name="dots")
    assert comparer.panel.truth.currentText() == "dots"
    compare(comparer, qtbot)
    n, n_true = len(blobs), len(blobs) - 7
    assert f"{2 * n_true / (n + n_true):.3f}" in comparer.panel.summary.text()
    comparer.panel.truth.setCurrentIndex(comparer.panel.truth.findText("none"))
    compare(comparer, qtbot)
    assert "F1" not in comparer.panel.summary.text()


def test_the_chosen_channel_is_counted(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(np.stack([np.zeros_like(blobs.image), blobs.image]), name="blobs")
    viewer.add_labels(blobs.labels, name="blobs labels")
    box = comparer.panel.channel
    entries = [box.itemText(place) for place in range(box.count())]
    assert entries == ["Channel 0", "Channel 1", "None: every slice is an image"]
    compare(comparer, qtbot)
    assert f">{len(blobs)}<" in comparer.panel.summary.text()  # of the truth
    assert "0.000" in comparer.panel.summary.text()
    box.setCurrentIndex(1)
    compare(comparer, qtbot)
    assert comparer.panel.summary.text().count("1.000") == 2
    assert "Counted in channel" not in comparer.panel.notices.text()
    assert "CYX was guessed" in comparer.panel.notices.text()
    viewer.add_image(blobs.image, name="grey")
    comparer.panel.data.setCurrentIndex(comparer.panel.data.findText("grey"))
    comparer.panel.data.activated.emit(comparer.panel.data.currentIndex())
    assert (box.currentText(), box.isEnabled()) == ("Grey", False)


def test_channels_follow_an_image_that_is_given_other_axes(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    layer = viewer.add_image(np.stack([blobs.image] * 3), name="blobs")
    assert comparer.panel.channel.count() > 1
    layer.data = blobs.image
    compare(comparer, qtbot)
    assert not comparer.panel.message.text()
    assert viewer.layers[LAYER].data.shape == blobs.image.shape


def test_slices_can_be_counted_instead_of_channels(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    viewer.add_image(np.stack([blobs.image] * 3), name="blobs")
    viewer.add_labels(np.stack([blobs.labels] * 3), name="blobs labels")
    comparer.panel.channel.setCurrentIndex(comparer.panel.channel.count() - 1)
    compare(comparer, qtbot)
    assert comparer.panel.summary.text().count("1.000") == 2
    assert viewer.layers[LAYER].data.shape == (3, *blobs.image.shape)


def test_a_channel_of_a_folder_is_chosen_too(
    comparer: CompareWidget, viewer: ViewerModel, qtbot: QtBot, folder: Path
) -> None:
    comparer.panel.data.add_folder(folder)
    box = comparer.panel.channel
    assert (box.currentData().index, box.isEnabled()) == (None, True)
    box.setCurrentIndex(2)
    compare(comparer, qtbot)
    assert "has one channel, number 0" in comparer.panel.message.text()


def test_f1_is_that_of_the_complete_regions(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot
) -> None:
    labels = blobs.labels.copy()
    labels[:, 100:] = 0  # nobody has looked there
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(labels, name="blobs labels")
    compare(comparer, qtbot)
    assert "1.000" not in comparer.panel.summary.text()
    viewer.add_shapes([[[0, 0], [0, 80], [160, 80], [160, 0]]], name=REGIONS_NAME)
    compare(comparer, qtbot)
    text = comparer.panel.summary.text()
    n_inside = int((blobs.points[:, 1] < 80.5).sum())
    assert text.count("1.000") == 2
    assert text.count(f">{n_inside}<") + text.count(f";{n_inside}<") == 4  # judged, and truth
    assert text.count(f">{len(blobs)}<") == 2
    assert "complete region" in comparer.panel.notices.text()


@pytest.mark.parametrize("frames", [(2,), (0, 3)])
def test_complete_regions_in_some_frames_alone_are_told(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, frames: tuple[int, ...]
) -> None:
    viewer.add_image(np.stack([blobs.image] * 4), name="film", axis_labels=("t", "y", "x"))
    viewer.add_labels(np.stack([blobs.labels] * 4), name="truth")
    corners = [(0, 0), (0, 60), (60, 60), (60, 0)]
    viewer.add_shapes([[(t, *corner) for corner in corners] for t in frames], name=REGIONS_NAME)
    compare(comparer, qtbot)
    assert "known in all slices and frames" in comparer.panel.message.text()


def test_bad_input_is_told_and_changes_nothing(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, tmp_path: Path
) -> None:
    panel = comparer.panel
    compare(comparer, qtbot)
    assert "Image layer" in panel.message.text()
    viewer.add_image(blobs.image, name="blobs")
    panel.second.setCurrentIndex(panel.first.currentIndex())
    compare(comparer, qtbot)
    assert "two models; got 'flow' twice" in panel.message.text()
    panel.second.setCurrentIndex(1)
    viewer.add_labels(blobs.labels[:50], name="other")
    panel.truth.setCurrentIndex(panel.truth.findText("other"))
    compare(comparer, qtbot)
    assert "Labels must have the image's shape" in panel.message.text()
    panel.truth.setCurrentIndex(0)
    compare(comparer, qtbot)
    assert not panel.card.isHidden()
    assert "truth: " not in panel.summary.text()
    viewer.layers.remove("blobs disagreement")
    for folder in (tmp_path, tmp_path / "gone"):
        comparer.panel.data.add_folder(folder)
        compare(comparer, qtbot)
        assert "meta.json" in panel.message.text()
    assert len(viewer.layers) == 2
    assert panel.card.isHidden()


def test_what_a_model_cannot_count_is_told(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, two: Any, monkeypatch: Any
) -> None:
    def no_volumes(*_: Any) -> Any:
        raise AxesError("Counts 2D images; got axes 'ZYX'.")

    monkeypatch.setattr(two, "frames", no_volumes)
    viewer.add_image(np.stack([blobs.image] * 6), name="blobs")
    compare(comparer, qtbot)
    assert comparer.panel.message.text() == "Counts 2D images; got axes 'ZYX'."
    assert comparer.panel.button.text() == "Compare"
    assert comparer.panel.card.isHidden()


def test_a_volume_of_planes_is_compared_cell_by_cell(
    comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot, picky: Callable[..., None]
) -> None:
    picky(has_outlines=True)
    viewer.add_image(np.stack([blobs.image] * 6), name="blobs")
    compare(comparer, qtbot)
    assert not comparer.panel.message.text()
    assert viewer.layers[LAYER].data.shape == (6, *blobs.image.shape)
    assert f">{len(blobs)}<" in comparer.panel.summary.text()


def test_it_can_be_cancelled(comparer: CompareWidget, viewer: ViewerModel, blobs: Any, qtbot: QtBot) -> None:
    viewer.add_image(np.tile(blobs.image, (4, 4)), name="blobs")
    comparer.panel.button.click()
    assert comparer.panel.button.text() == "Cancel"
    comparer.panel.button.click()
    assert comparer.panel.button.text() == "Cancelling…"
    done(comparer, qtbot)
    assert comparer.panel.message.text() == "Cancelled; nothing was changed."
    assert (comparer.panel.button.text(), len(viewer.layers)) == ("Compare", 1)


def test_new_models_join_the_lists(
    comparer: CompareWidget, monkeypatch: pytest.MonkeyPatch, two: Any
) -> None:
    entries = [*store.models(), ModelEntry("better", Path("better"), two.spec, {})]
    monkeypatch.setattr(store, "models", lambda: entries)
    model_events.changed.emit()
    assert comparer.panel.second.findData("better") == 2
    assert comparer.panel.second.currentData() == "own"


def test_models_of_one_kind_are_compared_first(
    viewer: ViewerModel, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch, oracle_model: Any
) -> None:
    spec, other = oracle_model.spec, type(oracle_model)(oracle_model.network, family="centroid").spec
    known = [("centroid", other), ("flow", spec), ("mine", spec)]
    monkeypatch.setattr(
        store, "models", lambda: [ModelEntry(name, Path(name), one, {}) for name, one in known]
    )
    widget = CompareWidget(viewer)
    qtbot.addWidget(widget)
    assert (widget.panel.first.currentData(), widget.panel.second.currentData()) == ("flow", "mine")


def test_the_time_left_is_that_of_all_images() -> None:
    def steps() -> Task[str]:
        yield Progress("load", 0, 1)
        yield Progress("compare", 0, 4, "a: flow")
        yield Progress("tiles", 1, 2)
        return "all"

    told = list(whole_progress(steps()))
    assert [compare_line(one, None) for one in told[:2]] == ["Loading the models", "a: flow · image 1 of 2"]
    assert (told[2].fraction, compare_line(told[2], 70.0)) == (0.125, "a: flow · image 1 of 2 · 70 s left")


def test_the_line_of_one_image() -> None:
    assert compare_line(Progress("compare", 1, 2, "a: flow"), 8.0) == "a: flow · 8 s left"
