from dataclasses import dataclass, replace

import numpy as np
import pytest
from torch import nn

from cellwright.core.data import Cells
from cellwright.inference.pipeline import count
from cellwright.inference.scale import (
    CLOSER,
    _lie_elsewhere,
    is_close,
    mean_confidence,
    zoom_for,
    zoom_notice,
    zoom_of,
    zoom_of_small,
)
from cellwright.models.families.flow import SPECS, FlowModel
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.geometry.resample import Grid, resize, resize_labels
from cellwright.ops.labels import label_properties


@pytest.mark.parametrize(
    ("diameter", "zoom"), [(0, 1), (8, 1), (24, 1), (80, 1), (6, 4), (120, 0.2), (0.1, 6), (5000, 1 / 32)]
)
def test_only_diameters_out_of_range_rescale(oracle_model, diameter, zoom):
    assert zoom_for(diameter, oracle_model.spec) == pytest.approx(zoom)


def cells_of_area(areas):
    n = len(areas)
    points, boxes = np.zeros((n, 2), np.float32), np.zeros((n, 2, 2), np.float32)
    return Cells(points, boxes, np.ones(n, np.float32), np.asarray(areas, np.float32))


def test_the_diameter_that_halves_the_area_decides(oracle_model):
    areas = np.pi / 4 * np.array([2, 6, 6, 6, 6]) ** 2
    assert zoom_of([cells_of_area(areas[:2]), cells_of_area(areas[2:])], oracle_model.spec) == pytest.approx(
        4
    )
    assert zoom_of([cells_of_area(areas * 9)], oracle_model.spec) == 1


def test_whole_cells_tell_their_size_among_many_pieces(oracle_model):
    areas = np.pi / 4 * np.array([120] * 6 + [10] * 60) ** 2
    assert zoom_of([cells_of_area(areas)], oracle_model.spec) == pytest.approx(24 / 120)


@pytest.mark.parametrize(
    ("n_small", "has_outlines", "zoom"), [(50, True, 24 / 9), (20, True, 1), (50, False, 1)]
)
def test_many_small_cells_beside_a_few_large_ones_are_enlarged(oracle_model, n_small, has_outlines, zoom):
    cells = cells_of_area(np.pi / 4 * np.array([9] * n_small + [30] * 8) ** 2)
    outlined = replace(cells, labels=np.zeros((4, 4), np.int32) if has_outlines else None)
    assert zoom_of([outlined], oracle_model.spec) == 1
    assert zoom_of_small([outlined], oracle_model.spec) == pytest.approx(zoom)


def test_zooms_near_one_another_are_not_tried_twice():
    assert is_close(1.1, [0.5, 1.0])
    assert not is_close(1.5, [0.5, 1.0])


def test_confidence_weighs_scores_by_area(oracle_model):
    cells = replace(cells_of_area([30, 10]), scores=np.array([1.0, 0.2], np.float32))
    assert mean_confidence([cells]) == pytest.approx((30 + 2) / 40)
    assert mean_confidence([cells_of_area([])]) == 0


def test_a_few_cells_decide_nothing(oracle_model):
    assert zoom_of([cells_of_area([9.0] * 4)], oracle_model.spec) == 1
    assert zoom_of([cells_of_area([])], oracle_model.spec) == 1


