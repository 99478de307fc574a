"""Splitting objects that touch: each deep maximum of the distance to the outside becomes an object of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Block, Grid
from tomoscale.kernels.flood import Shell
from tomoscale.kernels.pits import PIT, fill_pits
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.measures.greys import keys_of
from tomoscale.objects.components import components, count_components
from tomoscale.objects.distance import distance, known_voxel_size
from tomoscale.objects.pieces import Selection
from tomoscale.objects.rounds import Arrays, Borders, Settled, State, painting, run_rounds, with_block
from tomoscale.objects.watershed import Flooding, flood_to, flooded_before, identity
from tomoscale.parts import finished_before, parts_of
from tomoscale.places import Place, place
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work, refuse_own_source

FILL_BYTES = 42
"""Most that `fill_pits` takes per voxel with its keys: costs, levels, keys twice, and what waits."""


@dataclass(frozen=True)
class Maxima:
    """The rule by which maxima of a distance, that are higher than all around by more than a depth, are found.

    Attributes
    ----------
    depth_um : float
    connectivity : 6, 18 or 26
    """

    depth_um: float
    connectivity: Connectivity

    name = "maxima"
    inputs = ("relief",)
    dtype = np.dtype(bool)
    label_dtype = np.dtype(np.uint8)
    bytes_per_voxel = FILL_BYTES + 6.0

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What decides where a maximum is."""
        return {"depth_um": self.depth_um, "connectivity": self.connectivity}

    def spread(self, volumes: Arrays, block: Block, shell: Shell) -> State:
        """Lower the maxima of a block; the tally is voxels with a distance, and those of them where it is infinite."""
        (relief,) = volumes
        inside = relief > 0
        n_endless = int(np.count_nonzero(np.isinf(relief)))
        # Upside down, so that maxima are pits. Keys of float32 are not 0, and 2^32 - 1 is that of no number.
        keys, raised = ~keys_of(relief), ~keys_of(relief - np.float32(self.depth_um))
        costs = fill_pits(keys, raised, inside, shell, self.connectivity)
        return State(costs, np.broadcast_to(np.uint8(0), costs.shape), (int(np.count_nonzero(inside)), n_endless))

    def paint(self, state: State) -> np.ndarray:
        """Mask of the maxima."""
        return (state.costs & PIT).astype(bool)

    def check(self, tally: tuple[int, ...]) -> None:
        """Refuse what is not there, and what has no outside."""
        if not tally[0]:
            raise InputError("there is no voxel of the object, so nothing can be split: check the labels")
        if tally[1]:
            raise InputError(
                "the object fills the whole volume, so there is no distance to its outside: check the labels"
            )


def maxima(
    source: Source,
    target: str | Place,
    *,
    depth_um: float,
    connectivity: Connectivity = 26,
    work: Work | None = None,
) -> Volume:
    """Mask of the maxima of a distance from which every way up leads down by more than a depth first.

    The extended maxima of Soille (Morphological Image Analysis, 6.3.4), exact for every block shape.

    Parameters
    ----------
    source : Volume or path
        Distances in micrometres, float32, as `distance` with `inside` writes them.
    target : path
    depth_um : float
    connectivity : 6, 18 or 26
    work : Work or None

    Returns
    -------
    Volume
        Mask, bool.

    Raises
    ------
    InputError
        If the source is no distance, is 0 everywhere, or infinite.
    ValueError
        If the depth is not positive.
    """
    work, volume, target = work or Work(), opened(source), place(target)
    if not depth_um > 0:
        raise ValueError(f"depth_um must be positive, got {depth_um}: every voxel of a plateau would be a maximum")
    if volume.dtype != np.float32:
        raise InputError(
            f"{volume.name} holds {volume.dtype}, but distances are float32: make them with `tomoscale distance`"
        )
    rule = Maxima(float(depth_um), connectivity)
    unsettled = Settled(Borders(Grid(volume.shape, volume.shape), ""), 0, ())
    if not work.overwrite and finished_before(target, painting(rule, unsettled, (), rounds=0), found=("rounds",)):
        work.tell_finished(target)
        return open_zarr(target)
    parts = parts_of(target)
    work = with_block(rule, {"relief": volume}, target, parts, "mask", work)
    settled = run_rounds(rule, {"relief": volume}, parts, work)
    result = work.map(painting(rule, settled, (), rounds=settled.rounds), volume, target, kind="mask")
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result


def split_touching(
    source: Source,
    target: str | Place,
    *,
    classes: tuple[int, ...] | None = None,
    min_depth_um: float | None = None,
    connectivity: Connectivity = 26,
    work: Work | None = None,
) -> Volume:
    """Split objects that touch where they are narrowest, and number the parts.

    Watershed of the distance to the outside (exact, in micrometres) from its `maxima`: two parts are split if the
    distance on every way from one to the other falls by more than `min_depth_um` below the lower of their maxima. All
    of it is exact: the parts, their numbers and their borders do not depend on blocks.

    Parameters
    ----------
    source : Volume or path
        Labels or a mask.
    target : path
    classes : tuple of int or None
        Labels of the objects; None for all but 0.
    min_depth_um : float, optional
        The larger, the fewer parts. By default the longest edge of a voxel, below which maxima are roughness.
    connectivity : 6, 18 or 26
        Voxels that share a face, an edge, or a corner hang together.
    work : Work or None

    Returns
    -------
    Volume
        Parts, numbered 1 .. n by the first voxels (z, then y, then x) of their maxima; 0 elsewhere. `watershed_figures`
        tells how many there are.

    Raises
    ------
    InputError
        If the source holds no labels, no voxel of the object or nothing else, or the voxel size is not known.
    ValueError
        If the depth is not positive.
    """
    work, volume, target = work or Work(), opened(source), place(target)
    Selection(connectivity, classes).check(volume)
    depth_um = max(known_voxel_size(volume)) if min_depth_um is None else float(min_depth_um)
    if not depth_um > 0:
        raise ValueError(f"min_depth_um must be positive, got {min_depth_um}")
    refuse_own_source(target, (volume,))
    rule = Flooding(connectivity, np.dtype(np.uint32), True, classes, True, name="split")
    made = {"made of": identity(volume), "min_depth_um": depth_um}
    if not work.overwrite and flooded_before(rule, {"relief": volume}, target, {**made, "objects": 0}, ("objects",)):
        work.tell_finished(target)
        return open_zarr(target)
    parts = parts_of(target)
    far = distance(volume, parts / "distance.zarr", classes=classes, inside=True, work=work)
    tops = maxima(far, parts / "maxima.zarr", depth_um=depth_um, connectivity=connectivity, work=work)
    markers = components(tops, parts / "markers.zarr", connectivity=connectivity, work=work)
    made["objects"] = 0 if work.plan_only else count_components(parts / "markers.zarr")
    result = flood_to(rule, {"relief": far, "markers": markers, "mask": volume}, target, made, work)
    if not work.plan_only:
        shutil.rmtree(parts, ignore_errors=True)
    return result
