"""Count which ids lie in the same voxel or side by side: what all label measures are made of, in one pass.

Confusion, faces and region counts ask the same question of different partners of a label volume: another volume, or
the labels one voxel further along an axis. One pass over the memory answers all of them (`runs` says how).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tomoscale.arrays import Array, namespace_for, on_host
from tomoscale.errors import InputError
from tomoscale.geometry import AXES, Halo, Region, Shape, region_shape, three
from tomoscale.measures import runs
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from tomoscale.geometry import Block

_NO_ID = -(1 << 62)
_CODES = 1 << 22


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


def fused_label_counts(
    labels: Ids,
    core: Region,
    *,
    truth: Ids | None = None,
    roi: Ids | None = None,
    faces: bool = False,
    origin: Shape = (0, 0, 0),
) -> Counts:
    """Count confusion, faces and regions of a label volume in one pass over the memory.

    Parameters
    ----------
    labels : Ids
        The volume every count is about, with one voxel after the core wherever the volume goes on.
    core : Region
        What to count, in voxels of the padded block.
    truth, roi : Ids, optional
        Volumes of the same shape.
    faces : bool
        Count faces. A face belongs to its lower voxel; where the padded block ends there is none.
    origin : (z, y, x)
        Place of the padded block in the whole volume, for messages.

    Returns
    -------
    dict
        ``"confusion"`` (n truth, n labels), ``"faces"`` (3, n labels, n labels) by axis z, y, x and (lower, upper)
        id, ``"roi"`` (n regions, n labels); int64, only what was asked for.

    Raises
    ------
    InputError
        If an id is out of range, with its place in the whole volume.
    """
    volumes = [volume for volume in (labels, truth, roi) if volume is not None]
    for volume in volumes:
        _check(volume, labels)
    upper = three(min(c.stop, n - 1) - c.start if faces else 0 for c, n in zip(core, labels.values.shape, strict=True))
    fits = on_host(labels.values) and max(volume.n_ids for volume in volumes) <= runs.IGNORED_BYTE
    count = _count_on_host if fits else _count_by_codes
    table, faulty = count([truth, roi, labels], core, upper)
    if faulty:
        _refuse(volumes, origin)
    n, counts = labels.n_ids, Counts()
    if truth is not None:
        counts["confusion"] = _without_ignored(table[runs.TRUTH, :n, : truth.n_ids], truth)
    if faces:
        counts["faces"] = table[runs.ABOVE :, :n, :n].copy()
    if roi is not None:
        counts["roi"] = _without_ignored(table[runs.ROI, :n, : roi.n_ids], roi)
    return counts


def _check(volume: Ids, labels: Ids) -> None:
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


def label_counts(n_classes: int, n_regions: int | None = None, *, ignore: int | None = None) -> Measure:
    """Measure of all that is asked of a label volume at once: confusion, faces and, with `n_regions`, regions.

    Parameters
    ----------
    n_classes : int
        Classes of truth and labels, ids 0 to ``n_classes - 1``.
    n_regions : int, optional
        Regions of the ROI volume, 0 (outside) included; without it there is no ROI volume.
    ignore : int, optional
        Id of the truth that is not counted.

    Returns
    -------
    Measure
        Inputs ``("truth", "labels")`` and ``"roi"``; counts ``"confusion"``, ``"faces"``, ``"roi"`` as those of
        `overlap.confusion`, `contact.faces` and `fraction.roi_fractions`. One voxel after the core, for the faces.
    """
    check_number_of_ids("n_classes", n_classes)
    if n_regions is not None:
        check_number_of_ids("n_regions", n_regions)
    return Measure(
        "label_counts",
        partial(_label_counts, n_classes=n_classes, n_regions=n_regions, ignore=ignore),
        ("truth", "labels") if n_regions is None else ("truth", "labels", "roi"),
        Halo(after=(1, 1, 1)),
        bytes_per_voxel=2.0 if n_regions is None else 3.0,
        counts_bytes=8 * n_classes * (4 * n_classes + (n_regions or 0)),
        parameters={"n_classes": n_classes, "n_regions": n_regions, "ignore": ignore},
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
    _check(Ids("valid", valid, 2), volume)
    xp = namespace_for(volume.values)
    present = valid != 0
    if bool((_wrong(volume, volume.values) & present).any()):
        _refuse([Ids(volume.name, xp.where(present, volume.values, 0), volume.n_ids, volume.ignore)], origin)
    present &= volume.values != _stored(volume)
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


def _label_counts(  # noqa: PLR0913 -- the parameters of the measure
    truth: Array,
    labels: Array,
    roi: Array | None = None,
    *,
    block: Block,
    n_classes: int,
    n_regions: int | None,
    ignore: int | None,
) -> Counts:
    return fused_label_counts(
        Ids("labels", labels, n_classes),
        block.core,
        truth=Ids("truth", truth, n_classes, ignore),
        roi=None if roi is None or n_regions is None else Ids("roi", roi, n_regions),
        faces=True,
        origin=origin_of(block),
    )


def _without_ignored(table: Array, volume: Ids) -> Array:
    """Table with the ids of `volume` first; an ignored id that is one of the classes loses its row."""
    table = table.T.copy()
    ignored = _stored(volume)
    if 0 <= ignored < volume.n_ids:
        table[ignored] = 0
    return table


def _stored(volume: Ids) -> int:
    """The ignored id as the volume's type stores it: -1 in 8 bits without sign is 255. What is no id is `_NO_ID`."""
    kind = np.dtype(np.uint8) if volume.values.dtype == bool else volume.values.dtype
    if volume.ignore is None or kind.kind not in "iu":
        return _NO_ID
    limits = np.iinfo(kind)
    ignored = volume.ignore + (limits.max + 1 if volume.ignore < 0 and kind.kind == "u" else 0)
    return ignored if limits.min <= ignored <= limits.max else _NO_ID


