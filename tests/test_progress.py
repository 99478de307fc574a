"""Progress is written for programs and shown to people, in the form that suits where they look."""

from __future__ import annotations

import heapq
import json
import os
import pty
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from tomoscale import progress
from tomoscale.pace import KEPT, Pace
from tomoscale.progress import BarDisplay, LineDisplay, Progress, duration, make_display

ROOT = Path(__file__).resolve().parents[1]


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


def ends_of_blocks(costs, workers, warm_up_s=0.0, speeds=None, group=1):
    """When each of some workers ends each task it pulls: rows of (second, first block, block after the last)."""
    speeds = speeds or [1.0] * workers
    free = [(0.0, worker) for worker in range(workers)]
    fresh, ends = [True] * workers, []
    for first in range(0, len(costs), group):
        now, worker = heapq.heappop(free)
        end = now + costs[first : first + group].sum() / speeds[worker] + warm_up_s * fresh[worker]
        fresh[worker] = False
        ends.append((end, first, min(first + group, len(costs))))
        heapq.heappush(free, (end, worker))
    return sorted(ends)


def error_at(share, costs, workers, work=None, pause_s=0.0, **how):
    """Relative error of the time left once `share` of the work is done."""
    work = np.ones(len(costs)) if work is None else work
    pace, done, blocks = Pace(float(work.sum()), 0.0, workers), 0.0, 0
    pace.begin(0.0)
    ends = ends_of_blocks(costs, workers, **how)
    for now, first, last in ends:
        done, blocks = done + float(work[first:last].sum()), blocks + last - first
        pace.add(now, done, blocks)
        if done >= share * work.sum():
            break
    left = ends[-1][0] - now
    guess = pace.remaining_seconds(now)
    return guess / left - 1


def edge_grid(n):
    """Voxels of the blocks of an n x n x n grid whose last layers are a fifth as thick."""
    thickness = np.ones(n)
    thickness[-1] = 0.2
    return (thickness[:, None, None] * thickness[:, None] * thickness).ravel()


RUNS = {
    "constant": lambda r: (np.ones(400), 4, {}),
    "constant, one worker": lambda r: (np.ones(100), 1, {}),
    "few blocks a worker": lambda r: (np.ones(100), 4, {}),
    "compilation": lambda r: (np.ones(400), 4, {"warm_up_s": 20.0}),
    "compilation, noise": lambda r: (r.lognormal(0, 0.3, 600), 4, {"warm_up_s": 20.0}),
    "noise": lambda r: (r.lognormal(0, 0.3, 600), 2, {}),
    "empty and full blocks": lambda r: (np.where(r.random(2000) < 0.5, 0.2, 1.0), 4, {"warm_up_s": 3.0}),
    "fast and slow workers": lambda r: (r.lognormal(0, 0.2, 600), 4, {"speeds": [1.0, 1.0, 4.0, 4.0]}),
    "edge blocks": lambda r: (edge_grid(8) * r.lognormal(0, 0.1, 512), 4, {"work": edge_grid(8), "warm_up_s": 3.0}),
    "tasks of many blocks": lambda r: (r.lognormal(0, 0.3, 6000), 4, {"group": 32, "warm_up_s": 5.0}),
    "many workers": lambda r: (r.lognormal(0, 0.3, 5000), 16, {"warm_up_s": 20.0}),
}


@pytest.mark.parametrize("name", RUNS)
def test_after_a_tenth_of_a_run_the_time_left_is_right_within_a_fifth(name):
    errors = []
    for seed in range(8):
        costs, workers, how = RUNS[name](np.random.default_rng(seed))
        errors.append(abs(error_at(0.1, costs, workers, **how)))
    assert max(errors) < 0.2, errors


def test_the_plain_mean_would_not_do_where_blocks_wait_for_compilation():
    ends = ends_of_blocks(np.ones(400), 4, warm_up_s=20.0)
    now, left = ends[39][0], ends[-1][0] - ends[39][0]
    assert now / 40 * 360 / left - 1 > 1.0
    assert abs(error_at(0.1, np.ones(400), 4, warm_up_s=20.0)) < 0.01


