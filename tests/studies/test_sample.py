"""One labelled scan measured: a cube that a person can count, the papers' definitions, and what the checks find."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage

from tests.blocks import measure_by_blocks
from tomoscale.errors import InputError
from tomoscale.measures import contact
from tomoscale.measures.topology import configurations, surface_area
from tomoscale.measures.touching import surface_voxels
from tomoscale.memory_array import MemoryArray
from tomoscale.studies import implant, regions
from tomoscale.studies.regions import shell_edges
from tomoscale.volume import Volume
from tomoscale.work import Work

DECADE_UM = (10.0, 10.0, 10.0)


def volume(values: np.ndarray, size: tuple[float, float, float] = DECADE_UM) -> Volume:
    return Volume(MemoryArray(np.ascontiguousarray(values)), size)


def measure(folder: Path, size: tuple[float, float, float] = DECADE_UM, *, block=None, **what: Any) -> dict[str, Any]:
    volumes = {k: volume(v, size) if isinstance(v, np.ndarray) else v for k, v in what.items()}
    work = Work(progress=False, block_shape=block or what["labels"].shape)
    found = implant.measure(results=folder, work=work, **volumes)
    assert found is not None
    assert json.loads((folder / "results.json").read_text()) == json.loads(json.dumps(found))
    return found


def by_name(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {q["name"]: q for q in results["quantities"]}


def states(results: dict[str, Any]) -> dict[str, str]:
    return {c["name"]: c["state"] for c in results["checks"]}


def cube() -> dict[str, np.ndarray]:
    """A cube of 4³ metal voxels in a layer one voxel thick, bone from its side x = 9 on, nothing elsewhere."""
    labels, reference = np.zeros((12, 12, 16), np.uint8), np.zeros((12, 12, 16), np.uint8)
    labels[:, :, 9:] = 3
    labels[3:9, 3:9, 3:9] = 2
    labels[4:8, 4:8, 4:8] = 1
    reference[3:9, 3:9, 3:9] = 1
    return {"labels": labels, "reference": reference}


def test_a_cube_in_numbers_a_person_can_count(tmp_path):
    results = measure(
        tmp_path,
        **cube(),
        healing_days=365.25,
        roi_distance_um=20.0,
        roi=("reference_dilated", "reference_shell", "implant_shell"),
    )
    found = by_name(results)
    # One of six sides of 36 faces touches bone.
    assert found["bone-implant contact, faces"]["value"] == pytest.approx(1 / 6)
    assert found["bone-implant contact, faces"]["sums"] == [36 * 100.0, 216 * 100.0]
    # 152 surface voxels; 36 of them touch bone.
    assert found["bone-implant contact, voxels"]["value"] == 36 / 152
    # (216 - 64) voxels of 1000 µm³ over 152 faces of 100 µm² are 10 µm, in one year.
    assert found["degradation rate, surface voxels"]["value"] == pytest.approx(0.01)
    assert found["degradation rate, surface voxels"]["unit"] == "mm/year"
    assert found["volume of residual metal"]["value"] == pytest.approx(64e-6)
    # Within 20 µm: 6 x 36 voxels straight off the sides at each of 10 and 20 µm, 6 along each of 12 edges, 8 corners.
    assert results["profile"]["edges_um"] == [0.0, 10.0, 20.0]
    shells = results["profile"]["labels"]
    assert [b + f for b, f in zip(shells["bone"], shells["background"], strict=True)] == [216, 216 + 72 + 8]
    # Bone: the side x = 9; the side x = 10, four edges and four corners at x = 9.
    assert shells["bone"] == [36, 36 + 24 + 4]
    assert shells["implant"] == [0, 0]
    for name in ("bone fraction around the reference", "bone fraction outside the reference"):
        assert found[name]["value"] == 100 / 512
    assert found["bone fraction around the degraded implant"]["value"] == 100 / 512
    fractions = {f["roi"]: f for f in results["bone_fractions"]}
    assert fractions["reference_dilated"]["voxels"]["labels"] == {
        "n_bone": 100,
        "n_background": 412,
        "n_excluded": 216,
    }
    assert fractions["reference_shell"]["voxels"]["labels"]["n_excluded"] == 0
    assert fractions["implant_shell"]["voxels"]["labels"]["n_excluded"] == 216
    assert fractions["reference_dilated"]["clipped_fraction"] == 0.0
    assert [row["value"] for row in results["gap_tolerance"]] == pytest.approx(
        [1 / 6, (36 + 24) / 216, (36 + 48) / 216]
    )


def test_the_map_of_the_cube_has_its_bone_towards_x(tmp_path):
    arrays = cube()
    # A longer cube, so that its axis is certain: along z.
    long = {k: np.repeat(v, 2, axis=0) for k, v in arrays.items()}
    results = measure(tmp_path, **long, roi_distance_um=20.0)
    found = results["contact_map"]
    bone, free = (np.array(found["labels"][k]) for k in ("bone", "free"))
    assert found["direction"] == [1.0, 0.0, 0.0]
    assert found["angle_deg"] == [10.0 * k for k in range(37)]
    assert bone.shape == free.shape == (len(found["along_um"]) - 1, 36)
    assert (bone.sum(), free.sum()) == (12 * 6, 3 * 12 * 6 + 2 * 36)
    # The side towards x is 6 voxels wide and 3.5 away: 45 degrees and less to either side of x, which is angle 0.
    towards = np.flatnonzero(bone.sum(axis=0))
    assert set(towards.tolist()) <= {0, 1, 2, 3, 4, 31, 32, 33, 34, 35}
    assert found["along_um"][0] == pytest.approx(-60.0)
    assert found["along_um"][-1] == pytest.approx(70.0), "the face of the high end lies at the start of a step"
    assert states(results)["axis"] == "ok"


def test_results_are_written_as_csv_with_the_same_numbers(tmp_path):
    results = measure(tmp_path, **cube(), roi_distance_um=20.0, healing_days=10)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["name"] for r in rows] == [q["name"] for q in results["quantities"]]
    assert [float(r["value"]) for r in rows] == [q["value"] for q in results["quantities"]]
    assert all(r["definition"] for r in rows)


def messy(seed: int = 4) -> dict[str, np.ndarray]:
    """A tilted rod with a layer in sponge-like bone, with specks; truth without."""
    random = np.random.default_rng(seed)
    z, y, x = np.indices((24, 30, 33))
    distance = np.hypot(y - 14 - 0.1 * z, x - 16)
    bone = scipy.ndimage.gaussian_filter(random.normal(size=z.shape), 1.5) > 0
    truth = np.where(bone, 3, 0)
    truth[distance < 8] = 2
    truth[distance < 6] = 1
    labels = np.where(random.random(z.shape) < 0.01, random.integers(0, 4, z.shape), truth)
    return {
        "labels": labels.astype(np.uint8),
        "truth": truth.astype(np.uint8),
        "reference": ((distance < 7.5) & (z > 2)).astype(np.uint8),
        "grey": (1000 * truth + random.integers(0, 500, z.shape)).astype(np.uint16),
    }


PARTS = (
    "quantities",
    "confusion",
    "bone_fractions",
    "profile",
    "contact_map",
    "gap_tolerance",
    "histogram",
    "checks",
    "caveats",
)


@pytest.mark.parametrize("size", [DECADE_UM, (10.0, 5.0, 4.0)])
def test_every_part_of_the_results_is_the_same_for_every_tiling(tmp_path, size):
    what = {**messy(), "healing_days": 42, "roi_distance_um": 45.0, "roi": ("reference_dilated", "implant_shell")}
    whole = measure(tmp_path / "whole", size, **what)
    parts = measure(tmp_path / "parts", size, block=(7, 30, 11), **what)
    for part in PARTS:
        assert parts[part] == whole[part], part


def test_wide_distances_axis_by_axis_give_the_same_numbers(tmp_path, monkeypatch):
    what = {**messy(), "roi_distance_um": 45.0, "roi": ("reference_dilated", "implant_shell")}
    direct = measure(tmp_path / "direct", **what)
    monkeypatch.setattr(regions, "WIDE_VOXELS", 1)
    by_axis = measure(tmp_path / "by_axis", block=(9, 30, 33), **what)
    for part in PARTS:
        assert by_axis[part] == direct[part], part
    assert len(by_axis["runs"]) == 2 + 3 * 3


def test_profile_and_histogram_equal_scipy_and_numpy(tmp_path):
    arrays = messy()
    results = measure(tmp_path, **arrays, roi_distance_um=45.0)
    distance = scipy.ndimage.distance_transform_edt(arrays["reference"] == 0, sampling=10.0)
    edges = np.array(results["profile"]["edges_um"])
    assert edges.tolist() == [0.0, 11.25, 22.5, 33.75, 45.0]
    for name in ("labels", "truth"):
        values = arrays[name]
        for key, mask in (
            ("bone", values == 3),
            ("background", values == 0),
            ("implant", (values == 1) | (values == 2)),
        ):
            shell = np.searchsorted(edges, distance[mask])
            assert results["profile"][name][key] == np.bincount(shell, minlength=6)[1:5].tolist()
    shown = results["histogram"]
    for k, name in enumerate(("background", "residual metal", "degradation layer", "bone")):
        counts = np.bincount(arrays["grey"][arrays["labels"] == k] // 256, minlength=256)
        first = int((shown["centres"][0] - 127.5) / 256)
        assert shown["classes"][name] == counts[first : first + len(shown["centres"])].tolist()
    assert sum(shown["counts"]) == arrays["grey"].size


def test_the_record_names_program_versions_model_and_inputs(tmp_path):
    results = measure(tmp_path, **cube(), roi_distance_um=20.0, model={"weights_sha256": "0" * 64})
    assert results["program"].startswith("tomoscale ")
    assert {"python", "numpy", "numba"} <= set(results["versions"])
    assert results["model"] == {"weights_sha256": "0" * 64}
    digest = results["inputs"]["labels"]["digest"]
    assert digest.startswith("sha256:")
    changed = {**cube()}
    changed["labels"][0, 0, 0] = 3
    again = measure(tmp_path / "again", **changed, roi_distance_um=20.0)
    assert again["inputs"]["labels"]["digest"] != digest
    assert again["inputs"]["reference"]["digest"] == results["inputs"]["reference"]["digest"]


def test_shells_are_a_twentieth_of_the_distance_and_never_thinner_than_a_voxel():
    assert shell_edges(1000.0, (5.0, 5.0, 5.0)) == tuple(50.0 * k for k in range(1, 21))
    assert shell_edges(45.0, DECADE_UM) == (11.25, 22.5, 33.75, 45.0)
    assert shell_edges(45.0, (30.0, 1.0, 1.0)) == (45.0,)
    assert shell_edges(15.0, (30.0, 1.0, 1.0)) == (15.0,)
    assert len(shell_edges(0.3, (0.1, 0.1, 0.1))) == 3


def more_metal(arrays: dict[str, np.ndarray]) -> None:
    arrays["labels"][3:9, 2:9, 3:9] = 1


def no_bone(arrays: dict[str, np.ndarray]) -> None:
    arrays["labels"][arrays["labels"] == 3] = 0


def no_implant(arrays: dict[str, np.ndarray]) -> None:
    arrays["labels"][np.isin(arrays["labels"], (1, 2))] = 0


def film(arrays: dict[str, np.ndarray]) -> None:
    arrays["labels"][:, :, 9] = 0


def cut(arrays: dict[str, np.ndarray]) -> None:
    arrays.update({k: v[:, 2:] for k, v in arrays.items()})


def another_section(arrays: dict[str, np.ndarray]) -> None:
    arrays.update({k: np.repeat(v, 2, axis=0) for k, v in arrays.items()})  # so that the axis is certain
    arrays["labels"][:6, 4:8, 4:8] = 1


def speck(arrays: dict[str, np.ndarray]) -> None:
    # A voxel is less than a hundredth of the section of a cube of 16 x 216 voxels, which is 228.
    arrays.update({k: np.repeat(np.repeat(v, 4, axis=0), 4, axis=1) for k, v in arrays.items()})
    arrays["labels"][5, 5, -1] = 1


def zero_rim(arrays: dict[str, np.ndarray]) -> None:
    arrays["grey"] = np.full(arrays["labels"].shape, 100, np.uint16)
    arrays["grey"][:, 0] = 0


def nothing(arrays: dict[str, np.ndarray]) -> None:
    """Leave the cube as it is."""


def measured(folder: Path, change: Callable[[dict[str, np.ndarray]], None], size=DECADE_UM) -> dict[str, Any]:
    """Results of the cube with one thing changed."""
    arrays = cube()
    change(arrays)
    return measure(folder, size, **arrays, roi_distance_um=20.0)


@pytest.mark.parametrize(
    ("change", "name", "state", "text"),
    [
        (nothing, "region and field of view", "ok", "lies in the volume"),
        (more_metal, "metal and reference", "failed", "degradation rate is negative"),
        (no_bone, "classes of the labels", "warning", "No voxel is bone"),
        (no_implant, "classes of the labels", "failed", "No voxel is residual metal or degradation layer"),
        (film, "films of background", "warning", "films of one voxel between implant and bone decide it"),
        (cut, "region and field of view", "warning", "is cut at y low"),
        (another_section, "one section: ends", "warning", "Only the implant touches z low"),
        (another_section, "implant and border", "warning", "touches the border at z low (16 voxels)"),
        (speck, "one section: ends", "ok", "touch the same faces"),
        (speck, "implant and border", "warning", "touches the border at x high (1 voxels)"),
        (another_section, "one section: length", "warning", "may not be the same section"),
        (zero_rim, "zeros in the grey volume", "warning", r"8.33% of the grey values are exactly 0"),
    ],
)
def test_checks_find_what_is_wrong(tmp_path, change, name, state, text):
    row = next(c for c in measured(tmp_path, change)["checks"] if c["name"] == name)
    assert (row["state"], text in row["text"]) == (state, True), row


def test_nothing_is_wrong_with_the_cube_but_its_axis(tmp_path):
    found = states(measured(tmp_path, nothing))
    assert {name for name, state in found.items() if state != "ok"} == {"axis", "films of background"}


def test_voxels_that_are_no_cubes_are_told(tmp_path):
    results = measured(tmp_path, nothing, (20.0, 10.0, 10.0))
    assert states(results)["voxels"] == "warning"
    assert any("Voxels are not cubes" in c for c in results["caveats"])


def test_the_clipped_fraction_is_estimated_from_below(tmp_path):
    """A ball whose surroundings are cut on one side: what is missing is known from the volume before it was cut."""
    z, y, x = np.indices((64, 64, 64)) - 32
    ball = (z**2 + y**2 + x**2 <= 10**2).astype(np.uint8)
    distance = scipy.ndimage.distance_transform_edt(ball == 0)
    for first in (14, 18, 20):
        cut = {"labels": ball[first:], "reference": ball[first:]}
        results = measure(tmp_path / str(first), **cut, roi_distance_um=150.0)
        found = {f["roi"]: f["clipped_fraction"] for f in results["bone_fractions"]}
        near = distance <= 15
        solid = np.count_nonzero(near[:first]) / np.count_nonzero(near)
        shell = np.count_nonzero(near[:first]) / np.count_nonzero(near & (ball == 0))
        assert 0.5 * solid < found["reference_dilated"] <= solid
        assert 0.5 * shell < found["reference_shell"] <= shell
        assert any("at least about" in c for c in results["caveats"])


def test_a_face_that_cuts_the_reference_ends_the_region(tmp_path):
    z, y, x = np.indices((40, 64, 64)) - np.array([8, 32, 32]).reshape(3, 1, 1, 1)
    ball = (z**2 + y**2 + x**2 <= 10**2).astype(np.uint8)
    results = measure(tmp_path, labels=ball, reference=ball, roi_distance_um=150.0)
    assert results["bone_fractions"][0]["clipped_fraction"] == 0.0
    assert states(results)["region and field of view"] == "ok"
    assert any("The reference screw is cut by the field of view at z low" in c for c in results["caveats"])


def test_the_papers_vectors_of_contact(tmp_path):
    """Perfect prediction; contact 1 in solid bone, 0 in air, a half through a film that covers half of a wall."""
    block = np.zeros((8, 40, 40), np.uint8)
    block[:4] = 1
    for fill, expected in ((3, 1.0), (0, 0.0)):
        block[4:] = fill
        results = measure(tmp_path / str(fill), labels=block, truth=block)
        found = by_name(results)
        assert found["bone-implant contact, faces"]["value"] == expected
        assert found["bone-implant contact, voxels"]["value"] == expected
        assert found["bone-implant contact, faces"]["relative_error"] == (0.0 if expected else None)
        assert found["IoU residual metal"]["value"] == 1.0
        assert found["IoU degradation layer"]["value"] is None, "absent in both"
        assert found["mean IoU, four classes, background included"]["value"] == 1.0
    block[4:] = 3
    block[4][np.random.default_rng(0).random((40, 40)) < 0.5] = 0
    results = measure(tmp_path / "film", labels=block)
    assert by_name(results)["bone-implant contact, faces"]["value"] == pytest.approx(0.5, abs=0.03)
    assert [row["value"] for row in results["gap_tolerance"][1:]] == [1.0, 1.0]


def test_the_degradation_of_a_ball_by_both_surfaces():
    """From radius 60 to 50: 8.4334 voxels lost by the Crofton surface, 10.251 by that of surface voxels."""
    r = np.arange(-62, 63) ** 2
    squares = r[:, None, None] + r[:, None] + r
    ball, rest = squares <= 60**2, squares <= 50**2
    lost = float(ball.sum() - rest.sum())
    cells = measure_by_blocks(configurations(), (ball,), (64, 125, 125))["configurations"]
    found = measure_by_blocks(surface_voxels(), (ball,), (64, 125, 125))
    unit = (1.0, 1.0, 1.0)
    assert lost / surface_area(cells, unit) == pytest.approx(8.4334, abs=1e-4)
    assert lost / contact.surface_area_of_voxels(found, unit) == pytest.approx(10.251, abs=1e-3)


def test_float_grey_values_bring_their_zeros_and_no_histogram(tmp_path):
    arrays = messy()
    results = measure(tmp_path, labels=arrays["labels"], grey=arrays["grey"].astype(np.float32))
    assert "histogram" not in results
    assert "zeros in the grey volume" in states(results)
    assert any("not integers" in c for c in results["caveats"])


@pytest.mark.parametrize("denominator", ["root_sum_square", "pooled", "background"])
def test_contrast_to_noise_by_each_denominator(tmp_path, denominator):
    random = np.random.default_rng(0)
    labels = np.zeros((12, 24, 24), np.uint8)
    labels[:, 12:, :12], labels[:, :12, 12:], labels[:, 12:, 12:] = 1, 2, 3
    grey = (random.normal(0, 1, labels.shape) * (20.0 + 10.0 * labels) + 1000.0 * (labels + 1.0)).astype(np.uint16)
    results = measure(tmp_path, labels=labels, grey=grey, cnr_denominator=denominator)
    ball = sum(d.astype(float) ** 2 for d in np.mgrid[-2:3, -2:3, -2:3]) <= 4
    inside = [grey[scipy.ndimage.binary_erosion(labels == k, ball, border_value=1)].astype(float) for k in range(4)]
    variance = inside[3].var() + inside[2].var()
    noise = {"root_sum_square": variance**0.5, "pooled": (variance / 2) ** 0.5, "background": inside[0].std()}
    expected = abs(inside[3].mean() - inside[2].mean()) / noise[denominator]
    assert by_name(results)["contrast to noise, bone and degradation layer"]["value"] == pytest.approx(expected)


def test_regions_and_denominators_that_are_not_known_are_refused(tmp_path):
    labels = volume(cube()["labels"])
    with pytest.raises(ValueError, match="roi must be of reference_dilated, reference_shell, implant_shell"):
        implant.measure(labels, tmp_path, roi="sphere")
    with pytest.raises(ValueError, match="cnr_denominator must be one of root_sum_square"):
        implant.measure(labels, tmp_path, cnr_denominator="none")
    with pytest.raises(InputError, match="does not say how large a voxel is"):
        implant.measure(Volume(labels.storage, None), tmp_path)


def test_plans_only_are_printed_for_every_pass(tmp_path, capsys):
    arrays = {k: volume(v) for k, v in cube().items()}
    work = Work(plan_only=True)
    assert implant.measure(results=tmp_path, roi="implant_shell", roi_distance_um=20.0, work=work, **arrays) is None
    assert capsys.readouterr().out.count("blocks") == 4, "axis, shells, region, measures"
    assert list(tmp_path.iterdir()) == []


def cracked() -> np.ndarray:
    """A ball in a half-space of bone: a crack in it, one to its surface, one bone specks lie in, a gap beside it, a pore."""
    z, y, x = np.indices((30, 30, 34)) - np.array([15, 15, 15])[:, None, None, None]
    away = z**2 + y**2 + x**2
    labels = np.where(x > 0, 3, 0).astype(np.uint8)
    labels[away <= 11**2] = 2
    labels[away <= 7**2] = 1
    labels[14:17, 15, 9:13] = 0  # enclosed
    labels[15, 14:16, 19:22] = 0  # enclosed, with a speck of bone
    labels[15, 15, 20] = 3
    labels[20, 15, :12] = 0  # open to the outside
    steps = np.arange(8)
    labels[20 + steps, 15 + steps, 15] = 0  # open to it too, by edges of voxels alone
    labels[15, 15, 26:29] = 0  # a closed gap between bone and implant
    labels[5:7, 5:7, 30] = 0  # a pore in bone
    return labels


@pytest.mark.parametrize("block", [None, (16, 16, 16)])
def test_contact_of_the_outer_surface_leaves_out_what_the_implant_encloses_alone(tmp_path, block):
    labels = cracked()
    found = by_name(measure(tmp_path, labels=labels, truth=labels, outer_contact=True, block=block))
    implant_mask = (labels == 1) | (labels == 2)
    around, n = scipy.ndimage.label(~implant_mask, np.ones((3, 3, 3)))
    inner = np.isin(around, [k for k in range(1, n + 1) if k != around[0, 0, 0]])
    assert inner.sum() == 12 + 6
    to_bone = to_void = 0
    for axis in range(3):
        lines, implants, holes = (np.moveaxis(a, axis, 0) for a in (labels, implant_mask, inner))
        for here, there in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            sides = implants[here] & ~holes[there]
            to_bone += np.count_nonzero(sides & (lines[there] == 3))
            to_void += np.count_nonzero(sides & (lines[there] == 0))
    outer, plain = (found[f"bone-implant contact, {name}"] for name in ("outer surface", "faces"))
    assert outer["value"] == outer["truth"] == to_bone / (to_bone + to_void)
    assert outer["value"] > plain["value"]
    assert outer["symbol"] == "BIC_outer"


def test_without_cracks_the_outer_surface_is_the_surface(tmp_path):
    found = by_name(measure(tmp_path, labels=cube()["labels"], outer_contact=True))
    outer, plain = (found[f"bone-implant contact, {name}"] for name in ("outer surface", "faces"))
    assert (outer["value"], outer["sums"]) == (plain["value"], plain["sums"])
