"""Phase contrast of adherent cells: this package's models beside DeepSea, on images kept apart, in one run.

    pip install deepsea==0.0.3 --no-deps
    python -m benchmarks.accuracy.phase flow --data DATA

DeepSea (github.com/abzargar/DeepSea, MIT) ships weights for phase contrast. Its package asks for torchvision
only to resize and scale images, which Pillow does here in the same way; the steps are those of its own script
for single images: range to 0..255, 383 x 512 pixels, network, arg max, objects of at least 20 pixels. Its
labels are brought back to the size of the image. Times are the median after the first image. DeepSea never
saw images of this microscope; `flow` learned from others of them.
"""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from scipy import ndimage
from skimage.morphology import remove_small_objects
from tools.command_line import command_line
from tools.release.kinds import reported

from cellwright.core.data import Image
from cellwright.core.tasks import run
from cellwright.inference.pipeline import count_cells
from cellwright.models import store
from cellwright.ops.matching import match_labels

SIZE_PX = (383, 512)  # height and width that DeepSea was trained at
SMALLEST_PX = 20
SET = "usiigaci_phase"

Labels = np.ndarray[Any, Any]


def main() -> None:
    """Print a line for each model."""
    parser = command_line(__doc__)
    parser.add_argument("models", nargs="+", help="names or folders of models of this package")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    methods: dict[str, Callable[[Image], Labels]] = {"DeepSea 0.0.3": deepsea()}
    methods |= {name: ours(name) for name in options.models}
    items = [item.annotated() for item in reported(SET, options.data).items]
    print(f"{len(items)} images of {SET}, none of them learned from, {options.threads} threads")
    print("| model | F1@0.5 | AP@0.5 | seconds an image |\n|---|---|---|---|")
    for name, segment in methods.items():
        f1, precision, seconds = zip(*(scored(segment, image, truth) for image, truth in items), strict=True)
        print(
            f"| {name} | {np.mean(f1):.3f} | {np.mean(precision):.3f} | {np.median(seconds[1:]):.2f} |",
            flush=True,
        )


def scored(segment: Callable[[Image], Labels], image: Image, truth: Any) -> tuple[float, float, float]:
    """Return F1 and AP at an IoU of 0.5, and the seconds that one image took."""
    began = time.perf_counter()
    found = segment(image)
    seconds = time.perf_counter() - began
    matched = match_labels(found, np.asarray(truth))
    return matched.f1, matched.average_precision, seconds


def ours(name: str) -> Callable[[Image], Labels]:
    """Return a model of this package as a function from image to labels."""
    model = store.load(store.find(name))
    return lambda image: np.asarray(run(count_cells(image, model)).cells.labels)


def deepsea() -> Callable[[Image], Labels]:
    """Return DeepSea's segmentation as a function from image to labels."""
    spec = importlib.util.find_spec("deepsea")
    if spec is None or spec.origin is None:
        raise SystemExit("DeepSea is not installed. Run: pip install deepsea==0.0.3 --no-deps")
    folder = Path(spec.origin).parent
    code = importlib.util.spec_from_file_location("deepsea_model", folder / "model.py")
    assert code is not None
    assert code.loader is not None
    module = importlib.util.module_from_spec(code)
    code.loader.exec_module(module)
    network = module.DeepSeaSegmentation(n_channels=1, n_classes=2, bilinear=True)
    weights = torch.load(
        folder / "trained_models" / "segmentation.pth", map_location="cpu", weights_only=True
    )
    network.load_state_dict(weights)
    network.eval()

    def segment(image: Image) -> Labels:
        grey = np.asarray(image.data, np.float32)
        if grey.ndim == 3:
            grey = grey.mean(axis=image.axes.index("C"))
        scaled = (255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-9)).astype(np.uint8)
        small = Picture.fromarray(scaled).resize(SIZE_PX[::-1], Picture.Resampling.BILINEAR)
        tensor = (torch.from_numpy(np.asarray(small).copy()).float() / 255 - 0.5) / 0.5
        with torch.inference_mode():
            inside = network(tensor[None, None])[0].argmax(dim=1)[0].numpy() > 0
        labels, _ = ndimage.label(remove_small_objects(inside, max_size=SMALLEST_PX - 1))
        whole = Picture.fromarray(labels.astype(np.int32)).resize(
            grey.shape[::-1], Picture.Resampling.NEAREST
        )
        return np.asarray(whole)

    return segment


if __name__ == "__main__":
    main()
