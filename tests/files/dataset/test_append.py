import json
import os
import subprocess
import sys
from dataclasses import replace
from unittest.mock import MagicMock, Mock

import numpy as np
import pytest

from cellwright.core.data import Annotation, Image
from cellwright.core.errors import ImageError, ReadError, WriteError
from cellwright.core.tasks import run
from cellwright.files import atomic
from cellwright.files.atomic import acquire_lock
from cellwright.files.dataset.append import Entry, append, append_all, check_same_image
from cellwright.files.dataset.folder import read_dataset
from cellwright.ops.labels import relabel_frames


def draw_entry(rng, axes="YX", name="cell image", **facts):
    shape = {
        "YX": (20, 24),
        "YXC": (20, 24, 3),
        "ZCYX": (4, 2, 20, 24),
        "TYX": (3, 20, 24),
        "ZYX": (4, 20, 24),
    }[axes]
    data = rng.integers(0, 60_000, shape).astype(np.uint16)
    sizes = {"YX": (0.5, 0.25), "YXC": (0.5, 0.25), "TYX": (0.5, 0.25)}.get(axes, (2.0, 0.5, 0.25))
    image = Image(data, axes, sizes, name)
    labels = np.zeros([n for n, axis in zip(shape, axes, strict=True) if axis != "C"], np.int32)
    labels[..., 2:8, 2:8], labels[..., 10:18, 10:18] = 1, 2
    labels[..., 12:16, 12:16] = 0  # the middle of a ring is no pixel of it
    return Entry(image, labels, **facts)


@pytest.mark.parametrize("axes", ["YX", "YXC", "ZCYX", "TYX", "ZYX"])
def test_what_is_appended_is_read_back(tmp_path, rng, axes):
    entry = draw_entry(rng, axes, group="fluo", provenance={"model": "flow"}, split="val")
    assert append(tmp_path / "new", entry) == "cell image"
    (item,) = read_dataset(tmp_path / "new").items
    image, labels = item.read()
    assert (item.name, item.split, item.group, image.axes) == (
        "cell image",
        "val",
        "fluo",
        "CZYX" if axes == "ZCYX" else axes,
    )
    np.testing.assert_array_equal(labels, relabel_frames(entry.truth, image.label_axes))
    pixels = np.asarray(image.data)
    if axes == "ZCYX":  # channels come first
        assert image.axes == "CZYX"
        pixels = np.moveaxis(pixels, 0, 1)
    np.testing.assert_array_equal(pixels, entry.image.data)
    assert image.pixel_size_um == pytest.approx(entry.image.pixel_size_um)
    meta = json.loads((tmp_path / "new" / "meta.json").read_text())
    facts = meta["items"]["cell image"]
    assert (facts["n"], facts["pixel_size_um"]) == (2, list(entry.image.pixel_size_um))
    assert (facts["provenance"], facts["axes"]) == ({"model": "flow"}, axes)


@pytest.mark.parametrize(
    "kind", [bool, np.uint8, np.int16, np.int64, np.uint64, np.float16, np.float32, np.float64]
)
def test_images_of_every_type_keep_their_values(tmp_path, rng, kind):
    entry = draw_entry(rng)
    entry = replace(entry, image=replace(entry.image, data=rng.integers(0, 2, (20, 24)).astype(kind)))
    append(tmp_path, entry)
    np.testing.assert_array_equal(
        read_dataset(tmp_path).items[0].image().data, entry.image.data.astype(float)
    )


def test_values_that_no_file_can_hold_are_refused(tmp_path, rng):
    entry = draw_entry(rng)
    with pytest.raises(WriteError, match="Convert them"):
        append(tmp_path, replace(entry, image=replace(entry.image, data=np.full((20, 24), 2**40))))
    assert not (tmp_path / "meta.json").exists()


def test_appending_leaves_everything_else_as_it_was(folder, rng, write_meta, listing):
    write_meta(folder, {**listing, "licence": "CC0", "classes": {"RBC": 3}})
    before = {
        path: path.read_bytes() for path in folder.rglob("*") if path.name != "meta.json" and path.is_file()
    }
    classes = np.array([1, -1], np.int16)
    append(folder, draw_entry(rng, class_names=("RBC", "WBC"), classes=classes))
    append(folder, draw_entry(rng, name="another", split="test"))
    assert {path: path.read_bytes() for path in before} == before
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["licence"] == "CC0"
    assert meta["split"] == {"train": ["a", "b.c", "cell image"], "val": ["d"], "test": ["another"]}
    assert list(meta["classes"]) == ["RBC", "WBC"]
    assert {name: meta["items"][name] for name in listing["items"]} == listing["items"]
    assert not list(folder.rglob("*.part"))


