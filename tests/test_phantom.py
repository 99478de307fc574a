"""The phantom: any region equals the crop of the whole, and what it shows is what its truth says."""

from __future__ import annotations

import dataclasses
import json
import pickle
from functools import cache

import numpy as np
import pytest
import scipy.ndimage
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.blocks import seeds
from tomoscale.errors import InputError
from tomoscale.geometry import Grid, whole
from tomoscale.phantom import (
    BACKGROUND,
    BONE,
    LAYER,
    METAL,
    Corrosion,
    Detector,
    Phantom,
    Screw,
    bone,
    bone_texture,
    model,
    voxels,
)
from tomoscale.phantom.random_fields import field_around

SHAPE = (72, 64, 80)


@cache
def texture() -> np.ndarray:
    """Walls of bone between marrow, with grain, of odd sizes."""
    rng = np.random.default_rng(5)
    smooth = scipy.ndimage.gaussian_filter(rng.normal(size=(41, 43, 38)), 4.0)
    values = np.where(smooth > np.median(smooth), 205.0, 30.0) + rng.normal(0, 12, smooth.shape)
    return values.clip(0, 255).astype(np.uint8)


@cache
def sample(seed: int = 0) -> tuple[Phantom, np.ndarray, np.ndarray, np.ndarray]:
    phantom = Phantom(SHAPE, seed, texture=texture())
    region = whole(SHAPE)
    return phantom, phantom.grey(region), phantom.labels(region), phantom.reference(region)


def spans(length: int) -> st.SearchStrategy[slice]:
    return st.tuples(st.integers(0, length), st.integers(0, length)).map(lambda p: slice(min(p), max(p)))


@given(region=st.tuples(*(spans(n) for n in SHAPE)))
def test_any_region_equals_the_crop_of_the_whole(region):
    phantom, grey, labels, reference = sample()
    np.testing.assert_array_equal(phantom.grey(region), grey[region])
    np.testing.assert_array_equal(phantom.labels(region), labels[region])
    np.testing.assert_array_equal(phantom.reference(region), reference[region])


@given(
    seed=seeds,
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    block_shape=st.tuples(*[st.integers(1, 9)] * 3),
    voxel_size=st.tuples(*[st.sampled_from([1.0, 2.76, 5.0])] * 3),
)
def test_blocks_equal_the_whole_for_every_seed_shape_and_voxel_size(seed, shape, block_shape, voxel_size):
    phantom = Phantom(shape, seed, voxel_size, texture=texture())
    for array in (phantom.scan, phantom.truth, phantom.screw):
        result = np.empty(shape, array.dtype)
        for region in list(Grid(shape, block_shape))[:200]:
            result[region] = array.read(region)
        done = np.zeros(shape, bool)
        for region in list(Grid(shape, block_shape))[:200]:
            done[region] = True
        np.testing.assert_array_equal(result[done], array.read(whole(shape))[done])


def test_a_volume_of_ten_to_the_twelve_voxels_is_read_anywhere():
    phantom = Phantom((10_000,) * 3, 3, texture=texture())
    region = (slice(4_990, 5_010), slice(2_290, 2_330), slice(4_990, 5_030))
    part = (slice(4_995, 5_003), slice(2_301, 2_302), slice(5_000, 5_030))
    inner = tuple(slice(p.start - r.start, p.stop - r.start) for p, r in zip(part, region, strict=True))
    np.testing.assert_array_equal(phantom.grey(part), phantom.grey(region)[inner])
    np.testing.assert_array_equal(phantom.labels(part), phantom.labels(region)[inner])


def test_the_seed_alone_decides():
    phantom, grey, labels, _ = sample()
    again = Phantom(SHAPE, 0, texture=texture())
    other, other_grey, other_labels, _ = sample(1)
    np.testing.assert_array_equal(again.grey(whole(SHAPE)), grey)
    assert again.scan.identity() == phantom.scan.identity()
    assert other.scan.identity() != phantom.scan.identity()
    assert (other_grey != grey).mean() > 0.9
    assert (other_labels != labels).mean() > 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_classes_have_plausible_shares(seed):
    _, _, labels, reference = sample(seed)
    share = np.bincount(labels.ravel(), minlength=4) / labels.size
    assert len(share) == 4
    assert 0.04 < share[METAL] < 0.2
    assert 0.02 < share[LAYER] < 0.2
    assert 0.1 < share[BONE] < 0.7
    assert share[BACKGROUND] > 0.1
    assert 0.08 < reference.mean() < 0.3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_residual_metal_lies_inside_the_reference_and_is_less(seed):
    _, _, labels, reference = sample(seed)
    assert not ((labels == METAL) & (reference == 0)).any()
    assert 0.05 < 1 - (labels == METAL).sum() / reference.sum() < 0.8
    grown = (labels == LAYER) & (reference == 0)
    assert grown.any(), "the layer grows over the old surface somewhere"


