"""Volumes that several passes make: what lies between the passes, and what says that they need not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from tomoscale.bucket_path import BucketPath
from tomoscale.errors import InputError
from tomoscale.places import Place, remove_tree
from tomoscale.plan import ledger_folder
from tomoscale.plan_record import read_plan, refuse_other_plan
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr


def parts_of(target: Place) -> Path:
    """Folder of what lies between the passes that make a volume: beside it, or for one in a bucket in `scratch`."""
    if isinstance(target, BucketPath):
        return scratch(target, "parts")
    return target.with_name(f"{target.name.removesuffix('.zarr')}.parts")


@contextmanager
def removed_if_refused(folder: Place) -> Iterator[None]:
    """Remove what passes have found where that refuses the input: the next try is of another, or asks for something else.

    Around a check alone, never around a pass: what stops one, such as credentials that expired, must cost nothing it has done.
    """
    try:
        yield
    except InputError:
        with suppress(OSError):
            remove_tree(folder)
        raise


def made_of(kernel: Kernel, source: Volume, **asked: Any) -> Kernel:
    """Kernel whose record names the volume that the first of several passes reads, which the last one does not see."""
    return replace(kernel, parameters={**kernel.parameters, "made of": origin_of(source), **asked})


def scratch(target: BucketPath, ending: str) -> Path:
    """Folder on a file system for a volume in a bucket: its passes write parts of files, which a bucket cannot keep.

    It lies in ``TOMOSCALE_SCRATCH``, or in the working directory; all workers must see it.
    """
    digest = hashlib.sha256(str(target).encode()).hexdigest()[:8]
    folder = Path(os.environ.get("TOMOSCALE_SCRATCH", ".")).absolute()
    return folder / f"{target.name.removesuffix('.zarr')}.{digest}.{ending}"


def origin_of(source: Volume) -> dict[str, Any]:
    """What names a volume in the records of what is made of it."""
    # A plan may be of a volume that an earlier step is to make.
    return source.identity() if source.exists else {"volume": PurePosixPath(source.name).name}


def finished_before(target: Place, kernel: Kernel, found: tuple[str, ...] = ()) -> bool:
    """Whether `target` was finished by this very kernel, so that the passes before it need not run again.

    Parameters
    ----------
    target : Path or BucketPath
    kernel : Kernel
        Of the last pass.
    found : tuple of str
        Parameters that the passes before it find out, and that are therefore not compared.

    Raises
    ------
    PlanError
        If it was begun by another one.
    """
    folder = ledger_folder(target)
    if folder is None or not (folder / "plan.json").exists():
        return False
    recorded = dict(read_plan(folder)["step"])
    wanted = {kernel.name: json.loads(json.dumps(dict(kernel.parameters)))}
    for name in found:
        wanted[kernel.name][name] = recorded.get(kernel.name, {}).get(name)
    refuse_other_plan(folder, {"step": recorded}, {"step": wanted})
    return open_zarr(target, unfinished=True).finished
