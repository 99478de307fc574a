"""Values of a configuration, each with its place in the file, read safely from YAML.

Files are not trusted: their size, depth and number of values are bounded, repeated parts included, and no tag makes an
object. A value is kept as it was written (``0.50``, ``012``, ``5um``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tomoscale.errors import InputError
from tomoscale.places import local_path

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
        Way to it, items of lists counted from 1: ``steps #1.convert.voxel-size``; empty for the whole file.
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
    path = local_path(path)
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
                self._setting(item, f"{key} #{n}", item.start_mark.line + 1, depth + 1)
                for n, item in enumerate(node.value, 1)
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
