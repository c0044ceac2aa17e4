"""What a user may set for the engine; torch-free, so that forms and flags can be made from it at once."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from math import sqrt
from numbers import Integral
from typing import Annotated, Any, Literal

from cellwright.core.data import Image
from cellwright.core.errors import SettingsError, repeated
from cellwright.core.settings import BoundedSettings, about, check_bounds, to_tuples
from cellwright.ops.geometry.axes import Combination, Seen, combined
from cellwright.ops.geometry.intensity import Scaling

BYTES = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
LARGE_PIXELS = 150_000_000  # labels of more are written block by block
IMAGE_NAME = "{name}"  # in the path of an input: the name of the image without its ending
Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the network runs over an image."""

    device: Annotated[str, about("Where the network runs: auto, cpu, cuda, cuda:1 (and so on) or mps.")] = (
        "auto"
    )
    channel: Annotated[
        int | None, about("Channel to count in, from 0; empty uses colours together, otherwise the first.", 0)
    ] = None
    channels: Annotated[
        tuple[str, ...],
        about("Channels to count in together, by number from 0 or by name, such as 1,2 or DAPI,GFP."),
    ] = ()
    combine: Annotated[
        Combination, about("How channels become one image: their maximum or mean, or as colours.")
    ] = "maximum"
    diameter_px: Annotated[float, about("Typical cell diameter in pixels; 0 estimates it.", 0.0, 5000.0)] = (
        0.0
    )
    diameter_um: Annotated[
        float,
        about(
            "Typical cell diameter in µm, where the pixel size is known; 0 when it is not given.",
            0.0,
            100_000.0,
        ),
    ] = 0.0
    flips: Annotated[
        bool, about("Average the network over mirrored images: steadier, three times slower.")
    ] = False
    overlap: Annotated[
        float,
        about(
            "Share by which windows of 512 pixels overlap, averaged with Gaussian weights; "
            "0.6 as published for MEDIAR; 0 cuts tiles with a margin, which is several times faster.",
            0.0,
            0.9,
        ),
    ] = 0.0
    link: Annotated[bool, about("Link the outlines in neighbouring slices of a volume into 3D cells.")] = True
    tile_px: Annotated[int, about("Longest side of the tiles the network takes, in pixels.", 128, 16384)] = (
        2048
    )
    batch_size: Annotated[int, about("Tiles the network takes at once; 0 chooses by their size.", 0, 256)] = 0
    precision: Annotated[
        Precision, about("Precision of the network's numbers; auto takes half precision where it is faster.")
    ] = "auto"

    def __post_init__(self) -> None:
        to_tuples(self, "channels")
        if isinstance(self.channels, tuple):  # numbers are told as texts, as names are
            texts = tuple(str(one) if isinstance(one, Integral) else one for one in self.channels)
            object.__setattr__(self, "channels", texts)
        check_bounds(self)
        if self.channels and self.channel is not None:
            raise SettingsError(
                f"Cells are counted in one channel or in several; got channel {self.channel} and channels "
                f"{', '.join(self.channels)}. Leave one of them out."
            )
        if self.diameter_px and self.diameter_um:
            raise SettingsError(
                f"The diameter is given in pixels or in µm; got {self.diameter_px:g} px and "
                f"{self.diameter_um:g} µm. Leave one of them 0."
            )

    def in_pixels(self, sizes_um: Mapping[str, float]) -> "EngineSettings":
        """Return the same with the diameter in pixels.

        ``sizes_um`` are micrometres per pixel of each axis of the image whose size is known.

        SettingsError where it is in micrometres, and the image does not tell the size of its pixels.

        Examples
        --------
        >>> EngineSettings(diameter_um=13.0).in_pixels({"Y": 0.65, "X": 0.65}).diameter_px
        20.0
        """
        if not self.diameter_um:
            return self
        pixel_um = pixel_um_of(sizes_um)
        if not pixel_um:
            raise SettingsError(
                f"A diameter of {self.diameter_um:g} µm needs the pixel size, which this image does not "
                "give. Give the diameter in pixels, or the pixel size (--pixel-size)."
            )
        return replace(self, diameter_px=self.diameter_um / pixel_um, diameter_um=0.0)

    def seen(self, image: Image, scalings: Sequence[Scaling] = ()) -> Seen:
        """Return what of an image is counted in.

        ``scalings`` are those of the image that this one is a part of; see
        ``ops.geometry.axes.combined``.

        SettingsError where the image does not have the channels.
        """
        if not self.channels:
            return Seen(image, self.channel)
        return combined(image, self.channels, self.combine, scalings)

    @property
    def facts(self) -> dict[str, Any]:
        """What of them a count depends on, for a fingerprint."""
        return asdict(replace(self, device="auto"))


def pixel_um_of(sizes_um: Mapping[str, float]) -> float:
    """Return the side of the square as large as a pixel in the plane, in micrometres; 0 when not known."""
    return sqrt(sizes_um.get("Y", 0.0) * sizes_um.get("X", 0.0))


