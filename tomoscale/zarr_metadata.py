"""Metadata of Zarr arrays and groups: what we write, and nodes as their files describe them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Shape
from tomoscale.json_files import read_json
from tomoscale.ome import Kind
from tomoscale.places import Place, replace_text

NODES = ("zarr.json", ".zarray", ".zgroup")
"""Files that make a folder an array or a group."""
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


@dataclass(frozen=True)
class Node:
    """An array or a group as its metadata file describes it."""

    path: Place
    version: int
    is_array: bool
    metadata: Mapping[str, Any]
    attributes: Mapping[str, Any]


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


def write_node(path: Place, metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of an array or a group, which say what it is, and its attributes, each file at once."""
    for name, content in node_files(metadata, attributes).items():
        # What version 2 says of an array is never changed.
        if name in ("zarr.json", ".zattrs") or not (path / name).is_file():
            replace_json(path / name, content)


def node_files(metadata: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Files that describe an array or a group, and their contents."""
    if metadata["zarr_format"] == 3:
        return {"zarr.json": {**metadata, "attributes": attributes}}
    return {".zarray" if "chunks" in metadata else ".zgroup": metadata, ".zattrs": attributes}


def group_metadata(version: int) -> dict[str, Any]:
    """Zarr metadata of a group."""
    return {"zarr_format": 2} if version == 2 else {"zarr_format": 3, "node_type": "group"}


def replace_json(path: Place, value: Any) -> None:
    """Write JSON so that `path` holds the old or the new text whatever happens."""
    replace_text(path, json.dumps(value, indent=1, allow_nan=False))


def read_node(path: Place) -> Node | None:
    """Array or group at `path`, Zarr v3 or v2; None if there is neither.

    Raises
    ------
    InputError
        If its metadata cannot be read, are of another version, or lie elsewhere through a link.
    """
    if _is_file(path / "zarr.json"):
        metadata = _read(path, "zarr.json")
        kind, version, attributes = metadata.get("node_type"), metadata.get("zarr_format"), metadata.get("attributes")
        if version != 3 or kind not in ("array", "group"):
            raise InputError(
                f"{path}: a node of kind {str(kind)[:40]!r} and version {str(version)[:40]} is not read, only arrays and groups "
                "of version 3 (and 2, in files of other names)"
            )
        found = attributes if isinstance(attributes, dict) else {}
        return Node(path, 3, kind == "array", metadata, found)
    for name, is_array in ((".zarray", True), (".zgroup", False)):
        if _is_file(path / name):
            attributes = _read(path, ".zattrs") if _is_file(path / ".zattrs") else {}
            return Node(path, 2, is_array, _read(path, name), attributes)
    return None


def _is_file(path: Place) -> bool:
    try:
        return path.is_file()
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it ({error.strerror})") from None


def _read(folder: Place, name: str) -> dict[str, Any]:
    return read_json(child(folder, name), "metadata", "copy the volume again")


def child(root: Place, inside: str) -> Place:
    """Path of a node inside a volume.

    Raises
    ------
    InputError
        If it leads out of the volume, by ``..``, as an absolute path or through a link.
    """
    parts = PurePosixPath(inside)
    path = root / parts
    if parts.is_absolute() or ".." in parts.parts or not _is_within(path, root):
        raise InputError(f"{root}: the path {inside[:200]!r} leads out of the volume, so it is not followed")
    return path


def _is_within(path: Place, root: Place) -> bool:
    """Whether a path below a folder stays there when links are followed; in a bucket there are none."""
    if isinstance(path, BucketPath) or isinstance(root, BucketPath):
        return True
    try:
        path.exists()
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that no file system has, a circle of links
        return False
