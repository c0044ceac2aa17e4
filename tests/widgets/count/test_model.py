from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from napari.components import ViewerModel

from cellwright.core.data import Image, Result
from cellwright.core.tasks import Progress, run
from cellwright.inference.recipe import Recipe
from cellwright.ops.codecs.flow import FlowSettings
from cellwright.ops.measure.cells_table import cells_table
from cellwright.ops.measure.regions import RegionSet, shape_region
from cellwright.widgets.count.model import (
    CountModel,
    CountOutcome,
    Request,
    count_task,
    inside_regions,
    interval_line,
    recount_task,
    result_line,
    sizes_line,
)
from cellwright.widgets.shared.layer_io import Source, source_of
from cellwright.widgets.shared.messages import progress_line

ResultOf = Callable[[Image, Any], Result]


def wanted(counted: CountOutcome, settings: Any, outputs: tuple[str, ...]) -> Request:
    recipe = replace(counted.request.recipe, settings=settings)
    return replace(counted.request, recipe=recipe, outputs=outputs)


def test_a_count_finds_the_cells_and_makes_their_layers(
    viewer: ViewerModel, blobs: Any, shelved: Any, n_whole: Callable[[Any], int]
) -> None:
    layer = viewer.add_image(blobs.image, name="blobs")
    window = (slice(40, 160), slice(30, 200))
    stages: list[str] = []
    request = Request(source_of(layer, window=window), outputs=("Labels", "Points"))
    counted = run(count_task(request), lambda progress: stages.append(progress.stage))
    assert counted.result.count == n_whole(blobs.labels[window])
    assert counted.result.offset == (40, 30)
    assert list(counted.layers) == ["Labels", "Points"]
    assert len(viewer.layers) == 1  # nothing is shown from the worker's thread
    assert (stages[0], stages[-1]) == ("load", "layers")


def test_a_recount_needs_no_forward_pass(viewer: ViewerModel, blobs: Any, shelved: Any) -> None:
    source = source_of(viewer.add_image(blobs.image))
    counted = run(count_task(Request(source, Recipe(settings=FlowSettings()))))
    assert counted.result.count == len(blobs)

    def fail(*_: object) -> None:
        raise AssertionError("the network ran")

    shelved.network.forward = fail
    none_left = run(recount_task(counted, wanted(counted, FlowSettings(min_area_px=5000), ("Points",))))
    assert none_left.result.count == 0
    assert list(none_left.layers) == ["Points"]
    again = run(recount_task(none_left, wanted(counted, FlowSettings(), ("Labels",))))
    assert again.result.count == len(blobs)


def test_the_interval_of_a_whole_image_is_not_that_of_a_region(
    viewer: ViewerModel, result_of: ResultOf, blobs: Any
) -> None:
    image = Image(blobs.image, "YX")
    corner = shape_region("corner", "rectangle", np.array([[0, 0], [0, 60], [60, 60], [60, 0]], float))
    source = Source(image, "", (0, 0), {})
    request = Request(source, regions=RegionSet((corner,)))
    whole = replace(result_of(image, blobs.labels), interval=(20.0, 40.0))
    part = inside_regions(request, whole)
    assert 0 < part.count < whole.count
    assert part.interval is None
    model = CountModel(viewer, *(Mock() for _ in range(4)))
    density = replace(request, family="density", regions=None)
    for asked, result, is_told in (
        (density, replace(whole, count=320.0, interval=(300.0, 340.0)), False),
        (request, part, False),  # what is left out of it explains the difference
        (replace(request, regions=None), whole, True),
    ):
        assert ("fewer than" in model.disagreement(CountOutcome(asked, result, {}))) == is_told


def test_new_layers_alone_leave_the_result_as_it_is(
    viewer: ViewerModel, blobs: Any, shelved: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(viewer.add_image(blobs.image))
    counted = run(count_task(Request(source, Recipe(settings=FlowSettings()))))
    more = run(recount_task(counted, wanted(counted, FlowSettings(), ("Labels", "Shapes"))))
    assert more.result is counted.result
    assert list(more.layers) == ["Labels", "Shapes"]


def test_lines_for_people(result_of: ResultOf) -> None:
    labels = np.zeros((40, 60), np.int32)
    none = result_of(Image(labels, "YX", (), "i"), labels)
    assert (result_line(none), sizes_line(cells_table(none))) == ("0 cells · flow · 1.8 s", "")
    labels[0:20, 0:20] = 1
    one = result_of(Image(labels, "YX", (0.5, 0.5), "i"), labels)
    assert result_line(one) == "1 cell · flow · 1.8 s"
    assert sizes_line(cells_table(one)) == "median diameter 22.6 px · 11.3 µm"
    tiny = result_of(Image(labels, "YX", (0.001, 0.001), "i"), labels)
    assert sizes_line(cells_table(tiny)) == "median diameter 22.6 px · 0.0226 µm"
    density = replace(one, count=411.6, interval=(394.0, 429.5))
    assert interval_line(density) == "394 to 430 cells (90 % interval)"
    assert interval_line(one) == ""
    assert result_line(replace(one, count=2041.0)) == "2,041 cells · flow · 1.8 s"
    volume = result_of(Image(labels[np.newaxis], "ZYX", (2.0, 0.5, 0.5), "i"), labels[np.newaxis])
    assert (
        sizes_line(cells_table(volume)) == "median diameter 7.26 µm"
    )  # of the ball of 200 cubic micrometres
    unsized = result_of(Image(labels[np.newaxis], "ZYX", (), "i"), labels[np.newaxis])
    assert sizes_line(cells_table(unsized)) == ""
    unknown = result_of(Image(labels, "YX", (), "i"), labels)
    assert sizes_line(cells_table(unknown)) == "median diameter 22.6 px"


@pytest.mark.parametrize(
    ("progress", "seconds_left", "line"),
    [
        (Progress("load", 0, 1), None, "Loading the model"),
        (Progress("tiles", 0, 1), None, "Looking at the image"),
        (Progress("tiles", 12, 40), 3.2, "Tiles: 12 of 40 · 3 s left"),
        (Progress("tiles", 1, 40), None, "Tiles: 1 of 40"),
        (Progress("rescaled tiles", 1, 40), 600, "Rescaled tiles: 1 of 40 · 10 min left"),
        (Progress("tiles", 40, 40, "finding cells"), 0.0, "Finding cells"),
        (Progress("read", 0, 1, "reading mixA"), None, "Reading mixA"),
        (Progress("unheard of", 0, 1), None, "Unheard of"),
    ],
)
def test_progress_line(progress: Progress, seconds_left: float | None, line: str) -> None:
    assert progress_line(progress, seconds_left) == line
