"""What a user may set for the engine; torch-free, so that forms and flags can be made from it at once."""

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cellwright.core.errors import SettingsError
from cellwright.core.settings import check_bounds

Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the network runs over an image."""

    device: Annotated[
        str, {"tooltip": "Where the network runs: auto, cpu, cuda, cuda:1 (and so on) or mps."}
    ] = "auto"
    channel: Annotated[
        int | None,
        {"min": 0, "tooltip": "Channel to count in, from 0; empty takes colours together, else the first."},
    ] = None
    diameter_px: Annotated[
        float,
        {"min": 0.0, "max": 5000.0, "tooltip": "Typical cell diameter in pixels; 0 has it estimated."},
    ] = 0.0
    flips: Annotated[
        bool, {"tooltip": "Average the network over mirrored images: steadier, three times slower."}
    ] = False
    link: Annotated[
        bool, {"tooltip": "Join the outlines in neighbouring slices of a volume to cells in 3D."}
    ] = True
    tile_px: Annotated[
        int,
        {"min": 128, "max": 16384, "tooltip": "Longest side of what the network takes at once, in pixels."},
    ] = 2048
    batch_size: Annotated[
        int,
        {"min": 0, "max": 256, "tooltip": "Tiles the network takes at once; 0 chooses by their size."},
    ] = 0
    precision: Annotated[
        Precision, {"tooltip": "Number type of the network; auto takes half precision where it is faster."}
    ] = "auto"

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.precision not in get_args(Precision):
            raise SettingsError(f"precision must be one of {get_args(Precision)}; got {self.precision!r}.")
