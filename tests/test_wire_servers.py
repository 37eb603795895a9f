"""Real file servers: over a line that breaks the file arrives, and nothing is spliced from two."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from file_servers import SERVERS, BreakingLine, serving_files
from wire import Bench

from floradl.errors import TransientError
from floradl.simulator import formats

SIZE = 20_000_000
BREAK = 6_000_000  # bytes
AN_HOUR_BEFORE = 1.7e9


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp(request.param)
    files = folder / "files"
    files.mkdir()
    with serving_files(request.param, folder / "work", files) as port:
        yield Server(request.param, files / "o.png", port)


@dataclass(frozen=True)
class Server:
    """A server that has one file."""

    name: str
    file: Path
    port: int

    def put(self, body: bytes) -> None:
        """Give the file another content, in place, of the same time."""
        self.file.write_bytes(body)
        os.utime(self.file, (AN_HOUR_BEFORE, AN_HOUR_BEFORE))
        self.file.chmod(0o644)


@pytest.fixture
def line(server: Server) -> Iterator[BreakingLine]:
    with BreakingLine(server.port, BREAK) as line:
        yield line


def attempts(bench: Bench, line: BreakingLine, most: int) -> bytes | None:
    """Try so often; give the file's bytes."""
    for _ in range(most):
        try:
            return bench.fetch(f"http://127.0.0.1:{line.port}/o.png").data
        except TransientError:
            assert bench.files() == []
    return None


def test_a_large_file_arrives_over_a_line_that_breaks(
    server: Server, line: BreakingLine, tmp_path: Path
) -> None:
    body = formats.png("large", "large", SIZE).read()
    server.put(body)
    with Bench(tmp_path) as bench:
        assert attempts(bench, line, 6) == body
    assert line.carried <= SIZE * 11 // 10


def test_a_file_that_another_of_its_length_and_time_replaces_is_not_spliced(
    server: Server, line: BreakingLine, tmp_path: Path
) -> None:
    body, other = (formats.png(seed, seed, SIZE).read() for seed in ("large", "other"))
    server.put(body)
    with ExitStack() as stack:
        bench = stack.enter_context(Bench(tmp_path))
        assert attempts(bench, line, 1) is None
        server.put(other)
        assert attempts(bench, line, 8) == bytes(other)


def test_a_file_that_is_older_in_the_middle_is_not_spliced(
    server: Server, line: BreakingLine, tmp_path: Path
) -> None:
    """What differs is compared wherever a break falls into it."""
    body = formats.png("large", "large", SIZE).read()
    other = bytearray(body)
    other[5_000_000:7_000_000] = formats.png("other", "other", SIZE).read()[5_000_000:7_000_000]
    server.put(body)
    with Bench(tmp_path) as bench:
        assert attempts(bench, line, 1) is None
        server.put(bytes(other))
        assert attempts(bench, line, 8) == bytes(other)
