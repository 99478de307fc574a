"""Studies that train: how IoU grows with the cost of a network, and networks compared as the papers do."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli.command import Command, flag
from tomoscale.cli.folds import PARTS, folds_of, labelled_of, options, target_of, tell
from tomoscale.cli.training import bundle_of

if TYPE_CHECKING:
    from tomoscale.studies.scaling import Grid


def _scaling(  # noqa: PLR0913 -- each an option of its own
    config: str,
    *,
    output: Path | None,
    data: str | None,
    flops_only: bool,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> Any:
    from tomoscale.cli.train_config import read
    from tomoscale.studies.scaling import PROGRAM, costs, scaling, write_tables
    from tomoscale.training.cross_validation import Plan
    from tomoscale.work import Work

    if flops_only:
        given = read(config, data, parts={}, more=("samples", "folds", "grid"))
        rows = costs(_grid(given), len(given["data"].classes), given["recipe"])
        place = output or given["output"]
        written = {} if place is None else write_tables(Path(place).absolute(), rows, None)
        return {"program": PROGRAM, "networks": rows, **written}
    given = read(config, data, parts=PARTS, more=("folds", "grid"))
    target = target_of(output, given)
    plan = Plan(
        given["recipe"], labelled_of(given), folds_of(given), given["name"], start_from=bundle_of(given["start_from"])
    )
    work = Work(overwrite=overwrite, progress=False)
    return scaling(plan, _grid(given), target, resume=resume, tell=None if quiet else tell, work=work)


def _grid(given: dict[str, Any]) -> Grid:
    """Depths, widths and sizes that a configuration asks for."""
    from tomoscale.cli.train_config import part_of
    from tomoscale.studies.scaling import Grid

    setting = given["more"].get("grid")
    if setting is None:
        return Grid()
    grid = part_of(setting, Grid())
    for one in fields(grid):
        values = getattr(grid, one.name)
        if not values or min(values) < 1 or len(set(values)) < len(values):
            raise setting.error(f"must hold different whole numbers from 1 under {one.name}")
    return grid


def _scaled(result: dict[str, Any]) -> dict[str, Any]:
    rows = {}
    for row in result["networks"]:
        said = f"{row['parameters'] / 1e6:.3f} million parameters, {row['flops'] / 1e9:.3f} GFLOP"
        if row.get("mean_iou") is not None:
            error = row["standard_error"]
            said += f", mean IoU {row['mean_iou']:.4f}" + ("" if error is None else f" ± {error:.4f}")
        rows[f"depth {row['depth']}, width {row['width']}, input {row['input_size']}"] = said
    return {**rows, **({"report": result["report"]} if "report" in result else {})}


COMMANDS = (
    Command(
        "study scaling",
        "train U-Nets of many depths, widths and input sizes, and hold IoU against cost",
        "tomoscale study scaling examples/scaling.yaml --flops-only",
        _scaling,
        (
            *options(
                "YAML file of a cross-validation, and `grid: {depths, widths, sizes}` (default: the 48 of the paper)"
            ),
            flag("--flops-only", "count parameters and FLOPs and train nothing"),
        ),
        show=_scaled,
    ),
)
