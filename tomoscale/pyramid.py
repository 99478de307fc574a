"""Coarser levels of a volume, as viewers want them.

Level k is made of level k - 1: along each axis two voxels become one, until no axis is longer than 256 voxels. An axis
of at most 64 voxels is left as it is, and so is one whose voxels are already twice as long as the shortest of another
axis that can still be halved, so that scans with thick slices tend to cubes. Of an odd length the last voxel alone makes
the last voxel of the coarser level: nothing is lost, and the coarser level reaches up to half a voxel of its own further.

Grey values become the mean of the voxels that are there: of integers exact and rounded half to even, of floats added up
in float64. Labels and masks become the mode; of equally frequent labels background (0) loses, else the smallest wins. A
mode of modes is not the mode of the voxels of level 0: what is meant is the mode of the level before.

Where lengths are halved the first voxel's centre moves half a voxel of the level before: the metadata say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tomoscale
from tomoscale.errors import InputError, PlanError
from tomoscale.formats import Source, opened
from tomoscale.geometry import Shape, Spacing, three
from tomoscale.kernels.coarsen import mean_cells, mode_cells
from tomoscale.lease import FOLDER, lease_owner
from tomoscale.ome import LEVEL, STATE, STATE_VERSION, level_factors, multiscales
from tomoscale.places import Place, remove_tree
from tomoscale.plan import Plan, begun_block, plan_map
from tomoscale.step import Kernel
from tomoscale.volume import Volume, ZarrArray, create_volume, open_zarr
from tomoscale.work import Work
from tomoscale.zarr_group import image_of, labels_of, list_levels
from tomoscale.zarr_metadata import child, read_node

LARGEST_VOXELS = 256
"""No axis of the last level is longer: a viewer loads it whole."""
SMALLEST_VOXELS = 64
"""An axis of at most so many voxels is not halved."""


def pyramid(source: Source, *, work: Work | None = None) -> Volume:
    """Add coarser levels to a finished volume, and to all label images of the same image.

    The specification wants labels to have as many levels as their image: so an image's levels are made together with
    those of its labels, whichever of them is given. A label that is finished later needs another call, which only makes
    what is not there yet.

    Parameters
    ----------
    source : Volume or path
        Written by this program, at full resolution.
    work : Work or None

    Returns
    -------
    Volume
        The volume given; ``open_zarr(path, array="1")`` gives its first coarser level.

    Raises
    ------
    InputError
        If the volume was not written by this program, or is not finished.
    PlanError
        If memory or disk do not allow a level, or it was begun in another way.
    """
    work = work or Work()
    volume = opened(source)
    storage = _own_storage(volume)
    image = image_of(storage.directory)
    root = storage.directory if image is None else image.path
    top = volume if image is None else open_zarr(root)
    if _is_ours(top):
        steps = halvings(top.shape, top.voxel_size_um)
        _add_levels(top, steps, work)
    else:
        steps = _halvings_of(root)
    own = [] if image is None else [storage.directory]
    for folder in dict.fromkeys([*labels_of(root), *own]):
        _add_levels(open_zarr(folder), steps, work)
    return volume


def halvings(shape: Shape, voxel_size_um: Spacing | None) -> list[Shape]:
    """Voxels (z, y, x), each 1 or 2, that become one from level to level.

    Examples
    --------
    >>> halvings((1024, 700, 64), (1.0, 1.0, 1.0))
    [(2, 2, 1), (2, 2, 1)]
    >>> halvings((300, 600, 600), (4.0, 1.0, 1.0))
    [(1, 2, 2), (1, 2, 2), (2, 2, 2)]
    """
    steps, size = [], voxel_size_um or (1.0, 1.0, 1.0)
    while max(shape) > LARGEST_VOXELS:
        shortest = min(s for s, n in zip(size, shape, strict=True) if n > SMALLEST_VOXELS)
        step = three(2 if n > SMALLEST_VOXELS and s < 2 * shortest else 1 for s, n in zip(size, shape, strict=True))
        shape = three(-(-n // f) for n, f in zip(shape, step, strict=True))
        z, y, x = (s * f for s, f in zip(size, step, strict=True))
        size = (z, y, x)
        steps.append(step)
    return steps


def _add_levels(volume: Volume, steps: Sequence[Shape], work: Work) -> None:
    """Make the levels that a volume does not have yet, one after the other; each is listed as soon as it is finished."""
    storage = _own_storage(volume)
    if work.overwrite and not work.plan_only:
        _remove_levels(volume, storage)
    before, factors = volume, [(1, 1, 1)]
    for number, step in enumerate(steps, 1):
        factors.append(three(f * s for f, s in zip(factors[-1], step, strict=True)))
        path = child(storage.directory, str(number))
        level = _made(path, before, _kernel(volume, step))
        if level is None:
            plan = _plan_level(path, before, _kernel(volume, step), work)
            assert plan.target is not None
            level = plan.target
            if not work.plan_only and not level.exists:
                _create_level(level, factors[-1])
            work.run(plan)
        before = level
        if not work.plan_only:
            list_levels(storage, factors[1:], _method(volume))


def _plan_level(path: Place, before: Volume, kernel: Kernel, work: Work) -> Plan:
    """Plan the level at `path`: blocks and shards as for a volume of its own, but the target is in the group."""
    record = path / FOLDER
    alone = isinstance(before.storage, ZarrArray) and before.storage.version == 2
    plan = plan_map(
        kernel,
        before,
        _alone(path, kernel, before) if alone else path,
        kind=before.kind,
        block_shape=work.block_shape or begun_block(record),
        resources=work.available(),
    )
    assert plan.target is not None
    assert isinstance(plan.target.storage, ZarrArray)
    inside = replace(plan.target.storage, directory=path.parent, inside=path.name)
    return replace(plan, target=replace(plan.target, storage=inside), record=record)


def _alone(path: Place, kernel: Kernel, before: Volume) -> Volume:
    """Describe a level of version 0.4, whose chunks do not depend on the blocks."""
    return create_volume(
        path,
        shape=kernel.shape_of_target(before.shape),
        dtype=before.dtype,
        voxel_size_um=_coarser(before.voxel_size_um, kernel),
        kind=before.kind,
        ome_version="0.4",
    )


def _kernel(volume: Volume, step: Shape) -> Kernel:
    return mean_cells(step, volume.dtype) if volume.kind == "grey" else mode_cells(step, volume.dtype)


def _method(volume: Volume) -> dict[str, Any]:
    """How the levels are made, as the specification wants it said."""
    grey = volume.kind == "grey"
    rule = (
        "mean of the voxels, of integers exact and rounded half to even"
        if grey
        else "most frequent label; of equally frequent ones 0 loses, else the smallest wins"
    )
    return {
        "type": "mean" if grey else "mode",
        "metadata": {
            "description": f"each level from the level before, cells of up to 2 voxels an axis: {rule}",
            "method": "tomoscale.pyramid.pyramid",
            "version": tomoscale.__version__,
        },
    }


def _create_level(level: Volume, factor: Shape) -> None:
    """Put a level without voxels into its group; its state is in its own attributes."""
    storage = level.storage
    assert isinstance(storage, ZarrArray)
    state: dict[str, Any] = {
        "version": STATE_VERSION,
        "kind": storage.kind,
        "finished": False,
        "factor": list(factor),
        "record": {},
    }
    storage.create({STATE: state})


def _made(path: Place, before: Volume, kernel: Kernel) -> Volume | None:
    """Level at `path` if it is finished and made of the level before as that is now, by any version of the program."""
    node = read_node(path)
    state = node.attributes.get(STATE) if node else None
    if not isinstance(state, dict) or state.get("finished") is not True:
        return None
    run = state["record"].get("run") if isinstance(state.get("record"), dict) else None
    if not isinstance(run, dict) or not isinstance(run.get("sources"), dict):
        return None
    # The name of a volume may change, its content may not.
    same = {k: v for k, v in before.identity().items() if k != "volume"}
    made_of = run["sources"].get("source")
    if run.get("step") != {kernel.name: dict(kernel.parameters)} or not isinstance(made_of, dict):
        return None
    if any(made_of.get(k) != v for k, v in same.items()):
        return None
    level = open_zarr(path.parent, array=path.name)
    return replace(level, voxel_size_um=_coarser(before.voxel_size_um, kernel))


def _coarser(size_um: Spacing | None, kernel: Kernel) -> Spacing | None:
    if size_um is None:
        return None
    z, y, x = (s * f for s, f in zip(size_um, kernel.factor, strict=True))
    return z, y, x


def _remove_levels(volume: Volume, storage: ZarrArray) -> None:
    """Remove the coarser levels that we wrote, after the metadata no longer list them."""
    ours = []
    places: list[Place] = list(storage.directory.iterdir())
    for path in sorted(places, key=str):
        if not path.name.isdecimal() or path.name == LEVEL or path.is_symlink():
            continue
        owner = lease_owner(path / FOLDER)
        if owner is not None:
            raise PlanError(f"{path} is being written by {owner}: wait for it to end, or stop it first")
        node = read_node(path)
        if node is not None and isinstance(node.attributes.get(STATE), dict):
            ours.append(path)
    list_levels(storage, [], _method(volume))
    for path in ours:
        remove_tree(path)


def _halvings_of(root: Place) -> list[Shape]:
    """Steps between the levels that another program gave an image, which its labels must have too."""
    node = read_node(root)
    image = multiscales(node.attributes) if node else None
    before, steps = (1.0, 1.0, 1.0), []
    for factor in level_factors(image or {}):
        ratios = [f / b for f, b in zip(factor, before, strict=True)]
        step = three(round(r) for r in ratios)
        if any(f not in (1, 2) or abs(r - f) > 0.05 for r, f in zip(ratios, step, strict=True)):
            raise InputError(
                f"{root}: from level to level voxels become {tuple(round(r, 3) for r in ratios)} times as long, but labels are "
                "only made coarser by 1 or 2: convert the image with tomoscale first, and give it a pyramid of ours"
            )
        steps.append(step)
        before = factor
    return steps


def _own_storage(volume: Volume) -> ZarrArray:
    """Where a volume is, if we wrote it; its levels are not given levels of their own."""
    storage = volume.storage
    if not isinstance(storage, ZarrArray) or storage.state() is None or storage.inside != LEVEL:
        raise InputError(
            f"{volume.name} is not the full resolution of a volume that tomoscale wrote: convert it with `tomoscale convert`"
        )
    return storage


def _is_ours(volume: Volume) -> bool:
    return isinstance(volume.storage, ZarrArray) and volume.storage.state() is not None
