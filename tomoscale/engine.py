"""Run a plan: the only verb that touches data.

One function computes a block, whether in the caller's process, on a Dask worker or on a GPU worker. A block reads its
own margin from storage; nothing is exchanged between blocks. Dask is a pool of workers with a bounded window of
futures, not a graph of arrays: 10^6 blocks need no more memory than 10^3.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tomoscale.block_log import has_begun
from tomoscale.driver import Driver
from tomoscale.errors import BlocksFailed, BlockTraceback, Interrupted, PlanError
from tomoscale.geometry import Region
from tomoscale.hanging import HANGING_SECONDS
from tomoscale.lease import lease_owner
from tomoscale.ledger import Ledger
from tomoscale.ome import LEVEL
from tomoscale.pace import Pace
from tomoscale.places import remove_tree
from tomoscale.plan import Plan
from tomoscale.plan_record import as_recorded, read_plan
from tomoscale.progress import Progress
from tomoscale.retries import retried
from tomoscale.step import Counts, Kernel
from tomoscale.volume import ZarrArray
from tomoscale.workers import Pool, make_pool
from tomoscale.zarr_group import labels_of

if TYPE_CHECKING:
    from distributed import Client


def run(
    plan: Plan,
    client: Client | None = None,
    *,
    progress: bool | None = None,
    hanging_seconds: float = HANGING_SECONDS,
) -> Any:
    """Compute every block of a plan that is not done yet.

    Parameters
    ----------
    plan : Plan
    client : distributed.Client or None
        None computes in this process, with as many threads as ``plan.resources`` says.
    progress : bool or None
        Show progress on stderr; None shows it for runs that last. ``progress.jsonl`` is always written.
    hanging_seconds : float
        A task of a client that takes longer, and much longer than its blocks usually do, hangs: its worker is started anew.

    Returns
    -------
    Volume
        The finished target of a kernel, or
    dict of integer arrays
        the counts of a measure, summed over all blocks; for several measures a dict of such by measure name.

    Raises
    ------
    PlanError
        If blocks of another plan are done in the output, another run is writing it, or the disk is full or does not answer.
    InputError, IntegrityError
        If the data of a block cannot be used, or is not what was written.
    BlocksFailed
        If blocks failed after every retry; all others are done and recorded. Its cause is the traceback of the first
        that raised, as text.
    Interrupted
        On Ctrl-C, if the scheduler is gone or another run took over; the same call goes on from there.
    """
    _make_way(plan)
    ledger = open_ledger(plan)
    try:
        finished = ledger.sealed() if plan.target is None else plan.target.finished
        if not (ledger.done.all() and finished):
            pool = make_pool(client, plan.resources)
            _finish_blocks(plan, ledger, pool, progress, hanging_seconds)
        return by_measure(plan, ledger.counts) if plan.target is None else plan.target
    finally:
        ledger.release()


def open_ledger(plan: Plan) -> Ledger:
    """Open the ledger of a plan for writing, creating its target where there is none."""
    if plan.target is not None and not plan.target.exists:
        try:
            retried(plan.target.create)
        except PlanError:
            if not plan.target.exists:  # another run has just made it: the lease tells who goes on
                raise
    elif (
        plan.target is not None
        and plan.record is not None
        and not (plan.record / "plan.json").exists()
        and plan.target.finished
    ):
        raise PlanError(
            f"{plan.target.name} exists and was not made by this command: give another output, or remove it by overwrite=True"
        )
    if plan.record is None:
        return Ledger.in_memory(len(plan.grid))
    return Ledger.start(plan.record, plan.describe(), len(plan.grid))


def _make_way(plan: Plan) -> None:
    """Remove a target that another plan has begun and left without a block: there is nothing that could be mixed.

    So an input that was refused at its first block leaves nothing in the way of the next try.
    """
    target, record = plan.target, plan.record
    if target is None or record is None or not (record / "plan.json").exists():
        return
    storage = target.storage
    if not isinstance(storage, ZarrArray) or storage.inside != LEVEL or has_begun(record) or lease_owner(record):
        return
    wanted = as_recorded(plan.describe(), len(plan.grid))
    if read_plan(record) != wanted and not labels_of(storage.directory):
        remove_tree(storage.directory)


def by_measure(plan: Plan, counts: Counts) -> Any:
    """Counts of the only measure, or of each measure by its name."""
    assert not isinstance(plan.step, Kernel)
    names = [m.name for m in plan.step]
    split = {
        name: {k.removeprefix(f"{name}/"): v for k, v in counts.items() if k.startswith(f"{name}/")} for name in names
    }
    return split if len(names) > 1 else split[names[0]]


def _finish_blocks(
    plan: Plan, ledger: Ledger, pool: Pool, progress: bool | None, hanging_seconds: float = HANGING_SECONDS
) -> None:
    # The voxels read are the work: blocks at the edge of the volume are smaller.
    pace = Pace(plan.read_voxels, plan.voxels_of(np.flatnonzero(ledger.done)), pool.window)
    watch = Progress(plan.name, len(plan.grid), int(ledger.done.sum()), plan.record, progress, pace)
    driver = Driver(plan, ledger, pool, watch, hanging_seconds)
    try:
        with watch:
            driver.run()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: {int(ledger.done.sum())} of {len(plan.grid)} blocks are done and recorded; the same command goes on from there"
        ) from None
    finally:
        pool.close()
        ledger.close(driver.failures)
    if driver.failures:
        where = {n: f"block {n} ({bounds(plan.block(n).write)})" for n in driver.failures}
        failed = BlocksFailed(driver.failures, where, int(np.count_nonzero(~ledger.done)) - len(where))
        raised = driver.tries.traceback
        raise failed from raised and BlockTraceback(f"in {where[raised[0]]}, when it was last tried\n{raised[1]}")
    ledger.renew()
    if plan.target is not None:
        counted = {name: values.tolist() for name, values in sorted(ledger.counts.items())}
        record = {"run": plan.describe(), "content": ledger.content(), **plan.target.described()}
        retried(partial(plan.target.finish, {**record, "counts": counted} if counted else record))
    else:
        ledger.seal()


def bounds(region: Region) -> str:
    """Region in words, for messages."""
    return ", ".join(f"{a} {r.start}:{r.stop}" for a, r in zip("zyx", region, strict=True))
