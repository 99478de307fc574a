"""Results of nnU-Net and weights alone that someone changed, and what `model import` makes of them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tests.hostile.case import Case, made
from tests.hostile.documents import Executes
from tests.networks import checkpoints

Change = Callable[[dict[str, Any]], object]
NAME = "nnUNetTrainer__nnUNetPlans__2d"
NNUNET = f"model import {{here}}/{NAME} {{here}}/bundle --spacing-unit mm"
ALONE = (
    "model import {here}/a.safetensors {here}/bundle --architecture msd --classes a,b --voxel-size 5um "
    "--arguments '{{\"depth\": 2}}'"
)


class Calls:
    """Calls what it is given when it is unpickled."""

    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return self.what[0], self.what[1:]


def results(here: Path, change: Change = dict, file: str = "plans.json") -> Path:
    """A folder of results with a file of JSON changed, and a checkpoint of nothing."""
    folder = here / NAME
    (folder / "fold_0").mkdir(parents=True)
    for name, content in (("plans.json", checkpoints.plans()), ("dataset.json", checkpoints.dataset())):
        if name == file:
            change(content)
        (folder / name).write_text(json.dumps(content))
    return folder


def chosen(**what: Any) -> Change:
    return lambda plans: plans["configurations"]["2d"].update(what)


def told(**what: Any) -> Change:
    return lambda plans: plans["configurations"]["2d"]["architecture"]["arch_kwargs"].update(what)


def checkpoint(here: Path, content: Any) -> None:
    """A folder of results whose checkpoint is what is given: bytes, or objects that torch saves."""
    file = results(here) / "fold_0" / "checkpoint_final.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)


def trained(change: Change) -> Callable[[Path], object]:
    """A good checkpoint of which something is changed."""

    def write(here: Path) -> None:
        content = checkpoints.checkpoint(2, 0)
        change(content)
        checkpoint(here, content)

    return write


def weights(change: Change) -> Callable[[Path], object]:
    """A good checkpoint of which some tensors are changed, under each of their names."""
    return trained(lambda content: change(content["network_weights"]))


def _fill(value: float | None, dtype: torch.dtype = torch.float32) -> Change:
    def change(state: dict[str, Any]) -> None:
        for name in [n for n in state if n.startswith("decoder.seg_layers.0.")]:
            state[name] = state[name].to(dtype) if value is None else torch.full_like(state[name], value)

    return change


def _larger_than_its_storage(here: Path) -> None:
    tensor = Calls(torch._utils._rebuild_tensor_v2, _storage(), 0, (2**40,), (1,), False, OrderedDict())
    checkpoint(here, {"network_weights": {"w": tensor}})


def _storage() -> Any:
    """Return a storage as checkpoints hold it, of one number."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return torch.zeros(1).storage()


def _inflates(here: Path) -> None:
    """A zip file of some 100 kB whose tensor takes 600 MiB."""
    small = here / "small.pth"
    torch.save({"network_weights": {"w": torch.zeros(1)}}, small)
    target = results(here) / "fold_0" / "checkpoint_final.pth"
    with zipfile.ZipFile(small) as given, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb:
        for name in given.namelist():
            if not name.endswith("/data/0"):
                bomb.writestr(name, given.read(name))
                continue
            with bomb.open(name, "w", force_zip64=True) as entry:
                for _ in range(600):
                    entry.write(bytes(2**20))
    small.unlink()


def _doubling_key(here: Path) -> None:
    """A key of a mapping whose hash takes 2^60 steps."""
    key: tuple[Any, ...] = ()
    for _ in range(60):
        key = (key, key)
    # Pickle hashes no key when it writes: the mapping is made by hand.
    stream = pickle.dumps(key, 2)[:-1]
    checkpoint(here, b"")
    file = here / NAME / "fold_0" / "checkpoint_final.pth"
    torch.save({"w": torch.zeros(1)}, file)
    with zipfile.ZipFile(file) as given:
        contents = {name: given.read(name) for name in given.namelist()}
    with zipfile.ZipFile(file, "w") as target:
        for name, content in contents.items():
            target.writestr(name, b"\x80\x02}" + stream[2:] + b"K\x01s." if name.endswith("data.pkl") else content)


