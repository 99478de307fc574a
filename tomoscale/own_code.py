"""What a function of the user's own computes, as a digest: a run must not go on with results of other code.

Functions of this program are known by its version and their parameters, those of installed packages by their names. Of
all others the bytecode counts, with the constants, arguments and global values it uses; comments do not.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

_INSTALLED = tuple({Path(path) for path in sysconfig.get_paths().values()})


def code_digest(function: Any) -> str | None:
    """Digest of what a function computes; None where all of it is of this program.

    Examples
    --------
    >>> code_digest(np.sort) == code_digest(np.flip)
    False
    >>> code_digest(code_digest) is None
    True
    """
    found = _said(function, ())
    return None if found is None else xxhash.xxh3_64_hexdigest(repr(found).encode())


def _said(value: Any, above: tuple[Any, ...]) -> Any:
    """Nested tuples that say what a callable is; None for what is of this program or met again inside of itself."""
    ours = _package(value) == "tomoscale" and hasattr(value, "__qualname__")
    if ours or any(value is other for other in above):
        return None
    inside = (*above, value)
    if isinstance(value, functools.partial):
        function = _said(value.func, inside)
        kept = {name: _constant(v, inside) for name, v in sorted(value.keywords.items())}
        return None if function is None else (function, [_constant(v, inside) for v in value.args], kept)
    if isinstance(value, types.MethodType):
        return _said(value.__func__, inside), _constant(value.__self__, inside)
    value = getattr(value, "py_func", value)  # compiled by Numba
    if isinstance(value, types.FunctionType) and not _installed(value):
        return list(_code(value.__code__)), [_constant(v, inside) for v in _values(value)]
    if hasattr(value, "__qualname__"):
        return f"{getattr(value, '__module__', None)}.{value.__qualname__}"
    return _object(value, inside)


def _object(value: Any, inside: tuple[Any, ...]) -> Any:
    """An object that is called: two functions of this program after each other, or one of a class of the user's."""
    parts = {name: _said(v, inside) for name, v in sorted(getattr(value, "__dict__", {}).items()) if callable(v)}
    parts = {name: said for name, said in parts.items() if said is not None}
    if _package(type(value)) == "tomoscale":
        return parts or None
    values = {name: _constant(v, inside) for name, v in sorted(getattr(value, "__dict__", {}).items())}
    return type(value).__qualname__, _said(type(value).__call__, inside), parts, values


def _values(function: types.FunctionType) -> Iterator[Any]:
    """Values besides its input that a function uses, but those it changes itself."""
    yield from (function.__defaults__ or (), tuple(sorted((function.__kwdefaults__ or {}).items())))
    steps = list(_instructions(function.__code__))
    changed = {step.argval for step in steps if step.opname.startswith("STORE_")}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if name not in changed:
            yield name, cell.cell_contents
    used = {step.argval for step in steps if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")} - changed
    for name in sorted(used & function.__globals__.keys()):
        yield name, function.__globals__[name]


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _code(code: types.CodeType) -> Iterator[Any]:
    """Bytecode, names and constants, of functions inside too; neither lines nor files."""
    yield code.co_code, code.co_names
    for constant in code.co_consts:
        yield list(_code(constant)) if isinstance(constant, types.CodeType) else _constant(constant, ())


def _constant(value: Any, inside: tuple[Any, ...]) -> Any:
    """What a value says; of an object that may change while it is used, its type alone."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | np.generic):
        return repr(value)
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.dtype.str, value.shape, xxhash.xxh3_64_hexdigest(np.ascontiguousarray(value).data)
    if isinstance(value, tuple):
        return [_constant(v, inside) for v in value]
    if isinstance(value, frozenset):
        return sorted(repr(_constant(v, inside)) for v in value)
    if isinstance(value, types.FunctionType | functools.partial):
        return _said(value, inside)
    return type(value).__qualname__


def _package(value: Any) -> str:
    return str(getattr(value, "__module__", None) or "").partition(".")[0]


def _installed(function: types.FunctionType) -> bool:
    """Whether a function came with Python or with a package that is installed, whose version is not looked at."""
    module = sys.modules.get(function.__module__ or "")
    file = getattr(module, "__file__", None)
    return file is not None and any(folder in Path(file).parents for folder in _INSTALLED)


def own_code(functions: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> dict[str, str]:
    """Digest by name of each function that is not of this program and states no "version" in its parameters."""
    digests = {name: code_digest(function) for name, (function, known) in functions.items() if "version" not in known}
    return {name: digest for name, digest in digests.items() if digest is not None}
