"""A certificate for the local server, and the authority that signed it: both thrown away afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

from msgspec import Struct

HOST = "127.0.0.1"


class Identity(Struct, frozen=True):
    """The files of a server's identity; clients are told to trust `authority`."""

    authority: Path
    certificate: Path
    key: Path


def make_identity(openssl: str, folder: Path) -> Identity:
    """Make an authority and a certificate for `HOST` in `folder`. Raises `CalledProcessError`."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, authority_key = folder / "authority.pem", folder / "authority.key"
    identity = Identity(authority, folder / "server.pem", folder / "server.key")
    request = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    request += ["-sha256", "-days", "2"]
    _run(
        *(*request, "-subj", "/CN=floradl benchmarks authority", "-keyout", str(authority_key)),
        *("-addext", "keyUsage=critical,keyCertSign", "-out", str(authority)),
    )
    _run(
        *(*request, "-subj", "/CN=floradl benchmarks", "-keyout", str(identity.key)),
        *("-CA", str(authority), "-CAkey", str(authority_key), "-out", str(identity.certificate)),
        *("-addext", f"subjectAltName=IP:{HOST}", "-addext", "basicConstraints=critical,CA:FALSE"),
        *("-addext", "extendedKeyUsage=serverAuth"),
    )
    return identity


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
