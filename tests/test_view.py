"""Looking at volumes: a browser without a screen draws the classes in their colours."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.formats.object_store import credentials, object_store
from tomoscale import view as module
from tomoscale.errors import InputError, PlanError
from tomoscale.places import place
from tomoscale.pyramid import pyramid
from tomoscale.resources import Resources
from tomoscale.view import grey_window, view
from tomoscale.volume import LabelClass, MemoryArray, Volume, create_volume, open_zarr
from tomoscale.work import Work

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CLASSES = (
    LabelClass(0, "background", (0, 0, 0, 0)),
    LabelClass(1, "metal", (255, 0, 0, 255)),
    LabelClass(3, "bone", (0, 0, 255, 255)),
)
ALL = (slice(None),) * 3


def written(path, values, **options):
    options = {"voxel_size_um": 5.0, **options}
    volume = create_volume(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunk_shape=(16, 16, 16),
        durable=False,
        **options,
    )
    volume.create()
    volume.write(ALL, values)
    volume.finish({})
    return open_zarr(path)


def scan(folder, version="0.5"):
    """Noise of 4000 to 6000, longer than a level may be, and in it labels: metal on the left, bone on the right."""
    shape = (24, 100, 300)
    grey = np.random.default_rng(0).integers(4000, 6000, shape).astype("uint16")
    labels = np.zeros(shape, np.uint8)
    labels[:, 20:80, 20:110], labels[:, 20:80, 190:280] = 1, 3
    image = written(folder / "scan.zarr", grey, ome_version=version)
    written(folder / "scan.zarr" / "labels" / "classes", labels, kind="labels", classes=CLASSES)
    return image, labels


class Browser:
    """Chromium without a screen."""

    def __init__(self, address, folder):
        assert CHROMIUM is not None
        quiet = ["quic", "background-networking", "component-update", "sync", "gpu"]
        options = [f"--disable-{name}" for name in quiet]
        options += [
            "--headless",
            "--no-sandbox",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--no-first-run",
        ]
        self.process = subprocess.Popen(
            [CHROMIUM, *options, f"--user-data-dir={folder}", "--window-size=900,700", address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def screenshot(address, folder):
    """What the browser has drawn when all chunks are there: (rows, columns, 3) uint8."""
    page = next(p for p, _ in module._shown if str(p) == address)
    done, found = threading.Event(), []
    with Browser(address, folder):
        page.async_screenshot(lambda reply: (found.append(reply), done.set()))
        assert done.wait(90), "the viewer did not draw everything"
    return np.asarray(Image.open(io.BytesIO(found[0].screenshot.image)).convert("RGB")).astype(int)


@pytest.fixture
def bucket(tmp_path):
    """A prefix in a bucket, and what its server was asked for."""
    (tmp_path / "store/scans").mkdir(parents=True)
    with object_store(tmp_path / "store") as (address, asked), credentials(address):
        yield place("s3://scans/study"), asked


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("version", ["0.5", "0.4", "0.5 in a bucket"])
def test_the_browser_draws_grey_values_and_classes_in_their_colours(tmp_path, capsys, version, request):
    pytest.importorskip("neuroglancer")
    folder = request.getfixturevalue("bucket")[0] if "bucket" in version else tmp_path
    image, _ = scan(folder, version[:3])
    pyramid(image, work=Work(progress=False, resources=Resources(1, 1, 1, 2**31, "cpu", 0)))
    address = view(folder / "scan.zarr", wait=False)
    assert address.startswith("http://127.0.0.1:")
    assert capsys.readouterr().out == f"{address}\n"
    # The first panel is the upper left quarter, without the bar of layers: a slice z with x to the right.
    drawn = screenshot(address, tmp_path / "profile")[50:298, 2:446]
    red, green, blue = np.moveaxis(drawn, -1, 0)
    metal, bone = (red > blue + 60) & (red > green + 60), (blue > red + 60) & (blue > green + 60)
    greys = (abs(red - green) < 5) & (abs(green - blue) < 5) & (red > 10) & (red < 250) & (red != 128)
    # 300 voxels in 400 pixels make 1.33 pixels a voxel; metal and bone are 60 x 90 voxels each, cut by the axis lines.
    area = 60 * 90 * (400 / 300) ** 2
    assert 0.85 * area < metal.sum() < 1.05 * area
    assert 0.85 * area < bone.sum() < 1.05 * area
    left, right = metal[:, :222].sum() / metal.sum(), bone[:, 222:].sum() / bone.sum()
    assert min(left, right) > 0.95  # but for the axis lines, which are red and blue too
    assert greys.sum() > 0.5 * (100 * 300 - 2 * 60 * 90) * (400 / 300) ** 2


def test_layers_name_the_data_and_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("neuroglancer")
    image, labels = scan(tmp_path)
    other = written(tmp_path / "classes.zarr", labels, kind="labels")
    mask = written(tmp_path / "mask.zarr", labels == 3)
    address = view(image, labels=[other, mask.name, tmp_path / "scan.zarr/labels/classes"], wait=False)
    page, files = next((p, f) for p, f in module._shown if str(p) == address)
    state = page.state.to_json()
    assert state["dimensions"] == {"x": [5e-6, "m"], "y": [5e-6, "m"], "z": [5e-6, "m"]}
    assert [layer["name"] for layer in state["layers"]] == ["scan", "classes", "classes 2", "mask"]
    assert [layer["type"] for layer in state["layers"]] == ["image", *["segmentation"] * 3]
    assert all(str(layer["source"]).count(files.address(n)) for n, layer in enumerate(state["layers"]))
    assert state["layers"][1]["segmentColors"] == {"1": "#ff0000", "3": "#0000ff"}
    low, high = state["layers"][0]["shaderControls"]["normalized"]["range"]
    assert 4000 <= low < 4050
    assert 5950 < high < 6000
    files.close()


def test_a_page_of_volumes_in_a_bucket_knows_nothing_of_the_bucket(tmp_path, bucket, capsys, monkeypatch):
    pytest.importorskip("neuroglancer")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    _, labels = scan(bucket[0])
    other = written(tmp_path / "other.zarr", labels, kind="labels")
    address = view("s3://scans/study/scan.zarr", labels=[other], wait=False)
    page, files = next((p, f) for p, f in module._shown if str(p) == address)
    assert files.roots == [bucket[0] / "scan.zarr", bucket[0] / "scan.zarr/labels/classes", tmp_path / "other.zarr"]
    state = json.dumps(page.state.to_json())
    assert [layer["name"] for layer in json.loads(state)["layers"]] == ["scan", "classes", "other"]
    said = state + address + "".join(map(str, capsys.readouterr()))
    assert not [word for word in ("hush-hush", "s3:", "study", os.environ["AWS_ENDPOINT_URL"]) if word in said]
    files.close()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"is in a bucket, and napari is given paths of files: take the other viewer"):
        view("s3://scans/study/scan.zarr", viewer="napari", wait=False)


def test_thick_slices_stay_thick_and_the_whole_of_them_is_seen_at_first(tmp_path):
    pytest.importorskip("neuroglancer")
    thick = written(tmp_path / "thick.zarr", np.zeros((40, 30, 20), "u1"), voxel_size_um=(20.0, 5.0, 2.0))
    address = view(thick, wait=False)
    page = next(p for p, _ in module._shown if str(p) == address)
    state = page.state.to_json()
    assert state["dimensions"] == {"x": [2e-6, "m"], "y": [5e-6, "m"], "z": [2e-5, "m"]}
    assert state["crossSectionScale"] == pytest.approx(40 * 20 / 2 / 400)


def test_the_grey_window_is_that_of_the_coarsest_level_and_leaves_nan_out(tmp_path):
    values = np.full((5, 600, 10), 7, np.float32)
    values[2, 300:] = np.nan
    assert grey_window(written(tmp_path / "v.zarr", values)) == (7.0, 8.0)
    image, _ = scan(tmp_path)
    pyramid(image, work=Work(progress=False, resources=Resources(1, 1, 1, 2**31, "cpu", 0)))
    low, high = grey_window(open_zarr(image.name))
    assert 4200 < low < high < 5800  # means of eight are closer to each other


def test_waiting_ends_with_ctrl_c(tmp_path):
    pytest.importorskip("neuroglancer")
    image, _ = scan(tmp_path)
    script = f"from tomoscale.view import view; view({image.name!r}); print('ended')"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 0


def test_napari_is_started_with_the_paths(tmp_path, monkeypatch):
    image, _ = scan(tmp_path)
    (tmp_path / "fake/napari").mkdir(parents=True)
    (tmp_path / "fake/napari/__init__.py").touch()
    said = tmp_path / "said"
    (tmp_path / "fake/napari/__main__.py").write_text(
        f"import sys\nopen({str(said)!r}, 'w').write(repr(sys.argv[1:]))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    view(image, viewer="napari")
    assert said.read_text() == repr([image.name, f"{image.name}/labels/classes"])


def test_what_cannot_be_shown_is_refused(tmp_path, monkeypatch):
    image, _ = scan(tmp_path)
    with pytest.raises(ValueError, match='viewer must be "neuroglancer" or "napari", got \'fiji\''):
        view(image, viewer="fiji")
    with pytest.raises(ValueError, match="port must be 0 to 65535, got 70000"):
        view(image, port=70000)
    with pytest.raises(InputError, match="array in memory is no finished Zarr volume"):
        view(Volume(MemoryArray(np.zeros((3, 3, 3)))), wait=False)
    create_volume(tmp_path / "u.zarr", shape=(4, 4, 4), dtype="u1").create()
    with pytest.raises(InputError, match="is not finished"):
        view(tmp_path / "u.zarr", wait=False)
    with pytest.raises(InputError, match="holds float64, which neuroglancer does not show: store it as float32"):
        view(written(tmp_path / "f.zarr", np.zeros((16, 16, 16))), wait=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for viewer, extra in (("neuroglancer", "view"), ("napari", "napari")):
        with pytest.raises(
            PlanError, match=rf"{viewer} is not installed: install it by `pip install 'tomoscale\[{extra}\]'`"
        ):
            view(image, viewer=viewer)
