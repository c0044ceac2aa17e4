"""What the folder panel knows: what is counted and how, and what became of each image; free of Qt."""

import math
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from napari.layers import Image as ImageLayer
from napari.layers import Layer
from psygnal import Signal

from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.tasks import Progress, Task, map_progress
from cellwright.files.folders.image_list import list_images
from cellwright.files.folders.image_results import read_listed, read_result
from cellwright.files.folders.results import ImageOutcome, check_output
from cellwright.files.folders.written import done_file, facts_of
from cellwright.inference.recipe import Recipe
from cellwright.ops.plates import PlateMap, plate_map, well_place
from cellwright.widgets.shared.layer_io import layer_arguments, prepare_layers, source_of

ORDERS = {
    "fit": "Worst fit first",
    "most": "Most cells first",
    "fewest": "Fewest cells first",
    "name": "By name",
}
OUTPUTS = ("Image", "Labels", "Points")  # the first that an image has is shown: density, outlines, points
REPORT = "report.html"
STAGES = ("earlier results", "images", "table of all cells")  # of a folder; the others are of one image
UNINTERESTING = ("seconds", "low", "high")  # columns that nobody maps


@dataclass(frozen=True, slots=True)
class FolderRequest:
    """Which images are counted, and how."""

    paths: tuple[Path, ...]  # folders, plates and files
    output: Path  # folder of the results
    recipe: Recipe  # models and settings
    pattern: str = "*"  # see :func:`cellwright.files.folders.image_list.list_images`
    plate: str = ""
    xlsx: bool = False  # whether tables are written for Excel, too


class OpenedImage(NamedTuple):
    """The layers of an image of a folder, not yet in a viewer."""

    image: ImageLayer
    cells: Mapping[str, Layer]
    place: "Place"
    is_streamed: bool  # whether it was counted block by block, and so is not corrected


class Place(NamedTuple):
    """Where the results of an image lie."""

    output: Path  # folder
    name: str  # of the image
    opened_ns: int  # when its mark had changed last as it was opened


class FolderModel:
    """Outcomes of the images of a folder, in the order and the part that are shown."""

    changed = Signal()  # other outcomes, another order or another part

    def __init__(self) -> None:
        self.output: Path | None = None
        self.order = "fit"
        self.well = ""  # of the plate; empty for all
        self.plate = ""  # which of several
        self.column = "count"  # of the heat map
        self.arrived: deque[ImageOutcome] = deque()  # from the thread that counts
        self._outcomes: dict[str, ImageOutcome] = {}

    def start(self, output: Path, outcomes: Iterable[ImageOutcome] = ()) -> None:
        """Show the results in another folder."""
        self.output, self.well = output, ""
        self.arrived = deque()
        self._outcomes = {one.image.name: one for one in outcomes}
        self.changed.emit()

    def take_arrived(self) -> int:
        """Take in what has been counted since; return how many there were. Call it in the GUI thread."""
        n = 0
        while self.arrived:
            outcome = self.arrived.popleft()
            self._outcomes[outcome.image.name] = outcome
            n += 1
        if n:
            self.changed.emit()
        return n

    def show(self, **values: str) -> None:
        """Set ``order``, ``well``, ``plate`` or ``column``."""
        for name, value in values.items():
            setattr(self, name, value)
        self.changed.emit()

    @property
    def done(self) -> list[ImageOutcome]:
        """The images that were counted."""
        return [one for one in self._outcomes.values() if not one.error]

    @property
    def failed(self) -> list[ImageOutcome]:
        """The images that failed."""
        return [one for one in self._outcomes.values() if one.error]

    @property
    def shown(self) -> list[ImageOutcome]:
        """The images of the chosen well, or all, in the chosen order."""
        place, kept = well_place(self.well), self.done
        if place is not None:
            kept = [one for one in self._on_plate if well_place(str(one.image.plate.get("well"))) == place]
        return sorted(kept, key=lambda one: (_key(one, self.order), one.image.name))

    @property
    def n_cells(self) -> float:
        """Cells of all images."""
        return float(sum(one.row.get("count", 0) for one in self.done))

    @property
    def plates(self) -> list[str]:
        """Names of the plates, where names tell of several."""
        return sorted({str(one.image.plate["plate"]) for one in self.done if "plate" in one.image.plate})

    @property
    def columns(self) -> list[str]:
        """Columns of the summary that a heat map can show, the count first."""
        names = ["count"]
        for one in self.done:
            names += [name for name, value in one.row.items() if isinstance(value, int | float)]
        return [name for name in dict.fromkeys(names) if name not in UNINTERESTING]

    @property
    def has_wells(self) -> bool:
        """Whether names tell of wells."""
        return any(well_place(str(one.image.plate.get("well", ""))) for one in self.done)

    @property
    def plate_map(self) -> PlateMap | None:
        """The chosen column over the wells of the chosen plate; None where names tell of no wells."""
        return plate_map(
            (str(one.image.plate["well"]), float(one.row.get(self.column, math.nan)))
            for one in self._on_plate
            if "well" in one.image.plate
        )

    @property
    def _on_plate(self) -> list[ImageOutcome]:
        plates = self.plates
        wanted = self.plate if self.plate in plates else next(iter(plates), None)
        return [one for one in self.done if one.image.plate.get("plate") == wanted]


