"""What is public says what it takes: numpydoc sections are held against the signatures, read as text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tomoscale

ROOT = Path(tomoscale.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
Definition = ast.FunctionDef | ast.ClassDef


def definitions(body: list[ast.stmt], inside: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions, classes and methods, with their names."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield inside + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body, f"{node.name}.")


def sections(docstring: str) -> dict[str, list[str]]:
    """Lines of each section of a cleaned docstring that are not indented."""
    found: dict[str, list[str]] = {}
    lines = docstring.splitlines()
    for line, underline in zip(lines, [*lines[1:], ""], strict=True):
        if underline and set(underline) == {"-"} and len(underline) == len(line):
            found[line] = []
        elif found and line and not line.startswith(" ") and set(line) != {"-"}:
            found[list(found)[-1]].append(line)
    return found


def parameters_of(node: ast.FunctionDef, *, method: bool) -> list[str]:
    """Parameters of a function as they are called, without that of the object itself."""
    a = node.args
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
    names = [p.arg for p in (*a.posonlyargs, *a.args)][int(method and not static) :]
    names += [f"*{a.vararg.arg}"] if a.vararg else []
    names += [p.arg for p in a.kwonlyargs]
    return [*names, *([f"**{a.kwarg.arg}"] if a.kwarg else [])]


def faults(name: str, node: Definition) -> Iterator[str]:
    """What is wrong with the docstring of a definition."""
    text = ast.get_docstring(node)
    decorators = [ast.unparse(d) for d in node.decorator_list]
    if not text:
        yield f"{name} has no docstring"
        return
    documented = sections(text).get("Parameters")
    if documented is None or any("overload" in d or d.endswith(".setter") for d in decorators):
        return
    made = node
    if isinstance(node, ast.ClassDef):
        made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        if made is None:
            yield f"{name} documents parameters but has no __init__: its fields are attributes"
            return
    said = [n for line in documented for n in re.split(r",\s*", line.partition(" : ")[0].strip())]
    taken = parameters_of(made, method="." in name or isinstance(node, ast.ClassDef))
    if sorted(said) != sorted(taken):
        yield f"{name} takes {taken}, but its docstring says {said}"


def test_docstrings_name_the_parameters():
    trees = [ast.parse(path.read_text()) for path in MODULES]
    assert [f for tree in trees for found in definitions(tree.body) for f in faults(*found)] == []


@pytest.mark.parametrize("name", sorted(tomoscale._HOMES))
def test_what_is_exported_says_what_it_takes_gives_and_refuses(name):
    home = ROOT / tomoscale._HOMES[name].replace(".", "/")
    source = home.with_suffix(".py") if home.with_suffix(".py").exists() else home / "__init__.py"
    node = dict(definitions(ast.parse(source.read_text()).body))[name]
    found = sections(ast.get_docstring(node) or "")
    wanted = {"Attributes"} if isinstance(node, ast.ClassDef) else {"Parameters", "Raises"}
    if isinstance(node, ast.FunctionDef) and node.returns is not None:
        kind = ast.unparse(node.returns)
        wanted |= {"Yields"} if kind.startswith("Iterator") else set() if kind == "None" else {"Returns"}
    assert not wanted - set(found), f"{name} lacks {sorted(wanted - set(found))}"
