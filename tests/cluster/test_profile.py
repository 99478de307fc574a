"""Profiles of sites are plain Dask configuration; what they make of a job and of a batch script is checked as text."""

from __future__ import annotations

import re
import shlex
import subprocess

import dask
import pytest
import yaml

from tomoscale.cli import main
from tomoscale.cluster.batch import batch_script
from tomoscale.cluster.doctor import job_texts
from tomoscale.cluster.profile import (
    SITES,
    duration_seconds,
    load_profile,
    make_profile,
    marked_lines,
    shipped_profile,
    site_names,
    slurm_seconds,
    write_site,
)
from tomoscale.cluster.slurm import job_options
from tomoscale.errors import PlanError

ALL = [name + kind for name in site_names() for kind in ("", "-gpu")]


def test_the_sites_are_those_that_help_names():
    assert site_names() == ("diamond", "esrf", "generic", "maxwell")


@pytest.mark.parametrize("name", ALL)
def test_a_shipped_profile_leaves_before_its_walltime_and_wants_nothing_twice(name, tmp_path):
    profile = shipped_profile(name)
    duration, stagger = profile.lifetime_seconds
    assert duration + stagger < profile.walltime_seconds
    assert stagger > 0
    assert profile.on_gpus == name.endswith("-gpu")
    header, script = job_texts(profile)
    for skip in profile.options["job-directives-skip"]:
        assert len([line for line in header if skip in line]) == 1
    assert ("-m dask_cuda.cli" in script) == profile.on_gpus
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("name", ALL)
def test_jobs_of_a_profile_are_encrypted_and_show_nothing_off_loopback(name, tmp_path, monkeypatch):
    from tomoscale.cluster.credentials import temporary_credentials
    from tomoscale.cluster.jobqueue import load_jobqueue

    monkeypatch.setenv("HOME", str(tmp_path))
    profile = shipped_profile(name)
    with (
        temporary_credentials(tmp_path / "private") as keys,
        dask.config.set({f"jobqueue.{profile.section}": dict(profile.options)}),
    ):
        options = job_options(profile, "tomoscale-1", keys)
        for of_cluster in ("scheduler_options", "silence_logs"):
            options.pop(of_cluster)
        script = load_jobqueue().slurm.SLURMJob("tls://192.0.2.7:8786", name="0", **options).job_script()
    command = next(shlex.split(line) for line in script.splitlines() if " -m " in line)
    given = {word: command[n + 1] for n, word in enumerate(command[:-1]) if word.startswith("--")}
    assert given["--dashboard-address"] == "127.0.0.1:0"
    assert given["--protocol"] == "tls://"
    assert given["--tls-key"] == f"{keys}/key.pem"
    assert given["--nthreads"] == ("3" if profile.on_gpus else str(profile.threads + 1))
    assert ("--nworkers" in command) == (not profile.on_gpus and profile.processes > 1)
    assert "BEGIN" not in script


def test_init_writes_what_dask_reads_and_never_over_what_is_there(tmp_path, capsys):
    target = tmp_path / "dask" / "site.yaml"
    assert main(["cluster", "init", "--site", "generic", "--target", str(target)]) == 0
    shown = capsys.readouterr().out
    assert "slurm:generic" in shown
    lines = target.read_text().splitlines()
    left = {n for n, line in enumerate(lines, 1) if "FILL IN" in line and not line.startswith("#")}
    assert len(left) == 12
    assert {int(n) for n in re.findall(r"line (\d+)", shown)} == left
    assert "interface: FILL IN: network of the nodes" in shown
    with dask.config.set(yaml.safe_load(target.read_text())):
        assert load_profile("generic").options["cores"] == 16
        with pytest.raises(PlanError, match=r"which jobs.*generic, generic-gpu"):
            load_profile()
    target.write_text("mine\n")
    assert main(["cluster", "init", "--site", "generic", "--target", str(target)]) == 4
    assert "is there already" in capsys.readouterr().err
    assert target.read_text() == "mine\n"
    assert main(["cluster", "init", "--site", "generic", "--target", str(target), "--overwrite"]) == 0
    assert "FILL IN" in target.read_text()


