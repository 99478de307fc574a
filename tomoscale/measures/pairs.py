"""Count which ids lie in the same voxel or side by side: what all label measures are made of, in one pass.

Confusion, faces and region counts ask the same question of different partners of a label volume: another volume, or
the labels one voxel further along an axis. One pass over the memory answers all of them (`runs` says how).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tomoscale.arrays import Array, on_host
from tomoscale.geometry import Halo, Region, Shape, three
from tomoscale.measures.ids import (
    Ids,
    check_ids,
    check_number_of_ids,
    origin_of,
    refuse_wrong_ids,
    stored_ignored,
)
from tomoscale.measures.pair_tables import IGNORED_BYTE, count_by_codes, count_on_host
from tomoscale.measures.words import ABOVE, ROI, TRUTH
from tomoscale.step import Counts, Measure

if TYPE_CHECKING:
    from tomoscale.geometry import Block


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
        check_ids(volume, labels)
    upper = three(min(c.stop, n - 1) - c.start if faces else 0 for c, n in zip(core, labels.values.shape, strict=True))
    fits = on_host(labels.values) and max(volume.n_ids for volume in volumes) <= IGNORED_BYTE
    count = count_on_host if fits else count_by_codes
    table, faulty = count([truth, roi, labels], core, upper)
    if faulty:
        refuse_wrong_ids(volumes, origin)
    n, counts = labels.n_ids, Counts()
    if truth is not None:
        counts["confusion"] = _without_ignored(table[TRUTH, :n, : truth.n_ids], truth)
    if faces:
        counts["faces"] = table[ABOVE:, :n, :n].copy()
    if roi is not None:
        counts["roi"] = _without_ignored(table[ROI, :n, : roi.n_ids], roi)
    return counts


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
    ignored = stored_ignored(volume)
    if 0 <= ignored < volume.n_ids:
        table[ignored] = 0
    return table


# On the host: what `runs` needs to know of the volumes.


# On a GPU, and as the oracle of the other: a histogram of pairs of ids, a few planes at a time.
