"""Tables, a report, settings, and the Python or command that repeats what the panel shows."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QApplication, QFileDialog

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import beside, once
from cellwright.core.words import n_of
from cellwright.files.images import describe_images
from cellwright.files.regions import drawn_shapes, masks_of, write_region_set, write_regions
from cellwright.files.tables import settings_table, write_csv, write_parquet, write_xlsx
from cellwright.inference.recipe import (
    Recipe,
    as_command,
    as_python,
    load_recipe,
    recipe_from,
    recipe_of,
    save_recipe,
    texts_to_repeat,
)
from cellwright.inference.settings import InputFiles
from cellwright.models import store
from cellwright.ops.measure.analysis import Analysis
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.results.measuring import Measurer
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.page_tools import CountsTool
from cellwright.widgets.results.plot_tool import PlotTool
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.shared.cells.image_pixels import OTHER_THAN_FILE, differs_from_file, have_changed
from cellwright.widgets.shared.cells.measured_cells import MeasuredCells, result_of
from cellwright.widgets.shared.cells.regions import REGIONS, WINDOW
from cellwright.widgets.shared.cells.snapshot import (
    image_layer_under,
    session_layers,
    session_table,
    snapshot_of,
)
from cellwright.widgets.shared.coordinates import FILE_PART
from cellwright.widgets.shared.edited_layers import ASKED
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.messages import telling
from cellwright.widgets.shared.napari_private import ask_to_open, ask_to_save

CHANNEL_OF_FILE = re.compile(r"ch\d+")  # what such an image is called, which a count measures anyway
DENSITY = "density"  # family whose settings a provenance of a density has
INPUTS = "inputs"  # folder of regions that a command or Python text is to read
OTHER_PIXELS = (
    "Not saved: the pixels of the image have changed since its cells were measured. They are being "
    "measured again; save after that."
)
TABLES = "Table (*.csv);;Excel (*.xlsx);;Parquet (*.parquet)"


class ResultsExport(QObject):
    """Writes what counts to files and to the clipboard."""

    def __init__(
        self,
        view: ResultsView,
        model: ResultsModel,
        counts: CountsTool,
        plots: PlotTool,
        measurer: Measurer,
        on_loaded: Callable[[Recipe], None],
    ) -> None:
        super().__init__(view)
        self._view, self._model, self._on_loaded = view, model, on_loaded
        self._counts, self._plots, self._measurer = counts, plots, measurer
        self._saved_regions: tuple[Path, list[Any]] = (Path(), [])
        self.saving: Path | None = None  # what is being written
        self.looking: Job | None = None  # into files
        self._is_written = False
        view.job_bar.cancelled.connect(self._on_cancelled)
        view.job_bar.finished.connect(self._on_finished)
        view.save_table.clicked.connect(lambda: self._ask("cells", TABLES, self.save_table))
        view.save_counts.clicked.connect(lambda: self._ask("counts", "Table (*.csv)", self.save_counts))
        view.save_regions.clicked.connect(self._on_save_regions_clicked)
        view.save_report.clicked.connect(lambda: self._ask("report", "Report (*.html)", self.save_report))
        view.save_settings.clicked.connect(
            lambda: self._ask("settings", "Settings (*.json)", self.save_settings)
        )
        view.tracks.save_lineages.clicked.connect(self._on_save_lineages_clicked)
        view.tracks.save_tracks.clicked.connect(self._on_save_tracks_clicked)
        view.load_settings.clicked.connect(self._on_load_clicked)
        view.copy_python.clicked.connect(lambda: self.copy(as_python, "Python"))
        view.copy_command.clicked.connect(lambda: self.copy(as_command, "Command"))

    def recipe(self) -> Recipe:
        """Return all that the result depends on.

        SettingsError where the cells were not counted by a model, or not in the first image of a file.
        """
        measured = self._model.measured
        if measured is None:
            raise SettingsError(self._no_cells)
        self._check_is_first()
        return recipe_of(
            measured.result,
            analysis=self._model.settings,
            files=self.input_files(),
            source=measured.snapshot.image.source,
            window=self._window,
            pixel_size_um=self._pixel_size_um,
        )

    def _check_is_first(self) -> None:
        """Raise SettingsError for a further image of a file, which a command or a script cannot name."""
        link = self._plots.link
        layer = None if link.layer is None else image_layer_under(link.viewer, link.layer)
        if layer is None or self._image().source:
            return
        path = layer.source.path or ""
        n_images = len(describe_images(path))
        if FILE_PART in layer.metadata and n_images > 1:
            raise SettingsError(
                f"{Path(path).name} holds {n_images} images, and {self._image().name!r} is not the first. A "
                "command counts all of them, a script the first. Save this image by itself, and count that."
            )

    @property
    def _no_cells(self) -> str:
        """Why nothing can be saved or repeated, where no cells are shown."""
        event = self._model.count_event
        if event is not None and DENSITY in event.provenance.settings:
            return (
                "A density has no single cells to save or repeat here. Count cells saves its number or a "
                "report, and under More its settings, which cellwright count --settings takes."
            )
        return "There are no cells yet. Choose a layer with cells."

    def input_files(self) -> InputFiles:
        """Return the files of other images, and of the regions, which are written if there are none yet."""
        measured = self._model.measured
        assert measured is not None
        others = measured.snapshot.others
        other = tuple(f"{name}={image.source}" for name, image in others.items() if _is_file(image))
        nuclei = measured.snapshot.nuclei_source
        path, saved = self._saved_regions
        regions = self._model.regions
        with suppress(SettingsError):  # told with what is not repeated
            folder = store.user_folder().parent / INPUTS
            found = write_region_set(folder, regions, measured.snapshot.image)
            if found.regions and saved == _corners(regions):
                found = found._replace(regions=(str(path),))
            return InputFiles(found.regions, (), found.mask, found.outside, nuclei=nuclei, other=other)
        return InputFiles(nuclei=nuclei, other=other)

    @property
    def _pixel_size_um(self) -> tuple[float, ...]:
        """The pixel size of the layer; empty where its file tells the same."""
        image = self._image()
        sizes_um = next((one.pixel_size_um for one in describe_images(image.source)), ())
        own = image.pixel_size_um
        is_told = len(sizes_um) == len(own) and np.allclose(sizes_um, own, rtol=1e-9, atol=0)
        return () if is_told else own

    @property
    def _window(self) -> tuple[tuple[int, int], ...]:
        """The part of the image that was counted; empty for the whole."""
        measured = self._model.measured
        assert measured is not None
        window = tuple(measured.snapshot.provenance.get(WINDOW, ()))
        if window == tuple((0, n) for n in measured.snapshot.image.label_shape):
            return ()
        return window

    @property
    def unrepeatable(self) -> list[str]:
        """What was done by hand, which no settings repeat."""
        measured = self._model.measured
        if measured is None:
            return []
        found = _by_hand(measured)
        try:
            masks_of(self._model.regions)
        except SettingsError as error:  # no file of regions holds these
            found.append(str(error))
        counted = measured.snapshot.provenance.get(REGIONS)
        if counted is not None and counted.rule != self._model.region_rule:
            found.append(f"that cells were counted by the rule {counted.rule!r} before")
        if self._model.gate is not None:
            found.append("the gate of the scatter plot")
        return [*found, *_without_file(measured)]

    def copy(self, as_text: Callable[[Recipe], str], what: str) -> None:
        """Copy the text that repeats the result."""
        with telling(self._view.message.fail):
            text, clipboard = as_text(self.recipe()), QApplication.clipboard()
            if clipboard is not None:
                clipboard.setText(text)
            self._look_into_files(text)
            by_hand = self.unrepeatable
            note = f" It does not repeat {', '.join(by_hand)}." if by_hand else ""
            n_images = len(describe_images(self._image().source))
            if as_text is as_command and n_images > 1:
                note += f" The file holds {n_images} images; the command counts all."
            self._view.message.tell(f"{what} copied.{note}", is_warning=bool(note))

    def _look_into_files(self, text: str) -> None:
        """Look, beside the viewer, whether a text that was copied counts other pixels; it says so then."""
        images = self._measurer.images_now()

        def tell(differ: bool) -> None:  # noqa: FBT001 - what the job returns
            clipboard = QApplication.clipboard()
            if differ and clipboard is not None and clipboard.text() == text:
                clipboard.setText(f"# {OTHER_THAN_FILE}\n{text}")
                sentence = f"{self._view.message.text()} {OTHER_THAN_FILE}"
                self._view.message.tell(sentence, is_warning=True)

        task = once("files", lambda: any(map(differs_from_file, images)))
        fail = self._view.message.fail
        self.looking = Job(task, self).start(returned=tell, failed=fail, finished=self._on_looked)

    def _on_looked(self) -> None:
        self.looking = None

    def save_table(self, path: Path) -> None:
        """Write the cells that count, in the format that the ending of the path tells."""
        analysis, settings = self._model.analysis(), {"analysis": asdict(self._model.settings)}
        self._start(path, lambda: _write_cells(path, analysis, settings))

    def save_counts(self, path: Path) -> None:
        """Write the counts as they are shown as CSV."""
        counts = self._counts.table()
        self._start(path, lambda: write_csv(path, counts))

    def save_lineages(self, path: Path) -> None:
        """Write one row per track as CSV."""
        lineages = self._model.lineages()
        if lineages is not None:
            self._start(path, lambda: write_csv(path, lineages))

    def save_tracks(self, path: Path) -> None:
        """Write a folder as in the Cell Tracking Challenge."""
        measured = self._model.measured
        if measured is None or not measured.has_outlines:
            self._view.message.tell("Points have no masks to save. Count with a model that outlines.")
            return
        from cellwright.inference.image_count import write_tracks  # all that writes is much to load

        analysis, image = self._model.analysis(), self._image()
        self._start(path, lambda: write_tracks(path, image, analysis))

    def save_regions(self, path: Path) -> None:
        """Write the regions as GeoJSON; from then on the Python and the command take them from there."""
        regions, image = self._model.regions, self._image()

        def write() -> None:
            write_regions(path, drawn_shapes(regions), image)
            self._saved_regions = (path, _corners(regions))  # once they are there

        self._start(path, write, is_measured=False)

    def save_report(self, path: Path) -> None:
        """Write the report."""
        analysis, image = self._model.analysis(), self._image()
        recipes = texts_to_repeat(self.recipe)
        by_hand = self.unrepeatable
        if by_hand:
            recipes["Not repeated by these"] = ", ".join(by_hand)
        viewer, (pictures, legends) = self._plots.link.viewer, self._plots.pictures()
        others = [one for one in session_layers(viewer) if one is not self._plots.link.layer]
        snapshots = [snapshot_of(one, image_layer_under(viewer, one)) for one in others]
        totals, images = session_table(viewer), self._measurer.images_now()

        def write() -> None:
            from cellwright.files.report import ReportExtras, write_report

            if recipes and any(map(differs_from_file, images)):
                recipes["Other pixels"] = OTHER_THAN_FILE
            found = [(one.image, result_of(one)) for one in snapshots if one.pixels is not None]
            extras = ReportExtras(pictures, totals, found, legends=legends)
            write_report(path, image, analysis, recipes, extras)

        self._start(path, write)

    def save_settings(self, path: Path) -> None:
        """Write all settings; those of the count too, where the cells were counted.

        What belongs to the one image is left out: the part that was counted, axes, pixel size and files.
        """
        measured, recipe, analysis = self._model.measured, Recipe(), self._model.settings
        if measured is not None:
            found_by = measured.result.provenance
            with suppress(SettingsError):  # drawn by hand
                recipe = recipe_from(found_by)
            recipe = replace(recipe, with_files=tuple(found_by.settings.get("source_files", ())))
        if analysis.frame_interval_s == self._model.image_interval_s:
            analysis = replace(analysis, frame_interval_s=0.0)
        self._start(path, lambda: save_recipe(path, replace(recipe, analysis=analysis)), is_measured=False)

    def load_settings(self, path: Path) -> None:
        """Take settings from a file."""
        with telling(self._view.message.fail):
            self._on_loaded(load_recipe(path))
            self._view.message.tell(f"Settings of {path.name} loaded.")

    def _image(self) -> Image:
        measured = self._model.measured
        assert measured is not None
        return measured.snapshot.image

    def _ask(self, what: str, formats: str, save: Callable[[Path], None]) -> None:
        if self._model.measured is None:
            self._view.message.tell(self._no_cells, is_error=True)
            return
        ending = formats.partition("*")[2].partition(")")[0]
        name = f"{self._image().name}.{what}{ending}"
        path = ask_to_save(self._view, f"Save {what}", name, formats)
        if path:
            save(path)

    def _on_save_regions_clicked(self) -> None:
        if self._model.measured is not None and not drawn_shapes(self._model.regions):
            self._view.message.tell("There are no regions yet. Choose a Shapes layer on the page of counts.")
        else:
            self._ask("regions", "Regions (*.geojson)", self.save_regions)

    def _has_tracks(self) -> bool:
        if self._model.tracks is None:
            self._view.message.tell("There are no tracks yet. Press Track.", is_error=True)
        return self._model.tracks is not None

    def _on_save_lineages_clicked(self) -> None:
        if self._has_tracks():
            self._ask("lineages", "Table (*.csv)", self.save_lineages)

    def _on_save_tracks_clicked(self) -> None:
        if not self._has_tracks():
            return
        name, only_folders = f"{self._image().name}_RES", QFileDialog.Option.ShowDirsOnly
        path = ask_to_save(self._view, "Save tracks", name, "Folder (*_RES)", options=only_folders)
        if path:
            self.save_tracks(path)

    def _on_load_clicked(self) -> None:
        path = ask_to_open(self._view, "Load settings", "Settings (*.json)")
        if path:
            self.load_settings(path)

    def _start(self, path: Path, write: Callable[[], object], *, is_measured: bool = True) -> None:
        """Write a file beside the viewer; what is measured not where the image has other pixels by now."""
        is_behind = is_measured and self._measurer.is_busy  # an edit is not in the table yet
        if self._view.job_bar.is_busy or is_behind:
            self._view.message.tell("Cells are still being measured; try again in a moment.")
            return
        self._view.message.tell(f"Saving {path}…")
        self.saving, self._is_written = path, False
        pixels = self._measurer.pixels_now() if is_measured else []
        self._view.job_bar.start(beside("save", lambda: self._write(write, pixels)), self._on_saved)
        self._view.job_bar.follow()

    def _write(self, write: Callable[[], object], pixels: list[tuple[Any, int | None]]) -> None:
        if have_changed(pixels):  # which napari tells of only once the layer is refreshed
            return
        write()
        self._is_written = True

    def _on_saved(self, _: object) -> None:
        if self._is_written:
            self._view.message.tell(f"Saved {self.saving}")
        else:
            self._view.message.tell(OTHER_PIXELS, is_error=True)
            self._measurer.reread()

    def _on_cancelled(self) -> None:
        if self.saving is not None and self._is_written:  # before Cancel was pressed
            self._on_saved(None)
        elif self.saving is not None:
            self._view.message.tell(f"Saving {self.saving} was cancelled.")

    def _on_finished(self) -> None:
        self.saving = None


def _is_file(image: Image) -> bool:
    """Return whether a file holds an image and nothing more: no other channels, say."""
    return bool(image.source) and image.source_part is None


def _without_file(measured: MeasuredCells) -> list[str]:
    snapshot = measured.snapshot
    others = {name: image for name, image in snapshot.others.items() if not _is_file(image)}
    found = [f"the image {name}" for name in others if not CHANNEL_OF_FILE.fullmatch(name)]
    if measured.nuclei is not None and not snapshot.nuclei_source:
        found.append("the nuclei")
    return [f"{one}, which is in no file" for one in found]


def _corners(regions: RegionSet) -> list[Any]:
    """Return what tells drawn regions apart from others."""
    shapes = drawn_shapes(regions)
    return [(region.name, region.index, [ring.tolist() for ring in region.rings]) for region in shapes]


def _by_hand(measured: MeasuredCells) -> list[str]:
    found = []
    if measured.snapshot.is_of_other_pixels:
        found.append("that the pixels of the image changed after the count")
    found += [f"{one} by hand" for one in measured.by_hand]
    n_asked = measured.result.provenance.settings.get(ASKED, 0)
    if n_asked:
        found.append(f"{n_of(n_asked, 'cell')} added by click")
    return found


def _write_cells(path: Path, analysis: Analysis, settings: dict[str, Any]) -> None:
    ending = path.suffix.lower()
    if ending == ".xlsx":
        from cellwright.inference.image_count import tables_of

        tables = tables_of(analysis)
        tables["settings"] = settings_table(analysis.result, settings)
        write_xlsx(path, tables)
    elif ending == ".parquet":
        write_parquet(path, analysis.table)
    else:
        write_csv(path, analysis.table)
