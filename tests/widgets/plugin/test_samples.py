from pathlib import Path

import numpy as np
import pytest
from napari.components import ViewerModel
from tools.release.draw_samples import SAMPLES

from cellwright.core.errors import ReadError
from cellwright.widgets.plugin import image_reader as samples
from cellwright.widgets.shared.coordinates import image_as_it_lies, image_in


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_opens_with_its_axes_and_pixel_size(viewer: ViewerModel, name: str) -> None:
    ((data, arguments, kind),) = samples.sample_layers(name)
    layer = viewer.add_image(data, **arguments)
    assert (kind, layer.name) == ("image", name)
    assert image_as_it_lies(layer).axes == SAMPLES[name].axes
    np.testing.assert_allclose(image_in(layer).pixel_size_um, SAMPLES[name].pixel_size_um, rtol=1e-3)


def test_an_unknown_sample_is_refused() -> None:
    with pytest.raises(ReadError, match="nuclei_2d"):
        samples.sample_layers("nothing")


def test_a_missing_sample_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "FOLDER", tmp_path)
    with pytest.raises(ReadError, match="Install the package again"):
        samples.sample_layers("nuclei_2d")
