"""What every test shares."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# How fast an example runs says something about this machine, not about floradl.
settings.register_profile("floradl", deadline=None)
settings.load_profile("floradl")


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio (watchfiles and aiohttp do too), so its tests do."""
    return "asyncio"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call does not allow, and say so."""
    for item in items:
        if "root" in item.keywords and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --slow runs it"))
