"""Checks of a site: its network, keys, Dask configuration, Slurm and profile."""

from __future__ import annotations

from collections.abc import Iterator

from tomoscale.cluster.facts import Facts, Finding
from tomoscale.cluster.machine_checks import LOCAL_FILE_SYSTEMS
from tomoscale.cluster.profile import PREFIX, Profile, duration_seconds
from tomoscale.errors import PlanError


def network(facts: Facts) -> Iterator[Finding]:
    """Processes can listen, on a network that is there."""
    if facts.port_error:
        yield Finding(
            "ports",
            "fault",
            f"nothing can listen: {facts.port_error}",
            facts.here.host,
            "ask for the firewall, or run inside one job (tomoscale cluster script)",
        )
    if facts.profile is None:
        return
    interface = facts.profile.options["interface"]
    if interface is not None and interface not in facts.interfaces:
        yield Finding(
            "interface",
            "fault",
            f"there is no network {interface!r}; there are {', '.join(facts.interfaces)}",
            f"{facts.here.host}, {_section(facts.profile)}.interface",
            "name one that this machine and the nodes have; `ip -br address` lists them",
        )


def keys(facts: Facts) -> Iterator[Finding]:
    """Keys are private, and where workers see them."""
    if facts.keys_mode is not None and facts.keys_mode & 0o077:
        others = "write into" if facts.keys_mode & 0o022 else "look into"
        yield Finding(
            "keys",
            "fault" if facts.keys_mode & 0o022 else "warning",
            f"others may {others} the folder that holds keys of clusters",
            str(facts.keys_folder),
            f"chmod 700 {facts.keys_folder}",
        )
    if facts.keys_file_system in LOCAL_FILE_SYSTEMS and facts.profile is not None:
        yield Finding(
            "keys",
            "fault",
            f"keys are put on {facts.keys_file_system}, which nodes do not see",
            str(facts.keys_folder),
            "name a folder they share in shared-temp-directory",
        )
    if facts.umask & 0o022 != 0o022:
        yield Finding(
            "umask",
            "warning",
            f"others may change new files (umask {facts.umask:03o})",
            facts.here.host,
            "umask 022, unless your group is to change results",
        )


def dask_options(facts: Facts) -> Iterator[Finding]:
    """The Dask configuration does not end what works."""
    terminate = facts.dask.get("distributed.worker.memory.terminate")
    if terminate is False:
        yield Finding(
            "dask",
            "warning",
            "workers over their memory are not ended",
            "distributed.worker.memory.terminate",
            "remove the line: the job would be killed instead",
        )
    ttl = facts.dask.get("distributed.scheduler.worker-ttl")
    if ttl is not None and duration_seconds(str(ttl)) < 60:
        yield Finding(
            "dask",
            "warning",
            f"workers that are silent for {ttl} are given up",
            "distributed.scheduler.worker-ttl",
            "give 5 minutes: a block may hold a worker that long",
        )
    idle = facts.dask.get("distributed.scheduler.idle-timeout")
    if idle is not None:
        yield Finding(
            "dask",
            "warning",
            f"the scheduler ends when idle for {idle}",
            "distributed.scheduler.idle-timeout",
            "remove the line: a run has pauses between its steps",
        )


def slurm_itself(facts: Facts) -> Iterator[Finding]:
    """Slurm is there and would take the job."""
    slurm, profile = facts.slurm, facts.profile
    if slurm is None:
        return
    if slurm.missing:
        yield Finding(
            "slurm",
            "fault",
            f"{', '.join(slurm.missing)} not found",
            facts.here.host,
            "run this on a machine that submits jobs (a login node)",
        )
        return
    if profile is None:
        return
    queue = profile.options["queue"]
    unknown = [name for name in str(queue).split(",") if queue and name not in slurm.partitions]
    if unknown:
        yield Finding(
            "partition",
            "fault",
            f"there is no partition {unknown[0]!r}; there are {', '.join(sorted(slurm.partitions)) or 'none'}",
            f"{_section(profile)}.queue",
            "name one of them",
        )
    elif slurm.refusal:
        yield Finding(
            "job",
            "fault",
            f"Slurm would not take the job: {slurm.refusal}",
            _section(profile),
            "change what the profile asks for",
        )
    limits = [slurm.partitions[name] for name in str(queue).split(",") if name in slurm.partitions]
    try:
        walltime = profile.walltime_seconds
    except PlanError:  # told by the check of the lifetime
        return
    if limits and walltime is not None and walltime > max(limits):
        yield Finding(
            "walltime",
            "fault",
            f"{walltime / 3600:.1f} h, but {queue} gives {max(limits) / 3600:.1f} h at most",
            f"{_section(profile)}.walltime",
            "lower it, and the lifetime with it",
        )


def lifetime(facts: Facts) -> Iterator[Finding]:
    """Workers leave before Slurm ends their job."""
    profile = facts.profile
    if profile is None:
        return
    where = f"{_section(profile)}.walltime and job-script-prologue"
    try:
        walltime, lifetime = profile.walltime_seconds, profile.lifetime_seconds
    except PlanError as error:
        yield Finding("lifetime", "fault", str(error), where, "write it as `tomoscale cluster init` does")
        return
    if walltime is None:
        return
    if lifetime is None:
        yield Finding(
            "lifetime",
            "warning",
            "workers do not leave before their job's time is over: blocks they compute then are lost and tried again",
            where,
            'add export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION="..." as `tomoscale cluster init` writes it',
        )
    elif sum(lifetime) >= walltime:
        yield Finding(
            "lifetime",
            "fault",
            f"workers leave after {lifetime[0] / 60:.0f} ± {lifetime[1] / 60:.0f} min, but Slurm ends the job after {walltime / 60:.0f} min",
            where,
            "lower the lifetime by some minutes and twice the stagger",
        )
    elif lifetime[1] == 0:
        yield Finding("lifetime", "warning", "all workers leave at once", where, "add a stagger of some minutes")


def profile_itself(facts: Facts) -> Iterator[Finding]:
    """The profile shares out what it asks for, and skips what it means to."""
    profile = facts.profile
    if profile is None:
        return
    if int(profile.options["cores"]) % profile.processes:
        yield Finding(
            "cores",
            "warning",
            f"{profile.options['cores']} cores are shared by {profile.processes} processes: some stay idle",
            f"{_section(profile)}.processes",
            "give a divisor of cores",
        )
    for skip in profile.options["job-directives-skip"]:
        gone = [line for line in facts.job_header if skip in line]
        if len(gone) != 1:
            lost = " and ".join(gone) or "no line"
            yield Finding(
                "skip",
                "warning",
                f"{skip!r} takes {lost} from the job script: every line that contains it goes",
                f"{_section(profile)}.job-directives-skip",
                'write more of the line, such as "--mem="',
            )


def _section(profile: Profile) -> str:
    return f"jobqueue.{PREFIX}{profile.name}"