@pytest.mark.parametrize(
    ("diameter", "block_step", "zoom"), [(6, 0, 4), (6, 0.04, 1), (11, 0, 24 / 11), (11, 0.04, 24 / 11)]
)
def test_cells_smaller_than_compressed_blocks_are_not_enlarged(oracle_model, diameter, block_step, zoom):
    """What is smaller than the blocks is the noise that hides them."""
    oracle_model.spec = replace(oracle_model.spec, diameter_range_px=(16.0, 80.0))
    outlined = oracle_model.postprocess

    def surer_of_large_ones(maps, settings):
        cells = outlined(maps, settings)
        return replace(cells, scores=(cells.areas / 1000).clip(0, 1))

    oracle_model.postprocess = surer_of_large_ones
    rows, columns = np.indices((215, 215))
    blocks = block_step * ((rows // 8 + columns // 8) % 2)
    distance = np.hypot(rows % 43 - 20, columns % 43 - 20)
    result = count((distance < diameter / 2) + blocks, oracle_model)
    assert result.count == 25
    assert ("grain" in result.provenance.settings) == bool(block_step)
    assert result.provenance.settings["zoom"] == pytest.approx(zoom, rel=0.1)


def test_only_an_estimate_is_told():
    assert "too small" in zoom_notice(3.0, 0, 0)
    assert "enlarged 1.5 times, as more of its cells can be" in zoom_notice(CLOSER, 0, 0)
    assert "shrunk 4 times; this was judged at its middle; set" in zoom_notice(0.25, 0, 1)
    assert "right then; this was judged at 3 places of it; set" in zoom_notice(CLOSER, 0, 3)
    assert zoom_notice(3.0, 7.0, 3) == zoom_notice(1.0, 0, 3) == ""


@pytest.mark.parametrize("factor", [3, 0.5])
def test_cells_come_back_in_pixels_of_the_image(oracle_model, blobs, factor):
    shape = blobs.labels.shape
    image = (
        blobs.image
        if factor < 1
        else resize_labels(blobs.image, Grid.of(shape, tuple(int(n * factor) for n in shape)))
    )
    if factor < 1:
        image = resize(image[None], tuple(int(n * factor) for n in shape))[0]
    flow = np.zeros((2, *image.shape), np.float32)
    cells = oracle_model.decode({"flow": flow, "probability": image[None]}, shape, FlowSettings())
    assert cells.labels.shape == shape
    assert len(cells) == len(blobs)
    assert np.abs(cells.points[:, None] - blobs.points).max(axis=2).min(axis=1).max() < 0.3
    assert cells.areas == pytest.approx(label_properties(blobs.labels).areas, rel=0.15)
    assert np.array_equal(cells.areas, label_properties(cells.labels).areas)


@dataclass(frozen=True)
class Thresholds:
    cell_probability: float = 0.5
    min_area_px: int = 20
    min_distance_px: float = 3.0


def test_settings_in_pixels_mean_pixels_of_the_image(oracle_model, monkeypatch):
    seen = []

    def postprocess(maps, settings):
        seen.append(settings)
        return Cells(
            *(np.zeros(shape, np.float32) for shape in ((0, 2), (0, 2, 2), (0,), (0,))),
            labels=np.zeros(maps["probability"].shape[1:], np.int32),
        )

    monkeypatch.setattr(oracle_model, "postprocess", postprocess)
    maps = {"probability": np.zeros((1, 30, 60), np.float32)}
    for shape in ((10, 20), (30, 60), (60, 120)):
        oracle_model.decode(maps, shape, Thresholds())
    assert seen == [Thresholds(0.5, 180, 9.0), Thresholds(), Thresholds()]


def test_large_areas_may_grow_beyond_what_the_form_offers(oracle_model):
    maps = {"probability": np.zeros((1, 60, 60), np.float32), "flow": np.zeros((2, 60, 60), np.float32)}
    maps["probability"][:, 6:54, 6:54] = 1
    assert len(oracle_model.decode(maps, (20, 20), FlowSettings())) == 1
    assert len(oracle_model.decode(maps, (20, 20), FlowSettings(min_area_px=50_000))) == 0


class Ruler(FlowModel):
    """Gives the maps that it was asked to find cells in."""

    map_kinds = {"heatmap": "upright", "size": "size"}  # noqa: RUF012

    def postprocess(self, maps, settings):
        return maps


def test_lengths_grow_with_the_maps_of_a_frame_that_was_shrunk():
    maps = {"heatmap": np.full((1, 20, 30), 0.5, np.float32), "size": np.full((2, 20, 30), 7, np.float32)}
    found = Ruler(SPECS["small"], nn.Identity()).decode(maps, (80, 120), FlowSettings())
    assert found["size"].shape == (2, 80, 120)
    assert np.allclose(found["size"], 28)
    assert np.allclose(found["heatmap"], 0.5)


def test_where_no_cell_was_found_none_lies_elsewhere():
    """Where nothing is found in one colour, a mean over no cells warned."""
    labels = np.zeros((20, 20), np.int32)
    labels[4:8, 4:8] = 1
    none = Cells.empty(2, np.zeros_like(labels))
    boxes = np.array([[[4, 4], [8, 8]]], np.float32)
    some = Cells(np.full((1, 2), 5.5, np.float32), boxes, *(np.empty(0),) * 2, labels)
    assert not _lie_elsewhere(none, some)
    assert not _lie_elsewhere(some, some)
    assert _lie_elsewhere(some, none)
