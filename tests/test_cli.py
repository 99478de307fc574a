"""What a user types, and what comes back: results on stdout, progress on stderr, JSON as its schema says, help at once."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import jsonschema
import numpy as np
import pytest
import scipy.ndimage
import tifffile

from tests.world import SHAPE, slices_at, volume_at
from tomoscale.cli import main, make_program_of_all, values
from tomoscale.cli.failures import KINDS
from tomoscale.cli.shell import GENERAL_SCHEMAS, SCHEMAS, schema
from tomoscale.cli.volumes import FORMATS, OME_04
from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.volume import open_zarr

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = make_program_of_all()
COMMANDS = tuple(PROGRAM.commands)
HEAVY = {"numpy", "zarr", "torch", "dask", "distributed", "tensorstore", "matplotlib", "yaml", "rich", "numba", "h5py"}


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(3).integers(100, 60000, SHAPE).astype(np.uint16)


@pytest.fixture
def slices(tmp_path, grey) -> Path:
    return slices_at(tmp_path / "slices", grey)


@pytest.fixture
def scan(tmp_path, grey) -> Path:
    return volume_at(tmp_path / "scan.zarr", grey, kind="grey")


@pytest.fixture
def labels(tmp_path) -> Path:
    values = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    return volume_at(tmp_path / "labels.zarr", values)


def told(capsys, *arguments: object) -> dict:
    """Result of a command with --json, which is the only thing on stdout and as its schema says."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    name = " ".join(map(str, arguments[:2]))
    plan = "--plan" in arguments
    check(result, "plan" if plan else name if name in COMMANDS else str(arguments[0]))
    return result


def check(result: object, name: str) -> None:
    jsonschema.validate(result, schema(PROGRAM, name), cls=jsonschema.Draft202012Validator)


def test_convert_keeps_every_voxel_and_the_voxel_size(tmp_path, slices, grey, capsys):
    scan = tmp_path / "scan.zarr"
    assert main(["convert", str(slices), str(scan), "--voxel-size", "5um"]) == 0
    volume = open_zarr(scan)
    np.testing.assert_array_equal(volume.read(), grey)
    assert volume.voxel_size_um == (5.0, 5.0, 5.0)
    assert "20 x 24 x 28" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["little", "big"])
def test_raw_voxels_are_read_as_they_are_described(tmp_path, grey, order, capsys):
    stored = grey.astype(grey.dtype.newbyteorder("<" if order == "little" else ">"))
    (tmp_path / "scan.raw").write_bytes(b"header!" + stored.tobytes())
    layout = ("--shape", "20x24x28", "--dtype", "uint16", "--byte-order", order, "--offset", "7")
    result = told(
        capsys, "convert", tmp_path / "scan.raw", tmp_path / "scan.zarr", *layout, "--voxel-size", "1um,2um,3um"
    )
    assert result["voxel_size_um"] == [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(open_zarr(tmp_path / "scan.zarr").read(), grey)


def test_normalise_clips_at_the_percentiles_of_numpy(tmp_path, scan, grey):
    assert main(["normalise", str(scan), str(tmp_path / "normal.zarr"), "--percentiles", "1", "99"]) == 0
    low, high = np.percentile(grey, [1, 99])
    expected = (np.clip(grey.astype(np.float32), low, high) - np.float32(low)) / np.float32(high - low)
    np.testing.assert_allclose(open_zarr(tmp_path / "normal.zarr").read(), expected, atol=1e-6)


def test_a_plan_is_printed_and_nothing_is_written(tmp_path, slices, capsys):
    target = tmp_path / "scan.zarr"
    line = ["convert", str(slices), str(target), "--voxel-size", "5um", "--plan"]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("blocks", "margin", "reads", "writes", "memory"))
    plans = told(capsys, *line)["plans"]
    assert plans[0]["step"] == "cast"
    assert set(plans[0]) >= {"source", "target", "blocks", "reads", "writes", "memory"}
    assert not target.exists()


