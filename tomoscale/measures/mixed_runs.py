"""Count runs of 64 voxels that hold several ids: two or four by words, more voxel by voxel."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from tomoscale.measures.words import (
    ABOVE,
    BEHIND,
    BESIDE,
    IDS,
    IGNORED,
    LABELS,
    ROI,
    RUN,
    TRUTH,
    add_all,
    add_to,
    field_of,
    id_at,
    load,
    popcount,
    store,
    word_at,
)

ALL = -1
_ALL_BUT_LAST = (1 << 63) - 1


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def allowed(volumes: Any, p: Any, number: Any) -> Any:
    """Tell whether volume `p` may hold an id."""
    return number < field_of(volumes, p, IDS) or number == field_of(volumes, p, IGNORED)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_voxels(places: Any, start: Any, stop: Any, beside: Any) -> Any:
    """Count the voxels `start` to `stop` of a row one by one; True if an id is out of range."""
    volumes, rows, faulty = places[0], places[1], False
    for x in range(start, stop):
        label = id_at(load(rows, LABELS) + x)
        if label >= field_of(volumes, LABELS, IDS):
            faulty |= not allowed(volumes, LABELS, label)
            continue
        for p in range(5):
            if load(rows, p) == 0 or (p == BESIDE and x >= beside):
                continue
            # The neighbour along x is the same row, one voxel on.
            other = id_at(load(rows, p) + x + (p == BESIDE))
            if other < field_of(volumes, p, IDS):
                add_to(places, p, label, other, 1)
            else:
                faulty |= not allowed(volumes, p, other)
    return faulty


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _pair(places: Any, p: Any, n: Any, address: Any) -> Any:
    """Pair a run of labels, given by the words of `n` ids, with the run at `address`; True if an id is out of range."""
    volumes, lower, faulty, rest = places[0], places[2], False, ALL
    while rest != 0:
        before_first = (rest & -rest) - 1
        other = id_at(address + popcount(before_first))
        word = word_at(address, other)
        rest &= ~word
        if other >= field_of(volumes, p, IDS):
            faulty |= not allowed(volumes, p, other)
            continue
        for k in range(n):
            add_to(places, p, k, other, popcount(load(lower, k) & word))
    return faulty


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _shifted(word: Any, after: Any) -> Any:
    """Word of the neighbours along x: each bit moves to the voxel before, `after` comes in at the end."""
    return (word >> 1 & _ALL_BUT_LAST) | (np.int64(after) << 63)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _two_ids(volumes: Any, rows: Any, x: Any) -> Any:
    """The id of the labels at `x`, and the first other id that a row holds in the run, or the same twice."""
    labels, truth = load(rows, LABELS) + x, load(rows, TRUTH) + x
    above, behind = load(rows, ABOVE) + x, load(rows, BEHIND) + x
    first = id_at(labels)
    alike = word_at(labels, first)
    alike &= word_at(truth, first) if truth != x else ALL
    alike &= word_at(above, first) if above != x else ALL
    alike &= word_at(behind, first) if behind != x else ALL
    if alike == ALL:
        return first, first
    at = popcount((~alike & -~alike) - 1)
    for row in (labels, truth, above, behind):
        if row != x and id_at(row + at) != first:
            return first, id_at(row + at)
    return first, first


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _two_words(row: Any, x: Any, ids: Any) -> Any:
    """Words of two different ids, and whether the run holds only these; for a row that is not there, no voxel at all."""
    if row == 0:
        return 0, 0, True
    a, b = word_at(row + x, ids[0]), word_at(row + x, ids[1])
    return a, b, a | b == ALL


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_run_of_two(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """Count a run in which all rows together hold two ids, as along most surfaces; False if they hold more."""
    volumes, rows = places[0], places[1]
    labels, roi = load(rows, LABELS), load(rows, ROI)
    ids = _two_ids(volumes, rows, x)
    a, b = ids
    after = id_at(labels + x + RUN) if x + RUN <= beside else -1
    region = id_at(roi + x) if roi != 0 else 0
    most = min(field_of(volumes, LABELS, IDS), field_of(volumes, TRUTH, IDS) if load(rows, TRUTH) != 0 else 255)
    if a == b or max(a, b) >= most or (after not in (-1, a, b)) or region >= max(1, field_of(volumes, ROI, IDS)):
        return False
    if roi != 0 and word_at(roi + x, region) != ALL:
        return False
    own = _two_words(labels, x, ids)
    truth = _two_words(load(rows, TRUTH), x, ids)
    above = _two_words(load(rows, ABOVE), x, ids)
    behind = _two_words(load(rows, BEHIND), x, ids)
    if not (own[2] and truth[2] and above[2] and behind[2]):
        return False
    words = (own[0] & fresh, own[1] & fresh)
    add_all(places, TRUTH, ids, words, truth[:2])
    add_all(places, ABOVE, ids, words, above[:2])
    add_all(places, BEHIND, ids, words, behind[:2])
    if beside > 0:
        add_all(places, BESIDE, ids, words, (_shifted(own[0], after == a), _shifted(own[1], after == b)))
    if roi != 0:
        add_to(places, ROI, a, region, popcount(words[0]))
        add_to(places, ROI, b, region, popcount(words[1]))
    return True


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _four_words(address: Any) -> Any:
    """Words of the ids 0 to 3."""
    return word_at(address, 0), word_at(address, 1), word_at(address, 2), word_at(address, 3)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _beyond_four(volumes: Any, p: Any, address: Any, words: Any) -> Any:
    """Whether a run holds an id that is neither one of four nor ignored."""
    seen, ignored = words[0] | words[1] | words[2] | words[3], field_of(volumes, p, IGNORED)
    return seen != ALL and (ignored < 0 or seen | word_at(address, ignored) != ALL)


@numba.njit(cache=True, nogil=True, forceinline=True)  # type: ignore[untyped-decorator]
def _pair_four(places: Any, p: Any, x: Any, words: Any) -> Any:
    address = load(places[1], p)
    if address == 0:
        return False
    others = _four_words(address + x)
    add_all(places, p, (0, 1, 2, 3), words, others)
    return _beyond_four(places[0], p, address + x, others)


@numba.njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def count_run_of_four(places: Any, x: Any, fresh: Any, beside: Any) -> Any:
    """Count a run of the ids 0 to 3; True if an id is out of range. Nothing loops: no branch is mispredicted."""
    volumes, rows, lower = places[0], places[1], places[2]
    address = load(rows, LABELS) + x
    found = _four_words(address)
    words = (found[0] & fresh, found[1] & fresh, found[2] & fresh, found[3] & fresh)
    faulty = _beyond_four(volumes, LABELS, address, found)
    faulty |= _pair_four(places, TRUTH, x, words)
    faulty |= _pair_four(places, ABOVE, x, words)
    faulty |= _pair_four(places, BEHIND, x, words)
    if beside > 0:
        after = id_at(address + RUN) if x + RUN <= beside else -1
        others = (
            _shifted(found[0], after == 0),
            _shifted(found[1], after == 1),
            _shifted(found[2], after == 2),
            _shifted(found[3], after == 3),
        )
        add_all(places, BESIDE, (0, 1, 2, 3), words, others)
        faulty |= not allowed(volumes, LABELS, after)
    if load(rows, ROI) != 0:
        for k in range(4):
            store(lower, k, words[k])
        faulty |= _pair(places, ROI, 4, load(rows, ROI) + x)
    return faulty
