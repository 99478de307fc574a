"""Values at given ranks of histograms of keys: how counts become percentiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tomoscale.measures.greys import HALF

if TYPE_CHECKING:
    from collections.abc import Sequence


def positions_of(n: int, percents: Sequence[float]) -> np.ndarray:
    """Where the percentiles lie among n sorted values: (n_percents,) float64, 0 to n - 1."""
    shares = np.asarray(percents, np.float64) / 100
    if shares.ndim != 1 or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"percents must be a sequence of numbers from 0 to 100, got {percents}")
    return np.asarray((n - 1) * shares)


def ranks_around(n: int, positions: np.ndarray) -> np.ndarray:
    """Ranks between which the positions lie: (n_percents, 2) int64."""
    below = np.floor(positions).astype(np.int64)
    return np.stack([below, np.minimum(below + 1, n - 1)], axis=1)


def keys_at(ranks: np.ndarray, coarse: np.ndarray, slots: tuple[int, ...], fine: np.ndarray | None) -> np.ndarray:
    """Keys of the values of these ranks, of the same shape; `fine` is (n_slots, 65 536)."""
    up_to = coarse.cumsum()
    high = np.searchsorted(up_to, ranks, side="right")
    if fine is None:
        return high
    within = ranks - (up_to - coarse)[high]
    low = [
        np.searchsorted(fine[slots.index(int(h))].cumsum(), rank, side="right")
        for h, rank in zip(high.ravel(), within.ravel(), strict=True)
    ]
    return np.asarray((high << HALF) | np.array(low, np.int64).reshape(high.shape))


def interpolate(values: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Between pairs of values, (n, 2): from the nearer one, as numpy does, so that the bits are its bits too."""
    pairs = values if values.dtype.kind == "f" else values.astype(np.int64)
    below, above = pairs[:, 0], pairs[:, 1]
    step = above - below
    return np.asarray(np.where(share >= 0.5, above - step * (1 - share), below + step * share))
