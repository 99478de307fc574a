"""JSON files that someone else may have written or changed, read within bounds."""

from __future__ import annotations

import json
from typing import Any

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError
from tomoscale.places import Place

MAX_JSON_BYTES = 16 * 2**20
"""Parsed, a file of this size takes up to 390 MiB (measured on lists and objects that hold nothing)."""


def read_json(
    path: Place, what: str, advice: str, error: type[ValueError | RuntimeError] = InputError
) -> dict[str, Any]:
    """Object in a JSON file.

    Parameters
    ----------
    path : Path or BucketPath
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
    try:
        size, content = bounded_content(path)
        value = None if content is None else json.loads(content)
    except PermissionError:
        raise error(f"{path}: no permission to read it") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise error(f"{path}: the {what} cannot be read: {_words(problem)}; {advice}") from None
    if size is None:
        raise error(f"{path}: the {what} cannot be read: it is not a file; {advice}")
    if not isinstance(value, dict):
        raise error(
            f"{path}: the {what} ({size} bytes) is not a JSON object of at most {MAX_JSON_BYTES} bytes; {advice}"
        )
    return value


def bounded_content(path: Place) -> tuple[int | None, bytes | None]:
    """Size of a file, and its bytes if that is at most `MAX_JSON_BYTES`; no size where it is no file: a pipe would be waited for."""
    if isinstance(path, BucketPath):
        return path.read(MAX_JSON_BYTES)
    if path.exists() and not path.is_file():
        return None, None
    size = path.stat().st_size
    return size, path.read_bytes() if size <= MAX_JSON_BYTES else None


def _words(problem: Exception) -> str:
    return "it is nested too deep" if isinstance(problem, RecursionError) else str(problem)
