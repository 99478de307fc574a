"""Run a command: read its configuration, start the workers it asks for, and catch the plans it prints."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import paths
from tomoscale.cli.command import Command, values_of
from tomoscale.errors import InputError

if TYPE_CHECKING:
    from tomoscale.work import Work


def execute(command: Command, options: Mapping[str, Any]) -> Any:
    """Run a command and return its result; None where only plans are shown."""
    given = dict(options)
    # tifffile logs what it then raises; a logger without a handler would print it beside our message.
    logging.getLogger("tifffile").addHandler(logging.NullHandler())
    if command.prepare is not None:
        given = command.prepare(given)
    keywords = values_of(command, given)
    declare(keywords)
    if not command.works:
        return command.run(**keywords)
    with working_of(given) as work:
        if not work.plan_only:
            return command.run(**keywords, work=work)
        with planning(given["json"]) as plans:
            command.run(**keywords, work=work)
        return plans or None


def declare(keywords: dict[str, Any]) -> None:
    """Import the module of the user's own networks if the options name one, which no command needs to know of."""
    module = keywords.pop("architecture_module", None)
    if module is not None:
        from tomoscale.networks.architectures import declare_from

        declare_from(module)


@contextlib.contextmanager
def naming(actions: Sequence[argparse.Action], options: Mapping[str, Any]) -> Iterator[None]:
    """Name the inputs behind an error of the data that names none of them: a kernel sees voxels and no file."""
    paths.refuse_pipes(actions, options)
    try:
        yield
    except (InputError, OverflowError) as error:
        names = [str(path) for action, path in paths.inputs(actions, options) if action.dest != "config"]
        told = any(Path(name.partition("::")[0]).name in str(error) for name in names)
        if names and not told and not hasattr(error, "__notes__"):
            error.add_note(f"{'the input is' if len(names) == 1 else 'inputs are'} {', '.join(names)}")
        raise


@contextlib.contextmanager
def working_of(options: Mapping[str, Any]) -> Iterator[Work]:
    """Start the workers that the options ask for."""
    from tomoscale.work import working

    with working(
        options["workers"],
        processes=options["processes"],
        memory_bytes=options["memory"],
        n_jobs=options["jobs"],
        credentials=options["credentials"],
        insecure=options["insecure"],
        block_shape=options["block"],
        plan_only=options["plan"],
        overwrite=options["overwrite"],
        progress=False if options["quiet"] else None,
    ) as work:
        # Not in the document of --json: that comes when the dashboard is gone.
        if work.dashboard is not None and not (options["quiet"] or options["plan"]):
            print(f"tomoscale: dashboard {work.dashboard}", file=sys.stderr, flush=True)
        yield work


@contextlib.contextmanager
def planning(caught: bool) -> Iterator[dict[str, list[dict[str, str]]]]:
    """Let plans be printed, or catch them: the mapping then holds them under ``plans`` afterwards."""
    found: dict[str, list[dict[str, str]]] = {}
    if not caught:
        yield found
        return
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        yield found
    found["plans"] = [_rows(part) for part in text.getvalue().split("\n\n") if part.strip()]


def _rows(plan: str) -> dict[str, str]:
    """Names and values of a plan as it prints itself."""
    rows = (re.fullmatch(r"\s*(\S.*?) {2}(.*)", line) for line in plan.splitlines())
    return {row[1]: row[2] for row in rows if row}
