"""Read weights that others have saved, without running what a file may hold.

A ``.pth`` file is a pickle, which can name any function to be called when it is opened. It is opened here by
``torch.load(weights_only=True)``, which knows tensors, numbers and containers, and besides them only the four names that
numbers of NumPy are written with. That happens in a process of its own, with limits on memory and time; what comes back is
a safetensors file and JSON.

.. code-block:: text

    this process                          child, limited
    read_checkpoint(model.pth)  ------->  torch.load(weights_only=True)
                                <-------  weights.safetensors, {"trainer_name": ...}
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from tomoscale.errors import InputError
from tomoscale.networks.nnunet import without_aliases
from tomoscale.places import local_path

SECONDS = 600
"""Until a child is given up that waits for its disk."""
CPU_SECONDS = 3
"""Of the child beyond the start of torch, and one more for each `BYTES_PER_SECOND` of the file."""
BYTES_PER_SECOND = 2**25
"""Ten times as many are read."""
FREE_BYTES = 2**28
"""Memory of the child beyond that of torch itself and four times the file."""
MAX_HEADER_BYTES = 2**24
"""Of a safetensors file: names, shapes and places of its tensors."""
MAX_TEXT = 200
MAX_FILE_BYTES = 64 * 2**30
MAX_TENSORS = 100_000
STATES = ("network_weights", "state_dict", "model_state_dict", "model")
"""Names under which checkpoints keep tensors, if they are not the tensors themselves."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights that others have saved.

    Attributes
    ----------
    tensors : mapping of name to tensor
        On the CPU.
    facts : mapping
        JSON values that nnU-Net writes beside them: trainer_name, configuration, fold, current_epoch, mirror_axes.
    """

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, seconds: float = SECONDS) -> Checkpoint:
    """Read a ``.safetensors`` file or a checkpoint of torch.

    Raises
    ------
    InputError
        If it is missing or damaged, holds anything but tensors, numbers and texts, or takes too much memory or time.
    """
    path = local_path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file: give the checkpoint itself")
    size = path.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise InputError(f"{path} has {size} bytes, a checkpoint has 1 to {MAX_FILE_BYTES}")
    if path.suffix == ".safetensors":
        return Checkpoint(_load_tensors(path))
    with tempfile.TemporaryDirectory(prefix="tomoscale-") as folder:
        target = Path(folder) / "weights.safetensors"
        facts = _ask_child(
            path, target, _Limits(FREE_BYTES + 4 * size, CPU_SECONDS + size // BYTES_PER_SECOND), seconds
        )
        return Checkpoint(_load_tensors(target), facts)


@dataclass(frozen=True)
class _Limits:
    """Memory and time of the processor that a child may take beyond the start of torch."""

    memory_bytes: int
    cpu_s: int


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    # Before the library parses it: a header can be as long as the file.
    if header_bytes > MAX_HEADER_BYTES:
        raise InputError(
            f"{path} is not a safetensors file: its header would have {header_bytes} bytes, names of tensors take at most "
            f"{MAX_HEADER_BYTES}"
        )
    try:
        return safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}): get it again") from error


def _ask_child(source: Path, target: Path, limits: _Limits, seconds: float) -> dict[str, Any]:
    """Let a limited process turn a pickle into a safetensors file; return what it says beside."""
    numbers = [str(limits.memory_bytes), str(limits.cpu_s)]
    command = [sys.executable, "-m", "tomoscale.networks.checkpoint", str(source), str(target), *numbers]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{source} was not read within {seconds:g} s: it is no checkpoint of a network") from error
    try:
        answer = json.loads(done.stdout)
        facts, refused = answer["facts"], answer["refused"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"reading {source} ended with code {done.returncode}: it takes more than {limits.memory_bytes / 2**30:.1f} GiB or "
            f"{limits.cpu_s} s, or is damaged"
        ) from error
    if refused:
        raise InputError(f"{source} was not opened: {refused}")
    return dict(facts)


def _open(source: str, target: str) -> dict[str, Any]:
    """Read a pickle and write its tensors; the work of the child."""
    with torch.serialization.safe_globals(_allowed()):
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    tensors = _tensors_of(loaded)
    listed = sum(t.numel() * t.itemsize for t in tensors.values())
    # A tensor of few bytes can say that it is as large as it likes.
    if listed > 8 * os.path.getsize(source) + 2**20:
        raise ValueError(f"its tensors claim {listed} bytes, many times those of the file")
    if STATES[0] in loaded:
        tensors = without_aliases(tensors)
    kept = {_bare(name): tensor.detach().contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(kept, target)
    return _facts_of(loaded)


def _tensors_of(loaded: Any) -> dict[str, torch.Tensor]:
    if not isinstance(loaded, Mapping):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by name: save module.state_dict()")
    state = next((loaded[name] for name in STATES if isinstance(loaded.get(name), Mapping)), loaded)
    tensors = {name: t for name, t in state.items() if isinstance(t, torch.Tensor) and isinstance(name, str)}
    if not tensors or len(tensors) != len(state) or len(tensors) > MAX_TENSORS:
        raise ValueError("it holds no tensors by name, or other things among them: save module.state_dict()")
    odd = [name for name, t in tensors.items() if t.layout != torch.strided or t.is_quantized or t.is_complex()]
    if odd:
        raise ValueError(f"{odd[0]} is sparse, quantised or complex, which no network here has")
    return tensors


def _bare(name: str) -> str:
    """Name of a tensor without what wrappers for several GPUs and compilation put before it."""
    return name.removeprefix("module.").removeprefix("_orig_mod.")


def _facts_of(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """What nnU-Net writes beside the weights, as plain JSON values."""
    begun = loaded.get("init_args")
    facts: dict[str, Any] = {"nnunet": "network_weights" in loaded}
    for name, value in (*loaded.items(), *(begun.items() if isinstance(begun, Mapping) else ())):
        if name in ("trainer_name", "configuration", "fold", "current_epoch") and isinstance(value, str | int):
            facts[name] = value[:MAX_TEXT] if isinstance(value, str) else value
    axes = loaded.get("inference_allowed_mirroring_axes")
    if isinstance(axes, list | tuple) and len(axes) <= 3 and all(isinstance(a, int) for a in axes):
        facts["mirror_axes"] = sorted(axes)
    return facts


def _allowed() -> list[Any]:
    """Names that numbers of NumPy need, as its versions 1 and 2 write them; each makes a number and nothing else."""
    scalar = _scalar
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    kinds = [getattr(np.dtypes, f"{kind}DType") for kind in ("Float16", "Float32", "Float64", "Int32", "Int64", "Bool")]
    return [*names, (_latin, "_codecs.encode"), np.dtype, *kinds]


def _scalar(dtype: Any, content: Any = b"") -> Any:
    """Return a number of NumPy from its bytes."""
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, bytes):
        raise ValueError("a number of NumPy is damaged")
    return np.frombuffer(content, dtype, 1)[0]


def _latin(text: str, encoding: str = "latin1") -> bytes:
    """Return the bytes of a text that stands for them; no other codec is needed."""
    if encoding != "latin1" or not isinstance(text, str):
        raise ValueError("bytes are written as latin1")
    return text.encode("latin1")


def _answer(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"facts": work(), "refused": ""}
    except Exception as error:  # of any kind: the file is not ours
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            return {"facts": {}, "refused": "it takes more memory than its size allows"}
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named:
            return {
                "facts": {},
                "refused": f"it asks to call {named[1]}, and files of weights hold tensors and numbers alone",
            }
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"facts": {}, "refused": f"it is damaged or no checkpoint ({line[:200]})"}


def _limit(more: _Limits) -> None:
    """Let this process take no more than that beyond what torch itself took."""
    status = Path("/proc/self/status").read_text()
    memory_bytes = int(status.split("VmData:")[1].split()[0]) * 1024 + more.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    cpu_s = math.ceil(time.process_time()) + more.cpu_s
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))


if __name__ == "__main__":
    _limit(_Limits(int(sys.argv[3]), int(sys.argv[4])))
    with contextlib.redirect_stdout(sys.stderr):
        said = _answer(lambda: _open(sys.argv[1], sys.argv[2]))
    print(json.dumps(said))
