"""Pits of a relief that are deeper than a given depth: the extended minima, found by filling all that are not.

The relief is raised by the depth and then lowered, by flooding, as far as it may go without falling below the relief
(reconstruction by erosion: Soille, Morphological Image Analysis, 2nd edition, 6.3.2 and 6.3.4). What is left as a pit is
a pit of more than this depth. The *cost* of a voxel is the level it is lowered to, and whether it still is the bottom of
a pit: nothing lower flows into it. As in `tomoscale.kernels.flood` it depends on its neighbours alone.
"""

from __future__ import annotations

import numba
import numpy as np

from tomoscale.kernels.flood import PLACE_BITS, Shell, grown, padded, pop, push, steps_of

PIT = np.uint64(1)
"""Bit of a cost that says that the voxel is the bottom of a pit; the level lies above."""

_INSIDE = (slice(1, -1),) * 3
_jit = numba.njit(cache=True, nogil=True)


def fill_pits(keys: np.ndarray, raised: np.ndarray, inside: np.ndarray, shell: Shell, connectivity: int) -> np.ndarray:
    """Fill the pits of a block that are no deeper than what `raised` adds to the relief.

    Parameters
    ----------
    keys, raised : (Z, Y, X) uint32 arrays
        Sort as the relief and the raised relief do; more than 0, as keys of float32 are.
    inside : (Z, Y, X) bool array
        Voxels there are.
    shell : Shell
        Costs around the block; labels are not looked at.
    connectivity : 6, 18 or 26

    Returns
    -------
    (Z, Y, X) uint64 array
        Costs: level and `PIT`; 0 where not inside.
    """
    shape = tuple(n + 2 for n in keys.shape)
    costs = np.zeros(shape, np.uint64)
    inner = costs[_INSIDE]
    np.multiply(raised, inside, out=inner, dtype=np.uint64)
    inner <<= np.uint64(1)
    inner |= inside
    _fill(
        padded(keys, np.uint32).reshape(-1),
        costs.reshape(-1),
        steps_of(shape, connectivity),
        shell.places,
        shell.costs,
    )
    return inner


@_jit  # type: ignore[untyped-decorator]
def _lowest(keys: np.ndarray, costs: np.ndarray, steps: np.ndarray, i: int) -> bool:
    for step in steps:  # noqa: SIM110 -- Numba compiles no generators
        if costs[i + step] != 0 and keys[i + step] < keys[i]:
            return False
    return True


@_jit  # type: ignore[untyped-decorator]
def _fill(  # noqa: C901 -- one loop, as compiled code takes it
    keys: np.ndarray, costs: np.ndarray, steps: np.ndarray, shell_places: np.ndarray, shell_costs: np.ndarray
) -> None:
    """Lower the costs in place; voxels around the block have the cost 0 there, so that none is ever lowered."""
    shift, low = np.uint64(PLACE_BITS), np.uint64((1 << PLACE_BITS) - 1)
    heap, n = np.empty(1024, np.uint64), 0
    for i in range(costs.size):
        # Elsewhere a neighbour lowers more than the voxel's own start.
        if costs[i] != 0 and _lowest(keys, costs, steps, i):
            heap = grown(heap, n)
            push(heap, n, costs[i] << shift | np.uint64(i))
            n += 1
    for k in range(shell_places.size):
        heap = grown(heap, n)
        push(heap, n, shell_costs[k] << shift | np.uint64(shell_places[k]))
        n += 1
    while n > 0:
        entry = pop(heap, n)
        n -= 1
        place, cost = np.int64(entry & low), entry >> shift
        if costs[place] != 0 and costs[place] != cost:
            continue  # It was lowered further since.
        for step in steps:
            q = place + step
            if q < 0 or q >= costs.size or costs[q] == 0:
                continue
            level = np.uint64(keys[q]) << np.uint64(1)
            reached = cost if level <= cost else level
            if reached < costs[q]:
                costs[q] = reached
                heap = grown(heap, n)
                push(heap, n, reached << shift | np.uint64(q))
                n += 1
