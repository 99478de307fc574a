"""The local thickness of a whole volume: distances, their largest, then the map."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Literal

from tomoscale.commands import opened
from tomoscale.errors import InputError
from tomoscale.kernels.ball import Ball, covering_ball, make_ball
from tomoscale.kernels.line_distance import distance_by_axis
from tomoscale.kernels.thickness import thickness as thickness_kernel
from tomoscale.measures.largest import sizes_of_integers, upper_bound
from tomoscale.objects.distance import Source, finished_before, known_voxel_size, made_of, parts_of, run_in_turn
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


def thickness(  # noqa: PLR0913 -- what is measured, and the two conventions a paper must state
    source: Source,
    target: str | Path,
    *,
    classes: tuple[int, ...] | None = None,
    outside: bool = False,
    correction: Literal["none", "half_voxel"] = "none",
    max_radius_um: float | None = None,
    work: Work | None = None,
) -> Volume:
    """Write the local thickness of an object in micrometres (float32): the diameter of the largest ball in it.

    Hildebrand and Rüegsegger 1997. A ball is centred at a voxel and reaches to the centre of the nearest voxel outside;
    voxels at exactly that distance belong to it. What lies beyond the volume is neither object nor outside, so that an
    object cut by the edge of the scan does not look thinner there. Of bone this is the trabecular thickness, of all
    that is not bone (`outside`) the separation.

    Parameters
    ----------
    source : Volume or path
        Labels or a mask.
    target : path
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    outside : bool
        The thickness of all that is not of the object.
    correction : "none" or "half_voxel"
        Between centres a plate of w voxels has the diameter 2 ceil(w / 2): "half_voxel" takes off half a voxel at both
        ends, a voxel in all. Only for cubic voxels.
    max_radius_um : float or None
        Larger balls are cut to this radius, and the map saturates at twice that: the margin of a block is the radius of
        the largest ball, which in wide spaces is more than memory holds.
    work : Work or None

    Returns
    -------
    Volume
        0 outside the object.

    Raises
    ------
    InputError
        If the voxel size is not known, or the object has no outside, so that there is no largest ball.
    ValueError
        If half a voxel is not one length, or the radius makes no sense.
    PlanError
        If the largest ball needs larger blocks than memory holds.
    """
    work, volume, target = work or Work(), opened(source), Path(target)
    voxel_size = known_voxel_size(volume)
    if correction == "half_voxel" and len(set(voxel_size)) > 1:
        raise ValueError(f"half a voxel is not one length on voxels of {voxel_size} µm: resample to cubic voxels first")
    correction_um = voxel_size[0] if correction == "half_voxel" else 0.0
    cut = None if max_radius_um is None else make_ball(max_radius_um, voxel_size)
    whole = covering_ball(volume.shape, voxel_size)
    asked = {"classes": classes, "outside": outside, "max_radius_um": max_radius_um}

    def last(largest: Ball) -> Kernel:
        return made_of(thickness_kernel(largest, voxel_size, correction_um), volume, **asked)

    if not work.overwrite and finished_before(target, last(whole), found=("radius_um",)):
        return open_zarr(target)
    kernels = distance_by_axis(volume.shape, voxel_size, classes, inside=not outside, squared=True)
    parts = parts_of(target)
    squared = run_in_turn(kernels, volume, parts / "squared.zarr", work)
    counts = work.measure((sizes_of_integers(whole.limit + 1),), {"values": squared}, parts / "sizes")
    if counts is not None and counts["unmeasured"][0]:
        thing = "all that is not of the object" if outside else "the object"
        raise InputError(
            f"{volume.name}: {thing} fills the whole volume, so no ball in it has an end: check the labels"
        )
    limit = whole.limit if counts is None else upper_bound(counts)
    limit = max(1, min(limit, whole.limit if cut is None else cut.limit))
    largest = Ball(whole.weights, limit, whole.unit_um, whole.unit_um * math.sqrt(limit))
    result = work.map(last(largest), squared, target)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result
