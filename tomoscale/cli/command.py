"""One table for all commands: help, parsing, completion, ``--json-usage`` and configurations are made from it.

A command is data around a function. Its options are named once, with the keyword of that function as their destination,
so adding one is one line in the module of its command.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tomoscale.cli import values

RUN_TITLE = "how to run"


@dataclass(frozen=True)
class Option:
    """What `argparse` is told of one argument or option.

    Attributes
    ----------
    names : tuple of str
        ``("source",)`` for an argument, ``("--kind",)`` for an option.
    how : mapping
        Keywords of `argparse.ArgumentParser.add_argument`.
    group : str
        Title under which help shows it; empty for the usual place.
    """

    names: tuple[str, ...]
    how: Mapping[str, Any]
    group: str = ""


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes
    ----------
    name : str
        One word, or two for a command below another ("study implant").
    text : str
        What it does, in one line.
    example : str
        A command line that runs.
    run : callable
        ``run(**options)`` gives the result: a volume, a path, JSON values, or None where only plans are shown. Commands
        with `works` also get ``work``.
    options : tuple of Option
    works : bool
        Takes the options of how to run.
    step : bool
        May be a step of a chain.
    prepare : callable or None
        Takes all options as parsed and returns those to run with, before workers start: reads configurations.
    show : callable or None
        What of the result is shown in words; None shows all of it.
    exit_code : callable or None
        Exit code of a result that is told although it is no success.
    """

    name: str
    text: str
    example: str
    run: Callable[..., Any]
    options: tuple[Option, ...]
    works: bool = False
    step: bool = False
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    show: Callable[[Any], Any] | None = None
    exit_code: Callable[[Any], int] | None = None


def option(*names: str, group: str = "", **how: Any) -> Option:
    """Name an argument or an option, with the keywords of `argparse.ArgumentParser.add_argument`."""
    return Option(names, how, group)


def lazily(module: str, name: str) -> Callable[..., Any]:
    """Function that is imported when a command runs: help and completion pay for none."""
    return partial(_call, module, name)


def _call(module: str, name: str, **how: Any) -> Any:
    return getattr(importlib.import_module(f"tomoscale.{module}"), name)(**how)


def flag(name: str, text: str) -> Option:
    """Name an option that is given or not."""
    return Option((name,), {"action": "store_true", "help": text})


SOURCE = option("source", type=values.input_path, help="a volume, or what `tomoscale convert` reads")
TARGET = option("target", type=values.volume_path, help="the volume to make")
ARCHITECTURE_MODULE = option(
    "--architecture-module",
    type=values.word,
    metavar="MODULE",
    help="import path of a module that registers your own networks, such as my_lab.networks",
)
OVERWRITE = flag("--overwrite", "remove an output that is in the way")

GENERAL = (flag("--json", "print the result, or the error, as one JSON document on stdout"),)
"""Options of every command."""

RUNNING = tuple(
    replace(o, group=RUN_TITLE)
    for o in (
        flag("--plan", "print what would be read, held and written, and stop"),
        option(
            "--workers",
            type=values.workers,
            default="auto",
            metavar="WHERE",
            help="threads, processes, gpus, slurm or slurm:PROFILE, or a scheduler's address (default auto: that of the batch "
            "script it runs in, else GPUs if there are any, else threads)",
        ),
        option("--processes", type=values.positive, metavar="N", help="worker processes, for --workers processes"),
        option(
            "--jobs", type=values.positive, default=1, metavar="N", help="jobs to keep, for --workers slurm (default 1)"
        ),
        option(
            "--credentials",
            type=values.input_path,
            metavar="FOLDER",
            help="keys (ca.pem, cert.pem, key.pem) for a scheduler's address tls://HOST:PORT",
        ),
        flag("--insecure", "connect without encryption to a scheduler on another machine"),
        option(
            "--memory",
            type=values.memory,
            metavar="SIZE",
            help="of one process, such as 8GiB (default: half of what is free)",
        ),
        option("--block", type=values.shape, metavar="Z,Y,X", help="voxels of a block (default: by memory and margin)"),
        OVERWRITE,
        flag("--quiet", "show no progress"),
    )
)
"""Options of every command that runs over blocks."""


def pyramid_option(default: bool) -> Option:
    """Option for the coarser levels of a volume, which viewers need."""
    return option(
        "--pyramid",
        action=argparse.BooleanOptionalAction,
        default=default,
        help=f"make the coarser levels that viewers need (default {'yes' if default else 'no'})",
    )


@dataclass(frozen=True)
class Program:
    """The parser of all commands, and what each command was told.

    Attributes
    ----------
    parser : argparse.ArgumentParser
    commands : mapping of name to Command
    actions : mapping of command name to its `argparse` actions
        The truth on names, types, choices and defaults; all that is derived is derived from it.
    groups : mapping of name to help text
        Words that stand before commands of two words.
    """

    parser: argparse.ArgumentParser
    commands: Mapping[str, Command]
    actions: Mapping[str, tuple[argparse.Action, ...]]
    groups: Mapping[str, str]


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are raised, so that they are told like all others: one message, as JSON if asked for.

    `argparse` has no other way: with ``exit_on_error=False`` Python 3.11 still exits on most mistakes.
    """

    def error(self, message: str) -> Any:
        """Raise what is wrong with the command line."""
        raise UsageError(self.prog, message)


class UsageError(ValueError):
    """The command line is wrong."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program


def make_program(commands: Iterable[Command], groups: Mapping[str, str], top: Parser) -> Program:
    """Build the parser of all commands below `top`."""
    commands = tuple(commands)
    below: dict[str, Any] = {"": top.add_subparsers(title="commands", metavar="COMMAND")}
    actions = {}
    for command in commands:
        group, _, word = command.name.rpartition(" ")
        if group not in below:
            parent = below[""].add_parser(group, help=groups[group], description=groups[group], allow_abbrev=False)
            below[group] = parent.add_subparsers(title="commands", metavar="COMMAND", required=True)
        parser = below[group].add_parser(
            word,
            help=command.text,
            description=f"{command.text[0].upper()}{command.text[1:]}.",
            epilog=f"example\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        parser.set_defaults(command=command.name)
        actions[command.name] = add(parser, (*command.options, *GENERAL, *(RUNNING if command.works else ())))
    return Program(top, {c.name: c for c in commands}, actions, groups)


def values_of(command: Command, options: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords for the command's own function: what is left without the general options and those of how to run."""
    general = {destination(o) for o in GENERAL} | ({destination(o) for o in RUNNING} if command.works else set())
    return {name: value for name, value in options.items() if name not in general}


def actions_of(options: Sequence[Option]) -> tuple[argparse.Action, ...]:
    """Return the `argparse` actions of some options alone, as configurations need them."""
    return add(Parser(add_help=False), options)


def destination(given: Option) -> str:
    """Keyword under which an option arrives."""
    return str(given.how.get("dest", given.names[-1].lstrip("-").replace("-", "_")))


def add(parser: argparse.ArgumentParser, options: Sequence[Option]) -> tuple[argparse.Action, ...]:
    """Add options to a parser."""
    groups: dict[str, Any] = {"": parser}
    actions = []
    for given in options:
        if given.group not in groups:
            groups[given.group] = parser.add_argument_group(given.group)
        action = groups[given.group].add_argument(*given.names, **given.how)
        # BooleanOptionalAction of Python 3.11 writes the default behind the help, which says it already.
        action.help = given.how["help"]
        actions.append(action)
    return tuple(actions)
