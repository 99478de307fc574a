"""The files on which users make their mistakes: good ones, and one for each way a file can be wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile

from tomoscale.segmentation.segment import SHIPPED_MODEL
from tomoscale.volume import create_volume

SHAPE = (20, 24, 28)


def make_world(folder: Path) -> dict[str, str]:
    """Write all files; return their paths by the names under which mistakes call them."""
    random = np.random.default_rng(3)
    grey = random.integers(100, 60000, SHAPE).astype(np.uint16)
    labels = random.integers(0, 4, SHAPE).astype(np.uint8)
    made: dict[str, Path] = {"empty": folder / "empty", "nowhere": folder / "nowhere"}
    made["empty"].mkdir()
    for part in (_volumes, _slices, _hdf5, _plain_files, _zarrs, _models):
        made |= part(folder, grey, labels)
    made |= _configurations(folder)
    return {name: str(path) for name, path in made.items()}


def digest_of(folder: Path) -> str:
    """Checksum of the names and bytes of all files below a folder."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        total.update(str(path.relative_to(folder)).encode())
        if path.is_file() and not path.is_symlink():
            total.update(path.read_bytes())
    return total.hexdigest()


def volume_at(path: Path, values: np.ndarray, voxel_size_um: float | None = 5.0, kind: str = "labels") -> Path:
    """A finished volume of ours."""
    volume = create_volume(path, shape=values.shape, dtype=values.dtype, voxel_size_um=voxel_size_um, kind=kind)
    volume.create()
    volume.write(tuple(slice(0, n) for n in values.shape), values)
    volume.finish({})
    return path


def slices_at(folder: Path, values: np.ndarray, name: str = "recon_{:05d}.tif") -> Path:
    """A folder of TIFF slices."""
    folder.mkdir()
    for z, plane in enumerate(values):
        tifffile.imwrite(folder / name.format(z), plane)
    return folder


