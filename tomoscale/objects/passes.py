"""The two passes that everything about components takes, and what lies between them.

.. code-block:: text

    pass 1    every block: pieces of the object -> a file                     reads the source once
    between   one process: which pieces are one component, and what becomes of it -> a value per piece, in a file
    pass 2    every block: the same pieces again, painted with their values   reads the source once, writes the target once

Pieces are found twice rather than stored: that takes less time than writing and reading four bytes per voxel, and no
disk. Both passes are runs with a ledger; what lies between is done again from the files of the first where it was cut
off. All of it lies in a folder beside the target, of which a few lines stay when the target is finished: they tell the
same command that nothing is left to do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tomoscale.block_log import LOG
from tomoscale.bucket_path import BucketPath
from tomoscale.drafts import new_draft_of, remove
from tomoscale.errors import InputError, IntegrityError, PlanError
from tomoscale.geometry import Grid, Shape
from tomoscale.json_files import read_json
from tomoscale.objects.joining import NODE_BYTES, Joined, Tables, join
from tomoscale.objects.painting import KEPT, STARTS, VALUES, painting
from tomoscale.objects.pieces import Selection, pieces
from tomoscale.parts import scratch
from tomoscale.places import Place, replace_text
from tomoscale.plan import Plan, begun_block, ledger_folder, plan_map, plan_measure
from tomoscale.plan_record import refuse_other_plan
from tomoscale.volume import Kind, LabelClass, Volume, open_zarr
from tomoscale.words import size
from tomoscale.work import Work

Decide = Callable[[Tables, Joined, Path], Mapping[str, Any]]
"""Writes the files `VALUES` and, where pieces may stay as they are, `KEPT` into a folder; returns JSON values that are
remembered: the type of the values as ``"dtype"``, and what else is worth it."""

DECIDED = "decided"
_RECORD = "record of what was decided on components"
_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Operation:
    """What becomes of the components of an object.

    Attributes
    ----------
    name : str
    selection : Selection
    decide : Decide
    on_source : bool
        Voxels that are not painted keep the source's value; else they are 0.
    voting : int or None
        As for `pieces`.
    parameters : mapping
        JSON values that, with the selection, say what is decided.
    """

    name: str
    selection: Selection
    decide: Decide
    on_source: bool
    voting: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """The volume an operation makes."""

    path: Place
    kind: Kind
    dtype: np.dtype[Any]
    classes: tuple[LabelClass, ...] = ()

    @property
    def folder(self) -> Path:
        """What is kept between the passes: beside the target, or for one in a bucket in `scratch`."""
        if isinstance(self.path, BucketPath):
            return scratch(self.path, "pieces")
        return self.path.with_name(f"{self.path.name.removesuffix('.zarr')}.pieces")

    @property
    def finished(self) -> bool:
        """Whether the target is there and whole."""
        try:
            return open_zarr(self.path, unfinished=True).finished
        except InputError:
            return False


def run_passes(operation: Operation, source: Volume, output: Output, work: Work) -> Volume:
    """Run both passes of an operation, or what is left of them; with ``work.plan_only`` print their plans.

    Raises
    ------
    InputError
        If the source holds no labels.
    PlanError, BlocksFailed, Interrupted
        As for `run`.
    """
    operation.selection.check(source)
    work = replace(work, block_shape=_block_shape(operation, source, output, work))
    measure = pieces(operation.selection, output.folder / "pieces", voting=operation.voting)
    first = plan_measure(measure, source, record=output.folder, block_shape=work.block_shape, resources=work.resources)
    # A plan may be of a volume that an earlier step is to make: nothing is known of its content yet.
    known = first.describe() if source.exists else {}
    wanted = {**known, "operation": {operation.name: dict(operation.parameters)}}
    decided = None if work.overwrite or not source.exists else _decided(output, wanted)
    if work.plan_only and decided is not None and output.finished:
        work.tell_finished(output.path)
        return open_zarr(output.path)
    if decided is None or not output.finished:
        counts = work.measure((measure,), {"labels": source}, output.folder)
        if work.plan_only:
            return _paint(operation, {"digest": "", "dtype": output.dtype.str}, source, output, work)
        if decided is None or not (output.folder / DECIDED).is_dir():
            _check_memory(first, int(counts["shared"][0]))
            decided = _decide(operation, first.grid, output.folder, wanted)
    target = _paint(operation, decided, source, output, work)
    if not work.plan_only:
        _clear(output.folder)
    return target


def remembered(output: Output) -> dict[str, Any]:
    """Return what `Decide` returned for an output.

    Raises
    ------
    InputError
        If there is no such output.
    """
    path = output.folder / f"{DECIDED}.json"
    record = read_json(path, _RECORD, f"make {output.path} first")
    try:
        return dict(record["remembered"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no {_RECORD} ({error}): make {output.path} first") from error


def _paint(operation: Operation, decided: Mapping[str, Any], source: Volume, output: Output, work: Work) -> Volume:
    kernel = painting(
        operation.name,
        operation.selection,
        output.folder / DECIDED,
        np.dtype(str(decided["dtype"])),
        on_source=operation.on_source,
        parameters={**operation.parameters, "values": decided["digest"]},
    )
    return work.map(kernel, source, output.path, kind=output.kind, classes=output.classes)


def _block_shape(operation: Operation, source: Volume, output: Output, work: Work) -> Shape:
    """Block of both passes: what was asked for or begun, else what suits the second, which writes."""
    begun = None if work.overwrite else begun_block(output.folder)
    if work.block_shape or begun:
        return work.block_shape or begun  # type: ignore[return-value]
    kernel = painting(
        operation.name, operation.selection, output.folder, output.dtype, on_source=operation.on_source, parameters={}
    )
    resources = work.available()
    return plan_map(kernel, source, output.path, kind=output.kind, resources=resources).grid.block_shape


def _decided(output: Output, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was decided before by the same command; None if nothing was.

    Raises
    ------
    PlanError
        If the target was made, or begun, by another command.
    """
    path, begun = output.folder / f"{DECIDED}.json", ledger_folder(output.path)
    if not path.exists():
        if output.path.exists():
            raise PlanError(
                f"{output.path} exists and was not made by this command: give another output, or remove it by overwrite=True"
            )
        return None
    advice = f"remove {output.folder} and run again"
    recorded = read_json(path, _RECORD, advice, IntegrityError)
    try:
        plan, digest, dtype = recorded["plan"], str(recorded["digest"]), str(recorded["remembered"]["dtype"])
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is no {_RECORD} ({error}): {advice}") from error
    if begun is not None and (begun / "plan.json").exists():
        refuse_other_plan(begun, plan, wanted)
    return {"digest": digest, "dtype": dtype} if plan == json.loads(json.dumps(wanted)) else None


