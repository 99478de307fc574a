"""Train a network: steps that depend on the seed and their number alone, judged on whole slices, stopped and resumed anywhere.

.. code-block:: text

    output/
      training.json            recipe, classes, samples
      progress.jsonl           one line for every validation: step, loss, rate, IoU of each class
      curves.png, losses.png   the same, drawn; together with a table in curves.html
      checkpoint.safetensors   all that the next step depends on
      best/, last/             bundles for `tomoscale segment`
      passes/                  records of the passes that counted the data
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tomoscale.errors import InputError, Interrupted
from tomoscale.measures.overlap import iou, mean_iou
from tomoscale.networks.bundle import Bundle
from tomoscale.places import local_path
from tomoscale.training.devices import Devices, devices_of
from tomoscale.training.interruption import stop_requested
from tomoscale.training.judging import judge
from tomoscale.training.losses import loss_of
from tomoscale.training.optimisation import rate_factor
from tomoscale.training.output import Output, digest_of
from tomoscale.training.patches import Patches
from tomoscale.training.preparation import PreparedData, check_network, check_slices, prepare
from tomoscale.training.recipe import Recipe
from tomoscale.training.samples import Data
from tomoscale.training.state import Training, go_on, save, start
from tomoscale.training.transfer import refuse_seen, start_of
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
    first : bool
        Whether this process is the one that has written; False in the others of a training on several devices.
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
    first: bool = True


def fit(  # noqa: PLR0913 -- what to learn, how, where to, and three ways to run it
    recipe: Recipe,
    data: Data,
    output: str | Path,
    *,
    resume: bool = False,
    start_from: nn.Module | Bundle | None = None,
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
    start_from : torch module or Bundle, optional
        A network of the same architecture whose weights are the first; of a bundle for other classes, all but its head (see
        `start_of`), which the card of the result says.
    name : str
        Of the network, for its card.
    tell : callable, optional
        Gets a line of text every ten seconds.
    work : Work, optional
        Runs the passes that count the data.

    Returns
    -------
    TrainingResult

    Raises
    ------
    InputError, PlanError, ValueError
        Before anything is trained: see `prepare` and `check_network`; if the output is in the way, or belongs to another
        training.
    Interrupted
        If a signal stopped it; a checkpoint was written.

    Examples
    --------
    Learn from one labelled scan, judged on another::

        from tomoscale import fit, open_volume
        from tomoscale.networks.card import ModelClass
        from tomoscale.training.presets import preset
        from tomoscale.training.samples import Data, Sample

        first = Sample("T04", open_volume("T04.zarr"), open_volume("T04_labels.zarr"))
        second = Sample("T07", open_volume("T07.zarr"), open_volume("T07_labels.zarr"))
        classes = (ModelClass(0, "background"), ModelClass(1, "metal"))
        result = fit(preset("silveira2023"), Data(classes, (first,), (second,), (5.0, 5.0, 5.0)), "network/")
        print(result.mean_iou, result.best)  # the folder is a model for `segment`
    """
    network = check_network(recipe, len(data.classes))
    devices = devices_of(recipe)
    folder = Output(local_path(output).absolute())
    origin: dict[str, Any] = {}
    if isinstance(start_from, Bundle):
        refuse_seen(start_from, data)
        begun = start_of(start_from, recipe, data.classes)
        start_from, origin = begun.network, begun.origin
    prepared = _prepare(recipe, data, folder, devices, resume, work or Work(progress=False), origin)
    check_slices(network, recipe, prepared)
    with _steady(recipe.machine.threads):
        training = start(recipe, data, prepared, devices, start_from)
    training.name, training.origin = name, origin
    training.digest = digest_of(recipe, data, prepared, origin)
    if resume and folder.checkpoint.exists():
        go_on(training, folder)
    with stop_requested() as stop, _steady(recipe.machine.threads):
        _run(training, folder, stop, tell if tell and devices.first else (lambda line: None))
    return _result(training, folder)


def _prepare(  # noqa: PLR0913 -- what is counted, and all that the record of a training holds
    recipe: Recipe, data: Data, folder: Output, devices: Devices, resume: bool, work: Work, origin: dict[str, Any]
) -> PreparedData:
    """Count the data in the first process; the others read what it has recorded."""
    quiet = Work(work.client, work.resources, progress=work.progress)
    prepared, error = None, None
    if devices.first:
        try:
            folder.claim(resume, overwrite=work.overwrite)
            prepared = prepare(data, recipe, folder.passes, quiet)
            folder.describe(recipe, data, digest_of(recipe, data, prepared, origin))
        except Exception as found:  # told to all processes first, which would wait for ever
            error = found
    told = devices.agree("" if error is None else str(error))
    if error is not None:
        raise error
    if told:
        raise InputError(told)
    return prepared or prepare(data, recipe, folder.passes, quiet)


def _run(training: Training, folder: Output, stop: Callable[[], bool], tell: Callable[[str], None]) -> None:
    recipe, stops = training.recipe, training.recipe.stop
    patches = Patches(training.prepared.training, recipe)
    before, started, shown = training.seconds, time.monotonic(), time.monotonic()
    mine = training.devices.share_of(recipe.sampling.batch)
    if training.finished():
        return
    with closing(patches.batches(range(training.step, stops.steps), mine)) as batches:
        for values, labels in batches:
            loss = training.devices.mean(_step(training, values, labels))
            training.losses.append(loss)
            training.step += 1
            training.seconds = before + time.monotonic() - started
            judged = training.step % stops.validate_every == 0 or training.step == stops.steps
            if judged:
                tell(judge(training, folder))
            asked = training.devices.any(stop())
            if judged or asked or training.step % stops.checkpoint_every == 0:
                training.seconds = before + time.monotonic() - started
                save(training, folder)
            if training.finished():
                return
            if asked:
                raise Interrupted(
                    f"stopped after step {training.step} of {stops.steps}; the checkpoint is written, go on with resume=True"
                )
            if time.monotonic() - shown > SHOW_SECONDS:
                shown = time.monotonic()
                tell(f"step {training.step} of {stops.steps}, loss {loss:.4f}, {training.seconds / 60:.1f} min")


def _step(training: Training, values: torch.Tensor, labels: torch.Tensor) -> float:
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
            loss = (
                loss_of(devices.outputs(training.network, some, recipe.loss), known.to(devices.device), training.loss)
                / parts
            )
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


def _result(training: Training, folder: Output) -> TrainingResult:
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
        training.devices.first,
    )


@contextmanager
def _steady(wanted: int) -> Iterator[None]:
    """Use a number of threads of the CPU (0 takes all cores), and on a GPU algorithms that give the same bits each time."""
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or len(os.sched_getaffinity(0)))
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            yield
    finally:
        torch.set_num_threads(before)
