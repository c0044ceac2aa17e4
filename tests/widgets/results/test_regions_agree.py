"""Count, Results, command line and Python count the same cells in regions: those of a count by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel
from napari.layers import Layer
from numpy.typing import NDArray
from pytestqt.qtbot import QtBot
from skimage.measure import points_in_poly

import cellwright
from cellwright.__main__ import main
from cellwright.core.data import Image
from cellwright.files.images import read_image
from cellwright.files.regions import write_regions
from cellwright.inference.recipe import read_inputs
from cellwright.inference.settings import InputFiles
from cellwright.ops.measure.analysis import AnalysisInputs, analyse
from cellwright.ops.measure.regions import ShapeRegion, region_set, shape_region
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.edited_layers import mark_edited

Pixels = NDArray[Any]

POLYGON = np.array([[5.0, 5.0], [110.0, 12.0], [70.0, 60.0], [100.0, 110.0], [8.0, 90.0]])
TILTED = np.array([[20.0, 90.0], [60.0, 130.0], [100.0, 90.0], [60.0, 50.0]])  # a square on its corner
BOX = np.array([[80.0, 100.0], [80.0, 195.0], [150.0, 195.0], [150.0, 100.0]])
HOLE = np.array([[30.0, 30.0], [30.0, 70.0], [60.0, 70.0], [60.0, 30.0]])
SHAPES = (("polygon", POLYGON), ("ellipse", TILTED), ("rectangle", BOX), ("path", POLYGON + 40.0))


class Scene(NamedTuple):
    """An image of discs, and where their middles are: plane (0 without one), y, x."""

    axes: str
    image: Pixels
    labels: Pixels
    middles: Pixels


def make_scene(axes: str, blobs: Any) -> Scene:
    """Return discs in a plane, in three frames, or in two layers of a stack, each three slices thick."""
    flat = np.column_stack([np.zeros(len(blobs)), blobs.points])
    if axes == "YX":
        return Scene(axes, blobs.image, blobs.labels, flat)
    is_first = np.arange(len(blobs)) % 2 == 0
    parts = [
        np.where(np.isin(blobs.labels, np.flatnonzero(one) + 1), 1.0, 0) for one in (is_first, ~is_first)
    ]
    firsts, seconds = flat[is_first], flat[~is_first]
    if axes == "TYX":
        planes = [parts[0], blobs.image, parts[1]]
        middles = np.concatenate([firsts, in_plane(flat, 1), in_plane(seconds, 2)])
    else:
        planes = [parts[0]] * 3 + [parts[1]] * 3
        middles = np.concatenate([in_plane(firsts, 1), in_plane(seconds, 4)])
    return Scene(axes, np.stack(planes), blobs.labels, middles)


def in_plane(points: Pixels, plane: int) -> Pixels:
    """Return points of the first plane in another."""
    return points + np.array([plane, 0, 0])


def inside(kind: str, corners: Pixels, points: Pixels) -> Pixels:
    """Return which points lie in a shape, told without our code."""
    if kind != "ellipse":
        return np.asarray(points_in_poly(points, corners))
    middle, first, second = corners.mean(axis=0), (corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2
    own = np.linalg.solve(np.stack([first, second], axis=1), (points - middle).T)
    return np.asarray((own**2).sum(axis=0) < 1)


def by_hand(
    scene: Scene, places: list[float | None], mask: Pixels, *, is_outside: bool
) -> tuple[int, list[int]]:
    """Return how many cells lie in any of the shapes, and in each."""
    points = scene.middles[:, 1:]
    rows, columns = np.rint(points).astype(int).T
    free = ~inside("rectangle", HOLE, points) & ((mask[rows, columns] > 0) != is_outside)
    found = [
        free & inside(kind, corners, points) & ((place is None) | (scene.middles[:, 0] == place))
        for (kind, corners), place in zip(SHAPES, places, strict=True)
    ]
    return int(np.any(found, axis=0).sum()), [int(one.sum()) for one in found]


def pick(box: Any, data: object) -> None:
    box.setCurrentIndex(box.findData(data))
    box.activated.emit(box.currentIndex())


@pytest.mark.parametrize(
    ("axes", "places", "is_outside"),
    [
        ("YX", [None] * 4, False),
        ("TYX", [0.0, 1.0, 2.0, 1.0], False),
        ("ZYX", [None] * 4, False),
        ("ZYX", [1.0, 4.0, 1.0, 4.0], True),
    ],
)
@pytest.mark.no_cover  # through what tests of the parts cover
def test_everything_counts_the_same_cells(
    viewer: ViewerModel,
    qtbot: QtBot,
    widget: CountWidget,
    settled: Callable[[CountWidget], None],
    read: Callable[[ResultsWidget], None],
    blobs: Any,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    axes: str,
    places: list[float | None],
    is_outside: bool,
) -> None:
    scene = make_scene(axes, blobs)
    path, mask = tmp_path / "discs.ome.tif", np.zeros(scene.image.shape[-2:], np.uint8)
    mask[:, 40:120] = 3
    tifffile.imwrite(path, (scene.image * 60_000).astype(np.uint16), ome=True, metadata={"axes": axes})
    tifffile.imwrite(tmp_path / "m.tif", mask)
    truth, each = by_hand(scene, places, mask, is_outside=is_outside)
    assert 3 <= truth < len(scene.middles) - 3
    image = read_image(path)
    layer = Layer.create(image.read(), {"name": "discs", "axis_labels": tuple(axes.lower())}, "image")
    viewer.add_layer(layer)
    choose_regions(widget, places, mask, is_outside=is_outside)
    widget.panel.count.click()
    settled(widget)
    assert widget.panel.number.text() == str(truth)

    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    panel.show_layer(viewer.layers["discs labels"])
    read(panel)
    assert panel.view.regions.currentText() == "As counted"
    assert panel.model.n_kept == panel.model.n_cells == truth
    assert per_region(panel.model.counts()) == [*each, truth]

    files = InputFiles(*write_shapes(widget, image, tmp_path), str(tmp_path / "m.tif"), is_outside)
    analysis = analyse(cellwright.count(image), image, inputs=read_inputs(files, image))
    assert len(analysis.table) == truth
    assert per_region(analysis.counts) == [*each, truth]
    sizes = "^(area|volume)_px$"
    assert panel.model.counts().filter(regex=sizes).equals(analysis.counts.filter(regex=sizes))

    run_command(path, files)
    told = json.loads(capfd.readouterr().out)
    assert (told["count"], told["regions"]) == (truth, analysis.counts.to_dict("records"))


def run_command(path: Path, files: InputFiles) -> None:
    """Count on the command line, told as JSON."""
    words = ["--regions", files.regions[0], "--exclude", files.exclude[0], "--mask", files.mask]
    with pytest.raises(SystemExit):
        main(["count", str(path), "--json", *words, *["--outside"] * files.outside])


def choose_regions(
    widget: CountWidget, places: list[float | None], mask: Pixels, *, is_outside: bool
) -> None:
    """Draw the shapes, the hole and the mask, and choose them in the panel."""
    viewer, panel = widget.viewer, widget.panel
    shapes = viewer.add_shapes(ndim=2 if places[0] is None else 3, name="regions")
    for (kind, corners), place in zip(SHAPES, places, strict=True):
        drawn = corners if place is None else np.insert(corners, 0, place, axis=1)
        shapes.add(drawn, shape_type=kind)
    hole = viewer.add_shapes([HOLE], shape_type="rectangle", name="hole")
    tissue = viewer.add_labels(mask, name="tissue")
    viewer.layers.selection.active = shapes
    pick(panel.region, "drawn")
    pick(panel.exclude, str(hole.unique_id))
    pick(panel.mask_layer, str(tissue.unique_id))
    pick(panel.mask_side, is_outside)


def write_shapes(widget: CountWidget, image: Image, folder: Path) -> tuple[tuple[str], tuple[str]]:
    """Write the shapes that were counted in, and those that were cut out."""
    assert widget.counted is not None
    regions = widget.counted.request.regions
    assert regions is not None
    found = []
    for name, parts in (("r", regions.included), ("x", regions.excluded)):
        write_regions(
            folder / f"{name}.geojson", [one for one in parts if isinstance(one, ShapeRegion)], image
        )
        found.append((str(folder / f"{name}.geojson"),))
    return found[0], found[1]


def per_region(counts: Any) -> list[int]:
    """Return the cells of each region in all frames, those of the union last."""
    return [int(one) for one in counts.groupby("region", sort=False)["count"].sum()]


def test_the_rule_at_the_edge_is_the_same_in_count_and_results(
    viewer: ViewerModel,
    qtbot: QtBot,
    widget: CountWidget,
    settled: Callable[[CountWidget], None],
    read: Callable[[ResultsWidget], None],
    blobs: Any,
) -> None:
    viewer.add_image(blobs.image, name="blobs")
    widget.panel.count.click()
    settled(widget)
    viewer.layers["blobs labels"].name = "all"
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    shapes = viewer.add_shapes([TILTED], shape_type="ellipse")
    panel.show_layer(viewer.layers["all"])
    pick(panel.view.regions, str(shapes.unique_id))
    mark_edited(viewer.layers["all"])  # so that the next counts stand beside it
    pick(widget.panel.region, "drawn")
    areas = np.bincount(blobs.labels.ravel())
    pixels = np.argwhere(np.ones(blobs.labels.shape))
    own = inside("ellipse", TILTED, pixels).reshape(blobs.labels.shape)
    shares = np.bincount(blobs.labels[own], minlength=len(areas))
    truth = {
        "centre": int(inside("ellipse", TILTED, blobs.points).sum()),
        "overlap": int((shares[1:] > 0).sum()),
        "whole": int((shares == areas)[1:].sum()),
    }
    for rule, n_cells in truth.items():
        pick(panel.view.rule, rule)
        pick(widget.panel.rule, rule)
        widget.panel.count.click()
        settled(widget)
        read(panel)
        assert (rule, panel.model.n_kept, widget.panel.number.text()) == (rule, n_cells, str(n_cells))


def test_masks_and_shapes_that_change_are_counted_anew(
    panel: ResultsWidget, read: Callable[[ResultsWidget], None]
) -> None:
    """Of four squares two lie in the mask; one of them is cut out, then the mask is painted."""
    pixels = np.zeros((64, 64), np.uint8)
    pixels[:39] = 1
    mask = panel.viewer.add_labels(pixels, name="tissue", scale=(0.5, 0.5), units=("um", "um"))
    box = np.array([[0.0, 0.0], [0.0, 10.0], [10.0, 10.0], [10.0, 0.0]])
    cut = panel.viewer.add_shapes([box], shape_type="rectangle", units=("um", "um"))
    panel.show_layer(panel.viewer.layers["cells"])
    assert panel.view.mask_side.isHidden()  # nothing to tell the side of
    pick(panel.view.mask_layer, str(mask.unique_id))
    assert not panel.view.mask_side.isHidden()
    read(panel)
    assert panel.model.counts()[["region", "count", "area_px"]].to_dict("list") == {
        "region": ["tissue"],
        "count": [2],
        "area_px": [39 * 64],
    }
    pick(panel.view.exclude, str(cut.unique_id))
    read(panel)
    assert panel.model.n_kept == 1
    pick(panel.view.mask_side, True)
    read(panel)
    assert panel.model.n_kept == 2
    mask.data_setitem(np.nonzero(pixels == 0), 1)
    read(panel)
    assert panel.model.n_kept == 0
    panel.viewer.layers.remove(mask)
    read(panel)
    assert panel.model.n_kept == 3


def test_the_image_of_cells_counted_in_regions_knows_their_area(blobs: Any) -> None:
    """A box of 40 by 50 pixels of half a micrometre, a quarter of it cut out: 375 µm²."""
    image = Image(blobs.image, "YX", (0.5, 0.5))
    box = np.array([[9.5, 9.5], [9.5, 59.5], [49.5, 59.5], [49.5, 9.5]])
    quarter = np.array([[9.5, 9.5], [9.5, 34.5], [29.5, 34.5], [29.5, 9.5]])
    regions = region_set([shape_region("a", "rectangle", box), shape_region("exclude", "rectangle", quarter)])
    counts = analyse(blobs.labels, image, AnalysisSettings(), AnalysisInputs(regions)).counts
    assert counts["area_mm2"].tolist() == pytest.approx([375e-6])
    assert counts["density_per_mm2"].tolist() == pytest.approx([counts["count"][0] / 375e-6])
