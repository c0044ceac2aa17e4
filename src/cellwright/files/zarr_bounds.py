"""Chunks of Zarr that unpack to no more than a chunk holds; imported only where zarr is.

What is refused in this way: a store of a few kilobytes whose chunks unpack to gigabytes.
"""

import asyncio
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import imagecodecs
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec

SPARE_BYTES = 1 << 20  # for what a filter adds to a chunk
DECODERS: dict[str, Callable[..., Any]] = {
    "blosc": imagecodecs.blosc_decode,
    "bz2": imagecodecs.bz2_decode,
    "gzip": imagecodecs.gzip_decode,
    "lz4": imagecodecs.lz4_decode,
    "lzma": imagecodecs.lzma_decode,
    "zlib": imagecodecs.zlib_decode,
    "zstd": imagecodecs.zstd_decode,
}
OPTIONS = {"lz4": {"header": True}}


def bounded(array: Any) -> Any:
    """Return a Zarr array to be read, of which no chunk is unpacked beyond what it is to hold."""
    metadata = copy(array.metadata)
    n_item = array.dtype.itemsize
    if array.metadata.zarr_format == 2:
        most = _most(array.chunks, n_item)
        changed = {
            "compressor": _numcodec(metadata.compressor, most),
            "filters": tuple(_numcodec(one, most) for one in metadata.filters or ()) or None,
        }
    else:
        changed = {"codecs": _codecs(metadata.codecs, array.shards or array.chunks, n_item)}
    for name, value in changed.items():
        object.__setattr__(metadata, name, value)  # it is frozen, and would write defaults in a new one
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path))


def _most(shape: Sequence[int], n_item: int) -> int:
    return 2 * prod(shape) * n_item + SPARE_BYTES


def _codecs(codecs: Sequence[Any], shape: Sequence[int], n_item: int) -> tuple[Any, ...]:
    """Return the codecs of chunks of a shape, those that unpack bounded; also those inside shards."""
    found: list[Any] = []
    for codec in codecs:
        name = str(codec.to_dict().get("name", "")).removeprefix("numcodecs.")
        if isinstance(codec, ShardingCodec):
            found.append(replace(codec, codecs=_codecs(codec.codecs, codec.chunk_shape, n_item)))
        elif isinstance(codec, BytesBytesCodec) and name in DECODERS:
            found.append(BoundedCodec(codec, name, _most(shape, n_item)))
        else:
            found.append(codec)
    return tuple(found)


def _numcodec(codec: Any, most: int) -> Any:
    if codec is None or codec.codec_id not in DECODERS:
        return codec
    return BoundedNumcodec(codec.codec_id, most)


@dataclass(frozen=True)
class BoundedNumcodec:
    """What unpacks the chunks of Zarr 2."""

    codec_id: str
    most: int  # bytes of a chunk

    def decode(self, packed: Any) -> Any:
        """Return bytes unpacked.

        ValueError where they are damaged, or more than a chunk holds.
        """
        try:
            unpacked = DECODERS[self.codec_id](packed, out=self.most, **OPTIONS.get(self.codec_id, {}))
        except Exception as error:  # each has errors of its own
            raise ValueError(
                f"a chunk is damaged, or unpacks to more than {self.most} bytes ({error})"
            ) from error
        if len(unpacked) >= self.most:  # some stop there without a word
            raise ValueError(f"a chunk unpacks to more than {self.most} bytes")
        return unpacked


@dataclass(frozen=True)
class BoundedCodec(BytesBytesCodec):
    """What unpacks the chunks of Zarr 3."""

    codec: Any
    name: str
    most: int  # bytes of a chunk
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as its metadata has it."""
        return self.codec.to_dict()

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Return what the codec says."""
        return self.codec.compute_encoded_size(input_byte_length, chunk_spec)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        unpack = BoundedNumcodec(self.name, self.most).decode
        unpacked = await asyncio.to_thread(unpack, chunk_bytes.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(unpacked)
