"""A run on a GPU gives what the same run on the host gives, and CuPy and torch live in one pool of its memory."""

from __future__ import annotations

import gc
import importlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks.random import card, random_network
from tomoscale.cluster import local, resources_of
from tomoscale.engine import run
from tomoscale.geometry import whole
from tomoscale.kernels.filters import gaussian
from tomoscale.kernels.majority import majority
from tomoscale.kernels.morphology import closing, opening
from tomoscale.kernels.network import inference
from tomoscale.measures.intensity import histogram
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.population import Population
from tomoscale.measures.topology import configurations
from tomoscale.networks.bundle import Bundle, load_bundle, save_bundle
from tomoscale.networks.runtime import share_memory_pool
from tomoscale.plan import plan_map, plan_measure
from tomoscale.resources import Resources, this_machine
from tomoscale.volume import Volume, create_volume

SHAPE = (40, 50, 60)
BLOCK = (16, 32, 32)
VOXEL_UM = (2.0, 2.0, 2.0)
HOST = Resources(slots=2, io_slots=1)
KERNELS = {
    "opening": opening(4.0, VOXEL_UM),
    "closing": closing(4.0, VOXEL_UM),
    "majority": majority(1, 4),
    "opening after majority": majority(1, 4).then(opening(4.0, VOXEL_UM)),
}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory) -> dict[str, Volume]:
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.default_rng(8)
    coarse = random.integers(0, 4, tuple(-(-n // 3) for n in SHAPE)).astype(np.uint8)
    truth = np.kron(coarse, np.ones((3, 3, 3), np.uint8))[tuple(slice(n) for n in SHAPE)]
    labels = np.where(random.random(SHAPE) < 0.1, random.integers(0, 4, SHAPE), truth).astype(np.uint8)
    grey = (labels.astype(np.uint16) * 9000 + random.integers(0, 4000, SHAPE)).astype(np.uint16)
    values = {"truth": truth, "labels": labels, "grey": grey, "normal": grey.astype(np.float32) / 31_000}
    return {name: stored(folder / f"{name}.zarr", v) for name, v in values.items()}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    save_bundle(folder / "bundle", random_network(2, 2, seed=1), card())
    return load_bundle(folder / "bundle")


def stored(path: Any, values: np.ndarray) -> Volume:
    volume = create_volume(
        path,
        shape=values.shape,
        dtype=values.dtype,
        voxel_size_um=VOXEL_UM,
        kind="labels" if values.itemsize == 1 else "grey",
    )
    volume.create()
    volume.write(whole(values.shape), values)
    volume.finish({})
    return volume


def device_resources() -> Resources:
    return replace(this_machine("cuda"), memory_bytes=4 * 2**30)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(KERNELS))
def test_a_map_on_a_gpu_gives_the_bytes_of_the_host(tmp_path, volumes, name):
    on_host, on_device = (
        run(plan_map(KERNELS[name], volumes["labels"], tmp_path / f"{r.device}.zarr", block_shape=BLOCK, resources=r))
        for r in (HOST, device_resources())
    )
    np.testing.assert_array_equal(on_device.read(), on_host.read())
    files = sorted(p.relative_to(tmp_path / "cpu.zarr") for p in (tmp_path / "cpu.zarr").rglob("c/**/*") if p.is_file())
    assert files
    assert all((tmp_path / "cpu.zarr" / f).read_bytes() == (tmp_path / "cuda.zarr" / f).read_bytes() for f in files)


@pytest.mark.gpu
def test_a_map_in_floating_point_on_a_gpu_is_close_to_the_host_and_does_not_depend_on_blocks(tmp_path, volumes):
    kernel = gaussian(3.0, VOXEL_UM)
    results = {
        name: run(plan_map(kernel, volumes["normal"], tmp_path / f"{name}.zarr", block_shape=b, resources=r)).read()
        for name, b, r in (
            ("host", BLOCK, HOST),
            ("device", BLOCK, device_resources()),
            ("other", (40, 16, 48), device_resources()),
        )
    }
    np.testing.assert_array_equal(results["device"], results["other"])
    np.testing.assert_allclose(results["device"], results["host"], rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("block", [BLOCK, (7, 50, 13)])
def test_measures_on_a_gpu_give_the_counts_of_the_host(volumes, block):
    measures = (
        label_counts(4),
        configurations((1, 2)),
        histogram(Population("uint16")),
        histogram(Population("uint16", n_classes=4, interior_voxels=1)),
    )
    measures = (*measures[:3], replace(measures[3], name="histogram of interiors"))
    on_host, on_device = (
        run(plan_measure(measures, volumes, block_shape=block, resources=r)) for r in (HOST, device_resources())
    )
    assert on_host.keys() == on_device.keys()
    for name, counts in on_host.items():
        for key, expected in counts.items():
            np.testing.assert_array_equal(on_device[name][key], expected, err_msg=f"{name} {key}")


@pytest.mark.gpu
def test_two_processes_that_share_a_gpu_give_the_bytes_of_one(tmp_path, volumes, bundle):
    kernels = {"majority": (majority(1, 4), "labels"), "inference": (inference(bundle, SHAPE), "normal")}
    one = {
        name: run(
            plan_map(k, volumes[s], tmp_path / f"{name}1.zarr", block_shape=block_of(k), resources=device_resources())
        ).read()
        for name, (k, s) in kernels.items()
    }
    with local(2, memory_bytes=4 * 2**30) as client:
        free = resources_of(client)
        assert free.device == "cuda"
        shared = replace(free, device_bytes=free.device_bytes // 2)
        for name, (kernel, source) in kernels.items():
            plan = plan_map(
                kernel, volumes[source], tmp_path / f"{name}2.zarr", block_shape=block_of(kernel), resources=shared
            )
            np.testing.assert_array_equal(run(plan, client).read(), one[name])


def block_of(kernel: Any) -> tuple[int, int, int]:
    return (8, *SHAPE[1:]) if kernel.name == "inference" else BLOCK


@pytest.mark.gpu
def test_labels_of_a_run_on_a_gpu_do_not_depend_on_its_blocks(tmp_path, volumes, bundle):
    kernel = inference(bundle, SHAPE, tile_shape=(1, 16, 32))
    results = [
        run(plan_map(kernel, volumes["normal"], tmp_path / f"{n}.zarr", block_shape=b, resources=r)).read()
        for n, b, r in ((0, BLOCK, device_resources()), (1, (40, 13, 60), device_resources()), (2, BLOCK, HOST))
    ]
    np.testing.assert_array_equal(results[0], results[1])
    # Random weights nearly tie in places, and the device rounds otherwise than the host.
    assert (results[0] == results[2]).mean() > 0.999


@pytest.mark.gpu
def test_cupy_takes_memory_from_the_pool_of_torch_once_a_network_has_run(tmp_path, volumes, bundle):
    cupy = importlib.import_module("cupy")
    run(plan_map(inference(bundle, SHAPE), volumes["normal"], tmp_path / "a.zarr", resources=device_resources()))
    gc.collect()
    own, before = cupy.get_default_memory_pool().used_bytes(), torch.cuda.memory_allocated()
    block = cupy.zeros(2**24, np.uint8)
    assert torch.cuda.memory_allocated() - before >= block.nbytes
    assert cupy.get_default_memory_pool().used_bytes() == own
    assert torch.from_dlpack(block).data_ptr() == block.data.ptr
    del block
    gc.collect()
    assert torch.cuda.memory_allocated() == before
    # What CuPy gave back serves torch: nothing more is reserved.
    reserved = torch.cuda.memory_reserved()
    torch.empty(2**24, dtype=torch.uint8, device="cuda")
    assert torch.cuda.memory_reserved() == reserved


def test_the_shared_pool_asks_torch_for_cupys_stream_and_device(monkeypatch):
    """Without a GPU: a stand-in for CuPy shows what would be asked of torch."""
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch.cuda, "caching_allocator_alloc", lambda *a: asked.append(a) or 4096)
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", lambda *a: asked.append(a))
    chosen: list[Any] = []
    freed: list[bool] = []
    cuda = SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(ptr=7),
        set_allocator=chosen.append,
        PythonFunctionAllocator=lambda take, give_back: SimpleNamespace(malloc=(take, give_back)),
    )
    cupy = Standin(cuda, lambda: SimpleNamespace(free_all_blocks=lambda: freed.append(True)))
    share_memory_pool(cupy)
    share_memory_pool(cupy)
    [(take, give_back)] = chosen
    assert take(100, 1) == 4096
    give_back(4096, 1)
    assert asked == [(100, 1, 7), (4096,)]
    assert freed == [True]


class Standin:
    """As much of CuPy as the shared pool uses; unlike a SimpleNamespace it can be told apart by a cache."""

    def __init__(self, cuda: Any, pool: Any) -> None:
        self.cuda, self.get_default_memory_pool = cuda, pool
