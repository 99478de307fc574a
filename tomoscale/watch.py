"""A run seen from outside: by another process, on another machine, or after a kernel was restarted.

Only the files beside the output are read: no scheduler is asked, and the run is not disturbed.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from tomoscale.block_states import last_line
from tomoscale.errors import InputError, IntegrityError
from tomoscale.lease import FOLDER, lease_owner
from tomoscale.ledger import Ledger
from tomoscale.notebook.curves import TrainingState, is_training, training_state
from tomoscale.places import Place, place
from tomoscale.plan import ledger_folder
from tomoscale.plan_record import read_plan
from tomoscale.progress import Display, duration, in_notebook, make_display


@dataclass(frozen=True)
class RunState:
    """How far a run is, as its files tell; in a notebook it shows itself as a bar and a map of its blocks.

    Attributes
    ----------
    step : str
    done, total : int
        Blocks.
    running : bool
        A living process holds the lease.
    remaining_s : float or None
        Time left as last written, less what has passed since.
    folder : Path or BucketPath
        Of the ledger.
    """

    step: str
    done: int
    total: int
    running: bool
    remaining_s: float | None
    folder: Place

    @property
    def text(self) -> str:
        """State in words."""
        if self.running:
            left = "" if self.remaining_s is None else f", {duration(self.remaining_s)} left"
            return f"{self.done}/{self.total} blocks{left}"
        end = "finished" if self.done == self.total else "stopped; the same command goes on"
        return f"{self.done}/{self.total} blocks, {end}"

    def __str__(self) -> str:
        return f"{self.step}: {self.text}"

    def _repr_html_(self) -> str:
        # Loaded only where it is shown: drawings need Pillow, and a worker that counts blocks does not.
        from tomoscale.notebook.block_map import BlockMap
        from tomoscale.notebook.sketch import bar_html

        colour = "#009e73" if self.done == self.total else "#0072b2" if self.running else "#d55e00"
        blocks = ""
        with suppress(IntegrityError, OSError):  # a record without a grid has no map, one that was removed neither
            blocks = BlockMap(self.folder).html()
        return f"<div>{bar_html(self.step, self.done / max(self.total, 1), self.text, colour)}{blocks}</div>"


def run_state(path: str | Place) -> RunState:
    """How far the run that makes `path` is, from its files: no scheduler, and no part of the run, is asked.

    Parameters
    ----------
    path : path
        A volume that this program writes, or the folder of a measure's record.

    Raises
    ------
    InputError
        If there is no record of a run.
    """
    folder = find_ledger(place(path), passes=True)
    plan, last = read_plan(folder), last_line(folder)
    running = lease_owner(folder) is not None
    total, done = int(plan["n_blocks"]), last.get("done")
    if not (running and isinstance(done, int)):
        # The last line of a run that was killed is up to a second old, its ledger is not; reading it takes longer.
        done = int(Ledger.load(folder).done.sum())
    left, written, step = last.get("remaining_s"), last.get("time"), last.get("step")
    now = time.time()
    left = max(left - max(now - written, 0.0), 0.0) if _finite(left) and _finite(written) else None
    name = step if isinstance(step, str) else ", ".join(map(str, plan.get("step", ())))
    # Printed on terminals: a file may hold what would move their cursor.
    name = "".join(c if c.isprintable() else "\ufffd" for c in name)[:80]
    return RunState(name, min(max(done, 0), total), total, running, left if running else None, folder)


def watch(path: str | Place, *, every_seconds: float = 1.0) -> None:
    """Show how far a run or a training is until it ends: that of another process, or one that outlived a restarted kernel.

    In a notebook this returns at once, and the bar and the map of blocks, or the curves of the training, move on by
    themselves; on a terminal it returns when the run has ended, and Ctrl-C leaves it without touching the run.

    Parameters
    ----------
    path : path
        As for `run_state`, or the output of a training.
    every_seconds : float
        Time between two looks at the files.

    Raises
    ------
    InputError
        If there is no record of a run.
    """
    state = _state_of(path)
    display = make_display(state.step, state.total, state.folder)
    display.update(state.done, state.text)
    if not in_notebook():
        _follow(path, display, state, every_seconds)
        return
    threading.Thread(
        target=_follow, args=(path, display, state, every_seconds), name="tomoscale-watch", daemon=True
    ).start()


def _state_of(path: str | Place) -> RunState | TrainingState:
    found = place(path)
    return training_state(found) if isinstance(found, Path) and is_training(found) else run_state(found)


def _follow(path: str | Place, display: Display, state: RunState | TrainingState, every_seconds: float) -> None:
    try:
        while state.running:
            time.sleep(every_seconds)
            state = _state_of(path)
            display.update(state.done, state.text)
    except (InputError, IntegrityError, OSError, KeyboardInterrupt):
        pass  # the output was removed, or whoever watches has seen enough
    finally:
        display.close()


def find_ledger(path: Place, *, passes: bool = False) -> Place:
    """Folder of the ledger that belongs to a volume or to a record.

    Parameters
    ----------
    path : path
    passes : bool
        Of a volume that is not there yet, the ledger of the pass before that a run is at, or was stopped in.

    Raises
    ------
    InputError
        If there is none.
    """
    folder = _record_at(path) or (_pass_before(path) if passes else None)
    if folder is not None:
        return folder
    if not path.exists():
        raise InputError(f"{path} does not exist, and no record of a run that makes it lies beside it: check the path")
    raise InputError(f"{path} has no record of a run: give a volume that tomoscale wrote, or a results folder")


def _record_at(path: Place) -> Place | None:
    inside = ledger_folder(path)
    assert inside is not None
    places = (inside, path / FOLDER, path, path / "measure")
    return next((folder for folder in places if (folder / "plan.json").exists()), None)


def _pass_before(path: Place) -> Path | None:
    """Record of the pass that is not done yet, of those whose results lie beside `path` until it is made."""
    if not isinstance(path, Path) or path.exists() or not path.parent.is_dir():
        return None
    name = path.name.removesuffix(".zarr")
    folders = [path.with_name(name + ending) for ending in (".parts", ".pieces", ".histogram")]
    folders += folders[0].glob("*.parts")
    records = (_record_at(place) for folder in folders for place in (folder, *folder.glob("*")))
    begun = [record for record in records if isinstance(record, Path) and not Ledger.load(record).done.all()]
    return max(begun, key=lambda record: (record / "plan.json").stat().st_mtime, default=None)


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
