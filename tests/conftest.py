"""Fixtures all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tomoscale.arrays import cuda_available

settings.register_profile(
    "tomoscale", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.load_profile("tomoscale")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not cuda_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """One test body for the host and the GPU."""
    return str(request.param)


@pytest.fixture
def real_data() -> Path:
    """The folder of real scans; the test is skipped where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real scans are not on this machine")
    return REAL_DATA


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch: threads of small tensors wait for each other."""
    import torch  # most tests do without

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
