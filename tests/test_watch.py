"""A run is seen from its files, whoever runs it and whether it lives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tomoscale import progress
from tomoscale.audit import status, verify
from tomoscale.engine import run
from tomoscale.errors import InputError
from tomoscale.frames import RECORD
from tomoscale.kernels.filters import cast
from tomoscale.lease import Lease
from tomoscale.ledger import Ledger
from tomoscale.plan import plan_map
from tomoscale.volume import MemoryArray, Volume
from tomoscale.watch import run_state, watch

ROOT = Path(__file__).resolve().parents[1]


def begun(folder: Path, n_blocks: int = 10, done: int = 4) -> Path:
    """Record of a run that this process holds, with some blocks done."""
    ledger = Ledger.start(folder, {"step": {"opening": {}}}, n_blocks)
    records = np.zeros(done, RECORD)
    records["number"], records["attempts"] = np.arange(done), 1
    ledger.append(records, {})
    return folder


def wrote(folder: Path, **line) -> None:
    with (folder / "progress.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "step": "opening", "total": 10, **line}) + "\n")


def test_a_run_is_seen_from_its_files_alone(tmp_path):
    folder = begun(tmp_path / "record")
    wrote(folder, state="running", done=5, remaining_s=90.0)
    state = run_state(folder)
    assert (state.step, state.done, state.total, state.running) == ("opening", 5, 10, True)
    assert state.remaining_s == pytest.approx(90.0, abs=2.0)
    Lease(folder, 1, 0.0).drop()
    # Of a run that is gone the ledger tells the truth, not the line that was due.
    assert (run_state(folder).done, run_state(folder).remaining_s) == (4, None)
    assert str(run_state(folder)) == "opening: 4/10 blocks, stopped; the same command goes on"


def test_time_that_passed_since_the_last_line_counts(tmp_path):
    folder = begun(tmp_path / "record")
    wrote(folder, state="running", done=5, remaining_s=90.0, time=time.time() - 60)
    assert run_state(folder).remaining_s == pytest.approx(30.0, abs=2.0)


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "{",
        "[1]\n",
        "null\n",
        '{"time": 1, "remaining_s": NaN}\n',
        '{"done": "x", "step": 3, "remaining_s": "y"}\n',
        "\xff\n",
    ],
)
def test_a_last_line_that_makes_no_sense_is_passed_over(tmp_path, tail):
    folder = begun(tmp_path / "record")
    (folder / "progress.jsonl").write_bytes(tail.encode("latin-1"))
    assert str(run_state(folder)) == "opening: 4/10 blocks"


def test_numbers_beyond_the_run_and_control_characters_are_not_shown(tmp_path):
    folder = begun(tmp_path / "record")
    wrote(folder, state="running", done=10**9, step="\x1b[2J\rname", remaining_s=-5.0)
    assert str(run_state(folder)) == "\ufffd[2J\ufffdname: 10/10 blocks, 0 s left"


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="no record of a run"):
        run_state(tmp_path)


def test_watching_ends_with_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    source = Volume(MemoryArray(np.arange(4**3, dtype=np.uint8).reshape(4, 4, 4)), 1.0)
    plan = plan_map(cast(source.dtype, "refuse"), source, tmp_path / "copy.zarr", block_shape=(2, 4, 4))
    folder = begun(tmp_path / "record")
    wrote(folder, state="running", done=5, remaining_s=1.0)
    watcher = threading.Thread(target=watch, args=(folder,), kwargs={"every_seconds": 0.01})
    watcher.start()
    time.sleep(0.1)
    assert watcher.is_alive()
    Lease(folder, 1, 0.0).drop()
    watcher.join(5)
    assert not watcher.is_alive()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("opening: 5/10 blocks, ")
    assert lines[-1] == "opening: 4/10 blocks, stopped; the same command goes on"
    run(plan, progress=False)
    watch(tmp_path / "copy.zarr")
    assert "2/2 blocks, finished" in capsys.readouterr().err


def test_watching_ends_where_the_output_is_removed(tmp_path, capsys):
    folder = begun(tmp_path / "record")
    watcher = threading.Thread(target=watch, args=(folder,), kwargs={"every_seconds": 0.01})
    watcher.start()
    time.sleep(0.05)
    (folder / "plan.json").unlink()
    watcher.join(5)
    assert not watcher.is_alive()


RUN = """
import sys, time
import numpy as np
from tomoscale.engine import run
from tomoscale.geometry import Halo
from tomoscale.plan import plan_map
from tomoscale.resources import Resources
from tomoscale.step import Kernel
from tomoscale.volume import MemoryArray, Volume

