"""How far a run is: a bar on a terminal, a line every 30 s in a log, a widget in a notebook, ``progress.jsonl`` always."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from tomoscale.block_states import FILE, Spans
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError
from tomoscale.pace import Pace
from tomoscale.places import Place, append_line

LINE_SECONDS = 30.0
FILE_SECONDS = 1.0
OBJECT_SECONDS = 5.0
"""In a bucket, where the line replaces the one before."""
MAP_SECONDS = 1.0
MAP_SHARE = 0.05
"""Of the time of whoever watches, drawing the map of blocks takes no more."""

Doing = Callable[[], dict[str, Spans]]
"""Gives the blocks that run, wait to be tried again, and were set aside."""


class Display(Protocol):
    """Where progress is shown."""

    def update(self, done: int, text: str) -> None:
        """Show that `done` blocks are finished."""

    def close(self) -> None:
        """Leave the display in its last state."""


class Progress:
    """Counts finished blocks and tells whoever watches.

    Parameters
    ----------
    name : str
        What is computed.
    total, done : int
        Blocks of the run, and those a former run has finished.
    folder : Path, BucketPath or None
        Where ``progress.jsonl`` goes.
    show : bool or None
        Show on stderr or in the notebook; None shows what takes longer than two seconds.
    pace : Pace or None
        Tells the time left; None takes every block for the same work.
    """

    def __init__(
        self, name: str, total: int, done: int, folder: Place | None, show: bool | None, pace: Pace | None = None
    ) -> None:
        self.name, self.total, self.done, self.first = name, total, done, done
        self.pace = pace or Pace(total, done)
        self.file = None if folder is None else folder / FILE
        self.every_seconds = OBJECT_SECONDS if isinstance(folder, BucketPath) else FILE_SECONDS
        self.show = show
        self.started = time.monotonic()
        self.pace.begin(self.started)
        self.written = self.shown = -1e9
        self.display: Display | None = None

    def __enter__(self) -> Progress:
        self._write("start", np.zeros(3), 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write("stop" if kind else "end", self.seconds, 0)
        if self.display is not None:
            self.display.update(self.done, self._text())
            self.display.close()

    seconds: np.ndarray = np.zeros(3)

    def update(
        self, done: int, seconds: np.ndarray, in_flight: int, work: float | None = None, doing: Doing | None = None
    ) -> None:
        """Take in the state of the run; cheap, so it is called after every task.

        Parameters
        ----------
        done : int
            Blocks finished, by this run and by former ones.
        seconds : (3,) float array
            Spent reading, computing and writing, summed over blocks.
        in_flight : int
            Tasks that are not finished.
        work : float or None
            What is finished in the unit of `pace`; None where that is blocks.
        doing : callable or None
            Asked once a second which blocks run, for those who watch.
        """
        now = time.monotonic()
        self.done, self.seconds = done, seconds
        self.pace.add(now, done if work is None else work, done - self.first)
        if now - self.written >= self.every_seconds:
            self.written = now
            self._write("running", seconds, in_flight, doing() if doing and self.file else {})
        if self.show is False or (self.show is None and now - self.started < 2):
            return
        if self.display is None:
            self.display = make_display(self.name, self.total, None if self.file is None else self.file.parent)
        if now - self.shown >= 0.2:
            self.shown = now
            self.display.update(done, self._text())

    def remaining_seconds(self) -> float | None:
        """Time left, None before the first block of this run."""
        return self.pace.remaining_seconds(time.monotonic())

    def _text(self) -> str:
        left = self.remaining_seconds()
        spent = time.monotonic() - self.started
        end = f"{duration(left)} left" if left is not None and self.done < self.total else f"{duration(spent)}"
        return f"{self.done}/{self.total} blocks, {end}"

    def _write(self, state: str, seconds: np.ndarray, in_flight: int, doing: dict[str, Spans] | None = None) -> None:
        if self.file is None:
            return
        left = self.remaining_seconds()
        line = {
            "time": round(time.time(), 3),
            "state": state,
            "step": self.name,
            "done": self.done,
            "total": self.total,
            "in_flight": in_flight,
            "remaining_s": None if left is None else round(left, 1),
            **dict(zip(("read_s", "compute_s", "write_s"), (round(float(s), 3) for s in seconds), strict=True)),
            **{name: spans for name, spans in (doing or {}).items() if spans},
        }
        # For those who watch alone: no run fails for it, and a full disk is told of by the ledger.
        with suppress(OSError):
            append_line(self.file, json.dumps(line))


class LineDisplay:
    """One line every 30 s: what a batch log can hold."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, -1e9

    def update(self, done: int, text: str) -> None:
        """Print a line if the last is old enough."""
        self.text = text
        if time.monotonic() - self.last >= LINE_SECONDS:
            self.last = time.monotonic()
            print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Print the last state."""
        print(f"{self.name}: {self.text}", file=sys.stderr, flush=True)


class BarDisplay:
    """A bar on a terminal."""

    def __init__(self, name: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        # Without markup: a step may be named after a file, and "[/]" in a name would end the run.
        self.bar = Bar(
            TextColumn("{task.description:<24}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task(name, total=total, text="")
        self.bar.start()

    def update(self, done: int, text: str) -> None:
        """Move the bar."""
        self.bar.update(self.task, completed=done, text=text)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.stop()


class WidgetDisplay:
    """Widgets in a notebook: a bar, and where there is a record, the map of the blocks of a run or the curves of a training.

    Parameters
    ----------
    name : str
    total : int
    folder : Path, BucketPath or None
        Of the ledger, or of a training; what is below the bar is drawn from its files alone, so it is the same in the run and
        in whoever watches.
    """

    def __init__(self, name: str, total: int, folder: Place | None = None) -> None:
        import ipywidgets
        from IPython.display import display

        self.widget: Any = ipywidgets.IntProgress(
            value=0, max=total, description=name[:24], style={"description_width": "initial"}
        )
        self.label: Any = ipywidgets.Label("")
        self.map: Any = ipywidgets.HTML("")
        self.block_map = None if folder is None else _block_map(folder)
        self.due = -1e9
        display(ipywidgets.VBox([ipywidgets.HBox([self.widget, self.label]), self.map]))

    def update(self, done: int, text: str) -> None:
        """Move the bar, and draw the map where that is due."""
        self.widget.value, self.label.value = done, text
        if time.monotonic() >= self.due:
            self._draw()

    def close(self) -> None:
        """Colour the finished bar, and draw the map as it ended."""
        self.widget.bar_style = "success" if self.widget.value == self.widget.max else "warning"
        self._draw()

    def _draw(self) -> None:
        if self.block_map is None:
            return
        started = time.monotonic()
        with suppress(IntegrityError, OSError):  # the output was removed: the last map stays
            self.map.value = self.block_map.html()
        ended = time.monotonic()
        self.due = ended + max(MAP_SECONDS, (ended - started) / MAP_SHARE)


def _block_map(folder: Place) -> Any:
    # Loaded only where it is shown: a run on a terminal draws nothing.
    from tomoscale.notebook.block_map import BlockMap
    from tomoscale.notebook.curves import Curves, is_training

    try:
        return Curves(folder) if isinstance(folder, Path) and is_training(folder) else BlockMap(folder)
    except (IntegrityError, OSError):
        return None


def make_display(name: str, total: int, folder: Place | None = None) -> Display:
    """Return the display that suits where the program runs; `folder` is that of the ledger, if there is one."""
    if in_notebook():
        return WidgetDisplay(name, total, folder)
    moves = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return BarDisplay(name, total) if moves else LineDisplay(name)


def in_notebook() -> bool:
    """Tell whether this process is a notebook kernel that can show widgets."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def duration(seconds: float) -> str:
    """Time in words.

    Examples
    --------
    >>> duration(8100)
    '2 h 15 min'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
