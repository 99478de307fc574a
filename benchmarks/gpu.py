"""Kernels, measures and inference on one GPU, beside the bandwidth at which it copies its own memory.

Steps run on arrays that are on the device already, timed by its events; their bytes are those read and written once, as
for the copy. Runs go from disk to disk: their ledgers say how long the GPU waited for blocks to be read or written, with
one process and with two that share the device. Every result is compared with that of the host.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import blobs, publish, rounded

from tomoscale.arrays import cuda_available, free_device_bytes, to_device, to_host
from tomoscale.cluster import local, resources_of
from tomoscale.engine import run
from tomoscale.geometry import Grid, whole
from tomoscale.kernels.majority import majority
from tomoscale.kernels.morphology import opening
from tomoscale.kernels.network import inference
from tomoscale.ledger import Ledger
from tomoscale.measures.intensity import histogram
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.population import Population
from tomoscale.measures.topology import configurations
from tomoscale.networks.bundle import load_bundle
from tomoscale.plan import plan_map, plan_measure
from tomoscale.resources import Resources
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.step import Counts, Kernel, Measure
from tomoscale.volume import Volume, create_volume

VOXEL_UM = (5.0, 5.0, 5.0)
STEPS: dict[str, tuple[Kernel | Measure, tuple[str, ...]]] = {
    "opening, ball of 3 voxels": (opening(15.0, VOXEL_UM), ("labels",)),
    "majority of 27": (majority(1, 4), ("labels",)),
    "label_counts": (label_counts(4), ("truth", "labels")),
    "histogram of uint16": (histogram(Population("uint16")), ("grey",)),
    "configurations": (configurations((1, 2)), ("labels",)),
}


def seconds_on_device(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Median seconds between two events around a call, and its last result; the first call compiles."""
    cuda = importlib.import_module("cupy").cuda
    seconds, result = [], function()
    for _ in range(repeat):
        start, stop = cuda.Event(), cuda.Event()
        start.record()
        result = function()
        stop.record()
        stop.synchronize()
        seconds.append(cuda.get_elapsed_time(start, stop) / 1000)
    return float(np.median(seconds)), result


def apply(step: Kernel | Measure, arrays: list[Any]) -> Any:
    """A step on whole volumes as one block."""
    grid = Grid(arrays[0].shape, arrays[0].shape)
    if isinstance(step, Kernel):
        return step.apply(arrays[0], step.block(grid, 0, grid.shape))
    return step.function(*arrays, block=step.block(grid, 0))


