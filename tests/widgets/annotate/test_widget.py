"""The annotation widget: how it begins, what it shows, how it goes on after a crash."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Shapes
from pytestqt.qtbot import QtBot

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.tasks import Progress
from cellwright.ops.codecs.prompts import Prompts
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.annotate import widget as annotate_widget
from cellwright.widgets.annotate.session_setup import unfinished_journal
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.shared import point_prompt
from cellwright.widgets.shared.cells.regions import WINDOW
from cellwright.widgets.shared.edited_layers import METADATA, is_edited
from cellwright.widgets.shared.journals.journal_files import journal_path
from cellwright.widgets.shared.layer_factory import features_by_number
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of
from cellwright.widgets.shared.point_prompt import Wish, yx

LIMIT_MS = 60_000


@pytest.fixture
def widget(annotate_widget: AnnotateWidget) -> AnnotateWidget:
    return annotate_widget


def start(widget: AnnotateWidget) -> AnnotationSession:
    widget.panel.begin.click()
    assert widget.model.session is not None, widget.panel.message.text()
    return widget.model.session


def test_labels_that_lie_elsewhere_are_not_begun_with(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels.copy(), name="cells", translate=(0, 20))
    widget.panel.begin.click()
    assert widget.model.session is None
    assert "'cells' does not lie where 'blobs' does" in widget.panel.message.text()


@pytest.mark.parametrize("placement", [{"scale": (2, 2)}, {"rotate": 90}, {"scale": (-1, 1)}])
def test_labels_of_a_part_in_other_pixels_are_not_begun_with(
    widget: AnnotateWidget, blobs: Any, placement: dict[str, Any]
) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels[::2, ::2].copy(), name="cells", translate=(40, 40), **placement)
    widget.panel.begin.click()
    assert widget.model.session is None
    assert "'cells' are of another size than those of 'blobs'" in widget.panel.message.text()


@pytest.mark.parametrize("kind", ["labels", "points"])
def test_a_start_that_is_refused_leaves_what_can_be_resumed(
    widget: AnnotateWidget, blobs: Any, kind: str
) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels.copy(), name="cells")
    session = start(widget)
    session.delete(1)
    path = session.journal_path
    widget.panel.begin.click()  # Finish
    if kind == "labels":
        cells = widget.viewer.add_labels(blobs.labels[:20, :20].copy(), scale=(2, 2))
    else:
        cells = widget.viewer.add_points([[5, 5], [5, 5]])
    widget.panel.image.choose(image)
    widget.panel.start.choose(cells)
    widget.panel.begin.click()
    assert widget.model.session is None
    unfinished = unfinished_journal(path)
    assert unfinished is not None
    assert unfinished.n_edits == 1


def test_labels_of_the_whole_image_are_edited_in_their_layer(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    layer = widget.viewer.add_labels(blobs.labels.copy(), name="cells")
    session = start(widget)
    assert len(session.store) == len(blobs)
    assert layer.data is session.labels
    session.delete(1)
    assert not (layer.data == 1).any()
    assert widget.panel.count.text() == str(len(blobs) - 1)
    widget.panel.buttons["undo"].click()
    assert widget.panel.count.text() == str(len(blobs))
    assert not widget.panel.buttons["undo"].isEnabled()


def test_a_count_of_a_part_begins_with_its_scores_in_the_whole_image(
    widget: AnnotateWidget, blobs: Any, result_of: Callable[..., Any]
) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs", scale=(0.5, 0.5))
    source = source_of(image, None, (slice(20, 100), slice(40, 140)))
    labels = np.zeros((80, 100), np.int32)
    labels[10:20, 10:20], labels[30:45, 50:60] = 1, 2
    place(widget.viewer, prepare_layers(result_of(source.image, labels), source))
    session = start(widget)
    assert session.labels.shape == blobs.image.shape
    assert session.store.box_of(2) == (slice(50, 65), slice(90, 100))
    assert session.store.cell(1).score == pytest.approx(0.5)
    (own,) = [layer for layer in widget.viewer.layers if layer.name == "blobs annotation"]
    np.testing.assert_array_equal(own.scale, (0.5, 0.5))
    assert not widget.viewer.layers["blobs labels"].visible


def test_points_begin_as_discs_and_nothing_as_nothing(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_points(blobs.points)
    session = start(widget)
    assert len(session.store) == len(blobs)
    assert not session.metadata.has_masks
    widget.panel.begin.click()
    assert widget.model.session is None
    widget.panel.start.setCurrentIndex(0)
    assert len(start(widget).store) == 0


def test_points_without_slices_lie_in_the_slice_in_sight(widget: AnnotateWidget, blobs: Any) -> None:
    stack = np.stack([blobs.image] * 3)
    widget.viewer.add_image(stack, name="blobs", scale=(2, 0.5, 0.5), axis_labels="tyx")
    widget.viewer.add_points(blobs.points[:3], scale=(0.5, 0.5))
    widget.viewer.dims.set_point(0, 4)
    session = start(widget)
    assert len(session.store) == 3
    assert np.unique(np.nonzero(session.labels)[0]).tolist() == [2]


def test_points_keep_scores_and_classes(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    features = {"class": ["", "B", "A"], "score": [0.5, np.nan, 0.7]}
    widget.viewer.add_points(blobs.points[:3], features=features)
    session = start(widget)
    assert session.metadata.class_names == ("A", "B")  # by name, whichever cell comes first
    assert [session.store.cell(number).category for number in (1, 2, 3)] == [None, 1, 0]
    assert [session.store.cell(number).score for number in (1, 2, 3)] == [0.5, 1.0, 0.7]


def test_without_an_image_there_is_nothing_to_start(widget: AnnotateWidget) -> None:
    assert not widget.panel.begin.isEnabled()
    widget.viewer.add_image(np.zeros((4, 9, 9, 9, 9, 9)))
    widget.panel.begin.click()
    assert widget.model.session is None
    assert widget.panel.message.text()


def test_what_was_begun_can_be_finished_once_its_image_is_closed(widget: AnnotateWidget, blobs: Any) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs")
    start(widget)
    widget.viewer.layers.remove(image)
    widget.panel.begin.click()
    assert widget.model.session is None
    assert "Finished. The cells are in the layer 'blobs annotation'" in widget.panel.message.text()


def test_where_the_cells_are_is_told_while_they_are_there(widget: AnnotateWidget, blobs: Any) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs")
    start(widget)
    widget.panel.begin.click()
    assert "Finished" in widget.panel.message.text()
    widget.viewer.layers.selection.active = image
    assert "Finished" in widget.panel.message.text()
    widget.viewer.layers.remove("blobs annotation")
    assert not widget.panel.message.text()


def test_labels_that_are_seen_are_begun_with_before_hidden_ones(qtbot: QtBot, blobs: Any) -> None:
    viewer = ViewerModel()
    image = viewer.add_image(blobs.image, name="blobs")
    seen = viewer.add_labels(blobs.labels.copy(), name="seen")
    viewer.add_labels(blobs.labels.copy(), name="hidden", visible=False)
    viewer.layers.selection.active = image
    later = AnnotateWidget(viewer)
    qtbot.addWidget(later)
    assert later.panel.start.layer is seen


def test_labels_of_another_image_are_refused(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image)
    widget.viewer.add_labels(np.ones((3, 5, 5), np.int32))
    widget.panel.begin.click()
    assert widget.model.session is None
    assert "axes" in widget.panel.message.text()


def test_what_was_begun_is_offered_and_gone_on_with(widget: AnnotateWidget, blobs: Any, qtbot: QtBot) -> None:
    layer = widget.viewer.add_image(blobs.image, name="blobs")
    labels = widget.viewer.add_labels(blobs.labels.copy(), name="cells")
    session = start(widget)
    session.delete(1)
    session.merge(2, 3)
    edited = session.labels.copy()
    widget.viewer.layers.remove(labels)  # as a crash would
    assert widget.model.session is None
    path = journal_path(Image(blobs.image, "YX", name=layer.name), widget.model.journals)
    found = unfinished_journal(path)
    assert found is not None
    assert found.n_edits == 2
    widget.show()
    qtbot.waitUntil(
        lambda: "2 edits of this image are kept, the last from " in widget.panel.offer_line.text(),
        timeout=LIMIT_MS,
    )
    assert not widget.panel.offer.isHidden()
    widget.panel.resume.click()
    assert widget.model.session is not None
    np.testing.assert_array_equal(widget.model.session.labels, edited)
    assert widget.panel.offer.isHidden()
    widget.model.session.undo()
    assert 3 in widget.model.session.store


def test_what_was_begun_is_offered_again_where_nothing_was_done_since(
    widget: AnnotateWidget, blobs: Any, qtbot: QtBot
) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    for n_edits in (2, 1, 0):  # each puts the journal before aside
        session = start(widget)
        for number in range(n_edits):
            session.add(np.ones((3, 3), bool), (20 * number, 5))
        widget.panel.begin.click()  # Finish
        widget.viewer.layers.remove(widget.viewer.layers[-1])
    widget.show()
    qtbot.waitUntil(lambda: "1 edit of this image" in widget.panel.offer_line.text(), timeout=LIMIT_MS)
    widget.panel.resume.click()
    assert widget.model.session is not None
    assert len(widget.model.session.store) == 1
    widget.model.session.undo()
    widget.panel.begin.click()
    widget.choices.offer()
    qtbot.waitUntil(lambda: "2 edits of this image" in widget.panel.offer_line.text(), timeout=LIMIT_MS)


def test_what_is_known_of_the_cells_comes_back_with_the_edits(
    widget: AnnotateWidget, blobs: Any, qtbot: QtBot
) -> None:
    """Scores and classes of the count, and which cells were changed by hand."""
    widget.viewer.add_image(blobs.image, name="blobs")
    n = int(blobs.labels.max())
    known = {"score": np.r_[np.nan, np.full(n, 0.75)], "class": np.array(["", *"ab" * n][: n + 1], object)}
    labels = widget.viewer.add_labels(blobs.labels.copy(), name="cells", features=known)
    session = start(widget)
    session.delete(1)
    session.grow(2)
    session.merge(3, 4)
    session.grow(5)
    session.undo()
    expected = session.store.numbers()
    widget.viewer.layers.remove(labels)  # as a crash would
    widget.show()
    qtbot.waitUntil(lambda: not widget.panel.offer.isHidden(), timeout=LIMIT_MS)
    widget.panel.resume.click()
    rows = features_by_number(widget.viewer.layers["blobs annotation"])
    assert rows["label"].dropna().tolist() == expected.tolist()
    assert rows.index[rows["edited"] == True].tolist() == [2, 3]  # noqa: E712 - some are empty
    assert rows["score"].dropna().index.tolist() == [i for i in expected if i not in (2, 3)]
    assert set(rows["score"].dropna()) == {0.75}
    assert rows["class"][expected].tolist() == ["ab"[(i - 1) % 2] for i in expected]


@pytest.mark.parametrize("in_regions", [False, True])
def test_how_the_cells_were_found_comes_back_with_the_edits(
    widget: AnnotateWidget, blobs: Any, qtbot: QtBot, result_of: Callable[..., Any], in_regions: bool
) -> None:
    """Which count was corrected; where that was of regions, which no journal has, nothing is claimed."""
    image = widget.viewer.add_image(blobs.image, name="blobs")
    source = source_of(image)
    result = result_of(source.image, blobs.labels)
    engine = {"channels": ("0",), "diameter_px": np.float32(12)}
    told = replace(result.provenance, model="flow").noting(engine=engine)
    told_besides = {"regions": RegionSet(rule="overlap")} if in_regions else {}
    prepared = prepare_layers(replace(result, provenance=told), source, metadata=told_besides)
    (labels,) = place(widget.viewer, prepared).values()
    session = start(widget)
    session.delete(1)
    session.add_region((slice(0, 50), slice(0, 50)))
    widget.viewer.layers.remove(labels)  # as a crash would
    widget.show()
    qtbot.waitUntil(lambda: not widget.panel.offer.isHidden(), timeout=LIMIT_MS)
    widget.panel.resume.click()
    own = widget.viewer.layers["blobs annotation"].metadata[METADATA]
    assert own["source"] == str(image.unique_id)
    if in_regions:
        assert "model" not in own
        return
    assert (own["model"], own["settings"]["engine"]) == ("flow", {"channels": ["0"], "diameter_px": 12})
    assert own["edited"]  # a deletion is told by nothing else


def test_the_layer_tells_which_channel_is_annotated(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(np.stack([blobs.image] * 2), name="two", axis_labels=("c", "y", "x"))
    widget.panel.channel.setCurrentIndex(1)
    start(widget)
    assert widget.viewer.layers["two annotation"].metadata[METADATA]["channel"] == 1


def test_what_was_begun_is_looked_for_beside_the_viewer(
    widget: AnnotateWidget, blobs: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[Any] = []
    monkeypatch.setattr(
        annotate_widget, "journal_path", lambda *_: threads.append(threading.current_thread()) or Path("none")
    )
    widget.viewer.add_image(blobs.image, name="blobs")
    widget.choices.offer()
    qtbot.waitUntil(lambda: bool(threads), timeout=LIMIT_MS)
    assert threading.main_thread() not in threads


def test_a_start_anew_keeps_the_journal_that_was_there(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels.copy())
    start(widget).delete(1)
    widget.panel.begin.click()
    start(widget)
    assert widget.model.journals is not None
    assert {path.suffix for path in widget.model.journals.glob("[!.]*")} == {".journal", ".old"}


def test_two_windows_do_not_annotate_one_image_at_once(
    widget: AnnotateWidget, blobs: Any, qtbot: QtBot
) -> None:
    other = AnnotateWidget(ViewerModel())
    other.model.journals = widget.model.journals
    qtbot.addWidget(other)
    for one in (widget, other):
        one.viewer.add_image(blobs.image, name="blobs")
        one.viewer.add_labels(blobs.labels.copy())
    session = start(widget)
    other.panel.begin.click()
    assert other.model.session is None
    assert "Finish it there" in other.panel.message.text()
    assert other.panel.message.property("error") == "true"
    session.delete(1)
    other.show()
    qtbot.waitUntil(lambda: "in another window" in other.panel.offer_line.text(), timeout=LIMIT_MS)
    other.panel.resume.click()
    assert other.model.session is None
    assert "Finish it there" in other.panel.message.text()
    widget.panel.begin.click()
    other.panel.resume.click()
    assert other.model.session is not None
    np.testing.assert_array_equal(other.model.session.labels, session.labels)
    other.model.finish()


def test_an_empty_or_damaged_journal_is_not_offered(tmp_path: Path, blobs: Any) -> None:
    path = tmp_path / "a.journal"
    assert unfinished_journal(path) is None
    path.write_bytes(b"no journal")
    assert unfinished_journal(path) is None
    session = AnnotationSession(Image(blobs.image, "YX"), blobs.labels.copy(), journal=tmp_path / "b.journal")
    session.delete(1)
    session.undo()
    session.close()
    assert unfinished_journal(tmp_path / "b.journal") is None


def test_the_review_centres_each_cell_and_goes_on(widget: AnnotateWidget, blobs: Any) -> None:
    viewer = widget.viewer
    viewer.add_image(blobs.image, name="blobs", scale=(2, 2))
    viewer.add_labels(blobs.labels.copy(), scale=(2, 2))
    session = start(widget)
    buttons, context = widget.panel.buttons, widget.model.context
    assert context is not None
    buttons["next"].click()
    first = context.review.current
    assert first is not None
    middle = [2 * (part.start + part.stop - 1) / 2 for part in session.store.box_of(first)]
    np.testing.assert_allclose(viewer.scene.camera.center[-2:], middle)
    assert f"Cell {first}" in widget.panel.current.text()
    buttons["accept"].click()
    second = context.review.current
    assert session.store.is_reviewed(first)
    assert second not in (None, first)
    buttons["reject"].click()
    assert second not in session.store
    buttons["back"].click()
    buttons["undo"].click()
    assert second in session.store
    assert widget.panel.bar.value() == 1
    buttons["hide"].click()
    assert context.layer.hides_reviewed
    marks = [layer for layer in viewer.layers if layer.name == "marks"]
    assert len(marks) == 1
    widget.model.finish()
    assert not [layer for layer in viewer.layers if layer.name == "marks"]
    assert not buttons["hide"].isChecked()


def test_the_review_shows_a_cell_that_moves_where_it_begins(widget: AnnotateWidget) -> None:
    labels = np.zeros((5, 80, 90), np.int32)
    for frame in range(1, 5):
        labels[frame, 15 * frame : 15 * frame + 8, 10 * frame : 10 * frame + 6] = 1
    widget.viewer.add_image(np.zeros(labels.shape, np.uint8), axis_labels="tyx")
    widget.viewer.add_labels(labels)
    start(widget)
    context = widget.model.context
    assert context is not None
    context.review.act("next")
    assert widget.viewer.dims.current_step[0] == 1
    np.testing.assert_allclose(widget.viewer.scene.camera.center[-2:], (18.5, 12.5))
    marks = context.tools.overlay.layer
    assert marks is not None
    np.testing.assert_allclose(np.ptp(marks.data[0], axis=0), (0, 16, 14))  # with a margin


def test_every_cell_reviewed_ends_the_queue(widget: AnnotateWidget) -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:9, 5:9] = 1
    widget.viewer.add_image(np.zeros((30, 30)))
    widget.viewer.add_labels(labels)
    start(widget)
    widget.panel.buttons["next"].click()
    widget.panel.buttons["accept"].click()
    assert widget.panel.hint.text() == "Every cell has been reviewed."


def test_cells_of_a_class_that_is_removed_are_told(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image)
    widget.viewer.add_labels(blobs.labels.copy())
    session = start(widget)
    session.set_class_names(("red", "white"))
    session.set_class(1, 1)
    widget.panel.names.setText("red")
    widget.panel.names.editingFinished.emit()
    assert widget.panel.message.text() == "Cells without a class now: 1 of white. Undo brings them back."
    session.undo()
    assert session.store.cell(1).category == 1


def test_names_of_classes_become_chips(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image)
    widget.viewer.add_labels(blobs.labels.copy())
    session = start(widget)
    widget.panel.names.setText("red, white ,")
    widget.panel.names.editingFinished.emit()
    assert session.metadata.class_names == ("red", "white")
    session.set_class(1, 1)
    assert [chip.text() for chip in widget.panel.chips if not chip.isHidden()] == ["1 red · 0", "2 white · 1"]
    widget.panel.chips[0].click()
    assert widget.model.context is not None
    assert (widget.model.context.tools.name, widget.model.context.tools.category) == ("class", 0)
    widget.panel.chips[0].click()
    assert widget.model.context.tools.name == ""


def click_at(point: Any) -> Wish:
    return Wish((), Prompts((yx(point),)))


def test_a_click_adds_the_cell_the_model_sees_else_a_disc(
    widget: AnnotateWidget, blobs: Any, shelved: Any, qtbot: QtBot
) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    session = start(widget)
    context = widget.model.context
    assert context is not None
    context.adder.add_each([click_at(blobs.points[0])])
    qtbot.waitUntil(lambda: len(session.store) == 1 and context.adder.job is None, timeout=LIMIT_MS)
    np.testing.assert_array_equal(session.labels > 0, blobs.labels == 1)
    context.adder.add_each([click_at(blobs.points[0])])
    assert "already" in widget.panel.hint.text()
    widget.panel.settings.diameter.setValue(6)
    background = np.argwhere(blobs.labels == 0)
    far = background[np.argmax([np.abs(blobs.points - place).sum(axis=1).min() for place in background])]
    context.adder.add_each([click_at(far)])
    qtbot.waitUntil(lambda: len(session.store) == 2, timeout=LIMIT_MS)
    assert "disc" in widget.panel.hint.text()
    session.undo()
    session.undo()
    assert len(session.store) == 0
    context.adder.prompt(np.array([[-5.0, 1.0]]))
    assert len(session.history.done) == 0


def test_another_diameter_has_the_model_look_again(
    widget: AnnotateWidget, blobs: Any, shelved: Any, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def look(subject: Any, prompts: Any, questions: Any) -> Any:
        seen.append(subject.engine.diameter_px)
        yield Progress("load", 0, 1)
        return SimpleNamespace(encode_for=lambda _: iter(()), segment=lambda _: None)

    monkeypatch.setattr(point_prompt, "predictor_task", look)
    widget.viewer.add_image(blobs.image, name="blobs")
    session = start(widget)
    for n_cells, diameter in enumerate((6.0, 6.0, 9.0), start=1):
        widget.panel.settings.diameter.setValue(diameter)
        widget.model.context.adder.add_each([click_at((20 * n_cells, 10))])
        qtbot.waitUntil(lambda n=n_cells: len(session.store) == n, timeout=LIMIT_MS)
    assert seen == [6.0, 9.0]


def drawn(widget: AnnotateWidget) -> Any:
    return next(layer for layer in widget.viewer.layers if layer.name == "prompts")


@pytest.fixture
def prompting(widget: AnnotateWidget, blobs: Any, shelved: Any, qtbot: QtBot) -> Callable[..., list[str]]:
    """Function that prompts in the second slice of a stack and waits; returns what is drawn."""
    stack = np.stack([np.zeros_like(blobs.image), blobs.image])
    widget.viewer.add_image(stack, name="blobs", scale=(2, 0.5, 0.5), translate=(1, 3, 4), axis_labels="tyx")
    start(widget)
    adder = widget.model.context.adder  # type: ignore[union-attr]

    def prompt(*points: Any, said: str = "positive") -> list[str]:
        adder.prompt(np.array([(1.0, *point) for point in points]), said)
        qtbot.waitUntil(lambda: adder.job is None, timeout=LIMIT_MS)
        return list(drawn(widget).shape_type)

    return prompt


def test_a_cell_is_prompted_for_shown_corrected_and_kept(
    widget: AnnotateWidget, blobs: Any, prompting: Any
) -> None:
    session, adder = widget.model.session, widget.model.context.adder  # type: ignore[union-attr]
    assert session is not None
    first, second = blobs.points[:2]
    assert prompting(first) == ["path", "ellipse"]
    assert "score" in widget.panel.hint.text()
    assert len(session.store) == 0
    shapes, layer = drawn(widget), widget.viewer.layers["blobs"]
    middle = shapes.data_to_world(shapes.data[1].mean(axis=0))
    np.testing.assert_allclose(middle, layer.data_to_world((1, *first)))
    assert len(prompting(second, said="negative")) == 3
    assert adder.takes("undo")
    prompting(second)
    assert "One cell in 2 separate pieces" in widget.panel.hint.text()
    assert adder.takes("accept")
    assert not adder.takes("accept")
    np.testing.assert_array_equal(session.labels[1] > 0, np.isin(blobs.labels, (1, 2)))
    assert not session.labels[0].any()
    assert len(shapes.data) == 0


def test_what_is_prompted_for_can_be_dropped(widget: AnnotateWidget, blobs: Any, prompting: Any) -> None:
    session, adder = widget.model.session, widget.model.context.adder  # type: ignore[union-attr]
    assert session is not None
    places = np.argwhere(blobs.labels == 3)
    assert prompting(places.min(axis=0) - 0.5, places.max(axis=0) + 0.5) == ["path", "rectangle"]
    assert adder.takes("cancel")
    assert not drawn(widget).data
    prompting(blobs.points[0], said="negative")
    assert "needs a positive point" in widget.panel.message.text()
    assert len(session.store) == 0
    prompting(blobs.points[0])
    prompting(blobs.points[1], said="next")
    assert len(session.store) == 1
    widget.model.finish()
    assert not [one for one in widget.viewer.layers if one.name == "prompts"]


def test_what_the_model_does_not_see_is_drawn_and_told(
    widget: AnnotateWidget, shelved: Any, qtbot: QtBot
) -> None:
    widget.viewer.add_image(np.zeros((60, 80), np.uint8), name="empty")
    session = start(widget)
    adder = widget.model.context.adder  # type: ignore[union-attr]
    adder.prompt(np.array([(10.0, 10.0), (20.0, 40.0)]))
    qtbot.waitUntil(lambda: adder.job is None, timeout=LIMIT_MS)
    assert widget.panel.hint.text().startswith("An ellipse is drawn; the model sees none. ")
    adder.keep()
    assert "ellipse" in widget.panel.hint.text()
    rows, columns = np.nonzero(session.labels)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 19, 10, 39)
    adder.prompt(np.array([(15.0, 25.0)]))
    assert "already" in widget.panel.hint.text()
    assert adder.draft.prompts is None


def test_without_the_model_a_click_adds_a_disc_at_once_and_boxes_are_flat(widget: AnnotateWidget) -> None:
    widget.viewer.add_image(np.zeros((60, 80), np.uint8), name="empty")
    session = start(widget)
    widget.panel.settings.ask_model.setChecked(False)
    adder = widget.model.context.adder  # type: ignore[union-attr]
    adder.prompt(np.array([(30.0, 30.0)]))
    assert len(session.store) == 1
    assert "the model was not asked" in widget.panel.hint.text()
    assert adder.draft.prompts is None
    adder.prompt(np.array([(30.0, 30.0)]), "negative")
    assert "needs a positive point" in widget.panel.message.text()
    widget.viewer.dims.ndisplay = 3
    adder.prompt(np.array([(10.0, 50.0), (20.0, 70.0)]))
    assert "2D view" in widget.panel.message.text()
    assert len(session.store) == 1


@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_each_box_or_point_of_a_layer_becomes_the_cell_the_model_sees_there(
    widget: AnnotateWidget, blobs: Any, shelved: Any, qtbot: QtBot, kind: str
) -> None:
    stack = np.stack([np.zeros_like(blobs.image), blobs.image])
    widget.viewer.add_image(stack, name="blobs", scale=(1, 0.5, 0.5), axis_labels="tyx")
    if kind == "points":
        start_layer = widget.viewer.add_points(blobs.points[:3], scale=(0.5, 0.5))
    else:
        start_layer = widget.viewer.add_shapes(ndim=2, scale=(0.5, 0.5), name="boxes")
        for number in (1, 2, 3):
            places = np.argwhere(blobs.labels == number)
            start_layer.add_rectangles(np.stack([places.min(axis=0) - 0.5, places.max(axis=0) + 0.5]))
    widget.viewer.dims.set_point(0, 1)
    widget.panel.start.choose(start_layer)
    assert not widget.panel.outline.isHidden()
    widget.panel.outline.setChecked(True)
    session = start(widget)
    qtbot.waitUntil(lambda: len(session.store) == 3, timeout=LIMIT_MS)
    found, truth = session.labels[1] > 0, np.isin(blobs.labels, (1, 2, 3))
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert not session.labels[0].any()
    assert len(session.history.done) == 3
    session.undo()
    assert len(session.store) == 2


@pytest.mark.parametrize("is_outlined", [False, True])
@pytest.mark.parametrize("kind", ["boxes", "points"])
def test_boxes_and_points_that_begin_an_annotation_keep_classes_and_what_was_counted(
    widget: AnnotateWidget, blobs: Any, shelved: Any, qtbot: QtBot, kind: str, *, is_outlined: bool
) -> None:
    widget.viewer.add_image(blobs.image, name="blobs")
    height, width = blobs.image.shape
    looks = {
        "features": {"class": ["late", "", "early"]},
        "metadata": {METADATA: {"output": "Shapes", WINDOW: ((0, height), (0, width - 20))}},
    }
    if kind == "points":
        start_layer = widget.viewer.add_points(blobs.points[:3], **looks)
    else:
        parts = [np.argwhere(blobs.labels == number) for number in (1, 2, 3)]
        corners = [np.stack([part.min(axis=0) - 0.5, part.max(axis=0) + 0.5]) for part in parts]
        start_layer = widget.viewer.add_shapes(corners, shape_type="rectangle", **looks)
    widget.panel.start.choose(start_layer)
    widget.panel.outline.setChecked(is_outlined)
    session = start(widget)
    qtbot.waitUntil(lambda: len(session.store) == 3, timeout=LIMIT_MS)
    assert session.metadata.class_names == ("early", "late")
    found = [session.store.cell(number).category for number in session.store.numbers()]
    assert found == [1, None, 0]
    assert session.metadata.regions == ((slice(0, height), slice(0, width - 20)),)
    assert session.metadata.is_part


def test_regions_that_a_journal_holds_are_shown(widget: AnnotateWidget, blobs: Any) -> None:
    widget.viewer.add_image(blobs.image)
    widget.viewer.add_labels(blobs.labels.copy())
    session = start(widget)
    session.add_region((slice(5, 20), slice(5, 30)))
    (regions,) = [layer for layer in widget.viewer.layers if isinstance(layer, Shapes)]
    assert regions.metadata[METADATA]
    np.testing.assert_array_equal(np.ptp(regions.data[0], axis=0), (15, 25))
    widget.viewer.layers.remove(regions)
    session.undo()
    session.redo()
    assert [layer.name for layer in widget.viewer.layers if isinstance(layer, Shapes)] == ["complete regions"]


@pytest.mark.parametrize("is_volume", [False, True])
def test_a_region_that_is_moved_in_its_layer_is_moved(
    widget: AnnotateWidget, blobs: Any, *, is_volume: bool
) -> None:
    image, labels = blobs.image, blobs.labels.copy()
    lead: tuple[slice, ...] = ()
    if is_volume:
        image, labels, lead = np.stack([image] * 3), np.stack([labels] * 3), (slice(1, 3),)
    widget.viewer.add_image(image, axis_labels="zyx"[-image.ndim :])
    widget.viewer.add_labels(labels)
    session = start(widget)
    session.add_region((*lead, slice(5, 20), slice(5, 30)))
    session.add_region((*lead, slice(50, 60), slice(5, 30)))
    (regions,) = [layer for layer in widget.viewer.layers if isinstance(layer, Shapes)]
    moved = [np.array(one) for one in regions.data]
    moved[0][:, -2:] += (7.3, 10.9)
    regions.data = moved
    expected = ((*lead, slice(12, 27), slice(16, 41)), (*lead, slice(50, 60), slice(5, 30)))
    assert session.metadata.regions == expected
    assert regions.data[0][:, -2:].min(axis=0).tolist() == [11.5, 15.5]
    session.undo()
    assert session.metadata.regions[0] == (*lead, slice(5, 20), slice(5, 30))


def test_colours_and_slices_of_an_rgb_film_line_up(widget: AnnotateWidget) -> None:
    labels = np.zeros((3, 40, 40), np.int32)
    labels[1, 10:20, 10:20] = 1
    image = np.zeros((3, 40, 40, 3), np.uint8)
    widget.viewer.add_image(image, rgb=True, axis_labels=("t", "y", "x"))
    widget.viewer.add_labels(labels)
    session = start(widget)
    assert session.image.axes == "TYXC"
    widget.panel.buttons["next"].click()
    assert widget.viewer.dims.current_step[0] == 1


def test_the_cheat_sheet_opens_and_closes(widget: AnnotateWidget) -> None:
    widget.panel.help.click()
    sheet = widget._sheet
    assert sheet is not None
    assert sheet.isVisible()
    widget.show_keys()
    assert not sheet.isVisible()


def test_where_the_keys_work_is_told(widget: AnnotateWidget, blobs: Any) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels.copy(), name="cells")
    start(widget)
    own = widget.model.context.layer.layer
    widget.panel.buttons["grow"].click()
    told = widget.panel.hint.text()
    widget.viewer.layers.selection.active = image
    assert widget.panel.hint.text().startswith(
        f"Keys do nothing here; to use them, choose the layer {own.name!r}"
    )
    assert widget.viewer.status == widget.panel.hint.text()
    widget.viewer.layers.selection.active = own
    assert widget.panel.hint.text() == told == widget.viewer.status


@pytest.mark.parametrize("how", ["cleared", "finished", "finished elsewhere"])
def test_keys_of_an_annotation_that_ended_are_not_told(widget: AnnotateWidget, blobs: Any, how: str) -> None:
    image = widget.viewer.add_image(blobs.image, name="blobs")
    widget.viewer.add_labels(blobs.labels.copy(), name="cells")
    start(widget)
    own = widget.model.context.layer.layer
    widget.viewer.layers.selection.active = image
    if how == "finished":
        widget.viewer.layers.selection.active = own
    if how == "cleared":
        widget.viewer.layers.clear()
    else:
        widget.panel.begin.click()
    assert widget.model.session is None
    assert widget.viewer.status == "Ready"


def test_a_counted_layer_that_is_annotated_keeps_where_it_came_from(
    viewer: ViewerModel, annotate_widget: AnnotateWidget
) -> None:
    image = viewer.add_image(np.zeros((20, 20)), name="cells")
    own = {"model": "flow", "source": str(image.unique_id), "is_preview": False, "output": "Labels"}
    labels = viewer.add_labels(np.zeros((20, 20), np.int32), metadata={METADATA: own})
    annotate_widget.panel.begin.click()
    assert annotate_widget.model.context.layer.layer is labels
    assert own.items() <= labels.metadata[METADATA].items()
    assert is_edited(labels)  # no count takes its place
