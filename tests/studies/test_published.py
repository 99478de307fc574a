"""The printed tables agree with themselves, within the intervals that their digits leave open."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tomoscale.studies import published
from tomoscale.studies.published import (
    IOU_OF_FUSING,
    IOU_OF_MODELS,
    METRICS_OF_MODELS,
    METRICS_OF_SEGMENTATIONS,
    PublishedTable,
)
from tomoscale.studies.tables import printed_error


def half_a_digit(text: str) -> float:
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def errors_open(value: str, truth: str) -> tuple[float, float]:
    """Least and largest relative error, in per cent, of numbers that are printed so."""
    v, t, dv, dt = float(value), float(truth), half_a_digit(value), half_a_digit(truth)
    corners = [100 * (a - b) / b for a in (v - dv, v + dv) for b in (t - dt, t + dt)]
    return min(corners), max(corners)


def cells(table: PublishedTable, truth: str) -> Iterator[tuple[tuple[str, str, str], str, str, str]]:
    """(parameter, sample, column), value, printed error, and truth of each cell with an error."""
    place = table.columns.index(truth)
    for row in table.rows:
        for column, cell in zip(table.columns[2:], row[2:], strict=True):
            found = re.fullmatch(r"([\d.]+) \((.+)\)", cell)
            if found:
                yield (row[0], row[1], column), found[1], found[2], row[place]


def could_be(printed: str, low: float, high: float, cut: bool) -> bool:
    """Whether an error between `low` and `high` is printed so, when cut towards zero or rounded."""
    if printed == "–":
        return low < 1 and high > -1
    n = int(printed.removesuffix(" %"))
    if cut:
        # What is cut to n lies from n on, away from zero, to the next whole number.
        return (low < n + 1 and high >= n) if n > 0 else (high > n - 1 and low <= n)
    return low <= n + 0.5 and high >= n - 0.5


def test_errors_of_lopes_marinho_are_cut_towards_zero_but_for_three():
    wrong = {
        where
        for where, value, printed, truth in cells(METRICS_OF_MODELS, "ground truth")
        if not could_be(printed, *errors_open(value, truth), cut=True)
    }
    assert wrong == {
        ("DR, mm/a", "1", "HR-Net"),
        ("DR, mm/a", "2", "HR-Net"),
        ("BV/TV, %", "2", "U-Net"),
    }
    rounded = [
        where
        for where, value, printed, truth in cells(METRICS_OF_MODELS, "ground truth")
        if not could_be(printed, *errors_open(value, truth), cut=False)
    ]
    assert len(rounded) > len(wrong), "rounding explains fewer of the printed errors"


def test_errors_of_baltruschat_are_rounded():
    for where, value, printed, truth in cells(METRICS_OF_SEGMENTATIONS, "HQ"):
        assert could_be(printed, *errors_open(value, truth), cut=False), where
    assert sum(1 for _ in cells(METRICS_OF_SEGMENTATIONS, "HQ")) == 18


def test_our_paper_form_prints_the_errors_of_baltruschat():
    """Where the digits leave one whole number open, that is what is printed."""
    certain = 0
    for where, value, printed, truth in cells(METRICS_OF_SEGMENTATIONS, "HQ"):
        low, high = errors_open(value, truth)
        error = float(value) / float(truth) - 1
        if round(low) == round(high) and abs(error) >= 0.01:
            certain += 1
            assert printed_error(error).replace(" ", "") == f"({printed})".replace(" ", ""), where
    assert certain >= 5


def test_means_of_iou_are_those_of_the_classes_beside_them():
    wrong = []
    for row in IOU_OF_MODELS.rows:
        for sample in (0, 1):
            *classes, mean = (float(cell) for cell in row[1 + sample :: 2])
            if abs(sum(classes) / 4 - mean) > 0.0100001:
                wrong.append((row[0], sample + 1))
    assert wrong == [("Scaled U-Net", 1), ("Scaled U-Net", 2), ("2D nnU-Net", 2)]
    for row in IOU_OF_FUSING.rows:
        bone, layer, metal, mean = (float(cell.split()[0]) for cell in row[1:])
        assert (bone + layer + metal) / 3 == pytest.approx(mean, abs=0.0100001), row[0]


def test_every_table_has_a_source_and_as_many_cells_as_columns():
    tables = published.published()
    assert len(tables) == 4
    for table in tables:
        assert "doi:" in table["source"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}
