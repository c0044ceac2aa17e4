import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cellwright.core.errors import AnnotationError, CheckpointError, ReadError, SettingsError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models import registry, store
from cellwright.models.checkpoint import file_sha256, save_checkpoint
from cellwright.models.fit import FitCalibration, read_fit
from cellwright.ops.labels import label_properties
from cellwright.training.data import sampler
from cellwright.training.evaluation.evaluate import Report
from cellwright.training.finetune import finetune as module
from cellwright.training.finetune import replay
from cellwright.training.finetune.finetune import FinetuneReport, finetune, finetuning_rate
from cellwright.training.run_folder import learned_from, verdict
from cellwright.training.settings import PRESETS, FinetuneSettings, preset
from cellwright.training.trainer import Data

SHORT = FinetuneSettings(
    steps=4,
    steps_per_epoch=2,
    batch_size=3,
    patch_px=32,
    warmup_steps=1,
    frozen_steps=2,
    replay=0.34,
    n_replay=2,
    rate=1e-2,
)


@pytest.fixture(autouse=True)
def quick_memory(monkeypatch):
    """Nothing is forgotten, so that no time is spent to find out, and what is replayed is small."""

    def retention_score(*_):
        return 0.5
        yield

    monkeypatch.setattr(sampler, "SIMULATED_PX", 96)
    monkeypatch.setattr(module, "retention_score", retention_score)
    monkeypatch.setattr(module, "retention_set", lambda **_: Dataset(Path(), ()))


@pytest.fixture
def dataset(write_dataset):
    return read_dataset(write_dataset({"train": ["a", "b"], "val": ["c"]}))


@pytest.fixture
def tune(dataset, tiny_flow, tmp_path):
    """Function (name, settings, stop_after) -> outcome of a run in that folder, None when it was stopped."""

    def go(name="tuned", settings=SHORT, stop_after=None, data=dataset, start=None, **more):
        task = finetune(Data(data), start or tiny_flow(), tmp_path / name, settings, device="cpu", **more)
        while True:
            try:
                progress = next(task)
            except StopIteration as end:
                return end.value
            if progress.stage == "fine-tune" and progress.done == stop_after:
                task.close()
                return None

    return go


def test_each_check_tells_how_many_images_are_left(dataset, tiny_flow, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "retention_score", replay.retention_score)
    monkeypatch.setattr(module, "retention_set", lambda **_: replay.retention_set(3))
    settings = replace(SHORT, steps=2, frozen_steps=1)
    stages = []
    run(
        finetune(Data(dataset), tiny_flow(), tmp_path / "tuned", settings, device="cpu"),
        lambda step: stages.append((step.stage, step.done, step.total)),
    )
    assert {stage for stage, _, _ in stages} == {"read", "simulate", "check", "fine-tune", "epoch"}
    first = stages.index(("epoch", 0, 2))
    checks = [one for one in stages[:first] if one[0] == "check"]
    assert checks == sorted(checks)
    assert set(checks) == {("check", done, 4) for done in range(4)}


@pytest.fixture
def scripted(monkeypatch):
    """Function (scores) -> every look at the validation images gives the next of these, then the last."""

    def set_scores(scores, memories=(0.5,), n_cells=10**9):
        left = [list(scores), list(memories)]

        def give(values):
            return values.pop(0) if len(values) > 1 else values[0]

        class Scored:
            def __init__(self):
                self.images = (SimpleNamespace(n_true=n_cells, fit=None),)
                self.score = give(left[0])

            def summary(self):
                return {"score": self.score}

        def evaluate(*_, **__):
            return Scored()
            yield

        def retention_score(*_):
            return give(left[1])
            yield

        monkeypatch.setattr(module, "evaluate", evaluate)
        monkeypatch.setattr(module, "retention_score", retention_score)

    return set_scores


