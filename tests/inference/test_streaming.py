"""Counting block by block gives what counting at once gives, also when it was stopped and goes on."""

import errno
import itertools
import json
import pickle
import socket
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from io import BytesIO
from threading import Event, Thread
from unittest.mock import MagicMock, Mock

import dask
import numpy as np
import pandas
import pytest
import tifffile
import yaozarrs
import zarr
from dask import distributed
from PIL import Image as Picture

from cellwright.core import memory
from cellwright.core.data import Cells, Image, Provenance, Result
from cellwright.core.errors import AxesError, ReadError, SettingsError, WriteError
from cellwright.core.tasks import Progress, run
from cellwright.files import regions as region_files
from cellwright.files import zarr as zarr_labels
from cellwright.files.atomic import acquire_lock
from cellwright.files.images import read_image, write_labels
from cellwright.files.zarr import open_array
from cellwright.inference import context, scale
from cellwright.inference.classify import classify, predict_classes
from cellwright.inference.pipeline import count_cells
from cellwright.inference.predictor import Networks
from cellwright.inference.recipe import Recipe, read_inputs, recipe_from
from cellwright.inference.scale import ScaleTrial
from cellwright.inference.settings import EngineSettings, InputFiles, StreamSettings
from cellwright.inference.streaming import block as block_module
from cellwright.inference.streaming import cluster, plan, second_pass
from cellwright.inference.streaming import run as run_module
from cellwright.inference.streaming.plan import StreamJob, StreamPlan, blocks_of
from cellwright.inference.streaming.run import count_streamed
from cellwright.models import registry, store
from cellwright.models.classifier import build, save_classifier
from cellwright.models.stitching import CellStitcher
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.codecs.pseudocolor import pseudocolor_frames, with_faint
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.intensity import Scaling
from cellwright.ops.labels import label_properties, relabel
from cellwright.ops.measure.analysis import analyse, analysis_task, groups_of
from cellwright.ops.measure.cells_table import class_counts
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.ops.simulation.simulate import simulate

NO_FILES = InputFiles()


@pytest.fixture
def small_blocks(monkeypatch, oracle_model):
    """Blocks of 128 pixels, and a model that needs little around them."""
    monkeypatch.setattr(zarr_labels, "CHUNK_PX", 64)
    monkeypatch.setattr(zarr_labels, "COPY_PX", 256)
    monkeypatch.setattr(zarr_labels, "SMALLEST_LEVEL_PX", 100)
    monkeypatch.setattr(plan, "CORE_PX", 128)
    oracle_model.spec = replace(oracle_model.spec, diameter_px=14.0)
    return oracle_model


def job_of(source, output, model, settings=None, *, whole_table=False, **choices):
    """A job; ``choices`` are fields of its recipe."""
    return StreamJob(source, output, Recipe(models=(model,), settings=settings, **choices), whole_table)


def read(folder, name="image"):
    labels = zarr.open_group(folder / f"{name}.labels.zarr", mode="r")["0"][:]
    return labels, pandas.read_csv(folder / f"{name}.cells.csv")


def same_cells(labels, whole):
    """Whether two label images have the same cells, whatever their numbers."""
    pairs = np.unique(np.stack([labels.ravel(), whole.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("YX", (380, 300)), ("TYX", (2, 200, 180)), ("ZYX", (3, 200, 180)), ("CYX", (2, 200, 180))],
)
def test_blocks_give_what_counting_at_once_gives(tmp_path, draw_blobs, small_blocks, axes, shape):
    blobs = draw_blobs(shape[-2:])
    pixels = np.broadcast_to(blobs.image, shape)
    image = Image(pixels, axes)
    whole = run(count_cells(image, small_blocks)).cells
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    labels, table = read(tmp_path)
    assert found.result.count == len(whole) == len(table)
    assert same_cells(labels, whole.labels)
    assert set(table["label"]) == set(np.unique(labels)) - {0}
    columns = [axis.lower() for axis in image.label_axes]
    rows, expected = table[columns].to_numpy(), whole.points
    np.testing.assert_allclose(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)], atol=1e-3)
    for row in table.itertuples():
        y, x = round(row.y), round(row.x)
        assert labels[..., y, x].max() == row.label or "T" in axes
    assert not list(tmp_path.glob("*.parts"))


def test_labels_are_told_in_blocks_too(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((120, 130)).labels.astype(np.uint16), "YX")
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert "look like labels" in " ".join(found.notices)


