"""What learns: ``cellwright train``, ``pretrain`` and ``train-classifier``.

Annotated images in, a model folder out; images without annotation in, an encoder to start from out; cells
with classes in, a classifier folder out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cellwright.cli.flags import (
    changed_by,
    expanded,
    read_settings,
    refuse_foreign,
    refuse_idle,
    with_settings,
)
from cellwright.cli.output import echo_made, echo_note, read_folder, run_with_bar
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress
from cellwright.files.folders.image_list import list_images
from cellwright.inference.settings import FlagRule
from cellwright.models import registry
from cellwright.training.run_folder import STATE, verdict
from cellwright.training.settings import (
    PRESETS,
    ClassifyTrainingSettings,
    FinetuneSettings,
    PretrainSettings,
    TrainingSettings,
)
from cellwright.training.settings import preset as preset_of

if TYPE_CHECKING:
    from cellwright.files.dataset.folder import Dataset
    from cellwright.models.protocol import CellModel
    from cellwright.models.spec import ModelSpec
    from cellwright.training.data.inspect import Findings
    from cellwright.training.finetune.finetune import Outcome

DatasetFolder = Annotated[
    Path,
    typer.Argument(
        help="Folder with images/, masks/ and optionally meta.json, or images beside their masks; with "
        "--from density also a CSV file with the columns image and count."
    ),
]
Output = Annotated[Path, typer.Option(help="Folder for the model; a run that was stopped resumes there.")]
Extra = Annotated[list[Path], typer.Option(help="Another dataset for the first phase only; may be repeated.")]
Tune = Annotated[
    str | None, typer.Option("--from", help="Name or folder of a model to fine-tune on these images.")
]
Start = Annotated[
    str | None, typer.Option(help="Name or folder of a model whose weights a full training starts from.")
]
Pretrained = Annotated[
    Path | None,
    typer.Option(help="Folder that `cellwright pretrain` wrote, whose encoder the training starts from."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 (and so on) or mps.")]
COUNTS = "a table of counts"
TRAIN_RULES = (
    FlagRule(("model", "preset"), without=("tune", "start")),
    FlagRule(("start",), without=("tune",)),
    FlagRule(tuple(PRESETS), needs=("tune",), without=(COUNTS,)),
    FlagRule(("extra", "pretrained", *(item.name for item in fields(FinetuneSettings))), without=(COUNTS,)),
)
FOLDER, SIMCLR = "a folder of images", "--method simclr"
PRETRAIN_RULES = (
    FlagRule(("model", "preset", "imagenet"), without=("start",)),
    FlagRule(("temperature",), needs=(SIMCLR,)),
    FlagRule(("pattern",), needs=(FOLDER,)),
)


@with_settings(TrainingSettings, FinetuneSettings)
def train(
    context: typer.Context,
    dataset: DatasetFolder,
    output: Output,
    model: Annotated[str, typer.Option(help="Family of the new model.")] = registry.DEFAULT_FAMILY,
    preset: Annotated[str, typer.Option(help="Architecture within the family.")] = "small",
    extra: Extra = [],  # noqa: B006 - typer copies it
    tune: Tune = None,
    start: Start = None,
    pretrained: Pretrained = None,
    quick: Annotated[bool, typer.Option("--quick", help="With --from: minutes on a laptop.")] = False,
    balanced: Annotated[bool, typer.Option("--balanced", help="With --from: an hour on a laptop.")] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="With --from: a night on a laptop.")] = False,
    device: Device = "auto",
    **flags: Any,
) -> None:
    """Train a model on annotated images.

    Prints one line per epoch.

    With --from, a model learns these images on top of what it knows, and what it learned is kept if it
    became better. Without, a new model is trained from scratch.
    """
    refuse_taken(output, (dataset, *extra))
    is_table = dataset.suffix.lower() == ".csv"
    refuse_idle(context, TRAIN_RULES, [COUNTS] if is_table and tune is not None else [])
    if is_table and tune is None:
        raise SettingsError("A table of counts teaches a model that is there. Add --from density.")
    chosen = [name for name, given in zip(PRESETS, (quick, balanced, thorough), strict=True) if given]
    if tune is not None:
        tune_model(tune, (dataset, *extra), output, finetune_settings(chosen, flags), device, pretrained)
        return
    refuse_foreign(flags, TrainingSettings)
    settings = read_settings(TrainingSettings, flags)
    family = registry.get(model)
    from cellwright.files.dataset.folder import read_dataset

    target, others = read_dataset(dataset), tuple(read_folder(folder) for folder in extra)
    import torch

    from cellwright.inference.device import choose_device
    from cellwright.training import trainer

    choose_device(device)
    torch.manual_seed(settings.seed)
    begin = model_to_train(family.load().build(preset), start, pretrained)
    print_findings(target, begin.spec)
    task = trainer.train(trainer.Data(target, others), begin, output, settings, device=device)
    folder = run_with_bar(task, dataset.name, on_progress=print_epoch)
    echo_made("model", folder, "count", "IMAGE", "--model", str(folder))


def refuse_taken(output: Path, sources: Sequence[Path]) -> None:
    """Raise SettingsError where a folder holds a finished model, which would be lost, or a dataset."""
    if (output / "weights.safetensors").exists() and not (output / STATE).exists():
        raise SettingsError(f"{output} already holds a model. Name another folder, or delete this one.")
    is_inside = any(output.resolve().is_relative_to(source.resolve()) for source in sources)
    if is_inside or any((output / name).exists() for name in ("meta.json", "images", "masks")):
        raise SettingsError(
            f"A model needs a folder of its own; {output} holds a dataset or lies in one. Name another."
        )


def model_to_train(built: "CellModel", start: str | None, pretrained: Path | None) -> "CellModel":
    """Return the model that a full training begins with: as it was built, or with the weights of another."""
    from cellwright.models import store

    if start is not None:
        built = store.load(start)
        built = built.with_network(built.network, spec=built.spec.without_counts())
    if pretrained is not None:
        from cellwright.training.pretrain import start_from

        start_from(pretrained, built)
    return built


def finetune_settings(chosen: Sequence[str], flags: Mapping[str, Any]) -> FinetuneSettings:
    """Return the settings of the one preset that was chosen (quick when none was), changed by flags."""
    if len(chosen) > 1:
        raise SettingsError(f"Choose one of --{', --'.join(PRESETS)}; got {len(chosen)}.")
    refuse_foreign(flags, FinetuneSettings)
    return changed_by(flags, preset_of(chosen[0] if chosen else "quick"))


def tune_model(
    start: str,
    folders: tuple[Path, ...],
    output: Path,
    settings: FinetuneSettings,
    device: str,
    pretrained: Path | None,
) -> None:
    """Fine-tune a model on the first folder; the others are replayed."""
    if folders[0].suffix.lower() == ".csv":
        from cellwright.training.finetune.counts import finetune_counts, read_counts

        counted = finetune_counts(read_counts(folders[0]), start, output, device=device)
        _print_outcome(run_with_bar(counted, folders[0].name), output)
        return
    from cellwright.files.dataset.folder import read_dataset
    from cellwright.inference.device import choose_device
    from cellwright.models import store

    spec = store.spec_of(start)
    target, others = read_dataset(folders[0]), tuple(read_folder(folder) for folder in folders[1:])
    choose_device(device)
    print_findings(target, spec)
    from cellwright.training.finetune.finetune import finetune
    from cellwright.training.trainer import Data

    data = Data(target, others)
    task = finetune(data, start, output, settings, device=device, pretrained=pretrained)
    _print_outcome(run_with_bar(task, folders[0].name, on_progress=print_epoch), output)


def _print_outcome(outcome: "Outcome", output: Path) -> None:
    for notice in outcome.notices:
        echo_note(notice)
    before, after = outcome.before["score"], outcome.after["score"]
    words = verdict(outcome.before, outcome.after, is_better=outcome.is_better)
    typer.echo(f"score {before:.3f} before, {after:.3f} after: {words}")
    echo_made("model", output, "count", "IMAGE", "--model", str(output))


def print_findings(dataset: "Dataset", spec: "ModelSpec") -> None:
    """Print what a dataset holds, and on stderr what looks wrong with it."""
    from cellwright.training.data.inspect import inspect

    print_found(run_with_bar(inspect(dataset, spec), dataset.folder.name))


def print_found(findings: "Findings") -> None:
    """Print findings, and on stderr what looks wrong."""
    typer.echo(findings.summary())
    for warning in findings.warnings:
        echo_note(warning.text)


def print_epoch(progress: Progress) -> None:
    """Print the reports of epochs, and no smaller step."""
    if progress.stage == "epoch":
        typer.echo(f"{progress.done}/{progress.total}  {progress.note}")


@with_settings(PretrainSettings)
def pretrain(
    context: typer.Context,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, or folders of images, without annotation.", callback=expanded, show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the encoder; a stopped run resumes there.")],
    model: Annotated[str, typer.Option(help="Family that will be trained.")] = registry.DEFAULT_FAMILY,
    preset: Annotated[str, typer.Option(help="Architecture: small, lite or deep.")] = "lite",
    start: Annotated[
        str | None, typer.Option(help="Name or folder of a model whose weights this starts from.")
    ] = None,
    imagenet: Annotated[
        bool,
        typer.Option(
            "--imagenet", help="Start from ImageNet; needs the extra pretrain and the preset lite or deep."
        ),
    ] = False,
    pattern: Annotated[str, typer.Option(help="File names in folders must match it.")] = "*",
    device: Device = "auto",
    **flags: Any,
) -> None:
    """Pretrain an encoder on images without annotation.

    `cellwright train --pretrained` begins with it. Prints one line per epoch.
    """
    settings = read_settings(PretrainSettings, flags)
    there = [f"--method {settings.method}"]
    if any(path.is_dir() for path in images):
        there.append(FOLDER)
    refuse_taken(output, images)
    refuse_idle(context, PRETRAIN_RULES, there)
    listed = list_images(images, pattern)
    import torch

    from cellwright.inference.device import choose_device
    from cellwright.models import store
    from cellwright.training import pretrain as pretraining

    choose_device(device)
    torch.manual_seed(settings.seed)
    begin = store.load(start) if start else registry.get(model).load().build(preset)
    if imagenet:
        pretraining.start_from_imagenet(begin)
    task = pretraining.pretrain(listed, begin, output, settings, device=device)
    folder = run_with_bar(task, output.name, on_progress=print_epoch)
    of_model = ["--model", model, "--preset", begin.spec.preset]
    if start:
        of_model = ["--from", start]
    words = ("train", "DATASET", *of_model, "--pretrained", str(folder), "--output", "MODEL")
    echo_made("encoder", folder, *words)


@with_settings(ClassifyTrainingSettings)
def train_classifier(
    datasets: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with meta.json, images/ and boxes/, points/ or masks/ with classes.",
            callback=expanded,
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the classifier; a stopped run resumes there.")],
    rename: Annotated[
        list[str], typer.Option(help="OLD=NEW renames a class, OLD= leaves it out; may be repeated.")
    ] = [],  # noqa: B006 - typer copies it
    preset: Annotated[str, typer.Option(help="Architecture: small or paper.")] = "small",
    title: Annotated[str, typer.Option(help="Title shown in lists.")] = "",
    device: Device = "auto",
    **flags: Any,
) -> None:
    """Train a classifier of cells on annotated classes.

    Prints one line per epoch.
    """
    refuse_taken(output, datasets)
    settings = read_settings(ClassifyTrainingSettings, flags)
    folders = [read_folder(folder) for folder in datasets]
    names = read_names(rename, {name for folder in folders for item in folder.items for name in item.classes})
    from cellwright.training.data.classes import ClassDataset, inspect_classes

    sources = [ClassDataset(dataset, names) for dataset in folders]
    print_found(run_with_bar(inspect_classes(sources), output.name))
    from cellwright.training import cell_classifier

    task = cell_classifier.train_classifier(
        sources, output, settings, preset=preset, title=title, device=device
    )
    folder = run_with_bar(task, output.name, on_progress=print_epoch)
    echo_made("classifier", folder, "count", "IMAGE", "--classifier", str(folder))


def read_names(rename: list[str], classes: set[str]) -> dict[str, str]:
    """Return new names by old ones from OLD=NEW, where OLD is one of the classes, told once."""
    names: dict[str, str] = {}
    for one in rename:
        old, sign, new = one.partition("=")
        if not sign:
            raise SettingsError(f"rename must be OLD=NEW, or OLD= to leave a class out; got {one!r}.")
        if old not in classes or old in names:
            known = ", ".join(sorted(classes)) or "none"
            raise SettingsError(f"rename must name each class once, of these: {known}; got {one!r}.")
        names[old] = new
    return names
