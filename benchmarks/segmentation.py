"""Segmentation from Zarr to Zarr, beside the bare network on the same tiles in memory, and beside MONAI.

The limit is the network alone: the same windows, already in memory, on the same threads, its logits thrown away. The peer
is MONAI's sliding window inference with the same weights as its users run it: torch's own threads, windows of 256 x 256
that overlap by a quarter, values in memory. The labels must be those of the bare network on whole slices, and the other
backends are judged by the labels they give.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import Peak, publish, rounded

from tomoscale.commands import normalise
from tomoscale.engine import run
from tomoscale.geometry import Region, Shape
from tomoscale.kernels.network import Runtime, inference
from tomoscale.ledger import Ledger
from tomoscale.networks.bundle import Bundle, load_bundle
from tomoscale.networks.runtime import Forward, forward_of, window_threads
from tomoscale.phantom import Phantom
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.step import Kernel
from tomoscale.volume import MemoryArray, Volume
from tomoscale.work import Work

WINDOW, OVERLAP = 256, 0.25
RESOURCES = Resources(slots=1, io_slots=2)


class Labels:
    """Labels that one way gave, and the seconds it took each time."""

    def __init__(self, compute: Callable[[], np.ndarray]) -> None:
        self.compute = compute
        self.seconds: list[float] = []
        self.core_seconds: list[float] = []
        self.values = np.zeros(0, np.uint8)

    def time(self) -> None:
        start, cores = time.perf_counter(), time.process_time()
        self.values = self.compute()
        self.seconds.append(time.perf_counter() - start)
        self.core_seconds.append(time.process_time() - cores)


def from_zarr_to_zarr(kernel: Kernel, source: Volume, folder: Path, parts: list[dict[str, float]]) -> np.ndarray:
    """What `segment` does; the labels are read back by the caller's clock too, which costs next to nothing."""
    target = folder / "labels.zarr"
    shutil.rmtree(target, ignore_errors=True)
    start = time.perf_counter()
    plan = plan_map(kernel, source, target, kind="labels", resources=RESOURCES)
    labels: np.ndarray = run(plan, progress=False).read()
    wall = time.perf_counter() - start
    assert plan.record is not None
    names = ("read", "compute", "write")
    seconds = dict(zip(names, map(float, Ledger.load(plan.record).seconds), strict=True))
    parts.append({**seconds, "wall": wall, "blocks": len(plan.grid)})
    return labels


def bare(network: Forward, windows: list[torch.Tensor], threads: int) -> np.ndarray:
    """The network on windows in memory, its logits thrown away: a thread each as in the kernel, or torch's own (0)."""

    def compute(window: torch.Tensor) -> None:
        with torch.inference_mode():
            network(window)

    if threads == 0:
        list(map(compute, windows))
    else:
        list(window_threads(threads).map(compute, windows))
    return np.zeros(0, np.uint8)


def whole_slices(network: torch.nn.Module, grey: np.ndarray, stride: int) -> np.ndarray:
    """Labels by the bare network, slice by slice with zeros up to its stride, on one thread: the truth of the kernel."""
    height, width = grey.shape[1:]
    padded = np.pad(grey, ((0, 0), (0, -height % stride), (0, -width % stride)))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        labels = [network(torch.from_numpy(p[None, None]))[0].argmax(0).numpy() for p in padded]
    torch.set_num_threads(threads)
    return np.stack(labels)[:, :height, :width].astype(np.uint8)