def weights_in(folder):
    return load_file(folder / "weights.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_reports_tell_before_and_every_epoch(dataset, tiny_flow, tmp_path):
    reports = []
    task = finetune(Data(dataset), tiny_flow(), tmp_path / "out", SHORT, device="cpu")
    outcome = run(task, lambda progress: reports.append(progress) if progress.stage == "epoch" else None)
    assert [report.done for report in reports] == [0, 2, 4]
    assert all(isinstance(report, FinetuneReport) for report in reports)
    assert math.isnan(reports[0].loss)
    assert reports[1].loss > 0
    assert reports[1].rate > 0
    assert reports[0].scores == dict(outcome.before)
    assert {"score", "memory"} <= set(reports[2].scores)
    assert reports[2].preview_name == "c"
    assert reports[2].preview.cells.labels.shape == (64, 72)
    assert outcome.folder == tmp_path / "out"
    assert not (tmp_path / "out" / "training.pt").exists()
    card = (tmp_path / "out" / "card.md").read_text()
    assert "Fine-tuned on images: a, b." in card
    assert "Validated with: c." in card
    assert f"Outcome: {verdict(outcome.before, outcome.after, is_better=outcome.is_better)}." in card
    assert f"| score | {outcome.before['score']:.3f} | {outcome.after['score']:.3f} |" in card
    assert [line.split()[1] for line in card.splitlines() if line.startswith("| ")][-3:] == ["0", "2", "4"]


def test_an_encoder_that_learned_without_annotation_is_what_learns(
    tune, scripted, tiny_flow, tmp_path, monkeypatch
):
    def start_from(folder, model):
        assert folder == tmp_path / "encoder"
        for value in model.network.encoder.parameters():
            value.data.fill_(0.5)

    monkeypatch.setattr(module, "start_from", start_from)
    scripted([0.2, 0.6])
    start = tiny_flow()
    still = replace(SHORT, rate=0.0, weight_decay=0.0)
    outcome = tune(settings=still, start=start, pretrained=tmp_path / "encoder")
    before, after = start.network.state_dict(), weights_in(tmp_path / "tuned")
    assert outcome.is_better
    assert same(before, tiny_flow().network.state_dict())
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert changed <= {f"encoder.{name}" for name, _ in start.network.encoder.named_parameters()}


def test_the_model_it_begins_with_is_not_changed(tune, tiny_flow):
    start = tiny_flow()
    before = copy.deepcopy(start.network.state_dict())
    tune(start=start)
    assert same(before, start.network.state_dict())


def test_a_model_that_became_worse_is_not_kept(tune, tiny_flow, scripted, tmp_path):
    scripted([0.5, 0.4, 0.3])
    outcome = tune()
    assert not outcome.is_better
    assert (outcome.before["score"], outcome.after["score"]) == (0.5, 0.4)
    assert same(weights_in(tmp_path / "tuned"), tiny_flow().network.state_dict())
    assert json.loads((tmp_path / "tuned" / "spec.json").read_text())["tuned_diameter_px"] == 0


def test_a_model_that_forgot_much_is_not_kept(tune, tiny_flow, scripted, tmp_path):
    scripted([0.5, 0.6], [0.9, 0.7])
    assert not tune().is_better
    assert same(weights_in(tmp_path / "tuned"), tiny_flow().network.state_dict())


def test_the_best_epoch_is_kept(tune, scripted, tmp_path, tiny_flow):
    scripted([0.5, 0.7, 0.6])  # and so do all mixes
    outcome = tune()
    assert outcome.is_better
    assert outcome.after["score"] == 0.7
    best = weights_in(tmp_path / "tuned")
    assert not same(best, tiny_flow().network.state_dict())
    scripted([0.5, 0.7])
    tune("half", replace(SHORT, steps=4), stop_after=3)
    assert same(best, weights_in(tmp_path / "half"))


def share_of(found, start, end):
    """How far on the way from one to the other weights lie."""
    name = "head.weight"
    return float((found[name] - start[name]).norm() / (end[name] - start[name]).norm())


@pytest.mark.parametrize(
    ("mixes", "n_cells", "share"),
    [
        ((0.6, 0.9, 0.8), 10**9, 0.5),  # the best
        ((0.6, 0.65, 0.69), 10**9, 1.0),
        ((0.6, 0.65, 0.69), 1000, 0.75),  # as good as 0.7, whose error is 0.014
        ((0.6, 0.66, 0.69), 100, 0.5),
        ((0.1, 0.1, 0.1), 10, 1.0),  # worse than before is never as good
    ],
)
def test_of_weights_that_score_alike_the_nearest_are_kept(
    tune, scripted, tmp_path, tiny_flow, mixes, n_cells, share
):
    epochs, plain = [0.5, 0.6, 0.7], 0.0
    scripted([*epochs, 0.1])
    tune("pure")
    scripted([*epochs, *mixes, plain], n_cells=n_cells)
    outcome = tune("mixed")
    start, end = tiny_flow().network.state_dict(), weights_in(tmp_path / "pure")
    assert share_of(weights_in(tmp_path / "mixed"), start, end) == pytest.approx(share, abs=1e-3)
    assert outcome.is_better
    assert outcome.after["score"] == {0.25: mixes[0], 0.5: mixes[1], 0.75: mixes[2], 1.0: 0.7}[share]


@pytest.mark.parametrize(("plain", "is_kept"), [(0.5, True), (0.7, False)])
def test_a_size_is_told_only_where_it_helps(tune, scripted, tmp_path, plain, is_kept):
    scripted([0.5, 0.6, 0.7, 0.1, 0.1, 0.1, plain])
    tune()
    spec = json.loads((tmp_path / "tuned" / "spec.json").read_text())
    assert (spec["tuned_diameter_px"] > 0) == is_kept


def test_what_scores_the_same_is_not_better(tune, scripted, tmp_path, tiny_flow):
    scripted([0.5])
    assert not tune().is_better
    assert same(weights_in(tmp_path / "tuned"), tiny_flow().network.state_dict())


def test_it_stops_when_it_becomes_no_better(tune, scripted, tmp_path):
    scripted([0.5, 0.6, 0.55])
    tune(settings=replace(SHORT, steps=40, patience=3))
    epochs = json.loads((tmp_path / "tuned" / "curve.json").read_text())["epochs"]
    assert epochs[-1]["step"] == 20  # not before half is done
    scripted([0.5, 0.6, *np.linspace(0.61, 0.9, 12), 0.2])
    tune("long", settings=replace(SHORT, steps=40, patience=3))
    epochs = json.loads((tmp_path / "long" / "curve.json").read_text())["epochs"]
    assert epochs[-1]["step"] == 32


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_a_stopped_run_ends_as_if_it_had_not_been(tune, scripted, tmp_path, stop_after):
    scores = [0.1, 0.2, 0.3, 0.25]
    scripted(scores)
    whole = tune("whole")
    scripted(scores)
    assert tune("halves", stop_after=stop_after) is None
    scripted(scores[1 + (stop_after - 1) // 2 :])
    assert tune("halves") == replace(whole, folder=tmp_path / "halves")
    assert same(weights_in(tmp_path / "whole"), weights_in(tmp_path / "halves"))
    curves = [(tmp_path / name / "curve.json").read_text() for name in ("whole", "halves")]
    assert curves[0] == curves[1]


def test_a_stopped_run_leaves_a_card_that_tells_what_it_learned_from(
    tune, scripted, tmp_path, tiny_flow, monkeypatch
):
    scripted([0.1, 0.2])
    monkeypatch.setattr(store, "load", lambda _: tiny_flow())
    tune(stop_after=3, start="nuclei")
    card = (tmp_path / "tuned" / "card.md").read_text()
    assert "Fine-tuned on images: a, b." in card
    assert "It began with the weights of `nuclei`" in card
    assert "| retention | 0.500 | 0.500 |" in card
    assert "| score | 0.100 | 0.200 |" in card


def test_a_stopped_run_drops_out_as_if_it_had_not_been(tune, scripted, tmp_path, dropping_flow):
    scripted([0.1, 0.2])
    tune("whole", start=dropping_flow())
    scripted([0.1, 0.2])
    tune("halves", stop_after=3, start=dropping_flow())
    scripted([0.2])
    tune("halves", start=dropping_flow())
    assert same(weights_in(tmp_path / "whole"), weights_in(tmp_path / "halves"))


SCRIPT = """
    import os
    import sys
    from io import BytesIO
    from pathlib import Path
    import torch
    import torch._dynamo  # each of the processes would import it with its first optimizer
    from torch import nn
    from cellwright.files.dataset.folder import read_dataset
    from cellwright.models.families.flow import SPECS, FlowModel
    from cellwright.core.tasks import run
    from cellwright.training.finetune import finetune
    from cellwright.training.settings import FinetuneSettings
    from cellwright.training.trainer import Data

    torch.set_num_threads(1)  # processes are forked
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1))
    begun = [weights.clone() for weights in network.parameters()]

    class Scored:
        images = ()

        def __init__(self, model):
            pairs = zip(model.network.parameters(), begun)
            self.score = sum(float((now - before).detach().abs().sum()) for now, before in pairs)

        def summary(self):
            return {"score": self.score}  # the farther from where it began the better

    def evaluate(dataset, model, **_):
        return Scored(model)
        yield

    def retention_score(*_):
        return 0.5
        yield

    def save(content, path):
        written = BytesIO()
        real_save(content, written)
        is_last = moment == "state" and content["step"] == 9
        path.write_bytes(written.getvalue()[: len(written.getvalue()) // 2 if is_last else None])
        if is_last:
            os.kill(os.getpid(), 9)

    def show(progress):
        print(progress.stage, progress.done, flush=True)
        if moment == "step" and (progress.stage, progress.done) == ("fine-tune", 5):
            os.kill(os.getpid(), 9)

    real_save, torch.save = torch.save, save
    finetune.evaluate = evaluate
    finetune.retention_score = retention_score
    settings = FinetuneSettings(
        steps=12, steps_per_epoch=3, batch_size=2, patch_px=32, warmup_steps=1, n_replay=1, rate=1e-2
    )
    start = FlowModel(SPECS["small"], network)
    _, folder, outputs = sys.argv
    for name, moment in (("whole", ""), ("killed", "step"), ("killed", "state"), ("killed", "")):
        child = os.fork()
        if child == 0:
            output = Path(outputs) / name
            run(finetune.finetune(Data(read_dataset(folder)), start, output, settings, device="cpu"), show)
            os._exit(0)
        print(name, moment, "done" if os.waitpid(child, 0)[1] == 0 else "was killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows starts no process as a copy of another")
def test_a_killed_run_ends_as_if_it_had_not_been(dataset, tmp_path):
    """It is killed in the midst of an epoch, and when half of its state is written."""
    script = tmp_path / "script.py"
    script.write_text(dedent(SCRIPT))

    command = [sys.executable, "-W", "ignore", script, dataset.folder, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if line.startswith(("fine-tune", "whole", "killed"))]
    expected = [*(f"fine-tune {step}" for step in range(1, 13)), "whole  done"]
    for moment, steps in (("step was killed", (1, 6)), ("state was killed", (4, 10)), (" done", (7, 13))):
        expected += [*(f"fine-tune {step}" for step in range(*steps)), f"killed {moment}"]
    assert told == expected
    assert same(weights_in(tmp_path / "killed"), weights_in(tmp_path / "whole"))
    for name in ("curve.json", "scores.json", "card.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    epochs = json.loads((tmp_path / "whole" / "curve.json").read_text())["epochs"]
    assert epochs[-1]["score"] > 0  # it was not the first model that was compared


class Killed(BaseException):
    """Nothing catches it."""


@pytest.mark.parametrize(
    ("file", "nth"),
    [
        ("weights.safetensors", 2),
        ("spec.json", 3),
        ("curve.json", 2),
        ("curve.json", 4),
        ("training.pt", 2),
        ("training.pt", 3),
        ("card.md", 1),
        ("card.md", 4),  # the weights that are kept in the end are in their place by then
    ],
)
def test_a_run_killed_while_it_writes_ends_as_if_it_had_not_been(
    tune, tiny_flow, tmp_path, monkeypatch, file, nth
):
    begun, left, replace_file = tiny_flow().network.head.weight, [nth], os.replace

    class Scored:
        images = (SimpleNamespace(n_true=1, fit=None),)  # tells so little that weights on the way are kept

        def __init__(self, model):
            moved = float((model.network.head.weight - begun).detach().norm())
            self.score = moved / (1 + moved)

        def summary(self):
            return {"score": self.score}

    def evaluate(dataset, model, **_):
        return Scored(model)
        yield

    def die(part, target):
        left[0] -= target.name == file
        if left[0] == 0:
            raise Killed
        return replace_file(part, target)

    monkeypatch.setattr(module, "evaluate", evaluate)
    tune("whole")
    with monkeypatch.context() as patch:
        patch.setattr("cellwright.files.atomic.os.replace", die)
        with pytest.raises(Killed):
            tune("killed")
    assert (tmp_path / "killed" / "training.pt").exists()  # or it would be taken for a finished model
    tune("killed")
    for name in ("weights.safetensors", "spec.json", "scores.json", "curve.json", "card.md"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    epochs = json.loads((tmp_path / "whole" / "curve.json").read_text())["epochs"]
    assert 0 < json.loads((tmp_path / "whole" / "scores.json").read_text())["score"] < epochs[-1]["score"]


def test_a_run_with_other_settings_is_not_gone_on_with(tune, tmp_path):
    tune(stop_after=3)
    with pytest.raises(CheckpointError, match="began with other settings"):
        tune(settings=replace(SHORT, rate=1e-3))
    assert (tmp_path / "tuned" / "training.pt").exists()
    (tmp_path / "tuned" / "curve.json").write_text("[" * 9000)
    with pytest.raises(CheckpointError, match="began with other settings"):
        tune()


def test_a_run_on_other_images_is_not_gone_on_with(tune, tmp_path):
    tune(stop_after=3)
    path = tmp_path / "tuned" / "curve.json"
    curve = json.loads(path.read_text())
    assert list(curve["facts"]) == ["learns_from"]
    path.write_text(json.dumps({**curve, "facts": learned_from(images=["other/a"])}))
    with pytest.raises(CheckpointError, match="other settings, images or weights"):
        tune()
    path.write_text(json.dumps(curve))
    tune()
    assert not (tmp_path / "tuned" / "training.pt").exists()


def test_frozen_steps_leave_the_trunk_as_it_is(tune, tiny_flow, tmp_path, scripted):
    scripted([0.1, 0.2, 0.3, 0.0])
    tune(settings=replace(SHORT, frozen_steps=4))
    start, tuned = tiny_flow().network.state_dict(), weights_in(tmp_path / "tuned")
    changed = {name for name in start if not torch.equal(start[name], tuned[name])}
    assert changed == {"head.weight", "head.bias"}


@pytest.mark.parametrize(("replay", "n_replay", "n"), [(0.0, 5, 0), (0.25, 5, 2), (0.9, 5, 7), (0.5, 0, 0)])
def test_how_many_patches_are_replayed(replay, n_replay, n):
    assert FinetuneSettings(batch_size=8, replay=replay, n_replay=n_replay).n_replayed == n


def test_it_learns_discs(tune, dataset):
    settings = replace(SHORT, steps=60, steps_per_epoch=60, frozen_steps=0, batch_size=4, rate=2e-2)
    outcome = tune(settings=replace(settings, augmentation=0.0, ema_decay=0.5, replay=0.0))
    assert outcome.is_better
    assert outcome.after["score"] > outcome.before["score"] + 0.3


def test_one_image_is_enough(tune, write_dataset, dataset):
    one = replace(dataset, items=dataset.items[:1])
    outcome = tune(data=one)
    assert "With 1 annotated image none can be spared" in outcome.notices[0]
    assert np.isfinite(outcome.after["score"])


@pytest.fixture
def fitted(monkeypatch):
    """Function (losses) -> every look at the fixed patches gives the next of these, then the last."""

    def set_losses(losses):
        left = list(losses)
        monkeypatch.setattr(module.Run, "_loss", lambda *_: left.pop(0) if len(left) > 1 else left[0])

    return set_losses


@pytest.mark.parametrize(
    ("losses", "scores", "share"),
    [  # before, two epochs, half of the way and three quarters
        ((2.0, 1.8, 1.5, 1.7, 1.6), (0.5,), 0.5),
        ((2.0, 1.8, 1.5, 1.7, 1.6), (0.5, 0.5, 0.6, 0.5, 0.57), 0.75),  # the standard error is 0.05
        ((2.0, 1.8, 1.5, 1.7, 1.6), (0.5, 0.5, 0.6, 0.5, 0.5), 1.0),
        ((2.0, 1.8, 1.5, 2.1, 1.6), (0.5,), 0.75),
        ((2.0, 1.8, 1.5, 1.7, 1.6), (0.5, 0.46), 0.5),
        ((2.0, 1.8, 1.5, 1.7, 1.6), (0.5, 0.44), 0.0),
        ((2.0, 2.1, 2.2), (0.5, 0.9), 0.0),
    ],
)
def test_one_image_is_judged_by_its_loss(
    tune, scripted, fitted, dataset, tiny_flow, tmp_path, losses, scores, share
):
    one = {"data": replace(dataset, items=dataset.items[:1])}
    scripted([0.5, 0.5, 0.9, 0.6])
    fitted([2.0, 1.5, 1.0, 1.1])
    tune("pure", **one)
    scripted(scores, n_cells=100)
    fitted([*losses, losses[3 if share == 0.5 else 4] if share in (0.5, 0.75) else 1.5])
    outcome = tune("judged", **one)
    start, end = tiny_flow().network.state_dict(), weights_in(tmp_path / "pure")
    assert share_of(weights_in(tmp_path / "judged"), start, end) == pytest.approx(share, abs=1e-3)
    assert outcome.is_better == (share > 0)
    assert outcome.before["validation_loss"] == 2.0


def test_the_loss_that_judges_is_that_of_the_same_patches(tune, dataset, tmp_path):
    one = replace(dataset, items=dataset.items[:1])
    first, again = tune("first", data=one), tune("again", data=one)
    assert first.before["validation_loss"] == again.before["validation_loss"] > 0
    assert first.after["validation_loss"] == again.after["validation_loss"]


@pytest.mark.parametrize(("n_images", "is_at_rest"), [(1, True), (3, False)])
def test_the_trunk_rests_for_an_epoch_when_there_is_one_image(
    tune, scripted, fitted, dataset, tiny_flow, tmp_path, n_images, is_at_rest
):
    scripted([0.1, 0.2, 0.0])
    fitted([2.0, 1.0])
    settings = replace(SHORT, steps=2, frozen_steps=1)
    tune(data=replace(dataset, items=dataset.items[:n_images]), settings=settings)
    start, tuned = tiny_flow().network.state_dict(), weights_in(tmp_path / "tuned")
    name = "encoder.first.0.weight"
    assert torch.equal(start[name], tuned[name]) == is_at_rest


def test_regions_are_enough(tune, dataset):
    regions = (((0, 0), (40, 40)),)
    items = tuple(replace(item, regions=regions) for item in dataset.items)
    outcome = tune(data=replace(dataset, items=items))
    assert all(np.isfinite(value) for value in outcome.after.values())


def test_cells_of_another_size_are_told_to_the_model(tune, dataset, scripted, tmp_path):
    scripted([0.1, 0.2, 0.3, 0.0])
    tune()
    spec = json.loads((tmp_path / "tuned" / "spec.json").read_text())
    assert spec["tuned_diameter_px"] == pytest.approx(12, rel=0.1)
    assert spec["diameter_range_px"] == [16, 36]


@pytest.mark.parametrize(
    ("family", "kind"), [("centroid", "boxes"), ("query", "points"), ("density", "points")]
)
def test_boxes_or_points_are_enough_for_some(tune, dataset, family, kind, scripted):
    scripted([0.1, 0.2])
    _to_csv(dataset, kind)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        start = registry.get(family).load().build("small")
    outcome = tune(data=read_dataset(dataset.folder), start=start, settings=replace(SHORT, n_replay=1))
    assert outcome.is_better


def test_points_are_not_enough_for_outlines(tune, dataset):
    _to_csv(dataset, "points")
    with pytest.raises(AnnotationError, match="flow learns from masks"):
        tune(data=read_dataset(dataset.folder))


def _to_csv(dataset, kind):
    """Turn the masks of a dataset into boxes or points, which are all."""
    meta = dataset.folder / "meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "complete": True}))
    (dataset.folder / kind).mkdir()
    for item in dataset.items:
        _, points, boxes = label_properties(item.read()[1])
        rows = ["y,x"] if kind == "points" else ["ymin,xmin,ymax,xmax"]
        rows += [",".join(map(str, row)) for row in (points if kind == "points" else boxes.reshape(-1, 4))]
        (dataset.folder / kind / f"{item.name}.csv").write_text("\n".join(rows))
        item.truth_path.unlink()


def test_the_folder_of_the_first_model_is_no_place_for_the_new(tmp_path, dataset, tiny_flow):
    save_checkpoint(tmp_path / "mine", tiny_flow())
    with pytest.raises(CheckpointError, match="folder of its own"):
        run(finetune(Data(dataset), tmp_path / "mine", tmp_path / "mine", SHORT))


def test_nothing_is_written_where_there_is_nothing_to_learn(tmp_path, tiny_flow):
    with pytest.raises(ReadError, match="split 'train'"):
        run(finetune(Data(Dataset(tmp_path, ())), tiny_flow(), tmp_path / "out", SHORT))
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_tuned_can_be_loaded(dataset, tmp_path, scripted):
    scripted([0.1, 0.2, 0.3, 0.0])
    with torch.random.fork_rng():
        torch.manual_seed(2)
        start = registry.get("flow").load().build("small")
    run(finetune(Data(dataset), start, tmp_path / "out", SHORT, device="cpu"))
    assert store.load(tmp_path / "out").spec.tuned_diameter_px > 0


ALWAYS_HALF = FitCalibration(("probability",), np.zeros(1), np.zeros(1), 0.0, np.array([[0.0, 1.0]]))


@pytest.mark.parametrize(("scored", "is_kept"), [(0.65, True), (0.75, False)])
def test_the_fit_goes_on_where_it_tells_how_well_validation_images_are_counted(
    dataset, tiny_flow, tmp_path, monkeypatch, scored, is_kept
):
    real = module.evaluate

    def evaluate(*arguments, **named):
        report = yield from real(*arguments, **named)
        return Report(tuple(replace(image, fit=0.5, means={"f1": scored}) for image in report.images))

    monkeypatch.setattr(module, "evaluate", evaluate)
    start = tiny_flow()
    start.fit = ALWAYS_HALF
    run(finetune(Data(dataset), start, tmp_path / "mine", SHORT, device="cpu"))
    kept = read_fit(tmp_path / "mine", file_sha256(tmp_path / "mine" / "weights.safetensors"))
    assert (kept is not None) == is_kept
    assert (tmp_path / "mine" / "fit.json").exists() == is_kept
    assert not is_kept or kept.expected_f1({}) == 0.5


def test_the_rate_rises_twice_and_falls():
    settings = replace(SHORT, steps=100, frozen_steps=20, warmup_steps=10, rate=1.0)
    rates = [finetuning_rate(step, settings) for step in range(100)]
    assert rates[0] < 0.1
    assert rates[12] > 0.9
    assert rates[20] < 0.1
    assert 0.7 < rates[31] < 0.9
    assert rates[99] < 0.02


def test_presets():
    assert preset("quick") == FinetuneSettings()
    steps = [PRESETS[name].steps for name in ("quick", "balanced", "thorough")]
    assert steps == sorted(steps)
    with pytest.raises(SettingsError, match="quick, balanced, thorough; got 'fast'"):
        preset("fast")


def test_a_patch_that_the_network_cannot_halve_is_refused():
    with pytest.raises(SettingsError, match="patch_px must be a multiple of 32; got 50"):
        FinetuneSettings(patch_px=50)


def test_a_model_that_finds_nothing_is_no_better_however_far_its_loss_fell():
    first = {"score": 0.0, "error": 0.0, "validation_loss": 1.0}
    assert module._gain({"score": 0.0, "validation_loss": 0.2}, first) == 0
    assert module._gain({"score": 0.1, "validation_loss": 0.2}, first) == pytest.approx(0.8)
    assert module._gain({"score": 0.0, "validation_loss": 1.5}, first) == pytest.approx(-0.5)


def test_it_is_told_where_a_better_score_was_not_kept_for_what_was_forgotten():
    before, after = {"score": 0.8, "memory": 0.8}, {"score": 0.9, "memory": 0.7}
    assert verdict(before, after, is_better=False).startswith("better on these images, but worse at what")
    for other in ({"score": 0.7, "memory": 0.7}, {"score": 0.9, "memory": 0.8}):
        assert verdict(before, other, is_better=False).startswith("no better")
    assert verdict(before, after, is_better=True) == "better, and kept"
