"""Which paths a command reads and makes, told by the types of its options; what is missing is refused before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoscale.bucket_path import BucketPath
from tomoscale.cli.values import input_path, output_path, volume_path
from tomoscale.errors import InputError
from tomoscale.places import Place, place

BESIDE = """what lies in and beside an output
  NAME.zarr/0/.tomoscale  which blocks are done, with their checksums: a stopped command goes on by it; it belongs to NAME.zarr
  NAME.parts              volumes between the passes of a command; removed when NAME.zarr is finished
  NAME.pieces             objects between passes; a few lines stay, by which NAME.zarr is known to be finished
  NAME.histogram          grey values, counted; may be removed when NAME.zarr is finished
  .NAME.*.partial         a file that is being written; what a killed run left goes with the next one
  For a volume in a bucket, parts and pieces lie in the folder TOMOSCALE_SCRATCH names, else in the working directory."""
"""Shown by ``tomoscale --help``."""


def inputs(actions: Sequence[argparse.Action], options: Mapping[str, Any]) -> Iterator[tuple[argparse.Action, Any]]:
    """Paths that must be there."""
    return _paths(actions, options, (input_path,))


def outputs(actions: Sequence[argparse.Action], options: Mapping[str, Any]) -> Iterator[tuple[argparse.Action, Any]]:
    """Paths that are made."""
    return _paths(actions, options, (output_path, volume_path))


def file_of(path: str | Place) -> Place:
    """The file or folder of a path, without the dataset behind ``::``; absolute, links followed."""
    found = place(str(path).partition("::")[0])
    return found if isinstance(found, BucketPath) else Path(os.path.realpath(found))


def check_inputs(actions: Sequence[argparse.Action], options: Mapping[str, Any], where: str) -> None:
    """Refuse inputs that are not there.

    Raises
    ------
    InputError
        Naming the option and the path; `where` stands before it.
    """
    for action, path in inputs(actions, options):
        if not file_of(path).exists():
            name = (action.option_strings or [action.dest])[0].lstrip("-")
            raise InputError(f"{where}{name}: {path} does not exist; check the path")


def refuse_pipes(actions: Sequence[argparse.Action], options: Mapping[str, Any]) -> None:
    """Refuse inputs that are neither files nor folders: opening a pipe would wait for ever.

    Raises
    ------
    InputError
    """
    for _, path in inputs(actions, options):
        file = file_of(path)
        if isinstance(file, Path) and file.exists() and not (file.is_file() or file.is_dir()):
            raise InputError(f"{path} is a pipe or a device, not a file or a folder: write its content to a file first")


def _paths(
    actions: Sequence[argparse.Action], options: Mapping[str, Any], kinds: tuple[Any, ...]
) -> Iterator[tuple[argparse.Action, Any]]:
    for action in actions:
        if action.type in kinds:
            value = options.get(action.dest)
            for path in value if isinstance(value, list | tuple) else () if value is None else (value,):
                yield action, path
