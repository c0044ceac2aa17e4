"""What a training run holds, keeps on disk after each epoch and resumes from when it was killed."""

import copy
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.errors import CheckpointError, WriteError, expecting
from cellwright.core.words import few
from cellwright.files.atomic import atomic_write, write_text
from cellwright.files.dataset.folder import Item
from cellwright.files.json_value import read_object
from cellwright.models.checkpoint import CARD, save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.training.run_folder import CURVE, SCORE_TITLES, STATE, selection_score, write_curve
from cellwright.training.settings import FinetuneSettings, TrainingSettings

MOST_NAMES = 8  # of images, in a card


@dataclass(slots=True)
class RunState:
    """The moving parts of a run."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float = -1.0
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    sampling_weights: list[float] | None = None  # of the target's images, once the second phase has begun
    kept: dict[str, Tensor] | None = None  # the best weights so far, where epochs have a merit
    facts: Mapping[str, Any] = field(default_factory=dict)  # what it learns from, for those who resume it


def first_state(network: nn.Module, torch_device: torch.device, weight_decay: float) -> RunState:
    """Return the state before the first step of a copy of a network: others may be counting with it."""
    network = copy.deepcopy(network).to(torch_device)
    _import_triton()
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay, fused=True)
    return RunState(network, copy.deepcopy(network), optimizer)


def _import_triton() -> None:
    """Import the compiler that PyTorch for CUDA brings, if it is there, so that it uses its own LLVM.

    The first optimizer imports it. Where the OpenGL driver has loaded another LLVM by then, as Mesa's do,
    Triton would call that one, and napari would end with a segmentation fault.
    """
    if sys.platform != "linux" or not hasattr(os, "RTLD_DEEPBIND"):  # not there without glibc
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        with suppress(ImportError):
            import_module("triton")
    finally:
        sys.setdlopenflags(flags)


def keep_epoch(
    state: RunState,
    scores: Mapping[str, float],
    model: CellModel,
    output: Path,
    settings: TrainingSettings | FinetuneSettings,
) -> None:
    """Write the checkpoint if it is the best so far, then the curve and what a resumed run needs.

    A run that is killed between two of these, or while one is written, resumes from the epoch before and
    writes them again. ``scores`` are those of the epoch; the best is the first with the highest ``merit``,
    else the last with the highest ``score``, or the last when there is neither.
    """
    score = selection_score(scores, float(state.step))
    if score > state.best or (score == state.best and "merit" not in scores):
        state.best = score
        save_checkpoint(output, model.with_network(state.average, fit=model.fit), scores)
        if "merit" in scores:
            weights = state.average.state_dict()
            state.kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
    note_epoch(state, output, settings, scores)


def note_epoch(state: RunState, output: Path, settings: Any, scores: Mapping[str, float] = {}) -> None:
    """Add an epoch to the history, and write the curve and what a resumed run needs."""
    rate = float(state.optimizer.param_groups[0]["lr"])
    loss = {"loss": float(np.mean(state.losses))} if state.losses else {}
    state.history.append({"step": state.step, **loss, "rate": rate, **scores})
    write_curve(output, asdict(settings), state.history, state.facts)
    save(state, output)


def save(state: RunState, output: Path) -> None:
    """Write what a resumed run needs."""
    values = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "best": state.best,
        "history": state.history,
        "chances": state.sampling_weights,
        "kept": state.kept,
    }
    path = output / STATE
    what, advice = f"to write {path}", "Choose a folder on a disk with room."
    # a RuntimeError is how torch tells of a full disk
    with expecting(WriteError, what, advice, RuntimeError), atomic_write(path) as part:
        torch.save(values, part)


def check_same_run(output: Path, settings: Any, facts: Mapping[str, Any] = {}) -> None:
    """Raise CheckpointError where a run in ``output`` that is not finished began with other settings.

    These, a dataclass, and the facts stand in the curve that it wrote before its state.
    """
    if not _is_begun(output):
        return
    curve = read_object(output / CURVE)
    if (curve.get("settings"), curve.get("facts")) != (asdict(settings), facts):
        raise CheckpointError(
            f"The run in {output} began with other settings, images or weights. Resume it with these, delete "
            f"{STATE} there to start over, or choose another folder."
        )


def _is_begun(output: Path) -> bool:
    """Whether a run in ``output`` that is not finished has got as far as an epoch."""
    if not (output / STATE).exists():
        return False
    return bool(read_object(output / CURVE).get("epochs", True))  # its curve may be damaged, its state not


def resume_run(state: RunState, output: Path, settings: Any) -> None:
    """Bring a new state to where the run in ``output`` ended; where there is none, note that one begins.

    What a run that is killed at any moment leaves is so never taken for a finished model.

    CheckpointError where the run is damaged or of another network.
    """
    path = output / STATE
    if not _is_begun(output):
        write_curve(output, asdict(settings), state.history, state.facts)
        save(state, output)
        return
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        state.network.load_state_dict(saved["network"])
        state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step, state.best, state.history = saved["step"], saved["best"], saved["history"]
        state.sampling_weights, state.kept = saved.get("chances"), saved.get("kept")
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"The run in {output} cannot be resumed: {error}. Delete {STATE} there to start over, or "
            "choose another folder."
        ) from error


def write_card(
    output: Path,
    title: str,
    sentences: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    history: Sequence[Mapping[str, float]] = (),
) -> None:
    """Write ``card.md`` into the folder of a model: what it learned from, and what came of it.

    ``scores`` are the columns of a table, by their heading, with the figures that all of them have;
    ``history`` has one row for each epoch.
    """
    columns = list(scores.values())
    lines = [f"# {title}", "", *(f"{sentence}\n" for sentence in sentences)]
    figures = {
        SCORE_TITLES.get(name, name): [column[name] for column in columns]
        for name in columns[0]
        if all(name in column for column in columns)
    }
    if figures:
        lines += _table(["figure", *scores], figures)
    if history:
        names = [name for name in ("loss", "score") if any(name in epoch for epoch in history)]
        rows = {f"{epoch['step']:.0f}": [epoch.get(name, math.nan) for name in names] for epoch in history}
        lines += ["## Curve", "", *_table(["step", *names], rows)]
    write_text(output / CARD, "\n".join(lines))


def _table(header: Sequence[str], rows: Mapping[str, Sequence[float]]) -> list[str]:
    lines = [header, ["---"] * len(header)]
    lines += [[name, *(f"{value:.3f}" for value in values)] for name, values in rows.items()]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def names_in_words(items: Sequence[Item]) -> str:
    """Return the names of images, the first of many."""
    return few([item.name for item in items], MOST_NAMES)
