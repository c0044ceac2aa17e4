"""What a model or a classifier is, without its network: the part that can be read without torch."""

import json
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import CheckpointError, ReadError, expecting
from cellwright.files.json_value import NO_JSON, JsonValue
from cellwright.models.registry import FAMILIES
from cellwright.ops.crops import Padding

SPEC, CLASSIFIER = "spec.json", "classifier.json"  # in the folder of a model that counts, of a classifier
SPEC_VERSION = 1  # of both
LEARNED_FACTOR = "learned_factor"  # option: true cells for each that a density holds, as learned from counts
LEAST_PX, MOST_PX = 1e-6, 100_000  # of any length in a spec
MAY_LACK = {"count_error": [], "tuned_diameter_px": 0.0}  # of models saved before there were such


Window = Literal["own", "typical", "pixels"]
"""What the window around a cell is measured in: the cell's own extent, that of the image's typical cell, or
pixels of the image."""


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
    tuned_diameter_px: float = 0.0  # of cells it was fine-tuned on outside that range; 0 for none
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


@dataclass(frozen=True, slots=True)
class ClassifierSpec:
    """The facts of a classifier that inference, widgets and tables need; ``classifier.json`` on disk."""

    preset: str  # which architecture
    title: str  # that lists show
    classes: tuple[str, ...]  # names, in the order of the network's outputs
    in_channels: int = 3  # channels the network takes; a grey image is repeated
    crop_px: int = 64  # height and width of a crop as the network sees it
    window: Window = "own"  # what the side of the window around a cell is measured in
    context: float = 1.5  # side of the window in that measure
    padding: Padding = "edge"  # what lies beyond the image
    diameter_px: float = 40.0  # extent of a cell where neither its box nor its area tells
    percentiles: tuple[float, float] = (0.5, 99.8)  # of an image, that become 0 and 1
    weights_sha256: str = ""  # checksum of the weights file; empty when there is none yet

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes) or "" in self.classes:
            raise CheckpointError(
                f"A classifier needs at least two classes that differ in name; got {self.classes}. Name "
                "each class once."
            )

    def sides(self, extents: NDArray[np.float32], typical_px: float) -> NDArray[np.float32]:
        """Return the side of the window around cells of these extents, in pixels (N,)."""
        measure = {"own": extents, "typical": np.full_like(extents, typical_px)}
        return np.float32(self.context) * measure.get(self.window, np.ones_like(extents))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"version": SPEC_VERSION, **asdict(self)}


def read_spec(path: Path) -> ModelSpec:
    """Return the spec stored at ``path``.

    CheckpointError where the file is missing, is no JSON, is of a newer version, or lacks a field.
    """
    options = {name for family in FAMILIES.values() for name in family.options}
    values = _read_values(path, "model", ModelSpec, may_have=options)
    try:
        return _from_json(JsonValue({**MAY_LACK, **values}, path), options & values.keys())
    except ReadError as error:
        raise CheckpointError(f"A field has the wrong type or value. {error}") from error


def read_classifier_spec(path: Path) -> ClassifierSpec:
    """Return the spec stored at ``path``.

    CheckpointError where the file is missing, is no JSON, is of a newer version, or a field is missing or of
    the wrong type.
    """
    node = JsonValue(_read_values(path, "classifier", ClassifierSpec), path)
    try:
        low, high = node.at("percentiles").numbers(2).tolist()
        return ClassifierSpec(
            preset=node.at("preset").text(),
            title=node.at("title").text(),
            classes=node.texts_at("classes"),
            in_channels=node.at("in_channels").whole(1),
            crop_px=node.at("crop_px").whole(1),
            window=node.at("window").one_of(get_args(Window)),
            context=node.at("context").number(),
            padding=node.at("padding").one_of(get_args(Padding)),
            diameter_px=node.at("diameter_px").number(),
            percentiles=(low, high),
            weights_sha256=node.at("weights_sha256").text(),
        )
    except ReadError as error:
        raise CheckpointError(f"A field has the wrong type or value. {error}") from error


def _read_values(path: Path, what: str, kind: type[Any], may_have: Set[str] = frozenset()) -> dict[str, Any]:
    """Return the fields of a spec, without its version; ``what`` it is of stands in errors.

    CheckpointError where the file is missing, is no JSON, is of another version, or has other fields than
    these dataclasses, ``MAY_LACK`` and ``may_have`` aside.
    """
    wanted, advice = f"a readable {path.name} at {path}", f"Choose a complete {what} folder."
    with expecting(CheckpointError, wanted, advice, OSError, *NO_JSON):
        content = json.loads(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    if isinstance(content, dict):
        values = content
    found = values.pop("version", None)
    if found != SPEC_VERSION:
        raise CheckpointError(
            f"Expected version {SPEC_VERSION} in {path}; got {found!r}. Update cellwright or the {what}."
        )
    known, given = {item.name for item in fields(kind)} - {"options"}, set(values)
    missing, unknown = sorted(known - MAY_LACK.keys() - given), sorted(given - known - may_have)
    if missing or unknown:
        raise CheckpointError(
            f"Fields of {path} do not fit: missing {missing}, unknown {unknown}. Save the {what} again with "
            "this version of cellwright."
        )
    return values


def _from_json(node: JsonValue, options: set[str]) -> ModelSpec:
    percentiles = _pair(node.at("percentiles"), 100)
    if percentiles[0] == percentiles[1]:  # which would spoil every count, silently
        raise node.at("percentiles").refuse("two different numbers")
    return ModelSpec(
        family=node.at("family").text(),
        preset=node.at("preset").text(),
        title=node.at("title").text(),
        in_channels=node.at("in_channels").whole(1),
        map_channels={name: n.whole(1) for name, n in node.at("map_channels").fields().items()},
        divisor=node.at("divisor").whole(1, MOST_PX),
        halo=node.at("halo").whole(0, MOST_PX),
        percentiles=percentiles,
        diameter_px=node.at("diameter_px").number(LEAST_PX, MOST_PX),
        diameter_range_px=_pair(node.at("diameter_range_px"), MOST_PX),
        classes=node.texts_at("classes"),
        weights_sha256=node.at("weights_sha256").text(),
        count_error=tuple(one.number() for one in node.rows_at("count_error")),
        tuned_diameter_px=node.at("tuned_diameter_px").number(0, MOST_PX),
        options={name: node.at(name).number() for name in options},
    )


def _pair(node: JsonValue, most: float) -> tuple[float, float]:
    """Return two numbers from 0 on, the smaller first."""
    ends = [one.number(0, most) for one in node.rows()]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise node.refuse("two numbers, the smaller first")
    return ends[0], ends[1]
