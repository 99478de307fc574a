"""How unsure a network is, summed over cells of a volume (slices, patches): where a human who labels more teaches most.

Probabilities are whole numbers, ``round(65535 * p)``, and so are scores: sums add over blocks in any order, to the bit.

.. code-block:: text

    volume   | cell | cell | cell |       sums[cell] = sum of the scores of its voxels
    blocks   | block 0 | block 1  |       a cell that two blocks share gets a part from each
"""

from __future__ import annotations

import itertools
import math
from functools import cache, partial
from typing import Literal

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Shape
from tomoscale.step import Counts, Measure

Score = Literal["entropy", "least_confidence", "margin", "disagreement"]
SCORES: tuple[Score, ...] = ("entropy", "least_confidence", "margin", "disagreement")
ONE = 65535
"""A probability of 1."""
ENTROPY_UNIT = 2**20
"""An entropy of all classes alike; of 10^12 voxels the sum has 60 bits."""


def uncertainty(score: Score, cell: Shape, shape: Shape, n_classes: int) -> Measure:
    """Measure of `sum_scores`.

    Parameters
    ----------
    score : str
        "entropy" of the probabilities, over the logarithm of the number of classes; "least_confidence", 1 less the largest
        one; "margin", 1 less the difference of the two largest; or "disagreement", how many of several planes chose another
        label, of a volume that says so.
    cell : (z, y, x)
    shape : (Z, Y, X)
        Of the volume.
    n_classes : int

    Returns
    -------
    Measure
        Inputs ``class_0``, ``class_1``, ... uint16, or ``disagreement``, unsigned integers; count ``"scores"``.

    Raises
    ------
    ValueError
        If there is no such score, or less than two classes.
    """
    if score not in SCORES:
        raise ValueError(f"score must be one of {', '.join(SCORES)}, got {score!r}")
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    one = score == "disagreement"
    return Measure(
        name=f"{score} by cell",
        function=partial(sum_scores, score=score, cell=cell),
        inputs=("disagreement",) if one else tuple(f"class_{n}" for n in range(n_classes)),
        # Scores as int64, those of one class, or their sums twice where cells are single voxels along an axis.
        bytes_per_voxel=26.0,
        counts_bytes=8 * math.prod(-(-n // c) for n, c in zip(shape, cell, strict=True)),
        parameters={"score": score, "cell": list(cell), "n_classes": n_classes},
    )


def unit_of(score: Score) -> int:
    """What the score of a voxel is divided by to lie within 0 and 1 (a disagreement counts planes)."""
    return {"entropy": ENTROPY_UNIT, "disagreement": 1}.get(score, ONE)


def sum_scores(*shares: Array, block: Block, score: Score, cell: Shape) -> Counts:
    """Sum the scores of the core's voxels by cell: "scores" (cells along z, y, x) int64.

    Parameters
    ----------
    *shares : (Z, Y, X) uint16 arrays
        Of each class, ``round(65535 * p)``; or one array of disagreements.
    block : Block
    score : str
    cell : (z, y, x)
        Cells lie side by side from the volume's origin; the last ones may be smaller.
    """
    xp = namespace_for(shares[0])
    values = scores_of([s[block.core] for s in shares], score)
    counts = tuple(-(-n // c) for n, c in zip(block.source_shape, cell, strict=True))
    spans, ends = [], []
    for w, c in zip(block.write, cell, strict=True):
        first, stop = w.start // c, -(-w.stop // c)
        spans.append(slice(first, stop))
        ends.append([*(max(p * c - w.start, 0) for p in range(first, stop)), w.stop - w.start])
    # Where most is added up first, least is held afterwards.
    for axis in sorted(range(3), key=lambda a: len(ends[a]) / values.shape[a]):
        parts = [
            values[(*[slice(None)] * axis, slice(a, b))].sum(axis, keepdims=True)
            for a, b in itertools.pairwise(ends[axis])
        ]
        values = xp.concatenate(parts, axis)
    table = xp.zeros(counts, np.int64)
    table[tuple(spans)] = values
    return {"scores": table}


def scores_of(shares: list[Array], score: Score) -> Array:
    """Score of every voxel, in units of `unit_of`: (Z, Y, X) int64."""
    xp = namespace_for(shares[0])
    if score == "disagreement":
        return shares[0].astype(np.int64)
    if score == "entropy":
        table = xp.asarray(_entropies(len(shares)))
        total = table[shares[0]]
        for share in shares[1:]:
            total += table[share]
        return total
    first = xp.maximum(shares[0], shares[1])
    second = xp.minimum(shares[0], shares[1])
    for share in shares[2:]:
        second = xp.maximum(second, xp.minimum(first, share))
        first = xp.maximum(first, share)
    sure = first.astype(np.int64) - (second if score == "margin" else 0)
    return ONE - sure


@cache
def _entropies(n_classes: int) -> np.ndarray:
    """Part of the entropy that each probability brings, over the logarithm of the number of classes: (65536,) int64."""
    p = np.arange(ONE + 1, dtype=np.float64) / ONE
    parts = np.zeros(ONE + 1)
    # By the library's own scalar logarithm: vector ones differ in the last bit between machines.
    parts[1:] = [-v * math.log(v) / math.log(n_classes) for v in p[1:].tolist()]
    return np.rint(ENTROPY_UNIT * parts).astype(np.int64)
