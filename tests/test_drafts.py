"""What killed writers leave under names of drafts goes when the same file is written again, and nothing else does."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.faults.kills import ROOT
from tomoscale import drafts
from tomoscale.drafts import draft_of, new_draft_of
from tomoscale.objects.stored import save_arrays
from tomoscale.report.plates import write_whole
from tomoscale.volume import create_volume
from tomoscale.zarr_metadata import replace_json

DIE = "import os, signal, sys\nfrom pathlib import Path\n{}\n"
KILLED = {
    "file": "from tomoscale.report.plates import write_whole\nPath.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    "write_whole(Path(sys.argv[1]), b'new')",
    "json": "from tomoscale.zarr_metadata import replace_json\nPath.replace = lambda *_: os.kill(os.getpid(), 9)\n"
    "replace_json(Path(sys.argv[1]), {'new': 1})",
    "volume": "from tomoscale.volume import create_volume\nPath.rename = lambda *_: os.kill(os.getpid(), 9)\n"
    "create_volume(sys.argv[1], shape=(4, 4, 4), dtype='uint8', voxel_size_um=1.0).create()",
}


def write_again(kind, path):
    if kind == "volume":
        create_volume(path, shape=(4, 4, 4), dtype=np.uint8, voxel_size_um=1.0).create()
    elif kind == "json":
        replace_json(path, {"new": 1})
    else:
        write_whole(path, b"new")


@pytest.mark.parametrize("kind", KILLED)
def test_a_draft_of_a_writer_that_was_killed_goes_when_the_file_is_written_again(tmp_path, kind):
    path = tmp_path / "result[1].x"
    done = subprocess.run([sys.executable, "-c", DIE.format(KILLED[kind]), str(path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [p.name[:13] for p in tmp_path.iterdir()] == [".result[1].x."]
    write_again(kind, path)
    assert list(tmp_path.iterdir()) == [path]


def test_drafts_of_the_living_of_other_files_and_of_other_machines_that_still_write_stay(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    living = new_draft_of(path)
    elsewhere = tmp_path / ".a.csv.node7.12.0123456789ab.partial"
    old = tmp_path / ".a.csv.node.7.org.12.0123456789ab.partial"
    others = [tmp_path / ".a.csv.partial", tmp_path / f".b.csv.{socket.gethostname()}.999999999.0123456789ab.partial"]
    for file in (living, elsewhere, old, *others):
        file.write_bytes(b"")
    os.utime(old, (0, 0))
    assert draft_of(path) != living
    assert set(tmp_path.iterdir()) == {living, elsewhere, *others}
    monkeypatch.setattr(drafts, "SILENT_SECONDS", -1.0)
    draft_of(path)
    assert set(tmp_path.iterdir()) == {living, *others}


def test_pieces_of_a_killed_worker_have_names_of_drafts(tmp_path, monkeypatch):
    monkeypatch.setattr(drafts.Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_arrays(tmp_path / "piece", {"a": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


WRITE = """
import pickle, sys
from pathlib import Path
import numpy as np
volume = pickle.loads(Path(sys.argv[1]).read_bytes())
values = np.random.default_rng(0).integers(0, 255, volume.shape).astype(np.uint8)
while True:
    volume.write(tuple(slice(0, n) for n in volume.shape), values)
"""


def test_half_a_shard_of_a_writer_that_was_killed_is_gone_when_the_volume_is_finished(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", shape=(96, 128, 128), dtype=np.uint8, voxel_size_um=1.0)
    volume.create()
    (tmp_path / "volume").write_bytes(pickle.dumps(volume))
    left: list[Path] = []
    while not left:  # it may be renamed just before the kill
        with subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path / "volume")], cwd=ROOT) as writer:
            while not list((tmp_path / "v.zarr").rglob("*.__lock")):
                assert writer.poll() is None
            writer.kill()
        left = list((tmp_path / "v.zarr").rglob("*.__lock"))
    assert left
    volume.write(tuple(slice(0, n) for n in volume.shape), np.ones(volume.shape, np.uint8))
    volume.finish({})
    assert [p for p in (tmp_path / "v.zarr").rglob("*") if "lock" in p.name or "partial" in p.name] == []
