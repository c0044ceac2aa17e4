"""With shipped weights, blocks give the cells of the whole image, in one process and shared out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from dask import distributed
from numpy.typing import NDArray
from tools.release.draw_samples import NUCLEI_2D

from cellwright.core.data import Image, Labels, Result
from cellwright.core.tasks import run
from cellwright.files import zarr as zarr_files
from cellwright.files.images import read_image
from cellwright.inference import context
from cellwright.inference.pipeline import count_cells
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import EngineSettings, StreamSettings
from cellwright.inference.streaming import plan
from cellwright.inference.streaming.plan import StreamJob
from cellwright.inference.streaming.run import count_streamed
from cellwright.ops.measure.cells_table import cells_table
from cellwright.ops.simulation.simulate import simulate

SIDE_PX, BLOCK_PX = 640, 256
LEAST_IOU = 0.99  # networks see other borders in a block
FARTHEST_PX = {"flow": 0.5, "centroid": 1.5}  # of two summits of a heatmap, alike to 0.001, either is taken
ROUNDING_PX = 1  # of the smallest cells it is more than that


class Threads(distributed.LocalCluster):
    """Workers that start sooner than processes."""

    def __init__(self, **given: object) -> None:
        super().__init__(processes=False, protocol="tcp://", **given)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an image of nuclei."""
    rng = np.random.default_rng(0)
    drawn = simulate("fluorescence", (SIDE_PX, SIDE_PX), rng, diameter_px=24.0, n_cells=195, style=NUCLEI_2D)
    path = tmp_path_factory.mktemp("images") / "field.npy"
    np.save(path, drawn.image)
    return path


@pytest.fixture(scope="module")
def counted(field: Path, request: pytest.FixtureRequest) -> tuple[str, Result]:
    """A model, and what it finds in the image as a whole."""
    return request.param, run(count_cells(read_image(field), request.param))


@pytest.mark.parametrize(
    ("counted", "workers"), [("flow", 1), ("flow", 2), ("centroid", 1)], indirect=["counted"]
)
def test_blocks_find_the_cells_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: Path, counted: tuple[str, Result], workers: int
) -> None:
    monkeypatch.setattr(plan, "CORE_PX", BLOCK_PX)
    monkeypatch.setattr(distributed, "LocalCluster", Threads)
    model, whole = counted
    recipe = Recipe(models=(model,), stream=StreamSettings(workers=workers))
    found = run(count_streamed(StreamJob(str(field), tmp_path, recipe)))
    table, expected = pd.read_csv(tmp_path / "field.cells.csv"), cells_table(whole)
    assert found.result.count == whole.count == len(table) > 140
    assert list(table) == list(expected)
    partners = partners_of(table, expected)
    assert sorted(partners) == list(range(len(expected)))  # none twice, none left out
    same = expected.iloc[partners].reset_index(drop=True)
    apart = np.abs(table[["y", "x"]] - same[["y", "x"]]).max(axis=1)
    assert np.quantile(apart, 0.99) <= 0.5
    assert apart.max() <= FARTHEST_PX[model]
    np.testing.assert_allclose(table["score"], same["score"], atol=0.1)
    if whole.cells.labels is None:
        assert found.labels is None
        return
    np.testing.assert_allclose(table["area_px"], same["area_px"], rtol=1 - LEAST_IOU, atol=ROUNDING_PX)
    labels = zarr.open_group(tmp_path / "field.labels.zarr", mode="r")["0"][:]
    assert set(np.unique(labels)) == {0, *table["label"]}
    for label, theirs in zip(table["label"], same["label"], strict=True):
        mine, wanted = labels == label, whole.cells.labels == theirs
        assert iou(mine, wanted) >= LEAST_IOU or np.sum(mine != wanted) <= ROUNDING_PX


@pytest.fixture(scope="module")
def enlarged() -> tuple[Image, EngineSettings, Labels]:
    """An image of small nuclei, how it is looked at, and what is found in it as a whole."""
    drawn = simulate("fluorescence", (320, 320), np.random.default_rng(0), diameter_px=12.0)
    image, engine = Image(drawn.image, "YX", name="field"), EngineSettings(diameter_px=12.0)
    labels = run(count_cells(image, "flow", engine=engine)).cells.labels
    assert labels is not None
    return image, engine, labels


@pytest.mark.parametrize("is_streamed", [True, False])
def test_blocks_of_an_enlarged_image_find_them_too(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    enlarged: tuple[Image, EngineSettings, Labels],
    *,
    is_streamed: bool,
) -> None:
    image, engine, whole = enlarged
    if is_streamed:
        monkeypatch.setattr(plan, "CORE_PX", BLOCK_PX)
        monkeypatch.setattr(zarr_files, "CHUNK_PX", BLOCK_PX)
        run(count_streamed(StreamJob(image, tmp_path, Recipe(models=("flow",), engine=engine))))
        labels = zarr.open_group(tmp_path / "field.labels.zarr", mode="r")["0"][:]
    else:
        monkeypatch.setattr(context, "WHOLE_PX", BLOCK_PX)
        monkeypatch.setattr(context, "BLOCK_PX", BLOCK_PX)
        labels = run(count_cells(image, "flow", engine=engine)).cells.labels
    alike = 0
    for label in range(1, whole.max() + 1):
        theirs = whole == label
        nearest = np.bincount(labels[theirs]).argmax()
        alike += nearest > 0 and iou(labels == nearest, theirs) >= LEAST_IOU
    assert alike > 0.95 * whole.max() > 40  # a few meet at seams; placed by themselves, most would differ


def partners_of(table: pd.DataFrame, expected: pd.DataFrame) -> NDArray[np.intp]:
    """Return for each cell the row of the nearest one in another table."""
    ours, theirs = (one[["y", "x"]].to_numpy() for one in (table, expected))
    return np.argmin(np.linalg.norm(ours[:, np.newaxis] - theirs, axis=-1), axis=1)


def iou(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Return the pixels of both over those of either."""
    return float(np.sum(ours & theirs) / np.sum(ours | theirs))
