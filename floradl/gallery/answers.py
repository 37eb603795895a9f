"""What the gallery's API says: views, outputs, runs, as JSON with a `schema_version` of its own."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.datastructures import QueryParams

from floradl.clock import unix_seconds
from floradl.gallery.thumbnails import is_sha256
from floradl.index.views import Layout, Page, ShownOutput, View
from floradl.units import parse_duration

SCHEMA_VERSION: Final = 1
MOST: Final = 500  # outputs a page
_USUAL: Final = 100
_MOST_VALUES: Final = 100
_LONGEST: Final = 1000
_PICTURED: Final = frozenset({"image", "video"})
_DRAWN: Final = (".svg", ".svgz")


class BadQueryError(ValueError):
    """A parameter of a request is wrong; the message says which, and what would be right."""


def view_of(query: QueryParams, now: float) -> View:
    """Read the filters of a URL. `now` is unix seconds. Raises `BadQueryError`."""
    several = {name: tuple(query.getlist(name)) for name in ("kind", "technique", "project", "label")}
    for name, values in several.items():
        if len(values) > _MOST_VALUES or any(len(value) > _LONGEST for value in values):
            raise BadQueryError(f"{name}: at most {_MOST_VALUES} values of {_LONGEST} characters")
    text = query.get("q", "")
    if len(text) > _LONGEST:
        raise BadQueryError(f"q: at most {_LONGEST} characters")
    since = query.get("since")
    return View(q=text, since=_since(since, now) if since else None, **several)


def limit_of(query: QueryParams) -> int:
    """Read how many outputs are wanted. Raises `BadQueryError`."""
    text = query.get("limit", str(_USUAL))
    if not text.isdecimal() or not 1 <= int(text[:6]) <= MOST:
        raise BadQueryError(f"limit: a number from 1 to {MOST}")
    return int(text)


def _since(text: str, now: float) -> float:
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return dt.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadQueryError("since: a duration such as 7d, or a date such as 2026-11-01") from None


def file_url(path: str) -> str:
    """Return where the gallery serves the file of the library at `path`."""
    return f"/files/{quote(path)}"


def thumbnail_url(kind: str, path: str, sha256: str | None) -> str | None:
    """Return where the thumbnail of such a file is; None where it has none.

    An SVG has none: to draw one is to run what somebody wrote, and a small one can take for ever.
    """
    if kind not in _PICTURED or not is_sha256(sha256) or path.lower().endswith(_DRAWN):
        return None
    return f"/thumbnails/{sha256}.webp"


def described(output: ShownOutput) -> dict[str, Any]:
    """Return an output as the API shows it."""
    return {
        "key": f"{output.run_id}/{output.nth}",
        "run_id": output.run_id,
        "output_id": output.output_id,
        "technique": output.technique,
        "technique_name": output.technique_name,
        "label": output.label,
        "project": output.project,
        "kind": output.kind,
        "name": output.path.rpartition("/")[2],
        "path": output.path,
        "url": file_url(output.path),
        "thumbnail": thumbnail_url(output.kind, output.path, output.sha256),
        "bytes": output.bytes,
        "sha256": output.sha256,
        "content_type": output.content_type,
        "width": output.width,
        "height": output.height,
        "completed_at": output.completed_at,
        "day": None if (at := unix_seconds(output.completed_at)) is None else day_of(at),
        "text": output.text,
    }


def day_of(seconds: float) -> str:
    """Return the day that a moment (unix seconds) belongs to, as 2026-11-29.

    It is this machine's, wherever the browser is: the same day as in names of files.
    """
    return time.strftime("%Y-%m-%d", time.localtime(seconds))


def page_answer(page: Page) -> dict[str, Any]:
    """Return the answer of `/api/outputs`."""
    return {"outputs": [described(each) for each in page.outputs], "total": page.total, "cursor": page.cursor}


def layout_answer(layout: Layout, now: float) -> dict[str, Any]:
    """Return the answer of `/api/view`; `now` is unix seconds."""
    days = [
        {"day": day.day, "count": day.count, "ratios": msgspec.Raw(f"[{day.ratios}]".encode())}
        for day in layout.days
    ]
    facets = {
        name: [{"value": value, "count": count} for value, count in values]
        for name, values in layout.facets.items()
    }
    return {"total": layout.total, "today": day_of(now), "days": days, "facets": facets}


def run_answer(sidecar: bytes, root: str) -> dict[str, Any]:
    """Return the answer of `/api/runs/RUN_ID`; `root` is the library. Raises `ValueError` for no sidecar."""
    run = msgspec.json.decode(sidecar)
    outputs = run.get("outputs", []) if isinstance(run, dict) else None
    if not isinstance(outputs, list):
        raise ValueError("this is no sidecar")  # noqa: TRY004 - its value is wrong
    files = []
    for output in outputs:
        if isinstance(output, dict) and isinstance(path := output.get("path"), str):
            sha256 = output.get("sha256")
            known = sha256 if isinstance(sha256, str) else None
            thumbnail = thumbnail_url(str(output.get("kind")), path, known)
            files.append(
                {"path": path, "absolute": f"{root}/{path}", "url": file_url(path), "thumbnail": thumbnail}
            )
    return {"run": msgspec.Raw(sidecar), "files": files}


def encoded(answer: dict[str, Any]) -> bytes:
    """Return an answer's bytes."""
    return msgspec.json.encode({"schema_version": SCHEMA_VERSION, **answer})
