"""Where an array lives: the only module that asks whether values are on the host or on a GPU.

Everything above takes NumPy or CuPy arrays and asks the array, never a flag.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.ndimage

if TYPE_CHECKING:
    from types import ModuleType

Array = Any
"""A NumPy or a CuPy array; both speak the same array interface, which no common type expresses."""


def on_host(array: Array) -> bool:
    """Tell whether `array` is in host memory."""
    return isinstance(array, np.ndarray)


def namespace_for(array: Array) -> ModuleType:
    """`numpy` for a host array, `cupy` for a device array."""
    return np if on_host(array) else importlib.import_module("cupy")


def ndimage_for(array: Array) -> ModuleType:
    """`scipy.ndimage` for a host array, `cupyx.scipy.ndimage` for a device array."""
    return scipy.ndimage if on_host(array) else importlib.import_module("cupyx.scipy.ndimage")


def to_host(array: Array) -> np.ndarray:
    """Copy a device array to the host; return a host array as it is."""
    return array if on_host(array) else np.asarray(array.get())


def to_device(array: np.ndarray, device: str) -> Array:
    """Copy a host array to `device` ("cpu" or "cuda"); for "cpu" it is returned as it is."""
    return array if device == "cpu" else importlib.import_module("cupy").asarray(array)


def cuda_available() -> bool:
    """Tell whether CuPy is installed and finds a GPU."""
    if importlib.util.find_spec("cupy") is None:
        return False
    return bool(importlib.import_module("cupy").cuda.is_available())


def free_device_bytes() -> int:
    """Free memory of this process's GPU; 0 without one."""
    if not cuda_available():
        return 0
    free, _ = importlib.import_module("cupy").cuda.Device().mem_info
    return int(free)


def device_and_free_bytes() -> tuple[str, int]:
    """Name of this process's GPU, the same for all that use it, and its free memory; no name and 0 without one."""
    free = free_device_bytes()
    if not free:
        return "", 0
    return f"{platform.node()} {importlib.import_module('cupy').cuda.Device().pci_bus_id}", free