def test_every_result_is_as_its_schema_says(tmp_path, slices, labels, capsys):
    scan, normal = tmp_path / "converted.zarr", tmp_path / "normal.zarr"
    made = told(capsys, "convert", slices, scan, "--voxel-size", "5um")
    assert made == {
        "volume": str(scan),
        "shape": [20, 24, 28],
        "dtype": "uint16",
        "voxel_size_um": [5.0, 5.0, 5.0],
        "kind": "grey",
    }
    told(capsys, "normalise", scan, normal)
    assert told(capsys, "segment", normal, tmp_path / "found.zarr")["scaling"] is None
    assert main(["segment", str(normal), str(tmp_path / "found.zarr"), "--quiet"]) == 0
    assert "normalised already" in capsys.readouterr().out
    shares = ("--probabilities", tmp_path / "shares", "--quantisation", "uint16")
    kept = told(
        capsys, "segment", scan, tmp_path / "kept.zarr", "--precision", "bfloat16", "--tolerance", 0.01, *shares
    )
    assert kept["agreement"]["agreement"] > 0.9
    record = ("--record", tmp_path / "greys")
    found = told(capsys, "model", "agreement", SHIPPED_MODEL, scan, "--precision", "bfloat16", *record)
    assert found["agreement"] == kept["agreement"]["agreement"]
    fused = ("--planes", "3", "--voting", "majority", "--disagreement", tmp_path / "disagreement.zarr")
    assert told(capsys, "segment", normal, tmp_path / "fused.zarr", *fused)["kind"] == "labels"
    assert open_zarr(tmp_path / "disagreement.zarr").read().max() <= 2
    told(capsys, "clean", labels, tmp_path / "clean.zarr")
    more = ("--grey", scan, "--truth", tmp_path / "clean.zarr", "--outer-contact")
    measured = told(capsys, "measure", labels, tmp_path / "results", *more)
    assert "BIC_outer" in {q["symbol"] for q in measured["quantities"]}
    assert measured["inputs"]["labels"]["path"] == str(labels)
    told(capsys, "report", tmp_path / "results", tmp_path / "report.html", "--figures", tmp_path / "figures")
    assert any((tmp_path / "figures").iterdir())
    assert told(capsys, "export", scan, tmp_path / "part.tif", "--region", "0:4,:,:")["written"].endswith("part.tif")
    assert told(capsys, "status", scan)["state"] == "finished"
    verified = told(capsys, "verify", scan)
    assert verified["blocks_compared"] == verified["blocks"] > 0
    assert told(capsys, "completion", "bash")["shell"] == "bash"
    assert told(capsys, "schema", "convert")["title"].startswith("Result of tomoscale convert")


def test_objects_distances_and_thicknesses_are_made_from_the_command_line(tmp_path, labels, capsys):
    values = open_zarr(labels).read()
    numbered = tmp_path / "objects.zarr"
    expected, n = scipy.ndimage.label((values == 1) | (values == 2))
    found = told(capsys, "components", labels, numbered, "--classes", "1,2", "--connectivity", 6)
    assert (found["kind"], found["objects"], found["warnings"]) == ("labels", n, [])
    np.testing.assert_array_equal(open_zarr(numbered).read(), expected)
    for name, more in {
        "remove-small": ("--min-voxels", 3),
        "keep-largest": ("--number", 1, "--multilabel"),
        "replace-islands": ("--min-voxels", 2),
        "fill-holes": ("--classes", 3),
    }.items():
        told(capsys, name, labels, tmp_path / f"{name}.zarr", *more)
    kept = open_zarr(tmp_path / "keep-largest.zarr").read()
    assert 0 < np.count_nonzero(kept) < np.count_nonzero(values)
    found = told(capsys, "distance", labels, tmp_path / "far.zarr", "--classes", 3)
    assert found["object_voxels"] == np.count_nonzero(values == 3)
    far = scipy.ndimage.distance_transform_edt(values != 3, sampling=5)
    np.testing.assert_allclose(open_zarr(tmp_path / "far.zarr").read(), far, rtol=1e-6)
    found = told(capsys, "thickness", labels, tmp_path / "thick.zarr", "--classes", 3, "--max-radius", "20um")
    assert found["object_voxels"] == np.count_nonzero(values == 3)
    told(capsys, "thickness", labels, tmp_path / "cleaned.zarr", "--classes", 3, "--cleanup", "fiji")
    found = told(capsys, "threshold", labels, tmp_path / "bone.zarr", "--range", 2, 3)
    assert (found["up_to"], found["mask_voxels"]) == (3, np.count_nonzero(values == 3))
    np.testing.assert_array_equal(open_zarr(tmp_path / "bone.zarr").read(), values == 3)
    table = told(capsys, "object-table", numbered, tmp_path / "objects.csv")["table"]
    assert len(Path(table).read_text().splitlines()) == 1 + expected.max()
    assert open_zarr(tmp_path / "thick.zarr").read().max() <= 40
    assert main(["components", str(labels), str(numbered), "--classes", "1,1"]) == 2
    assert "numbers that are all different" in capsys.readouterr().err


