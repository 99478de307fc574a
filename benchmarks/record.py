"""What every benchmark shares: timing a call with its peak memory, and the one JSON line it prints."""

from __future__ import annotations

import gc
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results"


class Peak:
    """Peak resident memory of this process and of all its children, sampled every 5 ms while open."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.own = self.largest_child = self.together = 0

    def __enter__(self) -> Peak:
        gc.collect()
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stop.wait(0.005):
            own = self.process.memory_info().rss
            children = []
            for child in self.process.children(recursive=True):
                try:
                    children.append(child.memory_info().rss)
                except psutil.Error:
                    continue
            self.own = max(self.own, own)
            self.largest_child = max([self.largest_child, *children])
            self.together = max(self.together, own + sum(children))


def timed(function: Callable[[], Any], repeat: int = 3) -> tuple[float, Any]:
    """Median seconds of `repeat` calls, and the last result."""
    seconds, result = [], None
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and the versions that matter."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Commit of the checkout, with a mark if files differ from it."""
    folder = Path(__file__).parent
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=folder, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def publish(name: str, figures: dict[str, Any], keep: bool) -> None:
    """Print one JSON line; with `keep`, write it to the results folder too."""
    line = {"benchmark": name, "commit": commit(), "machine": machine(), **figures}
    print(json.dumps(line))
    if keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(line, indent=1) + "\n")
    sys.stdout.flush()


def rounded(value: float, digits: int = 3) -> float:
    """Figure with as many digits as mean something."""
    return float(f"{value:.{digits}g}")


def blobs(shape: tuple[int, int, int], seed: int, shift: int = 0) -> np.ndarray:
    """Label volume like a segmented scan: four classes with smooth borders, some noise on them; uint8."""
    import scipy.ndimage

    random = np.random.default_rng(seed)
    coarse = scipy.ndimage.gaussian_filter(
        random.standard_normal(tuple(n // 4 + 4 for n in shape)).astype(np.float32), 6
    )
    edges = np.quantile(coarse, [0.4, 0.6, 0.7])
    labels = np.empty(shape, np.uint8)
    for z in range(0, shape[0], 32):
        part = scipy.ndimage.zoom(coarse[z // 4 : z // 4 + 10], 4, order=1)[
            : min(32, shape[0] - z), shift : shape[1] + shift, : shape[2]
        ]
        noise = random.standard_normal(part.shape, np.float32) * np.float32(0.02 * coarse.std())
        labels[z : z + 32] = np.searchsorted(edges, part + noise).astype(np.uint8)
    return labels
