"""How a training goes, seen from the files it writes: by any process, and after a kernel was restarted."""

from __future__ import annotations

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError
from tomoscale.json_files import read_json
from tomoscale.notebook.sketch import bar_html
from tomoscale.report.page import image, text

DESCRIPTION, LINES = "training.json", "progress.jsonl"
PICTURES = ("curves.png", "losses.png")
MAX_BYTES = 16 * 2**20
"""Of a file that is read."""
SILENT_SECONDS = 3600.0
"""A training that wrote nothing for so long is taken as stopped."""


@dataclass(frozen=True)
class TrainingState:
    """How far a training is; in a notebook it shows itself as a bar, the last losses and IoU, and its curves.

    Attributes
    ----------
    step : str
        What is done, for a bar.
    done, total : int
        Steps at the last validation, and at most.
    running : bool
        Whether more is to come.
    folder : Path
    names : tuple of str
        Of the classes.
    last : mapping
        What the last validation found; empty before it.
    """

    step: str
    done: int
    total: int
    running: bool
    folder: Path
    names: tuple[str, ...]
    last: dict[str, Any]

    @property
    def text(self) -> str:
        """State in words."""
        found = (
            "" if not self.last else f", loss {_number(self.last, 'loss')}, mean IoU {_number(self.last, 'mean_iou')}"
        )
        end = "" if self.running else ", finished" if self.ended else ", stopped; resume=True goes on"
        return f"{self.done}/{self.total} steps{found}{end}"

    @property
    def ended(self) -> bool:
        """Whether there is no step left to do."""
        return bool(self.last.get("ended")) or self.done >= self.total

    def __str__(self) -> str:
        return f"{self.step}: {self.text}"

    def _repr_html_(self) -> str:
        colour = "#0072b2" if self.running else "#009e73" if self.ended else "#d55e00"
        return (
            f"<div>{bar_html(self.step, self.done / max(self.total, 1), self.text, colour)}{self.curves_html()}</div>"
        )

    def curves_html(self) -> str:
        """Table of the last validation, and the curves that the training has drawn."""
        pictures = "".join(
            image(png, f"{file} of the training", "chart", "png")
            for file in PICTURES
            if (png := _bytes(self.folder / file)) is not None
        )
        return (_table(self.last, self.names) if self.last else "") + pictures


class Curves:
    """Curves of a training that can be drawn again and again, as `BlockMap` draws blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def html(self) -> str:
        """Draw them as they are now; nothing where the training was removed."""
        with suppress(InputError):
            return training_state(self.folder).curves_html()
        return ""


def is_training(path: str | Path) -> bool:
    """Whether a folder is the output of a training."""
    return (Path(path) / DESCRIPTION).is_file()


def training_state(path: str | Path) -> TrainingState:
    """How far a training is, from the files in its output.

    Raises
    ------
    InputError
        If `path` is not the output of a training.
    """
    folder = Path(path)
    said = read_json(folder / DESCRIPTION, "description of a training", "give the output of `tomoscale train`")
    try:
        total = int(said["recipe"]["stop"]["steps"])
        names = tuple(str(c["name"]) for c in said["classes"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{folder / DESCRIPTION} describes no training ({error})") from error
    last = _last_line(folder / LINES)
    done = last.get("step", 0) if isinstance(last.get("step", 0), int) else 0
    state = TrainingState("training", min(max(done, 0), total), total, True, folder, names, last)
    silent = time.time() - max(f.stat().st_mtime for f in (*folder.glob("*.*"), folder))
    running = not state.ended and silent < SILENT_SECONDS
    return TrainingState(state.step, state.done, total, running, folder, names, last)


def _last_line(path: Path) -> dict[str, Any]:
    """Last line that is a JSON object; nothing where there is none."""
    for line in reversed((_bytes(path) or b"").splitlines()):
        with suppress(ValueError, RecursionError):
            found = json.loads(line)
            if isinstance(found, dict):
                return found
    return {}


def _bytes(path: Path) -> bytes | None:
    """Content of a file; None where it is not there, or larger than a training writes."""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            return path.read_bytes()
    return None


def _table(last: dict[str, Any], names: tuple[str, ...]) -> str:
    shares = last.get("iou")
    by_class = shares if isinstance(shares, list) and len(shares) == len(names) else [None] * len(names)
    cells = {
        "loss": _number(last, "loss"),
        "validation loss": _number(last, "validation_loss"),
        **{f"IoU {name}": _number({"": value}, "") for name, value in zip(names, by_class, strict=True)},
        "mean IoU": _number(last, "mean_iou"),
    }
    head = "".join(f"<th>{text(name)}</th>" for name in cells)
    return f"<table><tr>{head}</tr><tr>{''.join(f'<td>{value}</td>' for value in cells.values())}</tr></table>"


def _number(line: dict[str, Any], key: str) -> str:
    value = line.get(key)
    return f"{value:.4f}" if isinstance(value, int | float) and math.isfinite(value) else "-"
