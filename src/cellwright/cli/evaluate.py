"""``cellwright evaluate``: a model against known cells, as JSON; ``compare``: models side by side."""

import json
from collections.abc import Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.count import COUNT_SETTINGS, make_choices
from cellwright.cli.flags import read_settings, refuse_idle, with_settings
from cellwright.cli.output import read_folder, run_with_bar
from cellwright.core.data import Image, Result
from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.atomic import make_folder
from cellwright.files.images import read_image, write_labels
from cellwright.files.zarr import is_zarr
from cellwright.inference.image_count import CountChoices
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import ENGINE_RULES, EngineSettings, FlagRule
from cellwright.models.registry import DEFAULT_FAMILY

if TYPE_CHECKING:
    from cellwright.files.dataset.folder import Dataset
    from cellwright.training.evaluation.compare import Comparison

DATASET = "a folder of annotated images"
COMPARE_RULES = (*ENGINE_RULES, FlagRule(("split",), needs=(DATASET,)))


@with_settings(*COUNT_SETTINGS)
def evaluate(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(help="Folder with meta.json, images/ and masks/, boxes/ or points/.")
    ],
    model: Annotated[
        list[str], typer.Option(help="Name or folder of a model; give it again to score several.")
    ] = [DEFAULT_FAMILY],  # noqa: B006, typer copies it
    split: Annotated[str, typer.Option(help="Split to score; 'all' takes every image.")] = "val",
    group: Annotated[
        str | None, typer.Option(help="Group to score, 'fluo' for instance; all when left out.")
    ] = None,
    **flags: Any,
) -> None:
    """Score a model on annotated images.

    Prints JSON: scores of outlines, points, boxes and counts, whichever the model gives.

    Where not every cell is annotated, only recall is reported: what else was found may be right.
    """
    refuse_idle(context, ENGINE_RULES)
    chosen = selected(dataset, split, group)
    recipes = [Recipe(models=(name,)) for name in model]
    choices = [make_choices(flags, recipe) for recipe in recipes]  # all checked before the first is scored
    values = [{"model": one.title, "split": split, "groups": _groups(one, chosen)} for one in choices]
    whole = values[0] if len(values) == 1 else {"models": values}
    typer.echo(json.dumps(whole, indent=2, allow_nan=False))


def selected(folder: Path, split: str, group: str | None = None) -> "Dataset":
    """Return the images of a split and group of a dataset; ReadError where there are none."""
    everything = read_folder(folder)
    chosen = everything.select(None if split == "all" else split, group)
    if not len(chosen):
        wanted = f"split {split!r}" if group is None else f"split {split!r} and group {group!r}"
        there = f"its splits are {', '.join(sorted({item.split for item in everything.items}))}"
        groups = sorted({item.group for item in everything.items} - {""})
        if groups:
            there += f", its groups {', '.join(groups)}"
        raise ReadError(
            f"{folder} has no annotated image of {wanted}; {there}. Choose one of these, or 'all' as --split."
        )
    return chosen


def _groups(choices: CountChoices, chosen: "Dataset") -> dict[str, Any]:
    from cellwright.training.evaluation.evaluate import evaluate as evaluate_model

    recipe = choices.recipe
    task = evaluate_model(chosen, choices.models[0], settings=recipe.settings, engine=recipe.engine)
    return run_with_bar(task, chosen.folder.name, stages=("evaluate",)).to_json()


@with_settings(EngineSettings)
def compare(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="An image, or a folder of annotated images.")],
    model: Annotated[list[str], typer.Option(help="Name or folder of a model; give two or more.")],
    split: Annotated[str, typer.Option(help="Split of a folder; 'all' takes every image.")] = "val",
    output: Annotated[
        Path | None, typer.Option(help="Folder for labels of where the first two models disagree.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    **flags: Any,
) -> None:
    """Count the same images with several models.

    Reports their F1, too, where the true cells are known.
    """
    is_dataset = source.is_dir() and not is_zarr(source)
    refuse_idle(context, COMPARE_RULES, [DATASET] if is_dataset else [])
    engine = read_settings(EngineSettings, flags)
    if len(model) < 2:
        raise SettingsError(f"Comparing needs two models; got {len(model)}. Give --model twice.")
    data = selected(source, split) if is_dataset else read_image(source)
    from cellwright.training.evaluation.compare import compare as compare_models

    on_image = None if output is None else partial(write_disagreement, output)
    task = compare_models(model, data, engine=engine, on_image=on_image)
    comparison = run_with_bar(task, source.name, stages=("compare",))
    typer.echo(as_text(comparison, as_json=as_json))


def write_disagreement(output: Path, image: Image, results: Sequence[Result]) -> None:
    """Write labels of what only the first (1) or only the second (2) of the models found in an image."""
    from cellwright.training.evaluation.compare import disagreement

    make_folder(output)
    labels = disagreement(results[0].cells, results[1].cells)
    write_labels(output / f"{Path(image.name).stem}_disagreement.tif", labels, image)


def as_text(comparison: "Comparison", *, as_json: bool) -> str:
    """Return a table with one line for each image and model, and the means; or the same as JSON."""
    rows: list[dict[str, Any]] = []
    for row in comparison.rows:
        values = {"image": row.image, "model": row.model, "count": row.count, **_known(row.f1)}
        if row.n_regions:
            values["n_regions"] = row.n_regions
        rows.append(values)
    means = [
        {"model": name, "count": comparison.mean(name, "count"), **_known(comparison.mean(name, "f1"))}
        for name in comparison.models
    ]
    if as_json:
        return json.dumps({"images": rows, "means": means}, indent=2, allow_nan=False)
    return "\n".join(_line(row) for row in [*rows, *({"image": "mean", **row} for row in means)])


def _known(f1: float) -> dict[str, float]:
    if isnan(f1):  # the truth is not known
        return {}
    return {"f1": round(f1, 4)}


def _line(row: dict[str, Any]) -> str:
    f1 = ""
    if "f1" in row:
        f1 = f"  F1 {row['f1']:.3f}"
        if "n_regions" in row:
            f1 += " in its regions"  # the count is that of the whole image
    return f"{row['image']:<24} {row['model']:<20} {row['count']:>9.1f}{f1}"