def _check_memory(plan: Plan, nodes: int) -> None:
    """Raise `PlanError` if this process cannot hold what it must know of the pieces at shared sides."""
    needed, there = plan.process_bytes + NODE_BYTES * nodes, plan.resources.memory_bytes
    if needed > there:
        raise PlanError(
            f"{plan.sources['labels'].name}: {nodes} pieces lie at sides that blocks share, and to join them takes "
            f"{size(needed)}, but the memory is {size(there)}: take a larger block_shape, or remove noise first"
        )


def _decide(operation: Operation, grid: Grid, folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Join the pieces of all blocks and write what becomes of each, whole or not at all."""
    for leftover in (*folder.glob(f".{DECIDED}.*.partial"), *(folder / "pieces").glob(".*.partial")):
        remove(leftover)
    partial = new_draft_of(folder / DECIDED)
    partial.mkdir()
    try:
        tables = Tables.open(folder / "pieces", grid)
        tables.pieces.tofile(partial / STARTS)
        found = dict(operation.decide(tables, join(tables, operation.selection.connectivity), partial))
        digest = _digest(partial)
        shutil.rmtree(folder / DECIDED, ignore_errors=True)
        partial.rename(folder / DECIDED)
    except OSError as error:
        raise PlanError(
            f"{folder} cannot be written: {error.strerror or error}; finished blocks are kept, mend this and go on"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    record = {"plan": dict(wanted), "digest": digest, "remembered": found}
    replace_text(folder / f"{DECIDED}.json", json.dumps(record, indent=1, sort_keys=True))
    return {"digest": digest, "dtype": str(found["dtype"])}


def _digest(folder: Path) -> str:
    """Digest of what was decided: it guards the second pass."""
    digest = xxhash.xxh3_128()
    for name in (STARTS, VALUES, KEPT):
        path = folder / name
        if path.exists():
            digest.update(name.encode())
            with path.open("rb") as file:
                # What was decided is not made again, so it must be on the disk before that is recorded.
                os.fsync(file.fileno())
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
    return digest.hexdigest()


def _clear(folder: Path) -> None:
    """Remove what a finished target needs no more; first what says that it is there."""
    for name in ("sealed.json", LOG):
        (folder / name).unlink(missing_ok=True)
    for name in ("pieces", DECIDED):
        shutil.rmtree(folder / name, ignore_errors=True)
