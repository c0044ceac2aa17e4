"""Classes in the count widget; the classifier is a fake that goes by area."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.utils.colormaps.standardize_color import rgb_to_hex
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QComboBox, QFileDialog

from cellwright.core.data import Image, Result
from cellwright.core.errors import CheckpointError
from cellwright.core.tasks import Progress, Task
from cellwright.inference import classify as engine
from cellwright.models import store
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count.model import unclassified
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared import model_combos
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.combos import OTHER_FOLDER
from cellwright.widgets.shared.layer_factory import class_colour, legend
from cellwright.widgets.shared.messages import choose_entry
from cellwright.widgets.shared.model_combos import classifier_choices

Settled = Callable[[CountWidget], None]


def titles(box: QComboBox) -> list[str]:
    return [box.itemText(place) for place in range(box.count())]


@pytest.fixture
def widget(viewer: ViewerModel, qtbot: QtBot, shelved: Any, monkeypatch: pytest.MonkeyPatch) -> CountWidget:
    """A count widget with a classifier to which the first five cells are WBC."""

    def classify(result: Result, image: Image, classifier: str, engine: Any) -> Task[Result]:
        yield Progress("classes", 0, 1)
        if classifier == "broken":
            raise CheckpointError("The classifier is damaged.")
        classes = (np.arange(len(result.cells)) < 5).astype(np.int16)
        settings = {
            **result.provenance.settings,
            "classes": ["RBC", "WBC"],
            "classifier": {"name": classifier},
        }
        return replace(
            result,
            cells=replace(result.cells, classes=classes),
            provenance=replace(result.provenance, settings=settings),
        )

    monkeypatch.setattr(engine, "classify", classify)
    monkeypatch.setattr(
        model_combos, "classifier_choices", lambda: [("blood: RBC, WBC", "blood"), ("broken", "broken")]
    )
    made = CountWidget(viewer)
    qtbot.addWidget(made)
    return made


def test_a_count_tells_its_classes_and_lets_go_of_them(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    box = widget.panel.classes
    assert titles(box) == ["None", "blood: RBC, WBC", "broken", "Choose a folder…"]
    box.setCurrentIndex(1)
    widget.panel.count.click()
    settled(widget)
    assert f"RBC&nbsp;{len(blobs) - 5}" in widget.panel.legend.text()
    assert "WBC&nbsp;5" in widget.panel.legend.text()
    assert not widget.panel.legend.isHidden()
    assert list(viewer.layers["blobs labels"].features["class"])[1:7] == ["WBC"] * 5 + ["RBC"]
    box.setCurrentIndex(0)
    settled(widget)
    assert widget.panel.legend.isHidden()
    assert "class" not in viewer.layers["blobs labels"].features
    assert widget.counted.result.cells.classes is None


def test_classes_have_one_order_and_their_colours_in_every_panel(
    viewer: ViewerModel,
    widget: CountWidget,
    annotate_widget: AnnotateWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
) -> None:
    def shown() -> dict[str, str]:
        names, colours = cells.features["class"], cells.colormap.color_dict
        return {names[n]: rgb_to_hex(colours[n])[0].lower()[:7] for n in range(1, len(blobs) + 1)}

    image = viewer.add_image(blobs.image, name="blobs")
    widget.panel.classes.setCurrentIndex(1)
    widget.panel.count.click()
    settled(widget)
    cells = viewer.layers["blobs labels"]
    assert cells.features["class"][1] == "WBC", "the first cell is not of the first class"
    annotate_widget.panel.image.choose(image)
    annotate_widget.panel.start.choose(cells)
    annotate_widget.panel.begin.click()
    session = annotate_widget.model.session
    assert session is not None
    assert annotate_widget.panel.names.text() == "RBC, WBC"  # so each has the key that it has in other images
    session.set_class_names(["RBC", "WBC", "odd", "late"])
    session.set_classes({1: "late", 2: "odd"})
    wanted = {"RBC": class_colour(0), "WBC": class_colour(1), "odd": class_colour(2), "late": class_colour(3)}
    assert shown() == wanted
    annotate_widget.panel.begin.click()
    results = ResultsWidget(viewer)
    qtbot.addWidget(results)
    qtbot.waitUntil(lambda: not results.measurer.is_busy, timeout=30_000)
    assert [*results.model.groups("class")] == [*wanted]
    assert legend(wanted) == re.sub(r"&nbsp;\d+", "", widget.panel.legend.text())
    results.link.set_class([2], "early")
    assert shown() == wanted | {"early": class_colour(4)}
    results.link.colour_by(results.model.groups("class"))
    results.link.set_class([3], "odd")
    results.link.colour_by({})
    assert shown() == wanted | {"early": class_colour(4)}


def test_the_folder_of_a_classifier_is_chosen_and_kept(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Settled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    box = widget.panel.classes
    for folder, chosen in ((tmp_path, ""), (store.find_classifier("blood"),) * 2):
        monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_, folder=folder: str(folder))
        choose_entry(box, OTHER_FOLDER)
        assert box.classifier == str(chosen)
        assert widget.panel.message.text().startswith("Classifier must be a folder") == (not chosen)
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tmp_path))
    choose_entry(widget.panel.model, OTHER_FOLDER)
    assert "Choose a complete model folder" in widget.panel.message.text()
    widget.panel.count.click()
    settled(widget)
    assert widget.counted.request.recipe.classifier == str(store.find_classifier("blood"))
    monkeypatch.setattr(model_combos, "classifier_choices", lambda: [("new: a, b", "new")])
    box.refresh()
    assert titles(box) == ["None", "new: a, b", "blood: Platelet, RBC, WBC", "Choose a folder…"]
    assert box.currentText() == "blood: Platelet, RBC, WBC"
    box.take("./gone")
    assert box.classifier == "gone"
    box.take("")
    assert box.classifier == ""


def test_a_count_is_not_measured_again_and_takes_the_place_of_what_was_being_measured(
    viewer: ViewerModel,
    widget: CountWidget,
    blobs: Any,
    settled: Settled,
    qtbot: QtBot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is measured beside the viewer are the cells as they were when that began."""
    tasks, task_of = [], followers._task
    may_end = threading.Event()

    def slow(task: Task[Any]) -> Task[Any]:
        measured = yield from task
        assert may_end.wait(30)
        return measured

    def task(*arguments: Any) -> Task[Any]:
        tasks.append(slow(task_of(*arguments)))
        return tasks[-1]

    monkeypatch.setattr(followers, "_task", task)
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.classes.setCurrentIndex(1)
    widget.panel.count.click()
    settled(widget)
    qtbot.wait(50)
    assert tasks == []
    labels = viewer.layers["blobs labels"]
    labels.visible = False
    labels.visible = True
    qtbot.waitUntil(lambda: bool(tasks))
    widget.panel.classes.setCurrentIndex(0)
    settled(widget)
    may_end.set()
    qtbot.waitUntil(lambda: not followers.follow(viewer).is_busy)
    assert "class" not in labels.features
    assert len(tasks) == 2


