"""The tile loop: images in, maps out, whatever their size and however little memory there is."""

import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import lcm
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cellwright.core.data import Maps
from cellwright.core.errors import OutOfMemoryError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.inference.device import (
    autocast,
    choose_device,
    choose_dtype,
    free_cache,
    free_device_memory,
    is_out_of_memory,
)
from cellwright.inference.settings import EngineSettings
from cellwright.models.layers.blocks import fused, match_channels
from cellwright.models.protocol import CellModel
from cellwright.ops.geometry.tiles import Layout, Tile, grid, pad, split_tile

SMALLEST_TILE_PX = 128  # below this almost all of a tile is halo
LARGEST_BATCH = 64
MOST_GPU_PIXELS = 4096**2  # that a GPU with room for them takes at once; more are not faster
GPU_BYTES_PER_PIXEL = 2000  # of all layers at once; an estimate for the first try, see ``step_down``
GPU_SHARE = 0.5  # of the free memory of a GPU
WINDOW_PX = 512  # side of overlapping windows
WINDOW_SIGMA = 0.125  # of their Gaussian weights, in sides

# By the network of a model: its checksum and precision, and the copy that counts; gone with the model.
_READY: WeakKeyDictionary[nn.Module, tuple[tuple[int, torch.dtype], nn.Module]] = WeakKeyDictionary()

Images = NDArray[np.float32]
ImageTile = tuple[int, Tile]  # which image, and where in it


@dataclass(slots=True)
class TileProgress:
    """Counts the tiles of a whole image."""

    stage: str
    total: int
    done: int = 0

    def advance(self, n: int) -> Progress:
        """Return the progress after ``n`` more tiles."""
        self.done += n
        return Progress(self.stage, self.done, self.total)


