"""What Results is set to while cells are annotated, in files beside the journal: a killed program loses none.

::

    <image>.results.json        measurements, filters, rule of the border, markers, names of mask and nuclei
    <image>.results.geojson     the shapes of regions, and those that are cut out
    <image>.results.gate.json   the gate of the scatter plot
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Image as ImageLayer
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError, ReadError
from cellwright.files.atomic import write_text
from cellwright.files.regions import drawn_shapes, read_regions, write_regions
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.inference.settings import InputFiles
from cellwright.ops.measure.regions import Region, ShapeRegion, is_excluded
from cellwright.widgets.results.model import ResultsModel, ScatterGate
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.coordinates import image_in
from cellwright.widgets.shared.edited_layers import JOURNAL, RESUMED, metadata_of
from cellwright.widgets.shared.jobs import debouncer
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.regions import shapes_layer

WRITE_MS = 500
KEPT_BACK = (
    "Regions and filters are those set here, not those kept with this annotation, which stay as they are. A "
    "crash would lose those set here."
)
SETTINGS, REGIONS, GATE = ".results.json", ".results.geojson", ".results.gate.json"


class KeptSettings(QObject):
    """Writes them soon after each change, and takes them up where an annotation is resumed."""

    def __init__(
        self, view: ResultsView, model: ResultsModel, link: ViewerLink, take: Callable[..., None]
    ) -> None:
        super().__init__(view)
        self._view, self._model, self._link, self._take = view, model, link, take
        self._soon = debouncer(self, WRITE_MS, self._write)
        model.measured_changed.connect(self._on_changed)
        model.kept_changed.connect(self._on_changed)
        model.let_go.connect(self._on_let_go)
        view.take_kept.clicked.connect(lambda: self.take_up(is_asked=True))

    @property
    def _journal(self) -> Path | None:
        path = self._own.get(JOURNAL)
        return None if path is None else Path(path)

    @property
    def _own(self) -> dict[str, Any]:
        layer = self._link.layer
        return {} if layer is None else metadata_of(layer)

    def _on_changed(self) -> None:
        if self._journal is not None and self._model.measured is not None:
            self._soon.throttle()

    def _on_let_go(self, text: str) -> None:
        message = self._view.message
        message.tell(f"{message.text()} {text}".strip(), is_error=True)

    def _write(self) -> None:
        journal, model = self._journal, self._model
        if journal is None or model.measured is None or model.wanted is not None:
            return
        if RESUMED in self._own:  # what was kept before is not taken up yet
            return
        gate = None if model.gate is None else asdict(model.gate)
        boxes = (self._view.mask_layer, self._view.nuclei)
        mask, nuclei = ("" if box.layer is None else box.layer.name for box in boxes)
        files = InputFiles(mask=mask, nuclei=nuclei)
        with telling(self._view.message.fail):
            save_recipe(journal.with_suffix(SETTINGS), Recipe(analysis=model.settings, files=files))
            shapes = drawn_shapes(model.regions)
            write_regions(journal.with_suffix(REGIONS), shapes, model.measured.snapshot.image)
            write_text(journal.with_suffix(GATE), json.dumps(gate, default=np.ndarray.tolist))

    def take_up(self, *, is_asked: bool = False) -> None:
        """Set all of it as it was when the annotation that was resumed was last open.

        What the user has set since the panel was opened stays until they ask for it; nothing is written over
        what was kept before. What is damaged is told and left out.
        """
        journal, image_layer = self._journal, self._link.image_layer
        model, view = self._model, self._view
        view.take_kept.hide()
        if journal is None or image_layer is None or RESUMED not in self._own:
            return
        is_kept = journal.with_suffix(SETTINGS).exists()
        is_set = model.measure or model.conditions or model.markers or model.gate or view.regions.layer
        if is_kept and is_set and not is_asked:
            view.message.tell(KEPT_BACK)
            view.take_kept.show()
            return
        del self._own[RESUMED]
        if not is_kept:
            return
        errors: list[CellwrightError] = []
        recipe, gate = Recipe(analysis=model.settings), None
        with telling(errors.append):
            self._show(read_regions(journal.with_suffix(REGIONS), image_in(image_layer)), image_layer)
        with telling(errors.append):
            gate = _gate(journal.with_suffix(GATE))
        with telling(errors.append):
            recipe = load_recipe(journal.with_suffix(SETTINGS))
        self._take(recipe, gate)
        if errors:
            view.message.fail(errors[0])
            return
        gone = {"mask": recipe.files.mask, "nuclei": recipe.files.nuclei}
        again = "".join(f" Choose the {kind} {name!r} again." for kind, name in gone.items() if name)
        view.message.tell(f"Regions, filters and measurements are as they were with this annotation.{again}")

    def _show(self, regions: Sequence[Region], image_layer: ImageLayer) -> None:
        """Show shapes, and choose them as regions and as what is cut out."""
        drawn = [one for one in regions if isinstance(one, ShapeRegion)]
        for box, is_out in ((self._view.regions, False), (self._view.exclude, True)):
            found = [one for one in drawn if is_excluded(one.name) == is_out]
            if found:
                box.choose(shapes_layer(self._link.viewer, image_layer, found))


def _gate(path: Path) -> ScatterGate | None:
    """Return the gate in a file; ReadError where it is missing or damaged."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told is None:
            return None
        corners = np.array(told["corners"], np.float64)
        return ScatterGate(str(told["x"]), str(told["y"]), corners.reshape(len(corners), 2))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(f"Expected a gate at {path}; got: {error}. Draw it again.") from error
