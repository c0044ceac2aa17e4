from pathlib import Path

import numpy as np
import pytest
from tools.release import draw_samples
from tools.release.draw_samples import FOLDER, SAMPLES

from cellwright.core.errors import WriteError
from cellwright.files.images import read_image

N_CELLS = {"nuclei_2d": 137, "tissue_rgb": 95, "phase_2d": 48, "nuclei_3d": 61, "nuclei_time": 37}


@pytest.mark.parametrize("name", SAMPLES)
def test_stored_samples_are_what_the_simulator_draws(name: str) -> None:
    """To rounding: another processor may round a sine the other way, so a few pixels may differ by one."""
    stored = np.asarray(read_image(FOLDER / SAMPLES[name].file).data)
    truth = np.asarray(read_image(FOLDER / f"{name}_labels.tif").data)
    pixels, labels = SAMPLES[name].draw()
    assert stored.dtype == pixels.dtype
    assert np.count_nonzero(stored != pixels) <= 1e-3 * stored.size
    assert np.count_nonzero(truth != labels) <= 1e-3 * truth.size
    assert len(np.unique(truth)) - 1 == truth.max() == labels.max()


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_tell_their_axes_and_pixel_size(name: str) -> None:
    image, truth = read_image(FOLDER / SAMPLES[name].file), read_image(FOLDER / f"{name}_labels.tif")
    assert image.axes == SAMPLES[name].axes
    assert image.pixel_size_um == pytest.approx(SAMPLES[name].pixel_size_um)
    assert truth.shape == image.shape[: len(truth.shape)]
    assert truth.data.dtype == np.int32


def test_samples_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2_000_000


def test_samples_hold_a_known_number_of_cells() -> None:
    counts = {name: int(np.asarray(read_image(FOLDER / f"{name}_labels.tif").data).max()) for name in SAMPLES}
    assert counts == N_CELLS


def test_drawing_writes_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: SAMPLES[name] for name in ("tissue_rgb", "nuclei_2d")}
    monkeypatch.setattr(draw_samples, "SAMPLES", few)
    paths = draw_samples.draw_samples(tmp_path / "new")
    names = ["tissue_rgb.png", "tissue_rgb_labels.tif", "nuclei_2d.tif", "nuclei_2d_labels.tif"]
    assert [path.name for path in paths] == names
    assert all(read_image(path).shape[:2] in ((384, 384), (512, 512)) for path in paths)


def test_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError):
        draw_samples.draw_samples(tmp_path / "file")
