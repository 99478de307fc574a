"""What a network learns from: grey volumes with labels, all of them or a few slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Region, Shape, Spacing
from tomoscale.networks.card import ModelClass
from tomoscale.ome import Kind
from tomoscale.training.recipe import IGNORED
from tomoscale.volume import Storage, Volume

FOREIGN = 254
"""What a label becomes that is no class; the counting pass refuses it."""


@dataclass(frozen=True)
class Sample:
    """A volume that somebody has labelled.

    Attributes
    ----------
    name : str
        Of the thing that was scanned: no sample may be in training and in validation.
    grey, labels : Volume
        Of one shape. Labels are class ids; 255 is not labelled.
    mask : Volume or None
        Where it is 0, nothing is labelled.
    slices : mapping of axis to tuple of int
        The only labelled slices, across z, y or x; empty if all are.
    """

    name: str
    grey: Volume
    labels: Volume
    mask: Volume | None = None
    slices: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 100:
            raise ValueError(f"a sample needs a name of 1 to 100 characters, got {self.name!r}")
        for what, volume in (("labels", self.labels), ("mask", self.mask)):
            if volume is None:
                continue
            if volume.shape != self.grey.shape:
                raise InputError(
                    f"sample {self.name}: {volume.name} has the shape {volume.shape}, but the grey values {self.grey.shape}"
                )
            if volume.dtype.kind not in "uib":
                raise InputError(
                    f"sample {self.name}: {volume.name} holds {volume.dtype}, but {what} are whole numbers"
                )
            _check_voxel_sizes(self.name, self.grey, volume)
        for axis, numbers in self.slices.items():
            length = dict(zip(AXES, self.grey.shape, strict=True)).get(axis, 0)
            if not numbers or not all(0 <= n < length for n in numbers):
                raise InputError(
                    f"sample {self.name}: slices across {axis} must be some of 0 to {length - 1}, got {tuple(numbers)}"
                )

    def known(self, n_classes: int) -> Volume:
        """Labels as the training reads them: class ids, 255 where nothing is labelled, 254 where a label is no class."""
        mask = None if self.mask is None else self.mask.storage
        planes = tuple(tuple(self.slices.get(axis, ())) for axis in AXES)
        return Volume(KnownLabels(self.labels.storage, n_classes, mask, planes), self.grey.voxel_size_um)


@dataclass(frozen=True)
class KnownLabels:
    """Labels where they count: a storage over a storage."""

    labels: Storage
    n_classes: int
    mask: Storage | None
    planes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> Shape:
        """Voxels along (z, y, x)."""
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """One byte."""
        return np.dtype(np.uint8)

    @property
    def chunk_shape(self) -> Shape:
        """That of the labels."""
        return self.labels.chunk_shape

    @property
    def kind(self) -> Kind:
        """They are labels."""
        return "labels"

    @property
    def name(self) -> str:
        """Where the labels are."""
        return self.labels.name

    def read(self, region: Region) -> np.ndarray:
        """Labels of a region: (z, y, x) uint8."""
        values = self.labels.read(region).astype(np.int64, copy=False)
        known = np.where((values >= 0) & (values < self.n_classes), values, FOREIGN)
        result = np.where(values == IGNORED, IGNORED, known).astype(np.uint8)
        if self.mask is not None:
            result[self.mask.read(region) == 0] = IGNORED
        if any(self.planes):
            shown = np.zeros(result.shape, bool)
            for axis, (numbers, part) in enumerate(zip(self.planes, region, strict=True)):
                inside = [n - part.start for n in numbers if part.start <= n < part.stop]
                shown[tuple(inside if a == axis else slice(None) for a in range(3))] = True
            result[~shown] = IGNORED
        return result

    def identity(self) -> dict[str, Any]:
        """Identity of all that it is made of."""
        return {
            "labels": self.labels.identity(),
            "n_classes": self.n_classes,
            "mask": None if self.mask is None else self.mask.identity(),
            "planes": [list(p) for p in self.planes],
        }


@dataclass(frozen=True)
class Data:
    """Samples to learn from and samples to judge by.

    Attributes
    ----------
    classes : tuple of ModelClass
        Ids 0, 1, 2, ... in order.
    training, validation : tuple of Sample
    voxel_size_um : (z, y, x)
    """

    classes: tuple[ModelClass, ...]
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    voxel_size_um: Spacing

    def __post_init__(self) -> None:
        if not self.training or not self.validation:
            raise ValueError("training and validation need a sample each: without a judge nobody knows when to stop")
        if not 2 <= len(self.classes) <= FOREIGN:
            raise ValueError(f"there must be 2 to {FOREIGN} classes, got {len(self.classes)}")
        names = [s.name for s in (*self.training, *self.validation)]
        double = sorted({n for n in names if names.count(n) > 1})
        both = {s.name for s in self.training} & {s.name for s in self.validation}
        if both:
            raise InputError(
                f"sample {sorted(both)[0]} is in training and in validation: the network would be judged by what it has seen; "
                "give the validation samples of their own"
            )
        if double:
            raise InputError(f"sample {double[0]} comes twice: give every sample its own name")
        for sample in (*self.training, *self.validation):
            _check_size(sample, self.voxel_size_um)


def _check_size(sample: Sample, wanted: Spacing) -> None:
    size = sample.grey.voxel_size_um
    if size is not None and any(abs(a - b) > 1e-3 * b for a, b in zip(size, wanted, strict=True)):
        raise InputError(
            f"sample {sample.name}: its voxels are {size} µm, but those of the others (or those given) {wanted} µm: a network "
            "learns one size; resample"
        )


def _check_voxel_sizes(name: str, grey: Volume, other: Volume) -> None:
    first, second = grey.voxel_size_um, other.voxel_size_um
    if first and second and any(abs(a - b) > 1e-3 * a for a, b in zip(first, second, strict=True)):
        raise InputError(f"sample {name}: voxels of {grey.name} are {first} µm, those of {other.name} {second} µm")
