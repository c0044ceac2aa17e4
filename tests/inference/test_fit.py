"""What a count tells of how well it went: gathered alike however the image is cut, and told in words."""

import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image as Picture
from scipy import ndimage

from cellwright.core.data import Cells, Image
from cellwright.core.tasks import run
from cellwright.files.tables import write_provenance
from cellwright.inference import context
from cellwright.inference.context import CountContext
from cellwright.inference.pipeline import count, count_with_prediction, recount
from cellwright.inference.scale import try_scales
from cellwright.inference.settings import EngineSettings
from cellwright.models import store
from cellwright.models.fit import (
    WARN_BELOW,
    FactCollector,
    expectation,
    expectation_of,
    fit_columns,
    in_short,
    in_short_of,
    warning,
)
from cellwright.models.stitching import DensityBlock
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.geometry import intensity
from cellwright.ops.matching import match_labels
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.settings import AnalysisSettings

FACTS = ("confidence", "score_low", "flow_length", "flow_ground", "probability", "ambiguous", "left_over")


class Recorder:
    """Stands in for a calibration and keeps the evidence."""

    closer_below = 0.0

    def __init__(self, answer: float = 0.8) -> None:
        self.answer = answer
        self.seen = []

    def expected_f1(self, facts):
        self.seen.append(facts)
        return self.answer


@pytest.fixture
def model(oracle_model):
    oracle_model.fit = Recorder()
    return oracle_model


def test_a_count_gathers_facts(model, blobs):
    result = count(blobs.image, model)
    facts = model.fit.seen[-1]
    assert result.fit == 0.8
    assert set(facts) == set(FACTS)
    assert facts["confidence"] == facts["score_low"] == 1
    assert (facts["flow_length"], facts["flow_ground"], facts["ambiguous"]) == (0, 0, 0)
    assert facts["probability"] == pytest.approx(1, abs=1e-3)
    assert facts["left_over"] == pytest.approx(0, abs=1e-6)


def test_what_is_unsure_or_left_over_is_seen(model, blobs):
    pixels = blobs.image.copy()
    faint = blobs.labels == 1
    pixels[faint] = 0.53  # of a probability of 0.65
    settings = FlowSettings(min_area_px=int((blobs.labels == 2).sum() * 0.8), cell_probability=0.7)
    count(pixels, model, settings=settings)
    facts = model.fit.seen[-1]
    share = faint.sum() / (blobs.labels > 0).sum()
    assert facts["ambiguous"] == pytest.approx(share, abs=1e-3)
    assert facts["left_over"] == pytest.approx(share, abs=1e-3)


def test_blocks_tell_what_the_whole_tells(model, draw_blobs, monkeypatch):
    blobs = draw_blobs((400, 500))
    count(blobs.image, model)
    whole = model.fit.seen[-1]
    monkeypatch.setattr(context, "WHOLE_PX", 256)
    monkeypatch.setattr(context, "BLOCK_PX", 128)
    count(blobs.image, model, engine=EngineSettings(tile_px=128))
    blocks = model.fit.seen[-1]
    for name in FACTS:
        assert blocks[name] == pytest.approx(whole[name], abs=0.01), name


def test_a_family_without_flow_tells_of_its_cells_alike(oracle_model, blobs):
    recorder, inside = Recorder(), (blobs.labels > 0).astype(np.float32)
    inside[blobs.labels == 1] = 0.6
    cells = count(np.where(blobs.labels == 1, 0, blobs.image), oracle_model).cells
    collector = FactCollector(recorder)
    collector.add([{"inside": inside[np.newaxis], "depth": inside[np.newaxis]}], [cells])
    assert collector.expected_f1([cells]) == 0.8
    share = (blobs.labels == 1).sum() / (blobs.labels > 0).sum()
    assert recorder.seen[-1]["ambiguous"] == pytest.approx(share, abs=1e-3)
    assert recorder.seen[-1]["left_over"] == pytest.approx(share, abs=0.05)
    assert recorder.seen[-1]["flow_length"] == pytest.approx(inside[inside > 0].mean(), abs=1e-3)
    assert recorder.seen[-1]["flow_ground"] == 0


