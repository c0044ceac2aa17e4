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


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("y,x,class\n1,2," + "A" * 200_000)
    with pytest.raises(ReadError, match="Expected rows of"):
        read_cells(path, (20, 24), ("A",), is_complete=False)
