"""Workers as jobs of a Slurm cluster, through dask-jobqueue.

The scheduler and the driver run where the command was given. Each job is one or more workers. Jobs that end are replaced
as long as blocks are left; at the end all are cancelled. When the driver is killed, workers see their connection end and
leave; a job that starts later finds no scheduler and leaves after ``death-timeout``; the walltime bounds the rest.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cluster.credentials import HOME, security_of, temporary_credentials
from tomoscale.cluster.jobqueue import load_jobqueue
from tomoscale.cluster.profile import Profile, load_profile
from tomoscale.cluster.settings import (
    GPU_THREADS,
    IO_THREADS,
    LOOPBACK_ANY_PORT,
    SETTINGS,
    environment_of,
    thread_environment,
)
from tomoscale.errors import PlanError
from tomoscale.resources import Resources

if TYPE_CHECKING:
    from distributed import Client

COMMANDS = ("sbatch", "squeue", "scancel")
POLL_SECONDS = 5.0
"""How often the queue is looked at."""
FAILED_STARTS = 3
"""Jobs in a row, for each job asked for, that end before their worker has connected: then no more are submitted."""
NO_WORKERS_SECONDS = 30.0
"""How long blocks wait for a worker once no more jobs are submitted."""
SAY_SECONDS = 30.0


@contextmanager
def jobs(profile: str | None = None, n_jobs: int = 1) -> Iterator[Client]:
    """Submit Slurm jobs that work for this process, replace those that end, and cancel them afterwards.

    Parameters
    ----------
    profile : str or None
        Name of a section ``jobqueue.tomoscale-NAME`` of the Dask configuration; None takes the only one.
    n_jobs : int
        Jobs to keep. The client is given once the first worker is there; the others join when Slurm starts them.

    Raises
    ------
    PlanError
        If Slurm, dask-jobqueue or the profile is missing, Slurm refuses the job, or jobs end before they have started.
    """
    if n_jobs < 1:
        raise PlanError(f"at least one job is needed, got {n_jobs}")
    chosen = load_profile(profile)
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise PlanError(f"{', '.join(missing)} not found: run this on a machine that submits Slurm jobs")
    name = f"{chosen.options['name']}-{secrets.token_hex(4)}"
    import dask
    from distributed import Client

    # Dask-jobqueue reads the section anew for every job, and fails where an option is not named.
    section = {f"jobqueue.{chosen.section}": dict(chosen.options)}
    with temporary_credentials(shared_folder(chosen)) as keys, dask.config.set({**SETTINGS, **section}):
        cluster = None
        try:
            cluster = _cluster(chosen, name, keys)
            keeper = Keeper(cluster, name, n_jobs)
            with Client(cluster, set_as_default=False) as client:
                keeper.start()
                _wait_for_first(client, keeper)
                yield client
        finally:
            with uninterrupted():
                if cluster is not None:
                    with suppress(TimeoutError, RuntimeError):
                        cluster.close(timeout=20)
                # By name: a job whose submission was interrupted has no number here.
                subprocess.run(
                    ["scancel", f"--name={name}", f"--user={getpass.getuser()}"], check=False, capture_output=True
                )


class Keeper:
    """Submits jobs for those that have left the queue, until they fail one after the other.

    Dask-jobqueue replaces a job whose worker was connected and went; a job that is cancelled while it waits, or dies
    before its worker connects, it never misses.
    """

    def __init__(self, cluster: Any, name: str, n_jobs: int) -> None:
        self.cluster, self.name, self.n_jobs = cluster, name, n_jobs
        self.seen: set[str] = set()
        self.failed_starts = 0
        self.gave_up = False
        self.states: Mapping[str, str] = {}
        self.trouble = ""

    def start(self) -> None:
        """Submit the jobs and go on looking after them.

        Raises
        ------
        PlanError
            If Slurm would refuse them.
        """
        from tornado.ioloop import PeriodicCallback

        refusal = refusal_of(self.cluster.job_script())
        if refusal is not None:
            raise PlanError(f"Slurm does not take the job: {refusal}")
        self.cluster.scale(jobs=self.n_jobs)
        # It belongs to the loop of the cluster, which is another thread's.
        self.cluster.loop.add_callback(PeriodicCallback(self.look, POLL_SECONDS * 1000).start)

    async def look(self) -> None:
        """Replace jobs that have left the queue."""
        from distributed.core import Status

        states = await asyncio.to_thread(queued, self.name)
        if states is None or self.gave_up or self.cluster.status != Status.running:
            return
        self.states = states
        connected = {str(worker["name"]) for worker in self.cluster.scheduler_info["workers"].values()}
        for name, job in list(self.cluster.workers.items()):
            if any(worker == str(name) or worker.startswith(f"{name}-") for worker in connected):
                self.seen.add(job.job_id)
                self.failed_starts = 0
            elif job.job_id not in states:
                self.failed_starts += job.job_id not in self.seen
                del self.cluster.workers[name]
        if self.failed_starts >= FAILED_STARTS * self.n_jobs:
            self.gave_up = True
            self.cluster.scheduler.no_workers_timeout = NO_WORKERS_SECONDS
            return
        try:
            await self.cluster
        except RuntimeError as error:  # such as a limit of jobs: tried again at the next look
            self.trouble = _words_of(str(error))


def refusal_of(script: str) -> str | None:
    """Why Slurm would not take a job script, in its words; None if it would."""
    done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else "; ".join(done.stderr.strip().splitlines()[:3])


def queued(name: str) -> dict[str, str] | None:
    """State and reason of the jobs of a name that have not ended, by number; None if Slurm does not answer."""
    command = ["squeue", "--noheader", f"--name={name}", f"--user={getpass.getuser()}", "--format=%i %T %r"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return None
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    return {line[0]: line[-1] for line in lines}


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C and a batch system's signal wait until jobs are cancelled; it takes seconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def job_options(profile: Profile, name: str, keys: Path) -> dict[str, Any]:
    """Options of `dask_jobqueue.SLURMCluster` for a profile: nothing but loopback without a certificate."""
    threads = GPU_THREADS if profile.on_gpus else profile.threads + IO_THREADS
    # A later option counts: dask-jobqueue gives every core a thread, and none for reading and writing.
    arguments = ["--nthreads", str(threads), "--dashboard-address", LOOPBACK_ANY_PORT]
    exports = {**environment_of(SETTINGS), **thread_environment(1)}
    return {
        "config_name": profile.section,
        "job_name": name,
        "security": security_of(keys),
        "protocol": "tls://",
        "scheduler_options": {"dashboard_address": LOOPBACK_ANY_PORT, **profile.options["scheduler-options"]},
        "log_directory": str(log_folder(profile)),
        "python": shlex.quote(profile.options["python"] or sys.executable),
        "worker_extra_args": [*profile.options["worker-extra-args"], *arguments],
        # The profile's own lines come last, so that they count.
        "job_script_prologue": [f"export {k}={v}" for k, v in exports.items()] + profile.options["job-script-prologue"],
        "silence_logs": logging.CRITICAL,
        "processes": profile.processes,
    }


def expected_resources(workers: str, n_jobs: int) -> Resources | None:
    """What the jobs of "slurm:PROFILE" will have, told without submitting any; None for GPUs, whose memory only they know."""
    from dask.utils import parse_bytes

    profile = load_profile(workers.partition(":")[2] or None)
    if profile.on_gpus:
        return None
    memory_bytes = int(0.8 * parse_bytes(profile.options["memory"]) / profile.processes)
    return Resources(n_jobs * profile.processes, profile.threads, IO_THREADS, memory_bytes)


def shared_folder(profile: Profile) -> Path:
    """Where the keys of a running cluster are, for all its machines to see."""
    return Path(profile.options["shared-temp-directory"] or HOME)


def log_folder(profile: Profile) -> Path:
    """Where jobs write what they say."""
    return Path(profile.options["log-directory"] or "~/.tomoscale/logs").expanduser().absolute()


def _cluster(profile: Profile, name: str, keys: Path) -> Any:
    try:
        return load_jobqueue().SLURMCluster(**job_options(profile, name, keys))
    except (RuntimeError, ValueError) as error:
        cause = error.__cause__ or error
        raise PlanError(
            f"the scheduler for jobs of profile {profile.name!r} does not start: {cause}; `tomoscale cluster doctor --site "
            f"{profile.name}` looks for the cause"
        ) from error


def _wait_for_first(client: Client, keeper: Keeper) -> None:
    """Wait until a worker is there, saying what Slurm says meanwhile."""
    said = time.monotonic()
    while not client.scheduler_info(n_workers=1)["workers"]:
        if keeper.gave_up:
            raise PlanError(f"{keeper.failed_starts} jobs ended before their worker was there{_last_lines(keeper)}")
        if time.monotonic() - said > SAY_SECONDS:
            said = time.monotonic()
            states = ", ".join(f"job {number} {state}" for number, state in keeper.states.items())
            print(
                f"tomoscale: waiting for Slurm: {keeper.trouble or states or 'no job yet'}", file=sys.stderr, flush=True
            )
        time.sleep(0.1)


def _last_lines(keeper: Keeper) -> str:
    """End of what the last job has written, to stand in a message."""
    folder = Path(keeper.cluster._dummy_job.log_directory)
    files = sorted(folder.glob(f"{keeper.name}-*.err"), key=lambda file: file.stat().st_mtime)
    lines = files[-1].read_text(errors="replace").strip().splitlines()[-4:] if files else []
    return (
        "".join(f"\n{line[:200]}" for line in (f"; {files[-1]} ends with", *lines))
        if lines
        else f"; they write into {folder}"
    )


def _words_of(text: str) -> str:
    """What Slurm said, of dask-jobqueue's message around it."""
    lines = [line.strip() for line in text.partition("stderr:")[2].splitlines() if line.strip()]
    return "; ".join(lines[:3]) if lines else text
