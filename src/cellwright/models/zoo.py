"""Models in forms that other programs run: ONNX, and packages of the BioImage Model Zoo.

A package holds the network as TorchScript, which gives the maps of a model (what finds the cells in them
belongs to cellwright), a test image with its maps, and the files of the model folder.
``models.store.import_model`` reads these files alone: nothing in a package is ever run.

Source: bioimage.io model description 0.5, https://bioimage.io/docs.
"""

import json
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellwright.core.data import package_version
from cellwright.core.errors import WriteError, needed
from cellwright.files.atomic import atomic_write
from cellwright.models import registry, store
from cellwright.models.checkpoint import CARD
from cellwright.models.spec import ModelSpec
from cellwright.ops.simulation.simulate import simulate

if TYPE_CHECKING:
    from cellwright.models.protocol import CellModel

ONNX_OPSET = 17
CORE = 4  # of the divisor: height and width of what is left of the smallest image without its halo
LICENCE = "BSD-3-Clause"
ZOO_TAGS = {"instances": "segmentation", "density": "counting"}
DESCRIPTION = "rdf.yaml"  # json is yaml too
FORMAT = "0.5.4"
TOLERANCE = 1e-3  # of the largest value, or of 1 where that is less: densities are small


class _Maps(nn.Module):
    """An image (B, C, Y, X) -> its maps, in map units."""

    def __init__(self, model: "CellModel") -> None:
        super().__init__()
        self.network = model.inference_network()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.to_maps(self.network(image))


def export_onnx(name: str | Path, path: Path) -> Path:
    """Write the network of a model as ONNX and return the path of the file.

    ``image``, float32 (batch, channels, height, width) from 0 to 1 between the percentiles of the model,
    gives ``maps``, float32 (batch, maps, height, width) in map units. Height and width are multiples of the
    divisor. What finds the cells in the maps belongs to cellwright. The file's metadata hold the spec.

    ``name`` is that of the model, or its folder; the file appears whole or not at all.

    CheckpointError where there is no such model, or it is damaged. WriteError where the package onnx is not
    installed, or the file cannot be written.
    """
    with needed(WriteError, "ONNX", "onnx"):
        import onnx
    model = store.load(name)
    side = 2 * model.spec.divisor
    image = torch.zeros(1, model.spec.in_channels, side, side)
    sizes = {0: "batch", 2: "height", 3: "width"}
    with atomic_write(path) as part:
        with torch.no_grad():
            torch.onnx.export(
                _Maps(model).eval(),
                (image,),
                str(part),
                input_names=["image"],
                output_names=["maps"],
                dynamic_axes={"image": sizes, "maps": sizes},
                opset_version=ONNX_OPSET,
                dynamo=False,
            )
        written = onnx.load(part)
        facts = {"cellwright": package_version(), "spec": json.dumps(model.spec.to_json())}
        onnx.helper.set_model_props(written, facts)
        onnx.save(written, part)
    return path


def export_package(name: str | Path, path: Path, *, authors: tuple[str, ...], licence: str = LICENCE) -> Path:
    """Write a model as a package of the BioImage Model Zoo (a zip archive) and return its path.

    ``name`` is that of the model, or its folder; the archive appears whole or not at all. The zoo wants at
    least one author; ``licence`` is the SPDX identifier of that of the weights.

    CheckpointError where there is no such model, or it is damaged. WriteError where there is no author, or
    the file cannot be written.
    """
    folder = store.find(name)
    model = store.load(folder)
    if not authors or not all(author.strip() for author in authors):
        raise WriteError(
            f"A package of the BioImage Model Zoo names its authors; got {', '.join(authors) or 'none'}. "
            "Give at least one."
        )
    with tempfile.TemporaryDirectory() as place, atomic_write(path) as part:
        largest = _write_files(Path(place), model, folder)
        facts = _facts(model, [file.name for file in Path(place).glob(store.PREFIX + "*")])
        facts |= {"authors": [{"name": author} for author in authors], "license": licence}
        allowed = {"relative_tolerance": TOLERANCE, "absolute_tolerance": TOLERANCE * min(1.0, largest)}
        facts["config"] = {"bioimageio": {"reproducibility_tolerance": [allowed]}}
        (Path(place) / DESCRIPTION).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(Path(place).iterdir()):
                archive.write(file, file.name)
    return path