def test_what_holds_nothing_is_said_and_what_filters_did_is_counted(tmp_path, capsys):
    values = np.zeros((9, 10, 11), np.uint8)
    volume_at(tmp_path / "empty.zarr", values.astype(bool), kind="mask")
    values[1:4, 1:4, 1:4], values[6, 6, 6] = 1, 1
    values[2, 2, 2] = 0
    volume_at(tmp_path / "two.zarr", values.astype(bool), kind="mask")
    volume_at(tmp_path / "grey.zarr", values)
    for line, source, said in (
        ("threshold --above 1", "grey", "no voxel of {} is above 1, so the mask is empty"),
        ("threshold --range -1 9", "grey", "every voxel of {} is above -1 and not above 9, so the mask is full"),
        ("distance", "empty", "no voxel of the object, so every distance is infinite"),
        ("distance --inside", "empty", "no voxel of the object, so every distance is 0"),
        ("thickness", "empty", "no voxel of the object, so the thickness is 0 everywhere"),
        ("components", "empty", "no voxel of the object, so nothing is numbered"),
        ("keep-largest", "empty", "no voxel of the object, so nothing is changed"),
    ):
        name, *how = line.split()
        path = tmp_path / f"{source}.zarr"
        assert main([name, str(path), str(tmp_path / "out.zarr"), *how, "--quiet", "--overwrite"]) == 0
        assert said.format(path) in capsys.readouterr().out
    counted = {
        name: told(capsys, name, tmp_path / "two.zarr", tmp_path / f"{name}.zarr", *more)
        for name, *more in (("keep-largest",), ("remove-small", "--min-voxels", 99), ("fill-holes",))
    }
    assert [counted["keep-largest"][k] for k in ("objects_kept", "objects_changed")] == [1, 1]
    assert [counted["remove-small"][k] for k in ("objects_kept", "objects_changed")] == [0, 2]
    assert counted["fill-holes"]["holes_filled"] == 1


@pytest.mark.parametrize("command", ["distance", "thickness", "components", "split", "object-table"])
def test_a_plan_of_what_is_finished_says_so_and_where(tmp_path, capsys, command):
    values = np.zeros((9, 10, 11), np.uint32)
    values[1:4, 1:4, 1:4] = 1
    source, target = volume_at(tmp_path / "one.zarr", values, kind="labels"), tmp_path / "out.csv"
    line = [command, str(source), str(target), "--quiet"]
    assert main([*line, "--plan"]) == main(line) == 0
    assert "none: the same command" not in capsys.readouterr().out
    (plan,) = told(capsys, *line, "--plan")["plans"]
    assert plan == {"step": "none: the same command has finished this", "target": str(target)}
    assert main([*line, "--plan", "--overwrite"]) == 0
    assert "none: the same command" not in capsys.readouterr().out


def test_a_plan_says_what_an_earlier_run_of_it_has_done(tmp_path, labels, capsys):
    line = ["clean", labels, tmp_path / "clean.zarr", "--no-pyramid"]
    assert "done" not in told(capsys, *line, "--plan")["plans"][0]
    told(capsys, *line)
    (plan,) = told(capsys, *line, "--plan")["plans"]
    assert plan["done"] == f"{plan['blocks'].split()[0]} of {plan['blocks'].split()[0]} blocks: finished"
    assert "done" not in told(capsys, *line, "--radius", 2, "--plan")["plans"][0], "another plan"


def test_help_explains_every_name_that_lies_beside_an_output(tmp_path, slices, labels, capsys):
    before = set(tmp_path.iterdir())
    told(capsys, "convert", slices, tmp_path / "scan.zarr", "--voxel-size", "5um")
    told(capsys, "normalise", tmp_path / "scan.zarr", tmp_path / "normal.zarr")
    told(capsys, "components", labels, tmp_path / "objects.zarr")
    told(capsys, "thickness", labels, tmp_path / "thick.zarr", "--classes", 1)
    beside = {path.suffix for path in set(tmp_path.iterdir()) - before} - {".zarr"}
    hidden = {p.name for p in tmp_path.rglob(".*")}
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    assert beside == {".histogram", ".pieces"}
    assert [name for name in (*beside, *hidden, ".parts", ".partial") if name not in text] == []
    shutil.rmtree(tmp_path / "normal.histogram")
    assert told(capsys, "normalise", tmp_path / "scan.zarr", tmp_path / "normal.zarr")["kind"] == "grey"


