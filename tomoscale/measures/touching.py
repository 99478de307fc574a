"""Voxels of an object that touch others, and their faces: what a surface is by voxels.

A voxel touches its six neighbours. What has none, at the border of the volume or of its valid part, is a cut and no
surface.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from tomoscale.arrays import namespace_for, ndimage_for
from tomoscale.geometry import Halo
from tomoscale.measures.inertia import members
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from tomoscale.arrays import Array
    from tomoscale.geometry import Block, Region, Shape


def touching_voxels(
    implant: tuple[int, ...] = (1, 2), bone: int = 3, background: int = 0, *, gap_voxels: int = 0, valid: bool = False
) -> Measure:
    """Measure of the implant's voxels, and of their faces, that touch bone or background.

    Parameters
    ----------
    implant : tuple of int
        Classes of the implant: residual metal and degradation layer.
    bone, background : int
    gap_voxels : int
        Background up to this far from bone (Euclidean, between voxel centres) counts as bone: a film of one voxel of
        background, as partial volume leaves it, otherwise parts bone and implant. 0 is the published definition.
    valid : bool
        A second input says where there is data.

    Returns
    -------
    Measure
        Inputs ``("labels",)`` and ``"valid"``; counts ``"touching_voxels"``, (2,): voxels that have bone, and bone or
        background, among their six neighbours; ``"touching_faces"``, (3, 2): faces across z, y, x to bone and to
        background; int64. One voxel around the core for the neighbours, and the gap.

    Raises
    ------
    ValueError
        If a class is named twice or the gap is negative.
    """
    classes = (*implant, bone, background)
    if len(set(classes)) != len(classes) or not implant:
        raise ValueError(f"implant {implant}, bone {bone} and background {background} must be different classes")
    if gap_voxels < 0:
        raise ValueError(f"gap_voxels must be 0 or more, got {gap_voxels}: it is a distance")
    parameters: dict[str, Any] = {"bone": bone, "background": background, "gap_voxels": gap_voxels}
    return Measure(
        "touching_voxels",
        partial(_touching_voxels, implant=tuple(implant), **parameters),
        ("labels", "valid") if valid else ("labels",),
        Halo.uniform(1 + gap_voxels),
        bytes_per_voxel=8.0,
        counts_bytes=64,
        parameters={**parameters, "implant": list(implant), "valid": valid},
    )


def surface_voxels(classes: tuple[int, ...] | None = None, *, valid: bool = False) -> Measure:
    """Measure of the voxels of an object that have a voxel outside it among their six neighbours.

    Parameters
    ----------
    classes : tuple of int, optional
        Classes of the object; without them it is all that is not 0, as in a mask.
    valid : bool
        A second input says where there is data.

    Returns
    -------
    Measure
        Inputs ``("labels",)`` and ``"valid"``; counts ``"surface_voxels"``, (1,) int64. One voxel around the core.
    """
    if classes is not None and not classes:
        raise ValueError("classes is empty: an object without classes has no surface")
    return Measure(
        "surface_voxels",
        partial(_surface_voxels, classes=classes),
        ("labels", "valid") if valid else ("labels",),
        Halo.uniform(1),
        bytes_per_voxel=8.0,
        counts_bytes=8,
        parameters={"classes": None if classes is None else list(classes), "valid": valid},
    )


def _touching_voxels(  # noqa: PLR0913 -- the parameters of the measure
    labels: Array,
    valid: Array | None = None,
    *,
    block: Block,
    implant: tuple[int, ...],
    bone: int,
    background: int,
    gap_voxels: int,
) -> Counts:
    xp = namespace_for(labels)
    inside = _members(labels[block.core], implant, None if valid is None else valid[block.core])
    bones, voids = _members(labels, (bone,), valid), _members(labels, (background,), valid)
    if gap_voxels:
        bridged = grown(bones, gap_voxels) & voids
        bones |= bridged
        voids &= ~bridged
    near_bone, to_bone = _meet(inside, bones, block.core)
    near_void, to_void = _meet(inside, voids, block.core)
    touching = xp.stack([near_bone.sum(), (near_bone | near_void).sum()])
    return {"touching_voxels": touching.astype(xp.int64), "touching_faces": xp.stack([to_bone, to_void], axis=1)}


def _surface_voxels(
    labels: Array, valid: Array | None = None, *, block: Block, classes: tuple[int, ...] | None
) -> Counts:
    xp = namespace_for(labels)
    inside = members(labels, classes)
    present = xp.ones(labels.shape, bool) if valid is None else valid != 0
    near, _ = _meet((inside & present)[block.core], ~inside & present, block.core)
    return {"surface_voxels": near.sum().reshape(1).astype(xp.int64)}


def _members(labels: Array, classes: tuple[int, ...] | None, valid: Array | None) -> Array:
    """Mask of the valid voxels of `classes`; of all that are not 0 where it is None."""
    mask = members(labels, classes)
    return mask if valid is None else mask & (valid != 0)


def grown(mask: Array, radius: int) -> Array:
    """Mask of the voxels at most `radius` voxels from a mask, Euclidean, between centres."""
    xp = namespace_for(mask)
    offset = xp.arange(-radius, radius + 1) ** 2
    ball = offset[:, None, None] + offset[:, None] + offset <= radius**2
    return ndimage_for(mask).binary_dilation(mask, structure=ball)


def _meet(core_mask: Array, others: Array, core: Region) -> tuple[Array, Array]:
    """Core voxels of a mask that have one of `others` beside them, and their faces to these across z, y, x: (3,)."""
    xp = namespace_for(others)
    near = xp.zeros(core_mask.shape, bool)
    counts = xp.zeros(3, xp.int64)
    for axis in range(3):
        for step in (-1, 1):
            here, there = beside(core, others.shape, axis, step)
            met = core_mask[here] & others[there]
            near[here] |= met
            counts[axis] += xp.count_nonzero(met)
    return near, counts


def beside(core: Region, shape: Shape, axis: int, step: int) -> tuple[Region, Region]:
    """Core voxels that have a neighbour at `step` along an axis, counted from the core, and these neighbours."""
    start, stop = max(core[axis].start, -step), min(core[axis].stop, shape[axis] - step)
    here = [slice(0, c.stop - c.start) for c in core]
    there = list(core)
    here[axis] = slice(start - core[axis].start, max(start, stop) - core[axis].start)
    there[axis] = slice(start + step, max(start, stop) + step)
    return (here[0], here[1], here[2]), (there[0], there[1], there[2])
