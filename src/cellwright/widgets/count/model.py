"""What the count panel knows, the task that counts, what is told of a count; free of Qt."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from napari.layers import Layer
from psygnal import Signal

from cellwright.core.data import Prediction, Result
from cellwright.core.tasks import Progress, Task
from cellwright.core.words import n_of
from cellwright.files.metadata import meaning
from cellwright.inference.recipe import Recipe
from cellwright.models import registry
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.ops.geometry.axes import channel_numbers
from cellwright.ops.measure.analysis import density_inside
from cellwright.ops.measure.cells_table import cells_table, class_counts, counted_planes, in_planes
from cellwright.ops.measure.regions import RegionSet
from cellwright.ops.measure.settings import AnalysisSettings
from cellwright.widgets.count.channels import LayerChannel, source_with
from cellwright.widgets.shared.cells.image_pixels import mark_of_pixels
from cellwright.widgets.shared.cells.regions import REGIONS, WINDOW, RegionLayers
from cellwright.widgets.shared.cells.snapshot import rows_in_regions
from cellwright.widgets.shared.coordinates import Channel, Window, channels_of, transform_of
from cellwright.widgets.shared.edited_layers import edited_rows
from cellwright.widgets.shared.layer_factory import legend
from cellwright.widgets.shared.layer_io import Source, image_layer, layer_of_id, layers_with, prepare_layers
from cellwright.widgets.shared.napari_private import unwrapped

if TYPE_CHECKING:
    import pandas

Place = tuple[str, int | None, tuple[str, ...], tuple[int, ...], tuple[int, ...]]
FILES = "cellwright_files"  # key in the metadata of a layer whose cells are in files
WHOLE_IMAGE = "whole"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be counted, and how. Made by the widget and the menu command; used by :func:`count_task`."""

    source: Source
    recipe: Recipe = Recipe()  # noqa: RUF009 - frozen
    outputs: tuple[str, ...] = ("Labels",)
    family: str = DEFAULT_FAMILY  # of the models of the recipe
    regions: RegionSet | None = None  # in pixels of the whole image; None counts all of the source
    part: str = WHOLE_IMAGE  # what was chosen to count in, as the panel names it
    region_layers: RegionLayers = RegionLayers()  # noqa: RUF009 - frozen; those left out, and the mask


@dataclass(frozen=True, slots=True)
class _Counted:
    request: Request

    @property
    def layer_id(self) -> str:
        """``unique_id`` of the image layer."""
        return self.request.source.layer_id


@dataclass(frozen=True, slots=True)
class CountOutcome(_Counted):
    """The result of a request and the layers that show it, not yet in a viewer.

    ``prediction`` is what other thresholds can be applied to, where it was kept.
    """

    result: Result
    layers: Mapping[str, Layer]
    prediction: Prediction | None = None

    def is_here(self, viewer: Any) -> bool:
        """Return whether the image, or what was made of it, is still among the layers."""
        has_image = layer_of_id(viewer, self.layer_id) is not None
        return has_image or bool(layers_with(viewer, self.request.source.key))


@dataclass(frozen=True, slots=True)
class WholeCount(_Counted):
    """What was counted block by block: its number, a sentence and the layer that shows it from its files."""

    count: float
    line: str
    folder: Path
    expected: str  # how well it can be expected to be, as a sentence
    notices: tuple[str, ...]
    files: str  # path of the labels or the density; '' where there are none
    build: Callable[[], Layer] | None  # the hidden layer, in the GUI thread

    def is_here(self, viewer: Any) -> bool:
        """Return whether the image, or the layer of its cells, is still among the layers."""
        has_image = layer_of_id(viewer, self.layer_id) is not None
        return has_image or any(one.metadata.get(FILES) == self.files for one in viewer.layers)


class ViewerCounts:
    """What was counted in a viewer; it outlives the panels, and one that opens later takes it up."""

    def __init__(self) -> None:
        self.standing: dict[str, CountOutcome | WholeCount] = {}  # by image layer, the latest last
        # of each place: how many cells or, by a density, and the interval
        self.numbers: dict[tuple[Place, str], tuple[float, tuple[float, float] | None]] = {}


_counts: WeakKeyDictionary[Any, ViewerCounts] = WeakKeyDictionary()


def removed_line(viewer: Any, source: Source) -> str:
    """Return a sentence where the image layer was removed, moved or given other pixels during its count."""
    layer, what = layer_of_id(viewer, source.layer_id), f"The image layer {source.image.name!r} was"
    if layer is None:
        return f"{what} removed while its cells were counted; they are shown where it was."
    if layer.data is not source.layer_data:
        return (
            f"{what} given other pixels while its cells were counted; these are the cells of those before. "
            "Count again."
        )
    if transform_of(layer) != source.layer_transform:
        return f"{what} moved or scaled while its cells were counted; they lie where it was. Count again."
    return ""


