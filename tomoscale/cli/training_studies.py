"""Studies that train: how IoU grows with the cost of a network, and networks compared as the papers do."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import Command, flag
from tomoscale.cli.folds import PARTS, folds_of, labelled_of, options, target_of, tell
from tomoscale.cli.training import bundle_of
from tomoscale.places import local_path

if TYPE_CHECKING:
    from tomoscale.settings import Setting
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
    from tomoscale.training.cross_validation import CrossValidation
    from tomoscale.work import Work

    if flops_only:
        given = read(config, data, parts={}, more=("samples", "folds", "grid"))
        rows = costs(_grid(given), len(given["data"].classes), given["recipe"])
        place = output or given["output"]
        written = {} if place is None else write_tables(Path(place).absolute(), rows, None)
        return {"program": PROGRAM, "networks": rows, **written}
    given = read(config, data, parts=PARTS, more=("folds", "grid"))
    target = target_of(output, given)
    plan = CrossValidation(
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
    grid: Grid = part_of(setting, Grid())
    for one in fields(grid):
        found = getattr(grid, one.name)
        if not found or min(found) < 1 or len(set(found)) < len(found):
            raise setting.error(f"must hold different whole numbers from 1 under {one.name}")
    return grid


NETWORK_PARTS = {"samples": ("group", "reference", "healing-time")}
PHANTOM_KEYS = ("count", "size", "seed", "healing-time")


def _networks(
    config: str,
    *,
    output: Path | None,
    data: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> Any:
    from tomoscale import settings
    from tomoscale.cli.train_config import read
    from tomoscale.studies.networks import NetworkComparison, compare_networks
    from tomoscale.work import Work

    phantoms = "phantoms" in settings.load(config).mapping("a study of networks")
    more = ("folds", "networks", "roi-distance", *(("phantoms",) if phantoms else ()))
    given = read(config, data, parts={} if phantoms else NETWORK_PARTS, more=more)
    target = target_of(output, given)
    # What is wrong here is said before phantoms are made.
    recipes, folds, distance = _recipes(given), folds_of(given), given["more"].get("roi-distance")
    how = {} if distance is None else {"roi_distance_um": said_as(distance, values.length, "such as 1mm")}
    labelled, references, days = _phantoms(given, target) if phantoms else _samples(given)
    comparison = NetworkComparison(recipes, labelled, folds, references, days, **how)
    work = Work(overwrite=overwrite, progress=False)
    return compare_networks(comparison, target, resume=resume, tell=None if quiet else tell, work=work)


def _recipes(given: dict[str, Any]) -> dict[str, Any]:
    """Recipe of each network: that of the configuration, changed by what its item says."""
    from tomoscale import configuration
    from tomoscale.cli.train_config import part_of, recipe_keys

    setting = given["more"].get("networks")
    if setting is None:
        raise given["data"].root.error("lacks networks: a list such as `- {name: U-Net, network: {architecture: ...}}`")
    found: dict[str, Any] = {}
    for item in setting.items("networks such as `- {name: U-Net, network: {architecture: scaled_unet}}`"):
        said = configuration.check_keys(item, ("name", *recipe_keys()), ("name", "network"))
        name = said.pop("name").text("what the network is called")
        if name in found:
            raise item.error(f"is the second network {name!r}: give each its own name")
        found[name] = part_of(replace(item, value=said), given["recipe"])
    return found


def _samples(given: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Samples of a configuration, their references and healing times."""
    from tomoscale.formats import open_volume

    labelled, data = labelled_of(given), given["data"]
    references, days = {}, {}
    for said, sample in zip(data.samples["samples"], labelled.samples, strict=True):
        if "reference" in said:
            place = data.folder / local_path(said["reference"].text("a mask of the screw as implanted"))
            references[sample.name] = replace(open_volume(place), voxel_size_um=labelled.voxel_size_um)
        if "healing-time" in said:
            days[sample.name] = said_as(said["healing-time"], values.days, "such as 6weeks")
    return labelled, references, days


def _phantoms(given: dict[str, Any], target: Path) -> tuple[Any, Any, Any]:
    """Phantoms, beside the output."""
    from tomoscale import configuration
    from tomoscale.studies.networks import make_phantoms
    from tomoscale.training.folds import Labelled
    from tomoscale.training.samples import Sample
    from tomoscale.work import Work

    setting = given["more"]["phantoms"]
    said = configuration.check_keys(setting, PHANTOM_KEYS, ("count", "size"))
    count = said_as(said["count"], values.positive, "how many")
    seed = said_as(said["seed"], values.natural, "a number") if "seed" in said else 1
    size = [said_as(n, values.positive, "voxels") for n in said["size"].items("voxels along z, y, x")]
    if len(size) != 3:
        raise said["size"].error("must hold three lengths: voxels along z, y, x")
    folder = target.with_name(f"{target.name}_phantoms")
    made = make_phantoms(folder, count, (size[0], size[1], size[2]), seed, Work(progress=False))
    names = [f"phantom {seed + n}" for n in range(count)]
    samples = tuple(Sample(name, v["grey"], v["labels"]) for name, v in zip(names, made, strict=True))
    days = said_as(said["healing-time"], values.days, "such as 6weeks") if "healing-time" in said else None
    labelled = Labelled(given["data"].classes, samples, made[0]["grey"].voxel_size_um or (5.0, 5.0, 5.0))
    references = {name: v["reference"] for name, v in zip(names, made, strict=True)}
    return labelled, references, {} if days is None else dict.fromkeys(names, days)


def said_as(setting: Setting, kind: Any, wanted: str) -> Any:
    """Value of a setting, as an option of this kind reads it."""
    from tomoscale.settings import ConfigurationError

    try:
        return kind(setting.text(wanted))
    except argparse.ArgumentTypeError as error:
        raise ConfigurationError(f"{setting.file}:{setting.line}: {setting.key}: {error}") from None


def _compared(result: dict[str, Any]) -> dict[str, Any]:
    from tomoscale.training.fold_table import ALL, plus_minus

    nan = float("nan")
    shown = {}
    for name, network in result["networks"].items():
        value = {k: nan if v is None else v for k, v in network["cross_validation"][ALL].items()}
        shown[f"mean IoU, {name}"] = f"{plus_minus(value)} %"
    return {**shown, "report": result["report"]}


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
        "study networks",
        "train several networks over folds, measure what they label, and put all into the table of the papers",
        "tomoscale study networks examples/networks.yaml --output networks/",
        _networks,
        (*options("YAML file of a cross-validation with `networks:`, and `phantoms:` or `samples:`"),),
        show=_compared,
    ),
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
