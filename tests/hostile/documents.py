"""Models, configurations, ledgers and results that someone changed."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.hostile.case import CANARY, Case, deflated_zeros, made
from tomoscale.frames import FRAME, RECORD
from tomoscale.segmentation.segment import SHIPPED_MODEL

Change = Callable[[dict[str, Any]], object]


class Executes:
    """Writes a file outside when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.place}'",)


def model(here: Path, weights: Callable[[bytes], bytes] = bytes, change: Change = dict, *, signed: bool = True) -> None:
    """The shipped model with its weights, or its card, changed; the hash on the card fits."""
    folder = here / "model"
    folder.mkdir()
    content = weights((SHIPPED_MODEL / "weights.safetensors").read_bytes())
    (folder / "weights.safetensors").write_bytes(content)
    card = json.loads((SHIPPED_MODEL / "card.json").read_text())
    if signed:
        card["weights_sha256"] = hashlib.sha256(content).hexdigest()
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def header(change: Change) -> Callable[[bytes], bytes]:
    """Change the header of a safetensors file, whose length stays what it was, or its place for the voxels."""

    def write(content: bytes) -> bytes:
        (length,) = struct.unpack_from("<Q", content)
        said = json.loads(content[8 : 8 + length])
        change(said)
        text = json.dumps(said).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return write


def _first(said: dict[str, Any]) -> dict[str, Any]:
    return next(v for k, v in said.items() if k != "__metadata__")


def _overlapping(said: dict[str, Any]) -> None:
    for name, entry in said.items():
        if name != "__metadata__":
            entry.update(data_offsets=_first(said)["data_offsets"])


def _far(card: dict[str, Any]) -> None:
    reach = card["reach_voxels"]
    reach.update({key: [10**18] * len(v) for key, v in reach.items() if isinstance(v, list)})


def _nan(content: bytes) -> bytes:
    return content[:-4] + struct.pack("<f", float("nan"))


def _pickled(here: Path) -> None:
    payload = pickle.dumps(Executes(here.parent / "outside" / "executed"))
    model(here, lambda content: payload + content[len(payload) :])


def _pickled_file(here: Path) -> None:
    (here / "model").mkdir()
    (here / "model" / "model.pt").write_bytes(pickle.dumps(Executes(here.parent / "outside" / "executed")))


def _card(text: str) -> Callable[[Path], object]:
    def write(here: Path) -> None:
        model(here)
        (here / "model" / "card.json").write_text(text)

    return write


SEGMENT = "segment {shared}/normal.zarr {here}/out.zarr --model {here}/model --quiet"
MODELS = tuple(
    Case(f"model: {name}", make, SEGMENT, 3, words)
    for name, make, *words in (
        ("a pickle named safetensors", _pickled, "not a safetensors file"),
        ("a pickle alone", _pickled_file, "no card.json"),
        ("a header of 2^63 bytes", made(model, weights=lambda c: struct.pack("<Q", 2**63) + c[8:]), "not a safetensors file"),
        ("a header of 100 MB", made(model, weights=lambda c: struct.pack("<Q", 10**8) + b" " * 10**8 + c[8:]), "belongs to another network"),
        ("a header of deep JSON", made(model, weights=lambda c: struct.pack("<Q", 10**6) + b"[" * 10**6 + c[10**6 + 8 :]), "weights.safetensors"),
        ("tensors over each other", made(model, weights=header(_overlapping)), "weights.safetensors"),
        ("a tensor beyond the end", made(model, weights=header(lambda h: _first(h).update(data_offsets=[2**40, 2**40 + 4]))), "not a safetensors file"),
        ("a tensor of negative place", made(model, weights=header(lambda h: _first(h).update(data_offsets=[-8, 0]))), "not a safetensors file"),
        ("a shape that overflows", made(model, weights=header(lambda h: _first(h).update(shape=[2**62, 2**62]))), "not a safetensors file"),
        ("a type of nothing we know", made(model, weights=header(lambda h: _first(h).update(dtype="OBJECT"))), "not a safetensors file"),
        ("weights of NaN", made(model, weights=_nan), "NaN"),
        ("weights of another hash", made(model, weights=_nan, signed=False), "its card says"),
        ("no weights", made(model, weights=lambda c: b""), "cut short"),
        ("an architecture named by a module", made(model, change=lambda c: c.update(architecture="os.system")), "'os.system' is unknown"),
        ("an architecture that is a list", made(model, change=lambda c: c.update(architecture=["scaled_unet"])), "card.json"),
        ("arguments of a petabyte", made(model, change=lambda c: c["arguments"].update(depth=30, width=2**40)), "card.json"),
        ("arguments of code", made(model, change=lambda c: c["arguments"].update(__class__="os")), "card.json"),
        ("classes that are numbers", made(model, change=lambda c: c.update(classes=7)), "card.json"),
        ("a reach of 10^18 voxels", made(model, change=_far), "no more than 16384 voxels"),
        ("a card nested 100 000 deep", _card('{"format": ' + "[" * 100_000), "card.json"),
        ("a card of 2 MB", _card(" " * 2**21), "a card has at most"),
        ("a card of a list", _card("[]"), '"format" must be'),
        ("a card of NaN", made(model, change=lambda c: c.update(voxel_size_um=[float("nan")] * 3)), "lengths > 0"),
    )
)  # fmt: skip


