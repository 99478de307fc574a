"""Networks compared: each sample labelled by a network that has not seen it, measured, and put into one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml

from tests.training.tiny import CLASSES, QUIET, SIZE, recipe, sample
from tomoscale.cli import main, make_program_of_all
from tomoscale.cli.shell import schema
from tomoscale.cli.train_config import read
from tomoscale.cli.training_studies import _recipes
from tomoscale.errors import InputError
from tomoscale.measures.overlap import iou
from tomoscale.networks.cost import cost_of
from tomoscale.studies import networks as module
from tomoscale.studies.networks import NetworkComparison, compare_networks
from tomoscale.training import output
from tomoscale.training.folds import Labelled
from tomoscale.training.preparation import network_arguments
from tomoscale.volume import open_zarr

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "networks.yaml"
NAMES = ("U-Net", "HR-Net", "U2-Net", "Scaled U-Net", "2D nnU-Net", "3D nnU-Net", "Sensor3D")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    monkeypatch.setattr(output, "draw_curves", lambda *_: None)
    monkeypatch.setattr("tomoscale.training.cross_validation.page_of", lambda *_: "")


def toy(folder: Path, **change: object) -> Path:
    """The example with two of its networks, small phantoms, and one step."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document |= {
        "folds": 2,
        "phantoms": {"count": 2, "size": [32, 40, 40], "seed": 5, "healing-time": "6weeks"},
        "roi-distance": "30um",
        "sampling": {"patch": [16, 16], "batch": 2, "axes": ["z"]},
        "stop": {"steps": 2, "validate-every": 2},
        "machine": {"accelerator": "cpu", "threads": 1},
        "networks": [
            {"name": "shallow", "network": {"architecture": "scaled_unet", "arguments": {"depth": 1, "width": 2}}},
            {"name": "deep", "network": {"architecture": "scaled_unet", "arguments": {"depth": 2, "width": 2}}},
        ],
        **change,
    }
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}))
    return path


def test_two_networks_end_in_the_table_of_the_papers_and_go_on_where_they_stopped(tmp_path, capsys, monkeypatch):
    config, place = toy(tmp_path), tmp_path / "out"
    measure, begun = module.measure, []

    def stops_at_the_last(labels, results, **how):
        begun.append(Path(results).parent.name)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return measure(labels, results, **how)

    monkeypatch.setattr(module, "measure", stops_at_the_last)
    line = ["study", "networks", str(config), "--output", str(place), "--json"]
    assert main([*line, "--quiet"]) == 6
    capsys.readouterr()
    written = (place / "deep" / "fold_2" / "checkpoint.safetensors").stat().st_mtime_ns
    assert main([*line, "--resume"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    jsonschema.validate(found, schema(make_program_of_all(), "study networks"))
    assert (place / "deep" / "fold_2" / "checkpoint.safetensors").stat().st_mtime_ns == written
    assert "deep: phantom 6 is labelled and measured" in told.err

    # By hand: the labels of a sample are of the fold that was judged by it, and IoU is that of whole samples.
    validated = json.loads((place / "deep" / "cross_validation.json").read_text())
    assert [f["validation"] for f in validated["folds"]] == [["phantom 5"], ["phantom 6"]]
    results = json.loads((place / "deep" / "samples" / "phantom 6" / "results" / "results.json").read_text())
    assert results["model"]["name"] == "deep, fold 2 of 2"
    labels = open_zarr(place / "deep" / "samples" / "phantom 6" / "labels.zarr").read()
    truth = open_zarr(tmp_path / "out_phantoms" / "phantom_6" / "labels.zarr").read()
    confusion = np.bincount(4 * truth.ravel().astype(int) + labels.ravel(), minlength=16).reshape(4, 4)
    rows = list(csv.DictReader((place / "networks.csv").read_text().splitlines()))
    assert [(r["network"], r["sample"]) for r in rows[:2]] == [("shallow", "phantom 5"), ("shallow", "phantom 6")]
    (own,) = [r for r in rows if (r["network"], r["sample"]) == ("deep", "phantom 6")]
    column = next(c for c in own if c.startswith("IoU bone"))
    assert own[column] == f"{100 * iou(confusion)[3]:.2f}"
    assert any(c.startswith("BIC by faces (%), ground truth") for c in own)
    page = (place / "report.html").read_text()
    assert all(text in page for text in ("shallow", "3D nnU-Net", "Lopes Marinho", "DR by"))


def test_the_example_names_the_seven_networks_and_all_can_be_made(tmp_path):
    given = read(EXAMPLE, parts={}, more=("folds", "networks", "roi-distance", "phantoms"))
    recipes = _recipes(given)
    assert tuple(recipes) == NAMES
    for one in recipes.values():
        cost = cost_of(one.network.architecture, network_arguments(one, 4), one.sampling.patch)
        assert cost.parameters < 2_000_000
        assert one.stop.steps == 500


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"networks": None}, "lacks networks"),
        ({"networks": [{"name": "a", "network": {}}, {"name": "a", "network": {}}]}, "is the second network 'a'"),
        ({"networks": [{"name": "a", "netwrk": {}}]}, "netwrk: no such key; did you mean network"),
        ({"phantoms": {"count": 2, "size": [32, 40]}}, "must hold three lengths"),
        ({"phantoms": {"count": 0, "size": [32, 40, 40]}}, "phantoms.count: '0'"),
        ({"roi-distance": 30}, "roi-distance: '30' has no unit"),
        ({"phantoms": None}, "lacks samples"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_line(tmp_path, change, words, capsys):
    config = toy(tmp_path, **change)
    assert main(["study", "networks", str(config), "--output", str(tmp_path / "out"), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert str(config) in error
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_measured_is_refused():
    three = Labelled(CLASSES, (sample("a", 1), sample("b", 2)), SIZE)
    with pytest.raises(ValueError, match="networks are compared by what is measured of 4 classes"):
        compare_networks(NetworkComparison({"one": recipe()}, three), "nowhere", work=QUIET)
    four = (*CLASSES, type(CLASSES[0])(3, "shell"))
    with pytest.raises(ValueError, match=r"'\.\./x' becomes a folder"):
        NetworkComparison({"../x": recipe()}, Labelled(four, three.samples, SIZE))
    with pytest.raises(ValueError, match="there must be a network"):
        NetworkComparison({}, three)
    with pytest.raises(InputError, match="sample c is labelled in part"):
        NetworkComparison({"one": recipe()}, Labelled(four, (sample("c", 1, slices={"z": (1,)}),), SIZE))
