"""Volumes of ids: which ids they may hold, and what is said where they hold others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Shape

if TYPE_CHECKING:
    from tomoscale.geometry import Block


NO_ID = -(1 << 62)


@dataclass(frozen=True)
class Ids:
    """A volume of ids on the padded block, and which ids it may hold.

    Attributes
    ----------
    name : str
        For messages, e.g. ``"labels"``.
    values : (Z, Y, X) bool or integer array, NumPy or CuPy
    n_ids : int
        Ids 0 to ``n_ids - 1`` are counted.
    ignore : int or None
        An id that is allowed and not counted; -1 in a type without sign is its largest id.
    """

    name: str
    values: Array
    n_ids: int
    ignore: int | None = None


def check_ids(volume: Ids, labels: Ids) -> None:
    """Raise InputError unless `volume` holds ids on the grid of `labels`."""
    if volume.values.dtype.kind not in "biu":
        raise InputError(
            f"{volume.name} has the type {volume.values.dtype}, but ids are whole numbers: convert the volume first"
        )
    if volume.values.shape != labels.values.shape:
        raise InputError(
            f"{volume.name} has the shape {volume.values.shape} but {labels.name} has {labels.values.shape} (z, y, x): "
            "voxels are compared one by one, so both must lie on one grid"
        )


def masked(volume: Ids, valid: Array, origin: Shape = (0, 0, 0)) -> Ids:
    """Copy of a volume in which what is not valid, or is ignored, has the further id ``volume.n_ids``.

    Parameters
    ----------
    volume : Ids
    valid : (Z, Y, X) bool or integer array
        0 where there is no data.
    origin : (z, y, x)
        Place of the padded block in the whole volume, for messages.

    Raises
    ------
    InputError
        If an id is out of range where the volume is valid, with its place; or if the shapes differ.
    """
    check_ids(Ids("valid", valid, 2), volume)
    xp = namespace_for(volume.values)
    present = valid != 0
    if bool((wrong_ids(volume, volume.values) & present).any()):
        refuse_wrong_ids([Ids(volume.name, xp.where(present, volume.values, 0), volume.n_ids, volume.ignore)], origin)
    present &= volume.values != stored_ignored(volume)
    small = xp.uint8 if volume.n_ids < 256 else xp.uint16
    return Ids(volume.name, xp.where(present, volume.values.astype(small), small(volume.n_ids)), volume.n_ids + 1)


def check_number_of_ids(name: str, number: int) -> None:
    """Raise ValueError unless `number` ids fit a table and 16 bits."""
    if not 1 <= number <= 4096:
        raise ValueError(
            f"{name} must be 1 to 4096, got {number}: counts are tables of ids by ids, kept for every block"
        )


def origin_of(block: Block) -> Shape:
    """Place of the padded block in the whole volume."""
    z, y, x = block.read
    return z.start, y.start, x.start


def stored_ignored(volume: Ids) -> int:
    """The ignored id as the volume's type stores it: -1 in 8 bits without sign is 255. What is no id is `NO_ID`."""
    kind = np.dtype(np.uint8) if volume.values.dtype == bool else volume.values.dtype
    if volume.ignore is None or kind.kind not in "iu":
        return NO_ID
    limits = np.iinfo(kind)
    ignored = volume.ignore + (limits.max + 1 if volume.ignore < 0 and kind.kind == "u" else 0)
    return ignored if limits.min <= ignored <= limits.max else NO_ID


def wrong_ids(volume: Ids, values: Array) -> Array:
    """Where `values`, a part of the volume, hold an id that is neither counted nor ignored."""
    return ((values < 0) | (values >= volume.n_ids)) & (values != stored_ignored(volume))


def refuse_wrong_ids(volumes: list[Ids], origin: Shape) -> None:
    """Raise InputError naming the first id that is out of range."""
    for volume in volumes:
        wrong = wrong_ids(volume, volume.values)
        if not bool(wrong.any()):
            continue
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = ", ".join(f"{a} {int(i) + o}" for a, i, o in zip(AXES, index, origin, strict=True))
        allowed = f"0 to {volume.n_ids - 1}" + ("" if volume.ignore is None else f" or {volume.ignore} (ignored)")
        raise InputError(
            f"{volume.name} holds the label {int(volume.values[index])} at {place}, but only {allowed} are expected: "
            "it would be counted nowhere. Map the volume to these labels first, or check that it holds labels and no grey values"
        )
    raise AssertionError("a run was found faulty but no voxel is")
