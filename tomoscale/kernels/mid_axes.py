"""Kernel of the mid-axes of a structure: the voxels whose own ball is the largest that covers them.

A ball is centred at a voxel and reaches to the centre of the nearest voxel outside; the *mid-axes* are the centres that
no larger ball covers, which is where the local thickness is twice the distance to the outside. Squared distances are
integers, so that "larger" leaves nothing to rounding, and one block needs the balls up to the largest radius around it.

.. code-block:: text

    plate of 5       . . # . .          plate of 4       . # # .          a bump beside a plate is covered by its balls
"""

from __future__ import annotations

from functools import partial

import numpy as np

from tomoscale.arrays import Array, namespace_for
from tomoscale.geometry import Block, Halo
from tomoscale.kernels.ball import Ball
from tomoscale.kernels.thickness import paint_largest
from tomoscale.step import Kernel


def mid_axes(largest: Ball) -> Kernel:
    """Kernel of the mid-axes, a mask, from squared distances to the outside.

    Parameters
    ----------
    largest : Ball
        At least as large as the largest ball that fits, in the units of the source. Balls beyond it are cut to it: where
        the structure is wider, all voxels at least that far inside are of the mid-axes.
    """
    return Kernel(
        "mid-axes",
        partial(_mid_axes_of_block, ball=largest),
        Halo.symmetric(largest.reach),
        np.dtype(bool),
        # As for the local thickness, whose painting this is.
        bytes_per_voxel=40,
        parameters={"radius_um": largest.radius_um},
        located=True,
    )


def _mid_axes_of_block(squared: Array, block: Block, ball: Ball) -> Array:
    xp = namespace_for(squared)
    cut = xp.minimum(squared, ball.limit)
    painted = paint_largest(cut, ball, block.core)
    own = cut[block.core]
    return (painted == own) & (own > 0)
