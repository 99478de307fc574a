"""Judge what is known of a cluster: each check takes the facts and tells what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tomoscale.cluster.facts import PACKAGES, Facts, Machine
from tomoscale.cluster.profile import PREFIX, Profile, duration_seconds
from tomoscale.errors import PlanError
from tomoscale.ledger import LEASE_SECONDS

GIB = 2**30
LEAST_FREE_BYTES = 10 * GIB
LEAST_FREE_FILES = 10_000
LEAST_OPEN_FILES = 1024
CLOCK_SECONDS = LEASE_SECONDS / 4
"""Leases of outputs are told fresh from stale by the times of files."""
LOCAL_FILE_SYSTEMS = ("tmpfs", "ramfs", "overlay")


@dataclass(frozen=True)
class Finding:
    """Something wrong.

    Attributes
    ----------
    check : str
        One word or two, the same for every finding of its kind.
    level : "fault" or "warning"
        With a fault a run fails or its results are at risk.
    what, where, mend : str
    """

    check: str
    level: str
    what: str
    where: str
    mend: str


Check = Callable[[Facts], Iterator[Finding]]


def check_all(facts: Facts) -> list[Finding]:
    """All findings, faults first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.level != "fault")


def _connection(facts: Facts) -> Iterator[Finding]:
    if facts.connection_error:
        yield Finding("connection", "fault", facts.connection_error, f"--workers {facts.asked}", "mend this first: workers were not looked at")
    for worker in facts.workers:
        if worker.error:
            yield Finding(
                "worker", "fault", f"cannot be asked: {worker.error}", worker.name, "install the same tomoscale where workers run"
            )


def _versions(facts: Facts) -> Iterator[Finding]:
    for worker in _asked(facts):
        here, there = facts.here, worker
        if there.python.rpartition(".")[0] != here.python.rpartition(".")[0]:
            yield Finding(
                "python",
                "fault",
                f"Python {there.python}, but {here.python} here",
                _place(there),
                "use one environment for the client and its workers (option python of the profile)",
            )
        for package in PACKAGES:
            mine, other = here.versions.get(package, ""), there.versions.get(package, "")
            if mine != other:
                yield Finding(
                    "versions",
                    "fault",
                    f"{package} {other or 'is not installed'}, but {mine or 'none'} here",
                    _place(there),
                    "use one environment for the client and its workers: other versions may give other results",
                )


def _gpus(facts: Facts) -> Iterator[Finding]:
    for machine in (facts.here, *_asked(facts)):
        if machine.driver and not machine.gpus:
            yield Finding(
                "gpu library",
                "warning",
                "there is an NVIDIA driver, but CuPy is not installed or finds no GPU",
                _place(machine),
                'install "tomoscale[cuda13]" (or cuda12) there, and look whether the job was given a GPU (nvidia-smi)',
            )
    wants = facts.asked == "gpus" or (facts.profile is not None and facts.profile.on_gpus)
    for worker in _asked(facts):
        if wants and not worker.gpus:
            yield Finding(
                "gpu",
                "fault",
                "workers on GPUs were asked for, but this one has none",
                _place(worker),
                "ask Slurm for a GPU in job-extra-directives, such as --gres=gpu:1, or take a partition with GPUs",
            )


def _memory(facts: Facts) -> Iterator[Finding]:
    for worker in _asked(facts):
        limit = worker.memory_limit_bytes
        if not limit:
            yield Finding("memory limit", "warning", "no memory limit", _place(worker), "give workers --memory-limit")
        elif limit > worker.memory_bytes:
            yield Finding(
                "memory limit",
                "fault",
                f"may use {limit / GIB:.1f} GiB, but there are {worker.memory_bytes / GIB:.1f} GiB",
                _place(worker),
                "lower memory, or raise processes, in the profile: it would be killed without a word",
            )
        elif limit < GIB // 2:
            yield Finding(
                "memory limit", "fault", f"may use {limit / 2**20:.0f} MiB only", _place(worker), "raise memory, or lower processes"
            )


def _open_files(facts: Facts) -> Iterator[Finding]:
    for machine in (facts.here, *_asked(facts)):
        if machine.open_files < LEAST_OPEN_FILES:
            yield Finding(
                "open files", "warning", f"{machine.open_files} open files at most", _place(machine), f"ulimit -n {4 * LEAST_OPEN_FILES}"
            )


def _clocks(facts: Facts) -> Iterator[Finding]:
    for machine in (facts.here, *_asked(facts)):
        offset = machine.clock_offset_s
        if offset is not None and abs(offset) > CLOCK_SECONDS:
            yield Finding(
                "clock",
                "fault",
                f"clock is {abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'} that of the file server",
                _place(machine),
                "let the machine take its time from the network: leases of outputs are told fresh from stale by it",
            )


def _shared(facts: Facts) -> Iterator[Finding]:
    for worker in _asked(facts):
        if worker.sees_token is False and facts.folder is not None:
            yield Finding(
                "shared folder",
                "fault",
                f"does not see what this machine writes into {facts.folder.path}",
                _place(worker),
                "put inputs and outputs where all nodes see them under one path",
            )


