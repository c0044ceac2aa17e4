import numpy as np
import pytest
import tifffile
import zarr

from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.folders.image_list import list_images


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.tif",
        "a.png",
        "notes.txt",
        ".hidden.tif",
        "a.labels.tif",
        "Plate1/B03_s2.tif",
        "Plate1/A_1_s10.ome.tif",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, np.zeros((4, 4), np.uint8))
    zarr.create_array(tmp_path / "deep" / "c.zarr", data=np.zeros((4, 4), np.uint8))
    return tmp_path


def test_folders_are_searched_for_images(folder):
    names = [image.name for image in list_images([folder])]
    assert names == ["Plate1/A_1_s10", "Plate1/B03_s2", "a", "b", "deep/c"]


def test_a_pattern_picks(folder):
    assert [image.name for image in list_images([folder], "*.png")] == ["a"]
    with pytest.raises(ReadError, match=r"match '\*\.czi'"):
        list_images([folder], "*.czi")


def test_files_and_zarr_folders_are_taken_as_they_are(folder):
    paths = [folder / "b.tif", folder / "deep" / "c.zarr"]
    assert [(image.path, image.name) for image in list_images(paths)] == [(paths[0], "b"), (paths[1], "c")]


def test_names_tell_of_plates(folder):
    images = list_images([folder / "Plate1"], plate_pattern="{well}_s{site}")
    assert [image.plate for image in images] == [{"well": "A1", "site": "10"}, {"well": "B03", "site": "2"}]
    other = list_images([folder], plate_pattern="{plate}/{well}_s{site}")
    assert [image.plate.get("plate") for image in other] == ["Plate1", "Plate1", None, None, None]


@pytest.mark.parametrize("pattern", ["well", "{well}_{well}"])
def test_a_pattern_that_names_nothing_is_refused(folder, pattern):
    with pytest.raises(SettingsError, match="in braces"):
        list_images([folder], plate_pattern=pattern)


def test_names_must_differ(folder):
    with pytest.raises(SettingsError, match="must differ"):
        list_images([folder / "b.tif", folder / "b.tif"])


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(ReadError, match="there is none"):
        list_images([tmp_path / "absent.tif"])
