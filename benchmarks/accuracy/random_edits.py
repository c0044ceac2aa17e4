"""Random sequences of edits, counts and deletions: nothing made by hand is lost, tables tell the truth.

    python -m benchmarks.accuracy.random_edits --sequences 500 --seed 0

Models count by brightness at once; layers, panels and edits are the real ones. Each sequence has two images,
each of them a plane, a plane with a scale and a translation, a stack whose slices are linked, or a movie; in
every fourth one no results panel is open. After each step what a user has made is compared with what it was,
and tables, features and the number with layers. Needs a Qt platform (``xvfb-run -a``, or
``QT_QPA_PLATFORM=offscreen``). One JSON object is printed at the end; faults are printed as they are found.
"""

import argparse
import json
import re
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QEvent
from qtpy.QtWidgets import QApplication

from benchmarks.accuracy.instant_models import instant_models
from benchmarks.accuracy.random_edits_truth import (
    check_number,
    check_rows,
    check_table,
    content,
    is_same,
)
from cellwright.core.errors import CellwrightError
from cellwright.models import store
from cellwright.widgets.annotate import widget as annotate_module
from cellwright.widgets.annotate.session_setup import start_session
from cellwright.widgets.annotate.widget import AnnotateWidget
from cellwright.widgets.count import point_prompt as click_module
from cellwright.widgets.count.widget import CountWidget
from cellwright.widgets.results import measuring, page_tools
from cellwright.widgets.results.widget import ResultsWidget
from cellwright.widgets.shared import jobs
from cellwright.widgets.shared.cells import followers
from cellwright.widgets.shared.edited_layers import ASKED, METADATA
from cellwright.widgets.shared.napari_private import set_pixels

SIDE = 40
N_SLICES = 3
IMAGES: dict[str, dict[str, Any]] = {
    "plane": {},
    "calibrated": {"scale": (0.5, 0.5), "translate": (3.0, 7.0), "units": ("um", "um")},
    "stack": {"scale": (2.0, 1.0, 1.0), "axis_labels": ("z", "y", "x")},
    "movie": {"axis_labels": ("t", "y", "x")},
}
WAITS = (
    (jobs, "DEBOUNCE_MS"),
    (measuring, "READ_MS"),
    (followers, "READ_MS"),
    (page_tools, "COUNT_MS"),
    (annotate_module, "FOLLOW_MS"),
    (click_module, "WAIT_MS"),
)
LIMIT_S = 120.0
UNEXPECTED = re.compile(r"\w+(Error|Exception): ")  # an error that is none of ours is told with its type
OUTPUTS = ("Labels", "Points", "Shapes")
SQUARE = ((0, 0), (0, 6), (6, 6), (6, 0))
WITHOUT_RESULTS = 4  # one in so many sequences has no results panel
IN_A_HURRY = 0.25  # share of steps that do not wait for what runs beside the viewer


class Fault(AssertionError):
    """Something made by hand is lost, or a table does not tell what its layer shows."""


@dataclass
class Made:
    """What the user made of a layer: what is in it, and what undo and redo bring."""

    content: list[NDArray[Any]]
    past: list[Any] = field(default_factory=list)
    future: list[Any] = field(default_factory=list)


