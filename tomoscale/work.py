"""How commands run: where, with what, and whether they run at all or only show their plans."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tomoscale.block_summary import block_summary
from tomoscale.cluster import connect, expected_resources, resources_of
from tomoscale.dashboard import dashboards_through_hub, link_html, link_of, show_link
from tomoscale.engine import run
from tomoscale.errors import IntegrityError, PlanError
from tomoscale.geometry import Shape
from tomoscale.hanging import HANGING_SECONDS
from tomoscale.lease import lease_owner
from tomoscale.ledger import Ledger
from tomoscale.places import Place, place, remove_tree
from tomoscale.plan import Plan, ledger_folder, plan_map, plan_measure
from tomoscale.plan_record import as_recorded, read_plan
from tomoscale.resources import Resources, this_machine
from tomoscale.step import Kernel, Measure
from tomoscale.volume import Volume
from tomoscale.zarr_group import labels_of


@dataclass(frozen=True)
class Work:
    """How commands run: where, with what, and whether they run at all or only show their plans.

    Attributes
    ----------
    client : distributed.Client or None
        None runs in this process.
    resources : Resources or None
        None takes what the client or this machine has.
    block_shape : (z, y, x) or None
        None lets the cost model choose.
    plan_only : bool
        Print each plan and run nothing.
    overwrite : bool
        Remove an output that is in the way.
    progress : bool or None
        As for `run`.
    hanging_seconds : float
        As for `run`.
    runs : list of dict
        What was run: name, plan as a table, seconds; for reports.
    """

    client: Any = None
    resources: Resources | None = None
    block_shape: Shape | None = None
    plan_only: bool = False
    overwrite: bool = False
    progress: bool | None = None
    hanging_seconds: float = HANGING_SECONDS
    runs: list[dict[str, Any]] = field(default_factory=list)

    def map(self, kernel: Kernel, source: Volume | Mapping[str, Volume], target: str | Place, **what: Any) -> Volume:
        """Plan a kernel into a new volume and run it; with `plan_only`, print the plan and return the description."""
        refuse_own_source(place(target), (source,) if isinstance(source, Volume) else tuple(source.values()))
        self.clear(place(target))
        plan = plan_map(kernel, source, target, block_shape=self.block_shape, resources=self.available(), **what)
        assert plan.target is not None
        self.run(plan)
        return plan.target

    def measure(self, measures: tuple[Measure, ...], volumes: dict[str, Volume], record: str | Place) -> Any:
        """Plan measures over volumes and run them; with `plan_only`, print the plan and return None."""
        refuse_own_source(place(record), tuple(volumes.values()))
        self.clear(place(record))
        plan = plan_measure(measures, volumes, record=record, block_shape=self.block_shape, resources=self.available())
        return self.run(plan)

    def clear(self, path: Place) -> None:
        """With `overwrite`, remove an output of this program; never anything else, and never one being written."""
        if not self.overwrite or self.plan_only or not path.exists():
            return
        inside = ledger_folder(path)
        ours = inside is not None and (inside / "plan.json").exists()
        folder = inside if ours else path if _is_record(path) else None
        if folder is None:
            raise PlanError(
                f"{path} was not made by tomoscale, so overwrite=True does not remove it: remove it yourself, or give another output"
            )
        owner = lease_owner(folder)
        if owner is not None:
            raise PlanError(f"{path} is being written by {owner}: wait for it to end, or stop it first")
        labels = labels_of(path)
        if labels:
            raise PlanError(
                f"{path} holds the labels {', '.join(folder.name for folder in labels)}, which overwrite=True would remove with it: "
                "move or remove them yourself, or give another output"
            )
        remove_tree(path)

    @property
    def dashboard(self) -> str | None:
        """Link to Dask's dashboard of the workers, on a Jupyter hub through its proxy; None where there is none."""
        return link_of(self.client)

    def _repr_html_(self) -> str:
        # Loaded only where it is shown.
        from tomoscale.notebook.sketch import runs_html

        link = self.dashboard
        return runs_html(self.runs) + (link_html(link) if link else "")

    def run(self, plan: Plan) -> Any:
        """Run a plan, and note it for reports; with `plan_only`, print it and return None."""
        if self.plan_only:
            print(plan, *self._begun(plan), sep="\n", end="\n\n")
            return None
        started = time.perf_counter()
        result = run(plan, self.client, progress=self.progress, hanging_seconds=self.hanging_seconds)
        ledger = Ledger.load(plan.record) if plan.record is not None else None
        seconds = [0.0, 0.0, 0.0] if ledger is None else [round(float(s), 2) for s in ledger.seconds]
        self.runs.append(
            {
                "name": plan.name,
                "target": None if plan.target is None else plan.target.name.rstrip("/").rpartition("/")[2],
                "rows": [list(row) for row in plan.rows()],
                "seconds": {
                    **dict(zip(("read", "compute", "write"), seconds, strict=True)),
                    "wall": round(time.perf_counter() - started, 2),
                },
                "blocks": len(plan.grid),
                "grid": list(plan.grid.counts),
                "record": None if plan.record is None else str(plan.record),
                "retries": 0 if ledger is None else ledger.retries,
                "blocks_done": None if ledger is None else block_summary(ledger.records(), plan.grid.counts),
            }
        )
        return result

    def tell_finished(self, output: Place) -> None:
        """With `plan_only`, say in place of plans that the same command has finished an output, and where it is."""
        if self.plan_only:
            print(f"{'step':>10}  none: the same command has finished this\n{'target':>10}  {output}", end="\n\n")

    def _begun(self, plan: Plan) -> list[str]:
        """What an earlier run of a plan has done, as a line of it; none where nothing was done, or by another plan."""
        record = plan.record
        if self.overwrite or record is None or not (record / "plan.json").exists():
            return []
        wanted = as_recorded(plan.describe(), len(plan.grid))
        done = int(Ledger.load(record).done.sum()) if read_plan(record) == wanted else 0
        end = "finished" if done == len(plan.grid) else "the same command does the others"
        return [f"{'done':>10}  {done} of {len(plan.grid)} blocks: {end}"] if done else []

    def available(self) -> Resources:
        """Resources to plan with: those given, else what the client or this machine has."""
        return self.resources or (this_machine() if self.client is None else resources_of(self.client))


