"""Random sequences of edits, counts, sliders and deletions; the benchmark of the same name tries 500."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from benchmarks.accuracy.random_edits import Fault, World, try_sequence, without_waits
from napari.layers import Labels
from pytestqt.qtbot import QtBot

from cellwright.models import store

N_STEPS = 12
SEEDS = range(4)


@pytest.fixture
def world(qtbot: QtBot, tmp_path: Path) -> Iterator[World]:
    """A viewer with panels on it in which an image has been counted."""
    with without_waits():
        world = World(1, tmp_path)  # of planes, with a results panel
        world.recount()
        world.settle()
        yield world
        world.close()


@pytest.mark.no_cover  # at random through what other tests cover
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_made_by_hand_is_lost_and_tables_tell_what_layers_show(
    qtbot: QtBot, tmp_path: Path, seed: int
) -> None:
    with without_waits():
        assert not try_sequence(seed, N_STEPS, tmp_path)


def test_nothing_is_left_in_the_folders_of_the_user() -> None:
    journals = store.user_folder().parent
    with without_waits():
        inside = store.user_folder()
        assert not inside.is_relative_to(journals)
    assert not inside.parent.exists()


def lose_pixels(world: World, labels: Labels) -> None:
    world.paint()
    labels.data[:] = 0


def lose_layer(world: World, labels: Labels) -> None:
    world.paint()
    world.viewer.layers.remove(labels)


def tell_other_areas(world: World, labels: Labels) -> None:
    labels.features["area_px"] += 1


def tell_other_cells(world: World, labels: Labels) -> None:
    world.results.view.number.setText("1")


@pytest.mark.parametrize("harm", [lose_pixels, lose_layer, tell_other_areas, tell_other_cells])
def test_harm_is_noticed(world: World, harm: Callable[[World, Labels], None]) -> None:
    (labels,) = [layer for layer in world.viewer.layers if isinstance(layer, Labels)]
    world.check()
    harm(world, labels)
    with pytest.raises(AssertionError):
        world.check()


def test_a_count_that_ends_with_an_unexpected_error_is_noticed(world: World) -> None:
    world.count.panel.message.setText("RuntimeError: generator raised StopIteration")
    with pytest.raises(Fault, match="ended with RuntimeError"):
        world.check()


def test_a_click_that_the_next_count_would_take_is_noticed(world: World) -> None:
    world.clicked.append(np.array([[0, 1], [0, 0]]))
    with pytest.raises(Fault, match="a click added"):
        world.check()
