"""Watershed of a whole volume from markers: out of core, and the same as of the whole at once.

Flooding in order of grey values is global, so tiles with margins only come near to it. Here a label does not follow from
an order but from neighbours (`tomoscale.kernels.flood`), and blocks take turns until their borders agree
(`tomoscale.objects.rounds`): there is no margin to choose, and nothing is approximate.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Block, Grid
from tomoscale.kernels.filters import first_true, write_start
from tomoscale.kernels.flood import FLOOD_BYTES, Shell, flood
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.measures.greys import COUNTED_TYPES, keys_of
from tomoscale.objects.pieces import Selection
from tomoscale.objects.rounds import Arrays, Borders, Settled, State, painting, run_rounds, with_block
from tomoscale.parts import finished_before, parts_of
from tomoscale.places import Place, place
from tomoscale.plan import ledger_folder
from tomoscale.plan_record import read_plan
from tomoscale.refusals import check_agreement
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work, refuse_own_source

FOUND = ("rounds", "voxels", "unreached_voxels")
"""What a watershed finds out beside its labels; `watershed_figures` tells it of a finished one."""


@dataclass(frozen=True)
class Flooding:
    """The rule by which water of labels spreads.

    Attributes
    ----------
    connectivity : 6, 18 or 26
    dtype : numpy dtype
        Of the labels.
    masked : bool
        Whether there is a mask beside relief and markers.
    classes : tuple of int or None
        Labels of the mask; None for all but 0.
    descending : bool
        Flood from the highest values down.
    name : str
        Of the step in plans and records.
    """

    connectivity: Connectivity
    dtype: np.dtype[Any]
    masked: bool = False
    classes: tuple[int, ...] | None = None
    descending: bool = False
    name: str = "watershed"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Relief and markers, and the mask if there is one."""
        return ("relief", "markers", "mask") if self.masked else ("relief", "markers")

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Labels are flooded as 32 bits, or as 64."""
        return np.dtype(np.uint64 if self.dtype.itemsize == 8 else np.uint32)

    @property
    def bytes_per_voxel(self) -> float:
        """Keys, mask and labels, beside what `flood` takes."""
        return FLOOD_BYTES + 4 + 2 + 2 * self.label_dtype.itemsize

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What decides a label."""
        return {
            "connectivity": self.connectivity,
            "mask_classes": None if self.classes is None else list(self.classes),
            "descending": self.descending,
        }

    def spread(self, volumes: Arrays, block: Block, shell: Shell) -> State:
        """Flood a block; the tally is voxels flooded or to be flooded, markers among them, and voxels not reached."""
        relief, markers = volumes[:2]
        inside = Selection(26, self.classes).mask(volumes[2]) if self.masked else np.ones(relief.shape, bool)
        refuse_nan(relief, inside, block)
        if markers.dtype.kind == "i" and (markers < 0).any():
            place = first_true(markers < 0, write_start(block))
            raise InputError(
                f"the marker at voxel {place} (z, y, x) is negative: labels are 1 and more, 0 is no marker"
            )
        keys = keys_of(relief)
        labels = markers.astype(self.label_dtype)
        costs, flooded = flood(~keys if self.descending else keys, inside, labels, shell, self.connectivity)
        n_inside, n_markers = int(inside.sum()), int(np.count_nonzero(labels[inside]))
        return State(costs, flooded, (n_inside, n_markers, n_inside - int(np.count_nonzero(flooded))))

    def paint(self, state: State) -> np.ndarray:
        """Labels."""
        return state.labels.astype(self.dtype)

    def check(self, tally: tuple[int, ...]) -> None:
        """Refuse a mask of nothing, and a flood without a source."""
        if not tally[0]:
            raise InputError("the mask holds no voxel, so there is nothing to flood: check its labels")
        if not tally[1]:
            raise InputError(
                f"there is no marker above 0{' within the mask' if self.masked else ''}, so nothing can be flooded: "
                "check the markers"
            )


