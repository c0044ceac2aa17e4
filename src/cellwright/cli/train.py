"""``cellwright train``: a folder of annotated images in, a model folder out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cellwright.cli.flags import read_settings, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.models import registry
from cellwright.tasks import Progress
from cellwright.training.settings import TrainingSettings


@with_settings(TrainingSettings)
def train(
    dataset: Annotated[Path, typer.Argument(help="Folder with meta.json, images/ and masks/.")],
    output: Annotated[
        Path, typer.Option(help="Folder for the model; a run that was stopped goes on from there.")
    ],
    model: Annotated[str, typer.Option(help="Family of the new model.")] = "flow",
    preset: Annotated[str, typer.Option(help="Architecture within the family.")] = "small",
    extra: Annotated[
        list[Path], typer.Option(help="Another dataset for the first phase alone; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    start: Annotated[str | None, typer.Option(help="Name or folder of a model to start from.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (and so on) or mps.")] = "auto",
    **flags: Any,
) -> None:
    """Train a model on annotated images; one line per epoch."""
    from cellwright.io.dataset import read_dataset

    settings = read_settings(TrainingSettings, flags)
    family = registry.get(model)
    target, others = read_dataset(dataset), tuple(read_dataset(folder) for folder in extra)
    import torch

    from cellwright.inference.device import choose
    from cellwright.models import shelf
    from cellwright.training import loop

    choose(device)
    torch.manual_seed(settings.seed)
    begin = shelf.load(start) if start else family.load().build(preset)
    task = loop.train(loop.Data(target, others), begin, output, settings, device=device)
    folder = run_with_bar(task, dataset.name, on_progress=print_epoch)
    typer.echo(f"The model is in {folder}. Use it with: cellwright count IMAGE --model {folder}")


def print_epoch(progress: Progress) -> None:
    """Print the reports of epochs, and no smaller step."""
    if progress.stage == "epoch":
        typer.echo(f"{progress.done}/{progress.total}  {progress.note}")
