"""What a training run is on disk: its files, their names and what their fields mean. Imports no torch.

::

    <user's models>/../training/<name>/run.json    what is trained, on what, how
    <user's models>/../training/<name>/data/       the annotated layers, when it is these it learns from
    <user's models>/../training/<name>/encoder/    what was learned without annotation, where that comes first
    <user's models>/../training/<name>/model/      best model so far, curve.json, training.pt

A run whose folder is there was not ended by the user: napari was closed, or has crashed, or it goes on.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cellwright.core.errors import CellwrightError, CheckpointError
from cellwright.files.atomic import PART, acquire_lock, make_folder, only_holder, remove_folder, write_text
from cellwright.files.json_value import NO_JSON
from cellwright.models import store
from cellwright.training.settings import ClassifyTrainingSettings, FinetuneSettings, PretrainSettings

SCRATCH = "new:"  # a start of this and the name of a family has nothing learned yet
CLASSES = SCRATCH + "classifier"  # a start where the classes of cells are learned: by no family
RUN, CURVE, STATE = "run.json", "curve.json", "training.pt"
# fields of an epoch that are not scores to show
BOOKKEEPING = ("step", "loss", "rate", "merit", "error", "fit_error")

SCORE_TITLES = {
    "score": "score",
    "ap50": "AP at IoU 0.5",
    "count_error": "count error",
    "memory": "retention",
    "validation_loss": "pixel error",
    "box_iou": "IoU of boxes",
    "interval_coverage": "interval coverage",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be trained."""

    name: str  # of the new model
    start: str  # name or folder of a model, or ``new:`` and a family; CLASSES for a classifier
    data: str  # a training folder
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    device: str = "auto"
    unlabelled: str = ""  # folder of images without annotation to learn from first; empty for none
    pretraining: PretrainSettings = field(default_factory=PretrainSettings)  # how that is learned
    classes: ClassifyTrainingSettings = field(default_factory=ClassifyTrainingSettings)  # those of CLASSES

    @property
    def learns_classes(self) -> bool:
        """Whether a classifier learns, and no model that counts."""
        return self.start == CLASSES

    @property
    def n_steps(self) -> int:
        """Batches in all, at most."""
        if self.learns_classes:
            return self.classes.steps
        return self.settings.steps

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return runs_folder() / self.name

    @property
    def output(self) -> Path:
        """Where the best model so far lies."""
        return self.folder / "model"

    @property
    def encoder(self) -> Path:
        """Where what was learned without annotation lies."""
        return self.folder / "encoder"


def runs_folder() -> Path:
    """Return the folder of the runs that have not ended."""
    return store.user_folder().parent / "training"


def data_folder(name: str) -> Path:
    """Return where a run keeps the layers it learns from."""
    return runs_folder() / name / "data"


def free_name(start: str) -> str:
    """Return a name for a new model that tells what it began with."""
    base = Path(start.removeprefix(SCRATCH)).name
    if start.startswith(SCRATCH):
        base += "-new"
    elif "-tuned" not in base:
        base += "-tuned"
    names = (base, *(f"{base}-{n}" for n in range(2, 1000)))
    taken = {entry.name for entry in store.models()} | {plan.name for plan in unfinished_runs()}
    return next(one for one in names if one not in taken and not store.is_taken(one))


def checked_name(name: str) -> str:
    """Return a name for a new model without spaces around it.

    CheckpointError where it cannot be a name, or is taken.
    """
    name = name.strip()
    store.check_name(name)
    if store.is_taken(name) or name in {plan.name for plan in unfinished_runs()}:
        raise CheckpointError(f"There is already a model or a training {name!r}. Choose another name.")
    return name


