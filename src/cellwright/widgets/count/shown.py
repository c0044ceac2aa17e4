"""The count that is shown: its layers, its number and what is told of it, in line with what is chosen."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from napari.layers import Labels, Layer
from psygnal import Signal
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QSignalBlocker
from qtpy.QtWidgets import QWidget

from cellwright.core.errors import CellwrightError, error_line
from cellwright.files.images import describe_images
from cellwright.inference.recipe import Recipe
from cellwright.models import registry
from cellwright.models.fit import expectation_of
from cellwright.ops.measure.columns import PIXEL_COUNTS
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.model import (
    CountModel,
    CountOutcome,
    WholeCount,
    can_recount,
    card_of,
    channels_line,
    counts_of,
    forget_gone,
    recipe_of_count,
    recount_task,
    remember,
    removed_line,
)
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.cells.followers import cells_news, follow
from cellwright.widgets.shared.cells.image_pixels import has_other_pixels
from cellwright.widgets.shared.edited_layers import (
    ASKED,
    is_edited,
    is_image,
    is_marked,
    is_of_count,
    is_same_count,
    metadata_of,
)
from cellwright.widgets.shared.jobs import LiveUpdater
from cellwright.widgets.shared.journals.kept_corrections import keep_corrections
from cellwright.widgets.shared.layer_factory import class_order
from cellwright.widgets.shared.layer_io import (
    bring_into_sight,
    edited_layers,
    hidden_for,
    layer_of_id,
    layers_with,
    place,
    remove,
)
from cellwright.widgets.shared.messages import listen, tell_results
from cellwright.widgets.shared.napari_private import preferences

if TYPE_CHECKING:
    import pandas

OUTPUTS = ("Labels", "Points", "Shapes")  # that hold cells
OUTPUTS_OF = {"instances": OUTPUTS, "density": ("Image",)}


class EditedCells:
    """The cells of the last count as they were changed by hand since, in any of its layers.

    Cells that a later run of the same count stands beside are no longer those of the count. It ends with the
    panel.
    """

    changed = Signal()  # there are other cells now

    def __init__(self, model: CountModel, panel: QWidget) -> None:
        self._model = model
        self.layer: Layer | None = None
        self.table: pandas.DataFrame | None = None  # a row for each cell
        listen(cells_news.changed, self._on_cells_changed, panel)
        keep_corrections(model.viewer)
        listen(model.viewer.layers.events.removed, self._on_removed, panel)

    def forget(self) -> None:
        """Take the cells as they were found."""
        self.layer = self.table = None

    def take_up(self) -> None:
        """Take the cells as they were changed while there was no panel; what follows layers has told them."""
        for output in OUTPUTS:
            ours = self._layers(output)
            if ours and all(map(is_marked, ours)):
                self.layer, self.table = ours[-1], rows_of(ours[-1])
                return

    def found_layer(self) -> Layer | None:
        """Return the layer that holds the cells as they are now; None where they are as they were found.

        One that a script has changed, of which nobody tells, is found by comparison.
        """
        if self.layer is not None:
            return self.layer
        return next(filter(None, map(self.layer_of, OUTPUTS)), None)

    def layer_of(self, output: str) -> Layer | None:
        """Return the layer of one output if it was changed by hand, else None."""
        ours = self._layers(output)
        if ours and all(map(is_edited, ours)):
            return ours[-1]
        return None

    def _layers(self, output: str) -> list[Layer]:
        outcome, layers = self._model.outcome, self._model.viewer.layers
        if outcome is None:
            return []
        wanted = {**outcome.request.source.key, "output": output}
        return [one for one in layers if is_of_count(one, wanted, outcome.result.provenance)]

    def _on_cells_changed(self, layer: Layer, table: "pandas.DataFrame") -> None:
        own = metadata_of(layer)
        ours = self._layers(str(own.get("output")))
        if layer in ours and all(map(is_marked, ours)):
            self.layer, self.table = layer, table
            self.changed.emit()

    def _on_removed(self, event: Any) -> None:
        if event.value is self.layer:
            self.forget()
            self.changed.emit()


def rows_of(layer: Layer) -> "pandas.DataFrame":
    """Return the features of a layer, one row for each cell; those of labels have rows without one, too."""
    features: pandas.DataFrame = layer.features
    if isinstance(layer, Labels):
        features = features.dropna(subset=[name for name in PIXEL_COUNTS if name in features])
    return features


class ShownCount(QObject):
    """Shows the last count in the viewer and in the panel, and keeps both in line with what is chosen."""

    def __init__(
        self,
        model: CountModel,
        panel: CountPanel,
        choices: Choices,
        edited: EditedCells,
        updater: LiveUpdater,
    ) -> None:
        super().__init__(panel)
        self._model, self._viewer, self._panel, self._choices = model, model.viewer, panel, choices
        self._edited, self._updater = edited, updater
        self._where = ""  # what is told beside the number of where its cells are
        self._heard: WeakSet[Layer] = WeakSet()  # images that tell of it when they are given other pixels
        panel.image.chosen.connect(self._on_image_chosen)
        choices.scene_changed.connect(self._tell_where_counted)
        choices.scene_changed.connect(self._forget_gone)
        listen(self._viewer.dims.events.point, self._tell_where_counted, panel)
        listen(self._viewer.layers.events.renamed, self._show_number, panel)
        follow(self._viewer).pixels.changed.connect(self._tell_where_counted)
        panel.classes.chosen.connect(self.update)
        for box in panel.outputs.values():
            box.toggled.connect(self.update)
        model.outcome_wanted.connect(self._show_if_here)
        model.whole_counted.connect(self._on_whole_counted)
        model.settings_wanted.connect(self.show_settings)
        edited.changed.connect(self._show_number)
        updater.updated.connect(self._on_updated)

    def show_settings(self, settings: Any) -> None:
        """Put these thresholds and filters into the forms, with nothing counted again."""
        for form in (self._panel.thresholds, self._panel.filters):
            with form.changed.blocked():
                form.set_values(asdict(settings))

    def on_counted(self, counted: CountOutcome) -> None:
        """Show a new count, and tell what is to be known of it."""
        source = counted.request.source
        image = layer_of_id(self._viewer, source.layer_id)
        if image is not None:
            follow(self._viewer).pixels.note(image, source.pixels)
        if not source.is_preview:
            remove(self._viewer, {**source.key, "is_preview": True})
        shown = self.show(counted)
        notices = [removed_line(self._viewer, source), self._kept_line(counted, shown)]
        made_way = bring_into_sight(self._viewer, image, shown)
        aside = f"Hidden now: {', '.join(made_way)}." if made_way else ""
        self._tell_of(counted, *notices, aside=aside)

    def _kept_line(self, counted: CountOutcome, shown: list[Layer]) -> str:
        """Return which layers were changed by hand and so stay beside those that are shown now."""
        kept = edited_layers(self._viewer, counted.request.source.key, new=shown)
        if not kept:
            return ""
        names = ", ".join(layer.name for layer in kept)
        return f"Your changes are kept in {names}; this count is shown beside them."

    def _tell_of(self, counted: CountOutcome, *more: str, aside: str = "") -> None:
        """Tell what is to be known of a count: its notices, how well it went, further sentences.

        What is told aside is no warning.
        """
        notices = [*counted.result.notices, self._model.disagreement(counted), *more]
        channel = self._unseen_channel(counted)
        n_images = len(describe_images(counted.request.source.image.source))
        if channel:
            notices.append(
                f"The cells are those of {channel}; the viewer shows another one. Move the slider of "
                "channels to see them."
            )
        if n_images > 1:
            notices.append(
                f"The file holds {n_images} images, and the layer shows one. Open it with napari-cellwright "
                "for all."
            )
        hidden = hidden_for(self._viewer, counted.layers)
        if hidden:
            notices.append(f"What another model found is kept, hidden: {', '.join(hidden)}.")
        self._tell_all(expectation_of(counted.result), notices, aside)

    def _tell_all(self, expected: str, notices: Iterable[str], aside: str = "") -> None:
        """Tell how well a count can be expected to be, unless a notice does, and its notices as warnings."""
        warnings = list(filter(None, notices))
        if expected in warnings:
            expected = ""
        self._model.tell(" ".join(filter(None, (expected, *warnings, aside))), is_warning=bool(warnings))

    def _unseen_channel(self, counted: CountOutcome) -> str:
        """Return the channel that the cells lie in, where the viewer shows another one; else nothing."""
        axis, layer = counted.request.source.channel_axis, next(iter(counted.layers.values()), None)
        if axis is None or layer is None or layer.ndim > self._viewer.dims.ndim:
            return ""
        if round(float(layer.world_to_data(self._viewer.dims.point[-layer.ndim :])[axis])) == 0:
            return ""
        return channels_line(counted.request)

    def _on_whole_counted(self, whole: WholeCount) -> None:
        self._show_whole(whole, removed_line(self._viewer, whole.request.source))

    def _show_whole(self, whole: WholeCount, *more: str) -> None:
        details = f"{whole.request.source.image.name}\nTable and labels are in {whole.folder}"
        self._panel.show_count(f"{whole.count:,.0f}", whole.line, details)
        for button in (self._panel.save, self._panel.correct):  # its cells are in files alone
            button.setEnabled(False)
        self._tell_all(whole.expected, (*whole.notices, *more))

    def take_up(self, take_settings: Callable[[Recipe], str]) -> None:
        """Show a count that was made before this panel was there: of the chosen image, if it has one.

        ``take_settings`` chooses what a recipe tells, and returns a sentence on what is not here.
        """
        standing = [one for one in counts_of(self._viewer).standing.values() if one.is_here(self._viewer)]
        if not standing:
            return
        active, box = self._viewer.layers.selection.active, self._panel.image
        image = layer_of_id(self._viewer, standing[-1].layer_id)
        if image is not None and (active is None or not is_image(active)):  # none was chosen by hand
            box.choose(image)
        own = (one for one in standing if one.layer_id == box.currentData())
        counted = next(own, standing[-1])
        not_here = self._take_settings(counted, take_settings)
        if isinstance(counted, WholeCount):
            self._show_whole(counted, not_here)
            return
        remember(self._viewer, counted)
        self._take_up(counted, not_here)

    def _take_up(self, counted: CountOutcome, *more: str) -> None:
        """Tell of a count that was made before, as it was changed by hand since, and further sentences."""
        self._edited.forget()
        self._stand(counted)
        self._edited.take_up()
        self._show_number()
        self._tell_of(counted, *more)

    def _on_image_chosen(self) -> None:
        """Tell of the count of the image that is chosen, with its thresholds, where there is one."""
        before, chosen = self._model.outcome, self._panel.image.currentData()
        counted = counts_of(self._viewer).standing.get(chosen)
        is_told = before is not None and before.layer_id == chosen
        if is_told or self._model.is_busy or not isinstance(counted, CountOutcome):
            self._tell_where_counted()
            return
        if counted.request.family == self._panel.model.family:
            self.show_settings(counted.request.recipe.settings)
        self._take_up(counted)

    def _take_settings(
        self, counted: CountOutcome | WholeCount, take_settings: Callable[[Recipe], str]
    ) -> str:
        """Choose what a count was made with; return what is not here to be chosen."""
        request, panel, recipe = counted.request, self._panel, recipe_of_count(counted)
        if panel.image.currentData() != counted.layer_id:  # channels and regions are of another image
            recipe = replace(recipe, engine=replace(recipe.engine, channel=None, channels=()))
        else:
            panel.region.choose_data(request.part)
            panel.choose_region_layers(request.region_layers)
        try:
            not_here = take_settings(recipe)
        except CellwrightError as error:
            return error_line(error)
        for output, box in panel.outputs.items():
            with QSignalBlocker(box):
                box.setChecked(output in request.outputs)
        return not_here.strip()

    def update(self, _: object = None) -> None:
        """Bring cells and layers in line with thresholds, ticks and classes, in the background."""
        counted = self._model.outcome
        if (
            counted is None
            or not counted.is_here(self._viewer)
            or self._model.is_busy
            or counted.request.family != self._panel.model.family
        ):
            return  # sliders and ticks may now belong to another family
        request, recipe = counted.request, counted.request.recipe
        self._remove_unticked(counted)
        settings, classifier = self._panel.settings, self._panel.classes.classifier
        if settings != recipe.settings and not can_recount(counted):
            self._model.tell("The new thresholds will be used by the next count.", is_warning=True)
            settings = recipe.settings
        recipe = replace(recipe, settings=settings, classifier=classifier)
        wanted = replace(request, recipe=recipe, outputs=self._choices.outputs)
        if wanted != request or self._updater.is_busy:
            self._updater.request(lambda: recount_task(counted, wanted))

    def _on_updated(self, counted: CountOutcome) -> None:
        """Show a changed count; how well it went, and what it stands beside, is told again of other cells."""
        before, kept = self._model.outcome, ""
        shown = self._show_if_here(counted)
        if self._model.outcome is not counted or before is None:
            return
        if before.request.recipe.settings != counted.request.recipe.settings:
            kept = self._kept_line(counted, shown)
        if kept or before.result.fit != counted.result.fit:
            self._tell_of(counted, kept)

    def _show_if_here(self, counted: CountOutcome) -> list[Layer]:
        """Show a changed count and return what was placed; one whose image and layers are gone stays gone."""
        if counted.is_here(self._viewer):
            return self.show(counted)
        self._model.tell("The image of this count is gone; nothing was changed.")
        return []

    def show(self, counted: CountOutcome) -> list[Layer]:
        """Show a result: its layers, its number, its legend; return what was placed.

        Call it in the GUI thread.
        """
        result = counted.result
        already = self._shown_already(counted)
        wanted = set(self._choices.outputs) - already
        shown = place(self._viewer, {name: one for name, one in counted.layers.items() if name in wanted})
        if not self._is_same_with_more(counted):
            self._edited.forget()
        self._remove_unticked(counted)
        remember(self._viewer, counted)
        self._stand(counted)
        if not (counted.request.source.is_preview or already or self._edited.layer):
            tell_results(self._viewer, result, shown.get("Labels", shown.get("Points")), self._panel)
        return list(shown.values())

    def _stand(self, counted: CountOutcome) -> None:
        """Take a count, whose layers are there, for the one that the panel tells of."""
        self._model.outcome = counted
        self._model.note_number(counted)
        image = layer_of_id(self._viewer, counted.request.source.layer_id)
        if image is not None and image not in self._heard:
            self._heard.add(image)
            listen(image.events.data, self._tell_where_counted, self._panel)
        self._show_number()
        self._panel.save.setEnabled(True)
        self._panel.correct.setEnabled(counted.result.gives == "instances")
        self._model.outcome_changed.emit(counted)

    def _show_number(self, _: object = None) -> None:
        if self._model.outcome is not None and isalive(self):
            counted = self._model.outcome
            self._where = self._where_now(counted)
            image = layer_of_id(self._viewer, counted.request.source.layer_id)
            name = counted.request.source.image.name if image is None else image.name
            edited = self._edited
            order = () if edited.layer is None else class_order(edited.layer)
            told = card_of(counted, name, preferences().unit, edited.table, self._where, order)
            self._panel.show_count(*told)

    def _tell_where_counted(self, _: object = None) -> None:
        """Tell beside the number whose it is once its image is closed, or another one or channel is shown."""
        counted = self._model.outcome
        if counted is not None and self._where != self._where_now(counted):
            self._show_number()
            if self._where_counted(counted) and not self._model.is_busy:
                self._model.tell("")  # notices of that count

    def _forget_gone(self) -> None:
        """Let go of counts that have no layer any more; the number goes with the last layer of the viewer."""
        forget_gone(self._viewer)
        if not self._viewer.layers:
            self._model.outcome = None
            self._edited.forget()
            self._panel.show_no_count()

    def _where_now(self, counted: CountOutcome) -> str:
        """Return where the cells of a count are; '' where they are in sight, of the image that is chosen."""
        where, unseen = self._where_counted(counted), self._unseen_channel(counted)
        if unseen and not where:
            return f"whose {unseen} is not shown"
        return where

    def _where_counted(self, counted: CountOutcome) -> str:
        """Return where the image of a count is; '' where it is the one that is chosen."""
        source = counted.request.source
        layer = layer_of_id(self._viewer, source.layer_id)
        if layer is None:
            return "which is closed"
        if layer.data is not source.layer_data or has_other_pixels(layer, source.pixels):
            return "whose pixels have changed"
        chosen = self._panel.image.layer
        if chosen is not None and str(chosen.unique_id) == source.layer_id:
            return ""
        return "not of the image above"

    def _is_same_with_more(self, counted: CountOutcome) -> bool:
        """Return whether a count is the one that is shown, perhaps with more cells that were clicked."""
        before = self._model.outcome
        if before is None:
            return False
        if before.result is counted.result:
            return True
        now, then = counted.result.provenance, before.result.provenance
        has_more = bool(now.settings.get(ASKED, 0) > then.settings.get(ASKED, 0))
        is_here = counted.request.source.key == before.request.source.key
        return has_more and is_here and is_same_count(now, then)

    def _shown_already(self, counted: CountOutcome) -> set[str]:
        """Return the outputs whose layers need no change, edited or not, since only ticks were changed."""
        before = self._model.outcome
        if before is None or before.result is not counted.result:
            return set()
        key = counted.request.source.key
        return {one for one in before.request.outputs if layers_with(self._viewer, {**key, "output": one})}

    def _remove_unticked(self, counted: CountOutcome) -> None:
        """Take away the layers of a count that are not wanted; those of other models stay."""
        own = {**counted.request.source.key, "model": counted.result.provenance.model}
        for output in OUTPUTS_OF[registry.get(counted.request.family).gives]:
            if output not in self._choices.outputs:
                remove(self._viewer, {**own, "output": output})
