"""Fine-tuning: a model and a few annotated images in, a model that counts these better out, or the same one.

It is meant to be unable to ruin a model: only the last layers learn at first, statistics of normalisations
stay, part of every batch asks for what the model gave before, and of all weights on the way, and between
those before and after, the ones that score best on validation images are kept. These may be the first. Of
weights that score alike, within the standard error of the best, the ones nearest to the first are taken: few
cells tell little, and the less a model changes the less it forgets.

Where a part of each image tells how well the rest was learned, it holds too few cells to score by. There the
loss on patches of that part has to fall, and the score must not, by more than the standard error; at least
half of the way is gone then, and no more where the score asks for none. (Single images of stained tissue were
taught to a model new to it: half of the way made it better on others alike in 6 cases of 8, the whole in 5,
and where the loss did not fall the whole way made it worse.) The trunk rests there for a whole epoch.

Source of the rule of the standard error: Breiman et al., Classification and regression trees (1984), section
3.4.3.
"""

import copy
from dataclasses import replace
from pathlib import Path

from cellwright.core.errors import CheckpointError
from cellwright.core.tasks import Task
from cellwright.files.atomic import check_writable
from cellwright.files.dataset.folder import Dataset
from cellwright.inference import device as devices
from cellwright.models import store
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.training.data.split import split
from cellwright.training.finetune.batches import fixed_patches, read_sample_sets
from cellwright.training.finetune.retention import Teacher, retention_set
from cellwright.training.finetune.run import Outcome, Run
from cellwright.training.pretrain import start_from
from cellwright.training.run_folder import facts_of, forget, verdict
from cellwright.training.settings import FinetuneSettings
from cellwright.training.state import check_same_run, first_state, names_in_words, resume, write_card
from cellwright.training.trainer import Data

TUNED = " (fine-tuned)"


def finetune(
    data: Data,
    start: CellModel | str | Path,
    output: Path,
    settings: FinetuneSettings = FinetuneSettings(),  # noqa: B008 - frozen
    *,
    device: str = "auto",
    pretrained: Path | None = None,
) -> Task[Outcome]:
    """Teach a model the training images of a dataset, and keep it in ``output`` if it became better.

    Yields a :class:`FinetuneReport` after each epoch. Closing the generator keeps the best so far. A run that
    was stopped or killed resumes after its last epoch when it is started again with the same output
    folder, and ends with the same weights. Without validation images part of what is annotated takes their
    place, see ``training.data.split``.

    Parameters
    ----------
    data
        ``target`` may be annotated in regions only; ``extra`` is replayed with its annotation.
    start
        Name or folder of a model, or the model.
    pretrained
        Folder of ``training.pretrain``, whose encoder the model learns with. What it is compared with, and
        what it repeats, is the model as it was.
    output
        Must not hold the model to start from.

    Raises
    ------
    ReadError
        No image has the split ``train``.
    AnnotationError
        The family cannot learn from such annotation.
    CheckpointError
        There is no such model, it lies in ``output``, or the run there is damaged or of another network.
    WriteError
        The output folder cannot be written.
    """
    model = _loaded(start, output)
    begin = model.with_network(copy.deepcopy(model.network))
    if pretrained is not None:
        start_from(pretrained, begin)
    parts = split(data.target, most=settings.n_validation)
    taught = {item.name for item in parts.train.items}
    has_few = any(item.name in taught for item in parts.validation.items)  # who teach also validate
    if has_few:
        settings = replace(settings, frozen_steps=max(settings.frozen_steps, settings.steps_per_epoch))
    check_writable(output)
    torch_device = devices.choose(device)
    sets = yield from read_sample_sets(Data(parts.train, data.extra), model, settings)
    images = [
        [f"{one.folder.name}/{item.name}" for item in one.items]
        for one in (parts.train, parts.validation, *data.extra)
    ]
    facts = facts_of(images=images, start=model.sha256)
    check_same_run(output, settings, facts)
    fixed = None
    if has_few:
        fixed = yield from fixed_patches(parts.validation, model, settings)
    run = Run(
        start=model,
        tuned=replace(
            model.spec.without_counts(),
            title=tuned_title(model.spec),
            tuned_diameter_px=sets.diameter_px,
        ),
        state=replace(first_state(begin.network.to(torch_device), settings.weight_decay), facts=facts),
        teacher=Teacher(model, torch_device),
        validation=parts.validation,
        retention_set=retention_set(),
        output=output,
        settings=settings,
        fixed=fixed,
        device=device,
        told=_learned_from(start, parts.train, parts.validation),
    )
    resume(run.state, output, settings)
    if not run.state.history:
        yield (yield from run.validate(model))
    while not run.is_over():
        yield from run.epoch(sets, torch_device)
        yield (yield from run.validate(run.present()))
    outcome = run.outcome((yield from run.interpolate()), parts.notice)
    came_out = f"Outcome: {verdict(outcome.before, outcome.after, is_better=outcome.is_better)}."
    write_card(
        output,
        run.tuned.title if outcome.is_better else model.spec.title,
        [*run.told, came_out, *outcome.notices],
        {"before": outcome.before, "after": outcome.after},
        run.state.history,
    )
    forget(output)
    return outcome


def _loaded(start: CellModel | str | Path, output: Path) -> CellModel:
    if not isinstance(start, (str, Path)):
        return start
    if store.find(start).resolve() == output.resolve():
        raise CheckpointError(
            f"A fine-tuned model needs a folder of its own; got {output}, which holds the one to start from. "
            "Choose another."
        )
    return store.load(start)


def _learned_from(start: CellModel | str | Path, taught: Dataset, judged: Dataset) -> list[str]:
    """Return the sentences of the card that hold from the beginning of a run on."""
    told = [
        f"Fine-tuned on images: {names_in_words(taught.items)}.",
        f"Validated with: {names_in_words(judged.items)}.",
        "*Retention* is the score on simulated images, of kinds that the model knew before.",
    ]
    if isinstance(start, (str, Path)):
        told += [f"It began with the weights of `{Path(start).name}`, whose card tells their licence."]
    return told


def tuned_title(spec: ModelSpec) -> str:
    """Return the title of a model that was fine-tuned."""
    return spec.title.removesuffix(TUNED) + TUNED
