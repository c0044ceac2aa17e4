"""What a user can choose to count with, as the boxes of the panel tell it, and what its axes mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from cellwright.core.errors import CellwrightError, CheckpointError, SettingsError, WrongLayerError
from cellwright.core.tasks import once
from cellwright.files.images import describe_images
from cellwright.files.metadata import Understood, likely_axes, meaning
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import EngineSettings, pixel_um_of
from cellwright.models import registry
from cellwright.models.spec import SPEC
from cellwright.ops.geometry.axes import channel_numbers
from cellwright.ops.measure.regions import RegionSet
from cellwright.widgets.count.channels import LayerChannel, channels_by_number, further_channels, numbers_of
from cellwright.widgets.count.model import CountInputs, CountModel
from cellwright.widgets.count.view import CountPanel
from cellwright.widgets.shared.cells.regions import (
    PREVIEW_PX,
    PREVIEW_SLICES,
    ask_for_region,
    name_regions,
    region_layer,
    regions_of,
    through_slices,
    window_in_view,
    window_of_regions,
)
from cellwright.widgets.shared.coordinates import (
    AXES,
    NO_CHANNELS,
    Channel,
    Window,
    channels_of,
    chosen_axes,
    is_understood,
    understood,
)
from cellwright.widgets.shared.jobs import Job
from cellwright.widgets.shared.layer_io import Source, image_layer
from cellwright.widgets.shared.messages import listen
from cellwright.widgets.shared.model_combos import model_events

LEAST_MARGIN_PX = 64.0  # around a drawn region, so that cells cut by its edge are found whole
LAYER_EVENTS = ("axis_labels", "units", "scale", "data")
BEGINNINGS = {
    "choice": "As chosen",
    "layer": "From the layer",
    "file": "From the file",
    "shape": "Guessed from the shape",
}


class Choices(QObject):
    """Reads the boxes of a panel, which follow the layers of a viewer."""

    scene_changed = Signal()  # layers came or went, or the view turned to 3D or back

    def __init__(self, viewer: Any, panel: CountPanel) -> None:
        super().__init__(panel)
        self._viewer, self._panel = viewer, panel
        self._further: dict[str, LayerChannel] = {}
        panel.image.chosen.connect(self.refresh_channels)
        panel.channel.chosen.connect(self.list_further)
        for box in (panel.image, panel.exclude, panel.mask_layer):
            box.follow(viewer)
        listen(model_events.changed, self.list_siblings, self)
        panel.model.choose_preferred()
        self.list_siblings()
        layers = viewer.layers
        for emitter in (layers.events.inserted, layers.events.removed, viewer.dims.events.ndisplay):
            listen(emitter, self._on_scene_changed, self)
        listen(layers.events.renamed, self.list_further, self)
        self.scene_changed.connect(self.list_further)

    @property
    def layer(self) -> Layer | None:
        """The chosen image layer; without any, what is active, for an error to tell."""
        return self._panel.image.layer or self._viewer.layers.selection.active

    @property
    def also(self) -> tuple[LayerChannel, ...]:
        """The channels that are counted in together with the chosen one."""
        known = {one.key: one for one in self._further.values()}
        return tuple(known[key] for key in self._panel.further.ticked if key in known)

    @property
    def counted_in(self) -> dict[str, Any]:
        """The channels that are counted in, as the engine takes them."""
        channel, layer, also = self._panel.channel.channel, self.layer, self.also
        if not also or not isinstance(layer, ImageLayer):
            return {"channel": channel.index if channel else None}
        chosen = LayerChannel(layer, channel or channels_of(layer)[0])
        return {"channels": numbers_of(chosen, also), "combine": self._panel.combine.currentData()}

    def inputs(self) -> CountInputs:
        """Return what is chosen now; CheckpointError where there is no model."""
        panel = self._panel
        return CountInputs(
            layer=self.layer,
            channel=panel.channel.channel,
            recipe=Recipe(
                models=(panel.model.model_name, *panel.together.ticked),
                settings=panel.settings,
                engine=self.engine,
                classifier=panel.classes.classifier,
            ),
            family=panel.model.family,
            outputs=self.outputs,
            part=panel.region.currentData(),
            region_layers=panel.region_layers(),
            also=self.also,
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """The ticked outputs of the model's family."""
        offered = registry.get(self._panel.model.family).returns
        return tuple(output for output in offered if self._panel.outputs[output].isChecked())

    @property
    def engine(self) -> EngineSettings:
        """How the network is to run."""
        return EngineSettings(
            device=self._panel.device.device,
            **self.counted_in,
            **self._panel.diameter.settings,
            **self._panel.engine.values(),
        )

    def regions(self) -> RegionSet | None:
        """Return where to count, in pixels of the whole image; WrongLayerError where nothing is drawn yet."""
        layer = image_layer(self.layer)
        layers = self._panel.region_layers()
        if self._panel.region.currentData() == "drawn":
            shapes = region_layer(self._viewer, layers.excluded)
            if shapes is None:
                ask_for_region(self._viewer, layer)
                raise WrongLayerError("Draw a rectangle around the cells first, then count again.")
            if not shapes.data:
                raise WrongLayerError(
                    f"Draw a rectangle in layer {shapes.name!r} first, or any other shape; it is empty."
                )
            name_regions(shapes)
            layers = replace(layers, shapes=shapes)
        if not layers.chosen:
            return None
        axis = (self._panel.channel.channel or channels_of(layer)[0]).axis
        return regions_of(layers, layer, axis, self._panel.rule.currentData())

    def source(self, regions: RegionSet | None) -> Source:
        """Return what is to be counted: all of the image, what is in sight, or what lies around regions."""
        layer, window = image_layer(self.layer), None
        if self._panel.region.currentData() == "view":
            window = self._with_context(window_in_view(self._viewer, layer), layer)
        elif regions is not None:
            margin_px = max(2 * self._panel.diameter.value_px, LEAST_MARGIN_PX)
            window = window_of_regions(regions, layer, margin_px)
        return self.inputs().source(window)

    def _with_context(self, window: Window, layer: ImageLayer, n_around: int | None = None) -> Window:
        """Return the window with slices around it, where the family needs them."""
        if not registry.get(self._panel.model.family).needs_volumes:
            return window
        return through_slices(window, layer, self._panel.channel.channel, n_around)

    def preview_source(self) -> Source:
        """Return the middle of the view, with the slices around it where the family needs them."""
        layer = image_layer(self.layer)
        window = self._with_context(window_in_view(self._viewer, layer, PREVIEW_PX), layer, PREVIEW_SLICES)
        return replace(self.inputs().source(window), is_preview=True)

    def choose_model(self, name: str) -> None:
        """Choose a model by its name or folder.

        CheckpointError where there is no such model.
        """
        box = self._panel.model
        if box.findData(name) < 0 and (Path(name) / SPEC).exists():
            box.add_folder(Path(name))
        if not name or box.findData(name) < 0:
            raise CheckpointError(f"There is no model {name!r} here. Import it, or choose another one.")
        box.choose_data(name)

    def list_siblings(self, ticked: Sequence[str] | None = None) -> None:
        """List what can count together with the chosen model; those that were ticked stay so by default."""
        if ticked is None:
            ticked = self._panel.together.ticked
        self._panel.list_models(self._panel.model.siblings, ticked)

    def _on_scene_changed(self, _: Any = None) -> None:
        self.scene_changed.emit()

    def refresh_channels(self) -> None:
        """List the channels of the chosen image, as far as its axes are known."""
        layer = self._panel.image.layer
        channels: tuple[Channel, ...] = ()
        if isinstance(layer, ImageLayer) and is_understood(layer):
            channels = tuple(one for one in channels_of(layer) if one.title != NO_CHANNELS)
        self._panel.channel.list_channels(channels)
        self.list_further()

    def list_further(self, _: object = None, ticked: Sequence[str] | None = None) -> None:
        """List what can be counted in together with the chosen channel; what was ticked stays so."""
        if ticked is None:
            ticked = self._panel.further.ticked
        layer = self._panel.image.layer
        if not isinstance(layer, ImageLayer):
            layer = None
        self._further = further_channels(self._viewer.layers, layer, self._panel.channel.channel)
        self._panel.list_channels([(title, one.key) for title, one in self._further.items()], ticked)

    def choose_channels(self, engine: EngineSettings) -> str:
        """Choose the channels that settings tell; return a sentence where the image does not have them."""
        panel, layer = self._panel, self._panel.image.layer
        panel.combine.choose_data(engine.combine)
        if engine.channels and isinstance(layer, ImageLayer):
            image, found = channels_by_number(self._viewer.layers, layer)
            try:
                first, *also = (found[number] for number in channel_numbers(image, engine.channels))
            except (SettingsError, KeyError):
                return f" This image has no channels {', '.join(engine.channels)} to count in."
            panel.image.choose(first.layer)
            panel.channel.choose_number(first.channel.index)
            self.list_further(ticked=[one.key for one in also])
            return ""
        panel.channel.choose_number(engine.channel)
        self.list_further(ticked=())
        return ""


