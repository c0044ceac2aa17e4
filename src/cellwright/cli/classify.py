"""``cellwright train-classifier``: annotated cells with classes in, a classifier folder out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cellwright.cli.flags import read_settings, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.cli.train import print_epoch
from cellwright.core.errors import SettingsError
from cellwright.training.classifier.settings import ClassifyTrainingSettings


@with_settings(ClassifyTrainingSettings)
def train_classifier(
    datasets: Annotated[
        list[Path],
        typer.Argument(help="Folders with meta.json, images/ and boxes/, points/ or masks/ with classes."),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the classifier; a stopped run resumes there.")],
    rename: Annotated[
        list[str],
        typer.Option(help="OLD=NEW renames a class, OLD= leaves it out; may be repeated."),
    ] = [],  # noqa: B006 - typer copies it
    preset: Annotated[str, typer.Option(help="Architecture: small or paper.")] = "small",
    title: Annotated[str, typer.Option(help="Title that lists show.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (and so on) or mps.")] = "auto",
    **flags: Any,
) -> None:
    """Train a classifier of cells on annotated classes; one line per epoch."""
    from cellwright.files.dataset.folder import read_dataset

    settings = read_settings(ClassifyTrainingSettings, flags)
    names = read_names(rename)
    folders = [read_dataset(folder) for folder in datasets]
    from cellwright.training.classifier.cell_crops import ClassDataset
    from cellwright.training.classifier.train import train_classifier as train

    sources = [ClassDataset(dataset, names) for dataset in folders]
    task = train(sources, output, settings, preset=preset, title=title, device=device)
    folder = run_with_bar(task, output.name, on_progress=print_epoch)
    typer.echo(f"The classifier is in {folder}. Choose this folder as the classifier of a count.")


def read_names(rename: list[str]) -> dict[str, str]:
    """Return new names by old ones from OLD=NEW."""
    wrong = [one for one in rename if "=" not in one]
    if wrong:
        raise SettingsError(f"rename must be OLD=NEW, or OLD= to leave a class out; got {wrong[0]!r}.")
    return {old: new for old, _, new in (one.partition("=") for one in rename)}