def test_a_flow_where_no_cell_is_likely_is_seen(model, blobs):
    probability = (blobs.labels > 0).astype(np.float32)
    flow = np.zeros((2, *blobs.labels.shape), np.float32)
    cells = count(blobs.image, model).cells
    for on_cells, on_ground in ((0.9, 0.0), (0.9, 0.4)):
        flow[0] = np.where(probability > 0, on_cells, on_ground)
        collector = FactCollector(model.fit)
        collector.add([{"flow": flow, "probability": probability[np.newaxis]}], [cells])
        assert collector.expected_f1([cells]) == 0.8
        facts = model.fit.seen[-1]
        assert (facts["flow_length"], facts["flow_ground"]) == pytest.approx((on_cells, on_ground), abs=1e-3)


def test_of_a_density_the_cells_one_by_one_tell(blobs):
    inside = (blobs.labels > 0).astype(np.float32)
    maps = {
        "density": inside[np.newaxis],
        "cell_flow": np.zeros((2, *inside.shape)),
        "foreground": inside[np.newaxis],
    }
    recorder, none = Recorder(), Cells.empty(2)
    collector = FactCollector(recorder)
    assert collector.expected_f1([none]) is None
    half = DensityBlock(inside / 100, 0.1, inside > 0.5, inside / 200)
    collector.add([maps], [half])
    assert collector.expected_f1([none]) == 0.8
    assert recorder.seen[-1]["agreement"] == pytest.approx(0.5, abs=1e-3)
    assert "score_low" not in recorder.seen[-1]


@pytest.mark.parametrize(
    ("closer_below", "enlarged", "zoom"), [(0.85, 0.9, 1.5), (0.85, 0.8, 1.0), (0.75, 0.9, 1.0)]
)
def test_an_image_that_promises_little_is_counted_enlarged_where_that_promises_more(
    model, blobs, monkeypatch, closer_below, enlarged, zoom
):
    answers = iter([0.8, enlarged, enlarged])  # as it is, enlarged, the whole
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", closer_below)
    result = count(blobs.image, model)
    assert result.provenance.settings["zoom"] == zoom
    assert len(result.cells) == len(blobs)
    assert [notice for notice in result.notices if "enlarged" in notice] == list(result.notices)
    assert bool(result.notices) == (zoom > 1)


@pytest.mark.parametrize("brighter", [0.9, 0.8])
@pytest.mark.parametrize("stated", [True, False])
def test_a_dim_image_that_promises_little_is_counted_brightened_where_that_promises_more(
    model, blobs, monkeypatch, brighter, stated
):
    answers = iter([0.8, *[brighter] * 9])
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    monkeypatch.setattr(intensity, "DIM", 0.5)
    pixels = 0.6 * blobs.image
    pixels[:12, :12] = 1
    engine = EngineSettings(diameter_px=model.spec.diameter_px * stated)  # which says nothing of the light
    result = count(pixels, model, engine=engine)
    assert result.provenance.settings.get("power", 1) == (0.5 if brighter > 0.8 else 1)
    assert any("brightened" in notice for notice in result.notices) == (brighter > 0.8)


@pytest.mark.parametrize(("flat", "light"), [(0.9, 3.0), (0.3, 3.0), (0.9, 0.3)])
def test_an_unevenly_lit_image_is_counted_without_its_background_where_that_promises_more(
    model, draw_blobs, monkeypatch, flat, light
):
    blobs, answers = draw_blobs((300, 400)), iter([0.3, *[flat] * 9])
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    result = count(blobs.image + np.linspace(0, light, 400, dtype=np.float32), model)
    is_flat = flat > 0.3 and light > 1
    assert result.provenance.settings.get("background_px", 0) == intensity.BACKGROUND_PX * is_flat
    assert any("background was subtracted" in notice for notice in result.notices) == is_flat


def test_blocks_are_read_without_the_background_that_the_whole_has(model, draw_blobs):
    blobs, scaling = draw_blobs((300, 400)), intensity.Scaling(0.0, 4.0, background=61, flat_high=0.2)
    image = Image(blobs.image + np.linspace(0, 3, 400, dtype=np.float32), "YX")
    with context.open_context(image, (model,), None, EngineSettings()) as one:
        one = replace(one, scaling=scaling)
        whole, *rest = one.batches(1.0)
        assert not rest
        everything = one._read(0, whole.block, one.grid_of(whole, 1.0))
        for batch in replace(one, block_px=128).batches(1.0):
            part = one._read(0, batch.block, one.grid_of(batch, 1.0))
            assert np.allclose(part, everything[..., *batch.block.read], atol=1e-5)


