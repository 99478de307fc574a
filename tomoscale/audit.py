"""How far a run is, and whether what is stored is what was written; both read the ledger and need no scheduler."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import numpy as np

from tomoscale.block_log import FRAMES, LOG
from tomoscale.block_states import last_line
from tomoscale.checksums import checksum, placed_checksum
from tomoscale.engine import bounds
from tomoscale.errors import InputError, IntegrityError
from tomoscale.geometry import Grid, Region, three
from tomoscale.lease import FOLDER, lease_owner
from tomoscale.ledger import PROBABILITIES, Ledger
from tomoscale.leftovers import Search, Tally, clear
from tomoscale.ome import LEVEL
from tomoscale.places import Place, place
from tomoscale.plan_record import read_plan
from tomoscale.progress import duration
from tomoscale.volume import Volume, ZarrArray, open_zarr
from tomoscale.watch import find_ledger


def status(path: str | Place) -> dict[str, Any]:
    """How far the run that makes `path` is.

    Parameters
    ----------
    path : path
        A volume that this program writes, or the folder of a measure's record.

    Returns
    -------
    dict
        ``step``, ``blocks_done`` of ``blocks``, ``state`` ("finished", "running" or "stopped"), ``owner`` and
        ``remaining_s`` (null unless it runs), ``set_aside`` (first error by block number), ``retries``, and seconds of
        all blocks: ``read_s``, ``compute_s``, ``write_s``.

    Raises
    ------
    InputError
        If there is no record of a run.
    """
    folder = find_ledger(place(path), passes=True)
    ledger, plan = Ledger.load(folder), read_plan(folder)
    done, total = int(ledger.done.sum()), int(ledger.done.size)
    last = last_line(folder)
    left = last.get("remaining_s")
    owner = lease_owner(folder)
    return {
        "step": ", ".join(plan["step"]),
        "blocks_done": done,
        "blocks": total,
        "state": "finished" if done == total else "running" if owner else "stopped",
        "owner": owner,
        "remaining_s": left if owner and done < total else None,
        "set_aside": {str(n): text for n, text in ledger.failures().items()},
        "retries": ledger.retries,
        **dict(zip(("read_s", "compute_s", "write_s"), (round(float(s), 2) for s in ledger.seconds), strict=True)),
    }


def in_words(found: dict[str, Any]) -> dict[str, str]:
    """Show what `status` found to people."""
    states = {"running": f"running: {found['owner']}", "stopped": "stopped; the same command goes on"}
    aside = [f"block {n}: {text}" for n, text in list(found["set_aside"].items())[:5]]
    return {
        "step": found["step"],
        "blocks": f"{found['blocks_done']} of {found['blocks']} done",
        "state": states.get(found["state"], found["state"]),
        **({"time left": duration(found["remaining_s"])} if found["remaining_s"] else {}),
        **({"set aside": "; ".join(aside)} if aside else {}),
        "retries": str(found["retries"]),
        **{f"{part} seconds": f"{found[f'{part}_s']:.2f}" for part in ("read", "compute", "write")},
    }


def verify(path: str | Place, *, remove_leftovers: bool = False) -> dict[str, Any]:
    """Read every finished block of a volume again and compare it with its recorded checksum.

    Parameters
    ----------
    path : path
        Of a volume, or of the record of a measure.
    remove_leftovers : bool
        Remove what killed writers left there.

    Returns
    -------
    dict
        ``path``, ``blocks_compared`` of ``blocks``, all of them equal to what was written, and whether the run is
        ``finished``. Of the record of a measure each block's counts are compared with their checksum. Where the run kept
        probabilities beside its labels, these are compared as well: ``probabilities_compared`` volumes. So are its coarser
        levels: ``levels_compared``. Beside that ``leftovers`` of killed writers and ``strays``, which are no part of the
        volume (`tomoscale.leftovers`): neither is damage.

    Raises
    ------
    InputError
        If there is no record, or the run is not finished.
    IntegrityError
        If blocks are missing, damaged, or not what was written; the message names them.
    PlanError
        If something is to be removed and a run is writing.
    """
    path = place(path)
    folder = _record_of(path)
    # Not by the plan, which may have been changed: the record of a volume lies in it.
    volume = open_zarr(path, unfinished=True) if folder.name == FOLDER else None
    # Before the record is read: a run that ends meanwhile is not held against what it had not recorded then.
    finished = (folder / "sealed.json").exists() if volume is None else volume.finished
    ledger, plan = Ledger.load(folder), read_plan(folder)
    beside = _leftovers(path, folder, plan, remove_leftovers)
    if volume is None:
        finished = finished and ledger.sealed()
        done, total = int(ledger.done.sum()), int(ledger.done.size)
        finished = finished or done == total
        return {"path": str(path), "blocks_compared": done, "blocks": total, "finished": finished, **beside}
    regions = _compare_blocks(path, volume, ledger, plan)
    if finished:
        _compare_record(volume, ledger, plan)
    kept = _compare_probabilities(path, plan, ledger, regions)
    levels = _compare_levels(path)
    return {
        "path": str(path),
        "blocks_compared": len(regions),
        "blocks": plan["n_blocks"],
        "finished": finished,
        **beside,
        **({"probabilities_compared": kept} if kept else {}),
        **({"levels_compared": levels} if levels else {}),
    }


def _compare_blocks(path: Place, volume: Volume, ledger: Ledger, plan: dict[str, Any]) -> list[Region]:
    """Hold the finished blocks of a volume against their checksums; return where they are."""
    grid = _grid_of(ledger.folder or path, plan)
    if volume.shape != grid.shape:
        raise IntegrityError(
            f"{path} has the shape {volume.shape} but was written with {grid.shape}: its metadata were changed"
        )
    numbers = np.flatnonzero(ledger.done).tolist()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        wrong = [text for text in pool.map(lambda n: _compare(volume, grid, n, ledger), numbers) if text]
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} of {len(numbers)} blocks of {path} are not what was written: {'; '.join(wrong[:3])}"
            "\nremove the volume and run its command again"
        )
    return [grid.region(n) for n in numbers]


def _compare_levels(path: Place) -> int:
    """Hold the coarser levels of a volume against their records; return how many there are."""
    for number in count(1):
        level = path / str(number)
        folder = level / FOLDER
        if not (folder / "plan.json").exists():
            return number - 1
        volume, ledger, plan = open_zarr(level, unfinished=True), Ledger.load(folder), read_plan(folder)
        _compare_blocks(level, volume, ledger, plan)
        if volume.finished:
            _compare_record(volume, ledger, plan)
    raise AssertionError


def _leftovers(path: Place, folder: Place, plan: dict[str, Any], remove: bool) -> dict[str, Any]:
    """What killed writers left of a volume and of the probabilities kept with it, and what is no part of them."""
    kept = _probabilities_folder(path, plan)
    volumes = [] if kept is None else [f for f in kept.iterdir() if f.name.endswith(".zarr")]
    searches = [Search(root, folder) for root in (path, *sorted(volumes, key=str))]
    left, strays = Tally(), Tally()
    for found in (one for search in searches for one in search.leftovers()):
        (strays if found.stray else left).add(found)
    removed = clear(searches) if remove else 0
    return {"leftovers": {**left.told(), "removed": removed}, "strays": strays.told()}


def _record_of(path: Place) -> Place:
    """Folder of the ledger; what was a run's, as its other files tell, must have one."""
    try:
        return find_ledger(path)
    except InputError:
        inside = path / LEVEL / FOLDER
        if any((folder / name).exists() for folder in (inside, path) for name in (LOG, FRAMES)) or inside.is_dir():
            raise IntegrityError(
                f"the record of {path} lacks its plan.json: remove it and run its command again"
            ) from None
        raise


