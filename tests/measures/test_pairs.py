"""The shared primitive against brute force, for every type, layout and number of ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Halo, whole
from tomoscale.measures import pair_tables
from tomoscale.measures.ids import Ids, masked
from tomoscale.measures.pairs import fused_label_counts, label_counts

TYPES = ("u1", "i1", "u2", "i2", "i4", "u4", "i8", "u8", ">u2", ">i4")
long_shapes = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(50, 210))


def stretches(rng: np.random.Generator, shape: tuple[int, ...], n_ids: int, change: float) -> np.ndarray:
    """Ids that change along x with this probability, so that runs of 64 are flat, of two ids, or of many."""
    steps = (rng.random(shape) < change) * rng.integers(1, max(2, n_ids), shape)
    return np.cumsum(steps, axis=2) % n_ids


def brute(a: np.ndarray, b: np.ndarray, n_a: int, n_b: int) -> np.ndarray:
    table = np.zeros((n_a, n_b), np.int64)
    keep = (a >= 0) & (a < n_a) & (b >= 0) & (b < n_b)
    np.add.at(table, (a[keep], b[keep]), 1)
    return table


def brute_faces(labels: np.ndarray, core: tuple[slice, ...], n: int) -> np.ndarray:
    table = np.zeros((3, n, n), np.int64)
    for axis in range(3):
        stop = min(core[axis].stop, labels.shape[axis] - 1)
        lower = tuple(slice(c.start, stop) if a == axis else c for a, c in enumerate(core))
        upper = tuple(slice(c.start + 1, stop + 1) if a == axis else c for a, c in enumerate(core))
        if stop > core[axis].start:
            table[axis] = brute(labels[lower], labels[upper], n, n)
    return table


@given(
    seed=seeds,
    shape=long_shapes,
    n_ids=st.sampled_from([1, 2, 3, 4, 5, 20, 200, 300]),
    change=st.sampled_from([0.0, 0.004, 0.03, 0.9]),
    type_=st.sampled_from(TYPES),
)
def test_counts_equal_brute_force(seed, shape, n_ids, change, type_):
    rng = np.random.default_rng(seed)
    if type_.endswith("1"):
        n_ids = min(n_ids, 100)
    labels = stretches(rng, shape, n_ids, change)
    truth = np.where(rng.random(shape) < 0.01, rng.integers(0, n_ids, shape), labels)
    roi = stretches(rng, shape, 3, 0.01)
    core = tuple(slice(int(a), int(rng.integers(a + 1, n + 1))) for n in shape for a in [rng.integers(0, n)])
    counts = fused_label_counts(
        Ids("labels", labels.astype(type_), n_ids),
        core,
        truth=Ids("truth", truth.astype(type_), n_ids),
        roi=Ids("roi", roi.astype(np.uint8), 3),
        faces=True,
    )
    np.testing.assert_array_equal(counts["confusion"], brute(truth[core], labels[core], n_ids, n_ids))
    np.testing.assert_array_equal(counts["roi"], brute(roi[core], labels[core], 3, n_ids))
    np.testing.assert_array_equal(counts["faces"], brute_faces(labels, core, n_ids))
    assert all(table.dtype == np.int64 for table in counts.values())


@given(seed=seeds, shape=long_shapes, n_ids=st.sampled_from([2, 4, 7]), change=st.sampled_from([0.004, 0.1]))
def test_the_way_of_the_gpu_gives_the_same_integers(seed, shape, n_ids, change):
    rng = np.random.default_rng(seed)
    volumes = [Ids(n, stretches(rng, shape, n_ids, change).astype(np.uint8), n_ids) for n in ("t", "r", "l")]
    core = whole(shape)
    upper = tuple(n - 1 for n in shape)
    mine, faulty = pair_tables.count_on_host(volumes, core, upper)
    theirs, theirs_faulty = pair_tables.count_by_codes(volumes, core, upper)
    assert not faulty
    assert not theirs_faulty
    np.testing.assert_array_equal(mine[:, :n_ids, :n_ids], theirs[:, :n_ids, :n_ids])


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_by_blocks_equals_whole(seed, shape, block_shape):
    rng = np.random.default_rng(seed)
    volumes = tuple(rng.integers(0, n, shape, dtype=np.uint8) for n in (4, 4, 2))
    measure = label_counts(4, 2)
    counts = measure_by_blocks(measure, volumes, block_shape)
    single = measure_by_blocks(measure, volumes, shape)
    for name in ("confusion", "faces", "roi"):
        np.testing.assert_array_equal(counts[name], single[name])
    np.testing.assert_array_equal(counts["faces"], brute_faces(volumes[1], whole(shape), 4))


def test_by_blocks_equals_whole_on_the_device(device):
    rng = np.random.default_rng(0)
    volumes = tuple(stretches(rng, (9, 8, 150), n, 0.02).astype(np.uint8) for n in (4, 4, 2))
    counts = measure_by_blocks(label_counts(4, 2), volumes, (4, 5, 70), device)
    np.testing.assert_array_equal(counts["confusion"], brute(volumes[0], volumes[1], 4, 4))
    np.testing.assert_array_equal(counts["roi"], brute(volumes[2], volumes[1], 2, 4))
    np.testing.assert_array_equal(counts["faces"], brute_faces(volumes[1], whole((9, 8, 150)), 4))


def test_views_that_are_not_contiguous_are_counted_where_they_lie():
    rng = np.random.default_rng(1)
    big = stretches(rng, (8, 9, 400), 4, 0.02).astype(np.uint8)
    for view in (big[1:7:2, ::3, 13:390], big[:, :, ::2], big[::-1, :, ::-1], big.transpose(2, 1, 0)):
        view.flags.writeable = False
        core = whole(view.shape)
        counts = fused_label_counts(Ids("labels", view, 4), core, truth=Ids("truth", view, 4), faces=True)
        np.testing.assert_array_equal(counts["confusion"], np.diag(np.bincount(view.ravel(), minlength=4)))
        np.testing.assert_array_equal(counts["faces"], brute_faces(view, core, 4))


@pytest.mark.parametrize("n_ids", [3, 4, 9, 100])
@pytest.mark.parametrize(("length", "at"), [(5, 0), (5, 4), (64, 63), (100, 63), (100, 64), (100, 99), (200, 199)])
def test_an_id_out_of_range_is_refused_with_its_place(n_ids, length, at):
    values = np.zeros((2, 2, length), np.uint8)
    bad = values.copy()
    bad[1, 0, at] = n_ids
    message = f"holds the label {n_ids} at z 11, y 20, x {30 + at}, but only 0 to {n_ids - 1}"
    for name, labels, other in (("labels", bad, values), ("truth", values, bad), ("roi", values, bad)):
        partner = {"labels": "truth"}.get(name, name)
        with pytest.raises(InputError, match=f"{name} {message}"):
            fused_label_counts(
                Ids("labels", labels, n_ids),
                whole(values.shape),
                faces=True,
                origin=(10, 20, 30),
                **{partner: Ids(partner, other, n_ids)},
            )


@pytest.mark.parametrize("type_", ["u1", "u2", "i2", "i4", "i8", "u8"])
def test_an_id_is_refused_that_would_wrap_around_into_the_range(type_):
    labels = np.zeros((1, 1, 80), type_)
    labels[0, 0, 70] = 251 if type_ == "u1" else 256
    with pytest.raises(InputError, match=f"labels holds the label {labels[0, 0, 70]} at z 0, y 0, x 70"):
        fused_label_counts(Ids("labels", labels, 2), whole(labels.shape), faces=True)


@pytest.mark.parametrize(("type_", "ignore"), [("u1", -1), ("u1", 255), ("i1", -1), ("u2", -1), ("i4", -1), ("u8", -1)])
@pytest.mark.parametrize("n_ids", [2, 3, 6])
def test_ignored_voxels_are_counted_nowhere(type_, ignore, n_ids):
    rng = np.random.default_rng(3)
    truth = stretches(rng, (3, 3, 150), n_ids, 0.03)
    skipped = rng.random(truth.shape) < 0.1
    stored = np.where(skipped, -1, truth).astype(type_)
    labels = rng.integers(0, n_ids, truth.shape)
    ids = Ids("labels", labels.astype(np.uint8), n_ids)
    counts = fused_label_counts(ids, whole(truth.shape), truth=Ids("truth", stored, n_ids, ignore))
    np.testing.assert_array_equal(counts["confusion"], brute(truth[~skipped], labels[~skipped], n_ids, n_ids))


def test_an_ignored_id_may_be_a_class():
    labels = np.array([0, 1, 1, 0], np.uint8).reshape(1, 1, 4)
    counts = fused_label_counts(Ids("l", labels, 2), whole(labels.shape), truth=Ids("t", labels, 2, ignore=0))
    np.testing.assert_array_equal(counts["confusion"], [[0, 0], [0, 2]])


def test_masked_voxels_become_an_id_of_their_own_and_may_hold_anything():
    labels = np.array([0, 1, 9, 1], np.uint8).reshape(1, 1, 4)
    valid = np.array([1, 1, 0, 1], bool).reshape(1, 1, 4)
    ids = masked(Ids("labels", labels, 2), valid)
    assert ids.n_ids == 3
    np.testing.assert_array_equal(ids.values.ravel(), [0, 1, 2, 1])
    with pytest.raises(InputError, match="labels holds the label 9 at z 5, y 0, x 2"):
        masked(Ids("labels", labels, 2), ~valid, origin=(5, 0, 0))


def test_shapes_and_types_that_do_not_fit_are_refused():
    ids = np.zeros((2, 2, 2), np.uint8)
    core = whole(ids.shape)
    with pytest.raises(InputError, match=r"truth has the shape \(1, 2, 2\) but labels has \(2, 2, 2\)"):
        fused_label_counts(Ids("labels", ids, 2), core, truth=Ids("truth", ids[:1], 2))
    with pytest.raises(InputError, match="labels has the type float32, but ids are whole numbers"):
        fused_label_counts(Ids("labels", ids.astype(np.float32), 2), core, faces=True)
    with pytest.raises(ValueError, match="n_classes must be 1 to 4096, got 0"):
        label_counts(0)


def test_the_measure_declares_what_it_needs():
    measure = label_counts(4, 2)
    assert measure.inputs == ("truth", "labels", "roi")
    assert measure.halo == Halo(after=(1, 1, 1))
    volumes = tuple(np.zeros((40, 40, 80), np.uint16) for _ in range(3))
    measure_by_blocks(measure, volumes, (40, 40, 80))
    with Traced() as traced:
        counts = measure_by_blocks(measure, volumes, (40, 40, 80))
    assert traced.peak_bytes <= measure.bytes_per_voxel * volumes[0].size + 50_000
    assert sum(table.nbytes for table in counts.values()) == measure.counts_bytes
