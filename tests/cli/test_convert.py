import numpy as np
import tifffile


def test_the_command_tells_what_it_wrote_and_mended(tmp_path, cli):
    labels = np.zeros((20, 30), np.uint16)
    labels[2:9, 2:9] = 7
    tifffile.imwrite(tmp_path / "a_masks.tif", labels)
    code, out, err = cli(
        "convert", tmp_path / "a_masks.tif", "--to", "geojson", "--output", tmp_path / "a.geojson"
    )
    assert (code, out.split()[1:], err) == (0, ["1", "cell"], "")
    text = (tmp_path / "a.geojson").read_text().replace("[9, 9]", "[9, 900]")
    (tmp_path / "b.geojson").write_text(text)
    code, out, err = cli(
        "convert", tmp_path / "b.geojson", "--to", "labels", "--output", tmp_path / "b.ome.tif"
    )
    assert code == 0
    assert "1 were cut at the edge of the image" in err
    code, _, err = cli("convert", tmp_path / "b.geojson", "--to", "png", "--output", tmp_path / "c")
    assert (code, "Choose one of them" in err) == (1, True)


def test_images_that_are_no_labels_are_told(tmp_path, cli, blobs):
    images = {"mask": (blobs.labels > 0) * 255, "light": blobs.image * 200, "labels": blobs.labels}
    for name, pixels in images.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels.astype(np.uint16))
        code, _, err = cli(
            "convert", tmp_path / f"{name}.tif", "--to", "labels", "--output", tmp_path / "o.tif"
        )
        assert code == 0, err
        assert ("pieces that do not touch" in err) == (name != "labels"), err
