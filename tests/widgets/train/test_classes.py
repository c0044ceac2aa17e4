"""Classes of cells learned in the panel: what is offered, a run, its end, a count with what was learned."""

import hashlib
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QPushButton
from typer.testing import CliRunner

from cellwright.cli.app import app
from cellwright.core.data import Image
from cellwright.core.errors import AnnotationError
from cellwright.core.tasks import Task, run
from cellwright.files.dataset.append import Entry, append
from cellwright.files.dataset.folder import read_dataset
from cellwright.models import store
from cellwright.training.data.classes import ClassDataset, inspect_classes
from cellwright.training.run_folder import CLASSES, Plan, unfinished_runs
from cellwright.training.settings import ClassifyTrainingSettings
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.folder.widget import FolderWidget
from cellwright.widgets.shared.layer_dataset import Pair, dataset_of, pairs, write_task
from cellwright.widgets.shared.layer_factory import write_classes
from cellwright.widgets.shared.layer_io import REGIONS_NAME
from cellwright.widgets.shared.model_combos import model_events
from cellwright.widgets.train import model as train_model
from cellwright.widgets.train.model import TrainingOutcome, TrainModel, train_task
from cellwright.widgets.train.view import classes_table
from cellwright.widgets.train.widget import TrainWidget

LIMIT_MS = 60_000
SHORT = ClassifyTrainingSettings(steps=4, steps_per_epoch=2, batch_size=4)
Wait = Callable[[TrainWidget], None]


def classes_of(labels: Any) -> Any:
    """Every third cell is a b, the others are a; the first has none."""
    numbers = np.arange(1, labels.max() + 1)
    return np.where(numbers == 1, -1, numbers % 3 == 0).astype(np.int16)


@pytest.fixture
def dataset(tmp_path: Path, blobs: Any) -> Path:
    """A folder with the same cells to learn from and to check with."""
    for split in ("train", "val"):
        entry = Entry(
            Image(blobs.image, "YX"), blobs.labels, classes_of(blobs.labels), ("a", "b"), split, split=split
        )
        append(tmp_path / "cells", entry)
    return tmp_path / "cells"


@pytest.fixture
def gate() -> threading.Event:
    gate = threading.Event()
    gate.set()
    return gate


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def test_a_run_gives_the_weights_of_the_command(
    home: Path, dataset: Path, gate: threading.Event, tmp_path: Path
) -> None:
    outcome = run(train_task(Plan("mine", CLASSES, str(dataset), device="cpu", classes=SHORT), gate))
    flags = ["--steps", "4", "--steps-per-epoch", "2", "--batch-size", "4", "--device", "cpu"]
    done = CliRunner().invoke(
        app, ["train-classifier", str(dataset), "--output", str(tmp_path / "c"), *flags]
    )
    assert done.exit_code == 0, done.output
    assert weights(home / "models" / "mine") == weights(tmp_path / "c")
    assert f"accuracy {outcome.after['accuracy']:.3f}" in done.output
    n = outcome.n_checked
    assert set(n) == {"a", "b"}
    assert f"a: {n['a']} and {n['a']} to check with; b: {n['b']} and {n['b']} to check with" in done.output
    assert outcome.sentence.startswith("'mine' has learned the classes.")
    assert [entry.name for entry in store.classifiers()][-1] == "mine"
    assert unfinished_runs() == []


def test_a_stopped_run_goes_on_to_the_same_weights(home: Path, dataset: Path, gate: threading.Event) -> None:
    model, outcomes = TrainModel(), []
    model.ended.connect(outcomes.append)
    plan = Plan("mine", CLASSES, str(dataset), device="cpu", classes=SHORT)
    for n_epochs in (0, 1):
        task = model.start(plan, None)
        for step in task:
            if step.stage == "train" and len(model.epochs) == n_epochs:
                break
        task.close()
        model.end_stopped()
        assert unfinished_runs() == [plan][:n_epochs]
    told = [" ".join([one.sentence, *one.notices]) for one in outcomes]
    assert told == [
        "The training of 'mine' was stopped. It had learned nothing yet.",
        "The training of 'mine' was stopped. Resume goes on where it stopped.",
    ]
    steps: list[int] = []
    run(model.start(plan, None), lambda step: steps.append(step.done) if step.stage == "epoch" else None)
    assert steps == [4]
    run(train_task(Plan("whole", CLASSES, str(dataset), device="cpu", classes=SHORT), gate))
    assert weights(home / "models" / "mine") == weights(home / "models" / "whole")


