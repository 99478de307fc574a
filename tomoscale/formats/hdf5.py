"""HDF5 and NeXus: one three-dimensional dataset of a file as a volume."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the compression filters facilities use
import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Region, Shape, Spacing
from tomoscale.volume import Volume
from tomoscale.voxel_size import agreed_voxel_size, check_voxel_size, micrometres_per
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES

MAX_LINKS = 32


@dataclass(frozen=True)
class Hdf5Dataset:
    """Address of a dataset, links already followed.

    Attributes
    ----------
    path : str
        Absolute path of the file that holds the voxels.
    dataset : str
        Path inside the file.
    shape : (Z, Y, X)
    dtype : numpy dtype
        In native byte order.
    chunk_shape : (z, y, x)
        (1, 1, 1) where the voxels are stored plainly.
    """

    path: str
    dataset: str
    shape: Shape
    dtype: np.dtype[Any]
    chunk_shape: Shape

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
        # Opened for every read: that takes a millisecond, and a handle would survive neither a fork nor a new file.
        try:
            with _file(Path(self.path)) as file:
                found = file[self.dataset]
                if found.shape != self.shape or found.dtype.newbyteorder("=") != self.dtype:
                    raise InputError(
                        f"{self.name} is {found.shape} {found.dtype}, but was {self.shape} {self.dtype}: open it again"
                    )
                values = np.empty(tuple(r.stop - r.start for r in region), self.dtype)
                found.read_direct(values, source_sel=region)
                return values
        except (OSError, KeyError, RuntimeError) as error:
            where = ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip(AXES, region, strict=True))
            raise InputError(f"{self.name} cannot be read at {where}: {error}; copy the file again") from None

    def identity(self) -> dict[str, Any]:
        """Name, size and time of the file."""
        stat = os.stat(self.path)
        return {
            "hdf5": Path(self.path).name,
            "dataset": self.dataset,
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }


def open_hdf5(
    path: str | os.PathLike[str], *, dataset: str | None = None, voxel_size_um: float | Spacing | None = None
) -> Volume:
    """Open a dataset of an HDF5 file.

    Parameters
    ----------
    path : path
    dataset : str, optional
        Path inside the file; not needed where there is only one three-dimensional numeric dataset.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres. Of the file only the dataset's attributes ``element_size_um``, or ``voxel_size`` with
        ``voxel_size_unit`` (or ``voxel_size_units``), are believed.

    Raises
    ------
    InputError
        If there is no such dataset or several, it is not a volume, or its voxels lie outside the file's folder.
    """
    place = Path(os.path.abspath(path))
    found = _resolve(place, dataset, place.parent) if dataset is not None else _only_volume(place)
    with _file(found.path) as file:
        node = file[found.inside]
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{found} is a group, not a dataset; {_listing(_volumes(place))}")
        storage = _describe(found, node, place.parent)
        stored = _stated_voxel_size(storage.name, node)
    return Volume(storage, agreed_voxel_size(storage.name, stored, voxel_size_um))


@dataclass(frozen=True)
class _Target:
    """A node of a file, reached without letting the library follow a link out of it."""

    path: Path
    inside: str

    def __str__(self) -> str:
        return f"{self.path}::{self.inside}"


@dataclass
class _Found:
    volumes: dict[_Target, tuple[int, ...]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


def _resolve(path: Path, inside: str, root: Path, links: int = 0) -> _Target:
    """Follow soft and external links one by one, and only to files under `root`."""
    if links > MAX_LINKS:
        raise InputError(f"{path}::{inside} is a chain of more than {MAX_LINKS} links, probably a circle")
    parts = [p for p in inside.split("/") if p not in ("", ".")]
    with _file(path) as file:
        group, done = file["/"], ""
        for number, part in enumerate(parts):
            link = group.get(part, getlink=True) if isinstance(group, h5py.Group) else None
            rest = "/".join(parts[number + 1 :])
            if link is None:
                held = ", ".join(sorted(group)[:20]) if isinstance(group, h5py.Group) else "nothing, it is a dataset"
                raise InputError(f"{path} has no {part!r} in {done or '/'}, which holds: {held}")
            if isinstance(link, h5py.SoftLink):
                target = link.path if link.path.startswith("/") else f"{done}/{link.path}"
                return _resolve(path, f"{target}/{rest}", root, links + 1)
            if isinstance(link, h5py.ExternalLink):
                other = _inside(path, link.filename, root, f"{path}::{done}/{part}")
                return _resolve(other, f"{link.path}/{rest}", root, links + 1)
            group, done = group[part], f"{done}/{part}"
    return _Target(path, done or "/")


def _inside(path: Path, filename: str, root: Path, what: str) -> Path:
    """File a link leads to; refuse one outside the folder of the file opened, or one that is not there."""
    other = path.parent / filename
    if not other.resolve().is_relative_to(root.resolve()):
        raise InputError(
            f"{what} leads to {filename}, outside the folder {root}: links are followed inside it only; open that file itself"
        )
    if not other.is_file():
        raise InputError(f"{what} leads to {other}, which is not there: copy the file that belongs to it")
    return other


def _only_volume(path: Path) -> _Target:
    found = _volumes(path)
    if len(found.volumes) != 1:
        how_many = "several volumes" if found.volumes else "no three-dimensional numeric dataset"
        raise InputError(f"{path} holds {how_many}; {_listing(found)}")
    return next(iter(found.volumes))


def _volumes(path: Path) -> _Found:
    """All three-dimensional numeric datasets that can be reached, each once."""
    found = _Found()
    seen: set[tuple[Path, int]] = set()
    waiting = [_Target(path, "/")]
    while waiting:
        target = waiting.pop()
        with _file(target.path) as file:
            node = file[target.inside]
            # By its place in the file: hard links can form circles, and one dataset can have many names.
            known = (target.path, h5py.h5o.get_info(node.id).addr)
            if known in seen:
                continue
            seen.add(known)
            links = {name: node.get(name, getlink=True) for name in node} if isinstance(node, h5py.Group) else {}
            if isinstance(node, h5py.Dataset) and len(node.shape or ()) == 3 and node.dtype.name in DTYPES:
                found.volumes[target] = node.shape
        for name, link in links.items():
            inside = f"{target.inside.rstrip('/')}/{name}"
            try:
                hard = isinstance(link, h5py.HardLink)
                waiting.append(_Target(target.path, inside) if hard else _resolve(target.path, inside, path.parent))
            except InputError as error:
                found.broken.append(str(error))
    return found


def _listing(found: _Found) -> str:
    lines = [f"{target.inside} {shape}" for target, shape in sorted(found.volumes.items(), key=str)[:12]]
    choice = (
        f"give dataset= one of: {'; '.join(lines)}" if lines else "give dataset= a (z, y, x) volume, or another file"
    )
    return choice + (f". Links that lead nowhere: {'; '.join(found.broken[:3])}" if found.broken else "")


def _describe(found: _Target, node: h5py.Dataset, root: Path) -> Hdf5Dataset:
    shape: tuple[int, ...] = node.shape or ()
    dtype = node.dtype.newbyteorder("=")
    if len(shape) != 3 or min(shape) < 1:
        raise InputError(f"{found} has shape {shape}, but must have three axes (z, y, x) and at least one voxel")
    if dtype.name not in DTYPES:
        raise InputError(f"{found} has values of type {node.dtype}, but only {', '.join(DTYPES)} are read")
    for name in _external_files(node):
        # The library fills voxels of a file that is not there with zeros, and reads any file it is told to.
        _inside(found.path, name, root, f"the storage of {found}")
    z, y, x = node.chunks or (1, 1, 1)
    if math.prod((z, y, x)) * dtype.itemsize > MAX_CHUNK_BYTES:
        raise InputError(
            f"{found} has chunks of {node.chunks} {dtype}, more than 2 GiB each, and a chunk is decoded as a whole"
        )
    return Hdf5Dataset(str(found.path), found.inside, (shape[0], shape[1], shape[2]), dtype, (z, y, x))


def _external_files(node: h5py.Dataset) -> Iterator[str]:
    yield from (os.fsdecode(name) for name, _, _ in node.external or ())
    if node.is_virtual:
        yield from (source.file_name for source in node.virtual_sources() if source.file_name != ".")


def _stated_voxel_size(name: str, node: h5py.Dataset) -> Spacing | None:
    attributes = node.attrs
    for key, unit in (
        ("element_size_um", "um"),
        ("voxel_size", attributes.get("voxel_size_unit")),
        ("voxel_size", attributes.get("voxel_size_units")),
    ):
        factor = micrometres_per(unit)
        if key in attributes and factor is not None:
            values = np.atleast_1d(attributes[key])
            lengths = [float(v) * factor for v in values] if values.dtype.kind in "iuf" else []
            lengths = lengths * 3 if len(lengths) == 1 else lengths
            return check_voxel_size(lengths, f"{name} (as stored in {key})", InputError)
    return None


def _file(path: Path) -> h5py.File:
    try:
        # File systems of clusters often know no locks, and a reader needs none.
        return h5py.File(path, "r", locking="best-effort")
    except OSError as error:
        raise InputError(f"{path} is not an HDF5 file that can be read: {error}") from None