class Networks:
    """One or several networks of a family on a device, and how much they are given at once.

    Copies the networks, so that the models stay as they are (on their device, in training or not);
    :meth:`close` frees a GPU.

    The outputs of several are averaged; ``settings`` tell the tile and batch size to begin with.

    DeviceError where the device is not in this machine. SettingsError where the models are of different
    kinds.
    """

    _networks: tuple[nn.Module, ...]

    def __init__(self, models: Sequence[CellModel], settings: EngineSettings) -> None:
        _check_same_kind(models)
        self.models = tuple(models)
        self.settings = settings
        self.spec = models[0].spec
        self.halo = max(model.spec.halo for model in models)
        self.divisor = lcm(*(model.spec.divisor for model in models))
        self.n_maps = sum(self.spec.map_channels.values())
        self.notice = ""
        self._move(choose_device(settings.device))

    def layout(self, shape: tuple[int, int]) -> Layout:
        """Return how a frame of this shape is cut into tiles."""
        return Layout(shape, self.tile_px, self.halo, self.divisor)

    def batch_for(self, shape: tuple[int, int]) -> int:
        """Return how many windows of this shape are taken at once."""
        if self.batch_size:
            return self.batch_size
        if self.device.type == "cpu":
            return 1  # one tile keeps all cores busy
        pixels: float = self.settings.tile_px**2
        if self.device.type == "cuda":
            fitting = GPU_SHARE * self._free_bytes / GPU_BYTES_PER_PIXEL
            pixels = min(max(pixels, MOST_GPU_PIXELS), fitting)
        return int(min(max(1, pixels // (shape[0] * shape[1])), LARGEST_BATCH))

    def attempt(self, windows: Images, *, summands: bool = False) -> Images | None:
        """Return the maps (B, maps, Y, X) of windows (B, channels, Y, X), or None when memory ran out.

        With ``summands`` they are in the units of which means are taken, for :meth:`mean_to_maps`.
        """
        try:
            return self._maps(windows, summands=summands)
        except Exception as error:
            if not is_out_of_memory(error):
                for model in self.models:  # whatever made it fail, the next count starts over
                    _READY.pop(model.network, None)
                raise
        free_cache(self.device)  # outside except: the error's traceback holds on to the tensors
        return None

    def mean_to_maps(self, mean: Images) -> Images:
        """Return a mean of summands (B, maps, Y, X) in map units."""
        with torch.inference_mode():
            maps: Images = self.models[0].mean_to_maps(torch.from_numpy(mean)).contiguous().numpy()
        return maps

    def step_down(self, n: int, tile: Tile) -> None:
        """Take less at once after ``n`` such tiles did not fit: fewer, then smaller tiles, then the CPU.

        OutOfMemoryError where the smallest tile did not fit into the memory of the CPU.
        """
        first = self.device
        if n > 1:
            self.batch_size = n // 2
        elif tile.core_px > max(SMALLEST_TILE_PX, self.divisor):
            self.batch_size = 1
            self.tile_px = max(tile.core_px // 2, SMALLEST_TILE_PX)
        elif self.device.type != "cpu":
            self._move(torch.device("cpu"))
        else:
            raise OutOfMemoryError(
                f"A tile of {tile.shape} pixels must fit into memory; it does not, though it is the smallest "
                "there is. Close other programs, or choose a smaller model."
            )
        self.notice = (
            f"Memory ran out on {first}; went on with {self.batch_size or 1} at a time of tiles of at most "
            f"{self.tile_px} pixels."
        )
        if self.device != first:
            self.notice = self.notice.replace("pixels.", "pixels on the CPU.")

    def close(self) -> None:
        """Let go of the networks, and of the memory they took of a GPU."""
        self._networks = ()
        free_cache(self.device)

    def _move(self, device: torch.device) -> None:
        """Put the networks on a device, or on the CPU when they do not fit there."""
        self.device = device
        self.dtype = choose_dtype(device, self.settings.precision)
        self.tile_px = self.settings.tile_px
        self.batch_size = self.settings.batch_size
        self._networks = ()
        self._free_bytes = free_device_memory(device)
        try:
            self._networks = tuple(_ready(model, device, self.dtype) for model in self.models)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
        if not self._networks:
            self._move(torch.device("cpu"))
            self.notice = f"The model does not fit into the memory of {device}; went on with the CPU."

    def _maps(self, windows: Images, *, summands: bool) -> Images:
        output = self._forward(windows)
        if not summands:
            output = self.models[0].mean_to_maps(output)
        return output.contiguous().cpu().numpy()

    def _forward(self, windows: Images) -> Tensor:
        """Return the mean of all networks and mirrored images, in the units of which means are taken."""
        axes: tuple[int | None, ...] = (None,)
        if self.settings.flips:
            axes = (None, -2, -1)
        passes = list(product(zip(self._networks, self.models, strict=True), axes))
        mean: Tensor | None = None
        with torch.inference_mode():
            with autocast(self.device, self.dtype):
                inputs = match_channels(torch.from_numpy(windows).to(self.device), self.spec.in_channels)
                for (network, model), axis in passes:
                    output = network(inputs if axis is None else inputs.flip(axis))
                    if axis is not None:
                        output = model.flip(output, axis)
                    # map after map, not pixel after pixel: what follows is then twice as fast
                    output = output.to(torch.float32, memory_format=torch.contiguous_format)
                    output = model.to_summands(output)
                    mean = output if mean is None else mean + output
            assert mean is not None  # there is at least one pass
            if len(passes) > 1:
                mean = mean / len(passes)
        return mean


def predict_maps(images: Images, networks: Networks, progress: TileProgress) -> Task[Images]:
    """Return the maps (N, maps, Y, X) of N images of one size, yielding the progress tile by tile.

    Tiles of the same shape share a batch, also across images. A batch that does not fit into memory is tried
    again as a smaller one, as smaller tiles, and on the CPU; what is done stays done.

    ``images``, float32 (N, channels, Y, X), have scaled intensities. ``progress`` counts the tiles; its total
    grows where tiles have to be split.
    """
    if networks.settings.overlap:
        return (yield from _blended(images, networks, progress))
    layout = networks.layout((images.shape[2], images.shape[3]))
    pending = deque((index, tile) for index in range(len(images)) for tile in grid(layout))
    maps = np.empty((len(images), networks.n_maps, *images.shape[2:]), np.float32)
    while pending:
        progress.total += _split_first(pending, networks, layout.shape)
        batch = _next_batch(pending, networks)
        found = networks.attempt(_windows(images, batch))
        if found is None:
            pending.extendleft(reversed(batch))
            networks.step_down(len(batch), batch[0][1])
            continue
        for (index, tile), tile_maps in zip(batch, found, strict=True):
            core: Any = (index, slice(None), *tile.core)
            maps[core] = tile_maps[(slice(None), *tile.local)]
        del found, tile_maps  # or they stay in memory beside the next batch's
        yield progress.advance(len(batch))
    return maps


def _blended(images: Images, networks: Networks, progress: TileProgress) -> Task[Images]:
    """Return the maps of images as the mean of windows that overlap, their middles weighing most.

    Source: the inference of MEDIAR, arXiv:2212.03465, section 3.4: windows of 512 pixels, 0.6 of them in
    common, Gaussian weights, raw output averaged (a density in cells per pixel).
    """
    shape = (images.shape[2], images.shape[3])
    side = min(WINDOW_PX, networks.tile_px)
    windows = _overlapping(shape, side, networks)
    pending = deque((index, window) for index in range(len(images)) for window in windows)
    progress.total += len(pending) - len(images) * len(grid(networks.layout(shape)))
    total = np.zeros((len(images), networks.n_maps, *shape), np.float32)
    weight = np.zeros(shape, np.float32)
    while pending:
        batch = _next_batch(pending, networks)
        found = networks.attempt(_windows(images, batch), summands=True)
        if found is None:
            networks.step_down(len(batch), batch[0][1])
            if networks.tile_px < side:
                return (yield from _blended(images, networks, progress))
            pending.extendleft(reversed(batch))
            continue
        for (index, window), summands in zip(batch, found, strict=True):
            importance = _importance(window.shape)
            height, width = (part.stop - part.start for part in window.read)
            place: Any = (index, slice(None), *window.read)
            total[place] += (importance * summands)[:, :height, :width]
            if index == 0:
                weight[window.read] += importance[:height, :width]
        yield progress.advance(len(batch))
    return networks.mean_to_maps(total / weight)


def _overlapping(shape: tuple[int, int], side: int, networks: Networks) -> list[Tile]:
    """Return the windows of a frame; the last of a row and of a column ends where the frame does."""
    sides = [min(side, -(-length // networks.divisor) * networks.divisor) for length in shape]
    spans = []
    for length, one in zip(shape, sides, strict=True):
        step = max(int(one * (1 - networks.settings.overlap)), 1)
        starts = range(0, max(length - one, 0) + step, step)
        spans.append([slice(max(min(start, length - one), 0), min(start + one, length)) for start in starts])
    tiles = []
    for rows, columns in product(*spans):
        missing = (sides[0] - (rows.stop - rows.start), sides[1] - (columns.stop - columns.start))
        tiles.append(Tile((rows, columns), (rows, columns), missing))
    return tiles


def _importance(shape: tuple[int, int]) -> Images:
    """Return the weights (Y, X) of a window, a Gaussian around its middle."""
    rows, columns = (
        np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (WINDOW_SIGMA * n)) ** 2).astype(np.float32)
        for n in shape
    )
    return np.asarray(np.outer(rows, columns))


def by_name(maps: Images, map_channels: dict[str, int]) -> Maps:
    """Return the maps (maps, Y, X) of one image under their names, as views."""
    ends = np.cumsum(list(map_channels.values()))
    return dict(zip(map_channels, np.split(maps, ends[:-1]), strict=True))


def _windows(images: Images, batch: list[ImageTile]) -> Images:
    return stacked([pad(images[index][(slice(None), *tile.read)], tile) for index, tile in batch])


def stacked(images: Sequence[Images]) -> Images:
    """Return images (C, Y, X) of one size as one array (N, C, Y, X); a single one is not copied."""
    if len(images) == 1:
        return images[0][np.newaxis]
    return np.stack(images)


def _split_first(pending: deque[ImageTile], networks: Networks, shape: tuple[int, int]) -> int:
    """Cut the next tile where it is larger than the networks now take; return how many tiles that adds."""
    index, tile = pending[0]
    if tile.core_px <= max(networks.tile_px, networks.divisor):
        return 0
    pending.popleft()
    parts = split_tile(tile, networks.layout(shape))
    pending.extendleft((index, part) for part in reversed(parts))
    return len(parts) - 1


def _next_batch(pending: deque[ImageTile], networks: Networks) -> list[ImageTile]:
    batch = [pending.popleft()]
    shape = batch[0][1].shape
    longest = networks.batch_for(shape)
    while pending and len(batch) < longest and pending[0][1].shape == shape:
        batch.append(pending.popleft())
    return batch


def _ready(model: CellModel, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Return a copy of the network that is ready for inference.

    On the CPU it is that of the count before, as long as the weights are: to make one takes longer than to
    count a small image. The memory of a GPU is for whoever asks next.
    """
    if device.type != "cpu":
        return _inference_network(model, device)
    known = (_checksum(model.network), dtype)
    kept = _READY.get(model.network)
    if kept is None or kept[0] != known:
        network = _inference_network(model, device)
        if dtype in (torch.float32, choose_dtype(device)):
            network = fused(network, dtype)
        kept = _READY[model.network] = (known, network)
    return kept[1]


def _inference_network(model: CellModel, device: torch.device) -> nn.Module:
    """Return a copy of the network, made fast for inference, on this device."""
    network = model.inference_network().eval()
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _checksum(network: nn.Module) -> int:
    """Return a number that tells weights from others."""
    number = 0
    for weights in network.state_dict().values():
        number = zlib.crc32(weights.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), number)
    return number


def _check_same_kind(models: Sequence[CellModel]) -> None:
    kinds = {
        (spec.family, spec.in_channels, tuple(spec.map_channels.items()), spec.percentiles)
        for spec in (model.spec for model in models)
    }
    if len(kinds) != 1:
        raise SettingsError(
            "Models that count together must be of one family, with the same channels, maps and percentiles; "
            f"got {len(models)} models of {len(kinds)} kinds. Choose models that were trained alike."
        )
