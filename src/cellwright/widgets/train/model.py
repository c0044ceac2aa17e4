"""What the train panel is about: the run, whether it is paused, and what came out of it; no Qt.

The run itself is a task for a thread beside the viewer, with pictures of what is found. What comes out of it
goes to the user's models if it is better.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal
from skimage.segmentation import find_boundaries

from cellwright.core.data import Annotation, Image, Labels, Result
from cellwright.core.errors import CellwrightError, WriteError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import make_folder, move
from cellwright.files.dataset.folder import Dataset, Item, read_dataset
from cellwright.files.folders.image_list import list_images
from cellwright.files.json_value import read_object
from cellwright.models import registry, store
from cellwright.training.data.classes import ClassDataset, inspect_classes
from cellwright.training.data.split import split_dataset
from cellwright.training.run_folder import (
    SCRATCH,
    Plan,
    discard,
    epochs_in,
    forget,
    free_name,
    is_running,
    only_scores,
    only_trainer,
    selection_score,
    verdict,
    write_plan,
)
from cellwright.widgets.shared.layer_dataset import write_task

WAIT_S = 0.2  # between two checks whether a paused run is resumed or stopped
SIDE_PX = 192  # of the part that is shown
GAP_PX = 4
WIDE = 1.6  # times wider than high
TRUE_COLOUR = (255, 196, 61)
FOUND_COLOUR = (63, 208, 201)
DOT_PX = 2


@dataclass(frozen=True)
class EpochPicture(Progress):
    """The end of an epoch, and a picture (height, width, 3) of the truth and of what is found now."""

    picture: NDArray[np.uint8] | None = None
    caption: str = ""


@dataclass(frozen=True, slots=True)
class TrainingOutcome:
    """What came out of a run."""

    plan: Plan
    model: str  # name of the new model; empty where nothing became better and nothing was kept
    before: Mapping[str, float]  # scores; empty where it was stopped before there were any
    after: Mapping[str, float]
    notices: tuple[str, ...] = ()
    epochs: tuple[Mapping[str, float], ...] = ()  # the curve, which is no longer in the folder of the run
    n_checked: Mapping[str, int] = field(default_factory=dict)  # cells of each class that it is checked with
    is_held_back: bool = False  # whether these are of the images that it learned from

    @property
    def sentence(self) -> str:
        """What it came to, in one sentence."""
        if self.plan.learns_classes and self.model:
            return f"{self.model!r} has learned the classes. It is in the lists of Classes now."
        if self.plan.learns_classes:
            return f"The training of {self.plan.name!r} was stopped."
        words = verdict(self.before, self.after, is_better=bool(self.model))
        if self.model:
            return f"{self.model!r}: {words}. It is in the model lists now."
        return f"{self.plan.name!r}: {words}."


class TrainModel:
    """State of one train panel: the run that goes on, or that was the last."""

    started = Signal()
    ended = Signal(object)  # TrainingOutcome
    failed = Signal(object)  # Exception

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.is_busy = False  # trains, or is paused
        self.is_leaving = False  # the panel is being closed: the run is left to be resumed
        self._gate = threading.Event()

    @property
    def epochs(self) -> list[dict[str, float]]:
        """Step, loss, rate and scores of each epoch so far."""
        return [] if self.plan is None else epochs_in(self.plan.output)

    def start(self, plan: Plan, layers: Dataset | None) -> Task[TrainingOutcome]:
        """Return the task that trains as planned; ``layers`` are the annotated ones it is to keep first."""
        self.plan, self.is_busy, self.is_leaving = plan, True, False
        self._gate.set()
        self.started.emit()
        return train_task(plan, self._gate, layers)

    def set_paused(self, *, is_paused: bool) -> None:
        """Let the training rest before its next step, or resume."""
        if is_paused:
            self._gate.clear()
        else:
            self._gate.set()

    def end_stopped(self) -> None:
        """End a run that was cancelled, and keep its best model; one that was left stays as it is."""
        if self.plan is None or self.is_leaving:
            return
        try:
            outcome = stop(self.plan)
        except CellwrightError as error:
            self.failed.emit(error)
            return
        self.ended.emit(outcome)

    def fail(self, error: Exception) -> None:
        """Tell of an error; a run that had not begun is deleted, since there is nothing to resume."""
        plan = self.plan
        if plan is not None and not (self.epochs or epochs_in(plan.encoder) or is_running(plan)):
            discard(plan)
        self.failed.emit(error)


def train_task(plan: Plan, gate: threading.Event, layers: Dataset | None = None) -> Task[TrainingOutcome]:
    """Train, or go on training; waits while ``gate`` is not set.

    Annotated layers are kept in ``plan.data`` first. Closing the task keeps the run as it is on disk; then
    :func:`stop` keeps the best model so far.

    CellwrightError as ``training.finetune.finetune``. WriteError where the run goes on elsewhere.
    """
    with only_trainer(plan):
        write_plan(plan)
        if layers is not None:
            yield from write_task(layers, Path(plan.data))
        if plan.learns_classes:
            return (yield from _classify(plan, gate))
        yield Progress("begin", 0, 1, "reading images and model")
        with _fewer_threads():
            yield from _paced(_pretrain(plan), gate, plan)
            outcome = yield from _paced(_finetune(plan), gate, plan)
        notices = (*outcome.notices, *_left_out(plan))
        return _ended(plan, outcome.before, outcome.after, notices, is_better=outcome.is_better)


def stop(plan: Plan) -> TrainingOutcome:
    """End a run that was cancelled: its best model is kept if it is better than the first.

    That of a classifier, which is of use at its end alone, is left to be resumed.
    """
    if plan.learns_classes:
        why = "Resume goes on where it stopped."
        if not epochs_in(plan.output):
            discard(plan)
            why = "It had learned nothing yet."
        return TrainingOutcome(plan, "", {}, {}, (why,))
    before, *epochs = epochs_in(plan.output) or [{}]
    if not epochs:
        discard(plan)
        why = "Stopped before what it learned was first checked."
        return TrainingOutcome(plan, "", only_scores(before), {}, (why,))
    best = max(epochs, key=selection_score)
    is_better = selection_score(best) > selection_score(before)
    notices: tuple[str, ...] = ("It had not improved when it was stopped.",)
    if is_better:
        step = f"step {best['step']:.0f} of {plan.n_steps}"
        stopped = f"The training was stopped, and it is as it was at {step}."
        notices = tuple(filter(None, (stopped, _how_it_was_checked(plan))))
    return _ended(plan, only_scores(before), only_scores(best), notices, is_better=is_better)


def _how_it_was_checked(plan: Plan) -> str:
    """Return a sentence where few images had to teach and to check; nothing where they are gone by now."""
    try:
        return split_dataset(read_dataset(Path(plan.data))).notice
    except CellwrightError:
        return ""


def _ended(
    plan: Plan,
    before: Mapping[str, float],
    after: Mapping[str, float],
    notices: tuple[str, ...],
    *,
    is_better: bool,
) -> TrainingOutcome:
    epochs = tuple(epochs_in(plan.output))
    model = ""
    if is_better:
        forget(plan.output)
        model = plan.name
        if (store.user_folder() / model).exists():
            model = free_name(model)
        make_folder(store.user_folder())
        try:
            move(plan.output, store.user_folder() / model)
        except OSError as error:
            raise WriteError(
                f"Cannot move the new model to {store.user_folder() / model}: {error}. It is still in "
                f"{plan.output}."
            ) from error
    discard(plan)
    return TrainingOutcome(plan, model, before, after, notices, epochs)


def _classify(plan: Plan, gate: threading.Event) -> Task[TrainingOutcome]:
    """Teach a classifier as the command does, in as many threads, by which sums are rounded."""
    from cellwright.training.cell_classifier import train_classifier

    sources = [ClassDataset(read_dataset(plan.data))]
    findings = yield from _paced(inspect_classes(sources), gate, plan)
    task = train_classifier(sources, plan.output, plan.classes, device=plan.device)
    yield from _paced(task, gate, plan)
    scores, notices = only_scores(epochs_in(plan.output)[-1]), tuple(one.text for one in findings.warnings)
    outcome = _ended(plan, {}, scores, notices, is_better=True)
    return replace(outcome, n_checked=findings.n_checked, is_held_back=findings.is_held_back)


def _pretrain(plan: Plan) -> Task[None]:
    """Learn from images without annotation, where that is planned; what is in the folder is kept."""
    from cellwright.training.pretrain import PRETRAINED, pretrain

    if not plan.unlabelled or (plan.encoder / PRETRAINED).exists():
        return
    model = _first(plan)
    if isinstance(model, str):
        model = store.load(model)
    images = list_images([Path(plan.unlabelled)])
    yield from pretrain(images, model, plan.encoder, plan.pretraining, device=plan.device)


def _left_out(plan: Plan) -> tuple[str, ...]:
    """Return a sentence where images without annotation could not be learned from."""
    from cellwright.training.pretrain import PRETRAINED

    if not plan.unlabelled:
        return ()
    facts = read_object(plan.encoder / PRETRAINED)
    n_left_out = facts.get("n_left_out", 0)
    if not n_left_out:
        return ()
    total = facts["n_images"] + n_left_out
    return (
        f"{n_left_out:,} of {total:,} unlabelled images cannot be read or show nothing; they were left out.",
    )


def _finetune(plan: Plan) -> Task[Any]:
    """Fine-tune as planned; torch is imported here, in the thread of the job."""
    from cellwright.training.finetune.finetune import finetune
    from cellwright.training.trainer import Data

    pretrained = plan.encoder if plan.unlabelled else None
    data = Data(read_dataset(plan.data))
    task = finetune(data, _first(plan), plan.output, plan.settings, device=plan.device, pretrained=pretrained)
    return (yield from task)


def _first(plan: Plan) -> Any:
    """Return the name of the model to begin with, or a model that has learned nothing yet."""
    if not plan.start.startswith(SCRATCH):
        return plan.start
    import torch

    with torch.random.fork_rng():  # a resumed run begins with, and is compared with, the same weights
        torch.manual_seed(plan.settings.seed)
        return registry.get(plan.start.removeprefix(SCRATCH)).load().build("small")


def _paced(task: Task[Any], gate: threading.Event, plan: Plan) -> Task[Any]:
    """Advance a task while the gate is open; at the end of an epoch draw what is found now."""
    painter, progress = _Painter(plan), Progress("begin", 0, 1)
    try:
        while True:
            while not gate.wait(WAIT_S):
                yield Progress("paused", progress.done, progress.total)  # the bar stays where it is
            try:
                progress = next(task)
            except StopIteration as end:
                return end.value
            if progress.stage == "epoch":
                progress = painter.seen(progress)
            yield progress
    finally:
        task.close()


class _Painter:
    """Draws what is found in the first validation image beside its truth: the cells that are judged."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: tuple[Item, Image, Annotation | Labels] | None = None

    def seen(self, progress: Progress) -> Progress:
        """Return the end of an epoch with its picture."""
        result: Result | None = getattr(progress, "preview", None)
        picture = None
        if result is not None:
            from cellwright.training.evaluation.evaluate import in_annotated_regions

            self._known = self._known or self._read()
            item, image, truth = self._known
            found, true = in_annotated_regions(item, result, truth)
            picture = validation_picture(image, true, found)
        name = str(getattr(progress, "preview_name", ""))
        return EpochPicture(progress.stage, progress.done, progress.total, progress.note, picture, name)

    def _read(self) -> tuple[Item, Image, Annotation | Labels]:
        parts = split_dataset(read_dataset(self._plan.data), most=self._plan.settings.n_validation)
        item = parts.validation.items[0]
        return item, *item.annotated()


