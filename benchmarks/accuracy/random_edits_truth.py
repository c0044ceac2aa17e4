"""What layers show, found anew with plain numpy, to compare tables and features with."""

from typing import Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from scipy import ndimage

from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.edited_layers import METADATA


def content(layer: Layer) -> list[NDArray[Any]]:
    """Return a copy of the pixels, places or corners of a layer."""
    if isinstance(layer, Shapes):
        return [np.array(one) for one in layer.data]
    return [np.array(layer.data)]


def is_same(one: list[NDArray[Any]], other: list[NDArray[Any]]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def check_rows(layer: Layer) -> None:
    """Raise where the features of a layer tell of other cells than it shows."""
    features, name = layer.features, layer.name
    if isinstance(layer, Labels):
        if "area_px" not in features:
            return
        areas = np.bincount(layer.data.ravel())
        areas[0] = 0
        told = features["area_px"].to_numpy(np.float64)
        rows = np.flatnonzero(np.nan_to_num(told))
        numbers = np.flatnonzero(areas)
        assert rows.tolist() == numbers.tolist(), f"features of {name}: rows {rows} for cells {numbers}"
        assert told[rows].tolist() == areas[rows].tolist(), f"features of {name} tell other areas"
        return
    n = layer.nshapes if isinstance(layer, Shapes) else len(layer.data)
    assert len(features) == n, f"features of {name}: {len(features)} rows for {n}"
    if "label" in features:
        labels = features["label"].tolist()
        assert len(set(labels)) == n, f"features of {name} have a number twice: {labels}"


def check_table(viewer: Any, results: ResultsWidget) -> None:
    """Raise where the results panel tells anything else than its layer shows."""
    layer, model, view = results.link.layer, results.model, results.view
    ring = [one for one in viewer.layers if one.metadata.get(METADATA, {}).get("output") == "Chosen"]
    is_lit = any(len(one.data) for one in ring)
    assert not is_lit or model.chosen >= 0, "a cell is lit that is not chosen"
    if layer is None:
        assert model.measured is None, "a table without a layer"
        return
    assert layer in viewer.layers, "the table tells of a layer that is gone"
    if model.measured is None:
        raise AssertionError(f"no table of {layer.name}: {view.message.text()}")
    table = model.table
    assert table is not None
    if isinstance(layer, Points):
        assert table[["y", "x"]].to_numpy().tolist() == np.asarray(layer.data, np.float32).tolist(), (
            f"table of {layer.name} has other places"
        )
    else:
        _check_cells(layer, results)
    assert view.number.text() == f"{model.n_kept:,}", "the number is not that of the cells that count"
    assert view.frame.rowCount() == model.n_kept, "the table shows other rows than count"
    if not model.regions.names[1:]:
        assert int(view.counts_frame._columns[-1].sum()) >= 0
        total = int(model.counts()["count"].sum())
        assert total == model.n_kept, f"counts add up to {total}, the number is {model.n_kept}"
    for condition in model.conditions:
        assert condition.keeps(model.kept_table).all(), f"a cell counts though not {condition}"


def _check_cells(layer: Labels, results: ResultsWidget) -> None:
    table, name = results.model.table, layer.name
    assert table is not None
    numbers = np.unique(layer.data)
    numbers = numbers[numbers > 0]
    told = table["label"].tolist()
    assert told == numbers.tolist(), f"table of {name} has cells {told}, the layer {numbers}"
    areas = np.bincount(layer.data.ravel())[numbers]
    assert table["area_px"].tolist() == areas.tolist(), f"table of {name} has other areas"
    if not len(numbers):
        return
    centres = np.array(ndimage.center_of_mass(layer.data > 0, layer.data, numbers))
    offset = np.rint(layer.translate)
    np.testing.assert_allclose(table[["y", "x"]], centres + offset, atol=1e-3, err_msg=f"places of {name}")
    image = results.link.image_layer
    counted_in = layer.metadata.get(METADATA, {}).get("source")
    here = [str(one.unique_id) for one in results.viewer.layers]
    if counted_in in here:
        assert image is not None, f"{name} is measured in no image"
        assert str(image.unique_id) == counted_in, f"{name} is measured in {image.name}"
    column = "intensity_mean_ch0"
    if column in table and image is not None:
        y, x = np.rint(layer.translate).astype(int)
        part = image.data[y : y + layer.data.shape[0], x : x + layer.data.shape[1]]
        means = ndimage.mean(part, layer.data, numbers)
        np.testing.assert_allclose(table[column], means, rtol=1e-4, err_msg=f"intensities of {name}")
