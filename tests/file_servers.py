"""Real file servers on loopback, each of which serves a folder, and a line to them that breaks."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import npm
import pytest
from loopback import Server
from ports import free_port
from studio import wait_until

EXPRESS = "express@5.1.0"
_NGINX = """
daemon off; worker_processes 1; error_log {work}/error.log; pid {work}/pid;
events {{ worker_connections 64; }}
http {{
  access_log off; types {{ image/png png; }}
  client_body_temp_path {work}/a; proxy_temp_path {work}/b; fastcgi_temp_path {work}/c;
  uwsgi_temp_path {work}/d; scgi_temp_path {work}/e;
  server {{ listen 127.0.0.1:{port}; root {files}; }}
}}
"""
_APACHE = """
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {work}/pid
ErrorLog {work}/error.log
DefaultRuntimeDir {work}
DocumentRoot {files}
<Directory {files}>
  Require all granted
</Directory>
"""
_LIGHTTPD = """
server.document-root = "{files}"
server.bind = "127.0.0.1"
server.port = {port}
server.pid-file = "{work}/pid"
mimetype.assign = (".png" => "image/png")
"""
_EXPRESS = """
const express = require("express");
express().use(express.static(process.argv[2])).listen(Number(process.argv[3]), "127.0.0.1");
"""


def _program(*names: str) -> str:
    for name in names:
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/bin")
        if found:
            return found
    pytest.skip(f"{names[0]} is not installed")


def _nginx(work: Path, files: Path, port: int) -> list[str]:
    program = _program("nginx")
    (work / "nginx.conf").write_text(_NGINX.format(work=work, files=files, port=port))
    return [program, "-p", str(work), "-c", str(work / "nginx.conf"), "-e", str(work / "error.log")]


def _apache(work: Path, files: Path, port: int) -> list[str]:
    program = _program("apache2", "httpd")
    modules = Path("/usr/lib/apache2/modules")
    if not (modules / "mod_mpm_event.so").exists():
        pytest.skip("apache2 has no modules where Debian has them")
    (work / "apache.conf").write_text(_APACHE.format(modules=modules, work=work, files=files, port=port))
    return [program, "-X", "-d", str(work), "-f", str(work / "apache.conf")]


def _lighttpd(work: Path, files: Path, port: int) -> list[str]:
    program = _program("lighttpd")
    (work / "lighttpd.conf").write_text(_LIGHTTPD.format(work=work, files=files, port=port))
    return [program, "-D", "-f", str(work / "lighttpd.conf")]


def _rclone(work: Path, files: Path, port: int) -> list[str]:
    program = _program("rclone")
    return [
        program,
        "serve",
        "http",
        str(files),
        "--addr",
        f"127.0.0.1:{port}",
        "--config",
        str(work / "none"),
    ]


def _express(work: Path, files: Path, port: int) -> list[str]:
    npm.install(EXPRESS, work)
    (work / "serve.js").write_text(_EXPRESS)
    return ["node", str(work / "serve.js"), str(files), str(port)]


SERVERS: dict[str, Callable[[Path, Path, int], list[str]]] = {
    "nginx": _nginx,
    "apache": _apache,
    "lighttpd": _lighttpd,
    "rclone": _rclone,
    "express": _express,
}


@contextmanager
def serving_files(name: str, work: Path, files: Path) -> Iterator[int]:
    """Have the server `name` serve the folder `files` until the end; yields its port."""
    work.mkdir(parents=True)
    # Some drop root, and must still read what pytest made for root alone.
    for folder in (files, *files.parents):
        with suppress(OSError):
            folder.chmod(folder.stat().st_mode | 0o055)
    port = free_port()
    log = (work / "output").open("wb")
    with log, subprocess.Popen(SERVERS[name](work, files, port), stdout=log, stderr=log) as process:
        try:
            wait_until(lambda: process.poll() is not None or _listens(port))
            assert process.poll() is None, (work / "output").read_text()
            yield port
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


class BreakingLine(Server):
    """Leads each connection to `target`, and breaks it after `most` bytes of answers; None for never.

    `carried` is how many bytes of answers went over it in all.
    """

    def __init__(self, target: int, most: int | None) -> None:
        super().__init__()
        self._target = target
        self.most = most
        self.carried = 0

    def talk(self, connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", self._target)) as onward:
            poller = threading.Thread(target=_pour, args=(connection, onward), daemon=True)
            poller.start()
            left = self.most
            while left is None or left > 0:
                data = onward.recv(65536 if left is None else min(left, 65536))
                if not data:
                    break
                connection.sendall(data)
                self.carried += len(data)
                left = None if left is None else left - len(data)
            connection.shutdown(socket.SHUT_RDWR)
            poller.join(5)


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
