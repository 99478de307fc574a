"""Patches: from the right place, of the right classes, read through a bounded memory, and said by seed and step alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.networks.windowed import PlainNet, instance_net, reach_of, windowed_card
from tests.training.tiny import QUIET, SIZE, data, recipe
from tomoscale.commands import normalise
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels.grey_windows import GreyWindows
from tomoscale.kernels.scaling import AS_IT_IS
from tomoscale.memory_array import MemoryArray
from tomoscale.networks.bundle import save_bundle
from tomoscale.networks.card import Normalisation
from tomoscale.segmentation.prepare import prepared as prepared_task
from tomoscale.training.chunk_cache import ChunkCache
from tomoscale.training.class_index import Cells, class_cells, index_of
from tomoscale.training.patches import Patches, Prepared
from tomoscale.training.preparation import prepare
from tomoscale.training.presets import NNUNET
from tomoscale.training.recipe import Augmentation, Network, Sampling
from tomoscale.training.samples import Sample
from tomoscale.volume import Volume

SHAPE = (12, 14, 16)
STILL = Augmentation(flip=0)


def prepared(labels: np.ndarray, axes: tuple[int, ...] = (0, 1, 2), n_classes: int = 3, **how: object) -> Prepared:
    """A sample whose grey values are the numbers of their voxels."""
    grey = np.arange(labels.size, dtype=np.float32).reshape(labels.shape)
    one = Sample("a", Volume(MemoryArray(grey), SIZE), Volume(MemoryArray(labels)), **how)
    known = one.known(n_classes)
    cells = Cells(labels.shape, labels.shape)
    values = known.read()
    counts = class_cells(cells, n_classes)
    block = counts.block(Grid(labels.shape, labels.shape), 0)
    return Prepared(one, known, index_of(cells, counts.function(values, block=block)["cells"], "a"), AS_IT_IS, axes)


def labels_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


@given(seed=seeds, axis=st.integers(0, 2), slices=st.sampled_from([1, 3]))
def test_grey_values_and_labels_come_from_one_place(seed, axis, slices):
    labels = labels_of(seed)
    how = recipe(
        seed=seed,
        augmentation=Augmentation(turn=0.5),
        sampling=Sampling(patch=(8, 8), batch=3),
        network=Network("any", {"in_slices": slices}),
    )
    values, found = Patches([prepared(labels, (axis,))], how).batch(4)
    assert values.shape == (3, slices, 8, 8)
    middle = values[:, slices // 2].numpy().astype(np.int64)
    np.testing.assert_array_equal(labels.ravel()[middle], found.numpy())
    where = np.stack(np.unravel_index(middle, SHAPE))
    assert (np.ptp(where[axis].reshape(3, -1), axis=1) == 0).all(), "a patch lies in one slice"
    if slices == 3:
        step = int(np.prod(SHAPE[axis + 1 :]))
        position = where[axis]
        below = middle - step * (position > 0)
        above = middle + step * (position < SHAPE[axis] - 1)
        np.testing.assert_array_equal(values[:, 0].numpy(), below)
        np.testing.assert_array_equal(values[:, 2].numpy(), above)


def test_patches_of_volumes_have_three_axes():
    labels = labels_of(0)
    how = recipe(augmentation=STILL, sampling=Sampling(patch=(4, 8, 8), batch=2))
    values, found = Patches([prepared(labels)], how).batch(0)
    assert values.shape == (2, 1, 4, 8, 8)
    np.testing.assert_array_equal(labels.ravel()[values[:, 0].numpy().astype(np.int64)], found.numpy())


def test_a_rare_class_is_in_as_many_patches_as_balance_asks():
    labels = np.zeros((6, 64, 64), np.uint8)
    labels[:, 32:] = 1
    labels[3, 10, 10] = 2  # 1 voxel of 24 576
    for balance, low, high in ((0.0, 0.0, 0.1), (0.75, 0.15, 0.40)):
        how = recipe(augmentation=STILL, sampling=Sampling(patch=(8, 8), batch=200, axes=("z",), balance=balance))
        _, found = Patches([prepared(labels, (0,))], how).batch(0)
        share = (found == 2).flatten(1).any(1).float().mean().item()
        assert low <= share <= high, (balance, share)


def test_only_labelled_slices_are_drawn_and_nothing_else_is_known():
    labels = labels_of(1)
    one = prepared(labels, (0,), slices={"z": (2, 9)})
    how = recipe(augmentation=STILL, sampling=Sampling(patch=(8, 8), batch=40, axes=("z",)))
    values, found = Patches([one], how).batch(0)
    z = values.numpy().astype(np.int64) // (SHAPE[1] * SHAPE[2])
    assert set(np.unique(z)) == {2, 9}
    assert (found != 255).all()
    across = Patches([prepared(labels, (1,), slices={"z": (2,)})], how).batch(0)[1]
    assert ((across != 255).sum((1, 2)) == 8).all(), "of a patch across y one row is labelled"


def test_a_mask_hides_labels():
    labels, mask = labels_of(2), np.zeros(SHAPE, np.uint8)
    mask[:, :, :5] = 1
    one = prepared(labels, (0,), mask=Volume(MemoryArray(mask)))
    values, found = Patches([one], recipe(augmentation=STILL, sampling=Sampling(patch=(8, 8), batch=9))).batch(0)
    x = values[:, 0].numpy().astype(np.int64) % SHAPE[2]
    np.testing.assert_array_equal(found.numpy() == 255, x >= 5)


@pytest.mark.parametrize("threads", [0, 3])
def test_a_batch_is_said_by_its_seed_and_number(threads):
    ready = [prepared(labels_of(seed)) for seed in (1, 2)]
    how = recipe(
        augmentation=replace(NNUNET.augmentation, noise=NNUNET.augmentation.gamma),
        sampling=Sampling((8, 8), 2, threads=threads),
    )
    alone = Patches(ready, how).batch(5)
    *_, in_order = Patches(ready, how).batches(range(2, 6))
    for one, other in zip(alone, in_order, strict=True):
        assert (one == other).all()
    part = Patches(ready, how).batch(5, range(1, 2))[0]
    assert (part[0] == alone[0][1]).all()
    assert (Patches(ready, how).batch(6)[0] != alone[0]).any()
    assert (Patches(ready, replace(how, seed=9)).batch(5)[0] != alone[0]).any()


@given(seed=seeds, limit=st.sampled_from([1, 700, 10**6]))
def test_the_cache_gives_what_the_volume_holds_and_keeps_little(seed, limit):
    random = np.random.default_rng(seed)
    values = random.integers(0, 255, (9, 11, 13)).astype(np.uint8)
    storage = MemoryArray(values, chunk_shape=(2, 3, 4))
    cache = ChunkCache(limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tomoscale.training.chunk_cache.BRICK_VOXELS", 64)
        number = cache.add(Volume(storage))
        for _ in range(6):
            starts = [int(random.integers(n)) for n in values.shape]
            region = tuple(
                slice(s, int(random.integers(s + 1, n + 1))) for s, n in zip(starts, values.shape, strict=True)
            )
            np.testing.assert_array_equal(cache.read(number, region), values[region])
            assert cache.held_bytes == sum(b.nbytes for b in cache.bricks.values())
            assert cache.held_bytes <= max(limit, 64)


def test_scaling_is_that_of_the_whole_volume(tmp_path):
    how = recipe()
    ready = prepare(data(), how, tmp_path / "percentiles", QUIET)
    grey = data().training[0].grey.read().astype(np.float64)
    low, high = np.percentile(grey, how.normalisation.percentiles)
    scaled = ready.training[0].scaling.scaled(grey)
    np.testing.assert_allclose(scaled, (np.clip(grey, low, high) - low) / (high - low), atol=1e-6)
    ready = prepare(data(), replace(how, normalisation=NNUNET.normalisation), tmp_path / "zscore", QUIET)
    np.testing.assert_allclose(ready.training[0].scaling.scaled(grey), (grey - grey.mean()) / grey.std(), atol=1e-5)


@pytest.mark.parametrize("scheme", ["percentiles", "zscore"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "normalised"])
@pytest.mark.parametrize("slices", [1, 3])
def test_a_patch_holds_the_bits_that_inference_shows_the_network(tmp_path, scheme, dtype, slices):
    random = np.random.default_rng(7)
    values = (random.gamma(2.0, 50.0, (5, 16, 24))).astype("float32" if dtype == "normalised" else dtype)
    labels = Volume(MemoryArray(random.integers(0, 3, values.shape).astype(np.uint8), "labels"))
    scan = Volume(MemoryArray(values), SIZE)
    if dtype == "normalised":
        scan = normalise(scan, tmp_path / "normal.zarr", scheme=scheme, work=QUIET)
    how = recipe(
        normalisation=Normalisation(scheme),
        network=Network("scaled_unet", {"depth": 1, "width": 2, "in_slices": slices}),
        augmentation=STILL,
        sampling=Sampling((16, 24), 4, axes=("z",)),
    )
    both = replace(data(), training=(Sample("a", scan, labels),))
    ready = prepare(both, how, tmp_path / "passes", QUIET).training[0]
    batch, _ = Patches([ready], how).batch(0)
    network = instance_net(kind=PlainNet, in_slices=slices)
    save_bundle(tmp_path / "model", network, windowed_card(None, 3, how.normalisation), reach_of(2, local=True))
    task = prepared_task(scan, tmp_path / "model", tmp_path / "histogram", QUIET)
    windows = GreyWindows.of(task.bundle, scan.shape, task.scaling)
    grid = Grid(scan.shape, (1, 16, 24))
    seen = []
    for number in range(len(grid)):
        block = task.kernel().block(grid, number, scan.shape)
        seen.append(windows.cut(scan.read(block.read), block, block.write, (0, 0, 0), (1, 16, 24))[0].tobytes())
    assert len(set(seen)) == len(seen)
    assert {patch.numpy().tobytes() for patch in batch} <= set(seen)


def test_a_sample_normalised_by_another_scheme_is_refused(tmp_path):
    both = data()
    normal = normalise(both.training[0].grey, tmp_path / "normal.zarr", work=QUIET)
    both = replace(both, training=(replace(both.training[0], grey=normal),))
    with pytest.raises(InputError, match="was normalised by percentiles, but the recipe asks for zscore"):
        prepare(both, recipe(normalisation=Normalisation("zscore")), tmp_path / "passes", QUIET)
