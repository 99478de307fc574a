"""Labels in space: bodies have the size and place they have in the sample, the nearer hides the farther, memory is bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tests.traced import Traced
from tomoscale.report import rendering
from tomoscale.report.rendering import View, render, view_onto

COLOURS = np.array([[0, 0, 0], [220, 30, 30], [30, 220, 30], [30, 30, 220]], np.uint8)
WHITE = 255


def ball(shape: tuple[int, int, int], cell: tuple[float, float, float], radius: float) -> np.ndarray:
    z, y, x = ((np.arange(n) + 0.5 - n / 2) * h for n, h in zip(shape, cell, strict=True))
    return z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2


def cubes(places: dict[int, tuple[int, int, int]], side: int = 24, size: int = 6) -> np.ndarray:
    """Cube of each label with its first corner at a place."""
    ranks = np.zeros((side,) * 3, np.uint8)
    for label, corner in places.items():
        ranks[tuple(slice(c, c + size) for c in corner)] = label
    return ranks


def middle_of(image: np.ndarray, channel: int) -> tuple[float, float]:
    """Row and column of the middle of the pixels of one of the pure colours."""
    strongest = (image.argmax(axis=2) == channel) & (np.ptp(image, axis=2) > 60)
    assert strongest.any()
    rows, columns = np.nonzero(strongest)
    return float(rows.mean()), float(columns.mean())


def drawn(ranks: np.ndarray, view: View, pixels: int = 200) -> np.ndarray:
    return render(ranks, (1.0, 1.0, 1.0), COLOURS, ranks > 0, view, pixels)[0]


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("cell", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 1.5, 3.0)])
def test_a_ball_is_a_disc_of_its_radius_in_the_middle(axis, cell):
    shape = tuple(round(48 / h) for h in cell)
    body = ball(shape, cell, 18.0)
    image, pixel = render(body.astype(np.uint8), cell, COLOURS, body, view_onto(axis), 240)
    disc = np.ptp(image, axis=2) > 20  # the frame and the ground are grey
    assert disc.sum() * pixel**2 == pytest.approx(np.pi * 18.0**2, rel=0.08 if max(cell) > 1 else 0.025)
    rows, columns = np.nonzero(disc)
    assert rows.mean() == pytest.approx((image.shape[0] - 1) / 2, abs=2)
    assert columns.mean() == pytest.approx((image.shape[1] - 1) / 2, abs=2)


@pytest.mark.parametrize("axis", [1, 2])
def test_a_view_is_not_mirrored(axis):
    view = view_onto(axis)
    axes = np.stack([view.right, view.down, view.forward])
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    # Right, down, away is right-handed for a reader, and so are x, y, z: reversed, as they are here, they are left-handed.
    assert np.linalg.det(axes) == pytest.approx(-1)


def test_what_is_low_in_z_is_above_and_what_is_high_in_x_is_to_the_right():
    image = drawn(cubes({1: (2, 9, 2), 2: (16, 9, 2), 3: (16, 9, 16)}), view_onto(1))
    red, green, blue = (middle_of(image, c) for c in range(3))
    assert red[0] < green[0] - 40
    assert blue[1] > green[1] + 40


def test_seen_from_high_x_what_is_high_in_y_is_to_the_left():
    image = drawn(cubes({1: (9, 2, 9), 2: (9, 16, 9)}), view_onto(2))
    assert middle_of(image, 1)[1] < middle_of(image, 0)[1] - 40


@pytest.mark.parametrize("axis", [1, 2])
def test_the_nearer_body_hides_the_farther(axis):
    ranks = np.zeros((24, 24, 24), np.uint8)
    wall = [slice(None)] * 3
    for label, place in ((1, slice(0, 4)), (2, slice(20, 24))):
        wall[axis] = place
        ranks[tuple(wall)] = label
    image = drawn(ranks, view_onto(axis))
    green, red = ((image.argmax(axis=2) == c) & (np.ptp(image, axis=2) > 20) for c in (1, 0))
    assert green.sum() > 1.4 * red.sum()  # of the far wall, only what stands out at the sides is seen
    assert image[image.shape[0] // 2, image.shape[1] // 2].argmax() == 1


def test_light_comes_from_the_upper_left():
    body = ball((40, 40, 40), (1.0, 1.0, 1.0), 15.0)
    image = drawn(body.astype(np.uint8), view_onto(1), 160).astype(int)
    middle = np.array(image.shape[:2]) // 2
    lit, dark = (image[middle[0] + way * 28, middle[1] + way * 28, 0] for way in (-1, 1))
    assert lit > dark + 40


def test_without_bodies_only_the_frame_is_drawn():
    image = drawn(np.zeros((9, 10, 11), np.uint8), view_onto(1), 100)
    assert set(np.unique(image)) == {rendering._FRAME_GREY, WHITE}
    edges = (image == rendering._FRAME_GREY).all(axis=2)
    assert 300 < edges.sum() < 1200
    assert image.shape[:2] == (100, 100) or max(image.shape[:2]) == 100


def test_a_sheet_of_one_cell_is_not_lost():
    ranks = np.zeros((20, 20, 20), np.uint8)
    ranks[:, 10] = 1
    image = drawn(ranks, view_onto(1))
    assert (np.ptp(image, axis=2) > 20).mean() > 0.3


def test_how_many_rays_are_followed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    ranks = np.random.default_rng(1).choice(np.array([0, 0, 0, 1, 2, 3], np.uint8), (12, 13, 14))
    first = drawn(ranks, view_onto(2), 60)
    monkeypatch.setattr(rendering, "RAYS_AT_ONCE", 97)
    np.testing.assert_array_equal(drawn(ranks, view_onto(2), 60), first)


@given(seed=seeds, shape=st.tuples(*[st.integers(2, 40)] * 3), solid=st.integers(0, 3))
def test_a_ray_that_skips_bricks_passes_no_surface(seed, shape, solid):
    rng = np.random.default_rng(seed)
    field = np.zeros(shape, np.float32)
    places = np.stack([rng.integers(0, n, solid) for n in shape])
    field[tuple(places)] = 1
    free = rendering._free_bricks(field)
    for brick in np.ndindex(free.shape):
        low = np.array(brick) * rendering._BRICK
        high = low + rendering._BRICK - 1
        # Cells between the brick and each solid cell, along the axis where they are farthest apart.
        gaps = np.maximum(np.maximum(low[:, None] - places, places - high[:, None]), 0).max(axis=0)
        assert free[brick] * rendering._BRICK <= gaps.min(initial=10**6)


def test_memory_is_that_of_the_labels_and_one_field():
    side = 192
    with Traced() as traced:
        ranks = np.zeros((side,) * 3, np.uint8)
        ranks[:, : side // 2] = 3
        ranks[20:-20, 60:130, 60:130] = 1
        render(ranks, (5.0, 5.0, 5.0), COLOURS, ranks > 0, view_onto(1))
    assert traced.peak_bytes < 64 * 2**20
