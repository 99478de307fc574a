"""Readers of a page find words and units, and no names of the program."""

from __future__ import annotations

import pytest

from tomoscale.report.wording import run_title, settings, symbol


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"voxel_size_um": [5.0, 5.0, 2.5]}, [("voxel size (z, y, x)", "5 × 5 × 2.5 µm")]),
        ({"voxel_size_um": None}, [("voxel size (z, y, x)", "not known")]),
        ({"healing_days": 42.0}, [("healing time", "42 days")]),
        ({"closing_radius_voxels": 1}, [("closing radius", "1 voxel")]),
        ({"island_voxels": 20000}, [("smallest island kept", "20\u202f000 voxels")]),
        ({"percentiles_percent": [0.5, 99.9]}, [("percentiles", "0.5, 99.9 %")]),
        ({"max_radius_um": None, "purify": True}, [("largest radius of a ball", "none"), (None, "yes")]),
        (
            {"roi": ["reference_dilated"]},
            [("region of the bone fraction", "around the reference, its inside included")],
        ),
        ({"statistics": [], "model": {}}, [("tests over samples", "none"), ("network", "none")]),
        ({"model": {"name": "my_net", "in_channels": 1}}, [("network, name", "my_net"), ("network, in channels", "1")]),
        ({"odd": [{"a": 1}]}, [("odd", '[{"a": 1}]')]),
    ],
)
def test_settings_have_words_and_units(values, shown):
    found = list(settings(values))
    assert [value for _, value in found] == [value for _, value in shown]
    assert all(wanted in (None, name) for (name, _), (wanted, _) in zip(found, shown, strict=True))


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("IoU_0", "IoU<sub>0</sub>"),
        ("Tb.Th_plate", "Tb.Th<sub>plate</sub>"),
        ("χ_26", "χ<sub>26</sub>"),
        ("BV/TV", "BV/TV"),
        ("1 / Tb.N_plate - Tb.Th_plate: plates", "1 / Tb.N<sub>plate</sub> - Tb.Th<sub>plate</sub>: plates"),
        ("<b>a_1</b>", "&lt;b&gt;a<sub>1</sub>&lt;/b&gt;"),
        ("a_long_name", "a_long_name"),
    ],
)
def test_what_follows_a_low_line_in_a_symbol_is_a_subscript(given, shown):
    assert symbol(given) == shown


def test_runs_that_do_the_same_are_told_apart_by_what_they_made():
    assert run_title({"name": "cast", "target": "scan.zarr"}) == "cast → scan.zarr"
    assert run_title({"name": "clip_and_scale", "target": None}) == "clip and scale"
    assert run_title({}) == ""