def unfinished_runs() -> list[Plan]:
    """Return the runs that were neither stopped nor came to an end; damaged ones are left out."""
    plans = []
    for path in sorted(runs_folder().glob(f"[!.]*/{RUN}")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            facts["settings"] = FinetuneSettings(**facts["settings"])
            facts["pretraining"] = PretrainSettings(**facts.get("pretraining", {}))
            facts["classes"] = ClassifyTrainingSettings(**facts.get("classes", {}))
            plans.append(Plan(**{**facts, "name": path.parent.name}))
        except (OSError, *NO_JSON, TypeError, KeyError, AttributeError, CellwrightError):
            continue
    return plans


def selection_score(epoch: Mapping[str, float], default: float = 0.0) -> float:
    """Return what chooses the best epoch: the field ``merit``, else ``score``, else ``default``."""
    return epoch.get("merit", epoch.get("score", default))


def only_scores(epoch: Mapping[str, float]) -> dict[str, float]:
    """Return the fields of an epoch that are scores to show."""
    return {name: value for name, value in epoch.items() if name not in BOOKKEEPING}


def verdict(before: Mapping[str, float], after: Mapping[str, float], *, is_better: bool) -> str:
    """Return what a training came to, in the words of the command and of the panel.

    Where a few cells cannot tell by their score, the loss on patches decides; that is not a better score. A
    score that rose is none either where more was forgotten.
    """
    has_risen = after.get("score", 0.0) > before.get("score", 0.0)
    if not after:
        return "the model it began with is kept"
    if not is_better and has_risen and after.get("memory", 0.0) < before.get("memory", 0.0):
        return "better on these images, but worse at what it knew before: the model it began with is kept"
    if not is_better:
        return "no better: the model it began with is kept"
    if has_risen:
        return "better, and kept"
    return "a smaller error on the images it is checked with, and kept"


def learned_from(**values: object) -> dict[str, str]:
    """Return a checksum of what a run learns from: names of images stay out of the folder of the model."""
    return {"learns_from": hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()}


def write_curve(
    output: Path,
    settings: Mapping[str, object],
    epochs: Sequence[Mapping[str, float]],
    facts: Mapping[str, object] = {},
) -> None:
    """Write the curve of a run, and what it learns from; :func:`epochs_in` reads it."""
    values = {"settings": settings, "facts": facts, "epochs": epochs}
    write_text(output / CURVE, json.dumps(values, indent=1))


def forget(output: Path) -> None:
    """Remove what a resumed run would need, and what a killed one had half written, at the end of a run."""
    for path in (output / STATE, *output.glob(f".*{PART}")):
        path.unlink(missing_ok=True)


def epochs_in(output: Path) -> list[dict[str, float]]:
    """Return step, loss, rate and scores of each epoch of the run in a folder, none where it is not readable.

    The first of a fine-tuning is the model as it was.
    """
    try:
        epochs = json.loads((output / CURVE).read_text(encoding="utf-8"))["epochs"]
        return [dict(epoch) for epoch in epochs]
    except (OSError, *NO_JSON, TypeError, KeyError):
        return []


def write_plan(plan: Plan) -> None:
    """Note what is trained, so that it can be resumed."""
    write_text(plan.folder / RUN, json.dumps(asdict(plan), indent=1))


@contextmanager
def only_trainer(plan: Plan) -> Iterator[None]:
    """Keep others from going on with a run, or deleting it, while the block lasts.

    WriteError where another window or program trains it, or the folder cannot be written.
    """
    make_folder(runs_folder())
    wrong = (
        f"{plan.name!r} is being trained in another window or program. Wait for it, or choose another name."
    )
    with only_holder(_lock_path(plan), wrong):
        yield


def is_running(plan: Plan) -> bool:
    """Return whether a window or program trains a run."""
    try:
        lock = acquire_lock(_lock_path(plan))
    except CellwrightError:  # nobody trains where nothing can be written
        return False
    if lock is not None:
        lock.release()
    return lock is None


def _lock_path(plan: Plan) -> Path:
    return runs_folder() / f".{plan.name}.lock"


def discard(plan: Plan) -> None:
    """Delete a run, as a whole or not at all."""
    with suppress(OSError):
        remove_folder(plan.folder)