def test_cells_too_large_to_be_found_whole_are_looked_for_in_the_image_shrunk(
    model, blobs, monkeypatch, looks
):
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: {0.5: 0.9}.get(looks[-1][0], 0.3))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    result = count(blobs.image, model)
    assert result.provenance.settings["zoom"] == 0.5
    assert [zoom for zoom, _ in looks] == [1.0, 1.5, 0.5, 0.25]
    assert "shrunk 2 times" in result.notices[0]


@pytest.fixture
def looks(monkeypatch):
    """List of the zoom and the batch of each time that a part of an image is predicted."""
    seen, decode = [], CountContext.decode

    def watched(self, batch, zoom, progress):
        seen.append((zoom, batch))
        return decode(self, batch, zoom, progress)

    monkeypatch.setattr(CountContext, "decode", watched)
    return seen


def test_a_large_image_is_tried_enlarged_block_by_block(model, draw_blobs, monkeypatch, looks):
    blobs, answers = draw_blobs((200, 500)), iter([0.8, 0.9, 0.9])
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    monkeypatch.setattr(context, "WHOLE_PX", 600)
    monkeypatch.setattr(context, "BLOCK_PX", 300)
    assert len(count(blobs.image, model).cells) == len(blobs)
    assert looks[0][1].shape == (200, 500), looks
    assert {zoom for zoom, _ in looks[1:]} == {1.5}
    assert max(batch.shape[1] for _, batch in looks[1:]) < 400


def test_small_cells_of_a_large_image_are_tried_in_a_block_that_is_not_counted_again(
    model, draw_blobs, monkeypatch, looks
):
    blobs = draw_blobs((100, 300), 5.0)
    monkeypatch.setattr(context, "WHOLE_PX", 600)
    monkeypatch.setattr(context, "BLOCK_PX", 300)
    assert len(count(blobs.image, model).cells) == len(blobs)
    assert looks[0][1].shape == (100, 300)
    assert max(batch.shape[1] for _, batch in looks[1:]) < 150
    assert len({repr(look) for look in looks}) == len(looks)


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_a_place_of_a_large_image_is_enlarged_itself(model, draw_blobs, monkeypatch, at):
    answers = iter([0.8, 0.9])
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    monkeypatch.setattr(context, "WHOLE_PX", 600)
    monkeypatch.setattr(context, "BLOCK_PX", 300)
    image = Image(draw_blobs((200, 500)).image, "YX")
    with context.open_context(image, (model,), None, EngineSettings()) as whole:
        trial = run(try_scales(whole, at))
    columns = trial.batch.block.core[1]
    assert (trial.zoom, columns.start == 0, columns.stop == 500) == (1.5, at == 0, at == 1)


def test_one_slice_does_not_enlarge_a_stack(model, blobs, monkeypatch):
    answers = iter([0.8, 0.9, 0.9])
    monkeypatch.setattr(model.fit, "expected_f1", lambda facts: next(answers))
    monkeypatch.setattr(model.fit, "closer_below", 0.85)
    result = count(np.stack([blobs.image] * 2), model, axes="TYX")
    assert result.provenance.settings["zoom"] == 1


@pytest.mark.parametrize("pixels", [np.zeros((64, 64)), np.pad(np.ones((2, 2)), 40)])
def test_where_no_cell_is_found_nothing_is_told(model, pixels):
    result = count(pixels.astype(np.float32), model)
    assert (result.count, result.fit, model.fit.seen) == (0, None, [])


def test_without_calibration_nothing_is_told(oracle_model, blobs):
    result = count(blobs.image, oracle_model)
    assert (result.fit, result.notices) == (None, ())
    assert "expected_f1" not in result.provenance.settings


def test_several_models_together_tell_nothing(model, blobs):
    assert count(blobs.image, (model, model)).fit is None


def test_what_is_told_is_of_the_thresholds_that_hold(model, blobs):
    image, settings = Image(blobs.image, "YX"), FlowSettings(min_area_px=30)
    result, prediction = run(count_with_prediction(image, model))
    model.fit.answer = 0.2
    counted = count(image, model, settings=settings)
    facts = model.fit.seen[-1]
    again = recount(result, prediction, model, settings)
    assert (again.fit, again.notices) == (counted.fit, counted.notices)
    assert again.provenance.settings["expected_f1"] == 0.2
    assert model.fit.seen[-1] == pytest.approx(facts)
    none = recount(again, prediction, model, FlowSettings(min_area_px=10**5))
    assert (none.fit, none.notices) == (None, ())
    assert "expected_f1" not in none.provenance.settings


