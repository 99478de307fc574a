"""Examples and benchmarks run: each as a user starts it, at toy size."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path

import nbformat
import numpy as np
import pytest
import tifffile
from nbclient import NotebookClient
from PIL import Image

from tests.world import volume_at
from tomoscale.arrays import cuda_available
from tomoscale.commands import CLASSES
from tomoscale.kernels.majority import cube_rows, filter_majority
from tomoscale.networks.bundle import load_bundle
from tomoscale.volume import open_zarr

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "components.py": ("--size", "32", "--block", "16", "--repeat", "1", "--dask-size", "24", "--scales", "16", "32"),
    "convert.py": ("--size", "32", "--repeat", "1"),
    "distance.py": ("--size", "32", "--repeat", "1"),
    "faults.py": ("--kind", "damage", "--number", "20"),
    "fused_measures.py": ("--size", "32", "--block", "32", "--repeat", "1"),
    "gpu.py": ("--size", "48", "--block", "24", "--repeat", "1"),
    "joining.py": ("--edge", "3", "--block", "4"),
    "many_blocks.py": ("--edge", "3", "--processes", "1"),
    "memory.py": ("--only", "projection", "--combinations", "1", "--size", "64"),
    "memory_objects.py": ("--only", "components", "--edge", "32", "--block", "16"),
    "planes.py": ("--size", "24", "--slices", "8", "--repeat", "1", "--planes", "9"),
    "pyramid.py": ("--size", "128", "--repeat", "1"),
    "s3.py": ("--size", "32", "--block", "16", "--repeats", "1"),
    "scale.py": (
        "--blocks",
        "100",
        "--per-worker",
        "5",
        "--large",
        "500",
        "--terabytes",
        "0.001",
        "--workers",
        "1",
        "10",
    ),
    "segmentation.py": ("--size", "32", "--slices", "2", "--repeat", "1"),
    "watershed.py": ("--size", "32", "--block", "16", "--bone", "nowhere"),
    "thickness.py": ("--size", "32", "--samples", "20"),
    "storage.py": ("--size", "32", "--shard", "32", "--chunk", "16", "--repeats", "1"),
    "windows.py": ("--size", "48", "--slices", "2", "--window", "32", "--block", "24", "--repeat", "1"),
}
SHARED = {"record.py"}
WITH_DATA = {"train_sandstone.py"}
"""Benchmarks that need a folder of data: each has a test of its own."""
"""Modules that benchmarks import; they measure nothing themselves."""
EXAMPLES = {
    "femur_porosity.py",
    "gpu_node.py",
    "implant_study.py",
    "measure_bone.py",
    "own_kernel.py",
    "slurm.py",  # runs on a Slurm in tests/cluster/test_slurm.py
    "train_demo_model.py",
    "train_on_phantoms.py",
}


def start(script: Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_script_has_a_test():
    assert {p.name for p in (ROOT / "examples").glob("*.py")} == EXAMPLES
    assert {p.name for p in (ROOT / "benchmarks").glob("*.py")} <= {*BENCHMARKS, *SHARED, *WITH_DATA}


@pytest.mark.parametrize("given", [None, 100.0])
def test_measure_bone_gives_the_fraction_that_numpy_counts(tmp_path, given):
    random = np.random.default_rng(4)
    bone = np.zeros((20, 24, 28), bool)
    bone[5:14, 6:20, 4:18] = True
    grey = np.where(bone, 150, 40).astype(np.uint8) + random.integers(0, 9, bone.shape, np.uint8)
    (tmp_path / "slices").mkdir()
    for z, plane in enumerate(grey):
        tifffile.imwrite(tmp_path / "slices" / f"{z:03d}.tif", plane)
    level = () if given is None else ("--threshold", str(given))
    command = (ROOT / "examples" / "measure_bone.py", "slices", "bone", "--voxel-size", "10um", *level)
    lines = printed(start(*command, folder=tmp_path)).splitlines()
    found = {line[:14].strip(): line[14:].split()[0] for line in lines}
    assert found["BV/TV"] == f"{bone.mean():.6f}"
    assert found["Euler number"] == "1"
    assert float(found["threshold"]) == (48.0 if given is None else given)
    np.testing.assert_array_equal(open_zarr(tmp_path / "bone" / "bone.zarr").read(), bone)


def test_femur_porosity_lists_the_one_cell(tmp_path):
    bone = np.full((20, 30, 30), 127, np.uint8)
    bone[6:13, 9:16, 9:16] = 0
    tifffile.imwrite(tmp_path / "bone.tif", bone, photometric="minisblack")
    shown = printed(start(ROOT / "examples" / "femur_porosity.py", "bone.tif", "out", "--bone", "127", folder=tmp_path))
    assert "0.0190556" in shown
    assert (tmp_path / "out" / "report.html").exists()


def test_own_kernel_states_that_blocks_equal_the_whole(tmp_path):
    assert "12 blocks equal the whole" in printed(start(ROOT / "examples" / "own_kernel.py", folder=tmp_path))


def test_a_node_without_a_gpu_says_so_once_and_gives_the_same(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (20, 21, 22)).astype(np.uint8)
    volume_at(tmp_path / "labels.zarr", labels, kind="labels")
    command = (ROOT / "examples" / "gpu_node.py", "labels.zarr", "out", "--processes", "1")
    lines = printed(start(*command, folder=tmp_path)).splitlines()
    assert sum("no GPU that CuPy can use" in line for line in lines) == (not cuda_available())
    assert sum("watch it at " in line for line in lines) == 1
    np.testing.assert_array_equal(
        open_zarr(tmp_path / "out" / "clean.zarr").read(), filter_majority(labels, cube_rows(1), 4)
    )


def test_the_script_of_the_slurm_example_runs_the_same_file_inside_one_job(tmp_path):
    profile = {"jobqueue": {"tomoscale-mine": {"cores": 4, "memory": "8GiB"}}}
    (tmp_path / "dask").mkdir()
    (tmp_path / "dask" / "mine.yaml").write_text(json.dumps(profile))
    command = (ROOT / "examples" / "slurm.py", "labels.zarr", "clean.zarr", "--site", "mine", "--jobs", "3", "--script")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DASK_CONFIG", str(tmp_path / "dask"))
        script = printed(start(*command, folder=tmp_path))
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "#SBATCH --nodes=3" in script
    assert (
        f"{ROOT / 'examples' / 'slurm.py'} {tmp_path / 'labels.zarr'} {tmp_path / 'clean.zarr'} --site mine" in script
    )


def test_implant_study_ends_with_a_report_and_goes_on_where_it_was(tmp_path):
    command = (ROOT / "examples" / "implant_study.py", "study", "--size", "40")
    first = printed(start(*command, folder=tmp_path))
    assert all(name in first for name in ("IoU bone", "degradation rate", "bone-implant contact", "signal to noise"))
    page = (tmp_path / "study" / "report.html").read_bytes()
    assert b"degradation rate" in page
    written = (tmp_path / "study" / "labels.zarr" / "zarr.json").stat().st_mtime_ns
    assert printed(start(*command, folder=tmp_path)) == first
    assert (tmp_path / "study" / "labels.zarr" / "zarr.json").stat().st_mtime_ns == written


def test_training_the_demo_model_writes_a_bundle_that_loads(tmp_path):
    short = "import sys; sys.argv = ['train', 'bundle', '--steps', '2']; import train_demo_model as t; t.SIZES = (48, 40); t.PATCH = 32; t.main()"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
    subprocess.run([sys.executable, "-c", short], cwd=tmp_path, env=environment, check=True, timeout=240)
    assert [c.id for c in load_bundle(tmp_path / "bundle").classes] == [0, 1, 2, 3]


def test_training_on_phantoms_writes_a_bundle_that_loads(tmp_path):
    small = "import sys, train_on_phantoms as t; t.SIZES = (48, 40); t.PATCH = 32; t.TRAINING_SEEDS, t.JUDGING_SEEDS = (1000,), (2000,)"
    short = f"{small}; sys.argv = ['train', 'out', '--steps', '2']; t.main()"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'examples'}"}
    subprocess.run([sys.executable, "-c", short], cwd=tmp_path, env=environment, check=True, timeout=240)
    assert [c.id for c in load_bundle(tmp_path / "out" / "network" / "last").classes] == [0, 1, 2, 3]


def test_training_on_sandstone_judges_the_last_network(tmp_path):
    random = np.random.default_rng(0)
    colours = np.array([[0, 0, 255], [255, 0, 0], [0, 255, 0], [255, 255, 0]], np.uint8)
    for number in (0, 50, 100, 200, 250, 350):
        classes = random.integers(0, 4, (256, 260))
        for folder, values in (("images", (60 * classes).astype(np.uint8)), ("masks", colours[classes])):
            (tmp_path / folder).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / folder / f"Sandstone_Versa{number:04d}.tif", values)
    script = ROOT / "benchmarks" / "train_sandstone.py"
    (line,) = printed(start(script, tmp_path, "--steps", "1", folder=tmp_path)).splitlines()
    figures = json.loads(line)
    assert figures["benchmark"] == "train_sandstone"
    assert set(figures["iou"]) == {"background and pores", "quartz", "clay", "heavy minerals"}
    assert figures["steps"] == 1
    assert not figures["better_on_every_class"]


def pictures(html: str) -> list[np.ndarray]:
    """The pictures inside an output as (rows, columns, 3) uint8 arrays."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("RGB")) for data in found]


