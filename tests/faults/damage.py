"""Damage what a finished run left, in every way that disks, people and programs do, and see whether `verify` finds it."""

from __future__ import annotations

import json
import random
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.pipelines import PLANES, SMOOTH
from tomoscale.audit import verify
from tomoscale.errors import IntegrityError
from tomoscale.frames import FRAME, RECORD
from tomoscale.volume import create_volume, open_zarr
from tomoscale.work import Work

SHAPE = (20, 21, 22)
BLOCK = (8, 8, 8)
Damage = Callable[[Path, random.Random], Path]
"""Damages something of a volume or a record; returns the file that `verify` must name, or the output."""


def shards(path: Path) -> list[Path]:
    return sorted(p for p in (path / "0" / "c").rglob("*") if p.is_file())


def flip_bit(file: Path, chance: random.Random) -> Path:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(bytes(content))
    return file


def cut(file: Path, chance: random.Random) -> Path:
    file.write_bytes(file.read_bytes()[: chance.randrange(file.stat().st_size)])
    return file


def zero_tail(file: Path, chance: random.Random) -> Path:
    content = file.read_bytes()
    # Of what ends in zeros anyway, the same zeros are no damage.
    kept = chance.randrange(len(content.rstrip(b"\0")))
    file.write_bytes(content[:kept] + bytes(len(content) - kept))
    return file


def of_shard(change: Callable[[Path, random.Random], Path]) -> Damage:
    return lambda path, chance: change(chance.choice(shards(path)), chance)


def remove_shard(path: Path, chance: random.Random) -> Path:
    file = chance.choice(shards(path))
    file.unlink()
    return file


def swap_shards(path: Path, chance: random.Random) -> Path:
    one, two = chance.sample(shards(path), 2)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return min(one, two)


def frames(log: Path) -> list[bytes]:
    content, found = log.read_bytes(), []
    while content:
        _, _, records, payload = FRAME.unpack_from(content)
        size = FRAME.size + records * RECORD.itemsize + payload + 4
        found.append(content[:size])
        content = content[size:]
    return found


def of_log(change: Callable[[list[bytes], random.Random], list[bytes]]) -> Damage:
    def damage(path: Path, chance: random.Random) -> Path:
        log = record_of(path) / "blocks.log"
        log.write_bytes(b"".join(change(frames(log), chance)))
        return path

    return damage


def drop_frame(found: list[bytes], chance: random.Random) -> list[bytes]:
    del found[chance.randrange(len(found))]
    return found


def double_frame(found: list[bytes], chance: random.Random) -> list[bytes]:
    return [*found, chance.choice(found[1:])]


def forge_checksum(found: list[bytes], chance: random.Random) -> list[bytes]:
    """Change a block's checksum and mend that of the frame, as no accident would."""
    n = chance.randrange(1, len(found))  # the first opens the run and holds none
    body = bytearray(found[n][:-4])
    records = np.frombuffer(body, RECORD, FRAME.unpack_from(body)[2], FRAME.size)
    records["checksum"][0] ^= np.uint64(1 << chance.randrange(64))
    found[n] = bytes(body) + struct.pack("<I", zlib.crc32(body))
    return found


def forge_number(found: list[bytes], chance: random.Random) -> list[bytes]:
    """Record a block as another one."""
    n = chance.randrange(1, len(found))  # the first opens the run and holds none
    body = bytearray(found[n][:-4])
    records = np.frombuffer(body, RECORD, FRAME.unpack_from(body)[2], FRAME.size)
    records["number"][0] ^= np.uint64(1 << chance.randrange(4))
    found[n] = bytes(body) + struct.pack("<I", zlib.crc32(body))
    return found


def of_record(name: str, change: Callable[[Path, random.Random], Path]) -> Damage:
    def damage(path: Path, chance: random.Random) -> Path:
        change(record_of(path) / name, chance)
        return path

    return damage


