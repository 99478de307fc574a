"""What a recipe may say."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

if TYPE_CHECKING:
    from tomoscale.training.recipe import Recipe


def check_choices(part: Any) -> None:
    """Refuse a text that is none of those that its field may hold, here and in all parts below.

    Raises
    ------
    ValueError
    """
    hints = get_type_hints(type(part))
    for one in fields(part):
        value, choices = getattr(part, one.name), get_args(hints[one.name])
        if hasattr(value, "__dataclass_fields__"):
            check_choices(value)
        elif choices and all(isinstance(c, str) for c in choices) and value not in choices:
            raise ValueError(f"{one.name} must be one of {', '.join(choices)}, got {value!r}")


def check_numbers(recipe: Recipe) -> None:
    """Refuse numbers out of their range, and those that do not go together.

    Raises
    ------
    ValueError
    """
    sampling, augmentation, loss = recipe.sampling, recipe.augmentation, recipe.loss
    rules = (
        (len(sampling.patch) in (2, 3) and min(sampling.patch) >= 1, "patch must be two or three lengths >= 1"),
        (sampling.batch >= 1 and sampling.threads >= 0 and sampling.cache_mib >= 1, "batch and cache_mib must be >= 1"),
        (0 <= sampling.balance <= 1, "balance must be from 0 to 1"),
        (
            bool(sampling.axes) and set(sampling.axes) <= {"z", "y", "x"},
            "axes must be some of z, y, x",
        ),
        (recipe.in_slices % 2 == 1 and recipe.in_slices >= 1, "in_slices must be odd"),
        (
            recipe.network.arguments.get("in_channels", 1) == 1,
            "in_channels must be 1: a volume has one grey value per voxel",
        ),
        (set(augmentation.flip_axes) <= set(range(recipe.dimensions)), "flip_axes must be axes of the patch"),
        (0 <= augmentation.flip <= 1 and 0 <= augmentation.turn <= 1, "flip and turn must be from 0 to 1"),
        (
            not augmentation.turn or len(set(sampling.patch[-2:])) == 1,
            "patches that are turned must be square in y, x",
        ),
        (augmentation.scale.low > 0 and augmentation.low_resolution.low > 0, "scale and low_resolution must be > 0"),
        (augmentation.elastic_voxels > 0, "elastic_voxels must be > 0"),
        ((loss.weights == "given") == bool(loss.class_weights), "class_weights go with weights: given"),
        (recipe.optimiser.rate > 0 and recipe.optimiser.accumulate >= 1, "rate must be > 0, accumulate >= 1"),
        (
            sampling.batch % (recipe.optimiser.accumulate * recipe.machine.devices) == 0,
            "batch must be a multiple of accumulate x devices",
        ),
        (0 < recipe.schedule.rise < 1 and 0 < recipe.schedule.factor < 1, "rise and factor must be within 0..1"),
        (min(recipe.stop.steps, recipe.stop.validate_every, recipe.stop.checkpoint_every) >= 1, "steps must be >= 1"),
        (recipe.recalibrate >= 0, "recalibrate must be >= 0"),
        (0 <= recipe.average < 1, "average must be from 0 to below 1"),
        (recipe.machine.devices >= 1 and recipe.machine.threads >= 0, "devices must be >= 1"),
    )
    for kept, rule in rules:
        if not kept:
            raise ValueError(rule)
