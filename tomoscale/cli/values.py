"""What a value on the command line, or in a configuration, may be: lengths, shapes, times, paths; each refuses in one line.

Each function takes the text as written and returns the value, as `argparse` wants it. It is also the type's identity:
help, completion, ``--json-usage`` and configurations ask which function an option has.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tomoscale.places import Place, is_bucket, place

BYTES = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
MICROMETRES = {"um": 1.0, "µm": 1.0, "μm": 1.0, "nm": 1e-3, "mm": 1e3}
DAYS = {"d": 1, "day": 1, "days": 1, "w": 7, "week": 7, "weeks": 7, "y": 365.25, "year": 365.25, "years": 365.25}
WORKERS = ("auto", "threads", "processes", "gpus", "slurm")
LONGEST = 200
"""Characters of a value that are looked at, or shown in a message."""
DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


def lengths(text: str) -> tuple[float, float, float]:
    """Voxel size in micrometres from "5um", "0.005mm" or "5um,2.5um,2.5um" (z, y, x).

    Examples
    --------
    >>> lengths("0.005mm")
    (5.0, 5.0, 5.0)
    """
    z, y, x = _three(text, length, "length", "5um or 5um,2.5um,2.5um")
    return z, y, x


def length(text: str) -> float:
    """Micrometres from "5um", "5000nm" or "0.005mm"; a number without a unit is refused, since it would be a guess."""
    return _positive(text, MICROMETRES, "length", "5um, 5000nm or 0.005mm")


def shape(text: str) -> tuple[int, int, int]:
    """Numbers of voxels from "256", "64,512,512" or "64x512x512" (z, y, x)."""
    z, y, x = _three(text.replace("x", ","), positive, "number of voxels", "64 or 64,512,512")
    return z, y, x


def region(text: str) -> tuple[slice, slice, slice]:
    """Part of a volume from "0:64,128:256,:" (z, y, x), the end excluded; ":" is the whole axis.

    Examples
    --------
    >>> region("0:64,128:256,:")
    (slice(0, 64, None), slice(128, 256, None), slice(None, None, None))
    """
    parts = [re.fullmatch(r"\s*(\d*)\s*:\s*(\d*)\s*", part) for part in text.split(",")]
    found = [slice(*(int(n) if n else None for n in part.groups())) for part in parts if part]
    if len(parts) != 3 or len(found) != 3:
        raise _wrong(text, "three ranges of voxels z,y,x", "0:64,128:256,128:256, or : for a whole axis")
    if any(r.stop is not None and r.stop <= (r.start or 0) for r in found):
        raise _wrong(text, "three ranges that end after they start", "0:64,128:256,128:256")
    z, y, x = found
    return z, y, x


def memory(text: str) -> int:
    """Bytes from "8GiB"."""
    return int(_positive(text, BYTES, "amount of memory", "8GiB or 500MB"))


def ranges(text: str) -> tuple[tuple[float | None, float | None], ...]:
    """Ranges of grey values from "90:120" or ":40,200:", above the first number and not above the second.

    Examples
    --------
    >>> ranges(":40,200:")
    ((None, 40.0), (200.0, None))
    """
    example = "90:120, or :40,200: without limits at the ends"
    found = []
    for part in text.split(","):
        low, colon, high = (word.strip() for word in part.partition(":"))
        if not colon or not (low or high):
            raise _wrong(text, "one range of grey values or several", example)
        found.append((number(low) if low else None, number(high) if high else None))
    return tuple(found)


def days(text: str) -> float:
    """Days from "6weeks", "42d" or "0.5years"."""
    if re.fullmatch(r"\s*[\d.]+\s*m(o|on|onth)?s?\s*", text[:LONGEST], re.IGNORECASE):
        raise argparse.ArgumentTypeError(
            f"{text!r} is of no certain length, as months are not: give the weeks or days that passed, such as 12weeks or 84days"
        )
    return _positive(text, DAYS, "time", "6weeks, 42days or 0.5years")


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(text, "a number", "0.5")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    return _whole(text, 1)


def numbers(text: str) -> tuple[int, ...]:
    """Labels from "3" or "1,2"."""
    parts = [part.strip() for part in text.split(",")]
    if not parts or not all(part.isdecimal() for part in parts):
        raise _wrong(text, "one whole number or several", "1,2")
    found = tuple(int(part) for part in parts)
    if len(set(found)) != len(found):
        raise _wrong(text, "numbers that are all different", "1,2")
    return found


def natural(text: str) -> int:
    """A whole number of at least 0."""
    return _whole(text, 0)


def port(text: str) -> int:
    """Number of a port of this machine; 0 takes any that is free."""
    value = _whole(text, 0)
    if value > 65535:
        raise _wrong(text, "a port from 0 to 65535", "8080, or 0 for any that is free")
    return value


def word(text: str) -> str:
    """Any text but none at all."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty text stands where a value is needed")
    return text


