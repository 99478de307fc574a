"""What a network costs: parameters, and floating-point operations of one pass, counted on tensors without data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tomoscale.networks.architectures import make_network


@dataclass(frozen=True)
class Cost:
    """Cost of a network.

    Attributes
    ----------
    parameters : int
        Weights and biases; running statistics are none.
    flops : int
        Multiplications and additions, each one, of all convolutions of one input; activations and norms, some per cent,
        are left out.
    """

    parameters: int
    flops: int


def cost_of(architecture: str, arguments: Mapping[str, Any], patch: Sequence[int]) -> Cost:
    """Count a network exactly, without computing it.

    Parameters
    ----------
    architecture : str
    arguments : mapping
        ``n_classes`` and ``dimensions`` among them.
    patch : sequence of int
        Voxels along the axes of the network.

    Raises
    ------
    ValueError
        If the network cannot be made of its arguments, or does not take the patch.
    """
    with torch.device("meta"):
        network = make_network(architecture, arguments).eval()
    shape = (1, int(arguments.get("in_slices", 1)), *patch)
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            result = network(torch.empty(shape, device="meta"))
        if tuple(result.shape[2:]) != tuple(patch):
            raise RuntimeError(f"it turns {tuple(patch)} voxels into {tuple(result.shape[2:])}")
    except RuntimeError as error:
        raise ValueError(
            f"{architecture} {dict(arguments)} does not take inputs of {tuple(patch)} ({str(error).splitlines()[0]}): each length "
            "must be a multiple of its stride"
        ) from error
    return Cost(sum(p.numel() for p in network.parameters()), int(counter.get_total_flops()))
