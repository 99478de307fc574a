"""A margin smaller than the network's reach, whose error is measured on samples of the volume and recorded.

What a network sees far away hardly counts: the margin may be smaller where a few changed labels are tolerated. Then the
result depends on the tile grid (still not on blocks).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tomoscale.geometry import Shape, three
from tomoscale.kernels.tiles import Tiles, tiles_of
from tomoscale.segmentation.agreement import SAMPLES, Difference, answer, sample_device, samples, within_memory
from tomoscale.segmentation.task import Task
from tomoscale.work import Work

FRACTIONS = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
"""Of the network's own margin that are tried."""


def with_tolerance(task: Task, tolerance: float, work: Work) -> Task:
    """Task with the smallest margin that changes no larger share of labels of the samples than `tolerance`.

    Parameters
    ----------
    task : Task
        Of a network whose result is local.
    tolerance : float
        Share of labels, 0 to 1.
    work : Work

    Returns
    -------
    Task
        What was measured stands in its notes under ``"tolerance"``: the margin, the share of labels that differ from
        those of the exact margin, the largest difference of a probability, on how many voxels. Where no smaller margin
        does, or tiles are whole slices and need none, it is exact.

    Raises
    ------
    PlanError
        If a sample does not fit this process, see `within_memory`.
    """
    tiles = tiles_of(task.bundle, task.volume.shape, None)
    differences = {margin: Difference() for margin in margins(tiles)}
    device = sample_device(work)
    sampled = within_memory(task, work) if differences else task
    for number in samples(task.volume.shape, task.cell, SAMPLES) if differences else ():
        exact = answer(sampled, number, device)
        for margin, difference in differences.items():
            difference.add(exact, answer(replace(sampled, margin=margin), number, device))
    chosen = next((margin for margin, difference in differences.items() if difference.share <= tolerance), None)
    return with_margin(task, tolerance, chosen, Difference() if chosen is None else differences[chosen])


def with_margin(task: Task, tolerance: float, margin: Shape | None, difference: Difference) -> Task:
    """Task with a margin and what was measured for it."""
    note: dict[str, Any] = {"asked": tolerance, "margin": None if margin is None else list(margin)}
    return replace(task, margin=margin, notes={**task.notes, "tolerance": {**note, **difference.describe()}})


def margins(tiles: Tiles) -> Iterator[Shape]:
    """Margins that are tried, increasing; none where tiles are whole slices or volumes."""
    full = three(max(b, a) for b, a in zip(tiles.before, tiles.after, strict=True))
    cut = any(f and n > t for f, n, t in zip(full, tiles.shape, tiles.tile, strict=True))
    found: dict[Shape, None] = {}
    for fraction in FRACTIONS if cut else ():
        margin = three(math.ceil(f * fraction / s) * s for f, s in zip(full, tiles.stride, strict=True))
        if margin != full:
            found[margin] = None
    yield from found