@pytest.mark.parametrize("name", ["from_scan_to_report.ipynb", "hub.ipynb"])
def test_the_notebook_is_stored_without_outputs_and_without_paths_of_a_machine(name):
    path = ROOT / "examples" / name
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert not re.search(r"/(home|Users|tmp|mnt|data|opt|root)/|[A-Z]:\\\\", path.read_text())


def test_the_notebook_for_a_hub_links_its_dashboard_and_finds_its_run_again(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "examples" / "hub.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code[0].source = code[0].source.replace("SIZE = 192", "SIZE = 40")
    code[2].source = code[2].source.replace("processes=2", "processes=1").replace("(64, 64, 64)", "(16, 64, 64)")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, kernel_name="python3", timeout=240, resources=place).execute()
    shown = ["".join(o.data.get("text/html", "") for o in cell.outputs if "data" in o) for cell in code]
    assert re.search(r'Dashboard: <a href="http://127\.0\.0\.1:\d+/status"', shown[2])
    assert "IntProgress" in "".join(o.data.get("text/plain", "") for o in code[3].outputs if "data" in o)
    assert open_zarr(tmp_path / "hub_example" / "clean.zarr").finished


def test_the_notebook_runs_from_a_fresh_kernel(tmp_path, monkeypatch):
    notebook = nbformat.read(ROOT / "examples" / "from_scan_to_report.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source.startswith("SIZE = 112")
    code[0].source = "SIZE = 48"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(tmp_path)}}
    started = time.monotonic()
    NotebookClient(notebook, kernel_name="python3", timeout=240, resources=place).execute()
    assert time.monotonic() - started < 120, "a reader waits for it"  # alone it takes 20 s
    study = tmp_path / "study_48"
    shown = [output.data for cell in code for output in cell.outputs if "data" in output]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    scan, truth, labels, plan, state, link = pages
    assert [len(pictures(page)) for page in pages] == [4, 3, 3, 2, 3, 4]

    # The scan's picture is its middle slice, up to the two ends of the grey values.
    across_z = pictures(scan)[0][:320, :320, 0].astype(float)
    expected = open_zarr(study / "scan.zarr").read((slice(24, 25), slice(0, 48), slice(0, 48)))[0].astype(float)
    sampled = across_z[3::20, 3::20], expected[::3, ::3]
    assert np.corrcoef(sampled[0].ravel(), sampled[1].ravel())[0, 1] > 0.99

    # Labels have the colours of their classes: all four in the truth, and metal where the screw is, in the middle.
    colours = [tuple(c.rgba[:3]) for c in CLASSES[1:]]
    for page in (truth, labels):
        seen = {tuple(colour) for colour in pictures(page)[0].reshape(-1, 3).tolist()}
        assert set(colours) <= seen
    assert tuple(pictures(truth)[0][160, 160].tolist()) == colours[0]

    assert "<table>" in plan
    assert "12 x 48 x 48 written (blue), 14 x 48 x 48 read" in plan
    assert "4/4 blocks, finished" in state
    assert "4 done" in state
    assert 'href="study_48/report.html"' in link
    # Other steps show a bar where they last, as they do on a busy machine.
    (ran,) = [cell for cell in code if cell.source.startswith("cleaned = run(")]
    (watched,) = [cell for cell in code if "watch(newest)" in cell.source]
    for cell in (ran, watched):
        assert any("IntProgress" in output.data["text/plain"] for output in cell.outputs if "data" in output)

    # What to run after a restart needs nothing of the cells above it.
    alone = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(watched.source)])
    NotebookClient(alone, kernel_name="python3", timeout=60, resources=place).execute()
    assert "4/4 blocks, finished" in alone.cells[0].outputs[-1].data["text/html"]

    text = "".join(output.text for cell in code for output in cell.outputs if output.output_type == "stream")
    assert "give --voxel-size" in text
    assert (study / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if (ROOT / "benchmarks" / name).exists()])
def test_a_benchmark_prints_one_line_of_json(name, tmp_path):
    done = start(ROOT / "benchmarks" / name, *BENCHMARKS[name], folder=tmp_path)
    (line,) = printed(done).splitlines()
    figures = json.loads(line)
    # One script may measure several kinds of things, each by its own name.
    assert figures["benchmark"].startswith(name.removesuffix(".py"))
    if name == "gpu.py" and not cuda_available():
        assert figures["skipped"] == "no CUDA device"
        return
    assert figures["machine"]["cores"] >= 1
