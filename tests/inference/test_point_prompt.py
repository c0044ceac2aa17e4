import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.core.data import Image
from cellwright.core.errors import AxesError, QueryError, SettingsError
from cellwright.core.tasks import run
from cellwright.inference import point_prompt, scale
from cellwright.inference.pipeline import count_cells
from cellwright.inference.point_prompt import PointPredictor
from cellwright.inference.settings import EngineSettings
from cellwright.models.families import query
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.codecs.prompts import Prompts
from cellwright.ops.geometry import intensity

AS_IT_IS = EngineSettings(device="cpu", diameter_px=24)


def questions(image, model, axes="YX", **options):
    return PointPredictor(Image(image, axes), model, engine=options.pop("engine", AS_IT_IS), **options)


def test_every_cell_is_found_under_its_point(blobs, oracle_model):
    asked = questions(blobs.image, oracle_model)
    for number, point in enumerate(blobs.points, start=1):
        cell = asked.cell_at(point)
        whole = np.zeros(blobs.labels.shape, bool)
        whole[cell.box[0, 0] : cell.box[1, 0], cell.box[0, 1] : cell.box[1, 1]] = cell.mask
        assert np.array_equal(whole, blobs.labels == number)
        assert np.allclose(cell.point, point)
        assert cell.area == (blobs.labels == number).sum()
        assert cell.score == 1


def test_there_is_no_cell_in_the_background(blobs, oracle_model):
    asked = questions(blobs.image, oracle_model)
    empty = np.argwhere(blobs.labels == 0)[::97]
    assert len(empty) > 20
    assert all(asked.cell_at(point) is None for point in empty)
    assert asked.probability(empty).max() < 0.01
    assert asked.probability(blobs.points).min() > 0.99


def test_the_outline_runs_around_the_cell(blobs, oracle_model):
    cell = questions(blobs.image, oracle_model).cell_at(blobs.points[0])
    outline = cell.outline
    assert np.allclose(outline[0], outline[-1])
    assert (outline.min(axis=0) == cell.box[0] - 0.5).all()
    assert (outline.max(axis=0) == cell.box[1] - 0.5).all()
    y, x = outline.T
    assert abs(np.sum(y[1:] * x[:-1] - y[:-1] * x[1:])) / 2 == pytest.approx(cell.area, rel=0.05)


def test_the_network_runs_once(blobs, hungry_model):
    model = hungry_model(10**9)
    asked = questions(blobs.image, model)
    assert model.network.seen == []
    for point in blobs.points[:5]:
        asked.cell_at(point)
        asked.probability(point[np.newaxis])
    assert len(model.network.seen) == 1


def test_encoding_is_a_task_and_questions_after_it_are_quick(draw_blobs, oracle_model):
    blobs = draw_blobs((500, 500))
    asked = questions(blobs.image, oracle_model)
    steps = list(asked.encode())
    assert steps[0].stage == "load"
    assert steps[-1].done == steps[-1].total
    assert list(asked.encode()) == []
    started = time.process_time()
    found = [asked.cell_at(point) for point in blobs.points[:200]]
    asked.probability(blobs.points)
    assert (time.process_time() - started) / len(found) < 0.05
    assert all(found)


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_a_stated_diameter_rescales(draw_blobs, oracle_model, zoom):
    blobs = draw_blobs((160, 200), 24.0)
    facts = {"diameter_px": 24.0, "diameter_range_px": (23.0, 25.0)}
    oracle_model.spec = replace(oracle_model.spec, **facts)
    engine = EngineSettings(device="cpu", diameter_px=24 / zoom)
    asked = questions(blobs.image, oracle_model, engine=engine)
    counted = run(count_cells(Image(blobs.image, "YX"), oracle_model, FlowSettings(), engine))
    assert counted.count == len(blobs)
    for row, point in enumerate(counted.cells.points):
        cell = asked.cell_at(point)
        assert cell.area == counted.cells.areas[row]
        assert np.array_equal(cell.box, counted.cells.boxes[row])
    assert asked.probability(blobs.points).min() > 0.9


def test_the_zoom_is_the_one_counting_settles_on(draw_blobs, oracle_model):
    blobs = draw_blobs((130, 150), 5.0)
    engine = EngineSettings(device="cpu")
    counted = run(count_cells(Image(blobs.image, "YX"), oracle_model, FlowSettings(min_area_px=4), engine))
    asked = questions(blobs.image, oracle_model, engine=engine, settings=FlowSettings(min_area_px=4))
    cells = [asked.cell_at(point) for point in counted.cells.points]
    assert [cell.area for cell in cells] == counted.cells.areas.tolist()


