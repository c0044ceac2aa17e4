"""Flow representation: labels -> flow field | flow field -> cells.

Every pixel of a cell carries the direction towards the cell's centre. Labels become flow by simulated
diffusion of heat from each centre; flow becomes labels by letting every pixel walk along it: pixels that
meet are one cell.

Source: Stringer et al., Cellpose, Nature Methods 18, 100 (2021), doi:10.1038/s41592-020-01018-x;
Lee et al., MEDIAR, arXiv:2212.03465 (2022).
"""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import csr_array

from cellwright.core.data import Cells, Labels
from cellwright.core.settings import BoundedSettings, about
from cellwright.ops.labels import label_properties, touches_border

NEIGHBOURS = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
STRIDE_STEPS = 8  # walking steps that become one jump
N_DOUBLINGS = 5  # 8 * 2**5 = 256 steps, more than the 200 of the reference
PIXELS_AT_ONCE = 1 << 14  # that walk: as many as stay in the cache of a core

CellProbability = Annotated[
    float, about("Lowest probability for a pixel to be part of a cell.", 0.05, 0.95, step=0.01)
]
MinScore = Annotated[float, about("Lowest score for a cell to be kept.", 0.0, 1.0, step=0.01)]
MinArea = Annotated[int, about("Smallest area for a cell to be kept, in pixels.", 1, 100_000)]
ExcludeBorder = Annotated[bool, about("Drop cells that touch the edge of the image.")]


@dataclass(frozen=True, slots=True)
class FlowSettings(BoundedSettings):
    """What can be changed after the network has run."""

    cell_probability: CellProbability = 0.4
    min_score: MinScore = 0.25
    min_area_px: MinArea = 16
    exclude_border: ExcludeBorder = False


def labels_to_flow(labels: Labels) -> NDArray[np.float32]:
    """Return the unit flow (2, Y, X), in order dy, dx, that leads every labelled pixel to its cell's centre.

    Zero in the background. The centre is the cell's pixel closest to its median position.
    """
    flow = np.zeros((2, *labels.shape), np.float32)
    flat = np.flatnonzero(labels)
    if not len(flat):
        return flow
    heat = np.zeros(labels.shape)
    heat.reshape(-1)[flat] = np.log1p(_diffuse(labels, flat))
    padded = np.pad(heat, 1)
    gradient = np.stack([padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]])
    gradient /= np.sqrt((gradient**2).sum(axis=0)) + 1e-20
    inside = labels > 0
    flow[:, inside] = gradient[:, inside]
    return flow


def _diffuse(labels: Labels, flat: NDArray[np.intp]) -> NDArray[np.float64]:
    """Heat of each labelled pixel when every centre was fed for long enough to reach its cell's edge."""
    y, x = np.unravel_index(flat, labels.shape)
    ids = labels.reshape(-1)[flat]
    centres = _centres(ids, y, x)
    average = _neighbour_average(labels, flat, y, x)
    extents = label_properties(labels).boxes
    n_steps = 2 * int((extents[:, 1] - extents[:, 0]).sum(axis=1).max() + 2)
    heat = np.zeros(len(flat))
    for _ in range(n_steps):
        heat[centres] += 1
        heat = average @ heat
    return heat


def _centres(ids: NDArray[np.int32], y: NDArray[np.intp], x: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the index of the pixel of each cell that is closest to the cell's median position."""
    present, inverse = np.unique(ids, return_inverse=True)
    index = np.arange(1, len(present) + 1)
    middle_y = ndimage.median(y, inverse + 1, index)[inverse]
    middle_x = ndimage.median(x, inverse + 1, index)[inverse]
    order = np.lexsort(((y - middle_y) ** 2 + (x - middle_x) ** 2, inverse))
    starts = np.searchsorted(inverse[order], np.arange(len(present)))
    return order[starts]


def _neighbour_average(
    labels: Labels, flat: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp]
) -> csr_array:
    """Matrix that averages over the 3 x 3 neighbourhood, counting other cells as cold."""
    padded = np.pad(labels, 1)
    place = np.full(padded.shape, -1, np.int64)
    place[y + 1, x + 1] = np.arange(len(flat))
    rows, columns = [], []
    for dy, dx in NEIGHBOURS:
        same = np.flatnonzero(padded[y + 1 + dy, x + 1 + dx] == labels[y, x])
        rows.append(same)
        columns.append(place[y[same] + 1 + dy, x[same] + 1 + dx])
    row, column = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.full(len(row), 1 / 9), (row, column)), shape=(len(flat), len(flat)))


def flow_to_cells(
    flow: NDArray[np.float32], probability: NDArray[np.float32], settings: FlowSettings
) -> Cells:
    """Return the cells of one frame, in pixels of the maps.

    ``flow``, float32 (2, Y, X), is the direction (dy, dx) towards the cell's centre, of length about 1 where
    the network is sure; ``probability``, float32 (Y, X), the chance of each pixel to be part of a cell.
    Values that are not finite count as 0.
    """
    flow, probability = finite(flow), finite(probability)
    labels = flow_to_labels(flow, probability > settings.cell_probability)
    areas, points, boxes = label_properties(labels)
    scores = _scores(flow, probability, labels, points)
    return wanted_cells(Cells(points, boxes, scores, areas, labels), settings)


