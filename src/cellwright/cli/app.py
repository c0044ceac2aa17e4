"""The ``cellwright`` command: what it is made of, and the commands that need no file of their own."""

import json
from collections.abc import Sequence
from functools import partial
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.count import COUNT_SETTINGS, count, make_choices
from cellwright.cli.flags import GroupedCommand, expanded, read_settings, refuse_idle, with_settings
from cellwright.cli.output import echo_made, echo_note, read_folder, run_with_bar
from cellwright.cli.train import pretrain, train, train_classifier
from cellwright.core.data import Image, Result, package_version
from cellwright.core.errors import ReadError, SettingsError
from cellwright.core.words import n_of
from cellwright.files.atomic import make_folder
from cellwright.files.images import read_image, write_labels
from cellwright.files.zarr import is_zarr
from cellwright.inference.image_count import CountChoices
from cellwright.inference.recipe import Recipe
from cellwright.inference.settings import ENGINE_RULES, EngineSettings, FlagRule
from cellwright.models import registry, store
from cellwright.training.run_folder import SCORE_TITLES

if TYPE_CHECKING:
    from cellwright.files.dataset.folder import Dataset
    from cellwright.training.evaluation.compare import Comparison

DATASET = "a folder of annotated images"
COMPARE_RULES = (*ENGINE_RULES, FlagRule(("split",), needs=(DATASET,)))
ANOTHER = "another command"  # of those on models
MODELS_RULES = (
    FlagRule(("as_table",), without=("as_json", ANOTHER)),
    FlagRule(("as_json",), without=(ANOTHER,)),
    FlagRule(("author", "licence"), needs=("zoo",)),
    FlagRule(("zoo",), without=("as_onnx",)),
)
models_app = typer.Typer(invoke_without_command=True)


def correct(
    results: Annotated[Path, typer.Argument(help="The --output of a count of a folder.", show_default=False)],
    image: Annotated[str, typer.Argument(help="Image, as named in summary.csv.", show_default=False)],
    labels: Annotated[
        Path,
        typer.Argument(
            help="Label image of all its cells, corrected: 0 is background, and each cell has its own "
            "number.",
            show_default=False,
        ),
    ],
) -> None:
    """Put corrected cells in the place of those counted.

    They are measured as those were; summary and report are made anew. What the model had
    found is kept beside.
    """
    from cellwright.inference.corrections import save_corrected

    right = read_image(labels, are_labels=True)
    for notice in right.notices:
        echo_note(notice)
    row = run_with_bar(save_corrected(results, image, right.read(), on_notice=echo_note), image).row
    typer.echo(f"{image}  {n_of(row['count'], 'cell', '')}, {row['corrected']} corrected by hand")


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Files or folders of annotations.", callback=expanded, show_default=False),
    ],
    to: Annotated[
        str,
        typer.Option(help="Format to write: labels, coco, labelme, yolo-segments, imagej-roi, geojson ..."),
    ],
    output: Annotated[Path, typer.Option(help="File to write; a folder where there are several.")],
    image: Annotated[
        Path | None, typer.Option(help="Image the cells belong to, where files do not give its size.")
    ] = None,
) -> None:
    """Convert annotated cells from one format to another."""
    from cellwright.files.convert import convert as convert_files

    for path, annotations in convert_files(sources, to, output, image).items():
        for annotation in annotations:
            for notice in annotation.notices:
                echo_note(notice)
        n_cells = sum(map(len, annotations))
        typer.echo(f"{path}  {n_of(n_cells, 'cell', '')}")


@with_settings(*COUNT_SETTINGS)
def evaluate(
    context: typer.Context,
    dataset: Annotated[
        Path, typer.Argument(help="Folder with meta.json, images/ and masks/, boxes/ or points/.")
    ],
    model: Annotated[
        list[str], typer.Option(help="Name or folder of a model; give it again to score several.")
    ] = [registry.DEFAULT_FAMILY],  # noqa: B006, typer copies it
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
    report = run_with_bar(task, chosen.folder.name, stages=("evaluate",))
    for image in report.images:
        for notice in image.notices:
            echo_note(notice)
    return report.to_json()


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
    for name, rows in comparison.images():
        notices_of_models = [f"{name}: {row.model}: {notice}" for row in rows for notice in row.notices]
        for notice in (*rows[0].truth_notices, *notices_of_models):
            echo_note(notice)
    if comparison.notice:
        echo_note(comparison.notice)
    typer.echo(as_text(comparison, as_json=as_json))


def write_disagreement(output: Path, image: Image, results: Sequence[Result]) -> None:
    """Write labels of what only the first (1) or only the second (2) of the models found in an image."""
    from cellwright.training.evaluation.compare import disagreement

    make_folder(output)
    labels = disagreement(results[0].cells, results[1].cells)
    write_labels(output / f"{image.name}_disagreement.tif", labels, image)


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


@models_app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the families and what each gives, as Markdown.")
    ] = False,
) -> None:
    """List, export or import models."""
    is_alone = context.invoked_subcommand is None
    refuse_idle(context, MODELS_RULES, [] if is_alone else [ANOTHER])
    if not is_alone:
        return
    if as_table:
        typer.echo(families_table())
    elif as_json:
        for entry in store.models():
            values = {"model": entry.name, "folder": str(entry.folder), **entry.spec.to_json()}
            typer.echo(json.dumps({**values, "scores": dict(entry.scores)}))
    else:
        _print_models()


