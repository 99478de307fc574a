"""Commands about clusters: write a site's profile, look for faults, print a batch script."""

from __future__ import annotations

from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import RUNNING, Command, destination, flag, option


def _init(**how: Any) -> Any:
    from tomoscale.cluster.profile import marked_lines, write_site

    path = write_site(**how)
    remaining = [{"line": number, "what": what} for number, what in marked_lines(path).items()]
    return {"written": str(path), "profiles": [how["site"], f"{how['site']}-gpu"], "remaining": remaining}


def _init_in_words(found: dict[str, Any]) -> dict[str, str]:
    names = " or ".join(f"--workers slurm:{name}" for name in found["profiles"])
    return {
        found[
            "written"
        ]: f"{len(found['remaining'])} lines are left to you; look with `tomoscale cluster doctor`, then run with {names}",
        **{f"line {one['line']}": one["what"] for one in found["remaining"]},
    }


def _doctor(workers: str | None, jobs: int, **how: Any) -> Any:
    from tomoscale.cluster.doctor import diagnose

    return diagnose(workers or "", n_jobs=jobs, **how)


def _doctor_in_words(found: dict[str, Any]) -> dict[str, str]:
    from tomoscale.cluster.doctor import in_words

    return in_words(found)


def _script(site: str, line: list[str], **how: Any) -> Any:
    from tomoscale.cluster.batch import batch_script

    return {"site": site, "script": batch_script(site, line, **how)}


WHERE = tuple(o for o in RUNNING if destination(o) in ("jobs", "credentials", "insecure"))

COMMANDS = (
    Command(
        "cluster init",
        "write the profile of a Slurm site into the Dask configuration",
        "tomoscale cluster init --site maxwell",
        _init,
        (
            option("--site", choices=("maxwell", "diamond", "esrf", "generic"), required=True, help="whose jobs"),
            option(
                "--target",
                type=values.output_path,
                metavar="FILE",
                help="default: tomoscale-SITE.yaml in the folder of the Dask configuration",
            ),
            flag("--overwrite", "replace the file that is there"),
        ),
        show=_init_in_words,
    ),
    Command(
        "cluster doctor",
        "look at workers, folder and Slurm profile, and say what is wrong and how to mend it",
        "tomoscale cluster doctor --workers processes --folder .",
        _doctor,
        (
            option(
                "--workers",
                type=values.workers,
                metavar="WHERE",
                help="start or reach these workers and ask each, as other commands do (default: none)",
            ),
            option(
                "--site",
                type=values.word,
                metavar="PROFILE",
                help="look at this Slurm profile without submitting a job",
            ),
            option(
                "--folder",
                type=values.volume_path,
                metavar="PATH",
                help="where results are to be, also s3://BUCKET/PATH",
            ),
            *WHERE,
        ),
        show=_doctor_in_words,
        exit_code=lambda found: 0 if found["sound"] else 4,
    ),
    Command(
        "cluster script",
        "print a batch script that runs a command and its workers in one Slurm allocation",
        "tomoscale cluster script --site generic --nodes 2 -- tomoscale clean labels.zarr clean.zarr",
        _script,
        (
            option(
                "--site",
                type=values.word,
                required=True,
                metavar="PROFILE",
                help="a Slurm profile, or a site that init knows",
            ),
            option(
                "--nodes", type=values.positive, default=1, metavar="N", help="machines of the allocation (default 1)"
            ),
            flag("--gpus", "take the profile with GPUs (PROFILE-gpu)"),
            option("line", type=values.word, nargs="+", metavar="COMMAND", help="what to run, behind --"),
        ),
        show=lambda found: found["script"],
    ),
)
