"""A volume, a region or a coarser level of it, as files that other programs open."""

from __future__ import annotations

import gzip
import itertools
import math
import operator
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tomoscale.drafts import draft_of
from tomoscale.errors import PlanError
from tomoscale.formats import metaimage, nifti, open_volume
from tomoscale.formats.container import (
    Contents,
    Planes,
    lay_bigtiff,
    lay_metaimage,
    lay_nifti,
    lay_tiff_folder,
    raw_beside,
)
from tomoscale.formats.tiff import is_tiff_name
from tomoscale.geometry import AXES, Region, Shape, region_shape, three
from tomoscale.places import local_path
from tomoscale.volume import Volume
from tomoscale.words import size
from tomoscale.zarr_metadata import DTYPES, MAX_CHUNK_BYTES

PIECE_BYTES = 64 * 2**20
"""A piece of the source that is held at a time, unless one of its chunks is larger."""
_GZ = ".nii.gz"
_GZIP_LEVEL = 6
"""Of labels, half the size of level 1; of grey values the same size in the same time."""


@dataclass(frozen=True)
class _Format:
    title: str
    suffixes: tuple[str, ...]
    dtypes: tuple[str, ...]
    lay: Callable[[Path, Contents], Planes]


FORMATS = {
    "tiff": _Format("a folder of TIFF slices", ("",), DTYPES, lay_tiff_folder),
    "bigtiff": _Format("a BigTIFF stack", (".tif", ".tiff"), DTYPES, lay_bigtiff),
    "nifti": _Format("NIfTI", (".nii", _GZ), tuple(nifti.DTYPES.values()), lay_nifti),
    "metaimage": _Format("MetaImage", metaimage.SUFFIXES, tuple(metaimage.DTYPES.values()), lay_metaimage),
}


