"""What a plan can run: a `Kernel` maps blocks to blocks, a `Measure` maps blocks to counts that add.

Both are plain data around a pure function, so that they pickle, print and can be compared between runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import cloudpickle
import numpy as np

from tomoscale.arrays import Array, to_host
from tomoscale.errors import PlanError
from tomoscale.geometry import Block, Grid, Halo, Region, Shape, read_span, region_shape

Counts = dict[str, Array]
"""Named integer arrays; the counts of a volume are the sums of the counts of its blocks."""


@dataclass(frozen=True)
class Kernel:
    """Pure function of a padded block, and what a plan must know of it.

    Attributes
    ----------
    name : str
        What the kernel does, e.g. ``"opening"``.
    function : callable
        ``function(values) -> values`` of the same shape; the core is cut out of it afterwards. Where `located` is
        true, ``function(values, block) -> values`` of the shape of ``block.write``: for what must know where it is
        (resampling, networks on a tile grid). Functions of a notebook and lambdas travel to workers with their code.
    halo : Halo
        Source voxels needed around the core for the core to be exact.
    dtype : numpy dtype
        Of the result.
    bytes_per_voxel : float
        Peak memory of `function` on the host beyond its input, per voxel of the padded block: what it works with and
        its result. Tests measure it.
    parameters : mapping
        JSON values that, with the name, say what is computed; they guard a resumed run. So does the code of a function
        that is not of this program, unless a "version" here stands for it, yours to raise when results change.
    stride : (z, y, x)
        Reads start and end at multiples of this, from the volume's origin (total stride of a network).
    tile : (z, y, x)
        What is computed as a whole, on a grid from the volume's origin: a block reads the margins of all it touches.
    factor : (z, y, x)
        Target voxel size over source voxel size; (1, 1, 1) unless the kernel resamples.
    target_shape : callable or None
        Shape of the whole target from the shape of the whole source, where they differ.
    located : bool
        See `function`.
    fixed_bytes : int
        Memory held once per process (a model and its workspace).
    own_threads : bool
        The function uses all cores by itself, so one block is computed at a time in a process.
    inputs : tuple of str
        Names of the volumes it reads, of one shape; `function` gets their values in this order.
    counted : bool
        `function` returns ``(values, counts)``: what it also counts, small, adds up in the ledger of the run.
    beside_bytes : callable or None
        Bytes that the function leaves in files of its own on the disk of the target, from the grid of blocks.
    """

    name: str
    function: Callable[..., Any]
    halo: Halo
    dtype: np.dtype[Any]
    bytes_per_voxel: float
    parameters: Mapping[str, Any] = field(default_factory=dict)
    stride: Shape = (1, 1, 1)
    tile: Shape = (1, 1, 1)
    factor: tuple[float, float, float] = (1.0, 1.0, 1.0)
    target_shape: Callable[[Shape], Shape] | None = None
    located: bool = False
    fixed_bytes: int = 0
    own_threads: bool = False
    inputs: tuple[str, ...] = ("source",)
    counted: bool = False
    beside_bytes: Callable[[Grid], int] | None = None

    def __post_init__(self) -> None:
        _check_step(self.name, self.function, self.halo)
        object.__setattr__(self, "dtype", np.dtype(self.dtype))

    def __getstate__(self) -> dict[str, Any]:
        return _packed(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(_unpacked(state))

    def apply(self, values: Array, block: Block, *more: Array) -> Array:
        """Values of ``block.write`` from the values of ``block.read``; `more` are those of the other inputs."""
        return self.apply_counting(values, block, *more)[0]

    def apply_counting(self, values: Array, block: Block, *more: Array) -> tuple[Array, Counts]:
        """Do what `apply` does, and return what the kernel counted; nothing unless it is `counted`."""
        found = self.function(values, *more, block) if self.located else self.function(values, *more)
        result, counts = found if self.counted else (found, {})
        expected = block.write_shape if self.located else region_shape(block.read)
        if getattr(result, "shape", None) != expected or result.dtype != self.dtype:
            raise PlanError(
                f"{self.name} made {_in_words(result)} of a block of {values.shape} {values.dtype}, but must make an array of "
                f"{expected} {self.dtype}: mend its function, or its `dtype`; nothing is cast or cut silently"
            )
        return (result if self.located else result[block.core]), counts

    def shape_of_target(self, source_shape: Shape) -> Shape:
        """Shape of the whole target."""
        return source_shape if self.target_shape is None else self.target_shape(source_shape)

    def block(self, grid: Grid, number: int, source_shape: Shape) -> Block:
        """Block `number` of a grid over the target."""
        return make_block(grid, number, source_shape, self.halo, self.stride, self.factor, self.tile)

    def then(self, second: Kernel) -> Kernel:
        """Kernel that does this and then `second` without storing what lies between.

        Raises
        ------
        ValueError
            If this kernel returns its core only (`located`) and the second needs voxels around it, or one of them reads
            several volumes.
        """
        if len(self.inputs) > 1 or len(second.inputs) > 1:
            raise ValueError(f"{self.name} and {second.name} cannot be chained: one of them reads several volumes")
        if second.counted or self.beside_bytes or second.beside_bytes:
            raise ValueError(f"{self.name} and {second.name} cannot be chained: one of them counts or leaves files")
        if self.located and (second.halo != Halo() or second.located):
            raise ValueError(
                f"{self.name} returns only the core of a block, so {second.name}, which reads around it, cannot follow "
                "in the same pass: write the first result to a volume and run the second on that"
            )
        # While the second works the first's result, its input, is held too: both peaks must fit, whichever is larger.
        return replace(
            second,
            name=f"{self.name}, {second.name}",
            function=_Chain(self.function, second.function, self.located, second.located, self.counted),
            halo=self.halo + second.halo,
            bytes_per_voxel=max(self.bytes_per_voxel, second.bytes_per_voxel + self.dtype.itemsize),
            parameters={**_steps(self), f"{len(_steps(self)) + 1} {second.name}": dict(second.parameters)},
            stride=self.stride if self.located else second.stride,
            tile=self.tile if self.located else second.tile,
            factor=self.factor if self.located else second.factor,
            target_shape=self.target_shape if self.located else second.target_shape,
            located=self.located or second.located,
            fixed_bytes=self.fixed_bytes + second.fixed_bytes,
            own_threads=self.own_threads or second.own_threads,
            counted=self.counted,
        )


@dataclass(frozen=True)
class Measure:
    """Pure function of padded blocks that counts what lies in the core.

    Attributes
    ----------
    name : str
        What is counted, e.g. ``"faces"``.
    function : callable
        ``function(*padded, block) -> Counts``; `padded` are the inputs in order, read with exactly `halo` (clipped at
        the volume's edge); ``block.core`` is what to count. Integers only, so that every order of adding gives the
        same bits.
    inputs : tuple of str
        Names of the volumes it looks at, e.g. ``("truth", "labels")``.
    halo : Halo
        Voxels needed around the core.
    bytes_per_voxel : float
        Peak memory per voxel of the padded block, beyond the inputs.
    counts_bytes : int
        Size of what one block returns.
    parameters : mapping
        JSON values that, with the name, say what is counted; as those of a `Kernel`.
    """

    name: str
    function: Callable[..., Counts]
    inputs: tuple[str, ...]
    halo: Halo = field(default_factory=Halo)
    bytes_per_voxel: float = 0.0
    counts_bytes: int = 0
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_step(self.name, self.function, self.halo)

    def __getstate__(self) -> dict[str, Any]:
        return _packed(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(_unpacked(state))

    def count(self, *padded: Array, block: Block) -> Counts:
        """Counts of one block, as 64 bit integers whatever the function took: sums over many blocks must not run over."""
        found = self.function(*padded, block=block)
        if not isinstance(found, Mapping):
            raise PlanError(
                f"{self.name} returned {_in_words(found)}, but must return integers by name, such as {{'n': 5}}"
            )
        return {name: _integers(values, f"{self.name}/{name}") for name, values in found.items()}

    def block(self, grid: Grid, number: int) -> Block:
        """Block `number` of a grid over the inputs."""
        return make_block(grid, number, grid.shape, self.halo)


def make_block(  # noqa: PLR0913 -- what a kernel declares, each a triple
    grid: Grid,
    number: int,
    source_shape: Shape,
    halo: Halo,
    stride: Shape = (1, 1, 1),
    factor: tuple[float, float, float] = (1.0, 1.0, 1.0),
    tile: Shape = (1, 1, 1),
) -> Block:
    """Block `number` of `grid` with the region it reads from a source of `source_shape`."""
    write = grid.region(number)
    z, y, x = (
        read_span(w.start, w.stop, n, before, after, s, f, t)
        for w, n, before, after, s, f, t in zip(
            write, source_shape, halo.before, halo.after, stride, factor, tile, strict=True
        )
    )
    read: Region = (z, y, x)
    return Block(number, write, read, source_shape, grid.shape)


def add_counts(total: Counts, more: Counts) -> Counts:
    """Sum of two sets of counts; a name that only one has is kept as it is."""
    result = dict(total)
    for name, values in more.items():
        if name in result and np.shape(result[name]) != np.shape(values):
            raise PlanError(
                f"{name} has {np.shape(values)} numbers for one block and {np.shape(result[name])} for others: what is counted "
                "must have the same shape in every block, so that it adds up"
            )
        result[name] = result[name] + values if name in result else values
    return result


@dataclass(frozen=True)
class _Chain:
    """Two functions after each other; a class because closures do not pickle."""

    first: Callable[..., Any]
    second: Callable[..., Array]
    first_located: bool
    second_located: bool
    counted: bool

    def __call__(self, values: Array, block: Block | None = None) -> Any:
        found = self.first(values, block) if self.first_located else self.first(values)
        between, counts = found if self.counted else (found, {})
        result = self.second(between, block) if self.second_located else self.second(between)
        return (result, counts) if self.counted else result


def _steps(kernel: Kernel) -> dict[str, Any]:
    """Parameters of each kernel of a chain, numbered, since a kernel may come twice."""
    if isinstance(kernel.function, _Chain):
        return dict(kernel.parameters)
    return {f"1 {kernel.name}": dict(kernel.parameters)}


@dataclass(frozen=True)
class _ByValue:
    pickled: bytes


def _packed(state: dict[str, Any]) -> dict[str, Any]:
    """State of a step for another process: functions of a notebook travel with their code, others by name."""
    return {name: _ByValue(cloudpickle.dumps(v)) if callable(v) else v for name, v in state.items()}


def _unpacked(state: dict[str, Any]) -> dict[str, Any]:
    return {name: cloudpickle.loads(v.pickled) if isinstance(v, _ByValue) else v for name, v in state.items()}


def _check_step(name: str, function: Any, halo: Any) -> None:
    if not callable(function):
        raise TypeError(f"{name}: function is a {type(function).__name__}, but must be callable")
    if not isinstance(halo, Halo):
        raise TypeError(
            f"{name}: halo is {halo!r}, but must be a Halo, such as Halo.uniform(2): tomoscale.geometry.Halo"
        )


def _integers(values: Any, name: str) -> np.ndarray:
    found = np.asarray(to_host(values) if hasattr(values, "get") else values)
    if found.dtype.kind not in "biu":
        raise PlanError(
            f"{name} is {_in_words(values)}, but must be integers: sums of floats depend on the order of the blocks. Count "
            "voxels, or scale the values to integers"
        )
    return found if found.dtype.itemsize == 8 else found.astype(np.int64)


def _in_words(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" if shape is None else f"an array of {shape} {value.dtype}"
