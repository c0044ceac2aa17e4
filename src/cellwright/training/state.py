"""What a training run holds, keeps on disk after each epoch and resumes from when it was killed."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.errors import CheckpointError
from cellwright.files.atomic import atomic_write
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.training.run_folder import STATE, selection_score, write_curve
from cellwright.training.settings import FinetuneSettings, TrainingSettings


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


def first_state(network: nn.Module, weight_decay: float) -> RunState:
    """Return the state before the first step of a network, on its device, that will be trained."""
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay)
    return RunState(network, copy.deepcopy(network), optimizer)


def keep(
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
    rate = state.optimizer.param_groups[0]["lr"]
    loss = {}
    if state.losses:
        loss = {"loss": float(np.mean(state.losses))}
    state.history.append({"step": state.step, **loss, "rate": rate, **scores})
    if score > state.best or (score == state.best and "merit" not in scores):
        state.best = score
        save_checkpoint(output, model.with_network(state.average), scores)
        if "merit" in scores:
            weights = state.average.state_dict()
            state.kept = {name: value.detach().cpu().clone() for name, value in weights.items()}
    write_curve(output, asdict(settings), state.history)
    save(state, output, settings)


def save(state: RunState, output: Path, settings: Any) -> None:
    """Write what a resumed run needs."""
    values = {
        "settings": asdict(settings),
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "best": state.best,
        "history": state.history,
        "chances": state.sampling_weights,
        "kept": state.kept,
    }
    with atomic_write(output / STATE) as part:
        torch.save(values, part)


def resume(state: RunState, output: Path, settings: Any) -> None:
    """Bring a new state to where the run in ``output`` ended; does nothing when there is no such run.

    Raises
    ------
    CheckpointError
        The run is damaged, of another network, or began with other settings.
    """
    path = output / STATE
    if not path.exists():
        return
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved.get("settings", asdict(settings)) != asdict(settings):
            raise CheckpointError(
                f"The run in {output} began with other settings. Resume it with these, delete {STATE} there "
                "to begin anew, or choose another folder."
            )
        state.network.load_state_dict(saved["network"])
        state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.step, state.best, state.history = saved["step"], saved["best"], saved["history"]
        state.sampling_weights, state.kept = saved.get("chances"), saved.get("kept")
    except (OSError, RuntimeError, ValueError, KeyError, AttributeError, EOFError, UnpicklingError) as error:
        raise CheckpointError(
            f"The run in {output} cannot be resumed: {error}. Delete {STATE} there to begin anew, or "
            "choose another folder."
        ) from error
