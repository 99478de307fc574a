"""The state of a training in one file: tensors and JSON, nothing that could run; written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.training.optimisation import Judgement, MovingAverage

NAME = "checkpoint.safetensors"
FORMAT = "tomoscale checkpoint 1"


def save(path: Path, tensors: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and JSON values to a file, which takes the place of the last one at once."""
    partial = path.with_name(path.name + ".partial")
    held = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"format": FORMAT, "state": json.dumps(state, allow_nan=True)}
    safetensors.torch.save_file(held, str(partial), metadata=metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and JSON values of a checkpoint.

    Raises
    ------
    InputError
        If the file is damaged or of another kind.
    """
    try:
        with safetensors.safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            state = json.loads(metadata["state"])
            return {name: file.get_tensor(name) for name in file.keys()}, state  # noqa: SIM118 -- it is no mapping
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not a checkpoint that can be used ({error}): start the training again without resume=True"
        ) from error


def tensors_of(
    module: nn.Module, optimiser: torch.optim.Optimizer, average: MovingAverage | None
) -> dict[str, torch.Tensor]:
    """All tensors that the next step depends on."""
    result = {f"network/{name}": tensor for name, tensor in module.state_dict().items()}
    if average is not None:
        result |= {f"average/{name}": tensor for name, tensor in average.state.items()}
    for number, state in optimiser.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                result[f"optimiser/{number}/{name}"] = torch.as_tensor(value)
    return result


def restore(
    tensors: Mapping[str, torch.Tensor],
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> None:
    """Put the tensors of `tensors_of` back where they were, in the same layout, so that sums run in the same order."""
    module.load_state_dict(_below(tensors, "network/"))
    if average is not None:
        for name, tensor in _below(tensors, "average/").items():
            average.state[name].copy_(tensor)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for name, tensor in _below(tensors, "optimiser/").items():
        number, _, what = name.partition("/")
        like = parameters[int(number)]
        if tensor.shape == like.shape:
            optimiser.state[like][what] = torch.empty_like(like).copy_(tensor)
        else:
            optimiser.state[like][what] = tensor.clone()


def judgement_of(state: Mapping[str, Any]) -> Judgement:
    """What validations had said."""
    return Judgement(**state["judgement"])


def state_of(step: int, judgement: Judgement, digest: str, **more: Any) -> dict[str, Any]:
    """JSON values that the next step depends on; random numbers depend on the seed and the step alone."""
    return {"step": step, "judgement": asdict(judgement), "digest": digest, **more}


def _below(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
