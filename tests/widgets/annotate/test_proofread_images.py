"""The images of a folder that is proofread."""

from pathlib import Path

import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.core.errors import ReadError
from cellwright.widgets.annotate.proofread import images_of, labels_path
from cellwright.widgets.annotate.session_setup import fresh_journal
from cellwright.widgets.shared.layer_io import layer_arguments


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="nowhere"):
        images_of(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ReadError, match="found none"):
        images_of(tmp_path)


def test_images_of_a_dataset_have_their_labels_beside_them(tmp_path: Path) -> None:
    for name in ("images/b.png", "images/a.TIF", "images/.hidden.png", "masks/b.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = images_of(tmp_path)
    assert [path.name for path in images] == ["a.TIF", "b.png"]
    assert [labels_path(path) for path in images] == [None, tmp_path / "masks" / "b.tif"]


def test_images_whose_labels_would_lie_in_one_file_are_refused(tmp_path: Path) -> None:
    for name in ("b.png", "a.tif", "b.tif"):
        (tmp_path / name).touch()
    with pytest.raises(ReadError, match=r"b\.(png|tif) and b\.(png|tif) differ in their endings"):
        images_of(tmp_path)


def test_every_earlier_journal_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    for text in ("first", "second", "third"):
        path.write_text(text)
        fresh_journal(path)
    kept = [one.read_text() for one in tmp_path.iterdir() if ".old" in one.name]
    assert sorted(kept) == ["first", "second", "third"]


def test_a_layer_keeps_pixel_size_and_colours() -> None:
    image = Image(np.zeros((3, 8, 9, 3)), "TYXC", (0.5, 0.25), "film")
    arguments = layer_arguments(image)
    assert arguments["rgb"]
    assert arguments["axis_labels"] == ("t", "y", "x")
    assert arguments["scale"] == (1.0, 0.5, 0.25)
    assert arguments["units"] == ("pixel", "micrometer", "micrometer")
