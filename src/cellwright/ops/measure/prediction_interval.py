"""How far the count of a density may be off, its correction by boxes counted by hand, and by single cells."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, hypot, log1p, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from cellwright.core.data import Result
from cellwright.core.errors import AnnotationError
from cellwright.core.words import n_of
from cellwright.ops.codecs.density import DensitySettings
from cellwright.ops.geometry.tiles import window_between

COVERAGE = 0.9  # share of images whose interval holds the true count
POWERS = (0.5, 0.75, 1.0)  # of the count, that its error may grow with
Z_COVERAGE = 1.645  # standard errors on either side that hold this share
DOUBTED_BELOW = 0.7  # what is expected of a count below which users are warned of it
LEAST_SHARE = 0.1  # of the truth that a count is taken to be
CROWDED = 0.35  # share of the pixels that cells cover from which on many may be hidden
MOST_COVERED = 0.95  # likewise that tells how many
CROWD = "Cells cover "  # begins what is told of that
PRIOR_BOXES = 2  # boxes' worth of belief that cells in a box scatter as in a Poisson process


class CrowdNotice(str):
    """Sentences for the user on cells that may be hidden; known by their class, not by their words."""

    __slots__ = ()


class CalibrationNotice(str):
    """Likewise on what corrected a count."""

    __slots__ = ()


def fit_interval(counts: ArrayLike, truths: ArrayLike) -> tuple[float, float, float]:
    """Return how far counts are off, (below, above, power) for :func:`interval_of`.

    They come from the cells counted and true, (N,), of images that the model has not learned from.

    Split conformal prediction: of the errors ``truth - count``, divided by a power of ``1 + count``, the
    quantiles of both tails are taken a rank further out than they lie, so that a new image of the same kind
    is inside with at least this probability. Of the powers the one that gives the narrowest intervals is
    taken. Below 19 images no rank is far enough out, and errors are taken to be normal (Student's t).

    Source: Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018), doi:10.1080/01621459.2017.1307116.

    AnnotationError for no image, or not as many truths as counts.
    """
    found, true = (np.asarray(values, np.float64).reshape(-1) for values in (counts, truths))
    if len(found) != len(true) or len(found) == 0:
        raise AnnotationError(
            f"An error bar needs a count and a truth of each of some images; got {len(found)} counts and "
            f"{len(true)} truths. Give images that were not trained on."
        )
    fits = [_fit_power(found, true, power) for power in POWERS]
    widths = [(fit[0] + fit[1]) * float(np.mean((1 + found) ** fit[2])) for fit in fits]
    return fits[int(np.argmin(widths))]


def _fit_power(
    found: NDArray[np.float64], true: NDArray[np.float64], power: float
) -> tuple[float, float, float]:
    errors = np.sort((true - found) / (1 + found) ** power)
    n, rank = len(errors), ceil((len(errors) + 1) * (1 + COVERAGE) / 2)
    least = 0.0
    if 1 < n < rank:  # the largest error of so few is too small
        least = float(stdtrit(n - 1, (1 + COVERAGE) / 2)) * sqrt(float((errors**2).sum()) / n)
    rank = min(rank, n)
    return max(-float(errors[-rank]), least), max(float(errors[rank - 1]), least), power


def interval_of(
    count: float,
    count_error: Sequence[float],
    settings: DensitySettings = DensitySettings(),  # noqa: B008 - frozen
) -> tuple[float, float]:
    """Return the interval that holds the true count nine times out of ten.

    ``count`` is that before calibration, ``count_error`` what :func:`fit_interval` gave. The calibration in
    ``settings`` multiplies the interval, its error widens it.
    """
    below, above, power = count_error
    factor, scale = settings.calibration, (1 + count) ** power
    doubt = Z_COVERAGE * settings.calibration_error * count
    return (
        factor * max(count - hypot(below * scale, doubt), 0.0),
        factor * (count + hypot(above * scale, doubt)),
    )


def count_interval(
    density: NDArray[np.float32], settings: DensitySettings, count_error: Sequence[float]
) -> tuple[float, float] | None:
    """Return the interval of the sum of a calibrated density (..., Y, X); None when its error is not known.

    The errors of time points are taken to go together.
    """
    if not count_error:
        return None
    counts = density.sum(axis=(-2, -1), dtype=np.float64).reshape(-1) / settings.calibration
    ends = [interval_of(float(count), count_error, settings) for count in counts]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def widened(
    interval: tuple[float, float] | None, count: float, expected: float | None, covered: float
) -> tuple[float, float] | None:
    """Return an interval that holds, too, what is expected of a count that is not to be trusted.

    ``expected`` is how near counts like this one are: the smaller of count and truth over the larger; None
    where nothing tells. Where cells are crowded, it holds those that may be hidden; ``covered`` is the share
    of the pixels that they cover.
    """
    if interval is None:
        return None
    low, high = interval
    if expected is not None and expected < DOUBTED_BELOW:
        share = max(expected, LEAST_SHARE)
        low, high = min(low, share * count), max(high, count / share)
    if covered >= CROWDED:
        high = overlapping(high, covered)
    return low, high


def overlapping(count: float, covered: float) -> float:
    """Return how many cells there are where ``count`` were seen that lie over each other at random.

    Cells of an area a cover the share 1 - exp(-n a) of a unit area; as many side by side n a.

    Source: Armitage, Biometrika 36, 257 (1949), doi:10.1093/biomet/36.3-4.257.
    """
    share = min(covered, MOST_COVERED)
    return -count * log1p(-share) / share


def crowd_notice(count: float, covered: float, worst: tuple[int, float] | None = None) -> CrowdNotice:
    """Return sentences for the user where cells are so crowded that many may be hidden, else empty ones.

    Of several frames they tell the ``worst``, its number and its share, though all together are not crowded.
    """
    crowded = []
    if covered >= CROWDED:
        crowded.append(f"{covered:.0%} of the image")
    if worst is not None and (crowded or worst[1] >= CROWDED):
        crowded.append(f"{worst[1]:.0%} of frame {worst[0]}, the most crowded one")
    if not crowded:
        return CrowdNotice()
    hidden = ", where many may be hidden"
    if covered >= CROWDED:
        hidden = f": if they lie over each other, there may be {overlapping(count, covered):,.0f}"
    return CrowdNotice(f"{CROWD}{', and '.join(crowded)}{hidden}. Calibrate with a few boxes to find out.")


@dataclass(frozen=True, slots=True)
class Calibration:
    """What counting some boxes by hand says about the density of an image."""

    factor: float  # true cells for each cell of the density
    standard_error: float  # of the factor
    boxed: float  # cells of the density inside the boxes; what is true there is known
    dispersion: float  # variance of the cells in a box for each of them; 1 in a Poisson process
    n_boxes: int  # boxes that were counted

    def interval(self, total: float) -> tuple[float, float]:
        """Return the interval of the true count in an image whose density holds ``total`` cells.

        Inside the boxes the truth is known; outside the factor may be off, and the cells scatter about it.
        """
        known, rest = self.factor * self.boxed, max(total - self.boxed, 0.0)
        error = sqrt((rest * self.standard_error) ** 2 + self.dispersion * self.factor * rest)
        half = float(stdtrit(self.n_boxes - 1 + PRIOR_BOXES, (1 + COVERAGE) / 2)) * error
        return max(known, known + self.factor * rest - half), known + self.factor * rest + half

    @property
    def remark(self) -> CalibrationNotice:
        """A sentence that says what was corrected, and how well that is known."""
        boxes = n_of(self.n_boxes, "box", "d")
        sentence = (
            f"Corrected by {self.factor:.2f} ± {self.standard_error:.2f}, from {boxes} in which the model "
            f"found {self.boxed:.1f} cells and you {self.factor * self.boxed:.0f}."
        )
        if self.n_boxes == 1:
            sentence += " One box cannot tell how much places differ: count more of them elsewhere."
        return CalibrationNotice(sentence)


def calibrate(density: NDArray[np.float32], boxes: ArrayLike, counts: ArrayLike) -> Calibration:
    """Return by how much a density has to be multiplied for the cells counted by hand in some boxes.

    The ratio estimator: the sum of the counts over that of the density in the boxes. Its standard error comes
    from how the boxes scatter about it, together with as much belief as two boxes are worth that they do so
    as a Poisson process; so it is wide for one box and narrow for many that agree.

    Source: Cochran, Sampling Techniques, 3rd ed. (1977), chapter 6.

    The density (..., Y, X) is in cells per pixel. Boxes (N, 2, D), first and one-past-last corner in pixels
    for each of its axes, may reach over its edge.

    AnnotationError for no boxes, not one count for each, a box outside the image, a count that is negative or
    no number, no cell in any of them, or no density.
    """
    corners, counted = _checked(boxes, counts, density.shape)
    windows = [_window(box, density.shape) for box in corners]
    found = np.array([density[window].sum(dtype=np.float64) for window in windows])
    if counted.sum() == 0 or found.sum() <= 0:
        raise AnnotationError(
            f"Boxes must hold cells, counted and in the density; got {counted.sum():g} counted and "
            f"{found.sum():.2g} in the density of {len(found)} boxes. Draw them where there are cells."
        )
    factor = float(counted.sum() / found.sum())
    scatter = ((counted - factor * found) ** 2 / np.maximum(factor * found, 1.0)).sum()
    dispersion = float((PRIOR_BOXES + scatter) / (PRIOR_BOXES + len(found) - 1))
    inside = np.zeros(density.shape, bool)
    for window in windows:
        inside[window] = True
    return Calibration(
        factor=factor,
        standard_error=sqrt(dispersion * counted.sum()) / float(found.sum()),
        boxed=float(density.sum(dtype=np.float64, where=inside)),
        dispersion=dispersion,
        n_boxes=len(found),
    )


def with_calibration(result: Result, settings: DensitySettings) -> Result:
    """Return the result under another calibration; the network does not run.

    What the model expected of the count stays with that of the model alone.
    """
    given = result.provenance.settings
    before = DensitySettings(**given["density"])
    density = result.maps["density"] * np.float32(settings.calibration / before.calibration)
    count, fit, covered, worst = float(density.sum(dtype=np.float64)), None, 0.0, None
    if settings == DensitySettings():
        fit, covered = given.get("expected_f1"), given.get("covered", 0.0)
        worst = given.get("most_covered")
    kept = [one for one in result.notices if not isinstance(one, CalibrationNotice | CrowdNotice)]
    return replace(
        result,
        count=count,
        maps={"density": density},
        fit=fit,
        interval=widened(count_interval(density, settings, given["count_error"]), count, fit, covered),
        provenance=result.provenance.noting(density=asdict(settings)),
        notices=tuple(filter(None, (*kept, crowd_notice(count, covered, worst)))),
    )


def recalibrated(result: Result, boxes: ArrayLike, counts: ArrayLike) -> Result:
    """Return the result corrected by what was counted by hand in some boxes, whatever corrected it before.

    What its provenance then says of the calibration serves other images too.

    ``boxes`` (N, 2, D) are first and one-past-last corners in pixels of ``result.maps["density"]``, for each
    of its axes; ``counts`` (N,) the cells counted in each.

    AnnotationError where the boxes or the counts do not fit; says what to do. SettingsError where the counts
    are more than a hundred times, or less than a hundredth of what the model finds.
    """
    plain = with_calibration(result, DensitySettings())
    calibration = calibrate(plain.maps["density"], boxes, counts)
    settings = DensitySettings(calibration.factor, calibration.standard_error / calibration.factor)
    corrected = with_calibration(plain, settings)
    return replace(
        corrected,
        interval=calibration.interval(plain.count),
        notices=(*corrected.notices, calibration.remark),
    )


def disagreement_notice(
    cell_count: float, density_count: float, interval: tuple[float, float], *, has_density: bool = True
) -> str:
    """Return a sentence for the user where a count of single cells lies outside the interval of a density.

    Empty where it lies inside.

    All three are of the same pixels; ``has_density`` tells whether the density is what is shown, so that it
    can be calibrated at once.
    """
    low, high = interval
    if low <= cell_count <= high:
        return ""
    relation, cause = "more", "cells may have been split, or are of a kind the density does not know"
    if cell_count < low:
        relation, cause = "fewer", "touching cells may have been counted as one"
    advice = "Calibrate it with a few boxes"
    if not has_density:
        advice = "Count with the density model again and calibrate it with a few boxes"
    return (
        f"Cell by cell there are {cell_count:.0f}, {relation} than the density's {density_count:.0f} "
        f"({low:.0f} to {high:.0f}): {cause}. {advice} to see which is right."
    )


def _checked(
    boxes: ArrayLike, counts: ArrayLike, shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    corners, counted = np.asarray(boxes, np.float64), np.asarray(counts, np.float64).reshape(-1)
    wanted = (len(counted), 2, len(shape))
    if corners.shape != wanted or len(counted) == 0:
        raise AnnotationError(
            f"Calibration needs some boxes of shape (N, 2, {len(shape)}) and a count for each; got boxes of "
            f"shape {corners.shape} and {len(counted)} counts. Draw boxes and count the cells in each."
        )
    if not (np.isfinite(counted).all() and (counted >= 0).all()):
        raise AnnotationError(
            f"Counts must be 0 or more; got {counted.tolist()}. Count the cells of each box again."
        )
    outside = ~np.isfinite(corners).all(axis=(1, 2))
    outside |= ((corners[:, 0] >= shape) | (corners[:, 1] < 0) | (corners[:, 1] < corners[:, 0])).any(axis=1)
    if outside.any():
        number = int(np.flatnonzero(outside)[0])
        raise AnnotationError(
            f"Boxes must lie in the image of shape {shape}; box {number + 1} of {len(counted)} goes from "
            f"{corners[number, 0].tolist()} to {corners[number, 1].tolist()}. Draw it inside."
        )
    return corners, counted


def _window(box: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the pixels of a box, at least one along each axis."""
    starts = np.clip(np.rint(box[0]), 0, np.array(shape) - 1).astype(int)
    stops = np.clip(np.rint(box[1]), starts + 1, shape).astype(int)
    return window_between(starts, stops)
