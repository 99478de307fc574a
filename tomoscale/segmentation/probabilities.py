"""Probabilities of all classes, kept as a volume per class beside the labels that are made of them."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.blocking import shard_of
from tomoscale.checksums import placed_checksum
from tomoscale.errors import PlanError
from tomoscale.geometry import Block, Shape
from tomoscale.ledger import PROBABILITIES
from tomoscale.networks.card import ModelClass
from tomoscale.step import Counts
from tomoscale.volume import Volume, create_volume, open_zarr

QUANTISATIONS = {"float32": np.float32, "float16": np.float16, "uint16": np.uint16}
"""How a probability is stored; uint16 is ``round(65535 * p)``."""


@dataclass(frozen=True)
class ClassVolumes:
    """The volumes of all classes, as a block of a run fills them: `Sink` of a kernel.

    A block owns whole shards of each, as it does of the labels, and fills them before it counts as done. Their checksums
    are counts of the run, in the ledger of the labels, by which `tomoscale.audit.verify` holds them.

    Attributes
    ----------
    volumes : tuple of Volume
    classes : tuple of ModelClass
    """

    volumes: tuple[Volume, ...]
    classes: tuple[ModelClass, ...]

    def __call__(self, block: Block, shares: Array) -> Counts:
        """Write the probabilities (classes, z, y, x) of a block; return a checksum of each class."""
        checksums = []
        for volume, share in zip(self.volumes, shares, strict=True):
            values = quantised(to_host(share), volume.dtype)
            volume.write(block.write, values)
            checksums.append(placed_checksum(values, block.write))
        # Counts add modulo 2**64.
        return {PROBABILITIES: np.array(checksums, np.uint64).view(np.int64)}

    @property
    def finished(self) -> bool:
        """Whether all are there and whole."""
        return all(volume.finished for volume in self.volumes)

    def create(self) -> None:
        """Put those on disk that are not there yet.

        Raises
        ------
        PlanError
            If something else is in the way.
        """
        for volume in self.volumes:
            if not volume.exists:
                volume.create()
            else:
                _check_begun(volume)

    def finish(self, record: dict[str, Any]) -> None:
        """State that all voxels are written, and what made them."""
        for volume, of in zip(self.volumes, self.classes, strict=True):
            if not volume.finished:
                scale = 1 / 65535 if volume.dtype == np.uint16 else 1
                probability = {"class": of.name, "id": of.id, "scale": scale}
                volume.finish({**record, "probability": probability})


def class_volumes(
    folder: Path, classes: tuple[ModelClass, ...], like: Volume, block: Shape, quantisation: str
) -> ClassVolumes:
    """Describe a volume per class in a folder, named by id and class: ``0_background.zarr``.

    Parameters
    ----------
    folder : Path
    classes : tuple of ModelClass
    like : Volume
        Gives shape and voxel size.
    block : (z, y, x)
        Of the run.
    quantisation : "float32", "float16" or "uint16"
    """
    dtype = np.dtype(QUANTISATIONS[quantisation])
    shard, chunk = shard_of(block, like.shape, 4)
    volumes = (
        create_volume(
            folder / f"{c.id}_{re.sub('[^A-Za-z0-9]+', '_', c.name).strip('_')}.zarr",
            shape=like.shape,
            dtype=dtype,
            voxel_size_um=like.voxel_size_um,
            kind="grey",
            shard_shape=shard,
            chunk_shape=chunk,
        )
        for c in classes
    )
    return ClassVolumes(tuple(volumes), classes)


def quantised(shares: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Probabilities as they are stored."""
    return np.rint(shares * np.float32(65535)).astype(dtype) if dtype == np.uint16 else shares.astype(dtype)


def remove(volumes: ClassVolumes) -> None:
    """Remove what an earlier run with probabilities has left, and nothing else.

    Raises
    ------
    PlanError
        If another volume is in the way.
    """
    for volume in volumes.volumes:
        if volume.exists:
            found = _check_begun(volume)
            if found.finished and "probability" not in _record(found):
                raise PlanError(f"{volume.name} is in the way and holds no probabilities: give another folder")
            shutil.rmtree(volume.name)


def _check_begun(volume: Volume) -> Volume:
    found = open_zarr(volume.name, unfinished=True)
    if (found.shape, found.dtype) != (volume.shape, volume.dtype):
        raise PlanError(
            f"{volume.name} is in the way: it holds {found.shape} voxels of {found.dtype}, not {volume.shape} of "
            f"{volume.dtype}; give another folder for the probabilities"
        )
    return found


def _record(volume: Volume) -> dict[str, Any]:
    return dict((volume.storage.state() or {}).get("record") or {})  # type: ignore[attr-defined]
