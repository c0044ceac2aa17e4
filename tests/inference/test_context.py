import numpy as np
import pytest

from cellwright.core.data import Image
from cellwright.inference import context as context_module
from cellwright.inference.context import in_seam_order as in_memory
from cellwright.inference.context import open_context
from cellwright.inference.settings import EngineSettings
from cellwright.inference.streaming.plan import StreamPlan, blocks_of, in_rounds


@pytest.fixture
def make_context(oracle_model):
    """Function (frames, shape) -> the context of counting that many frames of (Y, X) pixels."""

    def make(n_frames, shape, **engine):
        pixels = np.broadcast_to(np.arange(shape[1], dtype=np.float32), (n_frames, *shape))
        settings = EngineSettings(device="cpu", **engine)
        with open_context(Image(pixels, "TYX"), (oracle_model,), None, settings) as context:
            return context

    return make


def test_a_normal_image_is_one_block(make_context):
    (batch,) = make_context(1, (2048, 4096)).batches(1.0)
    assert batch.shape == (2048, 4096)


def test_a_large_image_is_cut_and_every_block_sees_whole_cells(make_context):
    context = make_context(1, (9000, 9000))
    batches = context.batches(1.0)
    assert len(batches) == 25
    largest_cell = context_module.LARGEST_CELL * context.networks.spec.diameter_px
    for batch in batches:
        for core, read in zip(batch.block.core, batch.block.read, strict=True):
            assert core.start - read.start >= min(core.start, context.networks.halo + largest_cell)


def test_an_image_that_a_block_would_read_whole_is_one(make_context):
    """Else its cells would be counted, and its maps kept, once for each such block."""
    (batch,) = make_context(1, (5000, 4200)).batches(0.05)
    assert batch.block.core == batch.block.read == (slice(0, 5000), slice(0, 4200))


def test_blocks_in_memory_are_done_in_the_order_of_streams(make_context, monkeypatch):
    monkeypatch.setattr(context_module, "WHOLE_PX", 64)
    monkeypatch.setattr(context_module, "BLOCK_PX", 512)
    monkeypatch.setattr("cellwright.files.zarr.CHUNK_PX", 256)
    counting = make_context(1, (1536, 2048))
    cores = [batch.block.core for batch in in_memory(counting.batches(1.0))]
    image = Image(np.zeros((1536, 2048), np.uint8), "YX")
    plan = StreamPlan(counting.prepared(1.0), 512, 64)
    assert cores == [block.tile.core for block in in_rounds(blocks_of(image, plan))]


def test_blocks_of_an_enlarged_image_are_smaller(make_context):
    batches = make_context(1, (4096, 2048)).batches(4.0)
    assert all(max(batch.shape) <= context_module.BLOCK_PX / 4 + 200 for batch in batches)


def test_small_frames_are_taken_together(make_context):
    context = make_context(6, (64, 64), batch_size=4)
    batches = context.batches(1.0)
    assert [list(batch.frames) for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert context.progress(batches, 1.0).total == 6
