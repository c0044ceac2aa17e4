"""What counting one image needs: networks, pixels, scaling and settings, and the blocks it is cut into.

An image larger than memory is predicted and decoded block by block; every other image is one block.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Self

from cellwright.core.data import Cells, Image, Maps
from cellwright.core.errors import OutOfMemoryError, SettingsError
from cellwright.core.tasks import Progress, Task
from cellwright.files.zarr import missing_chunks
from cellwright.inference.device import is_out_of_memory
from cellwright.inference.predictor import Networks, TileProgress, by_name, predict_maps, stacked
from cellwright.inference.settings import EngineSettings
from cellwright.models import registry, store
from cellwright.models.fit import FactCollector, FitCalibration
from cellwright.models.protocol import CellModel
from cellwright.models.spec import ModelSpec
from cellwright.ops.codecs.pseudocolor import PseudocolorFrames
from cellwright.ops.geometry.axes import (
    MOST_COLOURS,
    Frames,
    in_lit_colour,
    in_one_colour,
    middle_window,
    with_colours_apart,
)
from cellwright.ops.geometry.intensity import Scaling, apply, fit_compressed, grain, unknown
from cellwright.ops.geometry.resample import Grid, resize_window
from cellwright.ops.geometry.tiles import Layout, Tile, Window, grid, padded, whole_tile
from cellwright.ops.labels import n_touching, seem_labels

ModelChoice = str | Path | CellModel
ModelChoices = ModelChoice | tuple[ModelChoice, ...]

WHOLE_PX = 4096  # a frame up to this long is one block, whose maps can be kept
BLOCK_PX = 2048  # a longer one is cut as one larger than memory is, so that both find the same cells
LARGEST_CELL = 3.0  # times the model's diameter: cells up to this size are whole in some block
TOO_WIDE = (
    "Cells of {:g} px, as the diameter was set, do not fit into an image whose shorter side has {} px. "
    "Set it to that of a cell."
)
TINY = (
    "The image has {} x {} px, and the smallest cells that the model knows are {:g} px wide; its count "
    "says little."
)
LABELS = (
    "The pixels of {!r} look like labels of cells that are outlined already; they were counted as an image. "
    "To count the labels: cellwright convert FILE --to labels --output labels.tif, or Convert to Labels in "
    "napari and open Results."
)
LOOKED_AT_PX = 1024  # side of the window in the middle of an image in which labels are known
COMPRESSED_PX = 512  # likewise, in which the edges of compressed blocks are


@dataclass(frozen=True, slots=True)
class BlockBatch:
    """What is read, predicted and decoded at once: one block of one frame, or several small frames."""

    frames: range
    block: Tile

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X) of what is read of each frame, in pixels of the image."""
        rows, columns = self.block.read
        return rows.stop - rows.start, columns.stop - columns.start


class Predicted(NamedTuple):
    """The maps of each frame of a batch in model pixels, and what was decoded from them in image pixels.

    ``n_cut`` tells how many cells of each may be cut by pixels without a value; empty where there are none.
    """

    maps: list[Maps]
    decoded: list[Any]
    n_cut: tuple[int, ...] = ()


class Preparation(NamedTuple):
    """What all parts of an image are counted with."""

    scaling: Scaling  # of its intensities, to those the networks know
    zoom: float  # model pixels per image pixel
    networks: Networks | None = None  # made once for all and let go of by their maker; None: one a part
    channels: tuple[Scaling, ...] = ()  # the scaling of each, where several are combined
    n_places: int = 0  # of the image that the zoom was estimated at; 0 where these were all of it
    colouring: Scaling | None = None  # of slices before their neighbours colour them, where these do
    channel: int | None = None  # the only one that is looked at; None for three colours


class KnownPart(NamedTuple):
    """What is known of a part of an image before it is counted."""

    preparation: Preparation  # of the whole
    within: tuple[tuple[int, int], Window] | None = None  # (Y, X) of the whole, and where in it the part lies
    maps: Maps | None = None  # where they are there already
    facts: FactCollector | None = None  # takes what the part tells of how well it was counted