def test_the_same_name_is_replaced_only_when_asked(tmp_path, rng):
    entry = draw_entry(rng, class_names=("A",), classes=np.array([0, 0], np.int16), split="val")
    append(tmp_path, entry)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    labels = np.zeros((20, 24), np.int32)
    labels[1:4, 1:4] = 1
    other = replace(entry, truth=labels, classes=None, split="train", group="later")
    with pytest.raises(WriteError, match=r"'cell image' must not be in the dataset"):
        append(tmp_path, other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    append(tmp_path, other, may_replace=True)
    (item,) = read_dataset(tmp_path).items
    assert (item.split, item.group) == ("val", "later")  # it stays where it was
    np.testing.assert_array_equal(item.read()[1], labels)
    assert not list((tmp_path / "points").iterdir())


@pytest.mark.parametrize("kind", [bool, np.uint8, np.float16, np.int64])
@pytest.mark.parametrize("axes", ["YX", "YXC", "ZCYX", "TYX"])
def test_an_image_is_known_again_however_it_was_written(tmp_path, rng, axes, kind):
    entry = draw_entry(rng, axes)
    entry = replace(entry, image=replace(entry.image, data=rng.random(entry.image.shape).astype(kind)))
    check_same_image(tmp_path, entry)  # there is none yet
    append(tmp_path, entry)
    check_same_image(tmp_path, entry)
    for data in (1 - entry.image.data.astype(int), entry.image.data[..., :10, :]):
        with pytest.raises(WriteError, match="another one"):
            check_same_image(tmp_path, replace(entry, image=replace(entry.image, data=data)))
    gone = MagicMock(shape=entry.image.shape, dtype=entry.image.data.dtype)  # of a lost drive
    gone.__getitem__.side_effect = gone.__array__ = Mock(side_effect=OSError("no such drive"))
    with pytest.raises(ImageError, match="no such drive"):
        check_same_image(tmp_path, replace(entry, image=replace(entry.image, data=gone)))


def test_replacing_takes_away_what_would_be_read_instead(folder, rng):
    """The image was a PNG, and masks would be read before boxes."""
    boxes = np.array([[[2, 3], [8, 9.5]]], np.float32)
    truth = Annotation((20, 24), boxes.mean(axis=1) - 0.5, boxes, None, np.array([-1], np.int16), True)
    append(folder, replace(draw_entry(rng, name="d"), truth=truth), may_replace=True)
    item = read_dataset(folder).select(split="val").items[0]
    image, found = item.annotated()
    assert [path.name for path in (folder / "images").glob("d.*")] == ["d.tif"]
    assert (item.has_masks, found.is_complete, image.axes) == (False, True, "YX")
    np.testing.assert_allclose(found.boxes, boxes)


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("kind", ["points", "boxes", "masks"])
def test_completeness_and_regions_are_kept(tmp_path, rng, kind, is_complete):
    regions = (((1, 2), (10, 12)), ((11, 0), (20, 24)))
    entry = draw_entry(rng, is_complete=is_complete, regions=regions, class_names=("A", "B"))
    if kind != "masks":
        boxes = None if kind == "points" else np.array([[[2, 3], [8, 9]], [[10, 10], [15, 15]]], np.float32)
        points = np.array([[4.5, 5.5], [12, 12]], np.float32)
        truth = Annotation((20, 24), points, boxes, None, np.array([1, -1], np.int16))
        entry = replace(entry, truth=truth)
    append(tmp_path, entry)
    (item,) = read_dataset(tmp_path).items
    assert (item.regions, item.is_complete, item.has_masks) == (regions, is_complete, kind == "masks")
    _, found = item.annotated()
    if kind != "masks":
        np.testing.assert_allclose(found.points, points)
        assert (found.is_complete, found.classes.tolist()) == (is_complete, [1, -1])


@pytest.mark.parametrize(
    ("name", "plain"), [("a/../b:c*.tif", "a_.._b_c_.tif"), ("  mü 1. ", "mü 1"), ("../../x", "_.._x")]
)
def test_names_become_plain_file_names(tmp_path, rng, name, plain):
    assert append(tmp_path, draw_entry(rng, name=name)) == plain
    assert read_dataset(tmp_path).items[0].name == plain


@pytest.mark.parametrize("name", ["", "..", "///", " . "])
def test_names_of_nothing_are_refused(tmp_path, rng, name):
    with pytest.raises(WriteError, match="letters or digits"):
        append(tmp_path, draw_entry(rng, name=name))
    assert not list(tmp_path.iterdir())


def test_a_broken_meta_is_not_written_over(folder, rng, write_meta):
    write_meta(folder, "{")
    with pytest.raises(ReadError, match=r"meta\.json"):
        append(folder, draw_entry(rng))
    assert (folder / "meta.json").read_text() == "{"
    assert not (folder / "images" / "cell image.tif").exists()


def test_labels_of_another_shape_are_not_written(tmp_path, rng):
    with pytest.raises(WriteError, match="must have shape"):
        append(tmp_path, replace(draw_entry(rng), truth=np.zeros((4, 4), np.int32)))
    assert not (tmp_path / "meta.json").exists()


KILLED = """
import os, sys
import numpy as np
from cellwright.files.dataset.append import Entry, append, append_all
from cellwright.core.tasks import run
from cellwright.core.data import Image

def entry(name, side, value):
    image = Image(np.full((side, side), value, np.uint8), "YX", (), name)
    classes = None if value == 9 else np.array([0], np.int16)
    return Entry(image, np.full((side, side), 1, np.int32), classes, (f"of {value}",))

def kill_later(folder, left):
    def count(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove", "os.mkdir") and folder in str(arguments[0]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
    sys.addaudithook(count)

root, is_there = sys.argv[1], sys.argv[2] == "True"
for moment in range(200):
    folder = f"{root}/{moment}"
    append(folder, entry("a", 32, 3))
    if is_there:
        append(folder, entry("b", 16, 3))
    child = os.fork()
    if child == 0:
        kill_later(folder, moment)
        run(append_all(folder, [entry("b", 32, 7), entry("c", 32, 9)], may_replace=True))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(moment)
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows starts no process as a copy of another")
@pytest.mark.parametrize("is_there", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_dataset(tmp_path, is_there):
    """Killed at the first, second, third ... touch of the disk: what is listed can be read."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(is_there)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    n_kills = int(done.stdout)
    assert n_kills > 10
    finds = []
    for moment in range(n_kills):
        folder = tmp_path / str(moment)
        items = read_dataset(folder).items
        finds.append(len(items) == 3)
        assert [item.name for item in items] == (["a", "b", "c"][: len(items)])
        assert len(items) == 3 or len(items) == 1 + is_there
        for item in items:
            image, labels = item.read()
            value = {"a": 3, "b": 7 if finds[-1] else 3, "c": 9}[item.name]
            side = 16 if item.name == "b" and not finds[-1] else 32
            assert image.data.tolist() == [[value] * side] * side
            assert labels.tolist() == [[1] * side] * side
            marks = folder / "points" / f"{item.name}.csv"
            assert (f"of {value}" in marks.read_text()) if value != 9 else not marks.exists()
        check_repeated(folder)
    assert finds == sorted(finds)  # nothing of it, up to the moment from which all of it is there
    assert {*finds} == {False, True}


def check_repeated(folder):
    """What was cut off is done once more; then nothing that was left over is there."""
    image = Image(np.full((16, 16), 5, np.uint8), "YX", (), "b")
    n_before = len(read_dataset(folder))
    append(folder, Entry(image, np.full((16, 16), 1, np.int32)), may_replace=n_before > 1)
    items = read_dataset(folder).items
    assert len(items) == max(n_before, 2)
    assert items[1].read()[1].shape == (16, 16)
    assert not (folder / "points" / "b.csv").exists()
    hidden = [path.name for path in folder.rglob(".*")]
    assert hidden == [".lock"]


def test_several_images_are_added_together_or_not_at_all(tmp_path, rng):
    append(tmp_path, draw_entry(rng, name="b"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    entries = [draw_entry(rng, name=name) for name in "abc"]
    with pytest.raises(WriteError, match="'b' must not be in the dataset"):
        run(append_all(tmp_path, entries))
    with pytest.raises(WriteError, match="must differ in name"):
        run(append_all(tmp_path, [entries[0], entries[0]]))
    task = append_all(tmp_path, entries, may_replace=True)
    assert [next(task).done for _ in range(4)] == [0, 1, 2, 3]
    task.close()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run(append_all(tmp_path, entries, may_replace=True)) == ("a", "b", "c")
    assert [item.name for item in read_dataset(tmp_path).items] == ["b", "a", "c"]


def test_two_programs_do_not_add_at_once(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(atomic, "WAIT_SECONDS", 0.1)
    task = append_all(tmp_path, [draw_entry(rng, name="a")])
    next(task)
    with pytest.raises(WriteError, match="another window or program is"):
        append(tmp_path, draw_entry(rng, name="b"))
    task.close()
    append(tmp_path, draw_entry(rng, name="b"))
    assert [item.name for item in read_dataset(tmp_path).items] == ["b"]


def test_a_cut_off_export_that_cannot_be_finished(tmp_path, rng, monkeypatch):
    append(tmp_path, draw_entry(rng, name="a"))
    (tmp_path / atomic.ADDED).mkdir()
    monkeypatch.setattr(atomic, "WAIT_SECONDS", 0.1)
    lock = acquire_lock(tmp_path / atomic.LOCK)
    with pytest.raises(ReadError, match="was interrupted and must be finished"):
        read_dataset(tmp_path)
    lock.release()
    assert len(read_dataset(tmp_path)) == 1


def test_names_that_differ_in_capitals_alone_replace_nothing(tmp_path, rng, monkeypatch):
    """On Windows and macOS they have the same files."""
    monkeypatch.setattr(atomic, "_tells_capitals", lambda _: False)
    with pytest.raises(WriteError, match="must differ in name"):
        run(append_all(tmp_path, [draw_entry(rng, name="A"), draw_entry(rng, name="a")]))
    append(tmp_path, draw_entry(rng, name="A"))
    with pytest.raises(WriteError, match="'a' and 'A', which is there, would have the same files"):
        append(tmp_path, draw_entry(rng, name="a"), may_replace=True)
    assert append(tmp_path, draw_entry(rng, name="A"), may_replace=True) == "A"
