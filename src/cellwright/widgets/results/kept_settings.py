"""What Results is set to while cells are annotated, in files beside the journal: a killed program loses none.

::

    <image>.results.json        measurements, filters, rule of the border, markers, names of mask and nuclei
    <image>.results.geojson     the shapes of regions, and those that are cut out
    <image>.results.gate.json   the gate of the scatter plot
    <image>.results.mask.npz    the labels that are the mask, and where they lie; of nuclei in the same way
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from numpy.typing import NDArray
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError, ReadError, expecting
from cellwright.core.tasks import once
from cellwright.files.atomic import atomic_write, write_text
from cellwright.files.regions import drawn_shapes, read_regions, write_regions
from cellwright.inference.recipe import Recipe, load_recipe, save_recipe
from cellwright.inference.settings import InputFiles
from cellwright.ops.measure.filters import ScatterGate
from cellwright.ops.measure.regions import Region, ShapeRegion, is_excluded
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.cells.regions import shapes_layer
from cellwright.widgets.shared.combos import LayerComboBox
from cellwright.widgets.shared.coordinates import full_resolution, image_in, whole_placement
from cellwright.widgets.shared.edited_layers import JOURNAL, RESUMED, checksum, metadata_of
from cellwright.widgets.shared.jobs import Job, debouncer
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.napari_private import labels_layer

WRITE_MS = 500
KEPT_BACK = (
    "Regions and filters are those set here, not those kept with this annotation, which stay as they are. A "
    "crash would lose those set here."
)
SETTINGS, REGIONS, GATE = ".results.json", ".results.geojson", ".results.gate.json"
MASK, NUCLEI = ".results.mask.npz", ".results.nuclei.npz"


class KeptSettings(QObject):
    """Writes them soon after each change, and takes them up where an annotation is resumed."""

    def __init__(
        self, view: ResultsView, model: ResultsModel, link: ViewerLink, take: Callable[..., None]
    ) -> None:
        super().__init__(view)
        self._view, self._model, self._link, self._take = view, model, link, take
        self._written: dict[Path, int] = {}  # checksums of the labels in files
        self._job: Job | None = None
        self._is_stale = False
        self._soon = debouncer(self, WRITE_MS, self._write)
        model.measured_changed.connect(self._on_changed)
        model.kept_changed.connect(self._on_changed)
        message = view.message
        model.let_go.connect(lambda text: message.tell(f"{message.text()} {text}".strip(), is_error=True))
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

    def _write(self) -> None:
        journal, model = self._journal, self._model
        if journal is None or model.measured is None or model.wanted is not None:
            return
        if RESUMED in self._own:  # what was kept before is not taken up yet
            return
        gate = None if model.gate is None else asdict(model.gate)
        mask, nuclei = ("" if box.layer is None else box.layer.name for box in self._boxes.values())
        is_outside = bool(mask and self._view.mask_side.currentData())
        files = InputFiles(mask=mask, outside=is_outside, nuclei=nuclei)
        with telling(self._view.message.fail):
            save_recipe(journal.with_suffix(SETTINGS), Recipe(analysis=model.settings, files=files))
            shapes = drawn_shapes(model.regions)
            write_regions(journal.with_suffix(REGIONS), shapes, model.measured.snapshot.image)
            write_text(journal.with_suffix(GATE), json.dumps(gate, default=np.ndarray.tolist))
            kept = {journal.with_suffix(name): _layer_of(box) for name, box in self._boxes.items()}
            if self._job is None:  # beside the viewer, for labels may be large; else once that has ended
                task = once("keep", lambda: _write_labels(kept, self._written))
                fail = self._view.message.fail
                self._job = Job(task, self).start(failed=fail, finished=self._on_labels_written)
            else:
                self._is_stale = True

    @property
    def _boxes(self) -> dict[str, LayerComboBox]:
        """The boxes whose labels are kept, by the ending of their files."""
        return {MASK: self._view.mask_layer, NUCLEI: self._view.nuclei}

    def _on_labels_written(self) -> None:
        self._job = None
        if self._is_stale:
            self._is_stale = False
            self._soon.throttle()

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
        if is_kept and self._is_set and not is_asked:
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
        names = {MASK: recipe.files.mask, NUCLEI: recipe.files.nuclei}
        for ending, box in self._boxes.items():
            with telling(errors.append):
                if names[ending]:
                    box.choose(_shown(self._link.viewer, journal.with_suffix(ending), names[ending]))
        view.mask_side.choose_data(recipe.files.outside)
        view.mask_layer.chosen.emit()
        self._take(recipe, gate)
        if errors:
            view.message.fail(errors[0])
            return
        view.message.tell("Regions, filters and measurements are as they were with this annotation.")

    @property
    def _is_set(self) -> bool:
        """Whether the user has set anything here."""
        model, view = self._model, self._view
        boxes = (view.regions, view.exclude, *self._boxes.values())
        chosen = [box.layer for box in boxes if box.layer is not None]
        return bool(model.measuring.measure or model.conditions or model.markers or model.gate or chosen)

    def _show(self, regions: Sequence[Region], image_layer: ImageLayer) -> None:
        """Show shapes, and choose them as regions and as what is cut out."""
        drawn = [one for one in regions if isinstance(one, ShapeRegion)]
        for box, is_out in ((self._view.regions, False), (self._view.exclude, True)):
            found = [one for one in drawn if is_excluded(one.name) == is_out]
            if found:
                box.choose(shapes_layer(self._link.viewer, image_layer, found))


def _layer_of(box: LayerComboBox) -> tuple[NDArray[Any], dict[str, Any]] | None:
    """Return the labels that are chosen in a box and where they lie; None without any."""
    if box.layer is None:
        return None
    placement = whole_placement(box.layer)
    placement["units"] = [str(one) for one in placement["units"]]
    return full_resolution(box.layer), placement


def _write_labels(
    kept: Mapping[Path, tuple[NDArray[Any], dict[str, Any]] | None], written: dict[Path, int]
) -> None:
    """Write labels that are not in their file yet; remove the file of those that are chosen no more."""
    for path, chosen in kept.items():
        if chosen is None:
            path.unlink(missing_ok=True)
            written.pop(path, None)
            continue
        labels, placement = np.asarray(chosen[0]), chosen[1]
        mark = checksum(labels)
        if written.get(path) != mark:
            with atomic_write(path) as part, part.open("wb") as file:
                np.savez_compressed(file, labels=labels, **placement)
            written[path] = mark


def _shown(viewer: Any, path: Path, name: str) -> Labels:
    """Return a layer of kept labels, if it is there already that one; ReadError without the file."""
    what = f"the labels {name!r} at {path}"
    with expecting(ReadError, what, "Choose them again.", OSError, ValueError, KeyError, BadZipFile):
        with np.load(path) as file:
            parts = dict(file)
        labels = parts.pop("labels")
    for layer in viewer.layers:
        if isinstance(layer, Labels) and layer.name == name and np.array_equal(layer.data, labels):
            return layer
    words = {key: tuple(map(str, parts[key])) for key in ("units", "axis_labels")}
    layer = labels_layer(labels, name=name, **{**parts, **words})
    viewer.add_layer(layer)
    return layer


def _gate(path: Path) -> ScatterGate | None:
    """Return the gate in a file; ReadError where it is missing or damaged."""
    what = f"a gate at {path}"
    with expecting(ReadError, what, "Draw it again.", OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept is None:
            return None
        corners = np.array(kept["corners"], np.float64)
        return ScatterGate(str(kept["x"]), str(kept["y"]), corners.reshape(len(corners), 2))
