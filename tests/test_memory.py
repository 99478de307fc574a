"""What a plan projects is what a process takes, and no more with a larger volume: `benchmarks/memory.py`, small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "memory.py"

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")


def measured(*arguments: str) -> dict[str, Any]:
    """What the benchmark prints, run in a process of its own since a peak is that of a process."""
    found = subprocess.run([sys.executable, BENCHMARK, *arguments], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-3000:]
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


def test_no_process_takes_more_than_its_plan_says(tmp_path):
    figures = measured("--only", "projection", "--combinations", "6", "--size", "192", "--folder", str(tmp_path))
    assert figures["projection"]["combinations"] == 6
    assert figures["projection"]["exceeding"] == []


@pytest.mark.parametrize(("step", "where"), [("map", "threads"), ("measure", "threads"), ("map", "processes")])
def test_the_peak_of_every_process_is_that_of_a_volume_an_eighth_as_large(step, where):
    figures = measured("--flat", step, where, "--growth", "8", "--largest-gib", str(1 / 32))
    small, large = figures["voxels"]
    assert large == 8 * small
    assert len(figures["peaks_mib"][0]) == (1 if where == "threads" else 3)
    assert figures["largest_growth"] <= 1.1, figures["peaks_mib"]