def test_of_a_large_frame_only_windows_are_read(draw_blobs, hungry_model, monkeypatch):
    monkeypatch.setattr(point_prompt, "WHOLE_PX", 256)
    monkeypatch.setattr(point_prompt, "WINDOW_PX", 128)
    blobs = draw_blobs((400, 520))
    model = hungry_model(10**9)
    asked = questions(blobs.image, model)
    for number, point in list(enumerate(blobs.points, start=1))[::7]:
        cell = asked.cell_at(point)
        assert cell.area == (blobs.labels == number).sum()
        assert np.allclose(cell.point, point, atol=1e-3)
    assert 1 < len(model.network.seen) <= 25
    assert all(max(shape[1:]) < 400 for shape in model.network.seen)
    assert len(asked._windows) == point_prompt.MOST_WINDOWS
    everywhere = asked.probability(blobs.points)
    whole = questions(blobs.image, model)
    monkeypatch.setattr(point_prompt, "WHOLE_PX", 2048)
    assert np.allclose(everywhere, whole.probability(blobs.points), atol=1e-5)


def test_all_windows_are_seen_in_the_light_that_the_first_one_chose(draw_blobs, oracle_model, monkeypatch):
    monkeypatch.setattr(point_prompt, "WHOLE_PX", 256)
    monkeypatch.setattr(point_prompt, "WINDOW_PX", 128)
    monkeypatch.setattr(scale, "_enough", lambda context: 0.85)
    monkeypatch.setattr(scale, "_promise", lambda context, _: 0.9 if context.scaling.background else 0.3)
    monkeypatch.setattr(intensity, "UNEVEN", 0.01)
    blobs = draw_blobs((400, 520))
    image = blobs.image + np.linspace(0, 8, 520, dtype=np.float32)
    asked = questions(image, oracle_model, engine=EngineSettings(device="cpu"))
    found = [asked.cell_at(point) for point in blobs.points]
    assert [cell.area for cell in found] == np.bincount(blobs.labels.ravel())[1:].tolist()
    box = np.stack([blobs.points[0] - 8, blobs.points[0] + 8])
    assert asked.segment(Prompts(box=box)).area == found[0].area


def test_cells_that_counting_leaves_out_can_be_asked_for(oracle_model):
    image = np.zeros((64, 64), np.float32)
    image[20:23, 30:33] = 1
    image[40:60, 10:30] = 1
    settings = FlowSettings(min_area_px=100)
    assert run(count_cells(Image(image, "YX"), oracle_model, settings, AS_IT_IS)).count == 1
    assert questions(image, oracle_model, settings=settings).cell_at((21, 31)).area == 9


def test_one_frame_of_many_is_asked_about(blobs, oracle_model):
    stack = np.zeros((2, 3, *blobs.image.shape), np.float32)
    stack[1, 2] = blobs.image
    stack[0, 0, 0, 0] = 1
    asked = questions(stack, oracle_model, "TZYX", frame=(1, 2))
    assert asked.shape == blobs.image.shape
    assert asked.cell_at(blobs.points[0]).area == (blobs.labels == 1).sum()
    other = questions(stack, oracle_model, "TZYX", frame=(1, 1))
    assert other.cell_at(blobs.points[0]) is None


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_intensity_has_no_cell(oracle_model, value):
    asked = questions(np.full((40, 50), value, np.uint8), oracle_model)
    assert asked.cell_at((3, 4)) is None
    assert asked.probability([(3, 4), (20, 20)]).tolist() == [0, 0]


@pytest.mark.parametrize("preset", sorted(query.SPECS))
def test_the_answers_are_those_of_the_network(rng, preset):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = query.build(preset)
    coarse = rng.random((6, 8))
    image = np.kron(coarse, np.ones((12, 12))).astype(np.float32)
    engine = EngineSettings(device="cpu", diameter_px=24, precision="float32")
    points = rng.uniform(0, 70, (200, 2))
    found = questions(image, model, engine=engine).probability(points)
    scaled = intensity.apply(intensity.fit_scaling(image, model.spec.percentiles), image)
    assert np.abs(found - model.query(scaled[np.newaxis], points)).max() < 0.1


@pytest.mark.parametrize("point", [(-1, 3), (160, 3), (3, 200), (np.nan, 3)])
def test_a_point_outside_the_frame_is_refused(blobs, oracle_model, point):
    asked = questions(blobs.image, oracle_model)
    for question in (asked.cell_at, lambda at: asked.probability([at]), lambda at: run(asked.encode(at))):
        with pytest.raises(QueryError, match="Points must lie inside the image of 160 x 200 pixels; got y"):
            question(point)


