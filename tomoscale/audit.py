"""How far a run is, and whether what is stored is what was written; both read the ledger and need no scheduler."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import Grid, three
from tomoscale.ledger import Ledger, checksum, lease_owner, read_plan
from tomoscale.progress import duration
from tomoscale.volume import Volume, open_zarr
from tomoscale.watch import find_ledger, last_line


def status(path: str | Path) -> dict[str, Any]:
    """How far the run that makes `path` is.

    Parameters
    ----------
    path : path
        A volume that this program writes, or the folder of a measure's record.

    Returns
    -------
    dict
        Step, blocks done and in all, blocks set aside, who runs now, and the time left as last written.

    Raises
    ------
    InputError
        If there is no record of a run.
    """
    folder = find_ledger(Path(path))
    ledger, plan = Ledger.load(folder), read_plan(folder)
    done, total = int(ledger.done.sum()), int(ledger.done.size)
    last = last_line(folder)
    left = last.get("remaining_s")
    owner = lease_owner(folder)
    failures = ledger.failures()
    return {
        "step": ", ".join(plan["step"]),
        "blocks": f"{done} of {total} done",
        "state": "finished" if done == total else f"running: {owner}" if owner else "stopped; the same command goes on",
        **({"time left": duration(left)} if left and owner else {}),
        **(
            {"set aside": "; ".join(f"block {n}: {text}" for n, text in list(failures.items())[:5])} if failures else {}
        ),
        "retries": ledger.retries,
        **dict(zip(("read_s", "compute_s", "write_s"), (round(float(s), 2) for s in ledger.seconds), strict=True)),
    }


def verify(path: str | Path) -> dict[str, Any]:
    """Read every finished block of a volume again and compare it with its recorded checksum.

    Raises
    ------
    InputError
        If there is no record, or the run is not finished.
    IntegrityError
        If blocks are missing, damaged, or not what was written; the message names them.
    """
    path = Path(path)
    folder = find_ledger(path)
    ledger, plan = Ledger.load(folder), read_plan(folder)
    if plan["target"] is None:
        done = f"{int(ledger.done.sum())} of {ledger.done.size} recorded, all with a checksum that agrees"
        return {"record": str(folder), "blocks": done}
    volume = open_zarr(path, unfinished=True)
    grid = Grid(three(plan["grid"]["shape"]), three(plan["grid"]["block_shape"]))
    if volume.shape != grid.shape:
        raise IntegrityError(
            f"{path} has the shape {volume.shape} but was written with {grid.shape}: its metadata was changed"
        )
    numbers = np.flatnonzero(ledger.done).tolist()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        wrong = [text for text in pool.map(lambda n: _compare(volume, grid, n, ledger), numbers) if text]
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} of {len(numbers)} blocks of {path} are not what was written: {'; '.join(wrong[:3])}"
            "\nremove the volume and run its command again"
        )
    recorded = volume.storage.identity().get("content")
    if volume.finished and recorded is not None and recorded != ledger.content():
        raise IntegrityError(
            f"the record of {path} was changed after the run: remove the volume and run its command again"
        )
    return {
        "volume": str(path),
        "blocks": f"{len(numbers)} of {len(grid)} compared, all equal what was written",
        "finished": volume.finished,
    }


def _compare(volume: Volume, grid: Grid, number: int, ledger: Ledger) -> str | None:
    try:
        values = volume.read(grid.region(number))
    except (IntegrityError, InputError, OSError) as error:
        return f"block {number}: {str(error).splitlines()[0]}"
    return None if checksum(values) == int(ledger.checksums[number]) else f"block {number} holds other values"
