"""The local thickness of a whole volume: distances, their largest, then the map; and the mid-axes of a structure."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Spacing
from tomoscale.kernels.ball import Ball, covering_ball, make_ball
from tomoscale.kernels.counted import counting
from tomoscale.kernels.line_distance import distance_by_axis
from tomoscale.kernels.mid_axes import mid_axes as mid_axes_kernel
from tomoscale.kernels.thickness import thickness as thickness_kernel
from tomoscale.kernels.thickness_cleanup import cleaned_thickness
from tomoscale.measures.largest import sizes_of_integers, upper_bound
from tomoscale.objects.distance import known_voxel_size, refuse_grey_values, run_in_turn
from tomoscale.parts import finished_before, made_of, parts_of, removed_if_refused
from tomoscale.places import Place, place
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

Correction = Literal["none", "half_voxel"]
Cleanup = Literal["none", "fiji"]


def thickness(  # noqa: PLR0913 -- what is measured, and the conventions a paper must state
    source: Source,
    target: str | Place,
    *,
    classes: tuple[int, ...] | None = None,
    outside: bool = False,
    correction: Correction = "none",
    cleanup: Cleanup = "none",
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
    cleanup : "none" or "fiji"
        "fiji" gives voxels at the surface of the map the mean of their inner neighbours, as the Local Thickness plug-in
        of Fiji and BoneJ do (see `kernels.thickness_cleanup`). Only for cubic voxels, which they assume.
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
        If the source holds no labels, the voxel size is not known, or the object has no outside, so that there is no
        largest ball.
    ValueError
        If half a voxel is not one length, the clean-up is asked for on other voxels than cubes, or the radius makes no
        sense.
    PlanError
        If the largest ball needs larger blocks than memory holds.
    """
    volume = opened(source)
    voxel_size = known_voxel_size(volume)
    check_conventions(voxel_size, correction, cleanup)
    correction_um = voxel_size[0] if correction == "half_voxel" else 0.0
    make = cleaned_thickness if cleanup == "fiji" else thickness_kernel
    structure = _Structure(volume, voxel_size, classes, outside, max_radius_um)
    return _painted(structure, place(target), lambda ball: make(ball, voxel_size, correction_um), work or Work())


def mid_axes(
    source: Source,
    target: str | Place,
    *,
    classes: tuple[int, ...] | None = None,
    max_radius_um: float | None = None,
    work: Work | None = None,
) -> Volume:
    """Write the mid-axes of an object as a mask: the voxels that no larger ball covers than the one around themselves.

    There the local thickness is twice the distance to the outside. Of a plate this is its middle (two layers, where it
    is an even number of voxels thick), of a rod its axis, of a ball its centre; what is narrower near the surface is
    not of it, so that roughness makes no branches. Where a rod or a plate tapers the axis is not gapless: a voxel that
    the ball of a wider place covers is left out, so that gaps are shorter than the radius there. Parameters as for
    `thickness`.

    Raises
    ------
    InputError, ValueError, PlanError
        As `thickness`.
    """
    volume = opened(source)
    structure = _Structure(volume, known_voxel_size(volume), classes, False, max_radius_um)
    return _painted(structure, place(target), mid_axes_kernel, work or Work(), kind="mask")


@dataclass(frozen=True)
class _Structure:
    """What balls must fit into, and where they are cut."""

    volume: Volume
    voxel_size_um: Spacing
    classes: tuple[int, ...] | None
    outside: bool
    max_radius_um: float | None

    def asked(self) -> dict[str, Any]:
        return {"classes": self.classes, "outside": self.outside, "max_radius_um": self.max_radius_um}


def _painted(structure: _Structure, target: Place, make: Callable[[Ball], Kernel], work: Work, **what: Any) -> Volume:
    """Write what `make` gives of the squared distances; it needs a ball at least as large as the largest that fits."""
    volume, voxel_size = structure.volume, structure.voxel_size_um
    refuse_grey_values(volume, structure.classes)
    cut = None if structure.max_radius_um is None else make_ball(structure.max_radius_um, voxel_size)
    whole = covering_ball(volume.shape, voxel_size)

    def last(largest: Ball) -> Kernel:
        return made_of(counting(make(largest)), volume, **structure.asked())

    if not work.overwrite and finished_before(target, last(whole), found=("radius_um",)):
        work.tell_finished(target)
        return open_zarr(target)
    kernels = distance_by_axis(volume.shape, voxel_size, structure.classes, inside=not structure.outside, squared=True)
    parts = parts_of(target)
    squared = run_in_turn(kernels, volume, parts / "squared.zarr", work)
    counts = work.measure((sizes_of_integers(whole.limit + 1),), {"values": squared}, parts / "sizes")
    with removed_if_refused(parts):
        if counts is not None and counts["unmeasured"][0]:
            thing = "all that is not of the object" if structure.outside else "the object"
            raise InputError(
                f"{volume.name}: {thing} fills the whole volume, so no ball in it has an end: check the labels"
            )
    limit = whole.limit if counts is None else upper_bound(counts)
    limit = max(1, min(limit, whole.limit if cut is None else cut.limit))
    largest = Ball(whole.weights, limit, whole.unit_um, whole.unit_um * math.sqrt(limit))
    result = work.map(last(largest), squared, target, **what)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result


def check_conventions(voxel_size_um: Spacing, correction: Correction, cleanup: Cleanup) -> None:
    """Raise `ValueError` for conventions of `thickness` that are for cubic voxels alone, where voxels are no cubes."""
    if len(set(voxel_size_um)) == 1:
        return
    if correction == "half_voxel":
        raise ValueError(
            f"half a voxel is not one length on voxels of {voxel_size_um} µm: resample to cubic voxels first"
        )
    if cleanup == "fiji":
        raise ValueError(
            f"Fiji's clean-up takes voxels for cubes, but they are {voxel_size_um} µm: resample to cubic voxels first, or "
            "leave it out"
        )
