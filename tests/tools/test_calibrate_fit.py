"""The images that the expected accuracy is fitted to."""

from dataclasses import replace

import numpy as np
import pytest
from tools.release import calibrate_fit
from tools.release import pictures as drawn_pictures
from tools.release.calibrate_fit import (
    NO_CELLS,
    PICTURES_WEIGHT,
    Example,
    calibrated,
    share_right,
    telling_facts,
)
from tools.release.changes import CHANGES, known_of
from tools.release.kinds import KINDS
from tools.release.pictures import pictures

from cellwright.core.data import Image
from cellwright.inference.pipeline import count


def test_grey_images_saved_in_colours_can_be_made_composites(blobs, rng):
    grey = Image(np.repeat(blobs.image[..., np.newaxis], 4, axis=-1), "YXC")
    known = known_of(grey, blobs.labels)
    assert known.pixels.shape == blobs.labels.shape
    assert CHANGES["blue, green cells"](known, rng).pixels.shape == (*blobs.labels.shape, 3)
    assert known_of(Image(np.asarray(grey.data) * np.arange(4), "YXC"), blobs.labels).pixels.shape[-1] == 3


@pytest.mark.parametrize("spoilt", [False, True])
def test_planes_are_counted_as_they_are_or_changed(blobs, rng, monkeypatch, oracle_model, spoilt):
    image = Image(blobs.image, "YX")
    seen = []
    monkeypatch.setattr(calibrate_fit, "planes", lambda _: [(image, blobs.labels)])
    monkeypatch.setattr(calibrate_fit, "CHANGES", {name: CHANGES[name] for name in ("as it is", "inverted")})
    monkeypatch.setattr(
        calibrate_fit, "_example", lambda model, kind, plane, labels: seen.append((plane, labels))
    )
    assert list(calibrate_fit._counted(oracle_model, KINDS[0], [None], rng if spoilt else None)) == []
    (plane, labels), *others = seen
    assert not others
    assert labels is blobs.labels
    assert (plane is image) != spoilt
    assert (np.asarray(plane.data)[labels > 0].mean() < 0.5) == spoilt


@pytest.mark.no_cover  # runs none of the package
def test_pictures_are_always_the_same(monkeypatch):
    monkeypatch.setattr(drawn_pictures, "SIDE_PX", 96)
    monkeypatch.setattr(drawn_pictures, "ZOOMS", (0.5,))
    first, again = list(pictures()), list(pictures())
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(first, again, strict=True))
    assert {one.pixels.dtype for one in first} == {np.dtype(np.uint8)}
    assert {"photographs", "checkerboards", "grids", "text", "charts", "maps"} <= {one.what for one in first}


def example(kind, f1, fact):
    return Example(kind, {"probability": fact, "confidence": 0.5}, f1, is_spoilt=False)


def test_what_is_shown_beside_cells_weighs_less():
    cells = [example(f"kind {n % 4}", 0.9, 0.8) for n in range(40)]
    shown = [example(f"{NO_CELLS}{n % 10}", 0.0, 0.6) for n in range(100)]
    weights = calibrate_fit._kind_weights([*cells, *shown])
    assert weights[40:].sum() == pytest.approx(PICTURES_WEIGHT * weights[:40].sum())


def test_a_fit_tells_cells_from_other_things(rng):
    cells = [example(f"kind {n % 3}", 0.9, fact) for n, fact in enumerate(rng.normal(0.8, 0.03, 40))]
    shown = [example(f"{NO_CELLS}grids", 0.0, fact) for fact in rng.normal(0.5, 0.03, 40)]
    facts = telling_facts([*cells, *shown])
    assert "probability" in facts
    fit = calibrated([*cells, *shown], ("probability",))
    assert fit.expected_f1({"probability": 0.8}) > 0.7 > 0.35 > fit.expected_f1({"probability": 0.5})


def test_how_much_of_a_count_is_right(blobs, oracle_model):
    found = count(blobs.image, oracle_model)
    assert share_right(found, blobs.labels) == 1
    points = replace(found, cells=replace(found.cells, labels=None))
    half = points.cells.take(np.arange(len(points.cells)) % 2 == 0)
    n, n_half = len(points.cells), len(half)
    assert share_right(points, blobs.labels) == 1
    assert share_right(replace(points, cells=half), blobs.labels) == pytest.approx(2 * n_half / (n + n_half))
    density = {"density": np.full((1, 1), 1.5 * n, np.float32)}
    dense = replace(found, count=1.5 * n, maps=density)
    assert share_right(dense, blobs.labels) == pytest.approx(2 / 3)
    assert share_right(replace(dense, count=0.5 * n), blobs.labels) == pytest.approx(0.5)


def test_where_nothing_is_found_nothing_is_fitted(blobs, oracle_model):
    assert calibrate_fit._example(oracle_model, "kind", Image(blobs.image, "YX"), blobs.labels).f1 == 1
    empty = Image(np.pad(np.ones((2, 2), np.float32), 40), "YX")
    assert calibrate_fit._example(oracle_model, "kind", empty, np.zeros((82, 82), np.int32)) is None


@pytest.mark.parametrize("is_misleading", [True, False])
def test_a_fact_that_misleads_of_kinds_left_out_is_not_taken(rng, is_misleading):
    examples = []
    for kind, (level, by_chance) in enumerate([(0.1, 0.5), (0.4, 0.9), (0.6, 0.1), (0.9, 0.6)]):
        for f1 in rng.uniform(level - 0.1, level + 0.1, 30):
            told = by_chance if is_misleading else f1
            facts = {"probability": f1 + rng.normal(0, 0.15), "confidence": told}
            examples.append(Example(f"kind {kind}", facts, f1, is_spoilt=False))
    assert ("confidence" in telling_facts(examples)) != is_misleading
