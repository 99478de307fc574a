"""Commands that train networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import OVERWRITE, Command, flag, option
from tomoscale.errors import InputError

PRESETS = ("baltruschat2021", "tomoseg", "nnunet", "silveira2023")
"""Those of `tomoscale.training.presets`, which is not loaded for help."""


def _train(  # noqa: PLR0913 -- each an option of its own
    config: str | None,
    *,
    preset: str | None,
    print_only: bool,
    output: Path | None,
    data: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> Any:
    if config is None or print_only:
        return _recipe(config, preset, data, print_only)
    if preset is not None:
        raise ValueError(f"--preset goes with --print alone: write `preset: {preset}` into the configuration")
    from tomoscale.cli.train_config import read
    from tomoscale.training.loop import fit
    from tomoscale.work import Work

    given = read(config, data)
    target = output or given["output"]
    if target is None:
        raise ValueError("no output was given: add `output:` to the configuration, or --output FOLDER")

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result = fit(
        given["recipe"],
        given["data"].open(),
        target,
        resume=resume,
        start_from=bundle_of(given["start_from"]),
        name=given["name"],
        tell=None if quiet else tell,
        work=Work(overwrite=overwrite, progress=False),
    )
    if not result.first:
        sys.exit(0)  # the first process tells the result; another document on stdout would spoil it
    return {
        "model": str(result.best),
        "last_model": str(result.last),
        "output": str(Path(target).absolute()),
        "steps": result.steps,
        "best_step": result.best_step,
        "stopped_early": result.stopped_early,
        "iou": {c.name: None if v != v else v for c, v in zip(given["data"].classes, result.iou, strict=True)},
        "mean_iou": result.mean_iou,
        "confusion": result.confusion.tolist(),
        "seconds": round(result.seconds, 1),
    }


def bundle_of(path: Path | None) -> Any:
    """Open the bundle that a training starts from, if there is one."""
    if path is None:
        return None
    from tomoscale.networks.bundle import load_bundle

    return load_bundle(path)


def _recipe(config: str | None, preset: str | None, data: str | None, print_only: bool) -> dict[str, Any]:
    if not print_only:
        raise InputError("no configuration was given: give a YAML file, or --preset NAME --print for one to begin with")
    from tomoscale.cli.train_config import read, settings_of
    from tomoscale.training.presets import preset as preset_of
    from tomoscale.training.recipe import Recipe

    if config is not None and preset is not None:
        raise ValueError(f"{config} and --preset {preset} are two recipes: give one of them")
    if config is not None:
        return {"recipe": settings_of(read(config, data)["recipe"])}
    return {"recipe": settings_of(Recipe() if preset is None else preset_of(preset))}


def _shown(result: dict[str, Any]) -> Any:
    if "recipe" in result:
        import yaml  # lazily: only a recipe that is printed needs it

        return str(yaml.safe_dump(result["recipe"], default_flow_style=None, sort_keys=False, width=110)).rstrip()
    agreement = {f"IoU {name}": "absent" if v is None else f"{v:.4f}" for name, v in result["iou"].items()}
    return {
        "model": result["model"],
        "steps": result["steps"],
        "best step": result["best_step"],
        **agreement,
        "mean IoU": f"{result['mean_iou']:.4f}",
        "minutes": f"{result['seconds'] / 60:.1f}",
    }


COMMANDS = (
    Command(
        "train",
        "train a network on labelled volumes or slices, judged on samples it has not seen",
        "tomoscale train examples/train_sandstone.yaml --output sandstone/",
        _train,
        (
            option("config", nargs="?", type=values.input_path, help="YAML file with classes, samples and the recipe"),
            option("--preset", choices=PRESETS, help="with --print: the recipe of a paper"),
            option("--print", dest="print_only", action="store_true", help="print the recipe in full and stop"),
            option(
                "--output", type=values.output_path, metavar="FOLDER", help="in place of the configuration's output"
            ),
            option("--data", type=values.input_path, metavar="FOLDER", help="in place of the configuration's folder"),
            flag("--resume", "go on from the last checkpoint, if there is one"),
            OVERWRITE,
            flag("--quiet", "show no progress"),
        ),
        show=_shown,
    ),
)
