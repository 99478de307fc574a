"""Messages of functions speak of arguments, the command line's of options: each says what the reader can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tomoscale
from tomoscale.cli import make_program_of_all
from tomoscale.cli.failures import in_options

ROOT = Path(tomoscale.__file__).parent
BELOW = sorted(path for path in ROOT.rglob("*.py") if ROOT / "cli" not in path.parents)
OPTIONS = {name for actions in make_program_of_all().actions.values() for a in actions for name in a.option_strings}


def messages(path: Path) -> Iterator[str]:
    """What the errors of a module say, X for what is filled in, without commands that stand between backticks."""
    for error in (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Raise)):
        whole = [node for node in ast.walk(error) if isinstance(node, ast.JoinedStr)]
        parts = {id(part) for node in whole for part in node.values}
        alone = [n for n in ast.walk(error) if isinstance(n, ast.Constant) and id(n) not in parts]
        texts = [
            "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
            for node in whole
        ]
        for text in (*texts, *(str(node.value) for node in alone)):
            yield re.sub("`[^`]*`", "", text)


@pytest.mark.parametrize("path", BELOW, ids=lambda path: str(path.relative_to(ROOT)))
def test_errors_below_the_command_line_name_no_options(path):
    assert [text for text in messages(path) if re.search(r"(?<![\w-])--[a-z]", text)] == []


def test_on_the_command_line_they_name_options_that_there_are_and_no_arguments():
    told = [in_options(text) for path in BELOW for text in messages(path)]
    assert [text for text in told if re.search(r"\bvoxel_size_um=|\bclasses=\(|\bkind='", text)] == []
    flags = {f"--{name.replace('_', '-')}" for text in told for name in re.findall(r"\b(\w+)=True\b", text)}
    assert flags & OPTIONS == set()
    named = {name for text in told for name in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)}
    assert {"--overwrite", "--resume", "--voxel-size", "--classes", "--kind", "--any-voxel-size", "--fold"} <= named
    assert named - OPTIONS == set()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.zarr exists: give another name, or overwrite=True", "a.zarr exists: give another name, or --overwrite"),
        ("convert it with its size, such as voxel_size_um=5.0", "convert it with its size, such as --voxel-size 5um"),
        ("name the labels, such as classes=(1, 2)", "name the labels, such as --classes 1,2"),
        ("name the labels of bone, such as bone=(3,)", "name the labels of bone, such as --bone 3"),
        (
            "such as raw=RawLayout((9, 8, 7), 'uint16') and voxel_size_um=5.0",
            "such as --shape 9x8x7 --dtype uint16 --voxel-size 5um",
        ),
        ("convert it with kind='mask' or kind='labels'", "convert it with --kind mask or --kind labels"),
        ("go on with any_voxel_size=True", "go on with --any-voxel-size"),
        ("give a smaller block_shape", "give a smaller --block"),
        ("Give workers='slurm:NAME'", "Give --workers slurm:NAME"),
    ],
)
def test_arguments_become_options(given, expected):
    assert in_options(given) == expected
