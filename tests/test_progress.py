"""Progress is written for programs and shown to people, in the form that suits where they look."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

from tomoscale import progress
from tomoscale.progress import BarDisplay, LineDisplay, Progress, duration, make_display


class Clock:
    """Time that moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1e9 + self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_file_tells_blocks_seconds_and_time_left(tmp_path, clock):
    with Progress("opening", 100, 20, tmp_path, show=False) as watch:
        clock.now = 10.0
        watch.update(40, np.array([1.0, 2.0, 3.0]), in_flight=4)
    lines = [json.loads(line) for line in (tmp_path / "progress.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["start", "running", "end"]
    running = lines[1]
    # 20 blocks in 10 s: the 60 that are left take 30 s; those of a former run say nothing of this one's speed.
    assert (running["done"], running["total"], running["in_flight"], running["remaining_s"]) == (40, 100, 4, 30.0)
    assert (running["read_s"], running["compute_s"], running["write_s"]) == (1.0, 2.0, 3.0)


def test_a_run_that_fails_says_that_it_stopped(tmp_path, clock):
    with pytest.raises(RuntimeError, match="odd"), Progress("opening", 10, 0, tmp_path, show=False):
        raise RuntimeError("odd")
    assert json.loads((tmp_path / "progress.jsonl").read_text().splitlines()[-1])["state"] == "stop"


def test_the_file_gets_a_line_a_second_however_fast_blocks_are(tmp_path, clock):
    with Progress("opening", 10_000, 0, tmp_path, show=False) as watch:
        for n in range(1000):
            clock.now = n / 100
            watch.update(n, np.zeros(3), 1)
    assert len((tmp_path / "progress.jsonl").read_text().splitlines()) <= 13


def test_a_log_gets_a_line_every_thirty_seconds_and_the_end(clock, capsys):
    display = LineDisplay("opening")
    for second in range(100):
        clock.now = float(second)
        display.update(second, f"{second}/100 blocks")
    display.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"opening: {n}/100 blocks" for n in (0, 30, 60, 90, 99)]


def test_short_runs_show_nothing(tmp_path, clock, capsys):
    with Progress("opening", 10, 0, None, show=None) as watch:
        clock.now = 1.0
        watch.update(10, np.zeros(3), 0)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bar = make_display("opening", 10)
    assert isinstance(bar, BarDisplay)
    bar.update(5, "5/10 blocks")
    bar.close()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(make_display("opening", 10), LineDisplay)


def test_a_notebook_gets_a_widget(monkeypatch):
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "ipywidgets", types.ModuleType("ipywidgets"))
    assert progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()


@pytest.mark.parametrize(("seconds", "text"), [(3, "3 s"), (90, "2 min"), (3600, "1 h 0 min"), (8100, "2 h 15 min")])
def test_time_in_words(seconds, text):
    assert duration(seconds) == text
