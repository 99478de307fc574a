"""Judge a network in training on the validation data, write how it goes, and keep the best."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn
from torch.optim.swa_utils import update_bn

from tomoscale.measures.overlap import iou, mean_iou
from tomoscale.networks.card import Card, Windows
from tomoscale.training.output import Output
from tomoscale.training.recipe import as_document
from tomoscale.training.state import Training
from tomoscale.training.validation import measures_anew, validate, whole_slices


def judge(training: Training, folder: Output) -> str:
    """Validate, write the line of progress and the bundles; return what to tell."""
    recipe = training.recipe
    with _weights_to_judge(training) as network:
        confusion, loss = validate(
            training.devices.forward_of(network),
            training.prepared.validation,
            recipe,
            training.reach.stride,
            training.devices.device,
        )
        by_class, mean = iou(confusion), mean_iou(confusion, tuple(range(len(confusion))))
        score = mean if recipe.stop.watch == "iou" else -loss
        judgement = training.judgement.after(training.step, score, loss, recipe.stop, recipe.schedule)
        line = {
            "step": training.step,
            "loss": float(np.mean(training.losses)),
            "validation_loss": loss,
            "rate": training.optimiser.param_groups[0]["lr"],
            "iou": [None if np.isnan(v) else round(float(v), 6) for v in by_class],
            "mean_iou": round(mean, 6),
            "minutes": round(training.seconds / 60, 2),
        }
        training.losses.clear()
        best = judgement.best_step == training.step
        training.judgement = judgement
        if best:
            training.confusion = confusion.tolist()
        if training.devices.first:
            card = _card(training, line)
            ended = training.step >= recipe.stop.steps or judgement.stops(recipe.stop)
            folder.note({**line, "ended": ended}, [c.name for c in training.data.classes])
            folder.save_bundles(training.devices.plain(network), card, training.reach, best=best)
    shown = ", ".join(f"{c.name} {v:.3f}" for c, v in zip(training.data.classes, by_class, strict=True))
    return f"step {training.step}: loss {line['loss']:.4f}, validation {loss:.4f}, IoU {shown}, mean {mean:.4f}"


@contextmanager
def _weights_to_judge(training: Training) -> Iterator[nn.Module]:
    """The network in eval mode, with the moving average of its weights if there is one, and statistics that belong to them."""
    network = training.network
    own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    if training.average is not None:
        network.load_state_dict(training.average.state)
    if measures_anew(training.recipe, network):
        slices = whole_slices(training.prepared.training, training.recipe, training.reach.stride)
        update_bn(slices, network, training.devices.device)
    network.eval()
    try:
        yield network
    finally:
        network.load_state_dict(own)
        network.train()


def _card(training: Training, line: dict[str, Any]) -> Card:
    recipe, data = training.recipe, training.data
    windows = None if training.reach.local else Windows(recipe.sampling.patch)
    told = {
        "recipe": as_document(recipe),
        "training_samples": [s.name for s in data.training],
        "validation_samples": [s.name for s in data.validation],
        "validation": line,
        **({"start_from": training.origin} if training.origin else {}),
    }
    return Card(training.name, data.classes, data.voxel_size_um, recipe.normalisation, windows, told)
