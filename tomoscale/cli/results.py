"""Results of commands: JSON values for programs, lines of names and values for people."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

# Names in files are strangers' words.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(result: Any) -> Any:
    """JSON values of a result: a volume as what it is, a path as text, numbers that do not exist as null."""
    if isinstance(result, dict):
        return {str(k): plain(v) for k, v in result.items()}
    if isinstance(result, list | tuple):
        return [plain(v) for v in result]
    if isinstance(result, float):
        return result if math.isfinite(result) else None
    if isinstance(result, Path):
        return str(result)
    if hasattr(result, "facts"):
        return plain(result.facts())
    if hasattr(result, "storage"):
        return of_volume(result)
    return result.tolist() if hasattr(result, "tolist") else result


def of_volume(volume: Any) -> dict[str, Any]:
    """What a finished volume is."""
    return {
        "volume": volume.name,
        "shape": list(volume.shape),
        "dtype": str(volume.dtype),
        "voxel_size_um": None if volume.voxel_size_um is None else list(volume.voxel_size_um),
        "kind": volume.kind,
    }


def as_json(result: Any) -> str:
    """One JSON document."""
    document = json.dumps(plain(result), indent=1, allow_nan=False, ensure_ascii=False)
    # Half of a surrogate pair, which a file may hold, has no bytes; escaped it is JSON.
    return document.encode("utf-8", "backslashreplace").decode("utf-8")


def printable(text: str) -> str:
    """Text for a terminal: what would move its cursor or turn its lines around becomes a replacement character."""
    return _CONTROLS.sub("\ufffd", text)


def as_text(result: Any, indent: str = "") -> str:
    """Lines of name and value; what is nested stands below its name."""
    if isinstance(result, str):
        return indent + result
    if not isinstance(result, dict):
        result = {str(n): v for n, v in enumerate(result, 1)}
    width = max((len(_name(k)) for k, v in result.items() if not _nested(v)), default=0)
    lines = []
    for key, value in result.items():
        if _nested(value):
            lines += [f"{indent}{_name(key)}", as_text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_name(key):<{width}}  {_words(key, value)}".rstrip())
    return "\n".join(lines)


def _nested(value: Any) -> bool:
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)))


def _name(key: Any) -> str:
    return str(key).removesuffix("_um").removesuffix("_s").replace("_", " ")


def _words(key: str, value: Any) -> str:
    if value is None or value in ([], {}):
        return "none" if value is not None else "not known"
    if isinstance(value, list):
        value = (" x " if str(key).startswith(("shape", "voxel_size", "chunk", "shard")) else ", ").join(
            map(_number, value)
        )
    unit = " µm" if str(key).endswith("_um") else " s" if str(key).endswith("_s") else ""
    return f"{_number(value)}{unit}"


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
