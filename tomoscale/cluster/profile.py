"""Profiles of Slurm sites: sections ``jobqueue.tomoscale-NAME`` of the Dask configuration, which plain YAML files hold.

A profile says what one job is: partition, cores, memory, walltime, and what its script must do first. Dask-jobqueue reads
the same section by ``config_name``, so a profile also serves scripts that know nothing of tomoscale.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import PlanError

PREFIX = "tomoscale-"
GPU_COMMAND = "dask_cuda.cli"
"""Module that starts one worker for each GPU of a job."""
SITES = Path(__file__).parent / "sites"
LIFETIME = "DASK_DISTRIBUTED__WORKER__LIFETIME__"
"""Variables by which a worker knows when to leave begin so."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Profile:
    """What one job of a site is.

    Attributes
    ----------
    name : str
        As in ``--workers slurm:NAME``.
    options : mapping
        Of the section, with dashes in names, over the defaults of dask-jobqueue.
    """

    name: str
    options: Mapping[str, Any]

    @property
    def section(self) -> str:
        """Name of the section below ``jobqueue`` in the Dask configuration."""
        return PREFIX + self.name

    @property
    def on_gpus(self) -> bool:
        """Whether its workers have a GPU each."""
        return bool(self.options["worker-command"] == GPU_COMMAND)

    @property
    def processes(self) -> int:
        """Worker processes of a job."""
        return int(self.options["processes"] or 1)

    @property
    def threads(self) -> int:
        """Cores of each worker process."""
        return max(1, int(self.options["cores"]) // self.processes)

    @property
    def walltime_seconds(self) -> float | None:
        """Time after which Slurm ends a job; None where the partition decides."""
        return None if self.options["walltime"] is None else slurm_seconds(str(self.options["walltime"]))

    @property
    def lifetime_seconds(self) -> tuple[float, float] | None:
        """Time after which a worker leaves by itself, and by how much that varies; None if it never does."""
        prologue = "\n".join(map(str, self.options["job-script-prologue"]))
        found = {kind: re.search(rf"{LIFETIME}{kind}=[\"']?([^\"'\n]+)", prologue) for kind in ("DURATION", "STAGGER")}
        if not found["DURATION"]:
            return None
        seconds = [duration_seconds(match[1]) if match else 0.0 for match in found.values()]
        return seconds[0], seconds[1]


def load_profile(name: str | None = None) -> Profile:
    """Read a profile from the Dask configuration; None takes the only one.

    Raises
    ------
    PlanError
        If there is none of that name, several for None, or it says what no job can be.
    """
    import dask

    sections: dict[str, Any] = dask.config.get("jobqueue", {})
    known = {
        section.removeprefix(PREFIX): content for section, content in sections.items() if section.startswith(PREFIX)
    }
    names = ", ".join(known) or "none"
    if name is None and len(known) != 1:
        raise PlanError(
            f"which jobs? Profiles of Slurm sites in the Dask configuration: {names}. Give workers='slurm:NAME', or write "
            "one by `tomoscale cluster init --site generic`"
        )
    name = next(iter(known)) if name is None else name
    if name not in known:
        raise PlanError(
            f"there is no profile {name!r} in the Dask configuration (profiles: {names}): write one by `tomoscale cluster init`, "
            f"or add a section jobqueue.{PREFIX}{name}"
        )
    return make_profile(name, known[name])


def make_profile(name: str, content: Any) -> Profile:
    """Check what a profile says, and fill in the defaults of dask-jobqueue."""
    place = f"jobqueue.{PREFIX}{name}"
    if not isinstance(content, Mapping):
        raise PlanError(
            f"{place} in the Dask configuration holds no options: write it anew by `tomoscale cluster init`"
        )
    given = {str(key).replace("_", "-"): value for key, value in content.items()}
    defaults = _defaults()
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise PlanError(f"{place} has the unknown option {unknown[0]!r}: options are {', '.join(sorted(defaults))}")
    profile = Profile(name, {**defaults, **given})
    for option in ("cores", "memory"):
        if not given.get(option):
            raise PlanError(
                f"{place} does not say {option}: give what one job has, such as `{option}: {_EXAMPLES[option]}`"
            )
    _refuse_wrong_types(profile, place)
    return profile


def slurm_seconds(text: str) -> float:
    """Seconds of a time as Slurm writes it.

    Examples
    --------
    >>> [slurm_seconds(t) for t in ("30", "30:10", "1:00:00", "1-0", "1-02:00:00")]
    [1800.0, 1810.0, 3600.0, 86400.0, 93600.0]
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if not match:
        raise PlanError(
            f"{text!r} is no time that Slurm knows: write hours:minutes:seconds or days-hours:minutes:seconds"
        )
    days, *rest = (None if part is None else int(part) for part in match.groups())
    parts = [part for part in rest if part is not None]
    # After days come hours; without days, one or two numbers begin with minutes.
    weights = (60, 1) if days is None and len(parts) < 3 else (3600, 60, 1)
    return float(sum(part * weight for part, weight in zip(parts, weights, strict=False)) + 86400 * (days or 0))


def duration_seconds(text: str) -> float:
    """Seconds of a time as Dask writes it, such as "55 minutes" or "55m"."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = match[2][:1].lower() if match and match[2] else "s"
    if not match or unit not in _UNITS:
        raise PlanError(f"{text!r} is no time that Dask knows: write it as 55 minutes")
    return float(match[1]) * _UNITS[unit]


def site_names() -> tuple[str, ...]:
    """Sites whose profiles come with tomoscale."""
    return tuple(sorted(file.stem for file in SITES.glob("*.yaml")))


def shipped_profile(name: str) -> Profile:
    """Read a profile that comes with tomoscale, such as "maxwell" or "maxwell-gpu"."""
    import yaml

    content = yaml.safe_load((SITES / f"{name.removesuffix('-gpu')}.yaml").read_text())
    return make_profile(name, content["jobqueue"][PREFIX + name])


def write_site(site: str, target: Path | None = None, *, overwrite: bool = False) -> Path:
    """Write the profiles of a site where Dask reads its configuration.

    Parameters
    ----------
    site : str
        One of `site_names`.
    target : path or None
        None writes ``tomoscale-SITE.yaml`` into the folder of the Dask configuration.
    overwrite : bool
        Replace the file that is there.

    Returns
    -------
    Path
        The file: plain YAML with comments that say what to fill in.

    Raises
    ------
    PlanError
        If the file is there and `overwrite` is not given.
    """
    import dask

    if target is None:
        target = Path(dask.config.PATH) / f"tomoscale-{site}.yaml"
    text = (SITES / f"{site}.yaml").read_text()
    if target.exists() and not overwrite:
        same = target.is_file() and target.read_text() == text
        raise PlanError(
            f"{target} is there already{' and holds just this' if same else ''}: change it by hand, give another target, or overwrite=True"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def marked_lines(path: Path) -> dict[int, str]:
    """Lines of a profile that only its user can fill in or check, by number, as option and what is to be done."""
    found = (re.match(r"\s+([\w-]+):.*#\s*((?:FILL IN|CHECK).*)$", line) for line in path.read_text().splitlines())
    return {number: f"{match[1]}: {match[2]}" for number, match in enumerate(found, 1) if match}


def _refuse_wrong_types(profile: Profile, place: str) -> None:
    for option in ("cores", "processes"):
        value = profile.options[option]
        if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1) and value is not None:
            raise PlanError(f"{place}.{option} is {value!r}, but it is a whole number of at least 1")
    for option in ("job-script-prologue", "job-directives-skip", "job-extra-directives", "worker-extra-args"):
        if not isinstance(profile.options[option], list):
            raise PlanError(f"{place}.{option} is {profile.options[option]!r}, but it is a list")


def _defaults() -> dict[str, Any]:
    """Options of a Slurm job with the defaults of dask-jobqueue."""
    import dask

    from tomoscale.cluster.jobqueue import load_jobqueue

    load_jobqueue()
    # Not from the configuration alone: what was loaded while `dask.config.set` held is forgotten at its end.
    shipped = dask.config.merge(*dask.config.defaults)["jobqueue"]["slurm"]
    return {**shipped, **dask.config.get("jobqueue.slurm", {}), "name": "tomoscale"}


_EXAMPLES = {"cores": "16", "memory": "64GiB"}
