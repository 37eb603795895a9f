"""The media host: nginx over TLS, which serves real files with lengths and ETags."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.identity import HOST, Identity
from benchmarks.plan import BenchmarkError, Plan
from benchmarks.processes import running, tail

_CONFIG = """
{module}
{user}
daemon off;
worker_processes auto;
pid {work}/nginx.pid;
error_log {work}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  types {{ image/png png; video/mp4 mp4; }}
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  output_buffers 2 256k;
  open_file_cache max=10000 inactive=1h;
  open_file_cache_valid 1h;
  keepalive_timeout 300;
  keepalive_requests 1000000;
  ssl_certificate {identity.certificate};
  ssl_certificate_key {identity.key};
  ssl_session_cache shared:tls:1m;
  client_body_temp_path {work}/nginx-body;
  proxy_temp_path {work}/nginx-proxy;
  fastcgi_temp_path {work}/nginx-fastcgi;
  uwsgi_temp_path {work}/nginx-uwsgi;
  scgi_temp_path {work}/nginx-scgi;
  server {{
    listen {host}:{port} ssl backlog=1024;
    root {files};
    {locations}
  }}
}}
"""
# The delay is a timer of nginx's, before the answer's first byte; connections are made without it.
_DELAYED = """
    location / {{ echo_sleep {delay}; echo_exec @file; }}
    location @file {{ }}
"""


@contextmanager
def serving(
    plan: Plan, files: Path, identity: Identity, delay: float = 0.0, locations: str = ""
) -> Iterator[str]:
    """Serve the folder `files` while the block lasts, each answer `delay` seconds late; gives the base URL.

    `locations` are more blocks of nginx's configuration.

    Raises `BenchmarkError` where nginx does not come up.
    """
    port = _free_port()
    config = plan.work / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            work=plan.work,
            files=files,
            identity=identity,
            host=HOST,
            port=port,
            user="user root;" if os.geteuid() == 0 else "",  # its workers must be able to read the folder
            module=f"load_module {plan.tools.path('nginx-echo')};" if delay else "",
            locations=locations + (_DELAYED.format(delay=delay) if delay else ""),
        )
    )
    log = plan.work / "nginx.log"
    command = [plan.tools.path("nginx"), "-p", str(plan.work), "-c", str(config), "-e", str(log)]
    with running(command, os.environ, log) as process:
        deadline = time.monotonic() + 10
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchmarkError(f"nginx does not come up: {tail(log)}")
            time.sleep(0.02)
        yield f"https://{HOST}:{port}"


def _free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
