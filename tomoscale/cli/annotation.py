"""Commands of the loop with a human: what to annotate next, and corrections brought back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tomoscale.cli import values
from tomoscale.cli.command import ARCHITECTURE_MODULE, SOURCE, Command, option

SCORES = ("entropy", "least_confidence", "margin", "disagreement")
"""Those of `tomoscale.measures.uncertainty`, which is not loaded for help."""


def _suggest(model: str, source: str, target: Path, *, after: Any, disagreement: Any, work: Any, **asked: Any) -> Any:
    from tomoscale.annotation.suggest import Asked, suggest

    return suggest(
        model, source, target, asked=Asked(**asked), after=tuple(after), disagreement=disagreement, work=work
    )


def _accept(folder: str, target: Path, *, by: str | None, add_to: str | None, work: Any) -> Any:
    from tomoscale.annotation.accept import accept

    return accept(folder, target, by=by, add_to=add_to, work=work)


def _suggested(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "score": result["asked"]["score"],
        "another round": result["rounds"]["why"],
        **{pick["name"]: f"{pick['score']:.4f}" for pick in result["picks"]},
    }


def _accepted(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "volume": result["volume"],
        "by": result["by"],
        **{piece["name"]: f"{piece['changed_voxels']} voxels changed" for piece in result["pieces"]},
        **({"left out": ", ".join(result["left_out"])} if result["left_out"] else {}),
    }


COMMANDS = (
    Command(
        "suggest",
        "pick the slices or patches that a network is least sure of, as pictures to correct",
        "tomoscale suggest my_model/ scan.zarr to_correct/ --number 10",
        _suggest,
        (
            option("model", type=values.input_path, help="folder of a model bundle"),
            SOURCE,
            option("target", type=values.output_path, help="the folder to make"),
            option("--number", type=values.positive, default=10, metavar="N", help="pieces, at most (default 10)"),
            option(
                "--score",
                choices=SCORES,
                default="entropy",
                help="what is large where a network is unsure (default entropy)",
            ),
            option("--across", choices=("z", "y", "x"), default="z", help="slices across this axis (default z)"),
            option("--patch", type=values.shape, metavar="Z,Y,X", help="patches of this size in place of slices"),
            option(
                "--spacing",
                type=values.natural,
                default=10,
                metavar="VOXELS",
                help="between two pieces, from start to start along one axis (default 10)",
            ),
            option(
                "--after",
                action="append",
                type=values.input_path,
                default=[],
                metavar="FOLDER",
                help="an earlier suggestion for this volume, oldest first, whose pieces are not picked again; several times",
            ),
            option(
                "--least-gain",
                type=values.number,
                default=0.005,
                metavar="IOU",
                help="mean IoU that a round must gain to be worth it (default 0.005)",
            ),
            option(
                "--disagreement",
                type=values.input_path,
                metavar="VOLUME",
                help="how many planes disagree, for --score disagreement",
            ),
            ARCHITECTURE_MODULE,
        ),
        works=True,
        show=_suggested,
    ),
    Command(
        "accept",
        "make a label volume of corrected pictures, and note who changed what; 255 elsewhere",
        "tomoscale accept to_correct/ truth.zarr --by 'A. Author'",
        _accept,
        (
            option("folder", type=values.input_path, help="that `tomoscale suggest` made"),
            option("target", type=values.output_path, help="the label volume to make"),
            option(
                "--by", type=values.word, metavar="NAME", help="who has annotated (default: the user of this machine)"
            ),
            option(
                "--add-to",
                type=values.input_path,
                metavar="VOLUME",
                help="an earlier annotation of the same volume, kept where nothing new is",
            ),
        ),
        works=True,
        show=_accepted,
    ),
)