def _grid_of(folder: Place, plan: dict[str, Any]) -> Grid:
    try:
        grid = Grid(three(plan["grid"]["shape"]), three(plan["grid"]["block_shape"]))
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{folder}/plan.json was changed ({error}): remove the output and run again") from error
    if len(grid) != plan["n_blocks"]:
        raise IntegrityError(
            f"{folder}/plan.json was changed: its grid has {len(grid)} blocks, not {plan['n_blocks']}; remove the output and run again"
        )
    return grid


def _compare_record(volume: Volume, ledger: Ledger, plan: dict[str, Any]) -> None:
    """Hold the record of a finished volume, and its metadata, against what was written into the latter at the end."""
    state = volume.storage.state() if isinstance(volume.storage, ZarrArray) else None
    recorded = dict((state or {}).get("record", {}))
    found = {
        "run": {name: value for name, value in plan.items() if name != "n_blocks"},
        "content": ledger.content(),
        "counts": {name: values.tolist() for name, values in sorted(ledger.counts.items())},
        **volume.described(),
    }
    names = {
        "run": "plan",
        "content": "log of blocks",
        "counts": "counts",
        "kind": "kind",
        "voxel_size_um": "voxel size",
        "layout": "layout",
    }
    if volume.voxel_size_um is None and isinstance(volume.storage, ZarrArray) and volume.storage.inside != LEVEL:
        del found["voxel_size_um"]  # of a coarser level the image says it, which is not looked at
    changed = [names[name] for name, value in found.items() if name in recorded and recorded[name] != value]
    if changed or "content" not in recorded:
        what = ", ".join(changed) or "mark of its end"
        raise IntegrityError(
            f"the record or the metadata of {volume.name} were changed after the run ({what}): remove the volume and run its command again"
        )


