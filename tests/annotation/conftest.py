"""Sessions on small drawn images, and random edits of them."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image, Labels
from cellwright.core.errors import AnnotationError

SHAPES = {"YX": (40, 48), "ZYX": (5, 24, 28), "TYX": (3, 24, 28), "TZYX": (2, 4, 20, 24)}


def draw(axes: str, seed: int = 0, journal: Path | None = None) -> AnnotationSession:
    """Return a session of blocks of random size that may touch, one number each."""
    rng = np.random.default_rng(seed)
    shape = SHAPES[axes]
    labels = np.zeros(shape, np.int32)
    for number in range(1, 9):
        corner = [int(rng.integers(0, max(1, n - 4))) for n in shape]
        box = [slice(c, c + int(rng.integers(4, 14))) for c in corner]
        if "T" in axes:
            box[0] = slice(corner[0], corner[0] + 1 + number % 2)
        labels[tuple(box)] = np.where(labels[tuple(box)] == 0, number, labels[tuple(box)])
    sizes = (2.0, 0.5, 0.5) if "Z" in axes else ()
    image = Image(rng.integers(0, 99, shape).astype(np.uint8), axes, sizes, "drawn")
    scores = rng.random(int(labels.max())) if labels.any() else None
    return AnnotationSession(image, labels, scores=scores, class_names=("a", "b"), journal=journal)


def random_edit(session: AnnotationSession, rng: np.random.Generator) -> None:
    """Do one edit with random arguments, undo and redo among them; one that makes no sense does nothing."""
    ids = session.store.numbers().tolist()
    shape = session.labels.shape
    point = np.array([rng.uniform(-1, n) for n in shape])
    one, other = (int(rng.choice(ids)) if ids else 1 for _ in range(2))
    end = point + rng.normal(0, 6, len(shape)) * (np.arange(len(shape)) >= len(shape) - 2)
    corner = [int(rng.integers(-3, n)) for n in shape]
    centre = session.store.centre_of(one) if ids else point
    near = centre + rng.normal(0, 3, len(shape)) * (np.arange(len(shape)) >= len(shape) - 2)
    across = np.stack([2 * centre - near, near])
    edits: tuple[Callable[[], object], ...] = (
        lambda: session.delete(one),
        lambda: session.reject(one),
        lambda: session.merge(one, other),
        lambda: session.split_line(one, across),
        lambda: session.split_line(one, np.stack([point, end])),
        lambda: session.split_seeds(one, centre, near),
        lambda: session.grow(one, 2),
        lambda: session.shrink(one, 1),
        lambda: session.smooth(one, 2),
        lambda: session.fill(one),
        lambda: session.interpolate(one, 0, 9),
        lambda: session.add(rng.random((5, 5)) < 0.7, corner),
        lambda: session.add_disc(point, 7),
        lambda: paint(session, rng),
        lambda: session.set_class(one, int(rng.integers(0, 2))),
        lambda: session.set_reviewed(one),
        lambda: session.add_region(tuple(slice(max(0, c), c + 6) for c in corner)),
        lambda: session.remove_region(0),
        lambda: session.set_class_names(["a", "b", "c"]),
        lambda: session.replace_labels(np.roll(session.labels, 3, axis=-1)),
        session.undo,
        session.undo,
        session.redo,
    )
    with suppress(AnnotationError):
        edits[rng.integers(len(edits))]()


def paint(session: AnnotationSession, rng: np.random.Generator) -> None:
    """Paint as a viewer does: into the labels themselves, then hand in the box."""
    corner = [int(rng.integers(0, n)) for n in session.labels.shape]
    box = tuple(slice(c, min(n, c + 6)) for c, n in zip(corner, session.labels.shape, strict=True))
    before = session.labels[box].copy()
    session.labels[box][rng.random(before.shape) < 0.4] = int(
        rng.choice([0, 1, 3, session.store.next_number])
    )
    session.record_paint(box, before, session.labels[box].copy())


def state(session: AnnotationSession) -> tuple[object, ...]:
    """Return all that a session knows, comparable."""
    numbers = session.store.numbers().tolist()
    facts = [
        (n, session.store.cell(n).score, session.store.cell(n).category, session.store.is_reviewed(n))
        for n in numbers
    ]
    boxes = [session.store.box_of(n) for n in numbers]
    return session.labels.tobytes(), numbers, facts, boxes, session.metadata, len(session.history.done)


@pytest.fixture
def draw_session() -> Callable[..., AnnotationSession]:
    return draw


@pytest.fixture
def three() -> Labels:
    """Cells 1 and 2, which touch, and cell 7."""
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 10:20], labels[10:20, 20:30], labels[30:36, 40:50] = 1, 2, 7
    return labels


@pytest.fixture
def session_of(three: Labels) -> Callable[..., AnnotationSession]:
    """Function (options of a session) -> a session on a copy of the three cells; scores are 0.1, 0.2, 0.7."""

    def begin(**options: Any) -> AnnotationSession:
        image = Image(np.zeros(three.shape, np.uint8), "YX")
        return AnnotationSession(image, three.copy(), scores=np.linspace(0.1, 0.7, 7), **options)

    return begin


@pytest.fixture
def edit_at_random() -> Callable[[AnnotationSession, np.random.Generator], None]:
    return random_edit


@pytest.fixture
def state_of() -> Callable[[AnnotationSession], tuple[object, ...]]:
    return state


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "drawn.journal"
