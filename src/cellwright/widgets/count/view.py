"""The looks of the count widget: its controls and where they stand, without behaviour."""

from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from qtpy.QtCore import QSignalBlocker, QSize, Qt
from qtpy.QtWidgets import QDoubleSpinBox, QFormLayout, QFrame, QLabel, QVBoxLayout, QWidget

from cellwright.inference.settings import EngineSettings
from cellwright.models.registry import Family
from cellwright.widgets.shared.combos import ChannelComboBox, LayerComboBox, PanelComboBox, RegionPanel
from cellwright.widgets.shared.edited_layers import is_image
from cellwright.widgets.shared.flow import FlowLayout
from cellwright.widgets.shared.form import CheckList, SettingsForm, is_threshold, names_of
from cellwright.widgets.shared.jobs import JobBar, RunButton
from cellwright.widgets.shared.model_combos import ClassifierComboBox, DeviceComboBox, ModelComboBox
from cellwright.widgets.shared.style import (
    FoldedPart,
    MessageLabel,
    boxed,
    button,
    check_box,
    even_row,
    fill,
    form_layout,
    panel_layout,
    put,
    row,
    set_state,
    stack,
    take_points,
    with_own_keys,
    wrapped_label,
)

SHORTCUT = "Ctrl+Return"
REGIONS = {"whole": "Whole image", "view": "What I see", "drawn": "Drawn region"}
OUTPUTS = {"Labels": "Outlines", "Points": "Points", "Shapes": "Boxes", "Image": "Density"}
COMBINATIONS = {"Maximum": "maximum", "Mean": "mean", "Colours": "colours"}
# engine settings with a control of their own
OWN_ROWS = ("device", "channel", "channels", "combine", "diameter_px", "diameter_um")
PX, UM = "px", "µm"
MOST = {PX: 5000.0, UM: 100_000.0}  # of a diameter
UNIT_LETTERS = 2
NO_COUNT = ("—", "no cells counted yet", "")
LONGEST_LARGE = 6  # characters of the number that fit into the panel at full size