def equal(first: Any, second: Any) -> bool:
    """Whether two results, arrays or counts, have the same values."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[n], second[n]) for n in first)
    return bool(np.array_equal(to_host(first), to_host(second)))


def copy_gb_per_s(n_bytes: int, repeat: int) -> float:
    """Bytes read and written per second where the device copies its own memory."""
    cupy = importlib.import_module("cupy")
    source = cupy.zeros(n_bytes, np.uint8)
    target = cupy.empty_like(source)
    return 2 * n_bytes / seconds_on_device(lambda: cupy.copyto(target, source), repeat)[0] / 1e9


def steps(values: dict[str, np.ndarray], repeat: int) -> dict[str, Any]:
    """Speed of each step on the device, beside the copy of as many bytes, and beside the host."""
    rows = {}
    for name, (step, inputs) in STEPS.items():
        arrays = [values[n] for n in inputs]
        on_device = [to_device(a, "cuda") for a in arrays]
        seconds, result = seconds_on_device(lambda step=step, on_device=on_device: apply(step, on_device), repeat)
        start = time.perf_counter()
        expected = apply(step, arrays)
        host_seconds = time.perf_counter() - start
        moved = sum(a.nbytes for a in arrays) + (expected.nbytes if isinstance(step, Kernel) else 0)
        copied = copy_gb_per_s(max(moved // 2, 1), repeat)
        rows[name] = {
            "seconds": rounded(seconds),
            "gb_per_s": rounded(moved / seconds / 1e9),
            "copy_gb_per_s": rounded(copied),
            "share_of_copy": rounded(moved / seconds / 1e9 / copied),
            "host_seconds": rounded(host_seconds),
            "equal_to_host": equal(result, expected),
        }
    return rows


def network(grey: np.ndarray, repeat: int) -> dict[str, Any]:
    """Inference on a block that is on the device, beside the bare network on the same slices, in turn."""
    bundle = load_bundle(SHIPPED_MODEL)
    kernel = inference(bundle, grey.shape)
    values = to_device(grey, "cuda")
    bare = bundle.network("cuda:0")
    tiles = kernel.function.tiles  # type: ignore[attr-defined]
    padded = np.pad(grey, [(0, c - n) for c, n in zip(tiles.canvas, grey.shape, strict=True)])
    parts = [padded[tiles.window(tile)] for tile in tiles.touched_by(whole(grey.shape))]
    windows = [torch.from_numpy(np.ascontiguousarray(p))[:, None].to("cuda:0") for p in parts]

    def alone() -> None:
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            torch.inference_mode(),
        ):
            for window in windows:
                bare(window)

    pairs, labels = [], None
    for _ in range(repeat):
        ours, labels = seconds_on_device(lambda: apply(kernel, [values]), 1)
        pairs.append((ours, seconds_on_device(alone, 1)[0]))
    halves = [values[: len(grey) // 2], values[len(grey) // 2 :]]
    by_blocks = np.concatenate([to_host(apply(inference(bundle, h.shape), [h])) for h in halves])
    on_host = apply(kernel, [grey])
    seconds = float(np.median([p[0] for p in pairs]))
    return {
        "seconds": rounded(seconds),
        "voxels_per_s": rounded(grey.size / seconds),
        "share_of_bare_speed": rounded(float(np.median([b / a for a, b in pairs]))),
        "equal_by_blocks": equal(by_blocks, labels),
        # Not zero by contract: the device rounds otherwise, so near ties may fall to the other side.
        "voxels_unlike_host": int((to_host(labels) != on_host).sum()),
    }


def stored(folder: Path, name: str, values: np.ndarray, kind: Any) -> Volume:
    """Values as a volume on disk."""
    volume = create_volume(
        folder / f"{name}.zarr", shape=values.shape, dtype=values.dtype, voxel_size_um=VOXEL_UM, kind=kind
    )
    volume.create()
    volume.write(whole(values.shape), values)
    volume.finish({"made": name})
    return volume


def from_disk(plan: Any, client: Any = None) -> tuple[Any, dict[str, float]]:
    """What a run gives, and where its time went: the GPU waits while a process computes no block (their mean of two)."""
    start = time.perf_counter()
    result = run(plan, client, progress=False)
    wall = time.perf_counter() - start
    read, compute, write = map(float, Ledger.load(plan.record).seconds)
    figures = {"read": read, "compute": compute, "write": write, "wall": wall}
    shares = {"gpu_waits_share": max(0.0, 1 - compute / (wall * plan.resources.processes)), "blocks": len(plan.grid)}
    return result, {n: rounded(v) for n, v in {**figures, **shares}.items()}


def runs(volumes: dict[str, Volume], expected: dict[str, Any], folder: Path, edge: int) -> dict[str, Any]:
    """Whole runs on one device: a map, all measures of a pass, and a network, by one process and by two."""
    block = (edge,) * 3
    kernels: dict[str, tuple[Kernel, str]] = {
        "majority": (STEPS["majority of 27"][0], "labels"),  # type: ignore[dict-item]
        "inference": (inference(load_bundle(SHIPPED_MODEL), volumes["normal"].shape), "normal"),
    }
    measures = (STEPS["label_counts"][0], STEPS["configurations"][0])
    found: dict[str, Any] = {}

    def all_of(resources: Resources, client: Any, who: str) -> None:
        for name, (kernel, source) in kernels.items():
            target = folder / f"{name}-{who.replace(' ', '-')}.zarr"
            plan = plan_map(
                kernel,
                volumes[source],
                target,
                kind="labels",
                block_shape=block if name == "majority" else (edge, *volumes[source].shape[1:]),
                resources=resources,
            )
            result, figures = from_disk(plan, client)
            values = result.read()
            # The first network result on the device is the one that others must equal.
            found[f"{name}, {who}"] = {**figures, "equal": equal(values, expected.setdefault(name, values))}
            shutil.rmtree(target)
        record = folder / f"counts-{who.replace(' ', '-')}"
        plan = plan_measure(measures, volumes, record=record, block_shape=block, resources=resources)  # type: ignore[arg-type]
        counts, figures = from_disk(plan, client)
        found[f"measures, {who}"] = {**figures, "equal": all(equal(counts[m.name], expected[m.name]) for m in measures)}

    one = Resources(1, 1, 2, 8 * 2**30, "cuda", int(0.8 * free_device_bytes()))
    all_of(one, None, "starting one")
    all_of(one, None, "one process")
    # What this process keeps for itself would be missing for the two.
    importlib.import_module("cupy").get_default_memory_pool().free_all_blocks()
    torch.cuda.empty_cache()
    with local(2) as client:
        resources = resources_of(client)
        two = replace(resources, io_slots=1, device_bytes=resources.device_bytes // 2)
        all_of(two, client, "starting two")
        all_of(two, client, "two processes")
    # Rounds that start the device and compile are checked but say nothing of speed.
    assert all(figures["equal"] for figures in found.values())
    return {name: figures for name, figures in found.items() if "starting" not in name}


def whole_counts(values: dict[str, np.ndarray]) -> dict[str, Counts]:
    """Counts of the measures of a pass by the host, the volume as one block."""
    found = {}
    for name in ("label_counts", "configurations"):
        step, inputs = STEPS[name]
        found[step.name] = apply(step, [values[n] for n in inputs])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    if not cuda_available():
        print(json.dumps({"benchmark": "gpu", "skipped": "no CUDA device"}))
        return
    shape = (options.size,) * 3
    random = np.random.default_rng(3)
    values: dict[str, np.ndarray] = {"truth": blobs(shape, 3), "labels": blobs(shape, 3, shift=2)}
    values["grey"] = (values["truth"].astype(np.int64) * 12_000 + random.integers(0, 9000, shape)).astype(np.uint16)
    values["normal"] = values["grey"].astype(np.float32) / 45_000
    cupy = importlib.import_module("cupy")
    properties = cupy.cuda.runtime.getDeviceProperties(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kinds = {"truth": "labels", "labels": "labels", "normal": "grey"}
        volumes = {n: stored(folder, n, values[n], kind) for n, kind in kinds.items()}
        expected = {"majority": apply(STEPS["majority of 27"][0], [values["labels"]]), **whole_counts(values)}
        figures = {
            "shape": list(shape),
            "block": [options.block] * 3,
            "device": properties["name"].decode(),
            "cupy": cupy.__version__,
            "torch": torch.__version__,
            "steps": steps(values, options.repeat),
            "inference": network(values["normal"][:32], options.repeat),
            "runs": runs(volumes, expected, folder, options.block),
            "limits": {"share_of_bare_speed": 0.85},
        }
    publish("gpu", figures, options.keep)


if __name__ == "__main__":
    main()
