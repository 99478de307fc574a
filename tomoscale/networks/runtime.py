"""Ways to run a network: torch or OpenVINO, float32 or bfloat16; loaded once per process, one thread per window.

A window is always computed by one thread: libraries choose their algorithms by the number of threads, which changes the
last bits (97 % of the logits of a network of depth 4, no label), and labels must not depend on how many cores a worker
has. The cores share the windows of a block instead.
"""

from __future__ import annotations

import importlib
import importlib.util
import queue
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tomoscale.networks.bundle import Bundle
from tomoscale.networks.by_voxel import by_voxel

BACKENDS = ("torch", "openvino")
PRECISIONS = ("float32", "bfloat16")

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Logits (N, classes, ...) float32 of values (N, C, ...) float32, on the device of the values."""


def check_runtime(backend: str, precision: str) -> None:
    """Refuse a backend or precision that is unknown or not installed.

    Raises
    ------
    ValueError
        Naming what there is.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {BACKENDS}, got {backend!r}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    if backend == "openvino" and importlib.util.find_spec("openvino") is None:
        raise ValueError(
            "backend 'openvino' is not installed: install tomoscale[openvino], or use backend 'torch', which gives the same "
            "labels but for near ties"
        )


def forward_of(bundle: Bundle, backend: str, precision: str, device: str, streams: int, member: int = 0) -> Forward:
    """Return what runs a member of a bundle on a device, called by up to `streams` threads; made once per process.

    Raises
    ------
    ValueError
        If the backend cannot use the device.
    """
    with _PREPARING:
        return _prepare(bundle, member, backend, precision, device, streams if backend == "openvino" else 1)


@cache
def window_threads(count: int) -> ThreadPoolExecutor:
    """Threads that compute a window each, without threads of their own; kept as long as the process."""
    outside = torch.get_num_threads()
    all_started = threading.Barrier(count)
    pool = ThreadPoolExecutor(count, "window", initializer=torch.set_num_threads, initargs=(1,))
    list(pool.map(lambda _: all_started.wait(), range(count)))
    # set_num_threads is also the default of threads that come later, which are not ours.
    torch.set_num_threads(outside)
    return pool


@cache
def share_memory_pool(cupy: ModuleType) -> None:
    """Let CuPy take device memory from torch's pool from now on, in this process.

    Two pools would each keep what the other lacks: blocks that a network has left free could not become its activations.
    Torch hands memory back to the stream it was taken on, so CuPy's current stream goes with every request.

    Parameters
    ----------
    cupy : module
        The namespace of the blocks that a network meets on a GPU.
    """

    def take(n_bytes: int, device: int) -> int:
        return int(torch.cuda.caching_allocator_alloc(n_bytes, device, cupy.cuda.get_current_stream().ptr))

    def give_back(address: int, device: int) -> None:
        torch.cuda.caching_allocator_delete(address)  # type: ignore[no-untyped-call]

    cupy.cuda.set_allocator(cupy.cuda.PythonFunctionAllocator(take, give_back).malloc)
    # Arrays that live on return to CuPy's own pool; what is free there would be lost to both.
    cupy.get_default_memory_pool().free_all_blocks()


_PREPARING = threading.Lock()


@lru_cache(maxsize=32)
def _prepare(bundle: Bundle, member: int, backend: str, precision: str, device: str, streams: int) -> Forward:
    if backend == "torch":
        network = _network(bundle, member, device)
        return _Torch(by_voxel(network) if device == "cpu" else network, precision)
    if device != "cpu":
        raise ValueError("backend 'openvino' runs on the CPU: use backend 'torch' on a GPU, or plan with device='cpu'")
    return _OpenVino(bundle, _network(bundle, member, device), precision, streams)


def _network(bundle: Bundle, member: int, device: str) -> nn.Module:
    return bundle.network(device, member)


class _Torch:
    def __init__(self, network: nn.Module, precision: str) -> None:
        self.network = network
        self.precision = precision

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if values.device.type == "cpu":
            return self._compute(values)
        # cuDNN would use TF32 for float32, and whichever algorithm is fastest today.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            return self._compute_in_parts(values)

    def _compute(self, values: torch.Tensor) -> torch.Tensor:
        reduced = self.precision == "bfloat16"
        with torch.inference_mode(), torch.autocast(values.device.type, torch.bfloat16, enabled=reduced):
            logits: torch.Tensor = self.network(values)
            return logits.float()

    def _compute_in_parts(self, values: torch.Tensor) -> torch.Tensor:
        """Compute smaller batches where the GPU's memory is short.

        Another batch size may change the last bits of the logits: the default batch of one slice never gets here.
        """
        try:
            return self._compute(values)
        except torch.OutOfMemoryError as error:
            if len(values) == 1:
                free, _ = torch.cuda.mem_get_info(values.device)
                raise MemoryError(
                    f"the GPU has {free} bytes free, too few for one window of {tuple(values.shape[2:])} voxels: "
                    "give a smaller tile_shape, or leave the GPU to this program alone"
                ) from error
        torch.cuda.empty_cache()
        return torch.cat([self._compute_in_parts(part) for part in values.chunk(2)])


@cache
def _core() -> Any:
    """OpenVINO itself, kept as long as the process.

    With AMX it gives the thread that loads it a stack for signals, and frees that stack in the end without a word to the
    thread: the next signal, a Ctrl-C say, would end the process at once.
    """
    return importlib.import_module("openvino").Core()


class _OpenVino:
    """Compiled once with free sizes: fixed sizes gave the same bits and no more speed."""

    def __init__(self, bundle: Bundle, network: nn.Module, precision: str, streams: int) -> None:
        openvino: Any = importlib.import_module("openvino")
        windows = bundle.card.windows
        size = [2 * s for s in bundle.reach.stride] if windows is None else windows.shape
        channels = bundle.arguments["in_channels"] * bundle.arguments.get("in_slices", 1)
        example = torch.zeros(1, channels, *size)
        with warnings.catch_warnings():
            # It traces by torch.jit, which torch has deprecated.
            warnings.simplefilter("ignore", DeprecationWarning)
            # Instance norm refuses inputs of one voxel, which no window is.
            warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
            model = openvino.convert_model(network, example_input=example)
        # One thread a stream, and no more streams than are used: each takes the memory of a window.
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
            "ENABLE_CPU_PINNING": False,
        }
        self.compiled = _core().compile_model(model, "CPU", options)
        self.idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        try:
            request = self.idle.get_nowait()
        except queue.Empty:
            request = self.compiled.create_infer_request()
        try:
            request.infer({0: values.numpy()}, share_inputs=True)
            return torch.from_numpy(request.get_output_tensor(0).data.copy())
        finally:
            self.idle.put(request)
