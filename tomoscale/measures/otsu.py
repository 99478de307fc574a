"""Grey values that separate a histogram into classes, exactly.

The variance between the classes is greatest where the sum over classes of ``(sum of values)² / voxels`` is. With the
histogram in order, the best end of the class before the last only moves up as more values are added, so that all ends
of a class are found in ``N log N`` steps:

.. code-block:: text

    best(k classes, first j values) = max over i < j of best(k - 1 classes, first i values) + moment(i, j)² / weight(i, j)
"""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from typing import TYPE_CHECKING

from tomoscale.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

_Score = tuple[int, int]
"""A fraction, not reduced: what is compared needs no greatest common divisor."""


def otsu_thresholds(counts: np.ndarray, values: np.ndarray, n_classes: int = 2) -> tuple[float, ...]:
    """Grey values that separate a histogram into classes with the greatest variance between them.

    Otsu, IEEE Transactions on Systems, Man and Cybernetics 9 (1979) 62, equations 18 and, for several classes, 22 to 24;
    in integers, so that neither 10^12 voxels nor the order of adding changes the result. Of equally good ones the last
    threshold is the least, then the one before it.

    Parameters
    ----------
    counts : (N,) integer array
        Voxels of each value, over the whole volume.
    values : (N,) array
        Grey values in ascending order.
    n_classes : int
        At least 2. Two classes of N values take N steps, more take ``N log N`` for each class more.

    Returns
    -------
    (n_classes - 1,) floats, ascending
        The largest value of each class but the brightest: a class is what lies above one and not above the next.

    Raises
    ------
    ValueError
        If counts are not integers, if there is not one ascending value for each, or for fewer than two classes.
    InputError
        If fewer different values occur than there are to be classes.
    """
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}: one class needs no threshold")
    if counts.dtype.kind not in "iu" or counts.shape != values.shape or not (values[1:] > values[:-1]).all():
        raise ValueError(
            f"a histogram needs integer counts and one ascending value for each, got counts {counts.shape} of "
            f"{counts.dtype} and values {values.shape}"
        )
    occupied = counts > 0
    found = values[occupied].tolist()
    if len(found) < n_classes:
        raise InputError(
            f"the histogram of {int(counts.sum())} voxels holds fewer than {n_classes} different grey values: no threshold "
            "separates it"
        )
    weights, moments = _sums(counts[occupied].tolist(), found)
    return tuple(float(found[end - 1]) for end in _best_ends(weights, moments, n_classes))


def _sums(counts: list[int], values: list[int | float]) -> tuple[list[int], list[int]]:
    """Voxels up to each value, and the sums of their values in a unit that makes all of them whole."""
    numbers = [Fraction(v) for v in values]
    unit = lcm(*(n.denominator for n in numbers))
    weights, moments = [0], [0]
    for count, number in zip(counts, numbers, strict=True):
        weights.append(weights[-1] + count)
        moments.append(moments[-1] + count * int(number * unit))
    return weights, moments


def _best_ends(weights: list[int], moments: list[int], n_classes: int) -> list[int]:
    """After how many values each class but the last ends."""
    n = len(weights) - 1
    scores: list[_Score] = [(0, 1), *((moments[j] ** 2, weights[j]) for j in range(1, n + 1))]
    before: list[list[int]] = []
    for k in range(2, n_classes + 1):
        # The last class ends with the last value: of it alone all else need not be known.
        ends = range(n, n + 1) if k == n_classes else range(k, n + 1)
        found = dict(_layer(scores, weights, moments, k, ends))
        before.append([found[j][0] if j in found else 0 for j in range(n + 1)])
        scores = [found[j][1] if j in found else (0, 1) for j in range(n + 1)]
    result = [n]
    for starts in reversed(before):
        result.append(starts[result[-1]])
    return result[:0:-1]


def _layer(
    scores: list[_Score], weights: list[int], moments: list[int], k: int, ends: range
) -> Iterator[tuple[int, tuple[int, _Score]]]:
    """For each end of the `k`-th class the best end of the one before it, and the score of both and all below."""
    # Between two ends that are done, an end's best start lies between theirs.
    open_parts = [(ends.start, ends.stop, k - 1, ends.stop - 2)]
    while open_parts:
        first, stop, least, most = open_parts.pop()
        if first >= stop:
            continue
        end = (first + stop) // 2
        best, start = (-1, 1), least
        for i in range(least, min(most, end - 1) + 1):
            weight, moment = weights[end] - weights[i], moments[end] - moments[i]
            above, below = scores[i]
            score = above * weight + moment * moment * below, below * weight
            if score[0] * best[1] > best[0] * score[1]:
                best, start = score, i
        yield end, (start, best)
        open_parts += [(first, end, least, start), (end + 1, stop, start, most)]
