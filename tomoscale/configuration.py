"""Configurations in YAML: read safely, with the place of every value, and checked against the command line's own options.

A value is kept as it was written (``0.50``, ``012``, ``5um``), and the option it is for turns it into a value, so that a
configuration and the command line accept the same. Files are not trusted: their size, depth and number of values are
bounded, repeated parts included, and no tag makes an object. Every message names the file, the line, the key, the
value, the rule and the nearest valid key.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tomoscale.errors import InputError

MAX_BYTES = 2**18
"""Of a file: a study of a thousand samples takes a third; one second to read."""
MAX_VALUES = 20_000
"""Of a file, with every repetition by an alias counted."""
MAX_DEPTH = 12
SHOWN = 60
"""Characters of a value that a message shows."""


class ConfigurationError(ValueError):
    """A configuration is wrong; the message begins with the file and the line."""


@dataclass(frozen=True)
class Setting:
    """A value of a configuration, and where it stands.

    Attributes
    ----------
    value : str, None, list of Setting, or dict of str to Setting
        Text as it was written; None for an empty value.
    file : Path
    line : int
        From 1.
    key : str
        Way to it: ``steps[0].convert.voxel-size``; empty for the whole file.
    plain : bool
        Text without quotes, of which true and false are flags.
    """

    value: Any
    file: Path
    line: int
    key: str
    plain: bool = True

    def error(self, rule: str) -> ConfigurationError:
        """Say what is wrong here: file, line, key, value and the rule that it breaks."""
        key = f" {self.key}:" if self.key else ""
        return ConfigurationError(f"{self.file}:{self.line}:{key} {self.shown()} {rule}")

    def shown(self) -> str:
        """The value in a few words."""
        if isinstance(self.value, dict):
            return f"the mapping with {_some(self.value) or 'nothing in it'}"
        if isinstance(self.value, list):
            return f"the list of {len(self.value)}"
        if self.value is None:
            return "nothing"
        return repr(self.value if len(self.value) <= SHOWN else self.value[:SHOWN] + "...")

    def mapping(self, wanted: str) -> dict[str, Setting]:
        """Keys and values; `wanted` says in a message what the mapping is for."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping: {wanted}")
        return self.value

    def items(self, wanted: str) -> list[Setting]:
        """Items of a list that is not empty."""
        if not isinstance(self.value, list) or not self.value:
            raise self.error(f"must be a list with at least one item: {wanted}")
        return self.value

    def text(self, wanted: str) -> str:
        """One value as it was written."""
        if not isinstance(self.value, str):
            raise self.error(f"must be one value: {wanted}")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if self.value not in ("true", "false") or not self.plain:
            raise self.error("must be true or false, without quotes")
        return bool(self.value == "true")


