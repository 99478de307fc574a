"""Nine planes from Zarr to Zarr, beside the bare network on windows of the same shapes in memory.

The plan says how many voxels the network takes in. That, times the seconds that the bare network took for a voxel in the
same run, is the projected time; what the whole takes over that is published, and the limit is 1.15. The windows whose
speed is measured are a sample of those of all planes, computed on the same threads before and after the run.

With ``--project Z,Y,X`` nothing is segmented: the plan for a volume of that shape, and the time that this machine's
measured speed projects for it. It is a projection and no measurement.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import Peak, publish, rounded
from segmentation import scan

from tomoscale.geometry import Shape, region_shape, three, whole
from tomoscale.kernels.planes import PlaneNetwork
from tomoscale.networks.bundle import Bundle, load_bundle, save_bundle
from tomoscale.networks.card import Card, ModelClass, Normalisation
from tomoscale.networks.runtime import window_threads
from tomoscale.networks.unet import ScaledUNet
from tomoscale.resources import Resources, this_machine
from tomoscale.segmentation.fusion import Fusing, Fusion, Outputs
from tomoscale.segmentation.planes import segment_planes
from tomoscale.segmentation.planes_plan import blocks_cost, plan_planes, slabs_cost
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.volume import create_volume
from tomoscale.work import Work

LIMIT = 1.15
PAPER_MINUTES = 20


class Bare:
    """The network alone on a sample of the windows of all planes, and the seconds it took each time."""

    def __init__(self, bundle: Bundle, shapes: list[Shape], threads: int) -> None:
        self.network, self.threads = bundle.network(), threads
        random = torch.Generator().manual_seed(0)
        self.windows = [torch.rand((s[0], 1, *s[1:]), generator=random) for s in shapes]
        self.voxels = sum(math.prod(s) for s in shapes)
        self.seconds: list[float] = []
        self.core_seconds: list[float] = []

    def time(self) -> None:
        start, cores = time.perf_counter(), time.process_time()
        list(window_threads(self.threads).map(self._compute, self.windows))
        self.seconds.append(time.perf_counter() - start)
        self.core_seconds.append(time.process_time() - cores)

    def _compute(self, window: torch.Tensor) -> None:
        with torch.inference_mode():
            self.network(window)

    @property
    def voxels_per_s(self) -> float:
        # The first round warms up.
        return self.voxels / float(np.median(self.seconds[1:]))


def windows_of(network: PlaneNetwork) -> list[Shape]:
    """Shapes of all windows of a plane."""
    everything = whole(network.tiles.shape)
    return [region_shape(network.tiles.window(tile)) for tile in network.tiles_of(everything)]


def sample_of(networks: tuple[PlaneNetwork, ...], share: float) -> list[Shape]:
    """One window in every ``1 / share`` of each plane, so that all count as they do in the whole."""
    step = max(1, round(1 / share))
    return [shape for network in networks for shape in windows_of(network)[::step]]


def threads_of(network: PlaneNetwork) -> int:
    return max(1, min(network.at_once, torch.get_num_threads()))


def model_of(folder: Path, depth: int | None, width: int | None) -> Bundle:
    """The shipped model, or a network of another size with random weights: they do not change its speed."""
    if depth is None and width is None:
        return load_bundle(SHIPPED_MODEL)
    torch.manual_seed(0)
    classes = tuple(ModelClass(i, f"class {i}") for i in range(4))
    card = Card("random", classes, (5.0, 5.0, 5.0), Normalisation(), training={"seed": 0})
    return save_bundle(folder / "model", ScaledUNet(depth or 3, width or 16).eval(), card)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Segment a volume and set the seconds beside those projected."""
    bundle = model_of(folder, options.depth, options.width)
    source, _ = scan(folder, (options.slices, options.size, options.size))
    fusing, outputs = Fusing(options.planes, options.voting, tile=options.tile), Outputs(folder / "labels.zarr")
    fusion = Fusion.of(source, bundle, fusing)
    work = Work(resources=Resources(slots=2, io_slots=2, memory_bytes=this_machine().memory_bytes), progress=False)
    plan = plan_planes(fusion, outputs, work, method=options.method)
    bare = Bare(bundle, sample_of(fusion.networks, options.share), threads_of(fusion.networks[0]))
    seconds, core_seconds = [], []
    with Peak() as peak:
        bare.time()
        bare.time()
        for n in range(options.repeat):
            start, cores = time.perf_counter(), time.process_time()
            segment_planes(
                source,
                folder / f"labels_{n}.zarr",
                model=bundle.path,
                planes=options.planes,
                voting=options.voting,
                tile=options.tile,
                method=options.method,
                as_is=True,
                work=work,
            )
            seconds.append(time.perf_counter() - start)
            core_seconds.append(time.process_time() - cores)
            bare.time()
    projected = plan.cost.network_voxels / bare.voxels_per_s
    projected_cores = plan.cost.network_voxels / bare.voxels * float(np.median(bare.core_seconds[1:]))
    where: dict[str, float] = {}
    for run in work.runs:
        where[run["name"]] = rounded(where.get(run["name"], 0.0) + run["seconds"]["wall"] / options.repeat)
    return {
        "shape": list(source.shape),
        "planes": options.planes,
        "voting": options.voting,
        "method": plan.method,
        "model": {"name": bundle.card.name, **bundle.arguments},
        "network_voxels": {name: cost.network_voxels for name, cost in plan.costs.items()},
        "network_voxels_per_voxel": rounded(plan.cost.network_voxels / math.prod(source.shape)),
        "bare_voxels_per_s": rounded(bare.voxels_per_s),
        "sampled_windows": len(bare.windows),
        "bare_rounds_s": [rounded(s) for s in bare.seconds],
        "seconds": rounded(float(np.median(seconds))),
        "rounds_s": [rounded(s) for s in seconds],
        "projected_s": rounded(projected),
        "measured_over_projected": rounded(float(np.median(seconds)) / projected),
        # Of all cores together: what a machine that others use too does not blur.
        "core_seconds": rounded(float(np.median(core_seconds))),
        "core_seconds_over_projected": rounded(float(np.median(core_seconds)) / projected_cores),
        "where_s": where,
        "planned_memory_mib": round(plan.cost.memory_bytes / 2**20),
        "peak_mib": round(peak.own / 2**20),
        "limits": {"measured_over_projected": LIMIT},
    }


