"""More than a hundred hostile or broken inputs: a clear error, little time and memory, nothing run, nothing outside.

All of them are opened by two processes, by the commands a user would give, and each is one test that looks at what was
written down of it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from tests.hostile import checkpoint_files, documents, hdf5_files, scan_files, tiff_files, zarr_files
from tests.hostile.case import CANARY, Case
from tests.world import volume_at
from tomoscale.studies import implant

ROOT = Path(__file__).resolve().parents[2]
CASES = (
    *zarr_files.CASES,
    *tiff_files.CASES,
    *hdf5_files.CASES,
    *scan_files.CASES,
    *documents.CASES,
    *checkpoint_files.CASES,
)
MOST_SECONDS = 10.0
"""Of the processor, which other work on the machine does not stretch."""
MOST_BYTES = 2**30
HANGS_SECONDS = 180.0
MOST_LINES = 8
# All cases are run by what the first test waits for.
pytestmark = [pytest.mark.xdist_group("hostile"), pytest.mark.timeout(1200)]


@dataclass(frozen=True)
class Outcomes:
    """What every case did, by its name, and where."""

    folder: Path
    by_name: dict[str, dict[str, Any]]
    before: dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    folder = tmp_path_factory.mktemp("hostile")
    make_outside(folder / "outside")
    make_shared(folder / "shared")
    for case in CASES:
        here(folder, case).mkdir()
        case.make(here(folder, case))
    before = state_of(folder / "outside")
    documents_first = CASES.index(documents.CASES[0])
    # What needs torch and what does not go to a process each, so that the first stays small.
    halves = [
        run_all(folder, part, str(n)) for n, part in enumerate((CASES[:documents_first], CASES[documents_first:]))
    ]
    yield Outcomes(folder, {name: found for half in halves for name, found in half.items()}, before)
    shutil.rmtree(folder)


def here(folder: Path, case: Case) -> Path:
    return folder / f"case{CASES.index(case)}"


def make_outside(outside: Path) -> None:
    """Files that nothing may read, each of which could be read if a guard let it."""
    (outside / "chunks" / "0" / "0").mkdir(parents=True)
    values = np.full((4, 4, 4), 165, np.uint8)
    for name in ("secret.raw", "chunks/0/0/0"):
        (outside / name).write_bytes(values.tobytes())
    tifffile.imwrite(outside / "secret.tif", values[:, :2].repeat(4, 1).repeat(2, 2)[0])
    with h5py.File(outside / "secret.h5", "w") as file:
        file["data"] = values
    zarr_files.v3(outside, values.tobytes(), name="secret.zarr", attributes={"name": CANARY})
    (outside / "results.json").write_text(json.dumps({"caveats": [CANARY]}))
    (outside / "secret.ome.xml").write_text(f"<OME>{CANARY}</OME>")


def make_shared(shared: Path) -> None:
    """Good inputs for commands that need one besides the bad."""
    shared.mkdir()
    values = np.random.default_rng(0).random((8, 16, 16))
    volume_at(shared / "normal.zarr", values.astype(np.float32), kind="grey")
    labels = volume_at(shared / "labels.zarr", (values * 4).astype(np.uint8))
    implant.measure(labels, shared / "measured")


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in sorted(folder.rglob("*"))}


def run_all(folder: Path, cases: tuple[Case, ...], name: str) -> dict[str, dict[str, Any]]:
    """Run the cases in a process, and after one that ended or stopped it the others in another."""
    left = [(c.name, shlex.split(c.line.format(here=here(folder, c), shared=folder / "shared"))) for c in cases]
    found: dict[str, dict[str, Any]] = {}
    todo, results, empty = folder / f"cases{name}.json", folder / f"results{name}.jsonl", folder / f"empty{name}"
    empty.mkdir()
    results.touch()
    while left:
        todo.write_text(json.dumps(left))
        done, ended = len(found), follow(todo, results, folder, empty)
        for line in results.read_text().splitlines()[done:]:
            found[json.loads(line)["name"]] = json.loads(line)
        left = left[len(found) - done :]
        if left and len(found) < len(cases):
            found[left[0][0]] = {"code": None, "text": ended, "cpu_s": 0.0, "bytes": 0, "events": []}
            with results.open("a") as file:
                print(json.dumps({"name": left[0][0], **found[left[0][0]]}), file=file)
            left = left[1:]
    return found


def follow(todo: Path, results: Path, folder: Path, empty: Path) -> str:
    """Wait for a worker as long as it gets on; say how it ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment["TMPDIR"] = str(folder)
    command = [sys.executable, str(ROOT / "tests" / "hostile" / "worker.py"), *map(str, (todo, results, folder))]
    with subprocess.Popen(command, cwd=empty, env=environment, stderr=subprocess.PIPE, text=True) as process:
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            if (now := results.stat().st_size) != size:
                size, since = now, time.monotonic()
            if time.monotonic() - since > HANGS_SECONDS:
                process.kill()
        assert process.stderr is not None
        return f"the process ended with {process.returncode}: {process.stderr.read()[-1500:]}"


def test_there_are_more_than_a_hundred() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused(case: Case, outcomes: Outcomes) -> None:
    found, folder = outcomes.by_name[case.name], here(outcomes.folder, case)
    text = found["text"]
    assert found["code"] == case.code, text
    assert all(word in text for word in case.words), text
    assert "Traceback" not in text
    assert case.code == 0 or len(text.splitlines()) <= MOST_LINES, text
    assert not found["events"]
    assert found["cpu_s"] < MOST_SECONDS
    assert found["bytes"] < MOST_BYTES
    written = [p.read_text() for p in folder.glob("*.html")]
    shown = "\n".join([text, *written])
    assert not [word for word in (*case.absent, "\x1b") if word in shown]


def test_nothing_outside_was_touched(outcomes: Outcomes) -> None:
    assert state_of(outcomes.folder / "outside") == outcomes.before
    assert not list(outcomes.folder.glob("empty*/*"))