@models_app.command("export")
def export_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or folder of a model or classifier.")],
    folder: Annotated[Path, typer.Argument(help="Folder for NAME.zip, or NAME-zoo.zip; made where missing.")],
    zoo: Annotated[
        bool, typer.Option("--zoo", help="Write a package of the BioImage Model Zoo, which needs --author.")
    ] = False,
    as_onnx: Annotated[bool, typer.Option("--onnx", help="Write the network alone, as NAME.onnx.")] = False,
    author: Annotated[list[str], typer.Option(help="Who made the model, for --zoo; may be repeated.")] = [],  # noqa: B006 - typer copies it
    licence: Annotated[
        str, typer.Option(help="SPDX identifier of the licence of the weights, for --zoo.")
    ] = "BSD-3-Clause",
) -> None:
    """Write a model as one file.

    It is for cellwright on another machine, or for programs that run models of the BioImage Model Zoo.
    """
    refuse_idle(context, MODELS_RULES)
    if as_onnx:
        from cellwright.models.zoo import export_onnx

        path = export_onnx(name, folder / f"{Path(name).name}.onnx")
        typer.echo(f"The network is in {path}: image in, maps out, for any program that runs ONNX.")
        return
    path = folder / f"{Path(name).name}{'-zoo' if zoo else ''}.zip"  # neither takes the place of the other
    if zoo:
        from cellwright.models.zoo import export_package

        export_package(name, path, authors=tuple(author), licence=licence)
    else:
        store.export_model(name, path)
    echo_made("model", path, "models", "import", str(path))


@models_app.command("import")
def import_model(
    source: Annotated[
        str, typer.Argument(help="Exported model, zoo package of cellwright, folder, or http address.")
    ],
    name: Annotated[str, typer.Option(help="Name for the model; that of the file when left out.")] = "",
) -> None:
    """Add a model, or a classifier, to those chosen by name."""
    folder = store.import_model(source, name)
    flag = "--model"
    if store.holds_classifier(folder):
        flag = "--classifier"
    echo_made("model", folder, "count", "IMAGE", flag, folder.name)


def _print_models() -> None:
    for entry in store.models():
        low, high = entry.spec.diameter_range_px
        typer.echo(f"{entry.name}  ({entry.spec.family}, {entry.spec.preset})")
        typer.echo(f"    {entry.spec.title}")
        typer.echo(f"    cells of {low:g} to {high:g} px in diameter; others are rescaled")
        for score_name, score in entry.scores.items():
            typer.echo(f"    {SCORE_TITLES.get(score_name, score_name)}: {score:.3f}")
        typer.echo(f"    {entry.folder}")
    for classifier in store.classifiers():
        typer.echo(f"{classifier.name}  (classifier: {', '.join(classifier.spec.classes)})")
        typer.echo(f"    {classifier.spec.title}")
        typer.echo(f"    {classifier.folder}")


def families_table() -> str:
    """Return the families of the registry, what each finds and the layers it gives, as a Markdown table."""
    rows = ["| family | finds | how | layers |", "|---|---|---|---|"]
    rows += [
        f"| `{family.name}` | {family.title} | {family.description} | {', '.join(family.returns)} |"
        for family in registry.FAMILIES.values()
    ]
    return "\n".join(rows)


app = typer.Typer(
    help="Count and outline cells in microscopy images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels cut long flags short
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (count, correct, train, pretrain, train_classifier, evaluate, compare, convert):
    app.command(cls=GroupedCommand)(command)
app.add_typer(models_app, name="models")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(package_version())
        raise typer.Exit


@app.callback()
def _base(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