def _write_files(part: Path, model: "CellModel", folder: Path) -> float:
    """Write network, test image, its maps, a picture of it and the files of the model into a folder.

    Returns the largest absolute value of the maps.
    """
    from skimage.io import imsave

    side = _smallest(model.spec)
    drawn = simulate("fluorescence", (side, side), np.random.default_rng(0), diameter_px=26)
    image = np.repeat(drawn.image[np.newaxis].astype(np.float32), model.spec.in_channels, axis=0)
    low, high = np.percentile(image, model.spec.percentiles)  # as the zoo's scale_range has it
    scaled = torch.from_numpy(((image - low) / (high - low + 1e-6)).astype(np.float32))[np.newaxis]
    network = _Maps(model).eval()
    warnings.filterwarnings("ignore", ".*torch.jit")  # which PyTorch retires; packages of the zoo are made so
    with torch.no_grad():
        traced = torch.jit.trace(network, scaled)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, part / "weights.pt")
        expected: NDArray[np.float32] = traced(scaled).numpy()
    np.save(part / "test_maps.npy", expected)
    np.save(part / "test_image.npy", image[np.newaxis])
    top = float(drawn.image.max())
    imsave(part / "cover.png", (255 * drawn.image / top).astype(np.uint8), check_contrast=False)
    for name in store.FILES:
        if (folder / name).exists():
            (part / (store.PREFIX + name)).write_bytes((folder / name).read_bytes())
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.exists() else f"# {model.spec.title}\n"
    (part / "README.md").write_text(text, encoding="utf-8")
    return float(np.abs(expected).max())


def _smallest(spec: ModelSpec) -> int:
    """Return the side of the smallest image for which the package vouches."""
    return -(-2 * spec.halo // spec.divisor) * spec.divisor + CORE * spec.divisor


def _facts(model: "CellModel", attachments: Sequence[str]) -> dict[str, Any]:
    spec = model.spec
    return {
        "type": "model",
        "format_version": FORMAT,
        "name": f"cellwright {spec.family} {spec.preset}",
        "description": spec.title,
        "tags": ["cells", ZOO_TAGS[registry.get(spec.family).gives], spec.family],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "attachments": [{"source": name} for name in sorted(attachments)],
        "cite": [{"text": f"napari-cellwright {package_version()}", "url": "https://www.napari-hub.org"}],
        "inputs": [_input(spec)],
        "outputs": [_output(spec)],
        "weights": {
            "torchscript": {"source": "weights.pt", "pytorch_version": torch.__version__.partition("+")[0]}
        },
    }


def _input(spec: ModelSpec) -> dict[str, Any]:
    size = {"min": _smallest(spec), "step": spec.divisor}
    low, high = spec.percentiles
    scaling = {"axes": ["channel", "y", "x"], "min_percentile": low, "max_percentile": high, "eps": 1e-6}
    return {
        "id": "image",
        "axes": _axes([f"channel{i}" for i in range(spec.in_channels)], dict.fromkeys("yx", size), {}),
        "test_tensor": {"source": "test_image.npy"},
        "data": {"type": "float32"},
        "preprocessing": [{"id": "scale_range", "kwargs": scaling}],
    }


def _output(spec: ModelSpec) -> dict[str, Any]:
    names = [
        f"{name}_{index}" if n > 1 else name for name, n in spec.map_channels.items() for index in range(n)
    ]
    sizes = {axis: {"tensor_id": "image", "axis_id": axis} for axis in "yx"}
    return {
        "id": "maps",
        "axes": _axes(names, sizes, {"halo": spec.halo}),
        "test_tensor": {"source": "test_maps.npy"},
        "data": {"type": "float32"},
    }


def _axes(
    channels: Sequence[str], sizes: Mapping[str, dict[str, Any]], more: dict[str, Any]
) -> list[dict[str, Any]]:
    space = [{"id": axis, "type": "space", "size": size, **more} for axis, size in sizes.items()]
    return [{"type": "batch"}, {"type": "channel", "channel_names": list(channels)}, *space]
