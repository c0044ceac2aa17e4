from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.cluster.vq import ClusterError
from torch import Tensor

from cellwright.training.data import sampler
from cellwright.training.data.sampler import appearance, cluster_images, embedding, sampling_weights


def is_parted(clusters, n_first):
    """Whether no cluster holds images of both kinds."""
    return not set(clusters[:n_first]) & set(clusters[n_first:])


@pytest.mark.parametrize("seed", range(5))
def test_two_kinds_of_images_fall_into_two_clusters(draw_sample, seed):
    samples = [draw_sample(i) for i in range(8)] + [draw_sample(i, "tissue") for i in range(4)]
    found = cluster_images([appearance(sample) for sample in samples], 2, seed)
    assert is_parted(found, 8)
    assert set(found) == {0, 1}


def test_an_encoder_tells_bright_from_dark_cells(draw_blobs, tiny_flow, sample_of):
    drawn = [draw_blobs((100, 110), 14.0 + index) for index in range(6)]
    bright = [sample_of("", "", blobs.image[None], blobs.labels, (0, 100)) for blobs in drawn]
    dark = [replace(sample, image=1 - sample.image) for sample in bright[:4]]
    encoder = tiny_flow().network.encoder.eval()
    found = cluster_images([embedding(sample, encoder) for sample in bright + dark], 2, 0)
    assert is_parted(found, 6)


@pytest.mark.parametrize("shape", [(20, 24), (192, 192), (210, 60), (300, 400)])
@pytest.mark.parametrize("look", ["fluorescence", "tissue"])
def test_embeddings_have_one_length_for_all_sizes(draw_sample, tiny_flow, shape, look):
    sample = draw_sample(1, look, shape, n_cells=2)
    found = embedding(sample, tiny_flow().network.encoder.eval())
    assert found.shape == (24,)
    assert np.isfinite(found).all()


class OnMetal(Tensor):
    """A tensor as PyTorch has it on the GPU of a Mac, which knows no numbers of 64 bits."""

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return self.as_subclass(Tensor)


def test_embeddings_are_made_on_a_mac(draw_sample, tiny_flow):
    encoder = tiny_flow().network.encoder.eval()
    sample = draw_sample(1, "fluorescence", (192, 192), n_cells=2)
    expected = embedding(sample, encoder)
    encoder.register_forward_hook(lambda *args: [one.as_subclass(OnMetal) for one in args[2]])
    np.testing.assert_array_equal(embedding(sample, encoder), expected)


def test_clusters_depend_on_the_seed_alone(rng):
    features = list(rng.normal(size=(60, 5)))
    assert np.array_equal(cluster_images(features, 6, 1), cluster_images(features, 6, 1))
    found = cluster_images(features, 6, 1)
    assert found.dtype == np.int64
    assert set(found) == set(range(found.max() + 1))


def test_few_images_are_one_kind(rng):
    assert cluster_images(list(rng.normal(size=(4, 5))), 4, 0).tolist() == [0, 0, 0, 0]
    assert cluster_images([np.ones(3)] * 9, 4, 0).tolist() == [0] * 9


@pytest.mark.parametrize("seed", range(4))
def test_more_clusters_than_kinds(seed):
    """Images that are all alike within two kinds, as frames of two movies are."""
    features = [np.array([0.0, 1.0, 5.0])] * 12 + [np.array([1.0, 0.0, 5.0])] * 8
    assert is_parted(cluster_images(features, 6, seed), 12)


def test_a_cluster_that_runs_empty_is_done_without(monkeypatch):
    asked = []

    def kmeans2(table, n_clusters, **options):
        asked.append(n_clusters)
        if n_clusters > 2:
            raise ClusterError("one of the clusters is empty")
        return None, (table[:, 0] > 0).astype(int)

    monkeypatch.setattr(sampler, "kmeans2", kmeans2)
    features = np.array([[-1.0], [2.0], [-3.0], [4.0], [5.0]])
    assert cluster_images(list(features), 4, 0).tolist() == [0, 1, 0, 1, 1]
    assert asked == [4, 3, 2]


def test_chances_add_up_and_rare_kinds_are_raised():
    clusters = np.array([0] * 90 + [1] * 9 + [2])
    chances = sampling_weights(clusters)
    assert chances.sum() == pytest.approx(1)
    common, rare, single = (chances[clusters == kind] for kind in (0, 1, 2))
    assert common[0] < rare[0] < single[0]
    assert np.ptp(common) == np.ptp(rare) == 0
    assert rare.sum() > 9 / 100
    assert rare.sum() == pytest.approx(single.sum())  # both are raised to twice the mean


def test_one_kind_is_shown_evenly():
    assert np.allclose(sampling_weights(np.zeros(5, np.int64)), 0.2)


@pytest.mark.parametrize("fill", [0, 1])
def test_the_appearance_of_an_image_without_or_full_of_cells(rng, fill, sample_of):
    labels = np.full((40, 50), fill, np.int32)
    sample = sample_of("edge", "", rng.random((1, 40, 50)), labels, (0.5, 99.8))
    assert np.isfinite(appearance(sample)).all()


def test_the_appearance_knows_polarity_and_colour(draw_blobs, sample_of):
    blobs = draw_blobs()
    bright, dark = (
        appearance(sample_of("", "", image[None], blobs.labels, (0, 100)))
        for image in (blobs.image, 1 - blobs.image)
    )
    assert bright[3] == pytest.approx(1)
    assert dark[3] == pytest.approx(-1)
    assert bright[2] == 0
    stained = np.stack([blobs.image, 0.5 * blobs.image, 0 * blobs.image])
    assert appearance(sample_of("", "", stained, blobs.labels, (0, 100)))[2] > 0.2


def test_embedding_leaves_the_encoder_untrained(draw_sample, tiny_flow):
    encoder = tiny_flow().network.encoder.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    embedding(draw_sample(), encoder)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
