"""``cellwright models``: what can be chosen with ``--model``."""

import json
from typing import Annotated

import typer

from cellwright.models import registry


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the families and what each gives, as Markdown.")
    ] = False,
) -> None:
    """List the models that can be chosen by name."""
    if as_table:
        typer.echo(families_table())
        return
    from cellwright.models import store
    from cellwright.models.classifier import spec

    for entry in store.models():
        low, high = entry.spec.diameter_range_px
        if as_json:
            values = {"model": entry.name, "folder": str(entry.folder), **entry.spec.to_json()}
            typer.echo(json.dumps({**values, "scores": dict(entry.scores)}))
            continue
        typer.echo(f"{entry.name}  ({entry.spec.family}, {entry.spec.preset})")
        typer.echo(f"    {entry.spec.title}")
        typer.echo(f"    cells of {low:g} to {high:g} px in diameter; others are rescaled")
        for name, score in entry.scores.items():
            typer.echo(f"    {name}: {score:.3f}")
        typer.echo(f"    {entry.folder}")
    if as_json:
        return
    for kind in spec.classifiers():
        typer.echo(f"{kind.name}  (classifier: {', '.join(kind.spec.classes)})")
        typer.echo(f"    {kind.spec.title}")
        typer.echo(f"    {kind.folder}")


def families_table() -> str:
    """Return the families of the registry, what each does and the layers it gives, as a Markdown table."""
    rows = ["| family | finds | how | layers |", "|---|---|---|---|"]
    rows += [
        f"| `{family.name}` | {family.title} | {family.description} | {', '.join(family.returns)} |"
        for family in registry.FAMILIES.values()
    ]
    return "\n".join(rows)
