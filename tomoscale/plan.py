"""Plans made: known and refused before the first voxel is touched."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tomoscale.blocking import CHUNK_VOXELS, choose_block, chunk_for, shard_of, writing_unit
from tomoscale.errors import InputError
from tomoscale.geometry import Grid, Region, Shape, Spacing, three
from tomoscale.lease import FOLDER
from tomoscale.ome import LEVEL
from tomoscale.places import Place, absolute
from tomoscale.plan_record import read_plan
from tomoscale.projection import Plan
from tomoscale.refusals import check_agreement, check_alignment, check_memory, check_target
from tomoscale.resources import Resources, this_machine
from tomoscale.step import Kernel, Measure
from tomoscale.volume import Kind, Volume, ZarrArray, create_volume
from tomoscale.words import shape_text

__all__ = ["Plan", "begun_block", "ledger_folder", "plan_map", "plan_measure"]


def plan_map(  # noqa: PLR0913 -- what, from, to, and the four things a user may want to decide
    kernel: Kernel,
    source: Volume | Mapping[str, Volume],
    target: Volume | str | Place,
    *,
    kind: Kind = "grey",
    block_shape: Shape | None = None,
    resources: Resources | None = None,
    voxel_size_um: Spacing | None = None,
    classes: tuple[Any, ...] = (),
) -> Plan:
    """Plan a kernel over a volume into a new volume.

    Parameters
    ----------
    kernel : Kernel
    source : Volume, or mapping of input name to Volume
        For a kernel with several inputs; their shapes and voxel sizes must agree.
    target : Volume or path
        A path gets an OME-Zarr volume whose shards are the blocks; a volume made by `create_volume` keeps its own.
    kind : "grey", "labels" or "mask"
        What the target holds, where `target` is a path.
    block_shape : (z, y, x) or None
        None lets the cost model choose from memory and margin.
    resources : Resources or None
        None takes this machine.
    voxel_size_um : (z, y, x) or None
        Of the target; None takes the source's, times the kernel's factor.
    classes : tuple of LabelClass
        Of a label target.

    Returns
    -------
    Plan
        For `run`.

    Raises
    ------
    PlanError
        If memory, disk or shards do not allow it; the message names both numbers and the way out.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(
            f"{type(kernel).__name__} is no kernel: tell what a plan must know of a function by tomoscale.step.Kernel"
        )
    resources = _for_kernel(kernel, resources or this_machine())
    sources = _sources(kernel, source)
    source = next(iter(sources.values()))
    shape = kernel.shape_of_target(source.shape)
    if min(shape) < 1:
        raise InputError(
            f"{source.name}: a volume of {shape_text(source.shape)} voxels leaves none after {kernel.name}"
        )
    given = target if isinstance(target, Volume) else None
    given_unit = unit = writing_unit(given)

    def draft(block: Shape) -> Plan:
        return Plan(
            kernel,
            sources,
            given or _memory_target(shape, kernel, kind),
            Grid(shape, block),
            None,
            resources,
        )

    record = ledger_folder(target)
    block = begun_block(record) if block_shape is None else _block(block_shape)
    if block is None:
        block = choose_block(draft, shape, unit, chunk_for(unit, kernel), source.storage.chunk_shape)
    if not isinstance(target, Volume):
        shard, chunk = shard_of(block, shape, kernel.dtype.itemsize)
        target = create_volume(
            target,
            shape=shape,
            dtype=kernel.dtype,
            voxel_size_um=voxel_size_um or _scaled(source.voxel_size_um, kernel),
            kind=kind,
            shard_shape=shard,
            chunk_shape=chunk,
            classes=classes,
        )
        unit = writing_unit(target)
    check_alignment(block, shape, unit)
    plan = Plan(kernel, sources, target, Grid(shape, block), record, resources)
    check_target(plan)
    check_memory(plan, draft, given_unit)
    return plan


