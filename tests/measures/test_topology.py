from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import euler_number as skimage_euler_number

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.geometry import Grid
from tomoscale.measures import cells
from tomoscale.measures.topology import (
    DIRECTIONS,
    configurations,
    connectivity_density,
    euler_contribution,
    euler_number,
    mean_curvature_integral,
    object_volume,
    phase_changes,
    surface_area,
)

CUBES = (1.0, 1.0, 1.0)


def random_mask(seed, shape):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < rng.choice([0.1, 0.3, 0.5, 0.7, 0.9])


def count(mask, block_shape=None, device="cpu", classes=None):
    counts = measure_by_blocks(configurations(classes), (mask,), block_shape or mask.shape, device)
    return counts["configurations"]


def ball(radius_um, voxel_size=CUBES, centre=(0.0, 0.0, 0.0)):
    sides = [int(radius_um / size) + 2 for size in voxel_size]
    grids = np.ogrid[tuple(slice(-side, side + 1) for side in sides)]
    return sum(((g - c) * h) ** 2 for g, c, h in zip(grids, centre, voxel_size, strict=True)) <= radius_um**2


def brute_force_counts(mask):
    """All cells of the volume in a frame of zeros, one by one, with the bits written out."""
    counts = np.zeros((3, 3, 3, 256), np.int64)
    framed = np.pad(mask, 1).astype(int)
    for place in product(*(range(n + 1) for n in mask.shape)):
        kind = tuple(0 if p == 0 else 2 if p == n else 1 for p, n in zip(place, mask.shape, strict=True))
        z, y, x = place
        bits = framed[z : z + 2, y : y + 2, x : x + 2].ravel()
        counts[(*kind, int((bits << np.arange(8)).sum()))] += 1
    return counts


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_configurations_by_blocks_equal_the_whole(seed, shape, block_shape):
    mask = random_mask(seed, shape)
    np.testing.assert_array_equal(count(mask, block_shape), count(mask))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 9), (5, 1, 3), (4, 6, 19)])
def test_configurations_against_brute_force(shape, device):
    mask = random_mask(7, shape)
    np.testing.assert_array_equal(count(mask, device=device), brute_force_counts(mask))
    np.testing.assert_array_equal(count(mask, (1, 1, 1), device), brute_force_counts(mask))


@pytest.mark.parametrize("edge", [5, 8, 13, 100])
def test_euler_numbers_and_block_edges_of_the_specification(edge):
    mask = np.random.default_rng(3).random((31, 27, 40)) < 0.4
    counts = count(mask, (edge,) * 3)
    assert euler_number(counts, 26) == skimage_euler_number(mask, 3)
    assert euler_number(counts, 6) == skimage_euler_number(mask, 1)


@given(seed=seeds, shape=small_shapes, sides=st.tuples(*[st.integers(0, 1)] * 6))
def test_array_functions_count_what_the_compiled_loop_counts(seed, shape, sides):
    mask = random_mask(seed, tuple(n + 1 for n in shape)).astype(np.uint8)
    below = sides[:3]
    above = tuple(a if n > 1 else 0 for a, n in zip(sides[3:], shape, strict=True))
    counts = np.zeros((3, 3, 3, 256), np.int64)
    cells._count_cells_by_slabs(mask, below, above, counts)
    np.testing.assert_array_equal(counts, cells.count_cells(mask, below, above))


@given(seed=seeds, shape=small_shapes)
def test_euler_numbers_equal_scikit_image(seed, shape):
    mask = random_mask(seed, shape)
    counts = count(mask)
    assert euler_number(counts, 26) == skimage_euler_number(mask, 3)
    assert euler_number(counts, 6) == skimage_euler_number(mask, 1)


