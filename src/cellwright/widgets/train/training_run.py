"""Trains as planned, paced and with pictures; what comes out of it goes to the shelf if it is better."""

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Result
from cellwright.core.errors import WriteError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import make_folder
from cellwright.files.dataset.folder import Dataset, read_dataset
from cellwright.models import registry, store
from cellwright.training.run_folder import (
    SCRATCH,
    Plan,
    curve,
    discard,
    forget,
    free_name,
    only_scores,
    selection_score,
    write_plan,
)
from cellwright.widgets.shared.layer_dataset import write_task
from cellwright.widgets.train.preview import draw

PAUSE_S = 0.2  # between two looks at whether a paused run goes on or is stopped


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
        See ``training.finetune.finetune``.
    """
    write_plan(plan)
    if layers is not None:
        yield from write_task(layers, Path(plan.data))
    yield Progress("begin", 0, 1, "reading images and model")
    with _FewerThreads():
        outcome = yield from _paced(_finetune(plan), gate, plan)
    return _ended(plan, outcome.before, outcome.after, outcome.notices, is_better=outcome.is_better)


def stop(plan: Plan) -> Ended:
    """End a run that was cancelled: its best model goes to the shelf if it is better than the first."""
    epochs = curve(plan)
    if len(epochs) < 2:
        discard(plan)
        return Ended(
            plan, "", only_scores(epochs[0]) if epochs else {}, {}, ("Stopped before the first epoch.",)
        )
    best = max(epochs[1:], key=selection_score)
    is_better = selection_score(best) > selection_score(epochs[0])
    notice = "" if is_better else "It had not become better when it was stopped."
    return _ended(
        plan, only_scores(epochs[0]), only_scores(best), (notice,) if notice else (), is_better=is_better
    )


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
        forget(plan.output)
        model = plan.name if not (store.user_folder() / plan.name).exists() else free_name(plan.name)
        make_folder(store.user_folder())
        try:
            os.replace(plan.output, store.user_folder() / model)
        except OSError as error:
            raise WriteError(
                f"Cannot move the new model to {store.user_folder() / model}: {error}. It is still in "
                f"{plan.output}."
            ) from error
    discard(plan)
    return Ended(plan, model, before, after, notices, epochs)


def _finetune(plan: Plan) -> Task[Any]:
    """Fine-tune as planned; torch is imported here, in the thread of the job."""
    from cellwright.training.finetune.finetune import finetune
    from cellwright.training.trainer import Data

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
        from cellwright.training.data.split import split

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
