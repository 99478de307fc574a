"""The commands about models, as a user types them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.networks import checkpoints
from tests.networks.random import card, random_network
from tests.networks.test_architectures import LAB, registry  # noqa: F401 -- a fixture
from tests.test_cli import told
from tests.world import volume_at
from tomoscale.cli import main
from tomoscale.networks.architectures import declare_from, make_network
from tomoscale.networks.bundle import load_bundle, save_bundle
from tomoscale.networks.card import Normalisation, Windows
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.volume import open_zarr


def test_a_model_is_told_in_words_and_as_json(capsys):
    assert main(["model", "info", str(SHIPPED_MODEL)]) == 0
    words = capsys.readouterr().out
    for said in ("degradation layer", "5 x 5 x 5 µm", "exact by blocks", "51 x 51 voxels before", "AdamW", "272,260"):
        assert said in words
    found = told(capsys, "model", "info", SHIPPED_MODEL)
    assert found["parameters"] == 272_260
    assert found["reach_voxels"]["before"] == [51, 51]


@pytest.fixture
def bundle(tmp_path):
    return save_bundle(tmp_path / "bundle", [random_network(2, 2), random_network(2, 2, seed=1)], card()).path


def test_probing_says_that_the_card_is_right(bundle, capsys):
    found = told(capsys, "model", "probe", bundle)
    assert found["measured"] == found["card"]
    assert found["members"] == 2
    assert main(["model", "probe", str(bundle)]) == 0
    assert "measured what its card says" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": [8, 8]}, "stride (8, 8) on the card, (4, 4) measured"),
        ({"after": [22, 23]}, "after (22, 23) on the card, (23, 23) measured"),
        ({"local": False}, "dependent on its whole window, measured it is local"),
    ],
)
def test_probing_finds_a_card_that_is_wrong(bundle, change, message, capsys):
    document = json.loads((bundle / "card.json").read_text())
    document["reach_voxels"] |= change
    document["windows"] = None if document["reach_voxels"]["local"] else asdict(Windows((32, 32)))
    (bundle / "card.json").write_text(json.dumps(document))
    assert main(["model", "probe", str(bundle), "--json"]) == 7
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "integrity"
    assert message in error["message"]


def test_probing_sees_that_instance_norm_is_not_local(tmp_path, capsys):
    results = checkpoints.network(2, 0)
    path = save_bundle(tmp_path / "bundle", results, replace(card(3), windows=Windows((24, 32)))).path
    assert told(capsys, "model", "probe", path)["measured"] == {"local": False}
    assert main(["model", "probe", str(path)]) == 0
    assert "depends on the window as a whole" in capsys.readouterr().out


def test_results_of_nnunet_are_imported(tmp_path, capsys):
    results = checkpoints.write_results(tmp_path)
    target = tmp_path / "model"
    found = told(capsys, "model", "import", results, target, "--spacing-unit", "mm", "--name", "screws")
    assert (found["name"], found["architecture"], found["members"]) == ("screws", "nnunet", 1)
    assert found["windows"]["shape"] == [24, 32]
    values = torch.rand(1, 1, 24, 32)
    torch.testing.assert_close(load_bundle(target).network()(values), checkpoints.network(2, 0)(values))
    assert main(["model", "import", str(results), str(tmp_path / "two"), "--classes", "a,b"]) == 2
    assert "--classes cannot be given" in capsys.readouterr().err


def test_weights_are_imported_with_what_they_do_not_say(tmp_path, capsys):
    for seed in range(2):
        state = random_network(1, 2, seed=seed, n_classes=3).state_dict()
        safetensors.torch.save_file(state, tmp_path / f"{seed}.safetensors")
    told_of = [
        "--architecture",
        "scaled_unet",
        "--arguments",
        '{"depth": 1, "width": 2}',
        "--classes",
        "air,metal,bone",
    ]
    files = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    more = ["--voxel-size", "2um", "--normalise", "zscore"]
    found = told(capsys, "model", "import", *files, tmp_path / "model", *told_of, *more)
    assert (found["members"], found["name"]) == (2, "model")
    bundle = load_bundle(tmp_path / "model")
    assert [c.name for c in bundle.classes] == ["air", "metal", "bone"]
    assert bundle.card.voxel_size_um == (2.0, 2.0, 2.0)
    assert bundle.card.normalisation == Normalisation("zscore")


def test_networks_of_the_users_own_are_imported_by_naming_their_module(tmp_path, monkeypatch, registry, capsys):  # noqa: F811
    (tmp_path / "toy_named.py").write_text(f'{LAB}register_architecture("sharp", Sharp)\n')
    monkeypatch.syspath_prepend(tmp_path)
    declare_from("toy_named")
    module = ["--architecture-module", "toy_named"]
    network = make_network("sharp", {"in_channels": 1, "n_classes": 2, "dimensions": 2, "width": 3})
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
    how = ["--architecture", "sharp", "--arguments", '{"width": 3}', "--classes", "air,bone", "--voxel-size", "1um"]
    found = told(capsys, "model", "import", tmp_path / "a.safetensors", tmp_path / "model", *how, *module)
    assert found["reach_voxels"]["before"] == [2, 2]
    assert told(capsys, "model", "info", tmp_path / "model", *module) == found
    assert told(capsys, "model", "probe", tmp_path / "model", *module)["measured"] == found["reach_voxels"]
    shutil.rmtree(tmp_path / "model")


def test_a_network_of_the_users_own_labels_a_volume_also_in_a_chain(tmp_path, monkeypatch, registry):  # noqa: F811
    (tmp_path / "toy_runs.py").write_text(f'{LAB}register_architecture("sharp", Sharp)\n')
    monkeypatch.syspath_prepend(tmp_path)
    declare_from("toy_runs")
    arguments = {"in_channels": 1, "n_classes": 4, "dimensions": 2, "width": 3}
    save_bundle(tmp_path / "model", make_network("sharp", arguments), card())
    volume_at(tmp_path / "normal.zarr", np.random.default_rng(0).random((4, 16, 16), np.float32), kind="grey")
    named = ["--model", str(tmp_path / "model"), "--architecture-module", "toy_runs"]
    source = str(tmp_path / "normal.zarr")
    assert main(["segment", source, str(tmp_path / "one.zarr"), *named, "--no-pyramid", "--workers", "threads"]) == 0
    (tmp_path / "chain.yaml").write_text(
        "steps:\n- segment: {source: normal.zarr, target: two.zarr, model: model, architecture-module: toy_runs}\n"
    )
    assert main(["run", str(tmp_path / "chain.yaml"), "--workers", "threads"]) == 0
    one, two = (open_zarr(tmp_path / f"{name}.zarr").read() for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
