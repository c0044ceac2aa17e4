import json
import math
import threading
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cellwright.core.errors import CheckpointError, OutOfMemoryError, ReadError, SettingsError, WriteError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models.checkpoint import load_checkpoint
from cellwright.models.families.flow import build
from cellwright.training import trainer
from cellwright.training.evaluation.evaluate import Report
from cellwright.training.settings import TrainingSettings
from cellwright.training.trainer import Data, EpochReport, Material, fit, learning_rate, read_material, train

SHORT = TrainingSettings(
    seed=5,
    pretrain_steps=4,
    finetune_steps=4,
    steps_per_epoch=2,
    batch_size=2,
    patch_px=32,
    warmup_steps=2,
    n_simulated=0,
    n_modalities=2,
    replay=0.5,
)


@pytest.fixture
def material(draw_sample, tmp_path):
    """Six images and two that only the first phase sees, without validation."""
    target = tuple(draw_sample(seed) for seed in range(6))
    extra = (draw_sample(10, "phase"), draw_sample(11, "tissue"))
    return Material(target, extra, Dataset(tmp_path, ()))


@pytest.fixture
def trained(monkeypatch):
    """The networks that runs have trained, which are copies of those that they were given."""
    networks, first_state = [], trainer.first_state

    def noted(*arguments):
        state = first_state(*arguments)
        networks.append(state.network)
        return state

    monkeypatch.setattr(trainer, "first_state", noted)
    return networks


@pytest.fixture
def train_tiny(material, tiny_flow, tmp_path, trained):
    """Function (name, settings) -> final weights of a run in that folder."""

    def go(name, settings=SHORT, stop_after=None, model=None):
        model = model or tiny_flow()
        task = fit(material, model, tmp_path / name, settings, device="cpu")
        for progress in task:
            if progress.stage != "epoch" and progress.done == stop_after:
                task.close()
                return None
        return {key: value.clone() for key, value in trained[-1].state_dict().items()}

    return go


def test_a_loss_that_is_no_number_ends_the_run(train_tiny, tmp_path):
    with pytest.raises(SettingsError, match="got nan at step 2"):
        train_tiny("wild", replace(SHORT, pretrain_rate=1e30, warmup_steps=0))
    assert not (tmp_path / "wild" / "weights.safetensors").exists()


def test_a_disk_that_is_full_is_told(train_tiny, monkeypatch):
    def save(values, part):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(WriteError, match="on a disk with room"):
        train_tiny("full")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_running_out_of_memory_is_told(train_tiny, monkeypatch, error):
    def forward(network, model, images):
        raise error

    monkeypatch.setattr(trainer, "forward", forward)
    with pytest.raises(OutOfMemoryError, match="smaller batch or patch"):
        train_tiny("large")


def test_other_errors_of_a_network_stay_as_they_are():
    def epoch():
        yield
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        run(trainer.within_memory(epoch()))


def weights_in(folder):
    return load_file(folder / "weights.safetensors")


def same(one, other):
    assert set(one) == set(other)
    return all(torch.equal(one[name], other[name]) for name in one)


def files(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


DONE = ["curve.json", "scores.json", "spec.json", "weights.safetensors"]


def test_the_same_seed_gives_the_same_weights(train_tiny, tmp_path):
    one, again = train_tiny("one"), train_tiny("again")
    other = train_tiny("other", replace(SHORT, seed=6))
    assert same(one, again)
    assert same(weights_in(tmp_path / "one"), weights_in(tmp_path / "again"))
    assert not same(one, other)
    assert files(tmp_path / "one") == DONE


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5, 6, 7, 8])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(train_tiny, tmp_path, monkeypatch, stop_after):
    def embedding(sample, encoder):
        """Depends on the weights so wildly that clusters of another moment would be others."""
        total = sum(float(value.detach().double().abs().sum()) for value in encoder.parameters())
        return np.random.default_rng((int(total * 1e6), len(sample.name), int(sample.name[-1]))).normal(
            size=3
        )

    monkeypatch.setattr(trainer, "embedding", embedding)
    whole = train_tiny("whole")
    assert train_tiny("killed", stop_after=stop_after) is None
    assert files(tmp_path / "killed") == sorted(
        ["curve.json", "training.pt"] if stop_after <= 2 else [*DONE, "training.pt"]
    )
    assert same(train_tiny("killed"), whole)
    assert same(weights_in(tmp_path / "killed"), weights_in(tmp_path / "whole"))
    assert files(tmp_path / "killed") == DONE
    one, other = (json.loads((tmp_path / name / "curve.json").read_text()) for name in ("whole", "killed"))
    assert one == other


