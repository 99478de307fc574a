"""Metadata of Zarr arrays: what we write, and the check of what strangers wrote before anything is decoded."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Shape
from tomoscale.ome import Kind

MAX_METADATA_BYTES = 64 * 2**20
MAX_CHUNK_BYTES = 2 * 2**30
"""A chunk is decoded as a whole: a larger one is a mistake or an attack on the memory."""
MAX_VOXELS = 2**56
"""An exabyte or so: numbers of blocks then fit any integer."""
DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)
_CODECS = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", "sharding_indexed"}
_COMPRESSORS_V2 = {"blosc", "zstd", "gzip", "zlib"}


@dataclass(frozen=True)
class Node:
    """An array or a group as its metadata file describes it."""

    path: Path
    version: int
    is_array: bool
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """Checked shape, dtype and chunk of an array, with its leading axes of length one still in place."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    largest_chunk: tuple[int, ...]


def array_metadata(
    shape: Shape, dtype: np.dtype[Any], kind: Kind, chunk: Shape, shard: Shape, version: int
) -> dict[str, Any]:
    """Zarr metadata of an array whose every chunk carries a checksum; only version 3 has shards."""
    if version == 2:
        return _array_metadata_v2(shape, dtype, chunk)
    return _array_metadata_v3(shape, dtype, kind, chunk, shard)


def _array_metadata_v2(shape: Shape, dtype: np.dtype[Any], chunk: Shape) -> dict[str, Any]:
    # Measured on 16-bit grey and on labels of 256^3: of 60 flipped bits each, blosc gave wrong voxels for 57 and 40 and
    # zstd for 60 and 26, zlib never. It writes 54 and 441 MB/s where blosc writes 330 and 1115: this is for handing over
    # a volume, to readers old enough to know zlib.
    return {
        "zarr_format": 2,
        "shape": list(shape),
        "chunks": list(chunk),
        "dtype": dtype.newbyteorder("<").str,
        "compressor": {"id": "zlib", "level": 1},
        "fill_value": False if dtype.kind == "b" else 0,
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def _array_metadata_v3(shape: Shape, dtype: np.dtype[Any], kind: Kind, chunk: Shape, shard: Shape) -> dict[str, Any]:
    """Zarr v3 metadata of a sharded array whose every inner chunk carries a checksum.

    The checksum is last in the chain, so it is over the stored bytes; the index of a shard carries its own.
    """
    little_endian = {"name": "bytes", "configuration": {"endian": "little"}}
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": False if dtype.kind == "b" else 0,
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": list(chunk),
                    "codecs": [little_endian, _compressor(dtype, kind), {"name": "crc32c"}],
                    "index_codecs": [little_endian, {"name": "crc32c"}],
                    "index_location": "end",
                },
            }
        ],
        "dimension_names": list(AXES),
    }


def _compressor(dtype: np.dtype[Any], kind: Kind) -> dict[str, Any]:
    # Measured per core on 256^3, 64^3 chunks, MiB/s written / read and ratio. uint8 classes: zstd 3 without shuffle
    # 84 / 301, 10.8; zstd 1 with bit shuffle 246 / 299, 11.2. uint32 objects: zstd 3 with byte shuffle 251 / 541, 44;
    # zstd 1 with bit shuffle 525 / 533, 61. float32 grey: zstd 3 without shuffle 31 / 183, 1.6; with byte shuffle
    # 309 / 424, 1.3.
    if kind != "grey":
        level, shuffle = 1, "bitshuffle"
    else:
        level, shuffle = 3, "noshuffle" if dtype.itemsize == 1 else "shuffle"
    settings = {"cname": "zstd", "clevel": level, "shuffle": shuffle, "typesize": dtype.itemsize, "blocksize": 0}
    return {"name": "blosc", "configuration": settings}


