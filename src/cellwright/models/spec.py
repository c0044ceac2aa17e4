"""What a model is, without its network: the part that can be read without torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cellwright.core.errors import CheckpointError, ReadError
from cellwright.files.json_value import NO_JSON, JsonValue
from cellwright.models.registry import FAMILIES

SPEC_VERSION = 1
LEARNED_FACTOR = "learned_factor"  # option: true cells for each that a density holds, as learned from counts
LEAST_PX, MOST_PX = 1e-6, 100_000  # of any length in a spec
MAY_LACK = {"count_error": [], "tuned_diameter_px": 0.0}  # of models saved before there were such


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The facts of a model that inference, widgets and tables need; ``spec.json`` beside the weights."""

    family: str  # name in the registry
    preset: str  # which of its architectures
    title: str  # that lists show
    in_channels: int  # channels the network takes; a grey image is repeated
    map_channels: dict[str, int]  # name and channels of each map the network gives
    divisor: int  # height and width of a tile must be multiples of this
    halo: int  # pixels of context a tile needs on each side for its core not to depend on the tiling
    percentiles: tuple[float, float] = (0.5, 99.8)  # of an image, that become 0 and 1
    diameter_px: float = 24.0  # to which cells are brought when an image is rescaled
    diameter_range_px: tuple[float, float] = (8.0, 80.0)  # of cells that need no rescaling
    classes: tuple[str, ...] = ()  # names; empty when the model does not classify
    weights_sha256: str = ""  # checksum of the weights file; empty when there is none yet
    count_error: tuple[float, ...] = ()  # of bare counts, from ``fit_interval``; empty where not known
    tuned_diameter_px: float = 0.0  # of cells it was fine-tuned on outside of that range; 0 for none
    options: Mapping[str, float] = field(default_factory=dict)  # see ``Family.options``

    def without_counts(self) -> "ModelSpec":
        """Return the same without what was learned of counts, which other weights do not share."""
        options = {name: value for name, value in self.options.items() if name != LEARNED_FACTOR}
        return replace(self, count_error=(), options=options)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        values = {"version": SPEC_VERSION, **asdict(self)}
        options = values.pop("options")
        return {**values, **options}


def read_spec(path: Path) -> ModelSpec:
    """Return the spec stored at ``path``.

    CheckpointError where the file is missing, is no JSON, is of a newer version, or lacks a field.
    """
    values = read_values(path, SPEC_VERSION, "model")
    wanted = {item.name for item in fields(ModelSpec)} - {"options"}
    options = {name for family in FAMILIES.values() for name in family.options}
    given = set(values)
    missing, unknown = sorted(wanted - MAY_LACK.keys() - given), sorted(given - wanted - options)
    if missing or unknown:
        raise CheckpointError(
            f"Fields of {path} do not fit: missing {missing}, unknown {unknown}"
            ". Save the model again with this version of cellwright."
        )
    try:
        return _from_json(JsonValue({**MAY_LACK, **values}, path), options & given)
    except ReadError as error:
        raise CheckpointError(f"A field has the wrong type or value. {error}") from error


def read_values(path: Path, version: int, kind: str) -> dict[str, Any]:
    """Return the fields of a spec, without its version; ``kind`` says of what, for errors.

    CheckpointError where the file is missing, is no JSON, or is of another version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, *NO_JSON) as error:
        raise CheckpointError(
            f"Expected a readable {path.name} at {path}; got: {error}. Choose a complete {kind} folder."
        ) from error
    values: dict[str, Any] = {}
    if isinstance(content, dict):
        values = content
    found = values.pop("version", None)
    if found != version:
        raise CheckpointError(
            f"Expected version {version} in {path}; got {found!r}. Update cellwright or the {kind}."
        )
    return values


def _from_json(told: JsonValue, options: set[str]) -> ModelSpec:
    percentiles = _pair(told.at("percentiles"), 100)
    if percentiles[0] == percentiles[1]:  # which would spoil every count, silently
        raise told.at("percentiles").refuse("two different numbers")
    return ModelSpec(
        family=told.at("family").text(),
        preset=told.at("preset").text(),
        title=told.at("title").text(),
        in_channels=told.at("in_channels").whole(1),
        map_channels={name: n.whole(1) for name, n in told.at("map_channels").fields().items()},
        divisor=told.at("divisor").whole(1, MOST_PX),
        halo=told.at("halo").whole(0, MOST_PX),
        percentiles=percentiles,
        diameter_px=told.at("diameter_px").number(LEAST_PX, MOST_PX),
        diameter_range_px=_pair(told.at("diameter_range_px"), MOST_PX),
        classes=told.texts_at("classes"),
        weights_sha256=told.at("weights_sha256").text(),
        count_error=tuple(one.number() for one in told.rows_at("count_error")),
        tuned_diameter_px=told.at("tuned_diameter_px").number(0, MOST_PX),
        options={name: told.at(name).number() for name in options},
    )


def _pair(node: JsonValue, most: float) -> tuple[float, float]:
    """Return two numbers from 0 on, the smaller first."""
    ends = [one.number(0, most) for one in node.rows()]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise node.refuse("two numbers, the smaller first")
    return ends[0], ends[1]
