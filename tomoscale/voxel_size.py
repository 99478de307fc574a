"""Voxel sizes: three lengths (z, y, x) in micrometres, read with their unit or unknown, never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tomoscale.errors import InputError
from tomoscale.geometry import Spacing

TOLERANCE = 1e-3
"""Two statements of one voxel size may differ by this share: headers round."""

_MICROMETRES = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "meter": 1e6,
    "inch": 25400.0,
}
_SHORT = {
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "\\u00b5m": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "in": "inch",
    "inches": "inch",
}


def micrometres_per(unit: Any) -> float | None:
    """Micrometres in one `unit` of length; None for what is not a known unit.

    Examples
    --------
    >>> micrometres_per("millimetres"), micrometres_per("nm"), micrometres_per("pixel")
    (1000.0, 0.001, None)
    """
    if isinstance(unit, bytes):
        unit = unit.decode("utf-8", "replace")
    if not isinstance(unit, str):
        return None
    word = unit.strip().lower()
    word = _SHORT.get(word, word.removesuffix("s").replace("metre", "meter"))
    return _MICROMETRES.get(word)


def check_voxel_size(value: float | Sequence[float], owner: str, error: type[ValueError] = ValueError) -> Spacing:
    """Three positive lengths (z, y, x) in µm from such a triple, or from one length for all axes.

    Raises
    ------
    ValueError
        (or `error`) if a length is zero, negative or not finite; `owner` says whose it is.
    """
    try:
        many = getattr(value, "ndim", 0) == 1 or (isinstance(value, Sequence) and not isinstance(value, str | bytes))
        each: Any = value if many else [value] * 3
        lengths = [] if isinstance(value, str | bytes) else [float(v) for v in each]
    except (TypeError, ValueError):
        lengths = []
    if len(lengths) != 3 or not all(math.isfinite(v) and v > 0 for v in lengths):
        raise error(
            f"{owner}: voxel_size_um is {value!r}, but must be three positive lengths (z, y, x) in micrometres: every volume "
            "and area is computed from it"
        )
    z, y, x = lengths
    return z, y, x


def agreed_voxel_size(name: str, stored: Spacing | None, given: float | Sequence[float] | None) -> Spacing | None:
    """Return the voxel size that the file and the user agree on; None if neither states one.

    Raises
    ------
    InputError
        If both state one and they differ by more than 0.1 % on an axis.
    ValueError
        If the given one is not three positive lengths.
    """
    if given is None:
        return stored
    wanted = check_voxel_size(given, name)
    if stored is None:
        return wanted
    if any(abs(a - b) > TOLERANCE * b for a, b in zip(wanted, stored, strict=True)):
        raise InputError(
            f"{name}: a voxel size of {in_micrometres(wanted)} was given but the file states {in_micrometres(stored)} (z, y, x): "
            "one of them is wrong and every length would be off; leave the argument out, or correct the file"
        )
    return wanted


def in_micrometres(size: Spacing) -> str:
    """A voxel size for people: six digits, since headers hold float32 and words like 60.699999999999996.

    Examples
    --------
    >>> in_micrometres((60.699999999999996, 5.0, 5.0))
    '60.7 x 5 x 5 µm'
    """
    return " x ".join(f"{edge:g}" for edge in size) + " µm"
