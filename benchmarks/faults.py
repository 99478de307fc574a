"""What failures cost: workers, schedulers and everything killed, storage that fails, damage, resuming, and a soak.

Each kind prints one JSON line; the tests run the same harnesses (``tests/faults``) with small numbers::

    python benchmarks/faults.py --kind workers --number 200      # workers that are killed, exit, stop, take too much memory
    python benchmarks/faults.py --kind everything --number 50    # the whole group of processes killed, resumed each time
    python benchmarks/faults.py --kind storage --number 800      # storage fails at so many points of a run
    python benchmarks/faults.py --kind damage --number 2000      # damage that `verify` must find
    python benchmarks/faults.py --kind resume --number 100000    # finished blocks found again
    python benchmarks/faults.py --kind soak --number 50000       # memory of client, scheduler and workers over small blocks
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import publish, rounded

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faults.damage import damage_and_verify
from tests.faults.kills import kill_everything, kill_workers
from tests.faults.soak import soak
from tests.faults.storage import fail_everywhere
from tomoscale.frames import RECORD
from tomoscale.ledger import Ledger


def resume(folder: Path, number: int) -> dict[str, Any]:
    """Find finished blocks again: each recorded alone, as the slowest of runs would, or many to a frame."""
    figures = {}
    for per_frame in (1, 50):
        ledger = Ledger.start(folder / str(per_frame), {"step": {"opening": {}}}, number)
        records = np.zeros(number, RECORD)
        records["number"], records["attempts"] = np.arange(number), 1
        # The file is made whole: appending and syncing is not what is measured.
        for first in range(0, number, per_frame):
            ledger.append(records[first : first + per_frame], {"faces": np.arange(48).reshape(3, 4, 4)})
        ledger.release()
        started = time.perf_counter()
        again = Ledger.start(folder / str(per_frame), {"step": {"opening": {}}}, number)
        figures[f"seconds_of_{per_frame}_a_frame"] = rounded(time.perf_counter() - started)
        assert again.done.all()
    return {"blocks": number, **figures, "limits": {"seconds": 2.0}}


KINDS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "workers": kill_workers,
    "everything": kill_everything,
    "storage": fail_everywhere,
    "damage": damage_and_verify,
    "resume": resume,
    "soak": soak,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--number", type=int, required=True, help="kills, points, damages or blocks")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = KINDS[options.kind](Path(folder), options.number)
    publish(f"faults_{options.kind}", {"kind": options.kind, **figures}, options.keep)


if __name__ == "__main__":
    main()
