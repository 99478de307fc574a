"""Which blocks of a run are done, with their checksums and counts.

A ledger is a folder beside what the run makes:

``plan.json``
    What is computed, of what, on which grid. A run with another plan is refused with the difference.
``blocks.log``
    Frames appended by the driver alone: the records of some finished blocks, the sum of their counts, a CRC. A frame
    that a crash cut off is dropped when the ledger is opened, and its blocks are computed again. Existence of a chunk
    proves nothing: a chunk that was never written reads as zeros. In a bucket frames are objects
    (`tomoscale.block_log`).
``failures.json``
    First error of every block that was set aside.
``sealed.json``
    Of a measure whose blocks are all done: digests of its plan and its counts. Of a volume they are in its metadata.
``lease.000001.json``
    Who runs now (`tomoscale.lease`); a second run on the same output is refused while the lease is fresh.
``progress.jsonl``
    One line a second: blocks done, seconds of reading, computing and writing; in a bucket the last line alone.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tomoscale.block_log import counting, has_begun, log_of
from tomoscale.bucket_conditions import refuse_unconditional
from tomoscale.bucket_path import BucketPath
from tomoscale.errors import IntegrityError, PlanError
from tomoscale.frames import BATCH_BYTES, RECORD, Frame
from tomoscale.json_files import read_json
from tomoscale.lease import FOLDER, Lease, take_lease
from tomoscale.log_part import Part
from tomoscale.packed_counts import pack_counts, unpack_counts
from tomoscale.places import Place, replace_text, write_first
from tomoscale.plan_record import as_recorded, read_plan, refuse_other_plan
from tomoscale.retries import retried
from tomoscale.step import Counts, add_counts

PROBABILITIES = "probabilities"
"""Name of the checksums, among the counts of a run, of the volumes per class that it fills beside its target; and of the
parameter that says where they are."""


@dataclass
class Ledger:
    """The open ledger of one run; only the driver writes it.

    Attributes
    ----------
    folder : Path, BucketPath or None
        None keeps the ledger in memory.
    checksums : (n_blocks,) uint64 array
        Of each finished block's values.
    done : (n_blocks,) bool array
    counts : dict of integer arrays
        Sum over the finished blocks.
    seconds : (3,) float array
        Spent reading, computing and writing, summed over blocks.
    lease : Lease or None
        None where the ledger was opened for reading, or is in memory.
    part : Part or None
        What this run adds to the log.
    """

    folder: Place | None
    done: np.ndarray
    checksums: np.ndarray
    counts: Counts
    seconds: np.ndarray
    retries: int = 0
    lease: Lease | None = None
    part: Part | None = None

    @classmethod
    def in_memory(cls, n_blocks: int) -> Ledger:
        """Return a ledger that is gone with the process."""
        return cls(None, np.zeros(n_blocks, bool), np.zeros(n_blocks, "<u8"), {}, np.zeros(3))

    @classmethod
    def load(cls, folder: Place) -> Ledger:
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
    def start(cls, folder: Place, description: Mapping[str, Any], n_blocks: int) -> Ledger:
        """Open the ledger of this plan for writing, made anew if there is none, and take the lease.

        Raises
        ------
        PlanError
            If blocks of another plan are done (the message shows what differs), another run holds the lease, or a
            bucket's server does not put objects under conditions.
        """
        plan = as_recorded(description, n_blocks)
        if isinstance(folder, BucketPath):
            refuse_unconditional(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "plan.json"
        if path.exists():
            _refuse_mixture(folder, read_plan(folder), plan)
        lease = take_lease(folder)
        try:
            for leftover in folder.glob(".*.json.*.partial") if isinstance(folder, Path) else ():
                leftover.unlink(missing_ok=True)
            text = json.dumps(plan, indent=1, sort_keys=True)
            if path.exists() or not retried(lambda: write_first(path, text)):
                # Again, now that nobody else writes it.
                recorded = read_plan(folder)
                _refuse_mixture(folder, recorded, plan)
                if recorded != plan:  # a function was mended, or no block was done
                    retried(lambda: replace_text(path, text))
            ledger = cls.in_memory(n_blocks)
            ledger.folder, ledger.lease = folder, lease
            ledger.part = Part(log_of(folder))
            # Opened before it is read: what a run that slept adds from now on counts for nothing.
            ledger.part.begin()
            lease.renew()
            ledger._read_frames()
            if not ledger.done.all():
                (folder / "sealed.json").unlink(missing_ok=True)
        except BaseException:
            lease.drop()
            raise
        return ledger

    def append(self, records: np.ndarray, counts: Counts) -> None:
        """Record finished blocks and the sum of their counts, in one frame; in a bucket with others, a little later.

        Raises
        ------
        PlanError
            If the frame cannot be written; nothing of it is kept.
        Interrupted
            If another run has taken over.
        """
        self.renew()
        if self.part is not None:
            self.part.add(records, counts)
            self._write()
        self._accept(records, counts)

    def renew(self) -> None:
        """Show that the run is alive, and raise `Interrupted` if another has taken over."""
        if self.lease is not None:
            self.lease.renew()
        self._write()

    def release(self) -> None:
        """Give the output free."""
        if self.lease is not None:
            self.lease.drop()

    def close(self, failures: Mapping[int, str]) -> None:
        """Put the ledger on disk, with the blocks that failed for good and their first error.

        Raises
        ------
        PlanError
            If it cannot be written.
        """
        if self.folder is None:
            return
        self._write(due=True)
        folder, text = self.folder, json.dumps({str(k): v for k, v in sorted(failures.items())}, indent=1)
        try:
            retried(lambda: replace_text(folder / "failures.json", text))
            retried(log_of(folder).sync)
        except OSError as error:
            raise unwritten(folder, error) from error

    def seal(self) -> None:
        """Write down that a measure is finished, so that `sealed` finds whatever of its record is changed afterwards."""
        if self.folder is not None:
            path, text = self.folder / "sealed.json", json.dumps(self._seal(), indent=1)
            retried(lambda: replace_text(path, text))

    def sealed(self) -> bool:
        """Whether a measure was finished.

        Raises
        ------
        IntegrityError
            If its record is not what it was then.
        """
        path = None if self.folder is None else self.folder / "sealed.json"
        if path is None or not path.exists():
            return False
        recorded = read_json(path, "seal of a run", "remove the output and run again", IntegrityError)
        changed = [name for name, digest in self._seal().items() if recorded.get(name) != digest]
        if changed:
            raise IntegrityError(
                f"the record of {self.folder} was changed after the run ({', '.join(changed)}): remove it and run its command again"
            )
        return True

    def _seal(self) -> dict[str, str]:
        assert self.folder is not None
        plan = json.dumps(read_plan(self.folder), sort_keys=True)
        return {
            "plan": xxhash.xxh3_128_hexdigest(plan.encode()),
            "blocks": self.content(),
            "done": xxhash.xxh3_128_hexdigest(np.packbits(self.done).tobytes()),
            "counts": xxhash.xxh3_128_hexdigest(pack_counts(self.counts)),
        }

    def _write(self, due: bool = False) -> None:
        """Write what is finished to the log, if it is time to."""
        if self.part is None or not (due or self.part.due):
            return
        try:
            retried(self.part.write)
        except OSError as error:
            assert self.folder is not None
            raise unwritten(self.folder, error) from error

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
        return np.concatenate([np.zeros(0, RECORD), *(frame.records for frame in self._frames())])

    def content(self) -> str:
        """Digest of all blocks' checksums in order: equal for equal results on one grid."""
        return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(self.checksums).tobytes())

    def _frames(self) -> Iterator[Frame]:
        return iter(()) if self.folder is None else counting(log_of(self.folder).frames())

    def _read_frames(self) -> None:
        counts, batch = dict[str, np.ndarray](), bytearray()
        for frame in self._frames():
            self._add(counts, frame.counts)
            # Many frames hold one block each: they are taken in together, and never all at once.
            batch += frame.records.tobytes()
            if len(batch) >= BATCH_BYTES:
                self._accept(np.frombuffer(bytes(batch), RECORD), {})
                batch.clear()
        self._accept(np.frombuffer(bytes(batch), RECORD), counts)

    def _add(self, counts: Counts, payload: memoryview) -> None:
        """Add packed counts to others, in place."""
        try:
            for name, values in unpack_counts(payload).items():
                if name in counts:
                    counts[name] += values
                else:
                    counts[name] = values
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

    def _accept(self, records: np.ndarray, counts: Counts) -> None:
        numbers = records["number"]
        twice = numbers.size > 1 and np.unique(numbers).size < numbers.size
        beyond = numbers.size and int(numbers.max()) >= self.done.size
        if numbers.size and (twice or beyond or self.done[numbers.astype(np.intp)].any()):
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


def unwritten(path: Place, error: OSError) -> PlanError:
    """What to raise where a record cannot be written."""
    return PlanError(
        f"{path} cannot be written: {error.strerror or error}; finished blocks are kept, mend this and go on"
    )


def _refuse_mixture(folder: Place, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # What is around a ledger in a volume was made for its plan, even while no block is done.
    if folder.name == FOLDER or has_begun(folder):
        refuse_other_plan(folder, recorded, wanted)
