"""Commands that measure: demo, measure, study implant, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscale.cli import values
from tomoscale.cli.command import Command, option
from tomoscale.cli.samples import (
    FOLDER,
    HEALING_TIME,
    OUTER_CONTACT,
    REFERENCE,
    ROI,
    ROI_DISTANCE,
    SAMPLE,
    STUDY,
    TRUTH,
    study_options,
)

if TYPE_CHECKING:
    from tomoscale.work import Work


def _demo(folder: Path, *, size: Any, seed: int, work: Work) -> Any:
    from tomoscale.demo import demo

    return demo(folder, shape=size, seed=seed, work=work)


def _measure(labels: Any, results: Path, *, roi: Any, work: Work, **how: Any) -> Any:
    from tomoscale.studies import implant

    return implant.measure(labels, results, roi=tuple(roi), work=work, **how)


def _table(results: dict[str, Any]) -> dict[str, str]:
    from tomoscale.studies import implant

    return implant.table(results)


def _report(results: Any, target: Path, *, overwrite: bool, figures: Path | None) -> Any:
    from tomoscale import commands

    written = commands.report(results, target, overwrite=overwrite, figures=figures)
    return {"report": written.path, **({"figures": figures} if figures else {})}


def _study(*, samples: list[dict[str, Any]], folder: Path, work: Work, **how: Any) -> Any:
    from tomoscale.studies import implant

    lists: dict[str, Any] = {name: tuple(how.pop(name)) for name in ("percentiles_percent", "roi", "statistics")}
    return implant.study([implant.Sample(**sample) for sample in samples], folder, work=work, **lists, **how)


def _paper_table(content: dict[str, Any]) -> dict[str, Any]:
    """Rows of the table of the papers, a column for each sample, and tests over samples."""
    from tomoscale.studies.tables import paper_table

    names = [s["name"] for s in content["samples"]]
    head, *rows = zip(*paper_table(content["table"], names, content["parameters"]["iou_preset"]), strict=True)
    shown = [dict(zip(head, ("-" if v is None else v for v in row), strict=True)) for row in rows]
    return {str(row.pop("sample")): "   ".join(f"{k} {v}" for k, v in row.items()) for row in shown}


DEMO = (
    Command(
        "demo",
        "run the whole path on real bone texture with a screw of known truth",
        "tomoscale demo demo --size 320",
        _demo,
        (
            option("folder", type=values.output_path, help="where everything is written; made if absent"),
            option(
                "--size",
                type=values.shape,
                default=(320, 320, 320),
                metavar="Z,Y,X",
                help="voxels of the scan (default 320)",
            ),
            option(
                "--seed",
                type=values.natural,
                default=1,
                metavar="N",
                help="which phantom (default 1; the shipped model never saw seeds below 1000)",
            ),
        ),
        works=True,
    ),
)
COMMANDS = (
    Command(
        "measure",
        "measure labels: IoU against truth, degradation rate, bone-implant contact, bone fraction",
        "tomoscale measure clean.zarr results/ --truth truth.zarr --reference screw.zarr --healing-time 6weeks",
        _measure,
        (
            option("labels", type=values.input_path, help="labels 0 background, 1 metal, 2 degradation layer, 3 bone"),
            option("results", type=values.output_path, help="folder for the numbers and the record of the run"),
            TRUTH,
            REFERENCE,
            option(
                "--grey",
                type=values.input_path,
                metavar="PATH",
                help="grey values on the same grid, for signal and contrast to noise",
            ),
            HEALING_TIME,
            ROI_DISTANCE,
            ROI,
            OUTER_CONTACT,
            option(
                "--cnr-noise",
                dest="cnr_denominator",
                choices=("root_sum_square", "pooled", "background"),
                default="root_sum_square",
                help="noise of the contrast to noise (default root_sum_square)",
            ),
        ),
        works=True,
        step=True,
        show=_table,
    ),
    Command(
        "study implant",
        "measure a series of samples, from scans or labels to tables",
        "tomoscale study implant examples/implant_study.yaml",
        _study,
        (
            option("config", nargs="?", type=values.input_path, help="YAML file that begins with `study: implant`"),
            FOLDER,
            option(
                "--sample",
                action="extend",
                nargs="+",
                type=values.word,
                default=[],
                metavar="KEY=VALUE,...",
                help="name=T04,scan=...,truth=...,reference=...,healing-time=6weeks; one for each sample",
            ),
            *SAMPLE,
            *STUDY,
        ),
        works=True,
        prepare=study_options,
        show=_paper_table,
    ),
    Command(
        "report",
        "write the numbers and pictures as one HTML file",
        "tomoscale report results/ report.html",
        _report,
        (
            option("results", type=values.input_path, help="folder that `tomoscale measure` wrote"),
            option("target", type=values.output_path, help="the HTML file to make"),
            option("--figures", type=values.output_path, metavar="FOLDER", help="also write each figure as a file"),
            option("--overwrite", action="store_true", help="replace a report that is there"),
        ),
        step=True,
    ),
)
