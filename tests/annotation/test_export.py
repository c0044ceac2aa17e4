import json

import numpy as np
import pandas
import pytest

from cellwright.annotation.export import ExportSettings, annotation_of, dataset_task, file_task
from cellwright.annotation.session import AnnotationSession
from cellwright.annotation.setup import Columns
from cellwright.core.data import Annotation, Image
from cellwright.core.errors import AnnotationError, SettingsError, WriteError
from cellwright.core.tasks import run
from cellwright.files.dataset.folder import read_dataset
from cellwright.files.formats.registry import FORMATS
from cellwright.files.images import read_image
from cellwright.ops.labels import relabel_frames


def to_dataset(*args, **options):
    return run(dataset_task(*args, **options))


def to_file(*args):
    run(file_task(*args))


def edited(draw_session, axes="YX", seed=1):
    """A session with gaps in its numbers, classes and a cell looked at."""
    session = draw_session(axes, seed)
    session.delete(int(session.store.numbers()[1]))
    session.set_class(int(session.store.numbers()[0]), 1)
    session.set_class(int(session.store.numbers()[2]), 0)
    return session


def dense(session):
    return session.store.to_cells().labels


@pytest.mark.parametrize("axes", ["YX", "ZYX", "TYX", "TZYX"])
def test_a_dataset_has_the_labels_and_calibration_of_the_session(draw_session, tmp_path, axes):
    session = edited(draw_session, axes)
    assert to_dataset(session, tmp_path / "new") == ("drawn",)
    (item,) = read_dataset(tmp_path / "new").items
    image, labels = item.read()
    np.testing.assert_array_equal(labels, relabel_frames(dense(session), image.label_axes))
    np.testing.assert_array_equal(image.data, session.image.data)
    assert (image.axes, image.pixel_size_um) == (axes, session.image.pixel_size_um)
    assert (item.is_complete, item.regions, item.split) == (False, (), "train")
    facts = json.loads((tmp_path / "new" / "meta.json").read_text())["items"]["drawn"]["provenance"]
    assert (facts["edits"], facts["cells"], facts["reviewed"]) == (3, len(session.store), 0)


def test_a_file_of_labels_has_the_numbers_of_the_session(draw_session, tmp_path):
    session = edited(draw_session)
    to_file(session, tmp_path / "saved.ome.tif", "labels")
    np.testing.assert_array_equal(read_image(tmp_path / "saved.ome.tif").read(), session.labels)


def test_what_a_script_writes_into_the_labels_is_exported_as_it_is(tmp_path):
    labels = np.zeros((40, 40), np.int32)
    labels[2:8, 2:8], labels[2:6, 30:36], labels[20:28, 20:28] = 1, 2, 5
    session = AnnotationSession(Image(np.zeros(labels.shape, np.uint8), "YX", name="a"), labels)
    session.set_classes({1: "flat", 5: "round"})
    session.labels[30:36, 2:8] = 3
    session.labels[labels == 2] = 0
    annotation = annotation_of(session.copy())
    assert annotation.numbers.tolist() == [1, 3, 5]
    assert [annotation.class_of(row) for row in range(3)] == ["flat", "cell", "round"]
    np.testing.assert_array_equal(annotation.numbered_labels(), session.labels)


def test_the_points_of_cells_have_their_numbers(draw_session, tmp_path):
    session = edited(draw_session)
    to_file(session, tmp_path / "a.csv", "points-csv")
    assert pandas.read_csv(tmp_path / "a.csv")["label"].tolist() == session.store.numbers().tolist()


def test_classes_reach_the_dataset(draw_session, tmp_path):
    session = edited(draw_session)
    to_dataset(session, tmp_path, ExportSettings(is_complete=True, split="val", group="fluo", name="own"))
    (item,) = read_dataset(tmp_path).items
    assert (item.name, item.split, item.group, item.is_complete) == ("own", "val", "fluo", True)
    assert item.classes == ("a", "b")
    rows = (tmp_path / "points" / "own.csv").read_text().splitlines()
    assert [row.split(",")[2] for row in rows] == ["class", "b", "a"]
    for row, number in zip(rows[1:], session.store.numbers()[[0, 2]], strict=True):
        y, x, _ = row.split(",")
        assert session.labels[int(y), int(x)] == number


def test_regions_tell_where_every_cell_is_annotated(draw_session, tmp_path):
    session = edited(draw_session)
    session.add_region((slice(2, 20), slice(0, 30)))
    session.add_region((slice(25, 40), slice(5, 48)))
    to_dataset(session, tmp_path)
    (item,) = read_dataset(tmp_path).items
    assert item.is_complete
    assert item.regions == (((2, 0), (20, 30)), ((25, 5), (40, 48)))


