"""The errors a user can meet, each with the exit code of the command line.

A message names the thing, the value, the rule, and the way out, in at most eight lines.
"""

from __future__ import annotations

import re
import traceback

TRACEBACK_CHARACTERS = 10_000
"""Kept of a traceback, from its end: what was raised stands there."""
# What would move the cursor of a terminal or turn its lines around.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class InputError(ValueError):
    """The data given cannot be used: missing, damaged, or in disagreement with other data."""

    exit_code = 3


class PlanError(ValueError):
    """The work asked for cannot be done here: memory, disk, alignment, or an output that is in the way."""

    exit_code = 4


class IntegrityError(RuntimeError):
    """What is stored is not what was written."""

    exit_code = 7


class NotStored(IntegrityError):
    """Voxels of our own that are nowhere: lost, or in a volume that is not finished not computed yet."""


class Interrupted(RuntimeError):
    """The run was stopped from outside; what is done is recorded and the same call goes on from there."""

    exit_code = 6


class BlocksFailed(RuntimeError):
    """Some blocks failed after every retry while all others finished, or none did and the others were not begun.

    Attributes
    ----------
    failures : dict[int, str]
        First error by block number.
    """

    exit_code = 5

    def __init__(self, failures: dict[int, str], where: dict[int, str], not_begun: int = 0) -> None:
        self.failures = failures
        first = min(failures)
        others = f"so the other {not_begun} were not begun" if not_begun else "all others are done"
        super().__init__(
            f"{len(failures)} block{'s' if len(failures) > 1 else ''} failed, {others}: "
            f"{', '.join(where[n] for n in sorted(failures)[:4])}{' ...' if len(failures) > 4 else ''}\n"
            f"first error, in {where[first]}: {failures[first]}\n"
            f"mend the cause and give the same command again: it computes only {'what is not done' if not_begun else 'these blocks'}"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return RuntimeError, (str(self),)


class BlockTraceback(Exception):
    """Where the function of a block raised, as text from the worker; it is the cause of `BlocksFailed`."""


def describe(error: BaseException) -> str:
    """One line for the record of a failed block: type, message, and the line of code that raised."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return _plain(f"{type(error).__name__}: {error}{place}")


def traceback_text(error: BaseException) -> str:
    """Traceback of an error as text for people: bounded, and without characters that a terminal would obey."""
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    cut = "" if len(text) <= TRACEBACK_CHARACTERS else "...\n"
    return _plain(cut + text[-TRACEBACK_CHARACTERS:])


def _plain(text: str) -> str:
    return _CONTROLS.sub("\ufffd", text)
