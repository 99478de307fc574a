from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import map_by_blocks, map_whole, seeds
from tests.networks.windowed import instance_net, mean_of_windows, reach_of, windowed_card
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels import window_sums
from tomoscale.kernels.grey_windows import ANSWERED
from tomoscale.kernels.network import TORCH_BYTES, Runtime
from tomoscale.kernels.scaling import Scaling
from tomoscale.kernels.window_sums import window_inference
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Windows
from tomoscale.segmentation.seams import Seams, joining

CASES = {
    "slices": (2, Windows((8, 8)), {}),
    "volume": (3, Windows((4, 6, 8), 0.5, "uniform", "logits", (0, 2)), {}),
    "probabilities": (2, Windows((6, 8), 0.75, "gaussian", "probabilities", (1,)), {}),
    "three slices": (2, Windows((8, 6)), {"in_slices": 3}),
    "slices across x": (2, Windows((6, 8), axes=(2, 0, 1), mirror_axes=(0,)), {}),
    "turned volume": (3, Windows((4, 6, 8), 0.5, "gaussian", "logits", (0, 1), (1, 2, 0)), {}),
    "regions": (3, Windows((4, 6, 8), regions=(2, 3, 1)), {}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, (dimensions, windows, arguments) in CASES.items():
        network = instance_net(3, dimensions=dimensions, **arguments)
        card = windowed_card(windows, 1 + max(windows.regions, default=2))
        save_bundle(folder / name, network, card, reach_of(dimensions))
    return {name: load_bundle(folder / name) for name in CASES}


def grey(shape, seed):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def expected_of(bundle, values):
    slices, axes = bundle.arguments["in_slices"], bundle.card.windows.axes
    mean = mean_of_windows([bundle.network()], values.transpose(axes), bundle.card.windows, slices)
    return mean.transpose(0, *(1 + axes.index(axis) for axis in range(3)))


def assert_labels_of(mean, labels, regions=()):
    if regions:
        near_tie = (np.abs(mean) < 2e-5).any(0)
        expected = np.zeros(labels.shape, np.uint8)
        for output, written in zip(mean, regions, strict=True):
            expected[output > 0] = written
        np.testing.assert_array_equal(labels[~near_tie], expected[~near_tie])
        return
    best = np.sort(mean, axis=0)
    near_tie = best[-1] - best[-2] < 2e-5
    np.testing.assert_array_equal(labels[~near_tie], mean.argmax(0)[~near_tie])
    assert near_tie.mean() < 0.02 or near_tie.size < 200


def two_passes(bundle, values, block_shape, folder, output="labels"):
    """Both passes on a plain array: labels of the own windows and files of seams, then what they become together."""
    plain = window_inference(bundle, values.shape)
    grid = Grid(values.shape, block_shape)
    seams = Seams(str(folder), plain.function.grid, grid, whole=output != "labels")
    first = window_inference(bundle, values.shape, hand_over=seams)
    provisional, computed = np.empty(values.shape, np.uint8), 0
    for number in range(len(grid)):
        block = first.block(grid, number, values.shape)
        provisional[block.write], counts = first.apply_counting(values[block.read], block)
        computed += int(counts["windows"][0])
    assert computed == len(plain.function.grid)
    return map_by_blocks(joining(seams, bundle, output, None, {}), provisional, block_shape)


@pytest.mark.parametrize("name", list(CASES))
@given(
    seed=seeds,
    shape=st.tuples(st.integers(1, 9), st.integers(1, 22), st.integers(1, 22)),
    block_shape=st.tuples(st.integers(1, 6), st.integers(3, 15), st.integers(3, 15)),
)
@settings(max_examples=10)
def test_two_passes_by_blocks_give_the_bits_of_the_whole(bundles, name, seed, shape, block_shape, tmp_path_factory):
    bundle, values = bundles[name], grey(shape, seed)
    labels = map_whole(window_inference(bundle, shape), values)
    folder = tmp_path_factory.mktemp("seams")
    np.testing.assert_array_equal(two_passes(bundle, values, block_shape, folder), labels)
    np.testing.assert_array_equal(map_by_blocks(window_inference(bundle, shape), values, block_shape), labels)
    assert_labels_of(expected_of(bundle, values), labels, bundle.card.regions)


@pytest.mark.parametrize("name", ["slices across x", "turned volume"])
def test_other_axes_give_the_labels_of_the_volume_that_was_turned_by_hand(bundles, name, tmp_path):
    bundle, values = bundles[name], grey((8, 13, 17), 4)
    windows = bundle.card.windows
    plain = save_bundle(
        tmp_path / "plain",
        bundle.network(),
        windowed_card(replace(windows, axes=(0, 1, 2))),
        bundle.reach,
    )
    turned = np.ascontiguousarray(values.transpose(windows.axes))
    by_hand = map_whole(window_inference(plain, turned.shape), turned)
    back = by_hand.transpose([windows.axes.index(axis) for axis in range(3)])
    np.testing.assert_array_equal(map_whole(window_inference(bundle, values.shape), values), back)
    assert len(np.unique(back)) == 3


def test_regions_have_no_probability_of_a_class(bundles):
    with pytest.raises(ValueError, match="gives labels alone"):
        window_inference(bundles["regions"], (9, 9, 9), output="class 1")


def test_probabilities_of_regions_are_of_each_by_itself():
    sums = (np.array([-3000.0, -1.0, 0.0, 0.5, 40.0]).reshape(5, 1, 1, 1) * 2**19).astype(np.int32)
    found = window_sums.probabilities_of(sums, Windows((4, 4), regions=(1, 2, 3, 4, 5)))
    expected = torch.sigmoid(torch.from_numpy(sums.astype(np.float64)) / 2**20).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32
    assert window_sums.labels_of(sums, (1, 2, 3, 5, 4)).item() == 4


@pytest.mark.parametrize("name", ["slices", "probabilities"])
def test_probabilities_have_the_same_bits_for_every_block(bundles, name, tmp_path):
    bundle, values = bundles[name], grey((3, 21, 19), 5)
    whole = map_whole(window_inference(bundle, values.shape, output="class 1"), values)
    for number, block_shape in enumerate(((1, 7, 9), (3, 21, 10), (2, 5, 19))):
        found = two_passes(bundle, values, block_shape, tmp_path / str(number), "class 1")
        np.testing.assert_array_equal(found, whole)
    mean = torch.from_numpy(expected_of(bundle, values))
    expected = mean if name == "probabilities" else mean.softmax(0)
    np.testing.assert_allclose(whole, expected[1], atol=3e-6)


def test_windows_in_threads_give_the_same_bits(bundles):
    bundle, values = bundles["volume"], grey((9, 14, 20), 2)
    one = map_whole(window_inference(bundle, values.shape, runtime=Runtime(at_once=1)), values)
    torch.set_num_threads(2)
    two = map_whole(window_inference(bundle, values.shape, runtime=Runtime(at_once=2)), values)
    torch.set_num_threads(1)
    np.testing.assert_array_equal(one, two)


def test_the_kernel_pickles_small_whatever_the_volume(bundles, tmp_path):
    kernel = window_inference(bundles["volume"], (9, 14, 100_000))
    blocks = Grid((9, 14, 100_000), (9, 14, 500))
    seams = Seams(str(tmp_path), kernel.function.grid, blocks, whole=False)
    assert kernel.function.grid.seam_voxels(blocks) > 0
    message = pickle.dumps(window_inference(bundles["volume"], (9, 14, 100_000), hand_over=seams))
    assert len(message) < 4000
    assert pickle.loads(message).function.grid.axes[2].starts.tolist() == kernel.function.grid.axes[2].starts.tolist()


@pytest.mark.parametrize("in_one_pass", [True, False])
def test_declared_memory_bounds_the_measured_peak(bundles, tmp_path, in_one_pass):
    values = (grey((24, 48, 64), 1) * 1000).astype(np.uint16)
    grid = window_inference(bundles["volume"], values.shape).function.grid
    blocks = Grid(values.shape, (12, 30, 64))
    seams = None if in_one_pass else Seams(str(tmp_path), grid, blocks, whole=False)
    scaling, runtime = Scaling.between(0, 1000), Runtime(at_once=1)
    kernel = window_inference(bundles["volume"], values.shape, scaling=scaling, runtime=runtime, hand_over=seams)
    block = kernel.block(blocks, 0, values.shape)
    given = np.ascontiguousarray(values[block.read])
    kernel.apply(given, block)
    with Traced() as traced:
        kernel.apply(given, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * given.size + kernel.fixed_bytes - TORCH_BYTES + 50_000


def test_openvino_agrees_with_torch_and_with_itself_by_blocks(bundles):
    pytest.importorskip("openvino")
    bundle, values = bundles["slices"], grey((2, 21, 19), 6)
    kernel = window_inference(bundle, values.shape, runtime=Runtime("openvino"))
    labels = map_whole(kernel, values)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (1, 9, 19)), labels)
    assert (labels == map_whole(window_inference(bundle, values.shape), values)).mean() > 0.99


@pytest.mark.gpu
def test_labels_on_a_gpu_are_those_of_the_host(bundles):
    bundle, values = bundles["volume"], grey((9, 14, 20), 7)
    kernel = window_inference(bundle, values.shape)
    labels = map_whole(kernel, values, "cuda")
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (4, 9, 11), "cuda"), labels)
    assert_labels_of(expected_of(bundle, values), labels)