def test_euler_numbers_of_known_bodies():
    solid = ball(6.0)
    hollow = solid.copy()
    hollow[tuple(n // 2 for n in hollow.shape)] = False
    z, y, x = np.ogrid[-4:5, -12:13, -12:13]
    torus = (np.hypot(y, x) - 8) ** 2 + z**2 <= 9
    two = np.concatenate([solid, solid])
    touching = np.zeros((2, 2, 2), bool)
    touching[0, 0, 0] = touching[1, 1, 1] = True
    assert [euler_number(count(body)) for body in (solid, hollow, torus, two)] == [1, 2, 0, 2]
    assert euler_number(count(touching), 26) == 1
    assert euler_number(count(touching), 6) == 2


@given(seed=seeds, shape=small_shapes)
def test_phase_changes_against_shifted_arrays(seed, shape):
    mask = random_mask(seed, shape)
    counts = count(mask)
    for edge_faces, field in (("exclude", mask), ("background", np.pad(mask, 1))):
        for direction, n in zip(DIRECTIONS, phase_changes(counts, edge_faces), strict=True):
            first = tuple(slice(max(0, -d), s - max(0, d)) for d, s in zip(direction, field.shape, strict=True))
            second = tuple(slice(max(0, d), s - max(0, -d)) for d, s in zip(direction, field.shape, strict=True))
            assert n == np.count_nonzero(field[first] != field[second])


def test_weights_of_cubes_are_the_published_ones():
    weights = cells.direction_weights(DIRECTIONS)
    published = np.array([0.0915558, 0.0739613, 0.0703913])[np.abs(DIRECTIONS).sum(axis=1) - 1]
    np.testing.assert_allclose(weights, published, atol=5e-7)


def test_ball_of_radius_40_has_the_ratios_of_the_specification():
    counts = count(ball(40.0))
    sphere = 4 * np.pi * 40**2
    assert surface_area(counts, CUBES) / sphere == pytest.approx(0.9981, abs=5e-5)
    assert surface_area(counts, CUBES, "voxel_faces") / sphere == pytest.approx(1.4995, abs=5e-5)


@pytest.mark.parametrize("voxel_size", [CUBES, (2.0, 1.0, 1.0), (1.0, 2.0, 3.0), (0.5, 1.0, 1.0)])
def test_minkowski_functionals_of_a_ball_on_any_grid(voxel_size):
    radius = 30.0
    counts = count(ball(radius, voxel_size, centre=(0.31, 0.17, 0.43)))
    assert object_volume(counts, voxel_size) == pytest.approx(4 / 3 * np.pi * radius**3, rel=2e-3)
    assert surface_area(counts, voxel_size) == pytest.approx(4 * np.pi * radius**2, rel=5e-3)
    assert mean_curvature_integral(counts, voxel_size) == pytest.approx(4 * np.pi * radius, rel=1e-2)


def test_box_of_2_by_3_by_4_micrometres():
    voxel_size = (2.0, 1.0, 0.5)
    mask = np.zeros((3, 5, 10), bool)
    mask[1, 1:4, 1:9] = True
    counts = count(mask)
    assert object_volume(counts, voxel_size) == 24.0
    assert surface_area(counts, voxel_size, "voxel_faces") == 52.0


def test_integrals_of_a_box_within_the_error_of_13_directions():
    # Walls along the axes are the worst case for 13 directions: 7.3 % low in the limit of fine voxels.
    a, b, c = 60, 68, 70
    counts = count(np.ones((a, b, c), bool))
    walls = 2 * (a * b + b * c + c * a)
    assert surface_area(counts, CUBES, edge_faces="background") / walls == pytest.approx(0.927, abs=0.015)
    assert mean_curvature_integral(counts, CUBES) / (np.pi * (a + b + c)) == pytest.approx(0.927, abs=0.015)


@given(seed=seeds, shape=small_shapes)
def test_background_has_the_surface_of_the_object_and_minus_its_curvature(seed, shape):
    mask = random_mask(seed, shape)
    voxel_size = (1.5, 1.0, 0.7)
    counts, opposite = count(mask), count(~mask)
    assert phase_changes(counts) == phase_changes(opposite)
    curvature = mean_curvature_integral(counts, voxel_size, "exclude")
    assert mean_curvature_integral(opposite, voxel_size, "exclude") == pytest.approx(-curvature, abs=1e-9)


def test_a_cut_is_no_surface_unless_asked_for():
    counts = count(np.ones((4, 5, 6), bool))
    assert surface_area(counts, CUBES) == surface_area(counts, CUBES, "voxel_faces") == 0.0
    assert mean_curvature_integral(counts, CUBES, "exclude") == 0.0
    assert surface_area(counts, CUBES, "voxel_faces", "background") == 2 * (20 + 24 + 30)


@given(seed=seeds, shape=st.tuples(*[st.integers(2, 8)] * 3))
def test_euler_contribution_against_the_faces_edges_and_corners_of_the_box(seed, shape):
    mask = random_mask(seed, shape)
    # A stratum keeps its own Euler number when it is seen as a volume one voxel thick.
    expected = 0.0
    for cut in product((None, slice(0, 1), slice(-1, None)), repeat=3):
        stratum = mask[tuple(slice(None) if c is None else c for c in cut)]
        expected += (-0.5) ** sum(c is not None for c in cut) * skimage_euler_number(stratum, 3)
    assert euler_contribution(count(mask)) == expected


@settings(max_examples=10)
@given(seed=seeds, cut=st.tuples(*[st.integers(1, 7)] * 3))
def test_euler_contributions_of_boxes_that_share_a_plane_add_up(seed, cut):
    mask = random_mask(seed, (9, 9, 9))
    halves = [(slice(0, c + 1), slice(c, None)) for c in cut]
    assert sum(euler_contribution(count(mask[box])) for box in product(*halves)) == euler_contribution(count(mask))


def test_connectivity_density_of_a_ring_is_one_connection_per_volume():
    ring = np.zeros((5, 9, 9), bool)
    ring[2, 2:7, 2:7] = True
    ring[2, 3:6, 3:6] = False
    assert connectivity_density(count(ring), (2.0, 1.0, 1.0)) == 1.0 / (5 * 9 * 9 * 2.0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32])
def test_classes_make_the_object(dtype):
    labels = np.random.default_rng(5).integers(0, 2 if dtype is bool else 4, (6, 7, 8)).astype(dtype)
    np.testing.assert_array_equal(count(labels), count(labels != 0))
    if dtype is not bool:
        np.testing.assert_array_equal(count(labels, classes=(1, 3)), count((labels == 1) | (labels == 3)))
        np.testing.assert_array_equal(count(labels, classes=(2,)), count(labels == 2))


def test_the_declared_memory_holds():
    measure = configurations(classes=(1, 3))
    labels = np.random.default_rng(6).integers(0, 4, (64, 96, 97)).astype(np.uint8)
    block = measure.block(Grid(labels.shape, (48, 80, 97)), 0)
    padded = np.ascontiguousarray(labels[block.read])
    measure.function(padded, block=block)
    with Traced() as traced:
        measure.function(padded, block=block)
    assert traced.peak_bytes <= measure.bytes_per_voxel * padded.size


def test_bad_arguments_are_refused():
    counts = count(np.ones((2, 2, 2), bool))
    with pytest.raises(ValueError, match="at least one label and none twice"):
        configurations(classes=())
    with pytest.raises(ValueError, match="at least one label and none twice"):
        configurations(classes=(1, 1))
    with pytest.raises(ValueError, match="connectivity must be 6 or 26, got 18"):
        euler_number(counts, 18)
    with pytest.raises(ValueError, match="method must be 'crofton13' or 'voxel_faces'"):
        surface_area(counts, CUBES, "marching_cubes")
    with pytest.raises(ValueError, match="edge_faces must be 'exclude' or 'background'"):
        surface_area(counts, CUBES, edge_faces="include")
    with pytest.raises(ValueError, match="edge_faces must be 'exclude' or 'background'"):
        mean_curvature_integral(counts, CUBES, "include")
