"""What path a media host is asked for, and what name its answer gets, on real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from wire import PNG, Bench, MediaHost, Reply, Request, answer

IMAGE = answer(PNG, "Content-Type: image/png")
TARGETS = [
    "/a/../b.png?sig=x",
    "/a/./b.png",
    "/a/..",
    "/../../b.png",
    "//a//../b.png",
    "/a/%2e%2e/b.png",
    "/a/%2E./%2f../b.png?of=/../c",
    "/a/.../b.png",
    "/plain/b.png?of=/./c",
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path) as bench:
        yield bench


@pytest.mark.parametrize("target", TARGETS)
def test_dot_segments_of_a_path_reach_the_host_as_they_are(bench: Bench, target: str) -> None:
    with MediaHost(lambda _: Reply(IMAGE)) as host:
        bench.fetch(host.url(target))
        assert [request.path for request in host.requests] == [target]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("absolute", [False, True])
def test_dot_segments_of_a_redirect_reach_the_host_as_they_are(
    bench: Bench, target: str, *, absolute: bool
) -> None:
    def reply(request: Request) -> Reply:
        if request.path == target:
            return Reply(IMAGE)
        start = host.url("") if absolute or target.startswith("//") else ""
        return Reply(answer(b"", f"Location: {start}{target}#part", status="302 Found"))

    with MediaHost(reply) as host:
        bench.fetch(host.url("/x/../y"))
        assert [request.path for request in host.requests] == ["/x/../y", target]
