"""A training is seen from its files, while it runs, after it ended, and whatever they hold."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.training.tiny import CLASSES, QUIET, data, recipe
from tomoscale import progress
from tomoscale.errors import InputError
from tomoscale.notebook.curves import SILENT_SECONDS, Curves, is_training, training_state
from tomoscale.training.loop import fit
from tomoscale.training.recipe import Stop
from tomoscale.watch import watch

ROOT = Path(__file__).resolve().parents[2]
LINE = {"step": 20, "loss": 0.5, "validation_loss": 0.75, "iou": [0.25, None, 0.5], "mean_iou": 0.375, "ended": False}
PNG = b"\x89PNG"


def begun(folder: Path, **line: object) -> Path:
    """Files of a training of 50 steps after some validations."""
    folder.mkdir(exist_ok=True)
    classes = [{"name": "void"}, {"name": "<bone>"}, {"name": "metal"}]
    (folder / "training.json").write_text(json.dumps({"recipe": {"stop": {"steps": 50}}, "classes": classes}))
    lines = [{**LINE, "step": 10}, {**LINE, **line}]
    (folder / "progress.jsonl").write_text("".join(json.dumps(found) + "\n" for found in lines))
    (folder / "curves.png").write_bytes(PNG)
    return folder


def test_a_training_shows_steps_losses_iou_and_curves(tmp_path):
    state = training_state(begun(tmp_path / "out"))
    assert (state.done, state.total, state.running) == (20, 50, True)
    assert str(state) == "training: 20/50 steps, loss 0.5000, mean IoU 0.3750"
    shown = state._repr_html_()
    assert "IoU &lt;bone&gt;</th>" in shown
    assert "<bone>" not in shown
    assert "<td>0.5000</td><td>0.7500</td><td>0.2500</td><td>-</td><td>0.5000</td><td>0.3750</td>" in shown
    assert shown.count("<img") == 1
    (tmp_path / "out" / "losses.png").write_bytes(PNG)
    assert training_state(tmp_path / "out")._repr_html_().count("<img") == 2
    assert Curves(tmp_path / "out").html() in training_state(tmp_path / "out")._repr_html_()


def test_a_training_that_ended_or_fell_silent_runs_no_more(tmp_path):
    assert training_state(begun(tmp_path / "out", ended=True)).text.endswith(", finished")
    assert training_state(begun(tmp_path / "out", step=50)).text.endswith(", finished")
    folder = begun(tmp_path / "out")
    past = time.time() - SILENT_SECONDS - 1
    for path in (*folder.iterdir(), folder):
        os.utime(path, (past, past))
    assert training_state(folder).text.endswith("stopped; resume=True goes on")


@pytest.mark.parametrize("content", ["", "{", "[1]\n", '{"step": "x", "iou": 3, "loss": NaN}\n', "\xff\n", "[" * 10**5])
def test_lines_that_make_no_sense_are_passed_over(tmp_path, content):
    folder = begun(tmp_path / "out")
    (folder / "progress.jsonl").write_text(content)
    state = training_state(folder)
    assert (state.done, state.total) == (0, 50)
    state._repr_html_()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"recipe": {"stop": {"steps": "x"}}, "classes": []}'])
def test_what_describes_no_training_is_refused(tmp_path, content):
    folder = begun(tmp_path / "out")
    (folder / "training.json").write_text(content)
    with pytest.raises(InputError, match=r"describes no training|the description of a training"):
        watch(folder)


def test_a_new_kernel_shows_a_training_by_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    fit(recipe(stop=Stop(2, 1, 2)), data(), tmp_path / "out", work=QUIET)
    assert is_training(tmp_path / "out")
    watch(tmp_path / "out")
    assert "training: 2/2 steps, loss" in capsys.readouterr().err
    cells = [
        "from tomoscale.watch import watch\nwatch('out')",
        "import threading\n[t.join(60) for t in threading.enumerate() if t.name == 'tomoscale-watch']",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    NotebookClient(
        notebook, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    widgets = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    (bar,) = [w["state"] for w in widgets if w["model_name"] == "IntProgressModel"]
    assert (bar["value"], bar["max"], bar["bar_style"]) == (2, 2, "success")
    (drawn,) = [w["state"]["value"] for w in widgets if w["model_name"] == "HTMLModel"]
    assert drawn.count("<img") == 2
    assert all(f"IoU {c.name}" in drawn for c in CLASSES)