def recipe_of_count(counted: CountOutcome | WholeCount) -> Recipe:
    """Return the recipe that a count was asked for with, and the rule of its regions."""
    recipe, regions = counted.request.recipe, counted.request.regions
    if regions is None:
        return recipe
    return replace(recipe, analysis=AnalysisSettings(region_rule=regions.rule))


def counts_of(viewer: Any) -> ViewerCounts:
    """Return what was counted in a viewer."""
    return _counts.setdefault(unwrapped(viewer), ViewerCounts())


def remember(viewer: Any, counted: CountOutcome | WholeCount) -> None:
    """Keep the count of an image; the large maps of the network are kept of the latest alone."""
    forget_gone(viewer)
    standing = counts_of(viewer).standing
    standing.pop(counted.layer_id, None)
    for layer_id, one in list(standing.items()):
        if isinstance(one, CountOutcome):
            standing[layer_id] = replace(one, prediction=None)
    standing[counted.layer_id] = counted


def forget_gone(viewer: Any) -> None:
    """Let go of counts of which nothing is among the layers any more."""
    standing = counts_of(viewer).standing
    for one in [one for one in standing.values() if not one.is_here(viewer)]:
        del standing[one.layer_id]


def count_task(request: Request) -> Task[CountOutcome]:
    """Return the cells of a request with their layers; imports torch in the thread that runs it."""
    yield Progress("load", 0, 1)
    source = request.source
    request = replace(request, source=replace(source, pixels=mark_of_pixels(source.layer_data)))
    from cellwright.inference.pipeline import count_with_prediction

    image, recipe = request.source.image, request.recipe
    result, prediction = yield from count_with_prediction(
        image, recipe.models, recipe.settings, recipe.engine
    )
    result = inside_regions(request, replace(result, offset=request.source.offset))
    result = yield from _classified(request, result)
    return (yield from show_task(request, result, prediction))


def recount_task(counted: CountOutcome, request: Request) -> Task[CountOutcome]:
    """Return what a request that differs in thresholds, classes or outputs gives, from an earlier count."""
    yield Progress("retune", 0, 1)
    result, recipe, before = counted.result, request.recipe, counted.request.recipe
    is_recounted = recipe.settings != before.settings
    if is_recounted:
        from cellwright.inference.pipeline import recount

        result = recount(result, counted.prediction, recipe.models, recipe.settings)
        result = inside_regions(request, result)
    if is_recounted or recipe.classifier != before.classifier:
        result = yield from _classified(request, result)
    return (yield from show_task(request, result, counted.prediction))


def show_task(request: Request, result: Result, prediction: Prediction | None = None) -> Task[CountOutcome]:
    """Return a result with the layers that a request wants."""
    yield Progress("layers", 0, 1)
    metadata = {WINDOW: counted_window(request.source)}
    if request.regions is not None:
        metadata[REGIONS] = request.regions
    layers = prepare_layers(result, request.source, request.outputs, metadata)
    return CountOutcome(request, result, layers, prediction)


def counted_window(source: Source) -> Any:
    """Return the part of the image that was counted: first and end pixel along each axis of the labels."""
    lengths = zip(source.offset, source.image.label_shape, strict=True)
    return tuple((start, start + n) for start, n in lengths)


def inside_regions(request: Request, result: Result) -> Result:
    """Return a result with the cells that lie in a region of the request; all where it has none.

    Of a density the pixels outside become 0. How sure the count is then is not known.
    """
    regions = request.regions
    if regions is None:
        return result
    if "density" in result.maps:
        return density_inside(result, regions)[0]
    rows = np.flatnonzero(regions.membership(result.cells, result.offset).any(axis=1))
    return replace(result, count=float(len(rows)), interval=None, cells=result.cells.take(rows))


def _classified(request: Request, result: Result) -> Task[Result]:
    recipe = request.recipe
    if not recipe.classifier or not len(result.cells):
        return unclassified(result)
    yield Progress("classes", 0, 1)
    from cellwright.inference.classify import classify

    return (yield from classify(result, request.source.image, recipe.classifier, recipe.engine))


