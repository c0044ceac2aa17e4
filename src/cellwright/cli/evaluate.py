"""``cellwright evaluate``: a model against a dataset with known cells, as JSON."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.count import COUNT_SETTINGS, make_choices
from cellwright.cli.flags import refuse_idle, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.core.errors import ReadError
from cellwright.inference.image_count import CountChoices
from cellwright.inference.settings import ENGINE_RULES
from cellwright.models.registry import DEFAULT_FAMILY

if TYPE_CHECKING:
    from cellwright.files.dataset.folder import Dataset


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
    """Score a model on annotated images, as JSON: outlines, points, boxes and counts, whichever it gives.

    Where not every cell is annotated, only recall is told: what else was found may be right.
    """
    from cellwright.files.dataset.folder import read_dataset

    refuse_idle(context, ENGINE_RULES)
    everything = read_dataset(dataset)
    chosen = everything.select(None if split == "all" else split, group)
    if not len(chosen):
        splits = sorted({item.split for item in everything.items})
        groups = sorted({item.group for item in everything.items})
        raise ReadError(
            f"{dataset} has no annotated image of split {split!r} and group {group!r}; its splits are "
            f"{splits}, its groups {groups}. Choose some of these."
        )
    choices = [make_choices([name], flags) for name in model]  # all checked before the first is scored
    values = [{"model": one.title, "split": split, "groups": _groups(one, chosen)} for one in choices]
    whole = values[0] if len(values) == 1 else {"models": values}
    typer.echo(json.dumps(whole, indent=2, allow_nan=False))


def _groups(choices: CountChoices, chosen: "Dataset") -> dict[str, Any]:
    """Return the scores of one model by group."""
    from cellwright.training.evaluation.evaluate import evaluate as evaluate_model

    recipe = choices.recipe
    task = evaluate_model(chosen, choices.models[0], settings=recipe.settings, engine=recipe.engine)
    return run_with_bar(task, chosen.folder.name, stages=("evaluate",)).to_json()