def _yaml(text: str | bytes) -> Callable[[Path], object]:
    content = text.encode() if isinstance(text, str) else text
    return lambda here: (here / "a.yaml").write_bytes(content)


LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
STEP = "steps:\n  - verify: {{path: {}}}\n"
YAML = tuple(
    Case(f"yaml: {name}", _yaml(text), "run {here}/a.yaml --quiet", code, words)
    for name, text, code, *words in (
        ("an object of Python", "steps: !!python/object/apply:os.system ['touch ../outside/executed']\n", 2, "would make an object"),
        ("a module of Python", "steps: !!python/module:antigravity\n", 2, "would make an object"),
        ("a tag of its own", "steps: !evil {a: b}\n", 2, "would make an object"),
        ("a tag on a key", "!!python/name:os.system x: 1\n", 2, "would make an object"),
        ("a billion laughs", LAUGHS, 2, "fewer aliases"),
        ("an alias in itself", "steps: &a [*a]\n", 2, "a.yaml"),
        ("merges of merges", "a: &a {x: 1}\nb: &b {<<: *a}\nsteps: [<<: *b]\n", 2, "a.yaml"),
        ("a key twice", "steps: []\nsteps: []\n", 2, "keep one of them"),
        ("a key twice, far down", "steps:\n  - verify: {path: a, path: b}\n", 2, "keep one of them"),
        ("an unknown key", "stepz: []\n", 2, "no such key"),
        ("a command that serves", "steps:\n  - view: {source: /}\n", 2, "no such key"),
        ("a megabyte", "# " + "x" * 2**20, 2, "larger than"),
        ("lists 100 000 deep", "steps: " + "[" * 100_000, 2, "levels"),
        ("mappings 50 deep", "steps: " + "{a: " * 50 + "1" + "}" * 50, 2, "levels"),
        ("30 000 values", "steps: [" + "x," * 30_000 + "x]", 2, "values"),
        ("zero bytes", b"steps:\0 []\n", 2, "a.yaml"),
        ("UTF-16 without a mark", "steps: []".encode("utf-16-le"), 2, "a.yaml"),
        ("text that moves the cursor", "steps: '\\e[2J'\nx: \"\\e[2J\"\n", 2, "a.yaml"),
        ("two documents", "steps: []\n---\nsteps: []\n", 2, "a.yaml"),
        ("a path that does not exist", STEP.format("../nowhere"), 3, "does not exist"),
        ("a path of a zero byte", 'steps:\n  - verify: {path: "a\\0b"}\n', 2, "a.yaml"),
    )
)  # fmt: skip


def ledger(here: Path, plan: Any = None, log: bytes = b"", **files: Any) -> None:
    """The record of a measure of eight blocks, with what is to be wrong; texts are written as they are."""
    folder = here / "record"
    folder.mkdir()
    said = {"n_blocks": 8, "step": ["count"], "target": None, "program": "tomoscale 0.1.0", **(plan or {})}
    contents = {"plan": said, **files}
    for key, content in contents.items():
        name = "lease.000001" if key == "lease" else key
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    if log:
        (folder / "blocks.log").write_bytes(frame(()) + log)


def frame(numbers: tuple[int, ...], payload: bytes = b"") -> bytes:
    """A frame of the log of blocks, with its checksum right."""
    records = np.zeros(len(numbers), RECORD)
    records["number"] = numbers
    body = FRAME.pack(b"TSL2", 1, len(numbers), len(payload)) + records.tobytes() + payload
    return body + struct.pack("<I", zlib.crc32(body))


def counts(entries: Any, body: bytes = bytes(64)) -> bytes:
    """Counts as a frame holds them."""
    said = json.dumps(entries).encode()
    return zlib.compress(struct.pack("<I", len(said)) + said + body, 1)