def refuse_own_source(target: Place, sources: tuple[Volume, ...]) -> None:
    """Refuse an output that is, or holds, what it is made of: `overwrite` would remove the input before it is read."""
    for source in sources:
        # The name of a dataset in a file goes on after the file's path.
        path = place(source.name.split("::")[0]).resolve()
        if target.resolve() in (path, *path.parents):
            raise PlanError(f"{target} is or holds {source.name}, which it is to be made of: give another output")


def _is_record(folder: Place) -> bool:
    """Whether a folder is the record of a run of this program; a file named plan.json alone says nothing."""
    try:
        return str(read_plan(folder)["program"]).startswith("tomoscale ")
    except (IntegrityError, KeyError):
        return False


@contextmanager
def working(
    workers: str = "auto",
    *,
    processes: int | None = None,
    memory_bytes: int | None = None,
    n_jobs: int = 1,
    credentials: str | Path | None = None,
    insecure: bool = False,
    **how: Any,
) -> Iterator[Work]:
    """Give a `Work` whose workers are started before and ended after; in a notebook, show the link to their dashboard.

    Parameters
    ----------
    workers : str
        "threads", "processes", "gpus", "slurm" or "slurm:PROFILE", the address of a scheduler, or "auto": the scheduler
        of the batch script this runs in, else GPUs if there are any, else threads.
    processes : int or None
        For "processes".
    memory_bytes : int or None
        Of one process.
    n_jobs : int
        For "slurm": jobs to keep; those that end are replaced while this lasts.
    credentials : path or None
        For an address ``tls://HOST:PORT``: folder with its keys; None takes what the Dask configuration says.
    insecure : bool
        Connect without encryption to a scheduler on another machine.
    **how
        Other fields of `Work`.

    Yields
    ------
    Work

    Raises
    ------
    PlanError
        If these workers cannot be had.
    """
    resources = None
    if how.get("plan_only") and workers.partition(":")[0] == "slurm":
        resources = expected_resources(workers, n_jobs)  # a plan waits in no queue
    where = "threads" if resources is not None else workers
    with (
        dashboards_through_hub(where),
        connect(where, processes, n_jobs=n_jobs, credentials=credentials, insecure=insecure) as client,
    ):
        show_link(link_of(client))
        resources = resources or (this_machine() if client is None else resources_of(client))
        if memory_bytes is not None:
            resources = replace(resources, memory_bytes=memory_bytes)
        yield Work(client, resources, **how)
