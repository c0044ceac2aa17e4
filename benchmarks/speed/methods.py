"""One method on one image in a process of its own: python -m benchmarks.speed.methods METHOD FOLDER.

FOLDER holds image.npy and labels.npy. Prints one JSON object: the warm median seconds of network, decoding,
features (a table of the cells) and of all together, or, with --once, the count and the peak memory in MB.
Imports nothing but numpy and the method itself, so that a peer may live in an environment of its own.

Peers whose weights cannot be had run with random ones: the network is timed on the real image, its outputs
are thrown away, and the decoder is timed on the outputs that a perfect network would have given.
"""

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tools.command_line import command_line

from benchmarks.measure import peak_mb, warm_median

Array = np.ndarray[Any, Any]
NAN = float("nan")
_KEPT: dict[object, Any] = {}


@dataclass(frozen=True)
class Method:
    """A method ready to run: ``decode`` takes what ``network`` returns and gives the labels."""

    weights: str
    network: Callable[[], Any] | None
    decode: Callable[[Any], Array]
    features: Callable[[Array], object] | None = None
    whole: Callable[[], int] | None = None  # all in one call; returns the count


def cellwright(image: Array, truth: Array, model: str) -> Method:
    """This package; with random weights the maps come from the truth."""
    from cellwright.core.data import Image, Prediction
    from cellwright.core.tasks import run
    from cellwright.inference.context import BlockBatch, load_models, open_context
    from cellwright.inference.pipeline import count_cells
    from cellwright.inference.settings import EngineSettings
    from cellwright.ops.codecs.flow import FlowSettings
    from cellwright.ops.geometry.tiles import whole_tile
    from cellwright.ops.labels import annotate
    from cellwright.ops.measure.cells_table import cells_table

    source = Image(image, "YX")
    is_random = Path(model).name == "random"

    def predicted() -> Prediction:
        with open_context(source, load_models(model), None, EngineSettings()) as context:
            whole = BlockBatch(range(1), whole_tile(truth.shape))
            maps = run(context.predict(whole, 1.0, context.progress([whole], 1.0)))
        return Prediction(tuple(maps), 1.0, truth.shape)

    def perfect() -> Prediction:
        return Prediction((load_models(model)[0].make_targets(annotate(truth)),), 1.0, truth.shape)

    def labels(made: Prediction) -> Array:
        prediction = _kept(perfect) if is_random else made
        cells = load_models(model)[0].decode(prediction.frames[0], prediction.frame_shape, FlowSettings())
        return np.asarray(cells.labels)

    return Method(
        weights="random" if is_random else "own",
        network=predicted,
        decode=labels,
        features=lambda _: cells_table(_kept(lambda: run(count_cells(source, model)))),
        whole=None if is_random else lambda: len(run(count_cells(source, model)).cells),
    )


