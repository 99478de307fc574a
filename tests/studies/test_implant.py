"""A study from scans to one table: stopped and resumed, from labels alone, and refused before it starts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tomoscale.driver import Driver
from tomoscale.errors import InputError, Interrupted, PlanError
from tomoscale.memory_array import MemoryArray
from tomoscale.phantom import Phantom
from tomoscale.studies.implant import Sample, study
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

SHAPE = (96, 96, 96)
SIZE = (5.0, 5.0, 5.0)


def phantom_sample(name: str, seed: int, days: float) -> Sample:
    phantom = Phantom(SHAPE, seed=seed)
    scan, truth, reference = (Volume(part, SIZE) for part in (phantom.scan, phantom.truth, phantom.screw))
    return Sample(name, scan=scan, truth=truth, reference=reference, healing_days=days)


SAMPLES = (phantom_sample("tibia 1", 1, 42.0), phantom_sample("tibia-2", 2, 84.0))
SETTINGS: dict[str, Any] = {"roi_distance_um": 60.0, "statistics": ("wilcoxon: BIC", "spearman")}


def quiet(**how: Any) -> Work:
    return Work(progress=False, block_shape=(48, 96, 96), **how)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, Any], int]:
    """A study of two phantoms that was stopped in the middle of the second sample, and resumed."""
    folder = tmp_path_factory.mktemp("study")
    record, calls = Driver._record, [0]

    def stopping(driver: Driver, outcome: object) -> None:
        record(driver, outcome)
        calls[0] += 1
        if "tibia-2" in str(driver.plan.record) and "labels.zarr" in str(driver.plan.record):
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "_record", stopping)
        with pytest.raises(Interrupted, match="goes on from there"):
            study(SAMPLES, folder, **SETTINGS, work=quiet())
    assert (folder / "tibia 1" / "results" / "results.json").exists()
    assert not (folder / "study.json").exists()
    written = (folder / "tibia 1" / "clean.zarr" / "zarr.json").stat().st_mtime_ns
    content = study(SAMPLES, folder, **SETTINGS, work=quiet())
    assert content is not None
    assert (folder / "tibia 1" / "clean.zarr" / "zarr.json").stat().st_mtime_ns == written
    return folder, content, calls[0]


def test_a_study_of_two_phantoms_finds_what_they_hold(finished):
    folder, content, _ = finished
    assert json.loads((folder / "study.json").read_text()) == json.loads(json.dumps(content))
    assert content["schema"] == "tomoscale-study/1"
    assert [s["results"] for s in content["samples"]] == [
        "tibia 1/results/results.json",
        "tibia-2/results/results.json",
    ]
    table = {q["name"]: q for q in content["table"]}
    total = np.zeros((4, 4), np.int64)
    for sample in SAMPLES:
        results = json.loads((folder / sample.name / "results" / "results.json").read_text())
        labels, truth = (open_zarr(folder / sample.name / f"{n}.zarr").read() for n in ("clean", "truth"))
        np.testing.assert_array_equal(
            truth, Phantom(SHAPE, seed=1 + SAMPLES.index(sample)).truth.read((slice(0, 96),) * 3)
        )
        confusion = np.bincount(4 * truth.ravel().astype(int) + labels.ravel(), minlength=16).reshape(4, 4)
        assert results["confusion"]["counts"] == confusion.tolist()
        total += confusion
        for q in results["quantities"]:
            row = table[q["name"]]["samples"][sample.name]
            assert row == {k: q[k] for k in ("value", "truth", "relative_error")}, q["name"]
        assert results["model"]["weights_sha256"] == content["parameters"]["model"]["weights_sha256"]
        assert all(sample.name in str(run["record"]) for run in results["runs"]), "runs of this sample alone"
    iou = total[3, 3] / (total[3].sum() + total[:, 3].sum() - total[3, 3])
    assert table["IoU bone"]["pooled"] == iou
    assert table["IoU bone"]["mean"] > 0.8, "the model that ships knows phantoms"
    values = [row["value"] for row in table["degradation rate"]["samples"].values()]
    assert table["degradation rate"]["mean"] == pytest.approx(np.mean(values))
    assert table["degradation rate"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert table["degradation rate"]["pooled"] is None


def test_a_study_says_what_its_statistics_lack_and_what_the_papers_print(finished):
    _, content, _ = finished
    assert content["statistics"] == []
    assert any(c.startswith("wilcoxon: 2 samples") for c in content["caveats"])
    assert any(c.startswith("spearman: 2 samples") for c in content["caveats"])
    assert any(c.startswith("Healing times differ") for c in content["caveats"])
    assert [len(table["rows"]) for table in content["published"]] == [6, 6, 7, 9]


def test_the_csv_of_a_study_has_a_row_for_each_sample(finished):
    folder, content, _ = finished
    with (folder / "study.csv").open(newline="") as file:
        rows = {row["sample"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["tibia 1", "tibia-2", "mean", "deviation", "pooled"]
    table = {q["name"]: q for q in content["table"]}
    bone = table["IoU bone"]["samples"]["tibia 1"]["value"]
    assert rows["tibia 1"]["IoU bone (%)"] == f"{100 * bone:.2f}"
    contact = table["bone-implant contact, faces"]
    assert rows["tibia-2"]["BIC by faces (%)"].startswith(f"{100 * contact['samples']['tibia-2']['value']:.2f} (")
    assert rows["pooled"]["BIC by faces (%)"] == f"{100 * contact['pooled']:.2f}"
    assert {"DR by surface voxels (mm/a)", "mIoU, three classes without background (%)"} <= set(rows["mean"])


def test_a_finished_study_given_again_computes_nothing(finished, monkeypatch):
    folder, content, _ = finished
    monkeypatch.setattr(Driver, "run", lambda driver: pytest.fail("a finished step ran again"))
    again = study(SAMPLES, folder, **SETTINGS, work=quiet())
    assert again is not None
    assert again["table"] == content["table"]


def test_another_parameter_is_refused_in_a_folder_that_holds_results(finished):
    folder, _, _ = finished
    with pytest.raises(PlanError, match="clean"):
        study(SAMPLES[:1], folder, **SETTINGS, clean_radius_voxels=2, work=quiet())


def small(seed: int = 0, shape: tuple[int, int, int] = (20, 22, 24)) -> dict[str, Volume]:
    """Labels, truth and reference of a block of metal in noise."""
    random = np.random.default_rng(seed)
    truth = np.where(random.random(shape) < 0.5, 3, 0).astype(np.uint8)
    truth[4:16, 6:16, 8:18] = 2
    truth[6:14, 8:14, 10:16] = 1
    labels = np.where(random.random(shape) < 0.02, random.integers(0, 4, shape), truth).astype(np.uint8)
    reference = np.zeros(shape, np.uint8)
    reference[4:16, 6:16, 8:18] = 1
    return {
        name: Volume(MemoryArray(values, kind), SIZE)
        for name, values, kind in (
            ("labels", labels, "labels"),
            ("truth", truth, "labels"),
            ("reference", reference, "mask"),
        )
    }


def given(n: int) -> tuple[Sample, ...]:
    return tuple(Sample(f"s{i}", **small(i), healing_days=10.0 * (i + 1)) for i in range(n))


def test_labels_are_measured_without_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr("tomoscale.studies.implant.segment", lambda *_, **__: pytest.fail("a model ran"))
    asked = ("wilcoxon", "spearman: BIC ~ healing time")
    content = study(
        given(6), tmp_path, roi_distance_um=20.0, statistics=asked, iou_preset="s1_all4", work=Work(progress=False)
    )
    assert content is not None
    assert content["parameters"]["model"] == {}
    assert not (tmp_path / "s0" / "labels.zarr").exists()
    assert {row["test"] for row in content["statistics"]} == {"wilcoxon", "spearman"}
    assert all(0 <= row["p"] <= 1 and row["n"] == 6 for row in content["statistics"])
    with (tmp_path / "study.csv").open(newline="") as file:
        assert not any("without background" in name for name in csv.DictReader(file).fieldnames or ())


def test_labels_with_a_scan_are_measured_as_they_are_and_the_scan_for_its_noise(tmp_path, monkeypatch):
    monkeypatch.setattr("tomoscale.studies.implant.segment", lambda *_, **__: pytest.fail("a model ran"))
    volumes = small()
    grey = np.random.default_rng(1).integers(100, 200, volumes["labels"].shape).astype(np.uint16)
    sample = Sample("a", **volumes, scan=Volume(MemoryArray(grey), SIZE))
    content = study([sample], tmp_path, roi_distance_um=20.0, work=Work(progress=False))
    assert content is not None
    table = {q["name"]: q for q in content["table"]}
    assert table["signal to noise, residual metal"]["mean"] == pytest.approx(150 / (100 / 12**0.5), rel=0.1)


def test_volumes_of_ours_are_used_where_they_are(tmp_path):
    volumes = small()
    first = study([Sample("a", **volumes)], tmp_path / "one", roi_distance_um=20.0, work=Work(progress=False))
    ours = {name: tmp_path / "one" / "a" / f"{'given_' * (name == 'labels')}{name}.zarr" for name in volumes}
    second = study([Sample("a", **ours)], tmp_path / "two", roi_distance_um=20.0, work=Work(progress=False))
    assert first is not None
    assert second is not None
    assert second["table"] == first["table"]
    assert sorted(p.name for p in (tmp_path / "two" / "a").iterdir()) == ["results"]


def test_the_plans_of_a_study_write_nothing(tmp_path, capsys):
    assert study(SAMPLES[:1], tmp_path / "s", **SETTINGS, work=quiet(plan_only=True)) is None
    printed = capsys.readouterr().out
    # 3 conversions, histogram, normalise, segment, clean, axis, shells, measures
    assert printed.count("memory") == 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-rf", "=1+1", "dot.", "tab\t", "x" * 101])
def test_names_that_are_no_folders_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="it names a folder"):
        study([Sample(name, **small())], tmp_path, work=quiet())


def test_what_is_wrong_with_a_sample_is_said_before_any_work(tmp_path):
    good, volumes = Sample("good", **small()), small()
    flat = Volume(MemoryArray(np.zeros((3, 4, 5), np.uint8)), SIZE)
    unsized = {name: Volume(v.storage, None) for name, v in volumes.items()}
    wrong: list[tuple[Sample, type[Exception], str]] = [
        (Sample("bad", **{**volumes, "truth": flat}), InputError, r"sample bad: .* must lie on one grid"),
        (Sample("bad", labels=tmp_path / "nothing.zarr"), InputError, "sample bad: .*nothing.zarr"),
        (Sample("bad", **unsized), InputError, "sample bad: no volume says how large a voxel is"),
        (Sample("bad", **volumes, healing_days=0.0), InputError, "sample bad: the healing time must be positive"),
        (Sample("bad", labels=Volume(MemoryArray(np.zeros((3, 4, 5))), SIZE)), InputError, "a class is a whole number"),
        (Sample("bad"), ValueError, "has neither scan nor labels: there is nothing to measure"),
        (Sample("GOOD", **volumes), ValueError, "results would overwrite each other"),
    ]
    for sample, kind, message in wrong:
        with pytest.raises(kind, match=message):
            study([good, sample], tmp_path / "study", roi_distance_um=20.0, work=quiet())
    with pytest.raises(ValueError, match="sample good: radius_um must be at least one"):
        study([good], tmp_path / "study", roi_distance_um=1.0, work=quiet())
    with pytest.raises(ValueError, match="a study needs at least one sample"):
        study([], tmp_path / "study")
    for argument, message in (
        ({"statistics": ("anova",)}, 'statistics are "wilcoxon"'),
        ({"iou_preset": "s3"}, 'iou_preset must be "both" or one of'),
        ({"percentiles_percent": (9.0, 1.0)}, "percentiles must be two increasing numbers"),
        ({"clean_radius_voxels": -1}, "clean_radius_voxels must be 0 or more"),
        ({"roi": "sphere"}, "roi must be of"),
    ):
        with pytest.raises(ValueError, match=message):
            study([good], tmp_path / "study", **argument)
    assert not (tmp_path / "study").exists()


def test_a_voxel_size_for_all_volumes_of_a_sample(tmp_path):
    unsized = {name: Volume(v.storage, None) for name, v in small().items()}
    content = study(
        [Sample("a", **unsized, voxel_size_um=7.0)], tmp_path, roi_distance_um=20.0, work=Work(progress=False)
    )
    assert content is not None
    results = json.loads((tmp_path / "a" / "results" / "results.json").read_text())
    assert results["parameters"]["voxel_size_um"] == [7.0, 7.0, 7.0]


def test_voxels_of_another_size_than_the_network_saw_are_measured_only_when_asked(tmp_path, monkeypatch):
    scan = np.random.default_rng(1).integers(0, 255, (8, 24, 24)).astype(np.uint8)
    sample = Sample("a", scan=Volume(MemoryArray(scan), (6.0, 6.0, 6.0)))
    with pytest.raises(InputError, match=r"was trained on 5 µm: .* go on with any_voxel_size=True"):
        study([sample], tmp_path, work=Work(progress=False))

    def asked(*_: Any, any_voxel_size: bool, **how: Any) -> None:
        raise PlanError(f"any_voxel_size is {any_voxel_size}")

    # What a network says of noise need not be measured.
    monkeypatch.setattr("tomoscale.studies.implant.segment", asked)
    with pytest.raises(PlanError, match="any_voxel_size is True"):
        study([sample], tmp_path, any_voxel_size=True, work=Work(progress=False))
