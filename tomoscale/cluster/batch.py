"""A batch script in which scheduler, driver and workers live inside one Slurm allocation.

For sites where nothing may run on login nodes, and for runs that shall wait in the queue as a whole. All is in the
ledgers of the outputs, so the script may be submitted again, or requeued by Slurm, at any time.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from tomoscale.cluster.allocation import INTERRUPTED
from tomoscale.cluster.jobqueue import load_jobqueue
from tomoscale.cluster.profile import Profile, load_profile, shipped_profile, site_names
from tomoscale.cluster.settings import GPU_THREADS, IO_THREADS, LOOPBACK_ANY_PORT
from tomoscale.cluster.slurm import log_folder, shared_folder
from tomoscale.errors import PlanError

SIGNAL_SECONDS = 120
"""How long before the end of its time the command is asked to stop, so that it records what is done."""

TEMPLATE = """#!/usr/bin/env bash
# Scheduler, command and workers in one allocation; made by `tomoscale cluster script`, to be submitted by sbatch.
# It may be submitted again at any time: every output goes on where it was.
{header}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@{signal_seconds}
{prologue}
export SRUN_CPUS_PER_TASK="${{SLURM_CPUS_PER_TASK:-}}"
[ -n "$SRUN_CPUS_PER_TASK" ] || unset SRUN_CPUS_PER_TASK
srun --nodes={nodes} --ntasks-per-node=1 --wait=60 \\
  {task} \\
  -- {command}
code=$?
# The command was asked to stop before the time was over: the job queues again and goes on.
if [ "$code" -eq {interrupted} ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def batch_script(site: str, command: Sequence[str], *, nodes: int = 1, gpus: bool = False) -> str:
    """Script that runs a command on the nodes of one allocation.

    Parameters
    ----------
    site : str
        Name of a profile in the Dask configuration, else of a site whose profile comes with tomoscale.
    command : sequence of str
        Any program that asks `tomoscale.working` or `distributed.Client` for workers without naming them: a `tomoscale`
        command, a Python script.
    nodes : int
        The first also runs the scheduler and the command.
    gpus : bool
        Take the profile ``SITE-gpu``, whose workers have a GPU each.

    Raises
    ------
    PlanError
        If there is no such profile, or no command.
    """
    if not command:
        raise PlanError(
            "give the command that the script runs behind --, such as -- tomoscale segment normal.zarr labels.zarr"
        )
    if any(word == "--workers" or word.startswith("--workers=") for word in command):
        raise PlanError("the command finds the workers of its allocation by itself: leave out `--workers`")
    profile = _profile(f"{site}-gpu" if gpus and not site.endswith("-gpu") else site)
    options = [
        "--shared",
        str(shared_folder(profile).expanduser().absolute()),
        "--worker",
        json.dumps(_worker(profile)),
    ]
    if profile.options["interface"]:
        options += ["--interface", str(profile.options["interface"])]
    python = profile.options["python"] or sys.executable
    return TEMPLATE.format(
        header=_header(profile),
        nodes=nodes,
        signal_seconds=SIGNAL_SECONDS,
        prologue="\n".join(map(str, profile.options["job-script-prologue"])),
        task=shlex.join([python, "-m", "tomoscale.cluster.allocation", *options]),
        command=shlex.join(command),
        interrupted=INTERRUPTED,
    )


def _profile(name: str) -> Profile:
    try:
        return load_profile(name)
    except PlanError:
        if name.removesuffix("-gpu") not in site_names():
            raise
    return shipped_profile(name)


def _header(profile: Profile) -> str:
    """Lines of #SBATCH as dask-jobqueue writes them, but for the number of tasks, which is that of nodes here."""
    import dask

    module = load_jobqueue()
    # Several processes are workers of one task here, not of one job each.
    skip = [*profile.options["job-directives-skip"], "#SBATCH -n 1"]
    section = {**profile.options, "job-directives-skip": skip, "log-directory": str(log_folder(profile))}
    extra = [line for line in map(str, section["job-extra-directives"]) if not line.startswith(("--nodes", "-N"))]
    with dask.config.set({f"jobqueue.{profile.section}": {**section, "job-extra-directives": extra}}):
        job = module.slurm.SLURMJob("tls://scheduler", name="worker", config_name=profile.section)
    return str(job.job_header)


def _worker(profile: Profile) -> list[str]:
    """Command that starts the workers of a node, but for the scheduler's address and keys."""
    python = profile.options["python"] or sys.executable
    limit = f"{_memory_bytes(profile) // profile.processes}B"
    command = [
        python,
        "-m",
        profile.options["worker-command"],
        "--memory-limit",
        limit,
        "--dashboard-address",
        LOOPBACK_ANY_PORT,
    ]
    if profile.on_gpus:
        return [*command, "--nthreads", str(GPU_THREADS)]
    threads = profile.threads + IO_THREADS
    return [*command, "--nthreads", str(threads), "--nworkers", str(profile.processes)]


def _memory_bytes(profile: Profile) -> int:
    from dask.utils import parse_bytes

    return int(parse_bytes(profile.options["memory"]))
