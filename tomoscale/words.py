"""Sizes and shapes in words, for messages and tables."""

from __future__ import annotations

from tomoscale.geometry import Shape


def size(n_bytes: float) -> str:
    """Bytes in words.

    Examples
    --------
    >>> size(3 * 2**30)
    '3.0 GiB'
    """
    value = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError


def shape_text(shape: Shape) -> str:
    """Shape in words."""
    return " x ".join(str(n) for n in shape)
