"""A training as it lies on disk: its data, where it begins, how far it is; and what of it goes to the shelf.

::

    <user's models>/../training/<name>/run.json    what is trained, on what, how
    <user's models>/../training/<name>/data/       the annotated layers, when it is these it learns from
    <user's models>/../training/<name>/model/      best model so far, curve.json, training.pt

A run whose folder is there was not ended by the user: napari was closed, or has crashed.
"""

import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.errors import CellwrightError, CheckpointError, WriteError
from cellwright.io.dataset import Dataset, read_dataset
from cellwright.io.files import make_folder
from cellwright.models import registry, shelf
from cellwright.tasks import Progress, Task
from cellwright.training.finetune_settings import FinetuneSettings
from cellwright.types import Result
from cellwright.widgets.train_layers import write_task
from cellwright.widgets.train_preview import draw

SCRATCH = "new:"  # a start of this and the name of a family has nothing learned yet
RUN, CURVE, STATE = "run.json", "curve.json", "training.pt"
PAUSE_S = 0.2  # between two looks at whether a paused run goes on or is stopped
HIDDEN_SCORES = ("step", "loss", "rate", "merit")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be trained. Made by the widget or read by :func:`unfinished`; used by :func:`train_task`.

    Parameters
    ----------
    name
        Of the new model.
    start
        Name or folder of a model, or ``new:`` and a family.
    data
        A training folder.
    """

    name: str
    start: str
    data: str
    settings: FinetuneSettings = field(default_factory=FinetuneSettings)
    device: str = "auto"

    @property
    def folder(self) -> Path:
        """Where the run lies."""
        return runs_folder() / self.name

    @property
    def output(self) -> Path:
        """Where the best model so far lies."""
        return self.folder / "model"


@dataclass(frozen=True)
class Seen(Progress):
    """The end of an epoch, and a picture (height, width, 3) of the truth and of what is found now."""

    picture: NDArray[np.uint8] | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """What came out of a run.

    Parameters
    ----------
    model
        Name of the new model; empty where nothing became better and nothing was kept.
    before, after
        Scores; empty where it was stopped before there were any.
    epochs
        The curve, which is no longer in the folder of the run.
    """

    plan: Plan
    model: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    notices: tuple[str, ...] = ()
    epochs: tuple[Mapping[str, float], ...] = ()


def runs_folder() -> Path:
    """Return the folder of the runs that have not ended."""
    return shelf.user_folder().parent / "training"


def data_folder(name: str) -> Path:
    """Return where a run keeps the layers it learns from."""
    return runs_folder() / name / "data"


def free_name(start: str) -> str:
    """Return a name for a new model that tells what it began with."""
    base = Path(start.removeprefix(SCRATCH)).name
    base = base if "-tuned" in base else f"{base}-{'new' if start.startswith(SCRATCH) else 'tuned'}"
    names = (base, *(f"{base}-{n}" for n in range(2, 1000)))
    taken = {entry.name for entry in shelf.models()} | {plan.name for plan in unfinished()}
    return next(one for one in names if one not in taken and not (shelf.user_folder() / one).exists())


def check_name(name: str) -> str:
    """Return a name for a new model without spaces around it.

    Raises
    ------
    CheckpointError
        It cannot be a name, or is taken.
    """
    name = name.strip()
    if not shelf.NAME.fullmatch(name):
        raise CheckpointError(
            "A model's name has up to 64 letters, digits, spaces, dots, dashes and underscores, and begins "
            f"with a letter or digit; got {name!r}. Choose another name."
        )
    if (shelf.user_folder() / name).exists() or name in {plan.name for plan in unfinished()}:
        raise CheckpointError(f"There is a model or a training {name!r} already. Choose another name.")
    return name


def unfinished() -> list[Plan]:
    """Return the runs that were neither stopped nor came to an end; damaged ones are left out."""
    plans = []
    for path in sorted(runs_folder().glob(f"*/{RUN}")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            settings = FinetuneSettings(**facts.pop("settings"))
            plans.append(Plan(**{**facts, "name": path.parent.name}, settings=settings))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, CellwrightError):
            continue
    return plans


def curve(plan: Plan) -> list[dict[str, float]]:
    """Return step, loss, rate and scores of each epoch so far; the first is the model as it was."""
    try:
        epochs = json.loads((plan.output / CURVE).read_text(encoding="utf-8"))["epochs"]
        return [dict(epoch) for epoch in epochs]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def train_task(plan: Plan, gate: threading.Event, layers: Dataset | None = None) -> Task[Ended]:
    """Train, or go on training; waits while ``gate`` is not set.

    Closing it keeps the run as it is on disk; then :func:`stop` brings the best model so far to the shelf.

    Parameters
    ----------
    layers
        Annotated layers, to be kept in ``plan.data`` first.

    Raises
    ------
    CellwrightError
        See ``training.finetune``.
    """
    write_plan(plan)
    if layers is not None:
        yield from write_task(layers, Path(plan.data))
    yield Progress("begin", 0, 1, "reading images and model")
    with _FewerThreads():
        outcome = yield from _paced(_finetune(plan), gate, plan)
    return _ended(plan, outcome.before, outcome.after, outcome.notices, is_better=outcome.is_better)


def write_plan(plan: Plan) -> None:
    """Note what is trained, so that it can be gone on with.

    Raises
    ------
    WriteError
        The folder cannot be written.
    """
    make_folder(plan.folder)
    facts = {**asdict(plan), "settings": asdict(plan.settings)}
    try:
        (plan.folder / RUN).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except OSError as error:
        raise WriteError(f"Cannot write {plan.folder}: {error}. Make room there.") from error


def stop(plan: Plan) -> Ended:
    """End a run that was cancelled: its best model goes to the shelf if it is better than the first."""
    epochs = curve(plan)
    if len(epochs) < 2:
        discard(plan)
        return Ended(plan, "", _scores(epochs[0]) if epochs else {}, {}, ("Stopped before the first epoch.",))
    best = max(epochs[1:], key=_merit)
    is_better = _merit(best) > _merit(epochs[0])
    notice = "" if is_better else "It had not become better when it was stopped."
    return _ended(plan, _scores(epochs[0]), _scores(best), (notice,) if notice else (), is_better=is_better)


def discard(plan: Plan) -> None:
    """Delete a run."""
    shutil.rmtree(plan.folder, ignore_errors=True)


def _ended(
    plan: Plan,
    before: Mapping[str, float],
    after: Mapping[str, float],
    notices: tuple[str, ...],
    *,
    is_better: bool,
) -> Ended:
    epochs = tuple(curve(plan))
    model = ""
    if is_better:
        (plan.output / STATE).unlink(missing_ok=True)
        model = plan.name if not (shelf.user_folder() / plan.name).exists() else free_name(plan.name)
        make_folder(shelf.user_folder())
        try:
            os.replace(plan.output, shelf.user_folder() / model)
        except OSError as error:
            raise WriteError(
                f"Cannot move the new model to {shelf.user_folder() / model}: {error}. It is still in "
                f"{plan.output}."
            ) from error
    discard(plan)
    return Ended(plan, model, before, after, notices, epochs)


def _scores(epoch: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in epoch.items() if name not in HIDDEN_SCORES}


def _merit(epoch: Mapping[str, float]) -> float:
    return epoch.get("merit", epoch.get("score", 0.0))


def _finetune(plan: Plan) -> Task[Any]:
    """Fine-tune as planned; torch is imported here, in the thread of the job."""
    from cellwright.training.finetune import finetune
    from cellwright.training.loop import Data

    begin: Any = plan.start
    if plan.start.startswith(SCRATCH):
        begin = registry.get(plan.start.removeprefix(SCRATCH)).load().build("small")
    return (
        yield from finetune(
            Data(read_dataset(plan.data)), begin, plan.output, plan.settings, device=plan.device
        )
    )


def _paced(task: Task[Any], gate: threading.Event, plan: Plan) -> Task[Any]:
    """Advance a task while the gate is open; at the end of an epoch draw what is found now."""
    painter = _Painter(plan)
    try:
        while True:
            while not gate.wait(PAUSE_S):
                yield Progress("paused", 0, 1)
            try:
                progress = next(task)
            except StopIteration as end:
                return end.value
            yield painter.seen(progress) if progress.stage == "epoch" else progress
    finally:
        task.close()


class _Painter:
    """Draws what is found in the first validation image beside its truth."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: tuple[Any, Any] | None = None

    def seen(self, progress: Progress) -> Progress:
        """Return the end of an epoch with its picture."""
        result: Result | None = getattr(progress, "preview", None)
        picture = None
        if result is not None:
            self._known = self._known or self._read()
            picture = draw(*self._known, result)
        name = str(getattr(progress, "preview_name", ""))
        return Seen(progress.stage, progress.done, progress.total, progress.note, picture, name)

    def _read(self) -> tuple[Any, Any]:
        from cellwright.training.split import split

        parts = split(read_dataset(self._plan.data), most=self._plan.settings.n_validation)
        return parts.validation.items[0].annotated()


class _FewerThreads:
    """Leaves one core to the viewer while torch computes in this thread."""

    def __enter__(self) -> None:
        import torch

        self._n = torch.get_num_threads()
        torch.set_num_threads(max(1, min(self._n, (os.cpu_count() or 2) - 1)))

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self._n)
