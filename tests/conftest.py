"""What every test shares."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio (watchfiles and aiohttp do too), so its tests do."""
    return "asyncio"
