"""A JupyterHub on the loopback address with one user, as tests need it: started, asked over REST and websocket, ended."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import websocket

ROOT = Path(__file__).resolve().parents[2]
USER = "ada"
CONFIG = """
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{ports[1]}/"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}/"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allowed_users = {{"{user}"}}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.Spawner.cmd = ["{python}", "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root", "--LabApp.extension_manager=readonly"]
c.Spawner.environment = {{"PYTHONPATH": "{root}", "JUPYTERHUB_ALLOW_TOKEN_IN_URL": "1", "DASK_CONFIG": "{folder}/dask"}}
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.JupyterHub.services = [{{"name": "test", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [
    {{"name": "test", "scopes": ["admin:users", "admin:servers", "access:servers"], "services": ["test"]}}
]
"""
"""The proxy's address, the hub's own, and the one the hub tells the proxy its routes through are all on loopback."""


@dataclass(frozen=True)
class Hub:
    """A running hub and the server of its user.

    Attributes
    ----------
    url : str
        Of the hub; the user's server is under ``/user/ada/``.
    token : str
        May do everything for the user.
    home : Path
        Where the user's files are.
    """

    url: str
    token: str
    home: Path

    def ask(self, path: str, method: str = "GET", body: Any = None) -> bytes:
        """Answer of the hub, or of the user's server where `path` begins with ``user/``."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def api(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Answer of the interface of the user's server."""
        return json.loads(self.ask(f"user/{USER}/api/{path}", method, body) or b"null")

    def page(self, path: str) -> str:
        """Address of a page of the user's server that a browser without cookies may open."""
        return f"{self.url}/user/{USER}/{path}?token={self.token}"


class Kernel:
    """A kernel of a session for a notebook, spoken to through the hub."""

    def __init__(self, hub: Hub, notebook: str) -> None:
        self.hub = hub
        what = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        self.id = hub.api("sessions", "POST", what)["kernel"]["id"]
        self._connect()

    def start(self, source: str) -> str:
        """Begin to run a cell; return the number of the request."""
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": self.session, "version": "5.3"}
        header |= {"username": USER, "date": "2000-01-01T00:00:00Z"}
        content = {"code": source, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": True}
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        self.socket.send(json.dumps(message))
        return str(header["msg_id"])

    def run(self, source: str) -> list[dict[str, Any]]:
        """Run a cell to its end; return its outputs as a notebook stores them."""
        number, outputs, open_ends = self.start(source), [], {"idle", "execute_reply"}
        while open_ends:
            message = json.loads(self.socket.recv())
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "error":
                raise RuntimeError("\n".join(content["traceback"]))
            if kind in ("stream", "display_data", "execute_result"):
                outputs.append({"output_type": kind, **{k: v for k, v in content.items() if k != "transient"}})
            open_ends -= {kind, content.get("execution_state")}
        return outputs

    def restart(self) -> None:
        """Let the server restart the kernel, as the button in the notebook does; all its variables are gone."""
        self.close()
        self.hub.api(f"kernels/{self.id}/restart", "POST")
        self._connect()

    def close(self) -> None:
        self.socket.close()

    def _connect(self) -> None:
        self.session = uuid.uuid4().hex
        address = f"{self.hub.url.replace('http', 'ws', 1)}/user/{USER}/api/kernels/{self.id}/channels"
        self.socket = websocket.create_connection(
            f"{address}?session_id={self.session}", timeout=90, header=[f"Authorization: token {self.hub.token}"]
        )


@contextmanager
def hub(folder: Path) -> Iterator[Hub]:
    """Start a hub and its user's server; end both, and whatever they started, afterwards."""
    token, ports = secrets.token_hex(16), free_ports(3)
    home = folder / "home" / USER
    home.mkdir(parents=True)
    config = folder / "jupyterhub_config.py"
    config.write_text(
        CONFIG.format(ports=ports, user=USER, folder=folder, python=sys.executable, root=ROOT, token=token)
    )
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")}
    with (folder / "hub.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=folder,
            env={**os.environ, **own, "HOME": str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            running = Hub(f"http://127.0.0.1:{ports[0]}", token, home)
            wait_for(lambda: running.ask("hub/api/"), process, folder / "hub.log")
            running.ask(f"hub/api/users/{USER}/server", "POST")
            wait_for(lambda: running.api("status"), process, folder / "hub.log")
            yield running
        finally:
            end_with_children(process)


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    """Ask a hub to end, which ends its servers and its proxy; then end what is left of them."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    for child in [process, *started]:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            child.kill()
    process.wait()
    psutil.wait_procs(started, timeout=10)


def wait_for(answer: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Wait until something answers without an error."""
    end = time.monotonic() + seconds
    while True:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(urllib.error.URLError, ConnectionError, ValueError):
            answer()
            return
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
