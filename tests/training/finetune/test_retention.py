from dataclasses import replace

import numpy as np
import pytest
import torch

from cellwright.core.tasks import run
from cellwright.inference.device import choose_device
from cellwright.models import registry
from cellwright.training.finetune.replay import (
    Teacher,
    interpolate_weights,
    retention_score,
    retention_set,
    set_training_mode,
)
from cellwright.training.trainer import forward, trunk_of


def test_what_is_remembered_is_the_same_every_time():
    first, again = retention_set(3), retention_set(3)
    for one, other in zip(first.items, again.items, strict=True):
        assert np.array_equal(one.annotated()[0].data, other.annotated()[0].data)
        assert one.annotated()[1].max() > 3
    assert len({item.group for item in first.items}) == 3


def test_memory_is_a_mean_score(oracle_model):
    images = retention_set(2)
    score = run(retention_score(oracle_model, images, "cpu"))
    assert 0 <= score <= 1


@pytest.mark.parametrize("family", registry.FAMILIES)
def test_every_family_is_asked_of_what_it_counts_in(family):
    model = registry.get(family).load().build("small")
    images = retention_set(2, of_volumes=model.needs_volumes)
    score = run(retention_score(model, images, "cpu"))
    assert 0 <= score <= 1


def test_weights_between_others():
    first = {"a": torch.tensor([0.0, 4.0]), "n": torch.tensor(3)}
    last = {"a": torch.tensor([1.0, 0.0]), "n": torch.tensor(7)}
    assert interpolate_weights(first, last, 0.25)["a"].tolist() == [0.25, 3.0]
    assert interpolate_weights(first, last, 0.25)["n"] == 7


def test_replayed_patches_ask_for_what_the_model_gave(tiny_flow):
    model = tiny_flow()
    teacher = Teacher(model, choose_device("cpu"))
    images = torch.rand(2, 3, 32, 32)
    expected = model.to_maps(forward(model.network.eval(), model, images))
    with torch.no_grad():
        for weights in model.network.parameters():
            weights.zero_()
    assert torch.allclose(teacher.targets(images), expected)


def test_a_network_of_one_channel_can_be_asked(tiny_flow):
    model = tiny_flow()
    grey = model.with_network(GreyNetwork(model.network), spec=replace(model.spec, in_channels=1))
    assert Teacher(grey, choose_device("cpu")).targets(torch.rand(2, 3, 32, 32)).shape == (2, 3, 32, 32)


class GreyNetwork(torch.nn.Module):
    """Takes images of one channel and nothing else."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        assert images.shape[1] == 1
        return self.network(images.expand(-1, 3, -1, -1))


def test_the_trunk_learns_last_and_statistics_never(tiny_flow):
    network = tiny_flow().network
    set_training_mode(network, is_frozen=True)
    learning = {name for name, weights in network.named_parameters() if weights.requires_grad}
    assert learning == {"head.weight", "head.bias"}
    set_training_mode(network, is_frozen=False)
    assert all(weights.requires_grad for weights in network.parameters())
    before = network.encoder.first[1].running_mean.clone()
    network(torch.rand(2, 3, 32, 32))
    assert torch.equal(before, network.encoder.first[1].running_mean)
    assert network.encoder.training


@pytest.mark.parametrize("network", [torch.nn.Conv2d(3, 3, 1), torch.nn.Sequential()])
def test_a_network_without_a_trunk_learns_at_once(network):
    assert trunk_of(network) == []
    set_training_mode(network, is_frozen=True)
    assert all(weights.requires_grad for weights in network.parameters())
