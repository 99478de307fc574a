"""Augmented patches: labels stay labels and stay with their grey values, and a seed says everything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.training.augmentation import change_greys, interpolate, place
from tomoscale.training.presets import PRESETS
from tomoscale.training.recipe import Augmentation, Chance

SHAPE = (17, 24)
EVERYTHING = Augmentation(
    turn=0.5,
    rotation=Chance(0.8, -180, 180),
    scale=Chance(0.8, 0.7, 1.4),
    aspect=Chance(0.5, -0.4, 0.4),
    elastic=Chance(0.8, 1, 4),
    elastic_voxels=6,
    brightness=Chance(0.5, 0.8, 1.2),
    shift=Chance(0.5, -0.1, 0.1),
    contrast=Chance(0.5, 0.8, 1.2),
    gamma=Chance(0.5, 0.7, 1.5),
    inverted_gamma=Chance(0.5, 0.7, 1.5),
    noise=Chance(0.5, 0, 0.1),
    blur=Chance(0.5, 0.5, 1),
    low_resolution=Chance(0.5, 0.5, 1),
)


def placed(how: Augmentation, grey: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    placement = place(how, labels.shape, np.random.default_rng(seed))
    centre = np.reshape([(n - 1) / 2 for n in labels.shape], (-1, *[1] * labels.ndim))
    values, near = interpolate(grey, labels, placement.offsets() + centre)
    return placement.reorder(values), placement.reorder(near)


@given(seed=seeds, dimensions=st.sampled_from([2, 3]))
def test_labels_keep_to_their_classes_and_a_seed_gives_the_same_patch(seed, dimensions):
    shape = SHAPE if dimensions == 2 else (8, 12, 12)
    how = replace(EVERYTHING, turn=0.0, flip_axes=tuple(range(dimensions)))
    random = np.random.default_rng(seed)
    grey, labels = random.random((1, *shape), np.float32), random.choice([0, 2, 5], shape).astype(np.uint8)
    first = placed(how, grey, labels, seed)
    assert set(np.unique(first[1])) <= {0, 2, 5, 255}
    changed = [change_greys(first[0], how, np.random.default_rng(seed)) for _ in range(2)]
    assert changed[0].dtype == np.float32
    assert np.isfinite(changed[0]).all()
    np.testing.assert_array_equal(changed[0], changed[1])
    for one, other in zip(first, placed(how, grey, labels, seed), strict=True):
        np.testing.assert_array_equal(one, other)


@given(seed=seeds)
def test_labels_move_with_their_grey_values(seed):
    # Two plateaus: where the interpolated grey is one of them, the label must be that one's.
    labels = (np.indices((32, 32))[1] > 15).astype(np.uint8)
    values, near = placed(replace(EVERYTHING, elastic=Chance(1, 2, 2)), labels[None].astype(np.float32), labels, seed)
    sure = (near != 255) & ((values[0] == 0) | (values[0] == 1))
    np.testing.assert_array_equal(near[sure], values[0][sure])


def test_a_turn_by_90_degrees_is_numpys():
    grey = np.random.default_rng(1).random((1, 9, 9), np.float32)
    labels = (grey[0] > 0.5).astype(np.uint8)
    turned, near = placed(Augmentation(flip=0, rotation=Chance(1, 90, 90)), grey, labels, 0)
    np.testing.assert_allclose(turned[0], np.rot90(grey[0], -1), atol=1e-6)
    np.testing.assert_array_equal(near, np.rot90(labels, -1))


def test_scale_two_shows_the_middle_half_twice_as_large():
    grey = np.random.default_rng(1).random((1, 8, 8), np.float32)
    values, _ = placed(Augmentation(flip=0, scale=Chance(1, 2, 2)), grey, np.zeros((8, 8), np.uint8), 0)
    # Voxel 0 of the patch lies 3.5 / 2 voxels from the centre 3.5: at 1.75.
    corner = grey[0, 1:3, 1:3]
    assert values[0, 0, 0] == pytest.approx(np.array([0.25, 0.75]) @ corner @ np.array([0.25, 0.75]), abs=1e-6)


def test_what_lies_outside_is_ignored_and_its_grey_is_mirrored():
    values, near = placed(
        Augmentation(flip=0, scale=Chance(1, 0.5, 0.5)), np.ones((1, 8, 8), np.float32), np.zeros((8, 8), np.uint8), 0
    )
    assert (near[0] == 255).all()
    assert (near[3:5, 3:5] == 0).all()
    assert (values == 1).all()


def test_nothing_is_done_with_probability_zero():
    still = Augmentation(flip=0)
    grey = np.random.default_rng(0).random((1, 6, 6), np.float32)
    assert place(still, (6, 6), np.random.default_rng(0)).exact
    np.testing.assert_array_equal(change_greys(grey, still, np.random.default_rng(0)), grey)


@pytest.mark.parametrize("name", PRESETS)
def test_patches_of_every_recipe_differ_from_each_other(name):
    grey = np.random.default_rng(0).random((1, 32, 32), np.float32)
    labels = (grey[0] > 0.5).astype(np.uint8)
    how = PRESETS[name].augmentation
    one, other = (placed(how, grey, labels, seed)[0] for seed in (0, 7))
    assert (one != other).any()