def change_plan(file: Path, chance: random.Random) -> Path:
    """Change one value of a plan, which stays JSON."""
    plan = before = json.loads(file.read_text())
    while plan == before:
        plan = json.loads(file.read_text())
        level = chance.choice([plan, *(v for v in plan.values() if isinstance(v, dict) and v)])
        level[chance.choice(sorted(level))] = chance.choice([None, 1, "other", {}])
    file.write_text(json.dumps(plan))
    return file


def remove(file: Path, chance: random.Random) -> Path:
    file.unlink()
    return file


def change_metadata(path: Path, chance: random.Random) -> Path:
    """Give the volume another voxel size, or chunks another fill value."""
    if chance.random() < 0.5:
        file = path / "zarr.json"
        file.write_text(file.read_text().replace("2.0", "2.5"))
    else:
        file = path / "0" / "zarr.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "fill_value": chance.randint(1, 255)}))
    return path


def record_of(path: Path) -> Path:
    """Folder of a ledger."""
    inside = path / "0" / ".tomoscale"
    return inside if inside.is_dir() else path


OF_VOLUME: dict[str, Damage] = {
    "bit of a shard": of_shard(flip_bit),
    "cut shard": of_shard(cut),
    "zeros at a shard's end": of_shard(zero_tail),
    "no shard": remove_shard,
    "swapped shards": swap_shards,
    "metadata": change_metadata,
}
OF_RECORD: dict[str, Damage] = {
    "bit of the log": of_record("blocks.log", flip_bit),
    "cut log": of_record("blocks.log", cut),
    "zeros at the log's end": of_record("blocks.log", zero_tail),
    "no log": of_record("blocks.log", remove),
    "frame lost": of_log(drop_frame),
    "frame twice": of_log(double_frame),
    "another checksum": of_log(forge_checksum),
    "another block": of_log(forge_number),
    "bit of the plan": of_record("plan.json", flip_bit),
    "changed plan": of_record("plan.json", change_plan),
    "no plan": of_record("plan.json", remove),
}


def damage_and_verify(folder: Path, number: int, seed: int = 0) -> dict[str, Any]:
    """Injure a volume and the record of a measure so many times; count what is found, and found by its name."""
    chance = random.Random(seed)
    source = create_volume(folder / "source.zarr", shape=SHAPE, dtype=np.uint8, voxel_size_um=2.0, kind="labels")
    source.create()
    values = np.random.default_rng(seed).integers(0, 256, SHAPE).astype(np.uint8)
    source.write(tuple(slice(0, n) for n in SHAPE), values)
    source.finish({})
    work = Work(block_shape=BLOCK, progress=False)
    work.map(SMOOTH, open_zarr(folder / "source.zarr"), folder / "volume.zarr")
    work.measure((PLANES,), {"labels": source}, folder / "record")
    cases = [("volume.zarr", n, d) for n, d in {**OF_VOLUME, **OF_RECORD}.items()]
    cases += [("record", n, d) for n, d in OF_RECORD.items()]
    injected, found, named, missed = Counter[str](), Counter[str](), 0, []
    for number_ in range(number):
        target, name, damage = cases[number_ % len(cases)]
        path = folder / target
        # With times of its own: a file is known by its number and time, and numbers are used again.
        shutil.copytree(path, folder / "whole", copy_function=shutil.copy)
        culprit = damage(path, chance)
        injected[f"{target}: {name}"] += 1
        try:
            verify(path)
        except IntegrityError as error:
            found[f"{target}: {name}"] += 1
            place = name not in OF_VOLUME or name == "metadata" or ("z " in str(error) and "x " in str(error))
            named += str(culprit) in str(error) and place
            if not (str(culprit) in str(error) and place):
                missed.append(f"not named, {name}: {str(error)[:300]}")
        except Exception as error:
            missed.append(f"{target}: {name}: {type(error).__name__} {error}")
        else:
            missed.append(f"{target}: {name}")
        shutil.rmtree(path)
        (folder / "whole").rename(path)
    verify(folder / "volume.zarr")
    verify(folder / "record")
    return {"injected": sum(injected.values()), "found": sum(found.values()), "named": named, "missed": missed[:20]}