def project(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Project the time for a volume of another shape from the speed of the network on windows of at most `--window`."""
    bundle = model_of(folder, options.depth, options.width)
    described = create_volume(folder / "normal.zarr", shape=options.project, dtype=np.float32, voxel_size_um=5.0)
    fusion = Fusion.of(described, bundle, Fusing(options.planes, options.voting, tile=options.tile))
    work = Work(resources=Resources(slots=2, io_slots=2, memory_bytes=this_machine().memory_bytes), plan_only=True)
    outputs = Outputs(folder / "labels.zarr")
    # The disk of this machine need not hold it.
    costs = {"slabs": slabs_cost(fusion, outputs, work), "blocks": blocks_cost(fusion, outputs, work)[0]}
    method = options.method if options.method != "auto" else min(costs, key=lambda name: costs[name].relative)
    cost = costs[method]
    stride = bundle.reach.stride[0]
    edge = max(1, options.window // stride) * stride
    threads = threads_of(fusion.networks[0])
    bare = Bare(bundle, [(1, edge, edge)] * threads, threads)
    for _ in range(options.repeat + 1):
        bare.time()
    seconds = cost.network_voxels / bare.voxels_per_s
    return {
        "what": "projection from the measured speed of the network on this machine, nothing was segmented",
        "shape": list(options.project),
        "planes": options.planes,
        "method": method,
        "model": {"name": bundle.card.name, **bundle.arguments},
        "tile_shape": list(fusion.networks[0].tiles.tile),
        "network_voxels": cost.network_voxels,
        "network_voxels_per_voxel": rounded(cost.network_voxels / math.prod(options.project)),
        "disk_gib": rounded(cost.disk_bytes / 2**30),
        "measured_window": [edge, edge],
        "measured_voxels_per_s": rounded(bare.voxels_per_s),
        "projected_hours": rounded(seconds / 3600),
        "paper_minutes_on_its_gpus": PAPER_MINUTES,
    }


def shape_of(text: str) -> Shape:
    return three(int(n) for n in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="edge of a slice in voxels")
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--planes", type=int, choices=(1, 3, 9), default=9)
    parser.add_argument("--voting", choices=("soft", "majority"), default="soft")
    parser.add_argument("--method", choices=("auto", "slabs", "blocks"), default="slabs")
    parser.add_argument("--tile", type=int, help="edge of the tiles within a slice (default: whole slices)")
    parser.add_argument("--depth", type=int, help="of a network with random weights instead of the shipped one")
    parser.add_argument("--width", type=int)
    parser.add_argument("--share", type=float, default=0.05, help="of the windows, for the speed of the bare network")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--project", type=shape_of, metavar="Z,Y,X", help="only project the time for such a volume")
    parser.add_argument("--window", type=int, default=256, help="edge of the windows that --project measures")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.project:
            publish("planes_projection", project(options, Path(name)), options.keep)
        else:
            publish("planes", measure(options, Path(name)), options.keep)


if __name__ == "__main__":
    main()
