"""The report of a study: every sample in the table, a section for each, and nothing from outside of its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.report.test_sample import HOSTILE, Page
from tomoscale.commands import report
from tomoscale.errors import InputError, PlanError
from tomoscale.report import scene
from tomoscale.report import study as study_module
from tomoscale.report.figures import Chart
from tomoscale.report.study import read_results, write_study_report
from tomoscale.volume import create_volume

NAMES = ["T04", "T 07"]
CLASSES = [{"id": 0, "name": "background", "color": "#000000"}, {"id": 3, "name": "bone", "color": "#eeeeee"}]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pictures, and no PNG of charts: tests of figures look at these."""
    monkeypatch.setattr(scene, "COMPACT_PIXELS", 60)
    monkeypatch.setattr(Chart, "png", b"png")


def quantity(name: str, unit: str, *values: float | None, truth: float | None = None) -> dict[str, Any]:
    found = [v for v in values if v is not None]
    rows = {n: {"value": v, "truth": truth, "relative_error": None} for n, v in zip(NAMES, values, strict=True)}
    if truth is not None:
        rows[NAMES[0]]["relative_error"] = 0.25
    mean, deviation = float(np.mean(found)), float(np.std(found, ddof=1)) if len(found) > 1 else None
    return {
        "name": name,
        "symbol": "",
        "unit": unit,
        "samples": rows,
        "mean": mean,
        "deviation": deviation,
        "pooled": 0.875,
    }


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    labels = np.zeros((8, 9, 10), np.uint8)
    labels[2:6, 3:6] = 3
    for name in NAMES:
        place = folder / name / "results"
        place.mkdir(parents=True)
        volume = create_volume(
            folder / name / "labels.zarr", shape=labels.shape, dtype="u1", voxel_size_um=5.0, kind="labels"
        )
        volume.create()
        volume.write((slice(0, 8), slice(0, 9), slice(0, 10)), labels)
        volume.finish({})
        entry = {"name": "labels.zarr", "path": volume.name, "shape": [8, 9, 10], "voxel_size_um": [5.0, 5.0, 5.0]}
        results = {
            "inputs": {"labels": entry},
            "classes": CLASSES,
            "confusion": {"counts": [[5, 1], [2, 7]]},
            "caveats": [f"caveat of {name}"],
            "checks": [{"name": "check", "state": "ok", "text": name}],
            "runs": [{"name": "segment", "seconds": {"wall": 1.0}}],
        }
        (place / "results.json").write_text(json.dumps(results))
    content = {
        "schema": "tomoscale-study/1",
        "program": "tomoscale 0.1.0",
        "samples": [{"name": n, "results": f"{n}/results/results.json"} for n in NAMES],
        "table": [
            quantity("IoU bone", "", 0.75, 0.5),
            quantity("degradation rate", "mm/year", 0.25, None, truth=0.2),
            quantity("contrast to noise", "", 3.0, 4.0),
        ],
        "statistics": [{"test": "wilcoxon", "quantity": "BIC", "n": 6, "statistic": 1.0, "p": 0.03125}],
        "published": [
            {"title": "Doe 2024, Table 4", "source": "doi", "columns": ["model", "bone"], "rows": [["U-Net", "98.11"]]}
        ],
        "caveats": ["healing times differ"],
    }
    (folder / "study.json").write_text(json.dumps(content))
    return folder


def cells_of(html: str, start: str) -> list[str]:
    """Texts of the cells of the row that begins with a text."""
    row = next(r for r in html.split("<tr>") if re.sub("<[^>]+>", "", r).startswith(start))
    return [re.sub(r"<[^>]+>", " ", c).split() for c in re.findall(r"<t[dh].*?</t[dh]>", row)]


def test_the_table_has_every_sample_the_mean_and_what_is_pooled(study, tmp_path):
    html = report(study, tmp_path / "r.html").path.read_text()
    assert cells_of(html, "IoU bone")[1:] == [["0.7500"], ["0.5000"], ["0.6250", "±", "0.1768"], ["0.8750"]]
    rate = cells_of(html, "degradation rate")
    assert rate[0][-1] == "mm/year"
    assert rate[1] == ["0.2500", "truth", "0.2000", "+25", "%"]
    assert rate[2][:2] == ["not", "defined"]
    assert rate[3] == ["0.2500"], "one value has no deviation"
    assert cells_of(html, "wilcoxon")[1:] == [["BIC"], ["6"], ["1.000"], ["0.03125"]]
    assert cells_of(html, "U-Net") == [["U-Net"], ["98.11"]]


