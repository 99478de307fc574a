"""A Zarr array, and the group around it, put on disk or in a bucket without voxels."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoscale.bucket_conditions import refuse_unconditional
from tomoscale.bucket_path import PROBE, BucketPath
from tomoscale.drafts import draft_of
from tomoscale.errors import PlanError
from tomoscale.places import Place
from tomoscale.zarr_metadata import node_files, write_node

Nodes = Sequence[tuple[str, Mapping[str, Any], Mapping[str, Any]]]
"""Path inside, metadata and attributes of each group and array, the outermost first."""


def create_folder(target: Path, nodes: Nodes) -> None:
    """Make a folder of nodes, at once or not at all.

    Raises
    ------
    PlanError
        If something is in the way.
    """
    if os.path.lexists(target):
        raise _in_the_way(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = draft_of(target)
    try:
        for inside, metadata, attributes in nodes:
            (draft / inside).mkdir()
            write_node(draft / inside, metadata, attributes)
        # An empty folder that appeared meanwhile is replaced; anything else makes the rename fail.
        try:
            draft.rename(target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _in_the_way(target) from None
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def create_objects(target: BucketPath, nodes: Nodes) -> None:
    """Put the metadata of nodes into a bucket, the innermost last, which is what tells that the array is there.

    What the same command left when it was stopped here is not in the way, and of two that come at the same moment both
    may go on: they put the same, and the lease lets one of them run.

    Raises
    ------
    PlanError
        If something else is in the way, or the server does not put objects under conditions.
    """
    refuse_unconditional(target)
    files = {
        f"{inside}/{name}".lstrip("/"): (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()
        for inside, metadata, attributes in nodes
        for name, content in node_files(metadata, attributes).items()
    }
    if any(name not in files and not name.endswith(PROBE) for name, _ in target.below()):
        raise _in_the_way(target)
    for name, content in files.items():
        if (target / name).create(content) is None:
            raise _in_the_way(target)


def _in_the_way(target: Place) -> PlanError:
    return PlanError(f"{target} is in the way: give another output, or remove it")
