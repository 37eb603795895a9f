"""The floor of row c2: what the least program in plain Python takes that puts files on disk as floradl does.

It knows a ready list of URLs, and nothing of FLORA, names, limits, refusals, restarts or other processes: one
thread fetches with non-blocking sockets, another hashes, flushes, renames, and writes journal and sidecars.

    python floor.py URLS AUTHORITY CONNECTIONS      # into the folder that it is started in
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import socket
import sqlite3
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import SplitResult, urlsplit

_BATCH = 16
_DIALERS = 8
_OUTPUTS = 4  # of a run


def main() -> None:
    """Fetch what the arguments name."""
    urls, authority, connections = sys.argv[1:]
    todo = Path(urls).read_text().split()
    came: SimpleQueue[tuple[str, bytearray]] = SimpleQueue()
    disk = Thread(target=_store, args=(came, len(todo)))
    disk.start()
    _fetch(todo, authority, int(connections), came)
    disk.join()


class _Connection:
    """A connection, and the answer that comes over it."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def ask(self, url: SplitResult) -> None:
        self.name = url.path.rpartition("/")[2]
        self._head = bytearray()
        self._body: bytearray | None = None
        self._at = 0
        self.sock.send(f"GET {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode())

    def read(self, space: memoryview) -> bytearray | None:
        """Return the body once it is whole; None where more is to come."""
        try:
            while self._body is None or self._at < len(self._body):
                if self._body is not None:
                    self._at += self.sock.recv_into(memoryview(self._body)[self._at :])
                    continue
                self._head += space[: self.sock.recv_into(space)]
                head, end, body = self._head.partition(b"\r\n\r\n")
                if end:
                    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                    self._body = bytearray(int(length))
                    self._body[: len(body)] = body
                    self._at = len(body)
        except (ssl.SSLWantReadError, BlockingIOError):
            return None
        return self._body


def _fetch(
    urls: list[str], authority: str, connections: int, came: SimpleQueue[tuple[str, bytearray]]
) -> None:
    todo = iter([urlsplit(url) for url in urls])
    first = urlsplit(urls[0])
    context = ssl.create_default_context(cafile=authority)
    space = memoryview(bytearray(64 << 10))

    def dial(_: int) -> _Connection:
        sock = socket.create_connection((first.hostname or "", first.port or 443))
        return _Connection(context.wrap_socket(sock, server_hostname=first.hostname))

    with selectors.DefaultSelector() as selector:

        def ask(connection: _Connection) -> None:
            if (url := next(todo, None)) is not None:
                connection.ask(url)
            else:
                selector.unregister(connection.sock)
                connection.sock.close()

        with ThreadPoolExecutor(_DIALERS) as dialers:
            for connection in dialers.map(dial, range(connections)):
                selector.register(connection.sock, selectors.EVENT_READ, connection)
                ask(connection)
        while selector.get_map():
            for key, _ in selector.select():
                connection = key.data
                if (body := connection.read(space)) is not None:
                    came.put((connection.name, body))
                    ask(connection)


def _store(came: SimpleQueue[tuple[str, bytearray]], left: int) -> None:
    """Put files on disk in batches: each file, their folder, their rows, and the sidecars of whole runs."""
    for folder in ("runs", "state"):
        Path(folder).mkdir()
    files, sidecars = (os.open(folder, os.O_RDONLY) for folder in (".", "runs"))
    runs: dict[str, list[tuple[str, int, str]]] = {}
    with closing(sqlite3.connect("state/journal.sqlite3", isolation_level=None)) as journal:
        journal.execute("PRAGMA journal_mode=WAL")
        journal.execute("PRAGMA synchronous=FULL")
        journal.execute("CREATE TABLE saved (name TEXT, bytes INTEGER, sha256 TEXT)")
        while left:
            rows = []
            for name, body in _batch(came):
                rows.append((name, len(body), hashlib.sha256(body).hexdigest()))
                _write(files, name, body)
                runs.setdefault(name.split("-")[1], []).append(rows[-1])
            os.fsync(files)
            journal.execute("BEGIN")
            journal.executemany("INSERT INTO saved VALUES (?, ?, ?)", rows)
            journal.execute("COMMIT")
            for run in [run for run, saved in runs.items() if len(saved) == _OUTPUTS]:
                _write(sidecars, f"{run}.json", json.dumps({"run": run, "outputs": runs.pop(run)}).encode())
            os.fsync(sidecars)
            left -= len(rows)


def _batch(came: SimpleQueue[tuple[str, bytearray]]) -> list[tuple[str, bytearray]]:
    batch = [came.get()]
    while len(batch) < _BATCH:
        try:
            batch.append(came.get_nowait())
        except Empty:
            break
    return batch


def _write(folder: int, name: str, data: bytes | bytearray) -> None:
    part = f".{name}.part"
    fd = os.open(part, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.rename(part, name, src_dir_fd=folder, dst_dir_fd=folder)


if __name__ == "__main__":
    main()
