"""How far the perimeters of ellipses of known size lie from the truth, and how far they could be off at best.

    python -m benchmarks.accuracy.outlines --ellipses 900

Ellipses of any direction and place are drawn, 8 to 120 pixels in diameter and 1 to 4 times as long as wide.
The last column is what no definition can be better than: the same pixels are those of ellipses of several
perimeters, and it tells half of their range, as far as a random search finds it for some of them.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipe
from skimage.measure import perimeter, perimeter_crofton

from cellwright.ops.measure.features import boundary_sizes

WIDTHS = (4, 8, 12, 14, 20, 120)  # of the groups of ellipses, in pixels
N_SEARCHED, N_TRIED = 20, 2000
DEFINITIONS: dict[str, Callable[[NDArray[np.bool_]], float]] = {
    "Cellwright": lambda mask: float(boundary_sizes(mask.astype(np.int32), 1, (1.0, 1.0))[0]),
    "perimeter_crofton": lambda mask: float(perimeter_crofton(mask, 4)),
    "skimage.measure.perimeter": lambda mask: float(perimeter(mask, 4)),
}


class Ellipse(NamedTuple):
    """Half axes in pixels, longest first; angle in radians; centre."""

    long: float
    short: float
    angle: float
    y: float
    x: float

    @property
    def perimeter(self) -> float:
        """Its length."""
        return float(4 * self.long * ellipe(1 - (self.short / self.long) ** 2))

    def mask(self, side: int) -> NDArray[np.bool_]:
        """Return the pixels whose middle lies inside."""
        rows, columns = np.mgrid[:side, :side]
        rows, columns = rows - self.y, columns - self.x
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        along, across = columns * cos + rows * sin, rows * cos - columns * sin
        inside: NDArray[np.bool_] = (along / self.long) ** 2 + (across / self.short) ** 2 <= 1
        return inside


def draw(rng: np.random.Generator) -> tuple[Ellipse, int]:
    """Return an ellipse at random, at least 4 pixels wide, and the side of an image that it fits in."""
    diameter = np.exp(rng.uniform(np.log(8), np.log(120)))
    short = diameter / 2 / np.sqrt(rng.uniform(1, min(4, (diameter / 4) ** 2)))
    long = diameter**2 / 4 / short
    side = int(2 * long) + 8
    y, x = side / 2 + rng.uniform(-0.5, 0.5, 2)
    return Ellipse(long, short, rng.uniform(0, np.pi), y, x), side


def half_range(ellipse: Ellipse, side: int, rng: np.random.Generator) -> float:
    """Return half the range of the perimeters of ellipses with the same pixels, in units of their mean."""
    mask, ends = ellipse.mask(side), {-1: ellipse, 1: ellipse}
    for _ in range(N_TRIED):
        step = 10 ** rng.uniform(-2.5, -0.3) * rng.normal(size=5) * (1, 1, 2 / ellipse.long, 1, 1)
        for sign, end in ends.items():
            tried = Ellipse(*(np.array(end) + step))
            is_farther = 0.5 < tried.short <= tried.long and sign * (tried.perimeter - end.perimeter) > 0
            if is_farther and np.array_equal(tried.mask(side), mask):
                ends[sign] = tried
    least, most = ends[-1].perimeter, ends[1].perimeter
    return (most - least) / (most + least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ellipses", type=int, default=900)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    drawn = [draw(rng) for _ in range(arguments.ellipses)]
    print("| width | ellipses |", " | ".join(DEFINITIONS), "| none below |\n|---|---|---|---|---|---|")
    for low, high in pairwise(WIDTHS):
        group = [(one, side) for one, side in drawn if low <= 2 * one.short < high]
        cells = []
        for length in DEFINITIONS.values():
            errors = np.array([abs(length(one.mask(side)) / one.perimeter - 1) for one, side in group])
            cells.append(f"{100 * np.median(errors):.1f}, worst {100 * errors.max():.1f} %")
        least = max(half_range(*one, rng) for one in group[:N_SEARCHED])
        print(
            f"| {low} to {high} px | {len(group)} |",
            " | ".join(cells),
            f"| {100 * least:.1f} % |",
            flush=True,
        )


if __name__ == "__main__":
    main()
