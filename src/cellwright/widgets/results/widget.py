"""The results panel: the number, the table of cells and plots of a layer, linked to the viewer."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from napari.layers import Labels, Layer, Points, Shapes
from numpy.typing import NDArray
from qtpy.QtCore import QSignalBlocker, QSize
from qtpy.QtWidgets import QSizePolicy, QWidget

from cellwright.core.words import n_of
from cellwright.inference.recipe import Recipe
from cellwright.ops.measure.cells_table import class_names, counted_planes, in_planes, is_volumetric
from cellwright.ops.measure.columns import CELL_SIZES
from cellwright.ops.measure.filters import ScatterGate, parse_marker
from cellwright.ops.measure.settings import MeasureSettings
from cellwright.widgets.results.export import ResultsExport
from cellwright.widgets.results.kept_settings import KeptSettings
from cellwright.widgets.results.measuring import Measurer
from cellwright.widgets.results.model import ResultsModel
from cellwright.widgets.results.page_tools import CountsTool, TrackTool
from cellwright.widgets.results.plot_tool import PlotTool
from cellwright.widgets.results.view import ResultsView
from cellwright.widgets.results.viewer_link import ViewerLink
from cellwright.widgets.shared.cells.followers import Followers, follow
from cellwright.widgets.shared.cells.regions import ask_for_region, in_every_slice
from cellwright.widgets.shared.cells.snapshot import (
    channels_beside,
    counted_regions,
    image_layer_under,
    image_layers,
)
from cellwright.widgets.shared.combos import LayerComboBox
from cellwright.widgets.shared.edited_layers import is_marked
from cellwright.widgets.shared.journals.kept_corrections import keep_corrections
from cellwright.widgets.shared.layer_io import layer_of_id
from cellwright.widgets.shared.messages import CountEvent, listen, news_of, telling, when_gone
from cellwright.widgets.shared.napari_private import in_turns, preferences, unwrapped
from cellwright.widgets.shared.panel_area import PanelScrollArea
from cellwright.widgets.shared.style import stack, with_own_keys

FILL_MS = 20
DRAW_HINT = (
    "Drag a rectangle over each region, or choose another shape at the top left. Regions hold in every slice "
    "and frame."
)
MEASURED = "Measured; what was ticked is in the table of Cells."
NOTHING_TICKED = "Nothing is ticked: the table of Cells has area, diameter and place alone."
DARK_TEXT, LIGHT_TEXT = "#d0d3d8", "#3b3f46"


def filter_example(columns: Sequence[Any]) -> str:
    """Return what a filter may look like for cells with these columns."""
    sizes = [name for name in CELL_SIZES if name in columns]
    conditions = [f"{name} >= 20" for name in sizes[:1]]
    if "score" in columns:
        conditions.append("score > 0.5")
    return f"Filter: {' and '.join(conditions) or 'y >= 20'}"


class ResultsWidget(QWidget):
    """Tells of the cells of a Labels or Points layer."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = unwrapped(napari_viewer)
        keep_corrections(self.viewer)
        self.model = ResultsModel()
        self.view = ResultsView()
        self.link = ViewerLink(self.viewer, self.model)
        self.measurer = Measurer(self, self.model, self.link, self.view.job_bar)
        self.followers = follow(self.viewer)
        self.plots = PlotTool(self.view, self.model, self.link)
        self.counts = CountsTool(self.view, self.model, self.link, self.measurer)
        self.tracks = TrackTool(self.view.tracks, self.model, self.link)
        self.export = ResultsExport(
            self.view, self.model, self.counts, self.plots, self.measurer, self._take_recipe
        )
        self.kept = KeptSettings(self.view, self.model, self.link, self._take_recipe)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)
        self._place = stack(into=self)
        self.is_filled = False
        self._is_asked = False  # whether Measure was pressed
        self._is_filter_wrong = False  # what is typed there is told to be
        in_turns(self._fill(), FILL_MS, self)  # the viewer draws once between docking and the many controls
        self.counts.show_settings()
        self._connect()
        self._show_theme()
        last = news_of(self.viewer).last
        if last is not None:
            self._on_counted(last)

    def sizeHint(self) -> QSize:
        """Return the size of the controls, which come a moment later."""
        return self.view.sizeHint()

    def _fill(self) -> Iterator[None]:
        yield
        self._place.addWidget(PanelScrollArea(self.view, self.view.page_bar.buttons[0]))
        yield
        yield from self.view.fill()
        if self.model.border == ResultsModel().border:  # not chosen meanwhile
            self.model.border = preferences().border  # takes napari a while
            self.counts.show_settings()
        self.is_filled = True
        self.kept.take_up()
        self.measurer.begin()

    def _connect(self) -> None:
        view, model = self.view, self.model
        listen(self.viewer.events.theme, self._show_theme, self)
        listen(news_of(self.viewer).counted, self._on_counted, self)
        when_gone(self, partial(_leave, self.link, self.followers))
        view.image.usual = self._usual_image
        view.layer.chosen.connect(self._on_layer_chosen)
        view.image.chosen.connect(self._on_image_chosen)
        for box in (view.regions, view.exclude, view.mask_layer, view.mask_side):
            box.chosen.connect(self._on_regions_chosen)
        view.nuclei.chosen.connect(self._on_nuclei_chosen)
        for listing in (view.layer, view.image, view.regions, view.exclude, view.mask_layer, view.nuclei):
            listing.follow(self.viewer)
        events = self.viewer.layers.events
        for emitter in (events.inserted, events.removed, events.renamed):
            listen(emitter, self._list_others, self)
        view.draw_regions.clicked.connect(self._on_draw_clicked)
        for offer, box in ((view.everywhere, view.regions), (view.out_everywhere, view.exclude)):
            offer.clicked.connect(partial(self._use_everywhere, box))
        view.filter.editingFinished.connect(self._on_filter_edited)
        view.filter.textChanged.connect(self._on_filter_typed)
        view.table.row_chosen.connect(model.choose)
        view.frame.class_edited.connect(lambda row, name: self._set_class([row], name))
        view.delete.clicked.connect(self._on_delete_clicked)
        view.delete_like.kept.triggered.connect(lambda: self._delete_like(self.model.kept))
        view.delete_like.hidden.triggered.connect(lambda: self._delete_like(~self.model.kept))
        view.set_class.clicked.connect(self._on_set_class_clicked)
        view.measure.clicked.connect(self._on_measure_clicked)
        self.measurer.failed.connect(view.message.fail)
        view.job_bar.cancelled.connect(self._on_cancelled)
        model.measured_changed.connect(self._on_measured_changed)
        model.kept_changed.connect(self._on_kept_changed)
        model.tracks_changed.connect(self._show_table)
        model.chosen_changed.connect(self._on_chosen_changed)
        model.conditions_changed.connect(self._on_conditions_changed)

    # -- what is told of ----------------------------------------------------------------------------------

    def show_layer(self, layer: Layer | None) -> None:
        """Tell of the cells of another layer."""
        self.view.layer.choose(layer)
        self._on_layer_chosen()

    def _usual_image(self) -> Layer | None:
        layer = self.view.layer.layer
        if layer is None:
            return None
        return image_layer_under(self.viewer, layer)

    def _on_layer_chosen(self) -> None:
        view = self.view
        view.regions.none = "None" if counted_regions(view.layer.layer) is None else "As counted"
        for box in (view.regions, view.mask_layer, view.nuclei):
            box.refresh()
        view.image.choose(self._usual_image())
        self._on_image_chosen()

    def _on_image_chosen(self) -> None:
        layer, image = self.view.layer.layer, self.view.image.layer
        if layer is not self.link.layer or image is not self.link.image_layer:
            self.view.message.tell("")
            counted = counted_regions(layer)
            if counted is not None and layer is not self.link.layer:
                self.model.region_rule = counted.rule
                self.counts.show_settings()
            before, is_behind = self.link.layer, self.measurer.is_busy
            self.measurer.set_layer(layer, image)
            if before is not None and is_behind:
                self.followers.look_at(before)
        self._list_others()
        if self.is_filled:
            self.kept.take_up()

    def _on_nuclei_chosen(self) -> None:
        if self.view.nuclei.layer is None:
            self.measurer.set_nuclei(None)

    def _list_others(self, _: Any = None) -> None:
        image = self.view.image.layer
        others = self.view.others
        known = [image, *channels_beside(self.viewer, image)]  # which are measured anyway
        found = [(one.name, str(one.unique_id)) for one in image_layers(self.viewer) if one not in known]
        others.list_entries(found, others.ticked)
        for widget in (others, self.view.others_title):
            widget.setVisible(bool(found))

    def _on_regions_chosen(self) -> None:
        self.measurer.set_regions(self.view.region_layers(self.view.regions.layer))

    def _on_draw_clicked(self) -> None:
        image = self.link.image_layer or self.link.layer
        if image is None:
            self.view.message.tell("Open an image first.", is_error=True)
            return
        shapes = ask_for_region(self.viewer, image)
        shapes.name = "regions"
        self.view.regions.choose(shapes)
        self.view.message.tell(DRAW_HINT)
        listen(shapes.events.data, self._on_region_drawn, self)

    def _use_everywhere(self, box: LayerComboBox, _: bool = False) -> None:  # noqa: FBT001, FBT002 - of Qt
        shapes = box.layer
        if isinstance(shapes, Shapes):
            box.choose(in_every_slice(self.viewer, shapes))

    def _on_region_drawn(self, _: Any = None) -> None:
        if self.view.message.text() == DRAW_HINT:
            self.view.message.tell("")

    def _on_counted(self, event: CountEvent) -> None:
        self.model.count_event = event
        counted = layer_of_id(self.viewer, event.layer_id)
        if counted is not None:
            self.show_layer(counted)
        self._show_number()

    # -- measuring ----------------------------------------------------------------------------------------

    def _on_measure_clicked(self) -> None:
        view, ids = self.view, self.view.others.ticked
        self.measurer.others = [one for one in image_layers(self.viewer) if str(one.unique_id) in ids]
        groups = tuple(name for name, box in view.groups.items() if box.isChecked())
        self.model.measuring = MeasureSettings(groups, view.ring_gap.value(), view.ring_width.value())
        self.model.cytoplasm_px = view.cytoplasm.value()
        self.measurer.set_nuclei(view.nuclei.layer)
        self._is_asked = True
        self.measurer.reread()
        view.job_bar.follow()

    def _on_cancelled(self) -> None:
        is_asked = self._is_asked or self.model.wanted is not None
        if is_asked and self.export.saving is None and not self.measurer.is_stale:
            self.view.message.tell("Measuring was cancelled; the table is as it was.")
            self._is_asked, self.model.wanted = False, None

    def _on_measured_changed(self) -> None:
        view, model, measured = self.view, self.model, self.model.measured
        self._show_table()
        has_outlines = isinstance(self.link.layer, Labels)  # where measuring failed, another choice may do
        for box in (*view.groups.values(), view.measure, view.nuclei, view.cytoplasm):
            box.setEnabled(has_outlines)
        hint = "Area, diameter, score and place are always in the table."
        if measured is not None:
            if self._is_asked:
                has_more = model.measuring.measure or view.nuclei.layer is not None or view.cytoplasm.value()
                view.message.tell(MEASURED if has_more else NOTHING_TICKED)
                self._is_asked = False
            view.show_tracks(is_shown=model.can_track)
            view.offer_everywhere(view.regions.layer, measured.snapshot.regions, measured.snapshot.image)
            view.filter.setPlaceholderText(filter_example(list(measured.table.columns)))
            if "class" in measured.table:
                self._list_classes(list(class_names(measured.result)))
            if not has_outlines:
                hint = "Points have no outlines to measure within. Count with a model that outlines."
            elif is_volumetric(measured.result):
                hint = "Volume, score and place are always in the table."
        view.measure_hint.setText(hint)

    def _show_table(self) -> None:
        self.view.frame.set_frame(self.model.table, self.model.kept, self.model.channel_names)
        if self.model.chosen >= 0:
            self.view.table.choose(self.model.chosen)
            self.link.follow(self.model.chosen)

    def _list_classes(self, names: list[str]) -> None:
        box = self.view.class_name
        if names != [box.itemText(place) for place in range(box.count())]:
            text = box.currentText()
            box.clear()
            box.addItems(names)
            box.setEditText(text)

    # -- which cells count --------------------------------------------------------------------------------

    def _on_kept_changed(self) -> None:
        self.view.frame.set_rows(self.model.kept)
        if self.model.chosen >= 0:
            self.view.table.choose(self.model.chosen)
        self._show_number()

    def _show_number(self) -> None:
        model, view, interval = self.model, self.view, self.model.interval
        view.delete_like.show_numbers(model.n_kept, model.n_cells - model.n_kept)
        event, number, line = model.count_event, "—", "Choose a layer with cells."
        if model.measured is not None:
            number = f"{model.n_kept:,}"
            total = "" if model.n_kept == model.n_cells else f"of {model.n_cells:,} "
            cells = f"{total}cells{in_planes(counted_planes(model.measured.result))}"
            parts = (cells, model.by_hand_text, *model.left_out, model.pixels_text, model.nuclei_text)
            line = " · ".join(filter(None, parts))
        elif event is not None and not event.layer_id and self.link.layer is None:
            number = f"{event.count:,.0f}"
            line = f"cells in {event.provenance.image_name!r}, by their density"
        else:
            interval = None
        if interval is not None:
            line += f"\n{interval[0]:,.0f} to {interval[1]:,.0f} (90 % interval)"
        view.number.setText(number)
        view.line.setText(line)

    def _on_filter_edited(self) -> None:
        text = self.view.filter.text()
        if text != self.model.conditions_text or self._is_filter_wrong:
            self._is_filter_wrong = True
            with telling(self.view.message.fail):
                self.model.set_conditions(text)
                self._is_filter_wrong = False
                self.view.message.tell("")

    def _on_filter_typed(self, text: str) -> None:
        if not text:
            self._on_filter_edited()  # the clear button ends no editing

    def _on_conditions_changed(self, text: str) -> None:
        with QSignalBlocker(self.view.filter):
            self.view.filter.setText(text)

    def _on_chosen_changed(self, row: int) -> None:
        self.view.table.choose(row)
        self.link.show(row)

    # -- edits --------------------------------------------------------------------------------------------

    def _on_delete_clicked(self) -> None:
        rows = self.view.table.chosen_rows
        if not rows:
            self.view.message.tell("Choose the rows of the cells to delete.")
        elif not self._is_behind():
            self.view.table.clearSelection()
            self._delete(rows)

    def _delete_like(self, mask: NDArray[np.bool_]) -> None:
        """Delete all cells that a filter keeps or leaves out; one undo of the layer brings labels back."""
        if self._is_behind():
            return
        rows = np.flatnonzero(mask).tolist()
        self._delete(rows)
        what = f"Deleted {n_of(len(rows), 'cell')}."
        if isinstance(self.link.layer, Labels):
            what += with_own_keys(" Ctrl-Z in the layer brings them back.")
        self.view.message.tell(what)

    def _delete(self, rows: list[int]) -> None:
        self.model.choose(-1)
        self.link.delete(rows)
        self.measurer.read_soon()

    def _on_set_class_clicked(self) -> None:
        rows, name = self.view.table.chosen_rows, self.view.class_name.currentText().strip()
        if not rows or not name:
            self.view.message.tell("Choose the rows of cells, and type their class.")
            return
        self._set_class(rows, name)

    def _set_class(self, rows: list[int], name: str) -> None:
        if not self._is_behind():
            self.link.set_class(rows, name)

    def _is_behind(self) -> bool:
        """Return whether the cells cannot be changed now, and tell.

        So it is where points have changed since the table was made, whose rows may be others now, and where
        labels lie in several resolutions, which napari changes none of.
        """
        layer = self.link.layer
        if isinstance(layer, Labels) and layer.multiscale:
            self.view.message.tell(
                f"{layer.name!r} has several resolutions, so its cells cannot be changed by hand. Count "
                "in a part of the image, and correct that."
            )
            return True
        is_behind = isinstance(self.link.layer, Points) and self.measurer.is_busy
        if is_behind:
            self.view.message.tell("The points have just changed. Choose the rows again.")
        return is_behind

    # -- settings -----------------------------------------------------------------------------------------

    def _take_recipe(self, recipe: Recipe, gate: ScatterGate | None = None) -> None:
        """Set measurements, filters, border rule and markers as a file tells, and a gate if there is one."""
        model, analysis = self.model, recipe.analysis
        for name, box in self.view.groups.items():
            box.setChecked(name in analysis.measure)
        self.view.ring_gap.setValue(analysis.ring_gap_px)
        self.view.ring_width.setValue(analysis.ring_width_px)
        self.view.cytoplasm.setValue(analysis.cytoplasm_px)
        model.border, model.region_rule = analysis.border, analysis.region_rule
        wanted = " and ".join(analysis.keep)
        markers = [parse_marker(rule) for rule in analysis.positive]
        model.wanted = (wanted, tuple(markers), gate)
        self.tracks.take(analysis)
        self.counts.show_settings()
        self._on_measure_clicked()
        self._is_asked = False  # what has taken them tells so

    def _show_theme(self, _: Any = None) -> None:
        self.plots.set_text_colour(LIGHT_TEXT if self.viewer.theme == "light" else DARK_TEXT)


def _leave(link: ViewerLink, followers: Followers) -> None:
    """Let go of the viewer when Qt has deleted the panel; what was edited last may not be measured yet."""
    layer = link.layer
    link.leave()
    if layer is not None and is_marked(layer):
        followers.look_at(layer)
