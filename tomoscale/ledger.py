"""Which blocks of a run are done, with their checksums and counts.

A ledger is a folder beside what the run makes:

``plan.json``
    What is computed, of what, on which grid. A run with another plan is refused with the difference.
``blocks.log``
    Frames appended by the driver alone: the records of some finished blocks, the sum of their counts, a CRC. A frame
    that a crash cut off is dropped when the ledger is opened, and its blocks are computed again. Existence of a chunk
    proves nothing: a chunk that was never written reads as zeros.
``failures.json``
    First error of every block that was set aside.
``lease.json``
    Who runs now; a second run on the same output is refused while the lease is fresh.
``progress.jsonl``
    One line a second: blocks done, seconds of reading, computing and writing.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xxhash

from tomoscale.errors import IntegrityError, PlanError
from tomoscale.json_files import read_json
from tomoscale.packed_counts import pack_counts, unpack_counts
from tomoscale.step import Counts, add_counts

RECORD = np.dtype([("number", "<u8"), ("checksum", "<u8"), ("attempts", "<u4"), ("seconds", "<f4", 3)])
"""One finished block; `seconds` are those of reading, computing and writing."""

FOLDER = ".tomoscale"
"""Name of the ledger inside an array."""

LEASE_SECONDS = 60.0
"""A lease not renewed for this long belongs to a run that is gone."""

MAX_BLOCKS = 2**26

_FRAME = struct.Struct("<4sII")
_MAGIC = b"TSL1"


@dataclass
class Ledger:
    """The open ledger of one run; only the driver writes it.

    Attributes
    ----------
    folder : Path or None
        None keeps the ledger in memory.
    checksums : (n_blocks,) uint64 array
        Of each finished block's values.
    done : (n_blocks,) bool array
    counts : dict of integer arrays
        Sum over the finished blocks.
    seconds : (3,) float array
        Spent reading, computing and writing, summed over blocks.
    """

    folder: Path | None
    done: np.ndarray
    checksums: np.ndarray
    counts: Counts
    seconds: np.ndarray
    retries: int = 0

    @classmethod
    def in_memory(cls, n_blocks: int) -> Ledger:
        """Return a ledger that is gone with the process."""
        return cls(None, np.zeros(n_blocks, bool), np.zeros(n_blocks, "<u8"), {}, np.zeros(3))

    @classmethod
    def load(cls, folder: Path) -> Ledger:
        """Open a ledger for reading; needs no scheduler and may be done while a run goes on.

        Raises
        ------
        IntegrityError
            If the folder holds no readable plan.
        """
        n_blocks = int(read_plan(folder)["n_blocks"])
        ledger = cls.in_memory(n_blocks)
        ledger.folder = folder
        ledger._read_frames()
        return ledger

    @classmethod
    def start(cls, folder: Path, description: Mapping[str, Any], n_blocks: int) -> Ledger:
        """Open the ledger of this plan for writing, made anew if there is none, and take the lease.

        Raises
        ------
        PlanError
            If the ledger belongs to another plan (the message shows what differs) or another run holds the lease.
        """
        plan = json.loads(json.dumps({**description, "n_blocks": n_blocks}))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "plan.json"
        if path.exists():
            refuse_other_plan(folder, read_plan(folder), plan)
        take_lease(folder)
        try:
            if not path.exists():
                replace_text(path, json.dumps(plan, indent=1, sort_keys=True))
            ledger = cls.in_memory(n_blocks)
            ledger.folder = folder
            end, path = ledger._read_frames(), folder / "blocks.log"
            if path.exists() and end < path.stat().st_size:
                os.truncate(path, end)
        except BaseException:
            drop_lease(folder)
            raise
        return ledger

    def append(self, records: np.ndarray, counts: Counts) -> None:
        """Record finished blocks and the sum of their counts, in one frame."""
        if self.folder is not None:
            payload = pack_counts(counts)
            body = _FRAME.pack(_MAGIC, len(records), len(payload)) + records.astype(RECORD).tobytes() + payload
            with (self.folder / "blocks.log").open("ab") as file:
                file.write(body + struct.pack("<I", zlib.crc32(body)))
        self._accept(records, counts)

    def close(self, failures: Mapping[int, str]) -> None:
        """Put the ledger on disk, with the blocks that failed for good and their first error."""
        if self.folder is None:
            return
        replace_text(
            self.folder / "failures.json", json.dumps({str(k): v for k, v in sorted(failures.items())}, indent=1)
        )
        path = self.folder / "blocks.log"
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    def failures(self) -> dict[int, str]:
        """Return the blocks set aside by the last run that are still not done."""
        path = None if self.folder is None else self.folder / "failures.json"
        recorded = (
            read_json(path, "record of failures", "remove this file", IntegrityError)
            if path is not None and path.exists()
            else {}
        )
        numbers = {str(number): number for number in range(self.done.size)} if recorded else {}
        if not recorded.keys() <= numbers.keys():
            raise IntegrityError(
                f"{path} names blocks that do not exist: remove this file and give the same command again"
            )
        return {numbers[k]: str(v) for k, v in recorded.items() if not self.done[numbers[k]]}

    def records(self) -> np.ndarray:
        """Record of every finished block, in the order they finished: (n,) array of `RECORD`; empty in memory."""
        return np.concatenate([np.zeros(0, RECORD), *(records for records, _, _ in self._frames())])

    def content(self) -> str:
        """Digest of all blocks' checksums in order: equal for equal results on one grid."""
        return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self.checksums).tobytes())

    def _read_frames(self) -> int:
        """Read every whole frame; return where the last one ends."""
        last = 0
        for records, payload, end in self._frames():
            try:
                self._accept(records, unpack_counts(payload))
            except (
                ValueError,
                TypeError,
                KeyError,
                ArithmeticError,
                RecursionError,
                struct.error,
                zlib.error,
            ) as error:
                raise IntegrityError(
                    f"the log of blocks in {self.folder} holds counts that cannot be read ({error}): remove the output and run "
                    "again"
                ) from error
            last = end
        return last

    def _frames(self) -> Iterator[tuple[np.ndarray, memoryview, int]]:
        """Records and packed counts of every whole frame of the log, and where it ends."""
        path = None if self.folder is None else self.folder / "blocks.log"
        if path is None or not path.exists() or path.stat().st_size == 0:
            return
        # Mapped, not read: a log of histograms may be larger than memory.
        view, position = memoryview(np.memmap(path, np.uint8, "r")), 0  # type: ignore[arg-type]
        while (end := _frame_end(view, position)) is not None:
            _, n_records, payload = _FRAME.unpack_from(view, position)
            first = position + _FRAME.size
            last = first + n_records * RECORD.itemsize
            yield np.frombuffer(view[first:last], RECORD), view[last : last + payload], end
            position = end

    def _accept(self, records: np.ndarray, counts: Counts) -> None:
        numbers = records["number"]
        if numbers.size and (int(numbers.max()) >= self.done.size or self.done[numbers.astype(np.intp)].any()):
            raise IntegrityError(
                f"the log of blocks in {self.folder} records a block twice or one that does not exist: "
                "the ledger was changed by hand or by two runs; remove the output and run again"
            )
        numbers = numbers.astype(np.intp)
        self.done[numbers] = True
        self.checksums[numbers] = records["checksum"]
        self.seconds = self.seconds + records["seconds"].sum(axis=0, dtype=np.float64)
        self.retries += int((records["attempts"].astype(np.int64) - 1).sum())
        self.counts = add_counts(self.counts, counts)