def test_in_the_second_wave_of_a_short_run_compilation_counts_no_more():
    assert abs(error_at(0.1, np.ones(70), 4, warm_up_s=20.0)) < 0.5


def test_blocks_at_the_edge_count_by_their_voxels():
    voxels = edge_grid(4)
    assert abs(error_at(0.5, voxels, 1, work=voxels)) < 0.05
    assert abs(error_at(0.5, voxels, 1)) > 0.05


def test_a_run_that_slows_down_is_believed_a_tenth_of_the_run_later():
    costs = np.ones(400)
    costs[120:] = 3.0
    assert abs(error_at(0.45, costs, 4)) < 0.05


def test_a_pause_does_not_move_the_time_left():
    pace = Pace(1000.0, 0.0, 1)
    pace.begin(0.0)
    for block in range(1, 101):
        pace.add(block + (60.0 if block > 85 else 0.0), float(block), block)
    assert pace.remaining_seconds(160.0) == pytest.approx(900.0, rel=0.02)


def test_between_two_blocks_the_time_left_falls_but_not_for_ever():
    pace = Pace(10.0, 0.0, 1)
    pace.begin(0.0)
    assert pace.remaining_seconds(5.0) is None
    for block in range(1, 5):
        pace.add(10.0 * block, float(block), block)
    assert [pace.remaining_seconds(t) for t in (40.0, 45.0, 50.0, 500.0)] == [60.0, 55.0, 50.0, 50.0]


def test_a_long_run_is_remembered_in_a_few_states():
    pace = Pace(1e6, 0.0, 8)
    pace.begin(0.0)
    for block in range(1, 20_000):
        pace.add(block / 100, float(block), block)
    assert len(pace._times) <= KEPT
    assert pace.remaining_seconds(199.99) == pytest.approx((1e6 - 19_999) / 100, rel=0.01)


def test_voxels_tell_the_time_left_where_the_caller_counts_them(tmp_path, clock):
    with Progress("opening", 4, 0, tmp_path, show=False, pace=Pace(70.0, 0.0, 1)) as watched:
        clock.now = 10.0
        watched.update(1, np.zeros(3), 1, work=20.0)
        assert watched.remaining_seconds() == 25.0


SCRIPT = """
import sys, time
import numpy as np
from tomoscale.progress import Progress
with Progress("a [/] step [red]of[/red] files", 4, 0, None, show=True) as watched:
    for done in range(1, 5):
        watched.update(done, np.zeros(3), 0)
        time.sleep(0.21)
"""


def started(environment: dict[str, str], stderr: int) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    return subprocess.run([sys.executable, "-c", SCRIPT], env=environment, stderr=stderr, timeout=60, check=True)


def on_terminal(**environment: str) -> str:
    ours, theirs = pty.openpty()
    started(environment, theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed and everything is read
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return seen.decode()


COLOUR = "\x1b[3"


def test_a_terminal_shows_a_bar_with_names_as_they_are():
    shown = on_terminal(NO_COLOR="")
    assert COLOUR in shown
    assert "a [/] step [red]of[/red] files" in shown
    assert "4/4 blocks" in shown


def test_no_color_is_heeded():
    shown = on_terminal(NO_COLOR="1")
    assert "4/4 blocks" in shown
    assert COLOUR not in shown


def test_a_terminal_that_cannot_move_its_cursor_and_a_file_get_plain_lines(tmp_path):
    shown = on_terminal(TERM="dumb")
    assert "files: 4/4 blocks" in shown
    assert "\x1b" not in shown
    with (tmp_path / "log").open("wb") as log:
        started({"FORCE_COLOR": "1"}, log.fileno())
    text = (tmp_path / "log").read_text()
    assert "4/4 blocks" in text
    assert "\x1b" not in text
    assert "\r" not in text
