"""An analysis written down: settings to a file and back, and the Python or the command that repeats it."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cellwright.core.data import Image, Provenance, Result
from cellwright.core.errors import CellwrightError, ReadError, SettingsError, error_line, expecting
from cellwright.core.words import shell_line
from cellwright.files.atomic import write_text
from cellwright.files.images import read_image, with_channels_of
from cellwright.files.json_value import NO_JSON
from cellwright.files.regions import read_label_image, read_mask, read_regions
from cellwright.inference.settings import COUNT_RULES, EngineSettings, InputFiles, StreamSettings, named
from cellwright.models import registry, store
from cellwright.ops.measure.analysis import AnalysisInputs
from cellwright.ops.measure.blocks import cropped
from cellwright.ops.measure.cells_table import plain_count
from cellwright.ops.measure.regions import Region, region_set
from cellwright.ops.measure.settings import AnalysisSettings

FORMAT = "cellwright-recipe"
PARTS = {
    "engine": EngineSettings,
    "analysis": AnalysisSettings,
    "files": InputFiles,
    "stream": StreamSettings,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a result depends on, besides the pixels."""

    image: str = ""  # path of the image; empty in settings that are kept for any image
    models: tuple[str, ...] = (registry.DEFAULT_FAMILY,)  # names or folders; several are averaged
    settings: Any = None  # of the models' family; None takes its defaults
    engine: EngineSettings = field(default_factory=EngineSettings)  # how the network runs
    axes: str = ""  # of the image; empty as the file tells
    classifier: str = ""  # name or folder; empty for none
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)  # measured, and which count
    files: InputFiles = field(default_factory=InputFiles)  # what the analysis takes besides the image
    window: tuple[tuple[int, int], ...] = ()  # first and end pixel of each axis; empty for the whole
    pixel_size_um: tuple[float, ...] = ()  # of the image along its spatial axes; empty as the file tells
    stream: StreamSettings = field(default_factory=StreamSettings)  # whether and how block by block
    each_channel: bool = False  # whether channels are counted one by one, as images of their own name
    with_files: tuple[str, ...] = ()  # further image files, whose channels are added after those of the image

    @property
    def is_analysed(self) -> bool:
        """Whether more is asked for than a count."""
        return self.analysis != AnalysisSettings() or self.files != InputFiles()

    @property
    def needs_cells(self) -> bool:
        """Whether something is asked for that single cells alone have: a density has regions, no more."""
        files = replace(self.files, regions=(), exclude=(), mask="", outside=False, outside_mask="")
        return self.analysis != AnalysisSettings() or files != InputFiles() or bool(self.classifier)

    def image_of(self, image: Image) -> Image:
        """Return an image that was read with the pixel size of the recipe.

        AxesError where it has another number of spatial axes.
        """
        if not self.pixel_size_um:
            return image
        return replace(image, pixel_size_um=self.pixel_size_um)

    def part_of(self, image: Image) -> Image:
        """Return the part of an image that is counted.

        SettingsError where it does not lie in the image.
        """
        if not self.window:
            return image
        ends = [end for _, end in self.window]
        if len(ends) != len(image.label_shape) or any(np.greater(ends, image.label_shape)):
            raise SettingsError(
                f"The part {window_text(self.window)} must lie in the image, which has {image.label_shape} "
                f"pixels along {image.label_axes}. Choose another part."
            )
        return cropped(image, self.offset, [end - start for start, end in self.window])

    def joined(self, image: Image) -> Image:
        """Return an image with the channels of the further files of a recipe.

        ReadError where one cannot be read, or is not of the same pixels.
        """
        return with_channels_of(image, named(self.with_files, image.name))

    @property
    def offset(self) -> tuple[int, ...]:
        """First pixel of the part that is counted; empty for the whole image."""
        return tuple(start for start, _ in self.window)

    def input_paths(self, name: str) -> tuple[Path, ...]:
        """Return the files of the analysis of an image of this name."""
        files = self.files.of_image(name)
        others = [text.split("=", 1)[1] for text in files.other]
        texts = [*files.regions, *files.exclude, files.mask, files.outside_mask, files.nuclei, *others]
        texts += named(self.with_files, name)
        return tuple(Path(text) for text in texts if text)


