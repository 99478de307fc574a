"""Look at a cluster before a run does: what is wrong, where, and how to mend it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from tomoscale.bucket_path import BucketPath
from tomoscale.cluster import looking as look
from tomoscale.cluster.bucket_looking import look_at_bucket
from tomoscale.cluster.checks import CHECKS, check_all
from tomoscale.cluster.connection import connect
from tomoscale.cluster.credentials import HOME
from tomoscale.cluster.facts import Facts, Finding, Machine
from tomoscale.cluster.jobqueue import load_jobqueue
from tomoscale.cluster.profile import Profile, load_profile
from tomoscale.cluster.quota import mount_of
from tomoscale.cluster.settings import LOOPBACK
from tomoscale.cluster.slurm import shared_folder
from tomoscale.errors import PlanError
from tomoscale.places import Place, replace_text


def diagnose(
    workers: str = "",
    *,
    site: str | None = None,
    folder: Place | None = None,
    n_jobs: int = 1,
    credentials: str | Path | None = None,
    insecure: bool = False,
) -> dict[str, Any]:
    """Look at this machine, at workers, at a folder and at a profile.

    Parameters
    ----------
    workers : str
        As for `tomoscale.working`; they are started, asked, and ended. Empty starts none.
    site : str or None
        Profile to look at without submitting a job; that of "slurm:PROFILE" is looked at anyway.
    folder : Path, BucketPath or None
        Where results are to be: small files or objects are written there and removed.
    n_jobs, credentials, insecure
        As for `tomoscale.working`.

    Returns
    -------
    dict
        ``findings`` (list of check, level, what, where, mend), ``checks`` (how many were made), ``workers`` (list of what
        they told), ``sound`` (whether there is no fault).

    Raises
    ------
    PlanError
        If there is no such profile.
    """
    how = {"n_jobs": n_jobs, "credentials": credentials, "insecure": insecure}
    facts = gather(workers, site, folder, how)
    findings = check_all(facts)
    return {
        "sound": not any(finding.level == "fault" for finding in findings),
        "checks": len(CHECKS),
        "findings": [asdict(finding) for finding in findings],
        "workers": [_told(machine) for machine in facts.workers],
    }


def gather(workers: str, site: str | None, folder: Place | None, how: dict[str, Any]) -> Facts:
    """Learn what the checks judge."""
    import dask

    of_slurm = workers.partition(":")[0] == "slurm"
    profile = None
    if site is not None or of_slurm:
        profile = load_profile(site or workers.partition(":")[2] or None)
    keys = (HOME if profile is None else shared_folder(profile)).expanduser()
    header, script = ((), None) if profile is None else job_texts(profile)
    facts = Facts(
        here=look.look_at_machine("this machine", None if folder is None else str(folder)),
        asked=workers,
        folder=look.look_at_folder(folder) if isinstance(folder, Path) else None,
        bucket=look_at_bucket(folder) if isinstance(folder, BucketPath) else None,
        slurm=None if profile is None else look.look_at_slurm(script),
        profile=profile,
        job_header=header,
        interfaces=tuple(psutil.net_if_addrs()),
        port_error=look.port_failure(LOOPBACK),
        umask=look.current_umask(),
        keys_folder=keys,
        keys_mode=look.mode_of(keys),
        keys_file_system=mount_of(keys)[0],
        dask={name: dask.config.get(name, None) for name in look.DASK_OPTIONS},
    )
    if not workers or workers == "threads" or (facts.slurm is not None and facts.slurm.missing):
        return facts
    try:
        return replace(facts, workers=look_at_workers(workers, folder, how))
    except PlanError as error:
        return replace(facts, connection_error=str(error))


def look_at_workers(workers: str, folder: Place | None, how: dict[str, Any]) -> tuple[Machine, ...]:
    """Start or reach workers and let each look at its machine."""
    with token_in(folder) as token, connect(workers, **how) as client:
        if client is None:
            return ()
        limits = {
            address: worker["memory_limit"]
            for address, worker in client.scheduler_info(n_workers=-1)["workers"].items()
        }
        place = None if folder is None else str(folder.resolve())
        told = client.run(look.look_at_machine, "", place, token, on_error="return")
    return tuple(
        replace(machine, name=address, memory_limit_bytes=int(limits.get(address) or 0))
        if isinstance(machine, Machine)
        else Machine(address, error=f"{type(machine).__name__}: {machine}"[:300])
        for address, machine in told.items()
    )


@contextmanager
def token_in(folder: Place | None) -> Iterator[str | None]:
    """Write a file that workers look for, give its name, and remove it."""
    if folder is None:
        yield None
        return
    token = look.TOKEN.format(f"token-{os.getpid()}")
    try:
        replace_text(folder / token, "")
    except (OSError, PlanError):  # that the folder cannot be written is found elsewhere
        yield None
        return
    try:
        yield token
    finally:
        with suppress(OSError):
            (folder / token).unlink(missing_ok=True)


def job_texts(profile: Profile) -> tuple[tuple[str, ...], str]:
    """Lines of #SBATCH of a profile before any is skipped, and its whole job script."""
    import dask

    module = load_jobqueue()

    def job(skip: Sequence[str]) -> Any:
        section = {
            f"jobqueue.{profile.section}": {**profile.options, "job-directives-skip": list(skip), "log-directory": None}
        }
        with dask.config.set(section):
            return module.slurm.SLURMJob("tls://scheduler", name="worker", config_name=profile.section)

    whole = job(()).job_header.splitlines()
    return tuple(whole), str(job(profile.options["job-directives-skip"]).job_script())


def in_words(found: dict[str, Any]) -> dict[str, str]:
    """Findings for people: one line each."""
    findings = [Finding(**one) for one in found["findings"]]
    lines = {f"{f.level} {n} ({f.check})": f"{f.what}; in {f.where}; {f.mend}" for n, f in enumerate(findings, 1)}
    asked = f", {len(found['workers'])} workers" if found["workers"] else ""
    return {
        **lines,
        "checked": f"{found['checks']} things{asked}: {'sound' if found['sound'] else 'not fit for a run'}",
    }


def _told(machine: Machine) -> dict[str, Any]:
    return {**asdict(machine), "versions": dict(machine.versions)}
