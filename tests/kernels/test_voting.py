from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.traced import Traced
from tomoscale.kernels.voting import (
    Ballot,
    add_plane,
    counted,
    disagreement,
    elected,
    entropy,
    mean_share,
    of_tally,
    restored,
    stored,
)

SHAPE = (2, 3, 4)


def planes(seed, n_classes, n_planes):
    """Coarse numbers, so that ties are common."""
    return np.random.default_rng(seed).integers(0, 4, (n_planes, n_classes, *SHAPE)).astype(np.float32) / 4


def tally_of(said, ballot):
    tally = np.zeros((SHAPE[0], ballot.numbers, *SHAPE[1:]), np.float32)
    for shares in said:
        add_plane(tally, shares, ballot)
    return tally


def majority(said, tie):
    """One voxel after the other, as a person would."""
    result = np.empty(SHAPE, np.uint8)
    for place in np.ndindex(SHAPE):
        votes = Counter(int(np.argmax(shares[(slice(None), *place)])) for shares in said)
        most = sorted(label for label, n in votes.items() if n == max(votes.values()))
        sums = {label: sum(shares[(label, *place)] for shares in said) for label in most}
        result[place] = most[0] if tie == "lowest" else max(most, key=lambda label: (sums[label], -label))
    return result


@given(seed=seeds, n_classes=st.integers(1, 12), n_planes=st.sampled_from([1, 3, 9]))
@settings(max_examples=25)
def test_soft_voting_takes_the_first_largest_sum(seed, n_classes, n_planes):
    said, ballot = planes(seed, n_classes, n_planes), Ballot(n_classes, n_planes)
    np.testing.assert_array_equal(elected(tally_of(said, ballot), ballot), said.sum(0).argmax(0))


@given(
    seed=seeds,
    n_classes=st.integers(1, 12),
    n_planes=st.sampled_from([3, 9]),
    tie=st.sampled_from(["summed", "lowest"]),
)
@settings(max_examples=25)
def test_a_majority_is_what_a_person_counts(seed, n_classes, n_planes, tie):
    said, ballot = planes(seed, n_classes, n_planes), Ballot(n_classes, n_planes, "majority", tie, votes=True)
    tally = tally_of(said, ballot)
    labels = elected(tally, ballot)
    np.testing.assert_array_equal(labels, majority(said, tie))
    votes = counted(tally, ballot)
    np.testing.assert_array_equal(votes.sum(0), n_planes)
    np.testing.assert_array_equal(disagreement(tally, ballot), (said.argmax(1) != labels).sum(0))


def test_ties_of_four_votes_and_four_and_one():
    said = np.zeros((9, 3, 1, 1, 1), np.float32)
    said[:4, 2], said[4:8, 1], said[8, 0] = 0.9, 0.8, 0.7
    for tie, label in (("summed", 2), ("lowest", 1)):
        ballot = Ballot(3, 9, "majority", tie, votes=True)
        tally = np.zeros((1, ballot.numbers, 1, 1), np.float32)
        for shares in said:
            add_plane(tally, shares, ballot)
        assert elected(tally, ballot).item() == label
        assert disagreement(tally, ballot).item() == 5


def test_means_and_entropy():
    ballot = Ballot(2, 3)
    said = np.array([[[[[1.0]]], [[[0.0]]]], [[[[0.5]]], [[[0.5]]]], [[[[0.0]]], [[[1.0]]]]], np.float32)
    tally = np.zeros((1, 2, 1, 1), np.float32)
    for shares in said:
        add_plane(tally, shares, ballot)
    assert mean_share(tally, ballot, 1, np.dtype(np.float32)).item() == 0.5
    assert entropy(tally, ballot).item() == pytest.approx(1)
    certain = np.array([3.0, 0.0], np.float32).reshape(1, 2, 1, 1)
    assert entropy(certain, ballot).item() == pytest.approx(0, abs=1e-6)
    logits = Ballot(2, 1, space="logits")
    assert mean_share(
        np.log(np.array([3.0, 1.0], np.float32)).reshape(1, 2, 1, 1), logits, 0, np.dtype("f4")
    ).item() == (pytest.approx(0.75))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 2**-12), ("uint16", 0.51 / 65535)])
def test_probabilities_are_stored_within_what_is_declared(dtype, error):
    shares = np.linspace(0, 1, 4001, dtype=np.float32)
    assert np.abs(restored(stored(shares, np.dtype(dtype))) - shares).max() <= error
    assert stored(shares, np.dtype(dtype)).dtype == dtype


@pytest.mark.parametrize("what", ["labels", "disagreement", "entropy", "mean"])
@pytest.mark.parametrize("space", ["probabilities", "logits"])
@pytest.mark.parametrize("n_classes", [2, 7])
def test_declared_memory_bounds_the_measured_peak(what, space, n_classes):
    ballot = Ballot(n_classes, 9, "majority", votes=True, space=space)
    kernel = of_tally(what, ballot, 1)
    tally = np.ones((8, ballot.numbers, 40, 40), np.float32)
    with Traced() as traced:
        assert kernel.function(tally).dtype == kernel.dtype
    assert traced.peak_bytes <= kernel.bytes_per_voxel * 8 * 40 * 40 + 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"voting": "loud"}, "voting must be 'soft' or 'majority'"),
        ({"tie": "random"}, "tie must be"),
        ({"space": "labels"}, "space must be"),
        ({"n_planes": 16}, "1 to 15 planes"),
        ({"voting": "majority"}, "needs votes"),
    ],
)
def test_ballots_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Ballot(**{"n_classes": 4, "n_planes": 9, **options})
