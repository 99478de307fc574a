"""Bone volume fraction, surface and Euler number of a scan that lies as TIFF slices, whatever its size.

    python examples/measure_bone.py slices/ bone/ --voxel-size 19.5um --threshold 63

Bone is what is brighter than the threshold; without one, Otsu's is taken from the histogram of the whole scan.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tomoscale import Volume, convert, plan_map, plan_measure, run
from tomoscale.cli import lengths
from tomoscale.kernels.classes import threshold
from tomoscale.measures.greys import values_of
from tomoscale.measures.intensity import histogram
from tomoscale.measures.otsu import otsu_thresholds
from tomoscale.measures.population import Population
from tomoscale.measures.topology import configurations, euler_number, object_volume, surface_area


def otsu(scan: Volume) -> float:
    """Grey value that best separates the scan in two; the histogram is exact, so it is the same on any machine."""
    counts = run(plan_measure(histogram(Population(scan.dtype.name)), scan))["histogram"][0]
    return otsu_thresholds(counts, values_of(np.arange(len(counts)), scan.dtype.name))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slices", type=Path, help="folder of TIFF slices of 8 or 16 bits")
    parser.add_argument("target", type=Path, help="folder for the converted scan and the mask of bone")
    parser.add_argument("--voxel-size", type=lengths, required=True, help="such as 19.5um, or z,y,x")
    parser.add_argument("--threshold", type=float, help="bone is brighter than this; default: Otsu's")
    options = parser.parse_args()

    scan = convert(options.slices, options.target / "scan.zarr", voxel_size_um=options.voxel_size)
    level = otsu(scan) if options.threshold is None else options.threshold
    # Any kernel runs over any volume; the result is a volume on disk, and the same command goes on where it stopped.
    bone = run(plan_map(threshold(low=level), scan, options.target / "bone.zarr", kind="mask"))
    # One count of all 2 x 2 x 2 neighbourhoods holds volume, surface and Euler number.
    cells = run(plan_measure(configurations(), bone))["configurations"]

    volume_mm3 = object_volume(cells, options.voxel_size) * 1e-9
    total_mm3 = float(np.prod(scan.shape) * np.prod(options.voxel_size)) * 1e-9
    surface_mm2 = surface_area(cells, options.voxel_size) * 1e-6
    print(f"threshold       {level:g}")
    print(f"BV/TV           {volume_mm3 / total_mm3:.6f}")
    print(f"bone volume     {volume_mm3:.6f} mm³")
    print(f"bone surface    {surface_mm2:.6f} mm²   (Crofton; where the field of view cuts bone there is no surface)")
    print(f"Euler number    {euler_number(cells, 26)}   (26-connected bone; 6-connected: {euler_number(cells, 6)})")


if __name__ == "__main__":
    main()
