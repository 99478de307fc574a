"""The voids of bone as a label volume: chosen from labels, freed of islands, closed, and numbered cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tomoscale.arrays import Array
from tomoscale.errors import InputError
from tomoscale.geometry import Halo
from tomoscale.kernels.morphology import close_label
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.measures.topology import object_mask
from tomoscale.objects.components import components
from tomoscale.objects.filters import remove_small, replace_islands
from tomoscale.step import Kernel
from tomoscale.volume import LabelClass, Volume
from tomoscale.work import Work

OTHER, VOID, BONE = 0, 1, 2
CLASSES = (
    LabelClass(OTHER, "other", (0, 0, 0, 0)),
    LabelClass(VOID, "void", (213, 94, 0, 255)),
    LabelClass(BONE, "bone", (238, 238, 238, 255)),
)


@dataclass(frozen=True)
class Settings:
    """What is measured and how; a paper states all of it."""

    void: tuple[int, ...]
    bone: tuple[int, ...]
    island_voxels: int
    closing_radius_voxels: int
    min_cell_voxels: int
    connectivity: Connectivity

    def __post_init__(self) -> None:
        for name, chosen in (("void", self.void), ("bone", self.bone)):
            if not chosen or len(set(chosen)) != len(chosen):
                raise ValueError(f"{name} must name at least one label and none twice, got {chosen}")
        both = set(self.void) & set(self.bone)
        if both:
            raise ValueError(f"void {self.void} and bone {self.bone} share {sorted(both)}: a label is one of them")
        for name in ("island_voxels", "closing_radius_voxels", "min_cell_voxels"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.connectivity not in (6, 18, 26):
            raise ValueError(f"connectivity must be 6, 18 or 26, got {self.connectivity}")


def write_voids(labels: Volume, settings: Settings, folder: Path, work: Work) -> dict[str, Volume]:
    """Write phases as given (``"raw"``) and as cleaned (``"phases"``), and the numbered ``"cells"``.

    Where only plans are shown nothing is made, and labels answer in place of what would be.

    Raises
    ------
    InputError
        If the source holds no labels.
    """
    if labels.dtype.kind not in "biu":
        raise InputError(
            f"{labels.name} holds {labels.dtype}, but voids are told by labels: segment it first, or give model"
        )
    select = Kernel(
        "phases",
        partial(select_phases, void=settings.void, bone=settings.bone),
        Halo(),
        np.dtype(np.uint8),
        bytes_per_voxel=3.0,
        parameters={"void": list(settings.void), "bone": list(settings.bone)},
    )
    raw = work.map(select, labels, folder / "phases.zarr", kind="labels", classes=CLASSES)
    last = raw if raw.finished else labels
    cleaned = last
    if settings.island_voxels > 1:
        islands = replace_islands(
            last,
            folder / "islands.zarr",
            min_voxels=settings.island_voxels,
            connectivity=settings.connectivity,
            classes=(VOID, BONE),
            work=work,
        )
        cleaned = islands if islands.finished else last
    if settings.closing_radius_voxels:
        # In voxels: the ball is one of the grid, whatever the voxels' size.
        kernel = close_label(VOID, float(settings.closing_radius_voxels), (1.0, 1.0, 1.0), overwrites=(BONE,))
        closed = work.map(kernel, cleaned, folder / "closed.zarr", kind="labels", classes=CLASSES)
        cleaned = closed if closed.finished else last
    counted = cleaned
    if settings.min_cell_voxels > max(settings.island_voxels, 1):
        counted = remove_small(
            cleaned,
            folder / "large.zarr",
            min_voxels=settings.min_cell_voxels,
            connectivity=settings.connectivity,
            classes=(VOID,),
            work=work,
        )
        counted = counted if counted.finished else last
    cells = components(counted, folder / "cells.zarr", connectivity=settings.connectivity, classes=(VOID,), work=work)
    return {"raw": raw, "phases": cleaned, "cells": cells}


def select_phases(labels: Array, void: tuple[int, ...], bone: tuple[int, ...]) -> Array:
    """Phases of labels: 1 where they are void, 2 where they are bone, else 0; (Z, Y, X) uint8."""
    phases = object_mask(labels, void).astype(np.uint8)
    phases[object_mask(labels, bone)] = BONE
    return phases
