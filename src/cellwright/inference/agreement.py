"""How far a model agrees with itself: what it finds in an image should be what it finds in the flipped one.

Cells that change with the flip are likelier wrong than others. Networks are not exactly symmetric, and where
the image tells little, chance decides.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellwright.core.data import Image, Labels
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task
from cellwright.inference.context import ModelChoices
from cellwright.inference.pipeline import count_cells
from cellwright.inference.settings import EngineSettings
from cellwright.models.registry import DEFAULT_FAMILY
from cellwright.ops.matching import overlaps


def flip_disagreement(
    image: Image,
    labels: Labels,
    model: ModelChoices = DEFAULT_FAMILY,
    settings: Any = None,
    engine: EngineSettings = EngineSettings(),  # noqa: B008 - frozen
) -> Task[NDArray[np.float32]]:
    """Return for each cell how far a model that looks at the flipped image is from finding it.

    Parameters
    ----------
    image
        Of any size that is counted.
    labels : int32
        The cells 1..N, in the axes of the image without its channels; found by the model, or drawn.
    model, settings, engine
        As for counting; the model must outline cells. It runs once, over the image flipped along X.

    Returns
    -------
    disagreement : float32 (N,)
        1 - IoU with the cell found there that overlaps most; 1 where none does.

    Raises
    ------
    CellwrightError
        The image, the model or a setting does not fit; says what to do.
    """
    flipped = replace(image, data=np.flip(np.asarray(image.data), axis=image.axes.index("X")))
    result = yield from count_cells(flipped, model, settings, replace(engine, flips=False))
    if result.cells.labels is None:
        raise SettingsError(
            "Cells are compared by a model that outlines them; this one does not. Choose flow."
        )
    axis = image.axes.replace("C", "").index("X")
    iou = overlaps(labels, np.flip(result.cells.labels, axis=axis))
    if 0 in iou.shape:
        return np.ones(iou.shape[0], np.float32)
    best: NDArray[np.float32] = iou.max(axis=1).toarray().ravel().astype(np.float32)
    return 1 - best
