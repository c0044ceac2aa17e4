"""Families that share the trunk learn together: each step teaches the trunk what all of them need.

The joint model is counted with and judged as its first family.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from cellwright.core.data import Annotation, Image, Maps
from cellwright.core.errors import AnnotationError
from cellwright.models.fit import FitCalibration
from cellwright.models.layers.blocks import folded
from cellwright.models.layers.trunk import HeadedNetwork, Heads
from cellwright.models.protocol import CellModel, MapKind, Stitcher
from cellwright.models.spec import ModelSpec
from cellwright.ops.geometry.axes import Frames
from cellwright.ops.link import LinkSettings


class JointModel:
    """Several models of the shared trunk as one; see ``models.protocol.CellModel``.

    Parameters
    ----------
    models
        Of different families; the trunk is that of the first.
    weights
        Of each model's loss.
    """

    needs_volumes = False

    def __init__(self, models: Sequence[CellModel], weights: Sequence[float]) -> None:
        self.models = tuple(models)
        self.weights = tuple(weights)
        first = models[0]
        channels = {name: n for model in models for name, n in model.spec.map_channels.items()}
        self.spec: ModelSpec = replace(first.spec, preset="joint", map_channels=channels)
        self.map_kinds: dict[str, MapKind] = {
            name: kind for model in models for name, kind in model.map_kinds.items()
        }
        self.network: nn.Module = _with_head(
            first, Heads({model.spec.family: _headed(model).head for model in models})
        )
        shared = {name: value for name, value in first.network.state_dict().items() if _is_trunk(name)}
        self.network.load_state_dict(shared, strict=False)
        self.sha256 = ""
        self.fit: FitCalibration | None = None

    def part(self, family: str, network: nn.Module) -> CellModel:
        """Return the model of one family with what a joint network has learned."""
        model = next(model for model in self.models if model.spec.family == family)
        start = f"head.heads.{family}."
        learned = {}
        for name, value in network.state_dict().items():
            if _is_trunk(name):
                learned[name] = value
            elif name.startswith(start):
                learned["head." + name.removeprefix(start)] = value
        own = _with_head(model, _headed(model).head)
        own.load_state_dict(learned)
        return model.with_network(own)

    def make_targets(self, annotation: Annotation) -> Maps:
        """Return the targets of all families; not a number for one that this annotation teaches nothing."""
        maps: dict[str, np.ndarray] = {}
        for model in self.models:
            try:
                maps |= model.make_targets(annotation)
            except AnnotationError:
                for name, n in model.spec.map_channels.items():
                    maps[name] = np.full((n, *annotation.shape), np.nan, np.float32)
        return maps

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted sum of all families' losses."""
        losses = [
            weight * model.loss(raw, true)
            for weight, model, raw, true in zip(
                self.weights, self.models, self._split(output), self._split(targets), strict=True
            )
        ]
        return torch.stack(losses).sum()

    def with_network(self, network: nn.Module, *, spec: ModelSpec | None = None, sha256: str = "") -> Self:
        """Return the same model with another network."""
        changed = type(self)(self.models, self.weights)
        changed.network, changed.sha256 = network, sha256
        return changed

    def inference_network(self) -> nn.Module:
        """Return a copy of the network for inference."""
        return folded(self.network)

    def to_maps(self, output: Tensor) -> Tensor:
        """Return the raw output in map units."""
        return self.mean_to_maps(self.to_summands(output))

    def to_summands(self, output: Tensor) -> Tensor:
        """Return the raw output in the units of which means are taken."""
        pairs = zip(self.models, self._split(output), strict=True)
        return torch.cat([model.to_summands(raw) for model, raw in pairs], dim=1)

    def mean_to_maps(self, mean: Tensor) -> Tensor:
        """Return a mean of summands in map units."""
        pairs = zip(self.models, self._split(mean), strict=True)
        return torch.cat([model.mean_to_maps(part) for model, part in pairs], dim=1)

    def flip(self, output: Tensor, axis: int) -> Tensor:
        """Return the raw output for the flipped image, flipped back."""
        pairs = zip(self.models, self._split(output), strict=True)
        return torch.cat([model.flip(raw, axis) for model, raw in pairs], dim=1)

    def frames(self, image: Image, channel: int | None) -> Frames:
        """Return the frames the first family sees."""
        return self.models[0].frames(image, channel)

    def decode(self, maps: Maps, shape: tuple[int, int], settings: Any) -> Any:
        """Return what the first family finds."""
        return self.models[0].decode(maps, shape, settings)

    def stitcher(self, lead_shape: tuple[int, ...], shape: tuple[int, int]) -> Stitcher:
        """Return how the first family puts blocks together."""
        return self.models[0].stitcher(lead_shape, shape)

    def linking(self, settings: Any) -> LinkSettings:
        """Return how the first family links slices."""
        return self.models[0].linking(settings)

    def _split(self, maps: Tensor) -> tuple[Tensor, ...]:
        """Return the channels of each family."""
        n_maps = [sum(model.spec.map_channels.values()) for model in self.models]
        return torch.split(maps, n_maps, dim=1)


def _with_head(model: CellModel, head: nn.Module) -> HeadedNetwork:
    """Return a copy of a model's network with another head."""
    network = _headed(model)
    return HeadedNetwork(copy.deepcopy(network.encoder), copy.deepcopy(network.decoder), head)


def _headed(model: CellModel) -> HeadedNetwork:
    if not isinstance(model.network, HeadedNetwork):
        raise TypeError(f"Only models of the shared trunk learn together; {model.spec.family} has another.")
    return model.network


def _is_trunk(name: str) -> bool:
    return name.startswith(("encoder.", "decoder."))
