"""Which cell to look at next: the likeliest mistakes first.

The chance that a cell is wrong is judged from what is cheap to know of it: the model's score, its size beside
that of the others, how far its outline is from convex, how much of it touches other cells, whether the edge
of the image cuts it. A queue follows the session: what was edited is judged again.

A model may look once more, at the mirrored image: cells that it does not find there are likelier wrong.
Networks are not exactly symmetric, and where the image tells little, chance decides.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from cellwright.annotation.history import Edited
from cellwright.annotation.session import AnnotationSession
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.inference.settings import EngineSettings
from cellwright.ops.geometry.tiles import padded
from cellwright.ops.label_changes import Mask
from cellwright.ops.matching import overlaps

if TYPE_CHECKING:
    from cellwright.inference.context import ModelChoices

# What each sign of a mistake adds to the log odds that a cell is wrong: a logistic regression over the
# results of ``flow`` on training images of the data science bowl of 2018 that it was not trained on (1,458
# cells, 158 wrong). A cell that the edge of the image cuts is small and odd for a good reason, hence its
# negative weight.
START = -5.8
DOUBT = 4.65  # 1 - score
DISAGREEMENT = 2.6  # 1 - IoU with the cell that a model finds in the mirrored image
SMALL, LARGE = 0.53, 0.79  # for each octave of area below the median, and above
NOTCHES = 9.9  # share of the convex hull that is not the cell
CONTACT = 3.2  # share of the outline along other cells
CUT = -0.56  # by the edge of the image


class _Shape(NamedTuple):
    area: float
    notches: float
    contact: float
    is_cut: bool


class ReviewQueue:
    """The cells of a session, likeliest mistakes first."""

    def __init__(self, session: AnnotationSession) -> None:
        self._session = session
        self._disagreement: dict[int, float] = {}
        self._shapes: dict[int, _Shape] = {}
        self._keys: list[tuple[float, int]] | None = None  # (- chance, number), ascending
        self._at: tuple[float, int] | None = None
        session.history.events.changed.connect(self._on_changed)

    def set_disagreement(self, disagreement: Mapping[int, float]) -> None:
        """Judge all cells again, by how far a model disagrees with itself on them (0 to 1, by number)."""
        self._disagreement = dict(disagreement)
        self._keys = None

    def close(self) -> None:
        """Stop following the session."""
        self._session.history.events.changed.disconnect(self._on_changed)

    @property
    def current(self) -> int | None:
        """The cell that is looked at; None before the first and where it is gone."""
        if self._at is None or self._at[1] not in self._session.store:
            return None
        return self._at[1]

    def order(self) -> tuple[int, ...]:
        """Return all cells, likeliest mistake first, reviewed or not."""
        return tuple(number for _, number in self._sorted())

    def chance(self, number: int) -> float:
        """Return the chance, 0 to 1, that a cell is wrong."""
        return next(-key for key, one in self._sorted() if one == number)

    def next(self) -> int | None:
        """Go to the next cell that nobody has looked at, from the end on to the first; None when all are."""
        keys = self._sorted()
        start = bisect_right(keys, self._at) if self._at is not None else 0
        for key in keys[start:] + keys[:start]:
            if not self._session.store.is_reviewed(key[1]):
                self._at = key
                return key[1]
        self._at = None
        return None

    def previous(self) -> int | None:
        """Go back to the cell before, reviewed or not; None at the first."""
        keys = self._sorted()
        index = bisect_left(keys, self._at) if self._at is not None else 0
        if index == 0:
            return None
        self._at = keys[index - 1]
        return self._at[1]

    def _on_changed(self, edited: Edited) -> None:
        for number in edited.numbers:
            self._shapes.pop(number, None)
        self._keys = None

    def _sorted(self) -> list[tuple[float, int]]:
        if self._keys is None:
            numbers = self._session.store.numbers().tolist()
            for number in numbers:
                if number not in self._shapes:
                    self._shapes[number] = _shape_of(self._session, number)
            self._shapes = {number: self._shapes[number] for number in numbers}
            shapes = np.array([self._shapes[number] for number in numbers], float).reshape(-1, 4)
            areas, notches, contact, is_cut = shapes.T
            octaves = np.log2(areas / np.median(areas)) if len(areas) else areas
            doubts = np.array([1 - self._session.store.cell(number).score for number in numbers])
            others = np.array([self._disagreement.get(number, 0.0) for number in numbers])
            sizes = SMALL * np.maximum(-octaves, 0) + LARGE * np.maximum(octaves, 0)
            shape = NOTCHES * notches + CONTACT * contact + CUT * is_cut
            odds = START + DOUBT * doubts + DISAGREEMENT * others + sizes + shape
            chances: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
            self._keys = sorted(zip((-chances).tolist(), numbers, strict=True))
            if self._at is not None:  # the position moves along with the cell that is looked at
                number = self._at[1]
                self._at = next((key for key in self._keys if key[1] == number), self._at)
        return self._keys


def _shape_of(session: AnnotationSession, number: int) -> _Shape:
    """Return what the voxels of a cell tell; of a time series those of its first time point."""
    labels, box = session.store.first_part(number)
    window = padded(box, 1, labels.shape)
    around = labels[window]
    mask = around == number
    rim = ndimage.binary_dilation(mask) & ~mask
    contact = float((around[rim] > 0).mean()) if rim.any() else 0.0
    area = float(mask.sum())
    is_cut = any(
        part.start == 0 or part.stop == length
        for part, length in zip(box[-2:], labels.shape[-2:], strict=True)
    )
    return _Shape(area, 1 - area / _hull_size(mask), contact, is_cut)


def _hull_size(mask: Mask) -> float:
    """Return the area or volume of the convex hull of the voxels, taken as squares or cubes."""
    corners = np.zeros(np.add(mask.shape, 1), bool)
    for shift in product((0, 1), repeat=mask.ndim):
        corners[tuple(slice(first, first + n) for first, n in zip(shift, mask.shape, strict=True))] |= mask
    rows = corners.reshape(-1, corners.shape[-1])  # only the ends of a row can be corners of the hull
    taken = np.flatnonzero(rows.any(axis=1))
    ends = rows[taken].argmax(axis=1), rows.shape[1] - 1 - rows[taken, ::-1].argmax(axis=1)
    lead = np.stack(np.unravel_index(taken, corners.shape[:-1]), axis=1)
    points = np.concatenate([np.column_stack([lead, end]) for end in ends])
    return float(ConvexHull(points).volume)


def mirror_disagreement(
    session: AnnotationSession, engine: EngineSettings, model: "ModelChoices"
) -> Task[dict[int, float]]:
    """Return for each cell, by number, how far a model is from finding it in the image mirrored along X.

    That is 1 - IoU with the cell found there that overlaps most; 1 where none does. The model must outline
    cells.

    CellwrightError where the image, the model or a setting does not fit; says what to do.
    """
    yield Progress("load", 0, 1)
    from cellwright.inference.pipeline import count_cells

    image, labels = session.image, session.store.to_cells().labels
    assert labels is not None  # a session has some, empty as they may be
    flipped = replace(image, data=np.flip(np.asarray(image.data), axis=image.axes.index("X")))
    result = yield from count_cells(flipped, model, None, replace(engine, flips=False))
    if result.cells.labels is None:
        raise SettingsError(
            "Cells are compared by a model that outlines them; this one does not. Choose flow."
        )
    axis = image.label_axes.index("X")
    iou = overlaps(labels, np.flip(result.cells.labels, axis=axis))
    best = np.zeros(iou.shape[0])
    if 0 not in iou.shape:
        best = iou.max(axis=1).toarray().ravel()
    return dict(zip(session.store.numbers().tolist(), (1 - best).tolist(), strict=True))
