"""Run what takes several passes by blocks on plain arrays: files between the passes, no ledger and no Zarr."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np

from tomoscale.geometry import Grid, Halo
from tomoscale.objects.joining import Tables, join
from tomoscale.objects.painting import STARTS, paint_block, painting
from tomoscale.objects.passes import Operation
from tomoscale.objects.pieces import pieces
from tomoscale.objects.rounds import Borders, Rule, spread_block
from tomoscale.step import make_block


def run_by_blocks(operation: Operation, values: np.ndarray, block_shape: tuple[int, int, int]) -> np.ndarray:
    """What both passes make of `values`."""
    grid = Grid(values.shape, block_shape)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measure = pieces(operation.selection, folder, voting=operation.voting)
        for number in range(len(grid)):
            block = measure.block(grid, number)
            measure.function(values[block.read], block=block)
        tables = Tables.open(folder, grid)
        decided = operation.decide(tables, join(tables, operation.selection.connectivity), folder)
        tables.pieces.tofile(folder / STARTS)
        kernel = painting(
            operation.name,
            operation.selection,
            folder,
            np.dtype(decided["dtype"]),
            on_source=operation.on_source,
            parameters={},
        )
        assert kernel.function.func is paint_block
        result = np.empty(values.shape, kernel.dtype)
        for number in range(len(grid)):
            block = kernel.block(grid, number, values.shape)
            result[block.write] = kernel.function(values[block.read], block)
        return result


def ranked(labels: np.ndarray) -> np.ndarray:
    """The same components, numbered 1 .. n by their first voxels."""
    ids, first = np.unique(labels, return_index=True)
    ids, first = ids[ids != 0], first[ids != 0]
    table = np.zeros(int(labels.max()) + 1, np.int64)
    table[ids[np.argsort(first)]] = np.arange(1, ids.size + 1)
    return table[labels]


def settle_by_blocks(rule: Rule, volumes: tuple[np.ndarray, ...], block_shape: tuple[int, int, int]) -> np.ndarray:
    """What a rule makes of `volumes` once the borders of all blocks agree."""
    grid, before = Grid(volumes[0].shape, block_shape), None
    with tempfile.TemporaryDirectory() as name:
        for number in itertools.count():
            now, changed = Borders(grid, f"{name}/{number}"), 0
            for n in range(len(grid)):
                block = make_block(grid, n, grid.shape, Halo())
                parts = (v[block.read] for v in volumes)
                changed += int(spread_block(*parts, block=block, rule=rule, before=before, now=now)["changed"][0])
            before = now
            if not changed:
                break
        result = np.empty(grid.shape, rule.dtype)
        for n, region in enumerate(grid):
            block = make_block(grid, n, grid.shape, Halo())
            state = rule.spread(tuple(v[region] for v in volumes), block, before.around(n))
            result[region] = rule.paint(state)
        return result