def test_a_model_that_outlines_no_cells_is_refused(blobs, oracle_model):
    oracle_model.spec.map_channels.clear()
    oracle_model.spec.map_channels["density"] = 1
    with pytest.raises(SettingsError, match=r"a model that outlines cells; got one of flow\."):
        questions(blobs.image, oracle_model)


@pytest.mark.parametrize("frame", [(), (0,), (2, 0), (0, -1), (0, 0, 0)])
def test_a_frame_that_is_not_there_is_refused(oracle_model, frame):
    with pytest.raises(SettingsError, match=r"of lengths \(2, 3\); got"):
        questions(np.zeros((2, 3, 16, 16), np.uint8), oracle_model, "TZYX", frame=frame)


def test_a_volume_is_refused_by_query():
    with pytest.raises(AxesError, match="query counts in 2D images"):
        questions(np.zeros((3, 16, 16), np.uint8), query.build(), "ZYX", frame=(1,))


def whole(cell, shape):
    mask = np.zeros(shape, bool)
    mask[cell.box[0, 0] : cell.box[1, 0], cell.box[0, 1] : cell.box[1, 1]] = cell.mask
    return mask


def test_a_click_is_the_same_as_a_prompt(blobs, oracle_model):
    asked = questions(blobs.image, oracle_model)
    point = tuple(blobs.points[2].tolist())
    assert np.array_equal(asked.segment(Prompts((point,))).mask, asked.cell_at(point).mask)
    empty = tuple(np.argwhere(blobs.labels == 0)[50].astype(float).tolist())
    assert asked.segment(Prompts((empty,))) is None
    assert asked.segment(Prompts((point, empty))).score < 1


def test_points_of_two_cells_join_them_and_a_negative_one_takes_one_away(blobs, oracle_model):
    asked = questions(blobs.image, oracle_model)
    first, second = (tuple(point) for point in blobs.points[[0, 1]].tolist())
    joined = whole(asked.segment(Prompts((first, second))), blobs.labels.shape)
    assert joined[blobs.labels == 1].all()
    assert joined[blobs.labels == 2].all()
    alone = asked.segment(Prompts((first,), (second,)))
    assert np.array_equal(whole(alone, joined.shape), blobs.labels == 1)


def test_a_box_sets_the_scale_and_is_looked_at_once(draw_blobs, hungry_model):
    blobs = draw_blobs((160, 200), 24.0)
    model = hungry_model(10**9)
    model.spec = replace(model.spec, diameter_px=48.0, diameter_range_px=(47.0, 49.0))
    asked = questions(blobs.image, model, engine=EngineSettings(device="cpu"))
    places = np.argwhere(blobs.labels == 3)
    corners = (tuple((places.min(axis=0) - 0.5).tolist()), tuple((places.max(axis=0) + 0.5).tolist()))
    prompts = Prompts(box=corners)
    assert {step.stage for step in asked.encode_for(prompts)} == {"load", "rescaled tiles"}
    found = asked.segment(prompts)
    truth = blobs.labels == 3
    mask = whole(found, truth.shape)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.9
    assert max(model.network.seen[0][-2:]) > 1.5 * max(prompts.sides)  # enlarged
    assert list(asked.encode_for(prompts)) == []
    assert len(model.network.seen) == 1


def test_prompts_far_apart_in_a_large_frame_are_looked_at_together(draw_blobs, hungry_model, monkeypatch):
    monkeypatch.setattr(point_prompt, "WHOLE_PX", 256)
    monkeypatch.setattr(point_prompt, "WINDOW_PX", 128)
    blobs = draw_blobs((60, 600))
    model = hungry_model(10**9)
    asked = questions(blobs.image, model)
    first, last = (tuple(blobs.points[row].tolist()) for row in blobs.points[:, 1].argsort()[[0, -1]])
    joined = asked.segment(Prompts((first, last)))
    assert joined.box[1, 1] - joined.box[0, 1] > 500
    assert asked.segment(Prompts((first,), (last,))).area < joined.area


def test_a_box_beyond_the_frame_and_one_of_a_blank_image(blobs, oracle_model):
    with pytest.raises(QueryError, match="A box must lie in the image of 160 x 200 pixels"):
        questions(blobs.image, oracle_model).segment(Prompts(box=((300.0, 10.0), (320.0, 30.0))))
    blank = questions(np.zeros((40, 50), np.uint8), oracle_model)
    assert blank.segment(Prompts(box=((3.0, 3.0), (20.0, 20.0)))) is None
