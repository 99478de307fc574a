"""Judge what is known of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tomoscale.cluster import bucket_checks, machine_checks, site_checks
from tomoscale.cluster.facts import Facts, Finding

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    machine_checks.connection,
    machine_checks.versions,
    machine_checks.gpus,
    machine_checks.memory_limits,
    machine_checks.open_files,
    machine_checks.clocks,
    machine_checks.shared_paths,
    machine_checks.folder_of_results,
    bucket_checks.server,
    bucket_checks.credentials,
    bucket_checks.rights,
    bucket_checks.conditions,
    bucket_checks.clocks,
    bucket_checks.shared_bucket,
    site_checks.network,
    site_checks.keys,
    site_checks.dask_options,
    site_checks.slurm_itself,
    site_checks.lifetime,
    site_checks.profile_itself,
)


def check_all(facts: Facts) -> list[Finding]:
    """All findings, faults first."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return sorted(found, key=lambda finding: finding.level != "fault")