def _linked(name: str, to: str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        place = results(here) / name
        if place.is_dir():
            place.rmdir()
        place.unlink(missing_ok=True)
        place.symlink_to(here.parent / "outside" / to)

    return write


def _fold(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else where the folder of a fold, or its checkpoint, should be."""

    def write(here: Path) -> None:
        folder = results(here) / "fold_0"
        shutil.rmtree(folder)
        make(folder)

    return write


def _json_text(name: str, text: str) -> Callable[[Path], object]:
    return lambda here: (results(here) / name).write_text(text)


def _pipe(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "checkpoint_final.pth")


def _module(plans: dict[str, Any]) -> None:
    plans["configurations"]["2d"]["architecture"].update(network_class_name="os.system")


def _no_deviation(plans: dict[str, Any]) -> None:
    chosen(normalization_schemes=["CTNormalization"])(plans)
    plans["foreground_intensity_properties_per_channel"]["0"].update(std=-1)


OBJECT = Calls(np.float64(0).__reduce__()[0], np.dtype("O"), bytes(8))


def _regions(order: Any) -> Change:
    return lambda d: d.update(labels={"background": 0, "a": [1, 2], "b": [2]}, regions_class_order=order)


PLANS = tuple(
    Case(f"nnunet: {name}", make, NNUNET, 3, words)
    for name, make, *words in (
        ("features of 10^9", made(results, told(features_per_stage=[10**9, 6])), "features must be a whole number"),
        ("negative features", made(results, told(features_per_stage=[-4, 6])), "features must be a whole number"),
        ("features of NaN", made(results, told(features_per_stage=[float("nan"), 6])), "features must be a whole number"),
        ("features in words", made(results, told(features_per_stage="many")), "features"),
        ("10^9 stages", made(results, told(n_stages=10**9)), "n_stages must be a whole number"),
        ("10^5 convolutions", made(results, told(n_conv_per_stage=[1, 10**5])), "convolutions must be a whole number"),
        ("strides of 0", made(results, told(strides=[[1, 1], [0, 2]])), "strides must be a whole number"),
        ("strides of 10^9", made(results, told(strides=[[1, 1], [10**9, 2]])), "strides must be a whole number"),
        ("kernels of -3", made(results, told(kernel_sizes=[[3, 3], [-3, 3]])), "kernel_sizes"),
        ("a slope of code", made(results, told(nonlin_kwargs={"negative_slope": "os.system"})), "supported are affine"),
        ("a network of a module", made(results, _module), "its network is a system"),
        ("a patch of 10^12", made(results, chosen(patch_size=[10**12, 32])), "patch_size must be"),
        ("a negative patch", made(results, chosen(patch_size=[-24, 32])), "patch_size must be"),
        ("a patch of seven axes", made(results, chosen(patch_size=[8] * 7)), "patch_size must be"),
        ("a spacing of NaN", made(results, chosen(spacing=[float("nan"), 1])), "spacing must be"),
        ("a negative spacing", made(results, chosen(spacing=[-1, 1])), "spacing must be"),
        ("a spacing of 10^400", _json_text("plans.json", json.dumps(checkpoints.plans()).replace("0.005", "1e400")), "spacing must be"),
        ("axes that are no order", made(results, lambda p: p.update(transpose_forward=[0, 0, 9])), "not the inverse"),
        ("a deviation of nothing", made(results, _no_deviation), "deviation"),
        ("configurations in a circle", made(results, lambda p: p["configurations"]["2d"].update(inherits_from="2d")), "inherits from itself"),
        ("configurations that are a list", made(results, lambda p: p.update(configurations=["2d"])), "plans.json"),
        ("plans nested 100 000 deep", _json_text("plans.json", "[" * 100_000), "nested too deep"),
        ("plans of 40 MB", _json_text("plans.json", '{"a": [' + "[]," * 13_000_000 + "0]}"), "not a JSON object of at most"),
        ("plans that are a pipe", lambda h: ((results(h) / "plans.json").unlink(), os.mkfifo(h / NAME / "plans.json")), "not a file"),
        ("a quarter of a million labels", made(results, lambda d: d.update(labels={f"x{n}": n for n in range(2**18)}), "dataset.json"), "labels"),
        ("a label of 10^6 letters", made(results, lambda d: d["labels"].update({"y" * 10**6: 3}), "dataset.json"), "1 to 100 characters"),
        ("labels of no number", made(results, lambda d: d["labels"].update(bone="two"), "dataset.json"), "cannot be imported"),
        ("regions of no class", made(results, _regions([1, 900]), "dataset.json"), "regions_class_order"),
        ("regions in words", made(results, _regions("ab"), "dataset.json"), "cannot be imported"),
        ("plans through a link out", _linked("plans.json", "results.json"), "by a link"),
        ("a fold through a link out", _linked("fold_0", "chunks"), "by a link"),
        ("a fold that is a file", _fold(Path.touch), "is no file"),
        ("a checkpoint that is a folder", _fold(lambda f: (f / "checkpoint_final.pth").mkdir(parents=True)), "is no file"),
        ("a checkpoint that is a pipe", _fold(_pipe), "is no file"),
        ("no fold", _fold(lambda f: None), "has the folds []"),
        ("a checkpoint of nothing", made(checkpoint, b""), "has 0 bytes"),
    )
)  # fmt: skip
CHECKPOINTS = tuple(
    Case(f"checkpoint: {name}", make, NNUNET, 3, words)
    for name, make, *words in (
        ("a command", lambda h: checkpoint(h, {"network_weights": {}, "x": Executes(h.parent / "outside" / "executed")}), "asks to call posix.system"),
        ("code to evaluate", lambda h: checkpoint(h, pickle.dumps(Calls(eval, f"open({str(h.parent / 'outside' / 'run')!r}, 'w')"))), "was not opened"),
        ("a number of NumPy of objects", made(checkpoint, {"network_weights": {}, "x": OBJECT}), "was not opened"),
        ("a tensor larger than its storage", _larger_than_its_storage, "was not opened"),
        ("a zip that inflates to 600 MiB", _inflates, "takes more memory"),
        ("a key that doubles sixty times", _doubling_key, "or is damaged"),
        ("cut short", lambda h: (trained(dict)(h), os.truncate(h / NAME / "fold_0" / "checkpoint_final.pth", 3000)), "damaged"),
        ("weights of NaN", weights(_fill(float("nan"))), "holds NaN"),
        ("weights of whole numbers", weights(_fill(None, torch.int64)), "the architecture needs torch.float32"),
        ("mirrored along axis 7", trained(lambda c: c.update(inference_allowed_mirroring_axes=(7,))), "mirror_axes"),
    )
)  # fmt: skip


def alone(here: Path, header: dict[str, Any] | bytes, body: bytes = b"") -> None:
    """A safetensors file of a header that is given."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (here / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def _tensors(dtype: torch.dtype, value: float = 0) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        state = {"w": torch.full((4, 4), value).to(dtype)}
        safetensors.torch.save_file(state, here / "a.safetensors")

    return write


def _entry(shape: list[int], end: int) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


WEIGHTS = tuple(
    Case(f"weights: {name}", make, ALONE, 3, words)
    for name, make, *words in (
        ("a shape of 2^40", made(alone, _entry([2**40], 2**42)), "not a safetensors file"),
        ("a shape that overflows", made(alone, _entry([2**62, 2**62], 4)), "not a safetensors file"),
        ("a header of 100 MB", made(alone, b" " * 10**8), "its header would have"),
        ("a header of deep JSON", made(alone, b'{"a":' + b"[" * 10**6), "not a safetensors file"),
        ("a header beyond the end", lambda h: (h / "a.safetensors").write_bytes(struct.pack("<Q", 10**6)), "not a safetensors file"),
        ("of another network", _tensors(torch.float32), "weights and architecture are of different networks"),
        ("of 8 bits", _tensors(torch.uint8), "weights and architecture are of different networks"),
    )
)  # fmt: skip
DECIDED = "components {shared}/labels.zarr {here}/a.zarr --quiet"
TABLE = "object-table {shared}/labels.zarr {here}/a.csv --quiet"


def _decided(text: str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        (here / "a.pieces").mkdir()
        (here / "a.pieces" / "decided.json").write_text(text)

    return write


def _finished(text: str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        (here / "a.csv.parts").mkdir()
        (here / "a.csv.parts" / "finished.json").write_text(text)
        (here / "a.csv").touch()

    return write


LARGE = '{"a": [' + "[]," * 13_000_000 + "0]}"
RECORDS = tuple(
    Case(f"record: {name}", make, line, 7, words)
    for name, make, line, *words in (
        ("decided, of 40 MB", _decided(LARGE), DECIDED, "not a JSON object of at most"),
        ("decided, nested 100 000 deep", _decided("[" * 100_000), DECIDED, "nested too deep"),
        ("decided, a list", _decided("[]"), DECIDED, "not a JSON object"),
        ("decided, of nothing", _decided("{}"), DECIDED, "remove"),
        ("decided, in words", _decided('{"plan": 1, "digest": 2, "remembered": "x"}'), DECIDED, "remove"),
        ("a table of 40 MB", _finished(LARGE), TABLE, "not a JSON object of at most"),
        ("a table nested 100 000 deep", _finished("[" * 100_000), TABLE, "nested too deep"),
    )
)  # fmt: skip
CASES = (*PLANS, *CHECKPOINTS, *WEIGHTS, *RECORDS)
