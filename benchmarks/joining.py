"""What lies between the two passes of components, for very many blocks: pieces are joined and numbered in one process.

The blocks are small and repeat, so that their files are copies of a few; to join them takes as long as if they were not.
The numbers must be those of cc3d on the whole mask, ordered by the first voxel.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from record import Peak, publish, rounded

from tomoscale.geometry import Grid
from tomoscale.kernels.row_runs import Connectivity
from tomoscale.objects.joining import Tables, join
from tomoscale.objects.painting import VALUES
from tomoscale.objects.pieces import Selection, file_of, pieces
from tomoscale.objects.ranking import rank

CONNECTIVITY: Connectivity = 26
PERIOD = 4
"""Blocks after which the mask repeats, along each axis."""


def make(folder: Path, edge: int, block: int, density: float) -> tuple[Grid, np.ndarray]:
    """Files of all blocks, and the mask they are of."""
    tile = np.random.default_rng(1).random((PERIOD * block,) * 3) < density
    along = np.arange(edge * block) % (PERIOD * block)
    mask, grid = tile[np.ix_(along, along, along)], Grid((edge * block,) * 3, (block,) * 3)
    measure, made = pieces(Selection(CONNECTIVITY), folder / "pieces"), {}
    for number in range(len(grid)):
        position = grid.position(number)
        path, like = file_of(folder / "pieces", number), tuple(_place(p, edge) for p in position)
        if like in made:
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_bytes(made[like])
        else:
            at = measure.block(grid, number)
            measure.function(mask[at.read], block=at)
            made[like] = path.read_bytes()
    return grid, mask


def _place(position: int, edge: int) -> int:
    """Blocks of one place have the same voxels and the same shared sides."""
    return -1 if position == 0 else PERIOD if position == edge - 1 else position % PERIOD


def numbered(folder: Path, grid: Grid) -> tuple[dict[str, Any], int, np.dtype[Any], Tables]:
    """Seconds of each part, the components, the type of their numbers."""
    started = time.perf_counter()
    tables = Tables.open(folder / "pieces", grid)
    opened = time.perf_counter()
    joined = join(tables, CONNECTIVITY)
    compared = time.perf_counter()
    n, dtype = rank(tables, joined, folder)
    ended = time.perf_counter()
    seconds = {"opening_s": opened - started, "joining_s": compared - opened, "numbering_s": ended - compared}
    return seconds, n, dtype, tables


def check(tables: Tables, values: np.ndarray, mask: np.ndarray, n: int) -> float:
    """Raise unless the numbers of all pieces are those of cc3d by first voxel; seconds that cc3d took."""
    started = time.perf_counter()
    labels, expected = cc3d.connected_components(mask, connectivity=CONNECTIVITY, return_N=True)
    seconds = time.perf_counter() - started
    assert n == expected
    first = np.concatenate(
        [tables.in_volume(number, tables.block(number).read("first")) for number in range(len(tables.grid))]
    )
    peer = labels.reshape(-1)[first]
    table = np.zeros(n + 1, np.int64)
    table[peer] = values
    assert np.array_equal(table[peer], values)
    earliest = np.full(n, mask.size)
    np.minimum.at(earliest, values.astype(np.int64) - 1, first)
    assert (np.diff(earliest) > 0).all()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=50, help="blocks along each axis")
    parser.add_argument("--block", type=int, default=8, help="edge of a block, in voxels")
    parser.add_argument("--density", type=float, default=0.1, help="share of voxels that are set, at random")
    parser.add_argument("--folder", type=Path, help="where files are made; removed afterwards")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        # What is compiled once on a machine is compiled.
        numbered(folder / "small", make(folder / "small", 3, 4, 0.1)[0])
        grid, mask = make(folder, options.edge, options.block, options.density)
        before = Peak().process.memory_info().rss
        with Peak() as peak:
            cpu = time.process_time()
            seconds, n, dtype, tables = numbered(folder, grid)
            cpu = time.process_time() - cpu
        values = np.fromfile(folder / VALUES, dtype)
        peer_s = check(tables, values, mask, n)
    finally:
        shutil.rmtree(folder)
    total = sum(seconds.values())
    publish(
        "joining",
        {
            "blocks": len(grid),
            "shape": list(mask.shape),
            "block": list(grid.block_shape),
            "components": n,
            "pieces": int(tables.pieces[-1]),
            "at_sides": int(tables.nodes[-1]),
            **{name: rounded(value) for name, value in seconds.items()},
            "microseconds_per_block": rounded(1e6 * total / len(grid)),
            # On a machine that does other work too, this is what counts.
            "cpu_microseconds_per_block": rounded(1e6 * cpu / len(grid)),
            "projected_for_a_million_blocks_s": rounded(1e6 * total / len(grid)),
            "cc3d_whole_s": rounded(peer_s),
            "gigabytes_per_s": rounded(mask.size / total / 1e9),
            "memory_mib": round((peak.own - before) / 2**20),
            "memory_bytes_per_piece_at_a_side": rounded((peak.own - before) / max(1, int(tables.nodes[-1]))),
        },
        options.keep,
    )


if __name__ == "__main__":
    main()