def test_touching_objects_are_split_and_reliefs_flooded_from_the_command_line(tmp_path, capsys):
    away = np.indices((12, 12, 24))
    mask = ((away[0] - 6) ** 2 + (away[1] - 6) ** 2 + (abs(away[2] - 11.5) - 4) ** 2 <= 26).astype(np.uint8)
    volume_at(tmp_path / "balls.zarr", mask)
    split = told(capsys, "split", tmp_path / "balls.zarr", tmp_path / "parts.zarr", "--min-depth", "2um")
    assert (split["objects"], split["voxels"], split["unreached_voxels"]) == (2, mask.sum(), 0)
    parts = open_zarr(tmp_path / "parts.zarr").read()
    np.testing.assert_array_equal(parts, mask * np.where(away[2] < 12, 1, 2))
    coarse = told(capsys, "resample", tmp_path / "parts.zarr", tmp_path / "coarse.zarr", "--voxel-size", "10um")
    assert (coarse["shape"], coarse["voxel_size_um"], coarse["kind"]) == ([6, 6, 12], [10.0] * 3, "labels")
    # The centre of a new voxel lies between two, of which the second counts.
    np.testing.assert_array_equal(open_zarr(tmp_path / "coarse.zarr").read(), parts[1::2, 1::2, 1::2])
    told(capsys, "gradient", tmp_path / "balls.zarr", tmp_path / "steep.zarr", "--sigma", "5um")
    names = ("steep.zarr", "parts.zarr", "basins.zarr")
    flooded = told(capsys, "watershed", *(tmp_path / n for n in names), "--mask", tmp_path / "balls.zarr")
    assert flooded["rounds"] == 1
    np.testing.assert_array_equal(open_zarr(tmp_path / "basins.zarr").read(), parts)
    assert main(["watershed", *(str(tmp_path / n) for n in names)]) == 4
    assert "was begun with another plan" in capsys.readouterr().err


def test_a_scan_is_labelled_by_ranges_from_the_command_line(tmp_path, capsys):
    truth = np.zeros((8, 8, 32), np.uint8)
    truth[..., 8:16], truth[..., 16:24], truth[..., 24:] = 1, 2, 3
    volume_at(tmp_path / "scan.zarr", np.array([10, 90, 150, 220], np.uint8)[truth], kind="grey")
    found = told(capsys, "thresholds", tmp_path / "scan.zarr", tmp_path / "record", "--number", 4)
    assert found == {"thresholds": [10, 90, 150]}
    ranges = ("--metal", "80:100", "--layer", "140:160", "--rest", ":20,200:")
    made = told(capsys, "semi-automatic", tmp_path / "scan.zarr", tmp_path / "truth.zarr", *ranges)
    assert made["bone_above"] == 10
    np.testing.assert_array_equal(open_zarr(tmp_path / "truth.zarr").read(), truth)


def test_bone_and_voids_are_measured_from_the_command_line(tmp_path, capsys):
    bone = np.ones((20, 30, 30), np.uint8)
    bone[6:13, 9:16, 9:16] = 0
    volume_at(tmp_path / "bone.zarr", bone)
    more = ("--bone", "1", "--max-radius", "20um")
    measured = told(capsys, "study", "morphometry", tmp_path / "bone.zarr", tmp_path / "numbers", *more)
    found = {q["symbol"]: q["value"] for q in measured["quantities"]}
    assert found["BV/TV"] == pytest.approx(1 - 7**3 / bone.size)
    voids = told(capsys, "study", "porosity", tmp_path / "bone.zarr", tmp_path / "voids", "--bone", "1")
    assert any(q["value"] == pytest.approx(7**3 / bone.size) for q in voids["quantities"])
    assert (tmp_path / "voids" / "report.html").exists()


def test_status_and_verify_read_the_record(tmp_path, slices, capsys):
    scan = tmp_path / "scan.zarr"
    assert main(["convert", str(slices), str(scan), "--voxel-size", "5um"]) == 0
    assert main(["verify", str(scan)]) == 0
    assert "all equal what was written" in capsys.readouterr().out


def shard_files(path: Path) -> list[Path]:
    return sorted(p for p in (path / "0" / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "zero", "empty"])