def _compare_probabilities(path: Place, plan: dict[str, Any], ledger: Ledger, regions: list[Region]) -> int:
    """Hold the volumes of probabilities that a run filled against the checksums in its ledger; return how many."""
    said, recorded = _said_of_probabilities(plan), ledger.counts.get(PROBABILITIES)
    if said is None or recorded is None:
        return 0
    folder = _probabilities_folder(path, plan)
    if folder is None:
        raise IntegrityError(f"the probabilities kept with {path} are gone: {said['folder']} does not exist")
    for number, wanted in enumerate(recorded.tolist()):
        found = [f for f in folder.iterdir() if f.name.startswith(f"{number}_") and f.name.endswith(".zarr")]
        if len(found) != 1:
            raise IntegrityError(
                f"the probabilities kept with {path} are gone: {folder} holds no volume of class {number}"
            )
        volume = open_zarr(found[0], unfinished=True)
        try:
            total = sum(placed_checksum(volume.read(region), region) for region in regions)
        except (IntegrityError, InputError, OSError) as error:
            raise IntegrityError(f"{found[0]} is damaged: {str(error).splitlines()[0][:400]}") from error
        if (total - wanted) % 2**64:
            raise IntegrityError(
                f"{found[0]} holds other probabilities than were written with {path}: remove both and run the command again"
            )
    return len(recorded)


def _said_of_probabilities(plan: dict[str, Any]) -> Any:
    steps = plan["step"].values() if isinstance(plan["step"], dict) else ()
    said = next((p[PROBABILITIES] for p in steps if isinstance(p, dict) and PROBABILITIES in p), None)
    return said if isinstance(said, dict) and isinstance(said.get("folder"), str) else None


def _probabilities_folder(path: Place, plan: dict[str, Any]) -> Place | None:
    """Folder of the probabilities that a run kept; both may have been moved together."""
    said = _said_of_probabilities(plan)
    folders = [] if said is None else [place(said["folder"]), path.parent / place(said["folder"]).name]
    return next((folder for folder in folders if folder.is_dir()), None)


def _compare(volume: Volume, grid: Grid, number: int, ledger: Ledger) -> str | None:
    """What is wrong with a block, with its place and its shards; None where it is what was written."""
    region = grid.region(number)
    try:
        values = volume.read(region)
    except (IntegrityError, InputError, OSError) as error:
        return f"block {number} ({bounds(region)}): {str(error).splitlines()[0][:400]}"
    if checksum(values) == int(ledger.checksums[number]):
        return None
    files = volume.storage.shard_files(region) if isinstance(volume.storage, ZarrArray) else []
    names = f"{files[0]}{f' and {len(files) - 1} more' if len(files) > 1 else ''}" if files else volume.name
    return f"block {number} ({bounds(region)}) holds other values than were written, in {names}"
