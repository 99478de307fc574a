"""Bone morphometry against scikit-image, SciPy and bodies whose numbers are known."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import euler_number as skimage_euler_number

from tests.stopping import stopped_again_and_again
from tomoscale.errors import InputError
from tomoscale.memory_array import MemoryArray
from tomoscale.studies.morphometry import morphometry, table
from tomoscale.volume import Volume
from tomoscale.work import Work

MM = 1e-3
MAPPED = ("Tb.Th", "Tb.Sp")


def quiet(block_shape=None, **how) -> Work:
    return Work(progress=False, block_shape=block_shape, **how)


def volume(values, size=(10.0, 10.0, 10.0), kind="labels") -> Volume:
    return Volume(MemoryArray(values, kind), size)


def measured(values, folder: Path, size=(10.0, 10.0, 10.0), block_shape=None, mid_axes=False, **how):
    content = morphometry(volume(values, size), folder, mid_axes=mid_axes, work=quiet(block_shape), **how)
    assert content is not None
    return {q["symbol"]: q["value"] for q in content["quantities"]}, content


def trabeculae(edge=40, seed=3):
    """Labels with bone (3) like sponge, an enclosed pore, and some specks of bone."""
    noise = np.random.default_rng(seed).random((edge, edge, edge))
    bone = ndimage.gaussian_filter(noise, 2.0) > 0.5
    bone[10:17, 10:17, 10:17] = True
    bone[12:15, 12:15, 12:15] = False
    return np.where(bone, 3, np.where(noise > 0.999, 1, 0)).astype(np.uint8)


@pytest.fixture(scope="module")
def sponge(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sponge")
    labels = trabeculae()
    return labels, folder, *measured(labels, folder, mid_axes=True)


def row_of(content, symbol):
    return next(q for q in content["quantities"] if q["symbol"] == symbol)


def ball_map(mask):
    """Diameter in voxels of the largest ball of voxel centres in a mask, ball by ball."""
    radius = ndimage.distance_transform_edt(mask)
    result = np.zeros(mask.shape)
    grid = np.indices(mask.shape)
    squared = np.rint(radius**2).astype(int)
    for centre in zip(*np.nonzero(mask), strict=True):
        near = sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)) <= squared[centre]
        result[near & mask] = np.maximum(result[near & mask], 2 * radius[centre])
    return result


def test_volumes_and_euler_numbers_of_a_sponge(sponge):
    labels, _, found, content = sponge
    bone = labels == 3
    assert found["TV"] == pytest.approx(bone.size * 1e-6)
    assert found["BV"] == pytest.approx(bone.sum() * 1e-6)
    assert found["BV/TV"] == pytest.approx(bone.mean())
    assert found["χ_26"] == skimage_euler_number(bone, 3)
    assert found["χ_6"] == skimage_euler_number(bone, 1)
    assert content["parameters"]["bone"] == [3]
    assert content["parameters"]["voi"] == "whole volume"


def test_connectivity_of_a_sponge_is_that_of_its_largest_piece_without_cavities(sponge):
    labels, _, found, _ = sponge
    pieces, _ = ndimage.label(labels == 3, np.ones((3, 3, 3)))
    largest = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    holes, n = ndimage.label(~largest)
    open_ones = np.unique(np.concatenate([np.unique(np.take(holes, i, axis)) for axis in range(3) for i in (0, -1)]))
    pure = ~np.isin(holes, open_ones[open_ones > 0])
    assert n > 1
    assert (pure != (labels == 3)).any()
    chi = 0.0
    for cut in np.ndindex(3, 3, 3):
        part = pure[tuple([slice(None), slice(0, 1), slice(-1, None)][c] for c in cut)]
        chi += (-0.5) ** sum(c > 0 for c in cut) * skimage_euler_number(part, 3)
    assert found["Conn"] == pytest.approx(1 - chi)
    assert found["Conn.D"] == pytest.approx((1 - chi) / found["TV"])


def test_closed_pores_of_a_sponge(sponge):
    labels, _, found, _ = sponge
    pores, n = ndimage.label(labels != 3)
    border = np.unique(np.concatenate([np.unique(np.take(pores, i, axis)) for axis in range(3) for i in (0, -1)]))
    closed = np.isin(pores, np.setdiff1d(np.arange(1, n + 1), border)).sum()
    assert closed >= 27
    assert found["Po(cl)"] == pytest.approx(closed / labels.size)
    assert found["Po(op)"] + found["Po(cl)"] == pytest.approx(found["Po(tot)"])
    assert found["Po(tot)"] == pytest.approx(1 - found["BV/TV"])


def test_thickness_of_a_small_sponge_against_balls_drawn_one_by_one(tmp_path):
    labels = trabeculae(18)
    found, content = measured(labels, tmp_path)
    for symbol, mask, name in (("Tb.Th", labels == 3, "thickness"), ("Tb.Sp", labels != 3, "separation")):
        values = ball_map(mask)[mask] * 10 * MM
        assert found[symbol] == pytest.approx(values.mean(), rel=1e-4)
        assert found[f"{symbol}.SD"] == pytest.approx(values.std(), rel=1e-3)
        assert found[f"{symbol}.max"] == pytest.approx(values.max(), rel=1e-4)
        histogram = content["histograms"][name]
        expected, _ = np.histogram(values / MM + 1e-6, histogram["edges"])
        assert histogram["counts"] == expected.tolist()


def test_parallel_plates(tmp_path):
    labels = np.zeros((60, 24, 24), np.uint8)
    labels[(np.arange(60) // 6) % 2 == 1] = 3
    found, _ = measured(labels, tmp_path, block_shape=(64, 64, 64))
    # Between centres a plate of 6 voxels has the diameter 2 ceil(6 / 2); the one at the border has only one wall.
    assert found["Tb.Sp"] == pytest.approx((4 * 6 + 12) / 5 * 10 * MM)
    assert found["Tb.Th"] == pytest.approx((4 * 6 + 12) / 5 * 10 * MM)
    assert found["SMI"] == pytest.approx(0.0, abs=1e-9)
    assert found["DA_lattice"] == pytest.approx(1.0, abs=1e-6)
    # Walls along the axes: the 13 directions see 93 % of them, and where the border cuts a wall some lines are lost.
    assert 0.86 < found["BS"] / (9 * 24 * 24 * 1e-4) < 0.94
    assert found["Tb.Th_plate"] == pytest.approx(2 * found["BV"] / found["BS"])
    assert 1 / found["Tb.N_plate"] == pytest.approx(found["Tb.Th_plate"] + found["Tb.Sp_plate"])
    assert found["χ_26"] == 5


def test_the_distance_between_plates_is_the_inverse_of_their_number(tmp_path):
    """Plates of 3 voxels at every 8th, the first and last half a distance from the border."""
    labels = np.zeros((33, 24, 20), np.uint8)
    for middle in (4, 12, 20, 28):
        labels[middle - 1 : middle + 2] = 3
    found, content = measured(labels, tmp_path, block_shape=(64, 64, 64), mid_axes=True)
    assert found["Tb.N"] == pytest.approx(1 / (8 * 10 * MM))
    assert found["Tb.1/N"] == pytest.approx(8 * 10 * MM)
    assert found["Tb.1/N.SD"] == pytest.approx(0, abs=1e-9)
    assert "direct, distance between mid-axes" in row_of(content, "Tb.N")["definition"]
    assert "plate model" in row_of(content, "Tb.N_plate")["definition"]


def test_the_number_of_a_lattice_of_rods_is_that_of_the_largest_balls_between_their_axes(tmp_path):
    """Rods along z on a square lattice of 12 voxels: the ball between four axes has the diagonal as diameter."""
    y, x = np.mgrid[:49, :49] % 12
    rods = (np.minimum(y, 12 - y) ** 2 + np.minimum(x, 12 - x) ** 2) <= 9
    labels = np.repeat(rods[None, 6:43, 6:43], 20, axis=0).astype(np.uint8) * 3
    found, _ = measured(labels, tmp_path, block_shape=(64, 64, 64), mid_axes=True)
    assert found["Tb.N"] == pytest.approx(1 / (12 * np.sqrt(2) * 10 * MM), rel=1e-4)
    # The plate model takes the rods for plates and counts more of them.
    assert found["Tb.N_plate"] > 1.1 * found["Tb.N"]


def test_rods_and_balls_have_structure_model_indices_3_and_4(tmp_path):
    z, y, x = np.ogrid[:56, :56, :56]
    # A rod that runs askew through the volume, so that no wall lies along an axis.
    direction = np.array([2.0, 1.0, 0.6]) / np.linalg.norm([2.0, 1.0, 0.6])
    away = [z - 27.5, y - 27.5, x - 27.5]
    along = sum(a * d for a, d in zip(away, direction, strict=True))
    rod = sum(a**2 for a in away) - along**2 <= 9.0**2
    ball = sum(a**2 for a in away) <= 20.0**2
    for name, body, index in (("rod", rod, 3), ("ball", ball, 4)):
        found, content = measured(body.astype(np.uint8) * 3, tmp_path / name, max_radius_um=150.0, purify=False)
        assert found["SMI"] == pytest.approx(index, rel=0.06)
        assert "discouraged" in row_of(content, "SMI")["definition"]
    assert found["BS"] == pytest.approx(4 * np.pi * 20**2 * 1e-4, rel=0.01)
    assert found["Tb.Th.max"] == pytest.approx(300 * MM)  # cut; the ball is 40 voxels wide


def test_a_torus_has_one_connection_and_the_surface_of_its_formula(tmp_path):
    z, y, x = np.ogrid[-12:13, -28:29, -28:29]
    torus = (np.hypot(y, x) - 17.3) ** 2 + z**2 <= 8.2**2
    torus[0, 0, 0] = True  # a speck, which is no piece of the purified bone
    torus[12, 28 + 17, 28] = False  # a closed pore, which is filled there
    found, _ = measured(torus.astype(np.uint8) * 3, tmp_path, max_radius_um=120.0)
    assert found["χ_26"] == 0 + 1 + 1
    assert found["Conn"] == 1
    assert found["Conn.D"] == pytest.approx(1 / (torus.size * 1e-6))
    assert found["BS"] == pytest.approx(4 * np.pi**2 * 17.3 * 8.2 * 1e-4, rel=0.02)
    assert found["BV"] == pytest.approx(2 * np.pi**2 * 17.3 * 8.2**2 * 1e-6, rel=0.02)
    assert found["Po(cl)"] == pytest.approx(1 / torus.size)


def test_a_mask_of_a_region_leaves_out_what_lies_around_it(tmp_path):
    labels = trabeculae()
    region = np.zeros(labels.shape, bool)
    region[6:34, 4:36, 5:30] = True
    inner = np.ascontiguousarray(labels[6:34, 4:36, 5:30])
    box, _ = measured(inner, tmp_path / "box")
    found, content = measured(labels, tmp_path / "region", voi=volume(region, kind="mask"))
    # Where a region is a box, the cut-out box has the same numbers, but for what depends on how the edge is taken.
    for symbol in ("BV", "TV", "BV/TV", "BS", "χ_26", "χ_6", "DA_lattice", "Po(op)", "Po(cl)", "Tb.N_plate"):
        assert found[symbol] == pytest.approx(box[symbol], rel=1e-12), symbol
    assert found["SMI"] is None
    assert found["Tb.Th"] <= box["Tb.Th"]
    assert any("edge of the region" in text for text in content["caveats"])


def test_every_tiling_gives_the_same_numbers(sponge, tmp_path):
    labels, _, found, _ = sponge
    for n, block_shape in enumerate(((16, 64, 64), (64, 32, 16))):
        assert measured(labels, tmp_path / str(n), block_shape=block_shape, mid_axes=True)[0] == found


def test_voxels_that_are_no_cubes_keep_volumes_and_surface(tmp_path):
    mask = np.zeros((20, 40, 40), bool)
    z, y, x = np.ogrid[-10:10, -20:20, -20:20]
    mask[(z * 2.0) ** 2 + y**2 + x**2 <= 14**2] = True
    content = morphometry(volume(mask, (2.0, 1.0, 1.0), "mask"), tmp_path, work=quiet())
    found = {q["symbol"]: q["value"] for q in content["quantities"]}
    assert content["parameters"]["bone"] == "all but 0"
    assert found["BV"] == pytest.approx(4 / 3 * np.pi * 14**3 * 1e-9, rel=0.02)
    assert found["BS"] == pytest.approx(4 * np.pi * 14**2 * 1e-6, rel=0.02)
    assert any("not cubes" in text for text in content["caveats"])


def test_the_clean_up_of_fiji_changes_maps_and_says_so_and_mid_axes_can_be_left_out(sponge, tmp_path):
    labels, _, found, content = sponge
    assert "is not cleaned up" in content["conventions"]["thickness"]
    cleaned, content = measured(labels, tmp_path, cleanup="fiji")
    assert content["parameters"]["cleanup"] == "fiji"
    assert "as in Fiji and BoneJ" in content["conventions"]["thickness"]
    assert cleaned["Tb.Th"] != found["Tb.Th"]
    assert {k: v for k, v in cleaned.items() if not k.startswith(MAPPED)} == {
        k: v for k, v in found.items() if not k.startswith((*MAPPED, "Tb.1")) and k != "Tb.N"
    }
    assert not (tmp_path / "spacing.zarr").exists()
    with pytest.raises(ValueError, match="takes voxels for cubes"):
        measured(labels, tmp_path / "flat", size=(2.0, 1.0, 1.0), cleanup="fiji")


def test_half_a_voxel_is_taken_off_both_ends(sponge, tmp_path):
    labels, _, found, _ = sponge
    corrected, content = measured(labels, tmp_path, correction="half_voxel")
    assert corrected["Tb.Th"] == pytest.approx(found["Tb.Th"] - 10 * MM)
    assert corrected["Tb.Sp"] == pytest.approx(found["Tb.Sp"] - 10 * MM)
    assert content["parameters"]["correction"] == "half_voxel"


def test_files_say_what_the_results_say(sponge):
    _, folder, _, content = sponge
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(content))
    with (folder / "morphometry.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["symbol"] for row in rows] == [q["symbol"] for q in content["quantities"]]
    assert float(rows[0]["value"]) == content["quantities"][0]["value"]
    assert all(row["definition"] for row in rows)
    assert table(content)["BV/TV"].endswith("bone volume fraction")
    assert all("plate model" in q["name"] for q in content["quantities"] if "_plate" in q["symbol"])


def test_a_stopped_morphometry_goes_on(sponge, tmp_path):
    labels, _, found, _ = sponge
    again = partial(measured, labels, tmp_path, block_shape=(16, 64, 64), mid_axes=True)
    resumed, done = stopped_again_and_again(again, 7, 20)
    assert done > 14
    assert resumed[0] == found


def test_plans_are_shown_and_nothing_is_written(sponge, tmp_path, capsys):
    labels, *_ = sponge
    assert morphometry(volume(labels), tmp_path / "none", work=quiet(plan_only=True)) is None
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("phases", "thickness", "components", "fill holes", "mid-axes", "12 measures"))
    assert not list(tmp_path.rglob("*"))


def test_closed_pores_without_purification_make_a_negative_connectivity_which_is_said(tmp_path):
    labels = np.full((20, 20, 20), 3, np.uint8)
    labels[5:8, 5:8, 5:8] = labels[12:15, 12:15, 12:15] = 0
    pure, content = measured(labels, tmp_path / "pure")
    assert pure["Conn"] == 1
    assert not any("negative" in text for text in content["caveats"])
    found, content = measured(labels, tmp_path / "raw", purify=False)
    assert found["Conn"] == -1
    assert any("connectivity is negative" in text for text in content["caveats"])
    assert pure["Po(cl)"] == found["Po(cl)"] == pytest.approx(54 / 8000)


def test_a_pore_that_meets_an_open_one_at_a_corner_alone_is_closed(tmp_path):
    labels = np.full((12, 12, 12), 3, np.uint8)
    labels[:5, 5, 5] = 0
    labels[5, 6, 6] = 0
    found, _ = measured(labels, tmp_path)
    assert found["Po(op)"] == pytest.approx(5 / 1728)
    assert found["Po(cl)"] == pytest.approx(1 / 1728)


def test_labels_of_one_phase_are_refused_by_what_is_missing(tmp_path):
    with pytest.raises(InputError, match=r"is space and none is bone, where bone is \(3,\)"):
        measured(np.ones((8, 9, 10), np.uint8), tmp_path / "space")
    with pytest.raises(InputError, match="is bone and none is space"):
        measured(np.full((8, 9, 10), 3, np.uint8), tmp_path / "bone")


def test_what_passes_have_made_is_kept_when_a_later_one_is_refused(tmp_path):
    with pytest.raises(InputError, match="is bone and none is space"):
        morphometry(volume(np.full((8, 9, 10), 3, np.uint8)), tmp_path, work=quiet())
    assert (tmp_path / "phases.zarr" / "zarr.json").exists()


def test_a_region_without_bone_has_no_thickness_surface_or_plates(tmp_path):
    labels = trabeculae(24)
    region = (labels != 3).astype(np.uint8)
    found, _ = measured(labels, tmp_path, voi=volume(region), mid_axes=True)
    assert found["Tb.N"] is None
    assert found["BV"] == found["BS"] == found["χ_26"] == 0
    assert found["Po(op)"] == 1
    assert found["Tb.Th"] is found["Tb.Th_plate"] is found["DA_lattice"] is None


def test_balls_that_are_cut_are_named(tmp_path):
    labels = trabeculae(24)
    found, content = measured(labels, tmp_path, max_radius_um=20.0)
    assert found["Tb.Sp.max"] == pytest.approx(40 * MM, rel=1e-3)
    assert any("cut to a radius of 20 µm" in text for text in content["caveats"])


def test_what_cannot_be_measured_is_refused(tmp_path):
    labels = trabeculae(12)
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        morphometry(Volume(MemoryArray(labels, "labels")), tmp_path, work=quiet())
    with pytest.raises(ValueError, match="bone must name at least one label, none twice and not 0"):
        morphometry(volume(labels), tmp_path, bone=(0, 3), work=quiet())
    with pytest.raises(InputError, match="but bone and region are labels or masks"):
        morphometry(volume(labels.astype(np.float32), kind="grey"), tmp_path, work=quiet())
    with pytest.raises(InputError, match=r"holds grey values, of which none is known to be bone.*tomoscale threshold"):
        morphometry(volume(labels, kind="grey"), tmp_path, work=quiet())
    with pytest.raises(InputError, match="they must lie on one grid"):
        morphometry(volume(labels), tmp_path, voi=volume(labels[:5]), work=quiet())
