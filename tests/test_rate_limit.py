"""The rate limit where it is felt: at sockets, and in processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clients import client
from hands import Frozen, Hands
from loopback import Certificate
from studio import wait_until
from wire import PNG, Bench, MediaHost, Reply, answer, serving

from floradl.net.bandwidth import BandwidthLimiter, RateSchedule
from floradl.net.client import MediaClient
from floradl.net.url_policy import UrlPolicy

BODY = bytes(400_000)
BURST = 0.1  # seconds' worth of bytes that may be saved up, or be asked for and not come


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"), "127.0.0.1")


@pytest.fixture
def host() -> Iterator[MediaHost]:
    with MediaHost(serving(Reply(answer(BODY)))) as host:
        yield host


def take_all(media: MediaClient, url: str, count: int) -> int:
    """Read the body at `url` in so many threads at once; returns the bytes of all."""
    sizes: list[int] = []
    threads = [
        threading.Thread(target=lambda: sizes.append(len(media.get(url).content))) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(sizes)


@pytest.mark.parametrize("rate", [20_000, 2_000_000])
@pytest.mark.parametrize("transfers", [1, 5])
def test_real_transfers_take_the_time_that_the_rate_gives(host: MediaHost, rate: int, transfers: int) -> None:
    hands = Hands()
    began = hands.now
    with client(
        UrlPolicy(["127.0.0.1"]), bandwidth=BandwidthLimiter(RateSchedule.always(rate), hands)
    ) as media:
        total = take_all(media, host.url(), transfers)
    assert total == transfers * len(BODY)
    assert hands.now - began == pytest.approx(total / rate, rel=0.05, abs=BURST)


def test_the_rate_holds_over_tls(certificate: Certificate) -> None:
    hands = Hands()
    began = hands.now
    bandwidth = BandwidthLimiter(RateSchedule.always(50_000), hands)
    tls = {"SSL_CERT_FILE": str(certificate.file)}
    with (
        MediaHost(serving(Reply(answer(BODY))), certificate) as host,
        client(UrlPolicy(["127.0.0.1"]), tls, bandwidth=bandwidth) as media,
    ):
        assert media.get(host.url()).content == BODY
    assert hands.now - began == pytest.approx(len(BODY) / 50_000, rel=0.05, abs=BURST)


@pytest.mark.usefixtures("by")
@pytest.mark.parametrize("by", ["here", "worker"], indirect=True)
def test_a_limited_transfer_is_neither_a_stall_nor_late(tmp_path: Path) -> None:
    """Held below what a server may crawl at, for longer than it may, and than a transfer may take."""
    with (
        MediaHost(serving(Reply(answer(PNG)))) as host,
        Bench(
            tmp_path, stall_timeout=0.5, deadline=0.5, bandwidth=BandwidthLimiter(RateSchedule.always(800))
        ) as bench,
    ):
        assert bench.fetch(host.url()).data == PNG
    assert len(host.requests) == 1


def test_a_server_that_crawls_is_given_up_under_a_limit_too(tmp_path: Path) -> None:
    crawl = Reply(answer(PNG), drip=10)
    with (
        MediaHost(serving(crawl)) as host,
        Bench(tmp_path, stall_timeout=1.0, bandwidth=BandwidthLimiter(RateSchedule.always(100_000))) as bench,
        pytest.raises(Exception, match="does not answer in time"),
    ):
        bench.fetch(host.url())


def test_shutting_the_connections_ends_the_wait_for_a_turn(host: MediaHost) -> None:
    frozen = Frozen()
    ended: list[BaseException] = []

    def work() -> None:
        try:
            media.get(host.url())
        except httpx.TransportError as error:
            ended.append(error)

    with client(
        UrlPolicy(["127.0.0.1"]), bandwidth=BandwidthLimiter(RateSchedule.always(1000), frozen)
    ) as media:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(frozen.waiting.is_set)
        media.abort()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert len(ended) == 4
