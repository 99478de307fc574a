"""Commands about the program itself: completion, schema; and what ``--json-usage`` prints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import tomoscale
from tomoscale.cli import completion, values
from tomoscale.cli.command import Command, Program, option
from tomoscale.cli.failures import KINDS

SCHEMAS = Path(tomoscale.__file__).parent / "schema"
GENERAL_SCHEMAS = ("error", "plan", "usage")
"""Schemas that belong to no command: of errors, of --plan, and of --json-usage."""


def commands_about(program: Callable[[], Program], others: Iterable[Command]) -> tuple[Command, ...]:
    """Commands that need to know all commands, which are `others` and they themselves."""
    words = dict.fromkeys(w for c in others for w in c.name.split())
    return (
        Command(
            "completion",
            "print a script that lets a shell complete commands, options, values and paths",
            "tomoscale completion bash > ~/.local/share/bash-completion/completions/tomoscale",
            lambda shell: {"shell": shell, "script": completion.script(program(), shell)},
            (option("shell", choices=tuple(completion.WRITERS), help="bash, zsh or fish"),),
            show=lambda result: result["script"],
        ),
        Command(
            "schema",
            "print the JSON schema of what a command prints with --json",
            "tomoscale schema convert",
            lambda name: schema(program(), " ".join(name)),
            (
                option(
                    "name",
                    nargs="+",
                    choices=(*words, "completion", "schema", *GENERAL_SCHEMAS),
                    metavar="COMMAND",
                    help=f"a command, such as convert or study implant; or one of {', '.join(GENERAL_SCHEMAS)}",
                ),
            ),
            show=lambda result: json.dumps(result, indent=1),
        ),
    )


def schema(program: Program, name: str) -> dict[str, Any]:
    """JSON schema of a command's result.

    Raises
    ------
    ValueError
        If there is no such command.
    """
    names = (*program.commands, *GENERAL_SCHEMAS)
    if name not in names:
        from tomoscale.cli.failures import near

        raise ValueError(f"{name!r} has no schema{near(name, list(names))}\nschemas: {', '.join(names)}")
    content: dict[str, Any] = json.loads((SCHEMAS / f"{name.replace(' ', '-')}.json").read_text())
    return content


def usage(program: Program) -> dict[str, Any]:
    """Everything a program must know to call this one: commands, options, types, exit codes."""
    return {
        "program": "tomoscale",
        "version": tomoscale.__version__,
        "exit_codes": [{"code": k.code, "kind": k.name, "meaning": k.meaning, "hint": k.hint} for k in KINDS.values()],
        "commands": [
            {
                "name": name,
                "help": command.text,
                "example": command.example,
                "runs_over_blocks": command.works,
                "chain_step": command.step,
                "arguments": [_described(a) for a in program.actions[name] if not a.option_strings],
                "options": [_described(a) for a in program.actions[name] if a.option_strings],
            }
            for name, command in program.commands.items()
        ],
    }


def _described(action: argparse.Action) -> dict[str, Any]:
    default = action.default
    return {
        "name": action.option_strings[0] if action.option_strings else action.dest,
        **({"negation": action.option_strings[1]} if len(action.option_strings) > 1 else {}),
        "type": type_of(action),
        "required": action.required,
        "values": action.nargs if action.nargs is not None else 1,
        "choices": None if action.choices is None else [str(choice) for choice in action.choices],
        "default": list(default) if isinstance(default, tuple) else default,
        "help": action.help,
    }


def type_of(action: argparse.Action) -> str:
    """What the values of an option are called."""
    if action.nargs == 0:
        return "flag"
    if action.choices is not None:
        return "choice"
    return values.NAMES[action.type] if callable(action.type) else "text"
