"""How a result was found, written down."""

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cellwright.core.data import Image, Provenance
from cellwright.inference.predictor import Engine


def provenance_of(
    image: Image, engine: Engine, *, names: Sequence[str], thresholds: Any, zoom: float, seconds: float
) -> Provenance:
    """Return everything needed to repeat a count: versions, checksums, settings and what was really used.

    ``names`` are those of the models, ``thresholds`` the settings of their family, ``zoom`` is in model
    pixels per image pixel.
    """
    return Provenance(
        package_version=_package_version(),
        model=" + ".join(names),
        checkpoint_sha256=" + ".join(model.sha256 for model in engine.models),
        settings={
            engine.spec.family: asdict(thresholds),
            "engine": asdict(engine.settings),
            "zoom": zoom,
            "number_type": str(engine.dtype).removeprefix("torch."),
        },
        image_name=image.name,
        image_shape=image.shape,
        axes=image.axes,
        pixel_size_um=image.pixel_size_um,
        device=str(engine.device),
        seconds=seconds,
    )


def _package_version() -> str:
    try:
        return version("napari-cellwright")
    except PackageNotFoundError:
        return "unknown"  # run from a source folder that is not installed
