import numpy as np
import pytest

from cellwright.ops.codecs.pseudocolor import PseudocolorSettings, foreground_to_cells
from cellwright.ops.labels import label_properties
from cellwright.ops.matching import match_labels


def discs(*circles, shape=(60, 90)):
    labels = np.zeros(shape, np.int32)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for number, (y, x, radius) in enumerate(circles, start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = number
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_round_cells_that_touch_are_parted(seed):
    rng = np.random.default_rng(seed)
    radii = rng.uniform(8, 10, 4)
    x = np.cumsum(radii + np.concatenate([[0], radii[:-1]]) - 1.5)
    truth = discs(*[(30, at, radius) for at, radius in zip(x, radii, strict=True)])
    cells = foreground_to_cells((truth > 0).astype(np.float32), PseudocolorSettings())
    assert match_labels(cells.labels, truth, 0.8).f1 == 1
    assert np.allclose(cells.points, label_properties(cells.labels).points)
    assert cells.scores.tolist() == [1.0] * 4


def test_foreground_follows_the_settings():
    probability = np.zeros((60, 90), np.float32)
    probability[discs((20, 20, 9)) > 0] = 0.9
    probability[discs((20, 50, 9)) > 0] = 0.45
    probability[discs((40, 70, 2)) > 0] = 0.9
    probability[discs((0, 80, 6)) > 0] = 0.8
    probability[50, 5] = np.nan

    def count(**settings):
        return len(foreground_to_cells(probability, PseudocolorSettings(**settings)))

    assert count() == 3
    assert count(cell_probability=0.5) == 2
    assert count(min_score=0.5) == 2
    assert count(min_area_px=1) == 4
    assert count(exclude_border=True) == 2
    assert count(cell_probability=0.95) == 0
