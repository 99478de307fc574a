"""JSON files that someone else may have written or changed, read within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError

MAX_JSON_BYTES = 16 * 2**20
"""Parsed, a file of this size takes up to 390 MiB (measured on lists and objects that hold nothing)."""


def read_json(
    path: Path, what: str, advice: str, error: type[ValueError | RuntimeError] = InputError
) -> dict[str, Any]:
    """Object in a JSON file.

    Parameters
    ----------
    path : Path
    what : str
        What the file should hold, for messages.
    advice : str
        What helps.
    error : type
        Of what is raised.

    Raises
    ------
    InputError
        (or `error`) if the file cannot be read, is larger than `MAX_JSON_BYTES`, is nested too deep, or is no JSON object.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise error(f"{path}: the {what} cannot be read: it is not a file; {advice}")
    try:
        size = path.stat().st_size
        value = json.loads(path.read_bytes()) if size <= MAX_JSON_BYTES else None
    except PermissionError:
        raise error(f"{path}: no permission to read it") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: the {what} cannot be read: {_words(problem)}; {advice}") from None
    if not isinstance(value, dict):
        raise error(
            f"{path}: the {what} ({size} bytes) is not a JSON object of at most {MAX_JSON_BYTES} bytes; {advice}"
        )
    return value


def _words(problem: Exception) -> str:
    return "it is nested too deep" if isinstance(problem, RecursionError) else str(problem)
