"""Sensor3D-style network: neighbouring slices are shown, the middle one is labelled (Novikov et al. 2019).

A U-Net on each slice; a convolutional LSTM that runs over the slices in both directions joins them at the coarsest level
and once more at full resolution. The widths are those commonly given; the paper's own table could not be compared, hence
"style".

.. code-block:: text

    each slice   1    conv conv (64) ------------ skip ------------ conv conv (64) -> LSTM over slices, middle -> 1x1
                 1/2    pool, conv conv (128) ---- skip ----- conv conv (128)
                 1/4      pool, conv conv (256) -- skip -- conv conv (256)
                 1/8        pool, conv conv (512), LSTM over slices (512)         on the way up: upsample by 2, conv, join
"""

from __future__ import annotations

import torch
from torch import nn

from tomoscale.networks.arguments import check_ends, check_whole

POOLINGS = 3


class Sensor3D(nn.Module):
    """Network on stacks of slices (N, in_slices, Y, X) whose sizes are multiples of 8; labels the middle slice.

    Parameters
    ----------
    in_slices : int
        Odd number of neighbouring slices, 3 in the paper. Beyond a volume's end its last slice is repeated.
    width : int
        Channels at full resolution, 64 in the paper.
    in_channels, n_classes, dimensions : int
        As of `ScaledUNet`; 1 grey value per voxel and 2 dimensions only.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self, in_slices: int = 3, n_classes: int = 4, width: int = 64, in_channels: int = 1, dimensions: int = 2
    ) -> None:
        super().__init__()
        check_whole("in_slices", in_slices, 1, 31)
        if in_slices % 2 == 0:
            raise ValueError(f"in_slices must be odd, so that there is a middle slice, got {in_slices}")
        check_ends(in_channels, n_classes)
        check_whole("in_channels", in_channels, 1, 1)
        check_whole("width", width, 1, 256)
        check_whole("dimensions", dimensions, 2, 2)
        self.arguments = {
            "in_slices": in_slices,
            "n_classes": n_classes,
            "width": width,
            "in_channels": 1,
            "dimensions": 2,
        }
        widths = [width * 2**level for level in range(POOLINGS + 1)]
        self.encoders = nn.ModuleList(
            _block(before, after) for before, after in zip([1, *widths], widths[:POOLINGS], strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = _block(widths[-2], widths[-1])
        self.bottom_lstm = _TwoWayLSTM(widths[-1], widths[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(2 * w, w, 3, padding=1))
            for w in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(_block(2 * w, w) for w in reversed(widths[:-1]))
        self.top_lstm = _TwoWayLSTM(width, width)
        self.head = nn.Conv2d(width, n_classes, 1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Logits (N, n_classes, Y, X) of the middle slices of values (N, in_slices, Y, X)."""
        batch, count = values.shape[:2]
        # What treats slices alike sees them as a batch.
        values = values.flatten(0, 1).unsqueeze(1)
        skips: list[torch.Tensor] = []
        for encoder in self.encoders:
            skips.append(encoder(values))
            values = self.pool(skips[-1])
        values = self.bottom(values)
        values = torch.stack(self.bottom_lstm(values.reshape(batch, count, *values.shape[1:])), dim=1).flatten(0, 1)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            values = decoder(torch.cat([skips.pop(), up(values)], dim=1))
        logits: torch.Tensor = self.head(self.top_lstm(values.reshape(batch, count, *values.shape[1:]))[count // 2])
        return logits


class _TwoWayLSTM(nn.Module):
    """Convolutional LSTM (Shi et al. 2015) over slices (N, T, C, Y, X), up and down, the two summed."""

    def __init__(self, before: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.up = nn.Conv2d(before + hidden, 4 * hidden, 3, padding=1)
        self.down = nn.Conv2d(before + hidden, 4 * hidden, 3, padding=1)

    def forward(self, values: torch.Tensor) -> list[torch.Tensor]:
        slices = list(values.unbind(1))
        upward = self._run(self.up, slices)
        downward = self._run(self.down, slices[::-1])[::-1]
        return [one + other for one, other in zip(upward, downward, strict=True)]

    def _run(self, gates: nn.Module, slices: list[torch.Tensor]) -> list[torch.Tensor]:
        shown = slices[0].new_zeros(slices[0].shape[0], self.hidden, *slices[0].shape[2:])
        kept = shown
        found = []
        for values in slices:
            take, forget, show, new = gates(torch.cat([values, shown], dim=1)).chunk(4, dim=1)
            kept = forget.sigmoid() * kept + take.sigmoid() * new.tanh()
            shown = show.sigmoid() * kept.tanh()
            found.append(shown)
        return found


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        nn.ReLU(inplace=True),
    )
