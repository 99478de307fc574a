"""Zarr volumes in an object store that speaks S3, for reading: ``s3://bucket/path/scan.zarr``.

The endpoint is ``AWS_ENDPOINT_URL`` (that of Amazon where it is not set), the region ``AWS_REGION``; credentials are
found where every S3 client finds them (``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, ``~/.aws``), by each process
for itself: they are neither kept in a volume nor sent to workers.

Only metadata whose place is known are asked for: of the path itself, and of the full resolution that it lists, or of the
array that was asked for. Servers that are busy or drop connections are asked again by the reader, with growing pauses.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import tensorstore

from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import Region, Shape, Spacing
from tomoscale.json_files import MAX_JSON_BYTES
from tomoscale.ome import LEVEL, Kind, level_paths, multiscales
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size
from tomoscale.zarr_array import THREADS
from tomoscale.zarr_group import find_array
from tomoscale.zarr_metadata import read_node

RETRIES = 8
"""Times a request is repeated, after 0.2 s and then ever longer pauses up to 8 s."""
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_ADDRESS = re.compile(r"s3:/{1,2}([^/]+)/(.+?)/*")


@dataclass(frozen=True)
class Bucket:
    """Where objects are.

    Attributes
    ----------
    name : str
    endpoint : str or None
        Address of the server; None for Amazon's.
    region : str or None
    """

    name: str
    endpoint: str | None
    region: str | None

    def spec(self, path: str) -> dict[str, Any]:
        """Description of a folder for tensorstore."""
        found: dict[str, Any] = {"driver": "s3", "bucket": self.name, "path": f"{path}/"}
        found |= {"endpoint": self.endpoint} if self.endpoint else {}
        if "AWS_ACCESS_KEY_ID" in os.environ:
            # Said, so that the library does not look for files of credentials, and complain that there are none.
            found["aws_credentials"] = {"type": "environment"}
        return found | ({"aws_region": self.region} if self.region else {})


@dataclass(frozen=True)
class BucketArray:
    """Address of a Zarr array in an object store, and what its metadata say; for reading.

    Attributes
    ----------
    bucket : Bucket
    path : str
        Of the array in it.
    shape : (Z, Y, X)
    dtype : numpy dtype
    chunk_shape : (z, y, x)
    kind : str
    complete : bool
        Every chunk was written, so one that is missing is an error, not zeros.
    version : int
        Of the Zarr format, 3 or 2.
    leading : int
        Axes of length one before (z, y, x).
    digest : str
        Of the metadata.
    """

    bucket: Bucket
    path: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk_shape: Shape
    kind: Kind
    complete: bool
    version: int
    leading: int
    digest: str

    @property
    def name(self) -> str:
        """Address, for messages."""
        return f"s3://{self.bucket.name}/{self.path}"

    def read(self, region: Region) -> np.ndarray:
        """Values of a region, in C order.

        Raises
        ------
        IntegrityError
            If a chunk is damaged or missing.
        InputError
            If there is no permission.
        OSError
            If the server does not answer, after all repetitions.
        """
        with _translated(self.name):
            values = _opened(self)[(0,) * self.leading + region].read(order="C").result()
        return np.ascontiguousarray(values)

    def identity(self) -> dict[str, Any]:
        """Digest of the metadata: those of our finished volumes record what the voxels are, those of others do not."""
        return {"volume": PurePosixPath(self.path).name, "sha256": self.digest}


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is an address in an object store."""
    return _ADDRESS.fullmatch(os.fspath(path)) is not None


