"""A run on the jobs of a real Slurm gives the bytes of a run in this process, whatever happens to the jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest

from tests.cluster.conftest import ROOT, jobs_left
from tests.test_engine import ABOVE, BLOCK, SHAPE, SMALL, smooth
from tests.world import volume_at
from tomoscale.cluster import slurm as slurm_module
from tomoscale.cluster.batch import batch_script
from tomoscale.cluster.slurm import jobs
from tomoscale.errors import PlanError
from tomoscale.geometry import Halo
from tomoscale.kernels.majority import cube_rows, filter_majority, majority
from tomoscale.ledger import Ledger
from tomoscale.step import Kernel
from tomoscale.volume import open_zarr
from tomoscale.work import Work, working

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def smooth_slowly(values: np.ndarray) -> np.ndarray:
    time.sleep(0.15)
    return smooth(values)


SLOW = Kernel("smooth", smooth_slowly, Halo.uniform(1), np.dtype(np.uint16), 6)


def study(folder: Path, work: Work) -> dict[str, bytes]:
    """A chain of maps and a measure; every file of voxels it writes, and its counts."""
    values = np.random.default_rng(5).integers(0, 200, SHAPE).astype(np.uint16)
    path = folder.parent / "source.zarr"
    source = open_zarr(path if path.exists() else volume_at(path, values, kind="grey"))
    smoothed = work.map(SLOW, source, folder / "smooth.zarr", kind="grey")
    voted = work.map(majority(1, 200, np.uint16), smoothed, folder / "voted.zarr", kind="grey")
    counts = work.measure((ABOVE,), {"grey": voted}, folder / "counts")
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("c/**/*")) if p.is_file()}
    assert len(files) == 2 * np.prod([-(-n // b) for n, b in zip(SHAPE, BLOCK, strict=True)])
    return {**files, **{name: value.tobytes() for name, value in counts.items()}}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the study gives in this process."""
    return study(tmp_path_factory.mktemp("expected") / "local", Work(resources=SMALL, block_shape=BLOCK))