def wanted_cells(cells: Cells, settings: Any) -> Cells:
    """Return cells with labels that are large and sure enough and, where asked, away from the edge."""
    assert cells.labels is not None
    wanted = (cells.areas >= settings.min_area_px) & (cells.scores >= settings.min_score)
    if settings.exclude_border:
        wanted &= ~touches_border(cells.boxes, cells.labels.shape)
    return cells.take(wanted)


def finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values with 0 in place of those that are not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = np.vdot(values, values)  # NaN and infinity survive; quicker than looking at each value
    if np.isfinite(total):
        return values
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def flow_to_labels(flow: NDArray[np.float32], mask: NDArray[np.bool_]) -> Labels:
    """Return labels 1..N (Y, X) of the pixels of ``mask`` that meet when they follow the flow.

    Pixels walk a few steps with sub-pixel positions; that walk, rounded to the pixel it ends on, is a map
    from pixels to pixels which is composed with itself, so that k compositions stand for 2**k walks.
    """
    labels = np.zeros(mask.shape, np.int32)
    flat = np.flatnonzero(mask)
    if len(flat):
        jump = _first_jump(flow, mask, flat)
        for _ in range(N_DOUBLINGS):
            jump = jump[jump]
        labels.reshape(-1)[flat] = _join(flat[jump], mask.shape)
    return labels


def _join(ends: NDArray[np.intp], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Return the number of each walk's sink; ends within two pixels of one another are one sink."""
    is_end = np.zeros((shape[0] + 2, shape[1] + 2), bool)
    row, column = np.divmod(ends, shape[1])
    padded = (row + 1) * is_end.shape[1] + column + 1
    is_end.reshape(-1)[padded] = True
    places = np.flatnonzero(is_end)
    grown = np.zeros(is_end.size, bool)
    for dy, dx in NEIGHBOURS:
        grown[places + dy * is_end.shape[1] + dx] = True
    sinks, _ = ndimage.label(grown.reshape(is_end.shape), np.ones((3, 3), int))
    return sinks.reshape(-1)[padded]


def _first_jump(
    flow: NDArray[np.float32], mask: NDArray[np.bool_], flat: NDArray[np.intp]
) -> NDArray[np.int32]:
    """Index (into ``flat``) of the pixel that each masked pixel reaches in a few steps inside the mask."""
    height, width = mask.shape
    place = np.full((height + 2, width + 2), -1, np.int32)  # a frame of -1 stops walks at the image's edge
    place[1:-1, 1:-1][mask] = np.arange(len(flat), dtype=np.int32)
    places, stride = place.reshape(-1), np.int32(width + 2)
    step_y, step_x = (np.clip(part.reshape(-1)[flat], -1, 1) for part in flow)  # more would leave the frame
    ends = np.arange(len(flat), dtype=np.int32)
    for start in range(0, len(flat), PIXELS_AT_ONCE):
        here = ends[start : start + PIXELS_AT_ONCE]
        y, x = (part.astype(np.float32) for part in np.divmod(flat[start : start + PIXELS_AT_ONCE], width))
        y += 1.5  # the frame, and half a pixel so that cutting off decimals rounds
        x += 1.5
        for _ in range(STRIDE_STEPS):
            new_y, new_x = y + step_y[here], x + step_x[here]
            there = places[new_y.astype(np.int32) * stride + new_x.astype(np.int32)]
            inside = there >= 0
            np.copyto(here, there, where=inside)
            np.copyto(y, new_y, where=inside)
            np.copyto(x, new_x, where=inside)
    return ends


def _scores(
    flow: NDArray[np.float32], probability: NDArray[np.float32], labels: Labels, points: NDArray[np.float32]
) -> NDArray[np.float32]:
    """How sure the maps are of each cell, 0 to 1: probability times agreement of its flow with its centre."""
    flat = np.flatnonzero(labels)
    ids = labels.reshape(-1)[flat]
    y, x = (part.astype(np.float32) for part in np.divmod(flat, labels.shape[1]))
    centre_y, centre_x = np.pad(points, ((1, 0), (0, 0))).T.copy()
    dy, dx = centre_y[ids] - y, centre_x[ids] - x
    agreement = dy * flow[0].reshape(-1)[flat] + dx * flow[1].reshape(-1)[flat]
    agreement /= np.maximum(np.sqrt(dy * dy + dx * dx), 1.0)
    n = len(points) + 1
    area = np.maximum(np.bincount(ids, minlength=n)[1:], 1)
    mean_probability = np.bincount(ids, probability.reshape(-1)[flat], n)[1:] / area
    mean_agreement = np.bincount(ids, agreement, n)[1:] / area
    return np.clip(mean_probability * np.clip(mean_agreement, 0, 1), 0, 1).astype(np.float32)