def unclassified(result: Result) -> Result:
    """Return a result without the classes of its cells."""
    if result.cells.classes is None:
        return result
    settings = dict(result.provenance.settings)
    for written in ("classes", "classifier"):
        settings.pop(written, None)
    cells, provenance = replace(result.cells, classes=None), replace(result.provenance, settings=settings)
    return replace(result, cells=cells, provenance=provenance)


def can_recount(counted: CountOutcome) -> bool:
    """Return whether other thresholds need no new run of the network."""
    return counted.prediction is not None or counted.result.gives == "density"


class CountCard(NamedTuple):
    """What the panel tells of a count; the legend is rich text."""

    number: str
    line: str
    details: str
    legend: str


def card_of(
    counted: CountOutcome,
    name: str,
    unit: str,
    edited: "pandas.DataFrame | None" = None,
    elsewhere: str = "",
    order: Iterable[str] = (),
) -> CountCard:
    """Return what is told of a count, or of its cells as they were changed by hand since.

    ``name`` is that of the image, ``unit`` as in the preferences. Where cells were ``edited`` it has one row
    for each that is there now, and their classes the ``order`` of their colours. ``elsewhere`` tells where
    the image is, if it is not the one that is chosen.
    """
    result, source = counted.result, counted.request.source
    by_hand, outside, sizes, classes = "", "", cells_table(result), class_counts(result)
    if edited is not None:
        by_hand = by_hand_line(edited, len(result.cells))
        if counted.request.regions is not None and "regions" in edited:
            n_there, edited = len(edited), edited[rows_in_regions(edited)]
            if n_there > len(edited):
                outside = f"{n_there - len(edited):,} outside the regions"
        result, sizes = replace(result, count=float(len(edited)), interval=None), edited
        if "class" in edited:
            found = edited["class"].value_counts()
            classes = {name: int(found.get(name, 0)) for name in (*order, *found.index) if name}
    first, _, rest = result_line(result).partition(" · ")
    line = joined_by_dots(f"{first}{in_planes(counted_planes(result))}", by_hand, outside, rest)
    if source.is_preview:
        height, width = source.image.label_shape[-2:]  # of a large view its middle alone
        line = f"preview of {height} x {width} px in view: {line}"
    if elsewhere:
        line = f"of {name!r}, {elsewhere}: {line}"
    whose = joined_by_dots(name, channels_line(counted.request))
    details = (guess_line(result), interval_line(result), whose, sizes_line(sizes, unit))
    lines = "\n".join(filter(None, details))
    return CountCard(f"{result.count:,.0f}", line, lines, legend(classes, classes.values()))


def joined_by_dots(*parts: str) -> str:
    """Return texts in one line; empty ones are left out."""
    return " · ".join(filter(None, parts))


def by_hand_line(table: "pandas.DataFrame", n_found: int) -> str:
    """Return how many cells were drawn or changed by hand, or that some were deleted.

    Nothing where all are as they were found: an annotation that begins takes their layer over as it is.
    """
    n_edited = int(edited_rows(table).sum())
    if n_edited:
        return f"{n_edited:,} by hand"
    return "" if len(table) == n_found else "changed by hand"


def result_line(result: Result) -> str:
    """Return the count, the model and the seconds in one line: ``412 cells · flow · 1.8 s``."""
    n_cells, found_by = n_of(result.count, "cell", ",.0f"), result.provenance
    return f"{n_cells} · {found_by.model} · {found_by.seconds:.1f} s"


def channels_line(request: Request) -> str:
    """Return the channels that were counted in; '' where the image has one, or colours."""
    image, engine = request.source.image, request.recipe.engine
    chosen = engine.channels or (engine.channel or 0,)
    if "C" not in image.axes[:-1] or image.shape[image.axes.index("C")] < 2:
        return ""
    numbers = channel_numbers(image, chosen)
    names = image.channel_names or [f"channel {number}" for number in range(max(numbers) + 1)]
    return " + ".join(names[number] for number in numbers)


def guess_line(result: Result) -> str:
    """Return where the number rests on guessed axes: ``axes guessed: ZYX, 51 slices in z``; else nothing."""
    found_by = result.provenance
    if not found_by.settings.get("axes_are_guessed"):
        return ""
    return f"axes guessed: {found_by.axes}, {meaning(found_by.axes, found_by.image_shape)}"


def interval_line(result: Result) -> str:
    """Return the interval of a count in words, or nothing: ``394 to 430 cells (90 % interval)``."""
    if result.interval is None:
        return ""
    low, high = result.interval
    return f"{low:,.0f} to {high:,.0f} cells (90 % interval)"


