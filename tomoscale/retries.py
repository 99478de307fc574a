"""Errors of storage that a pause may mend: a file server that is busy, restarts, or replaced a file."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import TypeVar

TRANSIENT = frozenset(
    {errno.ESTALE, errno.EIO, errno.EAGAIN, errno.ETIMEDOUT, errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET}
)
"""A stale handle, a failed transfer, a server that does not answer in time or ends the connection."""

PAUSES_SECONDS = (0.1, 0.5, 2.0)
"""Before each further try; what lasts longer than these is left to the tries of a block, and then to the user."""

Result = TypeVar("Result")


def retried(function: Callable[[], Result]) -> Result:
    """Call a function that may be called again, until it gives no transient error of storage or the pauses are used up.

    Raises
    ------
    OSError
        The last transient error, or any other at once.
    """
    for pause in PAUSES_SECONDS:
        try:
            return function()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
        time.sleep(pause)
    return function()
