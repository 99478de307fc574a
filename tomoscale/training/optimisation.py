"""How weights follow the gradient, and when to stop: all state is numbers that a checkpoint can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from tomoscale.training.recipe import Optimiser, Schedule, Stop


def make_optimiser(parameters: Iterable[nn.Parameter], how: Optimiser) -> torch.optim.Optimizer:
    """Return the optimiser of a recipe; rates are set before every step."""
    chosen = list(parameters)
    if how.kind == "sgd":
        return torch.optim.SGD(
            chosen, how.rate, momentum=how.momentum, weight_decay=how.weight_decay, nesterov=how.nesterov
        )
    if how.kind == "adadelta":
        return torch.optim.Adadelta(chosen, how.rate, weight_decay=how.weight_decay)
    kind = torch.optim.Adam if how.kind == "adam" else torch.optim.AdamW
    return kind(chosen, how.rate, weight_decay=how.weight_decay)


@dataclass(frozen=True)
class Judgement:
    """What validations have said so far.

    Attributes
    ----------
    best : float
        Best score; larger is better (a loss counts negative).
    best_step : int
        0 before the first.
    waited : int
        Validations since the last gain.
    lowest_loss : float
    lowest_step : int
        Last step at which the loss fell, or the rate was reduced because it did not.
    reduced : int
        How often the rate was reduced.
    """

    best: float = -math.inf
    best_step: int = 0
    waited: int = 0
    lowest_loss: float = math.inf
    lowest_step: int = 0
    reduced: int = 0

    def after(self, step: int, score: float, loss: float, stop: Stop, schedule: Schedule) -> Judgement:
        """Judgement after a validation."""
        gain = score > self.best + stop.least_gain * (abs(self.best) if math.isfinite(self.best) else 0)
        result = replace(self, waited=self.waited + 1)
        if gain:
            result = replace(result, best=score, best_step=step, waited=0)
        if loss < self.lowest_loss:
            return replace(result, lowest_loss=loss, lowest_step=step)
        if schedule.kind == "plateau" and step - self.lowest_step >= schedule.patience_steps:
            return replace(result, lowest_step=step, reduced=self.reduced + 1)
        return result

    def stops(self, stop: Stop) -> bool:
        """Whether training stops early."""
        return bool(stop.patience) and self.waited >= stop.patience


def rate_factor(how: Schedule, step: int, steps: int, reduced: int) -> float:
    """What the rate is multiplied with at a step, counted from 0.

    Examples
    --------
    >>> [round(rate_factor(Schedule("poly", power=1.0), step, 4, 0), 2) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if how.kind == "poly":
        return float((1 - step / steps) ** how.power)
    if how.kind == "plateau":
        return how.factor**reduced
    if how.kind == "one_cycle":
        done = (step + 0.5) / steps
        if done < how.rise:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * done / how.rise)) / 2
        return (1 + math.cos(math.pi * (done - how.rise) / (1 - how.rise))) / 2
    return 1.0


class MovingAverage:
    """Average of the weights over the last steps, ``a <- d a + (1 - d) w``; other tensors are copied.

    Parameters
    ----------
    module : torch module
    decay : float
        In the beginning less, so that the first weights are forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].mul_(decay).add_(tensor, alpha=1 - decay)
            else:
                self.state[name].copy_(tensor)