def read_plan(folder: Path) -> dict[str, Any]:
    """Return the plan a ledger belongs to.

    Raises
    ------
    IntegrityError
        If there is none that can be read.
    """
    plan = read_json(folder / "plan.json", "record of a run", "remove the output and run again", IntegrityError)
    n_blocks, step = plan.get("n_blocks"), plan.get("step")
    if not isinstance(n_blocks, int) or not 0 <= n_blocks <= MAX_BLOCKS or not isinstance(step, list | dict):
        raise IntegrityError(
            f"{folder} holds no readable record of a run: n_blocks is {str(n_blocks)[:40]} and step {str(step)[:40]}, but must be a "
            f"number up to {MAX_BLOCKS} and names; remove the output and run again"
        )
    return plan


def refuse_other_plan(folder: Path, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `PlanError` with what differs, if `recorded` and `wanted` are not the same plan."""
    old, new = _flat(recorded), _flat(wanted)
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    if changed:
        lines = [f"  {key}: was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in changed[:4]]
        lines += [f"  and {len(changed) - 4} more"] if len(changed) > 4 else []
        raise PlanError(
            f"{output_of(folder)} was begun with another plan, and results of two plans must not mix:\n"
            + "\n".join(lines)
            + "\ngive another output, or remove this one (--overwrite)"
        )


def take_lease(folder: Path) -> None:
    """Make this process the only one that runs on an output.

    Raises
    ------
    PlanError
        If another living run holds the lease; the message names its owner and age.
    """
    path = folder / "lease.json"
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            owner = lease_owner(folder)
            if owner is not None:
                raise PlanError(
                    f"{output_of(folder)} is being written by {owner}: wait for it to end, or stop it first"
                ) from None
            with suppress(FileNotFoundError):
                path.unlink()
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "started": time.time()}, file)
        return
    raise PlanError(f"{output_of(folder)} is being taken by another run at this moment: wait for it to end")


def renew_lease(folder: Path) -> None:
    """Show that the run is alive."""
    with suppress(FileNotFoundError):
        os.utime(folder / "lease.json")


def drop_lease(folder: Path) -> None:
    """Give the output free."""
    with suppress(FileNotFoundError):
        (folder / "lease.json").unlink()


def lease_owner(folder: Path) -> str | None:
    """Who runs on an output now, in words; None if nobody does."""
    path = folder / "lease.json"
    try:
        age = time.time() - path.stat().st_mtime
        lease = json.loads(path.read_text() or "{}")
        process = lease.get("process", -1)
        gone = lease.get("host") == socket.gethostname() and not psutil.pid_exists(process)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # nobody writes such a lease
    if gone or age > LEASE_SECONDS:
        return None
    return f"process {process} on {lease.get('host')} (last sign of life {age:.0f} s ago)"


def output_of(folder: Path) -> Path:
    """Output that a ledger belongs to: the volume it lies in, or the record itself."""
    return folder.parents[1] if folder.name == FOLDER else folder


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def checksum(values: np.ndarray) -> int:
    """64-bit checksum of a block's values."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(values).data)


def new_records(folder: Path, start: int) -> tuple[np.ndarray, int]:
    """Records that the log of blocks holds from byte `start` on, and where its last whole frame ends.

    For those who follow a run: counts are not unpacked, and what was read before is not read again.
    """
    found, position = [np.zeros(0, RECORD)], start
    with (folder / "blocks.log").open("rb") as file:
        if file.seek(0, os.SEEK_END) <= start:
            return found[0], start
        view = memoryview(np.memmap(file, np.uint8, "r"))  # type: ignore[arg-type]
        while (end := _frame_end(view, position)) is not None:
            _, n_records, _ = _FRAME.unpack_from(view, position)
            first = position + _FRAME.size
            found.append(np.frombuffer(view[first : first + n_records * RECORD.itemsize], RECORD).copy())
            position = end
    return np.concatenate(found), position


def _frame_end(view: memoryview, position: int) -> int | None:
    """Where the frame at `position` ends, or None if it is not whole."""
    if position + _FRAME.size > len(view):
        return None
    magic, n_records, payload = _FRAME.unpack_from(view, position)
    end = position + _FRAME.size + n_records * RECORD.itemsize + payload
    if magic != _MAGIC or end + 4 > len(view):
        return None
    (expected,) = struct.unpack_from("<I", view, end)
    return end + 4 if zlib.crc32(view[position:end]) == expected else None


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {
            k: v
            for name, item in value.items()
            for k, v in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: json.dumps(value)}
