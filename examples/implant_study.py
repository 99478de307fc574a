"""A whole implant study in Python: a screw in bone from TIFF slices to the report.

    pip install --no-deps qim3d          # the bone texture of the phantom
    python examples/implant_study.py study/ --size 192

The scan is a phantom, so the truth is known: real bone texture with a corroded screw put into it digitally. For your own
scan leave the first step out, and `truth` if you have none.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tomoscale import Volume, convert, implant, normalise, segment, working
from tomoscale.commands import CLASSES, clean, report
from tomoscale.demo import write_slices
from tomoscale.phantom import Phantom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=192, help="voxels along each axis")
    parser.add_argument("--workers", default="threads", help="threads, processes, gpus, or a scheduler's address")
    options = parser.parse_args()
    folder, voxel_size_um = options.folder, 5.0

    phantom = Phantom((options.size,) * 3, seed=1)
    write_slices(phantom, folder / "slices")

    # Every step leaves a finished volume behind: give the command again after a stop, and it goes on from there.
    with working(options.workers) as work:
        scan = convert(folder / "slices", folder / "scan.zarr", voxel_size_um=voxel_size_um, work=work)
        normal = normalise(scan, folder / "normal.zarr", work=work)  # clip at global percentiles, scale to 0..1
        labels = segment(normal, folder / "labels.zarr", work=work)  # the model that ships; or model="my_model/"
        cleaned = clean(labels, folder / "clean.zarr", work=work)  # majority vote of 3 x 3 x 3 voxels
        truth = convert(
            Volume(phantom.truth, phantom.voxel_size_um, classes=CLASSES),
            folder / "truth.zarr",
            kind="labels",
            work=work,
        )
        screw = convert(Volume(phantom.screw, phantom.voxel_size_um), folder / "screw.zarr", kind="mask", work=work)
        results = implant.measure(
            cleaned,
            folder / "results",
            truth=truth,
            reference=screw,  # the screw as implanted
            grey=scan,
            healing_days=42,
            roi_distance_um=0.3 * options.size * voxel_size_um,
            work=work,
        )
    assert results is not None

    for name, value in implant.table(results).items():
        print(f"{name:<36} {value}")
    for check in results["checks"]:
        if check["state"] != "ok":
            print(f"{check['state']:<8} {check['name']}: {check['text']}")
    print(report(folder / "results", folder / "report.html", overwrite=True))


if __name__ == "__main__":
    main()
