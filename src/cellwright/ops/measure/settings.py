"""What a user may set for measurements, tracks and a whole analysis; forms and flags are made from it."""

from dataclasses import dataclass
from typing import Annotated

from cellwright.core.settings import BoundedSettings, about, check_bounds, to_tuples
from cellwright.ops.measure.columns import keys_of
from cellwright.ops.measure.filters import BorderRule, parse_filter, parse_marker
from cellwright.ops.measure.regions import RegionRule

# fields that several settings have
RingGap = Annotated[float, about("Pixels between a cell and its ring of background.", 0.0, 1000.0)]
RingWidth = Annotated[float, about("Width of the ring of background, in pixels.", 0.5, 1000.0)]
TrackDistance = Annotated[
    float, about("Farthest a cell may move from frame to frame; 0 uses its diameter.", 0.0, 10_000.0)
]
TrackGap = Annotated[int, about("Frames in which a tracked cell may be missing.", 0, 100)]
Divisions = Annotated[bool, about("Let tracked cells divide.")]
FrameInterval = Annotated[
    float, about("Seconds from frame to frame, for speeds; 0 uses what the file gives.", 0.0)
]


@dataclass(frozen=True, slots=True)
class MeasureSettings:
    """What is measured."""

    measure: Annotated[
        tuple[str, ...], about("What is measured: groups (shape, intensity, neighbours) or columns.")
    ] = ("shape", "intensity")
    ring_gap_px: RingGap = 2.0
    ring_width_px: RingWidth = 5.0

    def __post_init__(self) -> None:
        to_tuples(self, "measure")
        check_bounds(self)
        keys_of(self.measure)


@dataclass(frozen=True, slots=True)
class TrackSettings(BoundedSettings):
    """How cells are linked over time."""

    max_distance_px: TrackDistance = 0.0
    max_gap: TrackGap = 1
    divisions: Divisions = True
    frame_interval_s: FrameInterval = 0.0


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    """What is measured, and which cells count."""

    measure: Annotated[
        tuple[str, ...],
        about("What to measure: shape, intensity, neighbours or columns; separate several by commas."),
    ] = ()
    ring_gap_px: RingGap = 2.0
    ring_width_px: RingWidth = 5.0
    region_rule: Annotated[
        RegionRule,
        about("Cells that count in a region: those with their centre, any pixel or all pixels inside."),
    ] = "centre"
    border: Annotated[
        BorderRule, about("Cells at the border: count all, drop them, or drop those on two of the edges.")
    ] = "all"
    keep: Annotated[
        tuple[str, ...],
        about("Count only cells for which this is true, such as 'area_um2>=20' or 'class=WBC'."),
    ] = ()
    positive: Annotated[
        tuple[str, ...],
        about("Marker-positive cells, such as '2>otsu' or '1>350': channel (from 0) and threshold."),
    ] = ()
    cytoplasm_px: Annotated[
        float, about("Width of the ring used as the cytoplasm of nuclei; 0 for none.", 0.0, 1000.0)
    ] = 0.0
    track: Annotated[bool, about("Link the cells of a time series to tracks.")] = False
    track_distance_px: TrackDistance = 0.0
    track_gap: TrackGap = 1
    divisions: Divisions = True
    frame_interval_s: FrameInterval = 0.0

    def __post_init__(self) -> None:
        to_tuples(self, "measure", "keep", "positive")
        check_bounds(self)
        parts = [part.strip() for text in self.measure for part in text.split(",")]
        object.__setattr__(self, "measure", tuple(part for part in parts if part))
        keys_of(self.measure)
        for rule in self.keep:
            parse_filter(rule)
        for rule in self.positive:
            parse_marker(rule)

    @property
    def measuring(self) -> MeasureSettings:
        """What is measured, with what the rules for positive cells need."""
        wanted = list(self.measure)
        if self.positive:
            wanted.append("intensity_mean")
        return MeasureSettings(tuple(dict.fromkeys(wanted)), self.ring_gap_px, self.ring_width_px)

    @property
    def tracking(self) -> TrackSettings:
        """How cells are linked over time."""
        return TrackSettings(self.track_distance_px, self.track_gap, self.divisions, self.frame_interval_s)
