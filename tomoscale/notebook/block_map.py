"""Which blocks of a run are done, running, or in trouble, as three small pictures: the grid seen along z, y and x.

A field of a picture stands for all blocks behind it. It is filled with green as they are done; one block that runs, waits to
be tried again or was set aside gives the field its colour, the worst first, so that nothing in trouble is hidden.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tomoscale.block_states import AGAIN, ASIDE, DONE, RUNNING, STATES, WAITING, RunBlocks, failures_of
from tomoscale.geometry import AXES
from tomoscale.notebook.look import img
from tomoscale.places import Place
from tomoscale.report.page import integer, text
from tomoscale.words import shape_text

FIELDS = 48
"""Most fields along a side of a picture; of more blocks, several share one."""
SIDE = 144
"""Longest side of a picture, in pixels, as far as whole pixels for each field allow."""
SHOWN_ERRORS = 3
COLOURS = np.array([(228, 228, 228), (0, 158, 115), (0, 114, 178), (230, 159, 0), (213, 94, 0)], np.uint8)
"""Of the states in their order."""
PAPER = (255, 255, 255)


class BlockMap:
    """Block map of a run that can be drawn again and again; each time only what is new is read.

    Parameters
    ----------
    folder : Path or BucketPath
        Of the ledger.

    Raises
    ------
    IntegrityError
        If the folder holds no plan with a grid.
    """

    def __init__(self, folder: Place) -> None:
        self.blocks = RunBlocks(folder)

    def html(self) -> str:
        """Map as HTML; nothing of a run of one block, which the bar tells.

        Raises
        ------
        IntegrityError
            If the log of blocks makes no sense.
        """
        states = self.blocks.look()
        return map_html(states, failures_of(self.blocks.folder)) if states.size > 1 else ""


def map_html(states: np.ndarray, failures: dict[int, str]) -> str:
    """Three pictures of the states of blocks, what the colours mean, and the first errors.

    Parameters
    ----------
    states : (z, y, x) uint8 array
        Of `tomoscale.block_states`.
    failures : dict
        First error by block number.
    """
    cells = "".join(_cell(states, axis) for axis in range(3))
    counts = np.bincount(states.ravel(), minlength=len(STATES))
    legend = "".join(
        f'<span style="margin-right:1em;white-space:nowrap"><span style="display:inline-block;width:0.9em;height:0.9em;'
        f'border:1px solid #888;background:#{bytes(COLOURS[state]).hex()}"></span> {integer(int(counts[state]))} {STATES[state]}</span>'
        for state in (DONE, RUNNING, WAITING, AGAIN, ASIDE)
        if counts[state] or state in (DONE, RUNNING, WAITING)
    )
    shared = "" if max(states.shape) <= FIELDS else "; blocks beside each other share a field"
    caption = f"{shape_text(states.shape)} blocks (z, y, x), seen along each axis{shared}"
    return (
        f'<div style="font-size:90%"><div style="display:flex;flex-wrap:wrap;gap:12px;align-items:flex-end">{cells}</div>'
        f"<div>{legend}</div><small>{text(caption)}</small>{_errors(states, failures)}</div>"
    )


def projection(states: np.ndarray, axis: int) -> np.ndarray:
    """Blocks of each state behind every field of the picture along `axis`: (5, rows, columns) int64 array."""
    rows, columns = (min(n, FIELDS) for a, n in enumerate(states.shape) if a != axis)
    planes = np.empty((len(STATES), rows, columns), np.int64)
    for state in range(len(STATES)):
        plane = (states == state).sum(axis=axis)
        # Block p of n lies in field p * fields // n: fields differ by one block at most.
        for a, fields in enumerate((rows, columns)):
            starts = -(-np.arange(fields) * plane.shape[a] // fields)
            plane = np.add.reduceat(plane, starts, axis=a)
        planes[state] = plane
    return planes


def map_picture(states: np.ndarray, axis: int) -> np.ndarray:
    """Picture of the blocks seen along `axis`: (rows, columns, 3) uint8 array with a line between fields."""
    planes = projection(states, axis)
    share = (planes[DONE] / planes.sum(axis=0))[..., None]
    fields: np.ndarray = (COLOURS[WAITING] * (1 - share) + COLOURS[DONE] * share).round().astype(np.uint8)
    for state in (RUNNING, AGAIN, ASIDE):
        fields[planes[state] > 0] = COLOURS[state]
    size = max(3, min(18, SIDE // max(min(n, FIELDS) for n in states.shape)))
    picture = fields.repeat(size, axis=0).repeat(size, axis=1)
    picture[size - 1 :: size] = PAPER
    picture[:, size - 1 :: size] = PAPER
    return picture


def _cell(states: np.ndarray, axis: int) -> str:
    rows, columns = (AXES[a] for a in range(3) if a != axis)
    out = io.BytesIO()
    Image.fromarray(map_picture(states, axis)).save(out, "PNG")
    picture = img(out.getvalue(), f"blocks seen along {AXES[axis]}")
    return f"<div>{picture}<br><small>along {AXES[axis]} ({rows} down, {columns} right)</small></div>"


def _errors(states: np.ndarray, failures: dict[int, str]) -> str:
    flat = states.ravel()
    aside = [(n, error) for n, error in sorted(failures.items()) if n < flat.size and flat[n] == ASIDE]
    lines = []
    for n, error in aside[:SHOWN_ERRORS]:
        z, y, x = np.unravel_index(n, states.shape)
        lines.append(f"<div>block {n} (z {z}, y {y}, x {x} of the grid): {text(error[:200])}</div>")
    more = f"<div>and {len(aside) - SHOWN_ERRORS} more</div>" if len(aside) > SHOWN_ERRORS else ""
    return "".join(lines) + more