def test_verify_finds_every_damage(tmp_path, slices, damage, capsys):
    scan = tmp_path / "scan.zarr"
    assert main(["convert", str(slices), str(scan), "--voxel-size", "5um"]) == 0
    shard = shard_files(scan)[0]
    data = bytearray(shard.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "zero":
        data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
    elif damage == "empty":
        data = bytearray()
    shard.write_bytes(bytes(data))
    if damage == "remove":
        shard.unlink()
    assert main(["verify", str(scan)]) == 7
    assert "not what was written" in capsys.readouterr().err


def test_verify_finds_swapped_shards(tmp_path, scan, capsys):
    assert main(["convert", str(scan), str(tmp_path / "a.zarr"), "--block", "16,24,28"]) == 0
    one, other = shard_files(tmp_path / "a.zarr")[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert main(["verify", str(tmp_path / "a.zarr")]) == 7
    assert "holds other values" in capsys.readouterr().err


def test_another_parameter_is_refused_with_the_difference_and_overwritten_when_asked(tmp_path, scan, capsys):
    target = str(tmp_path / "normal.zarr")
    assert main(["normalise", str(scan), target]) == 0
    assert main(["normalise", str(scan), target, "--percentiles", "5", "95"]) == 4
    assert "step.clip_and_scale.low: was" in capsys.readouterr().err
    assert main(["normalise", str(scan), target, "--percentiles", "5", "95", "--overwrite"]) == 0


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_an_output_that_is_its_own_input_is_refused_and_nothing_is_lost(scan, grey, arguments, capsys):
    assert main(["convert", str(scan), str(scan), *arguments]) == 4
    assert "give another output" in capsys.readouterr().err
    assert main(["convert", str(scan), str(scan.parent), *arguments]) == 4
    np.testing.assert_array_equal(open_zarr(scan).read(), grey)


def test_help_names_every_command_and_code(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"\n    {name.split()[0]}\s", text) for name in COMMANDS)
    assert all(f"\n  {kind.code}  {kind.meaning}" in text for kind in KINDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_ends_with_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    example = text.strip().splitlines()[-1].strip()
    assert example == PROGRAM.commands[name].example
    words = shlex.split(example.partition(" > ")[0])
    assert PROGRAM.parser.parse_args(words[1:]).command == name


def modules_after(*lines: list[str]) -> set[str]:
    """Modules that a process has imported after it was asked for help in all these ways."""
    code = (
        "import contextlib, io, json, sys\nfrom tomoscale.cli import main\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(line)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(lines)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def test_help_completion_and_usage_import_nothing_heavy():
    asked = [[*name.split(), "--help"] for name in COMMANDS]
    loaded = modules_after(["--help"], ["--json-usage"], ["completion", "bash"], ["schema", "convert"], *asked)
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert len(loaded - modules_after()) < 12, "help imports few modules beyond those of parsing"
    assert len(loaded) < 160


def test_importing_the_package_imports_neither_torch_nor_zarr():
    code = "import sys, tomoscale; sys.exit(any(m in sys.modules for m in ('torch', 'cupy', 'zarr', 'dask', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_the_program_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "tomoscale", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tomoscale ")


def test_json_usage_names_every_option_of_the_parser(capsys):
    assert main(["--json-usage"]) == 0
    usage = json.loads(capsys.readouterr().out)
    check(usage, "usage")
    assert [c["name"] for c in usage["commands"]] == list(COMMANDS)
    assert [c["code"] for c in usage["exit_codes"]] == list(range(8))
    for command in usage["commands"]:
        names = {n for o in command["options"] for n in (o["name"], o.get("negation")) if n}
        assert names == {s for a in PROGRAM.actions[command["name"]] for s in a.option_strings}
    convert = {o["name"]: o for o in usage["commands"][COMMANDS.index("convert")]["options"]}
    assert convert["--kind"]["choices"] == ["grey", "labels", "mask"]
    assert convert["--voxel-size"]["type"] == "lengths"
    assert convert["--pyramid"] | {"help": ""} == {
        "name": "--pyramid",
        "negation": "--no-pyramid",
        "type": "flag",
        "required": False,
        "values": 0,
        "choices": None,
        "default": True,
        "help": "",
    }


def test_every_option_says_what_it_is_for_and_has_a_type():
    for name, actions in PROGRAM.actions.items():
        for action in actions:
            assert action.help, (name, action.dest)
            assert action.nargs == 0 or action.choices or action.type in values.NAMES, (name, action.dest)


@pytest.mark.parametrize("name", [*COMMANDS, *GENERAL_SCHEMAS])
def test_every_schema_is_a_schema(name):
    content = schema(PROGRAM, name)
    jsonschema.Draft202012Validator.check_schema(content)
    assert content["title"]


def test_there_is_no_schema_of_nothing():
    names = {name.replace(" ", "-") for name in (*COMMANDS, *GENERAL_SCHEMAS)}
    assert {p.stem for p in SCHEMAS.iterdir()} == names


def test_errors_are_as_their_schema_says(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "out.zarr"), "--json"]) == 3
    error = json.loads(capsys.readouterr().out)
    check(error, "error")
    assert error["error"]["kind"] == "input"
    assert set(schema(PROGRAM, "error")["properties"]["error"]["properties"]["code"]["enum"]) == set(KINDS) - {0}


def test_choices_offered_are_those_of_the_functions():
    from tomoscale.formats.export import FORMATS as WRITTEN
    from tomoscale.formats.raw_layout import RAW_DTYPES
    from tomoscale.studies.quantities import MEANS, NOISES, ROIS

    assert tuple(f for f in FORMATS if f != OME_04) == tuple(WRITTEN)
    assert set(values.DTYPES) <= set(RAW_DTYPES)
    offered = {a.dest: a.choices for a in PROGRAM.actions["measure"] + PROGRAM.actions["study implant"] if a.choices}
    assert set(offered["roi"]) == set(ROIS)
    assert set(offered["cnr_denominator"]) == set(NOISES)
    assert set(offered["iou_preset"]) == {*MEANS, "both"}


