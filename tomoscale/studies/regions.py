"""Volumes that say where bone counts: shells around the screw as implanted, and surroundings of the degraded implant."""

from __future__ import annotations

from pathlib import Path

from tomoscale.geometry import Spacing
from tomoscale.kernels.ball import make_ball
from tomoscale.kernels.distance import within_distance, within_distance_by_axis
from tomoscale.kernels.shells import shells, shells_by_axis
from tomoscale.step import Kernel
from tomoscale.volume import Kind, Volume
from tomoscale.work import Work

N_SHELLS = 20
WIDE_VOXELS = 128
"""Where distances reach farther, blocks with that margin on all sides read more than three volumes for one: the axes
are then taken one after the other."""


def shell_edges(distance_um: float, voxel_size_um: Spacing) -> tuple[float, ...]:
    """Outer edges of up to 20 shells of equal width, none thinner than a voxel; the last edge is the distance itself."""
    n = max(1, min(N_SHELLS, int(distance_um / max(voxel_size_um) + 1e-9)))
    return (*(distance_um * k / n for k in range(1, n)), float(distance_um))


def shells_around(reference: Volume, edges_um: tuple[float, ...], target: Path, work: Work) -> Volume:
    """Volume of the shells of a reference: 0 in it, 1 to n, n + 1 beyond."""
    size = _size(reference)
    kernels = shells_by_axis(edges_um, size) if _is_wide(edges_um[-1], size) else (shells(edges_um, size),)
    return _chained(kernels, reference, target, "labels", work)


def surroundings(labels: Volume, classes: tuple[int, ...], distance_um: float, target: Path, work: Work) -> Volume:
    """Mask of what lies within a distance of the classes of a label volume, these included."""
    size = _size(labels)
    wide = _is_wide(distance_um, size)
    kernels = (
        within_distance_by_axis(distance_um, size, classes) if wide else (within_distance(distance_um, size, classes),)
    )
    return _chained(kernels, labels, target, "mask", work)


def _chained(kernels: tuple[Kernel, ...], source: Volume, target: Path, kind: Kind, work: Work) -> Volume:
    """Run kernels after each other; what lies between stays beside the target, so that a stopped run goes on."""
    for number, kernel in enumerate(kernels[:-1], 1):
        source = work.map(kernel, source, target.with_name(f"{target.stem}_{number}.zarr"), kind="grey")
    return work.map(kernels[-1], source, target, kind=kind)


def _is_wide(distance_um: float, voxel_size_um: Spacing) -> bool:
    return max(make_ball(distance_um, voxel_size_um).reach) > WIDE_VOXELS


def _size(volume: Volume) -> Spacing:
    assert volume.voxel_size_um is not None
    return volume.voxel_size_um