def recipe_of(
    result: Result,
    *,
    analysis: AnalysisSettings | None = None,
    files: InputFiles | None = None,
    source: str | Path = "",
    window: tuple[tuple[int, int], ...] = (),
    pixel_size_um: tuple[float, ...] = (),
) -> Recipe:
    """Return the recipe of a result.

    ``analysis`` and ``files`` tell what was done with it, ``source`` the path of the image where the result
    does not; ``window`` and ``pixel_size_um`` are those of :class:`Recipe`.

    SettingsError where the result is not one of counting (it was drawn, say), or it is not known of which
    file.
    """
    found_by = result.provenance
    recipe = recipe_from(found_by)
    path = str(source or found_by.source)
    if not path:
        raise SettingsError("The file these cells come from is not known. Save the image, and give its path.")
    known = dict(found_by.settings)
    return replace(
        recipe,
        image=path,
        axes=known.get("source_axes") or found_by.axes,
        analysis=analysis or AnalysisSettings(),
        files=files or InputFiles(),
        window=window,
        pixel_size_um=pixel_size_um,
        with_files=tuple(known.get("source_files", ())),
    )


def recipe_from(found_by: Provenance) -> Recipe:
    """Return the models and settings of a count, for any image.

    SettingsError where the cells are not counted, but drawn, say.
    """
    known = dict(found_by.settings)
    family = next((name for name in registry.FAMILIES if name in known), "")
    if not family:
        raise SettingsError("These cells were not counted by a model, so no settings can repeat them.")
    engine = EngineSettings(**known["engine"])
    of_file = _source_channels(known)
    if len(of_file) == 1:
        engine = replace(engine, channel=of_file[0])
    elif of_file:
        engine = replace(engine, channels=tuple(map(str, of_file)))
    return Recipe(
        models=tuple(known.get("models", [found_by.model])),
        settings=registry.get(family).settings(**known[family]),
        engine=engine,
        classifier=known.get("classifier", {}).get("reference", ""),
    )


def _source_channels(known: Mapping[str, Any]) -> tuple[int, ...]:
    """Return which channels of its file were counted in, where the image is not all of the file."""
    channels = known.get("source_channel")
    if channels is None:
        return ()
    if isinstance(channels, int):
        return (channels,)
    if not channels:
        raise SettingsError(
            "These cells were counted in several layers together, which are not channels of one file, so no "
            "settings can repeat them. Save the layers as one image, and count in its channels."
        )
    return tuple(channels)


def as_python(recipe: Recipe | Result) -> str:
    """Return Python that gives the same: ``image``, ``result`` and, where asked for, ``analysis``."""
    if isinstance(recipe, Result):
        recipe = recipe_of(recipe)
    script = _Script()
    part = _add_image(script, recipe)
    models: Any = recipe.models
    if len(models) == 1:
        models = models[0]
    arguments = [f"model={models!r}"]
    arguments += [
        f"{name}={text}" for name in ("settings", "engine") if (text := script.call(getattr(recipe, name)))
    ]
    script.lines.append(f"result = cellwright.count({part}, {', '.join(arguments)})")
    if recipe.classifier:
        script.add("cellwright.core.tasks", "run")
        script.add("cellwright.inference.classify", "classify")
        engine = script.call(recipe.engine) or "cellwright.EngineSettings()"
        script.lines.append(f"result = run(classify(result, {part}, {recipe.classifier!r}, {engine}))")
    if recipe.window:
        script.lines.append(f"result = replace(result, offset={recipe.offset!r})")
    if recipe.is_analysed:
        script.add(AnalysisSettings.__module__, "AnalysisSettings")
        script.add("cellwright.ops.measure.analysis", "analyse")
        given = [script.call(recipe.analysis) or "AnalysisSettings()"]
        files = script.call(recipe.files)
        if files:
            script.add(__name__, "read_inputs")
            given.append(f"read_inputs({files}, image, {recipe.analysis.region_rule!r})")
        script.lines.append(f"analysis = analyse(result, image, {', '.join(given)})")
        script.lines.append("result = analysis.result")
    script.add(plain_count.__module__, plain_count.__name__)
    script.lines.append("print(plain_count(result.count))")
    return script.text()


def _add_image(script: "_Script", recipe: Recipe) -> str:
    """Have the image read; return the name of what is counted of it."""
    script.add("cellwright.files.images", "read_image")
    reading = repr(recipe.image)
    if recipe.axes:
        reading += f", axes={recipe.axes!r}"
    script.lines.append(f"image = read_image({reading})")
    if recipe.with_files:
        script.add("cellwright.files.images", "with_channels_of")
        script.lines.append(f"image = with_channels_of(image, {recipe.with_files!r})")
    if recipe.pixel_size_um:
        script.add("dataclasses", "replace")
        script.lines.append(f"image = replace(image, pixel_size_um={recipe.pixel_size_um!r})")
    part = "image"
    if recipe.window:
        script.add("dataclasses", "replace")
        script.add(cropped.__module__, "cropped")
        part, shape = "part", tuple(end - start for start, end in recipe.window)
        script.lines.append(f"part = cropped(image, {recipe.offset!r}, {shape!r})")
    return part


