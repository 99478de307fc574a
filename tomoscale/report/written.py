"""A report that is written: its file, and what a notebook shows of it, a link and its first pictures made small."""

from __future__ import annotations

import io
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from tomoscale.report.page import text

PICTURES = 4
PIXELS = 240
"""Longest side of a picture made small."""
MOST_PIXELS = 1 << 25
"""Of a picture that is made small."""
MOST_BYTES = 64 << 20
"""Of the file: what is larger shows its link alone."""
_IMAGE = re.compile(rb'src="data:image/png;base64,([A-Za-z0-9+/=]+)"')


@dataclass(frozen=True)
class Report:
    """A report on disk; in a notebook it shows a link to itself and its first pictures.

    Attributes
    ----------
    path : Path
        Of the HTML file.
    """

    path: Path

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        pictures = "".join(
            f'<img alt="picture {n} of the report" style="margin-right:8px;vertical-align:top" '
            f'src="data:image/png;base64,{b64encode(png).decode("ascii")}">'
            for n, png in enumerate(islice(self.thumbnails(), PICTURES), 1)
        )
        return f"<div>{_link(self.path)}<div>{pictures}</div></div>"

    def thumbnails(self) -> Iterator[bytes]:
        """Pictures of the report as PNG of at most `PIXELS` a side, in their order; none of a file that cannot be read."""
        try:
            if self.path.stat().st_size > MOST_BYTES:
                return
            page = self.path.read_bytes()
        except OSError:
            return
        for found in _IMAGE.finditer(page):
            try:
                yield _small(b64decode(found[1]))
            except (OSError, ValueError):
                continue  # not a picture: someone changed the file


def _small(png: bytes) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("too large a picture")
        small = image.convert("RGB")
    small.thumbnail((PIXELS, PIXELS))
    small.save(out, "PNG")
    return out.getvalue()


def _link(path: Path) -> str:
    """Link that a notebook server follows, relative to where the kernel works; else the path alone."""
    inside = os.path.relpath(path)
    if inside.startswith(os.pardir) or os.path.isabs(inside):
        return f"Report: <code>{text(path)}</code>"
    return f'Report: <a href="{text(quote(inside))}" target="_blank">{text(inside)}</a>'