def test_cells_that_missing_pixels_may_cut_are_promised_less(model, blobs):
    """Lines of a camera are bridged; beside wider gaps half of the cells are taken for wrong."""
    lines, gaps = blobs.image.copy(), blobs.image.copy()
    lines[20::30, :] = lines[:, 23::30] = np.nan
    gaps[20:26] = gaps[:, 23:29] = np.nan
    whole = count(lines, model)
    assert (whole.count, whole.fit) == (len(blobs), 0.8)
    result, prediction = run(count_with_prediction(Image(gaps, "YX"), model))
    labels, beside = result.cells.labels, ndimage.binary_dilation(np.isnan(gaps))
    share = len(set(labels[beside].tolist()) - {0}) / len(result.cells)
    assert 0 < share < 1
    assert result.fit == pytest.approx(0.8 * (1 - share / 2), abs=1e-3)
    again = recount(result, prediction, model, FlowSettings())
    assert again.fit == pytest.approx(result.fit, abs=1e-3)


def test_provenance_and_notices_tell_it(model, blobs, tmp_path):
    result = count(blobs.image, model)
    assert (result.provenance.settings["expected_f1"], result.notices) == (0.8, ())
    write_provenance(tmp_path / "a.json", result)
    assert json.loads((tmp_path / "a.json").read_text())["fit"] == 0.8
    model.fit.answer = 0.2
    (notice,) = count(blobs.image, model).notices
    assert "unlike anything" in notice
    assert "five" in notice


