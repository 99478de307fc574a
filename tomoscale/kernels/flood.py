"""Watershed of one block: flooding from markers, and from the states that neighbouring blocks have at its border.

The result is defined voxel by voxel, without an order of flooding (Lotufo and Falcão, The ordered queue and the
optimality of the watershed approaches, ISMM 2000). A path from a marker has the *cost* (level, steps): the highest value
on it, and the steps taken since that value was met. A voxel has the least cost of all paths to it, and the label of that
neighbour on such a path which has the least cost itself, of equal ones the smallest label.

.. code-block:: text

    voxel q after neighbour n    level(q) = max(level(n), relief(q))
                                 steps(q) = 0 where the level rises, else steps(n) + 1

A voxel depends on its neighbours alone, and on such of strictly less cost, so there is one solution, wherever it is
computed. Of a relief without equal values it is that of every other watershed.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numba
import numpy as np

STEP_BITS = 31
"""Bits of a cost that count steps; the level plus one lies above."""
PLACE_BITS = 31
"""Bits of what waits that are a voxel's place in the block, padded by one voxel."""
UNREACHED = np.uint64(2**64 - 1)
"""Cost of a voxel that no path has reached."""
FLOOD_BYTES = 34
"""Most that `flood` takes per voxel beyond its input: levels, costs, labels, and what waits."""

_jit = numba.njit(cache=True, nogil=True)
_STEPS = np.uint64(STEP_BITS)
_INSIDE = (slice(1, -1),) * 3


@dataclass(frozen=True)
class Shell:
    """What is known of the voxels around a block: those that are reached.

    Attributes
    ----------
    places : (n,) int64 array
        Index in the block with one voxel more on every side.
    costs : (n,) uint64 array
    labels : (n,) unsigned array
    """

    places: np.ndarray
    costs: np.ndarray
    labels: np.ndarray


def flood(
    keys: np.ndarray, inside: np.ndarray, markers: np.ndarray, shell: Shell, connectivity: int
) -> tuple[np.ndarray, np.ndarray]:
    """Flood a block from its markers and from around it.

    Parameters
    ----------
    keys : (Z, Y, X) unsigned array of at most 32 bits
        Sort as the relief does.
    inside : (Z, Y, X) bool array
        Where water may flow; markers elsewhere do not count.
    markers : (Z, Y, X) unsigned array
        Labels; 0 is none.
    shell : Shell
    connectivity : 6, 18 or 26

    Returns
    -------
    (Z, Y, X) uint64 and (Z, Y, X) array of the type of `markers`
        Costs, and labels: 0 where nothing reached.
    """
    shape = tuple(n + 2 for n in keys.shape)
    levels, costs = padded(keys, np.uint32), np.zeros(shape, np.uint64)
    costs[_INSIDE][inside] = UNREACHED
    labels = np.zeros(shape, markers.dtype)
    np.multiply(markers, inside, out=labels[_INSIDE])
    labels.reshape(-1)[shell.places] = shell.labels
    order = np.argsort(shell.costs, kind="stable")
    _flood(
        levels.reshape(-1),
        costs.reshape(-1),
        labels.reshape(-1),
        steps_of(shape, connectivity),
        shell.places[order],
        shell.costs[order],
    )
    return costs[_INSIDE], labels[_INSIDE]