def test_a_killed_run_drops_out_as_if_it_had_not_been(train_tiny, dropping_flow):
    whole = train_tiny("whole", model=dropping_flow())
    train_tiny("killed", stop_after=5, model=dropping_flow())
    assert same(train_tiny("killed", model=dropping_flow()), whole)


def test_a_run_goes_on_where_it_was(train_tiny, material, tiny_flow, tmp_path):
    train_tiny("killed", stop_after=5)
    steps = [p.done for p in fit(material, tiny_flow(), tmp_path / "killed", SHORT, device="cpu")]
    assert steps == [5, 6, 6, 7, 8, 8]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "fields", "network"])
def test_a_run_that_cannot_be_gone_on_with_is_told_and_kept(train_tiny, tmp_path, damage):
    train_tiny("killed", stop_after=5)
    state = tmp_path / "killed" / "training.pt"
    content = {"cut": state.read_bytes()[:3000], "empty": b"", "text": b"no state"}
    if damage in content:
        state.write_bytes(content[damage])
    elif damage == "fields":
        torch.save({"network": {}}, state)
    else:
        saved = torch.load(state, weights_only=True)
        torch.save({**saved, "network": build("small").network.state_dict()}, state)
    before = state.read_bytes()
    with pytest.raises(CheckpointError, match=r"Delete training\.pt"):
        train_tiny("killed")
    assert state.read_bytes() == before
    assert sorted([*DONE, "training.pt"]) == files(tmp_path / "killed")


def test_a_run_on_other_images_is_not_gone_on_with(train_tiny, tmp_path):
    train_tiny("a", stop_after=3)
    path = tmp_path / "a" / "curve.json"
    path.write_text(path.read_text().replace('"learns_from": "', '"learns_from": "0'))
    with pytest.raises(CheckpointError, match="other settings, images or weights"):
        train_tiny("a")


def test_a_run_on_as_many_other_images_is_not_gone_on_with(train_tiny, material, tiny_flow, tmp_path):
    train_tiny("a", stop_after=3)
    for part in ("target", "extra"):
        first, *rest = getattr(material, part)
        others = replace(material, **{part: (replace(first, name="another:0"), *rest)})
        with pytest.raises(CheckpointError, match="other settings, images or weights"):
            run(fit(others, tiny_flow(), tmp_path / "a", SHORT, device="cpu"))
    train_tiny("a")


def test_a_run_with_other_settings_is_not_gone_on_with(train_tiny):
    train_tiny("a", stop_after=3)
    with pytest.raises(CheckpointError, match="began with other settings"):
        train_tiny("a", replace(SHORT, seed=8))


def test_before_its_first_epoch_a_run_may_be_begun_anew(train_tiny, tmp_path):
    train_tiny("a", stop_after=1)
    other = replace(SHORT, seed=8)
    assert same(train_tiny("a", other), train_tiny("b", other))


def test_closing_at_any_step_leaves_no_thread_and_no_part(train_tiny, tmp_path):
    before = threading.active_count()
    for stop in (1, 4, 6):
        train_tiny(f"stopped {stop}", stop_after=stop)
        deadline = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)  # the batch that was being made ends by itself
        assert threading.active_count() <= before  # one of another test may have ended
        assert not list((tmp_path / f"stopped {stop}").glob("*.part"))


def test_steps_stages_and_reports(material, tiny_flow, tmp_path):
    settings = replace(SHORT, pretrain_steps=3)
    steps = list(fit(material, tiny_flow(), tmp_path / "model", settings, device="cpu"))
    assert all(step.total == 7 for step in steps)
    assert [(step.stage, step.done) for step in steps] == [
        ("pretrain", 1),
        ("pretrain", 2),
        ("epoch", 2),
        ("pretrain", 3),
        ("epoch", 3),
        ("fine-tune", 4),
        ("epoch", 4),
        ("fine-tune", 5),
        ("fine-tune", 6),
        ("epoch", 6),
        ("fine-tune", 7),
        ("epoch", 7),
    ]
    reports = [step for step in steps if isinstance(step, EpochReport)]
    assert [report.done for report in reports] == [2, 3, 4, 6, 7]
    assert [report.rate for report in reports] == [learning_rate(n - 1, settings) for n in (2, 3, 4, 6, 7)]
    noted = [float(step.note.removeprefix("loss ")) for step in steps[:2]]
    assert reports[0].loss == pytest.approx(np.mean(noted), abs=1e-3)