def sizes_line(table: "pandas.DataFrame", unit: str = "auto") -> str:
    """Return the median diameter of a table of cells in pixels and, where known, micrometres, or nothing.

    Of a volume, whose voxels are seldom cubes, in micrometres alone. With ``px`` as unit there are no
    micrometres.
    """
    units = {"diameter_px": ("px", ".1f"), "diameter_um": ("µm", ".3g")}  # pixels may be nanometres wide
    if unit == "px":
        del units["diameter_um"]
    sizes = [f"{table[name].median():{form}} {unit}" for name, (unit, form) in units.items() if name in table]
    if not len(table) or not sizes:
        return ""
    return f"median diameter {joined_by_dots(*sizes)}"


@dataclass(frozen=True, slots=True)
class CountInputs:
    """What is chosen in the panel."""

    layer: Layer | None  # the image layer; without any, what is active, for an error to tell
    channel: Channel | None  # what of it to count in
    recipe: Recipe  # models of one family, their settings, how the network runs, a classifier
    family: str
    outputs: tuple[str, ...]  # the layers that are wanted
    part: str = WHOLE_IMAGE  # what to count in, as the panel names it
    region_layers: RegionLayers = RegionLayers()  # noqa: RUF009 - frozen; those left out, and the mask
    also: tuple[LayerChannel, ...] = ()  # channels that are counted in together with the chosen one

    @property
    def chosen(self) -> LayerChannel:
        """The chosen channel of the chosen layer.

        WrongLayerError where there is no layer, or it is none of an image.
        """
        layer = image_layer(self.layer)
        return LayerChannel(layer, self.channel or channels_of(layer)[0])

    def source(self, window: Window | None = None) -> Source:
        """Return what is to be counted: the chosen channels of all of the image, or of a window.

        WrongLayerError where the layer is none of an image, or another one does not lie upon it.
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
        return self.recipe.engine.channels

    @property
    def further_files(self) -> tuple[str, ...]:
        """The files, besides that of the layer, that hold channels which are counted in together."""
        return self.source().image.source_files if self.also else ()

    def request(self, source: Source, regions: RegionSet | None = None) -> Request:
        """Return what is to be counted, as all of this says."""
        return Request(source, self.recipe, self.outputs, self.family, regions, self.part, self.region_layers)


class CountModel:
    """The last count, and the way of the tools to what the panel does.

    ``read_inputs`` gives what is chosen now, and raises CellwrightError where that cannot be counted with.
    ``message``, the label of the panel, tells the user a sentence or what went wrong. ``run`` runs a task,
    and gives its result to a function; ``update`` runs the task of a CountOutcome that a function makes, of
    which the latest one wins.
    """

    outcome_changed = Signal(object)  # CountOutcome, as it is shown now
    outcome_wanted = Signal(object)  # CountOutcome that is to be shown
    settings_wanted = Signal(object)  # settings to put into the forms, with nothing counted again
    whole_counted = Signal(object)  # WholeCount of an image larger than memory

    def __init__(
        self,
        viewer: Any,
        read_inputs: Callable[[], CountInputs],
        message: Any,
        run: Callable[..., None],
        update: Callable[..., None],
    ) -> None:
        self.viewer, self.inputs = viewer, read_inputs
        self.tell, self.fail, self.forget_error = message.tell, message.fail, message.forget_error
        self.run, self.update = run, update
        self.outcome: CountOutcome | None = None
        self.is_busy = False

    def note_number(self, outcome: CountOutcome) -> Place | None:
        """Remember how many there are, for :meth:`disagreement`; return of what, None of a part of an image.

        Of each counted part only a number and an interval are kept.
        """
        request, source = outcome.request, outcome.request.source
        if source.is_preview or request.regions is not None:
            return None
        engine = request.recipe.engine
        place = (source.layer_id, engine.channel, engine.channels, source.offset, source.image.shape)
        kind = registry.get(request.family).gives
        counts_of(self.viewer).numbers[place, kind] = (outcome.result.count, outcome.result.interval)
        return place

    def disagreement(self, outcome: CountOutcome) -> str:
        """Tell where cells and density of the same pixels, as both are shown, disagree.

        Previews and regions are left out.
        """
        place = self.note_number(outcome)
        if place is None:
            return ""
        numbers = counts_of(self.viewer).numbers
        cells, density = (numbers.get((place, one)) for one in ("instances", "density"))
        if cells is None or density is None:
            return ""
        n_by_density, interval = density
        if interval is None:
            return ""
        from cellwright.ops.measure.prediction_interval import disagreement_notice

        has_density = outcome.result.gives == "density"
        return disagreement_notice(cells[0], n_by_density, interval, has_density=has_density)
