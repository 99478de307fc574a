from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import block_shapes, map_by_blocks, map_whole, seeds
from tests.networks.random import card, random_network
from tests.traced import Traced
from tomoscale.errors import InputError
from tomoscale.geometry import Grid
from tomoscale.kernels import network as module
from tomoscale.kernels import tiles as tiles_module
from tomoscale.kernels.network import TORCH_BYTES, Runtime, inference
from tomoscale.kernels.scaling import Scaling
from tomoscale.networks.bundle import load_bundle, save_bundle

shapes = st.tuples(st.integers(1, 4), st.integers(1, 45), st.integers(1, 45))
blocks = st.tuples(st.integers(1, 4), st.integers(7, 50), st.integers(7, 50))
NETWORKS = {"depth 1": (1, 3, 2), "depth 2": (2, 2, 2), "depth 3": (3, 2, 2), "volume": (1, 2, 3)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, (depth, width, dimensions) in NETWORKS.items():
        save_bundle(folder / name, random_network(depth, width, seed=1, dimensions=dimensions), card())
    return {name: load_bundle(folder / name) for name in NETWORKS}


def grey(shape, seed):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def agreement(first, second, values):
    """Share of voxels that two kernels give the same label."""
    return (map_whole(first, values) == map_whole(second, values)).mean()


def logits_of_whole(bundle, values):
    """Whole slices at once, or the whole volume: (classes, Z, Y, X)."""
    steps = (1,) * (3 - bundle.dimensions) + bundle.reach.stride
    padded = np.pad(values, [(0, -n % s) for n, s in zip(values.shape, steps, strict=True)])
    tensor = torch.from_numpy(padded)
    with torch.inference_mode():
        network = bundle.network()
        logits = network(tensor[:, None]).transpose(0, 1) if bundle.dimensions == 2 else network(tensor[None, None])[0]
    return logits[(slice(None), *(slice(0, n) for n in values.shape))].numpy()


def assert_labels_of(logits, labels):
    """Labels are the first largest logit, but for ties within the rounding of float32."""
    best = np.sort(logits, axis=0)
    near_tie = best[-1] - best[-2] < 1e-4 * np.abs(logits).max()
    np.testing.assert_array_equal(labels[~near_tie], logits.argmax(0)[~near_tie])
    assert near_tie.mean() < 0.05 or near_tie.size < 400


@pytest.mark.parametrize("name", list(NETWORKS))
@given(seed=seeds, shape=shapes, block_shape=blocks, tiles=st.tuples(*(st.integers(1, 5),) * 3))
@settings(max_examples=12)
def test_labels_by_blocks_are_those_of_the_whole(bundles, name, seed, shape, block_shape, tiles):
    bundle, values = bundles[name], grey(shape, seed)
    stride = (1,) * (3 - bundle.dimensions) + bundle.reach.stride
    tile_shape = tuple(n * s for n, s in zip(tiles, stride, strict=True))
    kernel = inference(bundle, shape, tile_shape=tile_shape)
    labels = map_whole(kernel, values)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, block_shape), labels)
    assert_labels_of(logits_of_whole(bundle, values), labels)


@given(seed=seeds, shape=st.tuples(*(st.integers(1, 12),) * 3), block_shape=block_shapes)
@settings(max_examples=10)
def test_small_slices_are_one_tile_for_every_block(bundles, seed, shape, block_shape):
    bundle, values = bundles["depth 2"], grey(shape, seed)
    kernel = inference(bundle, shape)
    labels = map_whole(kernel, values)
    np.testing.assert_array_equal(map_by_blocks(kernel, values, block_shape), labels)
    np.testing.assert_array_equal(labels, np.concatenate([logits_of_whole(bundle, v[None]).argmax(0) for v in values]))


