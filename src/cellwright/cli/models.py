"""``cellwright models``: what can be chosen with ``--model``, and its export and import."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cellwright.cli.flags import refuse_idle
from cellwright.inference.settings import FlagRule
from cellwright.models import registry, store

COMMAND = "another command"
RULES = (
    FlagRule(("as_table",), without=("as_json", COMMAND)),
    FlagRule(("as_json",), without=(COMMAND,)),
    FlagRule(("author", "licence"), needs=("zoo",)),
    FlagRule(("zoo",), without=("as_onnx",)),
)
app = typer.Typer(invoke_without_command=True)


@app.callback()
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the families and what each gives, as Markdown.")
    ] = False,
) -> None:
    """List, export or import models."""
    refuse_idle(context, RULES, [COMMAND] * (context.invoked_subcommand is not None))
    if context.invoked_subcommand is not None:
        return
    if as_table:
        typer.echo(families_table())
    elif as_json:
        for entry in store.models():
            values = {"model": entry.name, "folder": str(entry.folder), **entry.spec.to_json()}
            typer.echo(json.dumps({**values, "scores": dict(entry.scores)}))
    else:
        _print_models()


@app.command("export")
def export_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name or folder of a model.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the file NAME.zip; made where it is missing.")],
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
    refuse_idle(context, RULES)
    if as_onnx:
        from cellwright.models.zoo import export_onnx

        path = export_onnx(name, folder / f"{Path(name).name}.onnx")
        typer.echo(f"The network is in {path}: image in, maps out, for any program that runs ONNX.")
        return
    path = folder / f"{Path(name).name}.zip"
    if zoo:
        from cellwright.models.zoo import export_package

        export_package(name, path, authors=tuple(author), licence=licence)
    else:
        store.export_model(name, path)
    typer.echo(f"The model is in {path}. Take it in elsewhere with: cellwright models import {path}")


@app.command("import")
def import_model(
    source: Annotated[
        str, typer.Argument(help="Exported model, zoo package of cellwright, folder, or http address.")
    ],
    name: Annotated[str, typer.Option(help="What to call the model; as the file when left out.")] = "",
) -> None:
    """Add a model to those chosen by name."""
    folder = store.import_model(source, name)
    typer.echo(f"The model is in {folder}. Use it with: cellwright count IMAGE --model {folder.name!r}")


def _print_models() -> None:
    for entry in store.models():
        low, high = entry.spec.diameter_range_px
        typer.echo(f"{entry.name}  ({entry.spec.family}, {entry.spec.preset})")
        typer.echo(f"    {entry.spec.title}")
        typer.echo(f"    cells of {low:g} to {high:g} px in diameter; others are rescaled")
        for score_name, score in entry.scores.items():
            typer.echo(f"    {score_name}: {score:.3f}")
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
