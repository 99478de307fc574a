"""What a run computes, as its ledger records it, and the refusal to go on with anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tomoscale.errors import IntegrityError, PlanError
from tomoscale.json_files import read_json
from tomoscale.lease import output_of
from tomoscale.places import Place

MAX_BLOCKS = 2**26


def as_recorded(description: Mapping[str, Any], n_blocks: int) -> dict[str, Any]:
    """Return a plan as `read_plan` gives it: JSON knows lists and no tuples."""
    found: dict[str, Any] = json.loads(json.dumps({**description, "n_blocks": n_blocks}))
    return found


def read_plan(folder: Place) -> dict[str, Any]:
    """Return the plan a ledger belongs to.

    Raises
    ------
    IntegrityError
        If there is none that can be read.
    """
    plan = read_json(folder / "plan.json", "record of a run", "remove the output and run again", IntegrityError)
    n_blocks, step = plan.get("n_blocks"), plan.get("step")
    if not isinstance(n_blocks, int) or not 0 <= n_blocks <= MAX_BLOCKS or not isinstance(step, list | dict):
        raise IntegrityError(
            f"{folder} holds no readable record of a run: n_blocks is {str(n_blocks)[:40]} and step {str(step)[:40]}, but must be a "
            f"number up to {MAX_BLOCKS} and names; remove the output and run again"
        )
    return plan


def refuse_other_plan(folder: Place, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `PlanError` with what differs, if `recorded` and `wanted` are not the same plan.

    A function of the user's own may be another after a run that set blocks aside: it was mended for them.
    """
    old, new = _flat(recorded), _flat(wanted)
    changed = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    of_code = bool(changed) and all(key.startswith("code.") for key in changed)
    if changed and not (of_code and _set_aside(folder)):
        lines = [f"  {key}: was {old.get(key, 'absent')}, is {new.get(key, 'absent')}" for key in changed[:4]]
        lines += [f"  and {len(changed) - 4} more"] if len(changed) > 4 else []
        lines += ["the code of this function, or a value it uses, has changed since"] if of_code else []
        raise PlanError(
            f"{output_of(folder)} was begun with another plan, and results of two plans must not mix:\n"
            + "\n".join(lines)
            + "\ngive another output, or remove this one by overwrite=True"
        )


def _set_aside(folder: Place) -> bool:
    path = folder / "failures.json"
    return path.exists() and bool(read_json(path, "record of failures", "remove this file", IntegrityError))


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping) and value:
        return {
            k: v
            for name, item in value.items()
            for k, v in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: json.dumps(value)}
