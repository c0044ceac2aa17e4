"""An analysis written down: settings to a file and back, and the Python or the command that repeats it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cellwright.core.data import Image, Provenance, Result
from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.tasks import Task, run
from cellwright.files.atomic import write_text
from cellwright.files.images import read_image
from cellwright.files.regions import read_label_image, read_mask, read_regions
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings, InputFiles
from cellwright.models import registry
from cellwright.ops.measure.analysis import Analysis, AnalysisInputs, analysis_task
from cellwright.ops.measure.regions import Region, region_set
from cellwright.ops.measure.settings import AnalysisSettings

FORMAT = "cellwright-recipe"
IMAGE_NAME = "{name}"  # in the path of an input: the name of the image without its ending


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that a result depends on, besides the pixels.

    Parameters
    ----------
    image
        Path of the image; empty in settings that are kept for any image.
    models
        Names or folders; several are averaged.
    settings
        Of the models' family; None takes its defaults.
    engine
        How the network runs.
    axes
        Of the image; empty as the file tells.
    classifier
        Name or folder; empty for none.
    analysis
        What is measured, and which cells count.
    files
        What the analysis takes besides the image.
    """

    image: str = ""
    models: tuple[str, ...] = (registry.DEFAULT_FAMILY,)
    settings: Any = None
    engine: EngineSettings = field(default_factory=EngineSettings)
    axes: str = ""
    classifier: str = ""
    analysis: AnalysisSettings = field(default_factory=AnalysisSettings)
    files: InputFiles = field(default_factory=InputFiles)

    @property
    def is_analysed(self) -> bool:
        """Whether more is asked for than a count."""
        return self.analysis != AnalysisSettings() or self.files != InputFiles()

    def input_paths(self, name: str) -> tuple[Path, ...]:
        """Return the files of the analysis of an image of this name."""
        files = self.files
        others = [text.split("=", 1)[1] for text in files.other]
        texts = [*files.regions, *files.exclude, files.mask, files.outside_mask, files.nuclei, *others]
        return tuple(Path(text.replace(IMAGE_NAME, name)) for text in texts if text)


def recipe_of(
    result: Result,
    *,
    analysis: AnalysisSettings | None = None,
    files: InputFiles | None = None,
    source: str | Path = "",
) -> Recipe:
    """Return the recipe of a result.

    Parameters
    ----------
    result
        Of counting an image file.
    analysis, files
        What was done with it.
    source
        Path of the image, where the result does not tell.

    Raises
    ------
    SettingsError
        The result is not one of counting (it was drawn, say), or it is not known of which file.
    """
    found_by = result.provenance
    recipe = recipe_from(found_by)
    path = str(source or found_by.source)
    if not path:
        raise SettingsError(
            "It is not known from which file these cells come. Save the image, and give its path."
        )
    return replace(
        recipe,
        image=path,
        axes=dict(found_by.settings).get("source_axes") or found_by.axes,
        analysis=analysis or AnalysisSettings(),
        files=files or InputFiles(),
    )


def recipe_from(found_by: Provenance) -> Recipe:
    """Return the models and settings of a count, for any image.

    Raises
    ------
    SettingsError
        The cells are not counted, but drawn, say.
    """
    known = dict(found_by.settings)
    family = next((name for name in registry.FAMILIES if name in known), "")
    if not family:
        raise SettingsError("These cells were not counted by a model, so that no settings would repeat them.")
    engine = EngineSettings(**known["engine"])
    if known.get("source_channel") is not None:  # what was counted is one channel of the file
        engine = replace(engine, channel=known["source_channel"])
    return Recipe(
        models=tuple(known.get("models", [found_by.model])),
        settings=registry.get(family).settings(**known[family]),
        engine=engine,
        classifier=known.get("classifier", {}).get("reference", ""),
    )


def as_python(recipe: Recipe | Result) -> str:
    """Return Python that gives the same: ``image``, ``result`` and, where asked for, ``analysis``."""
    if isinstance(recipe, Result):
        recipe = recipe_of(recipe)
    script = _Script()
    script.add("cellwright.files.images", "read_image")
    reading = repr(recipe.image)
    if recipe.axes:
        reading += f", axes={recipe.axes!r}"
    script.lines.append(f"image = read_image({reading})")
    models: Any = recipe.models
    if len(models) == 1:
        models = models[0]
    arguments = [f"model={models!r}"]
    arguments += [
        f"{name}={text}" for name in ("settings", "engine") if (text := script.call(getattr(recipe, name)))
    ]
    script.lines.append(f"result = cellwright.count(image, {', '.join(arguments)})")
    if recipe.classifier:
        _add_classifier(script, recipe)
    if recipe.is_analysed:
        _add_analysis(script, recipe)
    script.lines.append("print(int(result.count))")
    return script.text()


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


def _add_classifier(script: _Script, recipe: Recipe) -> None:
    script.add("cellwright.core.tasks", "run")
    script.add("cellwright.inference.classify", "classify")
    engine = script.call(recipe.engine) or "cellwright.EngineSettings()"
    script.lines.append(f"result = run(classify(result, image, {recipe.classifier!r}, {engine}))")


