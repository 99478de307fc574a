"""The porosity study against SciPy and scikit-image on drawn lacunae, and on a crop of mouse femur."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from tests.stopping import stopped_again_and_again
from tomoscale.errors import InputError
from tomoscale.formats import open_volume
from tomoscale.kernels.classes import map_labels
from tomoscale.memory_array import MemoryArray
from tomoscale.studies.porosity import porosity
from tomoscale.studies.porosity_report import CELLS_AT_MOST, porosity_page, read_cell
from tomoscale.studies.voids import select_phases
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work

SIZE = (0.5, 0.5, 0.5)
CUBE = np.ones((3, 3, 3), bool)


def quiet(block_shape=None, **how) -> Work:
    return Work(progress=False, block_shape=block_shape, **how)


def volume(values, size=SIZE) -> Volume:
    return Volume(MemoryArray(values, "labels"), size)


def lacunae() -> np.ndarray:
    """Labels of bone (3) with ellipsoids of void (0), specks of void, a fissure two voxels wide, and other things (1)."""
    labels = np.full((48, 56, 64), 3, np.uint8)
    grid = np.indices(labels.shape)
    places = ((12, 14, 16, 5), (30, 18, 40, 7), (24, 44, 12, 6), (36, 40, 52, 5), (0, 28, 30, 6))
    for z, y, x, radius in places:
        labels[((grid[0] - z) / 1.5) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2 <= radius**2] = 0
    labels[40:42, 4:7, 4:7] = 0
    labels[30, 15:22, 40] = 3
    # An island of bone that closing alone would not fill, and a voxel of something else, which it must not.
    labels[28:31, 17:20, 42:45] = 3
    labels[12, 14, 16] = 1
    labels[:, :, 61:] = 1
    return labels


def expected(labels, island=100, radius=1, least=100):
    """Phases and numbered cells, from whole arrays."""
    phases = np.where(labels == 0, 1, np.where(labels == 3, 2, 0))
    for phase, other in ((1, 2), (2, 1)):
        pieces, _ = ndimage.label(phases == phase, CUBE)
        sizes = np.bincount(pieces.ravel())
        small = (sizes < island) & (np.arange(sizes.size) > 0)
        phases[small[pieces]] = other
    if radius:
        ball = ndimage.generate_binary_structure(3, 1)
        grown = ndimage.binary_dilation(phases == 1, ball)
        closed = ndimage.binary_erosion(grown, ball, border_value=1)
        phases[closed & (phases == 2)] = 1
    pieces, _ = ndimage.label(phases == 1, CUBE)
    sizes = np.bincount(pieces.ravel())
    pieces[(sizes < least)[pieces]] = 0
    return phases, pieces


@pytest.fixture
def no_report(monkeypatch):
    """Pictures take most of the time, and few tests look at them."""
    monkeypatch.setattr("tomoscale.studies.porosity.write_porosity_report", lambda *_: None)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("porosity")
    labels = lacunae()
    content = porosity(volume(labels), folder, work=quiet())
    assert content is not None
    return labels, folder, content, {q["symbol"]: q["value"] for q in content["quantities"]}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_porosity_by_both_conventions(measured):
    labels, folder, content, found = measured
    phases, _ = expected(labels)
    np.testing.assert_array_equal(open_zarr(folder / "closed.zarr").read(), phases)
    void, bone = (phases == 1).sum(), (phases == 2).sum()
    assert found["Po"] == void / (void + bone)
    assert found["V/B"] == void / bone
    assert found["Po_raw"] == (labels == 0).sum() / ((labels == 0) | (labels == 3)).sum()
    assert found["Po_raw"] != found["Po"]
    assert found["V"] == pytest.approx(void / 8)
    assert found["N.Dn"] == pytest.approx(5 / ((void + bone) / 8 * 1e-9))
    assert content["unit"] == "µm"


def test_each_cell_has_a_row_with_its_box_centroid_and_thickness(measured):
    labels, folder, _, found = measured
    _, pieces = expected(labels)
    thick = open_zarr(folder / "thickness.zarr").read()
    rows = rows_of(folder / "cells.csv")
    props = regionprops(pieces)
    assert len(rows) == len(props) == found["N"] == 5
    for row, prop in zip(rows, props, strict=True):
        # Both number cells by their first voxel.
        own = pieces == prop.label
        assert int(row["voxels"]) == prop.area
        assert float(row["volume_um3"]) == prop.area / 8
        box = [int(row[f"{a}_{end}_voxels"]) for end in ("start", "stop") for a in "zyx"]
        assert box == list(prop.bbox)
        centroid = [float(row[f"centroid_{a}_um"]) for a in "zyx"]
        assert centroid == pytest.approx([c / 2 for c in prop.centroid], rel=1e-6)
        assert float(row["thickness_mean_um"]) == pytest.approx(thick[own].mean(), rel=1e-3)
        assert float(row["thickness_deviation_um"]) == pytest.approx(thick[own].std(), rel=1e-2, abs=1e-3)
        assert float(row["thickness_max_um"]) == pytest.approx(thick[own].max(), rel=1e-3)
        at_border = any(np.take(own, i, axis).any() for axis in range(3) for i in (0, -1))
        assert int(row["touches_border"]) == at_border
    assert found["N_cut"] == 1
    volumes = np.array([prop.area for prop in props]) / 8
    assert found["Lc.V"] == pytest.approx(volumes.mean())
    assert found["Lc.V.SD"] == pytest.approx(volumes.std())


def test_the_thickness_of_the_void_and_its_histogram(measured):
    labels, folder, content, found = measured
    phases, _ = expected(labels)
    thick = open_zarr(folder / "thickness.zarr").read()
    np.testing.assert_array_equal(thick > 0, phases == 1)
    values = thick[phases == 1].astype(float)
    assert found["Th"] == pytest.approx(values.mean(), rel=1e-4)
    assert found["Th.SD"] == pytest.approx(values.std(), rel=1e-3)
    assert found["Th.max"] == pytest.approx(values.max(), rel=1e-4)
    # The thickest ball of an ellipsoid of radii 10.5, 7 and 7 voxels.
    assert found["Th.max"] == pytest.approx(2 * 7 * 0.5, rel=0.1)
    histogram = content["histograms"]["thickness"]
    assert sum(histogram["counts"]) == values.size
    assert histogram["counts"] == np.histogram(values + 1e-6, histogram["edges"])[0].tolist()
    assert sum(content["histograms"]["cell_volume"]["counts"]) == 5


@pytest.mark.usefixtures("no_report")
def test_smaller_cells_are_left_out_of_the_table_and_stay_in_the_porosity(measured, tmp_path):
    labels, _, _, found = measured
    content = porosity(volume(labels), tmp_path, min_cell_voxels=1200, work=quiet())
    few = {q["symbol"]: q["value"] for q in content["quantities"]}
    _, pieces = expected(labels, least=1200)
    assert few["N"] == np.unique(pieces).size - 1 == 2
    assert few["Po"] == found["Po"]
    assert sorted(int(row["voxels"]) for row in rows_of(tmp_path / "cells.csv")) == sorted(
        np.bincount(pieces.ravel())[1:][np.bincount(pieces.ravel())[1:] > 0]
    )


@pytest.mark.usefixtures("no_report")
def test_without_cleaning_the_labels_are_measured_as_they_are(tmp_path):
    labels = lacunae()
    how = {"island_voxels": 0, "closing_radius_voxels": 0, "min_cell_voxels": 0}
    content = porosity(volume(labels), tmp_path, **how, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    assert found["Po"] == found["Po_raw"]
    assert found["N"] == ndimage.label(labels == 0, CUBE)[1]
    assert not (tmp_path / "islands.zarr").exists()
    assert not (tmp_path / "closed.zarr").exists()


@pytest.mark.usefixtures("no_report")
def test_every_tiling_gives_the_same_table_and_numbers(measured, tmp_path):
    labels, folder, content, _ = measured
    again = porosity(volume(labels), tmp_path, work=quiet((32, 32, 16)))
    for part in ("quantities", "histograms", "largest_cells"):
        assert again[part] == content[part]
    assert (tmp_path / "cells.csv").read_bytes() == (folder / "cells.csv").read_bytes()


@pytest.mark.usefixtures("no_report")
def test_a_stopped_study_goes_on(measured, tmp_path):
    labels, folder, *_ = measured
    _, done = stopped_again_and_again(lambda: porosity(volume(labels), tmp_path, work=quiet((16, 64, 64))), 6, 20)
    assert done > 12
    assert (tmp_path / "cells.csv").read_bytes() == (folder / "cells.csv").read_bytes()


def test_where_the_voxel_size_is_not_known_lengths_are_voxels(measured, tmp_path):
    labels, _, _, known = measured
    content = porosity(volume(labels, None), tmp_path, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    units = {q["unit"] for q in content["quantities"]}
    assert content["unit"] == "voxel"
    assert not any("m" in unit for unit in units)
    assert content["parameters"]["voxel_size_um"] is None
    assert found["Th"] == pytest.approx(2 * known["Th"])
    assert found["V"] == pytest.approx(8 * known["V"])
    head = (tmp_path / "cells.csv").read_text().splitlines()[0].split(",")
    assert not any(name.endswith(("_um", "_um2", "_um3")) for name in head)
    assert {"volume_voxels3", "centroid_z_voxels", "thickness_max_voxels", "surface_crofton_voxels2"} <= set(head)
    assert open_zarr(tmp_path / "cells.zarr").voxel_size_um is None
    assert any("voxel size is not known" in text for text in content["caveats"])
    assert "µm" not in re.sub(r"<style>.*?</style>", "", (tmp_path / "report.html").read_text(), flags=re.S)


def test_the_report_is_one_file_with_pictures_and_escapes_names(measured):
    _, folder, content, _ = measured
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png") == 5
    assert html.count("data:image/svg+xml") == 2
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<script" not in html
    assert not re.search(r"_(um|voxels)\b", html)
    assert "<td>1 voxel</td>" in html
    hostile = {**content, "inputs": {"labels": {**content["inputs"]["labels"], "name": "<script>alert(1)</script>"}}}
    page = porosity_page(hostile, open_zarr(folder / "cells.zarr"))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.parametrize("read_bytes", [2**26, 40_000, 1])
def test_a_large_cell_is_drawn_from_coarse_voxels_read_slab_by_slab(monkeypatch, read_bytes):
    monkeypatch.setattr("tomoscale.studies.porosity_report._READ_BYTES", read_bytes)
    values = np.zeros((250, 9, 300), np.uint32)
    values[3:241, 2:8, 5:290] = 7
    values[3, 2, 5] = 8
    shape, factor = read_cell(volume(values), 7, (3, 2, 5), (241, 8, 290))
    assert factor == 3
    assert max(shape.shape) <= CELLS_AT_MOST
    assert shape.shape == (80, 2, 95)
    assert shape.all()
    alone, factor = read_cell(volume(values), 8, (3, 2, 5), (5, 4, 8))
    assert factor == 1
    assert alone.sum() == 1


def test_labels_without_void_have_no_cells(tmp_path):
    content = porosity(volume(np.where(lacunae() == 1, 1, 3).astype(np.uint8)), tmp_path, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    assert found["Po"] == 0
    assert found["N"] == 0
    assert found["Th"] is None
    assert len(rows_of(tmp_path / "cells.csv")) == 0
    assert "no cell of the size" in (tmp_path / "report.html").read_text()


def test_several_labels_make_one_phase():
    labels = np.array([[[0, 1, 2, 3, 4]]], np.uint8)
    assert select_phases(labels, (1,), (2, 3)).tolist() == [[[0, 1, 2, 2, 0]]]


@pytest.mark.usefixtures("no_report")
def test_a_scan_is_normalised_and_segmented_first(tmp_path, monkeypatch):
    scan = np.random.default_rng(1).integers(0, 200, (16, 32, 32)).astype(np.uint8)

    def bright_is_bone(normal, target, *, model, any_voxel_size, work):
        assert normal.dtype.kind == "f"
        assert (model, any_voxel_size) == ("a bundle", True)
        values = np.where(normal.read() > 0.5, 3, 0).astype(np.uint8)
        return work.map(map_labels(np.arange(256), np.uint8), Volume(MemoryArray(values), SIZE), target, kind="labels")

    # A network takes ten seconds to load and knows nothing of noise.
    monkeypatch.setattr("tomoscale.studies.porosity.segment", bright_is_bone)
    content = porosity(Volume(MemoryArray(scan), SIZE), tmp_path, model="a bundle", any_voxel_size=True, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    low, high = np.percentile(scan, (0.5, 99.9))
    assert found["Po_raw"] == pytest.approx(((scan.clip(low, high) - low) / (high - low) <= 0.5).mean())
    assert content["model"] == "a bundle"
    assert list(content["inputs"]) == ["grey"]


def test_plans_are_shown_and_nothing_is_written(tmp_path, capsys):
    assert porosity(volume(lacunae()), tmp_path / "none", work=quiet(plan_only=True)) is None
    shown = capsys.readouterr().out
    assert all(
        name in shown for name in ("phases", "replace islands", "close_label", "components", "thickness", "object sums")
    )
    assert not list(tmp_path.rglob("*"))


def test_what_cannot_be_measured_is_refused(tmp_path):
    labels = volume(lacunae())
    with pytest.raises(ValueError, match=r"share \[3\]: a label is one of them"):
        porosity(labels, tmp_path, void=(0, 3), work=quiet())
    with pytest.raises(ValueError, match="void must name at least one label and none twice"):
        porosity(labels, tmp_path, void=(), work=quiet())
    with pytest.raises(ValueError, match="island_voxels must not be negative, got -1"):
        porosity(labels, tmp_path, island_voxels=-1, work=quiet())
    with pytest.raises(ValueError, match="connectivity must be 6, 18 or 26, got 8"):
        porosity(labels, tmp_path, connectivity=8, work=quiet())
    with pytest.raises(InputError, match=r"is void \(0,\) and none is bone \(3,\): give the labels of both"):
        porosity(volume(np.zeros((9, 9, 9), np.uint8)), tmp_path / "void", work=quiet())
    with pytest.raises(InputError, match="voids are told by labels: segment it first, or give model"):
        porosity(volume(lacunae().astype(np.float32)), tmp_path, work=quiet())


@pytest.mark.usefixtures("no_report")
def test_lacunae_of_a_mouse_femur(real_data, tmp_path):
    whole = open_volume(real_data / "femur_lacunae" / "bone_7H3A_B1.tif")
    crop = np.ascontiguousarray(whole.read((slice(200, 264), slice(60, 160), slice(20, 120))))
    content = porosity(Volume(MemoryArray(crop, "labels")), tmp_path, bone=127, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    phases, pieces = expected(np.where(crop == 127, 3, 0))
    np.testing.assert_array_equal(open_zarr(tmp_path / "closed.zarr").read(), phases)
    np.testing.assert_array_equal(open_zarr(tmp_path / "cells.zarr").read() > 0, pieces > 0)
    assert found["Po"] == (phases == 1).mean()
    assert found["N"] == ndimage.label(pieces, CUBE)[1] > 5
    sizes = np.bincount(pieces.ravel())[1:]
    assert [r["voxels"] for r in content["largest_cells"]] == sorted(sizes[sizes > 0], reverse=True)[:12]
    assert json.loads((tmp_path / "results.json").read_text()) == json.loads(json.dumps(content))
