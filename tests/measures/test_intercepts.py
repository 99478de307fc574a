"""Intercept counts against shifted arrays, and the anisotropy of bodies whose form is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.measures.intercepts import STEPS, anisotropy, intercepts

CUBES = (1.0, 1.0, 1.0)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 140))


def count(labels, block_shape=None, classes=None, absent=None):
    return measure_by_blocks(intercepts(classes, absent), (labels,), block_shape or labels.shape)


def shifted(labels, classes, absent):
    """Counts from whole arrays cut to where both ends of a step lie in the volume."""
    mask, inside = np.isin(labels, classes), labels != absent
    steps, changes = [], []
    for d in STEPS.tolist():
        here = tuple(slice(max(0, -c), max(0, n - max(0, c))) for c, n in zip(d, labels.shape, strict=True))
        there = tuple(slice(max(0, c), max(0, n - max(0, -c))) for c, n in zip(d, labels.shape, strict=True))
        if any(abs(c) >= n for c, n in zip(d, labels.shape, strict=True)):
            steps.append(0)
            changes.append(0)
            continue
        both = inside[here] & inside[there]
        steps.append(int(both.sum()))
        changes.append(int((both & (mask[here] != mask[there])).sum()))
    return steps, changes


def test_there_are_145_steps_none_twice_and_none_a_multiple_of_another():
    directions = {tuple((d / np.linalg.norm(d)).round(9)) for d in STEPS}
    assert len(STEPS) == len(directions | {tuple(-np.array(d)) for d in directions}) // 2 == 145
    assert np.abs(STEPS).max() == 3


@given(seed=seeds, shape=shapes, block_shape=block_shapes)
def test_counts_by_blocks_equal_those_of_shifted_arrays(seed, shape, block_shape):
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    block_shape = (*block_shape[:2], block_shape[2] * 11)
    found = count(labels, block_shape, classes=(2,), absent=0)
    steps, changes = shifted(labels, (2,), 0)
    assert found["steps"].tolist() == steps
    assert found["changes"].tolist() == changes


@given(seed=seeds, shape=st.tuples(*[st.integers(1, 8)] * 3))
def test_without_a_region_all_of_the_volume_counts(seed, shape):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    steps, changes = shifted(mask, (True,), 7)
    found = count(mask, (3, 4, 5))
    assert found["steps"].tolist() == steps
    assert found["changes"].tolist() == changes


def balls(spread=CUBES, n=130, edge=96, seed=2):
    """Mask of balls at random places, stretched along the axes."""
    centres = np.random.default_rng(seed).random((n, 3)) * edge
    grid = np.ogrid[:edge, :edge, :edge]
    mask = np.zeros((edge, edge, edge), bool)
    for centre in centres:
        mask |= sum(((g - c) / s) ** 2 for g, c, s in zip(grid, centre, spread, strict=True)) <= 8.0**2
    return mask


def test_random_balls_have_next_to_no_anisotropy():
    found = anisotropy(count(balls()), CUBES)
    assert 0 <= found.degree < 0.12


def test_parallel_plates_are_wholly_anisotropic_along_their_normal():
    mask = np.zeros((60, 50, 40), bool)
    mask[(np.arange(60) // 6) % 2 == 0] = True
    found = anisotropy(count(mask), (2.0, 1.0, 0.5))
    assert found.degree == pytest.approx(1.0, abs=1e-9)
    assert found.directions[2] == pytest.approx((1, 0, 0), abs=1e-6)
    # Plates and gaps of 6 voxels of 2 µm: an entry every 24 µm, but the volume ends with a gap, which long steps see less.
    assert found.radii_um[2] == pytest.approx(2 * 59 * 2.0 / 9, rel=0.02)


def test_parallel_rods_have_their_longest_radius_along_them():
    y, x = np.ogrid[:64, :64]
    section = (((y % 16) - 7.5) ** 2 + ((x % 16) - 7.5) ** 2) <= 25
    rods = np.broadcast_to(section, (40, 64, 64))
    found = anisotropy(count(np.ascontiguousarray(rods)), CUBES)
    assert found.degree > 0.99
    assert found.directions[0] == pytest.approx((1, 0, 0), abs=1e-6)
    # Their section is round: the other two radii are alike.
    assert found.radii_um[1] == pytest.approx(found.radii_um[2], rel=0.03)


def test_ellipsoids_along_x_are_measured_in_micrometres_whatever_the_voxels():
    along = anisotropy(count(balls((1.0, 1.0, 2.0), n=60)), CUBES)
    assert along.directions[0][2] > 0.95
    assert 0.4 < along.degree < 0.9
    # The same bodies on voxels half as long along x are balls again.
    squeezed = anisotropy(count(balls((1.0, 1.0, 2.0), n=60)), (1.0, 1.0, 0.5))
    assert squeezed.degree < 0.25


def test_without_a_surface_there_is_no_anisotropy():
    found = anisotropy(count(np.ones((5, 5, 5), bool)), CUBES)
    assert math.isnan(found.degree)
    sheet = np.zeros((1, 1, 9), bool)
    sheet[0, 0, 3:5] = True
    assert math.isnan(anisotropy(count(sheet), CUBES).degree)


def test_the_declared_memory_holds():
    measure = intercepts((1, 2), 3)
    labels = np.random.default_rng(6).integers(0, 4, (48, 64, 130)).astype(np.uint8)
    block = measure.block(Grid(labels.shape, (32, 64, 130)), 0)
    padded = np.ascontiguousarray(labels[block.read])
    measure.function(padded, block=block)
    with Traced() as traced:
        measure.function(padded, block=block)
    assert traced.peak_bytes <= measure.bytes_per_voxel * padded.size


def test_a_class_cannot_be_absent_and_object():
    with pytest.raises(ValueError, match="must name labels other than 2, which is absent"):
        intercepts((1, 2), 2)
