"""What the tools of the count panel share: the viewer, the controls, the jobs, the last count."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QObject, Signal  # type: ignore[attr-defined]

from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.widgets.count.choices import Choices
from cellwright.widgets.count.count_request import CountOutcome, interval_line, result_line, size_line
from cellwright.widgets.count.job_runner import Runner
from cellwright.widgets.count.live_update import LiveUpdater
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.layer_factory import legend_of
from cellwright.widgets.shared.layer_io import place, remove
from cellwright.widgets.shared.messages import number_text, tell_error

if TYPE_CHECKING:
    import napari.viewer

OUTPUTS_OF = {"instances": ("Labels", "Points", "Shapes"), "density": ("Image",)}


class CountToolContext(QObject):
    """Reads what is to be counted from the controls, and shows what was.

    Parameters
    ----------
    viewer
        Where layers are shown.
    panel
        The controls.
    """

    counted_changed = Signal(object)  # CountOutcome, as it is shown now

    def __init__(self, viewer: "napari.viewer.Viewer", panel: CountPanel) -> None:
        super().__init__(panel)
        self.viewer, self.panel = viewer, panel
        self.choices = Choices(viewer, panel)
        self.runner = Runner(panel)
        self.live_updater = LiveUpdater(self)
        self.counted: CountOutcome | None = None
        self.is_showing_settings = False
        self.show_family(self.choices.family)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The ticked outputs of the model's family."""
        offered = registry.get(self.choices.family).returns
        return tuple(output for output in offered if self.panel.outputs[output].isChecked())

    @property
    def settings(self) -> Any:
        """The thresholds and filters as the settings of the model's family."""
        return self._settings_type(**self.panel.thresholds.values(), **self.panel.filters.values())

    @property
    def engine(self) -> EngineSettings:
        """How the network is to run."""
        channel = self.choices.channel
        return EngineSettings(
            device=self.choices.device,
            channel=channel.index if channel else None,
            diameter_px=self.panel.diameter.value(),
            **self.panel.engine.values(),
        )

    def show_family(self, family: str) -> None:
        """Show the settings, outputs and tools of a family."""
        self._settings_type = registry.get(family).settings
        if registry.get(family).gives != "instances":
            self.panel.ask.setChecked(False)
        self.panel.show_family(registry.get(family))

    def show_settings(self, settings: Any) -> None:
        """Put these thresholds and filters into the forms, with nothing counted anew."""
        self.is_showing_settings = True
        for form in (self.panel.thresholds, self.panel.filters):
            form.set_values(asdict(settings))
        self.is_showing_settings = False

    def show_counted(self, counted: CountOutcome) -> None:
        """Show a result: its layers, its number, its legend. Call it in the GUI thread."""
        result = counted.result
        place(self.viewer, {name: layer for name, layer in counted.layers.items() if name in self.outputs})
        self.counted = counted
        self.remove_unticked(counted)
        line = result_line(result)
        if counted.request.source.is_preview:
            line = f"preview of the view: {line}"
        details = (interval_line(result), counted.request.source.image.name, size_line(result))
        self.panel.show_count(number_text(result), line, "\n".join(filter(None, details)), legend_of(result))
        self.panel.save.setEnabled(True)
        self.counted_changed.emit(counted)

    def remove_unticked(self, counted: CountOutcome) -> None:
        """Take away the layers of cells that are not wanted; a density stays when cells come, and they do."""
        for output in OUTPUTS_OF[registry.get(counted.request.family).gives]:
            if output not in self.outputs:
                remove(self.viewer, {**counted.request.source.key, "output": output})

    def show_error(self, error: Exception) -> None:
        """Tell in the panel what went wrong; what was not foreseen is logged too."""
        tell_error(self.panel, error, "Counting")
