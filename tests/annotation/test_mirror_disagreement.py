"""How far a model that looks at the flipped image is from finding the cells there are."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cellwright.annotation.review_queue import mirror_disagreement
from cellwright.annotation.session import AnnotationSession
from cellwright.core.data import Image
from cellwright.core.errors import SettingsError
from cellwright.core.tasks import Task, run
from cellwright.inference.settings import EngineSettings


class LeftNetwork(torch.nn.Module):
    """Sees the cells in the left half of what it is shown only."""

    def forward(self, image: Tensor) -> Tensor:
        logit = 20 * (image.mean(dim=1, keepdim=True) - 0.5)
        logit[..., logit.shape[-1] // 2 :] = -10
        return torch.cat([torch.zeros_like(logit), torch.zeros_like(logit), logit], dim=1)


def disagreement(image: Image, labels: Any, model: Any) -> Any:
    """Return how far a model disagrees with the cells 1..N."""
    session = AnnotationSession(image, labels.copy())
    found = run(mirror_disagreement(session, EngineSettings(), model))
    assert list(found) == list(range(1, labels.max() + 1))
    return np.array(list(found.values()))


def test_a_model_that_finds_the_same_agrees(blobs: Any, oracle_model: Any) -> None:
    found = disagreement(Image(blobs.image, "YX"), blobs.labels, oracle_model)
    np.testing.assert_allclose(found, np.zeros(len(blobs)), atol=1e-6)


def test_what_is_otherwise_disagrees(blobs: Any, oracle_model: Any) -> None:
    labels = blobs.labels.copy()
    labels[labels == 2] = 1  # the larger part of it is half of what there is
    labels[labels > 2] -= 1
    n = int(labels.max())
    labels[:3, :3] = n + 1
    found = disagreement(Image(blobs.image, "YX"), labels, oracle_model)
    assert found[0] == pytest.approx(0.5, abs=0.05)
    assert found[n] == 1.0
    np.testing.assert_allclose(found[1:n], 0, atol=1e-6)


@pytest.mark.parametrize("axes", ["YX", "YXC", "CYX", "ZYX"])
def test_the_model_is_shown_the_flipped_image(axes: str, draw_blobs: Any, oracle_model: Any) -> None:
    blobs = draw_blobs((96, 160))
    data, labels = blobs.image, blobs.labels
    if "C" in axes:
        data = np.stack([data] * 3, axis=axes.index("C"))
    if axes == "ZYX":
        data, labels = np.stack([data] * 2), np.stack([labels] * 2)
    oracle_model.network = LeftNetwork()
    found = disagreement(Image(data, axes), labels, oracle_model)
    middles = blobs.points[:, 1]
    assert (found[middles < 70] == 1).all()
    np.testing.assert_allclose(found[middles > 90], 0, atol=1e-6)


def test_nothing_to_compare(blobs: Any, oracle_model: Any) -> None:
    image = Image(blobs.image, "YX")
    assert len(disagreement(image, np.zeros_like(blobs.labels), oracle_model)) == 0
    empty = replace(image, data=np.zeros_like(blobs.image))
    assert (disagreement(empty, blobs.labels, oracle_model) == 1).all()


def test_a_model_without_outlines_is_refused(
    blobs: Any, oracle_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cellwright.inference import pipeline

    count_cells = pipeline.count_cells

    def without_labels(*args: Any) -> Task[Any]:
        result = yield from count_cells(*args)
        return replace(result, cells=replace(result.cells, labels=None))

    monkeypatch.setattr(pipeline, "count_cells", without_labels)
    with pytest.raises(SettingsError, match="outlines them"):
        disagreement(Image(blobs.image, "YX"), blobs.labels, oracle_model)
