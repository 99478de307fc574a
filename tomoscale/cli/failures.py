"""What a user is told when something fails: one message, a hint, and an exit code by kind; never a traceback."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tomoscale.cli.command import UsageError
from tomoscale.cli.results import printable
from tomoscale.errors import BlocksFailed, InputError, IntegrityError, Interrupted, PlanError

MAX_LINES = 8
MAX_LINE = 700


@dataclass(frozen=True)
class Kind:
    """A kind of failure, with its exit code; both are stable.

    Attributes
    ----------
    code : int
    name : str
        For programs that read the error as JSON.
    meaning : str
    hint : str
        What helps in general.
    """

    code: int
    name: str
    meaning: str
    hint: str


KINDS: Mapping[int, Kind] = {
    kind.code: kind
    for kind in (
        Kind(0, "done", "done", ""),
        Kind(
            1,
            "fault",
            "a fault of tomoscale itself",
            "please report it with the command and the lines above; what was finished is kept",
        ),
        Kind(
            2,
            "usage",
            "the command line or the configuration is wrong",
            "`tomoscale COMMAND --help` shows every option and an example",
        ),
        Kind(3, "input", "the data cannot be used", "`tomoscale info PATH` shows what a file holds"),
        Kind(
            4,
            "plan",
            "not possible here: memory, disk, permission, or an output in the way",
            "--plan shows what would be read, held and written",
        ),
        Kind(
            5,
            "blocks",
            "some blocks failed after every retry; all others are done, the same command goes on",
            "mend the cause and give the same command again: it computes only the failed blocks",
        ),
        Kind(6, "interrupted", "interrupted; the same command goes on", "give the same command again"),
        Kind(
            7,
            "integrity",
            "what is stored is not what was written",
            "`tomoscale verify PATH` names the damaged blocks; remove the volume and make it again",
        ),
    )
}

EXIT_CODES = "exit codes\n" + "\n".join(f"  {kind.code}  {kind.meaning}" for kind in KINDS.values())


@dataclass(frozen=True)
class Failure:
    """A failure as it is told: to people on stderr, to programs as JSON on stdout."""

    kind: Kind
    message: str
    hint: str

    def tell(self, as_json: bool) -> int:
        """Print it; return the exit code."""
        hint = f"\n  {self.hint}" if self.kind.name == "usage" else ""
        print(printable(f"tomoscale: {self.message}{hint}"), file=sys.stderr, flush=True)
        if as_json:
            error = {"code": self.kind.code, "kind": self.kind.name, "message": self.message, "hint": self.hint}
            print(json.dumps({"error": error}, indent=1))
        return self.kind.code


WORDS: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r'copy it with cast\(nan_policy="zero"\) first', "give --not-finite zero"),
    (r", or open it with unfinished=True to look at what is there", ""),
    (r"\b(?:dataset|array)= ", "--dataset "),
    (r"\bblock_shape \((\d+), (\d+), (\d+)\)", r"--block \1,\2,\3"),
    (r"\b(smaller|larger) block_shape\b", r"\1 --block"),
    (r"\braw=RawLayout\(\((\d+), (\d+), (\d+)\), '(\w+)'\) and", r"--shape \1x\2x\3 --dtype \4"),
    (r"\bvoxel_size_um=(\d+)\.0\b", r"--voxel-size \1um"),
    (r"\b(classes|bone)=\(([\d, ]+)\)", lambda found: f"--{found[1]} {','.join(re.findall('[0-9]+', found[2]))}"),
    (r"\bonly=(\d+)\b", r"--fold \1"),
    (r"\b(format|kind|workers)='([\w:]+)'", r"--\1 \2"),
    (r"\bcredentials=FOLDER\b", "--credentials FOLDER"),
    (r"\b(overwrite|resume|as_is|any_voxel_size|insecure)=True\b", lambda found: f"--{found[1].replace('_', '-')}"),
)
"""Messages of functions speak of their arguments, as one who calls them gives them; here these are options."""

WAYS_OUT = {
    errno.ENOSPC: "free some space, or give an output on another disk",
    errno.EDQUOT: "free some space, or give an output on another disk",
    errno.EFBIG: "give an output where files may be larger",
    errno.EACCES: "give another output, or get the permission",
    errno.EPERM: "give another output, or get the permission",
    errno.EROFS: "nothing can be written there: give another output",
}


def failure_of(error: BaseException, program: str) -> Failure:
    """Say an error in the user's words, with its kind; `program` is what was called, such as "tomoscale convert"."""
    usage = f"`{error.program if isinstance(error, UsageError) else program} --help` shows every option and an example"
    if isinstance(error, UsageError):
        return Failure(KINDS[2], _clipped(_usage(error)), usage)
    code, message = _code_and_message(error)
    message = in_options(message)
    lines = [line for line in (message, *getattr(error, "__notes__", ())) if line]
    return Failure(KINDS[code], _clipped("\n".join(lines)), usage if code == 2 else KINDS[code].hint)


