import zlib

import numpy as np
import pytest

from cellwright.annotation import records


@pytest.mark.parametrize("runs", [[(20, 1)], [(1 << 40, 1)], [(-4, 1), (16, 1)]])
def test_runs_that_do_not_fill_their_labels_are_refused(runs):
    lengths = np.array([n for n, _ in runs], "<i8").tobytes()
    packed = zlib.compress(lengths + np.array([value for _, value in runs], "<i4").tobytes())
    for shape in ((3, 4), (-3, 4), (1 << 20, 1 << 20)):
        with pytest.raises(ValueError, match=r"labels of|runs that"):
            records._unpack_labels(packed, shape)
    with pytest.raises(ValueError, match="runs that"):
        records._unpack_labels(zlib.compress(bytes(10_000_000)), (3, 4))


@pytest.mark.parametrize("shape", [(0,), (1,), (7, 9), (3, 40, 50)])
def test_labels_are_packed_without_loss(shape, rng):
    for labels in (rng.integers(0, 3, shape), np.zeros(shape), rng.integers(0, 2**31 - 1, shape)):
        labels = labels.astype(np.int32)
        found = records._unpack_labels(records._pack_labels(labels), shape)
        assert found.dtype == np.int32
        assert np.array_equal(found, labels)
    blocks = np.kron(np.arange(16, dtype=np.int32).reshape(4, 4), np.ones((64, 64), np.int32))
    assert len(records._pack_labels(blocks)) < blocks.nbytes / 50