def test_every_sample_has_a_section_with_its_figures(study, tmp_path):
    found = Page(report(study, tmp_path / "r.html").path.read_text())
    for name in NAMES:
        for words in (f"Sample {name}", f"caveat of {name}"):
            assert found.text.count(words) == 1
    assert "healing times differ" in found.text
    assert "Doe 2024, Table 4. doi." in found.text
    alts = [alt for tag, a in found.tags if tag == "img" and (alt := str(a["alt"]))]
    assert sum(alt.startswith("Labels in space") for alt in alts) == 4
    assert sum(alt.startswith("Labels, plane z") for alt in alts) == 2
    charts = [alt for alt in alts if "by sample" in alt]
    assert charts == [
        "Intersection over union (IoU) of each class by sample: IoU bone: T04 0.7500, T 07 0.5000",
        "Quantities by sample: degradation rate: T04 0.2500 mm/year",
    ]


def test_a_study_reported_again_has_the_same_bytes_and_its_own_figures(study, tmp_path):
    first = report(study, tmp_path / "a.html", figures=tmp_path / "a").path.read_bytes()
    assert report(study, tmp_path / "b.html", figures=tmp_path / "b").path.read_bytes() == first
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert {"iou_by_sample.svg", "01_T04_labels_3d.png", "02_T_07_plane_z.svg", "captions.txt"} <= set(names)
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    with pytest.raises(PlanError, match="not empty: give another folder for the figures, or overwrite=True"):
        report(study, tmp_path / "c.html", figures=tmp_path / "a")
    assert not (tmp_path / "c.html").exists()
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="not empty"):
        report(study, tmp_path / "c.html", figures=tmp_path / "file")


def test_many_samples_and_quantities_are_split_over_tables_and_charts(study, tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "_sample_parts", lambda *_: [])
    content = json.loads((study / "study.json").read_text())
    names = [f"S{n}" for n in range(7)]
    content["samples"] = [{"name": n, "results": "T04/results/results.json"} for n in names]
    rows = {n: {"value": 0.5, "truth": 0.4, "relative_error": 0.25} for n in names}
    content["table"] = [{"name": f"quantity {k}", "unit": "mm", "samples": rows, "mean": 0.5} for k in range(13)]
    path = write_study_report(tmp_path / "r.html", content, study, figures=tmp_path / "figures")
    found = Page(path.read_text())
    assert len([1 for tag, a in found.tags if tag == "img" and "by sample" in str(a["alt"])]) == 2
    assert {p.name for p in (tmp_path / "figures").glob("quantities*.svg")} == {
        "quantities_by_sample_1.svg",
        "quantities_by_sample_2.svg",
    }
    assert found.text.count("Every quantity of every sample") == 2


def test_hostile_names_are_only_text(study, tmp_path):
    content = json.loads((study / "study.json").read_text())
    text = json.dumps(content).replace("Doe", "<script>x</script>").replace("wilcoxon", "<b onload=x>")
    content = json.loads(text)
    hostile = HOSTILE.encode("utf-8", "replace").decode()
    content["samples"][0]["name"] = hostile
    content["caveats"] = content["published"][0]["rows"][0] = [hostile, hostile]
    content["table"][0]["name"] += hostile
    content["table"][0]["samples"] = {hostile: {"value": 0.5, "truth": 0.5, "relative_error": 0.0}}
    write_study_report(tmp_path / "r.html", content, study, figures=tmp_path / "figures")
    found = Page((tmp_path / "r.html").read_text())
    assert {"script", "b"} & {tag for tag, _ in found.tags} <= {"b"}
    assert not [n for _, attributes in found.tags for n in attributes if n.startswith("on")]
    assert found.text.count("<script>alert(1)</script>") > 5
    assert all(re.fullmatch(r"[A-Za-z0-9_.]+", p.name) for p in (tmp_path / "figures").iterdir())


@pytest.mark.parametrize("inside", ["../other/results.json", "/etc/passwd", "link/results.json"])
def test_results_outside_of_the_study_are_refused(study, tmp_path, inside):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "results.json").write_text("{}")
    (study / "link").symlink_to(tmp_path / "other")
    with pytest.raises(InputError, match="outside of the study"):
        read_results(study, {"name": "T04", "results": inside})


def test_results_that_cannot_be_read_are_named(study, tmp_path):
    (study / "T04" / "results" / "results.json").write_text("{")
    with pytest.raises(InputError, match="the results of sample 'T04' cannot be read"):
        report(study, tmp_path / "r.html")
    (study / "T04" / "results" / "results.json").write_text("[]")
    with pytest.raises(InputError, match=r"the results of sample 'T04' .* not a JSON object"):
        report(study, tmp_path / "r.html")
    content = json.loads((study / "study.json").read_text())
    (study / "study.json").write_text(json.dumps(content | {"schema": "other/7"}))
    with pytest.raises(InputError, match="schema 'other/7', but 'tomoscale-study/1' is needed"):
        report(study, tmp_path / "r.html")
    (study / "study.json").write_text("{")
    with pytest.raises(InputError, match=r"study\.json: the results cannot be read"):
        report(study, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
