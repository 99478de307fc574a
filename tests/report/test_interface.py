"""Bone around an implant: shares as defined, drawn where they belong; counts that do not fit their edges are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tomoscale.errors import InputError
from tomoscale.report import interface
from tomoscale.report.figures import Chart
from tomoscale.report.interface import interface_plates


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Chart]:
    """Charts as they are drawn, without saving them."""
    charts: list[Chart] = []

    def kept(name: str, chart: Chart, alt: str, caption: str) -> str:
        charts.append(chart)
        return f"{name}: {alt} | {caption}"

    monkeypatch.setattr(interface, "chart_plate", kept)
    return charts


def profile(**change: Any) -> dict[str, Any]:
    labels = {"bone": [1, 3, 0], "background": [3, 1, 0], "implant": [9, 0, 0]}
    return {"profile": {"edges_um": [0.0, 10.0, 20.0, 40.0], "labels": labels, **change}}


def contact(**change: Any) -> dict[str, Any]:
    labels = {"bone": [[1, 0], [2, 4], [0, 0]], "free": [[3, 0], [2, 0], [5, 5]]}
    return {
        "contact_map": {
            "along_um": [0.0, 10.0, 20.0, 30.0],
            "angle_deg": [0.0, 180.0, 360.0],
            "labels": labels,
            **change,
        }
    }


def test_the_bone_fraction_stands_at_the_middle_of_its_shell(drawn):
    truth = {"bone": [1, 1, 1], "background": [1, 3, 0], "implant": [0, 0, 0]}
    (told,) = interface_plates(profile(truth=truth))
    first, second = drawn[0].figure.axes[0].lines
    np.testing.assert_array_equal(first.get_xdata(), [5, 15, 30])
    np.testing.assert_array_equal(first.get_ydata(), [0.25, 0.75, np.nan])
    np.testing.assert_array_equal(second.get_ydata(), [0.5, 0.25, 1.0])
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert "µm" in drawn[0].figure.axes[0].get_xlabel()
    assert "labels: 0.250 at 5 µm, 0.750 at 15 µm; truth: 0.500 at 5 µm" in told


def test_the_contact_map_has_the_angle_upwards_and_the_axis_to_the_right(drawn):
    (told,) = interface_plates(contact())
    axes = drawn[0].figure.axes[0]
    shown = np.ma.filled(axes.images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(shown, [[0.25, 0.5, 0.0], [np.nan, 1.0, 0.0]])
    assert list(axes.images[0].get_extent()) == [0.0, 30.0, 0.0, 360.0]
    assert axes.images[0].origin == "lower"
    assert axes.get_ylabel() == "angle (°)"
    assert "labels: 7 of 22 faces (31.8 %)" in told


def test_long_implants_are_drawn_in_millimetres(drawn):
    interface_plates(contact(along_um=[0.0, 1000.0, 2000.0, 3000.0]))
    axes = drawn[0].figure.axes[0]
    assert axes.get_xlabel() == "position along the axis (mm)"
    assert list(axes.images[0].get_extent())[:2] == [0.0, 3.0]


def test_the_gap_tolerance_leaves_out_what_is_not_defined(drawn):
    rows = [{"gap_voxels": 0, "value": 0.4, "truth": None}, {"gap_voxels": 2, "value": 0.5, "truth": None}]
    (told,) = interface_plates({"gap_tolerance": rows})
    (line,) = drawn[0].figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), [0, 2])
    np.testing.assert_array_equal(line.get_ydata(), [0.4, 0.5])
    assert "0.400 at 0 voxels, 0.500 at 2 voxels" in told


def test_nothing_is_drawn_of_nothing(drawn):
    assert interface_plates({}) == []
    assert drawn == []


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (profile(edges_um=[0.0, 10.0, 20.0]), r"profile.labels.bone of the results must hold 2 counts"),
        (
            profile(edges_um=[0.0, 10.0, 10.0, 20.0]),
            r"profile.edges_um of the results must be two or more rising numbers",
        ),
        (profile(edges_um="abcd"), r"profile.edges_um of the results must be two or more rising numbers"),
        (profile(edges_um=[0.0, 1.0, 2.0, float("inf")]), r"profile.edges_um"),
        (profile(labels={"bone": [1, 2, 3]}), r"profile.labels.background of the results must hold 3 counts"),
        (profile(labels={"bone": [1, 2, -3], "background": [1, 1, 1]}), r"profile.labels.bone"),
        (profile(labels=None), r"profile of the results holds counts of neither labels nor truth"),
        (contact(angle_deg=[0.0, 360.0]), r"contact_map.labels.bone of the results must hold 3 x 1 counts"),
        (
            contact(truth={"bone": [[1]], "free": [[1]]}),
            r"contact_map.truth.bone of the results must hold 3 x 2 counts",
        ),
        (contact(labels={}), r"contact_map of the results holds counts of neither"),
        (
            {"gap_tolerance": [{"gap_voxels": None, "value": 1}]},
            r"gap_tolerance.gap_voxels of the results must be a number",
        ),
        (
            {"gap_tolerance": [{"gap_voxels": 1, "value": "x"}]},
            r"gap_tolerance.value of the results must be a number, got 'x'",
        ),
    ],
)
def test_counts_that_do_not_fit_are_refused(results, message):
    with pytest.raises(InputError, match=message):
        interface_plates(results)
