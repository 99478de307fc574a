"""Whether a worker that died died of its block: what can be decided, and how.

A death says nothing by itself. The worker may have been preempted, its node may be broken, a neighbour may have taken
its memory, and a machine may lose workers whatever they compute. Of two blocks that ran beside each other nobody can
tell which one killed. So a block is judged by what happens while it is the only one that runs, and by what happens to
others that are tried alone at the same time:

- other suspects, each of which is innocent once its worker has lived through it,
- *controls*: blocks that were computed before, computed again with nothing written; where none was, an empty task.

Chance decides whether a suspect or a control is tried next, so deaths that come in turns (a node in two that is broken,
a leak that ends every third worker) meet both alike. ``rate`` is how often the others died since the block first did;
one death and one survival are added, so a few happy tries do not pass for certainty. The block is guilty when
``rate ** deaths`` is below `CHANCE`: an innocent block would hardly have died that often.

Decided so: a block that always kills, among workers that now and then live. Not decided, and not blamed: a block that
kills now and then, as it is done once a worker lives through it; and any block where workers die of everything, which
ends the run instead (`Blame.hopeless`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

DEATHS_ALONE = 3
"""Workers that must have died of a block alone, at the least, before it is set aside."""
CHANCE = 1e-4
"""That a block is set aside of which workers died by accident each time."""
CONTROLS_PER_DEATH = 2
MOST_CONTROLS = 9
"""Due at a time."""
HOPELESS_DEATHS = 20
"""Deaths in a row of blocks tried alone, of controls half of them, after which nothing is expected of these workers."""


@dataclass
class Blame:
    """What became of blocks that were tried alone.

    Attributes
    ----------
    lived, died : int
        Tries of innocent blocks and controls; deaths of a block count here once a worker has lived through it.
    deaths : Counter of int
        Of each suspect, alone.
    before : dict of (int, int)
        `lived` and `died` when a suspect's first worker died.
    in_a_row, controls_in_a_row : int
        Deaths since a worker last lived through a try.
    due : int
        Controls to be tried.
    """

    lived: int = 0
    died: int = 0
    deaths: Counter[int] = field(default_factory=Counter)
    before: dict[int, tuple[int, int]] = field(default_factory=dict)
    in_a_row: int = 0
    controls_in_a_row: int = 0
    due: int = 0

    def lived_through(self, number: int | None) -> None:
        """A worker lived through a block, or through a control (None)."""
        self.in_a_row = self.controls_in_a_row = 0
        self.lived += 1
        if number is None:
            self.due = max(0, self.due - 1)
        else:
            self.died += self.forget(number)

    def died_of(self, number: int | None) -> None:
        """A worker died of a block, or of a control (None)."""
        self.in_a_row += 1
        if number is None:
            self.died += 1
            self.controls_in_a_row += 1
            return
        self.before.setdefault(number, (self.lived, self.died))
        self.deaths[number] += 1
        if self.rate(number) ** (self.deaths[number] + 1) >= CHANCE:
            self.due = min(self.due + CONTROLS_PER_DEATH, MOST_CONTROLS)

    def forget(self, number: int) -> int:
        """Drop what is held against a block; return how often workers died of it."""
        self.before.pop(number, None)
        return self.deaths.pop(number, 0)

    def rate(self, number: int) -> float:
        """How often workers die of others that are tried alone, since they began to die of this one."""
        lived, died = self.before.get(number, (self.lived, self.died))
        return (self.died - died + 1) / (self.lived - lived + self.died - died + 2)

    def guilty(self, number: int) -> bool:
        """Whether a block is to be set aside."""
        deaths, lived = self.deaths[number], self.lived - self.before.get(number, (self.lived, 0))[0]
        return deaths >= DEATHS_ALONE and lived > 0 and self.rate(number) ** deaths < CHANCE

    @property
    def hopeless(self) -> bool:
        """Whether workers die whatever they compute."""
        return self.in_a_row >= HOPELESS_DEATHS and 2 * self.controls_in_a_row >= HOPELESS_DEATHS
