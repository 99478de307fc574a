"""Measure what a bundle's card says of reach and stride, on its loaded weights."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from tomoscale.errors import IntegrityError
from tomoscale.networks.arguments import input_channels
from tomoscale.networks.bundle import Bundle
from tomoscale.networks.reach import DEFAULT_UNIT, Reach, probe


def measured_reach(bundle: Bundle, member: int = 0) -> Reach:
    """Reach and stride of the loaded weights.

    A network that its card calls not local is followed for two strides only: to see that it looks further costs little.

    Raises
    ------
    InputError
        If the weights are damaged.
    ValueError
        As `tomoscale.networks.reach.probe`.
    """
    said = bundle.reach
    stride = math.lcm(*said.stride)
    default = DEFAULT_UNIT[bundle.dimensions]
    # The default unless the stride does not divide it: finding a stride needs room for larger ones.
    unit = default if default % stride == 0 else stride
    longest = 2 * max(*said.before, *said.after, 1024) if said.local else 2 * unit
    return probe(bundle.network(member=member), input_channels(bundle.arguments), bundle.dimensions, unit, longest)


def compare_with_card(bundle: Bundle) -> dict[str, Any]:
    """Measure every member and compare with the card.

    Returns
    -------
    dict of JSON values
        path, members, card and measured: each a reach.

    Raises
    ------
    IntegrityError
        If they differ.
    """
    measured = bundle.reach
    for member in range(bundle.members):
        measured = measured_reach(bundle, member)
        differences = _differences(bundle.reach, measured)
        if differences:
            which = f"member {member} of " if bundle.members > 1 else ""
            raise IntegrityError(
                f"{which}{bundle.path} is not what its card says: {'; '.join(differences)}\n"
                "margins would be wrong and so would labels at the borders of blocks: save or import the network again"
            )
    shown = asdict(measured) if bundle.reach.local else {"local": False}
    return {
        "path": str(bundle.path),
        "members": bundle.members,
        "card": asdict(bundle.reach),
        "measured": shown,
    }


def _differences(said: Reach, found: Reach) -> list[str]:
    if said.local != found.local:
        words = {True: "local", False: "dependent on its whole window"}
        return [f"the card calls its result {words[said.local]}, measured it is {words[found.local]}"]
    if not said.local:
        return []
    pairs = {name: (getattr(said, name), getattr(found, name)) for name in asdict(said) if name != "local"}
    return [
        f"{name.replace('_', ' ')} {one} on the card, {other} measured"
        for name, (one, other) in pairs.items()
        if one != other
    ]
