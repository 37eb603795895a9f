"""Small real servers on loopback, for tests of what lies below HTTP; certificates for them."""

from __future__ import annotations

import ctypes
import os
import re
import select
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server:
    """Answers each request with `answer(head)`; where that is None it says nothing, and waits.

    `heads` are the requests as they came, `connections` how many were made; `asked` is set by the first
    request, `left` when a client has gone.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes | None] = lambda _: OK,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        self.connections = 0
        self.asked = threading.Event()
        self.left = threading.Event()
        self._answer = answer
        self._tls = tls
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(5)
        self._listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        with ExitStack() as stack, suppress(OSError):
            connection = stack.enter_context(raw)
            self._keep(connection)
            if self._tls is not None:
                connection = stack.enter_context(self._tls.wrap_socket(raw, server_side=True))
                self._keep(connection)
            self.talk(connection)
        self.left.set()

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.append(connection)

    def talk(self, connection: socket.socket) -> None:
        """Speak with one client until it goes."""
        while head := read_head(connection):
            self.heads.append(head)
            self.asked.set()
            answer = self._answer(head)
            if answer is None:
                connection.recv(1)  # until the other side, or `__exit__`, ends it
                return
            connection.sendall(answer)


class ConnectProxy(Server):
    """A proxy: whatever host a CONNECT names, it is `target`; a plain request it answers itself."""

    def __init__(
        self,
        target: int | None = None,
        *,
        status: bytes = b"200 Connection established",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(tls=tls)
        self._target = target
        self._status = status

    def talk(self, connection: socket.socket) -> None:
        while head := read_head(connection):
            self.heads.append(head)
            if not head.startswith(b"CONNECT "):
                connection.sendall(OK)
                continue
            connection.sendall(b"HTTP/1.1 " + self._status + b"\r\n\r\n")
            if not self._status.startswith(b"200"):
                return
            with socket.create_connection(("127.0.0.1", self._target or 0)) as onward:
                _relay(connection, onward)
            return


def read_head(connection: socket.socket) -> bytes:
    """Read a request's head to its empty line; empty when the other side has gone."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return b""
        head += byte
    return head


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        # What a TLS socket has already decrypted, `select` does not see.
        pending = [one] if isinstance(one, ssl.SSLSocket) and one.pending() else []
        ready = pending or select.select([one, other], [], [], 5)[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
        if not ready:
            return


@contextmanager
def trap(address: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    """Listen where nobody should come: fails, at its end, if somebody did."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, port), family=family) as listener:
        yield listener
        # The system completes a connection before it is accepted, and only then is there one to accept.
        reached, _, _ = select.select([listener], [], [], 0)
        assert not reached, f"somebody connected to {address}"


def in_own_network(work: Callable[[], None], *addresses: str) -> None:
    """Run `work` in a thread whose network is empty but for loopback, where `addresses` are too.

    So the open internet's addresses can be listened at, and nothing leaves the machine. Needs root.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            new_network = 0x4000_0000  # CLONE_NEWNET, see unshare(2); it holds for this thread and its own
            if ctypes.CDLL(None, use_errno=True).unshare(new_network):
                pytest.skip(f"no network of its own: {os.strerror(ctypes.get_errno())}")
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            for address in addresses:
                bits = "128" if ":" in address else "32"
                command = ["ip", "address", "add", f"{address}/{bits}", "dev", "lo"]
                # `nodad`: an IPv6 address that may be another's too cannot be listened at for a moment.
                subprocess.run([*command, *(["nodad"] if ":" in address else [])], check=True)
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


class Certificate:
    """A self-signed certificate for `names` in `folder`: `file` is also the CA that vouches for it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.file = folder / "certificate.pem"
        key = folder / "key.pem"
        kinds = ("IP" if re.fullmatch(r"[0-9.]+|.*:.*", name) else "DNS" for name in names)
        alternatives = ",".join(f"{kind}:{name}" for kind, name in zip(kinds, names, strict=True))
        command = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=floradl test"]
        command += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-addext", f"subjectAltName={alternatives}", "-keyout", str(key), "-out", str(self.file)]
        subprocess.run(command, check=True, capture_output=True)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(self.file, key)