class CountPanel(RegionPanel):
    """Controls of the count widget from top to bottom: image and model, the buttons, the result, and more."""

    def __init__(self) -> None:
        super().__init__()
        layout = panel_layout(self)
        self.guide = GuideLine()
        fill(layout, self.guide, self._first_choices(), self._buttons())
        self.jobs, self.message = JobBar(run_button=self.count), MessageLabel("Counting")
        self.tool_box = QVBoxLayout()  # for what belongs to a tool
        fill(layout, self.jobs, self.message, self.everywhere, self.out_everywhere)
        fill(layout, self._card(), self._tools(), self.tool_box)
        self.more = FoldedPart("More", self._more())
        layout.addWidget(self.more)
        layout.addStretch(1)

    def show_forms(self, settings_type: type[Any]) -> None:
        """Show the settings of a model family: thresholds under the count, the others with the engine's."""
        fast = [name for name in names_of(settings_type) if is_threshold(settings_type, name)]
        slow = [name for name in names_of(settings_type) if name not in fast]
        engine = [name for name in names_of(EngineSettings) if name not in OWN_ROWS]
        self._settings_type = settings_type
        self.thresholds = SettingsForm(settings_type, fast)
        self.filters = SettingsForm(settings_type, slow)
        self.engine = SettingsForm(EngineSettings, engine)
        self.thresholds.native.setObjectName("thresholds")
        put(self._threshold_box, self.thresholds.native, after=self.out_everywhere)
        *_, last = self.outputs.values()
        put(self._advanced_box, self.filters.native, self.engine.native, after=last)

    @property
    def settings(self) -> Any:
        """The thresholds and filters as the settings of the model's family."""
        return self._settings_type(**self.thresholds.values(), **self.filters.values())

    def show_running(self, *, is_running: bool) -> None:
        """Take no preview while something runs; called whenever the count button has a new text."""
        self.count.setShortcut(SHORTCUT)  # the text has cleared it
        self.preview.setEnabled(not is_running)

    def show_count(self, number: str, line: str, details: str, legend: str = "") -> None:
        """Show the large number and what stands under it; the legend of classes is rich text."""
        self.number.setText(number)
        set_state(self.number, "long", on=len(number) > LONGEST_LARGE)
        self.line.setText(line)
        for label, text in ((self.legend, legend), (self.details, details)):
            label.setText(text)
            label.setVisible(bool(text))

    def show_no_count(self) -> None:
        """Show that nothing is counted, as before the first count."""
        self.show_count(*NO_COUNT)
        for made in (self.correct, self.save):
            made.setEnabled(False)

    def show_family(self, family: Family) -> None:
        """Offer what a model family can give, ticked as most will want it, and the tools that go with it."""
        for output, box in self.outputs.items():
            with QSignalBlocker(box):
                box.setChecked(output in usual_outputs(family))
            box.setVisible(output in family.returns)
        self.show_forms(family.settings)
        has_cells = family.gives == "instances"
        self.classes.setEnabled(has_cells)
        self.ask.setVisible(has_cells)
        self.calibrate.setVisible(not has_cells)
        self.colours.setVisible(family.needs_volumes)

    def _first_choices(self) -> QFormLayout:
        """Return image and model, which are all that a first count needs."""
        help_text = "Image layer whose cells are counted; the active one is chosen automatically."
        self.image = LayerComboBox(is_image, help_text, follows_active=True)
        self.axes = PanelComboBox(
            "Axes of the image. Slices in z are linked to cells in 3D, frames in time are not."
        )
        self.model = ModelComboBox(folders="Model folder")
        self.understood = wrapped_label(name="understood")
        axes = stack(self.axes, self.understood, spacing_px=2)
        form = form_layout(("Image", self.image), ("Axes", axes), ("Model", self.model.with_card()))
        self._show_axes_row = partial(form.setRowVisible, axes)
        self.show_axes("")
        return form

    def show_axes(self, sentence: str, *, is_guessed: bool = False) -> None:
        """Show what was understood of the axes under their choice; both hide where there is no choice."""
        self.understood.setText(sentence)
        set_state(self.understood, "guessed", on=is_guessed)
        self._show_axes_row(bool(sentence))

    def _more(self) -> QWidget:
        """Return what can be left as it is, out of sight to begin with."""
        self.device, self.channel, self.classes = DeviceComboBox(), ChannelComboBox(), ClassifierComboBox()
        self.region = PanelComboBox(
            "What I see: the visible part of this slice. Drawn region: inside the shapes of a Shapes layer; "
            "a shape counts in every slice and frame in which napari shows it."
        )
        self.region.fill((title, name) for name, title in REGIONS.items())
        self._further()
        self._more_form = form = form_layout(
            ("Channel", self.channel),
            ("And in", self.further),
            ("Combined by", self.combine),
            ("Count in", self.region),
            ("Region edge", self.rule),
            ("Leave out", self.exclude),
        )
        self.add_mask_rows(form)
        form.addRow("Diameter", self._diameter())
        form.addRow("Classes", self.classes)
        form.addRow("Device", self.device)
        self.together = CheckList(
            "Further models of the same family: their outputs are averaged with those of the model above."
        )
        form.addRow("Together with", self.together)
        self._advanced_box = QVBoxLayout()
        self.save_settings = button(
            "Save settings…", "Keep all settings in a file, for other images and the command line."
        )
        self.load_settings = button("Load settings…", "Load settings saved earlier.")
        self.show_guide = button(
            "Show the first steps", "Three steps from an image to its results, on a sample image if you like."
        )
        settings = (self.save_settings, self.load_settings, self.show_guide)
        return boxed(stack(form, self._outputs(), self._advanced_box, *settings))

    def _further(self) -> None:
        """Make the boxes of the channels that are counted in together with the chosen one."""
        self.further = CheckList(
            "Channels, and layers of the same pixels, that are counted in together with the channel above: "
            "each is scaled by its own intensities, then they are combined."
        )
        self.combine = PanelComboBox(
            "Maximum: the brightest channel at each pixel. Mean: the mean of them. Colours: the first is "
            "red, the second green, a third blue."
        )
        self.combine.fill(COMBINATIONS.items())
        self.further.itemChanged.connect(self._show_combine)

    def list_channels(self, channels: Iterable[tuple[str, str]], ticked: Collection[str]) -> None:
        """List title and key of channels that can be counted in together with the chosen one; tick some."""
        self.further.list_entries(channels, ticked)
        self._more_form.setRowVisible(self.further, self.further.count() > 0)
        self._show_combine()

    def _show_combine(self, _: object = None) -> None:
        self._more_form.setRowVisible(self.combine, bool(self.further.ticked))

    def list_models(self, models: Iterable[tuple[str, str]], ticked: Collection[str]) -> None:
        """List title and name of models that can count together with the chosen one, and tick some."""
        self.together.list_entries(models, ticked)
        self._more_form.setRowVisible(self.together, self.together.count() > 0)

    def _diameter(self) -> QVBoxLayout:
        self.diameter = DiameterBox()
        self.measure = button("Measure", "Draw a line across a typical cell.")
        return stack(row(self.diameter, self.diameter.unit), self.measure)

    def _outputs(self) -> FlowLayout:
        self.outputs = {
            output: check_box(title, f"Show the result in a layer of type {output}.")
            for output, title in OUTPUTS.items()
        }
        return even_row(*self.outputs.values())

    def _buttons(self) -> FlowLayout:
        help_text = with_own_keys(f"Count the cells of the image ({SHORTCUT}).")
        self.count = RunButton(("Count cells", help_text), ("Cancel", help_text), "Cancelling…")
        self.preview = button("Preview", "Count only in the middle of the view.")
        self.count.setShortcut(SHORTCUT)
        self.preview.setObjectName("preview")
        return row(self.count, self.preview)

    def _card(self) -> QFrame:
        card = QFrame()
        card.setObjectName("card")
        self.number, self.line = QLabel(), wrapped_label(name="line")
        self.number.setObjectName("number")
        self.legend, self.details = wrapped_label(name="legend"), wrapped_label()
        layout = stack(into=card, spacing_px=4)
        layout.setContentsMargins(12, 8, 12, 12)
        for label in (self.number, self.line, self.legend, self.details):
            label.setAlignment(Qt.AlignmentFlag.AlignCenter)
            layout.addWidget(label)
        layout.addSpacing(8)
        self._threshold_box = QVBoxLayout()
        layout.addLayout(self._threshold_box)
        layout.addSpacing(4)
        self.correct = button(
            "Correct these cells", "Open the annotate panel with this image, these cells and this model."
        )
        self.save = button("Save cells as CSV…", "One row for each cell: place, size, score and class.")
        fill(layout, self.correct, self.save)
        self.show_no_count()
        return card

    def show_prompted(self, *, is_pending: bool) -> None:
        """Show how the cell that is prompted for is kept or dropped, while there is one."""
        for made in (self.keep_cell, self.drop_cell):
            made.setVisible(is_pending)

    def _tools(self) -> QVBoxLayout:
        self.ask = button(
            "Add cell by click",
            "Click on a cell that was missed, or drag a box around it: the model outlines it. Shift+click "
            "beside it: not this. Enter keeps it. Space held down: move the image.",
        )
        self.ask.setObjectName("ask")
        self.ask.setCheckable(True)
        self.keep_cell = button("Keep cell", "Add the outlined cell to the count (Enter).")
        self.drop_cell = button(
            "Drop", with_own_keys("Drop the outlined cell (Esc). Ctrl+Z undoes the last click.")
        )
        self.calibrate = button("Calibrate…", "Count a few boxes by hand and correct the density by them.")
        self.colours = button(
            "Show colours", "Show each slice as the model sees it, its neighbours in red and blue."
        )
        self.show_prompted(is_pending=False)
        tools = even_row(self.ask, self.calibrate, self.colours)
        return stack(tools, row(self.keep_cell, self.drop_cell))


