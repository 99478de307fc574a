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
import os
import re
import resource
import subprocess
import sys
import tempfile
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

SECONDS = 600
"""A checkpoint of 1 GB is read in a few."""
FREE_BYTES = 2**30
"""Memory of the child beyond that of torch itself and four times the file."""
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
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is no file: give the checkpoint itself")
    size = path.stat().st_size
    if not 0 < size <= MAX_FILE_BYTES:
        raise InputError(f"{path} has {size} bytes, a checkpoint has 1 to {MAX_FILE_BYTES}")
    if path.suffix == ".safetensors":
        return Checkpoint(_load_tensors(path))
    with tempfile.TemporaryDirectory(prefix="tomoscale-") as folder:
        target = Path(folder) / "weights.safetensors"
        facts = _ask_child(path, target, FREE_BYTES + 4 * size, seconds)
        return Checkpoint(_load_tensors(target), facts)


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load_file(str(path))
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{path} is not a safetensors file ({error}): get it again") from error


def _ask_child(source: Path, target: Path, memory_bytes: int, seconds: float) -> dict[str, Any]:
    """Let a limited process turn a pickle into a safetensors file; return what it says beside."""
    command = [sys.executable, "-m", "tomoscale.networks.checkpoint", str(source), str(target), str(memory_bytes)]
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
            f"reading {source} ended with code {done.returncode}: it takes more than {memory_bytes / 2**30:.1f} GiB, or is "
            "damaged"
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
            facts[name] = value
    axes = loaded.get("inference_allowed_mirroring_axes")
    if isinstance(axes, list | tuple) and all(isinstance(a, int) for a in axes):
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


def _limit(more_bytes: int) -> None:
    """Let this process take no more than `more_bytes` beyond what torch itself took."""
    status = Path("/proc/self/status").read_text()
    memory_bytes = int(status.split("VmData:")[1].split()[0]) * 1024 + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


if __name__ == "__main__":
    _limit(int(sys.argv[3]))
    with contextlib.redirect_stdout(sys.stderr):
        said = _answer(lambda: _open(sys.argv[1], sys.argv[2]))
    print(json.dumps(said))
