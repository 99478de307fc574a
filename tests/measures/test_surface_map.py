"""The surface face by face equals the measures of contact, brute force in floats, and what a person counts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tomoscale.geometry import Grid
from tomoscale.measures.cylinder import Cylinder, bins_of, cylinder_around
from tomoscale.measures.inertia import Axis
from tomoscale.measures.surface_map import Roles, count_by_masks, surface_map
from tomoscale.measures.touching import surface_voxels, touching_voxels

ALONG_Z = Axis((4.0, 5.0, 6.0), (1.0, 0.0, 0.0), (3.0, 1.0, 1.0), True)
TILTED = Axis((4.3, 5.1, 6.2), (0.8, -0.36, 0.48), (3.0, 1.0, 1.0), True)


def bins(cylinder: Cylinder):
    return cylinder.rows, cylinder.sines, (cylinder.n_steps, cylinder.n_sectors)


def faces_by_voxel(labels: np.ndarray) -> list[tuple[tuple[float, float, float], int]]:
    """Middle of each face of the implant (1, 2) in voxels, and whether it is to bone (0) or free (1)."""
    found = []
    for place in np.argwhere((labels == 1) | (labels == 2)):
        for axis in range(3):
            for step in (-1, 1):
                other = place.copy()
                other[axis] += step
                if 0 <= other[axis] < labels.shape[axis] and labels[tuple(other)] in (0, 3):
                    found.append((tuple((place + other) / 2), int(labels[tuple(other)] == 0)))
    return found


def map_by_voxel(labels: np.ndarray, cylinder: Cylinder) -> np.ndarray:
    """The same map with arc tangents."""
    table = np.zeros((cylinder.n_steps, cylinder.n_sectors, 2), np.int64)
    u = np.array(cylinder.axis.direction)
    towards = np.array([0, 1.0, 0]) if np.argmax(np.abs(u)) == 2 else np.array([0, 0, 1.0])
    first = towards - u * (towards @ u) / (u @ u)
    first /= np.linalg.norm(first)
    second = np.cross(u[::-1], first[::-1])[::-1] / np.linalg.norm(u)
    for middle, kind in faces_by_voxel(labels):
        place = np.array(middle) * cylinder.voxel_size_um - cylinder.axis.centre_um
        step = math.floor((place @ u - cylinder.low_um) / cylinder.step_um)
        angle = math.degrees(math.atan2(place @ second, place @ first)) % 360
        table[min(max(step, 0), cylinder.n_steps - 1), int(angle * cylinder.n_sectors / 360), kind] += 1
    return table


@given(seeds, small_shapes, block_shapes, st.sampled_from([(0,), (0, 1), (0, 1, 2), (2,)]))
def test_touching_by_gap_equals_the_measure_of_contact(seed, shape, blocks, gaps):
    labels = np.random.default_rng(seed).choice(4, shape, p=(0.3, 0.3, 0.2, 0.2)).astype(np.uint8)
    found = measure_by_blocks(surface_map(gaps_voxels=gaps), (labels,), blocks)
    for g, gap in enumerate(gaps):
        expected = measure_by_blocks(touching_voxels(gap_voxels=gap), (labels,), shape)
        np.testing.assert_array_equal(found["touching_voxels"][g], expected["touching_voxels"])
        np.testing.assert_array_equal(found["touching_faces"][g], expected["touching_faces"])
    assert "map" not in found


@given(seeds, small_shapes, block_shapes, st.sampled_from([(2.0, 2.0, 2.0), (3.0, 1.0, 2.0)]))
def test_the_map_by_blocks_equals_arc_tangents(seed, shape, blocks, size):
    labels = np.random.default_rng(seed).choice(4, shape, p=(0.4, 0.2, 0.1, 0.3)).astype(np.uint8)
    cylinder = cylinder_around(TILTED, shape, size, steps=5, sectors=12)
    # Moved a little, so that no face lies on an edge, where the last bit of the oracle would decide.
    cylinder = replace(cylinder, low_um=cylinder.low_um - 0.0123, step_um=cylinder.step_um * 1.0317)
    found = measure_by_blocks(surface_map(Roles(), cylinder, gaps_voxels=(0, 1)), (labels,), blocks)
    np.testing.assert_array_equal(found["map"], map_by_voxel(labels, cylinder))
    np.testing.assert_array_equal(found["map"].sum(axis=(0, 1)), found["touching_faces"][0].sum(axis=0))


@given(seeds, small_shapes, block_shapes, st.sampled_from([np.uint8, np.int8, np.uint16, np.int32]))
def test_the_compiled_loop_equals_array_functions(seed, shape, blocks, dtype):
    labels = np.random.default_rng(seed).choice(5, shape, p=(0.3, 0.2, 0.1, 0.3, 0.1)).astype(dtype)
    cylinder = cylinder_around(ALONG_Z, shape, (1.0, 1.0, 1.0), steps=6, sectors=8)
    measure = surface_map(Roles(), cylinder, gaps_voxels=(0, 1, 2))
    grid = Grid(shape, blocks)
    for number in range(len(grid)):
        block = measure.block(grid, number)
        found = measure.function(labels[block.read], block=block)
        same = count_by_masks(labels[block.read], block, Roles(), (0, 1, 2), bins(cylinder))
        for name, values in found.items():
            np.testing.assert_array_equal(values, same[name], err_msg=name)


def test_a_device_gives_the_same(device):
    labels = np.random.default_rng(3).choice(4, (12, 13, 14)).astype(np.uint8)
    cylinder = cylinder_around(TILTED, labels.shape, (1.0, 1.0, 1.0))
    measure = surface_map(Roles(), cylinder, gaps_voxels=(0, 1, 2))
    found = measure_by_blocks(measure, (labels,), (6, 13, 5), device)
    for name, values in measure_by_blocks(measure, (labels,), labels.shape).items():
        np.testing.assert_array_equal(found[name], values)


@given(seeds, small_shapes, block_shapes)
def test_the_surface_of_a_mask_has_the_voxels_that_contact_counts(seed, shape, blocks):
    mask = np.random.default_rng(seed).choice([0, 1, 3, 255], shape, p=(0.4, 0.2, 0.2, 0.2)).astype(np.uint8)
    found = measure_by_blocks(surface_map(Roles(None)), (mask,), blocks)
    expected = measure_by_blocks(surface_voxels(), (mask,), shape)["surface_voxels"]
    assert found["touching_voxels"][0].tolist() == [0, expected[0]]
    assert measure_by_blocks(surface_map(Roles(None)), (mask > 0,), blocks)["touching_voxels"][0, 1] == expected[0]


def test_one_voxel_of_implant_shows_six_faces_in_four_quarters():
    """Faces across y and x lie in the four directions across the axis; those across z in the axis itself."""
    labels = np.full((9, 11, 13), 0, np.uint8)
    labels[4, 5, 6] = 1
    labels[4, 5, 7] = 3  # bone towards x
    cylinder = cylinder_around(ALONG_Z, labels.shape, (1.0, 1.0, 1.0), steps=9, sectors=4)
    assert cylinder.along_um == [-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5, 4.5]
    assert cylinder.angle_deg == [0.0, 90.0, 180.0, 270.0, 360.0]
    found = measure_by_blocks(surface_map(Roles(), cylinder), (labels,), (9, 11, 13))["map"]
    # Step 4 holds -0.5 (the lower face across z) to 0.5 µm; the upper face lies at 0.5 and so in step 5.
    assert found[:, :, 0].nonzero() == (np.array([4]), np.array([0]))
    assert found[4, :, 1].tolist() == [1, 1, 1, 1]  # lower z face on the axis (sector 0), +y, -x, -y
    assert found[5, :, 1].tolist() == [1, 0, 0, 0]
    assert found.sum() == 6


def test_a_film_of_background_hides_bone_at_no_gap_only():
    """Implant, one, two or three voxels of background, bone: contact at a gap of 0, 1, 2."""
    line = np.array([[[1, 1, 0, 3, 3, 1, 1, 0, 0, 3, 3, 1, 1, 0, 0, 0, 3]]], np.uint8)
    found = measure_by_blocks(surface_map(gaps_voxels=(0, 1, 2)), (line,), (1, 1, 17))["touching_faces"].sum(axis=1)
    # The second and third implant have bone behind them; films of 1, 2 and 3 voxels lie before the three.
    assert found.tolist() == [[2, 3], [3, 2], [4, 1]]


@pytest.mark.parametrize("n", [4, 12, 36])
def test_sectors_divide_a_circle_evenly(n):
    cylinder = cylinder_around(ALONG_Z, (9, 200, 200), (1.0, 1.0, 1.0), sectors=n)
    angles = (np.arange(1000) + 0.5) / 1000 * 2 * np.pi
    # Doubled indices of places on a large circle around the axis: towards x, then towards y.
    places = np.stack([np.full(1000, 8.0), 10 + 1e5 * np.sin(angles), 12 + 1e5 * np.cos(angles)], axis=1)
    _, sector = bins_of(places, *bins(cylinder))
    np.testing.assert_array_equal(sector, np.floor(angles / (2 * np.pi) * n))


def test_wrong_roles_gaps_and_bins_are_refused():
    with pytest.raises(ValueError, match="must be different classes"):
        Roles((1, 3))
    with pytest.raises(ValueError, match="must be different classes"):
        Roles(())
    for gaps in ((), (-1,), (1, 1), (2, 0)):
        with pytest.raises(ValueError, match="gaps_voxels must be increasing distances of 0 or more"):
            surface_map(gaps_voxels=gaps)
    for steps, sectors in ((0, 8), (3, 6), (3, 0)):
        with pytest.raises(ValueError, match="sectors a multiple of 4"):
            cylinder_around(ALONG_Z, (5, 5, 5), (1.0, 1.0, 1.0), steps, sectors)
