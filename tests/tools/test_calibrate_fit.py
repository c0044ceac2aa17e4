"""The images that the expected accuracy is fitted to."""

import numpy as np
import pytest
from tools.release import calibrate_fit
from tools.release.changes import CHANGES, known_of
from tools.release.kinds import KINDS

from cellwright.core.data import Image


def test_grey_images_saved_in_colours_can_be_made_composites(blobs, rng):
    grey = Image(np.repeat(blobs.image[..., np.newaxis], 4, axis=-1), "YXC")
    known = known_of(grey, blobs.labels)
    assert known.pixels.shape == blobs.labels.shape
    assert CHANGES["blue, green cells"](known, rng).pixels.shape == (*blobs.labels.shape, 3)
    assert known_of(Image(np.asarray(grey.data) * np.arange(4), "YXC"), blobs.labels).pixels.shape[-1] == 3


@pytest.mark.parametrize("spoilt", [False, True])
def test_planes_are_counted_as_they_are_or_changed(blobs, rng, monkeypatch, oracle_model, spoilt):
    image = Image(blobs.image, "YX")
    seen = []
    monkeypatch.setattr(calibrate_fit, "planes", lambda _: [(image, blobs.labels)])
    monkeypatch.setattr(calibrate_fit, "CHANGES", {name: CHANGES[name] for name in ("as it is", "inverted")})
    monkeypatch.setattr(
        calibrate_fit, "_example", lambda model, kind, plane, labels: seen.append((plane, labels))
    )
    assert list(calibrate_fit._counted(oracle_model, KINDS[0], [None], rng if spoilt else None)) == []
    (plane, labels), *others = seen
    assert not others
    assert labels is blobs.labels
    assert (plane is image) != spoilt
    assert (np.asarray(plane.data)[labels > 0].mean() < 0.5) == spoilt
