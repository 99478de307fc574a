"""What was understood of a file before anything is done with it: `tomoscale info`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.errors import InputError, IntegrityError
from tomoscale.formats import open_volume
from tomoscale.geometry import Spacing
from tomoscale.notebook.preview import levels_of
from tomoscale.notebook.probe import Probe, read_probe
from tomoscale.report.page import length, percent
from tomoscale.volume import Volume, ZarrArray
from tomoscale.voxel_size import agreed_voxel_size
from tomoscale.watch import run_state
from tomoscale.words import shape_text, size

if TYPE_CHECKING:
    from tomoscale.formats.raw_layout import RawLayout

_NAMES = {
    ".nii": "NIfTI",
    ".hdr": "NIfTI",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".isq": "Scanco ISQ",
    ".aim": "Scanco AIM",
    ".mat": "MATLAB",
}
NOT_STATED = "not stated by the file and never guessed: give --voxel-size, such as 5um (voxel_size_um=5.0)"


def info(
    path: str | os.PathLike[str] | Volume,
    *,
    voxel_size_um: float | Spacing | None = None,
    dataset: str | None = None,
    raw: RawLayout | None = None,
) -> dict[str, Any]:
    """What was understood of a file, or of a volume; only its header and a few blocks are read.

    Parameters
    ----------
    path : path or Volume
    voxel_size_um : (z, y, x), or one length for all
        In micrometres; it must agree with what the file states. Without any this says that it must be given.
    dataset : str, optional
        Of an HDF5 file, or array inside a Zarr group.
    raw : RawLayout or None
        What the voxels of a file without a header are.

    Returns
    -------
    dict
        JSON values with the unit in their names. ``sample`` is of a few blocks: the true range is at least as wide.
        `in_words` puts it in words.

    Raises
    ------
    InputError
        If there is nothing we can read, or two voxel sizes disagree.
    """
    volume = path if isinstance(path, Volume) else open_volume(path, dataset=dataset, raw=raw, unfinished=True)
    # Compared here: opening a folder of slices reads the head of each, once is enough.
    stored = volume.voxel_size_um
    spacing = agreed_voxel_size(volume.name, stored, voxel_size_um)
    volume = replace(volume, voxel_size_um=spacing)
    sample, problem = _sampled(volume)
    return {
        "path": volume.name,
        "format": format_of(volume, volume.name if isinstance(path, Volume) else path),
        "shape": list(volume.shape),
        "dtype": volume.dtype.name,
        "kind": volume.kind,
        "voxel_size_um": None if spacing is None else list(spacing),
        "voxel_size_from": _origin(stored, voxel_size_um),
        "extent_um": None if spacing is None else [n * s for n, s in zip(volume.shape, spacing, strict=True)],
        "bytes": volume.nbytes,
        "chunk_shape": list(volume.storage.chunk_shape),
        "classes": [{"value": c.value, "name": c.name, "rgba": list(c.rgba)} for c in volume.classes],
        "levels": [_level(level) for level in levels_of(volume)],
        "finished": volume.finished,
        "state": _state(volume),
        "sample": None if sample is None else sample.summary(),
        "warnings": [*([problem] if problem else []), *(sample.warnings() if sample else [])],
    }


def in_words(found: dict[str, Any]) -> dict[str, str]:
    """Return what `info` found in words, without what does not apply."""
    spacing, extent, sample = found["voxel_size_um"], found["extent_um"], found["sample"]
    known = "" if spacing is None else f"{' x '.join(f'{s:g}' for s in spacing)} µm (z, y, x), "
    rows = [
        ("path", found["path"]),
        ("format", found["format"]),
        ("shape", f"{shape_text(found['shape'])} voxels (z, y, x), {found['dtype']}, {size(found['bytes'])}"),
        ("holds", {"grey": "grey values", "labels": "labels", "mask": "a mask"}[found["kind"]]),
        ("voxel size", known + found["voxel_size_from"]),
        ("extent", "" if extent is None else " x ".join(length(e, True) for e in extent)),
        ("chunks", f"{shape_text(found['chunk_shape'])} voxels are decoded together"),
        ("classes", ", ".join(f"{c['value']} {c['name']}" for c in found["classes"])),
        ("levels", ", ".join(shape_text(level["shape"]) for level in found["levels"])),
        ("state", found["state"]),
        (
            "sample",
            "" if sample is None else _sample_text(sample) + ("" if found["finished"] else ", of those computed"),
        ),
        *((f"warning {number}", text) for number, text in enumerate(found["warnings"], 1)),
    ]
    return {name: value for name, value in rows if value}


def format_of(volume: Volume, path: str | os.PathLike[str]) -> str:
    """Format of a volume that was opened from `path`, in words."""
    storage = volume.storage
    if isinstance(storage, ZarrArray):
        shard = f", shards of {shape_text(storage.shard_shape)}" if storage.shard_shape != storage.chunk_shape else ""
        image = "OME-Zarr" if volume.voxel_size_um is not None or storage.state() is not None else "Zarr"
        return f"{image}, Zarr version {storage.version}{shard}"
    # By name, so that this need not import what reads formats nobody asked for.
    kind = type(storage).__name__
    if kind == "TiffStack":
        return "TIFF, a folder of slices" if Path(path).is_dir() else "TIFF, one file"
    suffixes = [s.lower() for s in Path(path).suffixes if s.lower() not in (".gz", ".bz2", ".zst")]
    words = {"Hdf5Dataset": "HDF5", "DicomSeries": "DICOM", "MemoryArray": "array in memory", **_NAMES}
    return words.get(kind) or words.get(suffixes[-1] if suffixes else "") or "voxels without a header"


def _origin(stored: Spacing | None, given: float | Spacing | None) -> str:
    if stored is None:
        return NOT_STATED if given is None else "as given; the file states none"
    return "stated by the file" if given is None else "stated by the file, and given"


def _state(volume: Volume) -> str:
    if volume.finished:
        return (
            "finished"
            if isinstance(volume.storage, ZarrArray) and volume.storage.state() is not None
            else "not written by tomoscale, taken as it is"
        )
    try:
        return str(run_state(volume.name))
    except (InputError, IntegrityError):
        return "not finished"


def _level(level: Volume) -> dict[str, Any]:
    assert isinstance(level.storage, ZarrArray)
    spacing = level.voxel_size_um
    return {
        "path": level.storage.inside,
        "shape": list(level.shape),
        "voxel_size_um": None if spacing is None else list(spacing),
    }


def _sampled(volume: Volume) -> tuple[Probe | None, str]:
    """Probe of a volume, or why there is none; neither of one of which nothing is computed yet."""
    try:
        probe = read_probe(volume)
        return (probe, "") if probe.blocks else (None, "")
    except (InputError, IntegrityError, OSError) as error:
        return None, f"no value could be read: {str(error).splitlines()[0]}"


def _sample_text(sample: dict[str, Any]) -> str:
    share = sample["voxels"] / max(sample["voxels_in_all"], 1)
    of = f"a sample of {percent(share)} of the voxels"
    if sample["minimum"] is None:
        return f"no finite value in {of}"
    values = sample["values"]
    if values is not None:
        return f"values {', '.join(map(str, values))} in {of}"
    low, high = sample["percentiles"]
    return f"{sample['minimum']:g} to {sample['maximum']:g}, 98 % within {low:g} to {high:g}, in {of}"
