import csv
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch

from cellwright.core.errors import AnnotationError, CheckpointError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.models.store import load_classifier
from cellwright.ops.labels import label_properties
from cellwright.training.cell_classifier import (
    CellCrops,
    Scores,
    augmented,
    balanced_weights,
    intensities,
    kept_px,
    read_cell_crops,
    score_classifier,
    spec_for,
    train_classifier,
)
from cellwright.training.data.classes import ClassDataset, inspect_classes
from cellwright.training.run_folder import learned_from
from cellwright.training.settings import ClassifyTrainingSettings
from cellwright.training.trainer import EpochReport

RED, BLUE = (220, 60, 60), (60, 60, 220)
QUICK = ClassifyTrainingSettings(steps=40, steps_per_epoch=20, batch_size=8, colour=0.1)


def paint(rng, colours=(RED, BLUE), diameters=(12, 12)):
    """Discs in two colours on a pale field, with labels and the number of their kind."""
    image = np.full((96, 120, 3), 230, np.uint8)
    labels = np.zeros(image.shape[:2], np.int32)
    kinds = []
    rows, columns = np.ogrid[:96, :120]
    for y in range(12, 90, 24):
        for x in range(12, 110, 24):
            kind = int(rng.integers(2))
            kinds.append(kind)
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= (diameters[kind] / 2) ** 2
            image[disc] = colours[kind]
            labels[disc] = len(kinds)
    return image, labels, np.array(kinds)


def write_rows(path, names, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)


def write_truth(folder, name, kind, labels, classes):
    _, points, boxes = label_properties(labels)
    if kind == "boxes":
        rows = [(b[0][1], b[0][0], b[1][1], b[1][0], c) for b, c in zip(boxes, classes, strict=True)]
        write_rows(folder / "boxes" / f"{name}.csv", ("xmin", "ymin", "xmax", "ymax", "class"), rows)
    else:
        rows = [(*point, c) for point, c in zip(points, classes, strict=True)]
        write_rows(folder / "points" / f"{name}.csv", ("y", "x", "class"), rows)
    if kind == "masks":
        (folder / "masks").mkdir(exist_ok=True)
        tifffile.imwrite(folder / "masks" / f"{name}.tif", labels.astype(np.uint16))


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """Function (kind of truth, split) -> a training folder of red and blue discs."""

    def make(kind="boxes", split=None, names=("red", "blue"), **look):
        split = split or {"train": ["a", "b"], "val": ["c"]}
        folder = tmp_path_factory.mktemp("dataset")
        (folder / "images").mkdir()
        for seed, name in enumerate(name for part in split.values() for name in part):
            image, labels, kinds = paint(np.random.default_rng(seed), **look)
            tifffile.imwrite(folder / "images" / f"{name}.tif", image)
            write_truth(folder, name, kind, labels, [names[one] for one in kinds])
        meta = {"split": split, "axes": "YXC", "classes": sorted(set(names))}
        (folder / "meta.json").write_text(json.dumps(meta))
        return read_dataset(folder)

    return make


@pytest.fixture(scope="module")
def boxed(write):
    return write()