LEDGERS = tuple(
    Case(f"ledger: {name}", make, "status {here}/record", code, words)
    for name, make, code, *words in (
        ("10^15 blocks", made(ledger, {"n_blocks": 10**15}), 7, "n_blocks"),
        ("a negative number of blocks", made(ledger, {"n_blocks": -1}), 7, "n_blocks"),
        ("a number of blocks of NaN", made(ledger, {"n_blocks": float("nan")}), 7, "record of a run"),
        ("blocks in words", made(ledger, {"n_blocks": "many"}), 7, "n_blocks"),
        ("a plan that is a list", lambda h: (ledger(h), (h / "record" / "plan.json").write_text("[]")), 7, "record of a run"),
        ("a plan nested 100 000 deep", lambda h: (ledger(h), (h / "record" / "plan.json").write_text("[" * 100_000)), 7, "record of a run"),
        ("a plan of 40 MB", lambda h: (ledger(h), (h / "record" / "plan.json").write_text('{"a": [' + "[]," * 13_000_000 + "0]}")), 7, "record of a run"),
        ("a plan that is a pipe", lambda h: (ledger(h), (h / "record" / "plan.json").unlink(), os.mkfifo(h / "record" / "plan.json")), 7, "not a file"),
        ("a plan without steps", lambda h: (ledger(h), (h / "record" / "plan.json").write_text('{"n_blocks": 8}')), 7, "record"),
        ("a block twice", made(ledger, log=frame((1,)) + frame((1,))), 7, "records a block twice"),
        ("a block that does not exist", made(ledger, log=frame((2**63,))), 7, "does not exist"),
        ("counts that inflate to 2 GiB", made(ledger, log=frame((1,), deflated_zeros("zlib", 2000))), 7, "record"),
        ("counts of objects", made(ledger, log=frame((1,), counts([["n", "|O", [1]]]))), 7, "record"),
        ("counts of 2^62", made(ledger, log=frame((1,), counts([["n", "<i8", [2**31, 2**31]]]))), 7, "record"),
        ("counts without a head", made(ledger, log=frame((1,), zlib.compress(b"\xff\xff\xff\xff"))), 7, "record"),
        ("failures that are a list", made(ledger, failures=[1]), 7, "failures.json"),
        ("failures of no number", made(ledger, failures={"x": "y"}), 7, "failures.json"),
        ("failures of a block that does not exist", made(ledger, failures={"99": "y"}), 7, "failures.json"),
        ("failures that move the cursor", made(ledger, failures={"1": "\x1b[2Jy"}), 0, "block 1"),
        ("a lease that is a list", made(ledger, lease=[1]), 0, "0 of 8"),
        ("a lease of a process in words", made(ledger, lease={"host": os.uname().nodename, "process": "x"}), 0, "0 of 8"),
        ("a lease of process 2^70", made(ledger, lease={"host": os.uname().nodename, "process": 2**70}), 0, "0 of 8"),
        ("a lease that moves the cursor", made(ledger, lease={"host": "\x1b[2J", "process": 1}), 0, "0 of 8"),
    )
)  # fmt: skip


def results(here: Path, text: str = "", name: str = "results.json", **content: Any) -> None:
    """Results of a measure, or of a study."""
    (here / "results").mkdir()
    (here / "results" / name).write_text(text or json.dumps(content))


def _samples(inside: str, text: str = "{}") -> Callable[[Path], object]:
    def write(here: Path) -> None:
        results(here, name="study.json", schema="tomoscale-study/1", samples=[{"name": "<script>", "results": inside}])
        (here / "results" / "a.json").write_text(text)

    return write


def _link(here: Path) -> None:
    _samples("b/results.json")(here)
    (here / "results" / "b").symlink_to(here.parent / "outside")


REPORT = "report {here}/results {here}/report.html"
RESULTS = tuple(
    Case(f"results: {name}", make, REPORT, 3, words)
    for name, make, *words in (
        ("a list", made(results, "[]"), "results"),
        ("nothing", made(results, "{}"), "results"),
        ("nested 100 000 deep", made(results, "[" * 100_000), "results"),
        ("40 MB", made(results, '{"a": [' + "[]," * 13_000_000 + "0]}"), "results"),
        ("inputs in words", made(results, inputs="all", runs=[]), "results"),
        ("an input without a path", made(results, inputs={"grey": {}}, runs=[]), "results"),
        ("an input that does not exist", made(results, inputs={"labels": {"path": "/nowhere"}}, runs=[]), "does not exist"),
        ("an input of a number", made(results, inputs={"labels": {"path": 7}}, runs=[]), "results"),
        ("a study of another schema", made(results, name="study.json", schema="<script>"), "schema"),
        ("a study of samples in words", made(results, name="study.json", schema="tomoscale-study/1", samples="all"), "study"),
        ("a sample outside, by dots", _samples("../../outside/results.json"), "outside of the study"),
        ("a sample in an absolute file", _samples("/etc/passwd"), "outside of the study"),
        ("a sample through a link out", _link, "outside of the study"),
        ("a sample of a zero byte", _samples("a\0b"), "sample"),
        ("a sample nested 100 000 deep", _samples("a.json", "[" * 100_000), "sample"),
        ("a sample that is a list", _samples("a.json", "[]"), "not a JSON object"),
    )
)  # fmt: skip


def _marked_up(here: Path) -> None:
    """Results of the measure of the shared labels, with markup in every text of them and in every key that is shown."""
    shutil.copytree(here.parent / "shared" / "measured", here / "results")
    file = here / "results" / "results.json"
    content = json.loads(file.read_text())

    def marked(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: v if k in ("path", "schema", "rows") else marked(v) for k, v in value.items()}
        if isinstance(value, list):
            return [marked(v) for v in value]
        return f'{value}<script>alert(1)</script>" onerror="x' if isinstance(value, str) else value

    file.write_text(json.dumps(marked(content)))


MARKUP = Case("results: markup in every text", _marked_up, REPORT, 0, ("report",), (CANARY, "<script", '" onerror="'))
CASES = (*MODELS, *YAML, *LEDGERS, *RESULTS, MARKUP)
