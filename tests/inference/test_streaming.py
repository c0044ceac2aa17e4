"""Counting block by block gives what counting at once gives, also when it was stopped and goes on."""

import itertools
import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas
import pytest
import tifffile
import yaozarrs
import zarr

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError, WriteError
from cellwright.core.tasks import run
from cellwright.files import zarr as zarr_labels
from cellwright.files.atomic import acquire_lock
from cellwright.inference import context, streaming
from cellwright.inference.pipeline import count_cells
from cellwright.inference.predictor import Engine
from cellwright.inference.settings import EngineSettings, StreamSettings
from cellwright.inference.streaming import StreamJob, blocks_of, count_streamed
from cellwright.models.stitching import CellStitcher
from cellwright.ops.simulation.simulate import simulate


@pytest.fixture
def small_blocks(monkeypatch, oracle_model):
    """Blocks of 128 pixels, and a model that needs little around them."""
    monkeypatch.setattr(streaming, "CHUNK_PX", 64)
    monkeypatch.setattr(zarr_labels, "CHUNK_PX", 64)
    monkeypatch.setattr(zarr_labels, "COPY_PX", 256)
    monkeypatch.setattr(zarr_labels, "SMALLEST_LEVEL_PX", 100)
    monkeypatch.setattr(streaming, "CORE_PX", 128)
    oracle_model.spec = replace(oracle_model.spec, diameter_px=14.0)
    return oracle_model


def read(folder, name="image"):
    labels = zarr.open_group(folder / f"{name}.labels.zarr", mode="r")["0"][:]
    return labels, pandas.read_csv(folder / f"{name}.cells.csv")


def same_cells(labels, whole):
    """Whether two label images have the same cells, whatever their numbers."""
    pairs = np.unique(np.stack([labels.ravel(), whole.ravel()]), axis=1)
    return all(len(np.unique(side)) == pairs.shape[1] for side in pairs)


@pytest.mark.parametrize(
    ("axes", "shape"),
    [("YX", (500, 430)), ("TYX", (2, 300, 280)), ("ZYX", (3, 300, 280)), ("CYX", (2, 300, 280))],
)
def test_blocks_give_what_counting_at_once_gives(tmp_path, draw_blobs, small_blocks, axes, shape):
    blobs = draw_blobs(shape[-2:])
    pixels = np.broadcast_to(blobs.image, shape)
    image = Image(pixels, axes)
    whole = run(count_cells(image, small_blocks)).cells
    found = run(count_streamed(StreamJob(image, tmp_path, small_blocks)))
    labels, table = read(tmp_path)
    assert found.count == len(whole) == len(table)
    assert same_cells(labels, whole.labels)
    assert set(table["label"]) == set(np.unique(labels)) - {0}
    columns = [axis.lower() for axis in image.label_axes]
    rows, expected = table[columns].to_numpy(), whole.points
    np.testing.assert_allclose(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)], atol=1e-3)
    for row in table.itertuples():
        y, x = round(row.y), round(row.x)
        assert labels[..., y, x].max() == row.label or "T" in axes
    assert not list(tmp_path.glob("*.parts"))


def test_each_block_is_read_with_what_lies_around_it(small_blocks):
    image = Image(np.zeros((400, 300), np.uint8), "YX")
    blocks = blocks_of(image, streaming.StreamPlan(None, 128, 64))
    covered = np.zeros(image.shape, int)
    for block in blocks:
        covered[block.tile.core] += 1
    assert (covered == 1).all()
    for number in range(streaming.ROUNDS):
        chunks = [chunk for block in blocks if block.round == number for chunk in chunks_of(block.tile.read)]
        assert len(chunks) == len(set(chunks))  # no two blocks of a round write to the same


