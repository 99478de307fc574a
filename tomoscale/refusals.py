"""What a plan refuses before the first voxel is read, with both numbers and the way out."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError, PlanError
from tomoscale.geometry import AXES, Shape, three
from tomoscale.volume import Volume
from tomoscale.words import shape_text, size

if TYPE_CHECKING:
    from tomoscale.projection import Plan


def check_agreement(volumes: Mapping[str, Volume]) -> None:
    """Raise `InputError` unless all volumes have one shape and one voxel size."""
    (first_name, first), *others = volumes.items()
    for name, volume in others:
        if volume.shape != first.shape:
            raise InputError(
                f"{first_name} {first.name} has {shape_text(first.shape)} voxels but {name} {volume.name} has {shape_text(volume.shape)}: "
                "they must lie on one grid; resample or crop one of them"
            )
        if volume.voxel_size_um and first.voxel_size_um and not _agree(volume.voxel_size_um, first.voxel_size_um):
            raise InputError(
                f"{first_name} {first.name} has voxels of {first.voxel_size_um} µm but {name} {volume.name} of "
                f"{volume.voxel_size_um} µm: they must lie on one grid; resample one, or correct the voxel size"
            )


def check_alignment(block: Shape, shape: Shape, unit: Shape) -> None:
    """Refuse blocks that share a shard of the target."""
    for axis, b, n, u in zip(AXES, block, shape, unit, strict=True):
        if b % u and b < n:
            raise PlanError(
                f"block_shape {block} is not a multiple of the target's shard shape {unit} on axis {axis}: two workers would "
                f"write one shard and silently lose data; take a multiple of {u} on that axis"
            )


def check_target(plan: Plan) -> None:
    """Refuse a disk that is too small; what is in the way is the ledger's to judge, since resuming is normal."""
    if plan.record is None or plan.target is None:
        return
    if isinstance(plan.record, BucketPath):
        return  # a bucket has no size, and whether it may be written to is seen when the target is made
    parent = next(p for p in plan.record.parents if p.exists())
    if not os.access(parent, os.W_OK):
        raise PlanError(
            f"{plan.target.name} cannot be written: no permission to write in {parent}; give another output"
        )
    free = shutil.disk_usage(parent).free
    if plan.disk_bytes > free and not plan.record.exists():
        raise PlanError(
            f"{plan.target.name} may take {size(plan.disk_bytes)} but {parent} has {size(free)} free: free some space, give an "
            "output on another disk, or take a smaller dtype"
        )


def check_memory(plan: Plan, draft: Callable[[Shape], Plan], unit: Shape) -> None:
    """Refuse blocks that need more memory than there is, and name blocks that fit."""
    if plan.fits:
        return
    on_device = plan.memory_bytes <= plan.resources.memory_bytes
    what, needed, allowed = (
        ("GPU memory", plan.device_bytes, plan.resources.device_bytes)
        if on_device
        else ("host memory", plan.memory_bytes, plan.resources.memory_bytes)
    )
    block = plan.grid.block_shape
    halved = [three(max(u, b // 2**k // u * u) for b, u in zip(block, unit, strict=True)) for k in range(1, 12)]
    smaller = next((b for b in halved if draft(b).fits), None)
    way_out = (
        f"block_shape {smaller} fits"
        if smaller
        else f"no block fits (the margin is {plan.halo.before} voxels and a process alone takes {size(plan.process_bytes)}): "
        "give more memory or fewer workers"
    )
    raise PlanError(
        f"{plan.name}: a process needs {size(needed)} of {what} (blocks of {shape_text(block)} voxels, read as up to "
        f"{plan.padded_voxels} voxels, {plan.resources.slots} at once) but has {size(allowed)}; {way_out}"
    )


def _agree(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(math.isclose(p, q, rel_tol=1e-3) for p, q in zip(a, b, strict=True))
