"""Volumes that are kept: new ones described, and those that are there opened."""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Shape, Spacing
from tomoscale.memory_array import MemoryArray
from tomoscale.ome import (
    KINDS,
    LEVEL,
    STATE_VERSION,
    Kind,
    LabelClass,
    OmeVersion,
)
from tomoscale.places import absolute, is_bucket
from tomoscale.voxel_size import agreed_voxel_size, check_voxel_size
from tomoscale.voxels import Storage, Volume
from tomoscale.zarr_array import ZarrArray
from tomoscale.zarr_group import FoundArray, check_label, find_array, image_of
from tomoscale.zarr_handles import look_again
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES

__all__ = ["Kind", "LabelClass", "MemoryArray", "Storage", "Volume", "ZarrArray", "create_volume", "open_zarr"]

CHUNK_VOXELS = 64
PLAIN_CHUNK_VOXELS = 128
"""Edge of a chunk where there are no shards: each is a file."""
SHARD_VOXELS = 512


def create_volume(  # noqa: PLR0913 -- one argument per thing a volume is made of
    path: str | os.PathLike[str] | BucketPath,
    *,
    shape: Shape | None = None,
    dtype: Any = None,
    voxel_size_um: float | Spacing | None = None,
    like: Volume | None = None,
    kind: Kind | None = None,
    shard_shape: Shape | None = None,
    chunk_shape: Shape | None = None,
    classes: Sequence[LabelClass] = (),
    durable: bool = True,
    ome_version: OmeVersion | None = None,
) -> Volume:
    """Describe a new OME-Zarr volume; nothing is on disk until a run, or `Volume.create`, makes it.

    Parameters
    ----------
    path : path
        ``IMAGE/labels/NAME``, where IMAGE is an OME-Zarr image, is a label image of that: of kind "labels", on its grid.
    shape : (Z, Y, X)
    dtype : numpy dtype
        bool, an integer or a float of at most 64 bits.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; None if it is not known.
    like : Volume
        Gives shape, dtype, voxel size and, for labels, kind and classes where they are not given.
    kind : {"grey", "labels", "mask"}
        What the values mean; by default that of `like`, "mask" for bool, else "grey".
    shard_shape, chunk_shape : (z, y, x)
        What is written, and what is decoded, as a whole; by default 512^3 and 64^3, or less for a small volume. Version
        0.4 has no shards: every chunk is written on its own, by default of 128^3.
    classes : sequence of LabelClass
    durable : bool
        Sync every shard to disk before its block counts as done.
    ome_version : {"0.5", "0.4"}
        0.4 for programs that do not read Zarr 3; by default that of the image a label is in, else 0.5.

    Returns
    -------
    Volume
        Not on disk yet.

    Raises
    ------
    ValueError
        If an argument is missing or makes no sense.
    InputError
        If a label image does not fit its image.
    """
    if like is not None:
        shape, dtype = shape or like.shape, like.dtype if dtype is None else dtype
        voxel_size_um = like.voxel_size_um if voxel_size_um is None else voxel_size_um
        kind = like.kind if kind is None and np.dtype(dtype) == like.dtype else kind
        classes = classes or (like.classes if kind == "labels" else ())
    if shape is None or dtype is None:
        raise ValueError(f"{path}: shape and dtype must be given, or like=another volume")
    shape, dtype = _positive(shape, "shape"), np.dtype(dtype).newbyteorder("=")
    kind = kind or ("mask" if dtype.kind == "b" else "grey")
    if not is_bucket(path) and re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise ValueError(
            f"{path} is an address: volumes are written to file systems and to s3://BUCKET/PATH alone; give one of these"
        )
    _check_kind(path, kind, dtype)
    version = _zarr_version(path, ome_version)
    edge = CHUNK_VOXELS if version == 3 else PLAIN_CHUNK_VOXELS
    chunk = _three(min(edge, n) for n in shape) if chunk_shape is None else _positive(chunk_shape, "chunk_shape")
    shard = _default_shard(shape, chunk, version) if shard_shape is None else _positive(shard_shape, "shard_shape")
    _check_shard(path, shard, chunk, dtype, version)
    storage = ZarrArray(
        absolute(path),
        LEVEL,
        shape,
        dtype,
        chunk,
        shard,
        kind,
        complete=True,
        writable=True,
        durable=durable,
        version=version,
    )
    size = None if voxel_size_um is None else check_voxel_size(voxel_size_um, str(path))
    check_label(storage, size)
    return Volume(storage, size, classes=tuple(classes))


