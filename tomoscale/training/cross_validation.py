"""Cross-validation: a network for each fold, judged by samples it has not seen, and all of them as one ensemble.

.. code-block:: text

    output/
      cross_validation.json    what was asked for, then all results
      cross_validation.csv     the table
      report.html              the table and the curves
      fold_1/, fold_2/, ...    a training each, as `fit` writes it
      ensemble/                a bundle whose members are the best networks of all folds
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tomoscale.errors import InputError, PlanError
from tomoscale.measures.overlap import pooled
from tomoscale.networks.bundle import Bundle, load_bundle, save_bundle
from tomoscale.networks.card import Card
from tomoscale.places import local_path, replace_text
from tomoscale.training.fold_table import csv_of, page_of, quantities, table_of
from tomoscale.training.folds import Labelled
from tomoscale.training.loop import TrainingResult, fit
from tomoscale.training.output import DESCRIPTION, Output
from tomoscale.training.preparation import PreparedData, check_network, check_slices, prepare
from tomoscale.training.recipe import Recipe, as_document
from tomoscale.training.result_folder import ResultFolder
from tomoscale.training.samples import Data
from tomoscale.training.transfer import refuse_seen
from tomoscale.work import Work

PROGRAM = "tomoscale cross-validation 1"
RESULTS, TABLE, PAGE, ENSEMBLE = "cross_validation.json", "cross_validation.csv", "report.html", "ensemble"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation does.

    Attributes
    ----------
    recipe : Recipe
        Of every fold.
    labelled : Labelled
    folds : int
    name : str
        Of the networks, for their cards.
    start_from : Bundle or None
        Whose weights every fold starts from. It must not have seen the samples.
    """

    recipe: Recipe
    labelled: Labelled
    folds: int = 4
    name: str = "network"
    start_from: Bundle | None = None

    def document(self) -> dict[str, Any]:
        """JSON values that say all of it; what belongs to this machine alone left out."""
        data = self.labelled
        return {
            "name": self.name,
            "folds": self.folds,
            "recipe": {**as_document(self.recipe), "machine": {"precision": self.recipe.machine.precision}},
            "classes": [c.name for c in data.classes],
            "samples": [s.name for s in data.samples],
            "groups": list(data.groups),
            "start_from": None if self.start_from is None else self.start_from.weights_sha256,
        }


def cross_validate(
    plan: CrossValidation,
    output: str | Path,
    *,
    resume: bool = False,
    only: int | None = None,
    tell: Tell | None = None,
    work: Work | None = None,
) -> dict[str, Any]:
    """Train a network for each fold, and put what they reach into one table.

    Everything is looked at before the first fold is trained. Folds that are finished are not trained again.

    Parameters
    ----------
    plan : CrossValidation
    output : path
        A new folder; with `resume` one that the same cross-validation has begun.
    resume : bool
        Go on with the first fold that is not finished, from its last checkpoint.
    only : int, optional
        Train this fold (from 1) and stop: folds may then be trained by different machines at once.
    tell : callable, optional
        Gets lines of text.
    work : Work, optional
        Runs the passes that count the data; its ``overwrite`` removes an earlier cross-validation.

    Returns
    -------
    dict
        The content of ``cross_validation.json``; with `only`, of its one fold (nothing in all but the first process of a
        training on several devices).

    Raises
    ------
    InputError, PlanError, ValueError
        Before anything is trained: as `fit` for any fold; if samples are too few, or the output is in the way.
    Interrupted
        If a signal stopped it.
    """
    work, folder, said = work or Work(progress=False), local_path(output).absolute(), tell or (lambda line: None)
    folds = plan.labelled.folds(plan.folds)
    _check(plan, folds, only, work)
    network = check_network(plan.recipe, len(plan.labelled.classes))
    quiet = Work(work.client, work.resources, progress=work.progress)
    results_in(folder).claim(plan.document(), resume=resume or only is not None, overwrite=work.overwrite)
    for number, data in enumerate(folds, 1):
        if not _begun(folder / f"fold_{number}"):
            check_slices(network, plan.recipe, _prepare(number, data, plan, folder, quiet))
    results = []
    for number, data in enumerate(folds, 1):
        if only in (None, number):
            results.append(_train(number, data, plan, folder, (said, quiet)))
    if only is not None:
        # Of several processes that train one network, the first tells.
        return _fold(only, results[0], folds[only - 1], plan) if results[0].first else {}
    return _sum_up(plan, folder, folds, results)


