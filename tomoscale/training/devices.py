"""Where a training computes: one device or several, in full or half precision, by Lightning Fabric."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from tomoscale.errors import PlanError
from tomoscale.training.losses import Outputs, side_weights
from tomoscale.training.preparation import accelerator_of
from tomoscale.training.recipe import Loss, Recipe

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


SEVERAL = "all_outputs"
"""Method of a network that returns its logits and those of its side outputs, from the finest."""


class Devices:
    """The devices of a training, seen from one process.

    Parameters
    ----------
    fabric : lightning.fabric.Fabric
        Launched.
    """

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric

    @property
    def device(self) -> torch.device:
        """That of this process."""
        device: torch.device = self.fabric.device
        return device

    @property
    def first(self) -> bool:
        """Whether this process writes."""
        return bool(self.fabric.is_global_zero)

    def take(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Put a network and its optimiser on the devices."""
        if self.fabric.world_size > 1 and self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        taken, optimiser = self.fabric.setup(network, optimiser)
        if hasattr(self.plain(taken), SEVERAL):
            taken.mark_forward_method(SEVERAL)
        return taken, optimiser

    def agree(self, error: str) -> str:
        """What the first process has to say to all: nothing, or why it cannot go on."""
        return str(self.fabric.broadcast(error))

    def any(self, said: bool) -> bool:
        """Whether any process says so."""
        if self.fabric.world_size == 1:
            return said
        return bool(self.fabric.all_reduce(torch.tensor(float(said), device=self.device), reduce_op="sum") > 0)

    def mean(self, value: float) -> float:
        """Mean of a number over the processes."""
        if self.fabric.world_size == 1:
            return value
        return float(self.fabric.all_reduce(torch.tensor(value, device=self.device), reduce_op="mean"))

    def share_of(self, batch: int) -> range:
        """Patches of a batch that this device takes."""
        return range(self.fabric.global_rank, batch, self.fabric.world_size)

    def outputs(self, network: Any, values: torch.Tensor, how: Loss) -> Outputs:
        """Logits of a network in training, with those of its side outputs if it has ``all_outputs(values)``."""
        layout = torch.channels_last if values.ndim == 4 else torch.channels_last_3d
        moved = values.to(self.device, memory_format=layout)
        if not hasattr(self.plain(network), SEVERAL):
            return [(network(moved), 1.0)]
        found = network.all_outputs(moved)
        return list(zip(found, side_weights(how, len(found)), strict=True))

    def forward_of(self, network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what validates a network: as in training, but without gradients."""

        def forward(values: torch.Tensor) -> torch.Tensor:
            layout = torch.channels_last if values.ndim == 4 else torch.channels_last_3d
            with torch.inference_mode():
                logits: torch.Tensor = network(values.to(memory_format=layout))
                return logits.float()

        return forward

    def accumulating(self, network: nn.Module, more: bool) -> AbstractContextManager[None]:
        """Keep devices from exchanging gradients while there are more parts of the batch."""
        if self.fabric.world_size == 1:
            return nullcontext()
        result: AbstractContextManager[None] = self.fabric.no_backward_sync(network, enabled=more)
        return result

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss."""
        self.fabric.backward(loss)

    def clip(self, network: nn.Module, optimiser: torch.optim.Optimizer, norm: float) -> None:
        """Make the gradient no longer than `norm`."""
        self.fabric.clip_gradients(network, optimiser, max_norm=norm)

    def plain(self, network: nn.Module) -> nn.Module:
        """Return the network itself, as bundles know it."""
        module: nn.Module = getattr(network, "module", network)
        return module


def devices_of(recipe: Recipe) -> Devices:
    """Start the devices of a recipe.

    Raises
    ------
    PlanError
        If Lightning is not installed, or the devices are not there.
    """
    if importlib.util.find_spec("lightning") is None:
        raise PlanError("training needs Lightning, which is not installed: install tomoscale[train]")
    from lightning.fabric import Fabric
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment

    # They log what the recipe says already.
    for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    accelerator = accelerator_of(recipe)
    # Under Slurm its tasks are the devices; elsewhere Fabric would warn of any srun it finds.
    alone = recipe.machine.devices == 1 or "SLURM_NTASKS" not in os.environ
    fabric = Fabric(
        accelerator=accelerator,
        devices=recipe.machine.devices,
        precision=PRECISIONS[recipe.machine.precision],  # type: ignore[arg-type]
        plugins=[LightningEnvironment()] if alone else None,
    )
    fabric.launch()
    return Devices(fabric)
