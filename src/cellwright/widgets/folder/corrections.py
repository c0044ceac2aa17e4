"""Cells of opened images that were corrected in the viewer: which they are, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from napari.layers import Layer
from qtpy.QtCore import QObject

from cellwright.core.errors import CellwrightError
from cellwright.core.tasks import Task
from cellwright.core.words import n_of
from cellwright.files.folders.image_list import proofread_labels
from cellwright.files.folders.results import ImageOutcome
from cellwright.files.folders.written import BESIDE, done_file, facts_of
from cellwright.files.images import read_image
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.folder.model import FolderModel, Place
from cellwright.widgets.folder.view import FolderView
from cellwright.widgets.shared.cells.measured_cells import measure_task
from cellwright.widgets.shared.cells.snapshot import Snapshot, is_cells_layer, snapshot_of
from cellwright.widgets.shared.edited_layers import content_of, is_edited, metadata_of
from cellwright.widgets.shared.layer_io import ANNOTATION, layer_of_id
from cellwright.widgets.shared.messages import news_of, telling


class Opened(NamedTuple):
    """An image that was opened."""

    place: Place
    layers: tuple[Layer, ...]  # the image and its cells


class Correction(NamedTuple):
    """Cells of an image that are to be saved."""

    place: Place
    cells: Snapshot | Path | str  # of a layer, a label image, or of files that made way for a count
    image_id: str = ""  # id of the layer of the image
    layer_id: str = ""  # of its cells
    content: int = 0  # what that layer holds


class Saved(NamedTuple):
    """What was saved and what became of its images, and what the user should know."""

    outcomes: list[tuple[Correction, ImageOutcome]]
    notices: list[str]
    errors: list[str]  # why others were not


class Corrections(QObject):
    """Saves what was corrected of the images that the panel has opened."""

    def __init__(self, viewer: Any, view: FolderView, model: FolderModel) -> None:
        super().__init__(view)
        self._viewer, self._view, self._model = viewer, view, model
        news = news_of(viewer)  # which stay when the panel is closed
        self._opened: dict[str, Opened] = news.opened
        self._saved: dict[str, int] = news.saved
        view.save.clicked.connect(self.save)
        view.take_proofread.clicked.connect(self.save_proofread)

    def note(self, place: Place, image: Layer, cells: Sequence[Layer]) -> None:
        """Remember where the results of an image lie that is opened, and its layers."""
        self._opened[str(image.unique_id)] = Opened(place, (image, *cells))
        cells = [layer for layer in cells if is_cells_layer(layer)]  # no density
        self._saved.update({str(layer.unique_id): content_of(layer) for layer in cells})

    def at_rest(self) -> list[Layer]:
        """Forget the images of which all that was corrected is saved, and return their layers."""
        unsaved = self.unsaved()
        done = [image_id for image_id in self._opened if image_id not in unsaved]
        return [layer for image_id in done for layer in self._opened.pop(image_id).layers]

    def unsaved_images(self) -> list[str]:
        """Return the names of the images of which not all that was corrected is saved."""
        return [self._opened[image_id].place.name for image_id in self.unsaved()]

    def unsaved(self) -> dict[str, Layer]:
        """Return the cells that were corrected since they were opened or saved, by the id of their image."""
        found: dict[str, Layer] = {}
        for layer in self._viewer.layers:
            own = metadata_of(layer)
            image_id = str(own.get("source"))
            if image_id not in self._opened or not is_cells_layer(layer):
                continue
            is_corrected = is_edited(layer) or ANNOTATION in own
            if is_corrected and self._saved.get(str(layer.unique_id)) != content_of(layer):
                found[image_id] = layer  # an annotation lies above what it began with
        return found

    def show_again(self, output: Path, name: str) -> tuple[Layer, Layer] | None:
        """Show an image that is open with what was corrected of it and not saved, and hide all others.

        Returns the layers of the image and of its cells; None where nothing of it is unsaved.
        """
        unsaved = self.unsaved()
        shown = next((one for one in unsaved if self._opened[one].place[:2] == (output, name)), None)
        if shown is None:
            return None
        for layer in self._viewer.layers:
            image_id = metadata_of(layer).get("source", layer.unique_id)
            if str(image_id) in self._opened:
                layer.visible = str(image_id) == shown
        return self._opened[shown].layers[0], unsaved[shown]

    def save(self) -> None:
        """Save all cells that were corrected into the folders of their images."""
        with telling(self._view.message.fail):
            corrected = []
            for image_id, layer in self.unsaved().items():
                cells = snapshot_of(layer, layer_of_id(self._viewer, image_id))
                layer_id, content = str(layer.unique_id), content_of(layer)
                corrected.append(Correction(self._opened[image_id].place, cells, image_id, layer_id, content))
            self._start(corrected)

    def _start(self, corrected: Sequence[Correction]) -> None:
        tell, jobs = self._view.message.tell, self._view.jobs
        if jobs.is_busy:
            tell("Images are still being counted. Save the corrections when that is done.")
        elif not corrected:
            tell("Nothing has been corrected since it was opened or saved.")
        else:
            tell("")
            jobs.start(save_task(corrected), self._on_saved)

    # -- what was proofread -------------------------------------------------------------------------------

    def proofread(self) -> list[Correction]:
        """Return the labels of shown images that were proofread and are not what counts.

        Of images that were counted again it is the cells that were corrected before, unless they were
        proofread since.
        """
        output, found = self._model.output or Path(), []
        for one in self._model.done:
            image = one.image
            counted_ns = facts_of(done_file(image.name, output)).changed_ns
            labels = None if image.part else proofread_labels(image.path)
            is_newer = labels is not None and facts_of(labels).changed_ns > counted_ns
            beside = str(one.row.get(BESIDE, ""))
            cells: Path | str | None = None
            if (output / beside).is_file() and not is_newer:
                cells = beside
            elif labels is not None and (is_newer or "corrected" not in one.row):
                cells = labels
            if cells is not None:
                found.append(Correction(Place(output, image.name, counted_ns), cells))
        return found

    def offer_proofread(self) -> None:
        """Offer to take over what was proofread, if there is anything."""
        n = len(self.proofread())
        self._view.take_proofread.setText(f"Apply earlier corrections ({n_of(n, 'image')})")
        self._view.take_proofread.setVisible(n > 0)

    def save_proofread(self) -> None:
        """Save what was proofread into the folder."""
        self._start(self.proofread())

    def _on_saved(self, saved: Saved) -> None:
        for one, outcome in saved.outcomes:
            self._saved[one.layer_id] = one.content
            if one.image_id in self._opened:
                self._opened[one.image_id] = self._opened[one.image_id]._replace(place=one.place)
            if one.place.output == self._model.output:
                self._model.arrived.append(outcome)
        self._model.take_arrived()
        self.offer_proofread()
        sentences = [*saved.notices, *saved.errors]
        if saved.outcomes:
            names = ", ".join(outcome.image.name for _, outcome in saved.outcomes)
            sentences.insert(0, f"Saved {names}; summary and report are made anew.")
        self._view.message.tell(" ".join(sentences), is_warning=bool(saved.errors))


def save_task(corrected: Sequence[Correction]) -> Task[Saved]:
    """Save cells of layers or of files into the folders that their images were counted into."""
    from cellwright.inference.corrections import save_corrected

    saved = Saved([], [], [])
    for one in corrected:
        output, name, opened_ns = one.place
        cells: Any = one.cells
        try:
            if isinstance(cells, Path):
                cells = read_image(cells).read()
            elif isinstance(cells, Snapshot):
                cells = (yield from measure_task(cells, MeasureSettings(()))).result
            outcome = yield from save_corrected(
                output, name, cells, opened_ns=opened_ns, on_notice=saved.notices.append
            )
        except CellwrightError as error:  # the others are saved
            saved.errors.append(str(error))
        else:
            place = Place(output, name, facts_of(done_file(name, output)).changed_ns)
            saved.outcomes.append((one._replace(place=place), outcome))
    return saved
