"""What became of the tries of each block, and how it is tried next: beside all others, beside few, alone, or not again.

A block whose function raises is tried three times, the last time alone. A worker that dies says nothing of its blocks:
it may have been preempted, or a neighbour took its memory. So a death never counts as a try:

.. code-block:: text

    first death     the blocks of the task go back, each as a task of its own, and are tried beside all others
    second death    the block waits until everything else is done, so that no neighbour suffers from it; then it is tried
                    beside ever fewer that wait as it does, an eighth as many after each death, and at last alone
    more deaths     it died alone, again and again, while others that were tried alone at the same time lived
                    (`tomoscale.blame`): it is set aside, with its place and its first error

Companies are there for thousands of workers that are preempted at one moment, twice: none of their blocks is to blame,
and one by one they would take hours. On a few workers a block is tried alone at once.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from tomoscale.blame import Blame

ATTEMPTS = 3
"""Times a block is tried before it is set aside; the last time alone, as memory may have been short,"""
ALONE_IN_VAIN = 8
"""unless that has not helped so many blocks before it."""
DEATHS = 2
"""Workers that may die of a block among all others."""
COMPANY = 8
"""Of the tasks in flight, that part of suspects is tried together, and that part of it after each further death."""
CONTROL_SHARE = 2 / 3
"""Of tries alone, while controls are due."""


@dataclass(frozen=True)
class Task:
    """Blocks in flight, and whether nothing else is.

    `combined` adds what former tasks left on the workers; a `control` is tried alone to see whether its worker lives.
    """

    numbers: tuple[int, ...]
    combined: bool = False
    alone: bool = False
    control: bool = False


@dataclass
class Tries:
    """Blocks that were tried in vain.

    Attributes
    ----------
    again : deque of int
        To be tried beside others.
    suspects : deque of int
        To be tried when nothing else is in flight.
    failures : dict of str
        Blocks that are set aside, and the first error of each.
    traceback : (int, str) or None
        The first of those that raised, and the traceback of its last try.
    raised, deaths : Counter of int
        How often each block's function raised, and workers died of it.
    hung : set of int
        Blocks whose worker was ended as they took too long.
    blame : Blame
        What is held against blocks that were tried alone.
    """

    again: deque[int] = field(default_factory=deque)
    suspects: deque[int] = field(default_factory=deque)
    failures: dict[int, str] = field(default_factory=dict)
    traceback: tuple[int, str] | None = None
    errors: dict[int, str] = field(default_factory=dict)
    raised: Counter[int] = field(default_factory=Counter)
    deaths: Counter[int] = field(default_factory=Counter)
    hung: set[int] = field(default_factory=set)
    blame: Blame = field(default_factory=Blame)
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    alone_in_vain: int = 0

    def company(self, in_flight: int) -> list[int]:
        """Take suspects that are to be tried together; none where one is to be tried alone.

        Parameters
        ----------
        in_flight : int
            Tasks that the workers take at a time.
        """
        # Those that only raised want to be alone, and of those that hang there is no doubt.
        able = [number for number in self.suspects if self.deaths[number] and number not in self.hung]
        fewest = min((self.deaths[number] for number in able), default=0)
        most = in_flight // COMPANY ** max(1, fewest - DEATHS + 1)
        found = [number for number in able if self.deaths[number] == fewest][:most]
        if len(found) < 2:
            return []
        taken = set(found)
        self.suspects = deque(number for number in self.suspects if number not in taken)
        return found

    def next_alone(self) -> int | None:
        """Take the suspect that is to be tried alone, and set aside those that are guilty; None for a control, or at the end."""
        while self.suspects:
            if self.blame.due and self.chance.random() < CONTROL_SHARE:
                break
            number = self.suspects.popleft()
            if not self.blame.guilty(number):
                return number
            self.failures[number] = self.errors[number]
            self.blame.forget(number)
        return None

    def after_error(self, number: int, text: str, traceback: str = "") -> None:
        """Try a block again whose function raised, at last alone, or set it aside."""
        if not self.raised[number]:
            self.errors[number] = text
        self.raised[number] += 1
        last = self.raised[number] == ATTEMPTS - 1 and self.alone_in_vain < ALONE_IN_VAIN
        if self.raised[number] < ATTEMPTS:
            (self.suspects if last else self.again).append(number)
        else:
            self.failures[number] = self.errors[number]
            if traceback and (self.traceback is None or number < self.traceback[0]):
                self.traceback = number, traceback

    def after_alone(self, raised: bool) -> None:
        """Let blocks that only raised be tried beside others where being alone has helped none of them."""
        self.alone_in_vain = self.alone_in_vain + 1 if raised else 0
        if self.alone_in_vain == ALONE_IN_VAIN:
            self.again.extend(number for number in self.suspects if not self.deaths[number])
            self.suspects = deque(number for number in self.suspects if self.deaths[number])

    def after_life(self, task: Task) -> None:
        """Note that a worker lived through a task, whatever it brought."""
        if task.alone:
            self.blame.lived_through(None if task.control else task.numbers[0])

    def after_death(self, task: Task, text: str) -> None:
        """Try the blocks again of which a worker died."""
        if task.control:
            self.blame.died_of(None)
            return
        for number in task.numbers:
            self.deaths[number] += 1
            if task.alone:
                self.errors.setdefault(number, text)
                self.blame.died_of(number)
            (self.again if self.deaths[number] < DEATHS else self.suspects).append(number)

    def after_hanging(self, task: Task, limit_seconds: float) -> None:
        """Note that the worker of a task is ended, which will be told as its death."""
        self.hung.update(task.numbers)
        if task.alone and not task.control:
            self.errors.setdefault(task.numbers[0], f"it took longer than {limit_seconds:.0f} s")

    def innocent(self, numbers: Iterable[int]) -> None:
        """Try blocks again whose task was lost by no fault of theirs."""
        self.again.extend(numbers)
