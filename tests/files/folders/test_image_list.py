import numpy as np
import pytest
import tifffile
import zarr

from cellwright.core.errors import ReadError, SettingsError
from cellwright.files.folders.image_list import list_images
from cellwright.files.images import read_image


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


@pytest.mark.parametrize("pattern", ["{1}", "{well}_{image}", "{count}"])
def test_a_pattern_cannot_name_columns_of_the_summary(folder, pattern):
    with pytest.raises(SettingsError, match="Rename it"):
        list_images([folder], plate_pattern=pattern)


def test_names_must_differ_where_results_are_written(folder):
    twice = [folder / "b.tif", folder / "b.tif"]
    with pytest.raises(SettingsError, match="must differ"):
        list_images(twice, output=folder / "results")
    assert [image.name for image in list_images(twice)] == ["b", "b"]


def test_names_that_differ_in_capitals_alone_are_one_where_files_are(folder, monkeypatch):
    tifffile.imwrite(folder / "B.tif", np.zeros((4, 4), np.uint8))
    paths = [folder / "b.tif", folder / "B.tif"]
    monkeypatch.setattr("os.path.exists", lambda path: True)  # as where a file has both names
    with pytest.raises(SettingsError, match=r"B, b occurs more than once"):
        list_images(paths, output=folder / "results")
    monkeypatch.setattr("os.path.exists", lambda path: path in paths)
    assert [image.name for image in list_images(paths, output=folder / "others")] == ["b", "B"]


def test_names_in_paths_are_those_of_the_readers(folder):
    zarr.create_array(folder / "deep" / "d.one", data=np.zeros((4, 4), np.uint8))
    listed = list_images([folder])
    assert [one.name_in_paths for one in listed] == [read_image(one.path).name for one in listed]


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(ReadError, match="there is none"):
        list_images([tmp_path / "absent.tif"])


@pytest.fixture
def plate(tmp_path):
    """An OME-Zarr plate of two wells with two fields and one; a third is named and not there."""
    root = zarr.open_group(tmp_path / "screen.zarr", mode="w", zarr_format=2)
    wells = {"A/1": ("0", "1"), "B/02": ("0",)}
    root.attrs["plate"] = {"wells": [{"path": path} for path in (*wells, "C/3")]}
    for well, fields in wells.items():
        group = root.create_group(well)
        group.attrs["well"] = {"images": [{"path": path} for path in fields]}
        for path in fields:
            image = group.create_group(path)
            image.create_array("0", data=np.ones((4, 5), np.uint8))
            image.attrs["multiscales"] = [{"datasets": [{"path": "0"}], "axes": ["y", "x"]}]
    return tmp_path / "screen.zarr"


def test_the_fields_of_a_plate_are_images_with_their_wells(plate):
    images = list_images([plate.parent])
    assert [image.name for image in images] == [
        "screen#A_1_0",
        "screen#A_1_1",
        "screen#B_02_0",
        "screen#C_3_0",
    ]
    assert images[1].plate == {"well": "A1", "site": "1"}
    assert read_image(images[2].path).shape == (4, 5)
    with pytest.raises(ReadError):
        read_image(images[3].path)


def test_a_damaged_plate_is_one_image_that_tells_why(plate):
    (plate / ".zattrs").write_text('{"plate": 3}')
    assert [image.name for image in list_images([plate])] == ["screen"]


def test_a_folder_that_cannot_be_read_is_listed(folder, monkeypatch):
    iterdir = type(folder).iterdir

    def refuse(path):
        if path.name == "Plate1":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(type(folder), "iterdir", refuse)
    assert "Plate1/Plate1" in [image.name for image in list_images([folder])]


def test_a_damaged_file_of_a_folder_is_listed_like_the_others(tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((4, 4), np.uint8), ome=True)
    with tifffile.TiffFile(path) as file:
        samples_per_pixel = file.pages.first.tags[277]
    with path.open("r+b") as damaged:
        damaged.seek(samples_per_pixel.offset + 4)
        damaged.write((2).to_bytes(4, "little"))  # two numbers where there is one
    assert [image.name for image in list_images([tmp_path])] == ["a"]


def test_every_picture_that_is_read_is_found_in_a_folder(tmp_path):
    names = ["a.gif", "b.webp", "c.PNG", "d.jpeg", "e.bmp"]
    for name in [*names, "notes.txt"]:
        (tmp_path / name).touch()
    assert [image.path.name for image in list_images([tmp_path])] == names


def test_what_was_written_by_us_is_no_image(tmp_path):
    ours = [f"a.labels{how}.tif" for how in ("", ".edited1", ".counted")]
    ours += ["a.density.edited12.tif", "cellwright/a.tif", "cellwright/counts.csv"]
    for name in (*ours, "a.tif", "other/cellwright/b.tif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [image.name for image in list_images([tmp_path])] == ["a", "other/cellwright/b"]


def test_labels_beside_their_image_are_no_images(tmp_path):
    names = ("a.png", "a_labels.ome.tif", "a_mask.tif", "in/a.tif", "in/a_cp_masks.png", "b_labels.tif")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [image.name for image in list_images([tmp_path])] == ["a", "b_labels", "in/a"]
    assert [image.name for image in list_images([tmp_path], "*_labels*")] == ["a_labels", "b_labels"]
    assert [image.name for image in list_images([tmp_path / "a_mask.tif"])] == ["a_mask"]


def test_masks_in_a_folder_beside_that_of_their_images_are_no_images(tmp_path):
    names = (
        "images/a.tif",
        "masks/a.png",
        "masks/b.tif",
        "set/imgs/c.tif",
        "set/labels/c.tif",
        "labels/c.tif",
    )
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert [one.name for one in list_images([tmp_path])] == ["images/a", "labels/c", "masks/b", "set/imgs/c"]
    assert [one.name for one in list_images([tmp_path / "masks"])] == ["a", "b"]