def test_the_curve_tells_the_settings_and_every_epoch(train_tiny, tmp_path):
    train_tiny("model")
    curve = json.loads((tmp_path / "model" / "curve.json").read_text())
    assert TrainingSettings(**curve["settings"]) == SHORT
    assert curve["settings"] == asdict(SHORT)
    assert [epoch["step"] for epoch in curve["epochs"]] == [2, 4, 6, 8]
    assert all(set(epoch) == {"step", "loss", "rate"} for epoch in curve["epochs"])
    assert all(math.isfinite(epoch["loss"]) for epoch in curve["epochs"])
    assert [epoch["rate"] for epoch in curve["epochs"]] == [learning_rate(n - 1, SHORT) for n in (2, 4, 6, 8)]


@pytest.mark.parametrize(("pretrain", "finetune"), [(4, 0), (0, 4)])
def test_one_phase_alone(train_tiny, tmp_path, pretrain, finetune):
    train_tiny("model", replace(SHORT, pretrain_steps=pretrain, finetune_steps=finetune))
    assert files(tmp_path / "model") == DONE


def test_without_memory_the_average_is_the_network_itself(train_tiny, tmp_path):
    final = train_tiny("model", replace(SHORT, ema_decay=0.0))
    assert same(weights_in(tmp_path / "model"), final)


def test_the_kept_weights_are_a_running_average(material, tiny_flow, tmp_path, trained):
    settings = replace(SHORT, ema_decay=0.5)
    model = tiny_flow()
    expected = model.network.state_dict()["head.weight"].double().clone()
    for step in fit(material, model, tmp_path / "model", settings, device="cpu"):
        if step.stage != "epoch":
            memory = min(0.5, step.done / (step.done + 10))
            expected = memory * expected + (1 - memory) * trained[-1].state_dict()["head.weight"].double()
    found = weights_in(tmp_path / "model")
    assert torch.allclose(found["head.weight"].double(), expected, atol=1e-6)
    assert not torch.equal(found["head.weight"], trained[-1].state_dict()["head.weight"])
    assert int(found["encoder.first.1.num_batches_tracked"]) == SHORT.n_steps


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_cards_that_imitate_bfloat16_learn_in_float32(monkeypatch, has_bfloat16):
    def is_supported(*, including_emulation):
        return including_emulation or has_bfloat16

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch, "autocast", lambda *given, enabled: (*given, enabled))
    chosen = trainer.half_precision(torch.device("cuda:0"))
    number_type = torch.bfloat16 if has_bfloat16 else None
    assert chosen == ("cuda", number_type, has_bfloat16)


def test_the_learning_rate_rises_falls_and_begins_anew():
    settings = TrainingSettings(pretrain_steps=1000, finetune_steps=500, warmup_steps=100)
    rates = np.array([learning_rate(step, settings) for step in range(1500)])
    for phase, highest in ((rates[:1000], 2e-3), (rates[1000:], 7e-4)):
        top = int(phase.argmax())
        assert 60 < top <= 100
        assert (np.diff(phase[: top + 1]) > 0).all()
        assert (np.diff(phase[top:]) < 0).all()
        assert phase[0] == pytest.approx(highest / 101, rel=0.01)
        assert 0.9 * highest < phase.max() <= highest
        assert phase[-1] == pytest.approx(0.01 * highest, rel=0.05)


def test_a_learning_rate_without_warm_up_starts_at_the_top():
    assert learning_rate(0, replace(SHORT, warmup_steps=0)) == SHORT.pretrain_rate


def test_the_loss_falls(material, tiny_flow, tmp_path):
    settings = replace(SHORT, pretrain_steps=100, finetune_steps=0, steps_per_epoch=10, pretrain_rate=1e-2)
    settings = replace(settings, batch_size=4, augmentation=0.0)
    run(fit(material, tiny_flow(), tmp_path / "model", settings, device="cpu"))
    epochs = json.loads((tmp_path / "model" / "curve.json").read_text())["epochs"]
    assert epochs[-1]["loss"] < 0.9 * epochs[0]["loss"]