def open_bucket(
    address: str | os.PathLike[str],
    *,
    array: str | None = None,
    voxel_size_um: float | Spacing | None = None,
) -> Volume:
    """Open a Zarr array, or the full resolution of an OME-Zarr image, in an object store, for reading.

    Parameters
    ----------
    address : str
        ``s3://bucket/path``.
    array : str, optional
        Path inside the group.
    voxel_size_um : (z, y, x), or one length for all
        Needed where the metadata state none; where they do, it must agree.

    Raises
    ------
    InputError
        If there is nothing to read, no permission, or the metadata make no sense; a volume of ours must be finished.
    OSError
        If the server does not answer.
    """
    match = _ADDRESS.fullmatch(os.fspath(address))
    if match is None:
        raise InputError(f"{os.fspath(address)} is no address of an object: give s3://BUCKET/PATH")
    bucket = Bucket(match[1], os.environ.get("AWS_ENDPOINT_URL"), os.environ.get("AWS_REGION"))
    name = f"s3://{match[1]}/{match[2]}"
    with tempfile.TemporaryDirectory(prefix="tomoscale-") as folder:
        digest = _fetch_metadata(bucket, match[2], array, Path(folder))
        try:
            found = find_array(folder, array)
        except InputError as error:
            raise InputError(str(error).replace(folder, name)) from None
    storage, ours = found.storage, found.is_ours
    if ours and found.state.get("finished") is not True:
        raise InputError(f"{name} is not finished: copy it again once the run that makes it is done")
    inside = Path(storage.directory, storage.inside).relative_to(folder).as_posix()
    source = BucketArray(
        bucket,
        str(PurePosixPath(match[2], inside)),
        storage.shape,
        storage.dtype,
        storage.chunk_shape,
        storage.kind,
        ours,
        storage.version,
        storage.leading,
        digest,
    )
    return Volume(source, agreed_voxel_size(name, found.voxel_size_um, voxel_size_um), classes=found.classes)


def _fetch_metadata(bucket: Bucket, path: str, array: str | None, folder: Path) -> str:
    """Copy the metadata of a group and of the array in it that is meant to a folder; return their digest."""
    digest = hashlib.sha256()
    with _translated(f"s3://{bucket.name}/{path}"):
        store = tensorstore.KvStore.open(bucket.spec(path), context=_context()).result()
        _fetch_node(store, folder, "", digest)
        top = read_node(folder)
        if top is not None and not top.is_array:
            listed = level_paths(multiscales(top.attributes) or {})
            inside = array or (listed[0] if listed else LEVEL)
            if ".." not in PurePosixPath(inside).parts and not PurePosixPath(inside).is_absolute():
                _fetch_node(store, folder, inside, digest)
    return digest.hexdigest()[:32]


def _fetch_node(store: Any, folder: Path, inside: str, digest: Any) -> None:
    for name in _METADATA:
        key = str(PurePosixPath(inside, name))
        found = store.read(key).result()
        if found.state != "value":
            continue
        if len(found.value) > MAX_JSON_BYTES:
            raise InputError(f"{key} is larger than {MAX_JSON_BYTES} bytes, which no metadata are")
        digest.update(key.encode() + found.value)
        (folder / inside).mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(found.value)


@lru_cache(maxsize=64)
def _opened(array: BucketArray) -> Any:
    spec = {
        "driver": "zarr3" if array.version == 3 else "zarr",
        "kvstore": array.bucket.spec(array.path),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": not array.complete,
        "recheck_cached_metadata": "open",
    }
    store = tensorstore.open(spec, context=_context()).result()
    found = (tuple(store.shape)[array.leading :], store.dtype.numpy_dtype)
    if found != (array.shape, array.dtype):
        raise InputError(f"{array.name} was replaced while it was read: it now has shape and dtype {found}")
    return store


@lru_cache(maxsize=1)
def _context() -> Any:
    pauses = {"max_retries": RETRIES, "initial_delay": "200ms", "max_delay": "8s"}
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": THREADS},
            "s3_request_concurrency": {"limit": 2 * THREADS},
            "s3_request_retries": pauses,
        }
    )


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what the library raises into the errors a user can act on."""
    try:
        yield
    except (InputError, IntegrityError):
        raise
    except (ValueError, OSError) as error:
        raise _as_ours(name, str(error)) from None


def _as_ours(name: str, text: str) -> Exception:
    kind = text.partition(":")[0]
    if kind in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED", "INTERNAL"):
        # Not one to be repeated again: the reader has done so for long.
        return OSError(
            f"{name}: the object store does not answer ({text.splitlines()[0][:200]}); check AWS_ENDPOINT_URL"
        )
    if kind in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
        return InputError(
            f"{name}: no permission to read it: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
        )
    if kind == "NOT_FOUND":
        return IntegrityError(f"{name}: a chunk is missing: copy the volume again ({text.splitlines()[0][:200]})")
    return IntegrityError(f"{name} is damaged: {text.splitlines()[0][:300]}; copy the volume again")
