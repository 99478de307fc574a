"""Files of these tests need not outlive a power cut: syncing thousands of them would take most of the time."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="package")
def _without_syncing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