def chunks_of(window):
    """The chunks of 64 pixels that a window reaches into."""
    rows, columns = (range(span.start // 64, (span.stop - 1) // 64 + 1) for span in window)
    return itertools.product(rows, columns)


def test_the_networks_are_made_once_for_all_blocks(tmp_path, draw_blobs, small_blocks, monkeypatch):
    made = []

    class CountedEngine(Engine):
        def __init__(self, *args):
            made.append(self)
            super().__init__(*args)

    monkeypatch.setattr(context, "Engine", CountedEngine)
    monkeypatch.setattr(streaming, "Engine", CountedEngine)
    image = Image(draw_blobs((300, 280)).image, "YX")
    run(count_streamed(StreamJob(image, tmp_path, small_blocks)))
    assert len(made) == 2  # one to estimate the scale, one for nine blocks
    assert made[-1]._networks == ()


def test_cells_without_outlines_are_found_once(tmp_path, draw_blobs, small_blocks):
    blobs = draw_blobs((400, 380))
    plain = small_blocks.postprocess
    small_blocks.postprocess = lambda maps, settings: replace(plain(maps, settings), labels=None)
    small_blocks.stitcher = lambda lead, shape: CellStitcher(lead, shape, has_labels=False)
    image = Image(blobs.image, "YX")
    found = run(count_streamed(StreamJob(image, tmp_path, small_blocks)))
    assert found.count == len(blobs)


@pytest.mark.parametrize("n_steps", [3, 8, 21])
def test_a_stopped_run_goes_on(tmp_path, draw_blobs, small_blocks, n_steps):
    blobs = draw_blobs((500, 430))
    image = Image(blobs.image, "YX")
    job = StreamJob(image, tmp_path / "stopped", small_blocks)
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
    run(count_streamed(StreamJob(image, tmp_path / "whole", small_blocks)))
    (labels, table), (whole, expected) = read(tmp_path / "stopped"), read(tmp_path / "whole")
    assert np.array_equal(labels, whole)
    pandas.testing.assert_frame_equal(table, expected)


@pytest.mark.parametrize("text", ["", "[" * 9000, "{}", '{"job": null, "scaling": 1}'])
def test_a_damaged_plan_is_none(tmp_path, draw_blobs, small_blocks, text):
    image = Image(draw_blobs((100, 80)).image, "YX")
    plan = tmp_path / "image.parts" / "plan.json"
    for _ in range(2):
        with closing(count_streamed(StreamJob(image, tmp_path, small_blocks))) as task:
            for step in task:
                if step.stage == "blocks":
                    break
        whole = plan.read_text()
        plan.write_text(text)
    assert json.loads(whole)["core_px"]


def test_other_settings_count_anew(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((300, 280)).image, "YX")
    with closing(count_streamed(StreamJob(image, tmp_path, small_blocks))) as task:
        for _ in range(6):
            next(task)
    strict = replace(StreamJob(image, tmp_path, small_blocks), engine=EngineSettings(diameter_px=15.0))
    steps = []
    run(count_streamed(strict), steps.append)
    assert min(step.done for step in steps if step.stage == "blocks") == 0
    record = json.loads((tmp_path / "image.json").read_text(encoding="utf-8"))
    assert record["settings"]["engine"]["diameter_px"] == 15.0


def test_the_labels_have_a_pyramid_and_sizes(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((300, 280)).image, "YX", (0.5, 0.25), "sized")
    run(count_streamed(StreamJob(image, tmp_path, small_blocks)))
    folder = tmp_path / "sized.labels.zarr"
    yaozarrs.validate_zarr_store(folder)
    group = zarr.open_group(folder, mode="r")
    assert [group[str(level)].shape for level in range(3)] == [(300, 280), (150, 140), (75, 70)]
    assert np.array_equal(group["1"][:], group["0"][::2, ::2])
    scale = group.attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"][0]["scale"]
    assert scale == [1.0, 0.5]
    assert pandas.read_csv(tmp_path / "sized.cells.csv")["area_um2"].gt(0).all()


def test_two_runs_do_not_share_a_folder(tmp_path, draw_blobs, small_blocks):
    image = Image(draw_blobs((100, 100)).image, "YX")
    lock = acquire_lock(tmp_path / ".image.lock")
    with pytest.raises(WriteError, match="Another program"):
        run(count_streamed(StreamJob(image, tmp_path, small_blocks)))
    lock.release()
    assert run(count_streamed(StreamJob(image, tmp_path, small_blocks))).count > 0


def test_a_density_is_not_streamed(tmp_path):
    with pytest.raises(SettingsError, match="cell by cell"):
        run(count_streamed(StreamJob(Image(np.zeros((64, 64)), "YX"), tmp_path, "density")))


def test_an_empty_image_has_no_cells(tmp_path, small_blocks):
    found = run(count_streamed(StreamJob(Image(np.zeros((300, 280)), "YX"), tmp_path, small_blocks)))
    assert found.count == 0
    assert len(read(tmp_path)[1]) == 0


def test_an_array_cannot_be_shared_out(tmp_path, small_blocks):
    job = StreamJob(Image(np.zeros((64, 64)), "YX"), tmp_path, small_blocks)
    with pytest.raises(SettingsError, match="need an image file"):
        run(count_streamed(job, StreamSettings(workers=2)))


def test_an_address_that_nobody_answers_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CONNECT_S", 0.5)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.eye(64, dtype=np.uint8))
    with pytest.raises(SettingsError, match="dask scheduler"):
        run(count_streamed(StreamJob(path, tmp_path), StreamSettings(scheduler="tcp://127.0.0.1:9")))


def test_two_processes_find_the_same_cells(tmp_path):
    picture = simulate("fluorescence", (1100, 400), np.random.default_rng(3), diameter_px=24).image
    path = tmp_path / "field.zarr"
    zarr.create_array(path, data=picture, chunks=(512, 512))
    small = StreamSettings(memory="100MB")
    one = run(count_streamed(StreamJob(path, tmp_path / "one"), small))
    two = run(count_streamed(StreamJob(path, tmp_path / "two"), replace(small, workers=2)))
    assert one.count == two.count > 20
    assert np.array_equal(read(tmp_path / "one", "field")[0], read(tmp_path / "two", "field")[0])