@pytest.mark.parametrize("output", ["class 0", "class 2"])
def test_probabilities_have_the_same_bits_for_every_block(bundles, output):
    bundle, values = bundles["depth 1"], grey((3, 37, 41), 5)
    kernel = inference(bundle, values.shape, tile_shape=(2, 12, 16), output=output)
    shares = map_whole(kernel, values)
    for block_shape in ((1, 7, 9), (3, 37, 10), (2, 12, 16)):
        np.testing.assert_array_equal(map_by_blocks(kernel, values, block_shape), shares)
    expected = torch.from_numpy(logits_of_whole(bundle, values)).softmax(0)[int(output[-1])]
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_margin_one_stride_short_is_not_exact(bundles, side):
    bundle, values = bundles["depth 1"], grey((1, 64, 64), 0)
    margin = getattr(bundle.reach, f"margin_{side}")
    short = replace(bundle.reach, **{f"margin_{side}": tuple(m - 2 for m in margin)})
    options = {"tile_shape": (1, 4, 4), "output": "class 1"}
    whole = map_whole(inference(bundle, values.shape, output="class 1"), values)
    exact = map_whole(inference(bundle, values.shape, **options), values)
    inexact = map_whole(inference(replace(bundle, reach=short), values.shape, **options), values)
    assert np.abs(exact - whole).max() < 1e-5 < np.abs(inexact - whole).max()


def test_worker_threads_do_not_change_the_bits(bundles):
    bundle, values = bundles["depth 3"], grey((4, 40, 40), 2)
    results = []
    for threads, at_once in ((1, 1), (2, 2), (2, 1)):
        torch.set_num_threads(threads)
        results.append(
            map_whole(inference(bundle, values.shape, output="class 1", runtime=Runtime(at_once=at_once)), values)
        )
    torch.set_num_threads(1)
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_ties_go_to_the_smallest_id():
    logits = torch.tensor([[1.0, 0.0], [1.0, 2.0], [0.0, 2.0]])
    assert module.first_largest(logits).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_grey_values_are_clipped_and_scaled_as_before_the_network(bundles, dtype):
    bundle = bundles["depth 2"]
    values = (grey((2, 21, 30), 3) * 200).astype(dtype)
    scaled = (np.clip(values, 20, 150).astype(np.float32) - np.float32(20)) / np.float32(130)
    labels = map_by_blocks(inference(bundle, values.shape, scaling=Scaling.between(20, 150)), values, (1, 8, 8))
    np.testing.assert_array_equal(labels, map_whole(inference(bundle, values.shape), scaled))


