"""A library as floradl leaves it, with whatever one wants in it, and its gallery on a real socket."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
from PIL import Image

from floradl.gallery.app import Act
from floradl.gallery.server import GalleryOptions, bound, serve
from floradl.index.library_index import LibraryIndex
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.models import OutputKind
from floradl.net.addresses import Endpoint
from floradl.redaction import Secret

HOST = "127.0.0.1"
TOKEN = "a-token-that-nobody-guesses"
_ENDINGS = {"image": "png", "video": "mp4", "audio": "mp3", "document": "pdf", "text": "txt", "other": "bin"}


def picture(width: int = 64, height: int = 48, form: str = "PNG", color: str = "teal") -> bytes:
    """Return a picture's bytes."""
    made = io.BytesIO()
    Image.new("RGB", (width, height), color).save(made, form)
    return made.getvalue()


class DoorAlone:
    """A library that nobody sees is a folder: its door, and how often each method of it was called."""

    def __init__(self, library: LibraryStore) -> None:
        self._library = library
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name not in vars(LibraryStore):
            raise AttributeError(name)
        self.calls[name] += 1
        return getattr(self._library, name)


class Shelf:
    """A library in a folder, to put runs into; known by its door alone where it is to be `a_store`."""

    library: LibraryStore

    def __init__(self, root: Path, *, a_store: bool = False) -> None:
        self.root = root
        self.place = root.parent / "state"
        self.place.mkdir(parents=True, exist_ok=True)
        root.mkdir(parents=True, exist_ok=True)
        (root / ".floradl-library").touch()
        folders = {kind: kind.value for kind in OutputKind}
        self.library = FolderLibrary(root, PathPlan.parse("{folder}/{run_id}-{output_id}{ext}", folders, 255))
        self.door = DoorAlone(self.library)
        if a_store:
            self.library = cast("LibraryStore", self.door)

    def sidecar(self, run_id: str, technique: str = "campaign") -> Path:
        """Return where a run's sidecar is."""
        return self.root / "runs" / technique / f"{run_id}.json"

    def put(self, run_id: str, *outputs: Mapping[str, Any], day: str = "2026-11-20", **run: Any) -> str:
        """Save a run: files first, then the sidecar under its name; return the sidecar's path.

        An output has `data`, or `path` where a file is there already; and `kind`, and all else said of it.
        """
        told = [self._output(run_id, nth, dict(output)) for nth, output in enumerate(outputs or ({},), 1)]
        at = f"{day}T12:00:00.000Z"
        technique = run.pop("technique", "campaign")
        whole = {
            "schema_version": 1,
            "reference": f"{technique}/{run_id}",
            "technique": technique,
            "run_id": run_id,
            "label": None,
            "result": "complete",
            "run": {"charged_cost": 0.25},
            "outputs": told,
            "error": None,
            "times": {"completed_at": at, "finished_at": at},
            **run,
        }
        path = self.sidecar(run_id, technique)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{run_id}.part")
        temporary.write_text(json.dumps(whole))
        temporary.replace(path)
        return path.relative_to(self.root).as_posix()

    def _output(self, run_id: str, nth: int, output: dict[str, Any]) -> dict[str, Any]:
        kind = output.pop("kind", "image")
        data: bytes | None = output.pop("data", None)
        path = output.get("path", f"{kind}s/{run_id}-{nth}.{_ENDINGS.get(kind, 'bin')}")
        if data is None and "path" not in output:
            data = picture()
        if data is not None and path is not None:
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        sha256 = hashlib.sha256(data or b"").hexdigest()
        known = {"output_id": f"output_{nth}", "type": "imageUrl", "kind": kind, "path": path}
        return {**known, "bytes": len(data or b""), "sha256": sha256, "text": None, "error": None, **output}

    @contextmanager
    def indexed(self) -> Iterator[LibraryIndex]:
        """Give the index of it, up to date."""
        index = LibraryIndex(self.place, self.library)
        try:
            index.rebuild()
            yield index
        finally:
            index.close()

    @asynccontextmanager
    async def shown(
        self,
        *,
        token: str | None = None,
        act: Act | None = None,
        read: Callable[[], dict[str, Any]] | None = None,
        saved: Callable[[], list[str]] = list,
        **status: Any,
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Serve its gallery; gives a client, once all is read."""
        secret = None if token is None else Secret(token)
        with bound(Endpoint(HOST, 0), secret) as listener:
            port: int = listener.getsockname()[1]
            endpoint = Endpoint(HOST, port)
            status_of = read or (lambda: status)
            options = GalleryOptions(endpoint, self.place, secret, os.environ, status_of, act, saved)
            async with (
                anyio.create_task_group() as group,
                httpx.AsyncClient(base_url=f"http://{endpoint}", trust_env=False, timeout=30) as client,
            ):
                group.start_soon(serve, self.library, options, listener)
                own = {} if token is None else {"Authorization": f"Bearer {token}"}
                while (await client.get("/api/status", headers=own)).json().get("indexing") is not None:  # noqa: ASYNC110
                    await anyio.sleep(0.02)
                yield client
                group.cancel_scope.cancel()


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    """Return the runs that the gallery lists."""
    answer = await client.get("/api/outputs", params=query)
    assert answer.status_code == 200, answer.text
    return [output["run_id"] for output in answer.json()["outputs"]]


async def becomes_listed(client: httpx.AsyncClient, *run_ids: str) -> None:
    """Wait until the gallery lists these runs alone."""
    found: list[str] = []

    async def look() -> None:
        while sorted(set(found)) != sorted(run_ids):
            found[:] = await listed(client)
            await anyio.sleep(0.02)

    with anyio.fail_after(60):
        await look()


def opened(name: str) -> int:
    """Count how often this process has a file of that name open."""
    links = [path for path in Path("/proc/self/fd").iterdir() if os.path.lexists(path)]
    return sum(link.readlink().name == name for link in links)
