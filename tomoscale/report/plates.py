"""Figures of a report: what the page shows of each, and the files a paper takes."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tomoscale.drafts import draft_of
from tomoscale.report import page
from tomoscale.report.figures import Chart

CAPTIONS = "captions.txt"


@dataclass(frozen=True)
class Plate:
    """One figure.

    Attributes
    ----------
    name : str
        Stem of its files; letters, digits and underscores.
    html : str
        What the page shows, caption included.
    caption : str
        As HTML.
    draw : callable
        Gives the chart for the files; called only where files are wanted.
    """

    name: str
    html: str
    caption: str
    draw: Callable[[], Chart]


Parts = Iterable[str | Plate]


def chart_plate(name: str, chart: Chart, alt: str, caption: str) -> Plate:
    """Plate of a chart, which stands in the page as SVG."""
    return Plate(name, page.chart(chart.svg, alt, caption), caption, lambda: chart)


def under(title: str, parts: Parts) -> list[str | Plate]:
    """Parts under a heading, or nothing if there are none."""
    shown = [p for p in parts if p]
    return [f"<h2>{page.text(title)}</h2>", *shown] if shown else []


def joined(parts: Parts) -> str:
    """HTML of texts and plates in their order."""
    return "\n".join(shown for p in parts if (shown := p if isinstance(p, str) else p.html))


def prefixed(parts: Parts, prefix: str) -> list[str | Plate]:
    """Put a prefix before the names of plates, so that those of several samples have files of their own."""
    return [p if isinstance(p, str) else replace(p, name=f"{prefix}_{p.name}") for p in parts]


def file_stem(name: str) -> str:
    """Turn a name into letters, digits and underscores; it may be empty."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:40]


def write_plates(folder: Path, parts: Parts) -> list[Path]:
    """Write every plate as SVG and PNG, and their captions as text; each file appears whole or not at all.

    Raises
    ------
    OSError
        If a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plates: Sequence[Plate] = [p for p in parts if isinstance(p, Plate)]
    written = []
    for plate in plates:
        chart = plate.draw()
        for kind, data in (("svg", chart.svg), ("png", chart.png)):
            written.append(write_whole(folder / f"{plate.name}.{kind}", data))
    captions = "\n".join(f"{plate.name}: {_as_text(plate.caption)}\n" for plate in plates)
    return [*written, write_whole(folder / CAPTIONS, captions.encode("utf-8", "replace"))]


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file under another name first, so that nothing half-written is ever taken for whole."""
    draft = draft_of(path)
    try:
        draft.write_bytes(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _as_text(caption: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", caption))