@dataclass(frozen=True, slots=True)
class CountContext:
    """What counting one image needs."""

    frames: Frames  # what of the image the network sees
    scaling: Scaling  # from its intensities to those the network knows
    networks: Networks  # on their device
    settings: Any  # of the models' family
    engine: EngineSettings  # how the networks run, the diameter in pixels
    zoom: float | None = None  # model pixels per image pixel; None where it is to be estimated
    block_px: int = 0  # longest side of a block; 0 takes what suits an image that is counted in memory
    channels: tuple[Scaling, ...] = ()  # the scaling of each, where several are combined
    known: KnownPart | None = None  # before, where this is a part of another image

    def prepared(self, zoom: float, n_places: int = 0) -> Preparation:
        """Return what all parts of the image are to be counted with."""
        preparation = Preparation(self.scaling, zoom, channels=self.channels, n_places=n_places)
        if isinstance(self.frames, PseudocolorFrames):
            preparation = preparation._replace(colouring=self.frames.scaling)
        if isinstance(self.frames.channel, int):
            preparation = preparation._replace(channel=self.frames.channel)
        return preparation

    def in_one_colour(self, only: int) -> Self:
        """Return what counting one colour of the image needs."""
        frames = in_one_colour(self.frames, only)
        return replace(self, frames=frames, scaling=scaling_of(frames, self.spec))

    @property
    def model(self) -> CellModel:
        """The first of the models; all are of one family."""
        return self.networks.models[0]

    @property
    def spec(self) -> ModelSpec:
        """The facts of that model."""
        return self.networks.spec

    @property
    def family(self) -> registry.Family:
        """The family of the models."""
        return registry.get(self.spec.family)

    @property
    def calibration(self) -> FitCalibration | None:
        """What tells how well the models do, if anything."""
        return calibration_of(self.networks.models, self.settings)

    def notices(self, image: Image) -> tuple[str, ...]:
        """Return what the user should know of the image before its cells: what was guessed, and left out."""
        notices = list(image.notices)
        if _holds_labels(image):
            notices.append(LABELS.format(image.name))
        stated, side = self.engine.diameter_px, min(self.frames.shape)
        smallest = self.spec.diameter_range_px[0]
        if stated > side:
            notices.append(TOO_WIDE.format(stated, side))
        elif not stated and side < smallest and not self.is_blank:
            notices.append(TINY.format(*self.frames.shape, smallest))
        return (*notices, self.frames.notice, self.scaling.notice, missing_chunks(image.data))

    @property
    def is_blank(self) -> bool:
        """Whether the image has one intensity throughout, and so no cells."""
        return self.scaling.is_flat

    def batches(self, zoom: float) -> tuple[BlockBatch, ...]:
        """Return the parts of the image to predict one after another at this zoom, frame by frame."""
        n_frames, shape = len(self.frames), self.frames.shape
        whole_px, block_px = self.block_px or WHOLE_PX, self.block_px or BLOCK_PX
        blocks = grid(block_layout(shape, self.networks, zoom, whole_px, block_px))
        whole = whole_tile(shape)
        if any(block.read == whole.read for block in blocks):  # as of large cells: to cut would save nothing
            blocks = (whole,)
        n_together = self.networks.batch_for(shape) if len(blocks) == 1 and zoom == 1.0 else 1
        return tuple(
            BlockBatch(range(start, min(start + n_together, n_frames)), block)
            for start in range(0, n_frames, n_together)
            for block in blocks
        )

    def progress(self, batches: Sequence[BlockBatch], zoom: float) -> TileProgress:
        """Return a count of the tiles that the network takes for these batches."""
        stage, n_tiles = "tiles", 0
        if zoom != 1.0:
            stage = "rescaled tiles"
        for batch in batches:
            tiles = grid(self.networks.layout(self.grid_of(batch, zoom).shape))
            n_tiles += len(batch.frames) * len(tiles)
        return TileProgress(stage, n_tiles)

    def predict(self, batch: BlockBatch, zoom: float, progress: TileProgress) -> Task[list[Maps]]:
        """Return the maps of each frame of a batch, in model pixels; what was read of the image is let go."""
        if self.known is not None and self.known.maps is not None and batch.shape == self.frames.shape:
            return [self.known.maps]
        if not progress.done:
            yield Progress(progress.stage, 0, progress.total)  # the first tile may take seconds
        resized = self.grid_of(batch, zoom)
        images = stacked([self._read(frame, batch.block, resized) for frame in batch.frames])
        maps = yield from predict_maps(images, self.networks, progress)
        return [by_name(one, self.spec.map_channels) for one in maps]

    def decode(self, batch: BlockBatch, zoom: float, progress: TileProgress) -> Task[Predicted]:
        """Return the maps of a batch and what they hold, in pixels of the image."""
        maps = yield from self.predict(batch, zoom, progress)
        yield Progress(progress.stage, progress.done, progress.total, note="finding cells")
        resized = self.grid_of(batch, zoom)
        decoded = [self.model.decode(one, batch.shape, self.settings, resized) for one in maps]
        return Predicted(maps, decoded, self._n_cut(batch, decoded))

    def _n_cut(self, batch: BlockBatch, decoded: Sequence[Any]) -> tuple[int, ...]:
        if not self.scaling.missing:
            return ()
        numbers = []
        for frame, one in zip(batch.frames, decoded, strict=True):
            labels = one.labels if isinstance(one, Cells) else None
            n_cut = 0
            if labels is not None:
                n_cut = n_touching(labels, unknown(self.frames.read(frame, batch.block.read)))
            numbers.append(n_cut)
        return tuple(numbers)

    def grid_of(self, batch: BlockBatch, zoom: float) -> Grid:
        """Return how a batch is resized: as a part of the image that it was read from."""
        if zoom == 1.0:
            return Grid.of(batch.shape, batch.shape)
        whole, own = self.frames.shape, whole_tile(self.frames.shape).read
        if self.known is not None and self.known.within is not None:
            whole, own = self.known.within
        pairs = zip(own, batch.block.read, strict=True)
        window = tuple(slice(part.start + read.start, part.start + read.stop) for part, read in pairs)
        return Grid.of_window(whole, window, zoom, self.networks.divisor)

    def _read(self, frame: int, block: Tile, resized: Grid) -> Any:
        wide = padded(block.read, self.scaling.background // 2, self.frames.shape)
        rows, columns = Tile(block.read, wide).local
        pixels = apply(self.scaling, self.frames.read(frame, wide))[..., rows, columns]
        if self.scaling.grain:
            pixels += self.scaling.grain * grain(*block.read)
        return resize_window(pixels, resized)


def block_layout(
    shape: tuple[int, int], networks: Networks, zoom: float, longest_whole: int, block_px: int
) -> Layout:
    """Return how a frame (Y, X) is cut into blocks that are read with context for the network and a cell.

    ``shape`` is in pixels of the image, ``zoom`` in pixels of the model per pixel of the image. A frame up to
    ``longest_whole`` long, measured as it will be once it is enlarged, is one block; the blocks of a longer
    one are ``block_px`` long, likewise.
    """
    enlarged, in_model_px = max(zoom, 1.0), networks.halo
    if zoom != 1.0:
        in_model_px += networks.divisor  # see Grid.of_window
    longest = longest_whole if max(shape) * enlarged <= longest_whole else block_px
    return Layout(
        shape=shape,
        core=int(longest / enlarged),
        halo=ceil((in_model_px + LARGEST_CELL * networks.spec.diameter_px) / zoom),
        divisor=networks.divisor,
    )


def in_seam_order(batches: Sequence[BlockBatch]) -> list[BlockBatch]:
    """Return batches in the order of streams: of cells that meet at a seam the first keeps its pixels."""
    height, width = (core.stop - core.start for core in batches[0].block.core)

    def turn(batch: BlockBatch) -> tuple[int, int, int]:
        rows, columns = batch.block.core
        return batch.frames.start, rows.start // height % 2, columns.start // width % 2

    return sorted(batches, key=turn)


@contextmanager
def open_context(
    image: Image,
    models: tuple[CellModel, ...],
    settings: Any,
    engine: EngineSettings,
    known: KnownPart | None = None,
) -> Iterator[CountContext]:
    """Give the context of counting an image; lets go of the networks it made, however the count ends.

    Without ``settings`` the defaults of the family hold. For a part of another image ``known`` tells how the
    whole was prepared.

    CellwrightError where the image, a model or a setting does not fit, or memory ran out; says what to do.
    """
    settings = _settings_of(models[0], settings, engine)
    _check_colours(models[0], engine)
    preparation = known.preparation if known else None
    seen = engine.seen(image, preparation.channels if preparation else ())
    frames = models[0].frames(seen.image, seen.channel)
    if seen.notice:
        frames = replace(frames, notice=seen.notice)
    frames = _as_prepared(frames, preparation)
    in_pixels = engine.in_pixels(image.known_sizes_um)
    prepared = preparation or Preparation(scaling_of(frames, models[0].spec), 1.0)
    zoom = prepared.zoom if preparation else None  # which is to be estimated
    try:
        lent = nullcontext(prepared.networks) if prepared.networks else closing(Networks(models, engine))
        with lent as networks:
            yield CountContext(
                frames=frames,
                scaling=prepared.scaling,
                networks=networks,
                settings=settings,
                engine=in_pixels,
                zoom=zoom,
                channels=seen.scalings,
                known=known,
            )
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"The model and the maps of an image of shape {image.shape} must fit into memory; they do not. "
            "Count a part of it, or close other programs."
        ) from error


