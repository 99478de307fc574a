"""What a user types, and what comes back: results on stdout, progress on stderr, one message and an exit code on failure."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from tomoscale.cli import main
from tomoscale.commands import SHIPPED_MODEL
from tomoscale.ledger import Ledger
from tomoscale.plan import ledger_folder
from tomoscale.volume import create_volume, open_zarr

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (20, 24, 28)


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(3).integers(100, 60000, SHAPE).astype(np.uint16)


@pytest.fixture
def slices(tmp_path, values) -> Path:
    folder = tmp_path / "slices"
    folder.mkdir()
    for z, plane in enumerate(values):
        tifffile.imwrite(folder / f"recon_{z:05d}.tif", plane)
    return folder


@pytest.fixture
def scan(tmp_path, slices) -> Path:
    assert main(["convert", str(slices), str(tmp_path / "scan.zarr"), "--voxel-size", "5um"]) == 0
    return tmp_path / "scan.zarr"


def labels_at(path: Path, values: np.ndarray, voxel_size_um: float = 5.0, kind: str = "labels") -> Path:
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size_um=voxel_size_um, kind=kind)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return path


def said(capsys) -> str:
    return str(capsys.readouterr().err)


def test_convert_keeps_every_voxel_and_the_voxel_size(tmp_path, slices, values, capsys):
    scan = tmp_path / "scan.zarr"
    assert main(["convert", str(slices), str(scan), "--voxel-size", "5um"]) == 0
    volume = open_zarr(scan)
    np.testing.assert_array_equal(volume.read(), values)
    assert volume.voxel_size_um == (5.0, 5.0, 5.0)
    assert "20 x 24 x 28" in capsys.readouterr().out


def test_normalise_clips_at_the_percentiles_of_numpy(tmp_path, scan, values):
    assert main(["normalise", str(scan), str(tmp_path / "normal.zarr"), "--percentiles", "1", "99"]) == 0
    low, high = np.percentile(values, [1, 99])
    expected = (np.clip(values.astype(np.float32), low, high) - np.float32(low)) / np.float32(high - low)
    np.testing.assert_allclose(open_zarr(tmp_path / "normal.zarr").read(), expected, atol=1e-6)


def test_a_plan_is_printed_and_nothing_is_written(tmp_path, slices, capsys):
    target = tmp_path / "scan.zarr"
    assert main(["convert", str(slices), str(target), "--voxel-size", "5um", "--plan"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("blocks", "margin", "reads", "writes", "memory"))
    assert not target.exists()


def test_status_and_verify_read_the_record(scan, capsys):
    capsys.readouterr()
    assert main(["status", str(scan), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "finished"
    assert main(["verify", str(scan)]) == 0
    assert "all equal what was written" in capsys.readouterr().out


def shard_files(path: Path) -> list[Path]:
    return sorted(p for p in (path / "0" / "c").rglob("*") if p.is_file())


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "zero", "empty"])
def test_verify_finds_every_damage(scan, damage, capsys):
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
    assert "not what was written" in said(capsys)


def test_verify_finds_swapped_shards(tmp_path, values, capsys):
    assert (
        main(
            [
                "convert",
                str(make_hdf5(tmp_path, values)),
                str(tmp_path / "a.zarr"),
                "--voxel-size",
                "5um",
                "--block",
                "16,24,28",
            ]
        )
        == 0
    )
    one, other = shard_files(tmp_path / "a.zarr")[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    assert main(["verify", str(tmp_path / "a.zarr")]) == 7
    assert "holds other values" in said(capsys)


def make_hdf5(folder: Path, values: np.ndarray) -> Path:
    with h5py.File(folder / "scan.h5", "w") as file:
        file["entry/data"] = values
    return folder / "scan.h5"


def damaged_slices(tmp_path: Path, slices: Path, damage: str) -> Path:
    folder = tmp_path / f"slices-{damage}"
    shutil.copytree(slices, folder)
    one = folder / "recon_00007.tif"
    if damage == "cut":
        one.write_bytes(one.read_bytes()[:300])
    elif damage == "shape":
        tifffile.imwrite(one, np.zeros((9, 9), np.uint16))
    elif damage == "empty":
        one.write_bytes(b"")
    else:
        one.unlink()
    return folder


def damaged_model(tmp_path: Path) -> Path:
    shutil.copytree(SHIPPED_MODEL, tmp_path / "model")
    weights = tmp_path / "model" / "weights.safetensors"
    weights.chmod(0o600)
    weights.write_bytes(weights.read_bytes()[:-100])
    return tmp_path / "model"


def cut_hdf5(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "cut.h5", "w") as file:
        file["data"] = np.ones(SHAPE, np.float32)
    (tmp_path / "cut.h5").write_bytes((tmp_path / "cut.h5").read_bytes()[:-9000])
    return tmp_path / "cut.h5"


def mistakes(tmp_path: Path, slices: Path, scan: Path) -> dict[str, tuple[list[str], int, str]]:
    """Command lines that must fail: arguments, exit code, words of the message."""
    out = str(tmp_path / "out.zarr")
    labels = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    good = str(labels_at(tmp_path / "good.zarr", labels))
    high = str(labels_at(tmp_path / "high.zarr", np.where(labels == 3, 9, labels).astype(np.uint8)))
    other = str(labels_at(tmp_path / "other.zarr", labels[:, :-2]))
    coarse = str(labels_at(tmp_path / "coarse.zarr", labels, 10.0))
    nan = np.ones(SHAPE, np.float32)
    normal = str(labels_at(tmp_path / "normal.zarr", nan, kind="grey"))
    nan[3, 4, 5] = np.nan
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["data"] = nan
    (tmp_path / "text.txt").write_text("no scan")
    flat = labels_at(tmp_path / "flat.zarr", np.full(SHAPE, 7, np.uint16), kind="grey")
    (tmp_path / "empty").mkdir()
    (tmp_path / "page.html").write_text("here already")
    return {
        "missing source": (["convert", str(tmp_path / "nowhere"), out, "--voxel-size", "5um"], 3, "nowhere"),
        "empty folder": (["convert", str(tmp_path / "empty"), out, "--voxel-size", "5um"], 3, "empty"),
        "a text file": (["convert", str(tmp_path / "text.txt"), out, "--voxel-size", "5um"], 3, "text.txt"),
        "no voxel size": (["convert", str(slices), out], 3, "give --voxel-size"),
        "a voxel size of zero": (["convert", str(slices), out, "--voxel-size", "0um"], 2, "0um"),
        "a negative voxel size": (["convert", str(slices), out, "--voxel-size=-5um"], 2, "-5um"),
        "a voxel size of no unit we know": (["convert", str(slices), out, "--voxel-size", "5parsec"], 2, "5parsec"),
        "another voxel size": (["convert", str(scan), out, "--voxel-size", "7um"], 3, "7"),
        "NaN": (["convert", str(tmp_path / "nan.h5"), out, "--voxel-size", "5um"], 3, "(3, 4, 5)"),
        "no such dataset": (
            ["convert", f"{tmp_path / 'nan.h5'}::/entry/x", out, "--voxel-size", "5um"],
            3,
            "has no 'entry'",
        ),
        "an output that exists": (["convert", str(slices), good, "--voxel-size", "5um"], 4, "good.zarr"),
        "no permission to overwrite what is not ours": (
            ["convert", str(slices), str(slices), "--voxel-size", "5um", "--overwrite"],
            4,
            "was not made by",
        ),
        "percentiles in the wrong order": (["normalise", str(scan), out, "--percentiles", "99", "1"], 2, "increasing"),
        "too little memory": (
            ["convert", str(slices), out, "--voxel-size", "5um", "--memory", "1MiB"],
            4,
            "has 1.0 MiB",
        ),
        "a block of zero": (["convert", str(slices), out, "--voxel-size", "5um", "--block", "0,4,4"], 2, "0,4,4"),
        "an amount of memory in words": (["convert", str(slices), out, "--memory", "plenty"], 2, "plenty"),
        "an unknown command": (["convrt"], 2, "convrt"),
        "no scheduler": (
            ["convert", str(slices), out, "--voxel-size", "5um", "--workers", "tcp://127.0.0.1:9"],
            4,
            "no scheduler answers",
        ),
        "no GPU": (["convert", str(slices), out, "--voxel-size", "5um", "--workers", "gpus"], 4, "no GPU"),
        "labels out of range": (["measure", high, str(tmp_path / "r")], 3, "9"),
        "shapes that disagree": (["measure", good, str(tmp_path / "r"), "--truth", other], 3, "one grid"),
        "voxel sizes that disagree": (["measure", good, str(tmp_path / "r"), "--truth", coarse], 3, "one grid"),
        "no time unit": (["measure", good, str(tmp_path / "r"), "--healing-time", "6"], 2, "6"),
        "segmenting what is not normalised": (["segment", str(scan), out], 3, "normalise"),
        "no such model": (["segment", normal, out, "--model", str(tmp_path / "nomodel")], 3, "nomodel"),
        "a model cut short": (
            ["segment", normal, out, "--model", str(damaged_model(tmp_path))],
            3,
            "weights.safetensors",
        ),
        "a truncated slice": (
            ["convert", str(damaged_slices(tmp_path, slices, "cut")), out, "--voxel-size", "5um"],
            3,
            "recon_00007",
        ),
        "a slice of other shape": (
            ["convert", str(damaged_slices(tmp_path, slices, "shape")), out, "--voxel-size", "5um"],
            3,
            "recon_00007",
        ),
        "a missing slice": (
            ["convert", str(damaged_slices(tmp_path, slices, "gap")), out, "--voxel-size", "5um"],
            3,
            "7",
        ),
        "a slice of zero bytes": (
            ["convert", str(damaged_slices(tmp_path, slices, "empty")), out, "--voxel-size", "5um"],
            3,
            "recon_00007",
        ),
        "an HDF5 file cut short": (["convert", str(cut_hdf5(tmp_path)), out, "--voxel-size", "5um"], 3, "cut.h5"),
        "no place to write": (["convert", str(slices), "/proc/out.zarr", "--voxel-size", "5um"], 4, "/proc"),
        "no contrast": (["normalise", str(flat), out], 3, "no contrast"),
        "a healing time of nothing": (["measure", good, str(tmp_path / "r"), "--healing-time", "0d"], 3, "positive"),
        "status of nothing": (["status", str(tmp_path / "empty")], 3, "no record of a run"),
        "verify of a foreign folder": (["verify", str(slices)], 3, "no record of a run"),
        "a report of nothing": (["report", str(tmp_path / "empty"), str(tmp_path / "new.html")], 3, "holds no results"),
    }


NAMES = [
    "missing source",
    "empty folder",
    "a text file",
    "no voxel size",
    "a voxel size of zero",
    "a negative voxel size",
    "a voxel size of no unit we know",
    "another voxel size",
    "NaN",
    "an output that exists",
    "percentiles in the wrong order",
    "a block of zero",
    "an amount of memory in words",
    "an unknown command",
    "no GPU",
    "labels out of range",
    "shapes that disagree",
    "voxel sizes that disagree",
    "no time unit",
    "segmenting what is not normalised",
    "no such model",
    "a model cut short",
    "a truncated slice",
    "a slice of other shape",
    "a missing slice",
    "a slice of zero bytes",
    "an HDF5 file cut short",
    "no place to write",
    "no contrast",
    "a healing time of nothing",
    "status of nothing",
    "verify of a foreign folder",
    "a report of nothing",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_gets_one_message_and_its_exit_code(name, tmp_path, slices, scan, capsys):
    arguments, code, words = mistakes(tmp_path, slices, scan)[name]
    capsys.readouterr()
    try:
        returned = main(arguments)
    except SystemExit as leaving:
        returned = leaving.code
    message = said(capsys)
    assert returned == code, message
    assert words in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 8 or code == 2


def test_a_stopped_command_goes_on_where_it_was(tmp_path):
    random = np.random.default_rng(0)
    labels_at(tmp_path / "in.zarr", random.integers(0, 4, (64, 300, 300)).astype(np.uint8))
    command = [
        sys.executable,
        "-m",
        "tomoscale.cli",
        "clean",
        "in.zarr",
        "out.zarr",
        "--radius",
        "3",
        "--block",
        "2,100,100",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
    )
    ledger = ledger_folder(tmp_path / "out.zarr") / "blocks.log"
    deadline = time.monotonic() + 60
    while not (ledger.exists() and ledger.stat().st_size) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 6, message
    assert "the same command goes on from there" in message
    assert "Traceback" not in message
    done = Ledger.load(ledger.parent).done
    assert 0 < done.sum() < done.size
    assert main(["clean", str(tmp_path / "in.zarr"), str(tmp_path / "out.zarr"), "--radius", "3"]) == 0
    assert open_zarr(tmp_path / "out.zarr").finished


def test_another_parameter_is_refused_with_the_difference_and_overwritten_when_asked(tmp_path, scan, capsys):
    target = str(tmp_path / "normal.zarr")
    assert main(["normalise", str(scan), target]) == 0
    assert main(["normalise", str(scan), target, "--percentiles", "5", "95"]) == 4
    assert "step.clip_and_scale.low: was" in said(capsys)
    assert main(["normalise", str(scan), target, "--percentiles", "5", "95", "--overwrite"]) == 0


def test_help_names_every_command_and_code(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    assert all(
        name in text
        for name in ("demo", "convert", "normalise", "segment", "clean", "measure", "report", "status", "verify")
    )
    assert "exit codes" in text


def test_importing_the_package_imports_neither_torch_nor_zarr():
    code = "import sys, tomoscale, tomoscale.cli; sys.exit(any(m in sys.modules for m in ('torch', 'cupy', 'zarr', 'dask', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_an_output_that_is_its_own_input_is_refused_and_nothing_is_lost(scan, values, arguments, capsys):
    assert main(["convert", str(scan), str(scan), *arguments]) == 4
    assert "give another output" in said(capsys)
    assert main(["convert", str(scan), str(scan.parent), *arguments]) == 4
    np.testing.assert_array_equal(open_zarr(scan).read(), values)
