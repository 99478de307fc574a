"""Names of TIFF slices in a folder: their order, and what must not be missing or double."""

from __future__ import annotations

import itertools
import os
import re
from pathlib import Path

from tomoscale.errors import InputError


def is_tiff_name(name: str) -> bool:
    """Tell whether a file name is that of a TIFF; hidden files are not slices."""
    return name.lower().endswith((".tif", ".tiff")) and not name.startswith(".")


def slice_names(folder: Path) -> tuple[list[str], int]:
    """Names of the slices in a folder, in the order of the last number in each, and the step of these numbers.

    A step above one is the same between all neighbours: every n-th slice was saved. With two slices it cannot be told
    from a gap.

    Raises
    ------
    InputError
        If a number is missing or double, or a name has none.
    """
    names = [name for name in os.listdir(folder) if is_tiff_name(name)]
    if not names:
        raise InputError(f"{folder} holds no TIFF slices (*.tif, *.tiff)")
    if len(names) == 1:
        return names, 1
    numbered = _numbered(folder, names)
    order = sorted(numbered)
    steps = [after - before for before, after in itertools.pairwise(order)]
    step = steps[0] if len(set(steps)) == 1 and len(steps) > 1 else 1
    for before, after in itertools.pairwise(order):
        if after != before + step:
            raise InputError(
                f"{folder}: slice {before + 1} is missing between {numbered[before]} and {numbered[after]}: copy it again, or "
                "renumber the slices if the gap is meant"
            )
    return [numbered[n] for n in order], step


def _numbered(folder: Path, names: list[str]) -> dict[int, str]:
    numbered: dict[int, str] = {}
    for name in sorted(names):
        digits = re.findall(r"\d+", name.rsplit(".", 1)[0], re.ASCII)
        if not digits:
            raise InputError(
                f"{folder / name} has no number in its name, so its place in the stack is unknown: rename or remove it"
            )
        other = numbered.setdefault(int(digits[-1]), name)
        if other != name:
            raise InputError(
                f"{folder / name} has the same slice number {int(digits[-1])} as {other}: keep one stack in a folder, and the "
                "slice number last in the name"
            )
    return numbered
