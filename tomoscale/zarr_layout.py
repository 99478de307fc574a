"""Shape, type, codecs and file names of a Zarr array, checked before anything of it is opened or decoded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES, MAX_VOXELS, Node

MAX_INDEX_BYTES = 64 * 2**20
"""Of a shard: four million chunks. It is read as a whole for any of them."""
_COMPRESSIONS = {"blosc", "zstd", "gzip"}
_CODECS = {"bytes", "transpose", "crc32c", "sharding_indexed"} | _COMPRESSIONS
_INDEX_CODECS = {"bytes", "crc32c"}
_COMPRESSORS_V2 = {"blosc", "zstd", "gzip", "zlib"}
_DTYPE_V2 = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248])")
_INDEX_ENTRY_BYTES = 16
_CRC_BYTES = 4


@dataclass(frozen=True)
class ShardIndex:
    """Where in a shard the places of its chunks stand: how many bytes in all, in which order, and at which end."""

    bytes: int
    big_endian: bool
    at_end: bool


@dataclass(frozen=True)
class Layout:
    """What the metadata of an array say, checked, with its leading axes of length one still in place.

    Attributes
    ----------
    shape, chunk, shard : tuple of int
        `chunk` is decoded as a whole, `shard` is a file; equal where there are no shards.
    dtype : numpy dtype
    index : ShardIndex or None
    blosc : bool
        Whether a stored chunk begins with the head of a blosc block.
    prefix, separator : str
        Of the names of files: prefix, then the position in the grid.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    index: ShardIndex | None
    blosc: bool
    prefix: str
    separator: str

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return math.prod(self.chunk) * self.dtype.itemsize


def check_array(node: Node) -> Layout:
    """Layout of an array.

    Raises
    ------
    InputError
        If the array is not one we read: rank, dtype, codecs, or chunks no memory should be given to.
    """
    layout = _layout_v3(node) if node.version == 3 else _layout_v2(node)
    name, shape = str(node.path), layout.shape
    if not 3 <= len(shape) <= 5 or any(n != 1 for n in shape[:-3]):
        raise InputError(
            f"{name}: the array has shape {shown(shape)}, but must have three axes (z, y, x), or more with axes of length 1 "
            "before them: save one time point and channel on its own"
        )
    if min(shape) < 1:
        raise InputError(f"{name}: the array has shape {shown(shape)}, which holds no voxel")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            f"{name}: the array has shape {shown(shape)}, more voxels than any disk holds: its metadata are damaged"
        )
    _check_chunks(name, layout)
    return layout


def _check_chunks(name: str, layout: Layout) -> None:
    chunk, shard, index = layout.chunk, layout.shard, layout.index
    if not len(chunk) == len(shard) == len(layout.shape) or min(*chunk, *shard) < 1:
        raise InputError(
            f"{name}: chunks of {shown(chunk)} voxels in files of {shown(shard)} do not fit an array of shape {layout.shape}: its "
            "metadata are damaged"
        )
    if layout.chunk_bytes > MAX_CHUNK_BYTES:
        raise InputError(
            f"{name}: chunks of {shown(chunk)} voxels of {layout.dtype} take {layout.chunk_bytes / 2**30:.3g} GiB each, more than "
            f"the {MAX_CHUNK_BYTES / 2**30:.0f} GiB allowed, since a chunk is decoded as a whole; rechunk the volume (64^3 is usual)"
        )
    if any(s % c for s, c in zip(shard, chunk, strict=True)):
        raise InputError(
            f"{name}: shards of {shown(shard)} voxels are not made of chunks of {chunk}: its metadata are damaged"
        )
    if index is not None and index.bytes > MAX_INDEX_BYTES:
        raise InputError(
            f"{name}: the index of a shard of {shown(shard)} voxels in chunks of {chunk} takes {index.bytes / 2**20:.3g} MiB, more "
            f"than the {MAX_INDEX_BYTES // 2**20} allowed, since it is read as a whole; rechunk the volume with larger chunks or "
            "smaller shards"
        )


