"""Checks of machines and folders: each takes the facts and tells what is wrong, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator

from tomoscale.cluster.facts import PACKAGES, Facts, Finding, Machine
from tomoscale.lease import LEASE_SECONDS

GIB = 2**30
LEAST_FREE_BYTES = 10 * GIB
LEAST_FREE_FILES = 10_000
LEAST_OPEN_FILES = 1024
CLOCK_SECONDS = LEASE_SECONDS / 4
"""Leases of outputs are told fresh from stale by the times of files."""
LOCAL_FILE_SYSTEMS = ("tmpfs", "ramfs", "overlay")


def connection(facts: Facts) -> Iterator[Finding]:
    """Workers can be reached, and hold tomoscale."""
    if facts.connection_error:
        yield Finding(
            "connection",
            "fault",
            facts.connection_error,
            f"--workers {facts.asked}",
            "mend this first: workers were not looked at",
        )
    for worker in facts.workers:
        if worker.error:
            yield Finding(
                "worker",
                "fault",
                f"cannot be asked: {worker.error}",
                worker.name,
                "install the same tomoscale where workers run",
            )


def versions(facts: Facts) -> Iterator[Finding]:
    """All processes run the same programs."""
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


def gpus(facts: Facts) -> Iterator[Finding]:
    """GPUs are there and can be used."""
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


def memory_limits(facts: Facts) -> Iterator[Finding]:
    """Workers may use what there is, and no more."""
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
                "memory limit",
                "fault",
                f"may use {limit / 2**20:.0f} MiB only",
                _place(worker),
                "raise memory, or lower processes",
            )


def open_files(facts: Facts) -> Iterator[Finding]:
    """Enough files may be open."""
    for machine in (facts.here, *_asked(facts)):
        if machine.open_files < LEAST_OPEN_FILES:
            yield Finding(
                "open files",
                "warning",
                f"{machine.open_files} open files at most",
                _place(machine),
                f"ulimit -n {4 * LEAST_OPEN_FILES}",
            )


def clocks(facts: Facts) -> Iterator[Finding]:
    """Clocks agree with the file server's; in a bucket leases are told fresh from stale by the server's clock alone."""
    if facts.bucket is not None:
        return
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


def shared_paths(facts: Facts) -> Iterator[Finding]:
    """Workers see what the client writes."""
    for worker in _asked(facts):
        if worker.sees_token is False and facts.folder is not None:
            yield Finding(
                "shared folder",
                "fault",
                f"does not see what this machine writes into {facts.folder.path}",
                _place(worker),
                "put inputs and outputs where all nodes see them under one path",
            )


def folder_of_results(facts: Facts) -> Iterator[Finding]:
    """Results can be written, and there is room for them."""
    folder = facts.folder
    if folder is None:
        return
    where = f"{folder.path} ({folder.file_system or 'unknown file system'})"
    if folder.failure:
        yield Finding("writing", "fault", folder.failure, where, "make it, give another folder, or get the permission")
    if 0 <= folder.free_bytes < LEAST_FREE_BYTES:
        yield Finding(
            "space",
            "warning",
            f"{folder.free_bytes / GIB:.1f} GiB are free",
            where,
            "free some, or give another folder",
        )
    if 0 <= folder.free_files < LEAST_FREE_FILES:
        yield Finding(
            "files",
            "fault",
            f"{folder.free_files} more files can be made",
            where,
            "remove files, or give another folder",
        )
    if folder.quota_free_bytes is not None and folder.quota_free_bytes < LEAST_FREE_BYTES:
        yield Finding(
            "quota",
            "warning",
            f"{folder.quota_free_bytes / GIB:.1f} GiB are left of your quota",
            where,
            "free some of it",
        )
    elsewhere = {worker.host for worker in facts.workers} - {facts.here.host}
    if folder.file_system in LOCAL_FILE_SYSTEMS and (elsewhere or facts.profile is not None):
        yield Finding(
            "file system",
            "fault",
            f"{folder.file_system} is of one machine alone",
            where,
            "give a folder on a file system that nodes share",
        )


def _asked(facts: Facts) -> list[Machine]:
    return [worker for worker in facts.workers if not worker.error]


def _place(machine: Machine) -> str:
    return f"{machine.name} on {machine.host}"