def open_zarr(
    path: str | os.PathLike[str] | BucketPath,
    *,
    array: str | None = None,
    voxel_size_um: float | Spacing | None = None,
    unfinished: bool = False,
) -> Volume:
    """Open a Zarr array, or the full resolution of an OME-Zarr image (0.4 or 0.5), for reading.

    Parameters
    ----------
    path : path
        Of a group or an array.
    array : str, optional
        Path inside the group: a coarser level ("2"), or another array.
    voxel_size_um : (z, y, x), or one length for all
        Needed where the metadata state none; where they do, it must agree.
    unfinished : bool
        Open a volume of ours that no run has finished; what is not written yet raises `IntegrityError` when read.

    Raises
    ------
    InputError
        If there is no such array, it is not finished, or its metadata make no sense.
    """
    look_again()
    found = find_array(absolute(path), array)
    finished = _check_state(found, unfinished)
    storage = replace(found.storage, complete=found.is_ours, writable=found.is_ours and not finished)
    size = agreed_voxel_size(str(storage.directory), found.voxel_size_um, voxel_size_um)
    return Volume(storage, size, classes=found.classes)


def _check_state(found: FoundArray, unfinished: bool) -> bool:
    """Tell whether the volume is finished; raise `InputError` if it is not and must be."""
    root, state = found.storage.name, found.state
    if not found.is_ours:
        return True
    if not isinstance(state.get("version"), int) or state["version"] > STATE_VERSION:
        raise InputError(
            f"{root} was made by a newer tomoscale (state {state.get('version')!r}): update tomoscale to read it"
        )
    finished = state.get("finished") is True
    if not finished and not unfinished:
        raise InputError(
            f"{root} is not finished: the run that makes it was stopped or is still going; give the same command again to "
            "resume it, or open it with unfinished=True to look at what is there"
        )
    return finished


def _check_kind(path: str | os.PathLike[str] | BucketPath, kind: str, dtype: np.dtype[Any]) -> None:
    if dtype.name not in DTYPES:
        raise ValueError(f"{path}: dtype {dtype} cannot be stored, only {', '.join(DTYPES)}")
    if kind not in KINDS:
        raise ValueError(f"{path}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind == "labels" and dtype.kind not in "iu":
        raise ValueError(f"{path}: a label volume must be of an integer type, got {dtype}; a bool volume is a mask")


def _check_shard(
    path: str | os.PathLike[str] | BucketPath, shard: Shape, chunk: Shape, dtype: np.dtype[Any], version: int
) -> None:
    if version == 2 and shard != chunk:
        raise ValueError(
            f"{path}: OME-Zarr 0.4 has no shards, so shard_shape {shard} must be chunk_shape {chunk}: give chunk_shape alone"
        )
    for axis, s, c in zip(AXES, shard, chunk, strict=True):
        if s % c:
            raise ValueError(f"{path}: shard_shape {shard} is not a multiple of chunk_shape {chunk} on axis {axis}")
    if math.prod(chunk) * dtype.itemsize > MAX_CHUNK_BYTES:
        raise ValueError(
            f"{path}: chunk_shape {chunk} of {dtype} takes more than 2 GiB, and a chunk is decoded as a whole"
        )


def _zarr_version(path: str | os.PathLike[str] | BucketPath, ome_version: OmeVersion | None) -> int:
    """Version of the Zarr format: as wanted, else that of the image a label is in, else the newest."""
    if ome_version is None:
        image = image_of(absolute(path))
        return 3 if image is None else image.version
    if ome_version not in ("0.4", "0.5"):
        raise ValueError(f'{path}: ome_version must be "0.5" or "0.4", got {ome_version!r}')
    return 2 if ome_version == "0.4" else 3


def _default_shard(shape: Shape, chunk: Shape, version: int) -> Shape:
    if version == 2:
        return chunk
    return _three(min(-(-n // c) * c, max(SHARD_VOXELS // c, 1) * c) for n, c in zip(shape, chunk, strict=True))


def _positive(value: Sequence[int], name: str) -> Shape:
    if len(value) != 3 or min(value) < 1:
        raise ValueError(f"{name} must be three positive numbers of voxels (z, y, x), got {value}")
    return _three(operator.index(v) for v in value)


def _three(values: Any) -> Shape:
    z, y, x = values
    return z, y, x