def named(paths: Iterable[str], name: str) -> tuple[str, ...]:
    """Return paths for an image of this name."""
    return tuple(path.replace(IMAGE_NAME, name) for path in paths)


@dataclass(frozen=True, slots=True)
class InputFiles:
    """Files that an analysis takes besides the image; ``{name}`` in a path is the name of the image."""

    regions: Annotated[
        tuple[str, ...],
        about(
            "File of regions to count in: GeoJSON, ImageJ ROIs or a label image. May be repeated. "
            "Those named 'exclude ...' are cut out."
        ),
    ] = ()
    exclude: Annotated[tuple[str, ...], about("File of regions to leave out. May be repeated.")] = ()
    mask: Annotated[str, about("Image file: count only where its pixels are not 0.")] = ""
    outside: Annotated[bool, about("Count where the image of --mask is 0 instead.")] = False
    outside_mask: Annotated[str, about("Image file: count only where its pixels are 0.")] = ""
    nuclei: Annotated[str, about("Label image of the nuclei of the cells that are counted.")] = ""
    other: Annotated[
        tuple[str, ...], about("Further image to measure the intensity in, as NAME=FILE. May be repeated.")
    ] = ()

    def __post_init__(self) -> None:
        to_tuples(self, "regions", "exclude", "other")
        check_bounds(self)
        if self.outside and not self.mask:
            raise SettingsError("--outside needs a mask; there is none. Name its image file by --mask.")
        wrong = [text for text in self.other if not all(text.partition("=")[::2])]
        if wrong:
            raise SettingsError(f"A further image is given as NAME=FILE; got {wrong[0]!r}.")
        twice = repeated(text.partition("=")[0] for text in self.other)
        if twice:
            raise SettingsError(
                f"Further images must differ in name; {twice[0]!r} is given twice. Rename one."
            )

    def of_image(self, name: str) -> "InputFiles":
        """Return the files of an image of this name."""
        mask, outside_mask, nuclei = named((self.mask, self.outside_mask, self.nuclei), name)
        return replace(
            self,
            regions=named(self.regions, name),
            exclude=named(self.exclude, name),
            mask=mask,
            outside_mask=outside_mask,
            nuclei=nuclei,
            other=named(self.other, name),
        )


@dataclass(frozen=True, slots=True)
class FolderSettings(BoundedSettings):
    """Which images of folders are counted."""

    pattern: Annotated[str, about("File names in folders must match it, e.g. *_DAPI.tif.")] = "*"
    plate: Annotated[str, about("How file names give plate, well and site, e.g. {plate}/{well}_s{site}.")] = (
        ""
    )
    watch: Annotated[
        bool, about("Keep counting images that a microscope adds to the folders, until Ctrl-C.")
    ] = False


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How an image larger than memory is counted."""

    stream: Annotated[
        bool, about("Count block by block in constant memory into --output; large images are anyway.")
    ] = False
    memory: Annotated[
        str, about("Memory a block may take while an image is counted block by block, e.g. 2GB.")
    ] = "2GB"
    workers: Annotated[int, about("Processes on this machine that share the blocks.", 1, 256)] = 1
    scheduler: Annotated[
        str, about("Address of a dask cluster that shares the blocks, e.g. tcp://10.0.0.1:8786.")
    ] = ""

    def __post_init__(self) -> None:
        check_bounds(self)
        if not 0 < self.memory_bytes < 1e15:
            raise SettingsError(f"memory must be a number of MB or GB, e.g. 2GB; got {self.memory!r}.")

    @property
    def memory_bytes(self) -> float:
        """Bytes that a block may take; 0 where the text names no size."""
        match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]?)i?B?\s*", self.memory, re.IGNORECASE)
        if match is None:
            return 0.0
        number, unit = match.groups()
        try:
            return float(number) * BYTES[unit.upper()]
        except ValueError:
            return 0.0


@dataclass(frozen=True, slots=True)
class FlagRule:
    """What settings, or flags of a command, need to do anything; names, or words that stand for more."""

    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()  # one of these has to be given, too
    without: tuple[str, ...] = ()  # none of these may be given

    def is_idle(self, there: Set[str]) -> bool:
        """Return whether the flags do nothing beside what is there."""
        is_alone = bool(self.needs) and there.isdisjoint(self.needs)
        return is_alone or not there.isdisjoint(self.without)


ENGINE_RULES = (FlagRule(("combine",), needs=("channels",)),)
COUNT_RULES = (
    *ENGINE_RULES,
    FlagRule(("combine",), without=("each_channel",)),
    FlagRule(("ring_gap_px", "ring_width_px"), needs=("measure",)),
    FlagRule(("other",), needs=("measure", "positive")),
    FlagRule(("cytoplasm_px",), needs=("measure", "positive"), without=("nuclei",)),
    FlagRule(("region_rule",), needs=("regions", "exclude", "mask", "outside_mask")),
    FlagRule(("track_distance_px", "track_gap", "divisions", "frame_interval_s"), needs=("track",)),
    FlagRule(("workers",), without=("scheduler",)),
)
