from itertools import pairwise

import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.core.errors import AxesError
from cellwright.ops.measure.analysis import analyse
from cellwright.ops.measure.measurement import result_of_labels
from cellwright.ops.measure.settings import AnalysisSettings, TrackSettings
from cellwright.ops.measure.tracks import track_cells


def disc(labels, centre, radius, number):
    grids = np.ogrid[tuple(slice(0, n) for n in labels.shape)]
    labels[sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) <= radius**2] = number


def draw_movie(rng, n_frames=8, n_cells=12, side=240, n_dividing=4, missing=()):
    """Labels (T, Y, X) with the number of the cell's track in the truth, and the parent of each track."""
    labels = np.zeros((n_frames, side, side), np.int32)
    parents, ways = {}, []
    for number in range(1, n_cells + 1):
        row, column = divmod(number - 1, 4)
        start = np.array([row * 78 + 40, column * 58 + 32]) + rng.uniform(-4, 4, 2)
        ways.append((number, start, rng.uniform(-1.5, 1.5, 2), 0))
        parents[number] = 0
    following = n_cells + 1
    for number, start, drift, _ in ways:
        splits = number <= n_dividing
        last = n_frames if not splits else int(rng.integers(3, n_frames - 2))
        for frame in range(last):
            if (number, frame) not in missing:
                disc(labels[frame], start + drift * frame, 9, number)
        if splits:
            angle = rng.uniform(0, np.pi)
            axis = np.array([np.sin(angle), np.cos(angle)])
            for sign in (-1, 1):
                parents[following] = number
                for frame in range(last, n_frames):
                    away = 7 + 1.0 * (frame - last)
                    disc(labels[frame], start + drift * frame + sign * axis * away, 6.3, following)
                following += 1
    return labels, parents


def links_of(frames, numbers, parents):
    """Every step of a track, and from the last cell of a mother to the first of her daughters."""
    rows = {}
    for row in np.lexsort((frames, numbers)).tolist():
        rows.setdefault(int(numbers[row]), []).append(row)
    found = {pair for own in rows.values() for pair in pairwise(own)}
    return found | {(rows[parent][-1], rows[track][0]) for track, parent in parents.items() if parent}


def score(labels, parents, settings=None):
    axes = "TYX" if labels.ndim == 3 else "TZYX"
    result, numbers = result_of_labels(labels, Image(labels, axes))
    tracks = track_cells(result.cells, axes, settings or TrackSettings())
    truth = links_of(tracks.frames, numbers, parents)
    found = links_of(tracks.frames, tracks.numbers, dict(enumerate(tracks.parents.tolist(), start=1)))
    return 2 * len(truth & found) / (len(truth) + len(found)), tracks


@pytest.mark.parametrize("seed", range(5))
def test_cells_that_divide_are_linked(seed):
    labels, parents = draw_movie(np.random.default_rng(seed))
    f1, tracks = score(labels, parents)
    assert f1 >= 0.95
    assert tracks.n_divisions == 4
    assert tracks.n_lineages == 12
    assert tracks.count == 20


def test_a_cell_that_is_away_for_a_frame_stays_one():
    labels, parents = draw_movie(np.random.default_rng(1), n_dividing=0, missing={(5, 3), (7, 4)})
    f1, tracks = score(labels, parents)
    assert f1 == 1
    assert tracks.count == 12
    assert score(labels, parents, TrackSettings(max_gap=0))[1].count == 14


def test_divisions_can_be_left_out():
    labels, parents = draw_movie(np.random.default_rng(0))
    _, tracks = score(labels, parents, TrackSettings(divisions=False))
    assert tracks.n_divisions == 0


def test_volumes_are_linked():
    labels = np.zeros((4, 12, 60, 60), np.int32)
    for frame in range(4):
        disc(labels[frame], (5, 15 + frame, 15), 4, 1)
        disc(labels[frame], (6, 40, 40 - 2 * frame), 4, 2)
    f1, tracks = score(labels, {1: 0, 2: 0})
    assert (f1, tracks.count) == (1, 2)