def test_no_corrosion_leaves_the_reference():
    corrosion = Corrosion(depth=0.0, roughness=0.0, growth=0.0)
    phantom = Phantom((40, 40, 40), 4, texture=texture(), corrosion=corrosion)
    region = whole(phantom.shape)
    np.testing.assert_array_equal(phantom.labels(region) == METAL, phantom.reference(region) == 1)
    assert not (phantom.labels(region) == LAYER).any()


def test_deeper_corrosion_leaves_less_metal():
    left = [
        (Phantom((40,) * 3, 4, texture=texture(), corrosion=Corrosion(depth=d)).labels(whole((40,) * 3)) == METAL).sum()
        for d in (0.05, 0.1, 0.2, 0.3)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1]


@pytest.mark.parametrize("seed", [0, 1])
def test_cracks_run_through_the_layer(seed):
    phantom = Phantom((96, 96, 96), seed, texture=texture())
    labels = phantom.labels(whole(phantom.shape))
    implant = (labels == METAL) | (labels == LAYER)
    closed = scipy.ndimage.binary_closing(implant, iterations=2)
    cracks = closed & (labels == BACKGROUND)
    pieces, n = scipy.ndimage.label(cracks)
    assert n > 5
    assert np.bincount(pieces.ravel())[1:].max() > 20
    assert 0.005 < cracks.sum() / (labels == LAYER).sum() < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bone_touches_part_of_the_implant(seed):
    _, _, labels, _ = sample(seed)
    implant = (labels == METAL) | (labels == LAYER)
    bone = other = 0
    for axis in range(3):
        for step in (1, -1):
            near = np.roll(labels, step, axis)
            faces = implant & (near != METAL) & (near != LAYER)
            bone += (faces & (near == BONE)).sum()
            other += (faces & (near == BACKGROUND)).sum()
    assert 0.02 < bone / (bone + other) < 0.9


@pytest.mark.parametrize("seed", [0, 1])
def test_grey_levels_are_ordered_as_documented(seed):
    phantom, grey, labels, _ = sample(seed)
    deep = [grey[scipy.ndimage.binary_erosion(labels == c)].mean() for c in (BACKGROUND, METAL, LAYER, BONE)]
    assert deep == sorted(deep)
    levels = phantom.detector
    assert abs(deep[1] - levels.metal) < 1000
    assert abs(deep[2] - levels.layer) < 2500
    assert abs(deep[3] - levels.bone) < 2500
    # Layer and bone overlap: their levels are nearer than the layer's own spread and the noise together.
    assert deep[3] - deep[2] < 3 * (grey[labels == LAYER].std())


def test_noise_has_the_declared_width():
    quiet, loud = (
        Phantom((48,) * 3, 1, texture=texture(), detector=Detector(noise=s, rings=0.0)).grey(whole((48,) * 3))
        for s in (0.0, 1000.0)
    )
    difference = loud.astype(float) - quiet
    assert abs(difference.std() - 1000) < 60
    # 2 * 4 of the squared weights 4**2 + 6 are shared by neighbours.
    along = (difference[1:] * difference[:-1]).mean() / difference.var()
    assert abs(along - 8 / 22) < 0.06


def test_rings_lie_around_the_middle():
    size = 61
    with_rings, without = (
        Phantom((4, size, size), 1, texture=texture(), detector=Detector(noise=0.0, rings=r)).grey(
            whole((4, size, size))
        )
        for r in (9000.0, 0.0)
    )
    rings = with_rings.astype(int) - without
    assert np.abs(rings).max() > 1000
    for turned in (rings[:, ::-1], rings[:, :, ::-1], rings.transpose(0, 2, 1)):
        assert np.abs(rings - turned).max() <= 1


def test_the_thread_has_its_radii_and_pitch():
    screw = Screw(20.0, 5.0, 10.0, start_um=-1e3, end_um=1e3, head_um=0.0, centre_um=(30.0, 30.0))
    phantom = Phantom((40, 60, 60), 0, (1.0, 1.0, 1.0), texture=texture(), implant=screw)
    reference = phantom.reference(whole(phantom.shape))
    np.testing.assert_array_equal(reference[:30], reference[10:])
    radii = np.hypot(*(np.indices((60, 60)) + 0.5 - 30.0))
    assert radii[reference.any(axis=0)].max() <= 20.0
    assert radii[~reference.all(axis=0)].min() >= 15.0 - 1e-9
    # Between core and outer radius the profile keeps 0.44 of the pitch on average.
    shell = (radii > 15) & (radii < 20)
    assert abs(reference[:, shell].mean() - 0.44) < 0.06


def test_the_angle_is_that_of_atan2():
    angles = np.linspace(-np.pi, np.pi, 1001)[1:-1]
    turns = [model._turn.py_func(3 * np.sin(a), 3 * np.cos(a)) for a in angles]
    np.testing.assert_allclose(turns, angles / (2 * np.pi), atol=3e-4)