def by_monai(network: torch.nn.Module, grey: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Labels by MONAI, slice by slice, values and labels in memory."""
    from monai.inferers import sliding_window_inference

    labels = []
    with torch.inference_mode():
        for plane in grey:
            logits: Any = sliding_window_inference(
                torch.from_numpy(plane[None, None]), window, sw_batch_size=4, predictor=network, overlap=OVERLAP
            )
            labels.append(logits[0].argmax(0).to(torch.uint8).numpy())
    return np.stack(labels)


def windows_of(kernel: Kernel, grey: np.ndarray) -> list[torch.Tensor]:
    """The windows that a kernel computes for the whole volume, as it cuts them."""
    tiles = kernel.function.tiles  # type: ignore[attr-defined]
    padded = np.pad(grey, [(0, c - n) for c, n in zip(tiles.canvas, grey.shape, strict=True)])
    everything = tuple(slice(0, n) for n in grey.shape)
    parts = [padded[tiles.window(tile)] for tile in tiles.touched_by(everything)]
    return [torch.from_numpy(np.ascontiguousarray(p))[:, None] for p in parts]


def scan(folder: Path, shape: Shape) -> tuple[Volume, np.ndarray]:
    """The middle slices of a phantom as a normalised volume on disk, and their true labels."""
    slices, size = shape[0], shape[2]
    phantom = Phantom((max(size, slices),) * 3, seed=1)
    low = (phantom.shape[0] - slices) // 2
    region: Region = (slice(low, low + slices), slice(0, size), slice(0, size))
    grey = Volume(MemoryArray(phantom.grey(region)), phantom.voxel_size_um)
    work = Work(resources=Resources(slots=2), progress=False)
    return normalise(grey, folder / "normal.zarr", work=work), phantom.labels(region)


def intersection_over_union(labels: np.ndarray, truth: np.ndarray, n_classes: int) -> list[float]:
    """Of each class over all voxels."""
    codes = np.bincount((truth[: len(labels)].astype(np.int64) * n_classes + labels).ravel(), minlength=n_classes**2)
    table = codes.reshape(n_classes, n_classes)
    union = table.sum(0) + table.sum(1) - table.diagonal()
    return [round(float(v), 5) for v in table.diagonal() / np.maximum(union, 1)]


def ways(
    bundle: Bundle, source: Volume, grey: np.ndarray, folder: Path, parts: list[dict[str, float]]
) -> tuple[dict[str, Labels], int]:
    """Everything that is timed, by name, and how many threads the kernel uses."""
    kernel = inference(bundle, grey.shape)
    threads = max(1, min(kernel.function.at_once, torch.get_num_threads()))  # type: ignore[attr-defined]
    windows, network = windows_of(kernel, grey), forward_of(bundle, "torch", "float32", "cpu", threads)
    # MONAI's user loads weights as they are: rows of one channel after each other.
    theirs = load_plain(bundle)
    size = (grey.shape[1], grey.shape[2])
    found = {
        "end_to_end": Labels(lambda: from_zarr_to_zarr(kernel, source, folder, parts)),
        "bare": Labels(lambda: bare(network, windows, threads)),
        "bare_torch_threads": Labels(lambda: bare(network, windows, 0)),
    }
    if importlib.util.find_spec("monai"):
        found["monai_256"] = Labels(lambda: by_monai(theirs, grey, (min(WINDOW, size[0]), min(WINDOW, size[1]))))
        if max(size) > WINDOW:
            found["monai_whole_slice"] = Labels(lambda: by_monai(theirs, grey, size))
    if importlib.util.find_spec("openvino"):
        for name, precision in (("openvino_f32", "float32"), ("openvino_bf16", "bfloat16")):
            other = inference(bundle, grey.shape, runtime=Runtime("openvino", precision))
            found[name] = Labels(lambda other=other: from_zarr_to_zarr(other, source, folder, []))
    return found, threads


def load_plain(bundle: Bundle) -> torch.nn.Module:
    """The network in torch's default layout."""
    module = type(bundle.skeleton())(**bundle.arguments)
    module.load_state_dict(bundle.network().state_dict())
    return module.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="edge of a slice in voxels")
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    shape = (options.slices, options.size, options.size)
    bundle = load_bundle(SHIPPED_MODEL)
    parts: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        source, truth = scan(Path(name), shape)
        grey = source.read()
        found, threads = ways(bundle, source, grey, Path(name), parts)
        with Peak() as peak:
            # In turn, so that a machine whose speed drifts is fair to all; the first round warms up.
            for _ in range(options.repeat + 1):
                for way in found.values():
                    way.time()
    expected = whole_slices(bundle.network(), grey, bundle.reach.stride[0])
    publish(
        "segmentation",
        {**figures(found, parts, expected, truth, bundle), "threads": threads, "peak_mib": round(peak.own / 2**20)},
        options.keep,
    )


def figures(
    found: dict[str, Labels], parts: list[dict[str, float]], expected: np.ndarray, truth: np.ndarray, bundle: Bundle
) -> dict[str, Any]:
    """What is published: seconds, ratios of the same rounds, and how labels differ."""
    seconds = {name: np.array(way.seconds[1:]) for name, way in found.items()}
    ours = seconds["end_to_end"]
    last = parts[-1]
    result: dict[str, Any] = {
        "shape": list(expected.shape),
        "dtype": "float32",
        "model": {"name": bundle.card.name, **bundle.arguments},
        "voxels_per_s": rounded(expected.size / float(np.median(ours))),
        "seconds": {name: rounded(float(np.median(s))) for name, s in seconds.items()},
        "share_of_bare_speed": rounded(float(np.median(seconds["bare"] / ours))),
        # Of all cores together: what a machine that others use too does not blur.
        "core_seconds": {name: rounded(float(np.median(way.core_seconds[1:]))) for name, way in found.items()},
        "times_faster_than": {
            name: rounded(float(np.median(s / ours))) for name, s in seconds.items() if name.startswith("monai")
        },
        "openvino_times_faster": {
            name: rounded(float(np.median(ours / s))) for name, s in seconds.items() if name.startswith("openvino")
        },
        "rounds_s": {name: [rounded(float(v)) for v in s] for name, s in seconds.items()},
        "where_s": {name: rounded(value) for name, value in last.items()},
        "differing_voxels": {
            name: int((way.values != expected).sum()) for name, way in found.items() if way.values.size
        },
        "agreement": {
            name: round(float((way.values == expected).mean()), 7) for name, way in found.items() if way.values.size
        },
        "iou": {
            name: intersection_over_union(way.values, truth, len(bundle.classes))
            for name, way in found.items()
            if way.values.size
        },
        "limits": {"share_of_bare_speed": 0.85, "times_faster_than": 2, "differing_voxels": 0},
    }
    return result


if __name__ == "__main__":
    main()