def test_an_analysis_has_tracks_and_lineages():
    labels, _ = draw_movie(np.random.default_rng(2))
    image = Image(labels, "TYX", (0.5, 0.5))
    analysis = analyse(labels, image, AnalysisSettings(track=True, frame_interval_s=120))
    tracks, table = analysis.tracks, analysis.table
    assert list(table.columns[-3:]) == ["track", "parent_track", "step_um"]
    lineages = analysis.lineages
    assert len(lineages) == 20
    daughters = lineages[lineages["parent"] > 0]
    assert len(daughters) == 8
    assert (daughters["generation"] == 1).all()
    assert set(daughters["parent"]) == set(lineages.loc[lineages["divides"], "track"])
    quiet = lineages[~lineages["divides"] & (lineages["parent"] == 0)].iloc[0]
    own = table[table["track"] == quiet["track"]].sort_values("t")
    way = np.hypot(np.diff(own["y"]), np.diff(own["x"])).sum() * 0.5
    assert quiet["path_um"] == pytest.approx(way, rel=1e-5)
    assert quiet["speed_um_per_min"] == pytest.approx(way / (7 * 2), rel=1e-5)
    assert (quiet["first"], quiet["last"], quiet["n_frames"]) == (0, 7, 8)
    numbers, frames = tracks.numbers[tracks.order], tracks.frames[tracks.order]
    assert sorted(tracks.order) == list(range(len(table)))
    assert (np.diff(numbers) >= 0).all()
    assert (np.diff(frames)[np.diff(numbers) == 0] > 0).all()
    assert set(tracks.graph) == set(daughters["track"])
    relabelled = tracks.relabelled(analysis.result.cells.labels)
    assert relabelled.max() == 20
    np.testing.assert_array_equal(relabelled > 0, labels > 0)


def test_no_cells_have_no_tracks():
    labels = np.zeros((3, 20, 20), np.int32)
    analysis = analyse(labels, Image(labels, "TYX"), AnalysisSettings(track=True))
    assert analysis.tracks.count == 0
    assert len(analysis.lineages) == 0


def test_a_frame_without_cells_is_no_obstacle():
    labels = np.zeros((5, 30, 30), np.int32)
    for frame in (0, 1, 4):
        disc(labels[frame], (15, 15), 5, 1)
    _, tracks = score(labels, {1: 0})
    assert tracks.numbers.tolist() == [1, 1, 2]


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_images_without_time_are_refused(axes):
    labels = np.ones((5,) * len(axes), np.int32)
    with pytest.raises(AxesError, match="time series"):
        analyse(labels, Image(labels, axes), AnalysisSettings(track=True))


def test_volumes_not_linked_are_refused():
    labels = np.ones((3, 4, 5, 5), np.int32)
    result, _ = result_of_labels(labels, Image(labels, "TZYX"), is_volume=False)
    with pytest.raises(AxesError, match="not linked"):
        analyse(result, Image(labels, "TZYX"), AnalysisSettings(track=True))


@pytest.mark.parametrize("spacing", [(5.0, 1.0, 1.0), (1.0, 5.0, 1.0), (0.2, 1.0, 1.0)], ids=str)
def test_the_farthest_way_is_a_diameter_in_pixels_of_any_shape(spacing):
    shape, radius = (12, 12, 60), 5.0
    labels = np.zeros((2, *(int(n / side) for n, side in zip(shape, spacing, strict=True))), np.int32)
    grids = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(labels.shape[1:], spacing, strict=True)), indexing="ij"
    )
    for frame, x in enumerate((10, 18)):
        away = [grid - centre for grid, centre in zip(grids, (5, 5, x), strict=True)]
        labels[frame][sum(way**2 for way in away) <= radius**2] = 1
    tracks = analyse(labels, Image(labels, "TZYX", spacing), AnalysisSettings(track=True)).tracks
    assert tracks.count == 1  # the cell went 8 of the 10 that it is wide
