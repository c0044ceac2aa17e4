"""Calibration: the user counts a few boxes by hand, and the density is corrected by what they found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QObject, QSignalBlocker, Qt, Signal
from qtpy.QtWidgets import QAbstractButton, QHeaderView, QSpinBox, QTableWidget, QTableWidgetItem, QWidget

from cellwright.core.data import Result
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.models.fit import with_fit_warning
from cellwright.ops.geometry.boxes import box_around
from cellwright.ops.geometry.tiles import window_between
from cellwright.widgets.count.model import CountModel, CountOutcome, show_task
from cellwright.widgets.shared.edited_layers import METADATA
from cellwright.widgets.shared.layer_factory import COLOUR
from cellwright.widgets.shared.layer_io import Source, layers_with, take_away
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.style import button, even_row, stack, wrapped_label

LAYER_NAME = "boxes counted by hand"
EDGE_PX = 400  # an edge is this share of the image's longer side
UNKNOWN = -1  # of a box that nobody has counted yet
MOST_CELLS = 1_000_000
HINT = "Draw a box in the image and type how many cells it holds; a few boxes of all kinds are best."
TABLE_HEIGHT_PX = 130


class CalibrationTable(QWidget):
    """A row for each box: its number, what the model found in it, and what the user counted."""

    counted = Signal()  # another count was typed

    def __init__(self) -> None:
        super().__init__()
        self.table = QTableWidget(0, 3)
        self.table.setHorizontalHeaderLabels(["#", "Found", "Yours"])
        header = self.table.horizontalHeader()
        assert header is not None
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setMinimumSectionSize(1)  # Qt's is wider than a number of two digits
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.Stretch)
        rows = self.table.verticalHeader()
        assert rows is not None
        rows.setVisible(False)
        self.table.setFixedHeight(TABLE_HEIGHT_PX)
        self.table.setSelectionMode(QTableWidget.SelectionMode.NoSelection)
        self.apply = button("Correct", "Correct density and count by the boxes.")
        self.undo = button("Undo", "Go back to what the model found.")
        self.done = button("Done", "End calibrating; the correction stays.")
        buttons = even_row(self.apply, self.undo, self.done)
        stack(wrapped_label(HINT, "hint"), self.table, buttons, into=self)

    @property
    def counts(self) -> list[int]:
        """What the user typed, -1 where nothing."""
        return [self._box(row).value() for row in range(self.table.rowCount())]

    def show_rows(self, found: Sequence[float], counts: Sequence[int]) -> None:
        """Show what the model found in each box, and these counts."""
        self.table.setRowCount(len(found))
        for row, (sum_of_box, count) in enumerate(zip(found, counts, strict=True)):
            for column, text in enumerate((str(row + 1), f"{sum_of_box:,.1f}")):
                item = QTableWidgetItem(text)
                item.setFlags(Qt.ItemFlag.ItemIsEnabled)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                self.table.setItem(row, column, item)
            if self.table.cellWidget(row, 2) is None:
                box = QSpinBox()
                box.setRange(UNKNOWN, MOST_CELLS)
                box.setSpecialValueText("?")
                box.setFrame(False)
                box.setButtonSymbols(QSpinBox.ButtonSymbols.NoButtons)  # they leave large numbers no room
                box.valueChanged.connect(self.counted)
                self.table.setCellWidget(row, 2, box)
            with QSignalBlocker(self._box(row)):
                self._box(row).setValue(count)

    def _box(self, row: int) -> QSpinBox:
        box = self.table.cellWidget(row, 2)
        assert isinstance(box, QSpinBox)
        return box


class CalibrateTool(QObject):
    """Lets the user draw and count boxes over a density, and corrects it."""

    def __init__(self, model: CountModel, button: QAbstractButton) -> None:
        super().__init__(button)
        self._model = model
        self._before: CountOutcome | None = None  # as the model found it
        self.shapes: Shapes | None = None
        self.form = CalibrationTable()
        self.form.setVisible(False)
        button.clicked.connect(self.begin)
        self.form.apply.clicked.connect(self._on_apply_clicked)
        self.form.undo.clicked.connect(self._on_undo_clicked)
        self.form.done.clicked.connect(self.end)
        self.form.counted.connect(self._keep_counts)
        model.outcome_changed.connect(self._on_counted_changed)

    def begin(self) -> None:
        """Offer a layer to draw boxes in, and the table; tell what is missing without a density."""
        with telling(self._model.fail):
            counted = self._density()
            if self.shapes is None or self.shapes not in self._model.viewer.layers:
                key = {**counted.request.source.key, "output": "calibration"}
                drawn = layers_with(self._model.viewer, key)  # before another image was counted
                self.shapes = next((layer for layer in drawn if isinstance(layer, Shapes)), None)
                if self.shapes is None:
                    self.shapes = boxes_layer(counted.request.source, counted.result)
                    self._model.viewer.add_layer(self.shapes)
                self.shapes.events.data.connect(self._on_boxes_changed)
            self._model.viewer.layers.selection.active = self.shapes
            self.shapes.mode = "add_rectangle"
            self.form.setVisible(True)
            self._show_rows()

    def end(self) -> None:
        """Put layer and table away; the corrected density stays."""
        shapes, self.shapes = self.shapes, None
        self.form.setVisible(False)
        take_away(self._model.viewer, shapes)

    def leave(self) -> None:
        """Put the table away; boxes that were drawn stay in the viewer, to go on with."""
        shapes = self.shapes
        if shapes is None or not len(shapes.data):
            self.end()
            return
        self._keep_counts()
        shapes.events.data.disconnect(self._on_boxes_changed)
        self.shapes = None
        self.form.setVisible(False)

    def _keep_counts(self) -> None:
        """Let the layer know what was typed, so that each count stays with its box."""
        shapes, counts = self.shapes, self.form.counts
        if shapes is not None and len(shapes.data) == len(counts) and "count" in shapes.features:
            shapes.features = shapes.features.assign(count=counts)

    def _density(self) -> CountOutcome:
        counted = self._model.outcome
        if counted is None or counted.result.gives != "density":
            raise SettingsError(
                "Calibration corrects a density; there is none yet. Count with a density model first."
            )
        return counted

    def _on_boxes_changed(self, _: object = None) -> None:
        self._model.forget_error()  # that told what was missing
        self._show_rows()

    def _show_rows(self, _: object = None) -> None:
        import pandas

        counted = self._model.outcome
        if self.shapes is None or counted is None or counted.result.gives != "density":
            return
        boxes = drawn_boxes(self.shapes, counted.request.source)
        rows = self.shapes.features
        is_known = ~(rows["box"].duplicated() | rows["box"].isna())
        counts = [int(one) for one in rows["count"].where(is_known, UNKNOWN).fillna(UNKNOWN)]
        if len(counts) != len(boxes):
            return  # napari is still at it
        density = (self._before or counted).result.maps["density"]
        self.form.show_rows([sum_in(density, box) for box in boxes], counts)
        self.shapes.features = pandas.DataFrame({"box": np.arange(1, len(boxes) + 1), "count": counts})

    def _on_apply_clicked(self) -> None:
        with telling(self._model.fail):
            counted = self._before or self._density()
            boxes, counts = self._counted_boxes(counted.request.source)
            self._before = counted
            self._model.run(corrected_task(counted, boxes, counts), self._on_corrected)

    def _on_corrected(self, counted: CountOutcome) -> None:
        self._model.settings_wanted.emit(counted.request.recipe.settings)  # they serve other images too
        self._model.outcome_wanted.emit(counted)
        self._model.tell(" ".join(counted.result.notices), is_warning=True)

    def _counted_boxes(self, source: Source) -> tuple[NDArray[np.float32], list[int]]:
        boxes = (
            drawn_boxes(self.shapes, source) if self.shapes is not None else np.zeros((0, 2, 2), np.float32)
        )
        counts = self.form.counts
        known = [row for row, count in enumerate(counts) if count != UNKNOWN]
        if not known:
            raise SettingsError(
                "Calibration needs a box whose cells you have counted; got none. Draw one and type its count."
            )
        return boxes[known], [counts[row] for row in known]

    def _on_undo_clicked(self) -> None:
        before, self._before = self._before, None
        if before is not None:
            self._model.settings_wanted.emit(before.request.recipe.settings)
            self._model.outcome_wanted.emit(before)
            self._model.tell("")

    def _on_counted_changed(self, counted: CountOutcome) -> None:
        before = self._before
        is_other = before is not None and counted.request.source is not before.request.source
        if is_other or counted.result.gives != "density":
            self._before = None
        self.form.undo.setEnabled(self._before is not None)
        if is_other:
            self.leave()


def corrected_task(
    counted: CountOutcome, boxes: NDArray[np.float32], counts: Sequence[int]
) -> Task[CountOutcome]:
    """Return a density corrected by boxes (N, 2, D), in its pixels, and how many cells they really hold."""
    yield Progress("calibrate", 0, 1)
    from cellwright.ops.measure.prediction_interval import recalibrated

    result = recalibrated(counted.result, boxes, np.asarray(counts))
    result = replace(result, notices=with_fit_warning(result.notices, result.fit))
    recipe = counted.request.recipe
    recipe = replace(recipe, settings=type(recipe.settings)(**result.provenance.settings["density"]))
    return (yield from show_task(replace(counted.request, recipe=recipe), result))


def boxes_layer(source: Source, result: Result) -> Shapes:
    """Return an empty layer in the pixels of a density, to draw boxes in."""
    import pandas

    shape = result.maps["density"].shape
    ndim = len(shape) + (source.channel_axis is not None)
    return Shapes(
        ndim=ndim,
        name=LAYER_NAME,
        face_color="transparent",
        edge_color=COLOUR,
        edge_width=max(max(shape[-2:]) / EDGE_PX, 1.0),
        features=pandas.DataFrame({"box": np.zeros(0, int), "count": np.zeros(0, int)}),
        text={"string": "{box}", "color": COLOUR, "anchor": "upper_left", "size": 12},
        metadata={METADATA: {**source.key, "output": "calibration"}},
        **source.placement,
    )


def drawn_boxes(shapes: Shapes, source: Source) -> NDArray[np.float32]:
    """Return the boxes (N, 2, D) around drawn shapes: first and one-past-last corner, in pixels."""
    boxes = []
    for vertices in shapes.data:
        corners = box_around(vertices).astype(np.float32)
        lead = np.rint(corners[:1, :-2])
        corners[:, :-2] = np.concatenate([lead, lead + 1])
        corners[:, -2:] += 0.5  # napari draws a pixel around its index
        boxes.append(corners)
    table = np.array(boxes, np.float32).reshape(len(boxes), 2, shapes.ndim)
    return table if source.channel_axis is None else np.delete(table, source.channel_axis, axis=2)


def sum_in(density: NDArray[Any], box: NDArray[np.float32]) -> float:
    """Return the cells that a density (..., Y, X) has in a box (2, D) of whole pixels."""
    first, end = np.rint(np.clip(box, 0, density.shape)).astype(int)
    return float(density[window_between(first, end)].sum(dtype=np.float64))
