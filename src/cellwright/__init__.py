"""Count and outline cells in microscopy images: in napari, on the command line and from Python."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellwright.core.data import Image, Result
    from cellwright.files.convert import convert
    from cellwright.inference.pipeline import count
    from cellwright.inference.settings import EngineSettings
    from cellwright.ops.codecs.flow import FlowSettings
    from cellwright.ops.measure.analysis import Analysis, AnalysisInputs, analyse
    from cellwright.ops.measure.measurement import measure
    from cellwright.ops.measure.settings import AnalysisSettings

__all__ = [
    "Analysis",
    "AnalysisInputs",
    "AnalysisSettings",
    "EngineSettings",
    "FlowSettings",
    "Image",
    "Result",
    "analyse",
    "convert",
    "count",
    "measure",
]

_HOMES = {
    "Analysis": "cellwright.ops.measure.analysis",
    "AnalysisInputs": "cellwright.ops.measure.analysis",
    "AnalysisSettings": "cellwright.ops.measure.settings",
    "EngineSettings": "cellwright.inference.settings",
    "FlowSettings": "cellwright.ops.codecs.flow",
    "Image": "cellwright.core.data",
    "Result": "cellwright.core.data",
    "analyse": "cellwright.ops.measure.analysis",
    "convert": "cellwright.files.convert",
    "count": "cellwright.inference.pipeline",
    "measure": "cellwright.ops.measure.measurement",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: plugin discovery must not wait for torch."""
    if name == "__version__":
        return import_module("importlib.metadata").version("napari-cellwright")
    if name not in _HOMES:
        raise AttributeError(f"module 'cellwright' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