def test_regions_of_a_stack_give_one_image_for_each_span(draw_session, tmp_path):
    session = edited(draw_session, "ZYX")
    whole, some, one = slice(0, 5), slice(1, 4), slice(2, 3)
    session.add_region((some, slice(2, 20), slice(0, 20)))
    session.add_region((some, slice(20, 24), slice(0, 20)))
    session.add_region((one, slice(0, 9), slice(0, 9)))
    session.add_region((whole, slice(3, 4), slice(5, 6)))
    names = to_dataset(session, tmp_path)
    assert names == ("drawn", "drawn_z001-003", "drawn_z002")
    items = {item.name: item for item in read_dataset(tmp_path).items}
    assert items["drawn"].regions == (((3, 5), (4, 6)),)
    assert items["drawn_z001-003"].regions == (((2, 0), (20, 20)), ((20, 0), (24, 20)))
    image, labels = items["drawn_z001-003"].read()
    np.testing.assert_array_equal(image.data, session.image.data[1:4])
    expected = np.unique(session.labels[1:4], return_inverse=True)[1].reshape(labels.shape)
    np.testing.assert_array_equal(labels, expected)
    assert image.pixel_size_um == session.image.pixel_size_um


@pytest.mark.parametrize("has_region", [False, True])
def test_places_are_exported_as_points(tmp_path, has_region):
    image = Image(np.zeros((40, 50), np.uint8), "YX", (0.5, 0.5), "spots")
    points = np.array([[5, 7], [20, 30], [33, 44]])
    session = AnnotationSession.from_points(points, image, 5)
    if has_region:
        session.add_region((slice(0, 25), slice(0, 50)))
    to_dataset(session, tmp_path)
    (item,) = read_dataset(tmp_path).items
    _, truth = item.annotated()
    assert isinstance(truth, Annotation)
    np.testing.assert_allclose(truth.points, points)
    assert (truth.boxes, truth.labels, truth.is_complete) == (None, None, has_region)
    assert annotation_of(session).kind == "points"


def spots(axes="YX", shape=(40, 50), journal=None, class_names=("RBC", "WBC")):
    """Three places, two of them with a class; the first was given its class by hand."""
    image = Image(np.zeros(shape, np.uint8), axes, (), "spots")
    points = np.array([[5, 7], [20, 30], [33, 44]])
    if "T" in axes:
        points = np.column_stack([[0, 1, 1], points])
    columns = Columns([0.9, 0.5, 0.7], [-1, 1, -1], class_names)
    session = AnnotationSession.from_points(points, image, 5, columns, journal=journal)
    session.set_class(1, 0)
    assert (session.store.cell(2).score, session.store.cell(2).category, session.store.cell(3).category) == (
        0.5,
        1,
        None,
    )
    return session


@pytest.mark.parametrize("axes", ["YX", "TYX"])
def test_classes_of_places_reach_a_dataset(tmp_path, axes):
    names = to_dataset(spots(axes, (2, 40, 50)[-len(axes) :]), tmp_path)
    dataset = read_dataset(tmp_path)
    assert [item.name for item in dataset.items] == list(names)
    truths = [item.annotated()[1] for item in dataset.items]
    assert {item.classes for item in dataset.items} == {("RBC", "WBC")}
    assert [one for truth in truths for one in truth.classes.tolist()] == [0, 1, -1]
    np.testing.assert_allclose(
        np.concatenate([truth.points for truth in truths]), [[5, 7], [20, 30], [33, 44]]
    )


@pytest.mark.parametrize("name", [name for name, one in FORMATS.items() if "points" in one.kinds])
def test_classes_of_places_reach_every_format_of_points(tmp_path, name):
    session = spots()
    path = tmp_path / f"spots{FORMATS[name].extensions[0]}"
    to_file(session, path, name)
    (found,) = FORMATS[name].read(path, session.image)
    assert found.kind == "points"
    np.testing.assert_allclose(found.points, [[5, 7], [20, 30], [33, 44]], atol=0.5)
    assert [found.class_of(row) for row in range(3)] == ["RBC", "WBC", "cell"]


def test_a_format_without_points_says_so(tmp_path):
    with pytest.raises(WriteError, match=r"only points are known\. Choose CSV"):
        to_file(spots(), tmp_path / "spots.json", "coco")
    assert not list(tmp_path.iterdir())


