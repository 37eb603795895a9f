"""What the index takes from a sidecar: of this floradl's, an older or a later one's."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from floradl.fs.names import stored_path

_LONGEST_TEXT = 20_000  # characters of a run's texts that are searched
_LONGEST_NAME = 1000


class OutputDocument(Struct, frozen=True, kw_only=True):
    """One output; without a `path` it is not on disk."""

    output_id: str
    type: str = ""
    kind: str = "other"
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    text: str | None = None
    downloaded_at: str | None = None


class _Times(Struct, frozen=True):
    completed_at: str | None = None
    finished_at: str | None = None


class _Failure(Struct, frozen=True):
    code: str
    message: str


class _Answer(Struct, frozen=True):
    charged_cost: Any = None
    older_charged_cost: Any = field(default=None, name="chargedCost")


class RunDocument(Struct, frozen=True, kw_only=True):
    """One run. Times are RFC 3339 UTC."""

    run_id: str
    technique: str | None = None
    technique_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    model_id: str | None = None
    label: str | None = None
    meta: Any = None
    result: str
    run: _Answer | None = None
    outputs: tuple[OutputDocument, ...] = ()
    error: _Failure | None = None
    times: _Times = _Times()

    @property
    def project(self) -> str | None:
        """The project's name, or its id where no answer named it."""
        return self.project_name or self.project_id

    @property
    def cost(self) -> float | None:
        """What it cost, in USD; None where that is unknown."""
        said = self.run and (self.run.charged_cost, self.run.older_charged_cost)
        numbers = (float(each) for each in said or () if isinstance(each, int | float))
        return next(numbers, None)

    def words(self) -> str:
        """Return all that a search looks at."""
        meta = self.meta if isinstance(self.meta, dict) else {}
        names = (self.run_id, self.technique, self.technique_name, self.project_id, self.project_name)
        said = [*names, self.model_id, self.label, *map(str, meta.values())]
        texts = "\n".join(output.text for output in self.outputs if output.text)
        return "\n".join([*(each[:_LONGEST_NAME] for each in said if each), texts[:_LONGEST_TEXT]])


_DECODER = msgspec.json.Decoder(RunDocument)


def read_document(data: bytes) -> RunDocument | None:
    """Read a sidecar's bytes; None where they are none, or an output's path leads out of the library."""
    try:
        document = _DECODER.decode(data)
        for output in document.outputs:
            if output.path is not None:
                stored_path(output.path)
    except (ValueError, RecursionError):  # msgspec's errors are among them
        return None
    return document
