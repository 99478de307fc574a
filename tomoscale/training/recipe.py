"""How a network is trained: every decision as plain data that prints, is written into the model's card, and can be changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tomoscale.networks.card import Normalisation
from tomoscale.training.recipe_checks import check_choices, check_numbers

IGNORED = 255
"""Label of what nobody has labelled: it takes part in no loss, no score and no choice of patches."""
MAX_CLASSES = IGNORED


@dataclass(frozen=True)
class Network:
    """The network, by the name under which a bundle knows it, and what it is made of (``n_classes`` comes from the data)."""

    architecture: str = "scaled_unet"
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"depth": 4, "width": 16})


@dataclass(frozen=True)
class Sampling:
    """Which patches a step sees.

    Attributes
    ----------
    patch : tuple of int
        Voxels along the axes of the network: (y, x) of a slice, or (z, y, x).
    batch : int
        Patches of a step, over all devices together.
    axes : tuple of "z", "y", "x"
        Slices for a network of two dimensions are taken across these.
    balance : float
        Share of the patches that are laid over a voxel of a class drawn evenly from all classes; the others over any
        labelled voxel. A rare class is seen only with the first.
    cache_mib : int
        Decoded chunks kept in memory, over all volumes together.
    threads : int
        Threads that prepare batches ahead; no part of the result.
    """

    patch: tuple[int, ...] = (256, 256)
    batch: int = 8
    axes: tuple[Literal["z", "y", "x"], ...] = ("z", "y", "x")
    balance: float = 0.5
    cache_mib: int = 512
    threads: int = 1


@dataclass(frozen=True)
class Chance:
    """Something done to a patch with a probability, by an amount drawn evenly from ``low`` to ``high``."""

    probability: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not self.low <= self.high or not math.isfinite(self.high - self.low):
            raise ValueError(
                f"an augmentation has a probability from 0 to 1 and finite low <= high, got {self.probability}, {self.low}, {self.high}"
            )


@dataclass(frozen=True)
class Augmentation:
    """What is done to patches, in this order; labels follow by the nearest voxel, and what comes from outside is ignored.

    Attributes
    ----------
    flip : float
        Probability that a patch is mirrored, for each of `flip_axes` (axes of the network).
    turn : float
        Probability of a turn by 90, 180 or 270 degrees in the last two axes.
    rotation : Chance
        Degrees in the last two axes.
    scale : Chance
        Size of things in the patch over their size in the volume.
    aspect : Chance
        Logarithm (base 2) of width over height of what becomes the patch.
    elastic : Chance
        Largest displacement in voxels, of a random field that is smooth over `elastic_voxels`.
    brightness, contrast, gamma, inverted_gamma : Chance
        Factor on all values; factor on the distance from the patch's mean; exponents, the second of the inverted patch.
    shift : Chance
        Added to all values.
    noise, blur : Chance
        Standard deviation of Gaussian noise (in normalised grey), and of a Gaussian filter (in voxels).
    low_resolution : Chance
        Resolution that the patch is reduced to and enlarged again from, over its own.
    """

    flip: float = 0.5
    flip_axes: tuple[int, ...] = (0, 1)
    turn: float = 0.0
    rotation: Chance = Chance()
    scale: Chance = Chance(0, 1, 1)
    aspect: Chance = Chance()
    elastic: Chance = Chance()
    elastic_voxels: float = 16.0
    brightness: Chance = Chance(0, 1, 1)
    shift: Chance = Chance()
    contrast: Chance = Chance(0, 1, 1)
    gamma: Chance = Chance(0, 1, 1)
    inverted_gamma: Chance = Chance(0, 1, 1)
    noise: Chance = Chance()
    blur: Chance = Chance()
    low_resolution: Chance = Chance(0, 1, 1)


@dataclass(frozen=True)
class Loss:
    """What is made small.

    Attributes
    ----------
    kind : str
        "cross_entropy"; "dice_cross_entropy", the sum of it and one minus the mean Dice over the batch; or "ohem", the
        cross-entropy of hard voxels alone.
    weights : str
        Of the classes in the cross-entropy: "equal", "given", or "inverse_root", the inverse square root of their
        shares in the training data, scaled to a mean of 1 over the voxels.
    class_weights : tuple of float
        Those given.
    dice_background : bool
        Class 0 takes part in the Dice.
    hard_below, hard_least : float, int
        A voxel is hard where its class gets a lower probability; at least so many voxels of a batch are taken.
    sides : "equal" or "halving"
        Weights of the outputs of a network that has several: 1 each, summed (U²-Net); or 1, 1/2, 1/4, ... from the finest
        to the coarsest, which gets 0, divided by their sum (nnU-Net).
    """

    kind: Literal["cross_entropy", "dice_cross_entropy", "ohem"] = "dice_cross_entropy"
    weights: Literal["equal", "given", "inverse_root"] = "equal"
    class_weights: tuple[float, ...] = ()
    dice_background: bool = True
    hard_below: float = 0.9
    hard_least: int = 100_000
    sides: Literal["equal", "halving"] = "equal"


@dataclass(frozen=True)
class Optimiser:
    """How weights follow the gradient; ``clip`` is the largest norm of a gradient, 0 does not clip."""

    kind: Literal["adam", "adamw", "sgd", "adadelta"] = "adamw"
    rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = True
    clip: float = 0.0
    accumulate: int = 1


@dataclass(frozen=True)
class Schedule:
    """How the rate changes.

    Attributes
    ----------
    kind : str
        "constant"; "poly", ``(1 - step / steps) ** power``; "plateau", times `factor` when the validation loss has not
        fallen for `patience_steps`; "one_cycle", up over the share `rise` of the steps and down again as cosines.
    """

    kind: Literal["constant", "poly", "plateau", "one_cycle"] = "one_cycle"
    power: float = 0.9
    factor: float = 0.5
    patience_steps: int = 10_000
    rise: float = 0.15


@dataclass(frozen=True)
class Stop:
    """When training ends and how often it looks at the validation data.

    Attributes
    ----------
    steps : int
        At most.
    validate_every, checkpoint_every : int
        Steps.
    patience : int
        Validations without a gain after which training stops early; 0 never does.
    watch : "iou" or "loss"
        What must gain: the mean IoU over the classes, or the loss; it also chooses the best network.
    least_gain : float
        Relative gain that counts.
    """

    steps: int = 1000
    validate_every: int = 100
    checkpoint_every: int = 100
    patience: int = 0
    watch: Literal["iou", "loss"] = "iou"
    least_gain: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Where and how it is computed.

    Attributes
    ----------
    accelerator : "auto", "cpu" or "cuda"
    devices : int
    precision : "32", "bf16" or "16"
        The last two compute layers in half precision and keep the weights in float32.
    threads : int
        Of a CPU; 0 takes all cores. Trajectories agree to the bit only for the same number.
    """

    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = 1
    precision: Literal["32", "bf16", "16"] = "32"
    threads: int = 0


@dataclass(frozen=True)
class Recipe:
    """All decisions of a training but the data."""

    network: Network = Network()
    normalisation: Normalisation = field(default_factory=Normalisation)
    sampling: Sampling = Sampling()
    augmentation: Augmentation = Augmentation()
    loss: Loss = Loss()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    stop: Stop = Stop()
    machine: Machine = Machine()
    average: float = 0.0
    """Decay of the moving average of the weights that is validated and saved, such as 0.999; 0 takes the weights."""
    recalibrate: int = 32
    """Whole training slices (or windows of a volume), at most, from which the statistics of batch norm are measured anew before
    a network is judged and saved; 0 keeps those of the patches, which hold more border, where values are padded, than a slice
    does, more of the rare classes, and other weights. Networks without batch norm (instance norm) have none to measure."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        check_numbers(self)

    @property
    def dimensions(self) -> int:
        """2 for a network on slices, 3 for one on volumes."""
        return len(self.sampling.patch)

    @property
    def in_slices(self) -> int:
        """Neighbouring slices shown to a network of two dimensions."""
        return int(self.network.arguments.get("in_slices", 1))


def as_document(recipe: Any) -> dict[str, Any]:
    """JSON values of a recipe or a part of it."""
    return asdict(recipe)
