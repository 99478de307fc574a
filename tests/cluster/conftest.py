"""Fixtures of the tests of clusters."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest

from tests.cluster import virtual_slurm
from tomoscale.cluster import slurm as slurm_module

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def slurm_conf() -> Iterator[Path]:
    """slurm.conf of a Slurm that runs; the test is skipped where none can."""
    reason = virtual_slurm.why_not()
    if reason:
        pytest.skip(reason)
    # Not below pytest's folder: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, virtual_slurm.virtual_slurm(Path(folder)) as path:
        yield path


@pytest.fixture
def slurm(slurm_conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A profile "virtual" of the virtual nodes; afterwards no job may be left."""
    monkeypatch.setenv("SLURM_CONF", str(slurm_conf))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(slurm_module, "POLL_SECONDS", 0.5)
    options = {
        "cores": 2,
        "processes": 1,
        "memory": "1GiB",
        "walltime": "00:10:00",
        "interface": "lo",
        "local-directory": str(tmp_path / "scratch"),
        "log-directory": str(tmp_path / "logs"),
        "shared-temp-directory": str(tmp_path / "private"),
        "death-timeout": 60,
    }
    with dask.config.set({"jobqueue.tomoscale-virtual": options}):
        yield options
    deadline = time.monotonic() + 10  # a job that was cancelled takes a moment to end
    while jobs_left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert jobs_left() == []


def jobs_left() -> list[str]:
    """Lines of squeue."""
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.fixture(autouse=True)
def _outside_any_batch_script(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name == "DASK_SCHEDULER_ADDRESS"]:
        monkeypatch.delenv(name)