class _Script:
    """Lines of Python with the imports they need."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._imports: dict[str, set[str]] = {}

    def add(self, module: str, *names: str) -> None:
        """Have names imported."""
        self._imports.setdefault(module, set()).update(names)

    def call(self, settings: Any) -> str:
        """Return the Python that makes settings; empty where all are as they come."""
        changed = _changed(settings)
        if not changed:
            return ""
        self.add(type(settings).__module__, type(settings).__name__)
        return (
            f"{type(settings).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"
        )

    def text(self) -> str:
        """Return the whole of it."""
        froms = [
            f"from {module} import {', '.join(sorted(names))}"
            for module, names in sorted(self._imports.items())
        ]
        return "\n".join(["import cellwright", *froms, "", *self.lines, ""])


def as_command(recipe: Recipe | Result) -> str:
    """Return the command that gives the same result."""
    if isinstance(recipe, Result):
        recipe = recipe_of(recipe)
    words = ["cellwright", "count", re.sub("^-", "./-", recipe.image)]  # which is no flag
    for path in recipe.with_files:
        words += ["--with", path]
    for model in recipe.models:
        words += ["--model", model]
    texts = {
        "axes": recipe.axes,
        "classifier": recipe.classifier,
        "window": window_text(recipe.window),
        "pixel-size": ",".join(f"{size!r}" for size in recipe.pixel_size_um),
    }
    for name, text in texts.items():
        if text:
            words += [f"--{name}", text]
    changed = changed_in(recipe)
    there = {name for name, value in changed.items() if value is not False}
    idle = {name for rule in COUNT_RULES if rule.is_idle(there) for name in rule.flags}
    for name, value in changed.items():
        if name not in idle:
            words += _flag(name, value)
    return shell_line(words)


def texts_to_repeat(make: Callable[[], Recipe]) -> dict[str, str]:
    """Return the texts of a report that repeat its result, or why there are none."""
    try:
        recipe = make()
        return {
            "The same from the command line": as_command(recipe),
            "The same from Python": as_python(recipe),
        }
    except CellwrightError as error:
        return {"The same again": error_line(error)}


def changed_in(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of a recipe that are not as they come, by the names of their flags."""
    changed: dict[str, Any] = {}
    if recipe.each_channel:
        changed["each_channel"] = True
    for part in ("settings", *PARTS):
        changed |= _changed(getattr(recipe, part))
    return changed


