"""The command that runs a chain: steps of a YAML file, each a command with its own options, all checked before the first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tomoscale.cli import paths, values
from tomoscale.cli.command import RUNNING, Command, actions_of, destination, option, values_of
from tomoscale.cli.results import plain
from tomoscale.cli.running import declare, naming, planning
from tomoscale.errors import InputError, PlanError
from tomoscale.places import Place

if TYPE_CHECKING:
    from tomoscale.settings import Setting
    from tomoscale.work import Work

PER_STEP = tuple(o for o in RUNNING if destination(o) in ("block", "overwrite"))
"""Of the options of how to run, those that a step may have for itself; all others are the chain's."""


@dataclass(frozen=True)
class Step:
    """One step of a chain: a command, its options, and where it stands in the file."""

    command: Command
    actions: tuple[argparse.Action, ...]
    options: Mapping[str, Any]
    place: str

    def run(self, work: Work, made: Mapping[Place, Any]) -> Any:
        """Run or plan it; what an earlier step will make is given as it will be."""
        given = dict(self.options)
        if work.plan_only:
            for action, path in paths.inputs(self.actions, given):
                if paths.file_of(path) in made:
                    given[action.dest] = made[paths.file_of(path)]
        keywords = values_of(self.command, given)
        declare(keywords)
        if not self.command.works:
            return self.command.run(**keywords)
        own = replace(
            work, overwrite=work.overwrite or given["overwrite"], block_shape=given["block"] or work.block_shape
        )
        return self.command.run(**keywords, work=own)


def commands_of(commands: Sequence[Command]) -> tuple[Command, ...]:
    """Return the command that runs chains of these commands."""
    steps = {c.name: c for c in commands if c.step}

    def prepare(options: dict[str, Any]) -> dict[str, Any]:
        return read(options, steps)

    def show(result: dict[str, Any]) -> dict[str, Any]:
        return {
            f"{n} {s['command']}": _shown(steps[s["command"]], s["result"]) for n, s in enumerate(result["steps"], 1)
        }

    return (
        Command(
            "run",
            "run a chain of steps from a YAML file, all of them checked before the first starts",
            "tomoscale run examples/chain.yaml --plan",
            _run,
            (option("config", type=values.input_path, help="YAML file with `steps:`; paths in it are relative to it"),),
            works=True,
            prepare=prepare,
            show=show,
        ),
    )


def read(options: dict[str, Any], commands: Mapping[str, Command]) -> dict[str, Any]:
    """Read a chain and check all that can be known without opening a volume.

    Raises
    ------
    ConfigurationError, InputError, PlanError
        If a key, a value or a path is wrong; each names file and line.
    """
    from tomoscale import configuration, settings

    root = settings.load(options.pop("config"))
    running = [a for a in actions_of(RUNNING) if a.dest != "plan"]
    top = configuration.check_keys(root, ["steps", *map(configuration.key_of, running)], ["steps"])
    items = top["steps"].items("such as `- convert: {source: slices/, target: scan.zarr}`")
    steps = [_step(item, commands) for item in items]
    check_paths(steps)
    rest = settings.Setting({k: v for k, v in top.items() if k != "steps"}, root.file, root.line, root.key)
    found = configuration.options_of(rest, running)
    chosen = {a.dest: options[a.dest] for a in running if options[a.dest] != a.default}
    return {**options, **found, **chosen, "steps": steps}


def check_paths(steps: Sequence[Step]) -> None:
    """Refuse inputs that neither exist nor are made by an earlier step, and outputs that destroy what others need.

    Raises
    ------
    InputError, PlanError
    """
    made: dict[Place, Step] = {}
    needed: dict[Place, Step] = {}
    for number, step in enumerate(steps):
        for action, path in paths.inputs(step.actions, step.options):
            file = paths.file_of(path)
            maker = next((made[p] for p in (file, *file.parents) if p in made), None)
            if maker is None and not file.exists():
                raise InputError(f"{step.place}{_name(action)}: {path} {_missing(file, steps[number:])}")
            if maker is None:
                needed.setdefault(file, step)
        for action, path in paths.outputs(step.actions, step.options):
            file = paths.file_of(path)
            if file in made:
                raise PlanError(
                    f"{step.place}{_name(action)}: {path} is made by an earlier step too ({made[file].place.rstrip(': ')}): "
                    "give one of them another output"
                )
            reader = next((needed[p] for p in needed if file in (p, *p.parents)), None)
            if reader is not None:
                raise PlanError(
                    f"{step.place}{_name(action)}: {path} is or holds an input of the chain ({reader.place.rstrip(': ')}), "
                    "which it would replace: give another output"
                )
            made[file] = step


def _missing(file: Place, later: Sequence[Step]) -> str:
    for step in later:
        if file in [paths.file_of(p) for _, p in paths.outputs(step.actions, step.options)]:
            return f"is made only by a later step ({step.place.rstrip(': ')}): put that one first"
    return "does not exist and no earlier step makes it: check the path, which is relative to the file"


def _step(setting: Setting, commands: Mapping[str, Command]) -> Step:
    from tomoscale import configuration

    content = configuration.check_keys(setting, commands)
    if len(content) != 1:
        raise setting.error("must hold one command: begin each step with its own dash")
    ((name, given),) = content.items()
    command = commands[name]
    actions = actions_of((*command.options, *(PER_STEP if command.works else ())))
    options = configuration.options_of(given, actions, paths=values.PATHS)
    return Step(command, actions, options, f"{given.file}:{given.line}: {given.key}: ")


def _run(steps: Sequence[Step], *, work: Work) -> Any:
    if work.plan_only:
        _plan(steps, work)
        return None
    # Planned as a whole first: a shape or a size that does not fit the last step is refused before the first starts.
    with planning(caught=True):
        _plan(steps, replace(work, plan_only=True))
    done = []
    for number, step in enumerate(steps, 1):
        if work.progress is not False:
            print(f"step {number} of {len(steps)}: {step.command.name}", file=sys.stderr, flush=True)
        with _named(step):
            done.append({"command": step.command.name, "result": step.run(work, {})})
    return {"steps": done}


def _shown(command: Command, result: Any) -> Any:
    return command.show(result) if command.show else plain(result)


def _plan(steps: Sequence[Step], work: Work) -> None:
    """Print the plans of all steps that run over blocks, each with the volumes that the steps before it will make."""
    made: dict[Place, Any] = {}
    planned: set[Place] = set()
    for step in steps:
        files = [paths.file_of(p) for _, p in paths.inputs(step.actions, step.options)]
        known = all(f in made or not any(p in planned for p in (f, *f.parents)) for f in files)
        result = None
        if step.command.works and known:
            with _named(step):
                result = step.run(work, made)
        for _, path in paths.outputs(step.actions, step.options):
            planned.add(paths.file_of(path))
            if hasattr(result, "storage"):
                made[paths.file_of(path)] = result


@contextmanager
def _named(step: Step) -> Iterator[None]:
    """Say of an error in which step it came up, and of which inputs."""
    try:
        with naming(step.actions, step.options):
            yield
    except Exception as error:
        error.add_note(f"in {step.place.rstrip(': ')}")
        raise


def _name(action: argparse.Action) -> str:
    return (action.option_strings or [action.dest])[0].lstrip("-")
