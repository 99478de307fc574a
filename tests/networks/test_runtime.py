"""Batches that a GPU has no memory for are computed in parts, with the same result; what no memory holds is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.blocks import map_by_blocks, map_whole
from tests.networks.random import card, random_network
from tomoscale.kernels.network import Runtime, inference
from tomoscale.networks import runtime
from tomoscale.networks.bundle import load_bundle, save_bundle


class ShortOfMemory(nn.Module):
    """Runs a network on as many slices at once as a GPU would have memory for."""

    def __init__(self, network: nn.Module, most: int) -> None:
        super().__init__()
        self.network = network
        self.most = most
        self.batches: list[int] = []

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(values))
        if len(values) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        # Slice by slice: the bits of a batch are a matter of the library, and not of this test.
        return torch.cat([self.network(v[None]) for v in values])


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 2000))
    monkeypatch.setattr(runtime._Torch, "__call__", runtime._Torch._compute_in_parts)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_a_batch_is_halved_until_it_fits(most):
    network = random_network(1, 2).eval().requires_grad_(False)
    values = torch.rand(7, 1, 12, 10)
    short = ShortOfMemory(network, most)
    found = runtime._Torch(short, "float32")(values)
    assert torch.equal(found, runtime._Torch(ShortOfMemory(network, 7), "float32")(values))
    assert sum(n for n in short.batches if n <= most) == 7
    assert max(short.batches) == 7


def test_a_single_window_that_does_not_fit_is_refused_with_the_way_out():
    with pytest.raises(MemoryError, match=r"the GPU has 1000 bytes free, too few for one window of \(12, 10\) voxels"):
        runtime._Torch(ShortOfMemory(nn.Identity(), 0), "float32")(torch.rand(4, 1, 12, 10))


def test_labels_are_the_same_however_often_memory_was_short(tmp_path, monkeypatch):
    bundle = load_bundle(save_bundle(tmp_path / "model", random_network(1, 2, seed=1), card()).path)
    values = np.random.default_rng(0).random((6, 20, 22), dtype=np.float32)
    kernel = inference(bundle, values.shape, tile_shape=(4, 12, 12), runtime=Runtime(at_once=1))
    prepare = runtime._prepare
    found = []
    for most in (6, 3, 1):
        short = []
        monkeypatch.setattr(
            runtime,
            "_prepare",
            lambda *how, most=most, short=short: (
                short.append(ShortOfMemory(prepare(*how).network, most)) or runtime._Torch(short[-1], "float32")
            ),
        )
        found.append(map_whole(kernel, values))
        assert any(n > most for s in short for n in s.batches) == (most < 4)
        np.testing.assert_array_equal(map_by_blocks(kernel, values, (5, 11, 22)), found[-1])
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


FORGETS = """
import gc, os, signal, sys
from tomoscale.networks import runtime
from tomoscale.networks.bundle import load_bundle
signal.signal(signal.SIGTERM, lambda *_: print("asked to stop"))
bundle = load_bundle(sys.argv[1])
for streams in (1, 2):
    runtime.forward_of(bundle, "openvino", "float32", "cpu", streams)
runtime._prepare.cache_clear()
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_are_heard_after_networks_were_forgotten(tmp_path):
    pytest.importorskip("openvino")
    save_bundle(tmp_path / "network", random_network(1, 2), card())
    done = subprocess.run(
        [sys.executable, "-c", FORGETS, str(tmp_path / "network")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "asked to stop\n")
