"""A library in a folder that is filled by hand, and that may be killed at any of its steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.sidecar import Sidecar, Times, read
from floradl.models import OutputKind, Reference, Result, SavedOutput

FOLDERS = {kind: kind.value for kind in OutputKind}
LONG_AGO = "2026-01-01T00:00:00.000Z"


class KilledError(BaseException):
    """The process is gone: nothing may handle it."""


class MortalLibrary(FolderLibrary):
    """A library whose process is killed before or after its `steps`-th change."""

    steps: int | None = None

    def _step(self, change: Callable[[], Any]) -> Any:
        self._live()
        result = change()
        self._live()
        return result

    def _live(self) -> None:
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                raise KilledError

    def move(self, path: str, to: str) -> bool:
        moved: bool = self._step(lambda: FolderLibrary.move(self, path, to))
        return moved

    def remove(self, path: str) -> bool:
        removed: bool = self._step(lambda: FolderLibrary.remove(self, path))
        return removed

    def write_sidecar(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None) -> str:
        path: str = self._step(lambda: FolderLibrary.write_sidecar(self, sidecar, mtime, replacing))
        return path


class Shelf:
    """A library below `root`, and what a test puts into it."""

    def __init__(self, root: Path, template: str = "{folder}/{technique}/{run_id}-{output_id}{ext}") -> None:
        self.root = root
        self.paths = PathPlan.parse(template, FOLDERS, 255)
        self.library = self.opened()
        self.library.create()

    def opened(self, steps: int | None = None) -> MortalLibrary:
        """Open it as another process would, to be killed after so many steps."""
        library = MortalLibrary(self.root, self.paths)
        library.steps = steps
        return library

    def put(
        self,
        run_id: str,
        files: Mapping[str, str],
        technique: str | None = "campaign",
        kind: OutputKind = OutputKind.VIDEO,
        downloaded_at: str = LONG_AGO,
        **fields: Any,
    ) -> Sidecar:
        """Put a run there whose outputs lie at the paths of `files`; each path has its content."""
        outputs = []
        for number, (path, content) in enumerate(files.items()):
            place = self.root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)
            outputs.append(
                SavedOutput(
                    output_id="abcdefgh"[number],
                    type=f"{kind.value}Url",
                    kind=kind,
                    path=path,
                    bytes=len(content),
                    sha256=hashlib.sha256(content.encode()).hexdigest(),
                    downloaded_at=downloaded_at,
                )
            )
        sidecar = Sidecar(
            reference=str(Reference(run_id, technique)),
            technique=technique,
            run_id=run_id,
            result=Result.COMPLETE,
            outputs=tuple(outputs),
            times=Times(completed_at=LONG_AGO, finished_at=LONG_AGO),
            **fields,
        )
        self.library.write_sidecar(sidecar, None)
        return sidecar

    def read(self, run_id: str) -> Sidecar:
        """Return the one sidecar of a run."""
        (path,) = self.root.glob(f"runs/*/{run_id}.json")
        return read(path.read_bytes())

    def files(self) -> dict[str, str]:
        """Return the content of all files but marker and sidecars, by path."""
        return {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.name.startswith(".") and path.suffix != ".json"
        }

    def check(self) -> None:
        """Every file that a sidecar names is there and right, and no other is there."""
        named = set()
        for path in self.root.glob("runs/*/*.json"):
            for output in read(path.read_bytes()).outputs:
                if output.path is not None:
                    assert output.path not in named
                    named.add(output.path)
                    data = (self.root / output.path).read_bytes()
                    assert hashlib.sha256(data).hexdigest() == output.sha256
        assert {path for path in self.files() if not path.endswith((".xmp", ".damaged"))} == named
