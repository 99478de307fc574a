from __future__ import annotations

import math
import os
import re
import shutil
from collections import namedtuple
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.blocks import block_shapes, small_shapes
from tests.traced import Traced
from tomoscale.engine import run
from tomoscale.errors import InputError, PlanError
from tomoscale.geometry import Grid, Halo, Region, Shape, Spacing
from tomoscale.kernels.filters import cast, gaussian, median
from tomoscale.kernels.resample import resampled_shape
from tomoscale.measures.intensity import histogram
from tomoscale.measures.pairs import label_counts
from tomoscale.measures.population import Population
from tomoscale.plan import Plan, plan_map, plan_measure
from tomoscale.resources import Resources
from tomoscale.step import Kernel, Measure
from tomoscale.volume import MemoryArray, Volume, create_volume

GIBI = 2**30
VOXEL_UM = (5.0, 5.0, 5.0)
LAPTOP = Resources(slots=2, io_slots=1, memory_bytes=8 * GIBI)

margins = st.tuples(*[st.integers(0, 4)] * 3)
strides = st.sampled_from([(1, 1, 1), (1, 4, 4), (2, 2, 2), (8, 4, 1)])
factors = st.sampled_from([(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.5, 1.25, 1.7)])


@dataclass(frozen=True)
class Described:
    """A source of any size, of which nothing may be read."""

    shape: Shape
    dtype: np.dtype[Any]
    chunk_shape: Shape
    kind: str = "grey"
    name: str = "scan"

    def read(self, region: Region) -> np.ndarray:
        raise AssertionError("a plan must not read a voxel")

    def identity(self) -> dict[str, Any]:
        return {}


Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def endless_disk(monkeypatch):
    """Plans of many terabytes are made here, on any machine."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**60, 0, 2**60))


def described(
    shape: Shape, dtype: str = "uint16", chunk: Shape = (64, 64, 64), voxel: Spacing | None = VOXEL_UM
) -> Volume:
    return Volume(Described(shape, np.dtype(dtype), chunk), voxel)


def same(values: np.ndarray) -> np.ndarray:
    return values


def slice_network(dtype: str = "uint8") -> Kernel:
    """What a network on slices asks for: no margin along z, much along y and x, all cores for one block."""
    return Kernel("network", same, Halo.symmetric((0, 56, 56)), np.dtype(dtype), 40, stride=(1, 8, 8), own_threads=True)


def any_kernel(before: Shape, after: Shape, stride: Shape, factor: Spacing, tile: Shape) -> Kernel:
    return Kernel(
        "any",
        same,
        Halo(before, after),
        np.dtype(np.float32),
        10,
        stride=stride,
        tile=tile,
        factor=factor,
        target_shape=partial(resampled_shape, factor=factor),
        located=True,
    )


def spanned(region: Region, shape: Shape, chunk: Shape) -> int:
    """Voxels of all chunks that a region touches, clipped at the edge of the volume; one chunk after the other."""
    total = 0
    for number in range(len(grid := Grid(shape, chunk))):
        held = grid.region(number)
        if all(h.start < r.stop and r.start < h.stop for h, r in zip(held, region, strict=True)):
            total += math.prod(h.stop - h.start for h in held)
    return total


@given(
    shape=small_shapes,
    block=block_shapes,
    before=margins,
    after=margins,
    stride=strides,
    factor=factors,
    chunk=block_shapes,
    tile=strides,
)
def test_totals_are_the_sums_over_all_blocks(shape, block, before, after, stride, factor, chunk, tile):
    if min(round(n / f) for n, f in zip(shape, factor, strict=True)) < 1:
        return
    kernel = any_kernel(before, after, stride, factor, tile)
    target = kernel.shape_of_target(shape)
    volume = Volume(MemoryArray(np.zeros(target, np.float32)))
    plan = Plan(kernel, {"source": described(shape, "uint16", chunk)}, volume, Grid(target, block), None, LAPTOP)
    blocks = [plan.block(n) for n in range(len(plan.grid))]
    reads = [math.prod(b.read_shape) for b in blocks]
    assert plan.read_voxels == sum(reads)
    assert plan.read_bytes == 2 * sum(reads)
    assert plan.redundancy == sum(reads) / math.prod(shape)
    assert plan.padded_voxels == max(reads)
    assert plan.core_voxels == max(math.prod(b.write_shape) for b in blocks)
    assert plan.decoded_bytes == 2 * sum(spanned(b.read, shape, chunk) for b in blocks)
    assert plan.write_bytes == 4 * sum(math.prod(b.write_shape) for b in blocks) == 4 * math.prod(target)


@given(shape=small_shapes, block=block_shapes, chunk=block_shapes, other=block_shapes)
def test_totals_of_a_measure_are_the_sums_over_its_volumes(shape, block, chunk, other):
    volumes = {"truth": described(shape, "uint8", chunk), "labels": described(shape, "uint16", other)}
    plan = plan_measure(label_counts(3), volumes, block_shape=block, resources=LAPTOP)
    reads = [plan.block(n).read for n in range(len(plan.grid))]
    assert plan.read_bytes == 3 * sum(math.prod(r.stop - r.start for r in read) for read in reads)
    assert plan.decoded_bytes == sum(spanned(r, shape, chunk) + 2 * spanned(r, shape, other) for r in reads)
    assert plan.write_bytes == plan.disk_bytes == 0


def test_more_slots_margin_and_wider_voxels_take_more_memory():
    def needed(kernel: Kernel, dtype: str = "uint16", **resources: Any) -> int:
        target = Volume(MemoryArray(np.zeros((1, 1, 1), kernel.dtype)))
        plan = Plan(
            kernel, {"source": described((512,) * 3, dtype)}, target, Grid((512,) * 3, (128,) * 3), None, LAPTOP
        )
        return replace(plan, resources=replace(LAPTOP, **resources)).memory_bytes

    kernel = Kernel("same", same, Halo(), np.dtype(np.uint8), 6)
    least = needed(kernel)
    assert needed(kernel, slots=4) > least
    assert needed(kernel, io_slots=3) > least
    assert needed(replace(kernel, halo=Halo.uniform(8))) > least
    assert needed(replace(kernel, fixed_bytes=1000)) == least + 1000
    # What a kernel declares is for sources of up to 4 bytes a voxel.
    greedy = replace(kernel, bytes_per_voxel=60)
    assert needed(greedy, "float64", io_slots=0) >= needed(greedy, "float32", io_slots=0) + 2 * 4 * 128**3


def test_a_block_too_large_for_the_memory_is_refused_and_the_block_named_instead_fits(tmp_path):
    source, kernel = described((4000, 4000, 4000)), gaussian(10.0, VOXEL_UM)
    with pytest.raises(
        PlanError, match=r"gaussian: a process needs [\d.]+ GiB of host memory .* has 8\.0 GiB; block_shape"
    ) as refusal:
        plan_map(kernel, source, tmp_path / "out.zarr", block_shape=(1024, 1024, 1024), resources=LAPTOP)
    found = re.search(r"block_shape \((\d+), (\d+), (\d+)\) fits", str(refusal.value))
    assert found
    z, y, x = (int(n) for n in found.groups())
    assert plan_map(kernel, source, tmp_path / "out.zarr", block_shape=(z, y, x), resources=LAPTOP).fits


def test_the_block_named_keeps_to_the_shards_of_a_given_target(tmp_path):
    source = described((1024, 1024, 1024))
    target = create_volume(tmp_path / "out.zarr", shape=source.shape, dtype=np.float32, shard_shape=(192, 192, 192))
    with pytest.raises(PlanError, match=r"block_shape \(192, 192, 192\) fits"):
        plan_map(
            gaussian(10.0, VOXEL_UM),
            source,
            target,
            block_shape=(768, 768, 768),
            resources=replace(LAPTOP, memory_bytes=GIBI),
        )


def test_a_process_that_is_too_large_by_itself_fits_no_block(tmp_path):
    small = Resources(memory_bytes=2**20)
    with pytest.raises(PlanError, match=r"no block fits \(.* a process alone takes [\d.]+ MiB\): give more memory"):
        plan_map(cast("uint16"), described((64, 64, 64)), tmp_path / "out.zarr", resources=small)


def test_gpu_memory_is_refused_by_its_own_name(tmp_path):
    resources = Resources(1, 1, 2, 64 * GIBI, "cuda", GIBI)
    with pytest.raises(PlanError, match=r"needs [\d.]+ GiB of GPU memory .* block_shape \(256, 256, 256\) fits"):
        plan_map(
            gaussian(10.0, VOXEL_UM),
            described((1024,) * 3),
            tmp_path / "out.zarr",
            block_shape=(512,) * 3,
            resources=resources,
        )


def test_blocks_that_share_a_shard_are_refused(tmp_path):
    source = described((256, 256, 256))
    target = create_volume(tmp_path / "out.zarr", shape=source.shape, dtype=np.uint16, shard_shape=(128, 128, 128))
    with pytest.raises(PlanError, match=r"\(128, 64, 128\) is not a multiple of the target's shard shape .* on axis y"):
        plan_map(cast("uint16"), source, target, block_shape=(128, 64, 128), resources=LAPTOP)


def test_volumes_that_are_missing_or_not_on_one_grid_are_refused():
    labels = described((40, 40, 40), "uint8")
    with pytest.raises(InputError, match=r"label_counts needs the volume 'truth', given are \['labels'\]"):
        plan_measure(label_counts(3), {"labels": labels}, resources=LAPTOP)
    with pytest.raises(InputError, match=r"truth scan has 40 x 40 x 40 voxels but labels scan has 40 x 40 x 41"):
        plan_measure(label_counts(3), {"truth": labels, "labels": described((40, 40, 41), "uint8")}, resources=LAPTOP)
    coarser = described((40, 40, 40), "uint8", voxel=(5.0, 5.0, 5.1))
    with pytest.raises(
        InputError, match=r"voxels of \(5\.0, 5\.0, 5\.0\) µm but labels scan of \(5\.0, 5\.0, 5\.1\) µm"
    ):
        plan_measure(label_counts(3), {"truth": labels, "labels": coarser}, resources=LAPTOP)
    unknown = described((40, 40, 40), "uint8", voxel=None)
    assert plan_measure(label_counts(3), {"truth": labels, "labels": unknown}, resources=LAPTOP).fits


def test_a_result_without_a_voxel_is_refused(tmp_path):
    kernel = replace(
        any_kernel((0,) * 3, (0,) * 3, (1,) * 3, (1.0,) * 3, (1,) * 3), target_shape=lambda shape: (0, *shape[1:])
    )
    with pytest.raises(InputError, match="a volume of 4 x 40 x 40 voxels leaves none after any"):
        plan_map(kernel, described((4, 40, 40)), tmp_path / "out.zarr", resources=LAPTOP)


def test_a_disk_that_is_too_small_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(GIBI, 0, GIBI))
    with pytest.raises(PlanError, match=r"out\.zarr may take 2\.0 GiB but .* has 1\.0 GiB free"):
        plan_map(cast("uint16"), described((1024, 1024, 1024)), tmp_path / "out.zarr", resources=LAPTOP)
    labels = described((1024, 1024, 1024), "uint8")
    assert (
        plan_map(cast("uint8"), labels, tmp_path / "out.zarr", kind="labels", resources=LAPTOP).disk_bytes == GIBI // 4
    )
    assert not list(tmp_path.iterdir()), "a plan puts nothing on disk"


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PlanError, match=r"out\.zarr cannot be written: no permission to write in"):
        plan_map(cast("uint16"), described((64, 64, 64)), tmp_path / "out.zarr", resources=LAPTOP)


def test_a_network_on_slices_gets_whole_slices(tmp_path):
    plan = plan_map(
        slice_network(),
        described((1200, 1200, 1000), "float32"),
        tmp_path / "out.zarr",
        kind="labels",
        resources=LAPTOP,
    )
    assert plan.grid.block_shape[1:] == (1200, 1000)
    assert plan.redundancy == 1
    assert plan.resources.slots == 1, "it uses all cores by itself"
    assert len(plan.grid) > 4


def test_large_slices_still_come_whole_where_thin_slabs_of_them_fit(tmp_path):
    plan = plan_map(
        slice_network(),
        described((2000, 3000, 3000), "float32", (1, 3000, 3000)),
        tmp_path / "out.zarr",
        kind="labels",
        resources=replace(LAPTOP, memory_bytes=12 * GIBI),
    )
    assert plan.grid.block_shape[1:] == (3000, 3000)
    assert plan.redundancy == 1


def test_a_kernel_that_reaches_in_all_directions_gets_boxes(tmp_path):
    for shape in ((2000, 2000, 2000), (20000, 3000, 3000)):
        plan = plan_map(gaussian(25.0, VOXEL_UM), described(shape), tmp_path / "out.zarr", resources=LAPTOP)
        block = plan.grid.block_shape
        assert max(block) <= 3 * min(block)
        assert all(b % 64 == 0 or b == n for b, n in zip(block, shape, strict=True))
        assert plan.redundancy < 1.8


def test_pages_of_an_image_stack_are_decoded_once():
    source = described((2000, 2000, 2000), "uint16", (1, 2000, 2000))
    plan = plan_measure(histogram(Population("uint16")), source, resources=LAPTOP)
    assert plan.grid.block_shape[1:] == (2000, 2000)
    assert plan.decoded_bytes == source.nbytes


def test_pages_of_an_image_stack_are_read_whole_by_a_kernel_too(tmp_path):
    source = described((2000, 2000, 2000), "uint16", (1, 2000, 2000))
    plan = plan_map(median(1, "uint16"), source, tmp_path / "out.zarr", resources=LAPTOP)
    assert plan.grid.block_shape[1:] == (2000, 2000)
    assert plan.decoded_bytes < 1.3 * source.nbytes


def test_every_core_gets_blocks(tmp_path):
    cluster = Resources(processes=16, slots=2, io_slots=1, memory_bytes=8 * GIBI)
    plan = plan_map(gaussian(5.0, VOXEL_UM), described((1000, 1000, 1000)), tmp_path / "out.zarr", resources=cluster)
    assert len(plan.grid) >= 32


@settings(max_examples=12)
@given(memory_gib=st.floats(1, 64), slots=st.integers(1, 16), length=st.integers(1, 6000), reach_um=st.floats(1, 100))
def test_the_block_chosen_fits_whatever_the_machine(memory_gib, slots, length, reach_um):
    source = described((length, 700, 900), "float32")
    measure = Measure("look", same, ("source",), Halo.uniform(int(reach_um)), bytes_per_voxel=8)
    resources = Resources(slots=slots, memory_bytes=int(memory_gib * GIBI))
    try:
        plan = plan_measure(measure, source, resources=resources)
    except PlanError as refusal:
        assert "host memory" in str(refusal)  # noqa: PT017 -- either it fits or it is refused
    else:
        assert plan.memory_bytes <= resources.memory_bytes


def test_a_resumed_run_takes_over_the_blocks_it_was_begun_with(tmp_path):
    values = np.random.default_rng(3).integers(0, 200, (40, 30, 20)).astype(np.uint16)
    source = Volume(MemoryArray(values), VOXEL_UM)
    begun = plan_map(cast("uint16"), source, tmp_path / "out.zarr", block_shape=(8, 16, 20), resources=LAPTOP)
    run(begun, progress=False)
    again = plan_map(cast("uint16"), source, tmp_path / "out.zarr", resources=LAPTOP)
    assert again.grid == begun.grid
    np.testing.assert_array_equal(run(again, progress=False).read(), values)


def test_a_resumed_measure_takes_over_the_blocks_it_was_begun_with(tmp_path):
    source = Volume(MemoryArray(np.zeros((40, 30, 20), np.uint16)), VOXEL_UM)
    measure = histogram(Population("uint16"))
    begun = plan_measure(measure, source, record=tmp_path / "counts", block_shape=(8, 16, 20), resources=LAPTOP)
    run(begun, progress=False)
    again = plan_measure(measure, source, record=tmp_path / "counts", resources=LAPTOP)
    assert again.grid == begun.grid
    assert run(again, progress=False)["histogram"][0, 0] == 40 * 30 * 20


def test_a_million_blocks_are_planned_without_a_list_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Plan, "block", lambda plan, number: pytest.fail("a plan must not look at single blocks"))
    source = described((6400, 6400, 6400))
    with Traced() as traced:
        plan = plan_map(
            gaussian(5.0, VOXEL_UM), source, tmp_path / "out.zarr", block_shape=(64, 64, 64), resources=LAPTOP
        )
        text = str(plan)
    assert len(plan.grid) == 10**6
    assert traced.peak_bytes < 10**6, "less than a byte a block"
    assert "1000000 of 64 x 64 x 64 voxels (z, y, x)" in text
    assert plan.read_voxels == sum(min(6400, s + 68) - max(0, s - 4) for s in range(0, 6400, 64)) ** 3


def test_a_plan_prints_what_a_user_asks_for(tmp_path):
    plan = plan_map(
        gaussian(5.0, VOXEL_UM),
        described((256, 256, 256)),
        tmp_path / "out.zarr",
        block_shape=(128,) * 3,
        resources=LAPTOP,
    )
    text = str(plan)
    for said in (
        "gaussian",
        "8 of 128 x 128 x 128",
        "4 x 4 x 4 before, 4 x 4 x 4 after; 1.10x",
        "of 8.0 GiB per process",
    ):
        assert said in text
    assert "<table>" in plan._repr_html_()
    assert "gaussian" in plan._repr_html_()