def watershed(  # noqa: PLR0913 -- a relief, its markers, and what decides where water may flow
    source: Source,
    markers: Source,
    target: str | Place,
    *,
    mask: Source | None = None,
    mask_classes: tuple[int, ...] | None = None,
    connectivity: Connectivity = 26,
    descending: bool = False,
    work: Work | None = None,
) -> Volume:
    """Flood a relief from markers: each voxel gets the label of the marker whose water reaches it first.

    Water of a marker reaches a voxel at the highest value on its way; on ways of equal height that one counts which took
    fewer steps since, then the lower neighbour, then the smaller label (Lotufo and Falcão 2000). The result depends on
    the voxels alone: not on blocks, workers or restarts, and no margin has to be chosen. Where no two values of the
    relief are equal it is that of every watershed by flooding; on plateaus other programs cut ties their own way.

    Parameters
    ----------
    source : Volume or path
        The relief: integers of at most 32 bits, or float32. A gradient, or a distance with `descending`.
    markers : Volume or path
        Labels, 0 where there is none. Parts of equal label need not hang together.
    target : path
    mask : Volume or path, optional
        Where water may flow; markers elsewhere do not count.
    mask_classes : tuple of int or None
        Labels of the mask; None for all but 0.
    connectivity : 6, 18 or 26
        Water flows through faces, edges, or corners.
    descending : bool
        Flood from the highest values down.
    work : Work or None

    Returns
    -------
    Volume
        Labels of the type of the markers, unsigned; 0 outside the mask and where no marker's water comes, of which
        `watershed_figures` tells how many voxels there are.

    Raises
    ------
    InputError
        If markers are no labels, volumes do not agree, the relief holds NaN or 64 bits, no marker lies in the mask, or
        the mask is empty.
    """
    work, target = work or Work(), place(target)
    relief, seeds = opened(source), opened(markers)
    volumes = {"relief": relief, "markers": seeds}
    if mask is not None:
        volumes["mask"] = opened(mask)
        Selection(26, mask_classes).check(volumes["mask"])
    elif mask_classes is not None:
        raise ValueError(f"mask_classes {mask_classes} are labels of a mask, but none is given")
    _check(relief, seeds)
    check_agreement(volumes)
    refuse_own_source(target, tuple(volumes.values()))
    rule = Flooding(connectivity, np.dtype(f"u{seeds.dtype.itemsize}"), mask is not None, mask_classes, descending)
    made = {name: identity(volume) for name, volume in volumes.items() if name != "relief"}
    if not work.overwrite and flooded_before(rule, volumes, target, made):
        work.tell_finished(target)
        return open_zarr(target)
    result = flood_to(rule, volumes, target, made, work)
    if not work.plan_only:
        shutil.rmtree(parts_of(target), ignore_errors=True)
    return result


def flooded_before(
    rule: Flooding, volumes: Mapping[str, Volume], target: Place, made: Mapping[str, Any], found: tuple[str, ...] = ()
) -> bool:
    """Whether `target` was finished by the same flooding; `found` are names in `made` that are not compared.

    Raises
    ------
    PlanError
        If it was begun by another one.
    """
    grid = Grid(volumes["relief"].shape, volumes["relief"].shape)
    kernel = painting(rule, Settled(Borders(grid, ""), 0, ()), (), **made, **dict.fromkeys(FOUND, 0))
    return finished_before(target, kernel, found=(*FOUND, *found))


def flood_to(
    rule: Flooding, volumes: Mapping[str, Volume], target: Place, made: Mapping[str, Any], work: Work
) -> Volume:
    """Flood until borders agree, then write; what lies between is left in `parts_of` the target.

    Parameters
    ----------
    rule : Flooding
    volumes : mapping of str to Volume
        The inputs of the rule, in order.
    target : path
    made : mapping
        JSON values that, beside the rule, say what the labels are made of.
    work : Work
    """
    relief, *others = volumes.values()
    parts = parts_of(target)
    work = with_block(rule, volumes, target, parts, "labels", work)
    settled = run_rounds(rule, volumes, parts, work)
    tally = settled.tally or (0, 0, 0)
    figures = dict(zip(FOUND, (settled.rounds, tally[0], tally[2]), strict=True))
    kernel = painting(rule, settled, tuple(others), **made, **figures)
    return work.map(kernel, relief, target, kind="labels", classes=volumes["markers"].classes)


def watershed_figures(target: str | Place) -> dict[str, int]:
    """What a finished watershed found: rounds, voxels where water might flow, and those of them that none reached.

    Raises
    ------
    InputError
        If `target` was not made by one.
    """
    folder = ledger_folder(target)
    steps = read_plan(folder)["step"] if folder is not None and (folder / "plan.json").exists() else {}
    for parameters in steps.values():
        if set(FOUND) <= set(parameters):
            return {name: int(parameters[name]) for name in (*FOUND, "objects") if name in parameters}
    raise InputError(f"{target} was not made by a watershed, so nothing is known of its flooding: make it first")


def identity(volume: Volume) -> dict[str, Any]:
    """What a record says of a volume that a kernel reads by itself; one may be planned with that is not there yet."""
    return volume.identity() if volume.exists else {"volume": PurePosixPath(volume.name).name}


def refuse_nan(relief: np.ndarray, inside: np.ndarray, block: Block) -> None:
    """Raise `InputError` at NaN within a mask."""
    if relief.dtype.kind != "f":
        return
    wrong = np.isnan(relief)
    wrong &= inside
    if wrong.any():
        raise InputError(
            f"NaN at voxel {first_true(wrong, write_start(block))} (z, y, x) of the relief: it is neither high nor low; mend "
            "the volume, or leave such voxels out with a mask"
        )


def _check(relief: Volume, markers: Volume) -> None:
    if relief.dtype.name not in COUNTED_TYPES and relief.dtype != bool:
        raise InputError(
            f"{relief.name} holds {relief.dtype}, but a relief is of {', '.join(COUNTED_TYPES)}: convert it first"
        )
    if markers.dtype.kind not in "iu":
        made = "a mask has one label, so all would become one" if markers.dtype == bool else "labels are whole numbers"
        raise InputError(
            f"markers {markers.name} hold {markers.dtype}, but {made}: number their parts with `tomoscale components`"
        )
