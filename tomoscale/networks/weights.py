"""Tensors of a network on disk: safetensors files, checked against a hash and the network they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from tomoscale.errors import InputError

WEIGHTS = "weights.safetensors"
MAX_WEIGHTS_BYTES = 16 * 2**30
MAX_HEADER_BYTES = 2**20


def write_weights(file: Path, module: nn.Module) -> str:
    """Write the tensors of a network; return the SHA-256 of the file.

    Raises
    ------
    ValueError
        If a weight is not finite.
    """
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    broken = first_not_finite(state)
    if broken:
        raise ValueError(f"{broken} holds NaN or infinity: the training diverged, such a network labels nothing")
    safetensors.torch.save_file(state, str(file))
    return sha256_of(file)


def read_weights(file: Path, sha256: str, expected: Mapping[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    """Tensors of a file, checked before and after they are read.

    Parameters
    ----------
    file : Path
    sha256 : str
        Of the file.
    expected : mapping of name to tensor
        Names, shapes and types that the network has, on the "meta" device.
    what : str
        The network, for messages.

    Raises
    ------
    InputError
        If the file is missing, damaged, of another network, or holds NaN.
    """
    if not file.is_file():
        raise InputError(f"{file.parent} holds no {file.name}: get the bundle again")
    wanted, there = bytes_of(expected), file.stat().st_size
    # Before the file is parsed: a header alone can be 100 MB of names.
    if not wanted <= there <= min(wanted + MAX_HEADER_BYTES, MAX_WEIGHTS_BYTES):
        raise InputError(
            f"{file} has {there} bytes, but {what} has {wanted} bytes of weights (and at most {MAX_HEADER_BYTES} of names): "
            "it is cut short or belongs to another network"
        )
    digest = sha256_of(file)
    if digest != sha256:
        raise InputError(f"{file} has SHA-256 {digest}, its card says {sha256}: get the bundle again")
    try:
        tensors = safetensors.torch.load_file(str(file))
    except (safetensors.SafetensorError, ValueError) as error:
        raise InputError(f"{file} is not a safetensors file ({error}): get the bundle again") from error
    check_tensors(str(file), tensors, expected)
    return tensors


def check_tensors(source: str, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors that are not those of a network.

    Raises
    ------
    InputError
        Naming what is missing, too many, of another shape or type, or not finite.
    """
    missing, extra = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise InputError(
            f"{source} lacks {len(missing)} tensors {missing[:3]} and has {len(extra)} that do not belong {extra[:3]}: "
            "weights and architecture are of different networks"
        )
    for name, tensor in expected.items():
        got = tensors[name]
        if got.shape != tensor.shape or got.dtype != tensor.dtype:
            raise InputError(
                f"{source}: {name} is {got.dtype} {tuple(got.shape)}, the architecture needs {tensor.dtype} "
                f"{tuple(tensor.shape)}"
            )
    broken = first_not_finite(tensors)
    if broken:
        raise InputError(f"{source}: {broken} holds NaN or infinity, such a network labels nothing")


def first_not_finite(tensors: Mapping[str, torch.Tensor]) -> str:
    """Name of the first tensor that holds NaN or infinity, or nothing."""
    return next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), "")


def bytes_of(tensors: Mapping[str, torch.Tensor]) -> int:
    """Bytes of tensors in memory."""
    return sum(t.numel() * t.itemsize for t in tensors.values())


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_name(member: int, members: int) -> str:
    """Name of the file that holds the weights of a member."""
    return WEIGHTS if members == 1 else f"weights.{member}.safetensors"
