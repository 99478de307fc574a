"""What a worker does: read blocks, compute them, write them, and tell what came out."""

from __future__ import annotations

import errno
import pickle
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np

from tomoscale.allocator import return_freed_blocks
from tomoscale.arrays import to_device, to_host
from tomoscale.checksums import checksum
from tomoscale.errors import InputError, IntegrityError, PlanError, describe, traceback_text
from tomoscale.frames import RECORD
from tomoscale.geometry import Block, shift
from tomoscale.plan import Plan
from tomoscale.retries import retried
from tomoscale.step import Counts, Kernel, Measure, add_counts

FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the target that every other block would meet too."""


@dataclass
class Outcome:
    """What a task brings back: records of its finished blocks, the sum of their counts, errors of the others.

    `tracebacks` holds that of the first error alone: a block that fails for good is at last a task of its own.
    """

    records: np.ndarray
    counts: Counts
    errors: dict[int, str] = field(default_factory=dict)
    tracebacks: dict[int, str] = field(default_factory=dict)
    stop: Exception | None = None

    def note_error(self, number: int, error: Exception) -> None:
        """Take in what the function of a block raised."""
        if not self.errors:
            self.tracebacks[number] = traceback_text(error)
        self.errors[number] = describe(error)


def run_blocks(message: bytes | Plan, numbers: list[int]) -> Outcome:
    """Compute blocks after each other, on a worker or in a thread."""
    plan = load_plan(message) if isinstance(message, bytes) else message
    outcome = Outcome(np.zeros(0, RECORD), {})
    records = []
    for number in numbers:
        try:
            record, counts = run_block(plan, plan.block(number))
        except InputError as error:
            outcome.stop = InputError(_naming_sources(plan, str(error)))
            break
        except (IntegrityError, PlanError) as error:
            outcome.stop = error
            break
        except OSError as error:
            if error.errno in FATAL:
                outcome.stop = PlanError(
                    f"{_written(plan)} cannot be written: {error.strerror or error}; finished blocks are kept, mend this and go on"
                )
                break
            outcome.note_error(number, error)
        except Exception as error:
            outcome.note_error(number, error)
        else:
            records.append(record)
            outcome.counts = add_counts(outcome.counts, counts)
    outcome.records = np.array(records, RECORD)
    return outcome


def rehearse(message: bytes | Plan, numbers: list[int]) -> None:
    """Compute blocks and write nothing: whether the worker lives through it is all that matters."""
    plan = load_plan(message) if isinstance(message, bytes) else message
    for number in numbers:
        with suppress(Exception):
            compute_block(plan, plan.block(number))


def run_block(plan: Plan, block: Block) -> tuple[tuple[Any, ...], Counts]:
    """Read, compute, write one block; return its record and its counts."""
    result, counts, seconds = compute_block(plan, block)
    computed = time.perf_counter()
    digest = 0
    if result is not None:
        assert plan.target is not None
        retried(partial(plan.target.write, block.write, result))
        digest = checksum(result)
    return (block.number, digest, 1, (*seconds, time.perf_counter() - computed)), counts


def compute_block(plan: Plan, block: Block) -> tuple[np.ndarray | None, Counts, tuple[float, float]]:
    """Read and compute one block; return its voxels, None for measures, its counts, and the seconds of each."""
    return_freed_blocks()
    started = time.perf_counter()
    values = {name: retried(partial(volume.read, block.read)) for name, volume in plan.sources.items()}
    read = time.perf_counter()
    result = None
    with compute_slot(plan.resources.slots):
        waited = time.perf_counter()
        device_values = {name: to_device(v, plan.resources.device) for name, v in values.items()}
        del values
        if isinstance(plan.step, Kernel):
            first, *more = (device_values[name] for name in plan.step.inputs)
            values_of_block, found = plan.step.apply_counting(first, block, *more)
            result = np.ascontiguousarray(to_host(values_of_block))
            counts: Counts = {name: np.asarray(to_host(v)) for name, v in found.items()}
            del first, more, values_of_block
        else:
            counts = count(plan.step, device_values, plan, block)
        del device_values
    return result, counts, (read - started, time.perf_counter() - waited)


def count(measures: tuple[Measure, ...], values: dict[str, Any], plan: Plan, block: Block) -> Counts:
    """Counts of all measures on one block, by ``measure/name``; each sees just the margin it asked for."""
    total: Counts = {}
    for measure in measures:
        own = measure.block(plan.grid, block.number)
        view = shift(own.read, tuple(-r.start for r in block.read))
        counts = measure.count(*(values[name][view] for name in measure.inputs), block=own)
        total.update({f"{measure.name}/{name}": v for name, v in counts.items()})
    return total


def combine(outcomes: list[Outcome]) -> Outcome:
    """Add what several tasks brought back, on a worker, so that large counts travel once."""
    total = Outcome(np.concatenate([o.records for o in outcomes]), {})
    for outcome in outcomes:
        total.counts = add_counts(total.counts, outcome.counts)
        total.errors.update(outcome.errors)
        total.tracebacks.update(outcome.tracebacks)
        total.stop = total.stop or outcome.stop
    return total


@lru_cache(maxsize=4)
def load_plan(message: bytes) -> Plan:
    """Unpickle a plan the driver of this run sent; once per process, not once per task."""
    plan = pickle.loads(message)
    assert isinstance(plan, Plan)
    return plan


@lru_cache(maxsize=8)
def compute_slot(slots: int) -> threading.Semaphore:
    """Let `slots` blocks compute at once in this process while others are read or written."""
    return threading.Semaphore(slots)


def _naming_sources(plan: Plan, text: str) -> str:
    """Put the sources before a message that names none of them: a kernel sees voxels and no file."""
    names = [volume.name for volume in plan.sources.values()]
    return text if any(name in text for name in names) else f"{', '.join(names)}: {text}"


def _written(plan: Plan) -> str:
    return plan.target.name if plan.target is not None else str(plan.record)
