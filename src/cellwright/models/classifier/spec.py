"""What a classifier is, without its network, and where classifiers live. Imports no torch.

A classifier is a folder like a model's, but its spec is ``classifier.json``: no list of models that count
takes it for one.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellwright.core.errors import CheckpointError, ReadError
from cellwright.files.json_value import JsonValue
from cellwright.models import store
from cellwright.models.spec import read_values
from cellwright.ops.crops import Padding

CLASSIFIER = store.CLASSIFIER
SPEC_VERSION = 1

Window = Literal["own", "typical", "pixels"]
"""What the window around a cell is measured in: the cell's own extent, that of the image's typical cell, or
pixels of the image."""


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
                f"A classifier needs at least two classes with names of their own; got {self.classes}. Name "
                "each class once."
            )

    def sides(self, extents: NDArray[np.float32], typical_px: float) -> NDArray[np.float32]:
        """Return the side of the window around cells of these extents, in pixels (N,)."""
        measure = {"own": extents, "typical": np.full_like(extents, typical_px)}
        sides: NDArray[np.float32] = np.float32(self.context) * measure.get(
            self.window, np.ones_like(extents)
        )
        return sides

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {"version": SPEC_VERSION, **asdict(self)}


@dataclass(frozen=True, slots=True)
class ClassifierEntry:
    """A classifier that can be chosen by name."""

    name: str
    folder: Path
    spec: ClassifierSpec


def read_classifier_spec(path: Path) -> ClassifierSpec:
    """Return the spec stored at ``path``.

    CheckpointError where the file is missing, is no JSON, is of a newer version, or a field is missing or of
    the wrong type.
    """
    values = read_values(path, SPEC_VERSION, "classifier")
    wanted = {item.name for item in fields(ClassifierSpec)}
    if wanted != set(values):
        raise CheckpointError(
            f"Fields of {path} do not fit: missing {sorted(wanted - set(values))}, unknown "
            f"{sorted(set(values) - wanted)}. Train the classifier again with this version of cellwright."
        )
    told = JsonValue(values, path)
    try:
        low, high = told.at("percentiles").numbers(2).tolist()
        return ClassifierSpec(
            preset=told.at("preset").text(),
            title=told.at("title").text(),
            classes=told.texts_at("classes"),
            in_channels=told.at("in_channels").whole(1),
            crop_px=told.at("crop_px").whole(1),
            window=told.at("window").one_of(get_args(Window)),
            context=told.at("context").number(),
            padding=told.at("padding").one_of(get_args(Padding)),
            diameter_px=told.at("diameter_px").number(),
            percentiles=(low, high),
            weights_sha256=told.at("weights_sha256").text(),
        )
    except ReadError as error:
        raise CheckpointError(f"A field has the wrong type or value. {error}") from error


def classifiers() -> list[ClassifierEntry]:
    """Return every complete classifier; a user's own hides a shipped one of the same name."""
    found = store.shelved(CLASSIFIER, read_classifier_spec)
    return [ClassifierEntry(folder.name, folder, spec) for folder, spec in found]


def find_classifier(name: str | Path) -> Path:
    """Return the folder of a classifier given its name or its folder.

    CheckpointError where there is neither, or the folder holds a model that counts.
    """
    known = ", ".join(entry.name for entry in classifiers()) or "none"
    candidates = [Path(name)]
    if Path(name).name == str(name):
        candidates += [store.user_folder() / name, store.shipped_folder() / name]
    folders = [folder for folder in candidates if store.is_folder(folder)]
    for folder in folders:
        if (folder / CLASSIFIER).exists():
            return folder
    problem = repr(str(name))
    if folders:
        problem = f"the folder {folders[0]} has no {CLASSIFIER}"
    raise CheckpointError(
        f"Classifier must be a folder or one of: {known}; got {problem}. Choose one of these, or train your "
        "own; a model that counts gives no classes."
    )
