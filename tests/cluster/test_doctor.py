"""Every fault that is planted is found, told with its place and the way out; a sound cluster has no findings."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import dask
import pytest

from tests.cluster import virtual_slurm
from tomoscale.bucket_client import Bucket
from tomoscale.bucket_path import BucketPath
from tomoscale.cli import main
from tomoscale.cluster import connection, doctor, looking, quota
from tomoscale.cluster.checks import CHECKS, check_all
from tomoscale.cluster.facts import BucketFolder, Facts, Folder, Machine, Slurm
from tomoscale.cluster.profile import make_profile, shipped_profile

GIB = 2**30
VERSIONS = {"tomoscale": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0", "zarr": "3.1.6", "dask": "2026.7.1"}
HERE = Machine("this machine", "login1", "3.11.7", VERSIONS, 64 * GIB, 0, open_files=4096, clock_offset_s=0.1)
WORKER = dataclasses.replace(
    HERE, name="tls://192.0.2.7:4000", host="node7", memory_limit_bytes=8 * GIB, sees_token=True
)
OPTIONS: dict[str, Any] = {
    "cores": 16,
    "processes": 8,
    "memory": "64GiB",
    "queue": "cpu",
    "walltime": "01:00:00",
    "interface": "ib0",
    "job-script-prologue": [
        'export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION="50 minutes"',
        'export DASK_DISTRIBUTED__WORKER__LIFETIME__STAGGER="4 minutes"',
    ],
}
PROFILE = make_profile("mine", OPTIONS)
SOUND = Facts(
    here=HERE,
    workers=(WORKER,),
    asked="slurm:mine",
    folder=Folder(Path("/beegfs/results"), "beegfs", 10_000 * GIB, 10**7, 500 * GIB),
    slurm=Slurm((), {"cpu": 86400.0, "gpu": math.inf}),
    profile=PROFILE,
    job_header=("#SBATCH -J tomoscale", "#SBATCH -p cpu", "#SBATCH -n 1", "#SBATCH --mem=64G", "#SBATCH -t 01:00:00"),
    interfaces=("lo", "ib0"),
    keys_folder=Path("/home/me/.tomoscale"),
    keys_mode=0o700,
    keys_file_system="nfs4",
    dask={"distributed.worker.memory.terminate": 0.95, "distributed.scheduler.worker-ttl": "5 minutes"},
)


def worker(**other: Any) -> dict[str, Any]:
    return {"workers": (dataclasses.replace(WORKER, **other),)}


def folder(**other: Any) -> dict[str, Any]:
    return {"folder": dataclasses.replace(SOUND.folder, **other)}


def bucket(**other: Any) -> dict[str, Any]:
    path = BucketPath(Bucket("scans", "https://store:9000", None), "study")
    sound = BucketFolder(path, "https://store:9000", "AWS_ACCESS_KEY_ID")
    return {"folder": None, "bucket": dataclasses.replace(sound, **other)}


def profile(**other: Any) -> dict[str, Any]:
    return {"profile": make_profile("mine", {**OPTIONS, **{k.replace("_", "-"): v for k, v in other.items()}})}


LIFETIME = "export DASK_DISTRIBUTED__WORKER__LIFETIME__DURATION="
FAULTS: dict[str, tuple[dict[str, Any], str, str, tuple[str, ...]]] = {
    "no connection": ({"workers": (), "connection_error": "no scheduler answers"}, "connection", "fault", ("no scheduler",)),
    "tomoscale is not on the worker": (worker(error="No module named 'tomoscale'"), "worker", "fault", ("tomoscale",)),
    "another Python": (worker(python="3.12.1"), "python", "fault", ("3.12.1", "3.11.7", "node7")),
    "another zarr": (worker(versions={**VERSIONS, "zarr": "2.18"}), "versions", "fault", ("zarr 2.18", "3.1.6", "node7")),
    "no torch": (worker(versions={**VERSIONS, "torch": ""}), "versions", "fault", ("torch is not installed",)),
    "a driver without CuPy": (worker(driver=True), "gpu library", "warning", ("CuPy", "cuda13")),
    "no GPU for GPU workers": (profile(worker_command="dask_cuda.cli"), "gpu", "fault", ("--gres=gpu:1", "node7")),
    "more memory than there is": (worker(memory_bytes=4 * GIB), "memory limit", "fault", ("8.0 GiB", "4.0 GiB")),
    "hardly any memory": (worker(memory_limit_bytes=2**28), "memory limit", "fault", ("256 MiB",)),
    "no memory limit": (worker(memory_limit_bytes=0), "memory limit", "warning", ("no memory limit",)),
    "few open files": (worker(open_files=256), "open files", "warning", ("256", "ulimit")),
    "a clock ahead": (worker(clock_offset_s=90.0), "clock", "fault", ("90 s ahead", "node7")),
    "a clock behind": ({"here": dataclasses.replace(HERE, clock_offset_s=-40.0)}, "clock", "fault", ("40 s behind",)),
    "a folder that workers do not see": (worker(sees_token=False), "shared folder", "fault", ("/beegfs/results", "node7")),
    "a folder that cannot be written": (folder(failure="renaming a file: denied"), "writing", "fault", ("renaming",)),
    "a full disk": (folder(free_bytes=GIB), "space", "warning", ("1.0 GiB", "beegfs")),
    "no inodes": (folder(free_files=12), "files", "fault", ("12",)),
    "a quota at its end": (folder(quota_free_bytes=GIB), "quota", "warning", ("1.0 GiB",)),
    "memory of one machine as folder": (folder(file_system="tmpfs"), "file system", "fault", ("tmpfs",)),
    "no answer of a bucket": (bucket(unreachable="Connection refused"), "bucket server", "fault", ("Connection refused", "AWS_ENDPOINT_URL")),
    "no credentials for a bucket": (bucket(credentials=""), "bucket credentials", "fault", ("~/.aws/credentials", "AWS_PROFILE")),
    "a key that is not known": (bucket(refusals={"list": "InvalidAccessKeyId"}), "bucket credentials", "fault", ("InvalidAccessKeyId",)),
    "a wrong secret": (bucket(refusals={"list": "SignatureDoesNotMatch"}), "bucket credentials", "fault", ("AWS_SECRET_ACCESS_KEY",)),
    "credentials that have expired": (bucket(refusals={"list": "ExpiredToken"}), "bucket credentials", "fault", ("AWS_SESSION_TOKEN",)),
    "another region": (bucket(refusals={"list": "PermanentRedirect"}), "bucket credentials", "fault", ("us-east-1", "AWS_REGION")),
    "no such bucket": (bucket(refusals={"list": "NoSuchBucket"}), "bucket", "fault", ("no bucket scans", "s3://scans/study")),
    "a busy server": (bucket(refusals={"list": "SlowDown"}), "bucket", "fault", ("cannot list objects: SlowDown",)),
    "a bucket to read only": (bucket(refusals={"write": "AccessDenied"}), "bucket rights", "fault", ("write", "s3:PutObject")),
    "a bucket that keeps all": (bucket(refusals={"delete": "AccessDenied"}), "bucket rights", "fault", ("s3:DeleteObject",)),
    "no conditions": (bucket(condition="the condition If-Match of a PUT"), "bucket conditions", "fault", ("If-Match", "file system")),
    "a clock far ahead of a bucket": (
        {**bucket(), **worker(clock_offset_s=1200.0)}, "bucket clock", "fault", ("20 min ahead", "15 min", "node7"),
    ),
    "a clock behind a bucket": ({**bucket(), **worker(clock_offset_s=-420.0)}, "bucket clock", "warning", ("7 min behind",)),
    "a clock that nobody tells": (
        {**bucket(refusals={"list": "RequestTimeTooSkewed"}), "here": dataclasses.replace(HERE, clock_offset_s=None)},
        "bucket clock", "fault", ("RequestTimeTooSkewed", "login1"),
    ),
    "a bucket that workers do not see": ({**bucket(), **worker(sees_token=False)}, "shared bucket", "fault", ("s3://scans/study", "node7")),
    "no port": ({"port_error": "127.0.0.1: denied"}, "ports", "fault", ("127.0.0.1", "cluster script")),
    "no such interface": (profile(interface="ib7"), "interface", "fault", ("'ib7'", "lo, ib0")),
    "keys where others write": ({"keys_mode": 0o777}, "keys", "fault", ("write into", "chmod 700")),
    "keys where others look": ({"keys_mode": 0o755}, "keys", "warning", ("look into", "chmod 700")),
    "keys in memory": ({"keys_file_system": "tmpfs"}, "keys", "fault", ("shared-temp-directory",)),
    "an open umask": ({"umask": 0o002}, "umask", "warning", ("002",)),
    "workers never ended": ({"dask": {"distributed.worker.memory.terminate": False}}, "dask", "warning", ("terminate",)),
    "impatience": ({"dask": {"distributed.scheduler.worker-ttl": "20s"}}, "dask", "warning", ("20s", "worker-ttl")),
    "idle end": ({"dask": {"distributed.scheduler.idle-timeout": "60s"}}, "dask", "warning", ("60s", "idle-timeout")),
    "no Slurm": ({"slurm": Slurm(("sbatch", "squeue"))}, "slurm", "fault", ("sbatch, squeue", "login node")),
    "no such partition": (profile(queue="fast"), "partition", "fault", ("'fast'", "cpu, gpu")),
    "a refused job": ({"slurm": Slurm((), {"cpu": 86400.0}, "invalid account")}, "job", "fault", ("invalid account",)),
    "too long a walltime": ({"slurm": Slurm((), {"cpu": 1800.0})}, "walltime", "fault", ("1.0 h", "0.5 h")),
    "a walltime of no form": (profile(walltime="1 hour"), "lifetime", "fault", ("1 hour",)),
    "no lifetime": (profile(job_script_prologue=[]), "lifetime", "warning", ("LIFETIME__DURATION",)),
    "a lifetime beyond the walltime": (profile(walltime="00:52:00"), "lifetime", "fault", ("50 ± 4 min", "52 min")),
    "no stagger": (profile(job_script_prologue=[f'{LIFETIME}"50m"']), "lifetime", "warning", ("at once",)),
    "idle cores": (profile(processes=5), "cores", "warning", ("16", "5")),
    "a skip that takes too much": (profile(job_directives_skip=["-"]), "skip", "warning", ("-J tomoscale", "--mem=64G")),
    "a skip that takes nothing": (profile(job_directives_skip=["--memory"]), "skip", "warning", ("no line",)),
}  # fmt: skip


def test_nothing_is_found_where_nothing_is_wrong():
    assert check_all(SOUND) == []
    assert check_all(Facts(here=HERE)) == []
    assert check_all(dataclasses.replace(SOUND, **bucket())) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_with_its_place_and_the_way_out(name):
    change, check, level, words = FAULTS[name]
    found = check_all(dataclasses.replace(SOUND, **change))
    (finding,) = [f for f in found if f.check == check]
    assert finding.level == level
    text = f"{finding.what} {finding.where} {finding.mend}"
    assert all(word in text for word in words), text
    assert finding.where
    assert finding.mend


def test_every_check_is_tested():
    planted = [dataclasses.replace(SOUND, **change) for change, *_ in FAULTS.values()]
    assert all(any(list(check(one)) for one in planted) for check in CHECKS)


def told(capsys, *arguments: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["cluster", "doctor", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_folder_that_is_not_there_is_found_and_ends_with_its_exit_code(tmp_path, capsys):
    code, found = told(capsys, "--folder", str(tmp_path / "nowhere"))
    assert code == 4
    assert [f["check"] for f in found["findings"] if f["level"] == "fault"] == ["writing"]
    assert main(["cluster", "doctor", "--folder", str(tmp_path / "nowhere")]) == 4
    assert "fault 1 (writing)" in capsys.readouterr().out


def test_a_scheduler_that_is_not_there_is_found(capsys, monkeypatch):
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    code, found = told(capsys, "--workers", "tcp://127.0.0.1:1")
    assert code == 4
    assert found["findings"][0]["check"] == "connection"


def test_workers_of_this_machine_are_asked_and_nothing_is_left_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "HOME", tmp_path / "keys")
    _, found = told(capsys, "--workers", "processes", "--folder", str(tmp_path))
    assert {w["sees_token"] for w in found["workers"]} == {True}
    assert all(abs(w["clock_offset_s"]) < 5 and w["memory_limit_bytes"] > 0 for w in found["workers"])
    assert not {"versions", "python", "shared folder", "clock"} & {f["check"] for f in found["findings"]}
    assert list(tmp_path.iterdir()) == []


def test_what_is_learnt_of_a_machine_and_a_folder_is_true(tmp_path, monkeypatch):
    assert looking.look_at_folder(tmp_path).failure == ""
    assert looking.look_at_folder(tmp_path).free_bytes == pytest.approx(os.statvfs(tmp_path).f_bavail * 4096, rel=0.2)
    assert quota.mount_of(Path("/proc/self"))[0] == "proc"
    assert looking.port_failure("127.0.0.1") == ""
    assert "192.0.2" in looking.port_failure("192.0.2.254")
    assert looking.version_of("no-such-package") == ""
    assert looking.partitions_of("debug infinite\nlong 7-00:00:00\n") == {"debug": math.inf, "long": 604800.0}
    real = os.replace

    def refuses(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source)) if str(source).startswith(str(tmp_path)) else real

    monkeypatch.setattr(os, "replace", refuses)
    assert looking.write_failure(tmp_path) == "renaming a file: Permission denied"
    assert list(tmp_path.iterdir()) == []


GPFS = (
    "mmlsquota::HEADER:version:reserved:reserved:filesystemName:quotaType:id:name:blockUsage:blockQuota:blockLimit:"
    "blockInDoubt:blockGrace:filesUsage:filesQuota:filesLimit:filesInDoubt:filesGrace:remarks:quota:defQuota:fid:filesetname:\n"
    "mmlsquota::0:1:::other:USR:1000:me:1:2:3:0:none:1:0:0:0:none:e:on:off:0:root:\n"
    "mmlsquota::0:1:::scratch:GRP:500:lab:9:10:10:0:none:1:0:0:0:none:e:on:off:0:root:\n"
    "mmlsquota::0:1:::scratch:USR:1000:me:{used}:0:4194304:0:none:4:0:0:0:none:e:on:off:0:root:\n"
)
BEEGFS = (
    "NAME  ID    TYPE   POOL                  SPACE         INODE\n"
    "me    1000  user   storage_pool_default  {used}/{limit}  12/unlimited\n"
    "lab   500   group  storage_pool_default  5/6           1/2\n"
    "INFO: Quota usage information is fetched every 30s from the server nodes.\n"
)
TOOLS = {
    "quota": ("nfs4", "quota", "Disk quotas for user me (uid 1000):\n  blocks quota limit\n {used} 0 4194304 5 0 0\n"),
    "Lustre": ("lustre", "lfs", "/lustre/a/very/long/path\n   {used}*  1024 4194304 6d23h 120 0 1000 -\n"),
    "Lustre with a server away": ("lustre", "lfs", "/lustre [{used}] 0 4194304 - 120 0 1000 -\n"),
    "GPFS": ("gpfs", "mmlsquota", GPFS),
    "BeeGFS 7": (
        "beegfs",
        "beegfs-ctl",
        "name,id,size,hard,files,hard\nme,1000,{used_bytes},4294967296,12,unlimited\n",
    ),
    "BeeGFS 8": ("beegfs_nodev", "beegfs", BEEGFS.replace("{used}/{limit}", "{used_bytes}/4294967296")),
}


def fake_tool(folder: Path, name: str, text: str) -> Path:
    """Program that prints a text and notes how it was called."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.out").write_text(text)
    file = folder / name
    file.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{folder}/{name}.asked'\n/bin/cat '{folder}/{name}.out'\n")
    file.chmod(0o755)
    return folder / f"{name}.asked"


