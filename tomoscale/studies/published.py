"""What the papers print, to compare with: facts, digit by digit, misprints included and named in the notes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tomoscale.report.page import table, text
from tomoscale.report.papers import S1, S2


@dataclass(frozen=True)
class PublishedTable:
    """A printed table.

    Attributes
    ----------
    title, source : str
    columns : tuple of str
    rows : tuple of tuples of str
        Cells as printed.
    note : str
        How to read it, and what in it cannot be right.
    """

    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def printed(published: PublishedTable) -> str:
    """Table for a page of HTML."""
    return table(
        text(f"{published.title}. {published.source}. {published.note}"),
        [text(c) for c in published.columns],
        [[text(c) for c in row] for row in published.rows],
    )


_MODELS = ("U-Net", "HR-Net", "U2-Net", "Scaled U-Net", "2D nnU-Net", "3D nnU-Net")
_CLASSES = ("background", "residual material", "degradation layer", "bone tissue", "mIoU")

IOU_OF_MODELS = PublishedTable(
    "IoU of six networks on two samples, %",
    f"{S1}, Table 4",
    ("model", *(f"{c}, sample {s}" for c in _CLASSES for s in (1, 2))),
    (
        ("U-Net", "95.40", "97.79", "98.84", "99.40", "84.66", "61.17", "98.11", "96.26", "94.26", "88.66"),
        ("HR-Net", "92.54", "97.35", "98.77", "99.38", "84.28", "65.59", "96.87", "95.29", "93.12", "89.40"),
        ("U2-Net", "96.21", "97.87", "97.41", "99.23", "79.48", "60.13", "98.57", "96.44", "92.92", "88.42"),
        ("Scaled U-Net", "90.89", "96.36", "97.89", "97.22", "79.57", "60.53", "94.03", "93.33", "90.09", "87.36"),
        ("2D nnU-Net", "94.47", "98.28", "98.94", "99.48", "86.59", "71.18", "97.73", "97.09", "94.43", "91.49"),
        ("3D nnU-Net", "93.32", "98.27", "98.94", "99.48", "86.40", "70.99", "97.24", "97.08", "93.98", "91.46"),
    ),
    "Mean over four classes. The mean IoU of Scaled U-Net (90.09, 87.36) and of 2D nnU-Net, sample 2 (91.49), is not the "
    "mean of the four IoU printed beside it (90.60, 86.86; 91.51).",
)

METRICS_OF_MODELS = PublishedTable(
    "Degradation and osseointegration by six networks on two samples",
    f"{S1}, Table 5",
    ("parameter", "sample", "ground truth", *_MODELS),
    (
        ("DR, mm/a", "1", "0.58", "0.58 (–)", "0.57 (+1 %)", "0.58 (–)", "0.57 (-1 %)", "0.58 (–)", "0.58 (–)"),
        ("DR, mm/a", "2", "0.36", "0.36 (–)", "0.35 (+1 %)", "0.36 (–)", "0.34 (-4 %)", "0.36 (–)", "0.36 (–)"),
        (
            "BIC, %",
            "1",
            "5.25",
            "7.36 (+40 %)",
            "8.42 (+60 %)",
            "9.02 (+71 %)",
            "5.99 (+14 %)",
            "7.76 (+47 %)",
            "7.62 (+45 %)",
        ),
        (
            "BIC, %",
            "2",
            "7.48",
            "19.65 (+162 %)",
            "16.01 (+114 %)",
            "14.25 (+90 %)",
            "17.54 (+134 %)",
            "18.44 (+146 %)",
            "21.31 (+184 %)",
        ),
        (
            "BV/TV, %",
            "1",
            "22.48",
            "21.81 (-2 %)",
            "22.18 (-1 %)",
            "22.02 (-2 %)",
            "22.02 (-2 %)",
            "22.44 (–)",
            "22.40 (–)",
        ),
        (
            "BV/TV, %",
            "2",
            "56.83",
            "55.60 (–)",
            "57.01 (–)",
            "55.70 (-1 %)",
            "57.90 (+1 %)",
            "57.08 (–)",
            "57.65 (+1 %)",
        ),
    ),
    "Relative errors are cut towards zero, (–) is less than 1 %. The errors of DR by HR-Net must be negative, and that of "
    "BV/TV by U-Net, sample 2, is -2.2 %.",
)

IOU_OF_FUSING = PublishedTable(
    "IoU by fusing of planes, % with standard error",
    f"{S2}, Table 2",
    ("method", "bone", "degradation layer", "residual material", "mean of the three"),
    (
        ("baseline S_rc", "96.83 ± 0.14", "80.16 ± 0.39", "93.65 ± 0.15", "90.22 ± 0.21"),
        ("baseline S_pc", "96.72 ± 0.08", "79.31 ± 0.26", "93.16 ± 0.06", "89.73 ± 0.09"),
        ("baseline S_pr", "96.72 ± 0.11", "79.32 ± 0.29", "93.10 ± 0.07", "89.71 ± 0.12"),
        ("soft voting, 3 planes", "97.01 ± 0.10", "81.26 ± 0.34", "93.83 ± 0.06", "90.70 ± 0.12"),
        ("majority voting, 3 planes", "96.95 ± 0.10", "80.76 ± 0.32", "93.73 ± 0.06", "90.48 ± 0.11"),
        ("soft voting, 9 planes", "96.38 ± 0.12", "81.33 ± 0.33", "93.99 ± 0.08", "90.57 ± 0.11"),
        ("majority voting, 9 planes", "96.32 ± 0.12", "81.07 ± 0.31", "93.94 ± 0.08", "90.44 ± 0.10"),
    ),
    "Mean over three classes without background: not comparable with a mean over four.",
)

METRICS_OF_SEGMENTATIONS = PublishedTable(
    "Degradation and osseointegration by workflow (WF), high quality (HQ) and network (ML)",
    f"{S2}, Table 3",
    ("parameter", "sample", "WF", "HQ", "ML"),
    (
        ("DR, mm/year", "1", "0.252 (-3 %)", "0.261", "0.243 (-7 %)"),
        ("DR, mm/year", "2", "0.205 (-2 %)", "0.209", "0.208 (–)"),
        ("DR, mm/year", "3", "0.417 (-10 %)", "0.462", "0.436 (-6 %)"),
        ("BIC, %", "1", "62.94 (–)", "62.97", "70.44 (+12 %)"),
        ("BIC, %", "2", "81.07 (+1 %)", "80.22", "80.30 (–)"),
        ("BIC, %", "3", "60.13 (+33 %)", "45.14", "51.61 (+14 %)"),
        ("BV/TV, %", "1", "47.88 (-1 %)", "48.14", "48.45 (+1 %)"),
        ("BV/TV, %", "2", "55.23 (+1 %)", "54.93", "54.67 (–)"),
        ("BV/TV, %", "3", "41.25 (+4 %)", "39.64", "41.25 (+4 %)"),
    ),
    "Relative differences from HQ, rounded.",
)

IOU_OF_SCALING = PublishedTable(
    "Mean IoU of scaled U-Nets, four-fold cross-validation",
    f"{S2}, Results",
    ("network", "depth", "width", "input size", "mean IoU"),
    (
        ("baseline", "3", "32", "384", "0.891"),
        ("best by depth alone", "3 to 6", "32", "384", "0.903"),
        ("best by width alone", "3", "32 to 112", "384", "0.904"),
        ("best by input size alone", "3", "32", "512", "0.900"),
        ("largest input size alone", "3", "32", "640", "0.897"),
        ("best of all 48", "5", "64", "640", "0.906"),
    ),
    "From the text: the paper shows FLOPs against IoU as a figure only. Its 48 networks have depths 3 to 6, widths 32, 64, 96, "
    "112 and input sizes 384, 512, 640.",
)
"""Beside a scaling study; `TABLES` are those that stand beside measured implants."""

TABLES = (IOU_OF_MODELS, METRICS_OF_MODELS, IOU_OF_FUSING, METRICS_OF_SEGMENTATIONS)


def published() -> list[dict[str, Any]]:
    """All printed tables as JSON values."""
    return [asdict(table) for table in TABLES]