def _wrong(volume: Ids, values: Array) -> Array:
    """Where `values`, a part of the volume, hold an id that is neither counted nor ignored."""
    return ((values < 0) | (values >= volume.n_ids)) & (values != _stored(volume))


def _refuse(volumes: list[Ids], origin: Shape) -> None:
    """Raise InputError naming the first id that is out of range."""
    for volume in volumes:
        wrong = _wrong(volume, volume.values)
        if not bool(wrong.any()):
            continue
        index = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = ", ".join(f"{a} {int(i) + o}" for a, i, o in zip(AXES, index, origin, strict=True))
        allowed = f"0 to {volume.n_ids - 1}" + ("" if volume.ignore is None else f" or {volume.ignore} (ignored)")
        raise InputError(
            f"{volume.name} holds the id {int(volume.values[index])} at {place}, but only {allowed} are expected: "
            "it would be counted nowhere. Give the right number of ids, or map the volume to them first"
        )
    raise AssertionError("a run was found faulty but no voxel is")


# On the host: what `runs` needs to know of the volumes.


def _count_on_host(partners: list[Ids | None], core: Region, upper: Shape) -> tuple[np.ndarray, bool]:
    arrays: list[np.ndarray] = []
    volumes = np.zeros((5, 5), np.int64)
    for p, volume in enumerate(partners):
        if volume is not None:
            values, ignored = _bytes_of(volume)
            inner = values[core]
            volumes[p] = (inner.ctypes.data, *inner.strides[:2], volume.n_ids, ignored)
            arrays.append(values)
    volumes[runs.BEHIND :] = volumes[runs.ABOVE]  # the labels are their own partners along all three axes
    counts = np.zeros(_table_shape(partners), np.int64)
    faulty = runs.count_rows(counts, volumes, np.array(region_shape(core)), np.array(upper))
    # The compiled code sees addresses only: the arrays must live until here.
    arrays.clear()
    return counts, bool(faulty) or _found_beyond(counts, volumes)


