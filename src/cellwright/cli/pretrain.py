"""``cellwright pretrain``: images without annotation in, an encoder to start a training from out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cellwright.cli.flags import read_settings, refuse_idle, with_settings
from cellwright.cli.progress import run_with_bar
from cellwright.cli.train import print_epoch
from cellwright.files.folders.image_list import list_images
from cellwright.inference.settings import FlagRule
from cellwright.models import registry
from cellwright.training.settings import PretrainSettings

FOLDER, SIMCLR = "a folder of images", "--method simclr"
RULES = (
    FlagRule(("model", "preset", "imagenet"), without=("start",)),
    FlagRule(("temperature",), needs=(SIMCLR,)),
    FlagRule(("pattern",), needs=(FOLDER,)),
)


@with_settings(PretrainSettings)
def pretrain(
    context: typer.Context,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images, without annotation.")],
    output: Annotated[Path, typer.Option(help="Folder for the encoder; a stopped run resumes there.")],
    model: Annotated[str, typer.Option(help="Family that will be trained.")] = registry.DEFAULT_FAMILY,
    preset: Annotated[str, typer.Option(help="Architecture within the family: small or lite.")] = "lite",
    start: Annotated[
        str | None, typer.Option(help="Name or folder of a model whose weights this starts from.")
    ] = None,
    imagenet: Annotated[
        bool,
        typer.Option("--imagenet", help="Start from ImageNet; needs the extra pretrain and the preset lite."),
    ] = False,
    pattern: Annotated[str, typer.Option(help="File names in folders must match it.")] = "*",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (and so on) or mps.")] = "auto",
    **flags: Any,
) -> None:
    """Pre-train an encoder on images without annotation, to be used by `cellwright train --pretrained`."""
    settings = read_settings(PretrainSettings, flags)
    folders = [FOLDER] * any(path.is_dir() for path in images)
    refuse_idle(context, RULES, [*folders, f"--method {settings.method}"])
    listed = list_images(images, pattern)
    import torch

    from cellwright.inference.device import choose
    from cellwright.models import store
    from cellwright.training import pretrain as pretraining

    choose(device)
    torch.manual_seed(settings.seed)
    begin = store.load(start) if start else registry.get(model).load().build(preset)
    if imagenet:
        pretraining.start_from_imagenet(begin)
    task = pretraining.pretrain(listed, begin, output, settings, device=device)
    folder = run_with_bar(task, output.name, on_progress=print_epoch)
    typer.echo(
        f"The encoder is in {folder}. Use it with: cellwright train DATASET --preset {begin.spec.preset} "
        f"--pretrained {folder} --output MODEL"
    )
