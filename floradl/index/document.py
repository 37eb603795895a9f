"""What the index takes from a sidecar: of this floradl's, an older or a later one's."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct, field

from floradl.fs.names import stored_path

_LONGEST_TEXT = 20_000  # characters of a run's texts that are searched
_LONGEST_NAME = 1000
_MOST_COST = 1e12  # USD that are believed


class ErrorDocument(Struct, frozen=True):
    """Why a run or an output is unavailable."""

    code: str
    message: str


class OutputDocument(Struct, frozen=True, kw_only=True):
    """One output; without a `path` it is not on disk."""

    output_id: str
    type: str = ""
    kind: str = "other"
    path: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    stored_etag: str | None = None
    content_type: str | None = None
    text: str | None = None
    downloaded_at: str | None = None
    error: ErrorDocument | None = None
    skipped: Any = None
    removed: Any = None

    @property
    def why_absent(self) -> str:
        """Why it is not on disk: `removed`, `skipped` or `failed`."""
        return "removed" if self.removed else "skipped" if self.skipped else "failed"


class _Times(Struct, frozen=True):
    completed_at: str | None = None
    finished_at: str | None = None


class _Answer(Struct, frozen=True):
    charged_cost: Any = None
    older_charged_cost: Any = field(default=None, name="chargedCost")


class RunDocument(Struct, frozen=True, kw_only=True):
    """One run. Times are RFC 3339 UTC."""

    run_id: str
    technique: str | None = None
    technique_id: str | None = None
    technique_name: str | None = None
    project_id: str | None = None
    project_name: str | None = None
    model_id: str | None = None
    label: str | None = None
    meta: Any = None
    result: str
    run: _Answer | None = None
    outputs: tuple[OutputDocument, ...] = ()
    error: ErrorDocument | None = None
    times: _Times = _Times()

    @property
    def project(self) -> str | None:
        """The project's name, or its id where no answer named it."""
        return self.project_name or self.project_id

    @property
    def cost(self) -> float | None:
        """What it cost, in USD; None where that is unknown."""
        said = (self.run.charged_cost, self.run.older_charged_cost) if self.run else ()
        numbers = (float(each) for each in said if type(each) in {int, float} and 0 <= each <= _MOST_COST)
        return next(numbers, None)

    @property
    def meta_texts(self) -> dict[str, str]:
        """What the user knows of it; anything but texts is left out."""
        meta = self.meta if isinstance(self.meta, dict) else {}
        return {key: value for key, value in meta.items() if isinstance(value, str)}

    def words(self) -> str:
        """Return all that a search looks at."""
        names = (self.run_id, self.technique, self.technique_name, self.project_id, self.project_name)
        said = [*names, self.model_id, self.label, *self.meta_texts.values()]
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
