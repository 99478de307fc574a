"""A volume, its coarser levels and its label images as an OME-Zarr of another version."""

from __future__ import annotations

from tomoscale.arrays import Array
from tomoscale.formats import Source, opened
from tomoscale.geometry import Halo
from tomoscale.ome import LABELS, OmeVersion
from tomoscale.places import Place, place
from tomoscale.plan import plan_map
from tomoscale.pyramid import pyramid
from tomoscale.step import Kernel
from tomoscale.volume import Volume, ZarrArray, create_volume, open_zarr
from tomoscale.work import Work, refuse_own_source
from tomoscale.zarr_group import labels_of


def export_ome_zarr(
    source: Source, target: str | Place, *, version: OmeVersion = "0.4", work: Work | None = None
) -> Volume:
    """Write a volume, with coarser levels and label images, as an OME-Zarr of another version.

    Version 0.4 is Zarr 2 without shards, for programs that do not read Zarr 3. Levels are made anew from the copy, which
    gives the same voxels.

    Parameters
    ----------
    source : Volume or path
    target : path
    version : "0.4" or "0.5"
    work : Work or None

    Raises
    ------
    PlanError
        If something is in the way at `target`.
    """
    if version not in ("0.4", "0.5"):
        raise ValueError(f'version must be "0.4" or "0.5", got {version!r}')
    work = work or Work()
    volume = opened(source)
    refuse_own_source(place(target), (volume,))
    labels = labels_of(volume.storage.directory) if isinstance(volume.storage, ZarrArray) else []
    copies = {folder: place(target) / LABELS / folder.name for folder in labels}
    for copied in copies.values():
        work.clear(copied)  # an image is not removed as long as it holds labels
    copy = _copy(volume, place(target), version, work)
    for folder, copied in copies.items():
        _copy(open_zarr(folder), copied, version, work)
    return copy if work.plan_only else pyramid(open_zarr(target), work=work)


def _copy(volume: Volume, target: Place, version: OmeVersion, work: Work) -> Volume:
    """Write the full resolution of a volume as it is."""
    kernel = Kernel("copy", _same, Halo(), volume.dtype, bytes_per_voxel=0.0)
    work.clear(target)
    plain = create_volume(target, like=volume, kind=volume.kind, ome_version="0.4") if version == "0.4" else target
    plan = plan_map(
        kernel,
        volume,
        plain,
        kind=volume.kind,
        block_shape=work.block_shape,
        resources=work.available(),
        classes=volume.classes,
    )
    work.run(plan)
    assert plan.target is not None
    return plan.target


def _same(values: Array) -> Array:
    return values
