"""Command that trains a network for each fold of a set of samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import OVERWRITE, Command, flag, option
from tomoscale.cli.training import bundle_of

if TYPE_CHECKING:
    from tomoscale.training.folds import Labelled

PARTS = {"samples": ("group",)}
DEFAULT_FOLDS = 4


def _cross_validate(  # noqa: PLR0913 -- each an option of its own
    config: str,
    *,
    output: Path | None,
    data: str | None,
    fold: int | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
) -> Any:
    from tomoscale.cli.train_config import read
    from tomoscale.training.cross_validation import CrossValidation, cross_validate
    from tomoscale.work import Work

    given = read(config, data, parts=PARTS, more=("folds",))
    target = target_of(output, given)
    plan = CrossValidation(
        given["recipe"], labelled_of(given), folds_of(given), given["name"], start_from=bundle_of(given["start_from"])
    )
    result = cross_validate(
        plan,
        target,
        resume=resume,
        only=fold,
        tell=None if quiet else tell,
        work=Work(overwrite=overwrite, progress=False),
    )
    if not result:
        sys.exit(0)  # the first process tells the result; another document on stdout would spoil it
    return result


def target_of(output: Path | None, given: dict[str, Any]) -> Path:
    """Folder of the results: as the command line says, or the configuration."""
    target = output or given["output"]
    if target is None:
        raise ValueError("no output was given: add `output:` to the configuration, or --output FOLDER")
    return Path(target)


def folds_of(given: dict[str, Any]) -> int:
    """How many folds a configuration asks for."""
    setting = given["more"].get("folds")
    if setting is None:
        return DEFAULT_FOLDS
    from tomoscale.training.folds import MAX_FOLDS

    text = setting.text("how many folds")
    if not text.isascii() or not text.isdecimal() or not 2 <= int(text) <= MAX_FOLDS:
        raise setting.error(f"must be a whole number from 2 to {MAX_FOLDS}")
    return int(text)


def labelled_of(given: dict[str, Any]) -> Labelled:
    """Open the samples of a configuration, with their groups."""
    from tomoscale.training.folds import Labelled

    data = given["data"]
    samples = data.open_part("samples")
    groups = [
        said["group"].text("what was scanned") if "group" in said else sample.name
        for said, sample in zip(data.samples["samples"], samples, strict=True)
    ]
    return Labelled(data.classes, samples, data.voxel_size(samples), tuple(groups))


def tell(line: str) -> None:
    """Show a line of progress."""
    print(line, file=sys.stderr, flush=True)


def _shown(result: dict[str, Any]) -> dict[str, Any]:
    from tomoscale.training.fold_table import plus_minus

    if "table" not in result:
        return {
            "model": result["model"],
            "judged by": ", ".join(result["validation"]),
            **{f"IoU {name}": "absent" if v is None else f"{100 * v:.2f} %" for name, v in result["iou"].items()},
        }
    nan = float("nan")
    rows = {name: {k: nan if v is None else v for k, v in value.items()} for name, value in result["table"].items()}
    return {
        **{f"IoU {name}": f"{plus_minus(value)} %" for name, value in rows.items()},
        "folds": len(result["folds"]),
        "ensemble": result["ensemble"],
        "report": result["report"],
    }


def options(example: str) -> Sequence[Any]:
    """Options of all commands that train over folds."""
    return (
        option("config", type=values.input_path, help=example),
        option("--output", type=values.output_path, metavar="FOLDER", help="in place of the configuration's output"),
        option("--data", type=values.input_path, metavar="FOLDER", help="in place of the configuration's folder"),
        flag("--resume", "go on where it was stopped; what is finished is not done again"),
        OVERWRITE,
        flag("--quiet", "show no progress"),
    )


COMMANDS = (
    Command(
        "cross-validate",
        "train a network for each fold of the samples, and put what they reach into one table",
        "tomoscale cross-validate examples/cross_validation.yaml --output folds/",
        _cross_validate,
        (
            *options("YAML file of a training with `samples:` in place of training and validation, and `folds:`"),
            option(
                "--fold",
                type=values.positive,
                metavar="N",
                help="train this fold alone and stop, so that several machines may train one each; a last call without it sums up",
            ),
        ),
        show=_shown,
    ),
)
