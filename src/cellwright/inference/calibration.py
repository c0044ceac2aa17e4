"""The count of a density, corrected by a calibration or compared with a count of single cells."""

from dataclasses import asdict, replace

import numpy as np
from numpy.typing import ArrayLike

from cellwright.core.data import Result
from cellwright.ops.codecs.density import DensitySettings
from cellwright.ops.measure.prediction_interval import calibrate, count_interval


def with_calibration(result: Result, settings: DensitySettings) -> Result:
    """Return the result under another calibration; the network does not run."""
    given = result.provenance.settings
    before = DensitySettings(**given["density"])
    density = result.maps["density"] * np.float32(settings.calibration / before.calibration)
    return replace(
        result,
        count=float(density.sum(dtype=np.float64)),
        maps={"density": density},
        interval=count_interval(density, settings, given["count_error"]),
        provenance=replace(result.provenance, settings={**given, "density": asdict(settings)}),
        notices=tuple(notice for notice in result.notices if not notice.startswith("Corrected by ")),
    )


def recalibrated(result: Result, boxes: ArrayLike, counts: ArrayLike) -> Result:
    """Return the result corrected by what was counted by hand in some boxes, whatever corrected it before.

    What its provenance then says of the calibration serves other images too.

    ``boxes`` (N, 2, D) are first and one-past-last corners in pixels of ``result.maps["density"]``, for each
    of its axes; ``counts`` (N,) the cells counted in each.

    Raises
    ------
    AnnotationError
        The boxes or the counts do not fit; says what to do.
    SettingsError
        The counts are more than a hundred times, or less than a hundredth of what the model finds.
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


def disagreement(
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
    relation, cause = "more", "cells perhaps fell to pieces, or are of a kind the density does not know"
    if cell_count < low:
        relation, cause = "fewer", "cells that touch were perhaps taken for one"
    advice = "Calibrate it by a few boxes"
    if not has_density:
        advice = "Count with the density model again and calibrate it by a few boxes"
    return (
        f"Cell by cell there are {cell_count:.0f}, {relation} than the density's {density_count:.0f} "
        f"({low:.0f} to {high:.0f}): {cause}. {advice} to see which is right."
    )
