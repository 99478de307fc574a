"""What spreads from voxel to voxel through a whole volume: blocks take turns until nothing changes at their borders.

.. code-block:: text

    round 1    every block: spreads what starts in it              leaves its outermost voxels in a file
    round k    every block: starts anew, with what its neighbours left in round k - 1 around it
    the end    a round in which no block leaves anything else than before; then the blocks are written

Each voxel's state follows from its neighbours' (a `Rule`), with one solution only, so what no longer changes is the
result of the whole volume, for every block shape, worker count and restart. It takes about as many rounds as the longest
way of what spreads crosses borders of blocks. A block whose surroundings are those of the round before is not computed
again. Every round is a run with a ledger; what blocks leave takes 12 to 16 bytes per voxel of their sides.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash

from tomoscale.arrays import Array, to_host
from tomoscale.errors import PlanError
from tomoscale.geometry import Block, Grid, Halo, region_shape
from tomoscale.kernels.flood import PLACE_BITS, UNREACHED, Shell
from tomoscale.objects.pieces import file_of
from tomoscale.objects.stored import StoredArrays, save_arrays
from tomoscale.parts import removed_if_refused
from tomoscale.places import Place
from tomoscale.plan import begun_block, plan_map
from tomoscale.step import Counts, Kernel, Measure
from tomoscale.volume import Kind, Volume
from tomoscale.work import Work

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class State:
    """What a rule knows of the voxels of a block.

    Attributes
    ----------
    costs : (Z, Y, X) uint64 array
        0 where nothing can be, `UNREACHED` where nothing is yet.
    labels : (Z, Y, X) unsigned array
    tally : tuple of int
        Counts for `Rule.check`, added over all blocks.
    """

    costs: np.ndarray
    labels: np.ndarray
    tally: tuple[int, ...]


class Rule(Protocol):
    """How a state follows from those around it; a frozen dataclass, since it is pickled."""

    @property
    def name(self) -> str:
        """What spreads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the volumes it looks at."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `paint` gives."""

    @property
    def label_dtype(self) -> np.dtype[Any]:
        """Of the labels of states."""

    @property
    def bytes_per_voxel(self) -> float:
        """Most that `spread` takes beyond the volumes."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON values that say what is computed."""

    def spread(self, volumes: Arrays, block: Block, shell: Shell) -> State:
        """State of a block's voxels from those around it."""

    def paint(self, state: State) -> np.ndarray:
        """What is written of the state."""

    def check(self, tally: tuple[int, ...]) -> None:
        """Raise `InputError` if the tally of the whole volume makes no sense."""


@dataclass(frozen=True)
class Borders:
    """What the blocks of a grid have left of their outermost voxels."""

    grid: Grid
    folder: str

    def path(self, number: int) -> Path:
        """File of a block."""
        return file_of(Path(self.folder), number)

    def open(self, number: int) -> StoredArrays:
        """File of a block, opened."""
        return StoredArrays.open(self.path(number))

    def around(self, number: int) -> Shell:
        """What is reached of the voxels around a block."""
        position = self.grid.position(number)
        shape = tuple(n + 2 for n in region_shape(self.grid.region(number)))
        parts = [
            self._part(tuple(p + o for p, o in zip(position, offset, strict=True)), offset, shape)
            for offset in itertools.product((-1, 0, 1), repeat=3)
            if any(offset) and all(0 <= p + o < n for p, o, n in zip(position, offset, self.grid.counts, strict=True))
        ]
        if not parts:
            return nothing(np.dtype(np.uint8))
        return Shell(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _part(self, position: tuple[int, ...], offset: tuple[int, ...], shape: tuple[int, ...]) -> Arrays:
        """Places, costs and labels of what one neighbour has beside the block."""
        _, height, width = self.grid.counts
        stored = self.open((position[0] * height + position[1]) * width + position[2])
        axis = next(a for a in range(3) if offset[a])
        name = side_name(axis, last=offset[axis] < 0)
        rest = [a for a in range(3) if a != axis]
        part = tuple({-1: slice(-1, None), 0: slice(None), 1: slice(0, 1)}[offset[a]] for a in rest)
        costs, labels = (stored.read(f"{name} {what}")[part] for what in ("costs", "labels"))
        known = (costs != 0) & (costs != UNREACHED)
        places: Any = {-1: lambda n: np.zeros(1, np.int64), 0: lambda n: np.arange(1, n - 1), 1: lambda n: [n - 1]}
        z, y, x = (np.asarray(places[o](n), np.int64) for o, n in zip(offset, shape, strict=True))
        index = (z[:, None, None] * shape[1] + y[:, None]) * shape[2] + x
        return index.reshape(costs.shape)[known], costs[known], labels[known]


@dataclass(frozen=True)
class Settled:
    """What the rounds came to: where the last one left the borders, how many there were, and their tally."""

    borders: Borders
    rounds: int
    tally: tuple[int, ...]


def nothing(dtype: np.dtype[Any]) -> Shell:
    """Shell of a block around which nothing is reached."""
    return Shell(np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, dtype))


def side_name(axis: int, last: bool) -> str:
    """Name of a side of a block in its file."""
    return f"{'zyx'[axis]}{int(last)}"