def test_samples_are_the_same_from_the_command_line_and_from_a_file(tmp_path, scan, labels):
    text = "name: T04, labels: labels.zarr, truth: labels.zarr, healing-time: 6weeks, voxel-size: '5um,5um,5um'"
    (tmp_path / "study.yaml").write_text(f"study: implant\nfolder: out\nclean-radius: 0\nsamples: [{{{text}}}]\n")
    command = PROGRAM.commands["study implant"]

    def prepared(*words: str) -> dict:
        options = vars(PROGRAM.parser.parse_args(["study", "implant", *words]))
        return {k: v for k, v in command.prepare(options).items() if k not in ("config", "command")}

    sample = f"name=T04,labels={labels},truth={labels},healing-time=6weeks,voxel-size=5um,5um,5um"
    shared = ("--folder", str(tmp_path / "out"), "--clean-radius", "0")
    alone = (
        "--name",
        "T04",
        "--labels",
        str(labels),
        "--truth",
        str(labels),
        "--healing-time",
        "42d",
        "--voxel-size",
        "5um",
    )
    expected = prepared(str(tmp_path / "study.yaml"))
    assert prepared("--sample", sample, *shared) == expected
    assert prepared(*alone, *shared) == expected
    assert expected["samples"][0]["healing_days"] == 42.0
    assert prepared(str(tmp_path / "study.yaml"), "--memory", "1GiB")["memory"] == 2**30


def test_a_study_of_labels_gives_its_table(tmp_path, labels, capsys):
    line = ("study", "implant", "--name", "T04", "--labels", labels, "--truth", labels, "--folder", tmp_path / "study")
    result = told(capsys, *line, "--quiet")
    rows = {row["name"]: row for row in result["table"]}
    assert rows["IoU bone"]["samples"]["T04"]["value"] == 1.0
    assert main([*map(str, line), "--quiet"]) == 0
    assert "IoU bone (%)" in capsys.readouterr().out


def test_levels_are_made_and_exported(tmp_path, capsys):
    values_of_all = np.random.default_rng(0).integers(0, 255, (8, 8, 300)).astype(np.uint8)
    scan = volume_at(tmp_path / "long.zarr", values_of_all, kind="grey")
    told(capsys, "convert", scan, tmp_path / "with.zarr", "--quiet")
    told(capsys, "convert", scan, tmp_path / "without.zarr", "--no-pyramid", "--quiet")
    assert len(told(capsys, "info", tmp_path / "with.zarr")["levels"]) == 1
    assert told(capsys, "info", tmp_path / "without.zarr")["levels"] == []
    told(capsys, "pyramid", tmp_path / "without.zarr", "--quiet")
    for name in ("with", "without"):
        told(capsys, "export", tmp_path / f"{name}.zarr", tmp_path / f"{name}.tif", "--level", 1)
    assert tifffile.imread(tmp_path / "with.tif").shape[-1] == 150
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "with.tif"), tifffile.imread(tmp_path / "without.tif"))
    told(capsys, "export", tmp_path / "with.zarr", tmp_path / "old.zarr", "--format", "ome-zarr-0.4", "--quiet")
    np.testing.assert_array_equal(open_zarr(tmp_path / "old.zarr").read(), values_of_all)
    assert (tmp_path / "old.zarr" / ".zattrs").exists()


def test_a_viewer_is_told_what_to_show(tmp_path, scan, labels, monkeypatch, capsys):
    def viewed(source: str, **how: object) -> str:
        print("http://127.0.0.1/here")
        return f"{source} {how}"

    monkeypatch.setattr("tomoscale.view.view", viewed)
    found = told(capsys, "view", scan, "--labels", labels, labels, "--labels", scan, "--port", "8080")
    how = {"labels": (str(labels), str(labels), str(scan)), "wait": True, "viewer": "neuroglancer", "port": 8080}
    assert found == {"address": f"{scan} {how}"}


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (values.lengths, "5um", (5.0, 5.0, 5.0)),
        (values.lengths, "5µm,2.5 um,500nm", (5.0, 2.5, 0.5)),
        (values.length, "1e-3mm", 1.0),
        (values.length, ".5um", 0.5),
        (values.shape, "64", (64, 64, 64)),
        (values.shape, "1,2,3", (1, 2, 3)),
        (values.shape, "1x2x3", (1, 2, 3)),
        (values.region, "0:4, 2:,:", (slice(0, 4), slice(2, None), slice(None, None))),
        (values.memory, "1.5KiB", 1536),
        (values.memory, "2gb", 2 * 10**9),
        (values.days, "6weeks", 42),
        (values.days, "1 year", 365.25),
        (values.number, "-1.5e3", -1500.0),
        (values.port, "0", 0),
        (values.workers, "tcp://host:1", "tcp://host:1"),
    ],
)
def test_values_mean_what_is_written(function, text, expected):
    assert function(text) == expected


