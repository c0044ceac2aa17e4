"""Classifiers of cells: a crop around each cell -> one of a few classes, whatever family found the cell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from cellwright.core.errors import CheckpointError
from cellwright.models.checkpoint import load_weights, verified_checksum, write_model
from cellwright.models.layers.blocks import ConvEncoder, folded
from cellwright.models.spec import CLASSIFIER, ClassifierSpec, read_classifier_spec

PRESETS = {
    "small": ClassifierSpec(
        preset="small",
        title="Classes of cells from 64 x 64 pixel crops and the cells' relative size",
        classes=("a", "b"),
    ),
    "paper": ClassifierSpec(
        preset="paper",
        title="Classes of cells from 224 x 224 pixel crops at the image's own scale",
        classes=("a", "b"),
        crop_px=224,
        window="pixels",
        context=224.0,
        padding="zero",
    ),
}


class SmallNetwork(nn.Module):
    """Residual encoder over the crop; the size of the cell among the others joins its mean features.

    Seen alone a platelet is as large as a white cell, hence the size.
    """

    def __init__(self, n_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        widths = (24, 40, 80, 112)
        self.encoder = ConvEncoder(in_channels, widths, depths=(1, 1, 1, 0))
        self.head = nn.Sequential(nn.Linear(widths[-1] + 1, 64), nn.ReLU(), nn.Linear(64, n_classes))

    def forward(self, crops: Tensor, sizes: Tensor) -> Tensor:
        """Float (B, C, 64, 64) and octaves (B,) -> logits (B, classes)."""
        features = self.encoder(crops)[-1].mean(dim=(2, 3))  # (B, 112)
        return self.head(torch.cat([features, sizes[:, None]], dim=1))


class PaperNetwork(nn.Module):
    """The published classifier; 118,162 parameters for two classes and three channels.

    Source: the classifier of github.com/Kit115/SegmentationBasedCellClassification (facts only).
    """

    def __init__(self, n_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 8, 7, 2, 3),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, 2, 2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, 2, 1),
            nn.AvgPool2d(7),
        )
        self.head = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, n_classes))

    def forward(self, crops: Tensor, sizes: Tensor) -> Tensor:
        """Float (B, C, 224, 224) -> logits (B, classes); the sizes are not looked at."""
        return self.head(self.features(crops).flatten(1))


NETWORKS: Mapping[str, type[SmallNetwork] | type[PaperNetwork]] = {
    "small": SmallNetwork,
    "paper": PaperNetwork,
}


@dataclass(frozen=True, slots=True)
class Classifier:
    """A network with its facts."""

    spec: ClassifierSpec  # its classes and what its crops are
    network: nn.Module  # crops (B, C, S, S) and relative sizes (B,) -> logits (B, classes)
    sha256: str = ""  # checksum of the weights, empty when they are random

    def inference_network(self) -> nn.Module:
        """Return a copy of the network made fast for inference, in evaluation mode."""
        return folded(self.network)


def build(classes: Sequence[str], preset: str = "small") -> Classifier:
    """Return a classifier for these classes with random weights.

    CheckpointError where there is no such preset, or fewer than two classes, or one named twice.
    """
    return of_spec(preset_spec(preset, classes))


def preset_spec(preset: str, classes: Sequence[str]) -> ClassifierSpec:
    """Return the facts of a preset for these classes.

    CheckpointError where there is no such preset, or fewer than two classes, or one named twice.
    """
    if preset not in PRESETS:
        raise CheckpointError(
            f"Preset of a classifier must be one of {', '.join(sorted(PRESETS))}; got {preset!r}. "
            "Choose one of these."
        )
    return replace(PRESETS[preset], classes=tuple(classes))


def of_spec(spec: ClassifierSpec) -> Classifier:
    """Return a classifier with these facts and random weights."""
    return Classifier(spec, NETWORKS[spec.preset](len(spec.classes), spec.in_channels))


def save_classifier(folder: Path, classifier: Classifier, scores: Mapping[str, float] | None = None) -> None:
    """Write a classifier into ``folder``; each file appears whole or not at all."""
    write_model(folder, classifier.network, CLASSIFIER, classifier.spec.to_json(), scores)


def read_classifier(folder: Path) -> Classifier:
    """Return the classifier stored in ``folder``, its network in evaluation mode on the CPU.

    CheckpointError where a file of it is missing or damaged.
    """
    spec = read_classifier_spec(folder / CLASSIFIER)
    sha256 = verified_checksum(folder, spec.weights_sha256)
    if spec.preset not in NETWORKS:
        raise CheckpointError(
            f"preset in {folder / CLASSIFIER} must be one of {', '.join(sorted(NETWORKS))}; got "
            f"{spec.preset!r}. Update cellwright or train the classifier again."
        )
    classifier = of_spec(spec)
    load_weights(folder, classifier.network, f"the {spec.preset} classifier of {len(spec.classes)} classes")
    return Classifier(spec, classifier.network.eval(), sha256)
