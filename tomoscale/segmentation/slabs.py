"""The tally of a volume plane after plane: whole slices through the network, added to what the planes before said.

.. code-block:: text

    rc, cp, pr    grey, sum_0 -> sum_1                        the sum before is removed once the next one is there
    z1, z2        grey -> turned_about_z                      once for both planes
                  turned_about_z -> shares_3                  what the plane says, on the turned grid
                  shares_3, sum_2 -> sum_3                    turned back, slab by slab along the axis of rotation
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from tomoscale.geometry import Shape
from tomoscale.kernels.plane_sums import add_predicted, add_turned, frame_of, predict_turned
from tomoscale.kernels.planes import PlaneNetwork
from tomoscale.kernels.rotation import Rotation, rotate
from tomoscale.parts import finished_before
from tomoscale.places import Place
from tomoscale.plan import begun_block, ledger_folder, plan_map
from tomoscale.segmentation.fusion import Fusion
from tomoscale.segmentation.stacked import stacked
from tomoscale.step import Kernel
from tomoscale.volume import Volume, open_zarr
from tomoscale.work import Work


class Maker(Protocol):
    """Makes volumes by kernels: by running them, or by planning what that would cost."""

    def make(self, kernel: Kernel, sources: Mapping[str, Volume], path: Place, numbers: int = 1) -> Volume:
        """Volume of a kernel; `numbers` of each voxel lie after each other along z."""

    def finished(self, kernel: Kernel, path: Place) -> bool:
        """Whether a kernel made this volume before."""

    def drop(self, *paths: Path) -> None:
        """Remove volumes that nothing needs any more."""


def tally_by_slabs(fusion: Fusion, parts: Path, maker: Maker) -> Volume:
    """Tally of all planes, one plane after the other: volume of (z, numbers, y, x)."""
    kernels = [_adding(fusion, n) for n in range(len(fusion.networks))]
    paths = [parts / f"sum_{n}.zarr" for n in range(len(kernels))]
    k, volume = fusion.ballot.numbers, fusion.volume
    done = next((n + 1 for n in reversed(range(len(kernels))) if maker.finished(kernels[n], paths[n])), 0)
    tally = open_zarr(paths[done - 1]) if done else None
    maker.drop(*_stale(fusion, parts, done))
    for n in range(done, len(kernels)):
        plane = fusion.networks[n].plane
        before = {} if tally is None else {"tally": tally}
        if plane.rotation is None:
            sources = {name: stacked(v, k, volume) for name, v in before.items()}
            tally = maker.make(kernels[n], {"grey": volume, **sources}, paths[n], k)
        else:
            shares, frame = _turned_shares(fusion, n, parts, maker), frame_of(Rotation(plane.rotation, volume.shape))
            sources = {
                "shares": stacked(shares, fusion.ballot.n_classes, volume, frame),
                **{name: stacked(v, k, volume, frame) for name, v in before.items()},
            }
            tally = maker.make(kernels[n], sources, paths[n], k)
        maker.drop(*_stale(fusion, parts, n + 1))
    assert tally is not None
    return stacked(tally, k, volume)


def _adding(fusion: Fusion, n: int) -> Kernel:
    """Kernel that adds plane `n` to the tally of those before."""
    network = fusion.networks[n]
    rotation = network.plane.rotation
    if rotation is None:
        kernel = add_predicted(network, fusion.ballot, first=n == 0, scaling=fusion.scaling)
    else:
        kernel = add_turned(Rotation(rotation, fusion.volume.shape), network.plane.name, fusion.ballot)
    return fusion.described(kernel, n + 1)


def _turned_shares(fusion: Fusion, n: int, parts: Path, maker: Maker) -> Volume:
    """What a diagonal plane says, on the grid of the turned volume."""
    network = fusion.networks[n]
    assert network.plane.rotation is not None
    turning = rotate(network.plane.rotation, fusion.volume.shape, fusion.scaling)
    turned = maker.make(turning, {"source": fusion.volume}, _turned(parts, network))
    predicting = predict_turned(network, fusion.dtype)
    return maker.make(predicting, {"source": turned}, parts / f"shares_{n}.zarr", fusion.ballot.n_classes)


def _turned(parts: Path, network: PlaneNetwork) -> Path:
    assert network.plane.rotation is not None
    return parts / f"turned_about_{'zyx'[network.plane.rotation]}.zarr"


def _stale(fusion: Fusion, parts: Path, done: int) -> list[Path]:
    """What is of no use once the tally of the first `done` planes is there."""
    older = [parts / f"sum_{n}.zarr" for n in range(done - 1)]
    shares = [parts / f"shares_{n}.zarr" for n in range(done)]
    needed = {_turned(parts, n) for n in fusion.networks[done:] if n.plane.rotation is not None}
    turned = {_turned(parts, n) for n in fusion.networks[:done] if n.plane.rotation is not None}
    return [*older, *shares, *sorted(turned - needed)]


def block_of(kernel: Kernel, sources: Mapping[str, Volume], path: Place, numbers: int, work: Work) -> Shape:
    """Block of a pass: as asked for or begun, else chosen by cost; with whole voxels where several numbers are stacked."""
    if work.block_shape is not None:
        z, y, x = work.block_shape
        return z * numbers, y, x
    begun = None if work.overwrite else begun_block(ledger_folder(path))
    if begun is not None:
        return begun
    grid = plan_map(kernel, sources, path, resources=work.available()).grid
    z, y, x = grid.block_shape
    # A block that ends within a voxel would predict its slice once more than needed.
    return (z if z >= grid.shape[0] else max(numbers, z // numbers * numbers)), y, x


@dataclass(frozen=True)
class Running:
    """A `Maker` that runs kernels, or prints their plans where the work is to plan only."""

    work: Work

    def make(self, kernel: Kernel, sources: Mapping[str, Volume], path: Place, numbers: int = 1) -> Volume:
        """Run a kernel, or what is left of it."""
        block = block_of(kernel, sources, path, numbers, self.work)
        return replace(self.work, block_shape=block).map(kernel, sources, path)

    def finished(self, kernel: Kernel, path: Place) -> bool:
        """Whether the volume is there."""
        return not (self.work.overwrite or self.work.plan_only) and finished_before(path, kernel)

    def drop(self, *paths: Path) -> None:
        """Remove volumes."""
        for path in paths if not self.work.plan_only else ():
            shutil.rmtree(path, ignore_errors=True)
