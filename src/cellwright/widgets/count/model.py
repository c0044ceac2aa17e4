"""What the count panel knows and what its tools ask of it; free of Qt."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from psygnal import Signal

from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.widgets.count.channels import LayerChannel, source_with
from cellwright.widgets.count.count_request import CountOutcome, Request
from cellwright.widgets.shared.coordinates import AXES, Channel, Window, channels_of, chosen_axes
from cellwright.widgets.shared.layer_io import Source, image_layer

Place = tuple[str, int | None, tuple[str, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class CountInputs:
    """What is chosen in the panel."""

    layer: Layer | None  # the image layer; without any, what is active, for an error to tell
    channel: Channel | None  # what of it to count in
    model: str  # name or folder of the model, and its family
    family: str
    classifier: str  # name of a classifier, empty for none
    settings: Any  # of the family
    engine: EngineSettings  # how the network runs
    outputs: tuple[str, ...]  # the layers that are wanted
    together: tuple[str, ...] = ()  # names or folders of further models of the family, averaged with it
    also: tuple[LayerChannel, ...] = ()  # channels that are counted in together with the chosen one

    @property
    def chosen(self) -> LayerChannel:
        """The chosen channel of the chosen layer.

        Raises
        ------
        WrongLayerError
            There is no layer, or it is none of an image.
        """
        layer = image_layer(self.layer)
        return LayerChannel(layer, self.channel or channels_of(layer)[0])

    def source(self, window: Window | None = None) -> Source:
        """Return what is to be counted: the chosen channels of all of the image, or of a window.

        Raises
        ------
        WrongLayerError
            The layer is none of an image, or another one does not lie upon it.
        """
        return source_with(self.chosen, self.also, window)

    @property
    def channels_of_file(self) -> tuple[str, ...]:
        """The channels that are counted in together, by their numbers in the file where these are known."""
        if not self.also:
            return ()
        part = self.source().image.source_part
        if part is not None and isinstance(part[1], tuple) and part[1]:
            return tuple(map(str, part[1]))
        return self.engine.channels

    @property
    def further_files(self) -> tuple[str, ...]:
        """The files, besides that of the layer, that hold channels which are counted in together."""
        return self.source().image.source_files if self.also else ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names or folders of all models that count."""
        return (self.model, *self.together)

    def request(self, source: Source) -> Request:
        """Return what is to be counted, as all of this says."""
        model: str | tuple[str, ...] = self.model
        if self.together:
            model = self.models
        return Request(source, model, self.settings, self.engine, self.outputs, self.classifier, self.family)


class _Remembered(NamedTuple):
    n_cells: float
    interval: tuple[float, float] | None


class CountModel:
    """The last count, and the way of the tools to what the panel does.

    Parameters
    ----------
    read_inputs
        Gives what is chosen now; raises CellwrightError where that cannot be counted with.
    """

    outcome_changed = Signal(object)  # CountOutcome, as it is shown now
    outcome_wanted = Signal(object)  # CountOutcome that is to be shown
    settings_wanted = Signal(object)  # settings to put into the forms, with nothing counted anew
    work_wanted = Signal(object, object)  # Task, and what is given its result
    update_wanted = Signal(object)  # makes a Task of a CountOutcome; the latest one wins
    axes_changed = Signal(object)  # Image layer whose axes the user has chosen
    cause_changed = Signal()  # of an error that may be told
    whole_counted = Signal(object)  # WholeCount of an image larger than memory
    told = Signal(str, bool, bool)  # a sentence for the user; whether it is an error, or a warning
    failed = Signal(object, str)  # Exception, and what was being done

    def __init__(self, viewer: Any, read_inputs: Callable[[], CountInputs]) -> None:
        self.viewer = viewer
        self.inputs = read_inputs
        self.outcome: CountOutcome | None = None
        self.is_busy = False
        self._counts: dict[tuple[Place, str], _Remembered] = {}

    def choose_axes(self, layer: ImageLayer, axes: str) -> None:
        """Take these axes for a layer from now on, in every panel; '' takes them as they are understood.

        ``axes`` has a letter for each axis, colours left out.
        """
        if axes == chosen_axes(layer):
            return
        kept = {name: value for name, value in layer.metadata.items() if name != AXES}
        if axes:
            kept[AXES] = axes
        layer.metadata = kept
        self.axes_changed.emit(layer)

    def tell(self, text: str, *, is_error: bool = False, is_warning: bool = False) -> None:
        """Tell the user a sentence; an empty one takes the last away."""
        self.told.emit(text, is_error, is_warning)

    def fail(self, error: Exception, doing: str = "Counting") -> None:
        """Tell the user what went wrong; what was not foreseen is logged with what was being done."""
        self.failed.emit(error, doing)

    def disagreement(self, outcome: CountOutcome) -> str:
        """Remember a count; tell where cells and density of the same pixels disagree.

        Previews and regions are left out. Of each counted part only a number and an interval are kept.
        """
        request, source = outcome.request, outcome.request.source
        if source.is_preview or request.regions is not None:
            return ""
        place = (
            source.layer_id,
            request.engine.channel,
            request.engine.channels,
            source.offset,
            source.image.shape,
        )
        kind = registry.get(request.family).gives
        self._counts[place, kind] = _Remembered(outcome.result.count, outcome.result.interval)
        cells, density = (self._counts.get((place, one)) for one in ("instances", "density"))
        if cells is None or density is None or density.interval is None:
            return ""
        from cellwright.ops.measure.prediction_interval import disagreement

        return disagreement(cells.n_cells, density.n_cells, density.interval, has_density=kind == "density")