@pytest.mark.parametrize("used_kib", [1048576, 4194304, 5000000])
@pytest.mark.parametrize("name", TOOLS)
def test_a_quota_is_asked_of_the_tool_of_its_file_system_and_its_end_is_found(
    name, used_kib, tmp_path, monkeypatch, capsys
):
    kind, tool, text = TOOLS[name]
    asked = fake_tool(tmp_path / "bin", tool, text.format(used=used_kib, used_bytes=used_kib * 1024))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("USER", "me; rm -rf /")
    monkeypatch.setattr(quota, "mount_of", lambda path: (kind, "/dev/scratch", "/scratch"))
    assert quota.quota_free_bytes(tmp_path) == max(0, 4194304 - used_kib) * 1024
    assert "me; rm -rf /" in asked.read_text() or tool in ("quota", "beegfs-ctl", "beegfs")
    _, found = told(capsys, "--folder", str(tmp_path))
    (finding,) = [f for f in found["findings"] if f["check"] == "quota"]
    assert "GiB are left of your quota" in finding["what"]


@pytest.mark.parametrize(
    ("kind", "tool", "text"),
    [
        ("lustre", "lfs", "/lustre 100 0 0 - 5 0 0 -\n"),
        ("lustre", "lfs", "lfs: failed for '/lustre': No such process\n"),
        ("gpfs", "mmlsquota", "mmlsquota: command failed\n"),
        ("beegfs", "beegfs-ctl", "name,id,size,hard,files,hard\nme,1000,5,unlimited,12,unlimited\n"),
        ("beegfs", "beegfs", BEEGFS.replace("{used}/{limit}", "5/unlimited")),
        ("beegfs", "beegfs", BEEGFS.replace("{used}/{limit}", "?/?")),
        ("nfs4", "quota", "Disk quotas for user me: none\n"),
        ("ext4", "lfs", "/lustre 100 0 200 - 5 0 0 -\n"),
    ],
)
def test_no_limit_and_no_answer_are_no_quota(kind, tool, text, tmp_path, monkeypatch):
    fake_tool(tmp_path / "bin", tool, text)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(quota, "mount_of", lambda path: (kind, "scratch", "/scratch"))
    assert quota.quota_free_bytes(tmp_path) is None