def load(path: str | Path) -> Setting:
    """Read a configuration.

    Parameters
    ----------
    path : path

    Returns
    -------
    Setting
        Of the whole file, a mapping.

    Raises
    ------
    InputError
        If the file cannot be read.
    ConfigurationError
        If it is not YAML, is too large, names a key twice, or holds tags.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give the path of a YAML file") from None
    if len(data) > MAX_BYTES:
        raise ConfigurationError(
            f"{path} is larger than {MAX_BYTES // 1024} KiB, the most a configuration may be: is it the right file?"
        )
    root = _Reader(path).read(data)
    root.mapping("a configuration begins with study: or steps:")
    return root


def check_keys(setting: Setting, valid: Iterable[str], required: Iterable[str] = ()) -> dict[str, Setting]:
    """Keys and values of a mapping whose keys must be among `valid` and hold all that are `required`.

    Raises
    ------
    ConfigurationError
        With the nearest valid key.
    """
    valid, required = list(valid), list(required)
    found = setting.mapping(f"its keys may be {', '.join(valid)}")
    for key, value in found.items():
        if key not in valid:
            raise ConfigurationError(
                f"{value.file}:{value.line}: {value.key}: no such key{did_you_mean(key, valid)}\n"
                f"valid here: {', '.join(valid)}"
            )
    missing = [key for key in required if key not in found]
    if missing:
        raise setting.error(f"lacks {missing[0]}: every one needs {', '.join(required)}")
    return found


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """``; did you mean X?`` where one is near, else nothing."""
    import difflib  # lazily: only a mistake needs it

    near = difflib.get_close_matches(given, list(valid), 1)
    return f"; did you mean {near[0]}?" if near else ""


def options_of(
    setting: Setting, actions: Sequence[argparse.Action], *, paths: Sequence[Callable[[str], Any]] = ()
) -> dict[str, Any]:
    """Turn a mapping into the options of a command: keywords and values, defaults where a key is absent.

    Parameters
    ----------
    setting : Setting
        Its keys are the long options without their dashes, or the names of arguments.
    actions : sequence of argparse.Action
    paths : sequence of callables
        Types whose values are taken relative to the folder of the file.

    Raises
    ------
    ConfigurationError
        If a key is unknown or missing, or a value is refused by its option.
    """
    by_key = {key_of(action): action for action in actions}
    given = check_keys(setting, by_key, [k for k, a in by_key.items() if a.required])
    result = {action.dest: action.default for action in actions}
    for key, value in given.items():
        action = by_key[key]
        result[action.dest] = _converted(value, action, paths)
    return result


def key_of(action: argparse.Action) -> str:
    """What an option or an argument is called in a configuration: its long option without dashes, or its name."""
    return action.option_strings[0].lstrip("-") if action.option_strings else action.dest


def _converted(setting: Setting, action: argparse.Action, paths: Sequence[Callable[[str], Any]]) -> Any:
    if action.nargs == 0:
        return setting.flag()
    repeated = action.nargs in ("+", "*")
    if not repeated and not isinstance(action.nargs, int):
        return _one(setting, action, paths)
    # One value of a list may stand without the list.
    items = setting.items("values between brackets") if isinstance(setting.value, list) or not repeated else [setting]
    if isinstance(action.nargs, int) and len(items) != action.nargs:
        raise setting.error(f"must hold {action.nargs} values: {help_of(action)}")
    return [_one(item, action, paths) for item in items]


def _one(setting: Setting, action: argparse.Action, paths: Sequence[Callable[[str], Any]]) -> Any:
    text = setting.text(help_of(action))
    if setting.plain and text in ("true", "false"):
        raise setting.error(f"must be a value and not a flag: {help_of(action)}")
    try:
        value = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError as error:
        raise ConfigurationError(f"{setting.file}:{setting.line}: {setting.key}: {error}") from None
    if action.choices is not None and value not in action.choices:
        raise setting.error(
            f"must be one of {', '.join(map(str, action.choices))}{did_you_mean(text, map(str, action.choices))}"
        )
    if action.type in paths:
        # The text is joined, since what comes after :: in it is no path.
        return action.type(str(setting.file.parent / text)) if callable(action.type) else text
    return value


def help_of(action: argparse.Action) -> str:
    """What an option is for, in the words of its help."""
    return (action.help or action.dest).replace("%%", "%")


def _some(keys: Mapping[str, Any]) -> str:
    return ", ".join(list(keys)[:4]) + (", ..." if len(keys) > 4 else "")


class _Loader(yaml.SafeLoader):
    """The safe loader, which refuses tags and depth; only its nodes are used, so text stays as it stands."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read one node, unless it is too deep or wants to be an object."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise yaml.MarkedYAMLError(
                problem=f"the tag {str(tag)[:SHOWN]} would make an object, and a configuration holds only text: remove it",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {MAX_DEPTH} levels below each other, the most a configuration may have",
                problem_mark=event.start_mark,
            )
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Reader:
    """Turns the nodes of a file into settings, counting them, so that aliases cannot multiply without bound."""

    def __init__(self, path: Path) -> None:
        self.path, self.n_values = path, 0

    def read(self, data: bytes) -> Setting:
        try:
            loader = _Loader(data)
            try:
                node = loader.get_single_node()
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else 1
            column = f", column {mark.column + 1}" if mark else ""
            raise ConfigurationError(
                f"{self.path}:{line}: {error.problem or error.context}{column}\n"
                "the file must be YAML: `key: value` lines, two spaces deeper for what belongs to a key, `- ` before list items"
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"{self.path}:1: not text in UTF-8 ({str(error).splitlines()[0]}): is it the right file?"
            ) from None
        if node is None:
            raise ConfigurationError(f"{self.path}:1: the file is empty: it must hold study: or steps:")
        return self._setting(node, "", node.start_mark.line + 1, 0)

    def _setting(self, node: yaml.Node, key: str, line: int, depth: int) -> Setting:
        self.n_values += 1
        if self.n_values > MAX_VALUES or depth > MAX_DEPTH:
            raise ConfigurationError(
                f"{self.path}:{line}: with its aliases repeated the file has more than {MAX_VALUES} values or {MAX_DEPTH} levels: "
                "write fewer aliases (*name)"
            )
        if isinstance(node, yaml.MappingNode):
            return Setting(dict(self._pairs(node, key, depth)), self.path, line, key)
        if isinstance(node, yaml.SequenceNode):
            items = [
                self._setting(item, f"{key}[{n}]", item.start_mark.line + 1, depth + 1)
                for n, item in enumerate(node.value)
            ]
            return Setting(items, self.path, line, key)
        assert isinstance(node, yaml.ScalarNode)
        plain = node.style is None
        return Setting(None if plain and node.value in ("", "~", "null") else node.value, self.path, line, key, plain)

    def _pairs(self, node: yaml.MappingNode, key: str, depth: int) -> Iterator[tuple[str, Setting]]:
        seen: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise ConfigurationError(f"{self.path}:{line}: a key must be one word, such as source")
            if name.value in seen:
                raise ConfigurationError(
                    f"{self.path}:{line}: {name.value[:SHOWN]} stands here and in line {seen[name.value]}: keep one of them"
                )
            seen[name.value] = line
            below = f"{key}.{name.value}" if key else name.value
            yield name.value, self._setting(value, below[-200:], line, depth + 1)
