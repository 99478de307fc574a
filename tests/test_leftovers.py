"""What killed runs leave is listed and can be removed; what a living run needs, and what others put there, never goes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.kills import ROOT
from tests.faults.pipelines import BLOCK, PLANES, SMOOTH, make_source
from tests.formats.object_store import credentials, object_store
from tests.test_cli import told
from tomoscale import drafts
from tomoscale.audit import verify
from tomoscale.cli import main
from tomoscale.drafts import new_draft_of
from tomoscale.engine import run
from tomoscale.errors import BlocksFailed, PlanError
from tomoscale.lease import FOLDER, take_lease
from tomoscale.ledger import Ledger
from tomoscale.leftovers import Search, clear
from tomoscale.places import Place, place
from tomoscale.plan import plan_map
from tomoscale.pyramid import pyramid
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work

QUICK = Work(block_shape=BLOCK, progress=False)
GONE = 2**22 + 1
"""No process has this number: Linux ends at 2**22."""
RANDOM = "0123456789ab"
LOCK = "0_93f71b68a33e5b17.__lock"
LONG_AGO = 1e9


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An image with a coarser level and a label image, as runs make them."""
    folder = tmp_path_factory.mktemp("made")
    source = make_source(folder / "source.zarr", (20, 24, 300))
    image = QUICK.map(SMOOTH, source, folder / "scan.zarr")
    QUICK.map(SMOOTH, source, folder / "scan.zarr/labels/bone.v2", kind="labels")
    pyramid(image, work=QUICK)
    return folder / "scan.zarr"


@pytest.fixture
def scan(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "scan.zarr"))


def left(path: Place, **how: bool) -> tuple[set[str], set[str]]:
    """Paths of what `verify` finds left over, and of strays."""
    found = verify(path, **how)
    for what in (found["leftovers"], found["strays"]):
        assert what["count"] >= len(what["paths"])
        assert (what["count"] == 0) == (what["paths"] == [])
    return set(found["leftovers"]["paths"]), set(found["strays"]["paths"])


def draft(name: str, host: str | None = None, process: int = GONE) -> str:
    return f".{name}.{host or socket.gethostname()}.{process}.{RANDOM}.partial"


