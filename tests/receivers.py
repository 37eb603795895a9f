"""Where people get messages: a web address with TLS, and a mail server. Real ones, on loopback."""

from __future__ import annotations

import base64
import email
import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from loopback import Certificate
from studio import wait_until

USER, PASSWORD = "me@example.com", "pass word/1"


class WebSite:
    """Takes what is posted; `statuses` are those of the next answers, 200 else."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: list[int] = []
        self.bodies: list[dict[str, Any]] = []
        self.tries = 0

    def got(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait until so many messages came; returns all."""
        wait_until(lambda: len(self.bodies) >= count)
        return self.bodies

    @property
    def events(self) -> list[str]:
        """What the messages told of, in their order."""
        return [event["event"] for body in self.bodies for event in body["events"]]


@contextmanager
def web_site(certificate: Certificate | None) -> Iterator[WebSite]:
    """Serve one, with TLS where there is a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            site.tries += 1
            status = site.statuses.pop(0) if site.statuses else 200
            if status == 200:
                site.bodies.append(json.loads(data))
            self.send_response(status)
            if status == 307:
                self.send_header("Location", "http://127.0.0.1:1/")
            if status == 429:
                self.send_header("Retry-After", "1800")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        server.socket = certificate.server.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    site = WebSite(f"{scheme}://127.0.0.1:{server.server_address[1]}/hook/Secret123Token?key=QuerySecret456")
    with _served(server):
        yield site


class MailSite:
    """Takes mails. `starttls`: it offers TLS; `refuses`: a part of the address that it does not know."""

    def __init__(self) -> None:
        self.port = 0
        self.starttls = True
        self.refuses = ""
        self.mails: list[EmailMessage] = []
        self.logins: list[tuple[str, str]] = []
        self.was_secure: list[bool] = []


class _MailServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, site: MailSite, tls: ssl.SSLContext, *, is_tls: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.site, self.tls, self.is_tls = site, tls, is_tls


class _Conversation(socketserver.BaseRequestHandler):
    """One client: a few commands of RFC 5321, a line each."""

    server: _MailServer

    def handle(self) -> None:
        with suppress(OSError, ValueError):
            if self.server.is_tls:
                self.request = self.server.tls.wrap_socket(self.request, server_side=True)
            self._talk()
        self.request.close()

    def _talk(self) -> None:
        site = self.server.site
        self.lines = self.request.makefile("rb")
        self._say("220 mail.example")
        while line := self.lines.readline().decode().strip():
            word, _, rest = line.partition(" ")
            word = word.upper()
            command = getattr(self, f"_{word.lower()}", None)
            if word == "RCPT" and site.refuses and site.refuses in rest:
                self._say("550 nobody of that name")
            elif word in {"MAIL", "RCPT", "RSET"}:
                self._say("250 well")
            elif command is None:
                self._say("502 no")
            else:
                command(rest)

    def _say(self, *lines: str) -> None:
        self.request.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def _is_secure(self) -> bool:
        return isinstance(self.request, ssl.SSLSocket)

    def _ehlo(self, _: str) -> None:
        more = ["250-STARTTLS"] if self.server.site.starttls and not self._is_secure() else []
        self._say("250-mail.example", "250-AUTH PLAIN", *more, "250 8BITMIME")

    def _starttls(self, _: str) -> None:
        self._say("220 go on")
        self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        self.lines = self.request.makefile("rb")

    def _auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        self.server.site.logins.append((user, password))
        known = (user, password) == (USER, PASSWORD)
        self._say("235 well" if known else "535 no: I have never heard of that password")

    def _data(self, _: str) -> None:
        self._say("354 go on")
        data = b""
        while (part := self.lines.readline()) != b".\r\n":
            data += part.removeprefix(b".")
        self.server.site.was_secure.append(self._is_secure())
        self.server.site.mails.append(email.message_from_bytes(data, policy=default))
        self._say("250 taken")

    def _quit(self, _: str) -> None:
        self._say("221 bye")


@contextmanager
def mail_site(certificate: Certificate, *, is_tls: bool) -> Iterator[MailSite]:
    """Serve one; `is_tls` from the first byte on."""
    site = MailSite()
    server = _MailServer(site, certificate.server, is_tls=is_tls)
    site.port = server.server_address[1]
    with _served(server):
        yield site


@contextmanager
def _served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