def _folder(facts: Facts) -> Iterator[Finding]:
    folder = facts.folder
    if folder is None:
        return
    where = f"{folder.path} ({folder.file_system or 'unknown file system'})"
    if folder.failure:
        yield Finding("writing", "fault", folder.failure, where, "give another folder, or get the permission")
    if 0 <= folder.free_bytes < LEAST_FREE_BYTES:
        yield Finding("space", "warning", f"{folder.free_bytes / GIB:.1f} GiB are free", where, "free some, or give another folder")
    if 0 <= folder.free_files < LEAST_FREE_FILES:
        yield Finding("files", "fault", f"{folder.free_files} more files can be made", where, "remove files, or give another folder")
    if folder.quota_free_bytes is not None and folder.quota_free_bytes < LEAST_FREE_BYTES:
        yield Finding("quota", "warning", f"{folder.quota_free_bytes / GIB:.1f} GiB are left of your quota", where, "free some of it")
    elsewhere = {worker.host for worker in facts.workers} - {facts.here.host}
    if folder.file_system in LOCAL_FILE_SYSTEMS and (elsewhere or facts.profile is not None):
        yield Finding(
            "file system", "fault", f"{folder.file_system} is of one machine alone", where, "give a folder on a file system that nodes share"
        )


def _network(facts: Facts) -> Iterator[Finding]:
    if facts.port_error:
        yield Finding(
            "ports", "fault", f"nothing can listen: {facts.port_error}", facts.here.host, "ask for the firewall, or run inside one job (tomoscale cluster script)"
        )
    interface = facts.profile.options["interface"] if facts.profile is not None else None
    if interface is not None and interface not in facts.interfaces:
        yield Finding(
            "interface",
            "fault",
            f"there is no network {interface!r}; there are {', '.join(facts.interfaces)}",
            f"{facts.here.host}, {_section(facts.profile)}.interface",
            "name one that this machine and the nodes have; `ip -br address` lists them",
        )


def _keys(facts: Facts) -> Iterator[Finding]:
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
            "umask", "warning", f"others may change new files (umask {facts.umask:03o})", facts.here.host, "umask 022, unless your group is to change results"
        )


def _dask(facts: Facts) -> Iterator[Finding]:
    terminate = facts.dask.get("distributed.worker.memory.terminate")
    if terminate is False:
        yield Finding(
            "dask", "warning", "workers over their memory are not ended", "distributed.worker.memory.terminate", "remove the line: the job would be killed instead"
        )
    ttl = facts.dask.get("distributed.scheduler.worker-ttl")
    if ttl is not None and duration_seconds(str(ttl)) < 60:
        yield Finding(
            "dask", "warning", f"workers that are silent for {ttl} are given up", "distributed.scheduler.worker-ttl", "give 5 minutes: a block may hold a worker that long"
        )
    idle = facts.dask.get("distributed.scheduler.idle-timeout")
    if idle is not None:
        yield Finding(
            "dask", "warning", f"the scheduler ends when idle for {idle}", "distributed.scheduler.idle-timeout", "remove the line: a run has pauses between its steps"
        )


def _slurm(facts: Facts) -> Iterator[Finding]:
    slurm, profile = facts.slurm, facts.profile
    if slurm is None:
        return
    if slurm.missing:
        yield Finding(
            "slurm", "fault", f"{', '.join(slurm.missing)} not found", facts.here.host, "run this on a machine that submits jobs (a login node)"
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
        yield Finding("job", "fault", f"Slurm would not take the job: {slurm.refusal}", _section(profile), "change what the profile asks for")
    limits = [slurm.partitions[name] for name in str(queue).split(",") if name in slurm.partitions]
    walltime = _seconds(lambda: profile.walltime_seconds)
    if limits and walltime is not None and walltime > max(limits):
        yield Finding(
            "walltime", "fault", f"{walltime / 3600:.1f} h, but {queue} gives {max(limits) / 3600:.1f} h at most", f"{_section(profile)}.walltime", "lower it, and the lifetime with it"
        )


def _lifetime(facts: Facts) -> Iterator[Finding]:
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


def _profile(facts: Facts) -> Iterator[Finding]:
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


CHECKS: tuple[Check, ...] = (
    _connection, _versions, _gpus, _memory, _open_files, _clocks, _shared, _folder, _network, _keys, _dask, _slurm, _lifetime, _profile,
)  # fmt: skip


def _asked(facts: Facts) -> list[Machine]:
    return [worker for worker in facts.workers if not worker.error]


def _place(machine: Machine) -> str:
    return f"{machine.name} on {machine.host}"


def _section(profile: Profile) -> str:
    return f"jobqueue.{PREFIX}{profile.name}"


def _seconds(value: Callable[[], float | None]) -> float | None:
    try:
        return value()
    except PlanError:
        return None