def padded(values: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Values with one voxel of 0 more on every side."""
    result = np.zeros(tuple(n + 2 for n in values.shape), dtype)
    result[_INSIDE] = values
    return result


def steps_of(shape: tuple[int, ...], connectivity: int) -> np.ndarray:
    """Neighbours of a voxel as differences of indices into an array of `shape`."""
    reach = {6: 1, 18: 2, 26: 3}[connectivity]
    offsets = (o for o in itertools.product((-1, 0, 1), repeat=3) if 0 < np.abs(o).sum() <= reach)
    return np.array([(z * shape[1] + y) * shape[2] + x for z, y, x in offsets], np.int64)


@_jit  # type: ignore[untyped-decorator]
def grown(values: np.ndarray, n: int) -> np.ndarray:
    """The same array, or a longer copy where it holds no more than `n` values."""
    if n < values.size:
        return values
    longer = np.empty(values.size + values.size // 2, values.dtype)
    longer[: values.size] = values
    return longer


@_jit  # type: ignore[untyped-decorator]
def push(heap: np.ndarray, n: int, entry: np.uint64) -> None:
    """Add an entry to a heap of `n`, the least first."""
    place = n
    while place > 0:
        above = (place - 1) >> 1
        if heap[above] <= entry:
            break
        heap[place] = heap[above]
        place = above
    heap[place] = entry


@_jit  # type: ignore[untyped-decorator]
def pop(heap: np.ndarray, n: int) -> np.uint64:
    """Take the least entry out of a heap of `n`."""
    least: np.uint64 = heap[0]
    last = heap[n - 1]
    place = 0
    while True:
        below = 2 * place + 1
        if below >= n - 1:
            break
        if below + 1 < n - 1 and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= last:
            break
        heap[place] = heap[below]
        place = below
    heap[place] = last
    return least


@_jit  # type: ignore[untyped-decorator]
def _borders(costs: np.ndarray, steps: np.ndarray, i: int) -> bool:
    for step in steps:  # noqa: SIM110 -- Numba compiles no generators
        if costs[i + step] == UNREACHED:
            return True
    return False


@_jit  # type: ignore[untyped-decorator]
def _flood(  # noqa: C901 -- plain arrays, as compiled code takes them, and one loop over them
    levels: np.ndarray,
    costs: np.ndarray,
    labels: np.ndarray,
    steps: np.ndarray,
    shell_places: np.ndarray,
    shell_costs: np.ndarray,
) -> None:
    """Flood in place, wave by wave: a wave is all voxels of one cost.

    Voxels around the block have the cost 0, as those outside the mask, so that none is ever flooded. Until its level is
    due a voxel has the number of the wave that reached it in place of its steps: all voxels of that wave may give it
    their label, later ones may not.
    """
    one, low = np.uint64(1), np.uint64((1 << STEP_BITS) - 1)
    heap, n_heap = np.empty(1024, np.uint64), 0
    wave, following = np.empty(1024, np.int64), np.empty(1024, np.int64)
    n_following, n_shell = 0, 0
    for i in range(labels.size):
        if labels[i] != 0 and costs[i] == UNREACHED:
            costs[i] = (np.uint64(levels[i]) + one) << _STEPS
    for i in range(labels.size):
        if labels[i] != 0 and costs[i] != 0 and _borders(costs, steps, i):
            heap = grown(heap, n_heap)
            push(heap, n_heap, costs[i] | np.uint64(i))
            n_heap += 1
    number, current = np.uint64(0), np.uint64(0)
    while True:
        best = UNREACHED
        if n_following > 0:
            best = current + one
        if n_heap > 0:
            best = min(best, heap[0] & ~low)
        if n_shell < shell_costs.size:
            best = min(best, shell_costs[n_shell])
        if best == UNREACHED:
            break
        # What follows the last wave costs one step more, the least there can be.
        wave, following, n_wave, n_following = following, wave, n_following, 0
        while n_shell < shell_costs.size and shell_costs[n_shell] == best:
            wave = grown(wave, n_wave)
            wave[n_wave] = shell_places[n_shell]
            n_wave, n_shell = n_wave + 1, n_shell + 1
        while n_heap > 0 and (heap[0] & ~low) == best:
            place = np.int64(pop(heap, n_heap) & low)
            n_heap -= 1
            costs[place] = best
            wave = grown(wave, n_wave)
            wave[n_wave] = place
            n_wave += 1
        current, number = best, number + one
        for k in range(n_wave):
            i = wave[k]
            label = labels[i]
            for step in steps:
                q = i + step
                # Beyond the end of a row lies the border of another, which is never flooded.
                if q < 0 or q >= costs.size or costs[q] == 0:
                    continue
                if costs[q] == UNREACHED:
                    labels[q] = label
                    level = (np.uint64(levels[q]) + one) << _STEPS
                    if level > best:
                        costs[q] = level | number
                        heap = grown(heap, n_heap)
                        push(heap, n_heap, level | np.uint64(q))
                        n_heap += 1
                    else:
                        costs[q] = best + one
                        following = grown(following, n_following)
                        following[n_following] = q
                        n_following += 1
                elif label < labels[q]:
                    level = (np.uint64(levels[q]) + one) << _STEPS
                    if costs[q] == (level | number if level > best else best + one):
                        labels[q] = label
