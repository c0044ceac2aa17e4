"""The annotate panel and the folder that is proofread work with the model that is chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.components import ViewerModel

from cellwright.core.tasks import run
from cellwright.inference import pipeline
from cellwright.widgets.annotate.proofread import read_task
from cellwright.widgets.annotate.widget import AnnotateWidget


def choose(widget: AnnotateWidget, name: str) -> None:
    box = widget.panel.model
    box.setCurrentIndex(box.findData(name))
    box.activated.emit(box.currentIndex())


def test_the_chosen_model_outlines_counts_and_is_taught(
    viewer: ViewerModel, annotate_widget: AnnotateWidget
) -> None:
    box = annotate_widget.panel.model
    names = [box.itemData(place) for place in range(box.count())]
    assert {"flow", "nuclei", "query"} <= set(names)
    assert not {"centroid", "density"} & set(names)  # these outline nothing
    assert annotate_widget.model.chosen == "flow"
    viewer.add_image(np.zeros((20, 20)), name="cells")
    annotate_widget.panel.begin.click()
    adder = annotate_widget.model.context.adder
    assert adder._model() == "query"  # the usual one
    choose(annotate_widget, "nuclei")
    assert annotate_widget.model.chosen == annotate_widget.model.taught == "nuclei"
    assert adder._model() == "nuclei"


def test_a_folder_is_counted_with_the_chosen_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Found(Exception):
        pass

    def count_cells(image: Any, model: str) -> Any:
        asked.append(model)
        raise Found

    monkeypatch.setattr(pipeline, "count_cells", count_cells)
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, np.zeros((20, 20), np.uint8))
    with pytest.raises(Found):
        run(read_task(path, tmp_path, counts=True, model="nuclei"))
    assert asked == ["nuclei"]
