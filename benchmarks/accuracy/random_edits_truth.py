"""What layers show, found anew with plain numpy, to compare tables and features with."""

from typing import Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray

from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.edited_layers import METADATA

SIZES = ("volume_px", "area_px")


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
        size = next((one for one in SIZES if one in features), "")
        if not size:
            return
        told = features[size].to_numpy(np.float64)
        rows = np.flatnonzero(np.nan_to_num(told))
        found = cells_of(layer)[::-1]  # of a number that is in several frames the first counts
        areas = {number: area for _, number, area, _ in found}
        assert rows.tolist() == sorted(areas), f"features of {name}: rows {rows} for cells {sorted(areas)}"
        assert told[rows].tolist() == [areas[row] for row in rows], f"features of {name} tell other sizes"
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
        places = np.asarray(layer.data, np.float32).reshape(-1, layer.ndim)[:, -2:]
        assert table[["y", "x"]].to_numpy().tolist() == places.tolist(), (
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


def check_number(viewer: Any, count: CountWidget) -> None:
    """Raise where the count panel tells another number than the layer that was changed by hand shows."""
    layer, text = count.edited.layer, count.panel.number.text()
    if layer is not None:
        assert layer in viewer.layers, "the number is that of a layer that is gone"
        n = len(cells_of(layer)) if isinstance(layer, Labels) else len(layer.data)
        assert text == f"{n:,}", f"the number is {text}, {layer.name} shows {n}"
    elif count.counted is not None:
        told = f"{count.counted.result.count:,.0f}"
        assert text == told, f"the number is {text}, the count {told}"


def cells_of(layer: Labels) -> list[tuple[int, int, int, NDArray[Any]]]:
    """Return frame, number, pixels and centre (y, x) of each cell, those of the first frame first."""
    frames = [layer.data]
    if layer.axis_labels[0] == "t":
        frames = list(layer.data)
    found = []
    for frame, data in enumerate(frames):
        numbers = np.unique(data)
        for number in numbers[numbers > 0].tolist():
            places = np.argwhere(data == number)
            found.append((frame, number, len(places), places.mean(axis=0)[-2:]))
    return found


def _check_cells(layer: Labels, results: ResultsWidget) -> None:
    table, name, found = results.model.table, layer.name, cells_of(layer)
    assert table is not None
    if "t" in table:
        table = table.sort_values(["t", "label"])
    numbers = [number for _, number, _, _ in found]
    told = table["label"].tolist()
    assert told == numbers, f"table of {name} has cells {told}, the layer {numbers}"
    size = next(one for one in SIZES if one in table)
    assert table[size].tolist() == [n for _, _, n, _ in found], f"table of {name} has other sizes"
    if not found:
        return
    image = results.link.image_layer
    centres = np.array([centre for *_, centre in found])
    offset = np.zeros(2)
    if image is not None:
        offset = np.rint((layer.translate - image.translate[-layer.ndim :]) / layer.scale)[-2:]
    np.testing.assert_allclose(table[["y", "x"]], centres + offset, atol=1e-3, err_msg=f"places of {name}")
    counted_in = layer.metadata.get(METADATA, {}).get("source")
    here = [str(one.unique_id) for one in results.viewer.layers]
    if counted_in in here:
        assert image is not None, f"{name} is measured in no image"
        assert str(image.unique_id) == counted_in, f"{name} is measured in {image.name}"
    column = "intensity_mean_ch0"
    if column in table and image is not None and image.data.shape == layer.data.shape:
        frames = zip(layer.data, image.data, strict=True) if "t" in table else [(layer.data, image.data)]
        means = [
            float(pixels[labels == number].mean())
            for labels, pixels in frames
            for number in np.unique(labels)
            if number
        ]
        np.testing.assert_allclose(table[column], means, rtol=1e-4, err_msg=f"intensities of {name}")
