"""HDF5 and NeXus: one three-dimensional dataset of a file as a volume."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the compression filters facilities use
import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats.hdf5_chunks import check_chunks
from tomoscale.formats.hdf5_links import Target, check_sources, open_dataset, open_file, resolve, sources, volumes
from tomoscale.formats.nexus import Order, axis_order, signed_volume, spacing
from tomoscale.geometry import AXES, Region, Shape, Spacing, three
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size, check_voxel_size, micrometres_per
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES, MAX_VOXELS

AS_STORED: Order = (0, 1, 2)


@dataclass(frozen=True)
class Hdf5Dataset:
    """Address of a dataset, links already followed.

    Attributes
    ----------
    path : str
        Absolute path of the file that holds the dataset.
    dataset : str
        Path inside the file.
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order.
    chunk_shape : (z, y, x)
        (1, 1, 1) where the voxels are stored plainly.
    order : tuple of int
        Axes of the dataset that are z, y and x.
    sources : tuple of (path, bytes)
        Other files that hold voxels, and the size each must have at least.
    """

    path: str
    dataset: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk_shape: Shape
    order: Order = AS_STORED
    sources: tuple[tuple[str, int], ...] = ()

    @property
    def name(self) -> str:
        """Path and dataset, for messages."""
        return f"{self.path}::{self.dataset}"

    def read(self, region: Region) -> np.ndarray:
        """Values of a region.

        Raises
        ------
        InputError
            If they cannot be decoded, or the dataset has changed.
        """
        check_sources(self.name, self.sources)
        # Opened for every read: that takes a millisecond, and a handle would survive neither a fork nor a new file.
        try:
            with open_file(Path(self.path)) as file:
                found = open_dataset(file, self.dataset)
                shape = tuple(found.shape[axis] for axis in self.order)
                if shape != self.shape or found.dtype.newbyteorder("=") != self.dtype:
                    raise InputError(
                        f"{self.name} is {found.shape} {found.dtype}, but was {self.shape} {self.dtype}: open it again"
                    )
                stored = [slice(0)] * 3
                for axis, wanted in zip(self.order, region, strict=True):
                    stored[axis] = wanted
                check_chunks(self.path, found, stored)
                values = np.empty([r.stop - r.start for r in stored], self.dtype)
                found.read_direct(values, source_sel=tuple(stored))
                return np.ascontiguousarray(values.transpose(self.order))
        except (OSError, KeyError, RuntimeError) as error:
            where = ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip(AXES, region, strict=True))
            raise InputError(f"{self.name} cannot be read at {where}: {error}; copy the file again") from None

    def identity(self) -> dict[str, Any]:
        """Names, sizes and times of the files."""
        stat = os.stat(self.path)
        parts = {Path(place).name: [(found := os.stat(place)).st_size, found.st_mtime_ns] for place, _ in self.sources}
        return {
            "hdf5": Path(self.path).name,
            "dataset": self.dataset,
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            **({"order": list(self.order)} if self.order != AS_STORED else {}),
            **({"sources": parts} if parts else {}),
        }


def open_hdf5(
    path: str | os.PathLike[str], *, dataset: str | None = None, voxel_size_um: float | Spacing | None = None
) -> Volume:
    """Open a dataset of an HDF5 file.

    Without `dataset` it is the one the file points to (see `nexus.signed_volume`), or else the only three-dimensional
    numeric one. Its axes are (z, y, x) unless the file says otherwise: then they are put into this order.

    Parameters
    ----------
    path : path
    dataset : str, optional
        Path inside the file.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres. Of the file are believed the dataset's attributes ``element_size_um``, or ``voxel_size`` with
        ``voxel_size_unit`` (or ``voxel_size_units``), in the order of its axes; or coordinates of all axes with units.

    Raises
    ------
    InputError
        If there is no such dataset or several, it is not a volume, or its voxels lie outside the file's folder.
    """
    place = Path(os.path.abspath(local_path(path)))
    try:
        storage, stored = _open(place, dataset)
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # A damaged object makes the library raise almost anything.
        raise InputError(f"{place} cannot be read: {error or type(error).__name__}; copy the file again") from None
    return Volume(storage, agreed_voxel_size(storage.name, stored, voxel_size_um))


def _open(path: Path, dataset: str | None) -> tuple[Hdf5Dataset, Spacing | None]:
    found, parent = _chosen(path, dataset) if dataset is not None else _found(path)
    with open_file(found.path) as file, open_file(parent.path) as other:
        node, group = file[found.inside], other[parent.inside]
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{found} is a group, not a dataset; {volumes(path).listing()}")
        group = group if isinstance(group, h5py.Group) else None
        storage = _describe(found, node, path.parent, group, chosen=dataset is not None)
        return storage, _stated_voxel_size(storage.name, node, storage.order) or spacing(node, group, storage.order)


def _chosen(path: Path, dataset: str) -> tuple[Target, Target]:
    """Dataset a user named, and the group it is named in, which says what its axes are."""
    parent = dataset.rstrip("/").rpartition("/")[0]
    return resolve(path, dataset, path.parent), resolve(path, parent or "/", path.parent)


def _found(path: Path) -> tuple[Target, Target]:
    signed = signed_volume(path)
    if signed is not None:
        return signed
    found = volumes(path)
    if len(found.volumes) != 1:
        how_many = "several volumes" if found.volumes else "no three-dimensional numeric dataset"
        raise InputError(f"{path} holds {how_many}; {found.listing()}")
    target, (_, group) = next(iter(found.volumes.items()))
    return target, group


def _describe(found: Target, node: h5py.Dataset, root: Path, group: h5py.Group | None, *, chosen: bool) -> Hdf5Dataset:
    shape: tuple[int, ...] = node.shape or ()
    dtype = node.dtype.newbyteorder("=")
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{found} has shape {shape}, but must have three axes (z, y, x) and at least one voxel")
    if math.prod(shape) > MAX_VOXELS:
        raise InputError(f"{found} has shape {shape}, more voxels than any disk holds: it is damaged")
    if dtype.name not in DTYPES:
        raise InputError(f"{found} has values of type {node.dtype}, but only {', '.join(DTYPES)} are read")
    chunk = node.chunks or (1, 1, 1)
    if math.prod(chunk) * dtype.itemsize > MAX_CHUNK_BYTES:
        raise InputError(
            f"{found} has chunks of {node.chunks} {dtype}, more than 2 GiB each, and a chunk is decoded as a whole"
        )
    _check_filters(found, node)
    order = axis_order(str(found), node, group, chosen=chosen) or AS_STORED
    return Hdf5Dataset(
        str(found.path),
        found.inside,
        three(shape[axis] for axis in order),
        dtype,
        three(chunk[axis] for axis in order),
        order,
        sources(found, node, root),
    )


def _check_filters(found: Target, node: h5py.Dataset) -> None:
    """Refuse a compression nobody here can undo before the first block is read."""
    created = node.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{found} is compressed with filter {code} ({name.decode('utf-8', 'replace') or 'unnamed'}), which is not "
                "installed: write it again with gzip, or one of those in the package hdf5plugin"
            )


def _stated_voxel_size(name: str, node: h5py.Dataset, order: Order) -> Spacing | None:
    attributes = node.attrs
    for key, unit in (
        ("element_size_um", "um"),
        ("voxel_size", attributes.get("voxel_size_unit")),
        ("voxel_size", attributes.get("voxel_size_units")),
    ):
        factor = micrometres_per(unit)
        if key in attributes and factor is not None:
            values = np.atleast_1d(attributes[key])
            lengths = [float(v) * factor for v in values] if values.dtype.kind in "iuf" and values.size < 4 else []
            lengths = lengths * 3 if len(lengths) == 1 else lengths
            z, y, x = check_voxel_size(lengths, f"{name} (as stored in {key})", InputError)
            return ((z, y, x)[order[0]], (z, y, x)[order[1]], (z, y, x)[order[2]])
    return None
