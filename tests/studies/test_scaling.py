"""Scaling of the U-Net: costs as counted by hand, a grid trained and gone on with."""

from __future__ import annotations

import csv
import json

import jsonschema
import pytest

from tests.training.test_cross_validation import SHORT, configuration, labelled
from tests.training.tiny import QUIET
from tomoscale.cli import main, make_program_of_all
from tomoscale.cli.shell import schema
from tomoscale.errors import InputError
from tomoscale.networks.cost import cost_of
from tomoscale.studies import scaling as module
from tomoscale.studies.scaling import Grid, costs, scaling
from tomoscale.training import output
from tomoscale.training.cross_validation import CrossValidation


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr(output, "draw_curves", lambda *_: None)
    monkeypatch.setattr("tomoscale.training.cross_validation.page_of", lambda *_: "")


def by_hand(depth: int, width: int, size: int, n_classes: int) -> int:
    """FLOPs of the layers of a scaled U-Net: 2 x voxels x channels in x channels out x footprint."""
    total = 0
    for level in range(depth + 1):
        voxels, channels = (size >> level) ** 2, width << level
        before = 1 if level == 0 else channels // 2
        total += 2 * voxels * 9 * (before * channels + channels * channels)
        if level < depth:
            # From below by a transposed convolution: every voxel there gives four here.
            total += 2 * (voxels // 4) * 4 * (2 * channels) * channels
            total += 2 * voxels * 9 * (2 * channels * channels + channels * channels)
    return total + 2 * size**2 * width * n_classes


@pytest.mark.parametrize(("depth", "width", "size"), [(1, 2, 16), (3, 32, 384), (5, 64, 640)])
def test_flops_are_those_counted_by_hand(depth, width, size):
    cost = cost_of("scaled_unet", {"depth": depth, "width": width, "n_classes": 4, "dimensions": 2}, (size, size))
    assert cost.flops == by_hand(depth, width, size, 4)


def test_the_grid_of_the_paper_has_48_networks_and_its_largest_named_one_280_million_parameters():
    assert len(Grid().recipes(SHORT)) == 48
    (named,) = costs(Grid((5,), (96,), (640,)), 4)
    assert named["parameters"] / 1e6 == pytest.approx(279.84, abs=0.2), "'approximately 280 million'"


def test_an_input_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"does not take inputs of \(20, 20\)"):
        costs(Grid((3,), (2,), (20,)), 4)


def test_every_network_is_trained_once_and_held_against_its_cost(tmp_path, monkeypatch):
    plan, grid = CrossValidation(SHORT, labelled(1, 2), 2, "tiny"), Grid((1, 2), (2,), (16,))
    validate, begun = module.cross_validate, []

    def stops_at_the_second(own, place, **how):
        begun.append(place.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return validate(own, place, **how)

    monkeypatch.setattr(module, "cross_validate", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        scaling(plan, grid, tmp_path / "out", work=QUIET)
    written = (tmp_path / "out" / "d1_w2_s16" / "fold_1" / "checkpoint.safetensors").stat().st_mtime_ns
    found = scaling(plan, grid, tmp_path / "out", resume=True, work=QUIET)
    assert (tmp_path / "out" / "d1_w2_s16" / "fold_1" / "checkpoint.safetensors").stat().st_mtime_ns == written
    assert [(r["depth"], r["flops"]) for r in found["networks"]] == [(d, by_hand(d, 2, 16, 3)) for d in (1, 2)]
    for row in found["networks"]:
        alone = json.loads((tmp_path / "out" / f"d{row['depth']}_w2_s16" / "cross_validation.json").read_text())
        assert row["mean_iou"] == alone["table"]["mean of all classes"]["mean"]
    rows = list(csv.DictReader((tmp_path / "out" / "scaling.csv").read_text().splitlines()))
    assert [float(r["mean_iou"]) for r in rows] == [r["mean_iou"] for r in found["networks"]]
    assert "mean IoU" in (tmp_path / "out" / "scaling.svg").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "0.906" in page, "the published numbers stand beside"
    with pytest.raises(InputError, match="was begun with another grid"):
        scaling(plan, Grid((1,), (2,), (16,)), tmp_path / "out", resume=True, work=QUIET)


def test_the_command_counts_without_samples_as_its_schema_says(tmp_path, capsys):
    config = configuration(tmp_path, samples=None, output=None, grid={"depths": [1, 2], "widths": [2], "sizes": [16]})
    line = ["study", "scaling", str(config), "--flops-only"]
    assert main([*line, "--json", "--output", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, schema(make_program_of_all(), "study scaling"))
    assert [r["flops"] for r in found["networks"]] == [by_hand(d, 2, 16, 3) for d in (1, 2)]
    assert (tmp_path / "out" / "scaling.svg").exists()
    assert main(line) == 0
    assert "depth 2, width 2, input 16" in capsys.readouterr().out
    assert main(line[:3]) == 2
    assert "lacks samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"depth": [1]}, "grid.depth: no such key; did you mean depths"),
        ({"depths": [1, 1]}, "must hold different whole numbers from 1 under depths"),
        ({"widths": []}, "must hold different whole numbers from 1 under widths"),
        ({"sizes": [1.5]}, "'1.5' must be a whole number"),
    ],
)
def test_a_wrong_grid_is_refused_with_its_line(tmp_path, grid, words, capsys):
    config = configuration(tmp_path, grid=grid)
    assert main(["study", "scaling", str(config), "--flops-only"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(config) in error