def _found_beyond(counts: np.ndarray, volumes: np.ndarray) -> bool:
    """Tell whether ids are in the tables that no volume may hold: `runs` always counts four."""
    for table, volume in zip(counts, volumes, strict=True):
        beyond = table.copy()
        beyond[: volumes[runs.LABELS, runs.IDS], : volume[runs.IDS]] = 0
        for ids, ignored in ((beyond, volumes[runs.LABELS, runs.IGNORED]), (beyond.T, volume[runs.IGNORED])):
            if 0 <= ignored < len(ids):
                ids[ignored] = 0
        if beyond.any():
            return True
    return False


def _table_shape(partners: list[Ids | None]) -> Shape:
    """Shape of the counts: five partners, label, other id."""
    labels = partners[-1]
    assert labels is not None
    return 5, max(4, labels.n_ids), max(4, *(p.n_ids for p in partners if p is not None))


def _bytes_of(volume: Ids) -> tuple[np.ndarray, int]:
    """Ids as bytes that are neighbours in memory along x, and the ignored one or -1; copied only if need be."""
    values, ignored = volume.values, _stored(volume)
    # A byte with sign cannot tell -1 from the id 255.
    if values.itemsize > 1 or (values.dtype == np.int8 and volume.n_ids > 128):
        return _narrowed(volume), runs.IGNORED_BYTE
    if values.strides[2] != 1:
        values = np.ascontiguousarray(values)
    return values.view(np.uint8), -1 if ignored == _NO_ID else ignored & 255


def _narrowed(volume: Ids) -> np.ndarray:
    """Copy in which the ignored id, and all that is out of range, are bytes of their own: wrapping would hide them."""
    small = np.empty(volume.values.shape, np.uint8)
    ignored = _stored(volume)
    values = volume.values.astype(volume.values.dtype.newbyteorder("="), copy=False)
    if values.dtype == np.uint64:  # there is no wider type to compare it in
        values, ignored = values.astype(np.int64), -1 if ignored == np.iinfo(np.uint64).max else ignored
    runs.narrow(values, small, volume.n_ids, ignored)
    return small


# On a GPU, and as the oracle of the other: a histogram of pairs of ids, a few planes at a time.


def _count_by_codes(partners: list[Ids | None], core: Region, upper: Shape) -> tuple[Array, bool]:
    labels = partners[-1]
    assert labels is not None
    xp = namespace_for(labels.values)
    counts = xp.zeros(_table_shape(partners), xp.int64)
    faulty = False
    planes = max(1, _CODES // max(1, (core[1].stop - core[1].start) * (core[2].stop - core[2].start)))
    for start in range(core[0].start, core[0].stop, planes):
        part = (slice(start, min(start + planes, core[0].stop)), core[1], core[2])
        for p, volume in enumerate(partners[:2]):
            if volume is not None:
                faulty |= _add_codes(counts[p], labels, part, volume, part)
        for axis in range(3):
            # Core voxels with an upper neighbour, and these neighbours.
            stop = min(part[axis].stop, core[axis].start + upper[axis])
            lower = _along(part, axis, part[axis].start, stop)
            if stop > part[axis].start:
                faulty |= _add_codes(
                    counts[2 + axis], labels, lower, labels, _along(lower, axis, lower[axis].start + 1, stop + 1)
                )
    return counts, faulty


def _along(region: Region, axis: int, start: int, stop: int) -> Region:
    z, y, x = (slice(start, stop) if a == axis else r for a, r in enumerate(region))
    return z, y, x


def _add_codes(table: Array, labels: Ids, here: Region, other: Ids, there: Region) -> bool:
    """Add the pairs of labels here and other ids there to `table`; True if an id is out of range."""
    xp = namespace_for(table)
    ids, faulty = [], False
    for volume, region in ((labels, here), (other, there)):
        values = volume.values[region]
        outside = (values < 0) | (values >= volume.n_ids)
        faulty |= bool(_wrong(volume, values).any())
        # One more id than are counted, for what is not.
        ids.append(xp.where(outside, volume.n_ids, values).astype(xp.int32))
    n, m = labels.n_ids + 1, other.n_ids + 1
    codes = ids[0] * m + ids[1]
    pairs = xp.bincount(codes.ravel(), minlength=n * m).reshape(n, m)
    table[: n - 1, : m - 1] += pairs[: n - 1, : m - 1]
    return faulty
