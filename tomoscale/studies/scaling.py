"""How IoU grows with the cost of a scaled U-Net: depth x width x input size (Baltruschat et al. 2021, "Scaling the U-Net").

.. code-block:: text

    output/
      scaling.json, scaling.csv   a row for each network: parameters, FLOPs, IoU
      scaling.svg                 FLOPs against IoU
      report.html                 both, with the published numbers beside
      d3_w32_s384/, ...           a cross-validation each
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tomoscale.networks.cost import cost_of
from tomoscale.places import local_path, replace_text
from tomoscale.report.charts import marks_chart
from tomoscale.report.figures import Chart
from tomoscale.report.page import chart, page, table
from tomoscale.studies.published import IOU_OF_SCALING, printed
from tomoscale.studies.tables import csv_text
from tomoscale.training.cross_validation import CrossValidation, cross_validate
from tomoscale.training.fold_table import ALL, FOREGROUND
from tomoscale.training.preparation import check_network, network_arguments
from tomoscale.training.recipe import Network, Recipe
from tomoscale.training.result_folder import ResultFolder
from tomoscale.work import Work

PROGRAM = "tomoscale scaling 1"
COLUMNS = ("depth", "width", "input_size", "parameters", "flops", "mean_iou", "standard_error", "foreground_iou")


@dataclass(frozen=True)
class Grid:
    """Networks of a study: all combinations, those of the paper by default.

    Attributes
    ----------
    depths : tuple of int
        Poolings.
    widths : tuple of int
        Channels at full resolution.
    sizes : tuple of int
        Voxels along y and x of an input.
    """

    depths: tuple[int, ...] = (3, 4, 5, 6)
    widths: tuple[int, ...] = (32, 64, 96, 112)
    sizes: tuple[int, ...] = (384, 512, 640)

    def recipes(self, start: Recipe) -> dict[str, tuple[tuple[int, int, int], Recipe]]:
        """(depth, width, size) and recipe of each network, by its name."""
        found = {}
        for depth, width, size in itertools.product(self.depths, self.widths, self.sizes):
            network = Network("scaled_unet", {"depth": depth, "width": width})
            sampling = replace(start.sampling, patch=(size, size))
            found[f"d{depth}_w{width}_s{size}"] = (
                (depth, width, size),
                replace(start, network=network, sampling=sampling),
            )
        return found


def costs(grid: Grid, n_classes: int, start: Recipe | None = None) -> list[dict[str, Any]]:
    """Parameters and FLOPs of every network of a grid, a row each, without training any.

    Raises
    ------
    ValueError
        If a network does not take its input size.
    """
    rows = []
    for (depth, width, size), recipe in grid.recipes(start or Recipe()).values():
        cost = cost_of(recipe.network.architecture, network_arguments(recipe, n_classes), recipe.sampling.patch)
        rows.append({"depth": depth, "width": width, "input_size": size, **asdict(cost)})
    return rows


def scaling(
    plan: CrossValidation,
    grid: Grid,
    output: str | Path,
    *,
    resume: bool = False,
    tell: Callable[[str], None] | None = None,
    work: Work | None = None,
) -> dict[str, Any]:
    """Cross-validate every network of a grid, and hold IoU against cost.

    All networks are checked before the first is trained; a study that was stopped goes on where it was.

    Parameters
    ----------
    plan : CrossValidation
        Its recipe's network and patch are replaced.
    grid : Grid
    output : path
    resume : bool
    tell : callable, optional
        Gets lines of text.
    work : Work, optional

    Returns
    -------
    dict
        The content of ``scaling.json``, with the paths of plot and page.

    Raises
    ------
    InputError, PlanError, ValueError
        As `cross_validate`.
    """
    work, said = work or Work(progress=False), tell or (lambda line: None)
    n_classes = len(plan.labelled.classes)
    rows, recipes = costs(grid, n_classes, plan.recipe), grid.recipes(plan.recipe)
    for _, recipe in recipes.values():
        check_network(recipe, n_classes)
    folder = ResultFolder(local_path(output).absolute(), "scaling.json", PROGRAM, "a scaling study")
    folder.claim({"grid": asdict(grid), **plan.document()}, resume=resume, overwrite=work.overwrite)
    quiet = replace(work, overwrite=False)
    for row, (name, (_, recipe)) in zip(rows, recipes.items(), strict=True):
        own = replace(plan, recipe=recipe, name=f"{plan.name} {name}")
        place = folder.path / name
        found = cross_validate(own, place, resume=place.exists(), tell=_told(said, name), work=quiet)
        row["mean_iou"] = found["table"][ALL]["mean"]
        row["standard_error"] = found["table"][ALL]["standard_error"]
        row["foreground_iou"] = found["table"][FOREGROUND]["mean"]
    folder.write({"asked": folder.read()["asked"], "networks": rows})
    return {"program": PROGRAM, "networks": rows, **write_tables(folder.path, rows, plan.folds)}


def write_tables(folder: Path, rows: Sequence[dict[str, Any]], folds: int | None) -> dict[str, str]:
    """Write CSV, plot and page of the rows; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plot(rows)
    replace_text(folder / "scaling.csv", csv_text([COLUMNS, *([row.get(c) for c in COLUMNS] for row in rows)]).rstrip())
    replace_text(folder / "scaling.svg", drawn.svg.decode())
    body = table(
        "Networks without training." if folds is None else f"Networks, each cross-validated over {folds} folds.",
        ["depth", "width", "input", "parameters, million", "FLOPs of an input, 10⁹", "mean IoU", "without first class"],
        [
            [
                str(row["depth"]),
                str(row["width"]),
                str(row["input_size"]),
                f"{row['parameters'] / 1e6:.3f}",
                f"{row['flops'] / 1e9:.3f}",
                _shown(row.get("mean_iou"), row.get("standard_error")),
                _shown(row.get("foreground_iou")),
            ]
            for row in rows
        ],
        numbers=range(7),
    )
    body += chart(
        drawn.svg,
        "cost of the networks",
        "Marks for each depth, with the standard error over folds; FLOPs count multiplications and additions of convolutions.",
    )
    body += printed(IOU_OF_SCALING)
    replace_text(folder / "report.html", page("Scaling", f"<h1>Scaling of the U-Net</h1>\n{body}"))
    return {"output": str(folder), "plot": str(folder / "scaling.svg"), "report": str(folder / "report.html")}


def plot(rows: Sequence[dict[str, Any]]) -> Chart:
    """FLOPs against IoU with its standard error, marks for each depth; against parameters where nothing was trained.

    No line joins them: width and input size change from one to the next.
    """
    trained = any("mean_iou" in row for row in rows)
    series = []
    for depth in dict.fromkeys(row["depth"] for row in rows):
        chosen = [r for r in rows if r["depth"] == depth]
        values = [_number(r.get("mean_iou")) if trained else r["parameters"] for r in chosen]
        errors = [_number(r.get("standard_error")) for r in chosen]
        series.append((f"depth {depth}", [r["flops"] / 1e9 for r in chosen], values, errors))
    scale = {} if trained else {"yscale": "log"}
    return marks_chart(series, "FLOPs of an input, 10⁹", "mean IoU" if trained else "parameters", scale)


def _told(tell: Callable[[str], None], name: str) -> Callable[[str], None]:
    """Say whose lines these are."""
    return lambda line: tell(f"{name}: {line}")


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _shown(value: float | None, error: float | None = None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