def _key(outcome: ImageOutcome, order: str) -> float:
    count = float(outcome.row.get("count", 0))
    keys = {"fit": float(outcome.row.get("fit", math.inf)), "most": -count, "fewest": count}
    return keys.get(order, 0.0)


def check_request(request: FolderRequest) -> None:
    """Raise before anything is counted where it cannot be.

    SettingsError where no folder is chosen. ReadError where a folder is missing. WriteError where results
    would lie among the images.
    """
    if not request.paths:
        raise SettingsError("Choose the folder whose images are counted.")
    missing = [path for path in request.paths if not os.path.exists(path)]  # Path.exists raises on long names
    if missing:
        raise ReadError(f"Expected a folder at {missing[0]}; there is none. Check the path.")
    if request.output == Path():
        raise SettingsError("Choose a folder for the results.")
    check_output(request.output, request.paths)


def folder_task(request: FolderRequest, arrived: deque[ImageOutcome]) -> Task[list[str]]:
    """Count the images of folders; ``arrived`` is given each as soon as it is done. Returns notices."""
    yield Progress("load", 0, 1)
    from cellwright.inference.context import load_models
    from cellwright.inference.folder import count_folder
    from cellwright.inference.image_count import CountChoices

    images = list_images(request.paths, request.pattern or "*", request.plate, request.output)
    output = request.output
    choices = CountChoices(
        load_models(request.recipe.models), request.recipe, output, output / REPORT, request.xlsx
    )
    notices: list[str] = []
    whole = Progress("images", 0, 1)

    def tell_whole(step: Progress) -> Progress:
        """Tell of images alone, for the time left."""
        nonlocal whole
        if step.stage in STAGES:
            whole = Progress(step.stage, step.done, step.total)
        return whole

    counting = count_folder(images, output, choices, on_outcome=arrived.append, on_notice=notices.append)
    yield from map_progress(counting, tell_whole)
    return notices


def open_counted(outcome: ImageOutcome, output: Path) -> Task[OpenedImage]:
    """Return the layers of an image and of its cells as they are in the files.

    ReadError where one of the files is missing or damaged.
    """
    yield Progress("open", 0, 1)
    place = Place(output, outcome.image.name, facts_of(done_file(outcome.image.name, output)).changed_ns)
    image = read_listed(outcome.image, output)
    layer = ImageLayer(image.data, **layer_arguments(image))
    result = read_result(output, place.name, image)
    yield Progress("layers", 0, 1)
    made = (prepare_layers(result, source_of(layer), (name,)) for name in OUTPUTS)
    is_streamed = (output / f"{place.name}.labels.zarr").exists()
    return OpenedImage(layer, next(filter(len, made), {}), place, is_streamed)
