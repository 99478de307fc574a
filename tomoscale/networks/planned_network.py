"""Which network nnU-Net's plans describe: the name of one of ours and its arguments.

nnU-Net 2.0 to 2.2 name widths by a base and a limit, and fix the rest; later versions write every argument of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tomoscale.networks.arguments import check_whole
from tomoscale.networks.nnunet import MAX_STAGES

_COUNTS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}
"""What plans count on each stage of the encoder, for each network."""
_NORMS = {"InstanceNorm": "instance", "BatchNorm": "batch"}


def network_of(chosen: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of the architecture and its arguments, without channels, classes and dimensions.

    Parameters
    ----------
    chosen : mapping
        One configuration of the plans.

    Raises
    ------
    KeyError, TypeError
        If the plans are incomplete.
    ValueError
        If the network is of a kind that is not supported.
    """
    if "architecture" in chosen:
        name, told = chosen["architecture"]["network_class_name"], chosen["architecture"]["arch_kwargs"]
    else:
        name, told = chosen["UNet_class_name"], _told_by_old_plans(chosen)
    kind = _last(name)
    if kind not in _COUNTS:
        raise ValueError(
            f"its network is a {kind}, only {' and '.join(_COUNTS)} are supported: train one of these, or give the weights "
            "alone with an architecture of your own"
        )
    arguments = _arguments(told, len(chosen["patch_size"]))
    counts = _each(told[_COUNTS[kind]], len(arguments["features"]))
    if kind == "PlainConvUNet":
        return "nnunet", {**arguments, "convolutions": counts}
    stem = told.get("stem_channels")
    return "nnunet_residual", {
        **arguments,
        "blocks": counts,
        "stem": arguments["features"][0] if stem is None else stem,
        "bottleneck": _bottleneck(told, len(arguments["features"])),
    }


def _arguments(told: Mapping[str, Any], axes: int) -> dict[str, Any]:
    stages, options = told["n_stages"], dict(told.get("norm_op_kwargs") or {})
    check_whole("n_stages", stages, 2, MAX_STAGES)
    return {
        "features": _each(told["features_per_stage"], stages),
        "strides": [_each(s, axes) for s in _each(told["strides"], stages)],
        "kernel_sizes": [_each(k, axes) for k in _each(told["kernel_sizes"], stages)],
        "decoder_convolutions": _each(told["n_conv_per_stage_decoder"], stages - 1),
        "norm": _norm(told, options),
        "norm_eps": float(options.get("eps", 1e-5)),
        "bias": bool(told.get("conv_bias", False)),
    }


def _norm(told: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Norm of a network that is in all else as ours are."""
    norm = _NORMS.get(_last(told["norm_op"]).rstrip("23d"))
    slope = dict(told.get("nonlin_kwargs") or {}).get("negative_slope", 0.01)
    plain = not told.get("dropout_op") and not told.get("nonlin_first") and options.get("affine", False)
    if norm is None or _last(told["nonlin"]) != "LeakyReLU" or slope != 0.01 or not plain:
        raise ValueError(
            f"its network has {told['norm_op']} {dict(options)}, {told['nonlin']} and dropout {told.get('dropout_op')}; "
            "supported are affine instance or batch norm, LeakyReLU(0.01) after it and no dropout"
        )
    return norm


def _bottleneck(told: Mapping[str, Any], stages: int) -> list[Any] | None:
    block = _last(told.get("block") or "BasicBlockD")
    if block not in ("BasicBlockD", "BottleneckD"):
        raise ValueError(f"its network has blocks {block}, only BasicBlockD and BottleneckD are supported")
    return None if block == "BasicBlockD" else _each(told["bottleneck_channels"], stages)


def _told_by_old_plans(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what later plans say, of plans of nnU-Net 2.0 to 2.2."""
    stages = len(chosen["conv_kernel_sizes"])
    base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
    return {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "strides": chosen["pool_op_kernel_sizes"],
        "kernel_sizes": chosen["conv_kernel_sizes"],
        **dict.fromkeys(_COUNTS.values(), chosen["n_conv_per_stage_encoder"]),
        "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": "InstanceNorm",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "LeakyReLU",
    }


def _last(name: Any) -> str:
    """Name of a class without its modules."""
    return str(name).split(".")[-1]


def _each(value: Any, count: int) -> list[Any]:
    """Return a value for each of several, given once or for each."""
    return list(value) if isinstance(value, list | tuple) else [value] * count