def when_blocks_are_done(folder: Path, count: int, what: Callable[[], object]) -> threading.Thread:
    """Call `what` once a run has recorded some blocks."""

    def watch() -> None:
        ledger = folder / "smooth.zarr" / "0" / ".tomoscale" / "blocks.log"
        while not (ledger.exists() and Ledger.load(ledger.parent).done.sum() >= count):
            time.sleep(0.05)
        what()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def asked(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline, asked("squeue")
        time.sleep(0.1)


def wait_for_no_jobs() -> None:
    wait_until(lambda: not jobs_left())


def scontrol(*arguments: str) -> None:
    subprocess.run(["scontrol", *arguments], check=True)


def test_two_nodes_give_the_bytes_of_this_process_with_everything_encrypted(tmp_path, slurm, expected):
    with working("slurm:virtual", n_jobs=2, plan_only=True) as planned:
        assert jobs_left() == []
    with working("slurm:virtual", n_jobs=2, block_shape=BLOCK) as work:
        assert work.resources == planned.resources
        work.client.wait_for_workers(2)
        nodes = set(work.client.run(lambda: os.environ["SLURMD_NODENAME"]).values())
        assert nodes == {"n1", "n2"}
        assert work.client.scheduler.address.startswith("tls://")
        folders = list((tmp_path / "private").iterdir())
        assert [f.stat().st_mode & 0o777 for f in folders] == [0o700]
        assert {f.stat().st_mode & 0o777 for f in folders[0].iterdir()} == {0o600}
        assert study(tmp_path / "slurm", work) == expected
    assert list((tmp_path / "private").iterdir()) == []


def test_a_job_that_is_cancelled_is_replaced_and_the_bytes_are_the_same(tmp_path, slurm, expected):
    with working("slurm:virtual", n_jobs=1, block_shape=BLOCK) as work:
        (first,) = [line.split()[0] for line in jobs_left()]
        watch = when_blocks_are_done(tmp_path / "slurm", 2, lambda: subprocess.run(["scancel", first], check=True))
        assert study(tmp_path / "slurm", work) == expected
        watch.join()
        assert first not in [line.split()[0] for line in jobs_left()]


def test_workers_leave_before_their_time_is_over_and_the_bytes_are_the_same(tmp_path, slurm, expected):
    slurm["job-script-prologue"] = ['export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION="5s"']
    with dask.config.set({"jobqueue.tomoscale-virtual": slurm}), working("slurm", block_shape=BLOCK) as work:
        before = set(work.client.scheduler_info()["workers"])
        for number in range(20):  # until one of them has met the end of a worker
            assert study(tmp_path / f"run{number}", work) == expected
            if not before & set(work.client.scheduler_info()["workers"]):
                return
        pytest.fail("no worker has left")


def test_a_drained_node_loses_its_jobs_and_the_bytes_are_the_same(tmp_path, slurm, expected):
    def drain() -> None:
        scontrol("update", "nodename=n1", "state=drain", "reason=test")
        subprocess.run(["scancel", "--nodelist=n1"], check=True)

    with working("slurm:virtual", n_jobs=2, block_shape=BLOCK) as work:
        work.client.wait_for_workers(2)
        watch = when_blocks_are_done(tmp_path / "slurm", 2, drain)
        try:
            assert study(tmp_path / "slurm", work) == expected
            watch.join()
        finally:
            scontrol("update", "nodename=n1", "state=resume")


def test_no_process_of_a_job_whose_worker_was_stopped_outlives_the_run(slurm):
    with working("slurm:virtual", n_jobs=1) as work:
        (worker,), (nanny,) = (work.client.run(what).values() for what in (os.getpid, os.getppid))
        processes = [psutil.Process(worker), psutil.Process(nanny)]
        for process in processes:
            process.send_signal(signal.SIGSTOP)
    # Slurm asks first, and kills what has not ended after half a minute.
    assert psutil.wait_procs(processes, timeout=60)[1] == []


DRIVER = """
import sys
import dask, json
from pathlib import Path
from tests.cluster.test_slurm import BLOCK, study
from tomoscale.cluster import slurm
from tomoscale.work import working

if __name__ == "__main__":
    slurm.POLL_SECONDS = 0.5
    dask.config.set({"jobqueue.tomoscale-virtual": json.loads(sys.argv[2])})
    with working("slurm:virtual", n_jobs=2, block_shape=BLOCK) as work:
        study(Path(sys.argv[1]), work)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_job_outlives_a_driver_that_is_stopped(tmp_path, slurm, expected, number):
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "slurm"), json.dumps(slurm)]
    driver = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    when_blocks_are_done(tmp_path / "slurm", 1, lambda: driver.send_signal(number)).join(60)
    _, told = driver.communicate(timeout=30)
    assert driver.returncode != 0
    wait_for_no_jobs()
    if number == signal.SIGINT:
        assert "blocks are done and recorded" in told
        assert list((tmp_path / "private").iterdir()) == []
    with working("threads", block_shape=BLOCK) as work:
        assert study(tmp_path / "slurm", work) == expected


def test_a_batch_script_runs_scheduler_command_and_workers_in_one_allocation(tmp_path, slurm, expected):
    driver = tmp_path / "driver.py"
    driver.write_text(
        "import sys\nfrom pathlib import Path\nfrom tests.cluster.test_slurm import BLOCK, study\nfrom tomoscale.work import working\n"
        "if __name__ == '__main__':\n    with working(block_shape=BLOCK) as work:\n"
        "        work.client.wait_for_workers(2)\n        assert work.client.scheduler.address.startswith('tls://')\n"
        "        study(Path(sys.argv[1]), work)\n"
    )
    script = tmp_path / "job.sh"
    script.write_text(batch_script("virtual", [sys.executable, str(driver), str(tmp_path / "slurm")], nodes=2))
    number = asked("sbatch", "--parsable", f"--chdir={ROOT}", str(script))
    # What Slurm sends before the time is over: the command stops, and the job queues again, in two minutes.
    when_blocks_are_done(
        tmp_path / "slurm", 1, lambda: subprocess.run(["scancel", "--signal=TERM", number], check=True)
    )
    wait_until(lambda: asked("squeue", "--noheader", "--format=%r") == "BeginTime")
    wait_until(lambda: asked("sinfo", "--noheader", "--format=%t") == "idle")  # its first start has left the nodes
    assert 0 < Ledger.load(tmp_path / "slurm" / "smooth.zarr" / "0" / ".tomoscale").done.sum() < 12
    assert list((tmp_path / "private").iterdir()) == []
    # Nodes tell the credentials of two starts of a job apart by whole seconds; by itself Slurm leaves two minutes.
    time.sleep(3)
    scontrol("update", f"jobid={number}", "starttime=now")
    wait_for_no_jobs()
    logs = [f"{p.name}: {p.read_text()[-400:]}" for p in (tmp_path / "logs").iterdir()]
    assert (tmp_path / "slurm" / "counts" / "plan.json").exists(), "\n".join(
        [*logs, asked("scontrol", "show", "job", number)]
    )
    assert Ledger.load(tmp_path / "slurm" / "counts").done.all(), logs
    with working("threads", block_shape=BLOCK) as work:
        assert study(tmp_path / "slurm", work) == expected
    assert list((tmp_path / "private").iterdir()) == []


def test_the_example_runs_on_jobs_and_inside_one(tmp_path, slurm, monkeypatch):
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "virtual.yaml").write_text(json.dumps({"jobqueue": {"tomoscale-virtual": slurm}}))
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
    labels = np.random.default_rng(0).integers(0, 3, (20, 21, 22)).astype(np.uint8)
    volume_at(tmp_path / "labels.zarr", labels, kind="labels")
    command = [sys.executable, str(ROOT / "examples" / "slurm.py"), str(tmp_path / "labels.zarr")]
    asked(*command, str(tmp_path / "jobs.zarr"), "--site", "virtual")
    script = asked(*command, str(tmp_path / "script.zarr"), "--site", "virtual", "--script")
    (tmp_path / "job.sh").write_text(script + "\n")
    asked("sbatch", f"--chdir={tmp_path}", str(tmp_path / "job.sh"))
    wait_for_no_jobs()
    whole = filter_majority(labels, cube_rows(1), 4)
    for name in ("jobs.zarr", "script.zarr"):
        np.testing.assert_array_equal(open_zarr(tmp_path / name).read(), whole)


def test_a_job_that_slurm_does_not_take_is_told_in_its_words(slurm):
    slurm["queue"] = "nosuch"
    with (
        dask.config.set({"jobqueue.tomoscale-virtual": slurm}),
        pytest.raises(PlanError, match=r"Slurm does not take the job: .*invalid partition"),
        jobs("virtual"),
    ):
        pass


def test_jobs_that_end_at_once_are_told_with_what_they_wrote(slurm, monkeypatch):
    monkeypatch.setattr(slurm_module, "FAILED_STARTS", 1)
    slurm["python"] = "/no/such/python"
    with (
        dask.config.set({"jobqueue.tomoscale-virtual": slurm}),
        pytest.raises(PlanError, match=r"1 jobs ended before their worker was there(.|\n)*/no/such/python"),
        jobs("virtual"),
    ):
        pass


def test_whatever_listens_is_on_loopback_or_wants_a_certificate(tmp_path, slurm):
    slurm["interface"] = next(iter(outside_interfaces()), "lo")
    with dask.config.set({"jobqueue.tomoscale-virtual": slurm}), jobs("virtual") as client:
        pids = [os.getpid(), *client.run(os.getpid).values(), *client.run(os.getppid).values()]
        known = {client.scheduler.address, *client.scheduler_info()["workers"]}
        known |= {worker["nanny"] for worker in client.scheduler_info()["workers"].values()}
        ports = {int(address.rpartition(":")[2]) for address in known if address.startswith("tls://")}
        listening = [
            c.laddr for pid in pids for c in psutil.Process(pid).net_connections("inet") if c.status == "LISTEN"
        ]
        assert {port for address, port in listening if not address.startswith("127.")} <= ports
        assert ports <= {port for _, port in listening}
        assert_refused_without_certificate(client.scheduler.address)


def outside_interfaces() -> list[str]:
    """Interfaces of this machine that have an IPv4 address off loopback."""
    found = psutil.net_if_addrs().items()
    return [
        n for n, all_ in found if any(a.family.name == "AF_INET" and not a.address.startswith("127.") for a in all_)
    ]


def assert_refused_without_certificate(address: str) -> None:
    from distributed import Client, Security

    for other, security in ((address.replace("tls:", "tcp:"), None), (address, Security.temporary())):
        with pytest.raises(OSError, match=r"Timed out|ConnectionReset|closed|does not match"):
            Client(other, timeout="1s", security=security)