def put(path: Path, modified: float | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    if modified is not None:
        os.utime(path, (modified, modified))
    return str(path)


def files(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("lease.0")}


def test_nothing_is_left_of_what_was_finished(made, tmp_path):
    for folder in (made, made / "labels/bone.v2"):
        assert left(folder) == (set(), set()), folder
    QUICK.measure((PLANES,), {"labels": open_zarr(made.parent / "source.zarr")}, tmp_path / "planes")
    assert left(tmp_path / "planes") == (set(), set())


def test_nothing_is_left_of_an_older_version_of_the_format(tmp_path):
    source = make_source(tmp_path / "source.zarr")
    target = create_volume(
        tmp_path / "old.zarr",
        shape=source.shape,
        dtype="uint8",
        chunk_shape=BLOCK,
        voxel_size_um=2.0,
        ome_version="0.4",
    )
    run(plan_map(SMOOTH, source, target, block_shape=BLOCK))
    path = tmp_path / "old.zarr"
    assert left(path) == (set(), set())
    lock, stray = put(path / "0/1/1" / LOCK), put(path / "0/1/1/7")
    assert left(path) == ({lock}, {stray})


FOLDERS = ("", "0", f"0/{FOLDER}", "0/c/0/1", "1", "1/c/0", "labels", "labels/bone.v2", "labels/bone.v2/0")
OVER = (draft("zarr.json"), draft("plan.json"), draft("7"), LOCK)
STRAY = ("notes.txt", "0.5", "zarr.json.bak", "99999999999999999999", "lease.json", ".DS_Store")


@settings(max_examples=12)
@given(st.sets(st.tuples(st.sampled_from(FOLDERS), st.sampled_from((*OVER, *STRAY))), max_size=5))
def test_all_that_was_put_in_is_found_and_nothing_else(made, tmp_path_factory, places):
    scan = Path(shutil.copytree(made, tmp_path_factory.mktemp("drawn") / "scan.zarr"))
    places = {(f, n) for f, n in places if n != LOCK or "c/" in f}
    before = files(scan)
    over = {put(scan / f / n) for f, n in places if n in OVER}
    strays = {put(scan / f / n) for f, n in places if n in STRAY}
    search = Search(scan, scan / "0" / FOLDER)
    assert {(str(f.place), f.n_bytes, f.stray) for f in search.leftovers()} == {
        (p, 5, p in strays) for p in over | strays
    }
    assert clear([search]) == len(over)
    assert files(scan) == before | {Path(p) for p in strays}
    shutil.rmtree(scan.parent)


def test_what_may_still_be_written_is_not_left_over(scan, monkeypatch):
    now = time.time()
    mine = new_draft_of(scan / "zarr.json").name
    for name in (
        mine,
        draft("zarr.json", "elsewhere"),
        draft("zarr.json", f"n1.{socket.gethostname()}"),
        draft("bone.v3"),
        draft(f"bone.n1.{socket.gethostname()}"),
        f".{RANDOM}.time",
        f"labels/{LOCK}",
    ):
        put(scan / name, now)
    before = files(scan)
    assert left(scan, remove_leftovers=True) == (set(), set())
    assert files(scan) == before
    # Long silence is the end of all but the processes of this machine that still live.
    for path in before:
        if "partial" in path.name or path.name in (LOCK, f".{RANDOM}.time"):
            os.utime(path, (now - drafts.SILENT_SECONDS - 60,) * 2)
    found = verify(scan, remove_leftovers=True)["leftovers"]
    assert found["count"] == found["removed"] == 6
    assert (scan / mine).exists()


def test_what_a_run_that_holds_the_lease_may_write_is_not_left_over(scan, capsys):
    lock, other = put(scan / "0/c/0/0" / LOCK, LONG_AGO), put(scan / "labels/bone.v2/0/c/0/0" / LOCK)
    for array, free in (("0", other), ("labels/bone.v2/0", lock)):
        lease = take_lease(scan / array / FOLDER)
        assert left(scan) == ({free}, set())
        with pytest.raises(PlanError, match=r"is being written by process \d+ on .*: wait for it to end, or stop it"):
            verify(scan, remove_leftovers=True)
        assert main(["verify", str(scan), "--remove-leftovers"]) == 4
        assert "is being written by" in capsys.readouterr().err
        assert Path(lock).exists()
        assert Path(other).exists()
        lease.drop()
    assert left(scan, remove_leftovers=True) == ({lock, other}, set())
    assert not Path(lock).exists()
    assert not Path(other).exists()


def test_a_run_that_begins_while_leftovers_are_removed_is_refused(scan, monkeypatch):
    put(scan / "0/c/0/0" / LOCK)
    refused = []

    def remove(path):
        with pytest.raises(PlanError, match="is being written by"):
            take_lease(scan / "0" / FOLDER)
        refused.append(path)

    monkeypatch.setattr("tomoscale.leftovers.remove", remove)
    assert clear([Search(scan, scan / "0" / FOLDER)]) == 0, "it is still there"
    assert refused == [scan / "0/c/0/0" / LOCK]
    take_lease(scan / "0" / FOLDER).drop()


def test_drafts_of_a_folder_are_one_and_those_beside_a_volume_are_its_own(scan):
    inside = scan / "labels" / draft("bone.v3")
    put(inside / "0/zarr.json", LONG_AGO)
    put(inside / "zarr.json", LONG_AGO)
    for folder in (inside / "0", inside):
        os.utime(folder, (LONG_AGO, LONG_AGO))
    beside = scan.parent / draft("scan.zarr")
    put(beside / "0/zarr.json")
    put(scan.parent / draft("other.zarr"))
    assert left(scan, remove_leftovers=True) == ({str(inside), str(beside)}, set())
    assert {p.name for p in scan.parent.iterdir()} == {"scan.zarr", draft("other.zarr")}
    assert {p.name for p in (scan / "labels").iterdir()} == {"zarr.json", "bone.v2"}


def test_volumes_of_other_programs_and_links_are_let_alone(scan, tmp_path):
    zarr.create_array(scan / "labels" / "theirs", shape=(4, 4, 4), chunks=(2, 2, 2), dtype="u1")[:] = 1
    put(scan / "labels/theirs/anything", LONG_AGO)
    put(scan / "labels/theirs" / draft("zarr.json"), LONG_AGO)
    put(tmp_path / "elsewhere" / draft("zarr.json"))
    (scan / "link").symlink_to(tmp_path / "elsewhere")
    (scan / draft("plan.json")).symlink_to(tmp_path / "elsewhere")
    assert left(scan, remove_leftovers=True) == ({str(scan / draft("plan.json"))}, {str(scan / "link")})
    assert not (scan / draft("plan.json")).is_symlink()
    assert (tmp_path / "elsewhere" / draft("zarr.json")).exists()


def test_a_record_has_no_strays(tmp_path, made):
    record = tmp_path / "results"
    QUICK.measure((PLANES,), {"labels": open_zarr(made.parent / "source.zarr")}, record)
    shutil.copytree(made, record / "scan.zarr")
    put(record / "scan.zarr" / draft("zarr.json"))
    put(record / "results.html")
    over = {put(record / draft("plan.json")), put(record / "tables" / draft("cells.csv"), LONG_AGO)}
    young = put(record / "tables" / draft("bones.csv"))
    assert left(record) == (over, set())
    assert left(record, remove_leftovers=True) == (over, set())
    assert left(record) == (set(), set())
    assert Path(young).exists()


def test_leftovers_are_told_and_no_damage(scan, capsys):
    assert told(capsys, "verify", scan)["leftovers"] == {"count": 0, "bytes": 0, "paths": [], "removed": 0}
    assert main(["verify", str(scan)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    for number in range(7):
        put(scan / f"0/c/0/0/{number}_93f71b68a33e5b17.__lock")
    put(scan / "notes.txt")
    assert main(["verify", str(scan)]) == 0
    said = capsys.readouterr().out
    assert "7 (35 B): " in said
    assert "and 2 more; nothing needs them: --remove-leftovers removes them" in said
    assert f"1 (5 B): {scan}/notes.txt; look before you remove them" in said
    found = told(capsys, "verify", scan, "--remove-leftovers")
    assert (found["leftovers"]["count"], found["leftovers"]["removed"]) == (7, 7)
    assert len(found["leftovers"]["paths"]) == 5
    assert found["strays"] == {"count": 1, "bytes": 5, "paths": [f"{scan}/notes.txt"]}


def test_a_plan_that_names_strange_folders_is_damage_and_no_place_to_remove_from(scan, tmp_path):
    victim = Path(shutil.copytree(scan, tmp_path / "victim" / "0_a.zarr"))
    put(victim / "0/c/0/0" / LOCK, LONG_AGO)
    path = scan / "0" / FOLDER / "plan.json"
    plan = json.loads(path.read_text())
    for said in ({"folder": str(scan.parent / "nowhere")}, {"folder": 7}, 7, {}):
        plan["step"]["smooth"]["probabilities"] = said
        path.write_text(json.dumps(plan))
        with pytest.raises(RuntimeError, match=r"changed after the run \(plan\)"):
            verify(scan)


def test_what_is_left_in_a_bucket(tmp_path):
    (tmp_path / "store/scans").mkdir(parents=True)
    with object_store(tmp_path / "store") as (address, _), credentials(address):
        source = make_source(tmp_path / "source.zarr", (20, 24, 28))
        scan = place("s3://scans/study/scan.zarr")
        QUICK.map(SMOOTH, source, scan)
        assert left(scan) == (set(), set())
        stored = tmp_path / "store/scans/study/scan.zarr"
        put(stored / f"0/{FOLDER}/.ba9876543210.time")
        over = {put(stored / f"0/{FOLDER}/.{RANDOM}.time", LONG_AGO), put(stored / draft("zarr.json"), LONG_AGO)}
        strays = {put(stored / "0/c/0/0/99"), put(stored / "notes.txt")}
        over, strays = ({p.replace(str(stored), str(scan)) for p in ps} for ps in (over, strays))
        assert left(scan) == (over, strays)
        lease = take_lease(scan / "0" / FOLDER)
        with pytest.raises(PlanError, match="is being written by"):
            verify(scan, remove_leftovers=True)
        lease.drop()
        before = files(stored)
        assert left(scan, remove_leftovers=True) == (over, strays)
        assert left(scan) == (set(), strays)
        gone = {stored / Path(p.removeprefix(f"{scan}/")) for p in over}
        assert files(stored) == before - gone


RUN = """
import sys
from tests.faults.pipelines import SMOOTH
from tomoscale.volume import open_zarr
from tomoscale.work import Work
while True:
    Work(block_shape=(48, 64, 64), progress=False, overwrite=True).map(SMOOTH, open_zarr(sys.argv[1]), sys.argv[2])
"""


def test_what_a_killed_run_left_is_listed_and_the_run_goes_on_without_it(tmp_path):
    source = create_volume(tmp_path / "source.zarr", shape=(96, 128, 128), dtype=np.uint8, voxel_size_um=1.0)
    source.create()
    whole = tuple(slice(0, n) for n in source.shape)
    source.write(whole, np.random.default_rng(0).integers(0, 255, source.shape).astype(np.uint8))
    source.finish({})
    target, locks = tmp_path / "smooth.zarr", []
    while not locks:  # it may be renamed just before the kill
        command = [sys.executable, "-c", RUN, str(source.name), str(target)]
        with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
            while not list(target.glob("0/c/*/*/*.__lock")):
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        locks = list(target.glob("0/c/*/*/*.__lock"))
    assert not psutil.pid_exists(process.pid)
    over, strays = left(target)
    assert (over >= set(map(str, locks)), strays) == (True, set())
    assert verify(target, remove_leftovers=True)["leftovers"]["removed"] == len(over)
    assert left(target) == (set(), set())
    work = Work(block_shape=(48, 64, 64), progress=False)
    made = work.map(SMOOTH, open_zarr(source.name), target)
    np.testing.assert_array_equal(made.read(), SMOOTH.function(source.read()))
    assert left(target) == (set(), set())


LIVING = """
import sys
from tests.faults.pipelines import SMOOTH, BLOCK
from tests.faults.slow_worker import install
from tomoscale.volume import open_zarr
from tomoscale.work import Work
install()
Work(block_shape=BLOCK, progress=False).map(SMOOTH, open_zarr(sys.argv[1]), sys.argv[2])
"""


def test_a_living_run_loses_nothing(tmp_path):
    source, target = make_source(tmp_path / "source.zarr"), tmp_path / "smooth.zarr"
    slow = {"PYTHONPATH": str(ROOT), "FAULTS_LOG": str(tmp_path / "log"), "FAULTS_SLOW": "0.05"}
    command = [sys.executable, "-c", LIVING, str(source.name), str(target)]
    refused = 0
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **slow}) as process:
        while process.poll() is None:
            if (target / "0" / FOLDER / "blocks.log").exists():
                assert left(target) == (set(), set())
                try:
                    verify(target, remove_leftovers=True)
                    assert open_zarr(target, unfinished=True).finished
                except PlanError:
                    refused += 1
    assert process.returncode == 0
    assert refused > 0
    assert left(target) == (set(), set())


trouble: list[str] = []


def moody_smooth(values):
    if trouble:
        raise ValueError(trouble[0])
    return SMOOTH.function(values)


def moody_planes(values, block):
    if trouble:
        raise ValueError(trouble[0])
    return PLANES.function(values, block)


@pytest.mark.parametrize("kind", ["volume", "record"])
def test_a_run_that_ends_while_it_is_verified_is_no_damage(tmp_path, monkeypatch, kind):
    source, target = make_source(tmp_path / "source.zarr", (16, 16, 28)), tmp_path / "target"
    kernel, measure = replace(SMOOTH, function=moody_smooth), replace(PLANES, function=moody_planes)

    def run_it():
        if kind == "volume":
            QUICK.map(kernel, source, target)
        else:
            QUICK.measure((measure,), {"labels": source}, target)

    load = Ledger.load

    def loaded_before_the_end(folder):
        monkeypatch.setattr(Ledger, "load", load)
        ledger = load(folder)
        trouble.clear()
        run_it()
        return ledger

    trouble.append("not now")
    with pytest.raises(BlocksFailed, match="not now"):
        run_it()
    monkeypatch.setattr(Ledger, "load", loaded_before_the_end)
    found = verify(target)
    assert (found["blocks_compared"], found["finished"]) == (0, False)
    assert verify(target)["finished"]