def _volumes(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    scan = volume_at(folder / "scan.zarr", grey, kind="grey")
    unit = (grey / 65535).astype(np.float32)
    mask = np.zeros(SHAPE, bool)
    mask[5:15, 8:16, 10:18] = True
    unfinished = create_volume(folder / "unfinished.zarr", shape=SHAPE, dtype=np.uint16, voxel_size_um=5.0)
    unfinished.create()
    damaged = volume_at(folder / "damaged.zarr", grey, kind="grey")
    shard = next(p for p in (damaged / "0" / "c").rglob("*") if p.is_file())
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(bytes(data))
    gone = volume_at(folder / "gone.zarr", grey, kind="grey")
    next(p for p in (gone / "0" / "c").rglob("*") if p.is_file()).unlink()
    return {
        "scan": scan,
        "normal": volume_at(folder / "normal.zarr", unit, kind="grey"),
        "labels": volume_at(folder / "labels.zarr", labels),
        "high": volume_at(folder / "high.zarr", np.where(labels == 3, 9, labels).astype(np.uint8)),
        "other": volume_at(folder / "other.zarr", labels[:, :-2].copy()),
        "coarse": volume_at(folder / "coarse.zarr", labels, 10.0),
        "sizeless": volume_at(folder / "sizeless.zarr", labels, None),
        "screw": volume_at(folder / "screw.zarr", mask, kind="mask"),
        "bare": volume_at(folder / "bare.zarr", np.zeros(SHAPE, bool), kind="mask"),
        "flat": volume_at(folder / "flat.zarr", np.full(SHAPE, 7, np.uint16), kind="grey"),
        "unfinished": folder / "unfinished.zarr",
        "damaged": damaged,
        "gone": gone,
    }


def _slices(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    one = "recon_00007.tif"

    def empty(place: Path) -> None:
        (place / one).write_bytes(b"")

    def cut(place: Path) -> None:
        (place / one).write_bytes((place / one).read_bytes()[:300])

    def colour(place: Path) -> None:
        for path in place.iterdir():
            tifffile.imwrite(path, np.zeros((24, 28, 3), np.uint8), photometric="rgb")

    def unreadable(place: Path) -> None:
        (place / one).write_bytes(b"II*\0\xff\xff\xff\xff")

    damages: dict[str, Callable[[Path], None]] = {
        "cut": cut,
        "odd_shape": lambda place: tifffile.imwrite(place / one, np.zeros((9, 9), np.uint16)),
        "odd_type": lambda place: tifffile.imwrite(place / one, np.zeros((24, 28), np.float32)),
        "gap": lambda place: (place / one).unlink(),
        "zero_bytes": empty,
        "unreadable": unreadable,
        "twice": lambda place: tifffile.imwrite(place / "other_00007.tif", grey[0]),
        "nameless": lambda place: tifffile.imwrite(place / "overview.tif", grey[0]),
        "colour": colour,
        "pages": lambda place: tifffile.imwrite(place / one, grey[:3], photometric="minisblack"),
    }
    made = {"slices": slices_at(folder / "slices", grey)}
    for name, damage in damages.items():
        damage(made.setdefault(f"slices_{name}", slices_at(folder / f"slices_{name}", grey)))
    return made


def _hdf5(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    def file(name: str, **datasets: np.ndarray) -> Path:
        with h5py.File(folder / name, "w") as opened:
            for key, values in datasets.items():
                opened[key.replace("__", "/")] = values
        return folder / name

    nan, infinite = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    nan[3, 4, 5], infinite[3, 4, 5] = np.nan, np.inf
    made = {
        "nan": file("nan.h5", data=nan),
        "infinite": file("infinite.h5", data=infinite),
        "two": file("two.h5", entry__one=grey, entry__two=grey),
        "flat_image": file("flat_image.h5", data=grey[0]),
        "complex": file("complex.h5", data=np.ones(SHAPE, np.complex64)),
        "nothing": file("nothing.h5"),
        "cut_h5": file("cut.h5", data=np.ones(SHAPE, np.float32)),
    }
    made["cut_h5"].write_bytes(made["cut_h5"].read_bytes()[:-9000])
    return made


def _plain_files(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    files: dict[str, bytes] = {
        "text.txt": b"no scan",
        "page.html": b"here already",
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "voxels.raw": grey.tobytes(),
        "cut.tif": b"II*\0\x08\0\0\0",
        "nothing.tif": b"",
        "cut.nii": bytes(100),
        "giant.tif": _tiff(2**31 - 1, 2**31 - 1),
        "giant.mhd": b"ObjectType = Image\nNDims = 3\nDimSize = 900000000 900000000 900000000\nElementType = MET_USHORT\n"
        b"ElementSpacing = 1 1 1\nElementDataFile = voxels.raw\n",
        "giant.nrrd": b"NRRD0004\ntype: uint16\ndimension: 3\nsizes: 900000000 900000000 900000000\nencoding: raw\n"
        b"endian: little\n\n" + bytes(64),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe")
    (folder / "circle").symlink_to(folder / "circle")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "results").mkdir()
    (folder / "results_broken").mkdir()
    (folder / "results_broken" / "results.json").write_text("{")
    return {
        **{name.replace(".", "_"): folder / name for name in files},
        **{name: folder / name for name in ("circle", "dangling", "pipe", "results", "results_broken")},
    }


def _tiff(width: int, height: int) -> bytes:
    """A TIFF of one strip of 16 bytes whose header claims a slice of any size."""
    tags = (
        (256, width),
        (257, height),
        (258, 16),
        (259, 1),
        (262, 1),
        (273, 130),
        (277, 1),
        (278, height),
        (279, 16),
    )
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(36)


def _zarrs(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    def changed(name: str, change: Callable[[dict], None], file: str = "0/zarr.json") -> Path:
        place = volume_at(folder / f"{name}.zarr", labels, kind="grey")
        path = place / file
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        return place

    def chunks(edge: int) -> dict:
        return {"name": "regular", "configuration": {"chunk_shape": [edge] * 3}}

    def codec(content: dict) -> None:
        content["codecs"] = [{"name": "mystery", "configuration": {}}]

    broken = volume_at(folder / "broken_json.zarr", labels)
    (broken / "zarr.json").write_text("{")
    return {
        "broken_json": broken,
        "huge": changed("huge", lambda c: c.update(shape=[2**60, 2**60, 2**60])),
        "huge_chunk": changed("huge_chunk", lambda c: c.update(chunk_grid=chunks(2**20), codecs=[{"name": "bytes"}])),
        "uneven": changed("uneven", lambda c: c.update(chunk_grid=chunks(1001))),
        "negative": changed("negative", lambda c: c.update(shape=[-1, 24, 28])),
        "objects": changed("objects", lambda c: c.update(data_type="object")),
        "mystery": changed("mystery", codec),
        "newer": changed("newer", _newer, "zarr.json"),
    }


def _newer(content: dict) -> None:
    content["attributes"]["tomoscale"]["version"] = 99


def _models(folder: Path, grey: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    def model(name: str) -> Path:
        place = Path(shutil.copytree(SHIPPED_MODEL, folder / name))
        for path in place.iterdir():
            path.chmod(0o600)
        return place

    made = {
        f"model_{name}": model(f"model_{name}")
        for name in ("good", "cut", "weightless", "cardless", "swapped", "pickle", "card", "reach")
    }
    weights = (SHIPPED_MODEL / "weights.safetensors").read_bytes()
    card = json.loads((made["model_reach"] / "card.json").read_text())
    card["reach_voxels"] |= {"before": [43, 43], "margin_before": [40, 40]}
    (made["model_reach"] / "card.json").write_text(json.dumps(card))
    (made["model_cut"] / "weights.safetensors").write_bytes(weights[:-100])
    (made["model_weightless"] / "weights.safetensors").unlink()
    (made["model_cardless"] / "card.json").unlink()
    (made["model_swapped"] / "weights.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    (made["model_pickle"] / "weights.safetensors").write_bytes(b"\x80\x04\x95" + bytes(50))
    (made["model_card"] / "card.json").write_text('{"format": "tomoscale model 2"}')
    return made


def _configurations(folder: Path) -> dict[str, Path]:
    steps = "steps:\n  - {}\n"
    texts = {
        "unknown_key": "step: []",
        "unknown_command": steps.format("convrt: {source: slices, target: o.zarr}"),
        "unknown_option": steps.format("convert: {source: slices, target: o.zarr, voxelsize: 5um}"),
        "unit": steps.format("convert: {source: slices, target: o.zarr, voxel-size: 5}"),
        "flag": steps.format("normalise: {source: scan.zarr, target: o.zarr, exclude-zeros: maybe}"),
        "pair": steps.format("normalise: {source: scan.zarr, target: o.zarr, percentiles: 0.5}"),
        "lacking": steps.format("convert: {source: slices}"),
        "twice": steps.format("convert: {source: slices, source: scan.zarr, target: o.zarr}"),
        "not_there": steps.format("clean: {source: labelz.zarr, target: o.zarr}"),
        "order": "steps:\n  - clean: {source: l.zarr, target: o.zarr}\n  - segment: {source: normal.zarr, target: l.zarr}\n",
        "clash": "steps:\n  - clean: {source: labels.zarr, target: o.zarr}\n  - clean: {source: labels.zarr, target: o.zarr}\n",
        "eats_input": "steps:\n  - clean: {source: labels.zarr, target: o.zarr}\n  - clean: {source: o.zarr, target: labels.zarr}\n",
        "empty_list": "steps: []",
        "two_in_one": "steps:\n  - clean: {source: labels.zarr, target: o.zarr}\n    verify: {path: labels.zarr}\n",
        "no_yaml": "steps: [",
        "tab": "steps:\n\t- clean: {}\n",
        "object": "steps: !!python/object/apply:os.system ['true']\n",
        "bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
            for a, b in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "late": steps.format("convert: {source: slices, target: o.zarr, voxel-size: 5um}")
        + "  - measure: {labels: o.zarr, results: r, truth: other.zarr}\n",
        "raw_step": steps.format("view: {source: scan.zarr}"),
        "workers": "workers: many\n" + steps.format("verify: {path: scan.zarr}"),
        "study_unknown": "study: implants\nfolder: o\nsamples: [{name: a, scan: scan.zarr}]",
        "study_lacks": "study: implant\nsamples: [{name: a, scan: scan.zarr}]",
        "study_empty": "study: implant\nfolder: o\nsamples: []",
        "study_nameless": "study: implant\nfolder: o\nsamples: [{scan: scan.zarr}]",
        "study_twins": "study: implant\nfolder: o\nsamples: [{name: a, scan: scan.zarr}, {name: a, scan: scan.zarr}]",
        "study_bare": "study: implant\nfolder: o\nsamples: [{name: a, truth: labels.zarr}]",
        "study_time": "study: implant\nfolder: o\nsamples:\n  - {name: a, scan: scan.zarr, healing-time: 6}",
        "study_gone": "study: implant\nfolder: o\nsamples:\n  - {name: a, scan: skan.zarr}",
        "study_typo": "study: implant\nfolder: o\nsamples:\n  - {name: a, scan: scan.zarr, heeling-time: 6weeks}",
        "study_preset": "study: implant\nfolder: o\niou-preset: all\nsamples: [{name: a, scan: scan.zarr}]",
    }
    made = {}
    for name, text in texts.items():
        made[f"yaml_{name}"] = folder / f"{name}.yaml"
        made[f"yaml_{name}"].write_text(text)
    (folder / "large.yaml").write_text("# " + "x" * 300_000)
    (folder / "binary.yaml").write_bytes(os.urandom(64) + b"\0")
    return {**made, "yaml_large": folder / "large.yaml", "yaml_binary": folder / "binary.yaml"}