def test_classes_of_places_outlast_the_program(tmp_path):
    spots(journal=tmp_path / "spots.journal").close()
    session = AnnotationSession.open_journal(tmp_path / "spots.journal")
    assert [session.store.cell(number).category for number in (1, 2, 3)] == [0, 1, None]
    assert (session.metadata.class_names, session.metadata.has_masks) == (("RBC", "WBC"), False)
    session.close()


@pytest.mark.parametrize("has_masks", [False, True])
def test_classes_that_nobody_named_are_numbered(tmp_path, has_masks):
    session = spots(class_names=())
    if has_masks:
        session.replace_labels(session.labels.copy())
        session.set_class(1, 0)
        session.set_class(2, 1)
    session.set_class_names(["RBC"])
    to_dataset(session, tmp_path)
    assert read_dataset(tmp_path).items[0].classes == ("RBC", "class 2")
    assert [annotation_of(session).class_of(row) for row in range(3)] == ["RBC", "class 2", "cell"]


def test_an_export_that_is_stopped_adds_nothing(draw_session, tmp_path):
    session = edited(draw_session, "ZYX")
    for z in range(3):
        session.add_region((slice(z, z + 1), slice(0, 9), slice(0, 9)))
    for n_steps in range(1, 6):
        task = dataset_task(session, tmp_path)
        stages = [next(task).stage for _ in range(n_steps)]
        task.close()
        assert stages == ["measure", *["write"] * 4][:n_steps]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert len(to_dataset(session, tmp_path)) == 3


def test_a_copy_is_exported_as_it_was(draw_session, tmp_path):
    session = edited(draw_session)
    copied, expected = session.copy(), dense(session).copy()
    session.delete(int(session.store.numbers()[0]))
    to_dataset(copied, tmp_path)
    np.testing.assert_array_equal(read_dataset(tmp_path).items[0].read()[1], expected)
    assert len(copied.history.done) == len(session.history.done) - 1


def test_places_in_a_film_are_exported_frame_by_frame(tmp_path):
    rng = np.random.default_rng(0)
    image = Image(rng.integers(0, 99, (3, 2, 40, 50)).astype(np.uint8), "TCYX", (0.5, 0.5), "film")
    session = AnnotationSession.from_points([[0, 5, 7], [2, 20, 30], [2, 33, 44]], image, 5)
    session.add_region((slice(1, 3), slice(0, 25), slice(0, 50)))
    assert to_dataset(session, tmp_path) == ("film_t001", "film_t002")
    empty, filled = read_dataset(tmp_path).items
    assert len(empty.annotated()[1].points) == 0
    found, truth = filled.annotated()
    np.testing.assert_allclose(truth.points, [[20, 30], [33, 44]])
    assert found.axes == "CYX"
    np.testing.assert_array_equal(found.data, image.data[2])


def test_places_in_a_volume_are_no_dataset(tmp_path):
    image = Image(np.zeros((4, 40, 50), np.uint8), "ZYX", (), "spots")
    session = AnnotationSession.from_points([[1, 5, 7]], image, 5)
    with pytest.raises(AnnotationError, match="wants masks of volumes"):
        to_dataset(session, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_export_is_replaced_only_when_asked(draw_session, tmp_path):
    session = edited(draw_session)
    to_dataset(session, tmp_path)
    session.delete(int(session.store.numbers()[0]))
    with pytest.raises(WriteError, match="replaced"):
        to_dataset(session, tmp_path)
    to_dataset(session, tmp_path, may_replace=True)
    np.testing.assert_array_equal(read_dataset(tmp_path).items[0].read()[1], dense(session))


@pytest.mark.parametrize("name", FORMATS)
def test_a_session_is_written_in_every_format(draw_session, tmp_path, name):
    session = edited(draw_session, "TYX" if "tracking" in name else "YX")
    path = tmp_path / f"drawn{(*FORMATS[name].extensions, '')[0]}"
    to_file(session, path, name)
    (found,) = FORMATS[name].read(path, session.image)
    assert len(found) == len(session.store)
    if found.kind == "labels":
        np.testing.assert_array_equal(found.labels, dense(session))
    if "classes" in FORMATS[name].kinds:
        names = [
            {None: "cell", 0: "a", 1: "b"}[session.store.cell(n).category]
            for n in session.store.numbers().tolist()
        ]
        assert [found.class_of(row) for row in range(len(found))] == names


def test_unknown_formats_and_empty_splits_are_refused(draw_session, tmp_path):
    with pytest.raises(SettingsError, match="coco"):
        to_file(edited(draw_session), tmp_path / "a", "docx")
    with pytest.raises(SettingsError, match="split"):
        ExportSettings(split=" ")
