"""On a real JupyterHub: a notebook runs, its kernel is restarted, the dashboard is reached, a browser shows the pages."""

from __future__ import annotations

import html
import importlib.util
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NEEDED = ("jupyterhub", "jupyterlab", "jupyter_server_proxy", "websocket")
PROGRAMS = {
    "configurable-http-proxy": "npm install -g configurable-http-proxy",
    "chromium": "apt-get install chromium",
}
missing = [f"{name} (pip)" for name in NEEDED if importlib.util.find_spec(name) is None]
missing += [f"{name} ({how})" for name, how in PROGRAMS.items() if shutil.which(name) is None]
if missing:
    pytest.skip(f"a hub cannot be tried here without {', '.join(missing)}", allow_module_level=True)

from tests.notebook.hub import USER, Hub, Kernel, hub  # noqa: E402 -- needs what is looked for above

DONE, WAITING = (0, 158, 115), (228, 228, 228)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hub")]

SLOW = """import time
import numpy as np
from tomoscale import Resources, Volume, plan_map, run
from tomoscale.geometry import Halo
from tomoscale.step import Kernel
from tomoscale.volume import MemoryArray

def slow(values):
    time.sleep(SECONDS)
    return values

ramp = np.arange(16**3, dtype=np.uint16).reshape(16, 16, 16)
source = Volume(MemoryArray(ramp), 5.0)
kernel = Kernel("slow", slow, Halo(), source.dtype, 4.0, {"version": 1})
plan = plan_map(kernel, source, "slow.zarr", block_shape=(4, 8, 4), resources=Resources(1, 1, 1))
plan"""
RUN = "run(plan, progress=True);"
WATCH = "from tomoscale.watch import run_state, watch\nwatch('slow.zarr', every_seconds=0.1)"
STATE = "run_state('slow.zarr')"
WORKERS = """from tomoscale import working
workers = working("processes", processes=1, memory_bytes=1 << 30)
work = workers.__enter__()
print(work.dashboard)"""
REPORT = """from tomoscale.report.page import image, page
from tomoscale.report.written import Report
from tomoscale.notebook.block_map import map_picture
import io, pathlib
from PIL import Image
out = io.BytesIO()
Image.fromarray(map_picture(np.ones((4, 2, 4), np.uint8), 0)).save(out, "PNG")
path = pathlib.Path("report.html")
path.write_text(page("A report behind a hub", "<h1>A report behind a hub</h1>" + image(out.getvalue(), "blocks")))
Report(path)"""
"""What `tomoscale.report` returns, of a page made of a report's own parts; the whole path to one is the tutorial's test."""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


def shown(outputs: list[dict[str, Any]], kind: str = "text/html") -> str:
    return "".join(output["data"].get(kind, "") for output in outputs if "data" in output)


def printed(outputs: list[dict[str, Any]]) -> str:
    return "".join(output.get("text", "") for output in outputs)


def save(hub: Hub, name: str, cells: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Store an executed notebook through the server."""
    content = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"c{n}",
                "metadata": {"trusted": True},
                "source": source,
                "outputs": outputs,
                "execution_count": n,
            }
            for n, (source, outputs) in enumerate(cells, 1)
        ],
        "metadata": {"trusted": True},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    hub.api(f"contents/{name}", "PUT", {"type": "notebook", "content": content})


def browse(url: str, folder: Path, wanted: str) -> tuple[str, np.ndarray]:
    """What headless Chromium makes of a page: its document, and a screenshot as (rows, columns, 3) uint8 array.

    On a busy machine a page may not be ready in time: it is opened up to three times until it holds the text `wanted`.
    """
    for attempt in range(3):
        (folder / str(attempt)).mkdir(parents=True)
        document, picture = opened(url, folder / str(attempt))
        if wanted in document:
            break
    return html.unescape(document), picture


def opened(url: str, folder: Path) -> tuple[str, np.ndarray]:
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += (
        " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --window-size=1300,1700"
    )
    own = [
        f"--user-data-dir={folder / 'profile'}",
        f"--screenshot={folder / 'page.png'}",
        "--dump-dom",
        "--virtual-time-budget=20000",
    ]
    # Nothing but the hub is asked, whatever a page wants to load.
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    done = subprocess.run(
        ["chromium", *flags.split(), offline, *own, url], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (folder / "page.png").exists(), done.stderr[-2000:]
    return done.stdout, np.asarray(Image.open(folder / "page.png").convert("RGB"))


def share_of(picture: np.ndarray, colour: tuple[int, int, int]) -> float:
    return float((picture == colour).all(axis=-1).mean())


def test_a_notebook_goes_on_after_its_kernel_was_restarted_and_a_browser_shows_it(running, tmp_path):
    cells = []

    def run(source: str) -> list[dict[str, Any]]:
        cells.append((source, kernel.run(source)))
        return cells[-1][1]

    kernel = Kernel(running, "slow.ipynb")
    try:
        planned = shown(kernel.run(SLOW.replace("SECONDS", "0.5")))
        assert "<table>" in planned
        assert "32 of 4 x 8 x 4 voxels" in planned
        # The kernel dies in the middle of the run, as it does when a server is culled or runs out of memory.
        kernel.start(RUN)
        log = running.home / "slow.zarr" / "0" / ".tomoscale" / "blocks.log"
        end = time.monotonic() + 60
        while not (log.exists() and log.stat().st_size > 150):
            assert time.monotonic() < end
            time.sleep(0.05)
        kernel.restart()
        assert "IntProgress" in shown(run(WATCH), "text/plain")
        stopped = shown(kernel.run(STATE))
        done = int(re.search(r"(\d+)/32 blocks, stopped; the same command goes on", stopped)[1])
        assert 1 <= done < 32
        assert f"{done} done" in stopped
        assert stopped.count("<img") == 3

        kernel.run(SLOW.replace("SECONDS", "0.0"))
        run(RUN)
        assert "32/32 blocks, finished" in shown(run(STATE))
        assert 'href="report.html"' in shown(run(REPORT))
        # The widgets live in the kernel that goes on, and JupyterLab asks it for them.
        save(running, "slow.ipynb", cells)
        text, picture = browse(running.page("lab/tree/slow.ipynb"), tmp_path / "lab", "32/32 blocks, finished")
    finally:
        kernel.close()
    for words in (f"{done}/32 blocks, stopped; the same command goes on", f"{done} done", "32/32 blocks, finished"):
        assert words in text
    assert share_of(picture, DONE) > 0.004, "the blocks that are done are green in the browser"
    assert share_of(picture, WAITING) > 0.001, "and those of the first widget that wait are grey"

    text, picture = browse(running.page("files/report.html"), tmp_path / "report", "A report behind a hub")
    assert "A report behind a hub" in text
    assert share_of(picture, DONE) > 0.0005


def test_the_dashboard_is_reached_through_the_hub_by_its_user_alone(running):
    kernel = Kernel(running, "workers.ipynb")
    try:
        outputs = kernel.run(WORKERS)
        link = printed(outputs).strip().splitlines()[-1]
        found = re.fullmatch(rf"/user/{USER}/proxy/(\d+)/status", link)
        assert found, link
        assert f'href="{link}"' in shown(outputs)
        assert running.ask(f"user/{USER}/proxy/{found[1]}/health") == b"ok"
        stranger = Hub(running.url, "no-token", running.home)
        answer = stranger.ask(f"user/{USER}/proxy/{found[1]}/health")
        assert b"Sign in" in answer, "who is not logged in is sent to do so"
        kernel.run("workers.__exit__(None, None, None)")
    finally:
        kernel.close()
