"""Bone and what surrounds it inside a volume of interest, as one small label volume that everything is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array
from tomoscale.errors import InputError
from tomoscale.geometry import Halo, Region, Shape
from tomoscale.measures.topology import object_mask
from tomoscale.ome import Kind, LabelClass
from tomoscale.step import Kernel
from tomoscale.volume import Volume
from tomoscale.work import Work

ABSENT, SPACE, BONE = 0, 1, 2
CLASSES = (
    LabelClass(ABSENT, "outside of the region", (0, 0, 0, 0)),
    LabelClass(SPACE, "space", (86, 180, 233, 255)),
    LabelClass(BONE, "bone", (238, 238, 238, 255)),
)
AXES = (
    CLASSES[ABSENT],
    LabelClass(1, "between mid-axes", (86, 180, 233, 255)),
    LabelClass(2, "mid-axes", (213, 94, 0, 255)),
)
"""Where the mid-axes of bone take the place of bone."""


@dataclass(frozen=True)
class Phases:
    """A storage that reads labels and a region and gives 0 outside of the region, 1 for space, 2 for bone.

    Attributes
    ----------
    labels : Volume
    region : Volume or None
        Not 0 inside; None where all of the volume is inside.
    bone : tuple of int or None
        Labels of bone; None for all but 0.
    """

    labels: Volume
    region: Volume | None
    bone: tuple[int, ...] | None
    kind: Kind = "labels"

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel."""
        return np.dtype(np.uint8)

    @property
    def chunk_shape(self) -> Shape:
        """What is decoded as a whole."""
        return self.labels.storage.chunk_shape

    @property
    def name(self) -> str:
        """The path of the labels, for messages."""
        return self.labels.name

    def read(self, region: Region) -> np.ndarray:
        """Phases of a region: uint8."""
        phases: np.ndarray = object_mask(self.labels.read(region), self.bone).astype(np.uint8)
        phases += 1
        if self.region is not None:
            phases *= self.region.read(region) != 0
        return phases

    def identity(self) -> dict[str, Any]:
        """What changes when labels or region do."""
        return {
            "phases of": self.labels.identity(),
            "region": None if self.region is None else self.region.identity(),
            "bone": None if self.bone is None else list(self.bone),
        }


def write_phases(phases: Phases, target: Path, work: Work, classes: tuple[LabelClass, ...] = CLASSES) -> Volume:
    """Write the phases as a volume of their own: later passes then read one byte for a voxel."""
    for volume in (phases.labels, phases.region):
        if volume is not None and volume.dtype.kind not in "biu":
            raise InputError(
                f"{volume.name} holds {volume.dtype}, but bone and region are labels or masks: segment it first"
            )
    read = phases.labels.dtype.itemsize + (0 if phases.region is None else phases.region.dtype.itemsize + 1)
    kernel = Kernel(
        "phases",
        partial(_same, dtype=np.dtype(np.uint8)),
        Halo(),
        np.dtype(np.uint8),
        # What is read of both volumes, and two masks while they are compared; the phases themselves pass through.
        bytes_per_voxel=read + 2.0,
        parameters={"bone": None if phases.bone is None else list(phases.bone), "region": phases.region is not None},
    )
    source = Volume(phases, phases.labels.voxel_size_um)
    return work.map(kernel, source, target, kind="labels", classes=classes)


def _same(values: Array, dtype: np.dtype[Any]) -> Array:
    """Voxels as they are read: the storage has made phases of them."""
    return values.astype(dtype, copy=False)
