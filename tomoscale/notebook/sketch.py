"""Small drawings for notebooks: how full a bar is, a block with its margin, what runs took."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tomoscale.geometry import AXES, Region
from tomoscale.report.page import text
from tomoscale.report.wording import run_title
from tomoscale.words import shape_text, size

if TYPE_CHECKING:
    from tomoscale.projection import Plan

SIDE = 150
"""Longest side of a drawn block, in pixels."""
CORE, MARGIN = (86, 180, 233), (230, 159, 0)
OUTSIDE, LINE, PAPER = (225, 225, 225), (150, 150, 150), (255, 255, 255)
GOOD, BAD = "#0072b2", "#d55e00"


def plan_html(plan: Plan) -> str:
    """Plan as HTML: its table, how much of the memory it takes, and one block with its margin."""
    rows = "".join(
        f"<tr><th style='text-align:right'>{text(name)}</th><td style='text-align:left'>{text(value)}</td></tr>"
        for name, value in plan.rows()
    )
    bars = memory_bar("memory", plan.memory_bytes, plan.resources.memory_bytes)
    if plan.resources.device != "cpu":
        bars += memory_bar("GPU memory", plan.device_bytes, plan.resources.device_bytes)
    return f"<div><table>{rows}</table>{bars}{_block_html(plan)}</div>"


def memory_bar(name: str, needed_bytes: int, there_bytes: int) -> str:
    """How much of the memory of a process a plan takes; in another colour if that is more than there is."""
    words = f"{size(needed_bytes)} of {size(there_bytes)} per process"
    return bar_html(name, needed_bytes / max(there_bytes, 1), words, GOOD if needed_bytes <= there_bytes else BAD)


def bar_html(name: str, share: float, words: str, colour: str) -> str:
    """Bar that is filled by `share`, between a name and words; full where it is more than 1."""
    percent = 100 * min(max(share, 0.0), 1.0)
    bar = (
        '<span style="display:inline-block;width:200px;height:0.8em;border:1px solid #888;background:#fff;margin:0 0.6em">'
        f'<span style="display:block;width:{percent:.1f}%;height:100%;background:{colour}"></span></span>'
    )
    return f'<div style="margin:0.3em 0;font-size:90%">{text(name)}{bar}{text(words)}</div>'


def runs_html(runs: Sequence[Mapping[str, Any]]) -> str:
    """What was run, as a table: blocks, seconds of reading, computing and writing summed over blocks, seconds in all."""
    if not runs:
        return "<div>Nothing was run yet.</div>"
    head = ("step", "blocks", "read", "compute", "write", "in all", "tried again")
    lines = [
        (
            run_title(run),
            run["blocks"],
            *(f"{run['seconds'].get(part, 0):.2f} s" for part in ("read", "compute", "write", "wall")),
            run.get("retries", 0),
        )
        for run in runs
    ]
    top = "".join(f"<th style='text-align:left'>{text(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{text(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><tr>{top}</tr>{body}</table>"


def block_picture(plan: Plan, axis: int) -> bytes:
    """PNG of the middle block of a plan seen along `axis`: its core, its margin, its neighbours, the volume's edge.

    All is drawn in voxels of the source, true to scale; a margin thinner than a pixel is drawn as one.
    """
    core, read = _middle(plan)
    longest = max(_shape(read))
    down, right = (
        _Along.of(core[a], read[a], plan.source_shape[a], SIDE / longest, longest // 6 + 1)
        for a in range(3)
        if a != axis
    )
    drawing = np.full((len(down.core), len(right.core), 3), PAPER, np.uint8)
    drawing[down.line[:, None] | right.line] = LINE
    drawing[down.read[:, None] & right.read] = MARGIN
    drawing[down.core[:, None] & right.core] = CORE
    drawing[~(down.inside[:, None] & right.inside)] = OUTSIDE
    out = io.BytesIO()
    Image.fromarray(drawing).save(out, "PNG")
    return out.getvalue()


@dataclass(frozen=True)
class _Along:
    """What lies at each pixel along one axis: (n,) bool arrays."""

    core: np.ndarray
    read: np.ndarray
    inside: np.ndarray
    line: np.ndarray

    @classmethod
    def of(cls, core: slice, read: slice, length: int, scale: float, around: int) -> _Along:
        """Pixels from `around` voxels before what is read to as many after it; `length` is that of the volume."""
        start, stop = read.start - around, read.stop + around
        pixels = max(3, round((stop - start) * scale))
        edges = np.array([read.start, core.start, core.stop, read.stop])
        low, first, last, high = ((edges - start) * (pixels / (stop - start))).round().astype(int)
        low = min(low, first - 1) if read.start < core.start else first
        high = max(high, last + 1) if read.stop > core.stop else last
        place = np.arange(pixels)
        voxel = start + (place + 0.5) * ((stop - start) / pixels)
        neighbour = np.floor((voxel - core.start) / max(core.stop - core.start, 1))
        return cls(
            (place >= first) & (place < last),
            (place >= low) & (place < high),
            (voxel >= 0) & (voxel < length),
            np.append(False, neighbour[1:] != neighbour[:-1]),
        )


def _block_html(plan: Plan) -> str:
    core, read = _middle(plan)
    cells = ""
    for axis in (0, 1):
        rows, columns = (a for a in range(3) if a != axis)
        data = b64encode(block_picture(plan, axis)).decode("ascii")
        alt = f"a block seen along {AXES[axis]}: {AXES[rows]} runs down, {AXES[columns]} to the right"
        cells += (
            f'<div><img alt="{alt}" style="max-width:none" src="data:image/png;base64,{data}">'
            f"<br><small>{AXES[rows]} down, {AXES[columns]} right</small></div>"
        )
    what = "counted" if plan.target is None else "written"
    caption = f"A block in the middle: {shape_text(_shape(core))} {what} (blue), {shape_text(_shape(read))} read (with orange)"
    return f'<div style="display:flex;gap:12px">{cells}</div><small>{text(caption)}</small>'


def _middle(plan: Plan) -> tuple[Region, Region]:
    """What the middle block writes or counts, and what it reads, in voxels of the source."""
    z, y, x = (n // 2 for n in plan.grid.counts)
    block = plan.block((z * plan.grid.counts[1] + y) * plan.grid.counts[2] + x)
    core = tuple(
        slice(max(r.start, int(w.start * a.factor)), min(r.stop, -int(-w.stop * a.factor // 1)))
        for w, r, a in zip(block.write, block.read, plan.axes, strict=True)
    )
    return (core[0], core[1], core[2]), block.read


def _shape(region: Region) -> tuple[int, int, int]:
    z, y, x = (r.stop - r.start for r in region)
    return z, y, x
