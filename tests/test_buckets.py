"""A bucket is a full place for volumes: a study there gives the bytes it gives on a disk, whatever fails on the way."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from tests.faults.pipelines import BLOCK, PLANES, SMOOTH, make_source, smooth
from tests.formats.object_store import Failure, credentials, object_store, well
from tomoscale.audit import status, verify
from tomoscale.block_states import DONE, RunBlocks
from tomoscale.bucket_path import BucketPath
from tomoscale.cli import main
from tomoscale.commands import clean, convert, normalise
from tomoscale.errors import IntegrityError, PlanError
from tomoscale.file_server import FileServer
from tomoscale.formats import open_volume
from tomoscale.info import info
from tomoscale.ledger import Ledger
from tomoscale.objects.components import components
from tomoscale.objects.distance import distance
from tomoscale.phantom import Phantom
from tomoscale.places import Place, place
from tomoscale.plan import ledger_folder
from tomoscale.pyramid import pyramid
from tomoscale.segmentation.segment import segment
from tomoscale.studies import implant
from tomoscale.volume import Volume, open_zarr
from tomoscale.watch import run_state
from tomoscale.work import Work, working

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (36, 64, 60)
QUICK = Work(block_shape=BLOCK, progress=False)


class Bucket(NamedTuple):
    """A place in a bucket of the test server, the folder in which that keeps it, and what it was asked for."""

    place: Place
    folder: Path
    asked: list[tuple[str, str]]


@contextmanager
def bucket_of(folder: Path, failure: Failure = well) -> Iterator[Bucket]:
    (folder / "store" / "scans").mkdir(parents=True)
    with object_store(folder / "store", failure) as (address, asked), credentials(address):
        os.environ["TOMOSCALE_SCRATCH"] = str(folder / "scratch")
        yield Bucket(place("s3://scans/study"), folder / "store" / "scans" / "study", asked)


@pytest.fixture
def bucket(tmp_path) -> Iterator[Bucket]:
    with bucket_of(tmp_path) as found:
        yield found


def objects(root: Place) -> dict[str, bytes]:
    """Stored bytes of the voxels of all volumes below a place."""
    if isinstance(root, BucketPath):
        return {name: (root / name).read_bytes() for name, _ in root.below() if ".zarr/0/c/" in name}
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.glob("*.zarr/0/c/**/*") if p.is_file()}


def study(folder: Place, results: Path) -> dict[str, object]:
    """Convert, normalise, segment, clean and measure a small phantom."""
    phantom, work = Phantom(SHAPE, 0), Work(block_shape=(18, 64, 60), progress=False)
    scan = convert(Volume(phantom.scan, phantom.voxel_size_um), folder / "scan.zarr", work=work)
    normal = normalise(scan, folder / "normal.zarr", work=work)
    labels = segment(normal, folder / "labels.zarr", work=work)
    cleaned = clean(labels, folder / "clean.zarr", work=work)
    found = implant.measure(cleaned, results, grey=scan, healing_days=42, work=work)
    return {name: found[name] for name in ("quantities", "parameters", "classes")}


def check_all(folder: Place) -> None:
    """All volumes of a study are finished, and nothing else is in them."""
    for name in ("scan", "normal", "labels", "clean"):
        found = verify(folder / f"{name}.zarr")
        assert found["finished"]
        assert found["leftovers"]["count"] == found["strays"]["count"] == 0


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory) -> tuple[dict[str, bytes], dict[str, object]]:
    folder = tmp_path_factory.mktemp("disk")
    measured = study(folder, folder / "results")
    check_all(folder)
    return objects(folder), measured


def stumbling(method: str, path: str, times: int) -> int | str | float | None:
    """Every 8th thing that is asked for fails when it is asked for the first time."""
    drawn = zlib.crc32(f"{method} {path}".encode())
    return (503, "drop", "lose", 0.2)[drawn // 8 % 4] if times == 1 and drawn % 8 == 0 else None


def test_a_study_in_a_bucket_that_stumbles_gives_the_bytes_of_a_disk(tmp_path, on_disk):
    with bucket_of(tmp_path, stumbling) as bucket:
        measured = study(bucket.place, tmp_path / "results")
        assert objects(bucket.place) == on_disk[0]
        assert measured == on_disk[1]
        check_all(bucket.place)
        failed = [one for one in set(bucket.asked) if stumbling(*one, 1) is not None]
    assert {stumbling(*one, 1) for one in failed} == {503, "drop", "lose", 0.2}
    assert not any(path.name.startswith("s3") for path in Path().iterdir())


@pytest.fixture
def independent() -> Iterator[Place]:
    """A bucket of moto's server, or of the one that ``TOMOSCALE_TEST_S3`` names; the test is skipped without either."""
    given = os.environ.get("TOMOSCALE_TEST_S3")
    command = shutil.which("moto_server", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not given and not command:
        pytest.skip("moto_server is not installed")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = None if given else subprocess.Popen([command, "-H", "127.0.0.1", "-p", str(port)], **quiet)
    address = given or f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urlopen(Request(f"{address}/scans", method="PUT"), timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        with credentials(address):
            yield place(f"s3://scans/study-{time.time_ns()}")
    finally:
        if server is not None:
            server.kill()
            server.wait()


def test_a_study_on_a_server_that_others_wrote_gives_the_bytes_of_a_disk(tmp_path, on_disk, independent):
    assert study(independent, tmp_path / "results") == on_disk[1]
    assert objects(independent) == on_disk[0]
    ledger = ledger_folder(independent / "clean.zarr")
    (ledger / "plan.json").write((ledger / "plan.json").read_bytes().replace(b"majority", b"minority"))
    with pytest.raises(IntegrityError, match=r"changed after the run \(plan\)"):
        verify(independent / "clean.zarr")
    Ledger.start(independent / "held", {"step": {"smooth": {}}}, 4)
    with pytest.raises(PlanError, match=rf"being written by process {os.getpid()} .*sign of life \d s ago"):
        Ledger.start(independent / "held", {"step": {"smooth": {}}}, 4)


def test_a_volume_on_a_server_that_others_wrote_is_served_to_a_page(tmp_path, independent):
    values = np.random.default_rng(3).integers(0, 255, (20, 64, 60)).astype(np.uint8)
    convert(Volume(memory(values), (2.0, 2.0, 2.0)), independent / "scan.zarr", work=QUICK)
    (independent / "scan.zarr2").write(b"beside")
    server = FileServer([independent / "scan.zarr"], "http://127.0.0.1:1")
    with contextlib.closing(server):
        address = server.address(0)
        for name, stored in (independent / "scan.zarr").below():
            content = (independent / "scan.zarr" / name).read_bytes()
            assert urlopen(address + name, timeout=20).read() == content
            for asked, part in (("bytes=-20", content[-20:]), (f"bytes=1-{stored.size}", content[1:])):
                answer = urlopen(Request(address + name, headers={"Range": asked}), timeout=20)
                assert (answer.status, answer.read()) == (206, part)
        for name in ("", "0", "0/c", "0/c/9/9/9", "../scan.zarr2", "%2e%2e/scan.zarr2", "?list-type=2"):
            with pytest.raises(HTTPError, match="404"):
                urlopen(address + name, timeout=20)
        with pytest.raises(HTTPError, match="416"):
            urlopen(Request(f"{address}zarr.json", headers={"Range": "bytes=100000000-"}), timeout=20)
        shard = next(name for name, _ in (independent / "scan.zarr").below() if "/c/" in name)
        with pytest.raises(HTTPError, match="416"):
            urlopen(Request(address + shard, headers={"Range": "bytes=100000000-"}), timeout=20)


RUN = """
import sys
from tests.faults.pipelines import BLOCK, SMOOTH
from tests.faults.slow_worker import install
from tomoscale.objects.components import components
from tomoscale.resources import Resources
from tomoscale.volume import open_zarr
from tomoscale.places import place
from tomoscale.work import Work
install()
work = Work(block_shape=BLOCK, progress=False, resources=Resources(memory_bytes=2**30, slots=2))
source, folder = open_zarr(sys.argv[1]), place(sys.argv[2])
work.map(SMOOTH, source, folder / "smooth.zarr")
components(source, folder / "components.zarr", multilabel=True, work=work)
"""


def test_a_run_that_is_killed_again_and_again_ends_with_the_bytes_of_a_disk(tmp_path, bucket):
    source = make_source(tmp_path / "source.zarr")
    QUICK.map(SMOOTH, source, tmp_path / "smooth.zarr")
    components(source, tmp_path / "components.zarr", multilabel=True, work=QUICK)
    expected = {n: b for n, b in objects(tmp_path).items() if not n.startswith("source")}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FAULTS_LOG": str(tmp_path / "log"), "FAULTS_SLOW": "0.1"}
    command = [sys.executable, "-c", RUN, str(source.name), str(bucket.place)]
    chance, kills, done = random.Random(5), 0, []
    while True:
        process = subprocess.Popen(command, env=environment)
        wanted = chance.randrange(5, 20) + len(begun(tmp_path / "log"))
        while process.poll() is None and (kills == 3 or len(begun(tmp_path / "log")) < wanted):
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        state = status(bucket.place / "smooth.zarr")
        assert state["state"] in ("stopped", "finished")
        done.append(state["blocks_done"])
    assert process.returncode == 0
    assert kills == 3
    assert done == sorted(done)
    assert done[-1] > 0
    assert objects(bucket.place) == expected
    assert verify(bucket.place / "components.zarr")["finished"]
    # Nothing of what lies between the passes is left but what is remembered.
    assert not list((tmp_path / "scratch").rglob("*.arrays"))


def begun(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_processes_write_what_one_process_writes(tmp_path, bucket, monkeypatch):
    source = make_source(tmp_path / "source.zarr")
    expected = QUICK.map(SMOOTH, source, tmp_path / "smooth.zarr").read()
    counts = QUICK.measure((PLANES,), {"labels": source}, tmp_path / "planes")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with working("processes", processes=2, block_shape=BLOCK, progress=False) as work:
        made = work.map(SMOOTH, source, bucket.place / "smooth.zarr")
        found = work.measure((PLANES,), {"labels": made}, bucket.place / "planes")
    np.testing.assert_array_equal(made.read(), expected)
    assert objects(bucket.place) == {n: b for n, b in objects(tmp_path).items() if n.startswith("smooth")}
    assert found["planes"].sum() == expected.sum(dtype=np.int64)
    assert counts["planes"].shape == found["planes"].shape
    assert verify(bucket.place / "planes")["finished"]
    # What says that blocks are done comes together in few objects.
    frames = list(bucket.folder.glob("smooth.zarr/0/.tomoscale/blocks/*.frame"))
    assert len(frames) < 10 < len(Ledger.load(ledger_folder(made)).records())


def test_commands_make_look_at_and_replace_volumes_in_a_bucket(tmp_path, bucket, capsys):
    values = np.random.default_rng(1).integers(0, 4, (20, 300, 280)).astype(np.uint8)
    np.save(tmp_path / "x.npy", values)
    values.tofile(tmp_path / "labels.raw")
    raw = ["--shape", "20,300,280", "--dtype", "uint8", "--voxel-size", "5um", "--kind", "labels"]
    address = f"{bucket.place}/labels.zarr"
    convert_ = ["convert", str(tmp_path / "labels.raw"), address, *raw, "--quiet"]
    assert main(convert_) == 0
    before = len(bucket.asked)
    assert main(convert_) == 0, "the same command again has nothing to do"
    assert not [one for one in bucket.asked[before:] if one[0] == "PUT" and "/c/" in one[1]]
    assert main(["clean", address, f"{bucket.place}/clean.zarr", "--quiet"]) == 0
    capsys.readouterr()
    for command in ("status", "verify", "info"):
        assert main([command, f"{bucket.place}/clean.zarr"]) == 0
    said = capsys.readouterr().out
    assert "blocks compared, all equal" in said
    assert "OME-Zarr, Zarr version 3" in said
    assert [level["shape"] for level in info(address)["levels"]] == [[20, 150, 140]]
    np.testing.assert_array_equal(open_volume(address).read(), values)
    np.testing.assert_array_equal(RunBlocks(ledger_folder(bucket.place / "clean.zarr")).look(), DONE)
    assert str(run_state(address)).endswith("blocks, finished")
    again = ["clean", address, f"{bucket.place}/clean.zarr", "--radius", "2", "--quiet"]
    assert main(again) == 4
    assert "was begun with another plan" in capsys.readouterr().err
    assert main([*again, "--overwrite"]) == 0
    assert main(["clean", address, address, "--overwrite"]) == 4, "it would remove what it reads"
    assert main(["components", address, f"{bucket.place}/components.zarr", "--quiet"]) == 0
    assert main(["distance", address, f"{bucket.place}/distance.zarr", "--classes", "1", "--quiet"]) == 0
    local = distance(open_volume(address), tmp_path / "distance.zarr", classes=(1,), work=Work(progress=False))
    np.testing.assert_array_equal(open_zarr(bucket.place / "distance.zarr").read(), local.read())


def test_levels_are_made_anew_and_labels_lie_in_their_image(tmp_path, bucket):
    values = np.random.default_rng(2).integers(0, 255, (20, 290, 280)).astype(np.uint8)
    image = convert(Volume(memory(values), (2.0, 2.0, 2.0)), bucket.place / "scan.zarr", work=Work(progress=False))
    pyramid(image, work=Work(progress=False))
    pyramid(image, work=Work(progress=False, overwrite=True))
    label = bucket.place / "scan.zarr" / "labels" / "bone"
    kernel = SMOOTH
    Work(progress=False).map(kernel, image, label, kind="labels")
    assert open_volume(str(label)).kind == "labels"
    with pytest.raises(PlanError, match="holds the labels bone"):
        Work(overwrite=True).clear(bucket.place / "scan.zarr")


def memory(values: np.ndarray):
    from tomoscale.memory_array import MemoryArray

    return MemoryArray(values)


def damage(kind: str, shards: list[Path]) -> None:
    first, second = shards[0].read_bytes(), shards[1].read_bytes()
    if kind == "missing":
        shards[0].unlink()
    elif kind == "truncated":
        shards[0].write_bytes(first[:-7])
    elif kind == "swapped":
        shards[0].write_bytes(second)
        shards[1].write_bytes(first)
    else:
        shards[0].write_bytes(first[:60] + bytes([first[60] ^ 16]) + first[61:])


@pytest.mark.parametrize("kind", ["missing", "truncated", "swapped", "a bit"])
def test_verify_finds_what_happened_to_objects(tmp_path, bucket, kind):
    target = bucket.place / "smooth.zarr"
    QUICK.map(SMOOTH, make_source(tmp_path / "source.zarr"), target)
    assert verify(target)["blocks_compared"] == 27
    damage(kind, sorted(p for p in (bucket.folder / "smooth.zarr/0/c").rglob("*") if p.is_file()))
    with pytest.raises(
        IntegrityError, match=rf"{2 if kind == 'swapped' else 1} of 27 blocks of s3://scans/study/smooth"
    ):
        verify(target)


@pytest.mark.parametrize("kind", ["missing", "truncated"])
def test_verify_finds_what_happened_to_the_record(tmp_path, bucket, kind):
    target = bucket.place / "smooth.zarr"
    QUICK.map(SMOOTH, make_source(tmp_path / "source.zarr"), target)
    frame = max((bucket.folder / "smooth.zarr/0/.tomoscale/blocks").iterdir())
    content = frame.read_bytes()
    frame.unlink()
    if kind == "truncated":
        frame.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"log of blocks|no record of finished blocks"):
        verify(target)


def test_the_same_values_come_back(tmp_path, bucket):
    source = make_source(tmp_path / "source.zarr")
    made = QUICK.map(SMOOTH, source, bucket.place / "smooth.zarr")
    np.testing.assert_array_equal(made.read(), smooth(source.read()))