def _train(number: int, data: Data, plan: CrossValidation, folder: Path, how: tuple[Tell, Work]) -> TrainingResult:
    said, work = how
    return fit(
        plan.recipe,
        data,
        folder / f"fold_{number}",
        resume=True,
        start_from=plan.start_from,
        name=f"{plan.name}, fold {number} of {plan.folds}",
        tell=lambda line: said(f"fold {number} of {plan.folds}: {line}"),
        work=work,
    )


def _check(plan: CrossValidation, folds: Sequence[Data], only: int | None, work: Work) -> None:
    """Refuse what makes no sense, before anything is written."""
    if only is not None and not 1 <= only <= len(folds):
        raise ValueError(f"there are folds 1 to {len(folds)}, and no fold {only}")
    if only is not None and work.overwrite:
        raise ValueError("one fold alone does not overwrite, which would remove all others: remove the output yourself")
    if plan.recipe.machine.devices > 1 and only is None:
        raise PlanError(
            f"the recipe trains on {plan.recipe.machine.devices} devices, whose processes train one network: give only=1, "
            "only=2, ... one after the other, and machine: devices: 1 to put the finished folds together"
        )
    for data in folds:
        if plan.start_from is not None:
            refuse_seen(plan.start_from, data)


def results_in(folder: Path) -> ResultFolder:
    """Where the results of a cross-validation lie."""
    return ResultFolder(folder, RESULTS, PROGRAM, "a cross-validation")


def _begun(folder: Path) -> bool:
    return (folder / DESCRIPTION).exists()


def _prepare(number: int, data: Data, plan: CrossValidation, folder: Path, work: Work) -> PreparedData:
    """Count the data of a fold and refuse leaks; its training finds the records."""
    try:
        return prepare(data, plan.recipe, Output(folder / f"fold_{number}").passes, work)
    except InputError as error:
        judged = ", ".join(s.name for s in data.validation)
        raise InputError(f"fold {number}, judged by {judged}: {error}") from error


def _fold(number: int, result: TrainingResult, data: Data, plan: CrossValidation) -> dict[str, Any]:
    names = [c.name for c in plan.labelled.classes]
    return {
        "fold": number,
        "model": str(result.best),
        "training": [s.name for s in data.training],
        "validation": [s.name for s in data.validation],
        "steps": result.steps,
        "best_step": result.best_step,
        "iou": _known(quantities(result.confusion, names)),
        "confusion": result.confusion.tolist(),
        "seconds": round(result.seconds, 1),
    }


def _sum_up(
    plan: CrossValidation, folder: Path, folds: Sequence[Data], results: Sequence[TrainingResult]
) -> dict[str, Any]:
    names = [c.name for c in plan.labelled.classes]
    found = [quantities(r.confusion, names) for r in results]
    ensemble = _ensemble(plan, folder, results)
    content = {
        "asked": plan.document(),
        "folds": [_fold(n, r, d, plan) for n, (r, d) in enumerate(zip(results, folds, strict=True), 1)],
        "table": {name: _known(values) for name, values in table_of(found).items()},
        "pooled": _known(quantities(pooled([r.confusion for r in results]), names)),
        "ensemble": str(ensemble),
    }
    results_in(folder).write(content)
    replace_text(folder / TABLE, csv_of(found).rstrip())
    lines = [Output(folder / f"fold_{n}").lines() for n in range(1, len(folds) + 1)]
    judged_by = [[s.name for s in d.validation] for d in folds]
    replace_text(folder / PAGE, page_of(plan.name, names, found, lines, judged_by))
    return {"program": PROGRAM, **content, "output": str(folder), "report": str(folder / PAGE)}


def _ensemble(plan: CrossValidation, folder: Path, results: Sequence[TrainingResult]) -> Path:
    """Bundle of the best networks of all folds; one that is there already is kept if it is that."""
    members = [load_bundle(r.best) for r in results]
    path, hashes = folder / ENSEMBLE, tuple(m.weights_sha256 for m in members)
    if path.exists():
        if load_bundle(path).member_sha256 == hashes:
            return path
        shutil.rmtree(path)
    first = members[0].card
    told = {
        "cross_validation": {"folds": plan.folds, "members": [m.card.name for m in members]},
        "recipe": as_document(plan.recipe),
        "validation_samples": [list(m.card.training["validation_samples"]) for m in members],
        "mean_iou": [_number(float(m.card.training["validation"]["mean_iou"])) for m in members],
    }
    card = Card(
        f"{plan.name}, {plan.folds} folds",
        first.classes,
        first.voxel_size_um,
        first.normalisation,
        first.windows,
        told,
    )
    save_bundle(path, [m.network() for m in members], card, members[0].reach)
    return path


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _number(v) for name, v in values.items()}


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
