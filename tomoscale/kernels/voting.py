"""Labels from what several planes say of a voxel: their probabilities added up, or their votes counted.

What is kept of a voxel while planes are added are a few float32 numbers, its tally:

.. code-block:: text

    sum of class 0 | ... | sum of class C-1 | votes of classes 0-4 | votes of classes 5-9 | ...

Votes are counted in base 16, five classes in a number, which float32 holds exactly for up to 15 planes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Halo
from tomoscale.step import Kernel

_BASE = 16
_CLASSES_PER_NUMBER = 5
MAX_PLANES = _BASE - 1


@dataclass(frozen=True)
class Ballot:
    """How planes are added and what is elected.

    Attributes
    ----------
    n_classes : int
    n_planes : int
    voting : "soft" or "majority"
        Label of the largest mean (Baltruschat et al. 2021, equation 4), or of the most planes (equation 5).
    tie : "summed" or "lowest"
        Of classes with as many votes: that of the largest sum, or that of the smallest id. Sums that are equal give the
        smallest id.
    votes : bool
        Whether votes are counted; a majority needs them, and `disagreement`.
    space : "probabilities" or "logits"
        What is added.
    """

    n_classes: int
    n_planes: int
    voting: str = "soft"
    tie: str = "summed"
    votes: bool = False
    space: str = "probabilities"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("voting", self.voting, ("soft", "majority")),
            ("tie", self.tie, ("summed", "lowest")),
            ("space", self.space, ("probabilities", "logits")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {allowed[0]!r} or {allowed[1]!r}, got {value!r}")
        if not 1 <= self.n_planes <= MAX_PLANES:
            raise ValueError(f"1 to {MAX_PLANES} planes can vote, got {self.n_planes}")
        if self.voting == "majority" and not self.votes:
            raise ValueError("a majority needs votes=True")

    @property
    def numbers(self) -> int:
        """Numbers in the tally of a voxel."""
        return self.n_classes + (-(-self.n_classes // _CLASSES_PER_NUMBER) if self.votes else 0)


def add_plane(tally: Array, shares: Array, ballot: Ballot) -> None:
    """Add what one plane says to a tally, in place.

    Parameters
    ----------
    tally : (z, numbers, y, x) float32 array
    shares : (classes, z, y, x) float32 array
        Probabilities or logits.
    ballot : Ballot
    """
    for label, share in enumerate(shares):
        tally[:, label] += share
    if not ballot.votes:
        return
    first = first_largest(shares)
    for label in range(ballot.n_classes):
        number, place = divmod(label, _CLASSES_PER_NUMBER)
        tally[:, ballot.n_classes + number] += (first == label) * np.float32(_BASE**place)


def elected(tally: Array, ballot: Ballot) -> Array:
    """Label of every voxel of a tally: (z, y, x) uint8."""
    sums = tally[:, : ballot.n_classes].swapaxes(0, 1)
    if ballot.voting == "soft":
        return first_largest(sums)
    xp = namespace_for(tally)
    votes = counted(tally, ballot)
    if ballot.tie == "lowest":
        return first_largest(votes)
    tied = votes == votes.max(axis=0)
    return first_largest(xp.where(tied, sums, np.float32(-np.inf)))


def counted(tally: Array, ballot: Ballot) -> Array:
    """Votes of every class: (classes, z, y, x) uint8."""
    xp = namespace_for(tally)
    packed = tally[:, ballot.n_classes :].astype(np.int32)
    places = [divmod(label, _CLASSES_PER_NUMBER) for label in range(ballot.n_classes)]
    return xp.stack([packed[:, number] // _BASE**place % _BASE for number, place in places]).astype(np.uint8)


def first_largest(by_class: Array) -> Array:
    """Index of the largest along the first axis, the smallest index where several are equal: uint8."""
    xp = namespace_for(by_class)
    largest = by_class[0].copy()
    labels = xp.zeros(largest.shape, np.uint8)
    for index in range(1, len(by_class)):
        labels[by_class[index] > largest] = index
        xp.maximum(largest, by_class[index], out=largest)
    return labels


def mean_share(tally: Array, ballot: Ballot, label: int, dtype: np.dtype) -> Array:
    """Mean probability of one class over the planes: (z, y, x) of `dtype`, see `stored`.

    Where logits were added it is the softmax of their mean.
    """
    return stored(_means(tally, ballot)[label], dtype)


def disagreement(tally: Array, ballot: Ballot) -> Array:
    """How many planes chose another label than that elected, 0 to `n_planes` - 1: (z, y, x) uint8.

    Where it is large, a human who labels more slices teaches the network most.
    """
    xp = namespace_for(tally)
    own = xp.take_along_axis(counted(tally, ballot), elected(tally, ballot)[None].astype(np.int64), axis=0)[0]
    return (ballot.n_planes - own).astype(np.uint8)


def entropy(tally: Array, ballot: Ballot) -> Array:
    """Entropy of the mean probabilities, 0 (certain) to 1 (all classes alike): (z, y, x) float32."""
    xp = namespace_for(tally)
    total = xp.zeros(tally[:, 0].shape, np.float32)
    for share in _means(tally, ballot):
        logarithm = xp.maximum(share, np.float32(1e-30))
        xp.log(logarithm, out=logarithm)
        logarithm *= share
        total -= logarithm
    total /= np.float32(np.log(max(2, ballot.n_classes)))
    return xp.clip(total, 0, 1, out=total)


def stored(shares: Array, dtype: np.dtype) -> Array:
    """Probabilities as they are stored: float32 exactly, float16 to 11 bits, uint16 in steps of 1/65535, rounded."""
    if dtype == np.uint16:
        xp = namespace_for(shares)
        return xp.rint(xp.clip(shares, 0, 1) * np.float32(65535)).astype(np.uint16)
    return shares.astype(dtype, copy=False)


def restored(values: Array) -> Array:
    """Probabilities from what `stored` made of them: float32."""
    shares = values.astype(np.float32, copy=False)
    return shares * np.float32(1 / 65535) if values.dtype == np.uint16 else shares


@dataclass(frozen=True)
class _OfTally:
    """A function of a tally as that of a kernel; a class, so that it pickles."""

    what: str
    ballot: Ballot
    label: int = 0
    dtype: str = "uint8"

    def __call__(self, tally: Array) -> Array:
        if self.what == "mean":
            return mean_share(tally, self.ballot, self.label, np.dtype(self.dtype))
        return {"labels": elected, "disagreement": disagreement, "entropy": entropy}[self.what](tally, self.ballot)


def of_tally(what: str, ballot: Ballot, label: int = 0, dtype: str = "float32") -> Kernel:
    """Kernel from a tally to what is wanted of it: "labels", "disagreement", "entropy", or "mean" of one class.

    Its input is a volume of tallies, read as (z, numbers, y, x).
    """
    dtype = {"labels": "uint8", "disagreement": "uint8", "entropy": "float32"}.get(what, dtype)
    parameters = {"class": label, "dtype": dtype} if what == "mean" else {}
    return Kernel(
        {"labels": "fuse planes"}.get(what, f"{what} of planes"),
        _OfTally(what, ballot, label, dtype),
        Halo(),
        np.dtype(dtype),
        # Votes as int32 and uint8, masks and sums of the tied; or a share, its logarithm and their product.
        bytes_per_voxel=10 * ballot.n_classes + 16,
        parameters={
            "voting": ballot.voting,
            "tie": ballot.tie,
            "space": ballot.space,
            "planes": ballot.n_planes,
            **parameters,
        },
    )


def _means(tally: Array, ballot: Ballot) -> Array:
    """Mean probabilities of all classes, or the softmax of the mean of their logits: (classes, z, y, x) float32."""
    xp = namespace_for(tally)
    means = tally[:, : ballot.n_classes].swapaxes(0, 1) / np.float32(ballot.n_planes)
    if ballot.space == "logits":
        means -= means.max(axis=0)
        xp.exp(means, out=means)
        means /= means.sum(axis=0)
    return means
