"""Faces, areas and bone-to-implant contact against brute force, cc3d and answers a person can check."""

from __future__ import annotations

import cc3d
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from tests.blocks import block_shapes, measure_by_blocks, seeds, small_shapes
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.measures import contact
from tomoscale.measures.contact import faces
from tomoscale.measures.touching import surface_voxels, touching_voxels

UNIT = (1.0, 1.0, 1.0)


def ball(radius: int, margin: int = 3) -> np.ndarray:
    """Squared distance of the voxels from the middle of a cube around a ball."""
    r = np.arange(-radius - margin, radius + margin + 1) ** 2
    return r[:, None, None] + r[:, None] + r


def faces_by_padding(labels: np.ndarray, valid: np.ndarray, n: int, background: bool) -> np.ndarray:
    """Faces with every voxel that is outside or not valid as id n, folded into class 0 or dropped."""
    padded = np.pad(np.where(valid, labels, n), 1, constant_values=n).astype(int)
    table = np.zeros((3, n + 1, n + 1), np.int64)
    for axis in range(3):
        lower, upper = np.delete(padded, -1, axis), np.delete(padded, 0, axis)
        np.add.at(table[axis], (lower, upper), 1)
    if background:
        table[:, :n, 0] += table[:, :n, n]
        table[:, 0, :n] += table[:, n, :n]
    return table[:, :n, :n]


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes, edge=st.sampled_from(["exclude", "background"]))
def test_faces_by_blocks_equal_the_whole(seed, shape, block_shape, edge):
    rng = np.random.default_rng(seed)
    labels, valid = rng.integers(0, 3, shape, dtype=np.uint8), rng.random(shape) < 0.8
    every = np.ones(shape, bool)
    counts = measure_by_blocks(faces(3, edge_faces=edge), (labels,), block_shape)["faces"]
    np.testing.assert_array_equal(counts, faces_by_padding(labels, every, 3, edge == "background"))
    counts = measure_by_blocks(faces(3, edge_faces=edge, valid=True), (labels, valid), block_shape)["faces"]
    np.testing.assert_array_equal(counts, faces_by_padding(labels, valid, 3, edge == "background"))


def test_faces_equal_those_of_cc3d(device):
    labels = np.random.default_rng(0).integers(0, 4, (20, 21, 70), dtype=np.uint8)
    counts = measure_by_blocks(faces(4), (labels,), (7, 8, 70), device)["faces"]
    theirs = cc3d.contacts(labels + 1, connectivity=6, surface_area=True, anisotropy=(3.0, 2.0, 1.0))
    area = contact.contact_area(counts, (3.0, 2.0, 1.0))
    for (a, b), value in theirs.items():
        assert area[a - 1, b - 1] == value


def test_two_half_cubes_touch_on_four_square_micrometres():
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[1] = 1
    counts = measure_by_blocks(faces(2), (labels,), (1, 1, 1))["faces"]
    area = contact.contact_area(counts, (2.0, 1.0, 1.0))
    np.testing.assert_array_equal(area, [[0.0, 4.0], [4.0, 0.0]])


def test_a_closed_cube_has_six_sides_towards_the_outside():
    labels = np.ones((3, 3, 3), np.uint8)
    counts = measure_by_blocks(faces(2, edge_faces="background"), (labels,), (2, 2, 2))["faces"]
    assert contact.contact_area(counts, UNIT)[0, 1] == 6 * 9
    excluded = measure_by_blocks(faces(2), (labels,), (2, 2, 2))["faces"]
    assert contact.contact_area(excluded, UNIT)[0, 1] == 0


@pytest.mark.parametrize(("around", "expected"), [(3, 1.0), (0, 0.0)])
def test_contact_of_an_implant_in_solid_bone_is_one_and_in_air_none(around, expected):
    squared = ball(8)
    labels = np.where(squared <= 36, 1, np.where(squared <= 64, 2, around)).astype(np.uint8)
    assert contact.bic_faces(measure_by_blocks(faces(4), (labels,), (5, 6, 7))["faces"], UNIT) == expected
    assert contact.bic_voxels(measure_by_blocks(touching_voxels(), (labels,), (5, 6, 7))) == expected


