"""The command line: parses, calls the function of the same name, and turns errors into one message and an exit code.

Results go to stdout, progress and messages to stderr. With ``--json`` stdout holds exactly one JSON document: the result,
or ``{"error": {"code", "kind", "message", "hint"}}`` (the message stands on stderr as well).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from functools import cache
from types import FrameType
from typing import Any

import tomoscale
from tomoscale.cli import (
    annotation,
    bundles,
    chain,
    cluster,
    floods,
    folds,
    look,
    models,
    objects,
    paths,
    resampling,
    results,
    running,
    shell,
    studies,
    training,
    training_studies,
    volumes,
)
from tomoscale.cli.command import Command, Parser, Program, UsageError, make_program
from tomoscale.cli.failures import EXIT_CODES, failure_of, near
from tomoscale.cli.values import lengths as lengths  # for scripts that take voxel sizes

GROUPS = {
    "study": "measure samples as papers do: implants, bone, voids",
    "model": "look at networks, measure and import them",
    "cluster": "prepare Slurm sites, and look for what is wrong with a cluster",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _as_interrupt) if in_main else None
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has closed it; what was written to disk is whole.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(error, " ".join(("tomoscale", *_command_in(arguments))))
        if failure.kind.name == "fault":
            traceback.print_exc()
        return failure.tell("--json" in arguments)
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@cache
def make_program_of_all() -> Program:
    """All commands and their parser."""
    parser = Parser(
        prog="tomoscale",
        description="Label and measure tomograms that no machine can hold.",
        epilog=f"{EXIT_CODES}\n\n{paths.BESIDE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tomoscale {tomoscale.__version__}")
    parser.add_argument("--json-usage", action="store_true", help="print all commands, options and exit codes as JSON")
    parser.set_defaults(command=None)
    groups = (
        studies.DEMO,
        volumes.COMMANDS,
        resampling.COMMANDS,
        objects.COMMANDS,
        floods.COMMANDS,
        studies.COMMANDS,
        bundles.COMMANDS,
        training.COMMANDS,
        folds.COMMANDS,
        training_studies.COMMANDS,
        annotation.COMMANDS,
        models.COMMANDS,
        look.COMMANDS,
        cluster.COMMANDS,
    )
    commands: tuple[Command, ...] = tuple(command for group in groups for command in group)
    commands = (*commands, *chain.commands_of(commands))
    commands = (*commands, *shell.commands_about(make_program_of_all, commands))
    return make_program(commands, GROUPS, parser)


def _run(arguments: Sequence[str]) -> int:
    program = make_program_of_all()
    options = parse(program, arguments)
    if options.pop("json_usage"):
        print(results.as_json(shell.usage(program)))
        return 0
    command = program.commands[options.pop("command")]
    with running.naming(program.actions[command.name], options):
        result = running.execute(command, options)
    if options["json"]:
        print(results.as_json(result))
    elif result is not None:
        print(results.printable(results.as_text(command.show(result) if command.show else results.plain(result))))
    return command.exit_code(result) if command.exit_code else 0


def parse(program: Program, arguments: Sequence[str]) -> dict[str, Any]:
    """Options of a command line.

    Raises
    ------
    UsageError
        If it is wrong.
    """
    options, unknown = program.parser.parse_known_args(arguments)
    if unknown:
        raise _unknown(program, options.command, unknown[0].partition("=")[0])
    if options.command is None and not options.json_usage:
        raise UsageError("tomoscale", f"no command was given; there are {', '.join(program.commands)}")
    return vars(options)


def _unknown(program: Program, command: str | None, word: str) -> UsageError:
    """Say of a word on the command line what is wrong with it."""
    by_command = {c: [s for a in actions for s in a.option_strings] for c, actions in program.actions.items()}
    name = f"tomoscale {command or ''}".strip()
    if not word.startswith("-"):
        wanted = [a.dest for a in program.actions.get(command or "", ()) if not a.option_strings]
        return UsageError(name, f"{word[:80]!r} is one argument too many; it takes {', '.join(wanted) or 'none'}")
    others = [c for c, known in by_command.items() if word in known]
    elsewhere = f"; it is one of {', '.join(others[:3])}" if others else ""
    return UsageError(
        name, f"{word[:80]!r} is no such option{elsewhere or near(word, by_command.get(command or '', []))}"
    )


def _command_in(arguments: Sequence[str]) -> list[str]:
    """Words of the command on a command line, for a hint."""
    program = make_program_of_all()
    words = [a for a in arguments if not a.startswith("-")][:2]
    return next((words[:n] for n in (2, 1) if " ".join(words[:n]) in program.commands), [])


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    """Let a batch system's signal end a run as Ctrl-C does: recorded, resumable."""
    raise KeyboardInterrupt
