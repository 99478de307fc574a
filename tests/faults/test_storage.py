"""Storage that is full, slow, stale or broken gives a clear error or is waited for; nothing wrong stays behind."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.faults.pipelines import differing_bytes, made, make_source
from tests.faults.storage import SHAPE, TRANSIENT, fail_everywhere, run_small
from tomoscale import retries
from tomoscale.audit import verify
from tomoscale.errors import PlanError
from tomoscale.retries import retried
from tomoscale.volume import create_volume
from tomoscale.zarr_array import ZarrArray


def test_wherever_storage_fails_the_error_is_clear_or_the_run_goes_on_and_the_next_one_makes_the_same_bytes(tmp_path):
    figures = fail_everywhere(tmp_path, 24)
    assert figures["unclear"] == []
    assert figures["differing_bytes"] == 0
    assert figures["clear_errors"] + figures["went_on"] == 24
    assert figures["went_on"] > 0
    assert figures["clear_errors"] > 0


@pytest.mark.parametrize("code", TRANSIENT)
def test_voxels_that_cannot_be_read_or_written_for_a_moment_cost_no_try_of_a_block(tmp_path, monkeypatch, code):
    source = make_source(tmp_path / "source.zarr", SHAPE)
    failures = {"read": 2, "_write": 2}

    def failing(name, function):
        def call(*arguments):
            if failures[name]:
                failures[name] -= 1
                raise OSError(code, os.strerror(code), "somewhere")
            return function(*arguments)

        return call

    monkeypatch.setattr(retries, "PAUSES_SECONDS", (0.0, 0.0))
    for name in failures:
        monkeypatch.setattr(ZarrArray, name, failing(name, getattr(ZarrArray, name)))
    run_small(source, tmp_path)
    assert failures == {"read": 0, "_write": 0}
    assert verify(tmp_path / "smooth.zarr")["finished"]


def test_what_a_pause_does_not_mend_is_told_at_once(monkeypatch):
    calls = []

    def full():
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        retried(full)
    assert len(calls) == 1


def test_a_disk_that_fills_up_stops_the_run_and_more_room_lets_it_go_on(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small disk")
    try:
        source = make_source(tmp_path / "source.zarr", (64, 64, 64))
        for _ in range(2):
            with pytest.raises(PlanError, match=r"cannot be written: No space left|is needed|free"):
                run_small(source, disk)
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        run_small(source, disk)
        (tmp_path / "expected").mkdir()
        run_small(source, tmp_path / "expected")
        assert differing_bytes(made(disk), made(tmp_path / "expected")) == 0
        verify(disk / "smooth.zarr")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_shard_at_the_edge_is_never_missing_while_it_is_written_again_and_a_damaged_one_is_replaced(tmp_path):
    volume = create_volume(tmp_path / "v.zarr", shape=(70, 6, 7), dtype=np.uint8, voxel_size_um=1.0)
    volume.create()
    region = tuple(slice(0, n) for n in (70, 6, 7))
    values = np.random.default_rng(1).integers(0, 256, (70, 6, 7)).astype(np.uint8)
    volume.write(region, values)
    (file,) = (p for p in (tmp_path / "v.zarr" / "0" / "c").rglob("*") if p.is_file())
    whole, removed, unlink = file.read_bytes(), [], Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path, **how: (removed.append(path), unlink(path, **how)))
        volume.write(region, values)
        assert removed == []
        assert file.read_bytes() == whole
        file.write_bytes(whole[: len(whole) // 2])
        volume.write(region, values)
    assert removed == [file]
    assert file.read_bytes() == whole