def test_a_tool_that_does_not_answer_is_not_waited_for(tmp_path, monkeypatch):
    fake_tool(tmp_path / "bin", "lfs", "")
    (tmp_path / "bin" / "lfs").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(quota, "TOOL_SECONDS", 0.2)
    monkeypatch.setattr(quota, "mount_of", lambda path: ("lustre", "", ""))
    assert quota.quota_free_bytes(tmp_path) is None


def test_a_server_whose_clock_differs_is_noticed(tmp_path, monkeypatch):
    assert abs(looking.clock_offset_s(tmp_path)) < 1
    now = looking.time.time
    monkeypatch.setattr(looking.time, "time", lambda: now() + 300)
    assert looking.clock_offset_s(tmp_path) == pytest.approx(300, abs=5)
    monkeypatch.setattr(looking.time, "time", lambda: now() - 300)
    assert looking.clock_offset_s(tmp_path) == pytest.approx(-300, abs=5)


def test_the_job_script_is_judged_as_slurm_gets_it():
    header, script = doctor.job_texts(shipped_profile("maxwell"))
    assert "#SBATCH --mem=240G" in header
    assert "--mem=" not in script
    assert "--cpus-per-task" not in script
    assert "unset LD_PRELOAD" in script


@pytest.mark.slow
@pytest.mark.xdist_group("slurm")
@pytest.mark.skipif(virtual_slurm.why_not() is not None, reason=str(virtual_slurm.why_not()))
def test_a_real_slurm_is_looked_at_with_a_job_of_its_own(tmp_path, slurm, capsys):
    (tmp_path / "results").mkdir()
    code, found = told(capsys, "--workers", "slurm:virtual", "--folder", str(tmp_path / "results"))
    assert code == 0, found
    assert [w["sees_token"] for w in found["workers"]] == [True]
    slurm["queue"] = "nosuch"
    with dask.config.set({"jobqueue.tomoscale-virtual": slurm}):
        code, found = told(capsys, "--site", "virtual")
    assert code == 4
    assert "there is no partition 'nosuch'; there are debug" in [f["what"] for f in found["findings"]]