@pytest.mark.parametrize("site", site_names())
def test_a_site_leaves_to_its_user_what_no_public_page_says_and_every_mark_says_what_to_do(site):
    path = SITES / f"{site}.yaml"
    left = marked_lines(path)
    assert len(left) == sum(line.count("# FILL IN") + line.count("# CHECK") for line in path.read_text().splitlines())
    assert all(re.fullmatch(r"[\w-]+: (FILL IN|CHECK)\b.{4,}", what) for what in left.values())
    assert site == "generic" or not [what for what in left.values() if what.startswith("queue") and site != "esrf"]


def test_init_writes_into_the_folder_of_the_dask_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(dask.config, "PATH", str(tmp_path))
    assert write_site("esrf") == tmp_path / "tomoscale-esrf.yaml"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "holds no options"),
        ({"memory": "1GiB"}, "does not say cores"),
        ({"cores": 2}, "does not say memory"),
        ({"cores": "two", "memory": "1GiB"}, "cores is 'two'"),
        ({"cores": 2, "memory": "1GiB", "processes": 0}, "processes is 0"),
        ({"cores": 2, "memory": "1GiB", "quue": "cpu"}, "unknown option 'quue'.*queue"),
        ({"cores": 2, "memory": "1GiB", "job_extra_directives": "--exclusive"}, "is a list"),
    ],
)
def test_a_profile_that_says_nonsense_is_refused(content, words):
    with pytest.raises(PlanError, match=words):
        make_profile("mine", content)


def test_a_profile_that_is_not_there_is_refused_with_those_that_are():
    with dask.config.set({"jobqueue.tomoscale-one": {"cores": 1, "memory": "1GiB"}}):
        assert load_profile().name == "one"
        with pytest.raises(PlanError, match=r"no profile 'two'.*profiles: one.*cluster init"):
            load_profile("two")
    with pytest.raises(PlanError, match=r"which jobs.*none"):
        load_profile()


@pytest.mark.parametrize("text", ["", "1 hour", "1:2:3:4", "-5", "infinite"])
def test_times_that_are_none_are_refused(text):
    with pytest.raises(PlanError, match="no time that Slurm knows"):
        slurm_seconds(text)
    if text != "1 hour":
        with pytest.raises(PlanError, match="no time that Dask knows"):
            duration_seconds(text)


def test_a_batch_script_is_a_shell_script_that_keeps_the_command_as_it_is(tmp_path):
    command = ["tomoscale", "clean", "a b.zarr", "it's.zarr", "$HOME", "--radius", "2"]
    script = batch_script("generic", command, nodes=3)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    assert "#SBATCH --nodes=3" in lines
    assert "#SBATCH --requeue" in lines
    assert not [line for line in lines if line.startswith("#SBATCH -n ")]
    kept = next(line for line in lines if line.startswith("  -- "))
    assert shlex.split(kept)[1:] == command


def test_a_batch_script_for_gpus_asks_for_them_and_for_no_memory_where_that_is_forbidden():
    script = batch_script("maxwell", ["tomoscale", "info", "a.zarr"], nodes=2, gpus=True)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert '#SBATCH --constraint="GPUx1&A100"' in script
    assert "--mem=" not in script
    assert [line for line in script.splitlines() if "--nodes" in line and line.startswith("#")] == ["#SBATCH --nodes=2"]
    assert '"dask_cuda.cli"' in script
    assert script.index("unset LD_PRELOAD") < script.index("srun ")


@pytest.mark.parametrize(
    ("command", "words"),
    [([], "give the command"), (["tomoscale", "clean", "a", "b", "--workers", "gpus"], "leave out `--workers`")],
)
def test_a_batch_script_of_no_use_is_refused(command, words):
    with pytest.raises(PlanError, match=words):
        batch_script("generic", command)


def test_a_batch_script_for_a_site_nobody_knows_is_refused(capsys):
    assert main(["cluster", "script", "--site", "atlantis", "--", "true"]) == 4
    assert "no profile 'atlantis'" in capsys.readouterr().err
    assert main(["cluster", "script", "--site", "esrf", "--", "tomoscale", "info", "a"]) == 0
    assert "srun" in capsys.readouterr().out
