"""Cells of opened images that were corrected in the viewer: which they are, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from napari.layers import Layer
from qtpy.QtCore import QObject

from cellwright.core.tasks import Task
from cellwright.files.folders.results import ImageOutcome
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.folder.model import FolderModel, Place
from cellwright.widgets.folder.view import FolderView
from cellwright.widgets.shared.cells.measured_cells import measure_task
from cellwright.widgets.shared.cells.snapshot import Snapshot, is_cells_layer, snapshot_of
from cellwright.widgets.shared.edited_layers import METADATA, content_of, is_edited
from cellwright.widgets.shared.layer_io import ANNOTATION, layer_of_id
from cellwright.widgets.shared.messages import telling


class Saved(NamedTuple):
    """What became of images whose cells were saved, with their folders, and what the user should know."""

    outcomes: list[tuple[Path, ImageOutcome]]
    notices: list[str]


class Corrections(QObject):
    """Saves what was corrected of the images that the panel has opened."""

    def __init__(self, viewer: Any, view: FolderView, model: FolderModel) -> None:
        super().__init__(view)
        self._viewer, self._view, self._model = viewer, view, model
        self._places: dict[str, Place] = {}  # by the id of the layer of the image
        self._saved: dict[str, int] = {}  # what layers held when they were saved, by their id
        view.save.clicked.connect(self.save)

    def note(self, image: Layer, place: Place) -> None:
        """Remember where the results of an image lie that was opened."""
        self._places[str(image.unique_id)] = place

    def unsaved(self) -> dict[str, Layer]:
        """Return the cells that were corrected since they were opened or saved, by the id of their image."""
        found: dict[str, Layer] = {}
        for layer in self._viewer.layers:
            own = layer.metadata.get(METADATA, {})
            image_id = str(own.get("source"))
            if image_id not in self._places or not is_cells_layer(layer):
                continue
            is_corrected = is_edited(layer) or ANNOTATION in own
            if is_corrected and self._saved.get(str(layer.unique_id)) != content_of(layer):
                found[image_id] = layer  # an annotation lies above what it began with
        return found

    def save(self) -> None:
        """Save all cells that were corrected into the folders of their images."""
        tell, jobs = self._view.message.tell, self._view.jobs
        if jobs.is_busy:
            tell("Images are still being counted. Save the corrections when that is done.")
            return
        with telling(self._view.message.fail):
            unsaved = self.unsaved()
            corrected = [
                (self._places[image_id], snapshot_of(layer, layer_of_id(self._viewer, image_id)))
                for image_id, layer in unsaved.items()
            ]
            if not corrected:
                tell("Nothing was corrected since it was opened or saved.")
                return
            contents = {str(layer.unique_id): content_of(layer) for layer in unsaved.values()}
            tell("")
            jobs.start(save_task(corrected), lambda saved: self._on_saved(saved, contents))

    def _on_saved(self, saved: Saved, contents: dict[str, int]) -> None:
        self._saved |= contents
        outcomes = [one for output, one in saved.outcomes if output == self._model.output]
        self._model.arrived.extend(outcomes)
        self._model.take_arrived()
        names = ", ".join(one.image.name for _, one in saved.outcomes)
        told = [f"Saved {names}; summary and report follow.", *saved.notices]
        self._view.message.tell(" ".join(told))


def save_task(corrected: Sequence[tuple[Place, Snapshot]]) -> Task[Saved]:
    """Save cells into the folders that their images were counted into."""
    from cellwright.inference.corrections import save_corrected

    saved = Saved([], [])
    for (output, name), cells in corrected:
        measured = yield from measure_task(cells, MeasureSettings(()))
        saving = save_corrected(output, name, measured.result, on_notice=saved.notices.append)
        saved.outcomes.append((output, (yield from saving)))
    return saved
