import numpy as np
import pytest

from cellwright.core.errors import ReadError
from cellwright.files.dataset.cells import read_cells, write_class_points


def test_classes_of_masks_are_kept_at_a_pixel_of_the_cell(tmp_path):
    labels = np.zeros((20, 24), np.int32)
    labels[2:8, 2:8], labels[10:18, 10:18] = 1, 2
    labels[12:16, 12:16] = 0  # the middle of a ring is no pixel of it
    path = tmp_path / "points" / "ring.csv"
    write_class_points(path, labels, "YX", np.array([0, 1], np.int16), ("A", "B"))
    marks = read_cells(path, (20, 24), ("A", "B"), is_complete=False)
    places = marks.points.astype(int)
    assert labels[tuple(places.T)].tolist() == [1, 2]
    assert marks.classes.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("y,x,class\n1,2," + "A" * 200_000, "Expected a whole CSV file"),
        ("y,z,class\n1,2,A", "Expected rows of"),
        ("y,x,class\n1,a,A", "Expected rows of"),
        ("y,x,class\n1,2,0", "must be those of meta.json, A; got '0'"),
        ("y,x,class\n1,200,A", "must lie inside the image"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, words):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ReadError, match=words):
        read_cells(path, (20, 24), ("A",), is_complete=False)


@pytest.mark.parametrize("sign", [",", ";"])
def test_a_table_that_a_spreadsheet_has_saved_is_read(tmp_path, sign):
    path = tmp_path / "boxes" / "a.csv"
    path.parent.mkdir()
    lines = ("xmin,ymin,xmax,ymax,class", "1,2,5,8,A", "3,4,9,9,")
    path.write_text("\r\n".join(lines).replace(",", sign), encoding="utf-8-sig", newline="")
    found = read_cells(path, (20, 24), ("A",), is_complete=False)
    assert found.boxes.tolist() == [[[2, 1], [8, 5]], [[4, 3], [9, 9]]]
    assert found.classes.tolist() == [0, -1]
    path.write_text("xmin,ymin,xmax,ymax\n5,2,1,8")
    with pytest.raises(ReadError, match="xmin below xmax"):
        read_cells(path, (20, 24), (), is_complete=False)