def test_the_best_weights_on_validation_are_kept(material, tiny_flow, tmp_path, monkeypatch):
    scores = iter([0.2, 0.8, 0.5, 0.7])

    def evaluate(dataset, model, *, engine):
        assert (len(dataset), engine.device) == (1, "cpu")
        yield from ()
        return FixedReport(next(scores))

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    watched = replace(material, validation=Dataset(tmp_path, (SimpleNamespace(name="a"),)))
    kept = {}
    for step in fit(watched, tiny_flow(), tmp_path / "model", SHORT, device="cpu"):
        if step.stage == "epoch":
            kept[step.scores["score"]] = weights_in(tmp_path / "model")
    assert list(kept) == [0.2, 0.8, 0.5, 0.7]
    assert not same(kept[0.2], kept[0.8])
    assert same(kept[0.8], weights_in(tmp_path / "model"))
    assert json.loads((tmp_path / "model" / "scores.json").read_text()) == {"score": 0.8}
    curve = json.loads((tmp_path / "model" / "curve.json").read_text())
    assert [epoch["score"] for epoch in curve["epochs"]] == [0.2, 0.8, 0.5, 0.7]


class FixedReport(Report):
    def __init__(self, score):
        object.__setattr__(self, "score", score)

    def summary(self):
        return {"score": self.score}


def test_from_a_folder_to_a_model_that_can_be_loaded(write_dataset, tmp_path):
    dataset = read_dataset(write_dataset({"train": ["a", "b"], "val": ["c"]}, {"c": "fluo"}))
    settings = replace(SHORT, pretrain_steps=1, finetune_steps=1, n_simulated=1)
    torch.manual_seed(0)
    steps = []
    task = train(Data(dataset, (dataset,)), build("small"), tmp_path / "model", settings, device="cpu")
    assert run(task, steps.append) == tmp_path / "model"
    assert {"read", "simulate", "pretrain", "fine-tune", "evaluate", "epoch"} <= {s.stage for s in steps}
    model = load_checkpoint(tmp_path / "model")
    assert model.spec.preset == "small"
    scores = json.loads((tmp_path / "model" / "scores.json").read_text())
    assert set(scores) == {"score", "ap50", "ap50_fluo", "count_error"}


def test_the_material_is_what_each_phase_needs(write_dataset, tiny_flow):
    dataset = read_dataset(write_dataset({"train": ["a", "b"], "val": ["c"]}))
    settings = replace(SHORT, n_simulated=2)
    found = run(read_material(Data(dataset, (dataset,)), tiny_flow(), settings))
    assert [sample.name for sample in found.target] == ["a:0", "b:0"]
    assert [sample.group.split()[0] for sample in found.extra if sample.group] == ["simulated"] * 2
    assert len(found.extra) == 4
    assert [item.name for item in found.validation.items] == ["c"]
    alone = run(read_material(Data(dataset), tiny_flow(), replace(settings, pretrain_steps=0)))
    assert alone.extra == ()


def test_a_dataset_without_training_images_is_refused(write_dataset, tiny_flow, tmp_path):
    dataset = read_dataset(write_dataset({"val": ["a"]}))
    with pytest.raises(ReadError, match="split 'train'"):
        run(train(Data(dataset), tiny_flow(), tmp_path / "model", SHORT, device="cpu"))
    assert files(tmp_path / "model") == []


def test_an_output_that_cannot_be_written_is_refused_at_once(write_dataset, tiny_flow, tmp_path):
    dataset = read_dataset(write_dataset({"train": ["a"]}))
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(WriteError, match="Expected to write"):
        next(train(Data(dataset), tiny_flow(), tmp_path / "taken", SHORT, device="cpu"))
    with pytest.raises(WriteError):
        next(train(Data(dataset), tiny_flow(), tmp_path / "taken" / "below", SHORT, device="cpu"))
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_frozen_trunk_stays_as_it_is_until_it_learns(train_tiny, tiny_flow):
    first = tiny_flow().network.state_dict()
    frozen = train_tiny("frozen", replace(SHORT, frozen_steps=8))
    thawed = train_tiny("thawed", replace(SHORT, frozen_steps=6))
    trunk = [name for name in first if name.startswith(("encoder.", "decoder."))]
    assert all(torch.equal(frozen[name], first[name]) for name in trunk)
    assert any(not torch.equal(frozen[name], first[name]) for name in first)
    assert any(not torch.equal(thawed[name], first[name]) for name in trunk)