def words(text: str) -> tuple[str, ...]:
    """Names from "background,metal,bone"."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts) or len(set(parts)) != len(parts):
        raise _wrong(text, "names that are all different", "background,metal,bone")
    return parts


def window(text: str) -> tuple[int, ...]:
    """Numbers of voxels from "512,512" (y, x) or "32,128,128" (z, y, x)."""
    parts = text[:LONGEST].replace("x", ",").split(",")
    wrong = _wrong(text, "two or three numbers of voxels", "512,512 or 32,128,128")
    if len(parts) not in (2, 3):
        raise wrong
    try:
        return tuple(positive(part) for part in parts)
    except argparse.ArgumentTypeError:
        raise wrong from None


def json_object(text: str) -> dict[str, Any]:
    """Names and values from a JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _wrong(text, "names and values in JSON", '{"depth": 5, "width": 64}')
    return found


def workers(text: str) -> str:
    """Where blocks are computed: one of `WORKERS`, "slurm:PROFILE", or the address of a scheduler."""
    if text in WORKERS or re.fullmatch(r"slurm:[\w.-]+", text):
        return text
    if text.startswith("slurm:") or ":" not in text:
        raise _wrong(
            text,
            f"one of {', '.join(WORKERS)}, slurm:PROFILE or a scheduler's address",
            "slurm:maxwell or tls://node7:8786",
        )
    return text


_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/{1,2}[^/]", re.IGNORECASE)


def input_path(text: str) -> str:
    """Something that is there already: a file, a folder, or a dataset in a file (``scan.h5::/entry/data``)."""
    return _path(text)


def volume_path(text: str) -> Place:
    """A volume this command makes, or a folder for such, on a file system or in a bucket."""
    return place(text) if is_bucket(text) else output_path(text)


def output_path(text: str) -> Path:
    """Something else this command makes, on a file system."""
    if _ADDRESS.match(text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is an address: volumes are written to s3://BUCKET/PATH too, everything else to file systems alone; give "
            "a path, and copy what it holds afterwards"
        )
    return Path(_path(text))


NAMES: Mapping[Callable[[str], Any], str] = {
    lengths: "lengths",
    length: "length",
    shape: "shape",
    region: "region",
    memory: "memory",
    days: "time",
    number: "number",
    ranges: "ranges of grey values",
    numbers: "numbers",
    positive: "positive integer",
    natural: "natural number",
    port: "port",
    word: "text",
    words: "texts",
    window: "window",
    json_object: "JSON object",
    workers: "workers",
    input_path: "input path",
    output_path: "output path",
    volume_path: "output volume",
}
"""What each type is called in ``--json-usage``."""

SUGGESTIONS: Mapping[Callable[[str], Any], tuple[str, ...]] = {workers: WORKERS}
"""Values that shells offer where any other may be given too."""

PATHS = (input_path, output_path, volume_path)


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not a path: give the name of a file or a folder")
    return os.path.expanduser(text)


def _three(text: str, one: Callable[[str], Any], what: str, example: str) -> list[Any]:
    parts = text[:LONGEST].split(",")
    wrong = _wrong(text, f"one positive {what} or three (z,y,x)", example)
    if len(parts) not in (1, 3):
        raise wrong
    try:
        values = [one(part) for part in parts]
    except argparse.ArgumentTypeError as error:
        raise error if "has no unit" in str(error) else wrong from None
    return values * 3 if len(values) == 1 else values


def _whole(text: str, least: int) -> int:
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*", text) or int(text) < least:
        raise _wrong(text, f"a whole number of at least {least}", str(least + 1))
    return int(text)


def _positive(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([^\d\s]*)\s*", text[:LONGEST])
    known = {k.lower(): v for k, v in units.items()}
    if match and match[2].lower() not in known:
        wrong = f"has no unit {match[2]!r} that is known" if match[2] else "has no unit, and none is guessed"
        raise argparse.ArgumentTypeError(
            f"{text!r} {wrong}: write it as {example}, in one of {', '.join(filter(str.isascii, units))}"
        )
    if not match:
        raise _wrong(text, f"a positive {what}", example)
    value = float(match[1]) * known[match[2].lower()]
    if not 0 < value < math.inf:
        raise _wrong(text, f"a positive {what}", example)
    return value


def _wrong(text: str, wanted: str, example: str) -> argparse.ArgumentTypeError:
    shown = repr(text) if len(text) <= LONGEST else f"{text[:LONGEST]!r}..."
    return argparse.ArgumentTypeError(f"{shown} is not {wanted}, such as {example}")