def test_random_one_voxel_gap_on_a_flat_wall_halves_the_contact():
    labels = np.zeros((4, 200, 200), np.uint8)
    labels[:2], labels[2], labels[3] = 1, np.where(np.random.default_rng(0).random((200, 200)) < 0.5, 3, 0), 3
    counts = measure_by_blocks(faces(4), (labels,), (2, 90, 200))["faces"]
    expected = (labels[2] == 3).mean()
    assert contact.bic_faces(counts, UNIT) == expected
    assert expected == pytest.approx(0.497, abs=0.01)
    bridged = measure_by_blocks(touching_voxels(gap_voxels=1), (labels,), (2, 90, 200))
    assert contact.bic_voxels(bridged) == 1.0


def test_film_of_one_voxel_around_a_ball_parts_it_from_the_bone_unless_the_gap_is_bridged():
    # Voxel centres R + 1 away: the film is one voxel thick along the axes, and closed.
    squared = ball(20)
    labels = np.where(squared <= 400, 1, np.where(squared <= 21.5**2, 0, 3)).astype(np.uint8)
    none = measure_by_blocks(touching_voxels(), (labels,), (16, 16, 47))
    some = measure_by_blocks(touching_voxels(gap_voxels=1), (labels,), (16, 16, 47))
    full = measure_by_blocks(touching_voxels(gap_voxels=2), (labels,), (16, 16, 47))
    assert contact.bic_voxels(none) < 0.1
    assert contact.bic_voxels(none) < contact.bic_voxels(some) <= contact.bic_voxels(full) == 1.0
    assert none["touching_voxels"][1] == some["touching_voxels"][1] == full["touching_voxels"][1]


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes, gap=st.integers(0, 2))
def test_touching_voxels_by_blocks_equal_brute_force(seed, shape, block_shape, gap):
    rng = np.random.default_rng(seed)
    labels, valid = rng.choice(4, shape, p=[0.4, 0.3, 0.2, 0.1]).astype(np.uint8), rng.random(shape) < 0.9
    counts = measure_by_blocks(touching_voxels(gap_voxels=gap, valid=True), (labels, valid), block_shape)
    implant, bone, air = (np.isin(labels, c) & valid for c in ((1, 2), 3, 0))
    if bone.any():
        bone = bone | air & (ndimage.distance_transform_edt(~bone) <= gap)
    air = air & ~bone
    cross = ndimage.generate_binary_structure(3, 1)
    near = [implant & ndimage.binary_dilation(m, cross) for m in (bone, bone | air)]
    np.testing.assert_array_equal(counts["touching_voxels"], [n.sum() for n in near])
    for axis in range(3):
        for k, other in enumerate((bone, air)):
            low, high = np.delete(implant, -1, axis), np.delete(implant, 0, axis)
            met = (low & np.delete(other, 0, axis)).sum() + (high & np.delete(other, -1, axis)).sum()
            assert counts["touching_faces"][axis, k] == met


def test_faces_from_both_measures_give_one_contact():
    labels = np.random.default_rng(5).integers(0, 4, (9, 10, 11), dtype=np.uint8)
    touching = measure_by_blocks(touching_voxels(), (labels,), (4, 4, 4))
    counts = measure_by_blocks(faces(4), (labels,), (4, 4, 4))["faces"]
    size = (2.0, 1.0, 0.5)
    assert contact.bic_touching_faces(touching, size) == pytest.approx(contact.bic_faces(counts, size), rel=1e-12)


@given(seed=seeds, shape=small_shapes, block_shape=block_shapes)
def test_surface_voxels_equal_mask_minus_erosion(seed, shape, block_shape):
    mask = np.random.default_rng(seed).random(shape) < 0.8
    counts = measure_by_blocks(surface_voxels(), (mask,), block_shape)
    # Outside the volume counts as inside the object: a cut is no surface.
    assert counts["surface_voxels"][0] == (mask & ~ndimage.binary_erosion(mask, border_value=1)).sum()
    labels = np.where(mask, 2, 3).astype(np.uint8)
    assert measure_by_blocks(surface_voxels((2,)), (labels,), block_shape) == counts