def scaling_of(frames: Frames, spec: ModelSpec) -> Scaling:
    """Return how the intensities of frames are brought to those that a model knows."""
    middle = frames.middle(len(frames) // 2, COMPRESSED_PX)
    return fit_compressed(frames.sample(), spec.percentiles, middle)


def _as_prepared(frames: Frames, preparation: Preparation | None) -> Frames:
    """Return frames that are looked at as those of the whole image are."""
    if isinstance(frames, PseudocolorFrames):
        return replace(frames, scaling=preparation.colouring) if preparation else frames
    if preparation is None:
        frames = in_lit_colour(frames)
    elif preparation.channel is not None and isinstance(frames.channel, slice):
        frames = in_one_colour(frames, preparation.channel)
    return with_colours_apart(frames)


def _settings_of(model: CellModel, settings: Any, engine: Any) -> Any:
    """Return the settings of a count, the defaults of the family where there are none, checked by kind."""
    kind = registry.get(model.spec.family).settings
    if settings is None:
        settings = kind()
    for one, wanted in ((settings, kind), (engine, EngineSettings)):
        if not isinstance(one, wanted):
            raise SettingsError(f"{model.spec.family} is set by {wanted.__name__}; got {one!r}.")
    return settings


def _check_colours(model: CellModel, engine: EngineSettings) -> None:
    """Raise SettingsError where channels are to be colours and a model sees none."""
    if not engine.channels or engine.combine != "colours":
        return
    if model.spec.in_channels < MOST_COLOURS or model.needs_volumes:
        raise SettingsError(
            f"Channels as colours need a model that sees colours; {model.spec.family} does not. Combine them "
            "by maximum or mean, or choose flow."
        )


def load_models(model: ModelChoices) -> tuple[CellModel, ...]:
    """Return the models of these names, folders or models.

    SettingsError where there is none, or something else is among them.
    """
    chosen = _as_tuple(model)
    wrong = [one for one in chosen if not isinstance(one, str | Path) and not hasattr(one, "spec")]
    if wrong or not chosen:
        raise SettingsError(
            f"A model is a name that `cellwright models` lists, a folder, or a tuple of these; got {model!r}."
        )
    return tuple(store.load(one) if isinstance(one, str | Path) else one for one in chosen)


def calibration_of(models: Sequence[CellModel], settings: Any) -> FitCalibration | None:
    """Return what tells how well models do; None where that was never compared with the truth.

    That is so for several models together, and for a density that was calibrated by hand.
    """
    is_corrected = getattr(settings, "calibration", 1.0) != 1.0
    return models[0].fit if len(models) == 1 and not is_corrected else None


def references_of(model: ModelChoices) -> list[str]:
    """Return by what each of these models can be loaded again: the name or folder that was given."""
    names = []
    for choice in _as_tuple(model):
        if isinstance(choice, str | Path):
            names.append(str(choice))
        else:
            names.append(f"{choice.spec.family}-{choice.spec.preset}")
    return names


def _as_tuple(model: ModelChoices) -> tuple[ModelChoice, ...]:
    if isinstance(model, tuple | list):
        return tuple(model)
    return (model,)


def _holds_labels(image: Image) -> bool:
    """Return whether the plane in the middle of an image without channels is one of labels."""
    if image.label_axes != image.axes:
        return False
    place = [n // 2 for n in image.shape[:-2]]
    return seem_labels(image.read((*place, *middle_window(image.shape[-2:], LOOKED_AT_PX))))
