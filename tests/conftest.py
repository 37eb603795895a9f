"""What every test shares."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import SITE
from hypothesis import settings
from loopback import Certificate
from studio import Home, served
from wire import Bench, By, ByWorker

from floradl.simulator import Simulator

if TYPE_CHECKING:
    from browser import Gallery, Opener
    from object_stores import Store
    from playwright.sync_api import Browser

# A shell starts what it runs in the background so, and what tests start would take no Ctrl-C either.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast an example runs says something about this machine, not about floradl.
settings.register_profile("floradl", deadline=None)
settings.load_profile("floradl")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let what is said of a transfer hold whoever makes it: tests that have a `Bench` run once for each.

    One with a FLORA runs the program, which decides that by itself.
    """
    module = metafunc.module
    benched = module.__name__.startswith("test_wire_") and hasattr(module, "Bench")
    if benched and "simulator" not in metafunc.fixturenames:
        metafunc.fixturenames.append("by")
        metafunc.parametrize("by", ["here", "worker", "many"], indirect=True)


@pytest.fixture
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> By:
    """Who makes the test's transfers."""
    made_by: By = request.param
    monkeypatch.setattr(Bench, "by", made_by)
    return made_by


@pytest.fixture(scope="session", autouse=True)
def workers() -> Iterator[None]:
    """Processes that make transfers for any test, and end with the last one."""
    yield
    ByWorker.end_all()


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """Object stores by scheme, `s3` and `az`: each is started when it is first needed."""
    from object_stores import end_stores, store_of  # noqa: PLC0415 - of the tests that need one alone

    yield lambda scheme: store_of(scheme, tmp_path_factory)
    end_stores()


@pytest.fixture(scope="session", autouse=True)
def database_server() -> Iterator[None]:
    """A PostgreSQL server for all tests that ask for one; it ends with the last test."""
    yield
    if "databases" in sys.modules:
        sys.modules["databases"].stop_shared()


@pytest.fixture
def anyio_backend() -> str:
    """The daemon runs on asyncio (watchfiles and aiohttp do too), so its tests do."""
    return "asyncio"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """A FLORA that serves, with nothing in it yet."""
    simulator = Simulator()
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    """A user's floradl that knows this FLORA."""
    return Home(tmp_path, simulator)


@pytest.fixture
def worked(request: pytest.FixtureRequest, home: Home, fetched: Path, simulator: Simulator) -> Home:
    """A copy of the home that the module's `fetched` worked off, beside a FLORA that `add_runs` filled."""
    request.module.add_runs(simulator)
    return home.take_over(fetched)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """What the test servers show, and whoever trusts it."""
    return Certificate(tmp_path_factory.mktemp("tls"), SITE, "public.example", "127.0.0.1")


@pytest.fixture
def tls(certificate: Certificate) -> dict[str, str]:
    """An environment that trusts `certificate`."""
    return {"SSL_CERT_FILE": str(certificate.file)}


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens at, and nobody else gets meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def no_descriptor_is_left_open() -> Iterator[None]:
    """A test at whose end no file is open that was not at its beginning."""
    gc.collect()  # what an earlier test left behind is closed now, and not meanwhile
    before = _open_files()
    yield
    assert _open_files() - before == set()


def _open_files() -> set[tuple[str, str]]:
    """Return each descriptor of this process, and what it is of."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add((number, os.readlink(f"/proc/self/fd/{number}")))  # noqa: PTH115 - no file's
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes, too")


def pytest_collection_finish() -> None:
    """Leave ten thousand collected tests out of all later collections of garbage: each took 0.2 s more."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or this call does not allow, and say so."""
    for item in items:
        if "root" in item.keywords and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: --slow runs it"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests of a module."""
    from browser import chromium  # noqa: PLC0415 - of those tests alone, as below

    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of axe-core."""
    from browser import axe_source  # noqa: PLC0415

    return axe_source(tmp_path_factory.mktemp("axe"))


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Opener]:
    """Opens pages, each in a context of its own; at the end nothing was wrong in any."""
    from browser import pages  # noqa: PLC0415

    with pages(browser) as opener:
        yield opener


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gallery]:
    """A library with outputs of all kinds, which no test changes."""
    from browser import Planted, gallery_of, plant  # noqa: PLC0415

    home = Home(tmp_path_factory.mktemp("home"))
    plant(Planted(home.library), tmp_path_factory.mktemp("media"))
    with gallery_of(home) as running:
        yield running
