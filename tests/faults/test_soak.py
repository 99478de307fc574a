"""Memory does not grow with the number of blocks that were computed."""

from __future__ import annotations

from tests.faults.soak import soak


def test_memory_of_client_scheduler_and_workers_does_not_grow_over_small_blocks(tmp_path):
    figures = soak(tmp_path, 6000)
    assert figures["blocks"] == 6000
    assert figures["client_and_scheduler"]["growth_mib"] < 8
    assert figures["largest_worker"]["growth_mib"] < 8