def test_classes_come_to_a_count_that_has_none_and_stay_while_thresholds_move(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, shelved: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    shelved.network.forward = None  # a forward pass would fail
    widget.panel.classes.setCurrentIndex(1)
    settled(widget)
    assert "WBC&nbsp;5" in widget.panel.legend.text()
    widget.panel.thresholds.container["cell_probability"].value = 0.9
    settled(widget)
    assert widget.counted.request.recipe.settings.cell_probability == 0.9
    assert widget.counted.result.cells.classes is not None
    widget.panel.outputs["Points"].setChecked(True)
    settled(widget)
    assert len(np.unique(viewer.layers["blobs points"].face_color, axis=0)) == 2


def test_a_broken_classifier_is_told(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image)
    widget.panel.classes.setCurrentIndex(2)
    widget.panel.count.click()
    settled(widget)
    assert "damaged" in widget.panel.message.text()
    assert widget.panel.message.property("error") == "true"


def test_no_cells_have_no_classes(
    viewer: ViewerModel, widget: CountWidget, blobs: Any, settled: Settled
) -> None:
    viewer.add_image(blobs.image * 0)
    widget.panel.classes.setCurrentIndex(1)
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.number.text() == "0"
    assert widget.panel.legend.text() == ""


def test_letting_go_of_classes_leaves_the_rest(result_of: Any) -> None:
    labels = np.ones((9, 9), np.int32)
    plain = result_of(Image(labels, "YX"), labels)
    assert unclassified(plain) is plain
    classed = replace(
        plain,
        cells=replace(plain.cells, classes=np.zeros(1, np.int16)),
        provenance=replace(plain.provenance, settings={"flow": {}, "classes": ["a"], "classifier": {}}),
    )
    assert unclassified(classed).provenance.settings == {"flow": {}}
    assert unclassified(classed).cells.classes is None


def test_every_classifier_on_the_shelf_names_its_classes() -> None:
    for title, name in classifier_choices():
        assert title.startswith(f"{name}: ")
