"""Fine-tuning from counts alone: a number for each image in, a model that counts alike images better out.

A few numbers cannot teach a network, but they tell by how much it miscounts one kind of images: the model
learns one factor, and how far its counts are off with it. Each image is judged by the factor that the others
give, and the factor is kept only if that makes the counts better.

Source of the factor, a ratio estimator: Cochran, Sampling Techniques, 3rd ed. (1977), chapter 6.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import CheckpointError, ReadError
from cellwright.core.tasks import Progress, Task
from cellwright.files.atomic import check_writable
from cellwright.files.images import read_image
from cellwright.files.json_value import read_table
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry
from cellwright.models.checkpoint import save_checkpoint
from cellwright.models.protocol import CellModel
from cellwright.models.spec import LEARNED_FACTOR
from cellwright.ops.measure.prediction_interval import fit_interval
from cellwright.training.finetune.finetune import Outcome, start_model, tuned_title
from cellwright.training.state import write_card

FEWEST = 3  # images: with less, judging by the others says nothing

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class CountedImage:
    """An image of which a person counted the cells."""

    path: Path
    count: float


def read_counts(path: Path) -> tuple[CountedImage, ...]:
    """Return the images and counts in a CSV file with the columns ``image`` and ``count``.

    Image paths are relative to the file.

    ReadError where a column or an image is missing, a count is not a number from 0 on, or there are too few.
    """
    images = []
    for number, row in enumerate(read_table(path)[1], 2):
        name, text = row.value.get("image"), row.value.get("count")
        if not name or text is None:
            raise ReadError(f"Expected the columns image and count in {path}; line {number} lacks one.")
        try:
            count = float(text)
        except ValueError:
            count = -1.0
        if not 0 <= count < np.inf:
            raise ReadError(f"A count must be a number from 0 on; line {number} of {path} has {text!r}.")
        image = path.parent / name
        if not image.exists():
            raise ReadError(f"Expected an image at {image}, as line {number} of {path} says; there is none.")
        images.append(CountedImage(image, count))
    if len(images) < FEWEST or not any(image.count for image in images):
        raise ReadError(
            f"Learning from counts needs at least {FEWEST} images, not all without cells; got {len(images)} "
            f"in {path}. Count more images."
        )
    _check_once(images, path)
    return tuple(images)


def _check_once(images: Sequence[CountedImage], path: Path) -> None:
    """Raise where the table tells an image twice, which would then be judged by itself."""
    known: dict[Path | str, CountedImage] = {}
    for image in images:
        content: Path | str = image.path.resolve()
        if image.path.is_file():  # a copy under another name is the same image
            content = hashlib.sha256(image.path.read_bytes()).hexdigest()
        other = known.setdefault(content, image)
        if other is not image:
            raise ReadError(
                f"An image must be listed once; {other.path.name} is listed with {other.count:g} and, as "
                f"{image.path.name}, with {image.count:g} in {path}. Keep the right one, or their mean."
            )


def finetune_counts(
    images: Sequence[CountedImage], start: str | Path, output: Path, *, device: str = "auto"
) -> Task[Outcome]:
    """Teach a density model by how much it miscounts images like these, and keep it in ``output`` if better.

    CheckpointError where there is no such model, it gives no density, or it lies in ``output``.
    """
    model = start_model(start, output)
    if registry.get(model.spec.family).gives != "density":
        raise CheckpointError(
            f"Counts alone teach a model that gives a density; {start} is of the family {model.spec.family}. "
            "Choose density, or annotate cells."
        )
    check_writable(output)
    found: list[float] = []
    for done, image in enumerate(images):
        yield Progress("count", done, len(images), image.path.name)
        result = yield from count_cells(read_image(image.path), (model,), None, EngineSettings(device=device))
        found.append(float(result.count))
    return _learn(model, np.array(found), np.array([image.count for image in images]), output)


def _learn(model: CellModel, found: Counts, true: Counts, output: Path) -> Outcome:
    """Write the model with the factor that these counts tell, or as it was where that is no better."""
    factors = np.ones_like(found)  # true cells for each that was found, in all the other images
    others = found.sum() - found
    np.divide(true.sum() - true, others, out=factors, where=others > 0)
    corrected = found * factors
    before, after = _scores(found, true), _scores(corrected, true)
    is_better = after["score"] > before["score"]
    spec = replace(model.spec, weights_sha256="")
    notices = ("The factor from the other images counted no better; the model is the one it began with.",)
    if is_better:
        factor = float(true.sum() / found.sum())
        options = {**spec.options, LEARNED_FACTOR: spec.options.get(LEARNED_FACTOR, 1.0) * factor}
        error = fit_interval(corrected, true)
        spec = replace(spec, title=tuned_title(spec), options=options, count_error=error)
        notices = (
            f"Counts are multiplied by {factor:.2f}, as {len(true)} images tell. That holds for images like "
            "these alone.",
        )
    save_checkpoint(output, model.with_network(model.network, spec=spec), after if is_better else before)
    write_card(output, spec.title, notices, {"before": before, "after": after})
    return Outcome(output, before, after, is_better, notices)


def _scores(found: Counts, true: Counts) -> dict[str, float]:
    """Return the mean error in cells and as a share of the mean count, and 1 less that share."""
    error = float(np.abs(found - true).mean())
    share = error / float(true.mean())
    return {"score": max(1 - share, 0.0), "count_mae": error, "count_mape": share}
