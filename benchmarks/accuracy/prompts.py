"""One cell from prompts: what further clicks and boxes are worth, as the IoU of single cells with the truth.

    python -m benchmarks.accuracy.prompts query --data DATA
    python -m benchmarks.accuracy.prompts query --data DATA --choosing   # images that may decide on constants

The user is simulated. The first click is in the true cell where it is deepest. A further one is where the
largest part that was missed is deepest (positive), or the largest part that is too much (negative); where
there is no such part of some pixels, nothing is clicked. A box is that of the true cell. A click on which the
model sees no cell has an IoU of 0.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from tools.command_line import command_line
from tools.release.kinds import chosen_by, reported

from cellwright.core.errors import CellwrightError
from cellwright.files.dataset.folder import Item
from cellwright.inference.point_prompt import PointPredictor
from cellwright.models import store
from cellwright.ops.codecs.prompts import Point, Prompts

SETS = ("dsb2018_train", "bbbc039", "polyp_nuclei", "usiigaci_phase", "bacteria_phase")
CHOOSING = ("dsb2018_train", "polyp_nuclei", "usiigaci_phase")
SMALLEST_PX = 3  # parts that are wrong by less are left alone
SMALLEST_CELL_PX = 20
SEED = 7

Mask = NDArray[np.bool_]


def main() -> None:
    """Print a table: a row for each dataset, a column for each kind of prompts."""
    parser = command_line(__doc__)
    parser.add_argument("model", help="name or folder of a model that outlines cells")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--choosing", action="store_true")
    parser.add_argument("--sets", nargs="+", default=[])
    parser.add_argument("--images", type=int, default=30, help="of each dataset, at most")
    parser.add_argument("--cells", type=int, default=10, help="of each image, at most")
    options = parser.parse_args()
    print(f"| images, cells | {' | '.join(WAYS)} |\n|---|{'---|' * len(WAYS)}")
    select = chosen_by if options.choosing else reported
    model = store.load(store.find(options.model))
    for name in options.sets or (CHOOSING if options.choosing else SETS):
        scores = []
        items = [item for item in select(name, options.data).items if item.has_masks]
        step = max(len(items) // options.images, 1)
        for item in items[::step][: options.images]:
            image, labels = item.annotated()
            predictor = PointPredictor(image, model)
            for truth in cells_of(item, np.asarray(labels), options.cells):
                told = [iou(way(predictor, truth), truth) for way in WAYS.values()]
                scores.append(told)
        line = " | ".join(f"{score:.3f}" for score in np.mean(scores, axis=0))
        print(f"| {name}, {len(items[::step][: options.images])}, {len(scores)} | {line} |", flush=True)


def cells_of(item: Item, labels: NDArray[np.integer], most: int) -> Iterator[Mask]:
    """Yield some true cells of an image as masks, of those that lie wholly in what is kept apart of it."""
    areas = np.bincount(labels.ravel())
    if item.regions:
        beyond = np.ones(labels.shape, bool)
        for (top, left), (bottom, right) in item.regions:
            beyond[top:bottom, left:right] = False
        areas[np.unique(labels[beyond])] = 0
    numbers = [number for number in range(1, len(areas)) if areas[number] >= SMALLEST_CELL_PX]
    rng = np.random.default_rng([SEED, len(numbers)])
    for number in rng.permutation(numbers)[:most]:
        yield labels == number


def click(predictor: PointPredictor, truth: Mask) -> Mask:
    """Return what one click gives."""
    return answer(predictor, Prompts((deepest(truth),)))


def two_and_one(predictor: PointPredictor, truth: Mask) -> Mask:
    """Return what two positive clicks and a negative one give."""
    prompts = Prompts((deepest(truth),))
    found = answer(predictor, prompts)
    missed = largest(truth & ~found)
    if missed.any():
        prompts = Prompts((*prompts.positive, deepest(missed)))
        found = answer(predictor, prompts)
    extra = largest(found & ~truth)
    if not extra.any():
        return found
    return answer(predictor, Prompts(prompts.positive, (deepest(extra),)))


def five_clicks(predictor: PointPredictor, truth: Mask) -> Mask:
    """Return what five clicks give, each where most is wrong."""
    prompts = Prompts((deepest(truth),))
    found = answer(predictor, prompts)
    for _ in range(4):
        missed, extra = largest(truth & ~found), largest(found & ~truth)
        if not missed.any() and not extra.any():
            break
        if missed.sum() >= extra.sum():
            prompts = Prompts((*prompts.positive, deepest(missed)), prompts.negative)
        else:
            prompts = Prompts(prompts.positive, (*prompts.negative, deepest(extra)))
        found = answer(predictor, prompts)
    return found


def box_alone(predictor: PointPredictor, truth: Mask) -> Mask:
    """Return what a box gives."""
    return answer(predictor, Prompts(box=box_around(truth)))


def click_and_box(predictor: PointPredictor, truth: Mask) -> Mask:
    """Return what a click and a box give."""
    return answer(predictor, Prompts((deepest(truth),), box=box_around(truth)))


WAYS: dict[str, Callable[[PointPredictor, Mask], Mask]] = {
    "one click": click,
    "2 positive, 1 negative": two_and_one,
    "5 clicks": five_clicks,
    "box": box_alone,
    "click and box": click_and_box,
}


def answer(predictor: PointPredictor, prompts: Prompts) -> Mask:
    """Return the mask that the model gives, in the shape of the frame."""
    whole = np.zeros(predictor.shape, bool)
    try:
        cell = predictor.segment(prompts)
    except CellwrightError:  # the same pixel is once missed and once too much
        return whole
    if cell is not None:
        whole[cell.box[0, 0] : cell.box[1, 0], cell.box[0, 1] : cell.box[1, 1]] = cell.mask
        inside = [whole[round(y), round(x)] for y, x in prompts.positive]
        assert all(inside)
        assert not any(whole[round(y), round(x)] for y, x in prompts.negative)
    return whole


def iou(found: Mask, truth: Mask) -> float:
    """Return the IoU of two masks."""
    return float((found & truth).sum() / max((found | truth).sum(), 1))


def deepest(mask: Mask) -> Point:
    """Return the pixel of a mask that is farthest from its rim."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), mask.shape)
    return float(y), float(x)


def largest(mask: Mask) -> Mask:
    """Return the largest connected part of a mask; nothing where it is too small to be clicked."""
    parts, n = ndimage.label(mask)
    if not n:
        return mask
    areas = np.bincount(parts.ravel())
    areas[0] = 0
    part: Mask = parts == areas.argmax()
    return part & bool(areas.max() >= SMALLEST_PX)


def box_around(mask: Mask) -> tuple[Point, Point]:
    """Return the corners of the box around a mask."""
    rows, columns = ndimage.find_objects(mask.astype(np.int8))[0]
    return (rows.start - 0.5, columns.start - 0.5), (rows.stop - 0.5, columns.stop - 0.5)


if __name__ == "__main__":
    main()
