"""The pieces a report is made of: escaped text, numbers, tables, pictures, and the page around them.

Every text that comes from outside passes `text` before it enters the page; what these functions return is HTML.
"""

from __future__ import annotations

import html
import json
import math
import re
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

SMALL_ERROR = 0.01

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
# Characters that HTML forbids, or that turn the direction of the text around them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufdd0\ufffe\uffff]")
_RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_CSS = """
:root { color-scheme: light; --ink: #1b1e23; --soft: #5b6470; --line: #d5d9df; --pale: #f4f6f8; }
* { box-sizing: border-box; }
html { background: #fff; color: var(--ink); -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif;
  max-width: 70rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; overflow-wrap: break-word;
  counter-reset: figure table; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; }
ul { margin: .25rem 0; padding-left: 1.25rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.caveats { border: 1px solid #b86e00; border-left-width: 6px; background: #fff7e8; border-radius: 4px;
  padding: .75rem 1rem; margin: 1.5rem 0; break-inside: avoid; }
.caveats strong { display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0; border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 400; }
.number { text-align: right; white-space: nowrap; }
.quantities { width: 100%; }
.quantities tbody th { font-weight: 600; min-width: 14rem; }
.quantities tbody th span { display: block; font-weight: 400; max-width: 40rem; }
.confusion td, .confusion th { padding: .4rem .7rem; }
.confusion .hit { font-weight: 600; }
abbr[title] { text-decoration: underline dotted; cursor: help; }
figure { margin: 1.25rem 0 2rem; break-inside: avoid; }
figcaption { margin-top: .6rem; max-width: 48rem; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; font-weight: 600; color: var(--ink); }
.tabular { break-inside: auto; margin: 1rem 0 1.5rem; }
.tabular figcaption { margin: 0 0 .4rem; }
.tabular figcaption::before { counter-increment: table; content: "Table " counter(table) ". "; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 15rem), 1fr)); gap: .9rem; }
.strip { grid-template-columns: repeat(auto-fit, minmax(min(45%, 10rem), 1fr)); }
.panel p { margin: 0 0 .3rem; font-size: .875rem; }
.picture { position: relative; border: 1px solid var(--line); }
.picture img { display: block; width: 100%; height: 100%; }
.pixels { image-rendering: pixelated; }
.scale { position: absolute; left: 3%; bottom: 3%; font-size: .75rem; line-height: 1.3; white-space: nowrap; }
.scale span { display: inline-block; margin-bottom: 3px; padding: 0 .3em; border-radius: 2px; color: #fff; background: rgba(0, 0, 0, .6); }
.scale b { display: block; height: 4px; background: #fff; outline: 1px solid #000; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .6rem 0 0; padding: 0; list-style: none; font-size: .875rem; }
.legend i { display: inline-block; width: .85em; height: .85em; margin-right: .4em; border: 1px solid #444; vertical-align: -.08em; }
.plans { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 0 2rem; }
.chart { display: block; width: 100%; max-width: 44rem; height: auto; }
@page { margin: 14mm; }
@media print {
  body { font-size: 10pt; padding: 0; max-width: none; }
  h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  .tabular figcaption { break-after: avoid; }
  .scroll { overflow: visible; }
  .panels { grid-template-columns: repeat(3, 1fr); }
  .strip { grid-template-columns: repeat(5, 1fr); gap: .4rem; }
}
"""


def page(title: str, body: str) -> str:
    """Whole HTML page; its content policy forbids scripts and everything from outside."""
    head = (
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{text(title)}</title>\n'
        f"<style>{_CSS}</style>"
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


def image(png: bytes, alt: str, kind: str = "") -> str:
    """Picture inside the page."""
    data = b64encode(png).decode("ascii")
    return f'<img class="{kind}" alt="{text(alt)}" src="data:image/png;base64,{data}">'


def chart(png: bytes, alt: str, caption: str) -> str:
    """Chart with its caption."""
    return f'<figure class="plot">{image(png, alt, "chart")}<figcaption>{caption}</figcaption></figure>\n'


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


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text) in their order."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{name}.")
        else:
            yield (
                f"{before}{name}",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            )