def write_node(path: Path, metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an array or a group, which say what it is, and its attributes, each file at once."""
    if metadata["zarr_format"] == 3:
        replace_json(path / "zarr.json", {**metadata, "attributes": attributes})
        return
    name = ".zarray" if "chunks" in metadata else ".zgroup"
    if not (path / name).is_file():
        replace_json(path / name, metadata)
    replace_json(path / ".zattrs", attributes)


def group_metadata(version: int) -> dict[str, Any]:
    """Zarr metadata of a group."""
    return {"zarr_format": 2} if version == 2 else {"zarr_format": 3, "node_type": "group"}


def replace_json(path: Path, value: Any) -> None:
    """Write JSON so that `path` holds the old or the new text whatever happens."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_node(path: Path) -> Node | None:
    """Array or group at `path`, Zarr v3 or v2; None if there is neither."""
    if (path / "zarr.json").is_file():
        metadata = _read_json(path / "zarr.json")
        attributes = metadata.get("attributes")
        found = attributes if isinstance(attributes, dict) else {}
        return Node(path, 3, metadata.get("node_type") == "array", metadata, found)
    for name, is_array in ((".zarray", True), (".zgroup", False)):
        if (path / name).is_file():
            attributes = _read_json(path / ".zattrs") if (path / ".zattrs").is_file() else {}
            return Node(path, 2, is_array, _read_json(path / name), attributes)
    return None


def child(root: Path, inside: str) -> Path:
    """Path of a node inside a volume.

    Raises
    ------
    InputError
        If it leads out of the volume, by ``..``, as an absolute path or through a link.
    """
    parts = PurePosixPath(inside)
    path = root / parts
    try:
        path.exists()
        within = path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file system has, a circle of links
        within = False
    if parts.is_absolute() or ".." in parts.parts or not within:
        raise InputError(f"{root}: the path {inside!r} leads out of the volume, so it is not followed")
    return path


def check_array(node: Node) -> Layout:
    """Shape, dtype and chunk of an array.

    Raises
    ------
    InputError
        If the array is not one we read: rank, dtype, codecs, or chunks no memory should be given to.
    """
    layout = _layout_v3(node) if node.version == 3 else _layout_v2(node)
    name, shape = str(node.path), layout.shape
    if not 3 <= len(shape) <= 5 or any(n != 1 for n in shape[:-3]):
        raise InputError(
            f"{name}: the array has shape {shape}, but must have three axes (z, y, x), or more with axes of length 1 before "
            "them: save one time point and channel on its own"
        )
    if min(shape) < 1:
        raise InputError(f"{name}: the array has shape {shape}, which holds no voxel")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(
            f"{name}: the array has shape {shape}, more voxels than any disk holds: its metadata are damaged"
        )
    size = math.prod(layout.largest_chunk) * layout.dtype.itemsize
    if len(layout.largest_chunk) != len(shape) or min(layout.largest_chunk) < 1 or size > MAX_CHUNK_BYTES:
        raise InputError(
            f"{name}: chunks of {layout.largest_chunk} voxels of {layout.dtype} take {size / 2**30:.3g} GiB each, more than the "
            f"{MAX_CHUNK_BYTES / 2**30:.0f} GiB allowed, since a chunk is decoded as a whole; rechunk the volume (64^3 is usual)"
        )
    return layout


def _layout_v3(node: Node) -> Layout:
    metadata = node.metadata
    shape = _lengths(node, metadata.get("shape"), "shape")
    grid = metadata.get("chunk_grid")
    if not isinstance(grid, dict) or grid.get("name") != "regular":
        raise InputError(f"{node.path}: the chunk grid {grid!r} is not regular, which is the only kind read")
    chunk = _lengths(node, _configuration(grid).get("chunk_shape"), "chunk_shape")
    codecs = _check_codecs(node, metadata.get("codecs"))
    if codecs and codecs[0].get("name") == "sharding_indexed":
        inner = _configuration(codecs[0])
        _check_codecs(node, inner.get("codecs"))
        _check_codecs(node, inner.get("index_codecs"))
        chunk = _lengths(node, inner.get("chunk_shape"), "chunk_shape of the shards")
    return Layout(shape, _dtype(node, metadata.get("data_type")), chunk)


def _layout_v2(node: Node) -> Layout:
    metadata = node.metadata
    if metadata.get("filters"):
        raise InputError(
            f"{node.path}: filters {metadata['filters']!r} are not read: save the array again without filters"
        )
    compressor = metadata.get("compressor")
    name = compressor.get("id") if isinstance(compressor, dict) else None
    if compressor is not None and name not in _COMPRESSORS_V2:
        raise InputError(f"{node.path}: the compressor {name!r} is not read, only {', '.join(sorted(_COMPRESSORS_V2))}")
    code = metadata.get("dtype")
    try:
        dtype = np.dtype(code).name if isinstance(code, str) else None
    except TypeError:
        dtype = None
    chunk = _lengths(node, metadata.get("chunks"), "chunks")
    return Layout(_lengths(node, metadata.get("shape"), "shape"), _dtype(node, dtype, code), chunk)


def _check_codecs(node: Node, codecs: Any) -> list[dict[str, Any]]:
    listed: list[Any] = codecs if isinstance(codecs, list) else [None]
    for codec in listed:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if name not in _CODECS:
            raise InputError(
                f"{node.path}: the codec {name!r} is not read, only {', '.join(sorted(_CODECS))}; save it again"
            )
    return listed


def _dtype(node: Node, name: Any, shown: Any = None) -> np.dtype[Any]:
    if name not in DTYPES:
        raise InputError(f"{node.path}: voxels of type {shown or name!r} are not read, only {', '.join(DTYPES)}")
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def _lengths(node: Node, value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in value):
        raise InputError(f"{node.path}: {what} is {value!r}, but must be a list of whole numbers")
    return tuple(value)


def _configuration(codec: Mapping[str, Any]) -> Mapping[str, Any]:
    found = codec.get("configuration")
    return found if isinstance(found, dict) else {}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        value = json.loads(path.read_bytes()) if size <= MAX_METADATA_BYTES else None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: the metadata cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise InputError(
            f"{path}: the metadata ({size} bytes) is not a JSON object of at most {MAX_METADATA_BYTES} bytes"
        )
    return value