def watershed(image: Array, truth: Array, model: str) -> Method:
    """Otsu threshold and watershed of the distance, with scikit-image."""
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import regionprops_table
    from skimage.segmentation import watershed as flood

    def segment(_: object) -> Array:
        smooth = gaussian(image.astype(np.float32), 1)
        mask = smooth > threshold_otsu(smooth)
        distance = ndimage.distance_transform_edt(mask)
        parts, _n = ndimage.label(mask)
        peaks = peak_local_max(distance, min_distance=5, labels=parts)
        seeds = np.zeros(image.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        return np.asarray(flood(-distance, seeds, mask=mask))

    def features(labels: Array) -> object:
        return regionprops_table(labels, properties=("label", "area", "centroid", "bbox"))

    return Method("none", None, segment, features)


def stardist(image: Array, truth: Array, model: str) -> Method:
    """StarDist 2D (Schmidt et al. 2018), its released fluorescence model where it can be had."""
    from stardist.geometry import star_dist
    from stardist.models import Config2D, StarDist2D
    from stardist.utils import edt_prob

    with contextlib.redirect_stdout(sys.stderr):
        try:
            net, weights = StarDist2D.from_pretrained("2D_versatile_fluo"), "own"
        except Exception:  # noqa: BLE001 - no network, no model: every kind of error
            net, weights = StarDist2D(Config2D(n_rays=32, grid=(2, 2)), name=None, basedir=None), "random"
    scaled = _scaled(image)
    tiles = tuple(max(1, n // 1024) for n in image.shape)

    def perfect() -> tuple[Array, Array]:
        distances = star_dist(truth.astype(np.int32), 32, grid=(2, 2))
        return edt_prob(truth)[::2, ::2], np.maximum(distances, 1e-3)

    def decode(made: Any) -> Array:
        prob, dist = _kept(perfect) if weights == "random" else made
        return np.asarray(net._instances_from_prediction(image.shape, prob, dist)[0])

    return Method(weights, lambda: net.predict(scaled, n_tiles=tiles, show_tile_progress=False)[:2], decode)


def cellpose(image: Array, truth: Array, model: str) -> Method:
    """Cellpose 3 (Stringer et al. 2021), nuclei model, at its own scale of 17 px."""
    import torch
    from cellpose import dynamics, models

    with contextlib.redirect_stdout(sys.stderr):
        try:
            net, weights = models.CellposeModel(gpu=False, model_type="nuclei"), "own"
        except Exception:  # noqa: BLE001 - no network, no model: every kind of error
            net, weights = models.CellposeModel(gpu=False, pretrained_model=False, diam_mean=17.0), "random"
    diameter = 2 * np.sqrt(np.median(np.bincount(truth.ravel())[1:]) / np.pi)

    def perfect() -> tuple[Array, Array]:
        flows = dynamics.labels_to_flows([truth], device=torch.device("cpu"))[0]
        return flows[2:4] * 5.0, np.where(truth > 0, 6.0, -6.0).astype(np.float32)

    def network() -> Any:
        _, flows, _ = net.eval(image, diameter=diameter, channels=[0, 0], compute_masks=False)
        return flows[1], flows[2]

    def decode(made: Any) -> Array:
        flow, logit = _kept(perfect) if weights == "random" else made
        return np.asarray(dynamics.compute_masks(flow, logit, niter=200, flow_threshold=0.4))

    return Method(weights, network, decode)


def instanseg(image: Array, truth: Array, model: str) -> Method:
    """InstanSeg (Goldsborough et al. 2024); with random weights its network alone, tiles of 512 px."""
    import torch

    inputs = torch.from_numpy(_scaled(image))[None]
    with contextlib.redirect_stdout(sys.stderr):
        try:
            from instanseg import InstanSeg

            ready = InstanSeg("fluorescence_nuclei_and_cells", device="cpu", verbosity=0)
            return Method(
                "own",
                lambda: ready.eval_medium_image(
                    image, pixel_size=0.5, target="nuclei", return_image_tensor=False
                ),
                lambda made: made.numpy()[0, 0].astype(int),
            )
        except Exception:  # noqa: BLE001 - no network, no model: every kind of error
            from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet

            net = InstanSeg_UNet(in_channels=1, out_channels=[[2, 2, 1]], layers=[256, 128, 64, 32]).eval()

    def network() -> None:
        with torch.inference_mode():
            for y in range(0, max(image.shape[0] - 80, 1), 432):
                for x in range(0, max(image.shape[1] - 80, 1), 432):
                    y0, x0 = (max(0, min(at, n - 512)) for at, n in zip((y, x), image.shape, strict=True))
                    net(inputs[None, :, y0 : y0 + 512, x0 : x0 + 512])

    return Method("random, network alone", network, lambda _: truth)


METHODS = {
    "cellwright": cellwright,
    "watershed": watershed,
    "stardist": stardist,
    "cellpose": cellpose,
    "instanseg": instanseg,
}
PACKAGES = {"stardist": "stardist", "cellpose": "cellpose", "instanseg": "instanseg"}


def missing(name: str) -> str:
    """Return why a method cannot run here, or ''."""
    package = PACKAGES.get(name)
    if package is None:
        return ""
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if name == "cellpose":
        from importlib.metadata import version

        if int(version("cellpose").split(".")[0]) >= 4:
            return "cellpose 4 is another network; install 'cellpose<4'"
    return ""


def timed(method: Method, repeats: int) -> dict[str, float]:
    """Return the warm median seconds of each part and of all together."""
    made = method.network() if method.network else None
    labels = method.decode(made)
    parts = {
        "network": warm_median(method.network, repeats) if method.network else NAN,
        "decoding": warm_median(lambda: method.decode(made), repeats),
        "features": warm_median(lambda: method.features(labels), repeats) if method.features else NAN,
    }
    total = warm_median(method.whole, repeats) if method.whole else float(np.nansum(list(parts.values())))
    return {**parts, "total": total}


def once(method: Method) -> int:
    """Return the count of the first run."""
    if method.whole is not None:
        return method.whole()
    labels = method.decode(method.network() if method.network else None)
    return int(np.count_nonzero(np.bincount(labels.ravel())[1:]))


def _kept(make: Callable[[], Any]) -> Any:
    """Return what ``make`` gives, made once for each place in the code that asks for it."""
    key = make.__code__
    if key not in _KEPT:
        _KEPT[key] = make()
    return _KEPT[key]


def _scaled(image: Array) -> Array:
    low, high = np.percentile(image, (1, 99.8))
    return ((image - low) / (high - low)).astype(np.float32)


def main() -> None:
    """Run one method and print what it took."""
    parser = command_line(__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("folder", type=Path, help="folder with image.npy and labels.npy")
    parser.add_argument("--model", default="flow", help="model folder of cellwright")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="count once, for the time of a cold start")
    args = parser.parse_args()
    if reason := missing(args.method):
        print(json.dumps({"missing": reason}))
        return
    image, truth = np.load(args.folder / "image.npy"), np.load(args.folder / "labels.npy")
    method = METHODS[args.method](image, truth, args.model)
    found: dict[str, Any] = {"count": once(method)} if args.once else timed(method, args.repeats)
    print(json.dumps({"weights": method.weights, **found, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
