"""One count, asked for by widget or menu: what is wanted, the task that does it, what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.layers import Layer

from cellwright.inference.settings import EngineSettings
from cellwright.ops.labels import equivalent_diameters
from cellwright.tasks import Progress, Task
from cellwright.types import Result
from cellwright.widgets.layers import Source, prepare

STAGES = {"load": "Loading the model", "tiles": "Looking at the image", "layers": "Making layers"}


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be counted, and how. Made by the widget and the menu command; used by :func:`count_task`."""

    source: Source
    model: str | Path
    settings: Any = None
    engine: EngineSettings = EngineSettings()  # noqa: RUF009 - frozen
    outputs: tuple[str, ...] = ("Labels",)


@dataclass(frozen=True, slots=True)
class Counted:
    """The result of a request and the layers that show it, not yet in a viewer."""

    request: Request
    result: Result
    layers: Mapping[str, Layer]


def count_task(request: Request) -> Task[Counted]:
    """Return the cells of a request with their layers; imports torch in the thread that runs it."""
    yield Progress("load", 0, 1)
    from cellwright.inference.count import count_cells

    image = request.source.image
    result = yield from count_cells(image, request.model, request.settings, request.engine)
    return (yield from _with_layers(request, replace(result, offset=request.source.offset)))


def recount_task(counted: Counted, settings: Any, outputs: tuple[str, ...]) -> Task[Counted]:
    """Return the cells under other thresholds, from the maps of an earlier count, with these layers."""
    yield Progress("retune", 0, 1)
    request, result = counted.request, counted.result
    if settings != request.settings:
        from cellwright.inference.count import recount

        result = recount(result, request.model, settings)
    return (yield from _with_layers(replace(request, settings=settings, outputs=outputs), result))


def result_line(result: Result) -> str:
    """Return the count, the model and the seconds in one line.

    Examples
    --------
    ``412 cells · flow · 1.8 s``
    """
    return f"{n_cells(result)} · {result.provenance.model} · {result.provenance.seconds:.1f} s"


def progress_line(progress: Progress, seconds_left: float | None) -> str:
    """Return what a job is doing and how long it still takes.

    Examples
    --------
    ``Tiles: 12 of 40 · 3 s left``
    """
    if progress.note:
        return progress.note.capitalize()
    if progress.total <= 1:
        return STAGES.get(progress.stage, progress.stage.capitalize())
    line = f"{progress.stage.capitalize()}: {progress.done} of {progress.total}"
    if seconds_left is None:
        return line
    left = f"{seconds_left:.0f} s" if seconds_left < 100 else f"{seconds_left / 60:.0f} min"
    return f"{line} · {left} left"


def n_cells(result: Result) -> str:
    """Return the count with its noun: ``1 cell``, ``2,041 cells``."""
    return f"{result.count:,.0f} cell{'' if result.count == 1 else 's'}"


def size_line(result: Result) -> str:
    """Return the median diameter of the cells in pixels and, where known, micrometres, or nothing."""
    if not len(result.cells):
        return ""
    diameter = float(np.median(equivalent_diameters(result.cells.areas)))
    pixel_um = result.provenance.pixel_size_um[-2:]
    physical = f" · {diameter * float(np.sqrt(np.prod(pixel_um))):.1f} µm" if pixel_um else ""
    return f"median diameter {diameter:.1f} px{physical}"


def _with_layers(request: Request, result: Result) -> Task[Counted]:
    yield Progress("layers", 0, 1)
    return Counted(request, result, prepare(result, request.source, request.outputs))