def test_channels_are_combined_in_blocks_as_in_the_whole(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((150, 280))
    second = blobs.image * (blobs.labels % 2) * np.linspace(80, 200, 280)  # the first blocks are dimmer
    image = Image(np.stack([blobs.image * (blobs.labels % 2 == 0), 50 + second]), "CYX")
    engine = EngineSettings(channels=(0, 1))
    job = job_of(image, tmp_path, small_blocks, engine=engine, classifier="blood")
    whole = run(classify(run(count_cells(image, small_blocks, engine=engine)), image, "blood", engine))
    with closing(count_streamed(job)) as task:  # a run that goes on has the same scales
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
    found = run(count_streamed(job))
    labels, _ = read(tmp_path)
    # the dimmest are none in either
    assert len(blobs) / 2 < found.result.count == len(whole.cells) < len(blobs)
    assert same_cells(labels, whole.cells.labels)
    assert class_counts(found.result) == class_counts(whole)
    assert found.notices[0].startswith("Counted in channels 0, 1 together")
    assert len(found.result.provenance.settings["channel_ranges"]) == 2


@pytest.mark.parametrize("n_red", [0, 40])
def test_one_colour_is_looked_at_in_blocks_where_it_is_in_the_whole(
    tmp_path, draw_blobs, small_blocks, n_red
):
    blobs = draw_blobs((150, 280))
    pixels = np.zeros((150, 280, 3))
    pixels[..., 2] = blobs.image
    pixels[:, :n_red, 0] = blobs.image[:, :n_red]
    image = Image(pixels, "YXC")
    whole = run(count_cells(image, small_blocks))
    job = job_of(image, tmp_path, small_blocks)
    with closing(count_streamed(job)) as task:  # a run that goes on looks at the same
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
    found = run(count_streamed(job))
    assert found.result.count == whole.count
    assert same_cells(read(tmp_path)[0], whole.cells.labels)
    for notices in (whole.notices, found.notices):
        assert any(notice.startswith("Counted in its blue alone") for notice in notices) == (n_red == 0)
        assert any(notice.startswith("Its colours show different") for notice in notices) == (n_red > 0)
    if n_red == 0:
        assert whole.count == len(blobs)


def test_blocks_of_compression_are_hidden_alike_in_the_whole_and_in_parts(
    tmp_path, draw_blobs, small_blocks, monkeypatch
):
    monkeypatch.setattr(intensity, "LEAST_STEP", 1e-4)
    file = BytesIO()
    Picture.fromarray((20 + 150 * draw_blobs((300, 280)).image).astype(np.uint8)).save(
        file, "JPEG", quality=10
    )
    image = Image(np.asarray(Picture.open(file)), "YX")
    whole = run(count_cells(image, small_blocks))
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert whole.provenance.settings["grain"] == found.result.provenance.settings["grain"] > 0.01
    assert same_cells(read(tmp_path)[0], whole.cells.labels)
    assert any("compressed" in notice for notice in found.result.notices)


@pytest.fixture
def best_on_even_ground(monkeypatch):
    """An image promises more without an uneven background."""
    monkeypatch.setattr(scale, "_enough", lambda context: 0.85)
    monkeypatch.setattr(scale, "_promise", lambda one, _: 0.9 if one.scaling.background else 0.3)


def test_a_background_is_subtracted_alike_in_the_whole_and_in_parts(
    tmp_path, draw_blobs, small_blocks, monkeypatch, best_on_even_ground
):
    image = Image(draw_blobs((300, 420)).image + np.linspace(0, 12, 420, dtype=np.float32), "YX")
    whole = run(count_cells(image, small_blocks))
    job = job_of(image, tmp_path, small_blocks)
    with closing(count_streamed(job)) as task:  # a run that goes on does the same
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
    found = run(count_streamed(job))
    for result in (whole, found.result):
        assert result.provenance.settings["background_px"] == intensity.BACKGROUND_PX
        assert any("background was subtracted" in notice for notice in result.notices)
    assert whole.count > 20
    assert same_cells(read(tmp_path)[0], whole.cells.labels)


def test_of_a_smaller_copy_as_much_of_the_image_is_subtracted(tmp_path, small_blocks, monkeypatch):
    image = Image(np.zeros((200, 200)), "YX", levels=(np.zeros((100, 100)),))
    chosen = StreamPlan(context.Preparation(Scaling(0.0, 1.0, background=121), 0.5), 128, 64, level=1)
    block, counting = blocks_of(image, chosen)[0], Mock(side_effect=InterruptedError)
    monkeypatch.setattr(block_module, "count_with_prediction", counting)
    with pytest.raises(InterruptedError):
        run(block_module.count_block(job_of(image, tmp_path, small_blocks), chosen, block, image))
    assert counting.call_args.kwargs["known"].preparation.scaling.background == 60


def test_each_block_is_read_with_what_lies_around_it(small_blocks):
    image = Image(np.zeros((400, 300), np.uint8), "YX")
    blocks = blocks_of(image, StreamPlan(None, 128, 64))
    covered = np.zeros(image.shape, int)
    for block in blocks:
        covered[block.tile.core] += 1
    assert (covered == 1).all()
    for number in range(4):
        chunks = [chunk for block in blocks if block.round == number for chunk in chunks_of(block.tile.read)]
        assert len(chunks) == len(set(chunks))  # no two blocks of a round write to the same


def chunks_of(window):
    """The chunks of 64 pixels that a window reaches into."""
    rows, columns = (range(span.start // 64, (span.stop - 1) // 64 + 1) for span in window)
    return itertools.product(rows, columns)


def test_the_networks_are_made_once_for_all_blocks(tmp_path, draw_blobs, small_blocks, monkeypatch):
    made = []

    class CountedNetworks(Networks):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(context, "Networks", CountedNetworks)
    monkeypatch.setattr(run_module, "Networks", CountedNetworks)
    image = Image(draw_blobs((300, 280)).image, "YX")
    run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert len(made) == 2  # one to estimate the scale, one for nine blocks
    assert made[-1]._networks == ()


@pytest.fixture
def points_only(small_blocks, monkeypatch):
    """The same model without outlines."""
    points = replace(registry.FAMILIES["flow"], returns=("Points",))
    monkeypatch.setitem(registry.FAMILIES, "flow", points)
    plain = small_blocks.postprocess
    monkeypatch.setattr(
        small_blocks, "postprocess", lambda maps, settings: replace(plain(maps, settings), labels=None)
    )
    monkeypatch.setattr(
        small_blocks, "stitcher", lambda lead, shape: CellStitcher(lead, shape, has_labels=False)
    )
    return small_blocks


def test_cells_without_outlines_are_found_once(tmp_path, draw_blobs, small_blocks, request):
    blobs = draw_blobs((400, 380))
    outlined = run(count_streamed(job_of(Image(blobs.image, "YX"), tmp_path, small_blocks)))
    assert outlined.labels == tmp_path / "image.labels.zarr"
    request.getfixturevalue("points_only")
    image = Image(blobs.image, "YX")
    settings = FlowSettings(cell_probability=0.51)
    found = run(count_streamed(job_of(image, tmp_path, small_blocks, settings)))
    assert found.result.count == len(blobs)
    assert found.labels is None  # those of the count before are gone
    assert not list(tmp_path.glob("*.zarr"))


def test_cells_of_other_slices_are_other_cells(tmp_path, draw_blobs, points_only):
    blobs = draw_blobs((400, 380))
    image = Image(np.stack([np.roll(blobs.image, shift, axis=1) for shift in (0, 2, 4)]), "ZYX")
    whole = run(count_cells(image, points_only))
    found = run(count_streamed(job_of(image, tmp_path, points_only)))
    assert found.result.count == whole.count >= 3 * len(blobs)


def cells_of_a_view(part):
    """Cells that are others in each window, so that no two blocks agree."""
    rng, shape = np.random.default_rng(zlib.crc32(np.ascontiguousarray(part.data))), part.data.shape
    labels = np.zeros(shape, np.int32)
    for number, (y, x) in enumerate(rng.integers(0, np.array(shape) - 9, (250, 2)), 1):
        labels[y : y + rng.integers(8, 16), x : x + rng.integers(8, 16)] = number
    labels = relabel(labels)
    areas, points, boxes = label_properties(labels)
    return Cells(points, boxes, rng.random(len(areas)).astype(np.float32), areas, labels)


@pytest.mark.parametrize("has_labels", [True, False])
def test_blocks_that_do_not_agree_give_the_same_in_any_order(
    tmp_path, draw_blobs, small_blocks, monkeypatch, request, has_labels
):
    def view(part, *_, **__):
        yield from ()
        cells = cells_of_a_view(part)
        if not has_labels:
            cells = replace(cells, labels=None)
        return Result(float(len(cells)), cells, Provenance.of_image(part, {"engine": {"link": False}})), None

    if not has_labels:
        request.getfixturevalue("points_only")
    monkeypatch.setattr(block_module, "count_with_prediction", view)
    monkeypatch.setattr(distributed, "LocalCluster", partial(distributed.LocalCluster, processes=False))
    np.save(tmp_path / "image.npy", draw_blobs((400, 380)).image)
    job = job_of(tmp_path / "image.npy", tmp_path / "one", small_blocks)
    run(count_streamed(job))
    stopped = replace(job, output=tmp_path / "stopped")
    with closing(count_streamed(stopped)) as task:
        while len(parts := sorted((tmp_path / "stopped" / "image.parts").glob("*.csv"))) < 5:
            next(task)
    parts[-1].unlink()  # as if it had been killed between the labels and the table
    run(count_streamed(stopped))
    shared = replace(job.recipe, stream=StreamSettings(workers=2))
    run(count_streamed(replace(job, output=tmp_path / "shared", recipe=shared)))
    table = pandas.read_csv(tmp_path / "one" / "image.cells.csv")
    assert len(table) > 100
    for name in ("stopped", "shared"):
        pandas.testing.assert_frame_equal(table, pandas.read_csv(tmp_path / name / "image.cells.csv"))
    if has_labels:
        labels, *others = (read(tmp_path / name)[0] for name in ("one", "stopped", "shared"))
        assert all(np.array_equal(labels, other) for other in others)
        numbers, areas = np.unique(labels[labels > 0], return_counts=True)
        assert dict(zip(numbers, areas, strict=True)) == dict(
            zip(table["label"], table["area_px"], strict=True)
        )


@pytest.mark.parametrize("n_steps", [3, 21, 26])
def test_a_stopped_run_goes_on(tmp_path, draw_blobs, small_blocks, n_steps):
    blobs = draw_blobs((380, 300))
    image = Image(blobs.image, "YX")
    job = job_of(image, tmp_path / "stopped", small_blocks)
    with closing(count_streamed(job)) as task:
        for _ in range(n_steps):
            next(task)
    parts = list((tmp_path / "stopped" / "image.parts").glob("*.csv"))
    times = {path: path.stat().st_mtime_ns for path in parts}
    for path in parts[-1:]:
        path.unlink()  # as if it had been killed between the labels and the table
        del times[path]
    task = count_streamed(job)
    while (step := next(task)).stage != "pyramid and table":
        assert step.done >= len(times) or step.stage != "blocks"
    assert {path: path.stat().st_mtime_ns for path in times} == times
    run(task)
    run(count_streamed(job_of(image, tmp_path / "whole", small_blocks)))
    (labels, table), (whole, expected) = read(tmp_path / "stopped"), read(tmp_path / "whole")
    assert np.array_equal(labels, whole)
    pandas.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize("text", ["", "[" * 9000, "{}", '{"job": null, "scaling": 1}'])
def test_a_damaged_plan_is_none(tmp_path, draw_blobs, small_blocks, text):
    image = Image(draw_blobs((100, 80)).image, "YX")
    plan = tmp_path / "image.parts" / "plan.json"
    for _ in range(2):
        with closing(count_streamed(job_of(image, tmp_path, small_blocks))) as task:
            for step in task:
                if step.stage == "blocks":
                    break
        whole = plan.read_text()
        plan.write_text(text)
    assert json.loads(whole)["core_px"]


def test_missing_pixels_are_told_also_by_a_run_that_goes_on(tmp_path, draw_blobs, small_blocks):
    pixels = draw_blobs((300, 280)).image.copy()
    pixels[:30] = np.nan
    job = job_of(Image(pixels, "YX"), tmp_path, small_blocks)
    with closing(count_streamed(job)) as task:
        for _ in range(6):
            next(task)
    assert "10.0% of the pixels are NaN or infinite; gaps of up to 4 are bridged" in " ".join(
        run(count_streamed(job)).notices
    )


def test_other_settings_count_anew(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((300, 280)).image, "YX")
    with closing(count_streamed(job_of(image, tmp_path, small_blocks))) as task:
        for _ in range(6):
            next(task)
    strict = job_of(image, tmp_path, small_blocks, engine=EngineSettings(diameter_px=15.0))
    steps = []
    run(count_streamed(strict), steps.append)
    assert min(step.done for step in steps if step.stage == "blocks") == 0
    record = json.loads((tmp_path / "image.json").read_text(encoding="utf-8"))
    assert record["settings"]["engine"]["diameter_px"] == 15.0


def test_a_file_that_has_changed_is_counted_anew(tmp_path, draw_blobs, small_blocks):
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((300, 280), np.float32))
    job = job_of(path, tmp_path / "out", small_blocks, axes="YX")
    with closing(count_streamed(job)) as task:
        for _ in range(6):
            next(task)
    blobs = draw_blobs((300, 280))
    np.save(path, blobs.image)
    assert run(count_streamed(job)).result.count == len(blobs)


@pytest.mark.parametrize("axes", ["YX", "TYX", "CYX"])
def test_another_array_of_the_same_size_is_counted_anew(tmp_path, draw_blobs, small_blocks, axes):
    """An array of no file is known by its name and size alone, which another one may have."""
    pixels = np.stack([draw_blobs((300, 280)).image for _ in range(2)])
    first, second = pixels, pixels[::-1]
    if axes == "YX":
        first, second = pixels
    with closing(count_streamed(job_of(Image(first, axes), tmp_path / "out", small_blocks))) as task:
        while not list((tmp_path / "out" / "image.parts").glob("*.csv")):
            next(task)
    other = Image(second, axes)
    run(count_streamed(job_of(other, tmp_path / "out", small_blocks)))
    assert same_cells(read(tmp_path / "out")[0], run(count_cells(other, small_blocks)).cells.labels)


def test_an_array_that_changes_while_it_is_counted_is_told(tmp_path, draw_blobs, small_blocks):
    pixels = draw_blobs((300, 280)).image.copy()
    with closing(count_streamed(job_of(Image(pixels, "YX"), tmp_path, small_blocks))) as task:
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
        pixels[100:] = 0
        with pytest.raises(ReadError, match="image was changed while it was counted"):
            run(task)


def test_a_file_that_changes_while_it_is_counted_is_told(tmp_path, draw_blobs, small_blocks):
    store = zarr.create_array(tmp_path / "field.zarr", data=draw_blobs((150, 140)).image, chunks=(64, 64))
    job = job_of(tmp_path / "field.zarr", tmp_path / "out", small_blocks)
    with closing(count_streamed(job)) as task:
        while not list((tmp_path / "out" / "field.parts").glob("*.csv")):
            next(task)
        store[:] = 0
        with pytest.raises(ReadError, match="field was changed while it was counted"):
            run(task)
    assert run(count_streamed(job)).result.count == 0


def test_the_table_of_a_block_that_a_computer_lost_is_made_again(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((90, 140))
    job = job_of(Image(blobs.image, "YX"), tmp_path, small_blocks)
    with closing(count_streamed(job)) as task:
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
    for part in (tmp_path / "image.parts").glob("*.csv"):
        part.write_text("")
    assert run(count_streamed(job)).result.count == len(blobs)


def test_other_filters_after_a_stop_have_all_labels(tmp_path, draw_blobs, small_blocks, monkeypatch):
    blobs = draw_blobs((90, 140))
    image = Image(blobs.image, "YX")
    few = job_of(image, tmp_path, small_blocks, analysis=AnalysisSettings(keep=("x<60",)))
    with monkeypatch.context() as once:
        once.setattr(run_module, "_finish", Mock(side_effect=WriteError("full")))
        with pytest.raises(WriteError):
            run(count_streamed(few))
    others = (AnalysisSettings(keep=("x>=60",)), AnalysisSettings())
    for analysis in others:
        found = run(count_streamed(job_of(image, tmp_path, small_blocks, analysis=analysis)))
        labels, table = read(tmp_path)
        assert set(np.unique(labels)) - {0} == set(table["label"])
        np.testing.assert_array_equal(table["area_px"], np.bincount(labels.ravel())[table["label"]])
    assert found.result.count == len(blobs)


def test_regions_that_are_called_by_numbers_are_texts(tmp_path):
    for name, regions in (("a", "1"), ("b", "1; 2")):
        (tmp_path / name).write_text(f"label,regions\n1,{regions}\n")
    run_module._join([tmp_path / "a", tmp_path / "b"], tmp_path / "all.csv")
    assert list(pandas.read_parquet(tmp_path / "all.parquet")["regions"]) == ["1", "1; 2"]


def test_processes_of_a_cluster_open_the_files_of_each_run(tmp_path, small_blocks):
    job = job_of(tmp_path / "field.zarr", tmp_path, "flow")
    for run_name, side in (("first", 30), ("second", 40)):
        zarr.create_array(tmp_path / "field.zarr", data=np.zeros((side, side), np.uint8), overwrite=True)
        for _ in range(2):
            sent = pickle.loads(pickle.dumps(replace(job, run=run_name)))
            assert cluster._there(sent).image.shape == (side, side)
        assert cluster._there(sent) is not sent  # that of the first time, whose image is open


def test_a_copy_is_taken_only_where_blocks_begin_at_its_pixels():
    pixels = np.zeros((600, 600), np.uint8)
    image = Image(pixels, "YX", levels=(pixels[::3, ::3],))
    preparation = context.Preparation(Scaling(0.0, 1.0), 0.2)
    levels = [plan._level_for(image, StreamPlan(preparation, core, 64)) for core in (512, 510)]
    halos = [plan._level_for(image, StreamPlan(preparation, 510, halo)) for halo in (63, 64)]
    assert (levels, halos) == ([0, 0], [1, 0])


@pytest.mark.parametrize("axes", ["YX", "TCYX"])
def test_a_copy_that_is_older_than_the_image_is_not_counted_in(draw_blobs, axes):
    pixels = draw_blobs((181, 162), 32.0).image
    pixels = pixels.reshape((1,) * (len(axes) - 2) + pixels.shape)
    small = pixels[..., ::2, ::2]
    chosen = StreamPlan(context.Preparation(Scaling(0.0, 1.0), 0.2), 128, 64)
    images = [
        Image(pixels, axes, levels=(level,)) for level in (small, np.roll(small, 40, axis=-1), 0 * small)
    ]
    assert [plan._level_for(image, chosen) for image in images] == [1, 0, 0]


def test_the_labels_have_a_pyramid_and_sizes(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((300, 280)).image, "YX", (0.5, 0.25), "sized")
    run(count_streamed(job_of(image, tmp_path, small_blocks)))
    folder = tmp_path / "sized.labels.zarr"
    yaozarrs.validate_zarr_store(folder)
    group = zarr.open_group(folder, mode="r")
    assert [group[str(level)].shape for level in range(3)] == [(300, 280), (150, 140), (75, 70)]
    assert np.array_equal(group["1"][:], group["0"][::2, ::2])
    scale = group.attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"]
    assert scale == [1.0, 0.5]
    assert pandas.read_csv(tmp_path / "sized.cells.csv")["area_um2"].gt(0).all()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b""])
def test_an_address_where_another_program_answers_is_told(tmp_path, monkeypatch, answer):
    monkeypatch.setattr(cluster, "CONNECT_S", 2)
    client = Mock()
    monkeypatch.setattr("dask.distributed.Client", client)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.eye(64, dtype=np.uint8))
    with socket.create_server(("127.0.0.1", 0)) as server:
        visitors = []

        def greet():
            with suppress(OSError):  # once the server is closed
                while True:
                    visitors.append(server.accept()[0])
                    visitors[-1].sendall(answer)

        Thread(target=greet, daemon=True).start()
        stranger = StreamSettings(scheduler=f"tcp://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(SettingsError, match="dask scheduler"):
            run(count_streamed(job_of(path, tmp_path, "flow", stream=stranger)))
    assert dask.config.get("scheduler", None) is None  # other arrays are not computed by who does not answer
    client.assert_not_called()  # one that fails may hang later
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_large_cells_are_counted_in_a_smaller_copy(tmp_path, draw_blobs, small_blocks, axes):
    blobs = draw_blobs((181, 162), 32.0)
    image = Image(blobs.image, "YX", (0.5, 0.5))
    levels = [blobs.image[::2, ::2].copy(), blobs.image[::4, ::4], blobs.image[::3, ::4]]
    levels[0][78:86, 72:79] = 1  # is in the first copy alone
    if axes == "ZYX":
        image = Image(np.stack([blobs.image] * 2), "ZYX", (1.0, 0.5, 0.5))
        levels = [np.stack([level] * 2) for level in levels]
    image = replace(image, levels=tuple(levels))
    small_blocks.spec = replace(small_blocks.spec, diameter_range_px=(10.0, 20.0))
    engine = EngineSettings(diameter_px=28.0)
    found = run(count_streamed(job_of(image, tmp_path, small_blocks, engine=engine)))
    labels, table = read(tmp_path)
    assert found.result.count == len(blobs) + 1
    truth = blobs.labels > 0
    plane = labels.reshape(-1, *truth.shape)[0] > 0
    plane[152:, 140:] = truth[152:, 140:]
    assert (plane & truth).sum() > 0.93 * (plane | truth).sum()
    size = {"YX": "area", "ZYX": "volume"}[axes]
    pixels = [(labels == number).sum() for number in table["label"]]
    np.testing.assert_array_equal(pixels, table[f"{size}_px"])
    np.testing.assert_allclose(table[f"{size}_um{len(axes)}"], table[f"{size}_px"] / 4)


def test_two_runs_do_not_share_a_folder(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((100, 100)).image, "YX")
    lock = acquire_lock(tmp_path / ".image.lock")
    with pytest.raises(WriteError, match="Another program"):
        run(count_streamed(job_of(image, tmp_path, small_blocks)))
    lock.release()
    assert run(count_streamed(job_of(image, tmp_path, small_blocks))).result.count > 0


@pytest.fixture
def flat_cells(monkeypatch):
    """Cells of volumes reach over few slices."""
    monkeypatch.setattr(plan, "TALLEST_CELL", 0.75)


def test_slices_are_linked_across_blocks(tmp_path, draw_blobs, small_blocks, flat_cells):
    blobs = draw_blobs((160, 30))
    is_there = np.arange(32) % 13 < 9  # cells of nine slices and four without
    image = Image(blobs.image * is_there[:, np.newaxis, np.newaxis].astype(np.float32), "ZYX")
    whole = run(count_cells(image, small_blocks)).cells
    job = job_of(image, tmp_path, small_blocks, stream=StreamSettings(memory="3.67MB"))
    core_px, _, core_slices, _ = plan.link_size(job, 1.0)
    assert (core_px, core_slices) == (32, 7)
    found = run(count_streamed(job))
    labels, table = read(tmp_path)
    assert found.result.count == len(whole) == len(table) == 3 * len(blobs)
    assert same_cells(labels, whole.labels)
    assert sorted(table["volume_px"]) == sorted(whole.areas)
    assert (table["score"] == 1).all()
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("link", [True, False])
def test_the_nearest_cell_is_found_across_slices(tmp_path, draw_blobs, small_blocks, flat_cells, link):
    """It lies above, farther than the next block of slices; of slices on their own it is in the same one."""
    is_there = np.arange(32) % 13 < 9
    volume = draw_blobs((160, 30)).image * is_there[:, np.newaxis, np.newaxis].astype(np.float32)
    image, engine = Image(volume, "ZYX"), EngineSettings(link=link)
    settings = AnalysisSettings(measure=("neighbours",))
    whole = analyse(run(count_cells(image, small_blocks, engine=engine)), image, settings)
    job = job_of(
        image,
        tmp_path,
        small_blocks,
        analysis=settings,
        engine=engine,
        stream=StreamSettings(memory="3.67MB"),
    )
    run(count_streamed(job))
    same_tables(sorted_rows(read(tmp_path)[1]), sorted_rows(whole.table))


@pytest.fixture
def colouring_model(oracle_model, monkeypatch):
    """A model that sees slices coloured by their neighbours."""
    oracle_model.spec = replace(oracle_model.spec, family="pseudocolor", diameter_px=14.0)
    coloured = partial(pseudocolor_frames, percentiles=(0.5, 99.8))
    monkeypatch.setattr(oracle_model, "frames", coloured, raising=False)
    return oracle_model


def test_dim_parts_stay_dim_where_slices_are_coloured(tmp_path, draw_blobs, colouring_model):
    """Each part of a volume is coloured by the intensities of the whole, also once a run goes on."""
    blobs = draw_blobs((60, 60))
    image = Image(np.stack([[blobs.image] * 4, [blobs.image * 0.2] * 4]), "TZYX")
    whole = run(count_cells(image, colouring_model))
    assert whole.count == len(blobs)
    job = job_of(image, tmp_path / "out", colouring_model)
    assert run(count_streamed(job)).result.count == whole.count
    labels, _ = read(tmp_path / "out")
    assert same_cells(labels, whole.cells.labels)
    made = run(plan.make_plan(job))
    plan.keep_plan(job, made)
    assert plan.kept_plan(job) == made
    assert made.preparation.colouring is not None


@pytest.mark.parametrize("memory", ["3.67MB", "12MB"])
def test_cells_go_on_in_faint_slices_across_blocks(tmp_path, draw_blobs, small_blocks, flat_cells, memory):
    """A slice above and below each cell is dim: part of it, but no outline of its own."""
    small_blocks.spec = replace(small_blocks.spec, family="pseudocolor")
    outlined = small_blocks.postprocess
    small_blocks.postprocess = lambda maps, settings: with_faint(
        outlined(maps, settings), maps["probability"][0]
    )
    blobs = draw_blobs((160, 30))
    light = np.ones(32, np.float32)
    light[[0, 10, 20, 30]] = 0.46  # a probability of about 0.3
    light[[4, 5, 14, 15, 24, 25]] = 0
    light[[3, 6, 13, 16, 23, 26]] = 0.46
    image = Image(blobs.image * light[:, np.newaxis, np.newaxis], "ZYX")
    whole = run(count_cells(image, small_blocks)).cells
    outlines = run(count_cells(image, small_blocks, engine=EngineSettings(link=False))).cells
    assert whole.areas.sum() > 1.2 * outlines.areas.sum()
    found = run(count_streamed(job_of(image, tmp_path, small_blocks, stream=StreamSettings(memory=memory))))
    labels, table = read(tmp_path)
    assert found.result.count == len(whole) == len(table)
    assert same_cells(labels, whole.labels)
    assert sorted(table["volume_px"]) == sorted(whole.areas)
    assert not list(tmp_path.glob("*.parts"))


def test_a_volume_whose_linking_was_stopped_goes_on(tmp_path, draw_blobs, small_blocks, flat_cells):
    image = Image(np.stack([draw_blobs((230, 30)).image] * 12), "ZYX")
    job = job_of(image, tmp_path, small_blocks, stream=StreamSettings(memory="1.65MB"))
    with closing(count_streamed(job)) as task:
        while len(list((tmp_path / "image.parts").glob("*.csv"))) < 2:
            next(task)
    steps = []
    found = run(count_streamed(job), steps.append)
    assert all(step.done == step.total for step in steps if step.stage == "blocks")
    assert min(step.done for step in steps if step.stage == "link" and step.total > 1) >= 2
    assert found.result.count == len(run(count_cells(image, small_blocks)).cells)


def test_a_volume_that_cannot_be_linked_in_so_little_memory_is_told(tmp_path, small_blocks):
    image = Image(np.zeros((32, 150, 60), np.uint8), "ZYX")
    with pytest.raises(SettingsError, match="Give more --memory"):
        run(count_streamed(job_of(image, tmp_path, small_blocks, stream=StreamSettings(memory="1MB"))))


def test_no_two_blocks_of_a_round_share_a_chunk(small_blocks):
    image = Image(np.zeros((9, 700, 90), np.uint8), "ZYX")
    blocks = blocks_of(image, StreamPlan(None, 64, 70, 2, 3))
    for _, together in itertools.groupby(plan.in_rounds(blocks), key=lambda block: block.round):
        some = list(together)
        chunks = [
            chunk
            for block in some
            for chunk in itertools.product(
                range(block.tile.read[0].start, block.tile.read[0].stop),
                *(range(span.start // 32, (span.stop - 1) // 32 + 1) for span in block.tile.read[1:]),
            )
        ]
        assert len(chunks) == len(set(chunks))
        assert not any(one.overlaps(other, 32) for one, other in itertools.combinations(some, 2))
    assert sorted(plan.in_rounds(blocks)) == list(blocks)


def test_memory_is_given_back_after_the_network_and_after_every_block(monkeypatch):
    image, times = Image(np.zeros((400, 300), np.uint8), "YX"), []
    blocks = blocks_of(image, StreamPlan(None, 128, 40))
    steps = Progress("tiles", 1, 2), Progress("tiles", 2, 2), Progress("tiles", 2, 2, note="finding cells")
    monkeypatch.setattr(cluster, "count_block", lambda *_: (step for step in steps))
    monkeypatch.setattr(memory, "give_back_memory", lambda: times.append(1))
    assert sum(cluster.one_by_one(Mock(image=image), Mock(level=0), blocks)) == len(blocks) == 12
    assert len(times) == 12 * 2


def test_memory_is_given_back_at_each_place_where_the_scale_is_tried(
    tmp_path, draw_blobs, small_blocks, monkeypatch
):
    times, steps = [], []
    monkeypatch.setattr(memory, "give_back_memory", lambda: times.append(1))
    job = job_of(Image(draw_blobs((230, 200)).image, "YX"), tmp_path, small_blocks)
    run(plan.make_plan(job), steps.append)
    n_tried = sum(step.note == "finding cells" for step in steps)
    assert n_tried >= 3
    assert len(times) == n_tried + 1


@pytest.mark.parametrize("chunk", [64, 0])
def test_a_block_waits_for_its_neighbours_alone(tmp_path, monkeypatch, chunk):
    image = Image(np.zeros((2, 400, 300), np.uint8), "TYX")
    blocks = plan.in_rounds(blocks_of(image, StreamPlan(None, 128, 40)))
    waits_for = {}

    def submit(_, on_block, block, path, before, *, pure):
        waits_for[block.number] = {other.number for other in before}
        return Mock(number=block.number, result=on_block)

    client = MagicMock(submit=submit)
    monkeypatch.setattr(distributed, "wait", lambda left, **_: Mock(done=set(left)))
    done = cluster.shared_out(client, Mock(), blocks, lambda block: tmp_path / str(block.number), chunk)
    assert sum(done) == len(blocks) == len(waits_for) == 24
    if not chunk:
        assert not any(waits_for.values())
        return
    for place, block in enumerate(blocks):
        expected = {other.number for other in blocks[:place] if other.lies_within((0, 0), block)}
        assert waits_for[block.number] == expected
    assert max(map(len, waits_for.values())) < 9  # and not for all of a round


def test_a_finished_block_is_not_done_again_where_its_process_was_lost(tmp_path):
    on_block, block = Mock(), Mock()
    cluster._once(on_block, block, tmp_path, [])
    on_block.assert_not_called()
    cluster._once(on_block, block, tmp_path / "none", [])
    on_block.assert_called_once_with(block)


def test_processes_load_the_networks_before_the_first_block(small_blocks, monkeypatch):
    client, told = Mock(), []
    client.nthreads.return_value = {"tcp://one": 1, "tcp://two": 1}
    client.submit = lambda function, job, *, workers, pure: told.append((*workers, function(job)))
    monkeypatch.setattr(distributed, "fire_and_forget", Mock())
    cluster._networks_there.cache_clear()
    cluster._warm_up(client, job_of(None, None, small_blocks))
    assert told == [("tcp://one", None), ("tcp://two", None)]
    assert cluster._networks_there.cache_info()[:2] == (1, 1)  # made once for this process, there before


def test_a_guessed_scale_is_told_as_in_the_whole_image(tmp_path, draw_blobs, small_blocks, monkeypatch):
    found_by = small_blocks.postprocess

    def surer_of_larger(maps, settings):
        cells = found_by(maps, settings)
        return replace(cells, scores=np.minimum(cells.areas / 1000, 1))

    monkeypatch.setattr(small_blocks, "postprocess", surer_of_larger)
    small_blocks.spec = replace(small_blocks.spec, diameter_px=24.0, diameter_range_px=(20.0, 80.0))
    image = Image(draw_blobs((80, 80), 8).image, "YX")
    whole = run(count_cells(image, small_blocks))
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert found.notices == whole.notices
    assert any("enlarged" in notice for notice in found.notices)
    assert found.result.provenance.settings["models"] == whole.provenance.settings["models"]
    stated = job_of(
        replace(image, pixel_size_um=(0.5, 0.5)),
        tmp_path / "stated",
        small_blocks,
        engine=EngineSettings(diameter_um=4.0),
    )
    assert run(count_streamed(stated)).notices == ()


@pytest.mark.parametrize("axes", ["YX", "TYX"])
@pytest.mark.parametrize("zooms", [(2.0, 1.0, 2.0), (1.0, 2.0, 1.0)])
def test_a_large_image_or_a_stack_is_judged_at_the_same_places_as_its_blocks(
    tmp_path, draw_blobs, small_blocks, monkeypatch, zooms, axes
):
    told = dict(zip((0.2, 0.5, 0.8), zooms, strict=True))

    def estimated(counting, at, progress):
        yield Progress("tiles", 0, 1)
        batches = counting.batches(1.0)
        return ScaleTrial(told[at], batches[0], None, counting.progress(batches, 1.0), counting.scaling)

    monkeypatch.setattr(scale, "try_scales", estimated)
    monkeypatch.setattr(context, "WHOLE_PX", 256)
    monkeypatch.setattr(context, "BLOCK_PX", 128)
    image = Image(draw_blobs((300, 280)).image, "YX")
    if axes == "TYX":
        image = Image(np.stack([draw_blobs((120, 100)).image] * 4), axes)
    whole = run(count_cells(image, small_blocks))
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert found.result.provenance.settings["zoom"] == whole.provenance.settings["zoom"] == sorted(zooms)[1]
    assert found.notices == whole.notices
    assert any("3 places" in notice for notice in found.notices) == (sorted(zooms)[1] != 1)


@pytest.mark.parametrize("kept", ["whole", "lost", "no room"])
def test_blocks_that_the_scale_was_tried_on_are_predicted_once(
    tmp_path, draw_blobs, small_blocks, monkeypatch, kept
):
    small_blocks.spec = replace(small_blocks.spec, divisor=32)  # places and blocks are cut alike
    image = Image(draw_blobs((256, 384)).image, "YX")
    keep = plan._keep_maps
    monkeypatch.setattr(plan, "_keep_maps", lambda *_: None)
    run(count_streamed(job_of(image, tmp_path / "again", small_blocks)))

    def kept_or_not(job, made, trials):
        keep(job, made, trials)
        files = list(job.files.parts.glob("*.maps.npz"))
        assert len(files) == (0 if kept == "no room" else 3)
        if kept == "lost":
            for file in files:
                file.write_bytes(b"")

    monkeypatch.setattr(plan, "_keep_maps", kept_or_not)
    if kept == "no room":
        monkeypatch.setattr(plan, "atomic_write", Mock(side_effect=WriteError("full")))
    predicted = Mock(wraps=context.predict_maps)
    monkeypatch.setattr(context, "predict_maps", predicted)
    job = job_of(image, tmp_path / "once", small_blocks)
    with closing(count_streamed(job)) as task:  # a run that goes on has them, too
        while not list(job.files.parts.glob("*.csv")):
            next(task)
    run(count_streamed(job))
    n_blocks = len(blocks_of(image, StreamPlan(None, 128, 64)))
    assert predicted.call_count == n_blocks + (0 if kept == "whole" else 3)
    ours, theirs = (read(tmp_path / folder)[0] for folder in ("once", "again"))
    assert ours.any()
    assert np.array_equal(ours, theirs)
    tables = [(tmp_path / folder / "image.cells.csv").read_bytes() for folder in ("once", "again")]
    assert tables[0] == tables[1]


def test_blocks_together_promise_what_the_whole_promises(tmp_path, draw_blobs, small_blocks, monkeypatch):
    class AsTheWorst:
        closer_below = 0.0

        def expected_f1(self, facts):
            return facts["score_low"]

    def unsure_of_faint_ones(maps, settings):
        cells = found_by(maps, settings)
        return replace(cells, scores=maps["probability"][0][tuple(cells.points.astype(int).T)])

    found_by = small_blocks.postprocess
    monkeypatch.setattr(small_blocks, "postprocess", unsure_of_faint_ones)
    small_blocks.fit = AsTheWorst()
    pixels = draw_blobs((400, 300)).image.copy()
    pixels[:, :100] *= 0.53
    image = Image(pixels, "YX")
    whole = run(count_cells(image, small_blocks))
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert found.result.fit == pytest.approx(whole.fit, abs=1e-3)
    assert whole.fit < 0.85


def test_a_doubtful_count_is_told_as_in_the_whole_image(tmp_path, draw_blobs, small_blocks):
    class Doubtful:
        closer_below = 0.0

        def expected_f1(self, facts):
            return 0.5

    small_blocks.fit = Doubtful()
    image = Image(draw_blobs((200, 160)).image, "YX")
    whole = run(count_cells(image, small_blocks))
    found = run(count_streamed(job_of(image, tmp_path, small_blocks)))
    assert found.result.fit == whole.fit == found.result.provenance.settings["expected_f1"] == 0.5
    assert found.notices == whole.notices
    assert "Expect about 5 of 10 right" in found.notices[-1]
    few = AnalysisSettings(keep=("x<60",))
    left = run(count_streamed(job_of(image, tmp_path / "few", small_blocks, analysis=few)))
    assert left.result.fit is None  # of what a filter left, no more than half
    assert analyse(whole, image, few).result.fit is None


@pytest.mark.parametrize("name", ["centroid", "density"])
def test_what_has_no_outlines_promises_the_same_in_blocks(tmp_path, draw_blobs, monkeypatch, name):
    monkeypatch.setattr(plan, "CORE_PX", 128)
    model = store.load(store.find(name))
    image = Image(draw_blobs((400, 300)).image, "YX")
    whole = run(count_cells(image, model))
    assert model.fit is not None
    assert whole.fit is not None
    found = run(count_streamed(job_of(image, tmp_path, model)))
    assert found.result.fit == pytest.approx(whole.fit, abs=0.05)
    assert (found.result.interval is None) == (whole.interval is None) == (name == "centroid")
    if whole.interval:
        assert found.result.interval == pytest.approx(whole.interval, rel=0.1)


def test_slices_that_are_not_linked_have_no_border(tmp_path, draw_blobs, small_blocks):
    image = Image(np.stack([draw_blobs((60, 60)).image[8:]] * 2), "ZYX")
    engine, settings = EngineSettings(link=False), AnalysisSettings(border="drop")
    whole = run(analysis_task(run(count_cells(image, small_blocks, engine=engine)), image, settings))
    job = job_of(image, tmp_path, small_blocks, engine=engine, analysis=settings)
    assert run(count_streamed(job)).result.count == whole.result.count > 0
    _, table = read(tmp_path)
    assert set(table) == set(whole.table)


def test_cells_are_measured_as_in_the_whole_image(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((210, 190))
    cut = blobs.image[8:]  # through the first row of cells
    ramp = np.linspace(1, 2, 190, dtype=np.float32)
    image = Image(np.stack([cut, cut * ramp]), "CYX", (0.5, 0.5))
    settings = AnalysisSettings(
        measure=("shape", "intensity", "neighbours"),
        border="drop",
        keep=("intensity_mean_ch1>1.3", "class!=Platelet"),
        positive=("1>otsu",),
    )
    result = run(classify(run(count_cells(image, small_blocks)), image, "blood"))
    whole = run(analysis_task(result, image, settings))
    job = job_of(image, tmp_path, small_blocks, analysis=settings, classifier="blood")
    found = run(count_streamed(job))
    labels, table = read(tmp_path)
    assert 0 < found.result.count == whole.result.count == len(table) < len(blobs)
    assert found.notices[-2:] == whole.notices
    assert class_counts(found.result) == class_counts(whole.result)
    assert found.analysis.counts.equals(whole.counts)
    assert recipe_from(found.result.provenance).classifier == "blood"
    assert list(table) == list(whole.table)
    assert set(table["label"]) == set(np.unique(labels)) - {0}
    assert same_cells(labels, whole.result.cells.labels)
    ours, theirs = (one.sort_values(["y", "x"], ignore_index=True) for one in (table, whole.table))
    columns = [name for name in ours if name != "label"]
    pandas.testing.assert_frame_equal(ours[columns], theirs[columns], check_dtype=False, rtol=1e-4, atol=1e-3)
    stored = pandas.read_parquet(tmp_path / "image.cells.parquet")
    assert stored["label"].dtype == "int64"
    assert stored["positive_ch1"].dtype == "bool"


def test_other_measurements_do_not_count_anew(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((300, 280)).image, "YX")
    job = job_of(image, tmp_path, small_blocks, analysis=AnalysisSettings(measure=("shape",)))
    with closing(count_streamed(job)) as task:
        while next(task).stage != "measure":
            pass
    steps = []
    other = job_of(image, tmp_path, small_blocks, analysis=AnalysisSettings(measure=("intensity",)))
    run(count_streamed(other), steps.append)
    assert "blocks" not in {step.stage for step in steps}
    table = read(tmp_path)[1]
    assert "intensity_mean_ch0" in table
    assert "circularity" not in table


def test_a_classifier_that_was_trained_again_classifies_anew(tmp_path, draw_blobs, small_blocks):
    save_classifier(tmp_path / "classes", build(("long", "round")))
    image, classifier = Image(draw_blobs((300, 280)).image, "YX"), str(tmp_path / "classes")
    with closing(count_streamed(job_of(image, tmp_path, small_blocks, classifier=classifier))) as task:
        while not [*tmp_path.glob("*.parts/*.measured.csv")]:
            next(task)
    save_classifier(tmp_path / "classes", build(("flat", "thick")))
    run(count_streamed(job_of(image, tmp_path, small_blocks, classifier=classifier)))
    assert set(read(tmp_path)[1]["class"]) <= {"flat", "thick"}


def test_a_density_is_streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(zarr_labels, "CHUNK_PX", 64)
    monkeypatch.setattr(zarr_labels, "SMALLEST_LEVEL_PX", 300)
    monkeypatch.setattr(plan, "CORE_PX", 128)
    picture = simulate("fluorescence", (700, 250), np.random.default_rng(3), diameter_px=24).image
    image = Image(picture, "YX")
    engine = EngineSettings(diameter_px=24.0)
    whole = run(count_cells(image, "density", engine=engine))
    found = run(count_streamed(job_of(image, tmp_path, "density", engine=engine)))
    assert found.result.count == pytest.approx(whole.count, rel=0.005)
    assert found.result.interval == pytest.approx(whole.interval, rel=0.005)
    assert found.result.provenance.settings["count_error"] == whole.provenance.settings["count_error"]
    group = zarr.open_group(tmp_path / "image.density.zarr", mode="r")
    assert group["0"][:].sum(dtype=float) == pytest.approx(found.result.count, abs=0.01)
    assert np.abs(group["0"][:] - whole.maps["density"]).max() < 0.2 * whole.maps["density"].max()
    assert group["1"].shape == (350, 125)
    assert group["1"][:].mean() == pytest.approx(group["0"][:].mean(), rel=1e-4)
    yaozarrs.validate_zarr_store(tmp_path / "image.density.zarr")
    assert pandas.read_csv(tmp_path / "image.cells.csv")["count"][0] == pytest.approx(found.result.count)


def analysed_both_ways(image, model, folder, settings, files=NO_FILES):
    """The analysis of a whole image, and that of its blocks with all columns, cells in the same order."""
    result = run(count_cells(image, model))
    inputs = read_inputs(files, image, settings.region_rule)
    whole = run(analysis_task(result, image, settings, inputs))
    job = job_of(image, folder, model, analysis=settings, files=files, whole_table=True)
    found = run(count_streamed(job))
    assert found.result.count == found.analysis.result.count == whole.result.count
    pandas.testing.assert_frame_equal(found.analysis.counts, whole.counts, check_dtype=False)
    return found, whole, sorted_rows(read(folder)[1]), sorted_rows(whole.table)


def sorted_rows(table):
    """Rows of a table by their place, without the numbers of cells and tracks, which are names."""
    names = ["label", *(name for name in table if "track" in name)]
    return table.sort_values([name for name in "tzyx" if name in table], ignore_index=True).drop(
        columns=names
    )


def same_tables(ours, theirs):
    assert list(ours) == list(theirs)
    pandas.testing.assert_frame_equal(ours, theirs, check_dtype=False, rtol=1e-4, atol=1e-3)


@pytest.fixture
def regions(tmp_path):
    """Two overlapping shapes over the borders of blocks, one with a hole; one to leave out; and a mask."""
    rings = {
        "left": [[(10, 10), (140, 20), (150, 180), (10, 170)], [(40, 40), (90, 40), (90, 90), (40, 90)]],
        "right": [[(100, 5), (200, 60), (120, 150)]],
        "exclude dirt": [[(110, 110), (135, 110), (135, 140), (110, 140)]],
    }
    features = [
        {
            "type": "Feature",
            "properties": {"name": name},
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in corners]},
        }
        for name, corners in rings.items()
    ]
    (tmp_path / "regions.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    mask = np.ones((190, 210), np.uint8)
    mask[150:, 100:] = 0
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    return InputFiles(regions=(str(tmp_path / "regions.json"),), mask=str(tmp_path / "mask.tif"))


@pytest.mark.parametrize("rule", ["centre", "overlap", "whole"])
def test_cells_in_regions_are_those_of_the_whole_image(
    tmp_path, draw_blobs, small_blocks, regions, rule, monkeypatch
):
    monkeypatch.setattr(region_files, "WINDOW_PIXELS", 5000)  # so that the mask stays on disk
    blobs = draw_blobs((190, 210)).image * np.linspace(1, 2, 210, dtype=np.float32)
    image = Image(np.stack([blobs, blobs + 0.5]), "CYX", (0.5, 0.5))
    settings = AnalysisSettings(
        measure=("solidity", "intensity_mean", "intensity_corrected_mean"),
        region_rule=rule,
        positive=("1>otsu",),
        cytoplasm_px=3.0,
        ring_width_px=20.0,
    )
    found, whole, *tables = analysed_both_ways(image, small_blocks, tmp_path, settings, regions)
    same_tables(*tables)
    pandas.testing.assert_frame_equal(found.analysis.copositive, whole.copositive)
    assert found.analysis.thresholds == pytest.approx(whole.thresholds, abs=1e-4)
    assert set(tables[0]["regions"]) == {"left", "right", "left; right"}
    assert any(name.startswith("cytoplasm_") for name in tables[0])


def test_rings_are_whole_where_pixels_are_narrow_along_y(tmp_path, draw_blobs, small_blocks):
    pixels = draw_blobs((400, 90)).image
    pixels = pixels + np.linspace(0, 1, 400, dtype=np.float32)[:, np.newaxis] ** 2
    image = Image(pixels, "YX", (0.1, 0.5))
    settings = AnalysisSettings(measure=("intensity_corrected_mean",), ring_width_px=15.0)
    _, _, *tables = analysed_both_ways(image, small_blocks, tmp_path, settings, InputFiles())
    same_tables(*tables)
    wide = replace(settings, ring_width_px=60.0)  # 300 pixels along y
    with pytest.raises(SettingsError, match=r"Rings of 3.. pixels around cells reach beyond the next block"):
        run(count_streamed(job_of(image, tmp_path, small_blocks, analysis=wide)))


def test_regions_and_classes_may_be_called_by_numbers_or_like_nothing(
    tmp_path, draw_blobs, small_blocks, regions
):
    path = tmp_path / "regions.json"
    path.write_text(path.read_text().replace('"left"', '"NA"').replace('"right"', '"07"'))
    save_classifier(tmp_path / "classes", build(("1", "None", "03")))
    image, classifier = Image(draw_blobs((190, 210)).image, "YX"), str(tmp_path / "classes")
    settings = AnalysisSettings(keep=('class!="1"', 'regions!="07"'))
    result = run(classify(run(count_cells(image, small_blocks)), image, classifier))
    whole = run(analysis_task(result, image, settings, read_inputs(regions, image)))
    job = job_of(
        image,
        tmp_path,
        small_blocks,
        analysis=settings,
        files=regions,
        classifier=classifier,
        whole_table=True,
    )
    found = run(count_streamed(job)).analysis
    assert 0 < found.result.count == whole.result.count
    assert class_counts(found.result) == class_counts(whole.result)
    ours, theirs = (
        {kind: {name: int(rows.sum()) for name, rows in one.items()} for kind, one in groups_of(each).items()}
        for each in (found, whole)
    )
    assert ours == theirs
    assert "NA" in ours["Region"]


def test_labels_are_regions_on_disk_and_block_by_block(tmp_path, draw_blobs, small_blocks, monkeypatch):
    monkeypatch.setattr(region_files, "WINDOW_PIXELS", 4000)
    labels = np.zeros((190, 210), np.int32)
    labels[:100, :150], labels[100:, 90:] = 3, 7
    path = tmp_path / "parts.zarr"
    zarr.create_array(path, data=labels, chunks=(64, 64))
    image = Image(draw_blobs((190, 210)).image, "YX")
    settings = AnalysisSettings(keep=("area_px>20",))
    files = InputFiles(regions=(str(path),))
    found, *_ = analysed_both_ways(image, small_blocks, tmp_path, settings, files)
    assert list(found.analysis.counts["region"]) == ["parts 3", "parts 7", "all regions"]


def test_a_mask_of_larger_pixels_holds_block_by_block(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((190, 210)).image, "YX", (0.5, 0.5))
    mask = np.ones((95, 105), np.int32)
    mask[75:, 50:] = 0
    write_labels(tmp_path / "mask.tif", mask, Image(mask, "YX", (1.0, 1.0)))
    files = InputFiles(mask=str(tmp_path / "mask.tif"))
    settings = AnalysisSettings(keep=("area_px>20",))
    _, _, *tables = analysed_both_ways(image, small_blocks, tmp_path, settings, files)
    same_tables(*tables)
    assert not ((tables[0]["y"] > 151) & (tables[0]["x"] > 101)).any()


def test_a_mask_in_place_of_nuclei_is_told(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((150, 160))
    zarr.create_array(tmp_path / "mask.zarr", data=(blobs.labels > 0).astype(np.uint8), chunks=(64, 64))
    files = InputFiles(nuclei=str(tmp_path / "mask.zarr"))
    job = job_of(Image(blobs.image, "YX"), tmp_path, small_blocks, files=files)
    assert "The numbers of the nuclei lie in" in " ".join(run(count_streamed(job)).notices)


def test_nuclei_and_further_images_are_those_of_the_whole_image(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((190, 210))
    image = Image(blobs.image, "YX")
    nuclei = np.where(np.arange(210) % 5 < 3, blobs.labels, 0).astype(np.int32)
    nuclei[nuclei % 7 == 0] = 0
    nuclei[120:124, 60:70], nuclei[126:128, 120:130] = 900, 901
    nuclei[blobs.labels > 0] = np.where(np.isin(nuclei, (900, 901)), 0, nuclei)[blobs.labels > 0]
    tifffile.imwrite(tmp_path / "nuclei.tif", nuclei)
    tifffile.imwrite(tmp_path / "other.tif", np.arange(190 * 210, dtype=np.float32).reshape(190, 210))
    files = InputFiles(nuclei=str(tmp_path / "nuclei.tif"), other=(f"ki67={tmp_path / 'other.tif'}",))
    settings = AnalysisSettings(measure=("intensity_mean",), positive=("ki67>otsu",))
    found, whole, *tables = analysed_both_ways(image, small_blocks, tmp_path, settings, files)
    same_tables(*tables)
    assert found.analysis.n_nuclei_outside == whole.n_nuclei_outside > 0
    assert "nucleus_intensity_mean_ki67" in tables[0]


def test_tracks_are_those_of_the_whole_series(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((150, 160)).image
    image = Image(np.stack([np.roll(blobs, 3 * frame, axis=1) for frame in range(3)]), "TYX", (0.5, 0.5))
    image = replace(image, frame_interval_s=30.0)
    settings = AnalysisSettings(track=True, border="drop")
    found, whole, *tables = analysed_both_ways(image, small_blocks, tmp_path, settings)
    same_tables(*tables)
    assert found.analysis.tracks.count == whole.tracks.count < found.result.count / 2
    columns = [name for name in whole.lineages if name not in ("track", "parent", "root")]
    ours, theirs = (one.lineages[columns].sort_values(columns) for one in (found.analysis, whole))
    np.testing.assert_allclose(ours.to_numpy(float), theirs.to_numpy(float), atol=1e-3)
    table = read(tmp_path)[1]
    assert not table.duplicated(["track", "t"]).any()
    assert (table.groupby("track").size() <= 3).all()


def test_tracks_that_do_not_fit_into_memory_are_told(tmp_path, draw_blobs, small_blocks, monkeypatch):
    monkeypatch.setattr(second_pass, "free_memory", lambda: 100.0)
    image = Image(np.stack([draw_blobs((60, 60)).image] * 2), "TYX")
    with pytest.raises(SettingsError, match="every cell of a frame with every one"):
        run(count_streamed(job_of(image, tmp_path, small_blocks, analysis=AnalysisSettings(track=True))))


def test_what_cannot_be_had_is_told(tmp_path, draw_blobs, small_blocks):
    image = Image(np.zeros((64, 64)), "YX")
    tifffile.imwrite(tmp_path / "other.tif", np.zeros((60, 64), np.uint8))
    other = InputFiles(other=(f"a={tmp_path / 'other.tif'}",))
    for job, error, reason in (
        (job_of(image, tmp_path, small_blocks, analysis=AnalysisSettings(track=True)), AxesError, "TYX"),
        (
            job_of(image, tmp_path, "density", analysis=AnalysisSettings(measure=("shape",))),
            SettingsError,
            "outlines",
        ),
        (job_of(image, tmp_path, small_blocks, files=other), SettingsError, "must have the"),
    ):
        with pytest.raises(error, match=reason):
            run(count_streamed(job))
    wide = AnalysisSettings(cytoplasm_px=900.0)
    full = Image(draw_blobs((64, 64)).image, "YX")
    with pytest.raises(SettingsError, match="beyond the next block"):
        run(count_streamed(job_of(full, tmp_path, small_blocks, analysis=wide)))


def test_missing_chunks_are_told(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((300, 280))
    zarr.create_array(tmp_path / "field.zarr", data=blobs.image, chunks=(100, 100))
    (tmp_path / "field.zarr" / "c" / "1" / "1").unlink()
    found = run(count_streamed(job_of(tmp_path / "field.zarr", tmp_path / "out", small_blocks)))
    whole = run(count_cells(read_image(tmp_path / "field.zarr"), small_blocks))
    for notices in (found.notices, whole.notices):
        assert sum("1 of the 9 chunks" in notice for notice in notices) == 1
    assert 0 < found.result.count < len(blobs)


def test_a_pyramid_whose_levels_disagree_is_told(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((120, 100))
    group = zarr.open_group(tmp_path / "field.zarr", mode="w", zarr_format=3)
    for name, pixels in (("0", blobs.image), ("1", np.zeros((240, 200), np.float32))):
        group.create_array(name, data=pixels, chunks=(64, 64), overwrite=True)
    axes = [{"name": name, "type": "space"} for name in "yx"]
    levels = [
        {"path": path, "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
        for path in "012"
    ]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": levels}]}
    found = run(count_streamed(job_of(tmp_path / "field.zarr", tmp_path / "out", small_blocks)))
    assert found.result.count == len(blobs)
    assert any("1 of (240, 200), 2 of nothing" in notice for notice in found.notices)


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, draw_blobs, small_blocks, monkeypatch):
    image = Image(draw_blobs((300, 280)).image, "YX")
    job = job_of(image, tmp_path, small_blocks)
    n_written = itertools.count()

    class FullDisk:
        def __init__(self, path):
            self._labels = open_array(path)

        def __getitem__(self, place):
            return self._labels[place]

        def __setitem__(self, place, values):
            if next(n_written) == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            self._labels[place] = values

    with monkeypatch.context() as full:
        full.setattr(block_module, "open_array", FullDisk)
        with pytest.raises(WriteError, match="No space left"):
            run(count_streamed(job))
    assert len(list((tmp_path / "image.parts").glob("*.csv"))) == 2
    assert not (tmp_path / "image.cells.csv").exists()
    assert run(count_streamed(job)).result.count == len(run(count_cells(image, small_blocks)).cells)


def test_a_target_that_cannot_be_written_is_told(tmp_path, small_blocks):
    (tmp_path / "file").write_text("in the way")
    job = job_of(Image(np.zeros((64, 64)), "YX"), tmp_path / "file" / "out", small_blocks)
    with pytest.raises(WriteError, match="Choose another folder"):
        run(count_streamed(job))


def test_the_scale_is_estimated_in_windows_no_larger_than_a_block(tmp_path, small_blocks, monkeypatch):
    sides = []
    plain = small_blocks.decode
    small_blocks.decode = lambda maps, shape, *others: sides.append(max(shape)) or plain(maps, shape, *others)
    run(count_streamed(job_of(Image(np.eye(500, dtype=np.uint8), "YX"), tmp_path, small_blocks)))
    assert max(sides) < 300  # and not the 500 of the whole


def test_no_more_than_half_of_the_free_memory_is_taken(tmp_path, small_blocks, monkeypatch):
    image = Image(np.zeros((4000, 4000), np.uint8), "YX")
    job = job_of(image, tmp_path, small_blocks)
    monkeypatch.setattr(plan, "CORE_PX", 2048)
    sides = []
    for free in (1e12, 60e6):
        monkeypatch.setattr(plan, "free_memory", lambda free=free: free)
        sides.append(run(plan.make_plan(job)).core_px)
    assert sides[1] < sides[0] == 2048


def test_an_empty_image_has_no_cells(tmp_path, small_blocks):
    found = run(count_streamed(job_of(Image(np.zeros((300, 280)), "YX"), tmp_path, small_blocks)))
    assert found.result.count == 0
    assert len(read(tmp_path)[1]) == 0


@pytest.mark.parametrize(
    ("axes", "settings", "classifier"),
    [
        ("YX", {"measure": ("shape", "intensity", "neighbours"), "positive": ("0>otsu",)}, ""),
        ("TYX", {"track": True, "cytoplasm_px": 3.0, "measure": ("intensity",)}, "blood"),
    ],
)
def test_a_table_without_cells_has_the_columns_of_one_with_cells(
    tmp_path, draw_blobs, small_blocks, regions, axes, settings, classifier
):
    cells = np.broadcast_to(draw_blobs((190, 210)).image, (2, 190, 210)[-len(axes) :])
    columns = []
    for name, pixels in (("none", np.zeros_like(cells)), ("some", cells)):
        image = Image(pixels, axes, (0.5, 0.5), "image")
        of_job = {"analysis": AnalysisSettings(**settings), "classifier": classifier, "files": regions}
        job = job_of(image, tmp_path / name, small_blocks, whole_table=True, **of_job)
        found, path = run(count_streamed(job)), tmp_path / name / "image.cells"
        tables = pandas.read_csv(f"{path}.csv"), pandas.read_parquet(f"{path}.parquet")
        columns.append([list(tables[0]), tables[1].dtypes.to_dict(), list(found.analysis.table)])
        assert len(tables[0]) == round(found.result.count)
    assert columns[0] == columns[1]


def test_axes_in_another_order_are_refused_before_the_first_block(tmp_path, small_blocks):
    image = Image(np.zeros((2, 2, 40, 40), np.uint8), "ZTYX")
    with pytest.raises(AxesError, match="in the order TZYX; got 'ZTYX'"):
        run(count_streamed(job_of(image, tmp_path, small_blocks)))


def test_what_networks_went_through_is_told_by_a_run_that_goes_on(
    tmp_path, draw_blobs, small_blocks, monkeypatch
):
    image = Image(draw_blobs((90, 140)).image, "YX")
    job, attempt = job_of(image, tmp_path, small_blocks), Networks.attempt

    def ran_out(self, windows):
        self.notice = "Memory ran out."
        return attempt(self, windows)

    with monkeypatch.context() as once, closing(count_streamed(job)) as task:
        once.setattr(Networks, "attempt", ran_out)
        while not list((tmp_path / "image.parts").glob("*.csv")):
            next(task)
    assert "Memory ran out." in run(count_streamed(job)).notices


def test_an_array_cannot_be_shared_out(tmp_path, small_blocks):
    image, two = Image(np.zeros((64, 64)), "YX"), StreamSettings(workers=2)
    with pytest.raises(SettingsError, match="need an image file"):
        run(count_streamed(job_of(image, tmp_path, small_blocks, stream=two)))


def test_processes_of_this_machine_keep_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Processes(nullcontext[None]):
        def __init__(self, **_: object) -> None:
            super().__init__()
            began_with.append(dask.config.get("distributed.nanny.pre-spawn-environ"))

    began_with: list[dict[str, str]] = []
    monkeypatch.setattr(distributed, "LocalCluster", Processes)
    monkeypatch.setattr(distributed, "Client", Mock())
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: 8)
    with cluster._cluster(StreamSettings(workers=2)):
        pass
    (variables,) = began_with
    assert {variables[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")} == {"4"}
    assert variables["MALLOC_ARENA_MAX"] == "1"
    assert variables["MALLOC_MMAP_THRESHOLD_"] == variables["MALLOC_TRIM_THRESHOLD_"] == str(2**30)


def test_processes_start_while_other_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    may_start, client, told = Event(), Mock(), []
    client.nthreads.return_value = {}

    @contextmanager
    def slow(_: StreamSettings) -> Iterator[Mock]:
        told.append(may_start.wait(5))
        yield client
        told.append("closed")

    monkeypatch.setattr(cluster, "_cluster", slow)
    with cluster.dask_cluster(job_of(None, None, "flow")) as lent:
        may_start.set()  # it would never be, had the start been waited for
        assert lent() is client
    assert told == [True, "closed"]


def test_an_address_that_nobody_answers_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.eye(64, dtype=np.uint8))
    nobody = StreamSettings(scheduler="tcp://127.0.0.1:9")
    with pytest.raises(SettingsError, match="dask scheduler"):
        run(count_streamed(job_of(path, tmp_path, "flow", stream=nobody)))
    assert not list(tmp_path.glob("*.parts"))


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_workers_find_the_same_cells(tmp_path, draw_blobs, small_blocks, monkeypatch, axes):
    ports = []

    class Here(distributed.LocalCluster):  # threads start sooner than processes
        def __init__(self, **given):
            super().__init__(processes=False, protocol="tcp://", **given)
            ports.append(self.scheduler.http_server.port)

    def share_out(client, on_block, *given, **named):
        assert dask.config.get("scheduler", None) is None  # other arrays are computed in this process
        sent.append(on_block.keywords["plan"].preparation.networks)
        return cluster.shared_out(client, on_block, *given, **named)

    sent = []
    monkeypatch.setattr(distributed, "LocalCluster", Here)
    monkeypatch.setattr(run_module, "shared_out", share_out)
    pixels = draw_blobs((90, 60)).image
    if axes == "ZYX":
        pixels = np.stack([pixels] * 4)
    np.save(tmp_path / "field.npy", pixels)
    choices = {"axes": axes, "analysis": AnalysisSettings(("shape",))}
    small = StreamSettings(memory="1.5MB", workers=2)
    path = tmp_path / "field.npy"
    one = run(count_streamed(job_of(path, tmp_path / "one", small_blocks, **choices)))
    two = run(count_streamed(job_of(path, tmp_path / "two", small_blocks, **choices, stream=small)))
    assert one.result.count == two.result.count > 5
    assert 8787 not in ports  # of other clusters
    assert set(sent) == {None}  # 15 MB of networks would be sent with each block
    (labels, table), (theirs, expected) = (read(tmp_path / name, "field") for name in ("one", "two"))
    assert same_cells(labels, theirs)
    same_tables(sorted_rows(table), sorted_rows(expected))


def test_cells_are_classified_where_the_count_found_them(tmp_path, draw_blobs, small_blocks, monkeypatch):
    image, seen = Image(draw_blobs((100, 90)).image[np.newaxis], "TYX"), []
    decode = type(small_blocks).decode

    def beside(self, *given):  # a model whose points are not the centroids of its outlines
        cells = decode(self, *given)
        return replace(cells, points=cells.points + np.float32(0.25))

    def classes(cells, *given):
        seen.append(cells.points)
        found = yield from predict_classes(cells, *given)
        return replace(found, notice="The classifier went on with the CPU.")

    monkeypatch.setattr(type(small_blocks), "decode", beside)
    monkeypatch.setattr(second_pass, "predict_classes", classes)
    found = run(count_streamed(job_of(image, tmp_path, small_blocks, classifier="blood")))
    assert found.notices.count("The classifier went on with the CPU.") == 1
    np.testing.assert_allclose(seen[0][:, -2:], read(tmp_path)[1][["y", "x"]], atol=1e-3)
