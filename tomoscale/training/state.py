"""The state of a training in one process: made new, or from a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tomoscale.errors import InputError
from tomoscale.networks.architectures import make_network, reach_of
from tomoscale.networks.reach import Reach
from tomoscale.training import checkpoint
from tomoscale.training.devices import Devices
from tomoscale.training.losses import LossFunction, class_weights, loss_function
from tomoscale.training.optimisation import Judgement, MovingAverage, make_optimiser
from tomoscale.training.output import Output
from tomoscale.training.preparation import PreparedData, network_arguments
from tomoscale.training.recipe import Recipe
from tomoscale.training.samples import Data


@dataclass
class Training:
    """All that a training is made of and has become; the one thing here that changes.

    Attributes
    ----------
    network, optimiser
        As the devices hold them.
    average : MovingAverage or None
    reach : Reach
    loss : callable
    name, digest : str
        Of the network for its card, and of all that the training depends on.
    origin : dict
        Whose weights it started from, for its card; empty for a new network.
    step : int
        Steps that are done.
    seconds : float
        Of the loop so far, over all resumed runs.
    losses : list of float
        Of the steps since the last validation.
    confusion : list of list of int
        Of the best validation.
    """

    recipe: Recipe
    data: Data
    prepared: PreparedData
    devices: Devices
    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None
    reach: Reach
    loss: LossFunction
    name: str = ""
    step: int = 0
    judgement: Judgement = field(default_factory=Judgement)
    digest: str = ""
    origin: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)

    def finished(self) -> bool:
        """Whether there is no step left to do."""
        return self.step >= self.recipe.stop.steps or self.judgement.stops(self.recipe.stop)


def start(
    recipe: Recipe, data: Data, prepared: PreparedData, devices: Devices, start_from: nn.Module | None
) -> Training:
    """Make network and optimiser, on their devices.

    Parameters
    ----------
    recipe : Recipe
    data : Data
    prepared : PreparedData
    devices : Devices
    start_from : torch module or None
        Its weights are the first.
    """
    torch.manual_seed(recipe.seed)
    arguments = network_arguments(recipe, len(data.classes))
    network = make_network(recipe.network.architecture, arguments)
    if start_from is not None:
        network.load_state_dict(start_from.state_dict())
    reach = reach_of(network)
    layout = torch.channels_last if recipe.dimensions == 2 else torch.channels_last_3d
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = make_optimiser(network.parameters(), recipe.optimiser)
    network, optimiser = devices.take(network, optimiser)
    average = MovingAverage(network, recipe.average) if recipe.average else None
    weights = class_weights(recipe.loss, prepared.totals)
    loss = loss_function(recipe.loss, None if weights is None else weights.to(devices.device))
    return Training(recipe, data, prepared, devices, network, optimiser, average, reach, loss)


def go_on(training: Training, folder: Output) -> None:
    """Go back to where the last checkpoint was written.

    Raises
    ------
    InputError
        If it is of another recipe or other data.
    """
    tensors, state = checkpoint.load(folder.checkpoint)
    if state["digest"] != training.digest:
        raise InputError(
            f"{folder.path} was begun with another recipe or other data (see its training.json): give another output, or the "
            "configuration it was begun with"
        )
    checkpoint.restore(tensors, training.network, training.optimiser, training.average)
    training.step, training.judgement = state["step"], checkpoint.judgement_of(state)
    training.seconds, training.losses, training.confusion = state["seconds"], state["losses"], state["confusion"]
    folder.forget_after(training.step)


def save(training: Training, folder: Output) -> None:
    """Write a checkpoint, from the first process."""
    if not training.devices.first:
        return
    state = checkpoint.state_of(
        training.step,
        training.judgement,
        training.digest,
        seconds=training.seconds,
        losses=training.losses,
        confusion=training.confusion,
    )
    checkpoint.save(
        folder.checkpoint, checkpoint.tensors_of(training.network, training.optimiser, training.average), state
    )