def plan_measure(
    measures: Measure | Sequence[Measure],
    volumes: Mapping[str, Volume] | Volume,
    *,
    record: str | Place | None = None,
    block_shape: Shape | None = None,
    resources: Resources | None = None,
) -> Plan:
    """Plan one pass that computes all `measures` over the volumes they share.

    Parameters
    ----------
    measures : Measure or sequence of Measure
        Of different names.
    volumes : mapping of input name to Volume, or one Volume
        One volume stands for the only input of the measures.
    record : path or None
        Folder in which finished blocks are kept with their counts, so that the pass can be resumed.
    block_shape, resources
        As for `plan_map`.

    Returns
    -------
    Plan
        For `run`, which gives the counts.

    Raises
    ------
    InputError
        If an input is missing, or shapes or voxel sizes disagree.
    PlanError
        If memory does not allow it.
    """
    measures = _measures(measures)
    wanted = list(dict.fromkeys(name for m in measures for name in m.inputs))
    volumes = {wanted[0]: volumes} if isinstance(volumes, Volume) else volumes
    _check_volumes(volumes)
    missing = [name for name in wanted if name not in volumes]
    if missing:
        raise InputError(
            f"{', '.join(m.name for m in measures)} needs the volume {missing[0]!r}, given are {sorted(volumes)}"
        )
    sources = {name: volumes[name] for name in wanted}
    check_agreement(sources)
    resources = resources or this_machine()
    first = next(iter(sources.values()))
    folder = None if record is None else absolute(record)
    # In memory there are no chunks, and blocks of a few voxels are not worth being looked at.
    stored = first.storage.chunk_shape
    chunk = stored if max(stored) > 1 else (CHUNK_VOXELS, CHUNK_VOXELS, CHUNK_VOXELS)

    def draft(block: Shape) -> Plan:
        return Plan(measures, sources, None, Grid(first.shape, block), folder, resources)

    block = (begun_block(folder) if block_shape is None else _block(block_shape)) or choose_block(
        draft, first.shape, (1, 1, 1), chunk, stored
    )
    plan = draft(block)
    check_memory(plan, draft, (1, 1, 1))
    return plan


def ledger_folder(target: Volume | str | Place) -> Place | None:
    """Where the ledger of a volume lies: inside its array, so that it moves with the data; None in memory."""
    if isinstance(target, Volume):
        storage = target.storage
        return storage.folder / FOLDER if isinstance(storage, ZarrArray) else None
    return absolute(target) / LEVEL / FOLDER


def begun_block(record: Place | None) -> Shape | None:
    """Block of the run that an output was begun with, which a resumed run must take over; None if there is none."""
    if record is None or not (record / "plan.json").exists():
        return None
    return three(read_plan(record)["grid"]["block_shape"])


def _measures(given: Measure | Sequence[Measure]) -> tuple[Measure, ...]:
    measures = tuple(given) if isinstance(given, Sequence) else (given,)
    names = [m.name for m in measures if isinstance(m, Measure)]
    if not names or len(names) < len(measures):
        raise TypeError(f"plan_measure takes a Measure or several, of tomoscale.step, got {given!r}")
    if len(set(names)) < len(names):
        raise ValueError(f"measures are told apart by their names, but {max(names, key=names.count)!r} comes twice")
    return measures


def _block(given: Sequence[int]) -> Shape:
    try:
        z, y, x = (operator.index(n) for n in given)
    except (TypeError, ValueError):
        z = y = x = 0
    if min(z, y, x) < 1:
        raise ValueError(f"block_shape must be three positive numbers of voxels (z, y, x), got {given!r}")
    return z, y, x


def _check_volumes(given: Mapping[str, Volume]) -> None:
    wrong = next(
        (v for v in (given.values() if isinstance(given, Mapping) else [given]) if not isinstance(v, Volume)), None
    )
    if wrong is not None:
        raise TypeError(
            f"a plan takes volumes, got a {type(wrong).__name__}: open a path with open_volume, or give "
            "Volume(MemoryArray(array), voxel_size_um), with MemoryArray of tomoscale.memory_array, for a NumPy array"
        )


def _sources(kernel: Kernel, given: Volume | Mapping[str, Volume]) -> dict[str, Volume]:
    """Volumes that a kernel reads, in the order of its inputs."""
    volumes = {kernel.inputs[0]: given} if isinstance(given, Volume) else given
    _check_volumes(volumes)
    if set(volumes) != set(kernel.inputs):
        raise InputError(f"{kernel.name} reads the volumes {list(kernel.inputs)}, given are {sorted(volumes)}")
    sources = {name: volumes[name] for name in kernel.inputs}
    if len(sources) > 1:
        check_agreement(sources)
    return sources


def _for_kernel(kernel: Kernel, resources: Resources) -> Resources:
    return replace(resources, slots=1) if kernel.own_threads else resources


def _memory_target(shape: Shape, kernel: Kernel, kind: Kind) -> Volume:
    """Stand-in with the shape and dtype of a target that is not described yet."""
    return Volume(_Described(shape, kernel.dtype, kind), None)


@dataclass(frozen=True)
class _Described:
    shape: Shape
    dtype: Any
    kind: Kind
    name: str = "target"
    chunk_shape: Shape = (1, 1, 1)

    def read(self, region: Region) -> Any:
        raise AssertionError("a described volume has no values")

    def identity(self) -> dict[str, Any]:
        return {}


def _scaled(voxel_size_um: Spacing | None, kernel: Kernel) -> Spacing | None:
    if voxel_size_um is None:
        return None
    z, y, x = (v * f for v, f in zip(voxel_size_um, kernel.factor, strict=True))
    return z, y, x
