"""Kernels that also count give the same voxels, and count each once."""

from __future__ import annotations

import numpy as np
import pytest

from tomoscale.engine import run
from tomoscale.kernels.counted import NOT_ZERO, counting
from tomoscale.kernels.filters import cast
from tomoscale.kernels.morphology import opening
from tomoscale.memory_array import MemoryArray
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.volume import Volume


@pytest.mark.parametrize("kernel", [opening(5.0, (5.0, 5.0, 5.0)), cast(bool)], ids=["with a margin", "without"])
def test_voxels_that_are_not_zero_are_counted_once_by_blocks(tmp_path, kernel):
    values = np.random.default_rng(4).random((9, 10, 11)) < 0.9
    source, small = Volume(MemoryArray(values), (5.0, 5.0, 5.0)), Resources(slots=1, io_slots=1)
    plain = run(plan_map(kernel, source, tmp_path / "plain.zarr", kind="mask", resources=small)).read()
    plan = plan_map(counting(kernel), source, tmp_path / "c.zarr", kind="mask", block_shape=(4, 4, 4), resources=small)
    made = run(plan)
    np.testing.assert_array_equal(made.read(), plain)
    assert made.counted == {NOT_ZERO: [np.count_nonzero(plain)]}
    assert run(plan_map(kernel, source, tmp_path / "plain.zarr", kind="mask", resources=small)).counted == {}
