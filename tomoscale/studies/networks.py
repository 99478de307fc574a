"""Networks compared as the papers do: each cross-validated, then used on the samples that it has not seen, and measured.

.. code-block:: text

    output/
      networks.json, networks.csv   a row for each network and sample: IoU of each class, DR, BIC, BV/TV, relative errors
      report.html                   the same, with the tables of the papers beside
      NETWORK/                      its cross-validation
      NETWORK/samples/SAMPLE/       labels by the network that had not seen the sample, and what was measured of them
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tomoscale.commands import CLASSES, convert
from tomoscale.errors import InputError
from tomoscale.networks.bundle import load_bundle
from tomoscale.networks.cost import cost_of
from tomoscale.phantom import Phantom
from tomoscale.places import local_path, replace_text
from tomoscale.report.page import page, table, text
from tomoscale.segmentation.segment import segment
from tomoscale.studies.published import IOU_OF_MODELS, METRICS_OF_MODELS, printed
from tomoscale.studies.sample import measure
from tomoscale.studies.tables import csv_text, over_samples, paper_table
from tomoscale.training.cross_validation import CrossValidation, cross_validate
from tomoscale.training.fold_table import plus_minus
from tomoscale.training.folds import Labelled
from tomoscale.training.preparation import check_network, network_arguments
from tomoscale.training.recipe import Recipe, as_document
from tomoscale.training.result_folder import ResultFolder
from tomoscale.training.samples import Sample
from tomoscale.volume import Volume
from tomoscale.work import Work

PROGRAM = "tomoscale networks 1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class NetworkComparison:
    """What is compared, on what.

    Attributes
    ----------
    recipes : mapping of name to Recipe
        Of each network.
    labelled : Labelled
        Samples labelled as a whole: background, metal, degradation layer, bone.
    folds : int
    references : mapping of sample to Volume
        The screw as implanted; without it there is no degradation rate and no bone fraction.
    healing_days : mapping of sample to float
        Needed for the degradation rate.
    roi_distance_um : float
        As for `measure`.
    """

    recipes: Mapping[str, Recipe]
    labelled: Labelled
    folds: int = 4
    references: Mapping[str, Volume] = field(default_factory=dict)
    healing_days: Mapping[str, float] = field(default_factory=dict)
    roi_distance_um: float = 1000.0

    def __post_init__(self) -> None:
        if not self.recipes:
            raise ValueError("there must be a network to compare")
        if len(self.labelled.classes) != len(CLASSES):
            raise ValueError(
                f"networks are compared by what is measured of {len(CLASSES)} classes "
                f"({', '.join(c.name for c in CLASSES)}, in this order), got {len(self.labelled.classes)}"
            )
        names = [*self.recipes, *(s.name for s in self.labelled.samples)]
        wrong = [n for n in names if not _NAME.fullmatch(n)]
        if wrong:
            raise ValueError(
                f"{wrong[0]!r} becomes a folder: give it letters, digits, spaces, dots, dashes and underscores"
            )
        sparse = [s.name for s in self.labelled.samples if s.slices or s.mask is not None]
        if sparse:
            raise InputError(
                f"sample {sparse[0]} is labelled in part: degradation and contact are of whole samples; leave slices and mask out"
            )

    def document(self) -> dict[str, Any]:
        """JSON values that say all of it."""
        return {
            "recipes": {
                n: {**as_document(r), "machine": {"precision": r.machine.precision}} for n, r in self.recipes.items()
            },
            "folds": self.folds,
            "classes": [c.name for c in self.labelled.classes],
            "samples": [s.name for s in self.labelled.samples],
            "groups": list(self.labelled.groups),
            "references": {name: volume.name for name, volume in self.references.items()},
            "healing_days": dict(self.healing_days),
            "roi_distance_um": self.roi_distance_um,
        }


def compare_networks(
    comparison: NetworkComparison,
    output: str | Path,
    *,
    resume: bool = False,
    tell: Tell | None = None,
    work: Work | None = None,
) -> dict[str, Any]:
    """Train every network over folds, label every sample by the one that has not seen it, measure, and tabulate.

    All networks are checked before the first is trained; a study that was stopped goes on where it was.

    Parameters
    ----------
    comparison : NetworkComparison
    output : path
    resume : bool
    tell : callable, optional
        Gets lines of text.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``networks.json``, with the path of the report.

    Raises
    ------
    InputError, PlanError, ValueError
        As `cross_validate` and `measure`.
    """
    work, said = work or Work(progress=False), tell or (lambda line: None)
    n_classes = len(comparison.labelled.classes)
    for recipe in comparison.recipes.values():
        check_network(recipe, n_classes)
    folder = ResultFolder(local_path(output).absolute(), "networks.json", PROGRAM, "a comparison of networks")
    folder.claim(comparison.document(), resume=resume, overwrite=work.overwrite)
    quiet = replace(work, overwrite=False)
    networks = {
        name: _network(name, recipe, comparison, folder.path, (said, quiet))
        for name, recipe in comparison.recipes.items()
    }
    rows = _rows(networks, [s.name for s in comparison.labelled.samples])
    content = {"asked": folder.read()["asked"], "networks": networks, "table": rows}
    folder.write(content)
    replace_text(folder.path / "networks.csv", csv_text(rows).rstrip())
    replace_text(folder.path / "report.html", _page(networks, rows, comparison))
    return {"program": PROGRAM, **content, "output": str(folder.path), "report": str(folder.path / "report.html")}


def make_phantoms(
    folder: str | Path, count: int, shape: tuple[int, int, int], seed: int, work: Work
) -> list[dict[str, Volume]]:
    """Make samples of real bone texture with a screw of known truth: "grey", "labels", "reference" of each, on disk."""
    made = []
    for number in range(count):
        phantom = Phantom(shape, seed + number)
        place = local_path(folder) / f"phantom_{seed + number}"
        parts: dict[str, Any] = {
            "grey": (phantom.scan, "grey"),
            "labels": (phantom.truth, "labels"),
            "reference": (phantom.screw, "mask"),
        }
        made.append(
            {
                name: convert(Volume(part, phantom.voxel_size_um), place / f"{name}.zarr", kind=kind, work=work)
                for name, (part, kind) in parts.items()
            }
        )
    return made


def _network(
    name: str, recipe: Recipe, comparison: NetworkComparison, folder: Path, how: tuple[Tell, Work]
) -> dict[str, Any]:
    """Cross-validate a network, and measure every sample."""
    said, work = how
    place, labelled = folder / name, comparison.labelled
    plan = CrossValidation(recipe, labelled, comparison.folds, name)
    found = cross_validate(plan, place, resume=place.exists(), tell=lambda line: said(f"{name}: {line}"), work=work)
    model_of = {sample: fold["model"] for fold in found["folds"] for sample in fold["validation"]}
    measured = {}
    for sample in labelled.samples:
        said(f"{name}: {sample.name} is labelled and measured")
        measured[sample.name] = _measured(
            sample, model_of[sample.name], place / "samples" / sample.name, comparison, work
        )
    cost = cost_of(recipe.network.architecture, network_arguments(recipe, len(labelled.classes)), recipe.sampling.patch)
    return {
        "architecture": recipe.network.architecture,
        "parameters": cost.parameters,
        "flops": cost.flops,
        "cross_validation": found["table"],
        "quantities": over_samples(measured),
    }


def _measured(sample: Sample, model: str, place: Path, comparison: NetworkComparison, work: Work) -> dict[str, Any]:
    """Label a sample by a network that has not seen it, and measure the labels."""
    size = comparison.labelled.voxel_size_um
    own = replace(work, runs=[])
    labels = segment(replace(sample.grey, voxel_size_um=size), place / "labels.zarr", model=model, work=own)
    bundle = load_bundle(model)
    result = measure(
        labels,
        place / "results",
        truth=replace(sample.labels, voxel_size_um=size),
        reference=comparison.references.get(sample.name),
        healing_days=comparison.healing_days.get(sample.name),
        roi_distance_um=comparison.roi_distance_um,
        model={"name": bundle.card.name, "weights_sha256": bundle.weights_sha256},
        work=own,
    )
    assert result is not None
    # As it is stored, so that a run that was stopped and one that was not give the same.
    return dict(json.loads((place / "results" / "results.json").read_text("utf-8")))


def _rows(networks: Mapping[str, Mapping[str, Any]], samples: Sequence[str]) -> list[list[str | None]]:
    """Table of the papers, with the network in front."""
    rows: list[list[str | None]] = []
    for name, network in networks.items():
        head, *own = paper_table(network["quantities"], samples)
        if not rows:
            rows.append(["network", *head])
        rows += [[name, *row] for row in own]
    return rows


def _page(
    networks: Mapping[str, Mapping[str, Any]], rows: Sequence[Sequence[str | None]], comparison: NetworkComparison
) -> str:
    means = list(next(iter(networks.values()))["cross_validation"])
    body = table(
        f"IoU in per cent over {comparison.folds} folds, mean ± standard error (standard deviation, ddof 1, over the root of "
        "the number of folds), on validation slices or windows as they are trained on.",
        ["network", "parameters, million", "FLOPs of an input, 10⁹", *map(text, means)],
        [
            [
                text(name),
                f"{n['parameters'] / 1e6:.3f}",
                f"{n['flops'] / 1e9:.3f}",
                *(plus_minus(_numbers(n["cross_validation"][m])) for m in means),
            ]
            for name, n in networks.items()
        ],
        numbers=range(1, len(means) + 3),
    )
    head, *rest = rows
    body += table(
        "Every sample, labelled by the network that had not seen it; relative errors against the truth, rounded.",
        [text(c) for c in head],
        [["" if c is None else text(c) for c in row] for row in rest],
        numbers=range(2, len(head)),
    )
    body += "<h2>Published for comparison</h2>\n" + printed(IOU_OF_MODELS) + printed(METRICS_OF_MODELS)
    return page("Networks compared", f"<h1>Networks compared</h1>\n{body}")


def _numbers(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None else v for k, v in value.items()}
