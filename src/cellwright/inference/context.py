"""What counting one image needs, brought together once and let go of at the end; all families share it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellwright.core.data import Image
from cellwright.core.errors import OutOfMemoryError
from cellwright.inference.device import is_out_of_memory
from cellwright.inference.predictor import Engine
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.axes import Frames
from cellwright.ops.geometry.intensity import Scaling, fit

ModelChoice = str | Path | CellModel
ModelChoices = ModelChoice | tuple[ModelChoice, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """All that counting one image needs."""

    frames: Frames
    scaling: Scaling
    engine: Engine
    thresholds: Any
    settings: EngineSettings


@contextmanager
def open_job(
    image: Image, models: tuple[CellModel, ...], thresholds: Any, settings: EngineSettings
) -> Iterator[Job]:
    """Give the job of counting an image; lets go of the networks at the end, however that comes.

    Parameters
    ----------
    thresholds
        Settings of the models' family; its defaults when None.

    Raises
    ------
    CellwrightError
        The image, a model or a setting does not fit, or memory ran out; says what to do.
    """
    parts = models[0].frames(image, settings.channel)
    spec = models[0].spec
    if thresholds is None:
        thresholds = registry.get(spec.family).settings()
    scaling = fit(parts.sample(), spec.percentiles)
    try:
        with closing(Engine(models, settings)) as engine:
            yield Job(parts, scaling, engine, thresholds, settings)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"The model and the maps of an image of shape {image.shape} must fit into memory; they do not. "
            "Count a part of it, or close other programs."
        ) from error


def load_models(model: ModelChoices) -> tuple[CellModel, ...]:
    """Return the models of these names, folders or models."""
    choices = _as_tuple(model)
    return tuple(store.load(one) if isinstance(one, str | Path) else one for one in choices)


def names_of(model: ModelChoices) -> list[str]:
    """Return what to call each of these models."""
    return [_name(choice) for choice in _as_tuple(model)]


def _as_tuple(model: ModelChoices) -> tuple[ModelChoice, ...]:
    return model if isinstance(model, tuple) else (model,)


def _name(choice: ModelChoice) -> str:
    if isinstance(choice, str | Path):
        return Path(choice).name
    return f"{choice.spec.family}-{choice.spec.preset}"
