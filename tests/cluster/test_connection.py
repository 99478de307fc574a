"""Nothing leaves this machine without encryption, nothing listens that anybody may use, keys are private."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings

import psutil
import pytest

from tests.cluster.conftest import ROOT
from tomoscale.cluster import connect, local, resources_of
from tomoscale.cluster.credentials import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    private_parent,
    remove_abandoned,
    security_of,
    temporary_credentials,
)
from tomoscale.cluster.settings import LOOPBACK_ANY_PORT
from tomoscale.errors import PlanError


@pytest.mark.parametrize(
    "address",
    [
        "tcp://192.0.2.7:8786",
        "192.0.2.7:8786",
        "ws://192.0.2.7:8786",
        "ucx://192.0.2.7:8786",
        "tcp://[2001:db8::1]:8786",
    ],
)
def test_an_address_on_another_machine_without_encryption_is_refused(address):
    with pytest.raises(PlanError, match=r"not encrypted.*insecure=True"), connect(address):
        pass


def test_what_is_insecure_is_tried_when_asked_for(monkeypatch):
    from tomoscale.cluster import connection

    monkeypatch.setattr(connection, "CONNECT_SECONDS", 1)
    with pytest.raises(PlanError, match="no scheduler answers"), connect("tcp://192.0.2.2:1", insecure=True):
        pass


def test_processes_of_this_machine_listen_on_loopback_and_want_a_certificate():
    from distributed import Client, Security

    with local(1, memory_bytes=2**30) as client:
        pids = [os.getpid(), *client.run(os.getpid).values()]
        listening = {
            c.laddr for pid in pids for c in psutil.Process(pid).net_connections("inet") if c.status == "LISTEN"
        }
        assert {address for address, _ in listening} == {"127.0.0.1"}
        address = client.scheduler.address
        assert address.startswith("tls://")
        others = ((address.replace("tls:", "tcp:"), None), (address, Security.temporary()))
        for other, security in others:
            with pytest.raises(OSError, match=r"Timed out|reset|closed|does not match"):
                Client(other, timeout="1s", security=security)


def test_a_scheduler_with_keys_in_a_folder_is_reached_with_them_alone(tmp_path):
    from distributed import LocalCluster

    with (
        temporary_credentials(tmp_path / "private") as keys,
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            dashboard_address=LOOPBACK_ANY_PORT,
            security=security_of(keys),
            protocol="tls",
        ) as cluster,
    ):
        with connect(cluster.scheduler_address, credentials=keys) as client:
            assert client.submit(abs, -1) is not None
        with temporary_credentials(tmp_path / "other") as other:
            for folder in (other, None):
                with (
                    pytest.raises(PlanError, match=r"with these keys|tls"),
                    connect(cluster.scheduler_address, credentials=folder),
                ):
                    pass


def test_keys_are_their_owners_alone_and_are_removed(tmp_path):
    umask = os.umask(0)
    try:
        with temporary_credentials(tmp_path / "private") as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == dict.fromkeys(
                (AUTHORITY, CERTIFICATE, KEY), 0o600
            )
        assert list((tmp_path / "private").iterdir()) == []
        assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(umask)


def test_keys_that_others_may_read_or_replace_are_refused(tmp_path):
    with temporary_credentials(tmp_path / "private") as folder:
        (folder / KEY).chmod(0o640)
        with pytest.raises(PlanError, match=r"others may read .*chmod 600"):
            security_of(folder)
        (folder / CERTIFICATE).unlink()
        with pytest.raises(PlanError, match=r"has no cert.pem"):
            security_of(folder)
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(PlanError, match=r"others may write into .*chmod go-w"):
        private_parent(tmp_path / "open")
    with pytest.raises(PlanError, match="no spaces or signs"):
        private_parent(tmp_path / "a folder")
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match="cannot hold the keys"):
        private_parent(tmp_path / "file")


def test_keys_of_a_process_that_was_killed_are_removed_by_the_next(tmp_path):
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom tomoscale.cluster.credentials import temporary_credentials\n"
        "with temporary_credentials(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    with temporary_credentials(tmp_path) as own:
        remove_abandoned(tmp_path)
        assert not left.exists()
        assert own.exists()


def test_the_scheduler_of_a_batch_script_is_taken_without_being_named(monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://192.0.2.7:8786")
    with pytest.raises(PlanError, match=r"192\.0\.2\.7"), connect():
        pass
    with connect("threads") as client:
        assert client is None


def test_ctrl_c_stays_ours_when_the_library_for_slurm_is_loaded():
    script = (
        "import signal\nbefore = signal.getsignal(signal.SIGINT)\nfrom tomoscale.cluster.jobqueue import load_jobqueue\n"
        "load_jobqueue()\nassert signal.getsignal(signal.SIGINT) is before\n"
    )
    with warnings.catch_warnings():
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("silences", [1, 99])
def test_workers_that_die_while_they_are_asked_are_left_out_and_others_waited_for(monkeypatch, silences):
    workers = {n: {"nthreads": 2, "memory_limit": 2**30} for n in (1, 2)}
    there = [{}, *[workers] * (silences + 1)]
    answers = [*[{}] * silences, {"tcp://127.0.0.1:2": ("", 0)}]
    pauses = []
    monkeypatch.setattr("tomoscale.cluster.connection.time.sleep", pauses.append)

    class Client:
        cluster = None

        def scheduler_info(self, n_workers):
            return {"workers": there.pop(0)}

        def run(self, function, on_error):
            assert on_error == "ignore", "one that dies would raise"
            return answers.pop(0)

    if silences == 1:
        found = resources_of(Client())
        assert (found.processes, found.memory_bytes, pauses) == (2, int(0.8 * 2**30), [0.5, 1.0])
    else:
        with pytest.raises(PlanError, match=r"no worker .* answers"):
            resources_of(Client())
