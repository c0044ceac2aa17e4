"""A model as a folder: spec.json, weights.safetensors, scores.json, fit.json, card.md. No pickle, ever."""

import hashlib
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn

from cellwright.core.errors import CheckpointError, WriteError, expecting
from cellwright.files.atomic import atomic_write, write_text
from cellwright.models import registry
from cellwright.models.fit import FIT, read_fit, write_fit
from cellwright.models.protocol import CellModel
from cellwright.models.spec import SPEC, read_spec

WEIGHTS, SCORES, CARD = "weights.safetensors", "scores.json", "card.md"


def save_checkpoint(folder: Path, model: CellModel, scores: Mapping[str, float] | None = None) -> None:
    """Write a model into ``folder``; each file appears whole or not at all."""
    write_model(folder, model.network, SPEC, model.spec.to_json(), scores)
    if model.fit is None:
        (folder / FIT).unlink(missing_ok=True)
    else:
        write_fit(folder, model.fit, file_sha256(folder / WEIGHTS))


def load_checkpoint(folder: Path) -> CellModel:
    """Return the model stored in ``folder``, its network in evaluation mode on the CPU.

    CheckpointError where a file is missing, damaged, of another version or shape, holds values that are not
    finite, or its checksum is not that of spec.json.
    """
    spec = read_spec(folder / SPEC)
    sha256 = verified_checksum(folder, spec.weights_sha256)
    model: CellModel = registry.get(spec.family).load().build(spec.preset)
    path = folder / SPEC
    for name in ("in_channels", "map_channels", "divisor"):
        found, wanted = getattr(spec, name), getattr(model.spec, name)
        if found != wanted:
            raise CheckpointError(
                f"{name} in {path} must be {wanted}, as the {spec.preset} preset of {spec.family} has it; "
                f"got {found}. Copy the model folder again."
            )
    load_weights(folder, model.network, f"the {spec.preset} preset of {spec.family}")
    fit = read_fit(folder, sha256)
    return model.with_network(model.network.eval(), spec=spec, sha256=sha256, fit=fit)


def write_model(
    folder: Path,
    network: nn.Module,
    spec_name: str,
    spec: Mapping[str, object],
    scores: Mapping[str, float] | None,
) -> None:
    """Write weights, scores and, last, the spec (as ``spec_name``) with the checksum of the weights.

    CheckpointError where the weights hold values that are not finite; what is in the folder is left as it
    was.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    _check_finite(weights, folder / WEIGHTS)
    try:
        with atomic_write(folder / WEIGHTS) as part:
            save_file(weights, part)
            part.chmod(0o644)  # safetensors lets its owner alone read it
        _write_json(folder / SCORES, dict(scores or {}))
        _write_json(folder / spec_name, {**spec, "weights_sha256": file_sha256(folder / WEIGHTS)})
    except SafetensorError as error:  # it tells of a full disk in its own way
        raise WriteError(
            f"Cannot write the model to {folder}: {error}. Choose a folder you may write to."
        ) from error


def load_weights(folder: Path, network: nn.Module, title: str) -> None:
    """Put the weights in ``folder`` into a network, which errors call ``title``.

    CheckpointError where they are missing or damaged, hold values that are not finite, or belong to another
    network.
    """
    path = folder / WEIGHTS
    what, advice = f"safetensors weights in {path}", "Copy the model folder again."
    with expecting(CheckpointError, what, advice, SafetensorError, OSError, ValueError):
        weights = load(path.read_bytes())  # a file that is mapped could not be replaced on Windows
    _check_finite(weights, path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split()[:12])  # it goes on with hundreds of tensors
        raise CheckpointError(
            f"The weights in {path} do not fit {title}: {reason} ... Choose weights of the same "
            "family and preset."
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verified_checksum(folder: Path, expected: str) -> str:
    """Return the checksum of the weights in ``folder``, which is the expected one unless that is empty.

    CheckpointError where the weights are missing or others than expected.
    """
    path = folder / WEIGHTS
    with expecting(CheckpointError, f"weights at {path}", "Choose a complete model folder.", OSError):
        found = file_sha256(path)
    if expected and found != expected:
        raise CheckpointError(
            f"The checksum of {path} should be {expected[:12]}…; got {found[:12]}…. Copy the model "
            "folder again."
        )
    return found


def _check_finite(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    floating = {name: value for name, value in weights.items() if value.is_floating_point()}
    total = sum(float(value.sum(dtype=torch.float64)) for value in floating.values())
    if isfinite(total):  # NaN and infinity survive a sum
        return
    broken = [name for name, value in floating.items() if not value.isfinite().all()]
    raise CheckpointError(
        f"The weights in {path} hold NaN or infinity in {broken[0]!r}. Train the model again, with a lower "
        "learning rate."
    )


def _write_json(path: Path, values: Mapping[str, object]) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")