def test_the_kernel_pickles_small_and_works_in_a_fresh_process(bundles, tmp_path):
    values = grey((2, 30, 30), 4)
    kernel = inference(bundles["depth 1"], values.shape)
    message = pickle.dumps(kernel)
    assert len(message) < 4000
    (tmp_path / "kernel").write_bytes(message)
    np.save(tmp_path / "grey.npy", values)
    program = (
        "import pickle, sys, numpy as np; from pathlib import Path; from tomoscale.geometry import Grid\n"
        "folder = Path(sys.argv[1]); kernel = pickle.loads((folder / 'kernel').read_bytes())\n"
        "grey = np.load(folder / 'grey.npy'); block = kernel.block(Grid(grey.shape, grey.shape), 0, grey.shape)\n"
        "np.save(folder / 'labels.npy', kernel.apply(grey, block))\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), map_whole(kernel, values))


def test_the_kernel_does_not_depend_on_how_many_windows_run_at_once(bundles):
    one, two = (inference(bundles["depth 1"], (4, 30, 30), runtime=Runtime(at_once=n)) for n in (1, 2))
    assert one.parameters == two.parameters
    assert one.fixed_bytes < two.fixed_bytes


@pytest.mark.parametrize("tile_shape", [None, (1, 32, 32)])
def test_declared_memory_bounds_the_measured_peak(bundles, tile_shape):
    values = (grey((8, 128, 128), 1) * 1000).astype(np.uint16)
    kernel = inference(
        bundles["depth 1"],
        values.shape,
        scaling=Scaling.between(0, 1000),
        tile_shape=tile_shape,
        runtime=Runtime(at_once=1),
    )
    block = kernel.block(Grid(values.shape, values.shape), 0, values.shape)
    kernel.apply(values, block)
    with Traced() as traced:
        kernel.apply(values, block)
    assert traced.peak_bytes <= kernel.bytes_per_voxel * values.size + kernel.fixed_bytes - TORCH_BYTES + 50_000


def test_large_slices_are_tiled_and_small_ones_are_not(bundles, monkeypatch):
    bundle = bundles["depth 3"]
    assert inference(bundle, (5, 100, 90)).tile == (1, 104, 96)
    monkeypatch.setattr(tiles_module, "WHOLE_SLICE_BYTES", 1)
    assert inference(bundle, (5, 3000, 90)).tile == (1, 1024, 96)
    kernel = inference(bundle, (5, 3000, 90))
    assert kernel.halo.before == kernel.halo.after == (0, 48, 48)
    block = kernel.block(Grid((5, 3000, 90), (5, 1024, 90)), 1, (5, 3000, 90))
    assert block.read == (slice(0, 5), slice(1024 - 48, 2048 + 48), slice(0, 90))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_shape": (1, 30, 32)}, r"not a multiple of the network's stride \(1, 4, 4\) on axis y"),
        ({"tile_shape": (0, 32, 32)}, "on axis z"),
        ({"output": "bone"}, "must be 'labels' or one of the classes"),
    ],
)
def test_arguments_out_of_range_are_refused(bundles, options, message):
    with pytest.raises(ValueError, match=message):
        inference(bundles["depth 2"], (4, 100, 100), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scaling.between(3.0, 3.0), "increasing grey values"),
        (lambda: Scaling.between(0.0, float("nan")), "finite"),
        (lambda: Scaling(0.0, 0.0), "divisor > 0"),
        (lambda: Scaling(0.0, 1.0, 1.0), "two finite increasing"),
        (lambda: Runtime(backend="tensorflow"), "backend must be one of"),
        (lambda: Runtime(precision="int8"), "precision must be one of"),
    ],
)
def test_scalings_and_runtimes_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_backend_is_refused_with_the_way_out(bundles, monkeypatch):
    monkeypatch.setattr("tomoscale.networks.runtime.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install tomoscale\[openvino\], or use backend 'torch'"):
        Runtime(backend="openvino")


def test_values_no_network_can_label_are_refused(bundles):
    kernel = inference(bundles["depth 1"], (2, 20, 20))
    broken = grey((2, 20, 20), 0)
    broken[1, 3, 3] = np.nan
    with pytest.raises(InputError, match="z 1:2, y 0:20, x 0:20 hold NaN"):
        map_whole(kernel, broken)
    with pytest.raises(InputError, match="at most 32 bits, got float64"):
        map_whole(kernel, broken.astype(np.float64))
    with pytest.raises(ValueError, match="is for a volume of shape"):
        map_whole(kernel, grey((3, 20, 20), 0))


def test_openvino_agrees_with_torch_and_with_itself_by_blocks(bundles):
    pytest.importorskip("openvino")
    bundle, values = bundles["depth 2"], grey((3, 40, 50), 6)
    torch_kernel = inference(bundle, values.shape, tile_shape=(1, 16, 16))
    kernel = inference(bundle, values.shape, tile_shape=(1, 16, 16), runtime=Runtime(backend="openvino"))
    assert agreement(kernel, torch_kernel, values) > 0.999
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (2, 13, 11)), map_whole(kernel, values))


def test_bfloat16_agrees_for_most_voxels_even_with_random_weights(bundles):
    bundle, values = bundles["depth 1"], grey((2, 40, 50), 6)
    reduced = inference(bundle, values.shape, runtime=Runtime(precision="bfloat16"))
    assert 0.9 < agreement(reduced, inference(bundle, values.shape), values) <= 1
    np.testing.assert_array_equal(map_by_blocks(reduced, values, (1, 9, 50)), map_whole(reduced, values))


@pytest.mark.gpu
def test_labels_on_a_gpu_are_those_of_the_host(bundles):
    bundle, values = bundles["depth 2"], grey((3, 61, 50), 7)
    kernel = inference(bundle, values.shape, tile_shape=(2, 16, 32))
    labels = map_whole(kernel, values, "cuda")
    np.testing.assert_array_equal(map_by_blocks(kernel, values, (2, 13, 11), "cuda"), labels)
    assert_labels_of(logits_of_whole(bundle, values), labels)
