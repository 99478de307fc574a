"""Scheduler, driver and workers inside one Slurm allocation: what each task of a batch script runs.

The first task makes keys in a private folder that all nodes see, starts a scheduler, a worker, and the command; the
others wait for the address and start a worker each. The command finds the scheduler by its environment, as every Dask
client does. When it ends, all end.

``python -m tomoscale.cluster.allocation --shared FOLDER --worker JSON -- COMMAND ...``
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from tomoscale.cluster.connection import ENVIRONMENT
from tomoscale.cluster.credentials import AUTHORITY, CERTIFICATE, KEY, private_parent, write_credentials
from tomoscale.cluster.profile import LIFETIME
from tomoscale.cluster.settings import LOOPBACK_ANY_PORT, SETTINGS, environment_of, thread_environment

ADDRESS = "scheduler.json"
START_SECONDS = 300.0
"""How long tasks wait for the scheduler of the first."""
END_SECONDS = 10.0
INTERRUPTED = 6
"""Exit code of a command that goes on where it was."""


class Stop(Exception):
    """Slurm asks this task to end."""


def main(arguments: Sequence[str]) -> int:
    """Run one task of the allocation; return the exit code of the command, or 0 for a worker."""
    parser = argparse.ArgumentParser(prog="python -m tomoscale.cluster.allocation", description=__doc__)
    parser.add_argument(
        "--shared", type=Path, required=True, help="folder that all nodes see and nobody else may write"
    )
    parser.add_argument("--interface", help="network of the nodes")
    parser.add_argument("--worker", required=True, help="how to start a worker, as a JSON list")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    # Exits, exceptions and signals all pass the same way out, which ends what was started.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    job = f"{os.environ.get('SLURM_JOB_ID', os.getpid())}-{os.environ.get('SLURM_RESTART_COUNT', 0)}"
    folder = private_parent(options.shared) / f"allocation-{job}"
    worker = json.loads(options.worker)
    try:
        if os.environ.get("SLURM_PROCID", "0") == "0":
            return lead(folder, options.command, worker, options.interface)
        return follow(folder, worker, options.interface)
    except RuntimeError as error:
        print(f"tomoscale: {error}", file=sys.stderr, flush=True)
        return 1


def lead(folder: Path, command: Sequence[str], worker: Sequence[str], interface: str | None) -> int:
    """Run keys, scheduler, a worker and the command; end them all with the command."""
    # What a killed run of the same job has left.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        write_credentials(folder)
        # It takes no interface beside keys, but an address.
        host = f"tls://{_address_of(interface)}" if interface else "tls://"
        scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", host]
        where = ["--dashboard-address", LOOPBACK_ANY_PORT, "--scheduler-file", str(folder / ADDRESS)]
        processes.append(_started([*scheduler, *where, *keys_of(folder)]))
        address = wait_for_address(folder, processes[0])
        processes.append(_started([*worker, address, *_on(interface), *keys_of(folder)]))
        driver = subprocess.Popen(list(command), env={**os.environ, **client_environment(folder, address)})
        processes.append(driver)
        return _wait_for(driver)
    except Stop:
        return INTERRUPTED
    finally:
        end(processes)
        shutil.rmtree(folder, ignore_errors=True)


def follow(folder: Path, worker: Sequence[str], interface: str | None) -> int:
    """Run a worker until it ends, or the first task has removed the folder."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        address = wait_for_address(folder)
        processes.append(_started([*worker, address, *_on(interface), *keys_of(folder)]))
        while folder.exists() and processes[0].poll() is None:
            time.sleep(0.5)
        return 0
    except Stop:
        return 0
    finally:
        end(processes)


def keys_of(folder: Path) -> list[str]:
    """Options by which Dask's programs take keys."""
    return [
        "--tls-ca-file",
        str(folder / AUTHORITY),
        "--tls-cert",
        str(folder / CERTIFICATE),
        "--tls-key",
        str(folder / KEY),
    ]


def client_environment(folder: Path, address: str) -> dict[str, str]:
    """Environment by which any Dask client finds the scheduler and its keys."""
    settings = {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": folder / AUTHORITY,
        "distributed.comm.tls.client.cert": folder / CERTIFICATE,
        "distributed.comm.tls.client.key": folder / KEY,
    }
    return {ENVIRONMENT: address, **environment_of(settings)}


def wait_for_address(folder: Path, scheduler: subprocess.Popen[bytes] | None = None) -> str:
    """Address of the scheduler, once it has written it.

    Raises
    ------
    RuntimeError
        If it ends before, or does not come.
    """
    deadline, was_there = time.monotonic() + START_SECONDS, False
    while time.monotonic() < deadline:
        if scheduler is not None and scheduler.poll() is not None:
            raise RuntimeError(
                f"the scheduler ended with code {scheduler.returncode} before it was up; its reason is above"
            )
        with suppress(OSError, ValueError, KeyError):
            return str(json.loads((folder / ADDRESS).read_text())["address"])
        if was_there and not folder.exists():
            raise RuntimeError(f"the first task of the job ended before its scheduler was up: {folder} is gone")
        was_there = was_there or folder.exists()
        time.sleep(0.2)
    raise RuntimeError(f"no scheduler in {folder} after {START_SECONDS:.0f} s: do all nodes see this folder?")


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes, the last started first; a driver that is asked records what is done."""
    for process in reversed(processes):
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _on(interface: str | None) -> list[str]:
    return ["--interface", interface] if interface else []


def _address_of(interface: str) -> str:
    from distributed.utils import get_ip_interface

    try:
        return str(get_ip_interface(interface))
    except ValueError as error:
        raise RuntimeError(
            f"the profile names the interface {interface!r}, which {os.uname().nodename} lacks"
        ) from error


def _wait_for(driver: subprocess.Popen[bytes]) -> int:
    try:
        return driver.wait()
    except Stop:
        driver.terminate()
        # Slurm signals the scheduler as well: what the driver then says of it is no fault of the run.
        return 0 if driver.wait() == 0 else INTERRUPTED


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    # Slurm ends the job at its walltime; a worker that left by itself would not be replaced here.
    outside = {name: value for name, value in os.environ.items() if not name.startswith(LIFETIME)}
    settings = environment_of({**SETTINGS, "distributed.comm.require-encryption": True})
    return subprocess.Popen(list(command), env={**outside, **settings, **thread_environment(1)})


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
