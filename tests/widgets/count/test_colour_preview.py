import dask.array as da
import numpy as np
import pytest
from napari.components import ViewerModel

from cellwright.core.data import Image
from cellwright.core.errors import AxesError
from cellwright.inference.settings import EngineSettings
from cellwright.ops.codecs.pseudocolor import PseudocolorFrames, bright, coloured, pseudocolor_frames
from cellwright.widgets.count import channels as module
from cellwright.widgets.count.channels import lazy_colours, show_active_colours, show_colours
from cellwright.widgets.shared.layer_io import source_of


def coloured_middle(slices: np.ndarray) -> np.ndarray:
    before, middle, after = slices
    return coloured([bright(before), bright(after)], middle, None)


@pytest.fixture
def volume(rng: np.random.Generator) -> np.ndarray:
    return rng.random((6, 40, 50)).astype(np.float32)


def test_colours_lie_on_the_volume_and_are_made_on_sight(
    viewer: ViewerModel, volume: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    plain = PseudocolorFrames.read

    def note(self: PseudocolorFrames, index: int, window: tuple[slice, slice]) -> np.ndarray:
        read.append(index)
        return plain(self, index, window)

    monkeypatch.setattr(PseudocolorFrames, "read", note)
    layer = viewer.add_image(volume, name="embryo", scale=(2, 0.5, 0.5), translate=(1, 2, 3))
    colours = show_colours(viewer, source_of(layer))
    assert (colours.rgb, colours.name, colours.data.shape) == (True, "embryo colours", (6, 40, 50, 3))
    assert isinstance(colours.data, da.Array)
    assert len(set(read)) < 4  # what napari shows first
    for name in ("scale", "translate"):
        np.testing.assert_array_equal(getattr(colours, name), getattr(layer, name))
    seen = np.asarray(colours.data[3])
    np.testing.assert_array_equal(seen, np.moveaxis(coloured_middle(volume[2:5]), 0, -1))
    show_colours(viewer, source_of(layer))
    assert len(viewer.layers) == 2


def test_a_series_of_volumes_with_channels(viewer: ViewerModel, volume: np.ndarray) -> None:
    series = np.stack([volume, volume[::-1]])[:, :, np.newaxis].repeat(2, axis=2)
    layer = viewer.add_image(series, axis_labels=("t", "z", "c", "y", "x"))
    colours = show_colours(viewer, source_of(layer), EngineSettings(channel=1))
    assert colours.data.shape == (2, 6, 1, 40, 50, 3)
    seen = np.asarray(colours.data[1, 2, 0])
    np.testing.assert_array_equal(seen, np.moveaxis(coloured_middle(volume[::-1][1:4]), 0, -1))


def test_slices_read_at_once_by_threads_are_right(volume: np.ndarray) -> None:
    colours = lazy_colours(pseudocolor_frames(Image(volume, "ZYX")))
    np.testing.assert_array_equal(
        colours.compute(scheduler="threads", num_workers=4), colours.compute(scheduler="sync")
    )


def test_what_is_no_volume_is_told(viewer: ViewerModel, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(module, "show_error", told.append)
    show_active_colours(viewer)
    assert "no layer" in told.pop()
    flat = viewer.add_image(np.zeros((9, 9)))
    with pytest.raises(AxesError, match="volumes"):
        show_colours(viewer, source_of(flat))
    show_active_colours(viewer)
    assert "volumes" in told[0]
    assert len(viewer.layers) == 1
