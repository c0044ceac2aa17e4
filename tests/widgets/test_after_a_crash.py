"""An annotation that is resumed brings back what Results was set to: regions, filters, gate, measurements."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Labels
from pytestqt.qtbot import QtBot

from cellwright.core.data import Cells, Provenance, Result
from cellwright.ops.labels import label_properties
from cellwright.ops.measure.filters import ScatterGate
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.cells.followers import follow
from cellwright.widgets.shared.edited_layers import is_marked
from cellwright.widgets.shared.journals import kept_corrections
from cellwright.widgets.shared.journals.kept_corrections import keep_corrections
from cellwright.widgets.shared.layer_io import place, prepare_layers, source_of

LIMIT_MS = 30_000
LEFT = np.array([[0.0, 0.0], [150.0, 0.0], [150.0, 70.0], [0.0, 70.0]])
OUT = np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 30.0], [0.0, 30.0]])
GATE = ScatterGate("circularity", "y", np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 120.0], [0.0, 120.0]]))


class Desk:
    """A viewer with an image and both panels, as one program has them."""

    def __init__(self, pixels: Any, journals: Path, qtbot: QtBot, **placement: Any) -> None:
        self.qtbot, self.viewer = qtbot, ViewerModel()
        self.image = self.viewer.add_image(pixels, name="blobs", **placement)
        self.annotate = AnnotateWidget(self.viewer)
        self.annotate.model.journals = journals
        self.results = ResultsWidget(self.viewer)
        for widget in (self.annotate, self.results):
            qtbot.addWidget(widget)
        self.rest()

    def rest(self) -> None:
        """Wait until all is measured, what follows has been written, and it is known what is kept."""
        results, look = self.results, self.annotate.choices.look
        self.qtbot.wait(20)
        self.qtbot.waitUntil(lambda: results.is_filled and not results.measurer.is_busy, timeout=LIMIT_MS)
        self.qtbot.wait(20)
        wait_for_copies(self.viewer, self.qtbot)
        self.qtbot.waitUntil(lambda: not look.is_busy, timeout=LIMIT_MS)

    def annotated(self, labels: Any) -> None:
        """Begin an annotation of some cells, and delete one."""
        cells = self.viewer.add_labels(labels.copy(), name="cells")
        self.annotate.panel.start.choose(cells)
        self.annotate.panel.begin.click()
        self.annotate.model.session.delete(2)
        self.results.show_layer(cells)
        self.rest()

    def end(self) -> None:
        """Let go of the journal, as a killed program does, and of nothing else."""
        self.annotate.model.session.close()

    def resumed(self) -> None:
        """Go on with the annotation, and have Results tell of it."""
        self.annotate.choices.offer()
        self.qtbot.waitUntil(lambda: self.annotate.choices.offered is not None, timeout=LIMIT_MS)
        self.annotate.panel.resume.click()
        self.results.show_layer(self.viewer.layers["blobs annotation"])
        self.rest()


def wait_for_copies(viewer: ViewerModel, qtbot: QtBot) -> None:
    """Wait until the cells of a viewer are measured, and the copies of all that were corrected written."""
    followers, keeper = follow(viewer), keep_corrections(viewer)
    qtbot.waitUntil(lambda: not followers.is_busy and not keeper.is_busy, timeout=LIMIT_MS)


@pytest.fixture
def desk(blobs: Any, tmp_path: Path, qtbot: QtBot) -> Callable[[], Desk]:
    return lambda: Desk(blobs.image.copy(), tmp_path / "journals", qtbot)


def set_up(desk: Desk) -> None:
    """Draw regions, one of which is cut out, tick a measurement, filter, and draw a gate."""
    results = desk.results
    shapes = desk.viewer.add_shapes([LEFT], shape_type="polygon", features={"name": ["left"]}, name="mine")
    out = desk.viewer.add_shapes([OUT], shape_type="polygon", name="dirt")
    results.view.regions.choose(shapes)
    results.view.exclude.choose(out)
    results.view.groups["shape"].setChecked(True)
    results.view.measure.click()
    desk.rest()
    results.model.set_conditions("area_px >= 60 and circularity > 0.2")
    results.model.set_border("drop")
    results.model.set_gate(GATE)
    desk.rest()


def state(desk: Desk) -> tuple[Any, ...]:
    model = desk.results.model
    rings = [[ring.round(3).tolist() for ring in one.rings] for one in model.regions.included]
    cut = [[ring.round(3).tolist() for ring in one.rings] for one in model.regions.excluded]
    names = model.regions.names
    kept = model.kept_table[["label", "regions", "circularity"]].round(6).to_numpy().tolist()
    return model.settings, names, rings, cut, model.gate.corners.tolist(), kept


def test_what_results_was_set_to_comes_back_with_the_edits(desk: Callable[[], Desk], blobs: Any) -> None:
    before = desk()
    before.annotated(blobs.labels)
    set_up(before)
    expected = state(before)
    assert 0 < len(expected[-1]) < before.results.model.n_cells
    before.end()
    after = desk()
    after.resumed()
    assert state(after) == expected
    assert after.results.view.regions.layer.name == "regions"
    assert after.results.view.groups["shape"].isChecked()
    assert "area_px >= 60" in after.results.view.filter.text()
    assert "are as they were" in after.results.view.message.text()


def test_results_say_that_resumed_cells_were_changed_by_hand(desk: Callable[[], Desk], blobs: Any) -> None:
    before = desk()
    areas, points, boxes = label_properties(blobs.labels)
    cells = Cells(points, boxes, np.ones(len(areas), np.float32), areas, blobs.labels.copy())
    settings = {"flow": {}, "engine": {}}
    how = Provenance("0.1", "flow", "abc", settings, "blobs", blobs.image.shape, "YX", (), "cpu", 1.8)
    result = Result(float(len(areas)), cells, how)
    shown = place(before.viewer, prepare_layers(result, source_of(before.image)))["Labels"]
    before.annotate.panel.start.choose(shown)
    before.annotate.panel.begin.click()
    before.results.show_layer(shown)
    before.rest()
    assert "by hand" not in before.results.view.line.text()
    before.annotate.model.session.delete(2)
    before.end()
    after = desk()
    after.resumed()
    assert "changed by hand" in after.results.view.line.text()
    assert after.results.export.unrepeatable == ["cells deleted or classified by hand"]


def test_what_was_set_since_is_kept(desk: Callable[[], Desk], blobs: Any, tmp_path: Path) -> None:
    before = desk()
    before.annotated(blobs.labels)
    set_up(before)
    expected = state(before)
    before.end()
    after = desk()
    after.viewer.add_labels(blobs.labels.copy(), name="others")
    after.rest()
    after.results.model.set_conditions("area_px >= 5")
    after.resumed()
    assert after.results.model.conditions_text == "area_px >= 5"
    assert after.results.view.regions.layer is None
    assert "those set here" in after.results.view.message.text()
    files = {path: path.read_bytes() for path in (tmp_path / "journals").glob("*.results.*")}
    assert len(files) == 3
    after.results.model.set_conditions("area_px >= 6")
    after.rest()
    assert {path: path.read_bytes() for path in files} == files
    after.results.view.take_kept.click()
    after.rest()
    assert state(after) == expected
    assert after.results.view.take_kept.isHidden()
    after.results.model.set_conditions("area_px >= 7")
    after.rest()
    assert any(path.read_bytes() != content for path, content in files.items())


def test_a_new_annotation_begins_without_the_settings_of_another(
    desk: Callable[[], Desk], blobs: Any, tmp_path: Path
) -> None:
    before = desk()
    before.annotated(blobs.labels)
    set_up(before)
    before.end()
    assert len(list((tmp_path / "journals").glob("*.results.*"))) == 3
    fresh = desk()
    fresh.annotate.panel.begin.click()
    assert not list((tmp_path / "journals").glob("*.results.*"))


def test_damaged_settings_are_told_and_the_edits_come_back(
    desk: Callable[[], Desk], blobs: Any, tmp_path: Path
) -> None:
    before = desk()
    before.annotated(blobs.labels)
    before.end()
    for path in (tmp_path / "journals").glob("*.results.gate.json"):
        path.write_text("{}", encoding="utf-8")
    after = desk()
    after.resumed()
    assert "Expected a gate at" in after.results.view.message.text()
    assert 2 not in after.annotate.model.session.store


SETTINGS, REGIONS, OF_GATE = "*.results.json", "*.results.geojson", "*.results.gate.json"
LINE = '{"x": "area_px", "y": "y", "corners": [[0.0], [1.0]]}'
UNKNOWN = '{"x": "mean_of_another_image", "y": "y", "corners": [[0, 0], [9, 0], [9, 9]]}'


@pytest.mark.parametrize(
    ("file", "text", "others", "told"),
    [
        (OF_GATE, LINE, (SETTINGS, REGIONS), "Expected a gate"),
        (OF_GATE, UNKNOWN, (SETTINGS, REGIONS), "left out: the gate over mean_of_another_image"),
        (REGIONS, '{"type": "FeatureCollection"', (SETTINGS, OF_GATE), "geojson"),
        (SETTINGS, '{"format": "another"}', (REGIONS,), "left out: the gate over circularity"),
    ],
)
def test_what_is_whole_comes_back_beside_what_is_damaged(
    desk: Callable[[], Desk],
    blobs: Any,
    tmp_path: Path,
    file: str,
    text: str,
    others: tuple[str, ...],
    told: str,
) -> None:
    before = desk()
    before.annotated(blobs.labels)
    set_up(before)
    model = before.results.model
    expected = {SETTINGS: model.conditions_text, REGIONS: model.regions.names, OF_GATE: True}
    before.end()
    (path,) = (tmp_path / "journals").glob(file)
    path.write_text(text, encoding="utf-8")
    after = desk()
    after.resumed()
    found = after.results.model
    parts = {SETTINGS: found.conditions_text, REGIONS: found.regions.names, OF_GATE: found.gate is not None}
    assert all(parts[name] == expected[name] for name in others)
    assert told in after.results.view.message.text()


@pytest.fixture
def corrected(
    widget: CountWidget,
    viewer: ViewerModel,
    blobs: Any,
    qtbot: QtBot,
    settled: Callable[[CountWidget], None],
    tmp_path: Path,
) -> Labels:
    """Counted cells of which one was erased and one drawn, whose copy is written."""
    viewer.add_image(blobs.image.copy(), name="blobs")
    widget.panel.count.click()
    settled(widget)
    qtbot.waitUntil(lambda: not follow(viewer).is_busy, timeout=LIMIT_MS)
    cells = viewer.layers["blobs labels"]
    cells.data_setitem(np.nonzero(cells.data == 3), 0)
    cells.data_setitem((np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])), 90)
    wait_for_copies(viewer, qtbot)
    assert list((tmp_path / "journals").glob("*.corrected"))
    return cells


def offer(desk: Desk) -> str:
    """What can be resumed of the image."""
    desk.annotate.choices.offer()
    desk.rest()
    return str(desk.annotate.panel.offer_line.text())


def test_counted_cells_that_were_corrected_without_an_annotation_come_back(
    desk: Callable[[], Desk], corrected: Labels
) -> None:
    assert offer(desk()) == "", "this program has them in its layer"
    kept_corrections.written_here.clear()
    for _ in range(2):  # the second after another crash, before any edit of the annotation
        after = desk()
        assert "corrected in the viewer are kept" in offer(after)
        after.resumed()
        layer = after.viewer.layers["blobs annotation"]
        np.testing.assert_array_equal(layer.data, corrected.data)
        assert layer.metadata["cellwright"]["model"] == corrected.metadata["cellwright"]["model"]
        after.end()
    again = desk()
    again.resumed()
    again.annotate.model.session.delete(4)
    again.end()
    assert "1 edit of this image is kept" in offer(desk())


def test_a_copy_of_another_program_is_not_written_over(
    corrected: Labels, tmp_path: Path, qtbot: QtBot
) -> None:
    (path,) = (tmp_path / "journals").glob("*.corrected")
    before = path.read_bytes()
    kept_corrections.written_here.clear()
    corrected.data_setitem(np.nonzero(corrected.data == 4), 0)
    old = path.with_suffix(".corrected.old")
    qtbot.waitUntil(lambda: old.exists() and path.exists(), timeout=LIMIT_MS)
    assert old.read_bytes() == before


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_mask_and_nuclei_come_back(
    desk: Callable[[], Desk], blobs: Any, tmp_path: Path, *, is_lost: bool
) -> None:
    before = desk()
    before.annotated(blobs.labels)
    view, half = before.results.view, np.zeros(blobs.labels.shape, int)
    half[:60] = 1
    tissue = before.viewer.add_labels(half, name="tissue")
    view.mask_side.setCurrentIndex(view.mask_side.place_of(True))
    view.mask_layer.choose(tissue)
    view.nuclei.choose(before.viewer.add_labels((blobs.labels > 3) * 1, name="nuclei"))
    view.measure.click()
    before.rest()
    first = before.results.model.n_kept
    tissue.data_setitem(np.nonzero(np.eye(*half.shape, dtype=int)), 1)  # painted after it was written
    before.results.model.set_border("drop")
    before.rest()
    n, nuclei = before.results.model.n_kept, before.results.model.nuclei_text
    assert 0 < n < first
    assert nuclei
    before.end()
    if is_lost:
        for path in (tmp_path / "journals").glob("*.npz"):
            path.unlink()
    after = desk()
    after.resumed()
    told = after.results.view.message.text()
    assert ("Expected the labels 'tissue' at" in told) == is_lost
    if not is_lost:
        assert "are as they were" in told
        assert (after.results.model.n_kept, after.results.model.nuclei_text) == (n, nuclei)
        np.testing.assert_array_equal(after.viewer.layers["tissue"].data, tissue.data)


@pytest.mark.parametrize("lead", ["", "t", "c"])
@pytest.mark.parametrize("output", ["Points", "Shapes"])
def test_points_and_boxes_that_were_corrected_come_back(
    widget: CountWidget,
    viewer: ViewerModel,
    blobs: Any,
    qtbot: QtBot,
    settled: Callable[[CountWidget], None],
    tmp_path: Path,
    output: str,
    lead: str,
) -> None:
    """Where they lie, with their classes, also of channels and frames; and again if they go again."""
    image = blobs.image if not lead else np.stack([blobs.image] * 2)
    placement = {"axis_labels": (*lead, "y", "x"), "scale": (1.0,) * len(lead) + (0.5, 0.5)}
    viewer.add_image(image.copy(), name="blobs", **placement)
    for one, box in widget.panel.outputs.items():
        box.setChecked(one == output)
    widget.panel.count.click()
    settled(widget)
    cells = next(layer for layer in viewer.layers if layer.metadata.get("cellwright"))
    cells.features = cells.features.assign(**{"class": [""] * (len(cells.data) - 1) + ["odd"]})
    cells.selected_data = {0}
    cells.remove_selected()
    moved = list(cells.data)
    moved[-1] = moved[-1] + 2.0 * (np.arange(cells.ndim) >= cells.ndim - 2)
    cells.data = moved if output == "Shapes" else np.array(moved)
    wait_for_copies(viewer, qtbot)
    for _ in range(2):
        kept_corrections.written_here.clear()
        after = Desk(image.copy(), tmp_path / "journals", qtbot, **placement)
        what = {"Shapes": "Boxes", "Points": "Points"}[output]
        assert offer(after).startswith(f"{what} of this image that were corrected in the viewer are kept")
        after.annotate.panel.resume.click()
        layer = after.viewer.layers[cells.name]
        np.testing.assert_allclose(in_world(layer), in_world(cells))
        assert layer.features["class"].tolist() == cells.features["class"].tolist()
        assert layer.metadata["cellwright"]["model"] == cells.metadata["cellwright"]["model"]
        assert is_marked(layer)
        assert cells.name in after.annotate.panel.message.text()
        assert offer(after) == ""


def in_world(layer: Any) -> Any:
    """Where points or corners lie in the world."""
    return [
        layer.data_to_world(place) for place in np.concatenate([np.atleast_2d(one) for one in layer.data])
    ]