def shown(value: Any) -> str:
    """A value of metadata for messages, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + " ..."


def _layout_v3(node: Node) -> Layout:
    metadata = node.metadata
    shape = _lengths(node, metadata.get("shape"), "shape")
    grid = metadata.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise InputError(f"{node.path}: the chunk grid {shown(grid)} is not regular, which is the only kind read")
    shard = _lengths(node, _configuration(grid).get("chunk_shape"), "chunk_shape")
    if metadata.get("storage_transformers"):
        raise InputError(f"{node.path}: storage transformers are not read: save the array again without them")
    dtype = _dtype(node, metadata.get("data_type"))
    codecs = _check_codecs(node, metadata.get("codecs"), _CODECS)
    chunk, index = shard, None
    if "sharding_indexed" in codecs:
        settings = _configuration(metadata["codecs"][0])
        inner = _check_codecs(node, settings.get("codecs"), _CODECS) if len(codecs) == 1 else codecs
        if "sharding_indexed" in inner:
            raise InputError(f"{node.path}: shards within shards, or behind other codecs, are not read: save it again")
        chunk, codecs = _lengths(node, settings.get("chunk_shape"), "chunk_shape of the shards"), inner
        index = _shard_index(node, settings, shard, chunk)
    packed = [c for c in codecs if c in _COMPRESSIONS]
    if len(packed) > 1:
        raise InputError(
            f"{node.path}: chunks are compressed by {shown(packed)} after each other, but only one compression is read, so "
            "that what a chunk unpacks to is known before it is unpacked; save it again"
        )
    prefix, separator = _key_encoding(node, metadata.get("chunk_key_encoding"))
    return Layout(shape, dtype, chunk, shard, index, "blosc" in packed, prefix, separator)


def _layout_v2(node: Node) -> Layout:
    metadata = node.metadata
    if metadata.get("filters"):
        raise InputError(
            f"{node.path}: filters {shown(metadata['filters'])} are not read: save the array again without filters"
        )
    compressor = metadata.get("compressor")
    name = compressor.get("id") if isinstance(compressor, dict) else None
    if compressor is not None and not (isinstance(name, str) and name in _COMPRESSORS_V2):
        raise InputError(
            f"{node.path}: the compressor {shown(name)} is not read, only {', '.join(sorted(_COMPRESSORS_V2))}"
        )
    code = metadata.get("dtype")
    known = np.dtype(code).name if isinstance(code, str) and _DTYPE_V2.fullmatch(code) else None
    chunk = _lengths(node, metadata.get("chunks"), "chunks")
    separator = _separator(node, metadata.get("dimension_separator", "."))
    shape = _lengths(node, metadata.get("shape"), "shape")
    return Layout(shape, _dtype(node, known, code), chunk, chunk, None, name == "blosc", "", separator)


def _shard_index(
    node: Node, settings: Mapping[str, Any], shard: tuple[int, ...], chunk: tuple[int, ...]
) -> ShardIndex | None:
    codecs = _check_codecs(node, settings.get("index_codecs"), _INDEX_CODECS, " of the index of shards")
    if len(chunk) != len(shard) or 0 in chunk:
        return None
    entries = math.prod(s // c for s, c in zip(shard, chunk, strict=True))
    order = _configuration(settings["index_codecs"][0]).get("endian")
    size = _INDEX_ENTRY_BYTES * entries + _CRC_BYTES * codecs.count("crc32c")
    return ShardIndex(size, order == "big", settings.get("index_location", "end") == "end")


def _check_codecs(node: Node, codecs: Any, known: set[str], where: str = "") -> list[str]:
    """Names of a list of codecs."""
    listed: list[Any] = codecs if isinstance(codecs, list) else [codecs]
    names: list[Any] = [codec.get("name") if isinstance(codec, dict) else codec for codec in listed]
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise InputError(
                f"{node.path}: the codec {shown(name)}{where} is not read, only {', '.join(sorted(known))}; save it again"
            )
    return names


def _key_encoding(node: Node, encoding: Any) -> tuple[str, str]:
    """Prefix and separator of the names of chunks."""
    name = encoding.get("name") if isinstance(encoding, dict) else None
    if name not in ("default", "v2"):
        raise InputError(f"{node.path}: the names of chunks {shown(encoding)} are not read, only default and v2")
    separator = _separator(node, _configuration(encoding).get("separator", "/" if name == "default" else "."))
    return ("c" + separator if name == "default" else ""), separator


def _separator(node: Node, separator: Any) -> str:
    if separator not in ("/", "."):
        raise InputError(
            f"{node.path}: the separator {shown(separator)} in the names of chunks leads out of the volume or nowhere: it must "
            "be / or ."
        )
    return str(separator)


def _dtype(node: Node, name: Any, said: Any = None) -> np.dtype[Any]:
    if name not in DTYPES:
        raise InputError(f"{node.path}: voxels of type {shown(said or name)} are not read, only {', '.join(DTYPES)}")
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def _lengths(node: Node, value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value):
        raise InputError(f"{node.path}: {what} is {shown(value)}, but must be a list of whole numbers")
    return tuple(value)


def _configuration(codec: Any) -> Mapping[str, Any]:
    found = codec.get("configuration") if isinstance(codec, dict) else None
    return found if isinstance(found, dict) else {}