def _flag(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        if not value:
            flag = f"--no-{flag[2:]}"
        return [flag]
    if not isinstance(value, tuple):
        value = (value,)
    return [word for one in value for word in (flag, str(one))]


def _changed(settings: Any) -> dict[str, Any]:
    """Return the fields of settings that are not as they come; None has none."""
    if settings is None:
        return {}
    usual = {item.name: item.default if item.default is not MISSING else None for item in fields(settings)}
    return {name: getattr(settings, name) for name in usual if getattr(settings, name) != usual[name]}


def save_recipe(path: Path | str, recipe: Recipe) -> None:
    """Write a recipe as JSON, in one step.

    SettingsError where the file is named as one of another kind, such as an image.
    """
    if Path(path).suffix.lower() not in ("", ".json"):
        raise SettingsError(f"Settings are a JSON file; got {path}. Give it a name with .json.")
    values = asdict(recipe)
    values["settings"] = _changed(recipe.settings)
    for part in PARTS:
        values[part] = _changed(getattr(recipe, part))
    write_text(Path(path), json.dumps({"format": FORMAT, **values}, indent=2) + "\n")


def load_recipe(path: Path | str, models: Sequence[str] = ()) -> Recipe:
    """Return the recipe in a file, with ``models`` in the place of its own where there are some.

    The settings of the family are then as they come.

    ReadError where the file is missing, damaged or no recipe. SettingsError where a setting is not one of
    ours, or out of its range.
    """
    what = f"settings saved by cellwright at {path}"
    with expecting(ReadError, what, "Check the path.", OSError, *NO_JSON):
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("format", "") != FORMAT:
        raise ReadError(f"Expected {what}; it holds something else. Choose another file.")
    usual = {**asdict(Recipe()), "models": [registry.DEFAULT_FAMILY]}
    usual |= {name: [] for name in ("window", "pixel_size_um", "with_files")}
    usual |= {part: {} for part in ("settings", *PARTS)}
    found = {**usual, **values}
    if set(found) != set(usual) or any(type(found[name]) is not _JSON_TYPES.get(name, str) for name in found):
        raise ReadError(f"The settings in {path} are damaged or of a newer version. Save them again.")
    wrong = [name for name, does_fit in _FITS.items() if not all(map(does_fit, found[name]))]
    if not found["models"]:
        wrong.append("models")
    if wrong:
        raise ReadError(f"{wrong[0]} in {path} is damaged: {found[wrong[0]]}. Save the settings again.")
    if models:
        found |= {"models": models, "settings": {}}
    family = registry.get(store.spec_of(found["models"][0]).family)
    kinds = {"settings": family.settings, **PARTS}
    found |= {part: _made(kind, found[part]) for part, kind in kinds.items()}
    found["window"] = tuple((int(start), int(end)) for start, end in found["window"])
    found["pixel_size_um"] = tuple(map(float, found["pixel_size_um"]))
    found |= {name: tuple(found[name]) for name in ("models", "with_files")}
    return Recipe(**found)


def _is_span(value: Any) -> bool:
    """Return whether a value of JSON is a first and an end pixel."""
    if not isinstance(value, list) or [type(end) for end in value] != [int, int]:
        return False
    return bool(0 <= value[0] < value[1])


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < inf


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_FITS = {"models": _is_text, "with_files": _is_text, "window": _is_span, "pixel_size_um": _is_size}


_JSON_TYPES = {
    **dict.fromkeys(_FITS, list),
    **dict.fromkeys(("settings", *PARTS), dict),
    "each_channel": bool,
}


def window_text(window: Sequence[tuple[int, int]]) -> str:
    """Return a part of an image as text.

    Examples
    --------
    >>> window_text(((0, 3), (10, 200)))
    '0:3,10:200'
    """
    return ",".join(f"{start}:{end}" for start, end in window)


def parse_window(text: str) -> tuple[tuple[int, int], ...]:
    """Return the part of an image that a text tells.

    SettingsError where it is of another form.

    Examples
    --------
    >>> parse_window("0:3,10:200")
    ((0, 3), (10, 200))
    """
    match = re.fullmatch(r"\d+:\d+(?:,\d+:\d+)+", text.replace(" ", ""))
    found: list[tuple[int, ...]] = []
    if match:
        found = [tuple(int(end) for end in part.split(":")) for part in text.split(",")]
    if not found or any(start >= end for start, end in found):
        raise SettingsError(
            "A part of an image is its first and end pixel along each axis, such as '0:3,10:200,30:400' of "
            f"ZYX; got {text!r}."
        )
    return tuple((start, end) for start, end in found)


def parse_pixel_size(text: str) -> tuple[float, ...]:
    """Return micrometres per pixel of each spatial axis.

    SettingsError where a part of the text is not a number above 0.

    Examples
    --------
    >>> parse_pixel_size("2,0.5,0.5")
    (2.0, 0.5, 0.5)
    """
    try:
        sizes = tuple(float(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or not all(0 <= size < inf for size in sizes):
        raise SettingsError(
            f"A pixel size is one number of µm for each axis of ZYX, such as '2,0.5,0.5'; got {text!r}."
        )
    return sizes


def _made(kind: type[Any], values: Mapping[str, Any]) -> Any:
    known = {item.name for item in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise SettingsError(
            f"There is no setting {', '.join(unknown)} of {kind.__name__}. Save the settings again."
        )
    return kind(**values)


def read_inputs(files: InputFiles, image: Image, rule: str = "centre") -> AnalysisInputs:
    """Return what an analysis takes besides the image, read from files.

    ``{name}`` in a path stands for the name of the image; cells are in a region by ``rule``: ``centre``,
    ``overlap`` or ``whole``.

    ReadError where a file is missing, damaged or belongs to another image.
    """
    files = files.of_image(image.name)
    included: list[Region] = [region for path in files.regions for region in read_regions(path, image)]
    excluded: list[Region] = [region for path in files.exclude for region in read_regions(path, image)]
    mask: Region | None = None
    if files.mask:
        mask = read_mask(files.mask, image, is_inverted=files.outside)
    if files.outside_mask:
        excluded.append(read_mask(files.outside_mask, image))
    regions = None
    if included or excluded or mask is not None:
        regions = region_set(included, excluded, mask, rule)  # type: ignore[arg-type]
    nuclei = read_label_image(files.nuclei, image) if files.nuclei else None
    others = dict(text.split("=", 1) for text in files.other)
    return AnalysisInputs(regions, nuclei, {name: read_image(path) for name, path in others.items()})