class World:
    """A viewer with the panels that count, tell and annotate, and a memory of what the user made.

    Parameters
    ----------
    seed
        Of the sequence.
    folder
        Takes the journals.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = np.random.default_rng(seed)
        self.viewer = ViewerModel()
        self.images = [self._new_image(name) for name in ("one", "two")]
        self.count = CountWidget(self.viewer)
        self.results: Any = None
        if seed % WITHOUT_RESULTS != WITHOUT_RESULTS - 1:
            self.results = ResultsWidget(self.viewer)
        self.annotating = AnnotateWidget(self.viewer)
        self.annotating.model.journals = folder
        self.made: dict[Layer, Made] = {}
        self.clicked: list[NDArray[np.intp]] = []  # pixels (2, N) of each cell that a click added
        self.gone: set[str] = set()  # images that went with all that was made of them
        self.n_named = 0
        self.story: list[str] = []

    # -- running it ---------------------------------------------------------------------------------------

    STEPS = (
        *("paint", "paint", "erase", "fill", "polygon", "undo", "undo", "redo", "write_pixels"),
        *("points", "points", "boxes", "boxes", "copy", "rename", "reorder", "delete_layer"),
        *("begin", "begin", "correct", "correct", "correct", "correct", "correct", "finish"),
        *("slide", "slide", "size", "recount", "recount", "model", "other_image", "untick", "untick"),
        *(
            "regions",
            "regions",
            "count_in",
            "click",
            "click",
            "click",
            "table_class",
            "table_delete",
            "table_filter",
        ),
        *("measure", "show_other", "activate", "calibrate", "clear_image", "result_border"),
    )

    TABLE_STEPS = ("table_class", "table_delete", "table_filter", "measure", "show_other", "result_border")

    def run(self, n_steps: int) -> None:
        """Do steps and look after each."""
        self._do("recount", waits=True)
        for _ in range(n_steps):
            self._do(str(self.rng.choice(self.STEPS)), waits=self.rng.random() > IN_A_HURRY)
        self.settle()
        self.check()

    def _do(self, name: str, *, waits: bool) -> None:
        self.story.append(name)
        if name in self.TABLE_STEPS and self.results is None:
            name = "paint"
        try:
            getattr(self, name)()
        except CellwrightError as error:
            self.story[-1] += f" ({type(error).__name__})"
        if waits:
            self.settle()
            self.check()
        else:
            QApplication.processEvents()
            self.check_made()

    def settle(self) -> None:
        """Let everything end that runs beside the viewer."""
        ends = time.perf_counter() + LIMIT_S
        n_quiet = 0
        while n_quiet < 3:
            QApplication.processEvents()
            QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
            n_quiet = 0 if self._is_busy() else n_quiet + 1
            if time.perf_counter() > ends:
                raise Fault("something never ends")
            if not n_quiet:
                time.sleep(0.0005)

    def _is_busy(self) -> bool:
        count, results = self.count, self.results
        return (
            count.job is not None
            or count.updater.is_busy
            or bool(count.ask._waiting)
            or (results is not None and results.measurer.is_busy)
            or followers.follow(self.viewer).is_busy
        )

    def close(self) -> None:
        """Let go of everything."""
        self.annotating.model.finish()
        for widget in filter(None, (self.count, self.results, self.annotating)):
            widget.close()
            widget.deleteLater()
        QApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
        QApplication.processEvents()

    # -- looking ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise where something is not as it must be."""
        self.check_made()
        told = self.count.panel.message.text()
        if UNEXPECTED.match(told):
            raise Fault(f"the count ended with {told}")
        for pixels in self.clicked:
            if not self._is_shown(pixels):
                raise Fault(f"a cell that a click added at {pixels.mean(axis=1)} is gone")
        for layer in self.viewer.layers:
            own = layer.metadata.get(METADATA, {})
            if own.get("source") in self.gone:
                raise Fault(f"{layer.name} of an image that is gone is there again")
            if own.get("output") in OUTPUTS or layer in self.made:
                check_rows(layer)
        check_number(self.viewer, self.count)
        if self.results is not None:
            check_table(self.viewer, self.results)

    def check_made(self) -> None:
        """Raise where what the user made is gone or is another."""
        for layer, made in self.made.items():
            if layer not in self.viewer.layers:
                raise Fault(f"{layer.name}, changed by hand, is gone")
            if not is_same(content(layer), made.content):
                raise Fault(f"what was made by hand in {layer.name} is not as it was")

    def _is_shown(self, pixels: NDArray[np.intp]) -> bool:
        for layer in self.viewer.layers:
            if isinstance(layer, Labels):
                if layer.ndim != len(pixels) or (pixels.max(axis=1) >= layer.data.shape).any():
                    continue
                values = layer.data[tuple(pixels)]
                if values[0] and (values == values[0]).all():
                    return True
        return False

    @contextmanager
    def edits(self, layer: Layer, kind: str = "edit") -> Iterator[None]:
        """Remember what the user does to a layer in this block; ``kind`` may be ``undo`` or ``redo``."""
        before, n_before = content(layer), self._n_past(layer)
        yield
        after, n_after = content(layer), self._n_past(layer)
        if layer not in self.made and is_same(before, after) and n_before == n_after:
            return
        made = self.made.setdefault(layer, Made(before))
        if kind == "edit" and n_after > n_before:
            made.past += [before] * (n_after - n_before)  # a class that is new takes two steps
            made.future.clear()
        elif kind != "edit" and n_before != n_after:
            self._step_through(made, layer, kind, before)
        elif not is_same(before, after):  # pixels written around napari's history
            made.past.clear()
            made.future.clear()
        made.content = after
        self.clicked = [pixels for pixels in self.clicked if self._is_shown(pixels)]

    def _step_through(self, made: Made, layer: Layer, kind: str, before: list[NDArray[Any]]) -> None:
        """Raise where undo or redo has brought another state than there was."""
        back, forth = (made.past, made.future) if kind == "undo" else (made.future, made.past)
        if back and not is_same(back.pop(), content(layer)):
            raise Fault(f"{kind} in {layer.name} brings another state than there was")
        forth.append(before)

    def _n_past(self, layer: Layer) -> int:
        context = self.annotating.model.context
        if context is not None and context.layer.layer is layer:
            return len(context.session.history.done)
        return len(getattr(layer, "_undo_history", ()))

    # -- what the user does to layers ---------------------------------------------------------------------

    def _any(self, *kinds: type[Layer]) -> Any:
        found = [one for one in self.viewer.layers if isinstance(one, kinds) and is_the_users(one)]
        return found[self.rng.integers(len(found))] if found else None

    def _place(self, layer: Layer, *moves: tuple[float, float]) -> list[Any]:
        """Return a place in the pixels of a layer; with moves, those that lie (y, x) from it."""
        lead = self.rng.integers(0, N_SLICES, max(layer.ndim - 2, 0)).tolist()
        y, x = self.rng.integers(0, SIDE, 2).tolist()
        if not moves:
            return [*lead, y, x]
        return [[*lead, y + dy, x + dx] for dy, dx in moves]

    def _number(self, layer: Labels) -> int:
        known = np.unique(layer.data)
        new = int(known.max()) + 1
        return int(self.rng.choice([new, *known[known > 0].tolist()]))

    def paint(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            with self.edits(layer):
                layer.brush_size = int(self.rng.integers(1, 7))
                layer.paint(self._place(layer), self._number(layer))

    def erase(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            with self.edits(layer):
                layer.brush_size = int(self.rng.integers(2, 9))
                layer.paint(self._place(layer), 0)

    def fill(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            with self.edits(layer):
                layer.fill(self._place(layer), self._number(layer))

    def polygon(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            with self.edits(layer):
                layer.paint_polygon(self._place(layer, (0, 0), (0, 6), (6, 0)), self._number(layer))

    def write_pixels(self) -> None:
        layer = self._any(Labels)
        context = self.annotating.model.context
        if layer is not None and (context is None or context.layer.layer is not layer):
            square = self._place(layer, *np.ndindex(3, 3))
            with self.edits(layer):
                set_pixels(layer, tuple(np.array(square).T.clip(0, SIDE - 1)), 77)

    def undo(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            layer.visible = True  # of what is out of sight napari tells nobody
            with self.edits(layer, "undo"):
                self._session_or(layer, "undo")

    def redo(self) -> None:
        layer = self._any(Labels)
        if layer is not None:
            layer.visible = True
            with self.edits(layer, "redo"):
                self._session_or(layer, "redo")

    def _session_or(self, layer: Labels, name: str) -> None:
        """Undo where the key of the layer does it: in its annotation, else in napari."""
        context = self.annotating.model.context
        if context is not None and context.layer.layer is layer:
            if self.rng.random() < 0.3:
                getattr(layer, name)()  # by napari's own menu
            context.tools.once(name)
        else:
            getattr(layer, name)()

    def points(self) -> None:
        layer = self._any(Points)
        if layer is None:
            return
        with self.edits(layer):
            kind = self.rng.choice(["add", "move", "delete", "nudge"]) if len(layer.data) else "add"
            row = int(self.rng.integers(max(len(layer.data), 1)))
            if kind == "add":
                layer.add([self._place(layer)])
            elif kind == "delete":
                layer.selected_data = {row}
                layer.remove_selected()
            elif kind == "move":
                moved = np.array(layer.data)
                moved[row] = self._place(layer)
                layer.data = moved
            else:
                layer.selected_data = {row}
                lead = (0,) * (layer.ndim - 2)
                layer._move([row], np.add(layer.data[row], (*lead, 0, 3)))
                layer._move([row], np.add(layer.data[row], (*lead, 2, 0)))

    def boxes(self) -> None:
        layer = self._any(Shapes)
        if layer is None:
            return
        with self.edits(layer):
            kind = self.rng.choice(["add", "move", "resize", "delete"]) if layer.nshapes else "add"
            row = int(self.rng.integers(max(layer.nshapes, 1)))
            if kind == "add":
                layer.add_rectangles(np.array(self._place(layer, *SQUARE)))
            elif kind == "delete":
                layer.selected_data = {row}
                layer.remove_selected()
            else:
                data = [np.array(one) for one in layer.data]
                lead = (layer.ndim - 2,)
                if kind == "move":
                    data[row] = data[row] + (*np.zeros(lead), 2, 1)
                else:
                    data[row] = data[row] * (*np.ones(lead), 1.1, 1.2)
                layer.data = data

    def copy(self) -> None:
        layer = self._any(Labels, Points, Shapes)
        if layer is not None:
            data, state, kind = layer.as_layer_data_tuple()
            copy = self.viewer.add_layer(Layer.create(deepcopy(data), state, kind))
            self.made[copy] = Made(content(copy))

    def rename(self) -> None:
        layer = self._any(Labels, Points, Shapes, Image)
        if layer is not None:
            self.n_named += 1
            layer.name = f"mine {self.n_named}"

    def reorder(self) -> None:
        n = len(self.viewer.layers)
        self.viewer.layers.move(int(self.rng.integers(n)), int(self.rng.integers(n)))

    def delete_layer(self) -> None:
        layer = self._any(Labels, Points, Shapes)
        if layer is not None and self.rng.random() < 0.6:
            self._remove(layer)

    def _remove(self, layer: Layer) -> None:
        self.viewer.layers.remove(layer)
        self.made.pop(layer, None)
        self.clicked = [pixels for pixels in self.clicked if self._is_shown(pixels)]

    def activate(self) -> None:
        layers = list(self.viewer.layers)
        self.viewer.layers.selection.active = layers[self.rng.integers(len(layers))]

    # -- the annotate panel -------------------------------------------------------------------------------

    def begin(self) -> None:
        model = self.annotating.model
        if model.session is not None:
            return
        start = self._any(Labels, Points) if self.rng.random() < 0.9 else None
        image = self.images[int(self.rng.integers(2))]
        own = {} if start is None else start.metadata.get(METADATA, {})
        image = next((one for one in self.images if str(one.unique_id) == own.get("source")), image)
        before = None if start is None else content(start)
        opened = start_session(image, None, start, journal=None)
        model.open(opened)
        layer = opened.layer
        if layer is start and not is_same(content(layer), before):
            raise Fault("the annotation changed the cells that it began with")
        self.made[layer] = Made(content(layer))

    def correct(self) -> None:
        """Split, merge, delete, draw, give a class, undo: through the tools of the panel."""
        context = self.annotating.model.context
        if context is None:
            return
        tools, session = context.tools, context.session
        numbers = session.store.numbers().tolist()
        kind = str(self.rng.choice(["split", "merge", "delete", "draw", "class", "grow", "undo", "redo"]))
        with self.edits(context.layer.layer, kind if kind in ("undo", "redo") else "edit"):
            if kind in ("undo", "redo"):
                tools.once(kind)
            elif kind == "draw":
                session.add_disc(self._place(context.layer.layer), 5.0)
            elif kind == "class" and numbers:
                session.set_class_names(("red", "white"))
                session.set_class(int(self.rng.choice(numbers)), int(self.rng.integers(2)))
            elif kind == "merge" and len(numbers) > 1:
                keep, gone = self.rng.choice(numbers, 2, replace=False).tolist()
                session.merge(int(keep), int(gone))
            elif kind == "split" and numbers:
                number = int(self.rng.choice(numbers))
                *lead, y, x = session.store.centre_of(number).tolist()
                session.split_line(number, [[*lead, y, x - 20], [*lead, y, x + 20]])
            elif kind in ("delete", "grow") and numbers:
                tools.change(kind, int(self.rng.choice(numbers)))

    def finish(self) -> None:
        if self.rng.random() < 0.5:
            self.annotating.model.finish()

    # -- the count panel ----------------------------------------------------------------------------------

    def recount(self) -> None:
        if not self.count.jobs.is_busy:
            self.count.panel.count.click()

    def slide(self) -> None:
        form = self.count.panel.thresholds
        if "cell_probability" in form.values():
            form.set_values({"cell_probability": float(self.rng.uniform(0.3, 0.7))})

    def size(self) -> None:
        self.count.panel.filters.set_values({"min_area_px": int(self.rng.integers(1, 25))})

    def model(self) -> None:
        box = self.count.panel.model
        names = [place for place in range(box.count()) if box.itemData(place)]
        place = int(self.rng.choice(names))
        box.setCurrentIndex(place)
        box.activated.emit(place)

    def other_image(self) -> None:
        here = [one for one in self.images if one in self.viewer.layers]
        if here:
            self.viewer.layers.selection.active = here[self.rng.integers(len(here))]

    def untick(self) -> None:
        boxes = [box for box in self.count.panel.outputs.values() if not box.isHidden()]
        box = boxes[self.rng.integers(len(boxes))]
        box.setChecked(not box.isChecked())

    def regions(self) -> None:
        """Draw, move or delete a region."""
        drawn = [
            one for one in self.viewer.layers if isinstance(one, Shapes) and METADATA not in one.metadata
        ]
        if not drawn:
            layer = self.viewer.add_shapes(ndim=2, name="regions")
            self.made[layer] = Made(content(layer))
        else:
            layer = drawn[self.rng.integers(len(drawn))]
        with self.edits(layer):
            if layer.nshapes and self.rng.random() < 0.6:
                layer.data = [np.add(one, (1, 2)) for one in layer.data]
            elif layer.nshapes and self.rng.random() < 0.3:
                layer.selected_data = {0}
                layer.remove_selected()
            else:
                layer.add_polygons(np.array(self._place(layer, (0, 0), (0, 25), (25, 25), (25, 0))))

    def count_in(self) -> None:
        box = self.count.panel.region
        place = box.findData(str(self.rng.choice(["whole", "drawn"])))
        box.setCurrentIndex(place)
        box.activated.emit(place)

    def click(self) -> None:
        """Add a cell by click, and remember its pixels."""
        self.settle()
        if self.count.panel.ask.isHidden():
            return
        outcome = self.count.counted
        n_before = 0 if outcome is None else outcome.result.provenance.settings.get(ASKED, 0)
        image = self.count.choices.layer
        if image is None:
            return
        self.count.ask.ask(self._world_of(image))
        self.settle()
        drawn = self.count.edited.layer_of("Labels")
        with ExitStack() as held:
            for layer in filter(None, map(self.count.edited.layer_of, OUTPUTS)):
                held.enter_context(self.edits(layer))  # the click adds to it
            before = None if drawn is None else drawn.data.copy()
            self.count.ask.keep()
            self.settle()
        if before is not None and not np.array_equal(drawn.data[before > 0], before[before > 0]):
            raise Fault(f"a click took pixels from cells of {drawn.name}")
        after = self.count.counted
        is_drawn = drawn is not None  # with the pixels that are free there; ``edits`` has seen to it
        if (
            after is None
            or after is outcome
            or is_drawn
            or not self.count.panel.outputs["Labels"].isChecked()
        ):
            return
        labels, n_after = after.result.cells.labels, after.result.provenance.settings.get(ASKED, 0)
        if labels is not None and n_after != n_before and (labels == labels.max()).any():
            offset = np.array(after.result.offset)[:, np.newaxis]
            if not offset.any():
                self.clicked.append(np.array(np.nonzero(labels == len(after.result.cells))) + offset)

    def calibrate(self) -> None:
        """Draw a box over a density."""
        tool = self.count.calibrate
        tool.begin()
        if tool.shapes is None:
            return
        with self.edits(tool.shapes):
            tool.shapes.add_rectangles(np.array(self._place(tool.shapes, *SQUARE)))

    def clear_image(self) -> None:
        """Delete an image with everything that was made of it, and open another one."""
        if self.rng.random() < 0.5:
            return
        place = int(self.rng.integers(2))
        image = self.images[place]
        own = str(image.unique_id)
        for layer in list(self.viewer.layers):
            if layer is image or layer.metadata.get(METADATA, {}).get("source") == own:
                self._remove(layer)
        if self.count.job is None:  # what is being counted is shown all the same, with a notice
            self.gone.add(own)
        self.images[place] = self._new_image(f"new {len(self.viewer.layers)}")

    def _new_image(self, name: str) -> Image:
        looks = IMAGES[str(self.rng.choice(list(IMAGES)))]
        n_slices = N_SLICES if "axis_labels" in looks else 1
        data = self.rng.uniform(0, 0.2, (n_slices, SIDE, SIDE)).astype(np.float32)
        rows, columns = np.mgrid[:SIDE, :SIDE]
        for y, x in np.argwhere(np.ones((3, 3))) * 13 + 6:
            shift = self.rng.integers(-2, 3, 2)
            inside = np.hypot(rows - y - shift[0], columns - x - shift[1]) < self.rng.uniform(2, 5)
            slices = slice(int(self.rng.integers(n_slices)), None)
            data[slices, inside] = self.rng.uniform(0.35, 1.0)
        if n_slices == 1:
            data = data[0]
        image: Image = self.viewer.add_image(data, name=name, **looks)
        return image

    def _world_of(self, image: Layer) -> Any:
        """Return a place of the world in an image, in the axes of the viewer."""
        world = image.data_to_world(self._place(image))
        return np.concatenate([np.zeros(self.viewer.dims.ndim - image.ndim), world])

    # -- the results panel --------------------------------------------------------------------------------

    def _rows(self) -> list[int]:
        n = self.results.model.n_cells
        return [int(self.rng.integers(n))] if n else []

    def table_class(self) -> None:
        self.results.link.set_class(self._rows(), str(self.rng.choice(["red", "white"])))

    def table_delete(self) -> None:
        layer, table = self.results.link.layer, self.results.view.table
        for row in self._rows():
            table.choose(row)
        if layer is not None:
            with self.edits(layer):
                self.results.view.delete.click()

    def table_filter(self) -> None:
        text = str(self.rng.choice(["", f"area_px >= {self.rng.integers(1, 40)}"]))
        self.results.view.filter.setText(text)
        self.results.view.filter.editingFinished.emit()

    def result_border(self) -> None:
        self.results.model.set_border(str(self.rng.choice(["all", "drop", "two-edges"])))

    def measure(self) -> None:
        self.results.view.groups["intensity"].setChecked(True)
        self.results.view.measure.click()

    def show_other(self) -> None:
        layer = self._any(Labels, Points)
        if layer is not None:
            self.results.show_layer(layer)
        if self.results.model.n_cells:
            self.results.model.choose(int(self.rng.integers(self.results.model.n_cells)))


def is_the_users(layer: Layer) -> bool:
    """Return whether a user works in a layer: not the ring of the table, nor what a tool draws."""
    own = layer.metadata.get(METADATA, {})
    return own.get("output") != "Chosen" and own.get("annotation", "labels") == "labels"


@contextmanager
def without_waits() -> Iterator[None]:
    """Let models count and panels follow at once; what is kept for a crash goes with it."""
    with ExitStack() as stack:
        stack.enter_context(instant_models())
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(mock.patch.object(store, "user_folder", return_value=home / "models"))
        for module, name in WAITS:
            stack.enter_context(mock.patch.object(module, name, 0))
        yield


def try_sequence(seed: int, n_steps: int, folder: Path) -> str:
    """Run one sequence; return the fault that it found and how, empty where there is none."""
    world = World(seed, folder)
    try:
        world.run(n_steps)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what a user would have met
        kind = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        where = "" if isinstance(error, AssertionError) else traceback.format_exc()
        return f"{kind} | {' > '.join(world.story)}\n{where}".strip()
    finally:
        world.close()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sequences", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first sequence; the next ones follow")
    parser.add_argument("--steps", type=int, default=15, help="in each sequence")
    parser.add_argument("--minutes", type=float, default=inf, help="no sequence begins after so many")
    arguments = parser.parse_args()
    application = QApplication.instance() or QApplication([])
    started, faults, n_done = time.perf_counter(), Counter[str](), 0
    with without_waits(), tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seed, arguments.seed + arguments.sequences):
            if time.perf_counter() - started > 60 * arguments.minutes:
                break
            n_done += 1
            found = try_sequence(seed, arguments.steps, Path(folder))
            if found:
                faults[found.partition(" | ")[0]] += 1
                print(f"seed {seed}: {found}", flush=True)
    del application
    told = {
        "sequences": n_done,
        "first_seed": arguments.seed,
        "steps": arguments.steps * n_done,
        "faults": sum(faults.values()),
        "kinds": dict(faults),
        "seconds": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
