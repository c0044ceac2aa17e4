"""Classes for the cells of any family: a crop around each cell, a classifier, a name and how likely it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cellwright.core.data import Cells, Image, Result
from cellwright.core.errors import AxesError, OutOfMemoryError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.inference.device import autocast, choose_device, choose_dtype, free_cache, is_out_of_memory
from cellwright.inference.settings import EngineSettings
from cellwright.models.classifier import Classifier
from cellwright.models.store import load_classifier
from cellwright.ops.crops import crops, extents_of, relative_sizes, typical_extent, window_of, with_channels
from cellwright.ops.geometry import intensity
from cellwright.ops.geometry.axes import Frames, frames

BATCH_SIZE = 128
BLOCK_PX = 1024  # cells whose centres lie in one such square are cut from one window of the frame

ClassifierChoice = str | Path | Classifier


class CropScale(NamedTuple):
    """What crops around cells have in common in a whole image."""

    scaling: intensity.Scaling  # of its intensities
    typical_px: float  # the typical extent of its cells
    channels: tuple[intensity.Scaling, ...] = ()  # the scaling of each, where several are combined


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of some cells."""

    names: tuple[str, ...]  # of the classes
    probabilities: NDArray[np.float32]  # float32 (N, classes): rows add up to 1
    notice: str = ""  # a sentence for the user

    @property
    def numbers(self) -> NDArray[np.int16]:
        """Index into ``names`` of the likeliest class of each cell, int16 (N,)."""
        return self.probabilities.argmax(axis=1).astype(np.int16)

    @property
    def counts(self) -> dict[str, int]:
        """Cells of each class, classes without cells among them."""
        n_of = np.bincount(self.numbers, minlength=len(self.names))
        return dict(zip(self.names, map(int, n_of), strict=True))


