"""Porosity of cortical bone and a table of its lacunae, from labels of any format and size.

    python examples/femur_porosity.py bone_7H3A_B1.tif femur/ --bone 127
    python examples/femur_porosity.py labels.zarr lcn/ --void 1 --bone 2,3

The folder then holds the numbers, cells.csv with a row for each lacuna, and report.html. Where the labels do not say
how large a voxel is, all lengths are in voxels. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tomoscale.formats import open_volume
from tomoscale.studies.porosity import porosity
from tomoscale.work import working


def labels(text: str) -> tuple[int, ...]:
    """Labels from "3" or "2,3"."""
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="labels of bone and its voids")
    parser.add_argument("folder", type=Path, help="folder for numbers, tables, report and the volumes made on the way")
    parser.add_argument("--void", type=labels, default=(0,), help="labels of lacunae and canals (default 0)")
    parser.add_argument("--bone", type=labels, default=(3,), help="labels of bone (default 3)")
    parser.add_argument("--voxel-size", type=float, metavar="UM", help="in micrometres, where the labels do not say")
    options = parser.parse_args()

    volume = open_volume(options.labels, voxel_size_um=options.voxel_size)
    with working("threads") as work:
        found = porosity(volume, options.folder, void=options.void, bone=options.bone, work=work)
    assert found is not None
    for row in found["quantities"]:
        value = "not defined" if row["value"] is None else f"{row['value']:.6g} {row['unit']}"
        print(f"{row['name']:<40}{value}")


if __name__ == "__main__":
    main()