def bash_completes(tmp_path: Path, *words: str) -> list[str]:
    """What bash offers after these words, the last of which is being typed."""
    script = tmp_path / "tomoscale.bash"
    if not script.exists():
        script.write_text(completion_script("bash"))
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tomoscale; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", str(script), "tomoscale", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines() if done.stdout.strip() else []


def completion_script(shell: str) -> str:
    from tomoscale.cli.completion import script

    return script(PROGRAM, shell)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_values_and_paths(tmp_path):
    (tmp_path / "my scan.tif").touch()
    (tmp_path / "my folder").mkdir()
    first = bash_completes(tmp_path, "")
    assert {c.split()[0] for c in COMMANDS} <= set(first)
    assert bash_completes(tmp_path, "conv") == ["convert"]
    studies = sorted(bash_completes(tmp_path, "study", ""))
    assert studies == ["implant", "morphometry", "networks", "porosity", "scaling"]
    assert bash_completes(tmp_path, "convert", "--kind", "") == ["grey", "labels", "mask"]
    assert bash_completes(tmp_path, "convert", "--kind", "=", "l") == ["labels"]
    assert bash_completes(tmp_path, "convert", "--kind", "=") == ["grey", "labels", "mask"]
    assert bash_completes(tmp_path, "study", "implant", "--iou-preset", "s2") == ["s2_foreground3"]
    assert bash_completes(tmp_path, "convert", "--workers", "p") == ["processes"]
    assert bash_completes(tmp_path, "completion", "") == ["bash", "zsh", "fish"]
    assert sorted(bash_completes(tmp_path, "convert", "my")) == ["my folder", "my scan.tif"]
    assert bash_completes(tmp_path, "segment", "--model", "my f") == ["my folder"]
    assert bash_completes(tmp_path, "convert", "--voxel-size", "") == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("name", ["convert", "study implant", "run"])
