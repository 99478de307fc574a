"""Arguments of networks: JSON values of a card, which may be damaged or hostile, so each is checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_CHANNELS = 1024
MAX_CLASSES = 255


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Refuse what is not a whole number from `low` to `high`.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def check_ends(in_channels: Any, n_classes: Any) -> None:
    """Refuse numbers of channels and classes that no network of ours has.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    check_whole("in_channels", in_channels, 1, MAX_CHANNELS)
    check_whole("n_classes", n_classes, 2, MAX_CLASSES)


def check_input(arguments: Mapping[str, Any]) -> None:
    """Refuse what a network says of its input and output if no network can.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    check_ends(arguments["in_channels"], arguments["n_classes"])
    check_whole("dimensions", arguments["dimensions"], 2, 3)
    check_whole("in_slices", arguments.get("in_slices", 1), 1, MAX_CHANNELS)


def input_channels(arguments: Mapping[str, Any]) -> int:
    """Channels of the tensor that a network takes: grey values per voxel times neighbouring slices shown."""
    return int(arguments["in_channels"]) * int(arguments.get("in_slices", 1))