@pytest.fixture(scope="module")
def trained(boxed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    reports = []
    run(
        train_classifier([ClassDataset(boxed)], folder, QUICK, title="Red and blue", device="cpu"),
        reports.append,
    )
    return folder, [report for report in reports if isinstance(report, EpochReport)]


def test_colours_are_learnt(trained, boxed):
    folder, reports = trained
    classifier = load_classifier(folder)
    assert (classifier.spec.classes, classifier.spec.title) == (("blue", "red"), "Red and blue")
    scores = run(
        score_classifier(classifier, run(read_cell_crops([ClassDataset(boxed)], classifier.spec, "val")))
    )
    assert scores.accuracy == 1
    assert scores.confusion.sum() == 20
    assert json.loads((folder / "scores.json").read_text()) == scores.summary()
    assert [report.done for report in reports] == [20, 40]
    assert reports[-1].scores == scores.summary()


def test_the_curve_tells_the_settings_and_each_epoch(trained):
    curve = json.loads((trained[0] / "curve.json").read_text())
    assert curve["settings"]["steps"] == 40
    assert [epoch["step"] for epoch in curve["epochs"]] == [20, 40]
    assert all({"loss", "rate", "accuracy", "recall_red"} <= set(epoch) for epoch in curve["epochs"])


def test_the_card_tells_what_it_learned_from_and_what_checked_it(trained, boxed):
    card = (trained[0] / "card.md").read_text()
    n_checked = sum(len(item.annotated()[1].points) for item in boxed.select("val").items)
    assert f"images of `{boxed.folder.name}`" in card
    assert f"Validated with {n_checked} cells" in card
    assert "| accuracy |" in card


def test_a_stopped_run_goes_on_with_its_own_images_alone(boxed, write, tmp_path):
    task = train_classifier([ClassDataset(boxed)], tmp_path, replace(QUICK, steps_per_epoch=1), device="cpu")
    next(step for step in task if isinstance(step, EpochReport))
    task.close()
    with pytest.raises(CheckpointError, match="other settings, images or weights"):
        run(train_classifier([ClassDataset(write())], tmp_path, replace(QUICK, steps_per_epoch=1)))


def test_the_same_seed_gives_the_same_weights(boxed, tmp_path):
    few = ClassifyTrainingSettings(steps=2, batch_size=4)
    first, second = (
        run(train_classifier([ClassDataset(boxed)], tmp_path / name, few, device="cpu")) for name in "ab"
    )
    assert load_classifier(first).sha256 == load_classifier(second).sha256


def test_a_stopped_run_of_the_published_network_ends_with_the_same_weights(boxed, tmp_path):
    few = ClassifyTrainingSettings(steps=2, steps_per_epoch=1, batch_size=2)

    def task(name):
        return train_classifier([ClassDataset(boxed)], tmp_path / name, few, preset="paper", device="cpu")

    whole = run(task("whole"))
    stopped = task("halves")
    next(progress for progress in stopped if progress.stage == "epoch")
    stopped.close()
    assert not (tmp_path / "halves" / "classifier.json").exists()
    with pytest.raises(CheckpointError, match="began with other settings"):
        run(train_classifier([ClassDataset(boxed)], tmp_path / "halves", replace(few, rate=1e-5)))
    reports = []
    halves = run(task("halves"), reports.append)
    assert [report.done for report in reports if report.stage == "epoch"] == [2]
    first, second = load_classifier(whole).network.state_dict(), load_classifier(halves).network.state_dict()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    assert not (halves / "training.pt").exists()


def test_cells_held_back_are_not_learned_from_and_check_it(write, tmp_path):
    """The weights are those of the same images with every fifth cell of a class without one."""
    dataset, bereft = write("masks", {"train": ["a", "b"]}), write("masks")
    n_seen, kept, held = Counter(), [], Counter()
    for path in (bereft.folder / "points" / f"{name}.csv" for name in "ab"):
        heading, *lines = path.read_text().splitlines()
        for line in lines:
            name = line.rpartition(",")[2]
            n_seen[name] += 1
            if n_seen[name] % 5:
                kept.append(line)
            else:
                held[name] += 1
        path.write_text("\n".join([heading, *kept]))
        kept.clear()
    few = ClassifyTrainingSettings(steps=2, batch_size=4)
    folders = [
        run(train_classifier([ClassDataset(one)], tmp_path / name, few, device="cpu"))
        for name, one in (("held", dataset), ("bereft", bereft))
    ]
    first, second = map(load_classifier, folders)
    assert first.sha256 == second.sha256
    sources, classes = [ClassDataset(dataset)], ("blue", "red")
    checked = run(read_cell_crops(sources, first.spec, "val", held_back=classes))
    learned = run(read_cell_crops(sources, first.spec, "train", bare=True, held_back=classes))
    assert Counter(classes[one] for one in checked.classes.tolist()) == held
    assert len(learned) == 2 * (sum(n_seen.values()) - len(checked)), "each twice"
    scores = run(score_classifier(first, checked)).summary()
    assert json.loads((folders[0] / "scores.json").read_text()) == scores
    findings = run(inspect_classes(sources))
    assert (findings.n_checked, findings.n_cells) == (dict(held), (len(learned) // 2, len(checked)))
    sentence = f"Validated with {len(checked)} cells held back from the same images, which flatters."
    assert sentence in (folders[0] / "card.md").read_text()


def test_nothing_is_held_back_where_there_are_images_to_check_with(boxed, tmp_path):
    few = ClassifyTrainingSettings(steps=1, batch_size=2)
    _, held_back = run(spec_for([ClassDataset(boxed)], few))
    assert held_back == frozenset()
    run(train_classifier([ClassDataset(boxed)], tmp_path, few, device="cpu"))
    images = [f"{boxed.folder.name}/{item.name}" for item in boxed.items]
    facts = learned_from(classes=("blue", "red"), preset="small", images=images)
    assert json.loads((tmp_path / "curve.json").read_text())["facts"] == facts, "runs of before go on"


def test_a_stopped_run_holds_the_same_cells_back_or_is_refused(write, tmp_path):
    dataset = write("masks", {"train": ["a", "b"]})
    few = ClassifyTrainingSettings(steps=2, steps_per_epoch=1, batch_size=4)

    def task(name):
        return train_classifier(
            [ClassDataset(read_dataset(dataset.folder))], tmp_path / name, few, device="cpu"
        )

    stopped = task("halves")
    next(step for step in stopped if isinstance(step, EpochReport))
    stopped.close()
    path = dataset.folder / "points" / "a.csv"
    text = path.read_text()
    heading, _, *others = text.splitlines()
    path.write_text("\n".join([heading, *others]))  # the fifth is now another
    with pytest.raises(CheckpointError, match="other settings, images"):
        run(task("halves"))
    path.write_text(text)
    whole, halves = run(task("whole")), run(task("halves"))
    assert load_classifier(whole).sha256 == load_classifier(halves).sha256


@pytest.mark.parametrize("kind", ["boxes", "masks", "points"])
@pytest.mark.parametrize("is_complete", [True, False])
def test_all_kinds_of_truth_give_the_same_cells(write, kind, is_complete):
    dataset = write(kind)
    items = tuple(replace(item, is_complete=is_complete) for item in dataset.items)
    sources = [ClassDataset(replace(dataset, items=items))]
    spec, _ = run(spec_for(sources, ClassifyTrainingSettings(diameter_px=13.0)))
    cohort = run(read_cell_crops(sources, spec, "train"))
    assert spec.classes == ("blue", "red")
    assert spec.window == ("typical" if kind == "points" else "own")
    middle = kept_px(spec) // 2
    pixels = intensities(cohort.crops[:, :, middle, middle])
    is_red = pixels[:, 0] > pixels[:, 2]
    assert torch.equal(is_red, cohort.classes == 1)
    assert len(cohort) == 40


def test_cells_without_a_class_are_not_shown(write):
    dataset = write("masks")
    path = dataset.folder / "points" / "a.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:6]))  # the heading and five cells
    sources = [ClassDataset(dataset)]
    spec, _ = run(spec_for(sources, QUICK))
    assert len(run(read_cell_crops(sources, spec, "train"))) == 5 + 20


def test_boxes_that_tell_no_class_leave_those_that_points_tell(write):
    dataset = write("masks", split={"train": ["a"]})
    write_truth(dataset.folder, "a", "boxes", paint(np.random.default_rng(0))[1], [""] * 20)
    assert sum(run(inspect_classes([ClassDataset(dataset)])).classes.values()) > 0


def test_classes_can_be_renamed_and_left_out(write, boxed):
    other = write(names=("crimson", "green"))
    sources = [ClassDataset(boxed), ClassDataset(other, {"crimson": "red", "green": ""})]
    spec, _ = run(spec_for(sources, QUICK))
    assert spec.classes == ("blue", "red")
    alone, both = (run(read_cell_crops(part, spec, "train")) for part in (sources[:1], sources))
    n_red = int((alone.classes == 1).sum())
    assert Counter(both.classes.tolist()) == {0: 40 - n_red, 1: 2 * n_red}


def test_windows_follow_the_cell_or_the_typical_cell(write):
    dataset = write(split={"train": ["a"]}, colours=(RED, RED), diameters=(8, 16))
    sources = [ClassDataset(dataset)]
    spec, _ = run(spec_for(sources, QUICK))
    own = run(read_cell_crops(sources, spec, "train"))
    assert own.sizes.max() - own.sizes.min() == pytest.approx(np.log2(17 / 9), abs=0.01)
    filled = (intensities(own.crops[:, 1]) < 0.5).float().mean(dim=(1, 2))
    assert filled.max() / filled.min() < 2
    bare = run(read_cell_crops(sources, spec, "train", sighted=False, bare=True))
    assert not bare.sizes.any()
    filled = (intensities(bare.crops[:, 1]) < 0.5).float().mean(dim=(1, 2))
    assert filled.max() / filled.min() > 2.5
    assert len(run(read_cell_crops(sources, spec, "train", bare=True))) == 40


def test_points_need_a_diameter(write):
    with pytest.raises(AnnotationError, match=r"40 of 40 cells are points.*Set diameter_px"):
        run(spec_for([ClassDataset(write("points"))], QUICK))
    assert run(spec_for([ClassDataset(write("points"))], QUICK, preset="paper"))[0].window == "pixels"


def test_a_classifier_needs_two_classes(boxed, write, tmp_path):
    with pytest.raises(AnnotationError, match=r"at least two classes.*cells of \['red'\]"):
        run(train_classifier([ClassDataset(boxed, {"blue": ""})], tmp_path, QUICK))
    with pytest.raises(AnnotationError, match=r"got 0 cells.*a folder without one .* tells none"):
        run(train_classifier([ClassDataset(write(split={"val": ["a"]}))], tmp_path, QUICK))


def test_stacks_are_refused(write):
    dataset = write("masks", split={"train": ["a"]})
    for kind, dtype in (("images", np.uint8), ("masks", np.uint16)):
        path = dataset.folder / kind / "a.tif"
        tifffile.imwrite(path, np.ones((4, 9, 9), dtype), photometric="minisblack", metadata={"axes": "ZYX"})
    with pytest.raises(AnnotationError, match="learned from 2D images; 'a' has axes 'ZYX'"):
        run(spec_for([ClassDataset(dataset)], QUICK))


def test_an_unknown_preset_is_refused(boxed):
    with pytest.raises(CheckpointError, match="Preset of a classifier"):
        run(spec_for([ClassDataset(boxed)], QUICK, preset="huge"))


def test_balance_goes_from_as_they_occur_to_equally_often():
    classes = np.array([0] * 90 + [1] * 10)
    for balance, share in ((0.0, 0.1), (0.5, 0.25), (1.0, 0.5)):
        chances = balanced_weights(classes, balance)
        assert chances.sum() == pytest.approx(1)
        assert chances[90:].sum() == pytest.approx(share)


def test_without_any_change_augmentation_only_turns():
    rng = np.random.default_rng(3)
    kept = torch.from_numpy(rng.integers(0, 255, (1, 3, 96, 96)).astype(np.uint8))
    rows, columns = np.ogrid[:96, :96]
    distance = np.hypot(rows - 47.5, columns - 47.5)
    kept[:, :, torch.from_numpy(distance > 20)] = 51  # intensity 0
    kept[:, :, torch.from_numpy(distance <= 20)] = 153  # intensity 1
    cohort = CellCrops(kept.repeat(6, 1, 1, 1), torch.zeros(6), torch.zeros(6, dtype=torch.int64))
    settings = ClassifyTrainingSettings(jitter=0.0, colour=0.0)
    cells, _ = augmented(cohort, torch.arange(6), 64, settings, rng)
    expected = torch.from_numpy((distance[16:80, 16:80] <= 20).astype(np.float32))
    assert cells.shape == (6, 3, 64, 64)
    assert (cells - expected).abs().mean() < 0.02


@pytest.mark.parametrize("seed", range(3))
def test_changed_crops_stay_in_range_and_their_sizes_are_sometimes_hidden(seed):
    rng = np.random.default_rng(seed)
    kept = torch.from_numpy(rng.integers(0, 255, (40, 3, 96, 96)).astype(np.uint8))
    cohort = CellCrops(kept, torch.ones(40), torch.zeros(40, dtype=torch.int64))
    settings = ClassifyTrainingSettings(jitter=1.0, colour=1.0)
    cells, sizes = augmented(cohort, torch.arange(40), 64, settings, rng)
    assert cells.isfinite().all()
    assert cells.min() >= -0.5
    assert cells.max() <= 2
    assert 0 < int((sizes == 0).sum()) < 25
    assert float(sizes[sizes != 0].mean()) == pytest.approx(1, abs=0.15)


def test_scores_of_no_cells_are_no_scores():
    empty = Scores(("a", "b"), np.zeros((2, 2), np.int64))
    assert empty.summary() == {}
    assert np.isnan(empty.accuracy)
    one = Scores(("a", "b"), np.array([[3, 1], [0, 0]]))
    assert one.summary() == {"accuracy": 0.75, "mean_recall": 0.75, "recall_a": 0.75}
