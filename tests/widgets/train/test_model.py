"""The run of a training, and the picture of what is found."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cellwright.core.data import Annotation, Image, Labels, Result
from cellwright.core.errors import SettingsError, WriteError
from cellwright.core.tasks import Progress, run
from cellwright.files.atomic import write_text
from cellwright.training import pretrain as pretraining
from cellwright.training.finetune import finetune as finetuning
from cellwright.training.run_folder import Plan, unfinished_runs, write_curve
from cellwright.training.settings import PretrainSettings
from cellwright.widgets.train import model as train_model
from cellwright.widgets.train.model import FOUND_COLOUR, GAP_PX, SIDE_PX, TRUE_COLOUR, validation_picture


def test_torch_leaves_a_core_to_the_viewer(training: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_model.os, "cpu_count", lambda: 2)
    training.go_on.release(training.n_epochs)
    gate = threading.Event()
    gate.set()
    ended = run(train_model.train_task(Plan("mine", "flow", "data"), gate))
    assert training.n_threads == [1]
    assert ended.model == "mine"
    assert unfinished_runs() == []


def test_a_run_that_is_stopped_ends_and_one_that_is_left_stays(training: Any) -> None:
    model, outcomes = train_model.TrainModel(), []
    model.ended.connect(outcomes.append)
    training.go_on.release(training.n_epochs)
    for is_leaving in (True, False):
        task = model.start(Plan("mine", "flow", "data"), None)
        while len(model.epochs) < 3:
            next(task)
        task.close()
        model.is_leaving = is_leaving
        model.end_stopped()
        assert len(unfinished_runs()) == is_leaving
    assert [one.model for one in outcomes] == ["mine"]


def test_a_run_that_fails_before_it_begins_is_deleted(home: Path) -> None:
    model, errors = train_model.TrainModel(), []
    model.failed.connect(errors.append)
    task = model.start(Plan("mine", "flow", "data"), None)
    next(task)
    assert len(unfinished_runs()) == 1
    task.close()
    model.fail(ValueError("no"))
    assert [str(error) for error in errors] == ["no"]
    assert unfinished_runs() == []


def test_a_run_that_goes_on_elsewhere_is_left_alone(home: Path) -> None:
    """Another window of napari trains it: here it can be neither resumed nor deleted."""
    first, second, errors = train_model.TrainModel(), train_model.TrainModel(), []
    second.failed.connect(errors.append)
    plan = Plan("mine", "flow", "data")
    goes_on = first.start(plan, None)
    next(goes_on)
    with pytest.raises(WriteError, match="is being trained in another window") as refused:
        next(second.start(replace(plan, start="nuclei"), None))
    second.fail(refused.value)
    assert errors == [refused.value]
    assert unfinished_runs() == [plan]
    goes_on.close()
    next(second.start(plan, None))


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_what_was_learned_without_annotation_outlives_an_error(home: Path, n_epochs: int) -> None:
    model = train_model.TrainModel()
    plan = Plan("mine", "flow", "data", unlabelled="many")
    next(model.start(plan, None))
    write_curve(plan.encoder, {}, [{"step": 50.0, "loss": 1.0}][:n_epochs])
    model.fail(WriteError("disk full"))
    assert unfinished_runs() == [plan][:n_epochs]


def test_images_without_annotation_that_were_left_out_are_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretrain(plan: Plan) -> Any:
        yield Progress("pretrain", 1, 2)
        write_text(plan.encoder / pretraining.PRETRAINED, '{"n_images": 9, "n_left_out": 4}')

    def finetune(_: Plan) -> Any:
        yield Progress("fine-tune", 1, 2)
        return SimpleNamespace(before={}, after={}, notices=("first",), is_better=False)

    monkeypatch.setattr(train_model, "_pretrain", pretrain)
    monkeypatch.setattr(train_model, "_finetune", finetune)
    gate = threading.Event()
    gate.set()
    outcome = run(train_model.train_task(Plan("mine", "flow", "data", unlabelled="many"), gate))
    told = "4 of 13 unlabelled images cannot be read or show nothing; they were left out."
    assert outcome.notices == ("first", told)
    assert run(train_model.train_task(Plan("mine", "flow", "data"), gate)).notices == ("first",)


def test_what_was_learned_without_annotation_starts_the_training(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "many").mkdir()
    for name in "ab":
        (home / "many" / f"{name}.tif").touch()
    asked: list[Any] = []

    def pretrain(images: Any, model: Any, output: Path, settings: Any, *, device: str) -> Any:
        asked.append(([one.name for one in images], model.spec.family, settings.steps))
        output.mkdir(parents=True)
        yield Progress("pretrain", 1, 2)
        (output / pretraining.PRETRAINED).touch()

    def finetune(*_: Any, pretrained: Path | None, **__: Any) -> Any:
        asked.append(pretrained)
        raise SettingsError("enough")
        yield

    monkeypatch.setattr(pretraining, "pretrain", pretrain)
    monkeypatch.setattr(finetuning, "finetune", finetune)
    monkeypatch.setattr(train_model, "read_dataset", lambda folder: folder)
    gate = threading.Event()
    gate.set()
    first = PretrainSettings(steps=7)
    plan = Plan("mine", "new:query", "data", unlabelled=str(home / "many"), pretraining=first)
    for _ in range(2):  # a run that is resumed has learned this part already
        with pytest.raises(SettingsError, match="enough"):
            run(train_model.train_task(plan, gate))
    assert asked == [(["a", "b"], "query", 7), plan.encoder, plan.encoder]
    asked.clear()
    with pytest.raises(SettingsError, match="enough"):
        run(train_model.train_task(Plan("mine", "flow", "data"), gate))
    assert asked == [None]


def test_a_run_from_scratch_that_is_resumed_begins_with_the_same_weights(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def finetune(_: Any, start: Any, *__: Any, **___: Any) -> Any:
        begun.append(start.network.state_dict())
        raise SettingsError("enough")
        yield

    monkeypatch.setattr(finetuning, "finetune", finetune)
    monkeypatch.setattr(train_model, "read_dataset", lambda folder: folder)
    gate = threading.Event()
    gate.set()
    for _ in range(2):
        with pytest.raises(SettingsError, match="enough"):
            run(train_model.train_task(Plan("mine", "new:query", "data"), gate))
    assert all(torch.equal(begun[0][name], begun[1][name]) for name in begun[0])


def is_colour(picture: Any, colour: tuple[int, int, int]) -> Any:
    return (picture == colour).all(axis=2)


def test_truth_is_left_and_what_is_found_right(
    blobs: Any, result_of: Callable[[Image, Labels], Result]
) -> None:
    image = Image(blobs.image, "YX")
    found = np.where(blobs.labels == 1, 1, 0).astype(np.int32)
    picture = validation_picture(image, blobs.labels, result_of(image, found))
    height, width = min(160, SIDE_PX), min(200, SIDE_PX)
    assert picture.shape == (height, 2 * width + GAP_PX, 3)
    left, right = picture[:, :width], picture[:, width + GAP_PX :]
    true, now = is_colour(left, TRUE_COLOUR), is_colour(right, FOUND_COLOUR)
    assert true.sum() > 5 * now.sum() > 0
    assert not is_colour(right, TRUE_COLOUR).any()


def test_points_and_planes_of_a_volume(blobs: Any, result_of: Callable[[Image, Labels], Result]) -> None:
    image = Image(np.stack([blobs.image * 0, blobs.image, blobs.image * 0]), "ZYX")
    labels = np.stack([blobs.labels * 0, blobs.labels, blobs.labels * 0])
    result = result_of(image, labels)
    truth = Annotation((160, 200), blobs.points, None, None, None)
    picture = validation_picture(image, truth, result)
    assert is_colour(picture, TRUE_COLOUR).sum() > 5 * len(blobs)
    assert is_colour(picture, FOUND_COLOUR).any()
