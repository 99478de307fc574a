"""Runs that are stopped again and again, and go on each time where they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tomoscale.driver import Driver
from tomoscale.errors import Interrupted


def stopped_again_and_again(run: Callable[[], Any], every: int, most: int) -> tuple[Any, int]:
    """Stop a run after every so many blocks until it ends: what it gives, and how many blocks it recorded."""
    record, done = Driver._record, 0

    def stopping(driver: Driver, outcome: Any) -> None:
        nonlocal done
        record(driver, outcome)
        done += 1
        if done % every == 0:
            raise KeyboardInterrupt

    for _ in range(most):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Driver, "_record", stopping)
            try:
                return run(), done
            except Interrupted:
                continue
    raise AssertionError(f"the run did not end after {most} stops")
