"""Volumes from files other programs write, and files for other programs from volumes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError
from tomoscale.formats.dicom import is_dicom, open_dicom
from tomoscale.formats.hdf5 import open_hdf5
from tomoscale.formats.matlab import is_matlab, open_matlab
from tomoscale.formats.metaimage import is_metaimage, open_metaimage
from tomoscale.formats.nifti import is_nifti, open_nifti
from tomoscale.formats.nrrd import is_nrrd, open_nrrd
from tomoscale.formats.raw import open_raw
from tomoscale.formats.raw_layout import RawLayout, is_raw_name, without_layout
from tomoscale.formats.scanco import is_scanco, open_scanco
from tomoscale.formats.tiff import is_tiff_name, open_tiff
from tomoscale.geometry import Spacing
from tomoscale.places import Place, is_bucket, local_path
from tomoscale.volume import Volume, open_zarr

__all__ = [
    "RawLayout",
    "Source",
    "open_dicom",
    "open_hdf5",
    "open_matlab",
    "open_metaimage",
    "open_nifti",
    "open_nrrd",
    "open_raw",
    "open_scanco",
    "open_tiff",
    "open_volume",
    "open_zarr",
    "opened",
]

Source = Volume | str | Place
"""A volume, or the path of one."""

START_BYTES = 4096
"""How much of a file is looked at to tell what it is."""
_NAMELESS = Path(os.devnull)
_ZARR = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_READ = "Zarr, TIFF slices, multi-page TIFF, HDF5, MATLAB, NIfTI, MetaImage, NRRD, DICOM, Scanco ISQ or AIM, or raw voxels with their shape and dtype"


def open_volume(
    path: str | os.PathLike[str] | BucketPath,
    *,
    voxel_size_um: float | Spacing | None = None,
    dataset: str | None = None,
    raw: RawLayout | None = None,
    unfinished: bool = False,
) -> Volume:
    """Open a volume of any format we read; what it is, is told by its content, and by its name where that says nothing.

    Parameters
    ----------
    path : path
        A Zarr array or group, a folder of TIFF slices, a multi-page TIFF, an HDF5 file, also as
        ``"scan.h5::/entry/data"``, MATLAB, NIfTI, MetaImage, NRRD,
        DICOM (also a folder of it), Scanco, or voxels without a header; or ``s3://bucket/path`` of a Zarr array or group
        in an object store.
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; needed where the file states none, and must agree where it does.
    dataset : str, optional
        Dataset of an HDF5 file, variable of a MATLAB file, or array inside a Zarr group.
    raw : RawLayout, optional
        Says how voxels without a header lie in the file, whatever it seems to be.
    unfinished : bool
        See `open_zarr`.

    Returns
    -------
    Volume
        An address: no voxel is read yet.

    Raises
    ------
    InputError
        If there is nothing we can read.
    ValueError
        If `dataset` or `raw` is given for what has no use for it.
    TypeError
        If an array is given in place of a path.
    """
    _refuse_array(path)
    if is_bucket(path):
        address, dataset = _parted(str(path), dataset) if "::" in str(path) else (path, dataset)
        return open_zarr(address, array=dataset, voxel_size_um=voxel_size_um, unfinished=unfinished)
    place, dataset = _split(os.fspath(str(path)), dataset)
    _check_there(place)
    if raw is not None:
        _refuse_dataset(place, dataset, "a file of raw voxels")
        return open_raw(place, raw, voxel_size_um=voxel_size_um)
    if place.is_dir() and any((place / name).exists() for name in _ZARR):
        return open_zarr(place, array=dataset, voxel_size_um=voxel_size_um, unfinished=unfinished)
    start = b"" if place.is_dir() else _first_bytes(place)
    if _is_hdf5(start, place):
        return open_hdf5(place, dataset=dataset, voxel_size_um=voxel_size_um)
    if is_matlab(start, place):
        return open_matlab(place, variable=dataset, voxel_size_um=voxel_size_um)
    _refuse_dataset(place, dataset, "what is no HDF5, MATLAB or Zarr")
    opener = _opener(start, place)
    if opener is not None:
        return opener(place, voxel_size_um=voxel_size_um)
    if place.is_file() and is_raw_name(place.name):
        raise without_layout(place)
    held = (
        "a folder without TIFF slices or Zarr metadata" if place.is_dir() else f"a file that begins with {start[:8]!r}"
    )
    raise InputError(f"{place} is {held}, which is not a format we read: {_READ}")


def opened(source: Source) -> Volume:
    """Open a path; take a volume as it is."""
    return source if isinstance(source, Volume) else open_volume(source)


def _split(text: str, dataset: str | None) -> tuple[Path, str | None]:
    """Path of a file, and the dataset in it, which the path may name too."""
    if "::" not in text or os.path.lexists(local_path(text)):
        return local_path(text), dataset
    file, inside = _parted(text, dataset)
    return local_path(file), inside


def _refuse_array(path: object) -> None:
    if not isinstance(path, str | os.PathLike | BucketPath):
        raise TypeError(
            f"open_volume takes a path, got {type(path).__module__}.{type(path).__name__}: a NumPy array becomes a volume by "
            "Volume(MemoryArray(array), voxel_size_um), with MemoryArray of tomoscale.memory_array; a Zarr array is opened by "
            "the path of its folder"
        )


def _parted(text: str, dataset: str | None) -> tuple[str, str]:
    file, _, inside = text.partition("::")
    if dataset not in (None, inside):
        raise ValueError(f"{text}: dataset {dataset!r} contradicts the path, which names {inside!r}; give one of them")
    return file, inside


def _check_there(place: Path) -> None:
    if not place.exists():
        raise InputError(f"{place} does not exist; check the path (on a cluster, that this machine sees it)")
    if not (place.is_file() or place.is_dir()):  # a pipe would be waited for without end
        raise InputError(f"{place} is neither a file nor a folder: give the path of a volume")


def _opener(start: bytes, path: Path) -> Callable[..., Volume] | None:
    """Return what opens a file or folder by its path and voxel size alone; signatures are asked before names."""
    formats: tuple[tuple[Callable[[bytes, Path], bool], Callable[..., Volume]], ...] = (
        (_is_tiff, open_tiff),
        (is_scanco, open_scanco),
        (is_nrrd, open_nrrd),
        (is_nifti, open_nifti),
        (is_metaimage, open_metaimage),
        (is_dicom, open_dicom),
    )
    # A signature is believed before a name: a TIFF that is called .nii is a TIFF.
    for named in (_NAMELESS, path):
        for asks, opens in formats:
            if asks(start, named):
                return opens
    return None


def _is_hdf5(start: bytes, path: Path) -> bool:
    # HDF5 allows a user block of 512 * 2^n bytes before its signature; such files go by their name.
    return start.startswith(b"\x89HDF\r\n\x1a\n") or path.suffix.lower() in (".h5", ".hdf5", ".nxs", ".hdf")


def _is_tiff(start: bytes, path: Path) -> bool:
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return True
    return is_tiff_name(path.name) or (path.is_dir() and any(is_tiff_name(name) for name in os.listdir(path)))


def _refuse_dataset(path: Path, dataset: str | None, what: str) -> None:
    if dataset is not None:
        raise ValueError(f"{path}: dataset {dataset!r} was given, but {what} has none; leave it out")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(START_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