class AxesTool(QObject):
    """Fills the box of axes and tells what was understood; a file is first looked at beside the viewer."""

    def __init__(self, model: CountModel, panel: CountPanel, choices: Choices) -> None:
        super().__init__(panel)
        self._model, self._panel, self._choices = model, panel, choices
        self._waiting: Callable[[], None] | None = None
        self.job: Job | None = None
        self._followed: ImageLayer | None = None
        self._is_behind = False  # the panel does not tell yet what is in the file
        panel.axes.activated.connect(self._on_axes_chosen)
        panel.image.chosen.connect(self.refresh)
        self.refresh()

    def when_understood(self, layer: Layer | None, go_on: Callable[[], None]) -> bool:
        """Return whether a layer is understood; else go on as soon as it is."""
        if is_understood(layer):
            if self._is_behind:  # the thread has looked already, or another panel has
                self._choices.refresh_channels()
                self.refresh()
            return True
        self._waiting = go_on
        self._read(layer)
        return False

    def refresh(self, _: object = None) -> None:
        """Tell what is understood of the chosen image."""
        layer = self._choices.layer
        self._follow(layer if isinstance(layer, ImageLayer) else None)
        self._is_behind = not is_understood(layer)
        if self._is_behind:
            self._panel.show_axes("")
            self._read(layer)
            return
        try:
            layer = image_layer(layer)
            known = understood(layer)
        except CellwrightError:
            self._show_size({})
            self._panel.show_axes("")
            return
        self._show_size(known.image.known_sizes_um)
        shape, axes = known.image.shape, known.image.axes
        likely = dict.fromkeys([axes, *likely_axes(shape, is_colour=bool(layer.rgb))])
        self._panel.axes.fill([(f"{one} · {meaning(one, shape)}", one) for one in likely], known.image.axes)
        sentence = ""
        if layer.ndim > 2 or known.axes_from == "choice":
            sentence = understood_line(known, is_linked=bool(self._panel.engine.values()["link"]))
        self._panel.show_axes(sentence, is_guessed=known.axes_from == "shape")

    def _show_size(self, sizes_um: Mapping[str, float]) -> None:
        """Offer the diameter in µm where the pixel size is known; tell where one that was given is lost."""
        if self._panel.diameter.know(pixel_um_of(sizes_um)):
            self._model.tell("This image has no pixel size, so the diameter in µm was set to auto.")

    def _follow(self, layer: ImageLayer | None) -> None:
        """Say again what is understood when the layer is given other labels, units or pixels."""
        if layer is self._followed:
            return
        before, self._followed = self._followed, layer
        for name in LAYER_EVENTS:
            if before is not None:
                getattr(before.events, name).disconnect(self._on_layer_changed)
            if layer is not None:
                getattr(layer.events, name).connect(self._on_layer_changed)

    def _on_layer_changed(self, _: object = None) -> None:
        if isalive(self):
            self._choices.refresh_channels()
            self.refresh()

    def _read(self, layer: Layer | None) -> None:
        if self.job is not None or layer is None:
            return
        path = Path(layer.source.path or "")
        job = Job(once("load", lambda: describe_images(path)), self)
        self.job = job.start(failed=self._on_failed, finished=self._on_read)

    def _on_failed(self, error: Exception) -> None:
        self._waiting = None  # the count that waits would take the error away
        self._model.fail(error, "Reading the axes")

    def _on_read(self) -> None:
        self.job = None
        self._choices.refresh_channels()
        self.refresh()  # looks at another file where another image was chosen meanwhile
        go_on, self._waiting = self._waiting, None
        if go_on is not None:
            go_on()

    def _on_axes_chosen(self) -> None:
        layer = self._choices.layer
        if isinstance(layer, ImageLayer):
            axes = str(self._panel.axes.currentData() or "")
            self.choose(layer, axes.removesuffix("C") if layer.rgb else axes)

    def choose(self, layer: ImageLayer, axes: str) -> None:
        """Take these axes for a layer from now on, in every panel; '' takes them as they are understood.

        ``axes`` has a letter for each axis, colours left out.
        """
        if axes == chosen_axes(layer):
            return
        kept = {name: value for name, value in layer.metadata.items() if name != AXES}
        if axes:
            kept[AXES] = axes
        layer.metadata = kept
        self._choices.refresh_channels()
        self.refresh()
        counted = self._model.outcome
        if counted is None or counted.request.source.layer_id != str(layer.unique_id):
            return
        self._model.tell("The axes are changed; count again for the number of cells.", is_warning=True)


def understood_line(known: Understood, *, is_linked: bool) -> str:
    """Return what an image is taken for, and why: ``From the file: 51 slices in z; 0.65 µm a pixel``."""
    image = known.image
    text = meaning(image.axes, image.shape, image.channel_names)
    if "Z" in image.axes and is_linked:
        text = text.replace(" in z", " in z, linked")
    size = image.known_sizes_um.get("X")
    if size:
        text += f"; {size:.3g} µm a pixel"
    step = image.known_sizes_um.get("Z")
    if step:
        text += f", {step:.3g} µm a slice"
    return f"{BEGINNINGS[known.axes_from]}: {text}"