def test_smooth_fields_have_unit_variance():
    phantom = Phantom((64, 64, 64), 8, texture=texture())
    assert list(phantom._scales_um)[voxels.GRAIN] == "grain"
    assert len(phantom._scales_um) == voxels.N_FIELDS
    field = field_around(phantom._key("any"), whole((64, 64, 64)), (2.5, 2.5, 2.5))
    spline = scipy.ndimage.zoom(field.values, 4, order=1)
    assert spline.shape[0] > 64
    assert abs(field.values.mean()) < 0.1


def test_arrays_pickle_and_describe_themselves():
    phantom, *_ = sample()
    region = (slice(3, 9), slice(0, 64), slice(5, 6))
    for array, dtype in ((phantom.scan, np.uint16), (phantom.truth, np.uint8), (phantom.screw, np.uint8)):
        again = pickle.loads(pickle.dumps(array))
        assert again.dtype == dtype
        assert again.shape == SHAPE
        assert all(c <= n for c, n in zip(array.chunk_shape, SHAPE, strict=True))
        np.testing.assert_array_equal(again.read(region), array.read(region))
        assert json.loads(json.dumps(array.identity())) == json.loads(json.dumps(again.identity()))
    assert len({json.dumps(a.identity()) for a in (phantom.scan, phantom.truth, phantom.screw)}) == 3
    assert "scan" in phantom.scan.name
    assert [a.kind for a in (phantom.scan, phantom.truth, phantom.screw)] == ["grey", "labels", "mask"]


def test_slices_equal_the_scan(tmp_path):
    phantom = Phantom((11, 20, 24), 2, texture=texture())
    folder = phantom.write_slices(tmp_path / "scan", slab=4, threads=2)
    paths = sorted(folder.iterdir())
    assert [p.name for p in paths] == [f"scan_{z:05d}.tif" for z in range(11)]
    np.testing.assert_array_equal(np.stack([tifffile.imread(p) for p in paths]), phantom.grey(whole(phantom.shape)))
    with pytest.raises(InputError, match="holds TIFF files already"):
        phantom.write_slices(folder)
    with pytest.raises(ValueError, match="slab and threads must be at least 1"):
        phantom.write_slices(tmp_path / "other", slab=0)


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match=r"texture must be a \(z, y, x\) uint8 array, got 3 axes of float64"):
        Phantom(SHAPE, texture=np.zeros((2, 2, 2)))
    with pytest.raises(InputError, match="one grey level only"):
        Phantom((4, 4, 4), texture=np.zeros((2, 2, 2), np.uint8)).labels(whole((4, 4, 4)))
    with pytest.raises(ValueError, match="voxel_size_um must be three positive lengths"):
        Phantom(SHAPE, voxel_size_um=(1.0, 0.0, 1.0), texture=texture())
    with pytest.raises(ValueError, match="does not lie in the phantom's shape"):
        sample()[0].grey((slice(0, 73), slice(0, 1), slice(0, 1)))
    with pytest.raises(ValueError, match="thread_depth_um < radius_um"):
        dataclasses.replace(Screw.fitting(SHAPE, (5.0,) * 3), thread_depth_um=1e6)
    with pytest.raises(ValueError, match="start_um \\+ head_um < end_um"):
        dataclasses.replace(Screw.fitting(SHAPE, (5.0,) * 3), end_um=0.0)


def test_without_the_package_the_message_says_how_to_get_it(monkeypatch):
    bone_texture.cache_clear()
    monkeypatch.setattr(bone.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps qim3d"):
        Phantom(SHAPE)


def test_the_packages_texture_is_found(monkeypatch, tmp_path):
    (tmp_path / "qim3d" / "examples").mkdir(parents=True)
    (tmp_path / "qim3d" / "__init__.py").write_text("raise ImportError('not to be imported')")
    tifffile.imwrite(tmp_path / "qim3d" / "examples" / "bone_128x128x128.tif", texture())
    monkeypatch.syspath_prepend(tmp_path)
    bone_texture.cache_clear()
    region = (slice(0, 8), slice(0, 8), slice(0, 8))
    try:
        phantom = Phantom((32, 32, 32), 6)
        phantom.labels(region)
        assert len(pickle.dumps(phantom)) < 3000, "the package's texture does not travel"
        expected = Phantom((32, 32, 32), 6, texture=texture())
        np.testing.assert_array_equal(phantom.grey(region), expected.grey(region))
    finally:
        bone_texture.cache_clear()


def test_real_bone(real_data):
    bone = tifffile.imread(real_data / "qim3d_examples" / "bone_128x128x128.tif")
    phantom = Phantom((64, 64, 64), 0, texture=bone)
    labels = phantom.labels(whole(phantom.shape))
    assert set(np.unique(labels)) == {0, 1, 2, 3}
    pieces, n = scipy.ndimage.label(labels == BONE, np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes[sizes < 5].sum() < 0.02 * sizes.sum(), f"salt and pepper in {n} pieces"