def test_where_nothing_is_known_of_a_count_it_is_said_why(model, blobs):
    image = Image(blobs.image, "YX")
    result = count(image, model)
    assert expectation_of(result) == "Expect about 8 of 10 right."
    assert in_short_of(fit_columns(result)) == "about 8 of 10 right"
    assert expectation_of(analyse(result, image, AnalysisSettings(keep="area_px < 0")).result) == ""
    below = float(np.sort(result.cells.areas)[len(blobs) // 3])
    unknown = {"filters": analyse(result, image, AnalysisSettings(keep=f"area_px < {below}")).result}
    unknown["several models"] = count(image, (model, model))
    model.fit = None  # as of a model that was taught
    own = count(image, model)
    unknown[f"{own.provenance.model} has no fit"] = own
    for why, found in unknown.items():
        assert (found.count > 0, found.fit) == (True, None)
        columns = fit_columns(found)
        assert list(columns) == ["expectation"]
        assert columns["expectation"].startswith("It is not known how good the count is: ")
        assert why in columns["expectation"]
        assert in_short_of(columns) == "fit not known"
    corrected = replace(result, fit=None, provenance=result.provenance.noting(density={"calibration": 2.0}))
    assert "corrected by hand" in expectation_of(corrected)
    corrected = replace(own, provenance=own.provenance.noting(corrected_cells=2))
    assert fit_columns(corrected) == {}


def test_words():
    assert (expectation(None), in_short(None), warning(None)) == ("", "", "")
    assert expectation(0.91) == "Expect about 9 of 10 right."
    assert expectation(0.97) == "Expect nearly all right."
    assert expectation(0.5).startswith("Expect about 5 of 10 right.")
    assert in_short(0.1) == "unlike anything learned"
    for edge in (0.35, 0.7, 0.95):  # tables, and what is read back from them, tell three digits
        for say in (expectation, in_short, warning):
            assert say(edge - 0.0001) == say(edge)
    assert "five" in expectation(0.1)
    assert [bool(warning(fit)) for fit in (0.1, WARN_BELOW - 0.01, WARN_BELOW, 1.0)] == [
        True,
        True,
        False,
        False,
    ]


def test_shipped_models_that_tell_have_learned_what_they_tell():
    """A calibration belongs to the weights it was made for; after new weights it has to be made anew."""
    for entry in store.models():
        if (entry.folder / "fit.json").exists():
            assert store.load(entry.folder).fit is not None, entry.name


@pytest.fixture
def shipped():
    return store.load(store.find("flow"))


@pytest.mark.parametrize("quality", [10, 20])
def test_a_compressed_field_without_cells_has_none(shipped, rng, quality):
    file = BytesIO()
    field = rng.normal(40, 18, (160, 200)).clip(0, 255).astype(np.uint8)
    Picture.fromarray(field).save(file, "JPEG", quality=quality)
    result = count(np.asarray(Picture.open(file)), shipped)
    assert result.count == 0
    assert any("compressed" in notice for notice in result.notices)
    assert result.provenance.settings["grain"] > 0


def checkerboard(side):
    rows, columns = np.indices((300, 300))
    return 200 * ((rows // side + columns // side) % 2)


def mesh(gap):
    rows, columns = np.indices((300, 300))
    return 200 * ((rows % gap > 3) & (columns % gap > 3))


@pytest.mark.parametrize("picture", [checkerboard(20), checkerboard(32), mesh(30)], ids=["20", "32", "mesh"])
@pytest.mark.parametrize("name", ["flow", "query", "centroid", "density"])
def test_pictures_of_other_things_promise_little(name, picture):
    result = count(picture.astype(np.uint8), name)
    assert result.fit is None or result.fit < WARN_BELOW
    assert (result.fit is None) == (round(result.count) == 0)


@pytest.fixture
def stained(draw_blobs, rng):
    """Nuclei (Y, X) on a dark ground, and the mottled bodies around them, 0 to 1."""
    labels = draw_blobs((200, 240), 22).labels
    nuclei = ndimage.gaussian_filter((labels > 0) * rng.uniform(0.7, 1, labels.shape), 1.2)
    bodies = (ndimage.distance_transform_edt(labels == 0) < 7) * rng.uniform(0.3, 1, labels.shape)
    return labels, nuclei, ndimage.gaussian_filter(bodies, 2) * (nuclei < 0.3)


@pytest.mark.parametrize("colour", [0, 2])
def test_of_colours_that_show_different_things_that_of_the_nuclei_is_counted(stained, colour):
    labels, nuclei, bodies = stained
    pixels = np.zeros((*nuclei.shape, 3), np.uint8)
    pixels[..., colour], pixels[..., 1] = 220 * nuclei, 220 * bodies
    result = count(pixels, "nuclei")
    assert match_labels(result.cells.labels, labels).f1 > 0.9
    assert f"Counted in its {('red', '', 'blue')[colour]} alone" in " ".join(result.notices)
    assert np.array_equal(count(pixels, "nuclei", channels=colour).cells.labels, result.cells.labels)


@pytest.fixture
def threaded(stained, rng):
    """Nuclei in green, threads in red: uint8 (Y, X, 3)."""
    _, nuclei, _ = stained
    threads = ndimage.gaussian_filter(rng.random(nuclei.shape), (1, 9)) > 0.53
    return np.stack([220 * threads, 220 * nuclei, 0 * nuclei], axis=-1).astype(np.uint8)


def test_centres_of_nuclei_are_told_from_threads_of_another_colour(stained, threaded):
    labels, _, _ = stained
    result = count(threaded, "centroid")
    assert "Counted in its green alone" in " ".join(result.notices)
    rows, columns = result.cells.points.round().astype(int).T
    assert len(np.unique(labels[rows, columns])) > 0.9 * labels.max()
    assert np.array_equal(count(threaded, "centroid", channels=1).cells.points, result.cells.points)


def test_a_density_is_told_from_threads_of_another_colour(threaded):
    result = count(threaded, "density")
    assert "Counted in its green alone" in " ".join(result.notices)
    assert result.count == count(threaded, "density", channels=1).count


@pytest.fixture
def two_coloured(stained):
    """Nuclei in red on the left, in green on the right: uint8 (Y, X, 3)."""
    _, nuclei, _ = stained
    left = nuclei * (np.indices(nuclei.shape)[1] < 120)
    return np.stack([220 * left, 220 * (nuclei - left), 0 * nuclei], axis=-1).astype(np.uint8)


def test_the_density_of_different_nuclei_is_that_of_all_colours(stained, two_coloured):
    _, nuclei, _ = stained
    result = count(two_coloured, "density")
    assert "counted together" in " ".join(result.notices)
    assert result.count == pytest.approx(count(220 * nuclei, "density").count, rel=0.2)


def test_the_default_model_knows_nuclei_from_the_bodies_around_them(shipped, stained):
    labels, nuclei, bodies = stained
    pixels = np.zeros((*nuclei.shape, 3), np.uint8)
    pixels[..., 2], pixels[..., 1] = 220 * nuclei, 220 * bodies
    result = count(pixels, shipped)
    assert match_labels(result.cells.labels, labels).f1 > 0.9
    assert result.fit > WARN_BELOW


def test_colours_of_different_nuclei_stay_together(shipped, stained, two_coloured):
    labels, _, _ = stained
    result = count(two_coloured, shipped)
    assert "counted together" in " ".join(result.notices)
    assert 0.8 * labels.max() < result.count <= labels.max() or result.fit < WARN_BELOW