def slow(values):
    time.sleep(0.25)
    return values

source = Volume(MemoryArray(np.zeros((40, 4, 4), np.uint8)), 1.0)
kernel = Kernel("slow", slow, Halo(), source.dtype, 2.0)
run(plan_map(kernel, source, sys.argv[1], block_shape=(2, 4, 4), resources=Resources(1, 1, 1)), progress=False)
"""


def test_a_new_kernel_follows_the_run_of_another_process_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runner = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "slow.zarr")])
    try:
        while not (tmp_path / "slow.zarr" / "0" / ".tomoscale" / "progress.jsonl").exists():
            assert runner.poll() is None
            time.sleep(0.05)
        cells = [
            "from tomoscale.watch import run_state, watch",
            "watch('slow.zarr', every_seconds=0.1)\nprint('returned while', run_state('slow.zarr').running)",
            "import threading\n[t.join(60) for t in threading.enumerate() if t.name == 'tomoscale-watch']",
            "run_state('slow.zarr')",
        ]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        NotebookClient(
            notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
        ).execute()
    finally:
        runner.kill()
        runner.wait()
    assert "returned while True" in notebook.cells[1].outputs[-1].text
    assert "20/20 blocks, finished" in notebook.cells[3].outputs[0].data["text/html"]
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    (bar,) = [w["state"] for w in widgets if w["model_name"] == "IntProgressModel"]
    (label,) = [w["state"]["value"] for w in widgets if w["model_name"] == "LabelModel"]
    assert (bar["value"], bar["max"], bar["bar_style"]) == (20, 20, "success")
    assert label == "20/20 blocks, finished"
    (drawn,) = [w["state"]["value"] for w in widgets if w["model_name"] == "HTMLModel"]
    assert "20 done" in drawn
    assert drawn.count("<img") == 3
    assert "20 done" in notebook.cells[3].outputs[0].data["text/html"]


def test_a_run_that_was_killed_is_seen_as_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    runner = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path / "slow.zarr")])
    log = tmp_path / "slow.zarr" / "0" / ".tomoscale" / "blocks.log"
    try:
        while not (log.exists() and log.stat().st_size > 60):
            assert runner.poll() is None
            time.sleep(0.05)
        assert run_state(tmp_path / "slow.zarr").running
    finally:
        runner.kill()
        runner.wait()
    state = run_state(tmp_path / "slow.zarr")
    assert not state.running
    assert 1 <= state.done < 20
    assert "stopped; the same command goes on" in state._repr_html_()


def test_a_run_of_several_passes_is_seen_before_its_volume_is_there(tmp_path):
    target = tmp_path / "thickness.zarr"
    with pytest.raises(InputError, match="does not exist"):
        run_state(target)
    begun(tmp_path / "thickness.pieces", n_blocks=3, done=3)
    with pytest.raises(InputError, match="does not exist"):
        run_state(target)  # a pass that is done says nothing of the next one
    inner = tmp_path / "thickness.parts" / "squared.parts" / "sizes"
    begun(inner, n_blocks=6, done=2)
    assert (run_state(target).done, run_state(target).total) == (2, 6)
    assert status(target)["blocks_done"] == 2
    with pytest.raises(InputError, match="does not exist"):
        verify(target)  # what is stored of another volume is not compared in its place