def test_cells_and_recall_of_each_class_stand_in_the_table() -> None:
    table = classes_table({"accuracy": 0.9, "mean_recall": 0.8, "recall_<b>": 0.8}, {"<b>": 1200, "c": 0})
    lines = [line.split("</td>") for line in table.split("<tr>")[2:]]
    texts = [[cell.rpartition("<b>")[2].rpartition(">")[2] or cell for cell in line[:2]] for line in lines]
    assert texts == [["&lt;b&gt;", "1,200"], ["c", "0"], ["mean recall", texts[2][1]], ["accuracy", "1,200"]]
    assert "<b>0.800</b>" in "".join(lines[0])
    assert "not checked" in "".join(lines[1])
    assert "cells held back" not in table
    assert "cells held back" in classes_table({"accuracy": 0.9}, {"c": 2}, is_held_back=True)


def test_what_is_learned_can_be_chosen_where_there_are_classes(
    trainer: TrainWidget, dataset: Path, ended: Wait, qtbot: QtBot
) -> None:
    panel = trainer.panel
    assert panel.what.isHidden()
    panel.data.add_folder(dataset)
    qtbot.waitUntil(lambda: not panel.what.isHidden(), timeout=LIMIT_MS)
    ended(trainer)
    assert (
        "'Classes of cells' in the panel" in trainer.data_check.label.text()
        or panel.name.text() == "flow-tuned"
    )
    own = (panel.start, panel.unlabelled, panel.preset, panel.form.native)
    assert not any(part.isHidden() for part in own)
    panel.what.setCurrentIndex(1)
    assert all(part.isHidden() for part in own)
    assert panel.name.text() == "classifier-new"
    assert panel.class_form.settings == ClassifyTrainingSettings(), "those of the command"
    qtbot.waitUntil(lambda: "without a class" in trainer.data_check.label.text(), timeout=LIMIT_MS)
    panel.data.setCurrentIndex(0)
    assert panel.what.isHidden()
    assert not panel.learns_classes
    assert not any(part.isHidden() for part in own)
    assert panel.name.text() == "flow-tuned"


