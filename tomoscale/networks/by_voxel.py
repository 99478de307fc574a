"""A network as a CPU runs it fastest: the channels of a voxel beside each other from the first layer to the last.

Convolutions are fastest on values that lie so, but two layers of torch leave that layout. Its instance norm copies to rows
of one channel, and the next convolution copies back: a third of the time of nnU-Net's networks. Its convolutions of
volumes choose a slower algorithm, by rows, where N x C x Z x Y is at most 20480, whatever X is.

.. code-block:: text

    by voxel      c0 c1 c2 ... | c0 c1 c2 ... | ...        here: one pass for the moments, one to norm
    by channel    c0 c0 c0 ... | c1 c1 c1 ... | ...        torch's instance norm

Results differ from torch's own in the last bits of float32: the order of adding is another.
"""

from __future__ import annotations

import copy

import numba
import numpy as np
import torch
from torch import nn

RUN_VOXELS = 64
"""Voxels whose moments are added in float32, while they are in the cache; runs are joined in float64."""

_jit = numba.njit(cache=True, nogil=True)


def by_voxel(network: nn.Module) -> nn.Module:
    """Copy of a network, with the same weights, that keeps the layout; networks of other layers are as they were."""
    shared = {id(t): t for t in (*network.parameters(), *network.buffers())}
    found = copy.deepcopy(network, memo=dict(shared))
    for module in found.modules():
        kind = _KINDS.get(type(module))
        if kind is not None:
            # The same layer otherwise: its weights, numbers and name stay.
            module.__class__ = kind
    return found


class _NormOfSlices(nn.InstanceNorm2d):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _normed(self, values) if _can_norm(self, values) else super().forward(values)


class _NormOfVolumes(nn.InstanceNorm3d):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return _normed(self, values) if _can_norm(self, values) else super().forward(values)


class _ConvolutionOfVolumes(nn.Conv3d):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        plain = values.dtype == torch.float32 and values.dim() == 5 and not torch.is_autocast_enabled("cpu")
        if not plain or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(values)
        # With the layout said: of one channel it is ambiguous, and by channel would be chosen.
        given = values.contiguous(memory_format=torch.channels_last_3d)
        return torch.mkldnn_convolution(
            given, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.InstanceNorm2d: _NormOfSlices,
    nn.InstanceNorm3d: _NormOfVolumes,
    **({nn.Conv3d: _ConvolutionOfVolumes} if torch.backends.mkldnn.is_available() else {}),  # type: ignore[no-untyped-call]
}


def _can_norm(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, values: torch.Tensor) -> bool:
    layout = {4: torch.channels_last, 5: torch.channels_last_3d}.get(values.dim())
    if layout is None or norm.track_running_stats or values.dtype != torch.float32:
        return False
    # Of one voxel there is no variance, which torch refuses in its own words.
    return values.is_contiguous(memory_format=layout) and values[0, 0].numel() > 1


def _normed(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, values: torch.Tensor) -> torch.Tensor:
    if norm.affine:
        weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    else:
        weight, bias = np.ones(values.shape[1], np.float32), np.zeros(values.shape[1], np.float32)
    normed = torch.empty_like(values)
    for rows, normed_rows in zip(_rows(values), _rows(normed), strict=True):
        _norm(rows, weight, bias, norm.eps, normed_rows)
    return normed


def _rows(values: torch.Tensor) -> np.ndarray:
    """View by voxel: (N, voxels, channels)."""
    rows: np.ndarray = values.movedim(1, -1).flatten(1, -2).numpy()
    return rows


@_jit  # type: ignore[untyped-decorator]
def _norm(rows: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float, normed: np.ndarray) -> None:
    """Norm each channel of (voxels, channels) float32 by its own mean and variance; a constant one becomes its bias."""
    means, squares = _moments(rows)
    n_rows, channels = rows.shape
    mean, scale = means.astype(np.float32), np.empty(channels, np.float32)
    for c in range(channels):
        scale[c] = weight[c] / np.sqrt(squares[c] / n_rows + eps)
    for r in range(n_rows):
        for c in range(channels):
            normed[r, c] = (rows[r, c] - mean[c]) * scale[c] + bias[c]


@_jit  # type: ignore[untyped-decorator]
def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and sum of squared distances from it, of each channel: float64.

    Runs are joined as in Chan, Golub and LeVeque 1979.
    """
    n_rows, channels = rows.shape
    mean, squares = np.zeros(channels), np.zeros(channels)
    of_run, around = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for first in range(0, n_rows, RUN_VOXELS):
        last = min(first + RUN_VOXELS, n_rows)
        of_run[:], around[:] = 0, 0
        for r in range(first, last):
            for c in range(channels):
                # From the first, so that the mean of equal values is that value.
                of_run[c] += rows[r, c] - rows[first, c]
        for c in range(channels):
            of_run[c] = rows[first, c] + of_run[c] * np.float32(1 / (last - first))
        for r in range(first, last):
            for c in range(channels):
                distance = rows[r, c] - of_run[c]
                around[c] += distance * distance
        share = (last - first) / last
        for c in range(channels):
            step = of_run[c] - mean[c]
            mean[c] += step * share
            squares[c] += around[c] + step * step * first * share
    return mean, squares
