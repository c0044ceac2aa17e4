"""The Python that the panel copies gives the cells that the panel counts, pixel by pixel."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from napari.layers import Layer
from pytestqt.qtbot import QtBot
from qtpy.QtWidgets import QApplication

import cellwright
from cellwright.files.images import read_image
from cellwright.files.tables import cells_checksum
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared.layer_io import show, source_of

SAMPLE = Path(cellwright.__file__).parents[2] / "sample_data" / "nuclei_2d.tif"


@pytest.fixture
def counted_panel(viewer: ViewerModel, qtbot: QtBot, read: Callable[[ResultsWidget], None]) -> ResultsWidget:
    image = read_image(SAMPLE)
    result = cellwright.count(image)
    data = (image.read(), {"name": "nuclei"}, "image")
    layer = Layer.create(*data)
    layer._source = layer.source.model_copy(update={"path": str(SAMPLE)})
    viewer.add_layer(layer)
    show(viewer, result, source_of(layer))
    panel = ResultsWidget(viewer)
    qtbot.addWidget(panel)
    read(panel)
    panel.view.groups["shape"].setChecked(True)
    panel.view.groups["intensity"].setChecked(True)
    panel.view.measure.click()
    read(panel)
    return panel


def test_copied_python_gives_the_same_cells(counted_panel: ResultsWidget) -> None:
    model, rng = counted_panel.model, np.random.default_rng(0)
    for border in ("all", "drop", "two-edges"):
        model.set_border(border)
        columns = rng.choice(["area_px", "circularity", "intensity_mean_ch0", "score", "x"], 2, replace=False)
        for column in columns:
            low, high = np.quantile(model.table[column], (rng.uniform(0, 0.3), rng.uniform(0.7, 1)))
            model.set_range(str(column), float(low), float(high))
        model.set_marker("ch0", is_on=True, threshold=None if border == "all" else float(rng.uniform(20, 90)))
        counted_panel.view.copy_python.click()
        text = QApplication.clipboard().text()
        names: dict[str, object] = {}
        exec(text, names)
        analysis = names["analysis"]
        assert len(analysis.table) == model.n_kept > 10, text
        assert cells_checksum(analysis.result) == cells_checksum(model.analysis().result)
        assert analysis.thresholds == pytest.approx(model.thresholds)
        assert (
            analysis.table["positive_ch0"].to_numpy() == model.kept_table["positive_ch0"].to_numpy()
        ).all()
        model.set_conditions("")
