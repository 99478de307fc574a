"""Volumes from files other programs write: TIFF stacks, HDF5, Zarr."""

from __future__ import annotations

import os
from pathlib import Path

from tomoscale.errors import InputError
from tomoscale.formats.hdf5 import open_hdf5
from tomoscale.formats.tiff import is_tiff_name, open_tiff
from tomoscale.geometry import Spacing
from tomoscale.volume import Volume, open_zarr

__all__ = ["open_hdf5", "open_tiff", "open_volume", "open_zarr"]

_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_volume(
    path: str | os.PathLike[str],
    *,
    voxel_size_um: float | Spacing | None = None,
    dataset: str | None = None,
    unfinished: bool = False,
) -> Volume:
    """Open a volume of any format we read; what it is, is told by its content, not by its name.

    Parameters
    ----------
    path : path
        A Zarr array or group, a folder of TIFF slices, a multi-page TIFF, or an HDF5 file, also as
        ``"scan.h5::/entry/data"``.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed where the file states none, and must agree where it does.
    dataset : str, optional
        Dataset of an HDF5 file, or array inside a Zarr group.
    unfinished : bool
        See `open_zarr`.

    Raises
    ------
    InputError
        If there is nothing we can read.
    """
    text = os.fspath(path)
    if "::" in text and not os.path.lexists(text):
        text, _, inside = text.partition("::")
        if dataset not in (None, inside):
            raise ValueError(
                f"{path}: dataset {dataset!r} contradicts the path, which names {inside!r}; give one of them"
            )
        dataset = inside
    place = Path(text)
    if not place.exists():
        raise InputError(f"{place} does not exist; check the path (on a cluster, that this machine sees it)")
    if place.is_dir() and any((place / name).exists() for name in _ZARR):
        return open_zarr(place, array=dataset, voxel_size_um=voxel_size_um, unfinished=unfinished)
    start = b"" if place.is_dir() else _first_bytes(place)
    # HDF5 allows a user block of 512 * 2^n bytes before its signature; such files go by their name.
    if start.startswith(b"\x89HDF\r\n\x1a\n") or place.suffix.lower() in (".h5", ".hdf5", ".nxs", ".hdf"):
        return open_hdf5(place, dataset=dataset, voxel_size_um=voxel_size_um)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") or is_tiff_name(place.name) or _has_tiff(place):
        if dataset is not None:
            raise ValueError(f"{place}: dataset {dataset!r} was given, but a TIFF stack has none; leave it out")
        return open_tiff(place, voxel_size_um=voxel_size_um)
    held = (
        "a folder without TIFF slices or Zarr metadata" if place.is_dir() else f"a file that begins with {start[:8]!r}"
    )
    raise InputError(f"{place} is {held}, which is not a format we read: Zarr, TIFF slices, multi-page TIFF or HDF5")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None


def _has_tiff(path: Path) -> bool:
    return path.is_dir() and any(is_tiff_name(name) for name in os.listdir(path))