def classify(
    result: Result,
    image: Image,
    classifier: ClassifierChoice = "blood",
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> Task[Result]:
    """Return a result whose cells have classes; everything else in it stays.

    The names stand in ``provenance.settings["classes"]``, what classified in
    ``provenance.settings["classifier"]``.

    AxesError where the cells are not those of such an image. CheckpointError where there is no such
    classifier, or it is damaged. OutOfMemoryError where not even one crop fits into memory. SettingsError
    where a density was counted.

    ``image`` is what was counted in: the points of the result are in its pixels. Of ``engine`` hold device,
    number type, batch size and channel.
    """
    if result.gives == "density":
        raise SettingsError("Classes are of single cells; a density has none. Choose another model.")
    chosen = _loaded(classifier)
    classes = yield from predict_classes(result.cells, image, chosen, engine)
    return replace(
        result,
        cells=replace(result.cells, classes=classes.numbers),
        notices=tuple(filter(None, (*result.notices, classes.notice))),
        provenance=result.provenance.noting(**classifier_facts(classifier)),
    )


def classifier_facts(classifier: ClassifierChoice) -> dict[str, Any]:
    """Return what the settings of a provenance tell of a classifier: its classes, and what it is."""
    chosen = _loaded(classifier)
    facts = {"name": f"classifier-{chosen.spec.preset}", "sha256": chosen.sha256}
    if not isinstance(classifier, Classifier):
        facts |= {"name": Path(classifier).name, "reference": str(classifier)}
    return {"classes": list(chosen.spec.classes), "classifier": facts}


def _loaded(classifier: ClassifierChoice) -> Classifier:
    if isinstance(classifier, Classifier):
        return classifier
    return load_classifier(classifier)


def predict_classes(
    cells: Cells,
    image: Image,
    classifier: ClassifierChoice = "blood",
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
    scale: CropScale | None = None,
) -> Task[Classes]:
    """Return how likely each cell is to be of each class.

    Cells may come with boxes and areas or, where these are 0, as bare points: then they are taken to be of
    the stated diameter, or of that of the cells the classifier learned from. A cell of a volume is looked at
    in the slice of its centre. An image that is a part of another has the ``scale`` of the whole.

    Parameters and errors are those of :func:`classify`.
    """
    yield Progress("classes", 0, len(cells))
    chosen = _loaded(classifier)
    spec = chosen.spec
    seen = engine.seen(image, scale.channels if scale else ())
    parts = frames(seen.image, seen.channel)
    where = _frame_of(cells.points, parts, image)
    diameter_px = engine.in_pixels(image.known_sizes_um).diameter_px
    extents = extents_of(cells.boxes, cells.areas, diameter_px or spec.diameter_px)
    if scale is None:
        scale = CropScale(intensity.fit_scaling(parts.sample(), spec.percentiles), typical_extent(extents))
    typical = scale.typical_px
    sides, sizes = spec.sides(extents, typical), relative_sizes(extents, typical)
    probabilities = np.zeros((len(cells), len(spec.classes)), np.float32)
    if len(cells) == 0:
        return Classes(spec.classes, probabilities)
    points = cells.points[:, -2:]
    runner = _Runner(chosen, engine)
    done = 0
    try:
        for frame, rows in _together(where, points, runner.batch_size):
            window = window_of(points[rows], sides[rows], parts.shape)
            corner = np.array([part.start for part in window], np.float32)
            pixels = intensity.apply(scale.scaling, parts.read(frame, window))
            cut = crops(pixels, points[rows] - corner, sides[rows], spec.crop_px, padding=spec.padding)
            probabilities[rows] = runner.probabilities(with_channels(cut, spec.in_channels), sizes[rows])
            done += len(rows)
            yield Progress("classes", done, len(cells))
    finally:
        runner.close()
    return Classes(spec.classes, probabilities, runner.notice)


class _Runner:
    """The network on its device; takes fewer crops at once where memory runs out, then goes to the CPU."""

    def __init__(self, classifier: Classifier, settings: EngineSettings) -> None:
        self.batch_size = settings.batch_size or BATCH_SIZE
        self._device = choose_device(settings.device)
        self._dtype = choose_dtype(self._device, settings.precision)
        self._network = classifier.inference_network().to(self._device)
        self.notice = ""

    def probabilities(self, cut: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Crops (N, C, S, S) and relative sizes (N,) -> (N, classes)."""
        found = []
        start = 0
        while start < len(cut):
            rows = slice(start, start + self.batch_size)
            part = self._attempt(cut[rows], sizes[rows])
            if part is None:
                self._step_down()
                continue
            found.append(part)
            start += len(part)
        return np.concatenate(found)

    def close(self) -> None:
        """Let go of the memory of the device."""
        self._network.cpu()
        free_cache(self._device)

    def _attempt(self, cut: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Return the probabilities of crops taken at once, or None when memory ran out."""
        try:
            return self._forward(cut, sizes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        free_cache(self._device)  # outside except: the error's traceback holds on to the tensors
        return None

    def _forward(self, cut: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), autocast(self._device, self._dtype):
            inputs = torch.from_numpy(cut).to(self._device, memory_format=torch.channels_last)
            logits = self._network(inputs, torch.from_numpy(sizes).to(self._device))
        return logits.float().softmax(dim=1).cpu().numpy()

    def _step_down(self) -> None:
        if self.batch_size > 1:
            self.batch_size //= 2
        elif self._device.type != "cpu":
            self.notice = (
                f"The classifier does not fit into the memory of {self._device}; went on with the CPU."
            )
            self._device = torch.device("cpu")
            self._dtype = choose_dtype(self._device)
            self._network = self._network.cpu()
        else:
            raise OutOfMemoryError(
                "The crop of one cell must fit into memory; it does not. Close other programs."
            )


def _frame_of(points: NDArray[np.float32], parts: Frames, image: Image) -> NDArray[np.int64]:
    """Return the number of the frame in which each point lies: that nearest to it."""
    n_lead = points.shape[1] - 2
    spare = parts.lead_shape[: len(parts.lead_shape) - n_lead]  # axes of one frame that the points leave out
    lead_shape = parts.lead_shape[len(spare) :]
    places = np.rint(points[:, :n_lead]).astype(np.int64)
    is_inside = n_lead == len(lead_shape) and bool(
        np.all((places >= 0) & (places < np.array(lead_shape, np.int64)))
    )
    if n_lead < 0 or any(n != 1 for n in spare) or not is_inside:
        raise AxesError(
            f"Cells must be those of the image to classify them in; got points with {points.shape[1]} axes "
            f"for axes {image.axes!r} and shape {image.shape}. Give the image they were counted in."
        )
    if n_lead == 0:
        return np.zeros(len(points), np.int64)
    return np.ravel_multi_index(tuple(places.T), lead_shape).astype(np.int64)


def _together(
    where: NDArray[np.int64], points: NDArray[np.float32], most: int
) -> Iterator[tuple[int, Sequence[int] | NDArray[np.intp]]]:
    """Yield frames and the rows of cells in them that lie near each other, at most so many at once."""
    blocks = np.floor(points / BLOCK_PX)
    order = np.lexsort((blocks[:, 1], blocks[:, 0], where))
    keys = np.column_stack([where, blocks])[order]
    ends = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    for group in np.split(order, ends):
        for start in range(0, len(group), most):
            rows = group[start : start + most]
            yield int(where[rows[0]]), rows