class GuideLine(QFrame):
    """A step of the guide with what does it and what leaves; out of sight to begin with."""

    def __init__(self) -> None:
        super().__init__()
        self.setObjectName("guide")
        self.text = wrapped_label()
        self.go_on = button("", "Do this step.")
        self.leave = button("Leave", "Hide these steps. They stay at the end of More.")
        fill(QVBoxLayout(self), self.text, row(self.go_on, self.leave))
        self.setVisible(False)


class DiameterBox(QDoubleSpinBox):
    """A diameter with the unit beside it, which there is a choice of where the pixel size is known."""

    def __init__(self) -> None:
        super().__init__()
        take_points(self)
        self._pixel_um = 0.0  # side of a pixel; 0 when not known
        self.unit = PanelComboBox("Unit of the diameter; µm need the pixel size of the image.")
        self.unit.setMinimumContentsLength(UNIT_LETTERS)
        self.unit.setIconSize(QSize(0, 0))  # that Qt keeps room for
        self.unit.fill((one, one) for one in (PX, UM))
        self._shown = PX
        self.setSpecialValueText("auto")
        self.setToolTip("Typical cell diameter; 0 estimates it.")
        self.unit.chosen.connect(self._on_unit_chosen)
        self._show_unit()

    @property
    def value_px(self) -> float:
        """The diameter in pixels; 0 when it is to be estimated."""
        sizes_um = {"Y": self._pixel_um, "X": self._pixel_um}
        return EngineSettings(**self.settings).in_pixels(sizes_um).diameter_px

    @property
    def settings(self) -> dict[str, Any]:
        """The diameter as the engine takes it, in the unit that is shown."""
        if self._shown == UM:
            return {"diameter_um": self.value()}
        return {"diameter_px": self.value()}

    def know(self, pixel_um: float) -> bool:
        """Take the pixel size of another image, 0 when not known; return whether a diameter in µm was lost.

        A diameter keeps its number and its unit, as far as there is that unit.
        """
        self._pixel_um = pixel_um
        is_lost = self._shown == UM and not pixel_um and self.value() > 0
        if self._shown == UM and not pixel_um:
            self._shown = PX
            self.setValue(0.0)
        self._show_unit()
        return is_lost

    def show_px(self, diameter_px: float) -> None:
        """Show a diameter of so many pixels in the unit that is chosen."""
        factor = self._pixel_um if self._shown == UM else 1.0
        self.setValue(diameter_px * factor)

    def show_settings(self, engine: EngineSettings) -> None:
        """Show the diameter that a count was or will be made with."""
        self._shown = UM if engine.diameter_um else PX
        self._show_unit()
        self.setValue(engine.diameter_um or engine.diameter_px)

    def _on_unit_chosen(self) -> None:
        if self.unit.currentData() == self._shown:
            return
        diameter_px = self.value_px
        self._shown = self.unit.currentData()
        self._show_unit()
        self.show_px(diameter_px)

    def _show_unit(self) -> None:
        """Offer the choice of units where there is one, else tell the only one."""
        has_choice = self._pixel_um > 0
        self.unit.choose_data(self._shown)
        self.unit.setVisible(has_choice)
        self.setRange(0.0, MOST[self._shown])
        self.setDecimals(2 if self._shown == UM else 1)
        self.setSuffix("" if has_choice else f" {self._shown}")


def usual_outputs(family: Family) -> tuple[str, ...]:
    """Return the outputs to begin with: outlines where there are any, else all that the family gives."""
    return ("Labels",) if "Labels" in family.returns else family.returns
