"""The exact Euclidean distance of a whole volume: three passes, one along each axis, none with a margin."""

from __future__ import annotations

import math
import shutil

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Spacing
from tomoscale.kernels.counted import NOT_ZERO, counting
from tomoscale.kernels.line_distance import distance_by_axis
from tomoscale.parts import finished_before, made_of, parts_of
from tomoscale.places import Place, place
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


def distance(
    source: Source,
    target: str | Place,
    *,
    classes: tuple[int, ...] | None = None,
    inside: bool = False,
    work: Work | None = None,
) -> Volume:
    """Write the distance of every voxel to an object, between voxel centres, in micrometres (float32).

    Distances are whole multiples of a squared unit until the root is taken, so they are exact and the same for every
    block shape, also for voxels that are not cubes. Each pass reads whole lines along one axis; what lies between the
    passes is kept beside the target (``NAME.parts``) until the last one is done.

    Parameters
    ----------
    source : Volume or path
        Labels or a mask.
    target : path
    classes : tuple of int or None
        Labels of the object; None for all but 0.
    inside : bool
        The distance of the object's voxels to the nearest one outside instead. What lies beyond the volume is neither.
    work : Work or None

    Returns
    -------
    Volume
        0 in the object (or outside of it, with `inside`), infinite where there is nothing to measure to.

    Raises
    ------
    InputError
        If the source holds no labels, or the voxel size is not known.
    ValueError
        If an axis is longer than 65534 voxels, or the voxel edges have no common unit.
    """
    work, volume = work or Work(), opened(source)
    refuse_grey_values(volume, classes)
    *first, last = distance_by_axis(volume.shape, known_voxel_size(volume), classes, inside=inside)
    return run_in_turn((*first, counting(last)), volume, place(target), work)


def object_voxels(made: Volume, *, inside: bool) -> int | None:
    """How many voxels of the object a volume of `distance` was made of; None if it does not say so.

    Parameters
    ----------
    made : Volume
        Distances, or with `inside` also the thickness of an object.
    inside : bool
        Whether it is 0 outside of the object; otherwise in it.
    """
    counted = made.counted.get(NOT_ZERO)
    if counted is None:
        return None
    return int(counted[0]) if inside else math.prod(made.shape) - int(counted[0])


def known_voxel_size(volume: Volume) -> Spacing:
    """Voxel size of a volume.

    Raises
    ------
    InputError
        If it is not known.
    """
    if volume.voxel_size_um is None:
        raise InputError(
            f"{volume.name} does not say how large a voxel is, so there are no lengths: convert it with its size, such as voxel_size_um=5.0"
        )
    return volume.voxel_size_um


def refuse_grey_values(volume: Volume, classes: tuple[int, ...] | None) -> None:
    """Raise `InputError` if a volume holds no labels: every grey value but 0, and NaN, would be taken for the object."""
    if volume.dtype.kind not in "biu":
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but an object is told by labels or a mask: segment or threshold it first"
        )
    if classes is None and volume.kind == "grey" and volume.dtype != bool:
        raise InputError(
            f"{volume.name} is not known to hold labels or a mask, and every grey value but 0 would be the object: threshold it, "
            "convert it with kind='mask' or kind='labels', or name the labels of the object, such as classes=(1, 2)"
        )


def run_in_turn(kernels: tuple[Kernel, ...], source: Volume, target: Place, work: Work) -> Volume:
    """Run kernels after each other, the last into `target`; what lies between is removed once that is done."""
    kernels = (*kernels[:-1], made_of(kernels[-1], source))
    if not work.overwrite and finished_before(target, kernels[-1]):
        work.tell_finished(target)
        return open_zarr(target)
    parts = parts_of(target)
    for number, kernel in enumerate(kernels[:-1], start=1):
        source = work.map(kernel, source, parts / f"{number}.zarr")
    result = work.map(kernels[-1], source, target)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result