def export_volume(
    source: Volume | str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    region: tuple[slice, slice, slice] | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a volume, or a region of it, in a format of other programs, voxel by voxel and with its voxel size.

    What is there under the name of the target is whole: the files are made under another name and renamed at the end.
    A mask is written as uint8 of 0 and 1, since none of the formats has bits.

    Parameters
    ----------
    source : Volume or path
        For a coarser level, ``open_zarr(path, array="2")``.
    target : path
        Its suffix tells the format: ``.tif`` a BigTIFF stack, ``.nii`` NIfTI, ``.nii.gz`` the same packed, ``.mha`` or
        ``.mhd`` (with a ``.raw`` beside it) MetaImage; without a suffix it is a folder of TIFF slices, which keep their
        number in the source.
    region : (z, y, x) slices, optional
        In voxels; by default the whole volume.
    format : {"tiff", "bigtiff", "nifti", "metaimage"}, optional
        Only needed for a folder of slices ("tiff") whose name has a dot.
    overwrite : bool
        Replace files of that format that are there.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    InputError
        If the source cannot be read.
    PlanError
        If the target is in the way, holds the source, or does not fit on the disk.
    ValueError
        If the format is not known or cannot hold such voxels, or the region is not inside the volume.
    """
    volume = source if isinstance(source, Volume) else open_volume(source)
    place = local_path(target).absolute()
    chosen = _chosen(place, format)
    wanted = _inside(volume, region)
    contents = _contents(volume, wanted, chosen)
    suffix = _suffix(place)
    outputs = (place, raw_beside(place)) if suffix == ".mhd" and chosen.lay is lay_metaimage else (place,)
    for output in outputs:
        _check_free(output, volume, chosen, overwrite)
    # A packed stream is written from its start to its end, and chunks would be decoded once for each of their slices: the
    # plain file, in which every piece has its place, is made first and goes at the end.
    _check_room(place, contents.nbytes * (2 if suffix == _GZ else 1))
    try:
        # Beside the target, so that renaming is one step; hidden, so that nobody takes it for a result.
        stage = draft_of(place)
        stage.mkdir(mode=0o700)
    except OSError as error:
        raise PlanError(f"{place.parent} cannot be written: {error.strerror}; choose another folder") from None
    try:
        planes = chosen.lay(stage / (place.stem if suffix == _GZ else place.name), contents)
        _fill(volume, wanted, planes, contents)
        _sync((_pack(planes.files[0], stage / place.name),) if suffix == _GZ else planes.files)
        _publish(stage, outputs)
    except OSError as error:
        raise PlanError(f"{place} cannot be written: {error}; nothing of it is left") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return local_path(target)


def _chosen(target: Path, name: str | None) -> _Format:
    """Format by its name, or by the suffix of the target."""
    suffix = _suffix(target)
    if name is None:
        found = [f for f in FORMATS.values() if suffix in f.suffixes]
        if not found:
            known = ", ".join(s for f in FORMATS.values() for s in f.suffixes if s)
            raise ValueError(
                f"{target}: {suffix!r} tells no format we write; end the name in one of {known}, or give format='tiff' for a "
                "folder of slices"
            )
        return found[0]
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    others = [s for key, f in FORMATS.items() if key != name for s in f.suffixes]
    if suffix in others if name == "tiff" else suffix not in FORMATS[name].suffixes:
        raise ValueError(
            f"{target}: the name of {FORMATS[name].title} must end in {' or '.join(FORMATS[name].suffixes) or 'nothing that tells another format'}"
        )
    return FORMATS[name]


def _suffix(target: Path) -> str:
    """Suffix that tells the format, in small letters."""
    return _GZ if target.name.lower().endswith(_GZ) else target.suffix.lower()


def _inside(volume: Volume, region: tuple[slice, slice, slice] | None) -> Region:
    """Region with both bounds of every axis."""
    bounds = [slice(0, n) for n in volume.shape]
    if region is not None:
        if len(region) != 3 or not all(isinstance(r, slice) and r.step in (None, 1) for r in region):
            raise ValueError(f"a region is three slices (z, y, x) without steps, got {region!r}")
        bounds = [
            slice(0 if r.start is None else operator.index(r.start), n if r.stop is None else operator.index(r.stop))
            for r, n in zip(region, volume.shape, strict=True)
        ]
    for axis, r, n in zip(AXES, bounds, volume.shape, strict=True):
        if not 0 <= r.start < r.stop <= n:
            raise ValueError(
                f"{volume.name}: {axis} {r.start}:{r.stop} is not inside the volume, whose {axis} is 0:{n}"
            )
    z, y, x = bounds
    return z, y, x


def _contents(volume: Volume, region: Region, chosen: _Format) -> Contents:
    dtype = "uint8" if volume.dtype.kind == "b" else volume.dtype.name
    if dtype not in chosen.dtypes:
        raise ValueError(
            f"{volume.name} holds {dtype}, which {chosen.title} cannot: export TIFF (a name without a suffix, or .tif), or "
            "convert it to float32 first"
        )
    contents = Contents(region_shape(region), dtype, volume.voxel_size_um, region[0].start)
    if contents.plane_bytes > MAX_CHUNK_BYTES and chosen.lay in (lay_tiff_folder, lay_bigtiff):
        raise ValueError(
            f"{volume.name}: a slice takes {contents.plane_bytes / 2**30:.1f} GiB, but 2 GiB is the most that readers of TIFF "
            "take: export .nii or .mha, or a region"
        )
    return contents


def _check_free(output: Path, volume: Volume, chosen: _Format, overwrite: bool) -> None:
    """Refuse a target that is in the way, and one that is, holds or lies in what is exported."""
    # The name of a dataset in a file goes on after the file's path.
    origin, here = Path(volume.name.split("::")[0]).resolve(), output.resolve()
    if here == origin or here in origin.parents or origin in here.parents:
        raise PlanError(f"{output} is, holds or lies in {volume.name}, which it is to be made of: give another target")
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise PlanError(f"{output} exists: give another name, or overwrite=True")
    slices = chosen.lay is lay_tiff_folder
    ours = output.is_dir() and all(is_tiff_name(name) for name in os.listdir(output)) if slices else output.is_file()
    if not ours:
        raise PlanError(
            f"{output} is not {'a folder of TIFF slices alone' if slices else 'a file'}, so overwrite=True does not remove it: "
            "remove it yourself, or give another name"
        )


def _check_room(target: Path, needed_bytes: int) -> None:
    if not target.parent.is_dir():
        raise PlanError(f"{target.parent} is not a folder that exists: make it, or give another target")
    free = shutil.disk_usage(target.parent).free
    if needed_bytes > free:
        raise PlanError(
            f"{target} needs {size(needed_bytes)} but {target.parent} has {size(free)} free: make room, "
            "or export a region or a coarser level"
        )


def _fill(volume: Volume, region: Region, planes: Planes, contents: Contents) -> None:
    """Copy a region piece by piece; the pieces are made of whole chunks of the source, so each is decoded once."""
    stored = np.dtype(contents.dtype).newbyteorder("<")
    for piece in _pieces(region, volume.storage.chunk_shape, volume.dtype.itemsize):
        corner = three(p.start - r.start for p, r in zip(piece, region, strict=True))
        # Without a name, so that a piece is gone before the next one is read.
        _put(planes, contents, corner, np.ascontiguousarray(volume.read(piece), stored))


def _pack(plain: Path, packed: Path) -> Path:
    """Compress a file as one gzip stream without name and time, so that equal voxels give equal bytes."""
    with (
        plain.open("rb") as source,
        packed.open("wb") as file,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as target,
    ):
        shutil.copyfileobj(source, target, 2**20)
    return packed


def _sync(files: tuple[Path, ...]) -> None:
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _pieces(region: Region, chunk: Shape, itemsize: int) -> Iterator[Region]:
    """Parts of a region in the order of the file, cut where chunks of the source begin, each of `PIECE_BYTES` at most."""
    lengths = [min(c, n) for c, n in zip(chunk, region_shape(region), strict=True)]
    # Whole rows, then whole planes: what lies together in the file is written together.
    for axis in (2, 1, 0):
        times = PIECE_BYTES // (math.prod(lengths) * itemsize)
        extent = region[axis].stop - region[axis].start
        lengths[axis] = min(chunk[axis] * max(times, 1), extent)
    runs = [_runs(r, n) for r, n in zip(region, lengths, strict=True)]
    yield from itertools.product(*runs)


def _runs(bounds: slice, length: int) -> list[slice]:
    if length == bounds.stop - bounds.start:
        return [bounds]
    first = bounds.start - bounds.start % length
    return [
        slice(max(start, bounds.start), min(start + length, bounds.stop)) for start in range(first, bounds.stop, length)
    ]


def _put(planes: Planes, contents: Contents, corner: Shape, values: np.ndarray) -> None:
    """Write the voxels of a piece whose first voxel is `corner` of the result."""
    width = contents.shape[2]
    single = len(planes.files) == 1
    for z, plane in enumerate(values, corner[0]):
        start = planes.start_bytes + (z * contents.plane_bytes if single else 0)
        with planes.files[0 if single else z].open("r+b", buffering=0) as file:
            for y, part in enumerate([plane] if plane.shape[1] == width else plane, corner[1]):
                _pwrite(file.fileno(), part, start + (y * width + corner[2]) * values.itemsize)


def _pwrite(file: int, values: np.ndarray, offset: int) -> None:
    data = values.reshape(-1).view(np.uint8).data
    while len(data):
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


def _publish(stage: Path, outputs: tuple[Path, ...]) -> None:
    """Give the finished files their names; an older header goes first, so that it never stands beside newer voxels."""
    if len(outputs) > 1:
        outputs[0].unlink(missing_ok=True)
    for output in reversed(outputs):
        if output.is_dir():
            os.rename(output, stage / f"{output.name}.old")
        os.replace(stage / output.name, output)
    parent = os.open(outputs[0].parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)
