"""Configurations, checked against the command line's own options.

The option that a setting is for turns its text into a value, so that a configuration and the command line accept the
same. Every message names the file, the line, the key, the value, the rule and the nearest valid key.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tomoscale.places import is_bucket, local_path
from tomoscale.settings import ConfigurationError, Setting


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
    if action.type in paths and not is_bucket(text):
        # The text is joined, since what comes after :: in it is no path.
        return action.type(str(setting.file.parent / local_path(text))) if callable(action.type) else text
    return value


def help_of(action: argparse.Action) -> str:
    """What an option is for, in the words of its help."""
    return (action.help or action.dest).replace("%%", "%")