@contextmanager
def _fewer_threads() -> Iterator[None]:
    """Leave one core to the viewer while torch computes in this thread."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(max(1, min(n, (os.cpu_count() or 2) - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(n)


def validation_picture(image: Image, truth: Annotation | Labels, result: Result) -> NDArray[np.uint8]:
    """Return (height, 2 width + gap, 3): part of an image with its true and with its found cells.

    Of wide parts the two are above each other. Of volumes and movies the middle slice is shown.
    """
    grey = _grey(image)
    labels, points = (truth.labels, truth.points) if isinstance(truth, Annotation) else (truth, None)
    window = _window(grey.shape, labels, points)
    true = _marked(grey, labels, points, window, TRUE_COLOUR)
    found = _marked(grey, result.cells.labels, result.cells.points, window, FOUND_COLOUR)
    height, width, _ = true.shape
    axis, gap_shape = 1, (height, GAP_PX, 3)
    if width > WIDE * height:
        axis, gap_shape = 0, (GAP_PX, width, 3)
    return np.concatenate([true, np.zeros(gap_shape, np.uint8), found], axis=axis)


def _window(
    shape: tuple[int, ...], labels: NDArray[Any] | None, points: NDArray[np.float32] | None
) -> tuple[slice, slice]:
    """Return the part that is shown, around the middle of the true cells."""
    if labels is not None:
        points = np.argwhere(_middle(labels)).astype(np.float32)
    if points is None or not len(points):
        points = np.array([[n / 2 for n in shape]], np.float32)
    low = np.median(points, axis=0) - SIDE_PX / 2
    top, left = np.clip(low, 0, np.maximum(np.array(shape) - SIDE_PX, 0)).astype(int).tolist()
    return slice(top, top + SIDE_PX), slice(left, left + SIDE_PX)


def _grey(image: Image) -> NDArray[np.float32]:
    """Return the middle plane as (Y, X) between 0 and 1, the mean of its channels."""
    data, axes = np.asarray(image.data), image.axes
    for axis in "TZ":
        if axis in axes:
            index = axes.index(axis)
            data, axes = data.take(data.shape[index] // 2, axis=index), axes.replace(axis, "")
    if "C" in axes:
        data = data.mean(axis=axes.index("C"))
    low, high = np.percentile(data, (1, 99.7))
    return np.clip((data - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def _middle(labels: NDArray[Any]) -> NDArray[Any]:
    while labels.ndim > 2:
        labels = labels[labels.shape[0] // 2]
    return labels


def _marked(
    grey: NDArray[np.float32],
    labels: NDArray[Any] | None,
    points: NDArray[np.float32] | None,
    window: tuple[slice, slice],
    colour: tuple[int, int, int],
) -> NDArray[np.uint8]:
    drawn = np.repeat((grey[window][..., np.newaxis] * 255).astype(np.uint8), 3, axis=2)
    if labels is not None:
        edges = find_boundaries(_middle(labels)[window], mode="inner")
        drawn[edges[: drawn.shape[0], : drawn.shape[1]]] = colour
    elif points is not None:
        for y, x in points[:, -2:] - (window[0].start, window[1].start):
            row, column = round(float(y)), round(float(x))
            rows = slice(max(0, row - DOT_PX), max(0, row + DOT_PX + 1))
            drawn[rows, max(0, column - DOT_PX) : max(0, column + DOT_PX + 1)] = colour
    return drawn