def run_rounds(rule: Rule, volumes: Mapping[str, Volume], folder: Path, work: Work) -> Settled:
    """Let blocks take turns until nothing changes; ``work.block_shape`` must be given.

    With ``work.plan_only`` the plan of the first round is printed.

    Raises
    ------
    InputError
        As `Rule.check`, or if the volumes do not agree.
    """
    assert work.block_shape is not None
    first = next(iter(volumes.values()))
    grid, before, number = Grid(first.shape, work.block_shape), None, 1
    while True:
        record = folder / f"round-{number}"
        now = Borders(grid, str(record / "borders"))
        counts = work.measure((_round(rule, number, before, now),), dict(volumes), record)
        if counts is None:
            return Settled(now, number, ())
        tally = tuple(int(n) for n in counts["tally"])
        with removed_if_refused(folder):
            rule.check(tally)
        if before is not None:
            shutil.rmtree(before.folder, ignore_errors=True)
        if not counts["changed"][0]:
            return Settled(now, number, tally)
        before, number = now, number + 1


def painting(rule: Rule, settled: Settled, others: tuple[Volume, ...], **more: Any) -> Kernel:
    """Kernel that computes each block a last time and writes it.

    Parameters
    ----------
    rule : Rule
    settled : Settled
    others : tuple of Volume
        All inputs of the rule but the first, which the kernel maps; read by the block itself.
    **more
        Parameters that guard a resumed run, beside those of the rule.
    """
    return Kernel(
        rule.name,
        _Painting(rule, settled.borders, others),
        Halo(),
        rule.dtype,
        rule.bytes_per_voxel + rule.dtype.itemsize + sum(v.dtype.itemsize for v in others),
        parameters={**rule.parameters, **more},
        located=True,
    )


def with_block(rule: Rule, volumes: Mapping[str, Volume], target: Place, folder: Path, kind: Kind, work: Work) -> Work:
    """Work with the block of all rounds: what was asked for or begun, else what suits the last pass, which writes.

    `PlanError` is raised if that has more voxels than flooding can number.
    """
    shape = work.block_shape or (None if work.overwrite else begun_block(folder / "round-1"))
    if shape is None:
        source, *others = volumes.values()
        unsettled = Settled(Borders(Grid(source.shape, source.shape), ""), 0, ())
        kernel = painting(rule, unsettled, tuple(others))
        shape = plan_map(kernel, source, target, kind=kind, resources=work.available()).grid.block_shape
    z, y, x = (min(b, n) for b, n in zip(shape, next(iter(volumes.values())).shape, strict=True))
    if (z + 2) * (y + 2) * (x + 2) >= 1 << PLACE_BITS:
        raise PlanError(
            f"a block of {z} x {y} x {x} voxels is too large: flooding numbers fewer than 2^{PLACE_BITS}; give a smaller block_shape"
        )
    return replace(work, block_shape=(z, y, x))


@dataclass(frozen=True)
class _Painting:
    rule: Rule
    borders: Borders
    others: tuple[Volume, ...]

    def __call__(self, values: Array, block: Block) -> np.ndarray:
        volumes = (to_host(values), *(other.read(block.write) for other in self.others))
        return self.rule.paint(self.rule.spread(volumes, block, self.borders.around(block.number)))


def _round(rule: Rule, number: int, before: Borders | None, now: Borders) -> Measure:
    return Measure(
        f"{rule.name}, round {number}",
        partial(spread_block, rule=rule, before=before, now=now),
        rule.inputs,
        Halo(),
        rule.bytes_per_voxel,
        counts_bytes=64,
        parameters={**rule.parameters, "round": number},
    )


def spread_block(*volumes: Array, block: Block, rule: Rule, before: Borders | None, now: Borders) -> Counts:
    """Spread through a block and leave its borders, unless nothing around it changed.

    Returns
    -------
    dict
        ``"changed"``: (1,) int64, voxels at its borders that are not as in the round before; ``"tally"``: that of the
        state.
    """
    shell = nothing(rule.label_dtype) if before is None else before.around(block.number)
    old = None if before is None else before.open(block.number)
    seen = _digest(shell)
    if old is not None and np.array_equal(old.read("seen"), seen):
        arrays, changed = {name: old.read(name) for name in old.header}, 0
    else:
        state = rule.spread(tuple(to_host(v[block.core]) for v in volumes), block, shell)
        sides = _sides(state, block)
        changed = sum(_changes(sides, name, old) for name in sides if name.endswith(" costs"))
        arrays = {**sides, "seen": seen, "tally": np.array(state.tally, np.int64)}
    save_arrays(now.path(block.number), arrays)
    return {"changed": np.array([changed], np.int64), "tally": arrays["tally"]}


def _sides(state: State, block: Block) -> dict[str, np.ndarray]:
    """Outermost voxels at the sides that the block shares with others."""
    found = {}
    for axis, (write, n) in enumerate(zip(block.write, block.source_shape, strict=True)):
        for last, shared in ((False, write.start > 0), (True, write.stop < n)):
            if shared:
                for what, values in (("costs", state.costs), ("labels", state.labels)):
                    found[f"{side_name(axis, last)} {what}"] = values.take(-1 if last else 0, axis)
    return found


def _changes(sides: dict[str, np.ndarray], name: str, old: StoredArrays | None) -> int:
    """Voxels of a side that are not as they were; where nothing was, those that are reached."""
    labels = name.replace("costs", "labels")
    if old is None:
        return int(np.count_nonzero((sides[name] != 0) & (sides[name] != UNREACHED)))
    return int(np.count_nonzero((sides[name] != old.read(name)) | (sides[labels] != old.read(labels))))


def _digest(shell: Shell) -> np.ndarray:
    """Digest of what is around a block: (16,) uint8."""
    digest = xxhash.xxh3_128()
    for array in (shell.places, shell.costs, shell.labels):
        digest.update(np.ascontiguousarray(array).data)
    return np.frombuffer(digest.digest(), np.uint8)