def test_surface_voxels_of_a_ball_are_the_published_fraction_of_its_area(device):
    mask = ball(40) <= 1600
    counts = measure_by_blocks(surface_voxels(), (mask,), (30, 40, 87), device)
    area = contact.surface_area_of_voxels(counts, (5.0, 5.0, 5.0))
    assert area / (4 * np.pi * (40 * 5.0) ** 2) == pytest.approx(0.8166, abs=5e-5)
    box = measure_by_blocks(faces(2), (mask,), (30, 40, 87))["faces"]
    assert contact.contact_area(box, UNIT)[0, 1] / (4 * np.pi * 1600) == pytest.approx(1.4995, abs=5e-5)


def test_invalid_voxels_are_no_neighbours():
    mask = np.ones((1, 1, 3), np.uint8)
    mask[0, 0, 2] = 0
    valid = np.array([[[1, 1, 0]]], np.uint8)
    assert measure_by_blocks(surface_voxels(valid=True), (mask, valid), (1, 1, 1))["surface_voxels"][0] == 0
    assert measure_by_blocks(surface_voxels(), (mask,), (1, 1, 1))["surface_voxels"][0] == 1


def test_surface_area_of_voxels_that_are_no_cubes_is_refused():
    with pytest.raises(ValueError, match="is not the same along z, y, x"):
        contact.surface_area_of_voxels({"surface_voxels": np.array([5])}, (2.0, 1.0, 1.0))


def test_degradation_rate_of_a_shrunk_ball_has_its_closed_form():
    # R = 60 to r = 50 voxels of 5 µm in 6 weeks: with the true area it is (R³ - r³) / (3 R²) voxels.
    big, small = 4 / 3 * np.pi * 300.0**3, 4 / 3 * np.pi * 250.0**3
    rate = contact.degradation_rate(big, small, 4 * np.pi * 300.0**2, "6 weeks")
    assert rate == pytest.approx((60**3 - 50**3) / (3 * 60**2) * 5e-3 / (42 / 365.25), rel=1e-12)
    assert contact.degradation_rate(small, big, 1.0, 42) < 0
    with pytest.raises(ValueError, match="surface_area_um2 must be above 0"):
        contact.degradation_rate(big, small, 0.0, 42)


@pytest.mark.parametrize(("time", "days"), [("6 weeks", 42), ("10 days", 10), (12.5, 12.5), ("1 year", 365.25)])
def test_healing_time_is_read_with_its_unit(time, days):
    assert contact.healing_days(time) == days


@pytest.mark.parametrize(
    ("time", "message"), [("6 moons", "is not understood"), ("6 months", "no certain length"), (0, "must be above 0")]
)
def test_healing_time_that_is_none_is_refused(time, message):
    with pytest.raises(ValueError, match=message):
        contact.healing_days(time)


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="must be different classes"):
        touching_voxels((1, 3), 3)
    with pytest.raises(ValueError, match="gap_voxels must be 0 or more"):
        touching_voxels(gap_voxels=-1)
    with pytest.raises(ValueError, match="edge_faces must be"):
        faces(4, edge_faces="reflect")
    with pytest.raises(ValueError, match="classes is empty"):
        surface_voxels(())
    labels = np.zeros((2, 2, 2), np.uint8)
    labels[1, 1, 1] = 4
    with pytest.raises(InputError, match="labels holds the label 4 at z 1, y 1, x 1"):
        measure_by_blocks(faces(4), (labels,), (1, 1, 1))


@pytest.mark.parametrize(
    "measure",
    [
        faces(4),
        faces(4, valid=True),
        touching_voxels(),
        touching_voxels(gap_voxels=2, valid=True),
        surface_voxels(),
        surface_voxels((1, 2), valid=True),
    ],
    ids=lambda m: f"{m.name} {len(m.inputs)}",
)
def test_declared_memory_bounds_the_measured(measure):
    labels = np.random.default_rng(0).integers(0, 4, (48, 48, 64), dtype=np.uint8)
    volumes = (labels, labels != 9)[: len(measure.inputs)]
    measure_by_blocks(measure, volumes, labels.shape)
    with Traced() as traced:
        measure_by_blocks(measure, volumes, labels.shape)
    assert traced.peak_bytes <= measure.bytes_per_voxel * labels.size + 50_000
