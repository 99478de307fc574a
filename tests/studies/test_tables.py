"""CSV, the table over samples, and statistics that are SciPy's."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
import scipy.stats

from tomoscale.studies.quantities import Number, overlap_quantities, quantity
from tomoscale.studies.tables import (
    Comparison,
    csv_text,
    over_samples,
    paper_table,
    parse_comparison,
    pooled,
    printed_error,
    results_csv,
    statistics_of,
)


def result(confusion: list[list[int]], bic: tuple[float, float], volume: float) -> dict[str, object]:
    rows = overlap_quantities(np.array(confusion))
    above, below = bic
    rows.append(
        quantity("bone-implant contact, faces", Number("BIC", above / below, "", "faces", above, below), truth=0.5)
    )
    rows.append(quantity("volume of bone", Number("V_3", volume, "mm³", "voxels", volume), truth=2.0))
    rows.append(quantity("degradation rate", Number("DR", volume / 7, "mm/year", "loss"), truth=0.3))
    return {"quantities": rows, "confusion": {"counts": confusion}}


ONE = [[8, 0, 0, 2], [0, 5, 0, 0], [0, 1, 3, 0], [1, 0, 0, 9]]
TWO = [[80, 0, 0, 0], [0, 60, 0, 10], [0, 0, 20, 0], [0, 0, 0, 90]]


def test_the_table_has_mean_deviation_and_pooled():
    table = over_samples({"a": result(ONE, (1.0, 4.0), 1.5), "b": result(TWO, (30.0, 40.0), 2.5)})
    by_name = {q["name"]: q for q in table}
    contact = by_name["bone-implant contact, faces"]
    assert contact["samples"]["a"] == {"value": 0.25, "truth": 0.5, "relative_error": -0.5}
    assert (contact["mean"], contact["pooled"]) == (0.5, 31 / 44)
    assert contact["deviation"] == pytest.approx(np.std([0.25, 0.75], ddof=1))
    assert by_name["volume of bone"]["pooled"] == 4.0, "volumes add"
    assert by_name["degradation rate"]["pooled"] is None, "rates over different times do not"
    both = np.array(ONE) + np.array(TWO)
    iou = [both[k, k] / (both[k].sum() + both[:, k].sum() - both[k, k]) for k in range(4)]
    assert by_name["IoU bone"]["pooled"] == iou[3]
    assert by_name["mean IoU, four classes, background included"]["pooled"] == pytest.approx(np.mean(iou))
    assert by_name["mean IoU, three classes without background"]["pooled"] == pytest.approx(np.mean(iou[1:]))
    means = [r["samples"]["a"]["value"] for r in table if r["name"].startswith("mean IoU")]
    assert means[0] != means[1]


def test_a_quantity_that_one_sample_lacks_is_averaged_over_the_others_and_not_pooled():
    table = over_samples({"a": result(ONE, (1.0, 4.0), 1.5), "b": {"quantities": []}})
    contact = next(q for q in table if q["symbol"] == "BIC")
    assert (contact["n"], contact["mean"], contact["deviation"], contact["pooled"]) == (1, 0.25, None, 0.25)
    assert pooled([[1.0, 2.0], None]) is None
    assert pooled([[0.0, 0.0], [0.0, 0.0]]) is None


def test_results_as_csv_read_back_to_the_same_bits():
    rows = [
        quantity("a, with comma", Number("A", 0.1 + 0.2, "mm³", 'said "so"'), truth=0.3),
        quantity("none", Number("N", math.nan, "", "")),
    ]
    read = list(csv.DictReader(io.StringIO(results_csv(rows))))
    assert list(read[0]) == ["name", "symbol", "value", "truth", "relative_error", "unit", "definition"]
    assert float(read[0]["value"]) == 0.1 + 0.2
    assert (read[0]["name"], read[0]["definition"]) == ("a, with comma", 'said "so"')
    assert (read[1]["value"], read[1]["truth"], read[1]["relative_error"]) == ("", "", "")


def test_the_paper_form_has_per_cent_units_and_errors_behind_the_values():
    table = over_samples({"a": result(ONE, (1.0, 4.0), 1.5), "b": result(TWO, (30.0, 59.9), 2.5)})
    rows = paper_table(table, ["a", "b"], "s1_all4")
    assert [row[0] for row in rows] == ["sample", "a", "b", "mean", "deviation", "pooled"]
    columns = {row[0]: row[1:] for row in zip(*rows, strict=True)}
    assert columns["IoU residual metal (%)"][:2] == ("83.33", "85.71")
    assert "mIoU, four classes, background included (%)" in columns
    assert "mIoU, three classes without background (%)" not in columns
    assert columns["BIC by faces (%)"][:2] == ("25.00 (-50 %)", "50.08 (–)")
    assert columns["BIC by faces (%), ground truth"][:2] == ("50.00", "50.00")
    assert columns["DR by Crofton surface (mm/a)"] == ("0.214 (-29 %)", "0.357 (+19 %)", "0.286", "0.101", None)
    assert csv_text(rows).splitlines()[0].startswith("sample,IoU background (%)")


@pytest.mark.parametrize(
    ("error", "text"),
    [(0.7181, "(+72 %)"), (-0.0298, "(-3 %)"), (0.00999, "(–)"), (-0.01, "(-1 %)"), (0.29, "(+29 %)"), (None, "")],
)
def test_errors_are_printed_rounded_to_whole_per_cent(error, text):
    assert printed_error(error) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("wilcoxon", Comparison("wilcoxon")),
        ("wilcoxon: BIC", Comparison("wilcoxon", "BIC")),
        ("spearman: bone-implant contact, faces", Comparison("spearman", "bone-implant contact, faces")),
        ("spearman: DR ~ BV/TV", Comparison("spearman", "DR", "BV/TV")),
    ],
)
def test_tests_are_asked_for_in_words(text, found):
    assert parse_comparison(text) == found


@pytest.mark.parametrize("text", ["", "t-test", "wilcoxon: A ~ B", "spearman: A ~", "spearman BIC"])
def test_other_words_are_refused(text):
    with pytest.raises(ValueError, match='statistics are "wilcoxon"'):
        parse_comparison(text)


def many(n: int, seed: int = 0) -> tuple[list[dict[str, object]], dict[str, float | None], np.ndarray]:
    """Table of three quantities of n samples, their healing times, and the numbers: (4, n)."""
    random = np.random.default_rng(seed)
    numbers = random.normal(1, 0.2, (4, n))
    samples = {
        f"s{i}": {
            "quantities": [
                quantity("contact", Number("BIC", numbers[0, i], "", ""), truth=numbers[1, i]),
                quantity("rate", Number("DR", numbers[2, i], "", "")),
                quantity("same", Number("C", 1.0, "", "")),
            ]
        }
        for i in range(n)
    }
    return over_samples(samples), {f"s{i}": float(numbers[3, i]) for i in range(n)}, numbers


def test_statistics_are_those_of_scipy():
    table, days, numbers = many(9)
    asked = ("wilcoxon", "spearman: DR ~ BIC", "spearman: rate")
    rows, caveats = statistics_of([parse_comparison(t) for t in asked], table, days)
    assert caveats == []
    expected = [
        ("wilcoxon", "contact", scipy.stats.wilcoxon(numbers[0], numbers[1])),
        ("spearman", "rate ~ contact", scipy.stats.spearmanr(numbers[2], numbers[0])),
        ("spearman", "rate ~ healing time", scipy.stats.spearmanr(numbers[2], numbers[3])),
    ]
    for row, (test, title, theirs) in zip(rows, expected, strict=True):
        assert (row["test"], row["quantity"], row["n"]) == (test, title, 9)
        assert (row["statistic"], row["p"]) == (float(theirs.statistic), float(theirs.pvalue))


def test_what_cannot_be_tested_is_said():
    table, days, _ = many(3)
    asked = [parse_comparison(t) for t in ("wilcoxon", "spearman", "wilcoxon: nothing", "spearman: DR ~ nothing")]
    rows, caveats = statistics_of(asked, table, days)
    assert rows == []
    assert caveats == [
        "wilcoxon: 3 samples whose value differs from the truth are too few, 6 are needed for any p below 0.05.",
        "spearman: 3 samples are too few, 5 are needed for any p below 0.05.",
        "wilcoxon: no sample has the quantity 'nothing'.",
        "spearman: no sample has the quantity 'nothing'.",
    ]
    table, days, _ = many(7)
    rows, caveats = statistics_of([parse_comparison("spearman: C")], table, days)
    assert (rows, len(caveats)) == ([], 1)
    assert "the same in all samples" in caveats[0]
