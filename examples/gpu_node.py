"""Clean labels and count their pieces on a node with GPUs, one worker for each; without a GPU, on its processors.

    python examples/gpu_node.py labels.zarr out/

Results are the same bits on either.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tomoscale import clean, components, working
from tomoscale.arrays import cuda_available


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="volume of labels, of any size")
    parser.add_argument("target", type=Path, help="folder of results")
    parser.add_argument("--processes", type=int, help="where there is no GPU (default: one per core)")
    options = parser.parse_args()

    workers = "gpus" if cuda_available() else "processes"
    if workers == "processes":
        print("no GPU that CuPy can use is here (see `tomoscale cluster doctor --workers gpus`): processors do it")
    with working(workers, processes=options.processes) as work:
        print(work.resources)
        if work.dashboard:
            print(f"watch it at {work.dashboard}")
        cleaned = clean(options.labels, options.target / "clean.zarr", work=work)
        pieces = components(cleaned, options.target / "pieces.zarr", multilabel=True, work=work)
        for step in work.runs:
            print(f"{step['name']:<16} {step['blocks']:>6} blocks {step['seconds']['wall']:>8.2f} s")
    print(f"{pieces.name}: {pieces.shape} {pieces.dtype}")


if __name__ == "__main__":  # workers are processes that import this file
    main()