def test_classes_that_cells_were_given_since_can_be_learned(
    trainer: TrainWidget, viewer: ViewerModel, blobs: Any, ended: Wait, qtbot: QtBot
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    layer = viewer.add_labels(blobs.labels.astype(int))
    qtbot.waitUntil(lambda: trainer.data_check.findings is not None, timeout=LIMIT_MS)
    assert trainer.panel.what.isHidden()
    write_classes(layer, {1: "a", 2: "b"})
    trainer.choices.look_again()
    qtbot.waitUntil(lambda: not trainer.panel.what.isHidden(), timeout=LIMIT_MS)


def test_a_single_kind_of_cell_is_no_choice_and_one_class_cannot_be_learned(
    trainer: TrainWidget, dataset: Path, ended: Wait, qtbot: QtBot
) -> None:
    panel, meta = trainer.panel, dataset / "meta.json"
    text = meta.read_text()
    for names in ("cell", "a"):
        for path in (dataset / "points").iterdir():
            path.write_text(re.sub(r",\w+$", f",{names}", path.read_text(), flags=re.MULTILINE))
            path.write_text(path.read_text().replace(f"y,x,{names}", "y,x,class"))
        meta.write_text(text.replace('"a"', f'"{names}"').replace('"b"', '"cell"'))
        trainer.data_check.findings = None
        panel.data.add_folder(dataset)
        trainer.data_check.start()
        qtbot.waitUntil(lambda: trainer.data_check.findings is not None, timeout=LIMIT_MS)
        ended(trainer)
        assert panel.what.isHidden() == (names == "cell")
    panel.what.setCurrentIndex(1)
    qtbot.waitUntil(lambda: "at least two classes" in trainer.data_check.label.text(), timeout=LIMIT_MS)
    panel.train.click()
    ended(trainer)
    assert "at least two classes in the split 'train'; got" in panel.message.text()
    assert unfinished_runs() == []


def test_classes_are_learned_and_counted_with(
    trainer: TrainWidget,
    dataset: Path,
    ended: Wait,
    viewer: ViewerModel,
    shelved: Any,
    settled: Callable[[CountWidget], None],
    qtbot: QtBot,
) -> None:
    counter, folder = CountWidget(viewer), FolderWidget(viewer)
    for made in (counter, folder):
        qtbot.addWidget(made)
    panel = trainer.panel
    panel.data.add_folder(dataset)
    qtbot.waitUntil(lambda: not panel.what.isHidden(), timeout=LIMIT_MS)
    panel.what.setCurrentIndex(1)
    ended(trainer)
    panel.device.choose_data("cpu")
    panel.name.setText("kinds")
    panel.class_form.set_values({"steps": 4, "steps_per_epoch": 2, "batch_size": 4})
    panel.train.click()
    assert panel.train.text() == "Stop"
    ended(trainer)
    assert "'kinds' has learned the classes" in panel.message.text(), panel.message.text()
    assert "recall" in panel.card.scores.text()
    assert [curve.title for curve in panel.card.plot.curves][1].startswith("Accuracy of the classes")
    assert [len(curve.points) for curve in panel.card.plot.curves] == [2, 2]
    panel.count_with.click()
    assert counter.panel.classes.classifier == "kinds"
    counter.panel.count.click()
    settled(counter)
    assert set(viewer.layers["blobs labels [1]"].features["class"][1:]) <= {"a", "b"}
    assert folder.view.classes.classifier == "kinds"
    assert folder.recipe.classifier == "kinds"


def test_classifiers_are_among_the_models_of_the_user(
    trainer: TrainWidget, home: Path, viewer: ViewerModel, qtbot: QtBot
) -> None:
    counter = CountWidget(viewer)
    qtbot.addWidget(counter)
    shutil.copytree(store.shipped_folder() / "blood", home / "models" / "kinds")
    model_events.changed.emit()
    assert trainer.own.chosen == "kinds"
    exports = trainer.own.exports.actions()
    assert (trainer.own.rename.isEnabled(), trainer.own.export.isEnabled()) == (True, True)
    assert [one.isEnabled() for one in exports] == [True, False], "the zoo has no classifiers"
    cards = [one for one in trainer.own.findChildren(QPushButton) if one.text() == "Card"]
    assert [one.isEnabled() for one in cards] == [True]
    assert counter.panel.classes.findData("kinds") >= 0
    trainer.own.rename_to("sorts")
    assert counter.panel.classes.findData("sorts") >= 0
    assert counter.panel.classes.findData("kinds") < 0
    trainer.own.delete_chosen()
    assert counter.panel.classes.findData("sorts") < 0


def test_a_run_without_cells_to_check_with_says_so(
    trainer: TrainWidget, home: Path, ended: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("mine", CLASSES, "data")
    outcome = TrainingOutcome(plan, "mine", {}, {}, ("Nothing to check with.",), ({"step": 2, "loss": 0.5},))
    trainer.show_ended(outcome)
    assert trainer.panel.message.text().endswith("Nothing to check with.")
    assert trainer.panel.card.scores.isHidden()
    assert [curve.axis for curve in trainer.panel.card.plot.curves] == ["Loss"]


def test_of_layers_cells_are_held_back_and_the_command_does_the_same(
    trainer: TrainWidget, viewer: ViewerModel, home: Path, blobs: Any, gate: threading.Event, tmp_path: Path
) -> None:
    names = np.array(["", "a", "b"])[classes_of(blobs.labels) + 1]
    viewer.add_image(blobs.image, name="blobs")
    features = {"index": np.arange(1, len(names) + 1), "class": names}
    viewer.add_labels(blobs.labels.astype(int), features=features)
    layers = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    run(write_task(layers, tmp_path / "cells"))
    plan = Plan("mine", CLASSES, str(tmp_path / "run"), device="cpu", classes=SHORT)
    outcome = run(train_task(plan, gate, layers))
    n = {name: int((names == name).sum()) for name in "ab"}
    assert max(n.values()) >= 12
    held = {name: count // 5 * (count >= 12) for name, count in n.items()}
    assert outcome.n_checked == held
    assert outcome.is_held_back
    assert "held back from the same images" in outcome.notices[-1]
    assert {name for name in "ab" if f"recall_{name}" in outcome.after} == {one for one in held if held[one]}
    flags = ["--steps", "4", "--steps-per-epoch", "2", "--batch-size", "4", "--device", "cpu"]
    words = ["train-classifier", str(tmp_path / "cells"), "--output", str(tmp_path / "c"), *flags]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert weights(home / "models" / "mine") == weights(tmp_path / "c")
    assert f"{sum(held.values())} cells of the same held back to check with" in done.output
    assert f"accuracy {outcome.after['accuracy']:.3f}" in done.output
    trainer.show_ended(outcome)
    assert "cells held back" in trainer.panel.card.scores.text()
    assert "on the cells" in trainer.panel.card.plot.curves[1].title


def test_a_failure_is_told_and_leaves_nothing(
    trainer: TrainWidget, dataset: Path, ended: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Task[Any]:
        raise RuntimeError("no such thing")
        yield

    monkeypatch.setattr(train_model, "_classify", fail)
    trainer.train(Plan("mine", CLASSES, str(dataset)))
    ended(trainer)
    assert "no such thing" in trainer.panel.message.text()
    assert unfinished_runs() == []


@pytest.mark.parametrize("kind", ["labels", "points"])
def test_classes_of_layers_are_learned_as_they_are(
    viewer: ViewerModel, blobs: Any, tmp_path: Path, kind: str
) -> None:
    names = np.array(["", "a", "b"])[classes_of(blobs.labels) + 1]
    viewer.add_image(blobs.image, name="blobs")
    if kind == "labels":
        features = {"index": 10 * np.arange(1, len(names) + 1), "class": names}
        viewer.add_labels(10 * blobs.labels.astype(int), features=features)
    else:
        outside = np.array([[-50.0, 0.0]])
        viewer.add_points(np.vstack([outside, blobs.points]), features={"class": ["b", *names]})
    dataset = dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True)
    run(write_task(dataset, tmp_path / "written"))
    wanted = {"a": int((names == "a").sum()), "b": int((names == "b").sum())}
    for source in (dataset, read_dataset(tmp_path / "written")):
        assert source.items[0].classes == ("a", "b")
        findings = run(inspect_classes([ClassDataset(source)]))
        assert {name: n + findings.n_checked[name] for name, n in findings.classes.items()} == wanted


@pytest.mark.parametrize("axes", ["TYX", "ZYX"])
def test_classes_are_learned_from_the_annotated_planes_of_a_stack(
    viewer: ViewerModel, blobs: Any, tmp_path: Path, axes: str
) -> None:
    names = np.array(["", "a", "b"])[classes_of(blobs.labels) + 1]
    movie = viewer.add_image(np.stack([blobs.image] * 3), name="blobs", axis_labels=tuple(axes.lower()))
    n, features = len(names), {"index": np.arange(1, 3 * len(names) + 1), "class": np.tile(names, 3)}
    labels = np.stack([np.where(blobs.labels, blobs.labels + k * n, 0) for k in (2, 0, 1)])
    annotation = viewer.add_labels(labels.astype(int), features=features)
    layers = dataset_of([Pair(movie, annotation)], viewer.layers, is_complete=True)
    with pytest.raises(AnnotationError, match="Annotate complete regions in some of its frames or slices"):
        run(inspect_classes([ClassDataset(layers)]))
    height, width = blobs.image.shape
    corners = [[1, 0, 0], [1, 0, width - 1], [1, height - 1, width - 1], [1, height - 1, 0]]
    viewer.add_shapes([np.array(corners, float)], name=REGIONS_NAME)
    layers = dataset_of([Pair(movie, annotation)], viewer.layers, is_complete=True)
    run(write_task(layers, tmp_path / "written"))
    for source in (layers, read_dataset(tmp_path / "written")):
        findings = run(inspect_classes([ClassDataset(source)]))
        found = {name: n + findings.n_checked[name] for name, n in findings.classes.items()}
        assert found == {name: int((names == name).sum()) for name in "ab"}


def test_layers_without_classes_are_written_as_before(
    viewer: ViewerModel, blobs: Any, tmp_path: Path
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    viewer.add_labels(blobs.labels)
    run(write_task(dataset_of(pairs(viewer.layers), viewer.layers, is_complete=True), tmp_path / "written"))
    assert not (tmp_path / "written" / "points").exists()
    assert read_dataset(tmp_path / "written").items[0].classes == ()