def in_options(message: str) -> str:
    """Message of a function with the options of the command line in place of its arguments."""
    for pattern, words in WORDS:
        message = re.sub(pattern, words, message)
    return message


def _code_and_message(error: BaseException) -> tuple[int, str]:
    if isinstance(error, KeyboardInterrupt):
        return 6, "interrupted; what is finished is kept, the same command goes on from there"
    if isinstance(error, InputError | PlanError | IntegrityError | BlocksFailed | Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, ValueError):
        return 2, str(error)
    if isinstance(error, OverflowError | RecursionError):
        counted = f"a size is beyond what a machine can count ({error})"
        what = "something is nested too deep" if isinstance(error, RecursionError) else counted
        return 3, f"{what}: is the input damaged?"
    if isinstance(error, MemoryError):
        return 4, "out of memory: give smaller blocks (--block) or fewer workers (--processes)"
    if isinstance(error, OSError):
        way_out = WAYS_OUT.get(error.errno or 0, "check the path and its folder, or give another")
        return 4, f"{error.filename or 'the system'}: {error.strerror or error}; {way_out}"
    if isinstance(error, ImportError) and not str(error.name or "").startswith("tomoscale"):
        return (
            4,
            f"{error.name or error} is not installed, and this command needs it: pip install {error.name or ''}".rstrip(),
        )
    return 1, f"{type(error).__name__}: {error}"


def _usage(error: UsageError) -> str:
    """Argparse's complaint in our words, with the nearest valid one."""
    command = error.program.removeprefix("tomoscale").strip()
    where = f"{command}: " if command else ""
    choice = re.fullmatch(r"(?s)argument (.+?): invalid choice: (.+) \(choose from (.+)\)", str(error))
    if not choice:
        text = str(error).removeprefix("argument ")
        text = re.sub("expected one argument$", "a value must follow it", text)
        return where + re.sub("expected (.+) arguments?$", r"\1 values must follow it", text)
    name, given, valid = choice[1], choice[2].strip("'\""), re.findall(r"'([^']*)'", choice[3])
    what = "no such command" if name == "COMMAND" and not where else f"not one of {', '.join(valid)}"
    return f"{where}{'' if name == 'COMMAND' else name + ': '}{given[:80]!r} is {what}{near(given, valid)}"


def near(given: str, valid: list[str]) -> str:
    """``; did you mean X?`` where a valid word is near, else nothing."""
    from tomoscale.configuration import did_you_mean  # lazily: only a mistake needs it

    return did_you_mean(given, valid)


def _clipped(message: str) -> str:
    """Keep a message to what fits a terminal, leaving a line for the hint; notes at its end say where it happened."""
    lines = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..." for line in message.splitlines()]
    return "\n".join(lines if len(lines) < MAX_LINES else [*lines[: MAX_LINES - 3], "...", lines[-1]])
