"""Train a network: steps that depend on the seed and their number alone, judged on whole slices, stopped and resumed anywhere.

.. code-block:: text

    output/
      training.json            recipe, classes, samples
      progress.jsonl           one line for every validation: step, loss, rate, IoU of each class
      curves.png, curves.html  the same, drawn
      checkpoint.safetensors   all that the next step depends on
      best/, last/             bundles for `tomoscale segment`
      passes/                  records of the passes that counted the data
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tomoscale.errors import InputError, Interrupted
from tomoscale.measures.overlap import iou, mean_iou
from tomoscale.networks.architectures import make_network
from tomoscale.networks.card import Card, Windows
from tomoscale.networks.reach import Reach, probe
from tomoscale.training import checkpoint
from tomoscale.training.devices import Devices, devices_of
from tomoscale.training.interruption import stop_requested
from tomoscale.training.losses import LossFunction, class_weights, loss_function, loss_of
from tomoscale.training.optimisation import Judgement, MovingAverage, make_optimiser, rate_factor
from tomoscale.training.output import Output, digest_of
from tomoscale.training.patches import Patches
from tomoscale.training.preparation import PreparedData, check_network, network_arguments, prepare
from tomoscale.training.recipe import Recipe, as_document
from tomoscale.training.samples import Data
from tomoscale.training.validation import validate
from tomoscale.work import Work

SHOW_SECONDS = 10.0


@dataclass(frozen=True)
class TrainingResult:
    """What came out.

    Attributes
    ----------
    best, last : path
        Bundles.
    steps : int
        That were done, over all resumed runs.
    best_step : int
    confusion : (n_classes, n_classes) int64 array
        Of the best network on the validation data, by (truth, label).
    iou : tuple of float
        Of each class; NaN of one that is nowhere in the validation data.
    mean_iou : float
        Over the classes that are.
    stopped_early : bool
    seconds : float
        Of the loop, over all resumed runs.
    """

    best: Path
    last: Path
    steps: int
    best_step: int
    confusion: np.ndarray
    iou: tuple[float, ...]
    mean_iou: float
    stopped_early: bool
    seconds: float


def fit(  # noqa: PLR0913 -- what to learn, how, where to, and three ways to run it
    recipe: Recipe,
    data: Data,
    output: str | Path,
    *,
    resume: bool = False,
    start_from: nn.Module | None = None,
    name: str = "network",
    tell: Callable[[str], None] | None = None,
    work: Work | None = None,
) -> TrainingResult:
    """Train a network on labelled volumes.

    Parameters
    ----------
    recipe : Recipe
    data : Data
    output : path
        A new folder; with `resume` one that a training of the same recipe and data has begun.
    resume : bool
        Go on from the last checkpoint, if there is one: the result is the same to the bit as without the stop, on the
        same machine and number of threads.
    start_from : torch module, optional
        A network of the same architecture whose weights are the first.
    name : str
        Of the network, for its card.
    tell : callable, optional
        Gets a line of text every ten seconds.
    work : Work, optional
        Runs the passes that count the data.

    Raises
    ------
    InputError, PlanError, ValueError
        Before anything is trained: see `prepare` and `check_network`; if the output is in the way, or belongs to another
        training.
    Interrupted
        If a signal stopped it; a checkpoint was written.
    """
    work = work or Work(progress=False)
    folder = Output.of(output, resume, overwrite=work.overwrite)
    check_network(recipe, len(data.classes))
    folder.path.mkdir(parents=True, exist_ok=True)
    prepared = prepare(data, recipe, folder.passes, Work(work.client, work.resources, progress=work.progress))
    digest = digest_of(recipe, data, prepared)
    folder.describe(recipe, data, digest)
    training = _start(recipe, data, prepared, name, start_from)
    if resume and folder.checkpoint.exists():
        _resume(training, folder, digest)
    training.digest = digest
    with stop_requested() as stop, _threads(recipe.machine.threads):
        _run(training, folder, stop, tell or (lambda line: None))
    return _result(training, folder)


@dataclass
class _Training:
    """The state of a training in this process; the only thing here that changes."""

    recipe: Recipe
    data: Data
    prepared: PreparedData
    name: str
    devices: Devices
    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: MovingAverage | None
    reach: Reach
    loss: LossFunction
    step: int = 0
    judgement: Judgement = field(default_factory=Judgement)
    digest: str = ""
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        return self.step >= self.recipe.stop.steps or self.judgement.stops(self.recipe.stop)


def _start(recipe: Recipe, data: Data, prepared: PreparedData, name: str, start_from: nn.Module | None) -> _Training:
    """Make network and optimiser, on their devices."""
    devices = devices_of(recipe)
    torch.manual_seed(recipe.seed)
    arguments = network_arguments(recipe, len(data.classes))
    network = make_network(recipe.network.architecture, arguments)
    if start_from is not None:
        network.load_state_dict(start_from.state_dict())
    reach = probe(network, int(arguments.get("in_channels", 1)), recipe.dimensions)
    layout = torch.channels_last if recipe.dimensions == 2 else torch.channels_last_3d
    network = network.to(memory_format=layout)  # type: ignore[call-overload]
    optimiser = make_optimiser(network.parameters(), recipe.optimiser)
    network, optimiser = devices.take(network, optimiser)
    average = MovingAverage(network, recipe.average) if recipe.average else None
    weights = class_weights(recipe.loss, prepared.totals)
    loss = loss_function(recipe.loss, None if weights is None else weights.to(devices.device))
    return _Training(recipe, data, prepared, name, devices, network, optimiser, average, reach, loss)


def _resume(training: _Training, folder: Output, digest: str) -> None:
    tensors, state = checkpoint.load(folder.checkpoint)
    if state["digest"] != digest:
        raise InputError(
            f"{folder.path} was begun with another recipe or other data (see its training.json): give another output, or the "
            "configuration it was begun with"
        )
    checkpoint.restore(tensors, training.network, training.optimiser, training.average)
    training.step, training.judgement = state["step"], checkpoint.judgement_of(state)
    training.seconds, training.losses, training.confusion = state["seconds"], state["losses"], state["confusion"]
    folder.forget_after(training.step)


def _run(training: _Training, folder: Output, stop: Callable[[], bool], tell: Callable[[str], None]) -> None:
    recipe, stops = training.recipe, training.recipe.stop
    patches = Patches(training.prepared.training, recipe)
    before, started, shown = training.seconds, time.monotonic(), time.monotonic()
    mine = training.devices.share_of(recipe.sampling.batch)
    if training.finished:
        return
    batches = patches.batches(range(training.step, stops.steps), mine)
    for values, labels in batches:
        training.losses.append(_step(training, values, labels))
        training.step += 1
        training.seconds = before + time.monotonic() - started
        judged = training.step % stops.validate_every == 0 or training.step == stops.steps
        if judged:
            tell(_judge(training, folder))
        if judged or training.step % stops.checkpoint_every == 0 or stop():
            training.seconds = before + time.monotonic() - started
            _save(training, folder)
        if training.finished:
            batches.close()  # type: ignore[attr-defined]
            return
        if stop():
            batches.close()  # type: ignore[attr-defined]
            raise Interrupted(
                f"stopped after step {training.step} of {stops.steps}; the checkpoint is written, go on with --resume"
            )
        if time.monotonic() - shown > SHOW_SECONDS:
            shown = time.monotonic()
            tell(
                f"step {training.step} of {stops.steps}, loss {training.losses[-1]:.4f}, {training.seconds / 60:.1f} min"
            )


def _step(training: _Training, values: torch.Tensor, labels: torch.Tensor) -> float:
    """Do one step; return its loss."""
    recipe, devices = training.recipe, training.devices
    # What a layer draws (dropout) depends on the step alone, too.
    torch.manual_seed((recipe.seed * 1_000_003 + training.step) % 2**63)
    factor = rate_factor(recipe.schedule, training.step, recipe.stop.steps, training.judgement.reduced)
    for group in training.optimiser.param_groups:
        group["lr"] = recipe.optimiser.rate * factor
    training.network.train()
    training.optimiser.zero_grad()
    total, parts = 0.0, recipe.optimiser.accumulate
    for number, (some, known) in enumerate(zip(values.chunk(parts), labels.chunk(parts), strict=True), 1):
        with devices.accumulating(training.network, number < parts):
            loss = loss_of(devices.outputs(training.network, some), known.to(devices.device), training.loss) / parts
            devices.backward(loss)
        total += loss.item()
    if not np.isfinite(total):
        raise InputError(
            f"the loss is {total} at step {training.step + 1}: the training diverged; lower optimiser: rate, or set clip: 1"
        )
    if recipe.optimiser.clip:
        devices.clip(training.network, training.optimiser, recipe.optimiser.clip)
    training.optimiser.step()
    if training.average is not None:
        training.average.update(training.network, training.step + 1)
    return total


def _judge(training: _Training, folder: Output) -> str:
    """Validate, write the line and the bundles; return what to tell."""
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
            folder.note(line, [c.name for c in training.data.classes])
            folder.save_bundles(training.devices.plain(network), card, training.reach, best=best)
    shown = ", ".join(f"{c.name} {v:.3f}" for c, v in zip(training.data.classes, by_class, strict=True))
    return f"step {training.step}: loss {line['loss']:.4f}, validation {loss:.4f}, IoU {shown}, mean {mean:.4f}"


@contextmanager
def _weights_to_judge(training: _Training) -> Iterator[nn.Module]:
    """The network in eval mode, with the moving average of its weights if there is one."""
    network = training.network
    own = None
    if training.average is not None:
        own = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(training.average.state)
    network.eval()
    try:
        yield network
    finally:
        if own is not None:
            network.load_state_dict(own)
        network.train()


def _card(training: _Training, line: dict[str, Any]) -> Card:
    recipe, data = training.recipe, training.data
    windows = None if training.reach.local else Windows(recipe.sampling.patch)
    told = {
        "recipe": as_document(recipe),
        "training_samples": [s.name for s in data.training],
        "validation_samples": [s.name for s in data.validation],
        "validation": line,
    }
    return Card(training.name, data.classes, data.voxel_size_um, recipe.normalisation, windows, told)


def _save(training: _Training, folder: Output) -> None:
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


def _result(training: _Training, folder: Output) -> TrainingResult:
    confusion = np.array(training.confusion, np.int64)
    return TrainingResult(
        folder.best,
        folder.last,
        training.step,
        training.judgement.best_step,
        confusion,
        tuple(float(v) for v in iou(confusion)),
        mean_iou(confusion, tuple(range(len(confusion)))),
        training.step < training.recipe.stop.steps,
        training.seconds,
    )


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Use a number of threads of the CPU; 0 takes all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