def _add_analysis(script: _Script, recipe: Recipe) -> None:
    script.add(AnalysisSettings.__module__, "AnalysisSettings")
    script.add("cellwright.ops.measure.analysis", "analyse")
    given = [script.call(recipe.analysis) or "AnalysisSettings()"]
    files = script.call(recipe.files)
    if files:
        script.add(__name__, "read_inputs")
        given.append(f"read_inputs({files}, image, {recipe.analysis.region_rule!r})")
    script.lines.append(f"analysis = analyse(result, image, {', '.join(given)})")
    script.lines.append("result = analysis.result")


def as_command(recipe: Recipe | Result) -> str:
    """Return the command that gives the same result."""
    if isinstance(recipe, Result):
        recipe = recipe_of(recipe)
    words = ["cellwright", "count", recipe.image]
    for model in recipe.models:
        words += ["--model", model]
    for name in ("axes", "classifier"):
        if getattr(recipe, name):
            words += [f"--{name}", getattr(recipe, name)]
    for settings in (recipe.settings, recipe.engine, recipe.analysis, recipe.files):
        for name, value in _changed(settings).items():
            words += _flag(name, value)
    return shlex.join(words)


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

    Raises
    ------
    WriteError
        The file cannot be written.
    """
    values = asdict(recipe)
    values["settings"] = _changed(recipe.settings)
    for part in ("engine", "analysis", "files"):
        values[part] = _changed(getattr(recipe, part))
    write_text(Path(path), json.dumps({"format": FORMAT, **values}, indent=2) + "\n")


def load_recipe(path: Path | str) -> Recipe:
    """Return the recipe in a file.

    Raises
    ------
    ReadError
        The file is missing, damaged or no recipe.
    SettingsError
        A setting is not one of ours, or out of its range.
    """
    values = read_recipe(path)
    family = registry.get(family_of(values["models"])).settings
    return Recipe(
        image=values["image"],
        models=tuple(values["models"]),
        settings=_made(family, values["settings"]),
        engine=_made(EngineSettings, values["engine"]),
        axes=values["axes"],
        classifier=values["classifier"],
        analysis=_made(AnalysisSettings, values["analysis"]),
        files=_made(InputFiles, values["files"]),
    )


def read_recipe(path: Path | str) -> dict[str, Any]:
    """Return the content of a recipe's file: every field of :class:`Recipe`, settings as dictionaries.

    Raises
    ------
    ReadError
        The file is missing, damaged or no recipe.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReadError(
            f"Expected settings saved by cellwright at {path}; got: {error}. Check the path."
        ) from error
    if not isinstance(values, dict) or values.pop("format", "") != FORMAT:
        raise ReadError(
            f"Expected settings saved by cellwright at {path}; it holds something else. Choose another file."
        )
    usual = {**asdict(Recipe()), "models": [registry.DEFAULT_FAMILY]}
    usual |= {part: {} for part in ("settings", "engine", "analysis", "files")}
    found = {**usual, **values}
    if set(found) != set(usual) or any(type(found[name]) is not _JSON_TYPES.get(name, str) for name in found):
        raise ReadError(f"The settings in {path} are damaged or of a newer version. Save them again.")
    return found


_JSON_TYPES = {"models": list, "settings": dict, "engine": dict, "analysis": dict, "files": dict}


def family_of(models: Sequence[str]) -> str:
    """Return the family of models by their names or folders."""
    from cellwright.inference.context import load_models

    return load_models((models[0],))[0].spec.family


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

    Parameters
    ----------
    files
        Paths; ``{name}`` stands for the name of the image.
    image
        What is counted in.
    rule
        Which cells are in a region: ``centre``, ``overlap`` or ``whole``.

    Raises
    ------
    ReadError
        A file is missing, damaged or belongs to another image.
    """

    def path(text: str) -> Path:
        return Path(text.replace(IMAGE_NAME, image.name))

    included: list[Region] = [region for text in files.regions for region in read_regions(path(text), image)]
    excluded: list[Region] = [region for text in files.exclude for region in read_regions(path(text), image)]
    mask: Region | None = None
    if files.mask:
        mask = read_mask(path(files.mask), image, is_inverted=files.outside)
    if files.outside_mask:
        excluded.append(read_mask(path(files.outside_mask), image))
    regions = None
    if included or excluded or mask is not None:
        regions = region_set(included, excluded, mask, rule)  # type: ignore[arg-type]
    nuclei = None
    if files.nuclei:
        nuclei = read_label_image(path(files.nuclei), image)
    others = dict(text.split("=", 1) for text in files.other)
    return AnalysisInputs(regions, nuclei, {name: read_image(path(text)) for name, text in others.items()})


def run_recipe(recipe: Recipe) -> Analysis:
    """Return the analysis of a recipe: the image is read, counted and measured."""
    return run(recipe_task(recipe))


def recipe_task(recipe: Recipe) -> Task[Analysis]:
    """Return the same as :func:`run_recipe`, step by step."""
    image = read_image(recipe.image, recipe.axes or None)
    result = yield from count_cells(image, recipe.models, recipe.settings, recipe.engine)
    if recipe.classifier:
        from cellwright.inference.classify import classify

        result = yield from classify(result, image, recipe.classifier, recipe.engine)
    inputs = read_inputs(recipe.files, image, recipe.analysis.region_rule)
    return (yield from analysis_task(result, image, recipe.analysis, inputs))


def for_image(recipe: Recipe, path: str | Path) -> Recipe:
    """Return the same recipe for another image."""
    return replace(recipe, image=str(path))
