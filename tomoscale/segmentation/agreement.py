"""What a faster way to run a network costs, measured on samples of the volume: labels that differ, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tomoscale.arrays import Array, to_device, to_host
from tomoscale.errors import PlanError
from tomoscale.geometry import Block, Grid, Shape
from tomoscale.resources import PROCESS_BYTES, this_machine
from tomoscale.segmentation.task import Task
from tomoscale.step import Counts
from tomoscale.words import shape_text, size
from tomoscale.work import Work

SAMPLES = 8
"""Tiles or windows that are compared, evenly spread over the volume."""


@dataclass
class Difference:
    """How two ways to label the same voxels differ.

    Attributes
    ----------
    voxels : int
        Compared.
    differing : int
        With another label.
    largest : float
        Difference of the probabilities of a class.
    """

    voxels: int = 0
    differing: int = 0
    largest: float = 0.0

    def add(self, one: Answer, other: Answer) -> None:
        """Compare two answers for one sample."""
        self.voxels += one.labels.size
        self.differing += int((one.labels != other.labels).sum())
        self.largest = max(self.largest, float(np.abs(one.shares - other.shares).max()))

    @property
    def share(self) -> float:
        """Of voxels with another label, 0 to 1."""
        return self.differing / max(1, self.voxels)

    def describe(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "samples_voxels": self.voxels,
            "differing_voxels": self.differing,
            "agreement": 1 - self.share,
            "largest_probability_difference": self.largest,
        }


@dataclass(frozen=True)
class Answer:
    """Labels (z, y, x) and probabilities (classes, z, y, x) of a sample."""

    labels: np.ndarray
    shares: np.ndarray


def samples(shape: Shape, cell: Shape, count: int = SAMPLES) -> Iterator[int]:
    """Numbers of cells of a grid, at most `count`, evenly spread and the same for every run."""
    total = len(Grid(shape, cell))
    yield from sorted({(2 * i + 1) * total // (2 * min(count, total)) for i in range(min(count, total))})


def answer(task: Task, number: int, device: str) -> Answer:
    """Label one sample of a volume in this process."""
    caught = _Caught()
    kernel = replace(task, output="labels").kernel(sink=caught)
    block = kernel.block(Grid(task.volume.shape, task.cell), number, task.volume.shape)
    labels = to_host(kernel.apply(to_device(task.volume.read(block.read), device), block))
    return Answer(labels, caught.shares)


def measured_agreement(task: Task, reference: Task, work: Work, count: int = SAMPLES) -> dict[str, Any]:
    """Compare two ways to run a network on samples of the volume; JSON values, see `Difference`.

    Raises
    ------
    PlanError
        If a sample does not fit this process, see `within_memory`.
    """
    difference = Difference()
    task, reference = within_memory(task, work), within_memory(reference, work)
    device = sample_device(work)
    for number in samples(task.volume.shape, task.cell, count):
        host_only = task.runtime.backend != "torch"
        difference.add(answer(reference, number, device), answer(task, number, "cpu" if host_only else device))
    return difference.describe()


def within_memory(task: Task, work: Work) -> Task:
    """Task whose samples fit the memory of this process: as it is, else with one window at once, which changes no bit.

    Raises
    ------
    PlanError
        If one window does not fit either.
    """
    # Samples are computed here, whatever the workers have.
    available = (work.available() if work.client is None else this_machine()).memory_bytes
    one = replace(task, runtime=replace(task.runtime, at_once=1))
    chosen = next((t for t in (task, one) if sample_bytes(t) <= available), None)
    if chosen is None:
        raise PlanError(
            f"a sample of {shape_text(task.cell)} voxels, on which it is measured what tolerance, backend or precision change, needs "
            f"{size(sample_bytes(one))} but this process has {size(available)}: give more memory, or leave them out"
        )
    return chosen


def sample_bytes(task: Task) -> int:
    """Memory of a process that labels a sample and compares it with another answer."""
    kernel = replace(task, output="labels").kernel(sink=_Caught())
    axes = zip(task.cell, kernel.halo.before, kernel.halo.after, task.volume.shape, strict=True)
    read = math.prod(min(c + before + after, n) for c, before, after, n in axes)
    # Of both answers the labels and the probabilities, and the differences of these.
    answers = math.prod(task.cell) * (2 + 4 * 3 * len(task.bundle.classes))
    return int(
        PROCESS_BYTES + kernel.fixed_bytes + read * (task.volume.dtype.itemsize + kernel.bytes_per_voxel) + answers
    )


def sample_device(work: Work) -> str:
    """Where samples are computed: in this process, on its GPU if the run is in this process and has one."""
    return work.available().device if work.client is None else "cpu"


class _Caught:
    """Sink that holds the probabilities of one block."""

    shares: np.ndarray

    def __call__(self, block: Block, shares: Array) -> Counts:
        self.shares = np.array(to_host(shares))
        return {}