def test_windows_of_one_value_are_computed_once_and_give_the_same_bits(bundles, monkeypatch):
    bundle, values = bundles["slices"], grey((4, 30, 30), 1)
    values[1:] = 0.25
    kernel = window_inference(bundle, values.shape)
    block = kernel.block(Grid(values.shape, values.shape), 0, values.shape)
    ANSWERED.kept.clear()
    computed = []
    mean = window_sums._WindowInference._mean
    monkeypatch.setattr(window_sums._WindowInference, "_mean", lambda *a: computed.append(1) or mean(*a))
    labels, counts = kernel.apply_counting(values, block)
    each_slice = len(kernel.function.grid) // 4
    assert counts["windows"] == 4 * each_slice
    assert counts["constant_windows"] == 3 * each_slice
    assert len(computed) == each_slice + 1
    monkeypatch.setattr(window_sums, "only_value", lambda window: None)
    np.testing.assert_array_equal(kernel.apply(values, block), labels)


def test_differences_of_logits_beyond_the_range_count_as_its_end(bundles, monkeypatch):
    bundle, values = bundles["slices"], grey((1, 12, 12), 1)
    kernel = window_inference(bundle, values.shape)
    labels = map_whole(kernel, values)
    monkeypatch.setattr(window_sums, "start", lambda *a: ("cpu", (lambda v: bundle.network()(v) * 1e6,), 0))
    huge = map_whole(kernel, values)
    assert (huge == labels).mean() > 0.8


def test_logits_that_are_not_finite_are_refused(bundles, monkeypatch):
    bundle, values = bundles["slices"], grey((1, 12, 12), 1)
    monkeypatch.setattr(window_sums, "start", lambda *a: ("cpu", (lambda v: bundle.network()(v) * np.inf,), 0))
    with pytest.raises(InputError, match="gives NaN or infinity for the window at z, y, x"):
        map_whole(window_inference(bundle, values.shape), values)


def test_a_window_the_network_does_not_take_is_refused(bundles, tmp_path):
    from tests.networks.random import card, random_network

    bundle = save_bundle(tmp_path / "odd", random_network(2, 2), replace(card(), windows=Windows((9, 10))))
    with pytest.raises(InputError, match="does not take the windows of its card"):
        window_inference(bundle, (3, 30, 30))