def test_bash_offers_every_option_of_a_command(tmp_path, name):
    wanted = {s for a in PROGRAM.actions[name] for s in a.option_strings} | {"--help"}
    assert set(bash_completes(tmp_path, *name.split(), "--")) == wanted


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_options_and_values(tmp_path):
    (tmp_path / "_tomoscale").write_text(completion_script("zsh"))
    code = "compdef() { }; _arguments() { print -rl -- $@ }; source ./_tomoscale; _tomoscale_convert; _tomoscale_study_implant"
    done = subprocess.run(["zsh", "-f", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert (
        "--kind[what the voxels are (default\\: what the source says, else grey)]:kind:(grey labels mask)"
        in done.stdout
    )
    assert ":iou_preset:(both s1_all4 s2_foreground3)" in done.stdout
    assert ":source:_files" in done.stdout


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_commands_options_and_values(tmp_path):
    (tmp_path / "tomoscale.fish").write_text(completion_script("fish"))
    (tmp_path / "scan.tif").touch()

    def offered(line: str) -> set[str]:
        code = f"source tomoscale.fish; complete -C {shlex.quote(line)}"
        done = subprocess.run(["fish", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return {word.split("\t")[0] for word in done.stdout.splitlines()}

    assert offered("tomoscale con") == {"convert"}
    assert offered("tomoscale study ") == {"implant"}
    assert offered("tomoscale convert --kind ") == {"grey", "labels", "mask"}
    assert offered("tomoscale study implant --iou") == {"--iou-preset"}
    assert "scan.tif" in offered("tomoscale convert sc")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_as_it_is(shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == completion_script(shell) + "\n"


CHAIN = """
workers: threads
steps:
  - convert: {{source: slices, target: out/scan.zarr, voxel-size: 5um}}
  - normalise: {{source: out/scan.zarr, target: out/normal.zarr, percentiles: [{low}, 99]}}
  - clean: {{source: labels.zarr, target: out/clean.zarr, block: 16}}
  - measure: {{labels: out/clean.zarr, results: out/results, grey: out/scan.zarr}}
  - verify: {{path: out/clean.zarr}}
"""


def chain_at(folder: Path, low: float = 1) -> str:
    (folder / "chain.yaml").write_text(CHAIN.format(low=low))
    return str(folder / "chain.yaml")


def test_a_chain_equals_its_commands_given_one_by_one(tmp_path, slices, labels, capsys, monkeypatch):
    monkeypatch.chdir("/")
    result = told(capsys, "run", chain_at(tmp_path))
    assert [s["command"] for s in result["steps"]] == ["convert", "normalise", "clean", "measure", "verify"]
    for step in result["steps"]:
        check(step["result"], step["command"])
    alone = tmp_path / "alone"
    told(capsys, "convert", slices, alone / "scan.zarr", "--voxel-size", "5um")
    told(capsys, "normalise", alone / "scan.zarr", alone / "normal.zarr", "--percentiles", 1, 99)
    told(capsys, "clean", labels, alone / "clean.zarr", "--block", 16)
    for name in ("scan", "normal", "clean"):
        one, other = open_zarr(tmp_path / "out" / f"{name}.zarr"), open_zarr(alone / f"{name}.zarr")
        np.testing.assert_array_equal(one.read(), other.read(), err_msg=name)
    assert open_zarr(tmp_path / "out" / "clean.zarr").storage.shard_shape == (16, 16, 16)


def test_a_chain_given_again_goes_on_and_a_changed_step_is_refused(tmp_path, slices, labels, capsys):
    assert main(["run", chain_at(tmp_path), "--quiet"]) == 0
    written = (tmp_path / "out" / "normal.zarr" / "zarr.json").stat().st_mtime_ns
    assert main(["run", chain_at(tmp_path), "--quiet"]) == 0
    assert (tmp_path / "out" / "normal.zarr" / "zarr.json").stat().st_mtime_ns == written
    capsys.readouterr()
    assert main(["run", chain_at(tmp_path, low=2), "--quiet"]) == 4
    message = capsys.readouterr().err
    assert "step.clip_and_scale.low: was" in message
    assert "chain.yaml:5: steps #2.normalise" in message


def test_the_plan_of_a_chain_shows_every_pass_and_writes_nothing(tmp_path, slices, labels, capsys):
    before = sorted(tmp_path.iterdir())
    plans = told(capsys, "run", chain_at(tmp_path), "--plan")["plans"]
    assert [p["step"] for p in plans[:4]] == ["cast", "histogram", "clip_and_scale", "majority"]
    assert all("results" not in p["target"] for p in plans[:4])
    assert len(plans) > 4
    assert {*before, tmp_path / "chain.yaml"} == set(tmp_path.iterdir())


def test_what_the_last_step_cannot_do_is_refused_before_the_first_starts(tmp_path, slices, capsys):
    volume_at(tmp_path / "labels.zarr", np.zeros((9, 9, 9), np.uint8))
    assert main(["run", chain_at(tmp_path)]) == 3
    assert "measure" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_in_a_file_is_an_input_of_a_chain(tmp_path, grey, capsys):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["entry/data"] = grey
    step = "convert: {source: 'scan.h5::/entry/data', target: out.zarr, voxel-size: 5um}"
    (tmp_path / "chain.yaml").write_text(f"steps: [{{{step}}}]")
    told(capsys, "run", tmp_path / "chain.yaml", "--quiet")
    np.testing.assert_array_equal(open_zarr(tmp_path / "out.zarr").read(), grey)


def test_progress_has_no_colour_where_none_is_wanted():
    code = "from tomoscale.progress import BarDisplay; b = BarDisplay('step', 2); b.update(1, 'half'); b.update(2, 'all'); b.close()"

    def shown(**more: str) -> bytes:
        leader, follower = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm-256color", **more}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=follower, check=True)
        os.close(follower)
        text = os.read(leader, 100_000)
        os.close(leader)
        return text

    colours = (b"\x1b[3", b"\x1b[9", b"\x1b[38")
    assert any(c in shown() for c in colours)
    plain = shown(NO_COLOR="1")
    assert b"step" in plain
    assert not any(c in plain for c in (b"\x1b[38;", b"\x1b[31m", b"\x1b[32m", b"\x1b[35m", b"\x1b[36m"))


@pytest.mark.slow
def test_the_chain_of_the_examples_runs(tmp_path, capsys):
    shutil.copy(ROOT / "examples" / "chain.yaml", tmp_path)
    told(capsys, "demo", tmp_path / "demo", "--size", 48, "--quiet")
    result = told(capsys, "run", tmp_path / "chain.yaml", "--quiet")
    assert len(result["steps"]) == 7
    assert (tmp_path / "chain" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_the_study_of_the_examples_runs(tmp_path, capsys):
    shutil.copy(ROOT / "examples" / "implant_study.yaml", tmp_path)
    for seed, week in enumerate(("week6", "week12"), 1):
        assert main(["demo", str(tmp_path / week), "--size", "48", "--seed", str(seed), "--quiet"]) == 0
    result = told(capsys, "study", "implant", tmp_path / "implant_study.yaml", "--quiet")
    assert [(s["name"], s["healing_days"]) for s in result["samples"]] == [("T06", 42.0), ("T12", 84.0)]
    assert (tmp_path / "study" / "study.csv").exists()
