"""What fusing the planes of a volume costs, by slabs and by blocks: voxels through the network, bytes moved, disk."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tomoscale.errors import PlanError
from tomoscale.geometry import Shape, three
from tomoscale.parts import parts_of
from tomoscale.places import Place
from tomoscale.plan import Plan, begun_block, ledger_folder, plan_map
from tomoscale.plan_record import read_plan
from tomoscale.segmentation.fusion import Fusion, Outputs
from tomoscale.segmentation.slabs import block_of, tally_by_slabs
from tomoscale.segmentation.stacked import stacked
from tomoscale.segmentation.window_count import window_voxels
from tomoscale.step import Kernel
from tomoscale.volume import Volume
from tomoscale.words import shape_text, size
from tomoscale.work import Work

BYTES_PER_WINDOW_VOXEL = 500
"""Bytes that are moved in the time that the network takes for a voxel of a window: 0.2 to 2 million voxels a second, and
some 300 MB a second. Only the choice between both ways depends on it."""
EDGES = (1024, 768, 512, 384, 256, 192, 128, 96, 64)


@dataclass(frozen=True)
class Cost:
    """What one way costs.

    Attributes
    ----------
    network_voxels : int
        Voxels of all windows that the network takes in, margins included.
    read_bytes, write_bytes : int
        Decoded, and before compression.
    disk_bytes : int
        Most that lies on disk at once beside the outputs.
    memory_bytes : int
        Of one process.
    refusal : str
        Why it cannot run; empty if it can.
    """

    network_voxels: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    disk_bytes: int = 0
    memory_bytes: int = 0
    refusal: str = ""

    @property
    def relative(self) -> float:
        """Relative time; only its order matters."""
        return self.network_voxels * BYTES_PER_WINDOW_VOXEL + self.read_bytes + self.write_bytes

    def text(self, voxels: int) -> str:
        """In words, for a volume of so many voxels."""
        if self.refusal:
            return f"cannot run: {self.refusal}"
        return (
            f"network takes {self.network_voxels} voxels ({self.network_voxels / voxels:.2f}x), reads {size(self.read_bytes)}, "
            f"writes {size(self.write_bytes)}, disk meanwhile up to {size(self.disk_bytes)}, memory {size(self.memory_bytes)}"
        )


@dataclass(frozen=True)
class PlanesPlan:
    """Both ways and the chosen one.

    Attributes
    ----------
    fusion : Fusion
    costs : mapping of "slabs" and "blocks" to Cost
    method : str
        The way that runs.
    why : str
    block_shape : (z, y, x)
        Of the blocks, for "blocks".
    """

    fusion: Fusion
    costs: Mapping[str, Cost]
    method: str
    why: str
    block_shape: Shape

    @property
    def cost(self) -> Cost:
        """Cost of the way that runs."""
        return self.costs[self.method]

    def __str__(self) -> str:
        fusion, voxels = self.fusion, math.prod(self.fusion.volume.shape)
        tiles = ["whole slices" if n.tiles.tile[1:] == n.tiles.canvas[1:] else "tiles" for n in fusion.networks]
        rows = [
            ("planes", f"{', '.join(n.plane.name for n in fusion.networks)}; {' and '.join(dict.fromkeys(tiles))}"),
            ("voting", f"{fusion.fusing.voting} in {fusion.fusing.space}, kept as {fusion.fusing.storage}"),
            ("slabs", self.costs["slabs"].text(voxels)),
            ("blocks", f"{self.costs['blocks'].text(voxels)}; blocks of {shape_text(self.block_shape)}"),
            ("method", f"{self.method}: {self.why}"),
        ]
        voxel_size = fusion.volume.voxel_size_um
        if fusion.fusing.planes > 1 and voxel_size is not None and len(set(voxel_size)) > 1:
            rows.append(("note", f"voxels of {voxel_size} µm are no cubes: planes show the network different scales"))
        return "\n".join(f"{name:>10}  {value}" for name, value in rows)


def plan_planes(fusion: Fusion, outputs: Outputs, work: Work, *, method: str = "auto") -> PlanesPlan:
    """Plan both ways and choose one.

    Parameters
    ----------
    fusion : Fusion
    outputs : Outputs
    work : Work
    method : "auto", "slabs" or "blocks"

    Raises
    ------
    ValueError
        If there is no such method.
    PlanError
        If the method, or with "auto" either of them, fits neither memory nor disk.
    """
    if method not in ("auto", "slabs", "blocks"):
        raise ValueError(f"method must be 'auto', 'slabs' or 'blocks', got {method!r}")
    slabs = slabs_cost(fusion, outputs, work)
    blocks, block_shape = blocks_cost(fusion, outputs, work)
    costs = {"slabs": slabs, "blocks": blocks}
    possible = [name for name in costs if not costs[name].refusal]
    begun = None if work.overwrite or work.plan_only else begun_method(outputs.labels)
    if method != "auto":
        chosen, why = method, "as asked for"
    elif begun is not None:
        chosen, why = begun, "as begun"
    elif possible:
        chosen = min(possible, key=lambda name: costs[name].relative)
        why = "the cheaper one" if len(possible) > 1 else "the other cannot run"
    else:
        raise PlanError(f"slabs: {slabs.refusal}\nblocks: {blocks.refusal}")
    if costs[chosen].refusal:
        raise PlanError(costs[chosen].refusal)
    return PlanesPlan(fusion, costs, chosen, why, block_shape)


def begun_method(target: Place) -> str | None:
    """Return the way that a run into `target` was begun with; None if there is none."""
    parts = parts_of(target)
    if any(parts.glob("sum_*.zarr")):
        return "slabs"
    folder = ledger_folder(target)
    begun = (parts / "tally.zarr").exists() or (
        folder is not None and (folder / "plan.json").exists() and "source" in read_plan(folder)["sources"]
    )
    return "blocks" if begun else None


@dataclass
class Drafting:
    """A maker that plans and adds up what is read, written and on disk."""

    work: Work
    network_voxels: int = 0
    read_bytes: int = 0
    write_bytes: int = 0
    memory_bytes: int = 0
    peak_bytes: int = 0
    alive: dict[Place, int] = field(default_factory=dict)
    described: dict[Place, Volume] = field(default_factory=dict)

    def make(self, kernel: Kernel, sources: Mapping[str, Volume], path: Place, numbers: int = 1) -> Volume:
        """Describe the volume, and count what making it costs."""
        if path in self.alive:
            return self.described[path]
        block = block_of(kernel, sources, path, numbers, self.work)
        plan = plan_map(kernel, sources, path, block_shape=block, resources=self.work.available())
        self.add(plan)
        assert plan.target is not None
        self.alive[path], self.described[path] = plan.disk_bytes, plan.target
        self.peak_bytes = max(self.peak_bytes, sum(self.alive.values()))
        return plan.target

    def add(self, plan: Plan) -> None:
        """Count a pass."""
        self.network_voxels += window_voxels(plan)
        self.read_bytes += plan.decoded_bytes
        self.write_bytes += plan.write_bytes
        self.memory_bytes = max(self.memory_bytes, plan.memory_bytes)

    def finished(self, kernel: Kernel, path: Place) -> bool:
        """Plan all of it."""
        return False

    def drop(self, *paths: Path) -> None:
        """Count them no more."""
        for path in paths:
            self.alive.pop(path, None)

    def cost(self, folder: Path) -> Cost:
        """Everything so far, refused if the disk of a folder is too small."""
        free = shutil.disk_usage(next(p for p in folder.absolute().parents if p.exists())).free
        held = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) if folder.exists() else 0
        refusal = (
            f"{folder} may take {size(self.peak_bytes)} but has {size(free)} free: free some space, or fuse fewer planes"
            if self.peak_bytes > free + held
            else ""
        )
        return Cost(self.network_voxels, self.read_bytes, self.write_bytes, self.peak_bytes, self.memory_bytes, refusal)


def slabs_cost(fusion: Fusion, outputs: Outputs, work: Work) -> Cost:
    """Cost of all passes by slabs."""
    parts, drafting = parts_of(outputs.labels), Drafting(work)
    try:
        tally = tally_by_slabs(fusion, parts, drafting)
        _add_outputs(fusion, outputs, tally, drafting)
    except PlanError as error:
        return Cost(refusal=str(error))
    return drafting.cost(parts)


def blocks_cost(fusion: Fusion, outputs: Outputs, work: Work) -> tuple[Cost, Shape]:
    """Cost of the one pass by blocks, and of what is made of its tally; and the block that costs least."""
    path, k = _block_target(fusion, outputs)
    begun = None if work.overwrite or work.plan_only else begun_block(ledger_folder(path))
    given = work.block_shape or (
        begun and (begun[0] // k, *begun[1:]) if begun_method(outputs.labels) == "blocks" else None
    )
    found: list[tuple[Cost, Shape]] = []
    for block in [given] if given else _candidates(fusion.volume.shape):
        drafting = Drafting(replace(work, block_shape=block))
        try:
            _draft_blocks(fusion, outputs, block, drafting)
        except PlanError as error:
            found.append((Cost(refusal=str(error)), block))
        else:
            found.append((drafting.cost(parts_of(outputs.labels)), block))
    possible = [f for f in found if not f[0].refusal]
    return min(possible, key=lambda f: f[0].relative) if possible else found[-1]


def _block_target(fusion: Fusion, outputs: Outputs) -> tuple[Place, int]:
    """What the pass by blocks writes, and how many numbers of a voxel."""
    if outputs.labels_only:
        return outputs.labels, 1
    return parts_of(outputs.labels) / "tally.zarr", fusion.ballot.numbers


def _draft_blocks(fusion: Fusion, outputs: Outputs, block: Shape, drafting: Drafting) -> None:
    path, k = _block_target(fusion, outputs)
    kernel = fusion.of_blocks(block, labels=outputs.labels_only)
    stored = drafting.make(kernel, {"source": fusion.volume}, path, k)
    if outputs.labels_only:
        # The labels are no scratch.
        drafting.peak_bytes = 0
    else:
        _add_outputs(fusion, outputs, stacked(stored, k, fusion.volume), drafting)


def _candidates(shape: Shape) -> list[Shape]:
    """Blocks from the whole volume down to small cubes."""
    cubes = [three(min(edge, n) for n in shape) for edge in EDGES]
    return list(dict.fromkeys([shape, *cubes]))


def _add_outputs(fusion: Fusion, outputs: Outputs, tally: Volume, drafting: Drafting) -> None:
    for path, kernel in outputs.kernels(fusion).items():
        drafting.add(plan_map(kernel, tally, path, resources=drafting.work.available()))
