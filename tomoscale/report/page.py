"""The pieces a report is made of: escaped text, numbers, tables, pictures, and the page around them.

Every text that comes from outside passes `text` before it enters the page; what these functions return is HTML.
"""

from __future__ import annotations

import html
import math
import re
from base64 import b64encode
from collections.abc import Collection, Sequence
from typing import Any, Literal

from tomoscale.report.stylesheet import CSS

SMALL_ERROR = 0.01

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Characters that HTML forbids, or that turn the direction of the text around them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufdd0\ufffe\uffff]")
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def page(title: str, body: str) -> str:
    """Whole HTML page; its content policy forbids scripts and everything from outside."""
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
        f"<style>{CSS}</style>"
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def text(value: Any) -> str:
    """Value as escaped text; what no page may hold, like control characters, becomes a replacement character."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(_CONTROLS.sub("\ufffd", plain), quote=True)


def table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", numbers: Collection[int] = ()
) -> str:
    """Table of HTML cells; the first of each row is its head, the columns `numbers` are aligned right."""

    def cell(tag: str, place: int, content: str) -> str:
        align = ' class="number"' if place in numbers else ""
        return content if content.startswith("<td") else f"<{tag}{align}>{content}</{tag.split()[0]}>"

    def line(row: Sequence[str]) -> str:
        return cell('th scope="row"', 0, row[0]) + "".join(cell("td", n, c) for n, c in enumerate(row[1:], 1))

    top = "".join(cell('th scope="col"', n, c) for n, c in enumerate(head))
    body = "".join(f"<tr>{line(row)}</tr>\n" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    kind = f' class="{kind}"' if kind else ""
    inside = f'<div class="scroll"><table{kind}>{top}<tbody>\n{body}</tbody></table></div>'
    return f'<figure class="tabular"><figcaption>{caption}</figcaption>\n{inside}</figure>\n'


def image(data: bytes, alt: str, kind: str = "", form: Literal["png", "svg+xml"] = "png") -> str:
    """Picture inside the page."""
    encoded = b64encode(data).decode("ascii")
    return f'<img class="{kind}" alt="{text(alt)}" src="data:image/{form};base64,{encoded}">'


def chart(svg: bytes, alt: str, caption: str) -> str:
    """Chart with its caption; as a picture, an SVG cannot run or fetch anything."""
    return f'<figure class="plot">{image(svg, alt, "chart", "svg+xml")}<figcaption>{caption}</figcaption></figure>\n'


def share(count: int, total: int, hit: bool) -> str:
    """Cell of a confusion matrix: a count and its part of the row, shaded by that part."""
    part = count / total if total else 0.0
    colour = "0, 114, 178" if hit else "213, 94, 0"
    percent_ = f'<span class="soft">{percent(part)}</span>' if total else ""
    kind = "number hit" if hit else "number"
    return f'<td class="{kind}" style="background: rgba({colour}, {0.4 * math.sqrt(part):.3f})">{integer(count)}<br>{percent_}</td>'


def rate(part: int, total: int) -> str:
    """Part of a total with three decimals, or a dash where there is no total."""
    return f"{part / total:.3f}" if total else '<abbr title="not defined: there is no such voxel">n/a</abbr>'


def number(value: Any, missing: str = "") -> str:
    """Number with four digits; `missing` if it is None or not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return f'<span class="soft">{missing}</span>' if missing else ""
    return text(plain_number(value))


def plain_number(value: Any) -> str:
    """Number with four digits, whole numbers with all of theirs; other things as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return integer(value)
    if value == 0 or not math.isfinite(value):
        return f"{value:g}".replace("-", "−")
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "−")
    mantissa, power = f"{value:.3e}".split("e")
    return f"{mantissa} × 10{str(int(power)).translate(_RAISED)}".replace("-", "−")


def integer(value: int) -> str:
    """Whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f").replace("-", "−")


def percent(part: float) -> str:
    """Part as per cent with a sensible number of digits; only nothing is 0 % and only all is 100 %."""
    if part in (0, 1):
        return f"{100 * part:.0f} %"
    if part < 1e-4 or part > 1 - 1e-4:
        return "< 0.01 %" if part < 0.5 else "> 99.99 %"
    return f"{100 * part:.2f} %" if part < 0.1 or part > 0.999 else f"{100 * part:.1f} %"


def relative_error(error: Any) -> str:
    """Relative error with its sign; a dash where it is below 1 %, as the papers print it, with the number as a tooltip."""
    if error is None or not math.isfinite(error):
        return ""
    shown = f"{100 * error:+.2g} %" if abs(error) < 0.1 else f"{100 * error:+,.0f} %"
    shown = shown.replace("-", "−").replace(",", "\u202f")
    if abs(error) < SMALL_ERROR:
        return f'<abbr title="{shown}, less than 1 % either way">–</abbr>'
    return shown


def duration(seconds: Any) -> str:
    """Seconds with a sensible number of digits, or nothing."""
    if seconds is None:
        return ""
    if seconds >= 100:
        return integer(round(seconds))
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}"


def length(value: float, known: bool) -> str:
    """Length given in micrometres (in voxels, if the voxel size is not known) with its unit."""
    if not known:
        return f"{value:g} voxels"
    if value >= 1000:
        return f"{value / 1000:.4g} mm"
    return f"{value:.4g} µm" if value >= 1 or value == 0 else f"{value * 1000:.4g} nm"
